//! What an end proves itself with: a shared secret, or a certificate of an authority made for the occasion.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, SignatureAlgorithm,
    date_time_ymd,
};

use super::{
    case::{Auth, identity},
    ground::Side,
};
use crate::error::{Error, Result};

/// The secret of both ends where they have one.
const SECRET: &str = "a pre-shared key of the interoperability tests, in clear";

/// What one end has.
#[derive(Clone, Debug)]
pub enum Proof {
    /// A certificate with its key and the roots of the other end, all in PEM.
    Certificate {
        /// The certificate.
        certificate: String,
        /// Its key.
        key: String,
        /// Roots.
        roots: String,
    },
    /// A pre-shared key.
    Secret(String),
}

/// What both ends have.
#[derive(Debug)]
pub struct Proofs {
    authority: Option<Authority>,
    left: Proof,
    right: Proof,
}

impl Proofs {
    /// Fresh ones that fit each other.
    pub fn new(auth: Auth) -> Result<Self> {
        let algorithm = match auth {
            Auth::Ecdsa => &PKCS_ECDSA_P256_SHA256,
            Auth::Ed25519 => &PKCS_ED25519,
            Auth::Rsa => &PKCS_RSA_SHA256,
            Auth::Psk => {
                let secret = Proof::Secret(SECRET.to_owned());
                return Ok(Self {
                    authority: None,
                    left: secret.clone(),
                    right: secret,
                });
            }
        };
        let authority = Authority::new(algorithm)?;
        let [left, right] = Side::BOTH.map(|side| authority.proof(&identity(side), Validity::Now));
        Ok(Self {
            left: left?,
            right: right?,
            authority: Some(authority),
        })
    }

    /// Those of a side.
    pub fn of(&self, side: Side) -> &Proof {
        match side {
            Side::Left => &self.left,
            Side::Right => &self.right,
        }
    }

    /// With another secret on a side.
    #[must_use]
    pub fn with_secret(mut self, side: Side, secret: &str) -> Self {
        *self.side(side) = Proof::Secret(secret.to_owned());
        self
    }

    /// With a certificate on a side that has expired.
    pub fn with_expired(mut self, side: Side) -> Result<Self> {
        let authority = self
            .authority
            .as_ref()
            .ok_or_else(|| Error::observed("a secret does not expire"))?;
        *self.side(side) = authority.proof(&identity(side), Validity::Past)?;
        Ok(self)
    }

    /// With a certificate on a side whose authority the other side does not know.
    pub fn with_foreign(mut self, side: Side) -> Result<Self> {
        let authority = self
            .authority
            .as_ref()
            .ok_or_else(|| Error::observed("a secret has no authority"))?;
        let foreign = Authority::new(authority.algorithm)?;
        let roots = authority.issuer.pem();
        *self.side(side) = match foreign.proof(&identity(side), Validity::Now)? {
            Proof::Certificate { certificate, key, .. } => Proof::Certificate {
                certificate,
                key,
                roots,
            },
            secret @ Proof::Secret(_) => secret,
        };
        Ok(self)
    }

    fn side(&mut self, side: Side) -> &mut Proof {
        match side {
            Side::Left => &mut self.left,
            Side::Right => &mut self.right,
        }
    }
}

/// An authority with keys of one kind.
#[derive(Debug)]
struct Authority {
    algorithm: &'static SignatureAlgorithm,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// When a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Validity {
    /// For all of this century.
    Now,
    /// Not any more.
    Past,
}

impl Authority {
    /// A fresh one.
    fn new(algorithm: &'static SignatureAlgorithm) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2099, 1, 1);
        params
            .distinguished_name
            .push(DnType::CommonName, "interoperability root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate_for(algorithm).map_err(refused)?;
        let issuer = CertifiedIssuer::self_signed(params, key).map_err(refused)?;
        Ok(Self { algorithm, issuer })
    }

    /// A certificate for a host name, with the authority itself as root.
    fn proof(&self, name: &str, validity: Validity) -> Result<Proof> {
        let mut params = CertificateParams::new([name.to_owned()]).map_err(refused)?;
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = match validity {
            Validity::Now => date_time_ymd(2099, 1, 1),
            Validity::Past => date_time_ymd(2021, 1, 1),
        };
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(IKE_USAGE.to_vec())];
        let key = KeyPair::generate_for(self.algorithm).map_err(refused)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(refused)?;
        Ok(Proof::Certificate {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            roots: self.issuer.pem(),
        })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn refused(error: rcgen::Error) -> Error {
    Error::observed(format!("certificate of a trial: {error}"))
}

/// `id-kp-ipsecIKE` (RFC 4945 §5.1.3.12).
const IKE_USAGE: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 17];
