//! strongSwan's charon on one side: its configuration, its life, and what it says.

use std::time::Duration;

use super::{
    case::{Auth, Case, Mode, Path, Protocol, SECRET, Suite, identity},
    ground::{Ground, Side, quoted},
    task::Task,
};
use crate::error::{Error, Result, eventually};

/// Name of the connection and of its only child.
const NAME: &str = "net";
/// The daemon that logs to a file and needs no systemd.
const DAEMON: &str = "/usr/sbin/charon-systemd";
/// From the start of the process to its control socket.
const START: Duration = Duration::from_secs(20);

const SETTINGS: &str = "charon {
  load = random nonce openssl aes sha2 sha1 hmac gcm chapoly kdf curve25519 gmp drbg pem pkcs1 pkcs8 x509 pubkey revocation constraints kernel-netlink socket-default vici updown
  install_routes = no
  retransmit_timeout = 1
  retransmit_base = 1.5
  retransmit_tries = 4
  make_before_break = yes
  rsa_pss = yes
  plugins {
    vici { socket = unix://FOLDER/vici }
  }
  filelog {
    log {
      path = FOLDER/charon.log
      default = 1
      ike = 2
      cfg = 2
      flush_line = yes
      append = yes
    }
  }
}
";

/// A running charon. Dropping it ends it.
#[derive(Debug)]
pub struct StrongSwan<'a> {
    ground: &'a Ground<'a>,
    folder: String,
    task: Option<Task>,
    side: Side,
}

impl<'a> StrongSwan<'a> {
    /// Starts it on `side` with what the case says.
    pub fn start(ground: &'a Ground<'a>, side: Side, case: &Case) -> Result<Self> {
        Self::start_with(ground, side, &configuration(case, side))
    }

    /// Starts it with a configuration in its own language.
    pub fn start_with(ground: &'a Ground<'a>, side: Side, configuration: &str) -> Result<Self> {
        let mut daemon = Self {
            ground,
            folder: ground.folder(side),
            task: None,
            side,
        };
        let file = |name: &str, content: &str| (format!("{}/{name}", daemon.folder), content.to_owned());
        ground.write(&[
            file("strongswan.conf", &SETTINGS.replace("FOLDER", &daemon.folder)),
            file("swanctl.conf", configuration),
            file("run/empty", ""),
        ])?;
        daemon.run()?;
        Ok(daemon)
    }

    /// Starts it again after [`StrongSwan::kill`].
    pub fn run(&mut self) -> Result<()> {
        let folder = &self.folder;
        // A folder of its own as /run: two daemons would fight over their PID files.
        let script = format!(
            "rm -f {folder}/vici; mount --bind {folder}/run /run && echo $$ >{folder}/pid && \
             STRONGSWAN_CONF={folder}/strongswan.conf exec {DAEMON}"
        );
        let namespace = self.ground.namespace(self.side);
        let task = self.ground.start(&namespace, "charon", &script)?;
        self.task = Some(task);
        let wait = format!(
            "i=0; until [ -S {folder}/vici ]; do i=$((i+1)); [ $i -lt {} ] || exit 1; sleep 0.1; done",
            START.as_secs() * 10
        );
        self.ground
            .script(&wait)
            .and_then(|_| self.load())
            .map_err(|error| Error::observed(format!("charon did not start: {error}\n{}", self.log())))
    }

    /// Replaces the configuration of the running daemon.
    pub fn configure(&self, configuration: &str) -> Result<()> {
        let path = format!("{}/swanctl.conf", self.folder);
        self.ground.write(&[(path, configuration.to_owned())])?;
        self.load()
    }

    fn load(&self) -> Result<()> {
        let file = format!("--file {}/swanctl.conf", self.folder);
        self.control(&format!("--load-all --noprompt {file}")).map(drop)
    }

    /// Begins the exchanges, and waits for their outcome.
    pub fn initiate(&self) -> Result<String> {
        self.control(&format!("--initiate --child {NAME} --timeout 15"))
    }

    /// Replaces the CHILD SAs.
    pub fn rekey_child(&self) -> Result<String> {
        self.control(&format!("--rekey --child {NAME}"))
    }

    /// Replaces the IKE SA.
    pub fn rekey_ike(&self) -> Result<String> {
        self.control(&format!("--rekey --ike {NAME}"))
    }

    /// Authenticates anew.
    pub fn reauthenticate(&self) -> Result<String> {
        self.control(&format!("--rekey --reauth --ike {NAME}"))
    }

    /// Deletes the CHILD SAs.
    pub fn delete_child(&self) -> Result<String> {
        self.control(&format!("--terminate --child {NAME} --timeout 10"))
    }

