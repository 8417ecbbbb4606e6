//! Leader election by a Lease: one process writes, and it stops itself before another may start.
//!
//! A foreign lease counts as expired when its record did not change for its whole duration *by our own monotonic
//! clock*, so that clocks of different nodes need not agree. A holder counts its time from the moment it *sent* the
//! last renewal that succeeded and gives up well before the lease runs out for the others (fail-stop).

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::{Instant, sleep, timeout};

/// The times of an election; the defaults move the work within 15 s of a leader's death.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// How long a lease is valid for the others after its last change.
    pub(crate) duration: Duration,
    /// How long a holder works on without a successful renewal; less than `duration`.
    pub(crate) deadline: Duration,
    /// The pause between two renewals, and between two looks at a foreign lease.
    pub(crate) period: Duration,
    /// How long one attempt may take: a dropped request takes its connection with it, the next opens another.
    pub(crate) attempt: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(11),
            deadline: Duration::from_secs(9),
            period: Duration::from_millis(1500),
            attempt: Duration::from_secs(3),
        }
    }
}

/// Why a leader stops leading.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    /// Somebody else holds the lease.
    #[error("the lease {lease} is held by {holder}")]
    Taken {
        /// The lease's name.
        lease: String,
        /// The present holder.
        holder: String,
    },
    /// No renewal succeeded in time.
    #[error("the lease {lease} could not be renewed for {} s: {cause}", .after.as_secs())]
    NotRenewed {
        /// The lease's name.
        lease: String,
        /// The time since the last renewal that succeeded.
        after: Duration,
        /// The last failure.
        cause: String,
    },
}

/// One candidate in the election for one Lease.
pub(crate) struct Candidate {
    api: Api<Lease>,
    lease: String,
    identity: String,
    timing: Timing,
    seen: Option<Sighting>,
}

/// A record of the lease and when we first saw it in this form.
#[derive(Clone, Debug)]
struct Sighting {
    record: Record,
    since: Instant,
}

/// What of a Lease matters for the election.
#[derive(Clone, Debug, Default, PartialEq)]
struct Record {
    holder: Option<String>,
    renewed: Option<MicroTime>,
    duration: Duration,
    transitions: i32,
    version: Option<String>,
}

/// What a candidate does next.
#[derive(Debug, PartialEq)]
enum Step {
    /// The lease is free, expired or ours: write it.
    Take,
    /// Somebody else holds it.
    Wait,
}

