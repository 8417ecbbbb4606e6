//! Which of two overlapping tunnels wins. Operator and agents use this one order over API data, so that both ends agree.

use std::cmp::{Ordering, Reverse};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::tunnel::{IPsecTunnel, RemoteType};

/// How narrow a selector is; the greater is the narrower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Narrowness {
    /// How many of its ports are fixed.
    pub ports: u8,
    /// Whether its protocol is fixed.
    pub protocol: bool,
    /// Sum of its prefix lengths.
    pub prefix: u16,
}

/// The place of a tunnel's selector among those that overlap it. The least wins; equal ranks cannot occur between tunnels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rank {
    priority: Reverse<u16>,
    nodes_after_external: bool,
    narrowness: Reverse<Narrowness>,
    created: Option<Time>,
    name: String,
}

impl Rank {
    /// The rank of one selector of a tunnel.
    pub fn of(tunnel: &IPsecTunnel, narrowness: Narrowness) -> Self {
        Self {
            priority: Reverse(tunnel.spec.priority),
            nodes_after_external: tunnel.spec.remote.type_ == RemoteType::Nodes,
            narrowness: Reverse(narrowness),
            created: tunnel.metadata.creation_timestamp.clone(),
            name: tunnel.metadata.name.clone().unwrap_or_default(),
        }
    }
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        // An object without a creation time (read from a file) is younger than any other.
        let age = |rank: &Self| (rank.created.is_none(), rank.created.clone());
        self.priority
            .cmp(&other.priority)
            .then_with(|| self.nodes_after_external.cmp(&other.nodes_after_external))
            .then_with(|| self.narrowness.cmp(&other.narrowness))
            .then_with(|| age(self).cmp(&age(other)))
            .then_with(|| self.name.cmp(&other.name))
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IPsecTunnelSpec;

    fn tunnel(name: &str, priority: u16, type_: RemoteType) -> IPsecTunnel {
        let mut tunnel = IPsecTunnel::new(
            name,
            IPsecTunnelSpec {
                priority,
                ..IPsecTunnelSpec::default()
            },
        );
        tunnel.spec.remote.type_ = type_;
        tunnel
    }

    #[test]
    fn the_order_is_priority_external_narrowness_age_name() {
        let wide = Narrowness::default();
        let protocol = Narrowness {
            protocol: true,
            ..wide
        };
        let port = Narrowness {
            ports: 1,
            protocol: true,
            prefix: 0,
        };
        let mut old = tunnel("z", 100, RemoteType::Nodes);
        old.metadata.creation_timestamp = Some(Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH));
        let ranks = [
            Rank::of(&tunnel("z", 200, RemoteType::Nodes), wide),
            Rank::of(&tunnel("z", 100, RemoteType::External), wide),
            Rank::of(&tunnel("z", 100, RemoteType::Nodes), port),
            Rank::of(&tunnel("z", 100, RemoteType::Nodes), protocol),
            Rank::of(&old, wide),
            Rank::of(&tunnel("a", 100, RemoteType::Nodes), wide),
            Rank::of(&tunnel("b", 100, RemoteType::Nodes), wide),
        ];
        assert!(ranks.is_sorted_by(|a, b| a < b));
    }
}
