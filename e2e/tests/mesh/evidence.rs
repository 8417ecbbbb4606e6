//! What every trial asserts besides its own point: nothing lost, nothing readable, nothing refused by the kernel.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use ipsecmesh_e2e::{
    capture::{ALL_BUT_API, Capture, Frame, Wire, pcap::Kind},
    error::{Error, Result},
    lab::Lab,
    traffic::{FlowReport, Stream},
};

use crate::world::{NODES, Pods, pod_name};

/// Text in every packet that a trial sends.
pub(crate) const MARKER: &str = "MESH-TRIAL-MARKER-42";
/// Packets per second between two pods; each comes back, so that both directions carry as many.
const RATE: &str = "50";

/// What rises while an agent is away: the kernel's "port unreachable" for IKE, which must not leave in clear.
pub(crate) const AGENT_AWAY: &[&str] = &["XfrmOutPolBlock"];

/// Numbered packets between all pairs of pods, a TCP flow, a capture on every wire, and the kernels' counters.
pub(crate) struct Watch {
    lab: Arc<Lab>,
    pairs: Vec<(String, Stream)>,
    flow: Stream,
    captures: Vec<(String, Capture)>,
    counters: BTreeMap<String, Counters>,
    nodes: Vec<Ipv4Addr>,
}

/// By name.
pub(crate) type Counters = BTreeMap<String, u64>;

/// What a trial's own point allows; the default is nothing at all.
#[derive(Clone, Debug)]
pub(crate) struct Allowed<'a> {
    /// Lost packets.
    pub(crate) lost: u64,
    /// Milliseconds that the TCP flow may stand still: two minimal retransmission timeouts and a busy machine.
    pub(crate) stall: u64,
    /// Cleartext is forbidden from this time on, in milliseconds since 1970.
    pub(crate) dark_from: u64,
    /// Cleartext is forbidden until this time.
    pub(crate) dark_until: u64,
    /// Counters of /proc/net/xfrm_stat that the trial's own point raises.
    pub(crate) counters: &'a [&'a str],
}

impl Allowed<'_> {
    /// Nothing but what an agent's absence causes.
    pub(crate) fn agent_away() -> Self {
        Self {
            counters: AGENT_AWAY,
            ..Self::default()
        }
    }
}

impl Default for Allowed<'_> {
    fn default() -> Self {
        Self {
            lost: 0,
            stall: 2000,
            dark_from: 0,
            dark_until: u64::MAX,
            counters: &[],
        }
    }
}

impl Watch {
    /// Starts to watch all nodes.
    pub(crate) fn all(pods: &Pods) -> Result<Self> {
        Self::among(pods, &[0, 1, 2])
    }

    /// Starts to watch these nodes, by their place in [`NODES`].
    pub(crate) fn among(pods: &Pods, places: &[usize]) -> Result<Self> {
        let lab = pods.lab().clone();
        let counters = places
            .iter()
            .map(|at| Ok((NODES[*at].to_owned(), counters(&lab, NODES[*at])?)))
            .collect::<Result<_>>()?;
        let captures = places
            .iter()
            .map(|at| Ok((NODES[*at].to_owned(), lab.capture(NODES[*at], ALL_BUT_API)?)))
            .collect::<Result<_>>()?;
        let mut pairs = Vec::new();
        for (index, from) in places.iter().enumerate() {
            for to in &places[index + 1..] {
                let arguments = [
                    "send",
                    "--to",
                    pods.address(*to),
                    "--rate",
                    RATE,
                    "--marker",
                    MARKER,
                ];
                let stream = Stream::start(&lab, NODES[*from], &pod_name(*from), &arguments)?;
                pairs.push((format!("{}–{}", NODES[*from], NODES[*to]), stream));
            }
        }
        let (first, second) = (places[0], places[1]);
        let arguments = ["flow", "--to", pods.address(second), "--marker", MARKER];
        let flow = Stream::start(&lab, NODES[first], &pod_name(first), &arguments)?;
        let nodes = lab.nodes().iter().map(|node| node.address()).collect();
        Ok(Self {
            lab,
            pairs,
            flow,
            captures,
            counters,
            nodes,
        })
    }

