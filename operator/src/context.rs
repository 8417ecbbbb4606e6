//! What all controllers share: the client, the stores, the settings, and the little that is remembered between looks.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::runtime::reflector::ObjectRef;

use crate::apply::Writer;
use crate::args::{Cidr, RunArgs};
use crate::events::Events;
use crate::metrics::Metrics;
use crate::pki::ca::CertificateAuthority;
use crate::pki::signer::AgentIdentity;
use crate::world::{Stores, Triggers};

/// What the command line decides.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The operator's namespace.
    pub(crate) namespace: String,
    /// The agents' identity.
    pub(crate) agent: AgentIdentity,
    /// The Secret with the authority's key.
    pub(crate) ca_secret: String,
    /// The ConfigMap with the uninstall marker.
    pub(crate) lifecycle_config_map: String,
    /// Networks that nodes' addresses have to lie in.
    pub(crate) node_cidrs: Vec<Cidr>,
    /// Admission policies without which agents' reports are not trusted.
    pub(crate) admission_policies: Vec<String>,
    /// Reconciliations of one kind at once.
    pub(crate) concurrency: u16,
}

impl From<RunArgs> for Settings {
    fn from(args: RunArgs) -> Self {
        let namespace = args.common.namespace;
        Self {
            agent: AgentIdentity {
                namespace: namespace.clone(),
                service_account: args.agent_service_account,
            },
            namespace,
            ca_secret: args.ca_secret,
            lifecycle_config_map: args.common.lifecycle_config_map,
            node_cidrs: args.node_cidrs,
            admission_policies: args
                .admission_policies
                .into_iter()
                .filter(|name| !name.is_empty())
                .collect(),
            concurrency: args.concurrency,
        }
    }
}

/// What all controllers share.
pub(crate) struct Context {
    /// The API server.
    pub(crate) client: Client,
    /// The command line.
    pub(crate) settings: Settings,
    /// The process's metrics.
    pub(crate) metrics: Arc<Metrics>,
    /// Events for people.
    pub(crate) events: Events,
    triggers: Triggers,
    authority: RwLock<Option<Arc<CertificateAuthority>>>,
    timers: Mutex<HashMap<(&'static str, String), Timer>>,
    failures: Mutex<HashMap<(&'static str, String), u32>>,
    requests: Mutex<HashMap<String, Bucket>>,
}

/// A state and since when it lasts.
#[derive(Clone, Debug)]
struct Timer {
    state: String,
    since: Instant,
}

/// What a node has left of its certificate requests.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: u32,
    filled: Instant,
}

/// A node may ask this often at once …
const BURST: u32 = 10;
/// … and once more after each of these.
const REFILL: Duration = Duration::from_secs(30);

impl Context {
    /// A context that remembers nothing yet.
    pub(crate) fn new(
        client: Client,
        settings: Settings,
        metrics: Arc<Metrics>,
        events: Events,
        triggers: Triggers,
    ) -> Self {
        Self {
            client,
            settings,
            metrics,
            events,
            triggers,
            authority: RwLock::default(),
            timers: Mutex::default(),
            failures: Mutex::default(),
            requests: Mutex::default(),
        }
    }

    /// The stores.
    pub(crate) fn stores(&self) -> &Stores {
        self.triggers.stores()
    }

    /// Wakes whoever waits for the authority.
    pub(crate) async fn authority_changed(&self) {
        self.triggers.clone().authority_changed().await;
    }

    /// The ConfigMap with the uninstall marker.
    pub(crate) fn lifecycle(&self) -> ObjectRef<ConfigMap> {
        ObjectRef::new(&self.settings.lifecycle_config_map).within(&self.settings.namespace)
    }

    /// Whether the API server is reached at `address`.
    pub(crate) fn is_api_server(&self, address: IpAddr) -> bool {
        self.api_server().contains(&address)
    }

    /// The addresses at which the API server is reached.
    pub(crate) fn api_server(&self) -> Vec<IpAddr> {
        let slices = self.stores().endpoints.state();
        let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
        let addresses = endpoints.flat_map(|endpoint| &endpoint.addresses);
        addresses.filter_map(|address| address.parse().ok()).collect()
    }

