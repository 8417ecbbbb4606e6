//! What our certificates look like: the root and the nodes' leaves.
//!
//! A leaf is built from the node's verified identity alone. Nothing but the public key comes from the request.

use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyIdMethod, KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo,
};

use super::unix;

/// id-kp-ipsecIKE, RFC 4945 §5.1.3.12.
const ID_KP_IPSEC_IKE: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 17];

/// A certificate is valid from a little before its making: the clocks of peers differ.
const BACKDATING: Duration = Duration::from_mins(5);

/// X.520's upper bound for a common name; a longer node name stands in the SANs only.
const MAX_COMMON_NAME: usize = 64;

/// The verified identity that a leaf certificate is made for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NodeProfile {
    /// The node's IKE identity, a SAN of type DNS.
    pub(crate) identity: String,
    /// The node's SPIFFE ID, a SAN of type URI that names the Node's UID.
    pub(crate) spiffe_id: String,
    /// The public key, as DER SubjectPublicKeyInfo.
    pub(crate) spki: Vec<u8>,
}

/// The parameters of a node's leaf certificate, valid until `not_after`.
pub(crate) fn leaf(
    profile: &NodeProfile,
    now: SystemTime,
    not_after: SystemTime,
) -> Result<(CertificateParams, SubjectPublicKeyInfo), rcgen::Error> {
    let key = SubjectPublicKeyInfo::from_der(&profile.spki)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if profile.identity.len() <= MAX_COMMON_NAME {
        params
            .distinguished_name
            .push(DnType::CommonName, profile.identity.as_str());
    }
    params.subject_alt_names = vec![
        SanType::DnsName(profile.identity.as_str().try_into()?),
        SanType::URI(profile.spiffe_id.as_str().try_into()?),
    ];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(ID_KP_IPSEC_IKE.to_vec())];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial()?);
    set_validity(&mut params, now, not_after);
    Ok((params, key))
}

/// The parameters of a self-signed root for `trust_domain`.
pub(crate) fn root(
    trust_domain: &str,
    now: SystemTime,
    lifetime: Duration,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "ipsecmesh");
    let name: String = format!("ipsecmesh CA {trust_domain}")
        .chars()
        .take(MAX_COMMON_NAME)
        .collect();
    params.distinguished_name.push(DnType::CommonName, name);
    // Nodes' certificates only: no intermediate CA may ever hang below.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.key_identifier_method = KeyIdMethod::Sha256;
    params.serial_number = Some(serial()?);
    set_validity(&mut params, now, now + lifetime);
    Ok(params)
}

fn set_validity(params: &mut CertificateParams, now: SystemTime, not_after: SystemTime) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + unix(now).saturating_sub(BACKDATING);
    params.not_after = epoch + unix(not_after);
}

/// 127 random bits: more than the 64 of the CA/Browser Forum, positive and of fixed length.
fn serial() -> Result<SerialNumber, rcgen::Error> {
    let mut bytes = [0_u8; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_unspecified| rcgen::Error::RemoteKeyError)?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}
