//! The kernel's world: a network namespace of the calling thread's own, and `ip` as the other owner.
//! The namespace ends with the thread, so nothing is left behind.

use std::net::{IpAddr, UdpSocket};
use std::process::Command;

use ipsecmesh_dataplane::{Direction, PolicyKey};
use ipsecmesh_ike::{SaName, SaProtocol};
use nix::sched::{CloneFlags, unshare};

use super::suite::{Ability, PORT, World, here, spi, there};

/// A network namespace with a route to the other host.
pub(crate) struct Linux {
    /// The kernel's words where it takes no SA.
    without_esp: Option<String>,
}

impl Linux {
    /// Moves the calling thread into a new namespace. Needs root.
    pub(crate) fn enter() -> Result<Self, String> {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|error| format!("a new network namespace needs root: {error}"))?;
        ip("link set lo up")?;
        ip("link add suite0 type veth peer name suite1")?;
        ip(&format!("address add {}/24 dev suite0", here()))?;
        ip("link set suite0 up")?;
        ip("link set suite1 up")?;
        ip(&format!(
            "neighbour add {} lladdr 02:00:00:00:00:02 dev suite0",
            there()
        ))?;
        let mut linux = Self { without_esp: None };
        let trial = SaName {
            protocol: SaProtocol::Esp,
            spi: spi(0x1950_0200),
            source: here(),
            destination: there(),
        };
        linux.without_esp = linux.add_foreign_sa(trial).err();
        if linux.without_esp.is_none() {
            linux.remove_foreign_sa(trial)?;
        }
        Ok(linux)
    }
}

impl World for Linux {
    fn add_foreign_policy(&self, key: PolicyKey) -> Result<(), String> {
        ip(&format!(
            "xfrm policy add {} priority 500 action allow",
            policy(key)
        ))
    }

    fn remove_foreign_policy(&self, key: PolicyKey) -> Result<(), String> {
        ip(&format!("xfrm policy delete {}", policy(key)))
    }

    fn add_foreign_sa(&self, name: SaName) -> Result<(), String> {
        let key = "0x".to_owned() + &"5a".repeat(20);
        ip(&format!(
            "xfrm state add {} reqid 7 mode transport aead rfc4106(gcm(aes)) {key} 128",
            sa(name)
        ))
    }

    fn remove_foreign_sa(&self, name: SaName) -> Result<(), String> {
        ip(&format!("xfrm state delete {}", sa(name)))
    }

    fn send(&self, source: IpAddr, destination: IpAddr) -> Result<(), String> {
        let socket = UdpSocket::bind((source, 0)).map_err(|error| format!("bind to {source}: {error}"))?;
        // A blocked packet may be reported or swallowed: both are right.
        drop(socket.send_to(b"x", (destination, PORT)));
        Ok(())
    }

    fn lacks(&self, _ability: Ability) -> Option<String> {
        self.without_esp.clone()
    }
}

fn policy(key: PolicyKey) -> String {
    let direction = match key.direction {
        Direction::Inbound => "in",
        Direction::Outbound => "out",
        Direction::Forward => "fwd",
    };
    let selector = key.selector;
    format!(
        "src {}/{} dst {}/{} proto udp dport {PORT} dir {direction}",
        selector.source.address,
        selector.source.length,
        selector.destination.address,
        selector.destination.length
    )
}

fn sa(name: SaName) -> String {
    format!(
        "src {} dst {} proto esp spi 0x{}",
        name.source, name.destination, name.spi
    )
}

/// Runs `ip` in the calling thread's network namespace.
pub(crate) fn ip(arguments: &str) -> Result<(), String> {
    run("ip", arguments)
}

/// Runs a program of Debian's package iproute2.
pub(crate) fn run(program: &str, arguments: &str) -> Result<(), String> {
    let output = Command::new(program).args(arguments.split(' ')).output();
    let output = output.map_err(|error| format!("run {program} (Debian package iproute2): {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{program} {arguments}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}
