//! What is written comes back as it was; what is foreign stays foreign; what is broken is refused, never a panic.

use super::*;
use crate::request::Request;
use crate::sa::SaFeatures;
use crate::samples::{body, mutilations, policies, sas};

const PROTOCOL_MAX: u16 = 0x30;

/// A dump's message has the layout of the request that made the object.
fn dumped_sa(request: Request) -> SaState {
    let (_, bytes) = body(request);
    parse(XFRM_MSG_NEWSA, &bytes)
        .and_then(Reply::into_sa)
        .expect("an SA")
}

fn dumped_policy(bytes: &[u8]) -> PolicyState {
    parse(XFRM_MSG_NEWPOLICY, bytes)
        .and_then(Reply::into_policy)
        .expect("a policy")
}

#[test]
fn an_sa_comes_back_as_it_was_written() {
    for sa in sas() {
        for direction in [false, true] {
            let state = dumped_sa(Request::add_sa(
                &sa,
                SaFeatures {
                    direction,
                    keepalive: direction,
                },
            ));
            assert_eq!(state.id, sa.id);
            assert_eq!(state.reqid, Some(sa.reqid));
            assert_eq!(state.mode, Some(sa.mode));
            assert_eq!(state.esn, sa.esn);
            assert_eq!(state.encapsulation, sa.encapsulation);
            assert_eq!(state.direction, direction.then_some(sa.direction));
            // The kernel takes it for outbound SAs in UDP alone.
            let kept = direction && sa.direction == SaDirection::Out && sa.encapsulation.is_some();
            assert_eq!(state.keepalive, sa.keepalive.filter(|_| kept));
            assert!(!state.larval, "an SA with a key is complete");
            assert_eq!((state.bytes, state.packets, state.last_used), (0, 0, None));
        }
    }
}

/// The window per direction and kernel: `Sa::replay` says why.
#[test]
fn the_replay_window_fits_direction_and_kernel() {
    for sa in sas() {
        for knows_direction in [false, true] {
            let state = dumped_sa(Request::add_sa(
                &sa,
                SaFeatures {
                    direction: knows_direction,
                    keepalive: knows_direction,
                },
            ));
            let expected = match (sa.direction, sa.esn, knows_direction) {
                (SaDirection::In, _, _) => 4096,
                (SaDirection::Out, true, false) => 1,
                (SaDirection::Out, _, _) => 0,
            };
            assert_eq!(state.replay_window, expected, "{:?}", sa.direction);
        }
    }
}

#[test]
fn a_policy_comes_back_as_it_was_written() {
    for policy in policies() {
        let (_, bytes) = body(Request::add_policy(policy));
        assert_eq!(dumped_policy(&bytes), PolicyState::Ours(policy));
    }
}

#[test]
fn thresholds_come_back_as_they_were_written() {
    let wanted = HashThresholds {
        ipv4: (24, 32),
        ipv6: (64, 96),
    };
    let (_, bytes) = body(Request::set_hash_thresholds(wanted));
    assert_eq!(
        parse(XFRM_MSG_NEWSPDINFO, &bytes),
        Some(Reply::HashThresholds(wanted))
    );
}

#[test]
fn an_sa_without_a_key_is_larval() {
    let (_, bytes) = body(Request::add_sa(&sas()[0], SaFeatures::default()));
    let state = parse(XFRM_MSG_NEWSA, &bytes[..XFRM_USER_SA_INFO_LEN]).and_then(Reply::into_sa);
    assert!(state.expect("an SA").larval);
}

/// `struct xfrm_userpolicy_info`: selector (56), two lifetimes (64 + 32), priority, index, direction.
#[test]
fn what_is_not_of_our_ranges_is_foreign() {
    const INDEX: usize = 56 + 64 + 32 + 4;
    const DIRECTION: usize = INDEX + 4;
    let (_, bytes) = body(Request::add_policy(policies()[0]));

    let mut foreign = bytes.clone();
    foreign[INDEX..DIRECTION].copy_from_slice(&8_u32.to_ne_bytes());
    let PolicyState::Foreign { index, .. } = dumped_policy(&foreign) else {
        panic!("an index of the kernel's own range was taken for ours");
    };
    assert_eq!(index, 8);

    let mut socket = bytes;
    socket[DIRECTION] = FIRST_SOCKET_DIRECTION;
    assert_eq!(dumped_policy(&socket), PolicyState::Socket);
}

/// `struct xfrm_usersa_info`: selector 56, id 24, saddr 16, lifetimes 64 + 32, stats 12, seq 4, reqid.
#[test]
fn a_foreign_sa_has_no_reqid() {
    const REQID: usize = 56 + 24 + 16 + 64 + 32 + 12 + 4;
    let (_, mut bytes) = body(Request::add_sa(&sas()[0], SaFeatures::default()));
    assert_eq!(bytes[REQID..REQID + 4], sas()[0].reqid.value().to_ne_bytes());
    bytes[REQID..REQID + 4].copy_from_slice(&1_u32.to_ne_bytes());
    let state = parse(XFRM_MSG_NEWSA, &bytes).and_then(Reply::into_sa);
    assert_eq!(state.expect("an SA").reqid, None);
}

#[test]
fn a_message_that_is_too_short_is_refused() {
    let (_, sa) = body(Request::add_sa(&sas()[0], SaFeatures::default()));
    let (_, policy) = body(Request::add_policy(policies()[0]));
    for length in 0..XFRM_USER_SA_INFO_LEN {
        assert_eq!(parse(XFRM_MSG_NEWSA, &sa[..length]), None, "SA of {length} bytes");
    }
    for length in 0..XFRM_USER_POLICY_INFO_LEN {
        assert_eq!(
            parse(XFRM_MSG_NEWPOLICY, &policy[..length]),
            None,
            "policy of {length} bytes"
        );
    }
}

/// Whatever comes, the reader returns; and a mutilated policy is ours only with an index of ours.
#[test]
fn no_truncation_and_no_flipped_bit_panics() {
    let requests = sas()
        .iter()
        .map(|sa| {
            Request::add_sa(
                sa,
                SaFeatures {
                    direction: true,
                    keepalive: true,
                },
            )
        })
        .chain(policies().into_iter().map(Request::add_policy))
        .chain([Request::set_hash_thresholds(HashThresholds::HOSTS)])
        .collect::<Vec<_>>();
    for request in requests {
        let (_, bytes) = body(request);
        for broken in mutilations(&bytes) {
            for kind in 0x10..PROTOCOL_MAX {
                if let Some(Reply::Policy(PolicyState::Ours(policy))) = parse(kind, &broken) {
                    assert_eq!(PolicyIndex::new(policy.index.value()), Some(policy.index));
                }
            }
        }
    }
}
