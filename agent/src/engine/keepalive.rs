//! Where a NAT lies at our end and the data plane does not keep its mapping open by itself, the agent does: one byte from
//! UDP 4500 when nothing was sent for a while (RFC 3948 §2.3, §4).

use std::net::SocketAddr;
use std::time::Duration;

use ipsecmesh_dataplane::DataPlane;
use ipsecmesh_ike::{Instant, Path};

use crate::engine::Sockets;
use crate::engine::sas::Sas;
use crate::engine::task::Engine;

/// The interval is 20 s; counters are read every 5 s, and what was sent just after the last reading is seen at the next.
const IDLE: Duration = Duration::from_secs(15);

/// What is known of the mapping that an outbound SA uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keepalive {
    /// UDP ports (source, destination).
    pub(crate) ports: (u16, u16),
    /// Packets when last seen, and since when there are as many; `None` before the first look.
    seen: Option<(u64, Instant)>,
}

impl Keepalive {
    /// Of an SA that is being installed.
    pub(crate) const fn new(ports: (u16, u16)) -> Self {
        Self { ports, seen: None }
    }

    /// Whether nothing was sent for so long that a keepalive is due; it then counts as sent.
    fn is_due(&mut self, packets: u64, now: Instant) -> bool {
        let since = match self.seen {
            Some((before, since)) if before == packets => since,
            _ => now,
        };
        let due = now.saturating_since(since) >= IDLE;
        self.seen = Some((packets, if due { now } else { since }));
        due
    }
}

impl<D: DataPlane, S: Sockets> Engine<D, S> {
    /// Sends what is due, once per mapping.
    pub(super) async fn keep_mappings_open(&mut self) {
        if self.plane.keeps_mappings_open() {
            return;
        }
        for path in idle(&mut self.sas, self.clock.now().mono) {
            if let Err(error) = self.sockets.keepalive(&path).await {
                tracing::debug!(remote = %path.remote, %error, "sending a keepalive failed; the next one follows");
            }
        }
    }
}

fn idle(sas: &mut Sas, now: Instant) -> Vec<Path> {
    let mut paths = Vec::new();
    sas.each(|name, record| {
        let packets = record.packets;
        let Some(keepalive) = &mut record.keepalive else {
            return;
        };
        let (source, destination) = keepalive.ports;
        let path = Path {
            local: SocketAddr::new(name.source, source),
            remote: SocketAddr::new(name.destination, destination),
        };
        if keepalive.is_due(packets, now) && !paths.contains(&path) {
            paths.push(path);
        }
    });
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keepalive_is_due_after_silence_only_and_not_twice() {
        let start = Instant::default();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut keepalive = Keepalive::new((4500, 4500));
        let looks = [
            (0, 0),
            (5, 0),
            (10, 3),
            (15, 3),
            (20, 3),
            (25, 3),
            (30, 3),
            (35, 3),
            (40, 3),
        ];
        let due: Vec<u64> = looks
            .into_iter()
            .filter(|(seconds, packets)| keepalive.is_due(*packets, at(*seconds)))
            .map(|(seconds, _)| seconds)
            .collect();
        assert_eq!(due, [25, 40]);
    }
}
