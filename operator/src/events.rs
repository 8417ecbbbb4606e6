//! Kubernetes Events: what a person can act on. A repetition within some minutes is not sent again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};

/// A repetition within this time is dropped.
const QUIET: Duration = Duration::from_mins(5);

/// Never remember more than this: each entry is one object, reason and text.
const MEMORY: usize = 4096;

/// The API server refuses longer notes.
const MAX_NOTE: usize = 1000;

/// Sends Events, each text once.
pub(crate) struct Events {
    recorder: Recorder,
    sent: Mutex<HashMap<(String, &'static str, String), Instant>>,
}

impl Events {
    /// A sender that calls itself `ipsecmesh-operator`, of the replica `identity`.
    pub(crate) fn new(client: Client, identity: &str) -> Self {
        let reporter = Reporter {
            controller: "ipsecmesh.io/operator".to_owned(),
            instance: Some(identity.to_owned()),
        };
        Self {
            recorder: Recorder::new(client, reporter),
            sent: Mutex::default(),
        }
    }

    /// Something went its way.
    pub(crate) async fn normal<K>(&self, about: &K, reason: &'static str, note: String)
    where
        K: Resource<DynamicType = ()>,
    {
        self.send(EventType::Normal, about.object_ref(&()), reason, note)
            .await;
    }

    /// Somebody should look.
    pub(crate) async fn warning<K>(&self, about: &K, reason: &'static str, note: String)
    where
        K: Resource<DynamicType = ()>,
    {
        self.send(EventType::Warning, about.object_ref(&()), reason, note)
            .await;
    }

    async fn send(&self, type_: EventType, about: ObjectReference, reason: &'static str, note: String) {
        let key = (about.uid.clone().unwrap_or_default(), reason, note.clone());
        if !self.is_news(key, Instant::now()) {
            return;
        }
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note.chars().take(MAX_NOTE).collect()),
            action: reason.to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &about).await {
            tracing::warn!(%error, reason, object = about.name, "cannot send an event");
        }
    }

    fn is_news(&self, key: (String, &'static str, String), now: Instant) -> bool {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if sent
            .get(&key)
            .is_some_and(|then| now.duration_since(*then) < QUIET)
        {
            return false;
        }
        sent.retain(|_, then| now.duration_since(*then) < QUIET);
        if sent.len() < MEMORY {
            sent.insert(key, now);
        }
        true
    }
}
