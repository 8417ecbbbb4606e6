//! AES-CBC without padding (RFC 3602).

use aes::{Aes128, Aes256};
use cbc::cipher::block_padding::NoPadding;
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use cbc::{Decryptor, Encryptor};
use ipsecmesh_ike::Encryption;
use ipsecmesh_ike::crypto::{CBC_BLOCK, CbcBackend, CryptoError};

pub(super) struct AesCbc;

impl CbcBackend for AesCbc {
    fn encrypt(
        &self,
        encryption: Encryption,
        key: &[u8],
        iv: &[u8; CBC_BLOCK],
        in_out: &mut [u8],
    ) -> Result<(), CryptoError> {
        let length = in_out.len();
        match encryption {
            Encryption::AesCbcKey128 => keyed::<Encryptor<Aes128>>(key, iv)?
                .encrypt_padded::<NoPadding>(in_out, length)
                .map(drop),
            Encryption::AesCbcKey256 => keyed::<Encryptor<Aes256>>(key, iv)?
                .encrypt_padded::<NoPadding>(in_out, length)
                .map(drop),
            Encryption::AesGcm16Key128 | Encryption::AesGcm16Key256 | Encryption::ChaCha20Poly1305 => {
                return Err(CryptoError::Unsupported);
            }
        }
        .map_err(|_| CryptoError::InvalidLength)
    }

    fn decrypt(
        &self,
        encryption: Encryption,
        key: &[u8],
        iv: &[u8; CBC_BLOCK],
        in_out: &mut [u8],
    ) -> Result<(), CryptoError> {
        match encryption {
            Encryption::AesCbcKey128 => keyed::<Decryptor<Aes128>>(key, iv)?
                .decrypt_padded::<NoPadding>(in_out)
                .map(drop),
            Encryption::AesCbcKey256 => keyed::<Decryptor<Aes256>>(key, iv)?
                .decrypt_padded::<NoPadding>(in_out)
                .map(drop),
            Encryption::AesGcm16Key128 | Encryption::AesGcm16Key256 | Encryption::ChaCha20Poly1305 => {
                return Err(CryptoError::Unsupported);
            }
        }
        .map_err(|_| CryptoError::InvalidLength)
    }
}

fn keyed<C: KeyIvInit>(key: &[u8], iv: &[u8]) -> Result<C, CryptoError> {
    C::new_from_slices(key, iv).map_err(|_| CryptoError::InvalidLength)
}
