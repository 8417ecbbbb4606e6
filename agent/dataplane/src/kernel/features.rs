//! What this kernel's SAs can carry, found out by trying: release numbers say little where distributions port features
//! back, and a kernel that does not know an attribute takes the SA without it and without a word.

use std::net::{IpAddr, Ipv4Addr};

use ipsecmesh_xfrm::{
    Aead, Algorithm, Connection, Key, Limits, Mode, Protocol, Reply, Reqid, Request, Sa, SaDirection,
    SaFeatures, SaId, XfrmError,
};
use zeroize::Zeroizing;

/// Addresses for benchmarks (RFC 2544): no real SA is between them, and what a kernel might send from an address that is
/// not its own stays where it is.
const ENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 18, 0, 1), Ipv4Addr::new(198, 19, 0, 1)];
const SPI: u32 = 0x1950_0101;
const ALGORITHM: Algorithm = Algorithm::Aead(Aead::AesGcm256);
const UDP_PORT: u16 = 4500;
const KEEPALIVE_SECONDS: u32 = 20;

/// Installs an SA with everything that newer kernels know, reads back what it became, and removes it. A kernel that takes
/// no such SA has none of it.
pub async fn detect(connection: &mut Connection) -> SaFeatures {
    let sa = trial();
    let all = SaFeatures {
        direction: true,
        keepalive: true,
    };
    let added = connection.execute_one(Request::add_sa(&sa, all)).await;
    // One of an earlier detection that was cut off was made by the same kernel.
    if added.is_err_and(|error| !error.exists()) {
        return SaFeatures::default();
    }
    let read = connection.execute_one(Request::read_sa(sa.id)).await;
    // INVARIANT: nothing to do where it cannot be removed: it protects nothing, and the next detection finds it.
    let _ = connection.execute_one(Request::delete_sa(sa.id)).await;
    features(read)
}

fn features(read: Result<Vec<Reply>, XfrmError>) -> SaFeatures {
    let state = read
        .ok()
        .and_then(|replies| replies.into_iter().find_map(Reply::into_sa));
    state.map_or_else(SaFeatures::default, |state| SaFeatures {
        direction: state.direction == Some(SaDirection::Out),
        keepalive: state.keepalive == Some(KEEPALIVE_SECONDS),
    })
}

/// Outbound and in UDP, the only kind that the kernel keeps a mapping open for. Without extended sequence numbers, whose
/// window is another on kernels that know the direction.
fn trial() -> Sa {
    let [source, destination] = ENDS.map(IpAddr::from);
    Sa {
        id: SaId {
            protocol: Protocol::Esp,
            spi: SPI,
            source,
            destination,
        },
        reqid: Reqid::PROBE,
        mode: Mode::Transport,
        direction: SaDirection::Out,
        algorithm: ALGORITHM,
        // Nothing will ever be encrypted under it.
        key: Key::new(Zeroizing::new(vec![0; ALGORITHM.key_length()])),
        esn: false,
        replay_window: 0,
        encapsulation: Some((UDP_PORT, UDP_PORT)),
        keepalive: Some(KEEPALIVE_SECONDS),
        selector: None,
        limits: Limits::default(),
    }
}
