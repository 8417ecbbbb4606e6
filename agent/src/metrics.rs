//! The agent's metrics: one value, shared by clones, served in the OpenMetrics text form.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ipsecmesh_crds::node::PeerCounts;
use ipsecmesh_ike::{AnswerReason, Disposition, DropReason, Failure};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The kernel's counters of packets that IPsec refused, by cause. Linux writes them per network namespace.
const XFRM_STAT: &str = "/proc/net/xfrm_stat";

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Cause {
    cause: String,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct OfResult {
    result: &'static str,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct OfSa {
    sa: &'static str,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct OfTunnel {
    tunnel: String,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct OfPeers {
    tunnel: String,
    state: &'static str,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Flow {
    tunnel: String,
    direction: &'static str,
}

/// All metrics of the agent.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    handshakes: Family<OfResult, Counter>,
    rekeys: Family<OfSa, Counter>,
    sas: Family<OfSa, Gauge>,
    policies: Gauge,
    retransmissions: Counter,
    datagrams: Family<OfResult, Counter>,
    dropped: Family<Reason, Counter>,
    kernel_drops: Family<Cause, Counter>,
    kernel_seen: Mutex<BTreeMap<String, u64>>,
    bytes: Family<Flow, Counter>,
    packets: Family<Flow, Counter>,
    certificate_expiry: Gauge,
    certificates: Counter,
    peers: Family<OfPeers, Gauge>,
    programmed: Family<OfTunnel, Gauge>,
    watch_errors: Family<OfKind, Counter>,
    status_writes: Counter,
}

impl Metrics {
    /// All at zero. What the kernel counted before the agent started is not the agent's to report.
    pub(crate) fn new() -> Self {
        let mut inner = Inner {
            registry: Registry::with_prefix("ipsecmesh_agent"),
            handshakes: Family::default(),
            rekeys: Family::default(),
            sas: Family::default(),
            policies: Gauge::default(),
            retransmissions: Counter::default(),
            datagrams: Family::default(),
            dropped: Family::default(),
            kernel_drops: Family::default(),
            kernel_seen: Mutex::new(read_xfrm_stat()),
            bytes: Family::default(),
            packets: Family::default(),
            certificate_expiry: Gauge::default(),
            certificates: Counter::default(),
            peers: Family::default(),
            programmed: Family::default(),
            watch_errors: Family::default(),
            status_writes: Counter::default(),
        };
        inner.register();
        Self(Arc::new(inner))
    }

    /// An IKE SA stands.
    pub(crate) fn ike_established(&self, rekeyed: bool) {
        if rekeyed {
            self.0.rekeys.get_or_create(&OfSa { sa: "ike" }).inc();
        } else {
            self.handshake("established");
        }
    }

    /// A pair of CHILD SAs stands.
    pub(crate) fn child_established(&self, rekeyed: bool) {
        if rekeyed {
            self.0.rekeys.get_or_create(&OfSa { sa: "child" }).inc();
        }
    }

    /// A negotiation failed.
    pub(crate) fn handshake_failed(&self, failure: Failure) {
        self.handshake(match failure {
            Failure::AddressAssignment => "address_assignment",
            Failure::Authentication => "authentication",
            Failure::DataPlane => "data_plane",
            Failure::NoAdditionalSas => "no_additional_sas",
            Failure::NoCredentials => "no_credentials",
            Failure::NoProposalChosen => "no_proposal_chosen",
            Failure::Protocol => "protocol",
            Failure::TrafficSelectors => "traffic_selectors",
            Failure::Unreachable => "unreachable",
            _ => "other",
        });
    }

    fn handshake(&self, result: &'static str) {
        self.0.handshakes.get_or_create(&OfResult { result }).inc();
    }

    /// A request was sent again.
    pub(crate) fn retransmitted(&self) {
        self.0.retransmissions.inc();
    }

    /// What became of a datagram at UDP 500 or 4500.
    pub(crate) fn datagram(&self, disposition: Disposition) {
        let (result, reason) = match disposition {
            Disposition::Accepted => ("accepted", None),
            Disposition::Answered(reason) => ("answered", Some(answer_reason(reason))),
            Disposition::Dropped(reason) => ("dropped", Some(drop_reason(reason))),
        };
        self.0.datagrams.get_or_create(&OfResult { result }).inc();
        if let (Disposition::Dropped(_), Some(reason)) = (disposition, reason) {
            self.0.dropped.get_or_create(&Reason { reason }).inc();
        }
    }

    /// How many SAs and policies stand.
    pub(crate) fn standing(&self, ike: usize, children: usize, adopted: usize, policies: usize) {
        for (sa, count) in [("ike", ike), ("child", children), ("adopted", adopted)] {
            self.0.sas.get_or_create(&OfSa { sa }).set(as_i64(count));
        }
        self.0.policies.set(as_i64(policies));
    }

    /// Traffic through SAs of a tunnel since it was last counted.
    pub(crate) fn traffic(&self, tunnel: &str, inbound: bool, bytes: u64, packets: u64) {
        let flow = Flow {
            tunnel: tunnel.to_owned(),
            direction: if inbound { "in" } else { "out" },
        };
        self.0.bytes.get_or_create(&flow).inc_by(bytes);
        self.0.packets.get_or_create(&flow).inc_by(packets);
    }

    /// A certificate came into use; seconds since 1970 at which it ends.
    pub(crate) fn certificate(&self, not_after: u64) {
        self.0
            .certificate_expiry
            .set(i64::try_from(not_after).unwrap_or(i64::MAX));
        self.0.certificates.inc();
    }

    /// Where a tunnel stands on this node.
    pub(crate) fn tunnel(&self, tunnel: &str, programmed: bool, peers: PeerCounts) {
        let of = OfTunnel {
            tunnel: tunnel.to_owned(),
        };
        self.0.programmed.get_or_create(&of).set(i64::from(programmed));
        for (state, count) in [
            ("established", peers.established),
            ("failed", peers.failed),
            ("idle", peers.idle),
        ] {
            self.0
                .peers
                .get_or_create(&OfPeers {
                    tunnel: tunnel.to_owned(),
                    state,
                })
                .set(i64::from(count));
        }
    }

    /// A tunnel is gone, and its series with it.
    pub(crate) fn forget_tunnel(&self, tunnel: &str) {
        self.0.programmed.remove(&OfTunnel {
            tunnel: tunnel.to_owned(),
        });
        for state in ["established", "failed", "idle"] {
            self.0.peers.remove(&OfPeers {
                tunnel: tunnel.to_owned(),
                state,
            });
        }
        for direction in ["in", "out"] {
            let flow = Flow {
                tunnel: tunnel.to_owned(),
                direction,
            };
            self.0.bytes.remove(&flow);
            self.0.packets.remove(&flow);
        }
    }

    /// A watch of this kind broke.
    pub(crate) fn watch_failed(&self, kind: &'static str) {
        self.0.watch_errors.get_or_create(&OfKind { kind }).inc();
    }

    /// The status was written.
    pub(crate) fn status_written(&self) {
        self.0.status_writes.inc();
    }

    /// The text for a scrape.
    pub(crate) fn text(&self) -> String {
        self.count_kernel_drops(read_xfrm_stat());
        let mut text = String::new();
        if encode(&mut text, &self.0.registry).is_err() {
            text.clear();
        }
        text
    }

    fn count_kernel_drops(&self, now: BTreeMap<String, u64>) {
        let mut seen = self.0.kernel_seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (cause, count) in &now {
            let fresh = count.saturating_sub(seen.get(cause).copied().unwrap_or_default());
            if fresh > 0 {
                self.0
                    .kernel_drops
                    .get_or_create(&Cause { cause: cause.clone() })
                    .inc_by(fresh);
            }
        }
        *seen = now;
    }
}

impl Inner {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "handshakes",
            "Initial exchanges by how they ended",
            self.handshakes.clone(),
        );
        registry.register("rekeys", "SAs replaced without a break", self.rekeys.clone());
        registry.register(
            "sas",
            "SAs that stand; adopted are those of an earlier run",
            self.sas.clone(),
        );
        registry.register(
            "policies",
            "XFRM policies of ours that stand",
            self.policies.clone(),
        );
        registry.register(
            "retransmissions",
            "IKE requests sent again",
            self.retransmissions.clone(),
        );
        registry.register(
            "datagrams",
            "IKE datagrams by what became of them",
            self.datagrams.clone(),
        );
        registry.register(
            "datagrams_dropped",
            "IKE datagrams that changed nothing",
            self.dropped.clone(),
        );
        registry.register(
            "kernel_drops",
            "Packets that the kernel's IPsec refused since the agent started (xfrm_stat)",
            self.kernel_drops.clone(),
        );
        registry.register("tunnel_bytes", "Bytes through SAs", self.bytes.clone());
        registry.register("tunnel_packets", "Packets through SAs", self.packets.clone());
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "When the node's certificate ends, seconds since 1970",
            self.certificate_expiry.clone(),
        );
        registry.register(
            "certificates_issued",
            "Certificates that came into use",
            self.certificates.clone(),
        );
        registry.register("tunnel_peers", "Peers of a tunnel by state", self.peers.clone());
        registry.register(
            "tunnel_programmed",
            "1 while every policy of the tunnel stands",
            self.programmed.clone(),
        );
        registry.register(
            "watch_errors",
            "Watches of the API that broke",
            self.watch_errors.clone(),
        );
        registry.register(
            "status_writes",
            "Writes of IPsecNode.status",
            self.status_writes.clone(),
        );
    }
}

