//! Kubernetes Events of this agent: what a person can act on, once per change. What concerns the node stands at its
//! `IPsecNode`, what concerns a pair stands at the `IPsecTunnel` that wants it. That a certificate was issued is told by
//! who issued it.

use std::time::Duration;

use ipsecmesh_crds::node::Failure;
use ipsecmesh_crds::{GROUP, IPsecNodeStatus, VERSION};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::model::{OwnNode, Tunnel};
use crate::task::Task;

/// The API server refuses longer notes.
const MAX_NOTE: usize = 1000;
/// Pairs that are told about at once: the rest is in the status.
const MAX_PAIRS: usize = 4;
/// Events that wait for the API server; more are dropped: the status says the same.
const WAITING: usize = 32;
/// How long one of them may hang.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends Events, beside those who wait for echoes.
pub(crate) struct NodeEvents {
    node: String,
    queue: mpsc::Sender<(Event, ObjectReference)>,
    _task: Task,
}

/// Something worth telling.
#[derive(Clone, Debug, PartialEq, Eq)]
struct News {
    about: About,
    warning: bool,
    reason: String,
    note: String,
}

/// Whom it concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
enum About {
    /// This node.
    Node,
    /// A pair of nodes in a tunnel.
    Pair {
        /// The tunnel.
        tunnel: String,
        /// The other node.
        peer: String,
    },
}

impl NodeEvents {
    /// A sender for `node`.
    pub(crate) fn new(client: Client, node: &str) -> Self {
        let reporter = Reporter {
            controller: "ipsecmesh.io/agent".to_owned(),
            instance: Some(node.to_owned()),
        };
        let recorder = Recorder::new(client, reporter);
        let (queue, mut waiting) = mpsc::channel::<(Event, ObjectReference)>(WAITING);
        let task = Task::spawn("events", async move {
            while let Some((event, about)) = waiting.recv().await {
                match timeout(PATIENCE, recorder.publish(&event, &about)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, reason = event.reason, "an Event was not sent"),
                    Err(_) => tracing::debug!(reason = event.reason, "an Event was not answered"),
                }
            }
        });
        Self {
            node: node.to_owned(),
            queue,
            _task: task,
        }
    }

    /// Tells what is new between two statuses.
    pub(crate) fn tell(
        &self,
        own: &OwnNode,
        tunnels: &[Tunnel],
        before: Option<&IPsecNodeStatus>,
        now: &IPsecNodeStatus,
    ) {
        for news in news(&self.node, before, now) {
            let (about, secondary) = match &news.about {
                About::Node => (reference("IPsecNode", &self.node, Some(&own.object_uid)), None),
                About::Pair { tunnel, peer } => {
                    let Some(known) = tunnels.iter().find(|known| known.name == *tunnel) else {
                        continue;
                    };
                    let peer = reference("IPsecNode", peer, None);
                    (reference("IPsecTunnel", tunnel, Some(&known.uid)), Some(peer))
                }
            };
            let event = Event {
                type_: if news.warning {
                    EventType::Warning
                } else {
                    EventType::Normal
                },
                action: news.reason.clone(),
                reason: news.reason,
                note: Some(news.note.chars().take(MAX_NOTE).collect()),
                secondary,
            };
            // Full: the API server is away, and the status says the same.
            let _ = self.queue.try_send((event, about));
        }
    }
}

fn reference(kind: &str, name: &str, uid: Option<&String>) -> ObjectReference {
    ObjectReference {
        api_version: Some(format!("{GROUP}/{VERSION}")),
        kind: Some(kind.to_owned()),
        name: Some(name.to_owned()),
        uid: uid.cloned(),
        ..ObjectReference::default()
    }
}

fn news(own: &str, before: Option<&IPsecNodeStatus>, now: &IPsecNodeStatus) -> Vec<News> {
    let mut news: Vec<News> = ["DataplaneReady", "CertificateReady"]
        .iter()
        .filter_map(|type_| condition_news(type_, before, now))
        .collect();
    let known = before.map_or(&[][..], |status| &status.failures);
    let is_known = |failure: &Failure| {
        let key = |failure: &Failure| {
            (
                failure.tunnel.clone(),
                failure.peer.clone(),
                failure.reason.clone(),
            )
        };
        known.iter().any(|old| key(old) == key(failure))
    };
    // A node that is silent is seen by all others: the operator tells it once.
    let fresh = now
        .failures
        .iter()
        .filter(|failure| failure.reason != "PeerUnreachable" && !is_known(failure));
    news.extend(fresh.take(MAX_PAIRS).map(|failure| News {
        about: About::Pair {
            tunnel: failure.tunnel.clone(),
            peer: failure.peer.clone(),
        },
        warning: true,
        reason: failure.reason.clone(),
        note: format!("{own} → {}: {}", failure.peer, failure.message),
    }));
    news
}