    /// The counted way to write.
    pub(crate) fn writer(&self) -> Writer<'_> {
        Writer {
            metrics: &self.metrics,
        }
    }

    /// The authority, once it can sign.
    pub(crate) fn authority(&self) -> Option<Arc<CertificateAuthority>> {
        self.authority
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Sets the authority; says whether that changed who signs.
    pub(crate) fn set_authority(&self, authority: Option<Arc<CertificateAuthority>>) -> bool {
        let mut place = self.authority.write().unwrap_or_else(PoisonError::into_inner);
        let before = place.as_ref().map(|authority| authority.fingerprint().to_owned());
        let changed = before.as_deref() != authority.as_ref().map(|authority| authority.fingerprint());
        *place = authority;
        changed
    }

    /// For how long `state` has been the state of the timer `name` of `object`. Another state starts it anew.
    pub(crate) fn lasting(&self, name: &'static str, object: &str, state: &str) -> Duration {
        let mut timers = self.timers.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let fresh = Timer {
            state: state.to_owned(),
            since: now,
        };
        let timer = timers
            .entry((name, object.to_owned()))
            .or_insert_with(|| fresh.clone());
        if timer.state != state {
            *timer = fresh;
        }
        now.duration_since(timer.since)
    }

    /// Forgets the timers of `object`.
    pub(crate) fn forget(&self, object: &str) {
        self.timers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|(_, of), _| of != object);
    }

    /// Counts a certificate request of `node`; when it has no more left, the time until it may ask again.
    pub(crate) fn admit(&self, node: &str) -> Result<(), Duration> {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let full = Bucket {
            tokens: BURST,
            filled: now,
        };
        requests.entry(node.to_owned()).or_insert(full).take(now)
    }

    /// The pause before the next attempt after a failure: from 250 ms, doubling, at most a minute, each ± 25 %.
    pub(crate) fn back_off(&self, controller: &'static str, object: &str) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry((controller, object.to_owned())).or_default();
        let pause = pause(*count, random());
        *count = count.saturating_add(1);
        pause
    }

    /// An attempt went through.
    pub(crate) fn succeeded(&self, controller: &'static str, object: &str) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.remove(&(controller, object.to_owned()));
    }
}

impl Bucket {
    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.filled);
        let earned = u32::try_from(passed.as_secs() / REFILL.as_secs()).unwrap_or(u32::MAX);
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(BURST);
            self.filled = now;
        }
        if self.tokens == 0 {
            return Err(REFILL.saturating_sub(passed));
        }
        self.tokens -= 1;
        Ok(())
    }
}

/// The pause after `failures` earlier ones; `random` spreads it.
fn pause(failures: u32, random: u64) -> Duration {
    let base = Duration::from_millis(250)
        .saturating_mul(1 << failures.min(8))
        .min(Duration::from_mins(1));
    let spread = u32::try_from(random % 51).unwrap_or_default();
    base * (75 + spread) / 100
}

/// Good enough to spread retries; nothing secret hangs on it.
fn random() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_asks_too_often_has_to_wait() {
        let start = Instant::now();
        let mut bucket = Bucket {
            tokens: BURST,
            filled: start,
        };
        for _ in 0..BURST {
            bucket.take(start).expect("within the burst");
        }
        assert_eq!(bucket.take(start), Err(REFILL));
        bucket.take(start + REFILL).expect("one more");
        bucket.take(start + REFILL).expect_err("but not two");
    }

    #[test]
    fn pauses_grow_to_a_minute_and_are_spread() {
        for (failures, random, millis) in [
            (0, 25, 250),
            (1, 25, 500),
            (3, 0, 1500),
            (3, 50, 2500),
            (8, 25, 60_000),
            (99, 25, 60_000),
        ] {
            assert_eq!(
                pause(failures, random),
                Duration::from_millis(millis),
                "{failures} {random}"
            );
        }
    }
}
