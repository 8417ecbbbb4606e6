//! What a host may lack: a capability, the kernel's ESP, the IKE port. Each is named, and the agent goes on when it is
//! there again.

use std::time::{Duration, Instant};

use ipsecmesh_e2e::{
    error::{Context, Result, eventually},
    lab::{Lab, NodeOptions, product::NAMESPACE},
    protocol::Exec,
};

use crate::{
    evidence::{Allowed, Watch},
    lifecycle::rolled_out,
    nodes::leave,
    restart::kill_agent,
    standing::Standing,
    world::{ROLLOUT, World, ensure, wait_ready},
};

/// From the cause to what `kubectl get` shows.
const TOLD: Duration = Duration::from_secs(10);
/// Restart of the agent included.
const FOUND: Duration = Duration::from_mins(1);
const RECOVERED: Duration = Duration::from_mins(2);
const CAPABILITIES: &str = "/spec/template/spec/containers/0/securityContext/capabilities/add";

/// Enforcing mesh, traffic; agents without `NET_ADMIN`; named in status, Event and log; what stands stays; and back.
pub(crate) fn without_a_capability(world: &World) -> Result<String> {
    let pods = world.mesh()?;
    let lab = pods.lab();
    let watch = Watch::all(&pods)?;
    let set = |capabilities: &str| {
        let patch = format!(r#"[{{"op": "replace", "path": "{CAPABILITIES}", "value": {capabilities}}}]"#);
        lab.kubectl().run(&[
            "patch",
            "daemonset",
            "ipsecmesh-agent",
            "-n",
            NAMESPACE,
            "--type=json",
            "-p",
            &patch,
        ])
    };
    set(r#"["NET_BIND_SERVICE"]"#)?;
    let told = told(lab, "MissingCapability", "NET_ADMIN");
    set(r#"["NET_ADMIN", "NET_BIND_SERVICE"]"#)?;
    rolled_out(lab)?;
    wait_ready(lab, RECOVERED)?;
    Standing::settled(lab, RECOVERED)?;
    let evidence = watch.finish(&Allowed::agent_away())?;
    Ok(format!("{}; {evidence}", told?))
}

/// Enforcing mesh; a fourth node whose kernel has no ESP; named with the module; the module is loaded, and it joins.
pub(crate) fn without_esp(world: &World) -> Result<String> {
    let pods = world.mesh()?;
    let lab = pods.lab();
    let watch = Watch::all(&pods)?;
    let modules_without = vec!["esp4".to_owned(), "esp4_offload".to_owned()];
    let node = lab.add_node(
        "worker-4",
        NodeOptions {
            modules_without,
            ..NodeOptions::default()
        },
    )?;
    let told = told(lab, "KernelUnsupported", "modprobe esp4");
    let load = "insmod $(find /usr/lib/uml/modules/$(uname -r) -name esp4.ko)";
    let begin = Instant::now();
    let joined = node
        .run(&["sh", "-c", load])
        .and_then(|_| wait_ready(lab, RECOVERED))
        .and_then(|()| Standing::settled(lab, RECOVERED));
    let took = begin.elapsed();
    leave(lab)?;
    let evidence = watch.finish(&Allowed {
        counters: &["XfrmOutNoStates", "XfrmInNoStates"],
        ..Allowed::default()
    })?;
    joined?;
    Ok(format!(
        "{}; joined {:.1} s after the module was loaded; {evidence}",
        told?,
        took.as_secs_f64()
    ))
}

/// Enforcing mesh, traffic; worker-2's agent dies and another daemon takes UDP 500; named; the daemon ends, all is well.
pub(crate) fn with_the_port_taken(world: &World) -> Result<String> {
    let pods = world.mesh()?;
    let lab = pods.lab();
    let watch = Watch::all(&pods)?;
    let program = lab.program_on_node("ipsecmesh-traffic");
    let argv = [&program, "hold", "--port", "500"].map(str::to_owned).to_vec();
    let daemon = lab
        .node("worker-2")?
        .channel()
        .start(Exec {
            argv,
            ..Exec::default()
        })
        .context(|| "start another daemon on worker-2".into())?;
    eventually("the other daemon has the port", FOUND, || {
        kill_agent(lab, "worker-2")?;
        std::thread::sleep(Duration::from_secs(1));
        let owner = lab
            .node("worker-2")?
            .run(&["ss", "-lunpH", "sport", "=", ":500"])?;
        ensure(owner.contains("ipsecmesh-traff"), || owner.clone())
    })?;
    let told = told(lab, "PortInUse", "UDP port 500");
    let begin = Instant::now();
    drop(daemon);
    lab.wait_for_product()?;
    wait_ready(lab, RECOVERED)?;
    Standing::settled(lab, RECOVERED)?;
    let took = begin.elapsed();
    let evidence = watch.finish(&Allowed::agent_away())?;
    Ok(format!(
        "{}; one pair of SAs each {:.1} s after it ended; {evidence}",
        told?,
        took.as_secs_f64()
    ))
}

/// The node's status, the tunnel's condition within ten seconds of it, and an Event say it.
fn told(lab: &Lab, reason: &str, word: &str) -> Result<String> {
    let condition = "{.status.conditions[?(@.type==\"DataplaneReady\")]";
    let template = format!(
        "{{range .items[*]}}{{.metadata.name}} {condition}.reason}} {condition}.message}}{{\"\\n\"}}{{end}}"
    );
    let node = eventually(&format!("an IPsecNode says {reason}"), FOUND, || {
        let all = lab.kubectl().value(&["ipsecnode"], &template)?;
        let line = all
            .lines()
            .find(|line| line.contains(reason) && line.contains(word));
        ensure(line.is_some(), || all.clone())?;
        Ok(line
            .and_then(|line| line.split(' ').next())
            .unwrap_or_default()
            .to_owned())
    })?;
    let begin = Instant::now();
    let ready = "{.status.conditions[?(@.type==\"Ready\")]";
    let template = format!("{ready}.status}} {ready}.reason}} {ready}.message}}");
    let said = eventually(&format!("the tunnel says {reason}"), TOLD, || {
        let said = lab.kubectl().value(&["ipsectunnel", "cluster-mesh"], &template)?;
        ensure(
            said.starts_with("False ") && said.contains(reason) && said.contains(&node),
            || said.clone(),
        )?;
        Ok(said)
    })?;
    let after = begin.elapsed();
    eventually("an Event says it", ROLLOUT, || {
        let events = lab.kubectl().run(&[
            "get",
            "events",
            "-A",
            "--field-selector",
            &format!("reason={reason}"),
        ])?;
        ensure(events.contains(&node), || events.clone())
    })?;
    Ok(format!("{said:?} {:.1} s after the node's", after.as_secs_f64()))
}