/// Trouble, other trouble, and its end. The start of a healthy node is no news.
fn condition_news(type_: &str, before: Option<&IPsecNodeStatus>, now: &IPsecNodeStatus) -> Option<News> {
    let old = before.and_then(|status| condition(status, type_));
    let new = condition(now, type_)?;
    if old.is_some_and(|old| (&old.status, &old.reason) == (&new.status, &new.reason)) {
        return None;
    }
    let about = About::Node;
    match new.status.as_str() {
        "False" => Some(News {
            about,
            warning: true,
            reason: new.reason.clone(),
            note: new.message.clone(),
        }),
        "True" if new.reason == "RenewalFailing" => Some(News {
            about,
            warning: true,
            reason: new.reason.clone(),
            note: new.message.clone(),
        }),
        "True" if old.is_some_and(|old| old.status == "False") => {
            let note = "what was missing is there: the agent works".to_owned();
            Some(News {
                about,
                warning: false,
                reason: type_.to_owned(),
                note,
            })
        }
        _ => None,
    }
}

fn condition<'a>(status: &'a IPsecNodeStatus, type_: &str) -> Option<&'a Condition> {
    status
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn with_condition(type_: &str, status: &str, reason: &str) -> IPsecNodeStatus {
        IPsecNodeStatus {
            conditions: vec![Condition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: reason.to_owned(),
                message: format!("{reason} it is"),
                observed_generation: None,
                last_transition_time: Time(Timestamp::UNIX_EPOCH),
            }],
            ..IPsecNodeStatus::default()
        }
    }

    fn reasons(before: Option<&IPsecNodeStatus>, now: &IPsecNodeStatus) -> Vec<(bool, String)> {
        news("a", before, now)
            .into_iter()
            .map(|news| (news.warning, news.reason))
            .collect()
    }

    #[test]
    fn conditions_are_told_when_they_change() {
        let good = with_condition("DataplaneReady", "True", "KernelReady");
        let port = with_condition("DataplaneReady", "False", "PortInUse");
        let kernel = with_condition("DataplaneReady", "False", "KernelUnsupported");
        let unknown = with_condition("DataplaneReady", "Unknown", "Starting");
        let denied = with_condition("CertificateReady", "False", "CertificateDenied");
        let failing = with_condition("CertificateReady", "True", "RenewalFailing");
        let cases = [
            (None, &good, vec![]),
            (None, &unknown, vec![]),
            (None, &port, vec![(true, "PortInUse")]),
            (Some(&good), &port, vec![(true, "PortInUse")]),
            (Some(&port), &port, vec![]),
            (Some(&port), &kernel, vec![(true, "KernelUnsupported")]),
            (Some(&kernel), &good, vec![(false, "DataplaneReady")]),
            (Some(&unknown), &good, vec![]),
            (None, &denied, vec![(true, "CertificateDenied")]),
            (None, &failing, vec![(true, "RenewalFailing")]),
        ];
        for (before, now, expected) in cases {
            let expected: Vec<_> = expected
                .into_iter()
                .map(|(warning, reason)| (warning, reason.to_owned()))
                .collect();
            assert_eq!(reasons(before, now), expected, "{before:?} → {now:?}");
        }
    }

    #[test]
    fn failing_pairs_are_told_at_their_tunnel_a_few_at_a_time_and_silence_by_the_operator() {
        let failure = |peer: &str, reason: &str| Failure {
            tunnel: "mesh".to_owned(),
            peer: peer.to_owned(),
            reason: reason.to_owned(),
            message: "why".to_owned(),
            since: None,
        };
        let status = |failures| IPsecNodeStatus {
            failures,
            ..IPsecNodeStatus::default()
        };
        let one = status(vec![
            failure("b", "AuthenticationFailed"),
            failure("c", "PeerUnreachable"),
        ]);
        let told = news("a", None, &one);
        assert_eq!(told.len(), 1);
        assert_eq!(
            told[0].about,
            About::Pair {
                tunnel: "mesh".to_owned(),
                peer: "b".to_owned()
            }
        );
        assert_eq!(told[0].note, "a → b: why");
        assert!(news("a", Some(&one), &one).is_empty());
        let many = status(
            (0..9)
                .map(|n| failure(&format!("n{n}"), "NoProposalChosen"))
                .collect(),
        );
        assert_eq!(news("a", Some(&one), &many).len(), MAX_PAIRS);
    }
}
