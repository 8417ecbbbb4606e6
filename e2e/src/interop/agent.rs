//! Our agent on one side, without Kubernetes: its manifests, its life, and what it says.

use std::{fmt::Write as _, time::Duration};

use super::{
    case::{Auth, Case, Mode, Path, Protocol, SECRET, Suite, identity},
    ground::{Ground, Side, quoted},
    task::Task,
};
use crate::error::{Error, Result, eventually};

const PROGRAM: &str = "ipsecmesh-agent";
const START: Duration = Duration::from_secs(20);

/// A running agent. Dropping it ends it.
#[derive(Debug)]
pub struct Agent<'a> {
    ground: &'a Ground<'a>,
    program: String,
    folder: String,
    side: Side,
    task: Option<Task>,
}

/// When the agent begins by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initiation {
    /// As soon as it can.
    Eager,
    /// When there is a packet.
    OnDemand,
}

impl<'a> Agent<'a> {
    /// Starts it on `side` with what the case says.
    pub fn start(ground: &'a Ground<'a>, side: Side, case: &Case, initiation: Initiation) -> Result<Self> {
        Self::start_with(ground, side, &manifest(case, side, initiation), SECRET)
    }

    /// Starts it with a manifest and a secret.
    pub fn start_with(ground: &'a Ground<'a>, side: Side, manifest: &str, secret: &str) -> Result<Self> {
        let mut agent = Self {
            ground,
            program: ground.machine().program(PROGRAM)?,
            folder: ground.folder(side),
            side,
            task: None,
        };
        let file = |name: &str, content: &str| (format!("{}/{name}", agent.folder), content.to_owned());
        ground.write(&[
            file("manifests/net.yaml", manifest),
            file("manifests/secrets/net/psk", secret),
            file("sys/empty", ""),
        ])?;
        agent.run()?;
        Ok(agent)
    }

    /// Starts it again after [`Agent::kill`].
    pub fn run(&mut self) -> Result<()> {
        let folder = &self.folder;
        let script = format!(
            "echo $$ >{folder}/pid; RUST_LOG=info,ipsecmesh_agent=debug exec {} --manifests {folder}/manifests \
             --node-name {} --state-dir {folder}/state --run-dir {folder}/run >>{folder}/agent.log 2>&1",
            self.program,
            self.side.name(),
        );
        let namespace = self.ground.namespace(self.side);
        self.task = Some(self.ground.start(&namespace, "agent", &script)?);
        eventually("the agent answers", START, || self.status())
            .map(drop)
            .map_err(|error| Error::observed(format!("{error}\n{}", self.log())))
    }

    /// Replaces its manifest; the agent sees that by itself.
    pub fn configure(&self, manifest: &str) -> Result<()> {
        let path = format!("{}/manifests/net.yaml", self.folder);
        self.ground.write(&[(path, manifest.to_owned())])
    }

    /// `ipsecmesh-agent status`.
    pub fn status(&self) -> Result<serde_json::Value> {
        let text = self.control("status -o json")?;
        serde_json::from_str(&text).map_err(|error| Error::observed(format!("status: {error}: {text}")))
    }

    /// `ipsecmesh-agent rekey`.
    pub fn rekey_child(&self) -> Result<String> {
        self.control("rekey")
    }

    /// `ipsecmesh-agent rekey --ike`.
    pub fn rekey_ike(&self) -> Result<String> {
        self.control("rekey --ike")
    }

    fn control(&self, words: &str) -> Result<String> {
        self.ground
            .script(&format!("{} {words} --run-dir {}/run", self.program, self.folder))
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        let path = quoted(&format!("{}/agent.log", self.folder));
        self.ground
            .script(&format!("tail -n 40 {path} 2>/dev/null || true"))
            .unwrap_or_default()
    }

    /// The crash.
    pub fn kill(&mut self) -> Result<()> {
        self.ground
            .script(&format!("kill -9 $(cat {}/pid)", self.folder))?;
        drop(self.task.take());
        Ok(())
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        if self.task.is_some() {
            // INVARIANT: an agent that is gone needs no end; its namespaces go with the case.
            let _ = self.kill();
        }
    }
}

/// The case as a manifest.
pub fn manifest(case: &Case, side: Side, initiation: Initiation) -> String {
    let other = side.other();
    let (ike, child) = proposals(case.suite, case.protocol);
    let Auth::Psk = case.auth;
    let mut text = format!(
        "apiVersion: ipsecmesh.io/v1alpha1
kind: IPsecTunnel
metadata: {{name: net}}
spec:
  mode: {:?}
  remote:
    type: External
    external:
      address: {}
      identity: {{type: FQDN, value: {}}}
      localIdentity: {{type: FQDN, value: {}}}
  auth: {{type: PSK, psk: {{secretRef: {{name: net, key: psk}}}}}}
  ike:
    proposals: [{ike}]
  childSA:
    initiation: {initiation:?}
    encapsulation: {}
    proposals: [{child}]
",
        case.mode,
        case.seen_from(side),
        identity(other),
        identity(side),
        match (case.path, case.protocol) {
            (Path::ForcedUdp, _) => "Always",
            (_, Protocol::Ah) => "Never",
            (Path::Plain | Path::Nat(_), Protocol::Esp) => "Auto",
        },
    );
    // INVARIANT: writing to a String cannot fail.
    let _ = match case.mode {
        Mode::Transport => writeln!(text, "  traffic: {{type: Host}}"),
        Mode::Tunnel => writeln!(
            text,
            "  traffic: {{type: Custom, selectors: [{{localCIDR: '{}', remoteCIDR: '{}'}}]}}",
            side.network(case.inner_v6),
            other.network(case.inner_v6)
        ),
    };
    if case.protocol == Protocol::Ah {
        text.push_str("  protocol: AH\n");
    }
    text
}

/// Proposals for IKE and CHILD SAs.
fn proposals(suite: Suite, protocol: Protocol) -> (&'static str, &'static str) {
    let (ike, esp, ah) = match suite {
        Suite::Gcm256 => (
            "{encryption: [AES-GCM-16-256], prf: [HMAC-SHA2-384], keyExchange: [X25519]}",
            "{encryption: [AES-GCM-16-256], keyExchange: [X25519]}",
            "{integrity: [HMAC-SHA2-384-192], keyExchange: [X25519]}",
        ),
        Suite::Gcm128 => (
            "{encryption: [AES-GCM-16-128], prf: [HMAC-SHA2-256], keyExchange: [ECP-256]}",
            "{encryption: [AES-GCM-16-128], keyExchange: [ECP-256]}",
            "{integrity: [HMAC-SHA2-256-128], keyExchange: [ECP-256]}",
        ),
    };
    match protocol {
        Protocol::Esp => (ike, esp),
        Protocol::Ah => (ike, ah),
    }
}