fn as_i64(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn answer_reason(reason: AnswerReason) -> &'static str {
    match reason {
        AnswerReason::Cookie => "cookie",
        AnswerReason::InvalidKe => "invalid_ke",
        AnswerReason::InvalidMajorVersion => "invalid_major_version",
        AnswerReason::NoProposalChosen => "no_proposal_chosen",
        AnswerReason::Repeated => "repeated",
        AnswerReason::UnknownSpi => "unknown_spi",
        AnswerReason::UnsupportedCritical => "unsupported_critical",
        _ => "other",
    }
}

fn drop_reason(reason: DropReason) -> &'static str {
    match reason {
        DropReason::BadCookie => "bad_cookie",
        DropReason::BadIntegrity => "bad_integrity",
        DropReason::HalfOpenLimit => "half_open_limit",
        DropReason::NoCredentials => "no_credentials",
        DropReason::Malformed => "malformed",
        DropReason::OutsideWindow => "outside_window",
        DropReason::Unexpected => "unexpected",
        DropReason::UnknownPeer => "unknown_peer",
        DropReason::UnknownSpi => "unknown_spi",
        _ => "other",
    }
}

/// Empty on a kernel without the counters.
fn read_xfrm_stat() -> BTreeMap<String, u64> {
    std::fs::read_to_string(XFRM_STAT)
        .map(|text| parse_xfrm_stat(&text))
        .unwrap_or_default()
}

