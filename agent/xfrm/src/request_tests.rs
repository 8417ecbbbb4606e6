//! Requests as bytes: header, flags, numbering, alignment; keys only where they belong.

use super::*;
use crate::ownership::Reqid;
use crate::samples::{KEY_BYTE, policies, sas};

/// `nlmsg_len`, `nlmsg_type`, `nlmsg_flags`, `nlmsg_seq` (struct nlmsghdr).
fn header(bytes: &[u8]) -> (u32, u16, u16, u32) {
    (
        u32::from_ne_bytes(bytes[0..4].try_into().expect("4 bytes")),
        u16::from_ne_bytes(bytes[4..6].try_into().expect("2 bytes")),
        u16::from_ne_bytes(bytes[6..8].try_into().expect("2 bytes")),
        u32::from_ne_bytes(bytes[8..12].try_into().expect("4 bytes")),
    )
}

fn every_request() -> Vec<(Request, u16, u16)> {
    let sa = || sas().remove(0);
    let policy = || policies().remove(0);
    let none = SaFeatures::default();
    // linux/xfrm.h: XFRM_MSG_BASE is 0x10; linux/netlink.h: REQUEST 1, ACK 4, EXCL 0x200, CREATE 0x400, DUMP 0x300.
    vec![
        (Request::add_sa(&sa(), none), 0x10, 0x605),
        (Request::delete_sa(sa().id), 0x11, 0x005),
        (Request::read_sa(sa().id), 0x12, 0x005),
        (Request::dump_sas(), 0x12, 0x301),
        (Request::add_policy(policy()), 0x13, 0x605),
        (
            Request::delete_policy(policy().direction, policy().index),
            0x14,
            0x005,
        ),
        (
            Request::read_policy(policy().direction, policy().selector),
            0x15,
            0x005,
        ),
        (Request::dump_policies(), 0x15, 0x301),
        (Request::update_policy(policy()), 0x19, 0x005),
        (Request::set_hash_thresholds(HashThresholds::HOSTS), 0x24, 0x005),
        (Request::read_hash_thresholds(), 0x25, 0x005),
    ]
}

#[test]
fn each_request_is_the_kernels_message_with_its_flags() {
    for (request, kind, flags) in every_request() {
        let operation = request.operation();
        let bytes = encode(&[request], 5);
        let (length, message_type, message_flags, sequence) = header(&bytes);
        assert_eq!(message_type, kind, "{operation}");
        assert_eq!(message_flags, flags, "{operation}");
        assert_eq!(sequence, 5, "{operation}");
        assert_eq!(
            usize::try_from(length)
                .expect("small")
                .next_multiple_of(ALIGNMENT),
            bytes.len(),
            "{operation}"
        );
    }
}

#[test]
fn a_batch_is_numbered_and_aligned() {
    let requests: Vec<_> = every_request()
        .into_iter()
        .map(|(request, _, _)| request)
        .collect();
    let count = requests.len();
    let bytes = encode(&requests, 100);
    let mut rest = bytes.as_slice();
    for sequence in (100..).take(count) {
        let (length, _, _, found) = header(rest);
        assert_eq!(found, sequence);
        rest = &rest[usize::try_from(length)
            .expect("small")
            .next_multiple_of(ALIGNMENT)..];
    }
    assert!(rest.is_empty(), "{} bytes left over", rest.len());
}

#[test]
fn a_key_is_in_the_message_once_and_nowhere_else() {
    for sa in sas() {
        let request = Request::add_sa(
            &sa,
            SaFeatures {
                direction: true,
                keepalive: true,
            },
        );
        let shown = format!("{request:?} {sa:?}");
        assert!(
            !shown.contains("167") && !shown.to_lowercase().contains("a7, a7"),
            "{shown}"
        );
        let bytes = encode(&[request], 1);
        let key: Vec<_> = bytes.iter().filter(|byte| **byte == KEY_BYTE).collect();
        assert_eq!(key.len(), sa.key.length());
    }
}

#[test]
fn a_policy_is_deleted_by_its_index_alone() {
    let policy = policies().remove(0);
    let bytes = encode(&[Request::delete_policy(policy.direction, policy.index)], 1);
    let index = policy.index.value().to_ne_bytes();
    assert!(bytes.windows(4).any(|window| window == index));
    let port = 8472_u16.to_be_bytes();
    assert!(
        !bytes.windows(2).any(|window| window == port),
        "a selector is in it"
    );
}

#[test]
fn the_probes_reqid_is_the_last_of_the_range() {
    assert_eq!(Reqid::PROBE, Reqid::from_slot(u16::MAX));
}

/// RFC 4302 §3.3.3.2.1: multiples of four octets for IPv4, of eight for IPv6, which is what the kernel does unasked.
#[test]
fn ah_is_padded_as_its_family_asks() {
    use netlink_packet_xfrm::XFRM_STATE_ALIGN4;

    use crate::sa::Protocol;

    for sa in sas() {
        let flags = sa.to_wire(SaFeatures::default()).user_sa_info.flags;
        let four = sa.id.protocol == Protocol::Ah && sa.id.destination.is_ipv4();
        assert_eq!(flags & XFRM_STATE_ALIGN4 != 0, four, "{sa:?}");
    }
}
