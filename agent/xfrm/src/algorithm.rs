//! What SAs encrypt and authenticate with, and the kernel's names for it.

use netlink_packet_xfrm::{
    Alg, AlgAead, AlgAuth, XFRM_ALG_AEAD_NAME_LEN, XFRM_ALG_AUTH_NAME_LEN, XFRM_ALG_NAME_LEN, XfrmAttrs,
};

/// What one SA uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// One algorithm that encrypts and authenticates (ESP).
    Aead(Aead),
    /// One that encrypts and one that authenticates (ESP).
    Separate(Cipher, Integrity),
    /// Authentication alone (AH).
    Integrity(Integrity),
}

/// Combined modes with a tag of 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Aead {
    /// AES-GCM-16 with a 128-bit key (RFC 4106).
    AesGcm128,
    /// AES-GCM-16 with a 256-bit key (RFC 4106).
    AesGcm256,
    /// ChaCha20-Poly1305 (RFC 7634).
    ChaCha20Poly1305,
}

/// Ciphers that only encrypt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cipher {
    /// AES-CBC with a 128-bit key (RFC 3602).
    AesCbc128,
    /// AES-CBC with a 256-bit key (RFC 3602).
    AesCbc256,
}

/// Integrity algorithms (RFC 4868).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Integrity {
    /// HMAC-SHA2-256-128.
    HmacSha256,
    /// HMAC-SHA2-384-192.
    HmacSha384,
    /// HMAC-SHA2-512-256.
    HmacSha512,
}

impl Algorithm {
    /// Bytes of key material: the cipher's key with its salt, then the integrity key (RFC 7296 §2.17).
    pub fn key_length(self) -> usize {
        match self {
            Self::Aead(aead) => aead.key_length(),
            Self::Separate(cipher, integrity) => cipher.key_length() + integrity.key_length(),
            Self::Integrity(integrity) => integrity.key_length(),
        }
    }

    /// The attributes hold copies of the key: the request that they go into wipes them.
    pub(crate) fn attributes(self, key: &[u8]) -> Vec<XfrmAttrs> {
        match self {
            Self::Aead(aead) => vec![aead.attribute(key)],
            Self::Separate(cipher, integrity) => {
                let (cipher_key, integrity_key) = key.split_at(cipher.key_length().min(key.len()));
                vec![cipher.attribute(cipher_key), integrity.attribute(integrity_key)]
            }
            Self::Integrity(integrity) => vec![integrity.attribute(key)],
        }
    }
}

impl Aead {
    /// Bytes of key and salt (RFC 4106 §8.1, RFC 7634 §2).
    fn key_length(self) -> usize {
        match self {
            Self::AesGcm128 => 20,
            Self::AesGcm256 | Self::ChaCha20Poly1305 => 36,
        }
    }

    fn attribute(self, key: &[u8]) -> XfrmAttrs {
        const ICV_BITS: u32 = 128;
        let kernel: &[u8] = match self {
            Self::AesGcm128 | Self::AesGcm256 => b"rfc4106(gcm(aes))",
            Self::ChaCha20Poly1305 => b"rfc7539esp(chacha20,poly1305)",
        };
        XfrmAttrs::EncryptionAlgAead(AlgAead {
            alg_name: name::<XFRM_ALG_AEAD_NAME_LEN>(kernel),
            alg_key_len: bits(key),
            alg_icv_len: ICV_BITS,
            alg_key: key.to_vec(),
        })
    }
}

impl Cipher {
    fn key_length(self) -> usize {
        match self {
            Self::AesCbc128 => 16,
            Self::AesCbc256 => 32,
        }
    }

    fn attribute(self, key: &[u8]) -> XfrmAttrs {
        let kernel: &[u8] = match self {
            Self::AesCbc128 | Self::AesCbc256 => b"cbc(aes)",
        };
        XfrmAttrs::EncryptionAlg(Alg {
            alg_name: name::<XFRM_ALG_NAME_LEN>(kernel),
            alg_key_len: bits(key),
            alg_key: key.to_vec(),
        })
    }
}

impl Integrity {
    /// The length of the hash's output (RFC 4868 §2.1.1).
    fn key_length(self) -> usize {
        match self {
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
        }
    }

    /// The kernel truncates SHA2-256 to 96 bits where it is not told (a draft's length): the truncation is always said.
    fn attribute(self, key: &[u8]) -> XfrmAttrs {
        let (kernel, icv_bits): (&[u8], u32) = match self {
            Self::HmacSha256 => (b"hmac(sha256)", 128),
            Self::HmacSha384 => (b"hmac(sha384)", 192),
            Self::HmacSha512 => (b"hmac(sha512)", 256),
        };
        XfrmAttrs::AuthenticationAlgTrunc(AlgAuth {
            alg_name: name::<XFRM_ALG_AUTH_NAME_LEN>(kernel),
            alg_key_len: bits(key),
            alg_trunc_len: icv_bits,
            alg_key: key.to_vec(),
        })
    }
}

fn bits(key: &[u8]) -> u32 {
    u32::try_from(key.len() * 8).unwrap_or(u32::MAX)
}

/// The name as the kernel wants it: a C string in a field of fixed length.
fn name<const LENGTH: usize>(text: &[u8]) -> [u8; LENGTH] {
    let mut name = [0; LENGTH];
    for (place, byte) in name.iter_mut().zip(text) {
        *place = *byte;
    }
    name
}