fn parse_xfrm_stat(text: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let (name, count) = line.split_once(char::is_whitespace)?;
        Some((name.to_owned(), count.trim().parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_drops_are_counted_as_differences() {
        let metrics = Metrics::new();
        let stat = |count| BTreeMap::from([("XfrmInNoStates".to_owned(), count)]);
        *metrics.0.kernel_seen.lock().expect("not poisoned") = stat(7);
        metrics.count_kernel_drops(stat(9));
        metrics.count_kernel_drops(stat(12));
        let mut text = String::new();
        encode(&mut text, &metrics.0.registry).expect("encoded");
        assert!(
            text.contains("ipsecmesh_agent_kernel_drops_total{cause=\"XfrmInNoStates\"} 5"),
            "{text}"
        );
    }

    #[test]
    fn the_kernels_table_is_read() {
        let parsed = parse_xfrm_stat("XfrmInError             \t0\nXfrmOutNoStates         \t42\n");
        assert_eq!(parsed.get("XfrmOutNoStates"), Some(&42));
    }

    #[test]
    fn the_series_of_a_tunnel_go_with_it() {
        let metrics = Metrics::new();
        metrics.traffic("mesh", true, 1500, 1);
        metrics.tunnel(
            "mesh",
            true,
            PeerCounts {
                desired: 2,
                established: 1,
                idle: 0,
                failed: 1,
            },
        );
        let text = metrics.text();
        for line in [
            "ipsecmesh_agent_tunnel_bytes_total{tunnel=\"mesh\",direction=\"in\"} 1500",
            "ipsecmesh_agent_tunnel_peers{tunnel=\"mesh\",state=\"failed\"} 1",
            "ipsecmesh_agent_tunnel_programmed{tunnel=\"mesh\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        metrics.forget_tunnel("mesh");
        assert!(!metrics.text().contains("mesh\""));
    }

    #[test]
    fn dropped_datagrams_carry_their_reason() {
        let metrics = Metrics::new();
        metrics.datagram(Disposition::Dropped(DropReason::Malformed));
        metrics.datagram(Disposition::Accepted);
        let text = metrics.text();
        assert!(
            text.contains("datagrams_dropped_total{reason=\"malformed\"} 1"),
            "{text}"
        );
        assert!(text.contains("datagrams_total{result=\"accepted\"} 1"), "{text}");
    }
}
