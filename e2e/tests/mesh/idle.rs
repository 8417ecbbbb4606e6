//! At rest nobody writes: operator and agents watch, renew leases, and leave the API server alone.

use std::{collections::BTreeMap, fs, thread, time::Duration};

use ipsecmesh_e2e::{
    error::{Context, Error, Result, eventually},
    lab::Lab,
};
use serde_json::Value;

use crate::world::{ROLLOUT, World, ensure};

/// Enforcing mesh at rest; a minute of the API server's audit log; operator and agents read and renew leases, no more.
pub(crate) fn nobody_writes_at_rest(world: &World) -> Result<String> {
    const WINDOW: Duration = Duration::from_secs(45);
    let pods = world.mesh()?;
    let lab = pods.lab();
    // Statuses that follow the last trial's changes are written by now; Events are rate-limited and may come later.
    eventually("nothing has been written for five seconds", ROLLOUT, || {
        let start = audit_length(lab)?;
        thread::sleep(Duration::from_secs(5));
        let writes = writes_since(lab, start)?;
        ensure(writes.is_empty(), || format!("{writes:?}"))
    })?;
    let start = audit_length(lab)?;
    thread::sleep(WINDOW);
    let writes = writes_since(lab, start)?;
    ensure(writes.is_empty(), || format!("written at rest: {writes:?}"))?;
    Ok(format!("0 writes in {} s", WINDOW.as_secs()))
}

fn audit_length(lab: &Lab) -> Result<usize> {
    Ok(audit(lab)?.len())
}

fn audit(lab: &Lab) -> Result<String> {
    let log = lab.plane().audit_log();
    fs::read_to_string(&log).context(|| format!("read {}", log.display()))
}

/// Writing requests of the product's service accounts from this place of the log on, leases left out, by what they do.
fn writes_since(lab: &Lab, start: usize) -> Result<BTreeMap<String, usize>> {
    let log = audit(lab)?;
    let mut found = BTreeMap::new();
    for line in log.get(start..).unwrap_or_default().lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            return Err(Error::observed(format!("not an audit event: {line}")));
        };
        let text = |path: &str| {
            event
                .pointer(path)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let (verb, resource) = (text("/verb"), text("/objectRef/resource"));
        let reads = ["get", "list", "watch"].contains(&verb.as_str());
        if !reads && resource != "leases" {
            let user = text("/user/username");
            let subresource = text("/objectRef/subresource");
            let name = text("/objectRef/name");
            *found
                .entry(format!("{user} {verb} {resource}/{subresource} {name}"))
                .or_default() += 1;
        }
    }
    Ok(found)
}
