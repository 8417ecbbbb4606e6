//! Our agent on one side, without Kubernetes: its manifests, its life, and what it says.

use std::{fmt::Write as _, time::Duration};

use super::{
    case::{Auth, Case, Mode, Path, Protocol, Suite, identity},
    ground::{Ground, Side, quoted},
    proof::Proof,
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
    /// Starts it on `side` with a manifest, and with what it proves itself by.
    pub fn start(ground: &'a Ground<'a>, side: Side, manifest: &str, proof: &Proof) -> Result<Self> {
        let mut agent = Self {
            ground,
            program: ground.machine().program(PROGRAM)?,
            folder: ground.folder(side),
            side,
            task: None,
        };
        agent.equip(proof)?;
        agent.configure(manifest)?;
        agent.run()?;
        Ok(agent)
    }

    /// Replaces what it proves itself by; the agent sees that by itself.
    pub fn equip(&self, proof: &Proof) -> Result<()> {
        let file =
            |name: &str, content: &str| (format!("{}/manifests/{name}", self.folder), content.to_owned());
        let files = match proof {
            Proof::Certificate {
                certificate,
                key,
                roots,
            } => vec![
                file("certificates/default/tls.crt", certificate),
                file("certificates/default/tls.key", key),
                file("certificates/default/ca.crt", roots),
            ],
            Proof::Secret(secret) => vec![file("secrets/net/psk", secret)],
        };
        self.ground.write(&files)
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

    /// `ipsecmesh-agent down`.
    pub fn down(&self) -> Result<String> {
        self.control("down net")
    }

    /// `ipsecmesh-agent up`.
    pub fn up(&self) -> Result<String> {
        self.control("up net")
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
    let (mut ike, mut child) = (String::new(), String::new());
    if let Some(proposals) = proposals(case.suite, case.protocol) {
        ike = format!("  ike:\n    proposals: [{}]\n", proposals.0);
        child = format!("    proposals: [{}]\n", proposals.1);
    }
    let (authority, auth) = match case.auth {
        Auth::Ecdsa | Auth::Ed25519 | Auth::Rsa => (AUTHORITY, "{type: Certificate}"),
        Auth::Psk => ("", "{type: PSK, psk: {secretRef: {name: net, key: psk}}}"),
    };
    let mut text = format!(
        "{authority}apiVersion: ipsecmesh.io/v1alpha1
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
  auth: {auth}
{ike}  childSA:
    initiation: {initiation:?}
    encapsulation: {}
{child}",
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
fn proposals(suite: Suite, protocol: Protocol) -> Option<(String, String)> {
    let (cipher, integrity, prf, group) = match suite {
        Suite::Cbc => ("AES-CBC-256", "HMAC-SHA2-256-128", "HMAC-SHA2-256", "ECP-384"),
        Suite::ChaCha => (
            "ChaCha20-Poly1305",
            "HMAC-SHA2-512-256",
            "HMAC-SHA2-512",
            "ECP-521",
        ),
        Suite::Default => return None,
        Suite::Gcm128 => ("AES-GCM-16-128", "HMAC-SHA2-256-128", "HMAC-SHA2-256", "ECP-256"),
        Suite::Gcm256 => ("AES-GCM-16-256", "HMAC-SHA2-384-192", "HMAC-SHA2-384", "X25519"),
        Suite::Modp => ("AES-CBC-128", "HMAC-SHA2-512-256", "HMAC-SHA2-512", "MODP-2048"),
    };
    let encryption = match suite {
        Suite::Cbc | Suite::Modp => format!("encryption: [{cipher}], integrity: [{integrity}]"),
        Suite::ChaCha | Suite::Default | Suite::Gcm128 | Suite::Gcm256 => format!("encryption: [{cipher}]"),
    };
    let child = match protocol {
        Protocol::Ah => format!("integrity: [{integrity}]"),
        Protocol::Esp => encryption.clone(),
    };
    Some((
        format!("{{{encryption}, prf: [{prf}], keyExchange: [{group}]}}"),
        format!("{{{child}, keyExchange: [{group}]}}"),
    ))
}

const AUTHORITY: &str = "apiVersion: ipsecmesh.io/v1alpha1
kind: IPsecAuthority
metadata: {name: default}
spec: {}
---
";
