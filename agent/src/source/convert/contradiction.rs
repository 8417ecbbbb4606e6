//! What each field allows and the fields together do not: found before the first packet, by the name of the field.

use std::net::IpAddr;

use ipsecmesh_crds::IPsecTunnelSpec;
use ipsecmesh_crds::tunnel::{AuthType, IdentityType, PeerIdentity};
use ipsecmesh_ike::Mode;

use crate::model::{External, PacketSelector};
use crate::source::convert::usable;

/// The first contradiction in a tunnel to an external peer.
pub(super) fn contradiction(spec: &IPsecTunnelSpec, external: &External, mode: Mode) -> Option<String> {
    let given = spec.remote.external.as_ref()?;
    let identities = [
        ("identity", given.identity.as_ref()),
        ("localIdentity", given.local_identity.as_ref()),
    ];
    identities
        .into_iter()
        .find_map(|(field, identity)| uncertified(spec, field, identity?))
        .or_else(|| address(external))
        .or_else(|| bypass(external))
        .or_else(|| families(external, mode))
}

/// No certificate carries a KeyID (RFC 4945 §3.1).
fn uncertified(spec: &IPsecTunnelSpec, field: &str, identity: &PeerIdentity) -> Option<String> {
    let wrong = spec.auth.type_ == AuthType::Certificate && identity.type_ == IdentityType::KeyID;
    wrong.then(|| {
        format!(
            "spec.remote.external.{field}.type: KeyID stands in no certificate: take FQDN, Email, IPv4, IPv6 or DN, or \
             spec.auth.type PSK"
        )
    })
}

fn address(external: &External) -> Option<String> {
    let address: IpAddr = external.address.parse().ok()?;
    (!usable(address)).then(|| {
        format!("spec.remote.external.address: {address} is not the address of one host: name the peer's own")
    })
}

/// A bypass is asked first: where it says the same as a selector, or everything, nothing is left to protect.
fn bypass(external: &External) -> Option<String> {
    let mut numbered = external.bypass.iter().enumerate();
    numbered.find_map(|(index, bypass)| {
        let field = format!("spec.traffic.bypass[{index}]");
        if *bypass == PacketSelector::default() {
            return Some(format!(
                "{field}: it takes everything out of the tunnel: name a protocol, a port or a CIDR"
            ));
        }
        let same = external.selectors.iter().position(|selector| selector == bypass)?;
        Some(format!(
            "{field}: it says the same as spec.traffic.selectors[{same}], and nothing of that is left to protect: make it \
             narrower, or remove one of both"
        ))
    })
}

/// In transport mode the packets' addresses are those of the hosts.
fn families(external: &External, mode: Mode) -> Option<String> {
    let cidr = |selector: &PacketSelector| selector.local.or(selector.remote).is_some();
    let index = external.bypass.iter().position(cidr)?;
    (mode == Mode::Transport).then(|| {
        format!(
            "spec.traffic.bypass[{index}]: localCIDR and remoteCIDR require mode Tunnel: in transport mode only the two \
             hosts' own packets are protected"
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::source::convert::problem;

    type Edit<'a> = Box<dyn FnOnce(&mut Value) + 'a>;

    fn said(change: impl FnOnce(&mut Value)) -> Option<String> {
        let mut spec = json!({
            "remote": {"type": "External", "external": {
                "address": "192.0.2.1",
                "identity": {"type": "FQDN", "value": "a.example"},
                "localIdentity": {"type": "FQDN", "value": "b.example"},
            }},
            "traffic": {"type": "Custom", "selectors": [{"protocol": 6, "remotePort": 2049}, {"protocol": 17}]},
            "auth": {"type": "Certificate", "certificate": {}},
        });
        change(&mut spec);
        problem(&serde_json::from_value(spec).expect("a spec"))
    }

    #[test]
    fn every_contradiction_names_the_field_and_the_fix() {
        assert_eq!(said(|_| {}), None);
        assert_eq!(
            said(|spec| spec["traffic"]["bypass"] = json!([{"protocol": 6, "remotePort": 22}])),
            None
        );
        let key_id = json!({"type": "KeyID", "value": "db"});
        let cases: Vec<(Edit<'_>, &str, &str)> = vec![
            (
                Box::new(|spec| spec["remote"]["external"]["identity"] = key_id.clone()),
                "spec.remote.external.identity.type",
                "auth.type PSK",
            ),
            (
                Box::new(|spec| spec["remote"]["external"]["localIdentity"] = key_id.clone()),
                "spec.remote.external.localIdentity.type",
                "auth.type PSK",
            ),
            (
                Box::new(|spec| spec["remote"]["external"]["address"] = json!("0.0.0.0")),
                "spec.remote.external.address",
                "the peer's own",
            ),
            (
                Box::new(|spec| spec["traffic"]["bypass"] = json!([{"protocol": 6}, {}])),
                "spec.traffic.bypass[1]",
                "name a protocol",
            ),
            (
                Box::new(|spec| spec["traffic"]["bypass"] = json!([{"protocol": 17}])),
                "spec.traffic.bypass[0]",
                "spec.traffic.selectors[1]",
            ),
            (
                Box::new(|spec| {
                    spec["traffic"]["bypass"] = json!([{"protocol": 1, "remoteCIDR": "10.0.0.0/8"}]);
                }),
                "spec.traffic.bypass[0]",
                "require mode Tunnel",
            ),
        ];
        for (edit, field, fix) in cases {
            let problem = said(edit).expect(field);
            assert!(
                problem.starts_with(&format!("{field}: ")) && problem.contains(fix),
                "{problem}"
            );
        }
    }
}