impl Candidate {
    /// A candidate with the name `identity` for the Lease `lease` in `namespace`.
    pub(crate) fn new(client: Client, namespace: &str, lease: &str, identity: &str, timing: Timing) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            lease: lease.to_owned(),
            identity: identity.to_owned(),
            timing,
            seen: None,
        }
    }

    /// Waits until this process is the leader; gives the time from which its lease counts.
    pub(crate) async fn acquire(&mut self) -> Instant {
        loop {
            match timeout(self.timing.attempt, self.attempt()).await {
                Ok(Ok(Some(since))) => return since,
                Ok(Ok(None)) => {}
                Ok(Err(error)) => {
                    tracing::warn!(lease = %self.lease, %error, "cannot read or take the lease");
                }
                Err(_elapsed) => tracing::warn!(lease = %self.lease, "no answer about the lease"),
            }
            sleep(self.timing.period).await;
        }
    }

    /// Renews until the lease is lost. `since` is what `acquire` gave.
    pub(crate) async fn hold(&mut self, mut since: Instant) -> Lost {
        let mut cause = String::from("no attempt finished");
        loop {
            sleep(self.timing.period.min(self.left(since))).await;
            let patience = self.timing.attempt.min(self.left(since));
            match timeout(patience, self.attempt()).await {
                Ok(Ok(Some(renewed))) => since = renewed,
                Ok(Ok(None)) => {
                    let holder = self.seen.as_ref().and_then(|seen| seen.record.holder.clone());
                    return Lost::Taken {
                        lease: self.lease.clone(),
                        holder: holder.unwrap_or_else(|| String::from("nobody")),
                    };
                }
                Ok(Err(error)) => {
                    tracing::warn!(lease = %self.lease, %error, "cannot renew the lease");
                    cause = error.to_string();
                }
                Err(_elapsed) => {
                    tracing::warn!(lease = %self.lease, "no answer to the renewal of the lease");
                    cause = String::from("the API server did not answer");
                }
            }
            if self.left(since).is_zero() {
                return Lost::NotRenewed {
                    lease: self.lease.clone(),
                    after: since.elapsed(),
                    cause,
                };
            }
        }
    }

    /// Gives the lease back so that the next leader need not wait for it to expire.
    pub(crate) async fn release(&mut self) {
        let Some(seen) = self
            .seen
            .as_ref()
            .filter(|seen| seen.record.holder.as_deref() == Some(&self.identity))
        else {
            return;
        };
        let mut lease = self.written(Some(&seen.record));
        if let Some(spec) = lease.spec.as_mut() {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
        }
        let params = PostParams::default();
        let request = self.api.replace(&self.lease, &params, &lease);
        match timeout(self.timing.period, request).await {
            Ok(Ok(_)) => tracing::info!(lease = %self.lease, "released the lease"),
            Ok(Err(error)) => tracing::warn!(lease = %self.lease, %error, "cannot release the lease"),
            Err(_elapsed) => tracing::warn!(lease = %self.lease, "no answer to the release of the lease"),
        }
    }

    /// The time that a holder may still work without another renewal.
    fn left(&self, since: Instant) -> Duration {
        self.timing.deadline.saturating_sub(since.elapsed())
    }

    /// Looks at the lease and takes or renews it if that is ours to do.
    async fn attempt(&mut self) -> Result<Option<Instant>, kube::Error> {
        let found = self.api.get_opt(&self.lease).await?;
        let now = Instant::now();
        let record = found.as_ref().map(Record::of);
        self.observe(record.clone(), now);
        if self.step(now) == Step::Wait {
            return Ok(None);
        }
        let lease = self.written(record.as_ref());
        let sent = Instant::now();
        let written = if found.is_some() {
            self.api
                .replace(&self.lease, &PostParams::default(), &lease)
                .await
        } else {
            self.api.create(&PostParams::default(), &lease).await
        };
        match written {
            Ok(lease) => {
                self.observe(Some(Record::of(&lease)), sent);
                Ok(Some(sent))
            }
            // Somebody else was faster; the next look shows who.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                if record.and_then(|r| r.holder).as_deref() == Some(&self.identity) {
                    return Err(kube::Error::Api(status));
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn observe(&mut self, record: Option<Record>, now: Instant) {
        let unchanged = self
            .seen
            .as_ref()
            .is_some_and(|seen| Some(&seen.record) == record.as_ref());
        if !unchanged {
            self.seen = record.map(|record| Sighting { record, since: now });
        }
    }

    fn step(&self, now: Instant) -> Step {
        decide(self.seen.as_ref(), &self.identity, now)
    }

    /// The Lease as this candidate writes it over `before`.
    fn written(&self, before: Option<&Record>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let ours = before.is_some_and(|r| r.holder.as_deref() == Some(&self.identity));
        let transitions = before.map_or(0, |r| r.transitions + i32::from(!ours));
        Lease {
            metadata: ObjectMeta {
                name: Some(self.lease.clone()),
                resource_version: before.and_then(|r| r.version.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(self.timing.duration.as_secs()).ok(),
                acquire_time: (!ours).then(|| now.clone()),
                renew_time: Some(now),
                lease_transitions: Some(transitions),
                ..LeaseSpec::default()
            }),
        }
    }
}

impl Record {
    fn of(lease: &Lease) -> Self {
        let spec = lease.spec.clone().unwrap_or_default();
        let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok());
        Self {
            holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
            renewed: spec.renew_time,
            duration: Duration::from_secs(seconds.unwrap_or_default()),
            transitions: spec.lease_transitions.unwrap_or_default(),
            version: lease.metadata.resource_version.clone(),
        }
    }
}

