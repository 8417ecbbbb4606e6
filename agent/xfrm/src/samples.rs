//! SAs and policies of every shape, and the bytes that stand for them on a netlink socket: what the tests of requests,
//! dumps and events share.

use std::net::IpAddr;

use zeroize::Zeroizing;

use crate::address::{Prefix, Selector};
use crate::algorithm::{Aead, Algorithm, Cipher, Integrity};
use crate::ownership::{PolicyIndex, Reqid};
use crate::policy::{Action, Direction, Policy, Template};
use crate::request::{Request, encode};
use crate::sa::{Key, Limits, Mode, Protocol, Sa, SaDirection, SaId};

/// A byte that occurs in a message only where a key does.
pub(crate) const KEY_BYTE: u8 = 0xa7;

const NETLINK_HEADER: usize = 16;

/// The body of a request's message: `nlmsg_type` and what follows the netlink header.
pub(crate) fn body(request: Request) -> (u16, Vec<u8>) {
    let bytes = encode(&[request], 1);
    let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
    (kind, bytes[NETLINK_HEADER..].to_vec())
}

/// Inbound and outbound, both families, both modes and protocols, every algorithm, with and without encapsulation, ESN and limits.
pub(crate) fn sas() -> Vec<Sa> {
    let mut all = Vec::new();
    for (source, destination) in addresses() {
        for direction in [SaDirection::In, SaDirection::Out] {
            for mode in [Mode::Transport, Mode::Tunnel] {
                for (protocol, algorithm) in algorithms(mode) {
                    let mut sa = sa(source, destination, direction, mode);
                    sa.id.protocol = protocol;
                    sa.key = Key::new(Zeroizing::new(vec![KEY_BYTE; algorithm.key_length()]));
                    sa.algorithm = algorithm;
                    sa.encapsulation = sa.encapsulation.filter(|_| protocol == Protocol::Esp);
                    all.push(sa);
                }
            }
        }
    }
    all
}

/// Each algorithm in one of the modes.
fn algorithms(mode: Mode) -> Vec<(Protocol, Algorithm)> {
    match mode {
        Mode::Transport => vec![
            (Protocol::Esp, Algorithm::Aead(Aead::AesGcm256)),
            (Protocol::Esp, Algorithm::Aead(Aead::ChaCha20Poly1305)),
            (
                Protocol::Esp,
                Algorithm::Separate(Cipher::AesCbc256, Integrity::HmacSha512),
            ),
            (Protocol::Ah, Algorithm::Integrity(Integrity::HmacSha256)),
        ],
        Mode::Tunnel => vec![
            (Protocol::Esp, Algorithm::Aead(Aead::AesGcm128)),
            (
                Protocol::Esp,
                Algorithm::Separate(Cipher::AesCbc128, Integrity::HmacSha256),
            ),
            (Protocol::Ah, Algorithm::Integrity(Integrity::HmacSha384)),
        ],
    }
}

fn sa(source: IpAddr, destination: IpAddr, direction: SaDirection, mode: Mode) -> Sa {
    let tunnel = mode == Mode::Tunnel;
    let algorithm = Algorithm::Aead(Aead::AesGcm256);
    Sa {
        id: SaId {
            protocol: Protocol::Esp,
            spi: 0xc0ff_ee01,
            source,
            destination,
        },
        reqid: Reqid::from_slot(7),
        mode,
        direction,
        algorithm,
        key: Key::new(Zeroizing::new(vec![KEY_BYTE; algorithm.key_length()])),
        esn: !tunnel,
        replay_window: 4096,
        encapsulation: tunnel.then_some((4500, 4501)),
        keepalive: Some(20),
        selector: None,
        limits: Limits {
            soft_bytes: Some(1 << 40),
            hard_packets: Some(u64::from(u32::MAX)),
            ..Limits::default()
        },
    }
}

/// Every action in both directions and both families, with protocols and ports.
pub(crate) fn policies() -> Vec<Policy> {
    let mut all = Vec::new();
    for (number, (source, destination)) in (0..).zip(addresses()) {
        for direction in [Direction::In, Direction::Out, Direction::Forward] {
            for action in actions(source, destination) {
                all.push(Policy {
                    direction,
                    selector: Selector {
                        source: Prefix::host(source),
                        destination: Prefix::host(destination),
                        protocol: 17,
                        source_port: None,
                        destination_port: Some(8472),
                    },
                    index: PolicyIndex::nth(direction, number).expect("in range"),
                    rank: 500,
                    action,
                });
            }
        }
    }
    all
}

fn actions(source: IpAddr, destination: IpAddr) -> Vec<Action> {
    let template = |mode, optional| {
        Action::Protect(Template {
            protocol: if optional { Protocol::Ah } else { Protocol::Esp },
            reqid: Reqid::from_slot(9),
            mode,
            source,
            destination,
            optional,
        })
    };
    vec![
        Action::Allow,
        Action::Block,
        template(Mode::Transport, false),
        template(Mode::Tunnel, true),
    ]
}

fn addresses() -> [(IpAddr, IpAddr); 2] {
    let parse = |text: &str| text.parse().expect("an address");
    [
        (parse("192.0.2.1"), parse("192.0.2.2")),
        (parse("2001:db8::1"), parse("2001:db8::2")),
    ]
}

/// Every prefix of the bytes, and every copy with one bit turned: what a reader has to survive.
pub(crate) fn mutilations(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let prefixes = (0..bytes.len()).map(|length| bytes[..length].to_vec());
    let flips = (0..bytes.len() * 8).map(|bit| {
        let mut copy = bytes.to_vec();
        copy[bit / 8] ^= 1 << (bit % 8);
        copy
    });
    prefixes.chain(flips)
}
