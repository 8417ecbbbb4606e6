//! Who does not belong to the mesh: bad datagrams, and a certificate that is not what the operator signed.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use ipsecmesh_e2e::{
    error::{Context, Error, Result, eventually},
    lab::{Lab, state::namespace_file},
    traffic::hostile,
};
use nix::sched::{CloneFlags, setns};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use crate::{
    evidence::{Allowed, Watch},
    restart::kill_agent,
    standing::Standing,
    world::{ROLLOUT, World, ensure, wait_ready},
};

/// Retries of a pair that failed are up to half a minute apart.
const BACK: Duration = Duration::from_mins(3);
const METRICS: u16 = 9811;
const DROPPED: &str = "ipsecmesh_agent_datagrams_dropped_total";

/// Enforcing mesh, traffic; bad datagrams of many kinds at worker-1's IKE ports, from a stranger and from a peer's
/// address; counted, nothing changes.
pub(crate) fn datagrams_change_nothing(world: &World) -> Result<String> {
    let pods = world.mesh()?;
    let lab = pods.lab();
    let before = Standing::now(lab)?;
    let target = lab.node("worker-1")?.address();
    let dropped = dropped(world, target)?;
    let watch = Watch::all(&pods)?;
    let stranger = world
        .inside(move || hostile::send(target))?
        .context(|| "send as a stranger".into())?;
    let program = lab.program_on_node("ipsecmesh-traffic");
    let peer = lab
        .node("worker-2")?
        .run(&[&program, "hostile", "--to", &target.to_string()])?;
    let counted = eventually("every bad datagram is counted", ROLLOUT, || {
        let counted = self::dropped(world, target)? - dropped;
        ensure(counted >= stranger as u64, || {
            format!("{counted} of {stranger} from a stranger; {peer}")
        })?;
        Ok(counted)
    })?;
    let after = Standing::now(lab)?;
    ensure(after == before, || format!("SAs changed: {before:?} → {after:?}"))?;
    let evidence = watch.finish(&Allowed::default())?;
    Ok(format!(
        "{stranger} from a stranger, {}: {counted} counted, no SA changed; {evidence}",
        peer.trim()
    ))
}

/// Enforcing mesh; the authority's bundle is another authority's, and worker-3's agent starts anew: to its peers its
/// certificate is not ours, and theirs are not to it. The pair and the reason are told, nothing is in clear; and back.
pub(crate) fn foreign_certificate(world: &World) -> Result<String> {
    let pods = world.mesh()?;
    let lab = pods.lab();
    let watch = Watch::all(&pods)?;
    // The operator would put the bundle right at once; its writes are held up meanwhile.
    may_write(lab, r#"["ipsectunnels/status"]"#)?;
    let bundle = lab
        .kubectl()
        .value(&["ipsecauthority", "default"], "{.status.bundle}")?;
    let told = foreign_root()
        .and_then(|root| replace(lab, &root))
        .and_then(|()| refused(lab));
    replace(lab, &bundle)?;
    may_write(lab, r#"["ipsectunnels/status", "ipsecauthorities/status"]"#)?;
    let begin = Instant::now();
    wait_ready(lab, BACK)?;
    Standing::settled(lab, BACK)?;
    let back = begin.elapsed();
    let evidence = watch.finish(&Allowed::agent_away())?;
    Ok(format!(
        "{}; back after {:.1} s; {evidence}",
        told?,
        back.as_secs_f64()
    ))
}

fn may_write(lab: &Lab, resources: &str) -> Result<()> {
    let patch = format!(r#"[{{"op": "replace", "path": "/rules/1/resources", "value": {resources}}}]"#);
    lab.kubectl()
        .run(&[
            "patch",
            "clusterrole",
            "ipsecmesh-operator",
            "--type=json",
            "-p",
            &patch,
        ])
        .map(drop)
}

fn foreign_root() -> Result<String> {
    let failed = |error: rcgen::Error| Error::observed(format!("foreign root: {error}"));
    let mut params = CertificateParams::new(Vec::<String>::new()).map_err(failed)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().map_err(failed)?;
    Ok(params.self_signed(&key).map_err(failed)?.pem())
}

fn replace(lab: &Lab, bundle: &str) -> Result<()> {
    let patch = serde_json::json!({"status": {"bundle": bundle}}).to_string();
    let words = [
        "patch",
        "ipsecauthority",
        "default",
        "--subresource=status",
        "--type=merge",
        "-p",
        &patch,
    ];
    lab.kubectl().run(&words).map(drop)
}

fn refused(lab: &Lab) -> Result<String> {
    kill_agent(lab, "worker-3")?;
    let begin = Instant::now();
    let ready = "{.status.conditions[?(@.type==\"Ready\")]";
    let template = format!("{ready}.status}} {ready}.reason}} {ready}.message}}");
    let said = eventually("the tunnel names the pair and the reason", ROLLOUT, || {
        let said = lab.kubectl().value(&["ipsectunnel", "cluster-mesh"], &template)?;
        let named =
            said.starts_with("False ") && said.contains("AuthenticationFailed") && said.contains("worker-3");
        ensure(named, || said.clone())?;
        Ok(said)
    })?;
    Ok(format!(
        "{said:?} {:.1} s after its agent was killed",
        begin.elapsed().as_secs_f64()
    ))
}

/// All datagrams that a node's agent dropped, from its metrics.
fn dropped(world: &World, node: Ipv4Addr) -> Result<u64> {
    let text = world
        .inside(move || scrape(node))?
        .context(|| format!("metrics of {node}"))?;
    let value = |line: &str| {
        line.rsplit(' ')
            .next()
            .and_then(|number| number.parse::<u64>().ok())
    };
    Ok(text
        .lines()
        .filter(|line| line.starts_with(DROPPED))
        .filter_map(value)
        .sum())
}

fn scrape(node: Ipv4Addr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((node, METRICS))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: node\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

impl World {
    /// Runs something on the lab's own machine of the node network: a thread of its own steps inside.
    fn inside<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let namespace = namespace_file(&ipsecmesh_e2e::lab::namespace(self.instance())?);
        let inside = thread::spawn(move || {
            setns(File::open(namespace)?, CloneFlags::CLONE_NEWNET)?;
            Ok::<_, std::io::Error>(job())
        });
        let panicked = |_| Error::observed("a thread inside the lab's network panicked");
        inside
            .join()
            .map_err(panicked)?
            .context(|| "step into the lab's network".into())
    }
}
