//! The operator's metrics: one struct, typed labels, served in the OpenMetrics text form.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Which controller a metric is about.
#[derive(Clone, Copy, Debug, EncodeLabelValue, Eq, Hash, PartialEq)]
pub(crate) enum ControllerLabel {
    /// `controller/authority.rs`
    Authority,
    /// `controller/csr.rs`
    Csr,
    /// `controller/node.rs`
    Node,
    /// `controller/tunnel.rs`
    Tunnel,
}

/// How something ended.
#[derive(Clone, Copy, Debug, EncodeLabelValue, Eq, Hash, PartialEq)]
pub(crate) enum Outcome {
    /// It failed and is tried again.
    Error,
    /// It went through.
    Ok,
}

/// What the signer did with a request.
#[derive(Clone, Copy, Debug, EncodeLabelValue, Eq, Hash, PartialEq)]
pub(crate) enum Decision {
    /// Refused.
    Denied,
    /// Approved and signed.
    Issued,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ReconcileLabels {
    controller: ControllerLabel,
    outcome: Outcome,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct WriteLabels {
    kind: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct DecisionLabels {
    decision: Decision,
    reason: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct TunnelLabels {
    tunnel: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct PhaseLabels {
    tunnel: String,
    phase: String,
}

/// All metrics of the process.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    reconciles: Family<ReconcileLabels, Counter>,
    durations: Histogram,
    writes: Family<WriteLabels, Counter>,
    requests: Family<DecisionLabels, Counter>,
    nodes_selected: Family<TunnelLabels, Gauge>,
    nodes_programmed: Family<TunnelLabels, Gauge>,
    pairs_failing: Family<TunnelLabels, Gauge>,
    phase_changes: Family<PhaseLabels, Counter>,
    root_expiry: Gauge<f64, AtomicU64>,
    leader: Gauge,
}

impl Metrics {
    /// All metrics, at zero.
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("ipsecmesh_operator");
        let metrics = Self {
            registry: Registry::default(),
            reconciles: Family::default(),
            durations: Histogram::new(exponential_buckets(0.001, 4.0, 8)),
            writes: Family::default(),
            requests: Family::default(),
            nodes_selected: Family::default(),
            nodes_programmed: Family::default(),
            pairs_failing: Family::default(),
            phase_changes: Family::default(),
            root_expiry: Gauge::default(),
            leader: Gauge::default(),
        };
        registry.register(
            "reconciles",
            "Reconciliations by controller and outcome",
            metrics.reconciles.clone(),
        );
        registry.register(
            "reconcile_duration_seconds",
            "Time of one reconciliation",
            metrics.durations.clone(),
        );
        registry.register(
            "api_writes",
            "Writes to the API server by kind",
            metrics.writes.clone(),
        );
        registry.register(
            "certificate_requests",
            "Decisions of the signer",
            metrics.requests.clone(),
        );
        registry.register(
            "tunnel_nodes_selected",
            "Nodes a tunnel selects",
            metrics.nodes_selected.clone(),
        );
        registry.register(
            "tunnel_nodes_programmed",
            "Nodes that follow the tunnel's phase",
            metrics.nodes_programmed.clone(),
        );
        registry.register(
            "tunnel_pairs_failing",
            "Pairs without an SA",
            metrics.pairs_failing.clone(),
        );
        registry.register(
            "tunnel_phase_changes",
            "Phases a tunnel entered",
            metrics.phase_changes.clone(),
        );
        registry.register(
            "authority_root_expiry_timestamp_seconds",
            "End of the active root's validity",
            metrics.root_expiry.clone(),
        );
        registry.register("leader", "1 while this replica leads", metrics.leader.clone());
        Self { registry, ..metrics }
    }

    /// The text for a scrape.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// One reconciliation ended.
    pub(crate) fn reconciled(&self, controller: ControllerLabel, outcome: Outcome, took: Duration) {
        self.reconciles
            .get_or_create(&ReconcileLabels { controller, outcome })
            .inc();
        self.durations.observe(took.as_secs_f64());
    }

    /// One object was written.
    pub(crate) fn wrote(&self, kind: &str) {
        self.writes
            .get_or_create(&WriteLabels {
                kind: kind.to_owned(),
            })
            .inc();
    }

    /// The signer decided.
    pub(crate) fn decided(&self, decision: Decision, reason: &str) {
        let reason = reason.to_owned();
        self.requests
            .get_or_create(&DecisionLabels { decision, reason })
            .inc();
    }

    /// A tunnel's figures changed.
    pub(crate) fn tunnel(&self, tunnel: &str, selected: usize, programmed: usize, failing: usize) {
        let labels = TunnelLabels {
            tunnel: tunnel.to_owned(),
        };
        let figure = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.nodes_selected.get_or_create(&labels).set(figure(selected));
        self.nodes_programmed
            .get_or_create(&labels)
            .set(figure(programmed));
        self.pairs_failing.get_or_create(&labels).set(figure(failing));
    }

    /// A tunnel entered a phase.
    pub(crate) fn entered(&self, tunnel: &str, phase: &str) {
        let (tunnel, phase) = (tunnel.to_owned(), phase.to_owned());
        self.phase_changes
            .get_or_create(&PhaseLabels { tunnel, phase })
            .inc();
    }

    /// A tunnel is gone; its series go with it.
    pub(crate) fn forget_tunnel(&self, tunnel: &str) {
        let labels = TunnelLabels {
            tunnel: tunnel.to_owned(),
        };
        self.nodes_selected.remove(&labels);
        self.nodes_programmed.remove(&labels);
        self.pairs_failing.remove(&labels);
    }

    /// The active root's end.
    pub(crate) fn root_expires(&self, end: SystemTime) {
        self.root_expiry
            .set(end.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
    }

    /// Whether this replica leads.
    pub(crate) fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_shows_in_the_text() {
        let metrics = Metrics::new();
        metrics.reconciled(ControllerLabel::Tunnel, Outcome::Ok, Duration::from_millis(3));
        metrics.wrote("IPsecPeer");
        metrics.decided(Decision::Denied, "NotTheAgent");
        metrics.tunnel("mesh", 3, 2, 1);
        metrics.entered("mesh", "Enforcing");
        metrics.leads(true);
        let text = metrics.text();
        for line in [
            "ipsecmesh_operator_reconciles_total{controller=\"Tunnel\",outcome=\"Ok\"} 1",
            "ipsecmesh_operator_api_writes_total{kind=\"IPsecPeer\"} 1",
            "ipsecmesh_operator_certificate_requests_total{decision=\"Denied\",reason=\"NotTheAgent\"} 1",
            "ipsecmesh_operator_tunnel_nodes_programmed{tunnel=\"mesh\"} 2",
            "ipsecmesh_operator_leader 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        metrics.forget_tunnel("mesh");
        assert!(
            !metrics
                .text()
                .contains("tunnel_nodes_programmed{tunnel=\"mesh\"}")
        );
    }
}
