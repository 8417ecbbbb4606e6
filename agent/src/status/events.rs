//! Kubernetes Events about this node: what a person can act on, once per change.

use ipsecmesh_crds::IPsecNodeStatus;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

use crate::model::OwnNode;

/// The API server refuses longer notes.
const MAX_NOTE: usize = 1000;
/// Pairs that are told about at once: the rest is in the status.
const MAX_PAIRS: usize = 4;

/// Sends Events about the node's `IPsecNode`.
pub(crate) struct NodeEvents {
    recorder: Recorder,
    node: String,
}

impl NodeEvents {
    /// A sender for `node`.
    pub(crate) fn new(client: Client, node: &str) -> Self {
        let reporter = Reporter {
            controller: "ipsecmesh.io/agent".to_owned(),
            instance: Some(node.to_owned()),
        };
        Self {
            recorder: Recorder::new(client, reporter),
            node: node.to_owned(),
        }
    }

    /// Tells what is new between two statuses.
    pub(crate) async fn tell(&mut self, own: &OwnNode, before: Option<&IPsecNodeStatus>, now: &IPsecNodeStatus) {
        for (type_, reason, note) in news(before, now) {
            let event = Event {
                type_,
                reason,
                note: Some(note.chars().take(MAX_NOTE).collect()),
                action: "Reconcile".to_owned(),
                secondary: None,
            };
            let about = ObjectReference {
                api_version: Some(format!("{}/{}", ipsecmesh_crds::GROUP, ipsecmesh_crds::VERSION)),
                kind: Some("IPsecNode".to_owned()),
                name: Some(self.node.clone()),
                uid: Some(own.object_uid.clone()),
                ..ObjectReference::default()
            };
            if let Err(error) = self.recorder.publish(&event, &about).await {
                tracing::debug!(%error, "an Event was not sent");
            }
        }
    }
}

fn news(before: Option<&IPsecNodeStatus>, now: &IPsecNodeStatus) -> Vec<(EventType, String, String)> {
    let mut news = Vec::new();
    for (type_, good) in [("DataplaneReady", "DataplaneReady"), ("CertificateReady", "CertificateIssued")] {
        let old = before.and_then(|status| condition(status, type_));
        let Some(new) = condition(now, type_) else { continue };
        if old.is_some_and(|old| (&old.status, &old.reason) == (&new.status, &new.reason)) {
            continue;
        }
        match new.status.as_str() {
            "False" => news.push((EventType::Warning, new.reason.clone(), new.message.clone())),
            // The start of a healthy node is no news; the end of trouble is.
            "True" if old.is_some_and(|old| old.status == "False") => {
                news.push((EventType::Normal, good.to_owned(), format!("{type_} again")));
            }
            _ => {}
        }
    }
    let known = before.map_or(&[][..], |status| &status.failures);
    let fresh = now.failures.iter().filter(|failure| {
        !known.iter().any(|old| (&old.peer, &old.reason) == (&failure.peer, &failure.reason))
    });
    news.extend(fresh.take(MAX_PAIRS).map(|failure| {
        let note = format!("tunnel {}, node {}: {}", failure.tunnel, failure.peer, failure.message);
        (EventType::Warning, failure.reason.clone(), note)
    }));
    news
}

fn condition<'a>(status: &'a IPsecNodeStatus, type_: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == type_)
}
