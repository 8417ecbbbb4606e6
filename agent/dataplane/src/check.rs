//! What every backend refuses before it tries: a request that would leave our ranges or that cannot be meant.

use ipsecmesh_ike::{Encryption, Integrity, SaProtocol, SaSpec};
use ipsecmesh_xfrm as xfrm;
use ipsecmesh_xfrm::{Aead, Algorithm, Cipher, Reqid};

use crate::spec::{Direction, Policy, PolicyAction, Prefix};

/// Ports were set for an SA that travels in IP.
pub(crate) const NOT_IN_UDP: &str = "the SA does not travel in UDP: it takes a new one";
/// Something was to be changed that is not there.
pub(crate) const NOT_THERE: &str = "the SA is not there any more";

/// The reqid and the algorithm of an SA, or the field that is wrong.
pub(crate) fn sa(spec: &SaSpec) -> Result<(Reqid, Algorithm), String> {
    let reqid = reqid(spec.reqid)?;
    let algorithm = algorithm(spec)?;
    if spec.key.0.len() != algorithm.key_length() {
        return Err(format!(
            "key has {} bytes, {algorithm:?} wants {} with the salt where it has one",
            spec.key.0.len(),
            algorithm.key_length()
        ));
    }
    if spec.name.source.is_ipv4() != spec.name.destination.is_ipv4() {
        return Err(format!(
            "source {} and destination {} differ in family",
            spec.name.source, spec.name.destination
        ));
    }
    if spec.name.protocol == SaProtocol::Ah && spec.encapsulation.is_some() {
        return Err("AH is not carried in UDP (RFC 7296 §2.23): take ESP where a NAT lies between".into());
    }
    Ok((reqid, algorithm))
}

/// The first field of a policy that is wrong.
pub(crate) fn policy(policy: &Policy) -> Result<(), String> {
    let selector = &policy.key.selector;
    let v4 = selector.source.address.is_ipv4();
    if v4 != selector.destination.address.is_ipv4() {
        return Err("the selector's source and destination differ in family".into());
    }
    prefix("source", selector.source)?;
    prefix("destination", selector.destination)?;
    if let PolicyAction::Protect {
        reqid: value,
        source,
        destination,
        tunnel,
        ..
    } = policy.action
    {
        if policy.key.direction == Direction::Forward && !tunnel {
            return Err(
                "a forward policy protects in tunnel mode only: transport mode ends at this host".into(),
            );
        }
        reqid(value)?;
        if source.is_ipv4() != destination.is_ipv4() || (!tunnel && source.is_ipv4() != v4) {
            return Err("the template's addresses differ in family".into());
        }
    }
    Ok(())
}

/// A reqid of our range.
pub(crate) fn reqid(value: u32) -> Result<Reqid, String> {
    Reqid::new(value).ok_or_else(|| format!("reqid {value:#010x} is outside our range 0x19500000-0x1950ffff"))
}

fn algorithm(spec: &SaSpec) -> Result<Algorithm, String> {
    let integrity = spec.integrity.map(|integrity| match integrity {
        Integrity::HmacSha256 => xfrm::Integrity::HmacSha256,
        Integrity::HmacSha384 => xfrm::Integrity::HmacSha384,
        Integrity::HmacSha512 => xfrm::Integrity::HmacSha512,
    });
    let cipher = spec.encryption.map(|encryption| match encryption {
        Encryption::AesGcm16Key128 => Ok(Aead::AesGcm128),
        Encryption::AesGcm16Key256 => Ok(Aead::AesGcm256),
        Encryption::ChaCha20Poly1305 => Ok(Aead::ChaCha20Poly1305),
        Encryption::AesCbcKey128 => Err(Cipher::AesCbc128),
        Encryption::AesCbcKey256 => Err(Cipher::AesCbc256),
    });
    match (spec.name.protocol, cipher, integrity) {
        (SaProtocol::Esp, Some(Ok(aead)), None) => Ok(Algorithm::Aead(aead)),
        (SaProtocol::Esp, Some(Err(cipher)), Some(integrity)) => Ok(Algorithm::Separate(cipher, integrity)),
        (SaProtocol::Ah, None, Some(integrity)) => Ok(Algorithm::Integrity(integrity)),
        (SaProtocol::Esp, ..) => Err(format!(
            "ESP with encryption {:?} and integrity {:?}: a combined-mode cipher goes without an integrity algorithm, any other \
             with one",
            spec.encryption, spec.integrity
        )),
        (SaProtocol::Ah, ..) => Err(format!(
            "AH with encryption {:?} and integrity {:?}: it takes an integrity algorithm alone",
            spec.encryption, spec.integrity
        )),
    }
}

fn prefix(end: &str, prefix: Prefix) -> Result<(), String> {
    let longest = if prefix.address.is_ipv4() { 32 } else { 128 };
    if prefix.length > longest {
        return Err(format!(
            "the selector's {end} prefix length {} is above {longest}",
            prefix.length
        ));
    }
    Ok(())
}
