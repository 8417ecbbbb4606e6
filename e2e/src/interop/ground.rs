//! The ground that a case stands on: three namespaces in a row, fresh for each case.
//!
//! ```text
//! left 192.0.2.2 ── 192.0.2.1 middle 198.51.100.1 ── 198.51.100.2 right
//! ```
//!
//! The middle is a router, and a NAT where a case asks for one; what it sees is what is on the wire.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicU32, Ordering},
};

use super::task::Task;
use crate::{
    error::{Context, Error, Result},
    lab::machine::Machine,
    node_channel::{NodeChannel, Output},
    protocol::Exec,
};

/// Folder on the node with everything that the cases write.
const ROOT: &str = "/tmp/interop";

static NUMBER: AtomicU32 = AtomicU32::new(1);

/// One of the two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// 192.0.2.2.
    Left,
    /// 198.51.100.2.
    Right,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Left, Self::Right];

    /// The one opposite.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Right => "right",
        }
    }

    /// Its address towards the middle.
    pub fn address(self, v6: bool) -> IpAddr {
        self.on_link(v6, 2)
    }

    /// The middle's address towards it, which is what a NAT shows of the other side.
    pub fn gateway(self, v6: bool) -> IpAddr {
        self.on_link(v6, 1)
    }

    /// An address behind it, which only tunnel mode carries.
    pub fn inner(self, v6: bool) -> IpAddr {
        let number = self.number();
        if v6 {
            Ipv6Addr::new(0xfd00, 0xa, number, 0, 0, 0, 0, 1).into()
        } else {
            Ipv4Addr::new(10, 1, u8::try_from(number).unwrap_or_default(), 1).into()
        }
    }

    /// The network behind it.
    pub fn network(self, v6: bool) -> String {
        let number = self.number();
        if v6 {
            format!("fd00:a:{number}::/64")
        } else {
            format!("10.1.{number}.0/24")
        }
    }

    fn number(self) -> u16 {
        match self {
            Self::Left => 1,
            Self::Right => 2,
        }
    }

    fn on_link(self, v6: bool, host: u16) -> IpAddr {
        let number = self.number();
        match (self, v6) {
            (_, true) => Ipv6Addr::new(0x2001, 0xdb8, number, 0, 0, 0, 0, host).into(),
            (Self::Left, false) => Ipv4Addr::from_octets([192, 0, 2, host.to_be_bytes()[1]]).into(),
            (Self::Right, false) => Ipv4Addr::from_octets([198, 51, 100, host.to_be_bytes()[1]]).into(),
        }
    }
}

/// Fresh namespaces for one case.
#[derive(Debug)]
pub struct Ground<'a> {
    machine: &'a Machine,
    number: u32,
}

impl<'a> Ground<'a> {
    /// Makes the namespaces; `hidden` says which side stands behind a NAT.
    pub fn prepare(machine: &'a Machine, hidden: Option<Side>) -> Result<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let ground = Self { machine, number };
        ground.script(&ground.plan(hidden))?;
        Ok(ground)
    }

    /// The machine that it is on.
    pub fn machine(&self) -> &Machine {
        self.machine
    }

    /// Name of the namespace of a side.
    pub fn namespace(&self, side: Side) -> String {
        format!("{}-{}", side.name(), self.number)
    }

    /// Name of the namespace in the middle.
    pub fn middle(&self) -> String {
        format!("middle-{}", self.number)
    }

    /// A folder of a side on the node.
    pub fn folder(&self, side: Side) -> String {
        format!("{ROOT}/{}/{}", self.number, side.name())
    }

    /// Runs a shell script on the node; its standard output is the result.
    pub fn script(&self, script: &str) -> Result<String> {
        run(self.machine.node().channel(), script)
    }

    /// Runs a shell script in the namespace of a side.
    pub fn on(&self, side: Side, script: &str) -> Result<String> {
        self.script(&inside(&self.namespace(side), script))
    }

    /// Starts a shell script in a namespace.
    pub fn start(&self, namespace: &str, name: &str, script: &str) -> Result<Task> {
        Task::start(self.machine.node().channel(), name, &inside(namespace, script))
    }

    /// Writes files on the node, readable by root only.
    pub fn write(&self, files: &[(String, String)]) -> Result<()> {
        let mut script = "umask 077\n".to_owned();
        for (path, content) in files {
            let folder = path.rsplit_once('/').map_or("/", |(folder, _)| folder);
            let _ = writeln!(
                script,
                "[ -d {folder} ] || mkdir -p {folder}\nprintf %s {} >{path}.new && mv {path}.new {path}",
                quoted(content)
            );
        }
        self.script(&script).map(drop)
    }

    fn plan(&self, hidden: Option<Side>) -> String {
        let middle = self.middle();
        let mut script = format!(
            "set -e\nmkdir -p /run/netns\nip netns add {middle}\n\
             ip netns exec {middle} sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding'\n"
        );
        for side in Side::BOTH {
            let (name, namespace) = (side.name(), self.namespace(side));
            let _ = write!(
                script,
                "ip netns add {namespace}\n\
                 ip -n {middle} -batch - <<'END'\n\
                 link add {name} type veth peer name eth0 netns {namespace}\n\
                 address add {}/24 dev {name}\naddress add {}/64 dev {name} nodad\nlink set {name} up\nEND\n\
                 ip -n {namespace} -batch - <<'END'\n\
                 link set lo up\naddress add {}/24 dev eth0\naddress add {}/64 dev eth0 nodad\nlink set eth0 up\n\
                 address add {}/32 dev lo\naddress add {}/128 dev lo nodad\n\
                 route add default via {}\nroute add default via {} dev eth0\nEND\n",
                side.gateway(false),
                side.gateway(true),
                side.address(false),
                side.address(true),
                side.inner(false),
                side.inner(true),
                side.gateway(false),
                side.gateway(true),
            );
        }
        if let Some(hidden) = hidden {
            let _ = writeln!(
                script,
                "ip netns exec {middle} iptables-legacy -t nat -A POSTROUTING -s {} -o {} -j MASQUERADE",
                hidden.address(false),
                hidden.other().name()
            );
        }
        script
    }
}

impl Drop for Ground<'_> {
    fn drop(&mut self) {
        let names = [
            self.namespace(Side::Left),
            self.namespace(Side::Right),
            self.middle(),
        ];
        // INVARIANT: the kernel ends with the trials; what is left of a case disturbs no other one.
        let _ = self.script(&format!(
            "for n in {}; do ip netns delete $n; done",
            names.join(" ")
        ));
    }
}

/// A script as one word of the shell's.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn inside(namespace: &str, script: &str) -> String {
    format!("exec ip netns exec {namespace} sh -c {}", quoted(script))
}

fn run(channel: &NodeChannel, script: &str) -> Result<String> {
    let exec = Exec {
        argv: vec!["sh".to_owned(), "-s".to_owned()],
        stdin: Some(script.to_owned()),
        ..Exec::default()
    };
    let Output { code, stdout, stderr } = channel
        .exec(exec)
        .context(|| format!("on the node: {}", first_line(script)))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if code == 0 {
        return Ok(text(&stdout));
    }
    Err(Error::Command {
        command: first_line(script),
        status: format!("exit code {code}"),
        output: format!("{}{}", text(&stdout), text(&stderr)),
    })
}

/// Enough of a script to know it again.
fn first_line(script: &str) -> String {
    script.chars().take(400).collect()
}