    /// Ends the watch and judges it; the evidence is one line of numbers.
    pub(crate) fn finish(self, allowed: &Allowed<'_>) -> Result<String> {
        let mut faults = Vec::new();
        let packets = judge_packets(&self.pairs, allowed, &mut faults)?;
        let stall = judge_flow(&self.flow, allowed, &mut faults);
        let mut esp = 0;
        for (node, capture) in self.captures {
            let file = capture.file().display().to_string();
            let wire = capture.finish()?;
            esp += wire.counts_between(&self.nodes).esp;
            faults.extend(
                cleartext(&wire, &self.nodes, allowed).map(|fault| format!("{node}: {fault} ({file})")),
            );
        }
        for (node, before) in &self.counters {
            let raised = raised(before, &counters(&self.lab, node)?, allowed.counters);
            faults.extend((!raised.is_empty()).then(|| format!("{node}: xfrm_stat {}", raised.join(", "))));
        }
        if faults.is_empty() {
            Ok(format!("{packets}, TCP stall {stall} ms, {esp} ESP, 0 in clear"))
        } else {
            Err(Error::observed(faults.join("\n")))
        }
    }
}

/// Milliseconds since 1970.
pub(crate) fn now() -> u64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn judge_packets(
    pairs: &[(String, Stream)],
    allowed: &Allowed<'_>,
    faults: &mut Vec<String>,
) -> Result<String> {
    let (mut sent, mut lost, mut late, mut longest) = (0, 0, 0, 0);
    let mut gaps = Vec::new();
    for (pair, stream) in pairs {
        let report = stream.settled()?;
        sent += report.settled;
        lost += report.missing();
        late += report.late;
        longest = longest.max(report.longest_gap_ms);
        gaps.extend(report.gaps.iter().map(|gap| {
            let count = gap.last - gap.first + 1;
            format!(
                "{pair} {count} from number {} at {} for {} ms",
                gap.first, gap.at_ms, gap.length_ms
            )
        }));
    }
    if lost > allowed.lost {
        faults.push(format!("{lost} of {sent} packets lost: {}", gaps.join("; ")));
    }
    Ok(match (late, longest) {
        (0, 0) => format!("{lost} of {sent} packets lost"),
        _ => format!("{lost} of {sent} packets lost, {late} late, longest gap {longest} ms"),
    })
}

fn judge_flow(flow: &Stream, allowed: &Allowed<'_>, faults: &mut Vec<String>) -> u64 {
    let report = flow.fresh_flow().unwrap_or_else(|error| {
        faults.push(format!("the TCP flow: {error}"));
        FlowReport::default()
    });
    faults.extend(report.broken.map(|why| format!("the TCP flow broke: {why}")));
    if report.longest_stall_ms > allowed.stall {
        faults.push(format!(
            "the TCP flow stood still for {} ms",
            report.longest_stall_ms
        ));
    }
    report.longest_stall_ms
}

/// What of the capture is readable, though it must not be.
pub(crate) fn cleartext(wire: &Wire, nodes: &[Ipv4Addr], allowed: &Allowed<'_>) -> Option<String> {
    let dark = |frame: &&Frame| (allowed.dark_from..allowed.dark_until).contains(&milliseconds(frame));
    let between = |frame: &&Frame| nodes.contains(&frame.source) && nodes.contains(&frame.destination);
    let readable = |frame: &&Frame| frame.kind() == Kind::Overlay || frame.contains(MARKER.as_bytes());
    let found: Vec<&Frame> = wire
        .frames()
        .iter()
        .filter(dark)
        .filter(between)
        .filter(readable)
        .collect();
    let first = found.first()?;
    Some(format!("{} packets in clear, the first: {first}", found.len()))
}

/// When a frame crossed the wire, in milliseconds since 1970.
pub(crate) fn milliseconds(frame: &Frame) -> u64 {
    let (seconds, micros) = frame.time;
    u64::from(seconds) * 1000 + u64::from(micros) / 1000
}

/// A node's `/proc/net/xfrm_stat`.
pub(crate) fn counters(lab: &Lab, node: &str) -> Result<Counters> {
    let text = lab.node(node)?.run(&["cat", "/proc/net/xfrm_stat"])?;
    let one = |line: &str| {
        let (name, value) = line.split_once(char::is_whitespace)?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    Ok(text.lines().filter_map(one).collect())
}

fn raised(before: &Counters, after: &Counters, allowed: &[&str]) -> Vec<String> {
    after
        .iter()
        .filter(|(name, _)| !allowed.contains(&name.as_str()))
        .map(|(name, value)| {
            (
                name,
                value.saturating_sub(before.get(name).copied().unwrap_or_default()),
            )
        })
        .filter(|(_, delta)| *delta > 0)
        .map(|(name, delta)| format!("{name} +{delta}"))
        .collect()
}
