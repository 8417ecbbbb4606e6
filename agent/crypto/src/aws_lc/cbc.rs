//! AES-CBC without padding (RFC 3602), out of a library that only has it with padding.

use aws_lc_rs::cipher::{
    AES_128, AES_256, Algorithm, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey,
    PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use ipsecmesh_ike::Encryption;
use ipsecmesh_ike::crypto::{CBC_BLOCK, CbcBackend, CryptoError};
use zeroize::Zeroizing;

pub(super) struct AesCbc;

impl CbcBackend for AesCbc {
    fn encrypt(
        &self,
        encryption: Encryption,
        key: &[u8],
        iv: &[u8; CBC_BLOCK],
        in_out: &mut [u8],
    ) -> Result<(), CryptoError> {
        whole_blocks(in_out)?;
        // The last block of what comes out is the padding.
        let padded = encrypt_padded(encryption, key, iv, in_out)?;
        for (to, from) in in_out.iter_mut().zip(&padded) {
            *to = *from;
        }
        Ok(())
    }

    fn decrypt(
        &self,
        encryption: Encryption,
        key: &[u8],
        iv: &[u8; CBC_BLOCK],
        in_out: &mut [u8],
    ) -> Result<(), CryptoError> {
        whole_blocks(in_out)?;
        let Some(last) = in_out.last_chunk::<CBC_BLOCK>() else {
            return Ok(());
        };
        // The block of padding that the library wants at the end: the encryption of nothing after the last block.
        let padding = encrypt_padded(encryption, key, last, &[])?;
        let mut padded = Zeroizing::new([&*in_out, &padding].concat());
        let key = UnboundCipherKey::new(algorithm(encryption)?, key)
            .and_then(PaddedBlockDecryptingKey::cbc_pkcs7)
            .map_err(|_| CryptoError::InvalidLength)?;
        let text = key
            .decrypt(&mut padded, DecryptionContext::Iv128(FixedLength::from(*iv)))
            .map_err(|_| CryptoError::Unauthenticated)?;
        for (to, from) in in_out.iter_mut().zip(text) {
            *to = *from;
        }
        Ok(())
    }
}

/// Text and one block of padding, encrypted.
fn encrypt_padded(
    encryption: Encryption,
    key: &[u8],
    iv: &[u8; CBC_BLOCK],
    text: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    let key = UnboundCipherKey::new(algorithm(encryption)?, key)
        .and_then(PaddedBlockEncryptingKey::cbc_pkcs7)
        .map_err(|_| CryptoError::InvalidLength)?;
    let mut in_out = Vec::with_capacity(text.len() + CBC_BLOCK);
    in_out.extend_from_slice(text);
    key.less_safe_encrypt(&mut in_out, EncryptionContext::Iv128(FixedLength::from(*iv)))
        .map_err(|_| CryptoError::InvalidLength)?;
    Ok(in_out)
}

fn algorithm(encryption: Encryption) -> Result<&'static Algorithm, CryptoError> {
    match encryption {
        Encryption::AesCbcKey128 => Ok(&AES_128),
        Encryption::AesCbcKey256 => Ok(&AES_256),
        Encryption::AesGcm16Key128 | Encryption::AesGcm16Key256 | Encryption::ChaCha20Poly1305 => {
            Err(CryptoError::Unsupported)
        }
    }
}

fn whole_blocks(text: &[u8]) -> Result<(), CryptoError> {
    if text.len().is_multiple_of(CBC_BLOCK) {
        Ok(())
    } else {
        Err(CryptoError::InvalidLength)
    }
}
