//! strongSwan's charon on one side: its configuration, its life, and what it says.

use std::time::Duration;

use super::{
    case::{Auth, Case, Mode, Path, Protocol, Suite, identity},
    ground::{Ground, Side, quoted},
    proof::Proof,
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
  delete_rekeyed_delay = 1
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
    release: Release,
    folder: String,
    settings: String,
    task: Option<Task>,
    side: Side,
}

/// Which strongSwan.
#[derive(Clone, Debug)]
pub enum Release {
    /// The machine's own.
    Installed,
    /// Of another suite: the folder with its root, as the node sees it.
    Root(String),
}

impl<'a> StrongSwan<'a> {
    /// Starts it on `side` with a configuration in its own language, and with what it proves itself by.
    pub fn start(
        ground: &'a Ground<'a>,
        side: Side,
        release: &Release,
        configuration: &str,
        proof: &Proof,
    ) -> Result<Self> {
        let mut daemon = Self {
            ground,
            release: release.clone(),
            folder: ground.folder(side),
            settings: SETTINGS.to_owned(),
            task: None,
            side,
        };
        daemon.equip(configuration, proof)?;
        daemon.run()?;
        Ok(daemon)
    }

    /// Starts it again after [`StrongSwan::kill`].
    pub fn run(&mut self) -> Result<()> {
        self.write_settings()?;
        let folder = &self.folder;
        // A /run of its own: two daemons would fight over their PID files.
        let start = match &self.release {
            Release::Installed => {
                format!("mount -t tmpfs tmpfs /run && echo $$ >{folder}/pid && exec {DAEMON}")
            }
            Release::Root(root) => format!(
                "mount -t tmpfs tmpfs {root}/run && mount --bind /proc {root}/proc && mount --rbind /dev {root}/dev && \
                 mount --bind /tmp {root}/tmp && echo $$ >{folder}/pid && exec chroot {root} {DAEMON}"
            ),
        };
        let script = format!("rm -f {folder}/vici; export STRONGSWAN_CONF={folder}/strongswan.conf; {start}");
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

    /// Replaces a line of the daemon's settings.
    pub fn set(&mut self, line: &str, by: &str) -> Result<()> {
        self.settings = self.settings.replace(line, by);
        self.write_settings()?;
        self.control("--reload-settings").map(drop)
    }

    fn write_settings(&self) -> Result<()> {
        let settings = self.settings.replace("FOLDER", &self.folder);
        self.ground
            .write(&[(format!("{}/strongswan.conf", self.folder), settings)])
    }

    fn equip(&self, configuration: &str, proof: &Proof) -> Result<()> {
        let file = |name: &str, content: &str| (format!("{}/{name}", self.folder), content.to_owned());
        let mut files = vec![file("swanctl.conf", configuration)];
        if let Proof::Certificate {
            certificate,
            key,
            roots,
        } = proof
        {
            files.extend([
                file("x509/own.pem", certificate),
                file("private/own.pem", key),
                file("x509ca/roots.pem", roots),
            ]);
        }
        self.ground.write(&files)
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
pub fn configuration(case: &Case, side: Side, proof: &Proof) -> String {
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
    let auth = match case.auth {
        Auth::Ecdsa | Auth::Ed25519 | Auth::Rsa => "pubkey",
        Auth::Psk => "psk",
    };
    let (local_id, remote_id) = (identity(side), identity(other));
    let (certificate, secrets) = match proof {
        Proof::Certificate { .. } => ("certs = own.pem\n    ", String::new()),
        Proof::Secret(secret) => (
            "",
            format!(
                "secrets {{ ike-1 {{\n  id-1 = {local_id}\n  id-2 = {remote_id}\n  secret = \"{secret}\"\n}} }}\n"
            ),
        ),
    };
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
    {certificate}auth = {auth}
    id = {local_id}
  }}
  remote {{
    auth = {auth}
    id = {remote_id}
  }}
  children {{ {NAME} {{
    local_ts = {local}
    remote_ts = {remote}
    {child_key} = {child}
    mode = {mode}
  }} }}
}} }}
{secrets}",
        local_address = side.address(case.outer_v6),
        remote_address = case.seen_from(side),
        encap = if case.path == Path::ForcedUdp { "yes" } else { "no" },
    )
}

/// Proposals for IKE and CHILD SAs.
fn proposals(suite: Suite, protocol: Protocol) -> (String, String) {
    let (ike, cipher, integrity, group) = match suite {
        Suite::Cbc => ("aes256-sha256", "aes256-sha256", "sha256", "ecp384"),
        Suite::ChaCha => (
            "chacha20poly1305-prfsha512",
            "chacha20poly1305",
            "sha512",
            "ecp521",
        ),
        Suite::Default => (
            "aes256gcm16-prfsha384-x25519-ke1_mlkem768, aes256gcm16-prfsha384",
            "aes256gcm16",
            "sha384",
            "x25519",
        ),
        Suite::Gcm128 => ("aes128gcm16-prfsha256", "aes128gcm16", "sha256", "ecp256"),
        Suite::Gcm256 => ("aes256gcm16-prfsha384", "aes256gcm16", "sha384", "x25519"),
        Suite::Modp => ("aes128-sha512", "aes128-sha512", "sha512", "modp2048"),
    };
    let child = match protocol {
        Protocol::Ah => integrity,
        Protocol::Esp => cipher,
    };
    (format!("{ike}-{group}"), format!("{child}-{group}-esn"))
}
