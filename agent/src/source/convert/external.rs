//! The part of a tunnel that speaks of an external peer.

use std::net::IpAddr;
use std::str::FromStr as _;

use ipsecmesh_crds::IPsecTunnelSpec;
use ipsecmesh_crds::tunnel::{AuthType, IdentityType, PeerIdentity, RemoteType, Selector};
use ipsecmesh_dataplane::Prefix;
use ipsecmesh_ike::{DistinguishedName, Identity};
use x509_cert::der::Encode as _;
use x509_cert::name::Name;

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
        ppk: spec.auth.ppk.as_ref().map(|ppk| (ppk.id.clone(), ppk.required)),
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
        IdentityType::Fqdn if !value.is_ascii() => Err(format!(
            "{value:?} has letters outside ASCII: write the name in its encoded form, xn--… (RFC 5890)"
        )),
        IdentityType::Fqdn => Ok(Identity::Fqdn(value.to_owned())),
        IdentityType::Email if value.is_ascii() && is_email(value) => Ok(Identity::Email(value.to_owned())),
        IdentityType::Email => Err(format!(
            "{value:?} is no e-mail address such as vpn@example.com, in ASCII"
        )),
        IdentityType::IPv4 | IdentityType::IPv6 => address(),
        IdentityType::KeyID => Ok(Identity::KeyId(value.as_bytes().to_vec())),
        IdentityType::Dn => distinguished_name(value).map(Identity::Dn).ok_or_else(|| {
            format!(
                "{value:?} is no distinguished name as RFC 4514 writes them: the most specific part first, no spaces \
                 around commas, such as CN=vpn.example.com,O=Example,C=DE"
            )
        }),
    }
}

fn is_email(value: &str) -> bool {
    value
        .rsplit_once('@')
        .is_some_and(|(local, host)| !local.is_empty() && !host.is_empty())
}

fn distinguished_name(value: &str) -> Option<DistinguishedName> {
    let der = Name::from_str(value).ok()?.to_der().ok()?;
    DistinguishedName::from_der(&der)
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
    fn every_kind_of_identity_is_read_or_refused_with_the_fix() {
        use ipsecmesh_crds::tunnel::IdentityType as Kind;
        let of = |type_, value: &str| {
            identity_of(&PeerIdentity {
                type_,
                value: value.to_owned(),
            })
        };
        for (kind, value, shown) in [
            (Kind::Fqdn, "a.example", "FQDN a.example"),
            (Kind::Email, "vpn@example.com", "Email vpn@example.com"),
            (Kind::IPv4, "192.0.2.1", "IPv4 192.0.2.1"),
            (Kind::IPv6, "2001:db8::1", "IPv6 2001:db8::1"),
            (Kind::KeyID, "db-3", "KeyID db-3"),
            (
                Kind::Dn,
                "CN=vpn,O=Example\\, Inc.,C=DE",
                "DN CN=vpn,O=Example\\, Inc.,C=DE",
            ),
        ] {
            assert_eq!(
                of(kind, value).map(|identity| identity.to_string()),
                Ok(shown.to_owned())
            );
        }
        for (kind, value, says) in [
            (Kind::Fqdn, "bücher.example", "xn--"),
            (Kind::Email, "example.com", "no e-mail address"),
            (Kind::Email, "@example.com", "no e-mail address"),
            (Kind::IPv6, "example.com", "no IP address"),
            (Kind::Dn, "vpn.example.com", "RFC 4514"),
            (Kind::Dn, "CN=vpn, O=Example", "no spaces"),
        ] {
            let refused = of(kind, value).expect_err(value);
            assert!(refused.contains(says), "{refused}");
        }
    }

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
