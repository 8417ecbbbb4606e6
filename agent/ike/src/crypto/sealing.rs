//! How SK payloads are sealed: by a combined-mode cipher (RFC 5282), or by a cipher and an integrity algorithm, encrypt
//! then authenticate (RFC 7296 §3.14).

use super::error::CryptoError;
use super::provider::{NONCE_LENGTH, Provider, TAG_LENGTH};
use super::secret::{Secret, constant_time_eq};
use crate::config::{Encryption, Integrity};

/// Length of the explicit IV in front of the ciphertext of combined modes (RFC 5282 §3.1).
const IV_LENGTH: usize = 8;

/// Length of a block of AES, and of the IV of its CBC mode.
pub const CBC_BLOCK: usize = 16;

/// SK_ei or SK_er, with SK_ai or SK_ar where the cipher needs it.
#[derive(Debug)]
pub(super) struct SealingKey {
    encryption: Encryption,
    /// Cipher key followed by salt (RFC 5282 §7.1).
    key: Secret,
    integrity: Option<(Integrity, Secret)>,
}

impl SealingKey {
    pub(super) fn new(encryption: Encryption, key: Secret, integrity: Option<(Integrity, Secret)>) -> Self {
        Self {
            encryption,
            key,
            integrity,
        }
    }

    fn iv_length(&self) -> usize {
        if self.integrity.is_some() {
            CBC_BLOCK
        } else {
            IV_LENGTH
        }
    }

    fn check_length(&self) -> usize {
        self.integrity
            .as_ref()
            .map_or(TAG_LENGTH, |(integrity, _)| integrity.check_length())
    }

    /// Content, padding and Pad Length together are a whole number of these.
    fn block(&self) -> usize {
        if self.integrity.is_some() { CBC_BLOCK } else { 1 }
    }

    /// Length of IV, ciphertext and check value for this content.
    pub(super) fn sealed_length(&self, content: usize) -> usize {
        self.iv_length() + (content + 1).next_multiple_of(self.block()) + self.check_length()
    }

    /// The longest content whose sealed form has no more than `length` bytes.
    pub(super) fn room(&self, length: usize) -> usize {
        let text = length.saturating_sub(self.iv_length() + self.check_length());
        (text - text % self.block()).saturating_sub(1)
    }

    /// Appends IV, ciphertext and check value to the head of a message. `counter` never comes twice.
    pub(super) fn seal(
        &self,
        provider: &Provider,
        counter: u64,
        head: &mut Vec<u8>,
        content: &[u8],
    ) -> Result<(), CryptoError> {
        let padding = (content.len() + 1).next_multiple_of(self.block()) - content.len() - 1;
        let pad_length = u8::try_from(padding).map_err(|_| CryptoError::InvalidLength)?;
        let mut text = content.to_vec();
        text.resize(content.len() + padding, 0);
        text.push(pad_length);
        let Some((integrity, check_key)) = &self.integrity else {
            let iv = counter.to_be_bytes();
            let (key, nonce) = self.with_iv(iv)?;
            provider
                .aead
                .seal(self.encryption, key, &nonce, head, &mut text)?;
            head.extend_from_slice(&iv);
            head.extend_from_slice(&text);
            return Ok(());
        };
        // An IV of CBC has to be unpredictable (RFC 3602 §2).
        let mut iv = [0; CBC_BLOCK];
        provider.random.fill(&mut iv)?;
        provider
            .cbc
            .encrypt(self.encryption, self.key.expose(), &iv, &mut text)?;
        head.extend_from_slice(&iv);
        head.extend_from_slice(&text);
        let check = check_value(provider, *integrity, check_key, head)?;
        head.extend_from_slice(&check);
        Ok(())
    }

    /// What lies between the IV and the padding of a datagram, whose SK payload begins its IV at `start`. Nothing is
    /// decrypted before the check value fits.
    pub(super) fn open<'a>(
        &self,
        provider: &Provider,
        datagram: &'a mut [u8],
        start: usize,
    ) -> Result<&'a [u8], CryptoError> {
        let content = match &self.integrity {
            None => self.open_combined(provider, datagram, start)?,
            Some((integrity, check_key)) => {
                let end = datagram
                    .len()
                    .checked_sub(integrity.check_length())
                    .ok_or(CryptoError::Unauthenticated)?;
                let (covered, check) = datagram
                    .split_at_mut_checked(end)
                    .ok_or(CryptoError::Unauthenticated)?;
                let expected = check_value(provider, *integrity, check_key, covered)?;
                if !constant_time_eq(&expected, check) {
                    return Err(CryptoError::Unauthenticated);
                }
                let sealed = covered.get_mut(start..).ok_or(CryptoError::Unauthenticated)?;
                let (iv, text) = sealed
                    .split_first_chunk_mut::<CBC_BLOCK>()
                    .ok_or(CryptoError::Unauthenticated)?;
                provider
                    .cbc
                    .decrypt(self.encryption, self.key.expose(), iv, text)
                    .map_err(|_| CryptoError::Unauthenticated)?;
                text
            }
        };
        // The content of the padding is the sender's choice (RFC 7296 §3.14); only its length can be wrong.
        let (pad_length, padded) = content.split_last().ok_or(CryptoError::Unauthenticated)?;
        let end = padded
            .len()
            .checked_sub(usize::from(*pad_length))
            .ok_or(CryptoError::Unauthenticated)?;
        padded.get(..end).ok_or(CryptoError::Unauthenticated)
    }

    fn open_combined<'a>(
        &self,
        provider: &Provider,
        datagram: &'a mut [u8],
        start: usize,
    ) -> Result<&'a [u8], CryptoError> {
        let (aad, sealed) = datagram
            .split_at_mut_checked(start)
            .ok_or(CryptoError::Unauthenticated)?;
        let (iv, sealed) = sealed
            .split_first_chunk_mut::<IV_LENGTH>()
            .ok_or(CryptoError::Unauthenticated)?;
        if sealed.len() < TAG_LENGTH {
            return Err(CryptoError::Unauthenticated);
        }
        let (key, nonce) = self.with_iv(*iv)?;
        provider.aead.open(self.encryption, key, &nonce, aad, sealed)
    }

    /// The cipher key and the nonce, which is the salt followed by the explicit IV (RFC 5282 §4).
    fn with_iv(&self, iv: [u8; IV_LENGTH]) -> Result<(&[u8], [u8; NONCE_LENGTH]), CryptoError> {
        let (key, salt) = self
            .key
            .expose()
            .split_at_checked(self.encryption.key_length())
            .ok_or(CryptoError::InvalidLength)?;
        let nonce: [u8; NONCE_LENGTH] = [salt, iv.as_slice()]
            .concat()
            .try_into()
            .map_err(|_| CryptoError::InvalidLength)?;
        Ok((key, nonce))
    }
}

/// The HMAC over header, IV and ciphertext, cut to its length (RFC 7296 §3.14, RFC 4868 §2.1).
fn check_value(
    provider: &Provider,
    integrity: Integrity,
    key: &Secret,
    covered: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    let mac = provider
        .prf
        .keyed(integrity.hmac(), key.expose())
        .apply(&[covered]);
    mac.expose()
        .get(..integrity.check_length())
        .map(<[u8]>::to_vec)
        .ok_or(CryptoError::InvalidLength)
}