    /// Deletes the IKE SA.
    pub fn delete_ike(&self) -> Result<String> {
        self.control(&format!("--terminate --ike {NAME} --timeout 10"))
    }

    /// What it knows of its SAs.
    pub fn sas(&self) -> Result<String> {
        self.control("--list-sas")
    }

    /// One of `swanctl`'s commands.
    pub fn control(&self, arguments: &str) -> Result<String> {
        let folder = &self.folder;
        self.ground.script(&format!(
            "SWANCTL_DIR={folder} STRONGSWAN_CONF={folder}/strongswan.conf swanctl {arguments} --uri unix://{folder}/vici 2>&1"
        ))
    }

    /// Waits for one installed CHILD SA, and tells what was agreed on.
    pub fn established(&self, limit: Duration) -> Result<Agreed> {
        eventually("charon has SAs", limit, || {
            let sas = self.sas()?;
            Agreed::read(&sas).ok_or_else(|| Error::observed(format!("{sas}\n{}", self.log())))
        })
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        let path = quoted(&format!("{}/charon.log", self.folder));
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

impl Drop for StrongSwan<'_> {
    fn drop(&mut self) {
        if self.task.is_some() {
            // INVARIANT: a daemon that is gone needs no end; its namespaces go with the case.
            let _ = self.kill();
        }
    }
}

/// What charon says of its SAs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Algorithms of the IKE SA.
    pub ike: String,
    /// Mode, protocol and algorithms of the CHILD SA.
    pub child: String,
    /// IKE SAs that are established.
    pub ike_sas: usize,
    /// CHILD SAs that are installed.
    pub child_sas: usize,
}

impl Agreed {
    /// Reads `swanctl --list-sas`.
    fn read(text: &str) -> Option<Self> {
        let lines = || text.lines().map(str::trim);
        let installed: Vec<&str> = lines().filter(|line| line.contains(", INSTALLED, ")).collect();
        let ike_sas = lines().filter(|line| line.contains(", ESTABLISHED, ")).count();
        let (_, child) = installed.first()?.split_once(", INSTALLED, ")?;
        let is_proposal = |line: &&str| line.contains("/PRF_") || line.contains("PRF_HMAC");
        Some(Self {
            ike: lines().find(is_proposal)?.to_owned(),
            child: child.to_owned(),
            ike_sas,
            child_sas: installed.len(),
        })
    }
}

/// The case in the language of `swanctl.conf`.
pub fn configuration(case: &Case, side: Side) -> String {
    let other = side.other();
    let (local, remote) = match case.mode {
        Mode::Transport => ("dynamic".to_owned(), "dynamic".to_owned()),
        Mode::Tunnel => (side.network(case.inner_v6), other.network(case.inner_v6)),
    };
    let (child_key, mode) = (
        match case.protocol {
            Protocol::Esp => "esp_proposals",
            Protocol::Ah => "ah_proposals",
        },
        match case.mode {
            Mode::Transport => "transport",
            Mode::Tunnel => "tunnel",
        },
    );
    let (ike, child) = proposals(case.suite, case.protocol);
    let Auth::Psk = case.auth;
    format!(
        "connections {{ {NAME} {{
  version = 2
  local_addrs = {local_address}
  remote_addrs = {remote_address}
  proposals = {ike}
  encap = {encap}
  mobike = no
  dpd_delay = 10s
  local {{
    auth = psk
    id = {local_id}
  }}
  remote {{
    auth = psk
    id = {remote_id}
  }}
  children {{ {NAME} {{
    local_ts = {local}
    remote_ts = {remote}
    {child_key} = {child}
    mode = {mode}
  }} }}
}} }}
secrets {{ ike-1 {{
  id-1 = {local_id}
  id-2 = {remote_id}
  secret = \"{SECRET}\"
}} }}
",
        local_address = side.address(case.outer_v6),
        remote_address = case.seen_from(side),
        encap = if case.path == Path::ForcedUdp { "yes" } else { "no" },
        local_id = identity(side),
        remote_id = identity(other),
    )
}

/// Proposals for IKE and CHILD SAs.
fn proposals(suite: Suite, protocol: Protocol) -> (&'static str, &'static str) {
    let (ike, esp, ah) = match suite {
        Suite::Gcm256 => (
            "aes256gcm16-prfsha384-x25519",
            "aes256gcm16-x25519-esn",
            "sha384-x25519-esn",
        ),
        Suite::Gcm128 => (
            "aes128gcm16-prfsha256-ecp256",
            "aes128gcm16-ecp256-esn",
            "sha256-ecp256-esn",
        ),
    };
    match protocol {
        Protocol::Esp => (ike, esp),
        Protocol::Ah => (ike, ah),
    }
}
