//! What every backend refuses before it tries: a request that would leave our ranges or that cannot be meant.

use ipsecmesh_ike::SaSpec;
use ipsecmesh_xfrm::{Cipher, Reqid};

use crate::spec::{Direction, Policy, PolicyAction, Prefix};

/// The reqid and the cipher of an SA, or the field that is wrong.
pub(crate) fn sa(spec: &SaSpec) -> Result<(Reqid, Cipher), String> {
    let reqid = reqid(spec.reqid)?;
    let cipher = cipher(spec)?;
    if spec.key.0.len() != cipher.key_length() {
        return Err(format!(
            "key has {} bytes with its salt, {cipher:?} wants {}",
            spec.key.0.len(),
            cipher.key_length()
        ));
    }
    if spec.name.source.is_ipv4() != spec.name.destination.is_ipv4() {
        return Err(format!(
            "source {} and destination {} differ in family",
            spec.name.source, spec.name.destination
        ));
    }
    Ok((reqid, cipher))
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

fn cipher(spec: &SaSpec) -> Result<Cipher, String> {
    use ipsecmesh_ike::Encryption;
    [
        (Encryption::AesGcm16Key128, Cipher::AesGcm128),
        (Encryption::AesGcm16Key256, Cipher::AesGcm256),
    ]
    .into_iter()
    .find_map(|(encryption, cipher)| (encryption == spec.encryption).then_some(cipher))
    .ok_or_else(|| format!("cipher {:?} is not carried by this data plane", spec.encryption))
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
