//! The matrix: what is agreed on, established from either end, with packets both ways and nothing else on the wire.

use std::{collections::BTreeSet, fmt};

use ipsecmesh_e2e::{
    error::Result,
    interop::{
        agent::Initiation,
        case::{Case, PLAIN},
        ground::{Ground, Side},
        proof::Proofs,
        strongswan::{Release, StrongSwan, configuration},
        wire::Watch,
    },
};

use crate::{
    ends::{Ends, OURS, THEIRS},
    world::{ESTABLISHED, World, ensure, ping_both_ways},
};

/// Pings in each direction.
const PINGS: usize = 5;

/// Who begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Starter {
    /// Our agent.
    We,
    /// strongSwan.
    They,
}

impl Starter {
    /// Whom a case can be begun by: nobody finds the way to a host behind a NAT.
    pub(crate) fn of(case: Case) -> &'static [Self] {
        match case.hidden() {
            None => &[Self::We, Self::They],
            Some(OURS) => &[Self::We],
            Some(THEIRS) => &[Self::They],
        }
    }
}

impl fmt::Display for Starter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::We => "we_begin",
            Self::They => "they_begin",
        })
    }
}

/// Every value of every dimension, and every pair of values that can meet, which [`every_pair_has_its_row`].
pub(crate) const ROWS: &[&str] = &[
    "psk_gcm256_transport_esp_v4",
    "psk_gcm128_tunnel_esp_4in6_udp",
    "psk_chacha_tunnel_ah_v6",
    "psk_cbc_tunnel_esp_6in4_nat",
    "psk_modp_tunnel_esp_6in4_theirnat",
    "ecdsa_gcm256_tunnel_esp_v4_theirnat",
    "ecdsa_gcm256_tunnel_esp_v6_udp",
    "ecdsa_gcm256_tunnel_esp_6in4_nat",
    "ecdsa_gcm128_tunnel_esp_v4_theirnat",
    "ecdsa_chacha_transport_esp_v4_udp",
    "ecdsa_cbc_tunnel_ah_4in6",
    "ecdsa_modp_tunnel_ah_4in6",
    "ed25519_gcm256_transport_ah_v4",
    "ed25519_gcm128_tunnel_esp_6in4_nat",
    "ed25519_chacha_tunnel_esp_4in6",
    "ed25519_chacha_tunnel_esp_6in4_theirnat",
    "ed25519_cbc_transport_esp_v6_udp",
    "ed25519_cbc_tunnel_ah_6in4",
    "ed25519_modp_transport_esp_v4_nat",
    "rsa_gcm256_tunnel_esp_4in6_udp",
    "rsa_gcm128_transport_ah_v6",
    "rsa_gcm128_tunnel_esp_6in4_udp",
    "rsa_chacha_tunnel_esp_6in4_nat",
    "rsa_cbc_transport_esp_v4_theirnat",
    "rsa_modp_tunnel_esp_v6_udp",
];

/// A row's case.
pub(crate) fn case(row: &str) -> Result<Case> {
    Case::named(row, OURS)
}

/// One row: establish, ping both ways, look at the wire.
pub(crate) fn row(world: &World, case: Case, release: &Release, starter: Starter) -> Result<String> {
    let machine = world.machine()?;
    let ground = Ground::prepare(&machine, case.hidden())?;
    let watch = Watch::start(&ground, OURS)?;
    let initiation = match starter {
        Starter::We => Initiation::Eager,
        Starter::They => Initiation::OnDemand,
    };
    let ends = Ends::start(&ground, case, release, initiation)?;
    let outcome = match starter {
        Starter::We => Ok(String::new()),
        Starter::They => ends.strongswan.initiate(),
    };
    let agreed = outcome.and_then(|_| ends.strongswan.established(ESTABLISHED));
    let evidence = agreed.and_then(|agreed| {
        ping_both_ways(&ground, case, PINGS)?;
        let seen = watch.stop_with(case.protection(), 4 * PINGS)?;
        Ok(format!("{}, {}; {seen}", agreed.ike, agreed.child))
    });
    evidence.map_err(|error| ends.with_logs(&error))
}

/// The ground itself: strongSwan with strongSwan, so that a fault of a row is not one of the harness.
pub(crate) fn strongswan_with_itself(world: &World) -> Result<String> {
    let machine = world.machine()?;
    let ground = Ground::prepare(&machine, None)?;
    let watch = Watch::start(&ground, OURS)?;
    let proofs = Proofs::new(PLAIN.auth)?;
    let start = |side| {
        let proof = proofs.of(side);
        let text = configuration(&PLAIN, side, proof);
        StrongSwan::start(&ground, side, &Release::Installed, &text, proof)
    };
    let (right, left) = (start(Side::Right)?, start(Side::Left)?);
    left.initiate()?;
    let agreed = right.established(ESTABLISHED)?;
    ping_both_ways(&ground, PLAIN, PINGS)?;
    let seen = watch.stop_with(PLAIN.protection(), 4 * PINGS)?;
    Ok(format!("{}, {}; {seen}", agreed.ike, agreed.child))
}

/// The rows hold every pair of values that can meet; what cannot stands here.
pub(crate) fn every_pair_has_its_row() -> Result<()> {
    let possible = all_names().into_iter().filter(|name| can_be(name));
    let wanted: BTreeSet<[String; 2]> = possible.flat_map(|name| pairs(&name)).collect();
    let covered: BTreeSet<[String; 2]> = ROWS.iter().flat_map(|row| pairs(row)).collect();
    let missing: Vec<_> = wanted.difference(&covered).collect();
    ensure(missing.is_empty(), || format!("no row has {missing:?}"))
}

/// AH has no ports, and a NAT changes what it protects. What is inside has its own family in tunnels only. The NAT of the
/// ground is one for IPv4.
fn can_be(name: &str) -> bool {
    let has = |word: &str| name.split('_').any(|one| one == word);
    let nat = has("nat") || has("theirnat");
    (!has("ah") || has("plain"))
        && !(has("transport") && (has("4in6") || has("6in4")))
        && !(nat && (has("v6") || has("4in6")))
}

fn all_names() -> Vec<String> {
    const VALUES: [&[&str]; 6] = [
        &["ecdsa", "ed25519", "psk", "rsa"],
        &["cbc", "chacha", "gcm128", "gcm256", "modp"],
        &["transport", "tunnel"],
        &["ah", "esp"],
        &["v4", "v6", "4in6", "6in4"],
        &["plain", "nat", "theirnat", "udp"],
    ];
    VALUES.iter().fold(vec![String::new()], |names, values| {
        let longer = |name: &String| {
            values
                .iter()
                .map(|value| format!("{name}_{value}"))
                .collect::<Vec<_>>()
        };
        names.iter().flat_map(longer).collect()
    })
}

/// All pairs of words of a name, in one order; a row that does not say its path is a plain one.
fn pairs(name: &str) -> Vec<[String; 2]> {
    let mut words: Vec<&str> = name.trim_start_matches('_').split('_').collect();
    if words.len() == 5 {
        words.push("plain");
    }
    let mut found = Vec::new();
    for (index, first) in words.iter().enumerate() {
        for second in words.iter().skip(index + 1) {
            found.push([(*first).to_owned(), (*second).to_owned()]);
        }
    }
    found
}
