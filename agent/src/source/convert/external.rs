//! The part of a tunnel that speaks of an external peer.

use std::net::IpAddr;

use ipsecmesh_crds::IPsecTunnelSpec;
use ipsecmesh_crds::tunnel::{AuthType, IdentityType, PeerIdentity, RemoteType, Selector};
use ipsecmesh_dataplane::Prefix;
use ipsecmesh_ike::Identity;

use crate::model::{External, ExternalAuth, PacketSelector, Remote};

/// Who is at the far side, or which field says something that cannot be carried out.
pub(super) fn remote(spec: &IPsecTunnelSpec) -> Result<Remote, String> {
    let (RemoteType::External, Some(external)) = (spec.remote.type_, &spec.remote.external) else {
        return Ok(Remote::Nodes);
    };
    let named = |field: &str, identity: Option<&PeerIdentity>| {
        identity
            .map(|given| {
                identity_of(given).map_err(|why| format!("spec.remote.external.{field}.value: {why}"))
            })
            .transpose()
    };
    let list = |field: &str, selectors: &[Selector]| {
        let numbered = selectors.iter().enumerate();
        numbered
            .map(|(index, one)| selector(one).map_err(|why| format!("spec.traffic.{field}[{index}].{why}")))
            .collect::<Result<Vec<_>, _>>()
    };
    let selectors = match spec.traffic.selectors.as_slice() {
        // Host: everything between the two addresses.
        [] => vec![PacketSelector::default()],
        selectors => list("selectors", selectors)?,
    };
    Ok(Remote::External(Box::new(External {
        address: external.address.clone(),
        identity: named("identity", external.identity.as_ref())?,
        local_identity: named("localIdentity", external.local_identity.as_ref())?,
        auth: auth(spec),
        selectors,
        bypass: list("bypass", &spec.traffic.bypass)?,
    })))
}

fn auth(spec: &IPsecTunnelSpec) -> ExternalAuth {
    match spec.auth.type_ {
        AuthType::Psk => ExternalAuth::Psk,
        AuthType::Certificate => ExternalAuth::Certificate {
            authority: spec.auth.authority().unwrap_or_default().to_owned(),
            trust_bundle: spec
                .auth
                .certificate
                .as_ref()
                .and_then(|certificate| certificate.trust_bundle_ref.as_ref())
                .map(|bundle| (bundle.name.clone(), bundle.key.clone())),
        },
    }
}

fn identity_of(given: &PeerIdentity) -> Result<Identity, String> {
    let value = given.value.as_str();
    let address = || {
        value
            .parse::<IpAddr>()
            .map(Identity::Address)
            .map_err(|_| format!("{value:?} is no IP address"))
    };
    match given.type_ {
        IdentityType::Fqdn => Ok(Identity::Fqdn(value.to_owned())),
        IdentityType::IPv4 | IdentityType::IPv6 => address(),
        IdentityType::KeyID => Ok(Identity::KeyId(value.as_bytes().to_vec())),
        IdentityType::Email | IdentityType::Dn => Err(format!(
            "type {:?} is not supported yet; today works: FQDN, IPv4, IPv6, KeyID",
            given.type_
        )),
    }
}

fn selector(given: &Selector) -> Result<PacketSelector, String> {
    let prefix = |field: &str, text: Option<&String>| {
        text.map(|text| prefix(text).map_err(|why| format!("{field}: {why}")))
            .transpose()
    };
    Ok(PacketSelector {
        protocol: given.protocol.unwrap_or_default(),
        local_port: given.local_port,
        remote_port: given.remote_port,
        local: prefix("localCIDR", given.local_cidr.as_ref())?,
        remote: prefix("remoteCIDR", given.remote_cidr.as_ref())?,
    })
}

/// A block of addresses, from its first one on.
fn prefix(text: &str) -> Result<Prefix, String> {
    let refused = || format!("{text:?} is no CIDR such as 10.0.0.0/16 or fd00::/64");
    let (address, length) = text.split_once('/').ok_or_else(refused)?;
    let address: IpAddr = address.parse().map_err(|_| refused())?;
    let length: u8 = length.parse().map_err(|_| refused())?;
    let first = first_address(address, length).ok_or_else(refused)?;
    if first != address {
        return Err(format!(
            "{text:?} has bits set behind its prefix: write {first}/{length}"
        ));
    }
    Ok(Prefix { address, length })
}

fn first_address(address: IpAddr, length: u8) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => {
            let host = 32_u8.checked_sub(length)?;
            let mask = u32::MAX.checked_shl(u32::from(host)).unwrap_or_default();
            Some(IpAddr::V4((address.to_bits() & mask).into()))
        }
        IpAddr::V6(address) => {
            let host = 128_u8.checked_sub(length)?;
            let mask = u128::MAX.checked_shl(u32::from(host)).unwrap_or_default();
            Some(IpAddr::V6((address.to_bits() & mask).into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cidr_begins_with_its_first_address() {
        let good = |text: &str| prefix(text).map(|prefix| (prefix.address.to_string(), prefix.length));
        assert_eq!(good("10.1.0.0/16"), Ok(("10.1.0.0".to_owned(), 16)));
        assert_eq!(good("0.0.0.0/0"), Ok(("0.0.0.0".to_owned(), 0)));
        assert_eq!(good("fd00::/64"), Ok(("fd00::".to_owned(), 64)));
        assert_eq!(good("::1/128"), Ok(("::1".to_owned(), 128)));
        for (bad, says) in [
            ("10.1.2.3/16", "write 10.1.0.0/16"),
            ("10.0.0.0/33", "no CIDR"),
            ("10.0.0.0", "no CIDR"),
            ("fd00::/129", "no CIDR"),
        ] {
            assert!(good(bad).expect_err(bad).contains(says), "{bad}");
        }
    }
}
