//! What the router between two hosts saw of them, by kind.

use std::{fmt, time::Duration};

use super::{
    ground::{Ground, Side},
    task::Task,
};
use crate::error::{Error, Result, eventually};

/// A running look at the wire.
#[derive(Debug)]
pub struct Watch {
    task: Task,
}

/// How many packets of which kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// ESP as its own protocol.
    pub esp: usize,
    /// ESP in UDP.
    pub udp: usize,
    /// AH.
    pub ah: usize,
    /// IKE, on any port.
    pub ike: usize,
    /// What anyone could read or forge, up to four examples.
    pub clear: Vec<String>,
}

impl Watch {
    /// Looks at the router's device towards `side`.
    pub fn start(ground: &Ground<'_>, side: Side) -> Result<Self> {
        let script = format!("exec tcpdump -nn -l -p --immediate-mode -i {}", side.name());
        let task = ground.start(&ground.middle(), "tcpdump", &script)?;
        task.wait_for("listening on", Duration::from_secs(10))?;
        Ok(Self { task })
    }

    /// What has passed so far.
    pub fn seen(&self) -> Seen {
        Seen::read(&self.task.said())
    }

    /// Ends it.
    pub fn stop(self) -> Seen {
        Seen::read(&self.task.stop())
    }

    /// Ends it when enough was seen, which may be told late, and judges it.
    pub fn stop_with(self, protection: Protection, at_least: usize) -> Result<Seen> {
        // What is missing then is said by the judgement.
        let _ = eventually("enough packets", Duration::from_secs(3), || {
            self.seen().expect(protection, at_least)
        });
        let seen = self.stop();
        seen.expect(protection, at_least).map(|()| seen)
    }
}

impl Seen {
    /// Reads tcpdump's lines.
    fn read(text: &str) -> Self {
        let mut seen = Self::default();
        let packets = text
            .lines()
            .filter(|line| line.contains(" IP ") || line.contains(" IP6 "));
        for line in packets {
            if line.contains("UDP-encap: ESP(") {
                seen.udp += 1;
            } else if line.contains(": AH(") {
                seen.ah += 1;
            } else if line.contains(": ESP(") {
                seen.esp += 1;
            } else if line.contains("isakmp") || line.contains(": frag (") {
                seen.ike += 1;
            } else if !housekeeping(line) {
                seen.clear.push(line.to_owned());
            }
        }
        seen
    }

    /// Fails unless all traffic was protected as expected, and enough of it was.
    pub fn expect(&self, protection: Protection, at_least: usize) -> Result<()> {
        let counts = [
            (Protection::Esp, self.esp),
            (Protection::Udp, self.udp),
            (Protection::Ah, self.ah),
        ];
        let wrong = counts.iter().any(|(kind, count)| {
            if *kind == protection {
                *count < at_least
            } else {
                *count > 0
            }
        });
        if wrong || !self.clear.is_empty() {
            return Err(Error::observed(format!(
                "on the wire: {self}; expected at least {at_least} packets of {protection:?} and nothing else"
            )));
        }
        Ok(())
    }
}

/// How traffic is protected on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// ESP as its own protocol.
    Esp,
    /// ESP in UDP port 4500.
    Udp,
    /// AH.
    Ah,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ESP, {} ESP in UDP, {} AH, {} IKE, {} in clear",
            self.esp,
            self.udp,
            self.ah,
            self.ike,
            self.clear.len()
        )?;
        for line in self.clear.iter().take(4) {
            write!(f, " [{line}]")?;
        }
        Ok(())
    }
}

/// Neighbour discovery and multicast membership: they find the router and carry nobody's data.
fn housekeeping(line: &str) -> bool {
    ["neighbor", "multicast", "router solicitation", "igmp"]
        .iter()
        .any(|word| line.contains(word))
        || line.contains("HBH ICMP6")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_packet_has_a_kind() {
        let seen = Seen::read(
            "listening on right, link-type EN10MB\n\
             17:00:00.1 IP 192.0.2.2.500 > 198.51.100.2.500: isakmp: parent_sa ikev2_init[I]\n\
             17:00:00.2 IP 192.0.2.2.4500 > 198.51.100.2.4500: NONESP-encap: isakmp: parent_sa\n\
             17:00:00.3 IP 192.0.2.2 > 198.51.100.2: ESP(spi=0xc1,seq=0x1), length 104\n\
             17:00:00.4 IP 192.0.2.2.4500 > 198.51.100.2.4500: UDP-encap: ESP(spi=0xc1,seq=0x1), length 104\n\
             17:00:00.5 IP6 2001:db8:1::2 > 2001:db8:2::2: AH(spi=0xc1,sumlen=16,seq=0x1): ICMP6, echo request\n\
             17:00:00.6 IP6 fe80::1 > ff02::1:ff00:2: ICMP6, neighbor solicitation, who has 2001:db8:2::2\n\
             17:00:00.7 IP 192.0.2.2 > 198.51.100.2: ICMP echo request, id 1, seq 1, length 64\n\
             17:00:00.8 ARP, Request who-has 198.51.100.2 tell 198.51.100.1, length 28\n",
        );
        assert_eq!((seen.esp, seen.udp, seen.ah, seen.ike), (1, 1, 1, 2));
        assert_eq!(seen.clear.len(), 1);
        assert!(seen.expect(Protection::Esp, 1).is_err());
    }
}