/// The rule of the election.
fn decide(seen: Option<&Sighting>, identity: &str, now: Instant) -> Step {
    let Some(seen) = seen else { return Step::Take };
    let Some(holder) = seen.record.holder.as_deref() else {
        return Step::Take;
    };
    if holder == identity || now.duration_since(seen.since) > seen.record.duration {
        Step::Take
    } else {
        Step::Wait
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};

    use kube::client::Body;

    use super::*;

    fn sighting(holder: Option<&str>, since: Instant) -> Sighting {
        Sighting {
            record: Record {
                holder: holder.map(str::to_owned),
                duration: Duration::from_secs(8),
                ..Record::default()
            },
            since,
        }
    }

    #[test]
    fn a_lease_is_taken_when_it_is_absent_free_ours_or_expired() {
        let start = Instant::now();
        let cases = [
            ("absent", None, 0, Step::Take),
            ("free", Some(sighting(None, start)), 0, Step::Take),
            ("ours", Some(sighting(Some("me"), start)), 1, Step::Take),
            (
                "foreign and fresh",
                Some(sighting(Some("other"), start)),
                8,
                Step::Wait,
            ),
            (
                "foreign and expired",
                Some(sighting(Some("other"), start)),
                9,
                Step::Take,
            ),
        ];
        for (name, seen, after, expected) in cases {
            let now = start + Duration::from_secs(after);
            assert_eq!(decide(seen.as_ref(), "me", now), expected, "{name}");
        }
    }

    #[test]
    fn a_holder_gives_up_before_the_others_may_take_over() {
        let timing = Timing::default();
        assert!(timing.deadline < timing.duration);
        assert!(timing.duration + 2 * timing.period < Duration::from_secs(15));
        assert!(
            2 * (timing.period + timing.attempt) <= timing.deadline,
            "one hanging request costs no lease"
        );
    }

    /// A cluster that keeps one Lease and answers no request as long as `dead` is set.
    fn cluster(dead: Arc<AtomicBool>) -> Client {
        let stored = Arc::new(Mutex::new(None::<serde_json::Value>));
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let (stored, dead) = (Arc::clone(&stored), Arc::clone(&dead));
            async move {
                if dead.swap(false, Ordering::SeqCst) {
                    std::future::pending::<()>().await;
                }
                if request.method() != http::Method::GET {
                    let bytes = request.into_body().collect_bytes().await?;
                    *stored.lock().expect("no test panics with it") = Some(serde_json::from_slice(&bytes)?);
                }
                let found = stored.lock().expect("no test panics with it").clone();
                let missing = serde_json::json!({"status": "Failure", "reason": "NotFound", "code": 404});
                let code = if found.is_some() { 200 } else { 404 };
                let body = Body::from(serde_json::to_vec(&found.unwrap_or(missing))?);
                Ok::<_, tower::BoxError>(http::Response::builder().status(code).body(body)?)
            }
        });
        Client::new(service, "default")
    }

    #[tokio::test(start_paused = true)]
    async fn one_hanging_request_costs_neither_the_lease_nor_the_election() {
        let hangs = Arc::new(AtomicBool::new(true));
        let client = cluster(Arc::clone(&hangs));
        let mut candidate = Candidate::new(client, "here", "lease", "me", Timing::default());
        let begin = Instant::now();
        let since = candidate.acquire().await;
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        hangs.store(true, Ordering::SeqCst);
        let minute = timeout(Duration::from_mins(1), candidate.hold(since)).await;
        assert!(minute.is_err(), "{minute:?}");
    }

    #[test]
    fn an_emptied_holder_counts_as_free() {
        let lease = Lease {
            spec: Some(LeaseSpec {
                holder_identity: Some(String::new()),
                lease_duration_seconds: Some(-1),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        };
        let record = Record::of(&lease);
        assert_eq!(record.holder, None);
        assert_eq!(record.duration, Duration::ZERO);
    }
}
