//! Limits and selectors of SAs as the kernel gets them.

use std::time::Duration;

use ipsecmesh_ike::{ChildId, ChildSaId, Encryption, Lifetime, PeerId, SaKey};

use super::*;

fn address(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn range(first: [u8; 4], last: [u8; 4]) -> TrafficSelector {
    TrafficSelector {
        protocol: 0,
        first_port: 0,
        last_port: u16::MAX,
        first_address: first.into(),
        last_address: last.into(),
    }
}

fn spec(mode: Mode) -> SaSpec {
    let lifetime = Lifetime {
        time: Duration::from_hours(1),
        bytes: Some(1000),
        packets: None,
    };
    SaSpec {
        name: SaName {
            protocol: SaProtocol::Esp,
            spi: EspSpi::new(0x1000).expect("not reserved"),
            source: address(1),
            destination: address(2),
        },
        child_sa: ChildSaId(1),
        peer: PeerId(1),
        child: ChildId(1),
        mode,
        encryption: Some(Encryption::AesGcm16Key128),
        integrity: None,
        key: SaKey(vec![1; 20].into()),
        esn: true,
        replay_window: 64,
        reqid: 0x1950_0001,
        encapsulation: None,
        keepalive: false,
        source_selectors: vec![range([10, 0, 0, 0], [10, 0, 255, 255])],
        destination_selectors: vec![range([10, 1, 0, 8], [10, 1, 0, 15])],
        lifetime,
        soft_lifetime: lifetime,
    }
}

#[test]
fn without_extended_numbers_packets_end_before_the_numbers_do() {
    let mut spec = spec(Mode::Tunnel);
    assert_eq!(limits(&spec).hard_packets, None);
    spec.esn = false;
    let all = limits(&spec);
    assert_eq!(all.hard_packets, Some(u64::from(u32::MAX)));
    assert!(all.soft_packets < all.hard_packets && all.soft_packets.is_some());
    assert_eq!((all.soft_bytes, all.hard_bytes), (Some(1000), Some(1000)));
    spec.lifetime.packets = Some(1 << 40);
    spec.soft_lifetime.packets = Some(7);
    let all = limits(&spec);
    assert_eq!(
        (all.soft_packets, all.hard_packets),
        (Some(7), Some(u64::from(u32::MAX)))
    );
}

#[test]
fn an_sa_checks_what_one_selector_can_say() {
    let selector = sa_selector(&spec(Mode::Tunnel)).expect("blocks");
    assert_eq!((selector.source.length, selector.destination.length), (16, 29));
    assert_eq!(
        sa_selector(&spec(Mode::Transport)),
        None,
        "other addresses than the ends"
    );
    for (first, last) in [
        ([10, 0, 0, 1], [10, 0, 0, 6]),
        ([10, 0, 0, 4], [10, 0, 0, 11]),
        ([9, 0, 0, 0], [8, 0, 0, 0]),
    ] {
        let mut odd = spec(Mode::Tunnel);
        odd.source_selectors = vec![range(first, last)];
        assert_eq!(sa_selector(&odd), None, "{first:?}-{last:?}");
    }
    let mut whole = spec(Mode::Tunnel);
    whole.source_selectors = vec![range([0; 4], [255; 4])];
    assert_eq!(
        sa_selector(&whole).map(|selector| selector.source.length),
        Some(0)
    );
    let mut mixed = spec(Mode::Tunnel);
    mixed.source_selectors[0].first_address = IpAddr::from([0; 16]);
    mixed.source_selectors[0].last_address = IpAddr::from([0xffff; 8]);
    assert_eq!(sa_selector(&mixed), None, "two families");
}
