//! From the present state of everything to `IPsecNode.status`: pure.

use std::sync::Arc;

use ipsecmesh_crds::IPsecNodeStatus;
use ipsecmesh_crds::condition::{ConditionType, Finding, merge};
use ipsecmesh_crds::node::{
    AgentInfo, Backend, CertificateInfo, DataplaneInfo, DetectedOverlay as ApiOverlay, NodeSummary,
    SealingKey, TunnelReport,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::desired::Desired;
use crate::engine::event::View;
use crate::identity::leaf::fingerprint;
use crate::identity::renew::IdentityState;
use crate::model::Start;
use crate::overlay::DetectedOverlay;
use crate::probe::ProbeReport;
use crate::source::Snapshot;
use crate::status::tunnels::{self, Standing};

/// The API takes this many detected overlays.
const MAX_OVERLAYS: usize = 8;
/// Nobody reads more.
const MAX_MESSAGE: usize = 1024;

/// Everything that the status speaks of.
#[derive(Clone, Debug)]
pub(crate) struct StatusInputs {
    /// What the API says.
    pub(crate) snapshot: Arc<Snapshot>,
    /// What follows from it.
    pub(crate) desired: Arc<Desired>,
    /// What stands.
    pub(crate) view: View,
    /// The node's certificate.
    pub(crate) identity: IdentityState,
    /// What the host can do.
    pub(crate) probe: Option<Arc<ProbeReport>>,
    /// Devices that encapsulate; `None` before anybody looked.
    pub(crate) overlays: Option<Vec<DetectedOverlay>>,
    /// What credentials are sealed to; `None` before a certificate speaks for it.
    pub(crate) sealing_key: Option<SealingKey>,
    /// Name of the authority that issues.
    pub(crate) authority: String,
    /// Tunnels that a person has taken down.
    pub(crate) down: Vec<String>,
    /// This boot of the host, as the kernel writes it.
    pub(crate) boot: String,
}

impl StatusInputs {
    /// The agent does not know everything yet: a report would take back what an earlier run has said.
    pub(crate) fn starting(&self) -> bool {
        let trouble = self.view.obstacle.is_some() || !self.view.refused.is_empty();
        let policies = self.snapshot.own.is_none() || self.view.programmed >= self.desired.revision.max(1);
        let complete = self.view.running && self.snapshot.synced && self.overlays.is_some() && policies;
        !complete && !trouble
    }
}

/// The status. What `before` has said stays said until its time is over: echoes, and the times of conditions.
pub(crate) fn compose(
    inputs: &StatusInputs,
    before: Option<&IPsecNodeStatus>,
    now: Timestamp,
) -> IPsecNodeStatus {
    let seconds = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    // What was said before the host booted says nothing about what stands now.
    let this_boot = |status: &&IPsecNodeStatus| {
        status
            .agent
            .as_ref()
            .is_some_and(|agent| agent.boot_id == inputs.boot)
    };
    let since_boot = before.filter(this_boot);
    let standing = tunnels::standing(&inputs.desired, &inputs.view);
    let known = since_boot.map_or(&[][..], |status| &status.tunnels);
    let reports: Vec<TunnelReport> = standing
        .iter()
        .map(|tunnel| tunnels::report(tunnel, &inputs.view, inputs.desired.revision, known))
        .collect();
    let generation = inputs.snapshot.node.as_ref().map(|node| node.generation);
    let conditions = before.map_or(&[][..], |status| &status.conditions);
    IPsecNodeStatus {
        observed_generation: generation,
        agent: Some(AgentInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: inputs
                .probe
                .as_ref()
                .map(|probe| probe.kernel.clone())
                .unwrap_or_default(),
            boot_id: inputs.boot.clone(),
        }),
        sealing_key: inputs
            .sealing_key
            .clone()
            .or_else(|| before.and_then(|status| status.sealing_key.clone())),
        certificate: certificate(inputs, before),
        bundle_hash: bundle_hash(inputs),
        dataplane: Some(DataplaneInfo {
            backend: Backend::Kernel,
            larval_drop: inputs.probe.as_ref().and_then(|probe| probe.larval_drop),
        }),
        overlay: match &inputs.overlays {
            Some(found) => found.iter().take(MAX_OVERLAYS).map(api_overlay).collect(),
            None => before.map(|status| status.overlay.clone()).unwrap_or_default(),
        },
        summary: Some(summary(&standing)),
        failures: tunnels::failures(&standing),
        tunnels: reports,
        conditions: merge(
            conditions,
            &findings(inputs, since_boot, now),
            generation,
            &seconds,
        ),
    }
}

