//! The state of the agent as a table for people.

use std::fmt::Write as _;

use crate::status::local::{LocalChild, LocalPeer, LocalStatus, LocalTunnel};

/// Columns are this far apart.
const GAP: usize = 3;

/// The table; `wide` has more columns. `now` is in seconds since 1970.
pub(super) fn table(status: &LocalStatus, wide: bool, now: u64) -> String {
    let mut rows = vec![header(wide)];
    for tunnel in &status.tunnels {
        rows.extend(tunnel_rows(status, tunnel, wide, now));
    }
    let mut text = if rows.len() > 1 {
        aligned(&rows)
    } else {
        "no tunnel is in force here\n".to_owned()
    };
    if let Some(reason) = &status.waiting_for {
        let _ = writeln!(text, "\nnot ready: {reason}");
    }
    let refused = status.refused_objects.iter().chain(&status.refused);
    for (object, reason) in refused {
        let _ = writeln!(text, "\nrefused: {object}");
        for line in reason.lines() {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}

fn header(wide: bool) -> Vec<String> {
    let names: &[&str] = if wide {
        &[
            "TUNNEL",
            "PEER",
            "STATE",
            "PHASE",
            "LOCAL",
            "REMOTE",
            "IKE SUITE",
            "IKE SPIS",
            "IKE AGE",
            "CHILD SPIS",
            "CHILD",
            "AGE",
            "BYTES IN/OUT",
            "PACKETS IN/OUT",
            "LAST ERROR",
        ]
    } else {
        &[
            "TUNNEL",
            "PEER",
            "STATE",
            "IKE SUITE",
            "CHILD SPIS",
            "AGE",
            "BYTES IN/OUT",
            "LAST ERROR",
        ]
    };
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// One row per pair of SAs; peers and tunnels without any have one, too.
fn tunnel_rows(status: &LocalStatus, tunnel: &LocalTunnel, wide: bool, now: u64) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for name in &tunnel.peers {
        for peer in status.peers.iter().filter(|peer| peer.node == *name) {
            let children: Vec<&LocalChild> = peer
                .children
                .iter()
                .filter(|child| child.tunnel.as_ref() == Some(&tunnel.name))
                .collect();
            if children.is_empty() {
                rows.push(row(tunnel, name, Some(peer), None, wide, now));
            }
            rows.extend(
                children
                    .into_iter()
                    .map(|child| row(tunnel, name, Some(peer), Some(child), wide, now)),
            );
        }
    }
    if rows.is_empty() {
        let name = tunnel.peers.first().map_or("-", String::as_str);
        rows.push(row(tunnel, name, None, None, wide, now));
    }
    rows
}

fn row(
    tunnel: &LocalTunnel,
    name: &str,
    peer: Option<&LocalPeer>,
    child: Option<&LocalChild>,
    wide: bool,
    now: u64,
) -> Vec<String> {
    let none = || "-".to_owned();
    let ike = peer.and_then(|peer| peer.ike.as_ref());
    let suite = ike.map_or_else(none, |ike| ike.suite.clone());
    let spis = child.map_or_else(none, |child| {
        format!("{}/{}", child.inbound_spi, child.outbound_spi)
    });
    let since = child.map_or_else(none, |child| age(now.saturating_sub(child.since)));
    let bytes = child.map_or_else(none, |child| {
        format!("{}/{}", size(child.received.bytes), size(child.sent.bytes))
    });
    let its = |peer: &&LocalPeer| {
        peer.failing_tunnel
            .as_ref()
            .is_none_or(|failing| *failing == tunnel.name)
    };
    let problem = peer
        .filter(its)
        .and_then(|peer| peer.failure.clone())
        .or_else(|| tunnel.problem.clone())
        .map_or_else(none, |problem| problem.replace('\n', "; "));
    let state = format!("{:?}", tunnel.state);
    if !wide {
        return vec![
            tunnel.name.clone(),
            name.to_owned(),
            state,
            suite,
            spis,
            since,
            bytes,
            problem,
        ];
    }
    let address = |address: Option<&String>| address.cloned().unwrap_or_else(none);
    vec![
        tunnel.name.clone(),
        name.to_owned(),
        state,
        tunnel.phase.clone(),
        address(peer.and_then(|peer| peer.local_address.as_ref())),
        address(peer.and_then(|peer| peer.remote_address.as_ref())),
        suite,
        ike.map_or_else(none, |ike| format!("{}/{}", ike.initiator_spi, ike.responder_spi)),
        ike.map_or_else(none, |ike| age(now.saturating_sub(ike.since))),
        spis,
        child.and_then(|child| child.shape.clone()).unwrap_or_else(none),
        since,
        bytes,
        child.map_or_else(none, |child| {
            format!("{}/{}", child.received.packets, child.sent.packets)
        }),
        problem,
    ]
}

/// As kubectl writes ages: the two largest units.
fn age(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600, seconds / 60) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m{}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h{}m", minutes % 60),
        (days, hours, _) => format!("{days}d{}h", hours % 24),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes}"),
        10_240..10_485_760 => format!("{}Ki", bytes / 1024),
        10_485_760..10_737_418_240 => format!("{}Mi", bytes / (1 << 20)),
        _ => format!("{}Gi", bytes / (1 << 30)),
    }
}

fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default() + GAP
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::event::Traffic;
    use crate::status::local::{LocalIke, TunnelState};

    fn status() -> LocalStatus {
        LocalStatus {
            tunnels: vec![LocalTunnel {
                name: "storage".to_owned(),
                remote: "External".to_owned(),
                phase: "Enforcing".to_owned(),
                state: TunnelState::Up,
                peers: vec!["192.0.2.10".to_owned()],
                problem: None,
            }],
            peers: vec![LocalPeer {
                node: "192.0.2.10".to_owned(),
                peer: "00".to_owned(),
                local_address: Some("192.0.2.1".to_owned()),
                remote_address: Some("192.0.2.10".to_owned()),
                ike: Some(LocalIke {
                    initiator_spi: "aa".to_owned(),
                    responder_spi: "bb".to_owned(),
                    suite: "AES-GCM-16-256/HMAC-SHA2-384/X25519+ML-KEM-768".to_owned(),
                    since: 1000,
                }),
                children: vec![LocalChild {
                    child: 1,
                    tunnel: Some("storage".to_owned()),
                    inbound_spi: "11111111".to_owned(),
                    outbound_spi: "22222222".to_owned(),
                    shape: Some("ESP Transport AES-GCM-16-256 ESN".to_owned()),
                    since: 1000,
                    received: Traffic {
                        bytes: 20_480,
                        packets: 20,
                    },
                    sent: Traffic {
                        bytes: 84,
                        packets: 1,
                    },
                }],
                failure_reason: None,
                failure: None,
                failing_tunnel: None,
                failing_since: None,
            }],
            ..LocalStatus::default()
        }
    }

    #[test]
    fn a_tunnel_that_is_up_shows_suite_spis_age_and_bytes() {
        let text = table(&status(), false, 1090);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        let expected = [
            "storage",
            "192.0.2.10",
            "Up",
            "AES-GCM-16-256/HMAC-SHA2-384/X25519+ML-KEM-768",
            "11111111/22222222",
            "1m30s",
            "20Ki/84",
            "-",
        ];
        assert_eq!(lines[1], expected);
        assert!(table(&status(), true, 1090).contains("ESP Transport AES-GCM-16-256 ESN"));
    }

    #[test]
    fn what_is_wrong_is_told_with_the_fix() {
        let mut broken = status();
        broken.peers[0].children.clear();
        broken.peers[0].failure = Some("the peer refused us: compare the keys".to_owned());
        broken.tunnels[0].state = TunnelState::Failing;
        broken.refused_objects.insert(
            "a.yaml".to_owned(),
            "a.yaml, document 1: x\na.yaml, document 2: y".to_owned(),
        );
        let text = table(&broken, false, 1090);
        assert!(
            text.contains("Failing") && text.contains("compare the keys"),
            "{text}"
        );
        assert!(
            text.contains("refused: a.yaml\n  a.yaml, document 1: x\n  a.yaml, document 2: y"),
            "{text}"
        );
        assert!(table(&LocalStatus::default(), false, 0).starts_with("no tunnel"));
    }

    #[test]
    fn ages_and_sizes_are_short() {
        assert_eq!([59, 61, 3700, 90_000].map(age), ["59s", "1m1s", "1h1m", "1d1h"]);
        assert_eq!(
            [10, 20_480, 20 << 20, 20 << 30].map(size),
            ["10", "20Ki", "20Mi", "20Gi"]
        );
    }
}
