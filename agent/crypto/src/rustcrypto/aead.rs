//! AES-GCM with a 16-byte tag (RFC 5282, RFC 4106) and ChaCha20-Poly1305 (RFC 7634).

use aes_gcm::{AeadInOut, Aes128Gcm, Aes256Gcm, KeyInit, Nonce};
use chacha20poly1305::ChaCha20Poly1305;
use ipsecmesh_ike::Encryption;
use ipsecmesh_ike::crypto::{AeadBackend, CryptoError, NONCE_LENGTH, TAG_LENGTH};

pub(super) struct Aead;

impl AeadBackend for Aead {
    fn seal(
        &self,
        encryption: Encryption,
        key: &[u8],
        nonce: &[u8; NONCE_LENGTH],
        aad: &[u8],
        in_out: &mut Vec<u8>,
    ) -> Result<(), CryptoError> {
        let nonce = &Nonce::from(*nonce);
        match encryption {
            Encryption::AesGcm16Key128 => keyed::<Aes128Gcm>(key)?.encrypt_in_place(nonce, aad, in_out),
            Encryption::AesGcm16Key256 => keyed::<Aes256Gcm>(key)?.encrypt_in_place(nonce, aad, in_out),
            Encryption::ChaCha20Poly1305 => {
                keyed::<ChaCha20Poly1305>(key)?.encrypt_in_place(nonce, aad, in_out)
            }
            Encryption::AesCbcKey128 | Encryption::AesCbcKey256 => return Err(CryptoError::Unsupported),
        }
        .map_err(|_| CryptoError::MessageTooLong)
    }

    fn open<'a>(
        &self,
        encryption: Encryption,
        key: &[u8],
        nonce: &[u8; NONCE_LENGTH],
        aad: &[u8],
        in_out: &'a mut [u8],
    ) -> Result<&'a [u8], CryptoError> {
        let nonce = &Nonce::from(*nonce);
        let (text, tag) = in_out
            .split_last_chunk_mut::<TAG_LENGTH>()
            .ok_or(CryptoError::Unauthenticated)?;
        let tag = &(*tag).into();
        match encryption {
            Encryption::AesGcm16Key128 => {
                keyed::<Aes128Gcm>(key)?.decrypt_inout_detached(nonce, aad, (&mut *text).into(), tag)
            }
            Encryption::AesGcm16Key256 => {
                keyed::<Aes256Gcm>(key)?.decrypt_inout_detached(nonce, aad, (&mut *text).into(), tag)
            }
            Encryption::ChaCha20Poly1305 => {
                keyed::<ChaCha20Poly1305>(key)?.decrypt_inout_detached(nonce, aad, (&mut *text).into(), tag)
            }
            Encryption::AesCbcKey128 | Encryption::AesCbcKey256 => return Err(CryptoError::Unsupported),
        }
        .map_err(|_| CryptoError::Unauthenticated)?;
        Ok(text)
    }
}

fn keyed<C: KeyInit>(key: &[u8]) -> Result<C, CryptoError> {
    C::new_from_slice(key).map_err(|_| CryptoError::InvalidLength)
}