/// The certificate in use. Its issuer is known once the authority is: until then it is the one that was said of it.
fn certificate(inputs: &StatusInputs, before: Option<&IPsecNodeStatus>) -> Option<CertificateInfo> {
    let certificate = inputs.identity.certificate.as_ref()?;
    let not_after = i64::try_from(certificate.leaf.not_after).ok()?;
    let said = before
        .and_then(|status| status.certificate.as_ref())
        .filter(|said| said.serial == certificate.leaf.serial)
        .map(|said| said.issuer.clone());
    Some(CertificateInfo {
        authority: inputs.authority.clone(),
        serial: certificate.leaf.serial.clone(),
        issuer: inputs.identity.issuer.clone().or(said).unwrap_or_default(),
        not_after: Time(Timestamp::from_second(not_after).ok()?),
    })
}

/// The hash of the bundle that peers are judged by: of the text itself, so that it says what this agent has.
fn bundle_hash(inputs: &StatusInputs) -> Option<String> {
    let authority = inputs.snapshot.authorities.get(&inputs.authority)?;
    Some(fingerprint(authority.bundle.as_bytes()))
}

fn api_overlay(found: &DetectedOverlay) -> ApiOverlay {
    ApiOverlay {
        protocol: found.protocol,
        port: found.port,
        device: Some(found.device.clone()),
        mtu: found.mtu,
    }
}

/// Each pair of nodes counts once, however many tunnels it is in.
fn summary(standing: &[Standing]) -> NodeSummary {
    let sum = |of: fn(&Standing) -> u32| standing.iter().map(of).fold(0_u32, u32::saturating_add);
    NodeSummary {
        tunnels: u32::try_from(standing.len()).unwrap_or(u32::MAX),
        up: sum(|tunnel| tunnel.counts.established),
        idle: sum(|tunnel| tunnel.counts.idle),
        failed: sum(|tunnel| tunnel.counts.failed),
    }
}

fn findings(inputs: &StatusInputs, since_boot: Option<&IPsecNodeStatus>, now: Timestamp) -> Vec<Finding> {
    let dataplane = dataplane(inputs);
    let certificate = certificate_finding(inputs, now);
    let programmed = programmed(inputs, since_boot);
    let trouble = [&dataplane, &certificate, &programmed]
        .into_iter()
        .find(|finding| finding.holds != Some(true));
    let mut findings = vec![Finding {
        type_: ConditionType::Ready,
        ..trouble.unwrap_or(&programmed).clone()
    }];
    findings.push(certificate);
    findings.push(dataplane);
    findings.extend(degraded(inputs));
    findings
}

/// Whether everything that is desired stands. A node that was ready stays so while a change is being written; one that
/// starts is ready only when its first pod cannot send in clear.
fn programmed(inputs: &StatusInputs, since_boot: Option<&IPsecNodeStatus>) -> Finding {
    let type_ = ConditionType::Ready;
    let waiting = |reason, message: &str| finding(type_, Some(false), reason, message.to_owned());
    if !inputs.snapshot.synced {
        return waiting("Reconciling", "the API has not been read completely yet");
    }
    if inputs.snapshot.own.is_none() {
        return waiting(
            "NotInDirectory",
            "there is no IPsecPeer for this node, what stands is kept: is the operator running, has the Node an \
             InternalIP, and is the IPsecAuthority default there?",
        );
    }
    let was_ready = since_boot
        .into_iter()
        .flat_map(|status| &status.conditions)
        .any(|condition| condition.type_ == type_.as_str() && condition.status == "True");
    let stands = inputs.desired.revision > 0 && inputs.view.programmed >= inputs.desired.revision;
    if !stands && !was_ready {
        return waiting("Reconciling", "policies are being written");
    }
    finding(type_, Some(true), "AllTunnelsProgrammed", String::new())
}

