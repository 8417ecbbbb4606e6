//! Errors about protected traffic: those that have to reach the sender do, and none shows in clear what was protected.

use std::net::SocketAddr;
use std::time::Duration;

use ipsecmesh_dataplane::{DataPlane, Direction, Policy, PolicyAction, PolicyKey, Selector};
use ipsecmesh_ike::{Mode, SaProtocol};

use super::super::linux::ip;
use super::super::net::{Net, deliver, far, near, refuse};
use super::headers::within;
use super::{Ends, Shape, V4, V4_IN_V6, V6, V6_IN_V4, all_good, host, same, shape, shows};
use crate::suite::Verdict;

/// Nobody listens here.
const CLOSED: u16 = 9;
/// Until an error that is to come has come.
const ANSWER: Duration = Duration::from_millis(100);

#[rustfmt::skip]
const TOO_LONG: [Shape; 5] = [
    shape("errors: a packet too long for the tunnel is told to its sender, IPv4 in IPv4", Mode::Tunnel, SaProtocol::Esp, V4, false),
    shape("errors: a packet too long for the tunnel is told to its sender, IPv6 in IPv6", Mode::Tunnel, SaProtocol::Esp, V6, false),
    shape("errors: a packet too long for the tunnel is told to its sender, IPv4 in IPv6", Mode::Tunnel, SaProtocol::Esp, V4_IN_V6, false),
    shape("errors: a packet too long for the tunnel is told to its sender, IPv6 in IPv4", Mode::Tunnel, SaProtocol::Esp, V6_IN_V4, false),
    shape("errors: a packet too long for the tunnel of AH is told to its sender", Mode::Tunnel, SaProtocol::Ah, V4, false),
];

pub(super) async fn run(net: &Net, ends: &mut Ends) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for case in TOO_LONG {
        verdicts.push((case.title, too_long(&case, net, ends).await));
    }
    for (title, families) in [
        ("errors: an unreachable port is not told in clear, IPv4", V4),
        ("errors: an unreachable port is not told in clear, IPv6", V6),
    ] {
        verdicts.push((title, unreachable(net, ends, families).await));
    }
    verdicts
}

/// RFC 4301 §8.2: the sender behind the gateway learns what fits.
async fn too_long(shape: &Shape, net: &Net, ends: &mut Ends) -> Result<(), String> {
    let v4 = shape.inner_v4;
    // What an earlier case has taught the kernels.
    for host in [&net.a, &net.b, &net.c] {
        host.enter()?;
        ip("route flush cache")?;
        ip("-6 route flush cache")?;
    }
    within(shape, net, ends, |_| {
        let sender = net.c.socket(far(v4), 0)?;
        let receiver = net.a.socket(near(v4), CLOSED)?;
        let to = SocketAddr::new(near(v4), CLOSED);
        let text = "a secret that is too long ".repeat(56);
        // The first one draws the gateway's answer; from then on the sender's kernel cuts it before the tunnel.
        refuse(&sender, &receiver, to, &text)?;
        deliver(&sender, &receiver, to, &text).map(drop)
    })
    .await
}

/// The error repeats what was decrypted. Without a policy for it, it leaves in clear: that is seen first, so that the
/// second half of the case means something.
async fn unreachable(net: &Net, ends: &mut Ends, families: (bool, bool)) -> Result<(), String> {
    let shape = shape("", Mode::Transport, SaProtocol::Esp, families, false);
    let (a, b) = shape.outer();
    // Destination unreachable, port unreachable: RFC 792, RFC 4443 §3.1.
    let (protocol, kind, code) = if families.0 { (1, 3, 3) } else { (58, 1, 4) };
    let block = Policy {
        key: PolicyKey {
            direction: Direction::Outbound,
            selector: Selector {
                source: host(b),
                destination: host(a),
                protocol,
                source_port: Some(kind),
                destination_port: Some(code),
            },
        },
        action: PolicyAction::Discard,
        rank: 0,
    };
    for (blocked, expected) in [(false, true), (true, false)] {
        if blocked {
            all_good("policy", ends.b.put_policies(&[block]).await, 1)?;
        }
        let wire = net.b.watch("wire1")?;
        within(&shape, net, ends, |flow| {
            let to = SocketAddr::new(b, CLOSED);
            let sent = flow.near.send_to(b"secret to nobody", to);
            sent.map_err(|error| format!("send: {error}"))?;
            // Nothing comes: what is waited for is the error on the wire.
            flow.near
                .set_read_timeout(Some(ANSWER))
                .map_err(|error| error.to_string())?;
            drop(flow.near.recv_from(&mut [0; 1]));
            let clear = wire.packets().iter().any(|packet| shows(packet, b"secret"));
            same("whether the error shows what was protected", &clear, &expected)
        })
        .await?;
    }
    all_good("removal", ends.b.remove_policies(&[block.key]).await, 1)
}
