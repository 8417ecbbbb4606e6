//! libreswan's pluto of another Debian suite on one side: its configuration, its life, and what it says.

use std::time::Duration;

use super::{
    case::{Auth, Case, Mode, Path, Protocol, Suite, identity},
    ground::{Ground, Side, quoted},
    proof::Proof,
    task::Task,
};
use crate::error::{Error, Result, eventually};

/// Name of the connection.
const NAME: &str = "net";
const DAEMON: &str = "/usr/libexec/ipsec/pluto";
const START: Duration = Duration::from_secs(30);

/// A running pluto. Dropping it ends it.
#[derive(Debug)]
pub struct Libreswan<'a> {
    ground: &'a Ground<'a>,
    root: String,
    folder: String,
    side: Side,
    task: Option<Task>,
}

impl<'a> Libreswan<'a> {
    /// Starts it on `side` from `root`, a folder as the node sees it, with what the case says.
    pub fn start(ground: &'a Ground<'a>, side: Side, root: &str, case: Case, proof: &Proof) -> Result<Self> {
        let mut daemon = Self {
            ground,
            root: root.to_owned(),
            folder: ground.folder(side),
            side,
            task: None,
        };
        daemon.equip(case, proof)?;
        daemon.run()?;
        daemon.control(&format!("add --config {}/ipsec.conf {NAME}", daemon.folder))?;
        Ok(daemon)
    }

    /// Begins the exchanges, and waits for their outcome.
    pub fn initiate(&self) -> Result<String> {
        self.control(&format!("up {NAME}"))
    }

    /// Replaces the CHILD SAs.
    pub fn rekey_child(&self) -> Result<String> {
        self.control(&format!("whack --rekey-child --name {NAME}"))
    }

    /// Replaces the IKE SA.
    pub fn rekey_ike(&self) -> Result<String> {
        self.control(&format!("whack --rekey-ike --name {NAME}"))
    }

    /// Waits for CHILD SAs, and tells the algorithms of both kinds of SAs.
    pub fn established(&self, limit: Duration) -> Result<String> {
        eventually("pluto has SAs", limit, || {
            let states = self.control("whack --showstates")?;
            if !states.contains("ESTABLISHED_CHILD_SA") {
                return Err(Error::observed(format!("{states}\n{}", self.log())));
            }
            let log = self.whole_log()?;
            let agreed = |what: &str| {
                let line = log.lines().rev().find(|line| line.contains(what));
                line.and_then(|line| line.split_once('{'))
                    .map_or(String::new(), |(_, rest)| format!("{{{rest}"))
            };
            Ok(format!("{} {}", agreed("IKE SA"), agreed("Child SA")))
        })
    }

    /// One of the commands of `ipsec`.
    pub fn control(&self, words: &str) -> Result<String> {
        // Its sockets are in its own /run.
        self.ground.script(&format!(
            "nsenter -t $(cat {}/pid) -m -n -r -w /usr/sbin/ipsec {words} 2>&1",
            self.folder
        ))
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        let path = quoted(&format!("{}/pluto.log", self.folder));
        self.ground
            .script(&format!("tail -n 40 {path} 2>/dev/null || true"))
            .unwrap_or_default()
    }

    fn whole_log(&self) -> Result<String> {
        self.ground.script(&format!("cat {}/pluto.log", self.folder))
    }

    fn equip(&self, case: Case, proof: &Proof) -> Result<()> {
        let file = |name: &str, content: &str| (format!("{}/{name}", self.folder), content.to_owned());
        let mut files = vec![file("ipsec.conf", &configuration(case, self.side, &self.folder)?)];
        let mut store = format!(
            "mkdir -p {0}/nss && chroot {1} ipsec initnss --nssdir {0}/nss",
            self.folder, self.root
        );
        match proof {
            Proof::Certificate {
                certificate,
                key,
                roots,
            } => {
                files.extend([
                    file("own.pem", certificate),
                    file("own.key", key),
                    file("roots.pem", roots),
                    file("ipsec.secrets", ""),
                ]);
                store = format!(
                    "{store} && cd {0} && openssl pkcs12 -export -in own.pem -inkey own.key -name own -passout pass: \
                     -out own.p12 && chroot {1} pk12util -i {0}/own.p12 -d sql:{0}/nss -W '' && \
                     chroot {1} certutil -A -n roots -t CT,, -i {0}/roots.pem -d sql:{0}/nss",
                    self.folder, self.root
                );
            }
            Proof::Secret(secret) => {
                let (own, other) = (identity(self.side), identity(self.side.other()));
                files.push(file(
                    "ipsec.secrets",
                    &format!("@{own} @{other} : PSK \"{secret}\"\n"),
                ));
            }
        }
        self.ground.write(&files)?;
        let inside = format!("{} && {store}", self.mounts());
        self.ground
            .script(&format!(
                "unshare -m --propagation private sh -c {}",
                quoted(&inside)
            ))
            .map(drop)
    }