fn dataplane(inputs: &StatusInputs) -> Finding {
    let type_ = ConditionType::DataplaneReady;
    let view = &inputs.view;
    if let Some(obstacle) = &view.obstacle {
        return finding(type_, Some(false), obstacle.reason, obstacle.message.clone());
    }
    if !view.running {
        return finding(type_, None, "Starting", "the agent is starting".to_owned());
    }
    if let Some((object, reason)) = view.refused.first_key_value() {
        let more = match view.refused.len() {
            0 | 1 => String::new(),
            count => format!(" (and {} more)", count - 1),
        };
        let message = format!("{object}: {reason}{more}");
        return finding(type_, Some(false), "DataplaneRefused", message);
    }
    finding(type_, Some(true), "KernelReady", String::new())
}

fn certificate_finding(inputs: &StatusInputs, now: Timestamp) -> Finding {
    let type_ = ConditionType::CertificateReady;
    let identity = &inputs.identity;
    let valid = identity.certificate.as_ref().is_some_and(|certificate| {
        i64::try_from(certificate.leaf.not_after).is_ok_and(|end| end > now.as_second())
    });
    match (&identity.problem, valid) {
        // A renewal that fails is told long before the certificate in use ends.
        (Some(problem), true) => {
            let message = format!(
                "the certificate in use is valid; its renewal fails: {}",
                problem.message
            );
            finding(type_, Some(true), "RenewalFailing", message)
        }
        (Some(problem), false) if problem.denied => {
            finding(type_, Some(false), "CertificateDenied", problem.message.clone())
        }
        (Some(problem), false) => finding(type_, Some(false), "CertificatePending", problem.message.clone()),
        (None, true) => finding(type_, Some(true), "Issued", String::new()),
        // It is asked for: nothing is wrong yet.
        (None, false) if inputs.snapshot.authorities.contains_key(&inputs.authority) => finding(
            type_,
            None,
            "CertificatePending",
            "the request is not answered yet".to_owned(),
        ),
        (None, false) => {
            let message = format!(
                "IPsecAuthority {} has no roots yet: is the operator running, and is the authority Ready?",
                inputs.authority
            );
            finding(type_, None, "AuthorityNotFound", message)
        }
    }
}

/// What the agent works with although it should not have to.
fn degraded(inputs: &StatusInputs) -> Option<Finding> {
    let tunnels = &inputs.snapshot.tunnels;
    let refused = inputs.snapshot.refused.iter();
    let refused = refused.map(|(object, reason)| ("ObjectRefused", format!("{object}: {reason}")));
    let devices = inputs.overlays.iter().flatten().filter(|_| !tunnels.is_empty());
    let devices = devices.filter_map(|device| Some(("MTUTooSmall", too_large(device)?)));
    let on_demand = tunnels.iter().any(|tunnel| tunnel.start == Start::OnDemand);
    let host = inputs.probe.iter().flat_map(|probe| probe.warnings());
    let host = host.filter(|text| on_demand || !text.contains("larval"));
    let all: Vec<_> = refused
        .chain(devices)
        .chain(host.map(|text| ("HostLimits", text)))
        .collect();
    let (reason, _) = all.first()?;
    let texts: Vec<&str> = all.iter().map(|(_, text)| text.as_str()).collect();
    Some(finding(
        ConditionType::Degraded,
        Some(true),
        reason,
        texts.join("; "),
    ))
}

/// Full packets of the overlay do not fit through the device below once they are ESP.
fn too_large(device: &DetectedOverlay) -> Option<String> {
    let (mtu, fits) = (device.mtu?, device.fits?);
    (mtu > fits).then(|| {
        format!(
            "{} has an MTU of {mtu}, as ESP {fits} fit through the device below: larger packets are fragmented; set the \
             CNI's MTU to {fits} or less",
            device.device
        )
    })
}

#[expect(clippy::needless_pass_by_value, reason = "messages are made for the finding")]
fn finding(type_: ConditionType, holds: Option<bool>, reason: &str, message: String) -> Finding {
    Finding {
        type_,
        holds,
        reason: reason.to_owned(),
        message: message.chars().take(MAX_MESSAGE).collect(),
    }
}

#[cfg(test)]
mod tests;