    fn run(&mut self) -> Result<()> {
        let folder = &self.folder;
        let script = format!(
            "{} && mkdir -p {root}/run/pluto && echo $$ >{folder}/pid && exec chroot {root} {DAEMON} --config {folder}/ipsec.conf \
             --secretsfile {folder}/ipsec.secrets --nofork",
            self.mounts(),
            root = self.root,
        );
        let namespace = self.ground.namespace(self.side);
        self.task = Some(self.ground.start(&namespace, "pluto", &script)?);
        eventually("pluto answers", START, || self.control("whack --briefstatus"))
            .map(drop)
            .map_err(|error| Error::observed(format!("{error}\n{}", self.log())))
    }

    /// What a root needs, in a mount namespace of its own.
    fn mounts(&self) -> String {
        let root = &self.root;
        format!(
            "mount -t tmpfs tmpfs {root}/run && mount --bind /proc {root}/proc && mount --rbind /dev {root}/dev && \
             mount --bind /tmp {root}/tmp"
        )
    }

    fn kill(&mut self) -> Result<()> {
        self.ground
            .script(&format!("kill -9 $(cat {}/pid)", self.folder))?;
        drop(self.task.take());
        Ok(())
    }
}

impl Drop for Libreswan<'_> {
    fn drop(&mut self) {
        if self.task.is_some() {
            // INVARIANT: a daemon that is gone needs no end; its namespaces go with the case.
            let _ = self.kill();
        }
    }
}

/// The case in the language of `ipsec.conf`; `left` is always the daemon's own end there.
fn configuration(case: Case, side: Side, folder: &str) -> Result<String> {
    let other = side.other();
    let certificate =
        |kind: &str| format!("authby={kind}\n  leftcert=own\n  leftsendcert=always\n  rightca=%same");
    let auth = match case.auth {
        Auth::Ecdsa => certificate("ecdsa-sha2"),
        Auth::Ed25519 => return Err(Error::observed("pluto has no Ed25519")),
        Auth::Psk => "authby=secret".to_owned(),
        Auth::Rsa => certificate("rsa-sha2"),
    };
    let (ike, esp) = match case.suite {
        Suite::Cbc => ("aes_cbc256-sha2_256;dh20", "aes_cbc256-sha2_256;dh20"),
        Suite::ChaCha => ("chacha20_poly1305-sha2_512;dh21", "chacha20_poly1305;dh21"),
        Suite::Gcm128 => ("aes_gcm128-sha2_256;dh19", "aes_gcm128;dh19"),
        Suite::Default | Suite::Gcm256 => ("aes_gcm256-sha2_384;dh31", "aes_gcm256;dh31"),
        Suite::Modp => ("aes_cbc128-sha2_512;dh14", "aes_cbc128-sha2_512;dh14"),
    };
    let (mode, networks) = match case.mode {
        Mode::Transport => ("transport", String::new()),
        Mode::Tunnel => (
            "tunnel",
            format!(
                "  leftsubnet={}\n  rightsubnet={}\n",
                side.network(case.inner_v6),
                other.network(case.inner_v6)
            ),
        ),
    };
    let encapsulation = match (case.protocol, case.path) {
        (Protocol::Ah, _) => return Err(Error::observed("pluto's AH is not driven here")),
        (Protocol::Esp, Path::Plain) => "no",
        (Protocol::Esp, Path::Nat(_)) => "auto",
        (Protocol::Esp, Path::ForcedUdp) => "yes",
    };
    Ok(format!(
        "config setup
  logfile={folder}/pluto.log
  nssdir={folder}/nss
  dnssec-enable=no
conn {NAME}
  left={local}
  leftid=@{local_id}
  right={remote}
  rightid=@{remote_id}
{networks}  {auth}
  type={mode}
  keyexchange=ikev2
  ike={ike}
  esp={esp}
  esn=yes
  mobike=no
  encapsulation={encapsulation}
  auto=ignore
",
        local = side.address(case.outer_v6),
        remote = case.seen_from(side),
        local_id = identity(side),
        remote_id = identity(other),
    ))
}
