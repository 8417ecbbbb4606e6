//! ACQUIRE and EXPIRE as the kernel writes them (`struct xfrm_user_acquire`, `struct xfrm_user_expire`).

use super::*;
use crate::policy::{Action, Policy};
use crate::request::Request;
use crate::sa::SaFeatures;
use crate::samples::{body, mutilations, policies, sas};

/// id 24, saddr 16, selector 56, policy info 168, then aalgos, ealgos, calgos, seq: 4 each.
const ACQUIRE_POLICY: usize = 24 + 16 + 56;
const ACQUIRE_TRAILER: usize = 16;
const POLICY_INFO: usize = 168;
const USER_SA_INFO: usize = 224;
/// `hard` and the padding of the struct.
const EXPIRE_TRAILER: usize = 8;
/// Offset of `reqid` in `struct xfrm_usersa_info`.
const REQID: usize = 208;

fn acquire_for(policy: Policy) -> Vec<u8> {
    let (_, written) = body(Request::add_policy(policy));
    let selector = &written[..56];
    let mut message = Vec::new();
    // xfrm_id: destination address, SPI 0, protocol ESP. The selector starts with the destination, then the source.
    message.extend_from_slice(&selector[..16]);
    message.extend_from_slice(&[0, 0, 0, 0, 50, 0, 0, 0]);
    message.extend_from_slice(&selector[16..32]);
    message.extend_from_slice(selector);
    message.extend_from_slice(&written[..POLICY_INFO]);
    message.extend_from_slice(&[0; ACQUIRE_TRAILER]);
    message.extend_from_slice(&written[POLICY_INFO..]);
    message
}

fn expire_of(hard: bool) -> Vec<u8> {
    let (_, written) = body(Request::add_sa(&sas()[0], SaFeatures::default()));
    let mut message = written[..USER_SA_INFO].to_vec();
    let mut trailer = [0; EXPIRE_TRAILER];
    trailer[0] = u8::from(hard);
    message.extend_from_slice(&trailer);
    message
}

fn protecting() -> impl Iterator<Item = Policy> {
    policies()
        .into_iter()
        .filter(|policy| matches!(policy.action, Action::Protect(_)))
}

#[test]
fn an_acquire_names_the_sa_that_is_missing() {
    for policy in protecting() {
        let Action::Protect(template) = policy.action else {
            unreachable!("filtered");
        };
        let event = parse(XFRM_MSG_ACQUIRE, &acquire_for(policy)).expect("an event");
        assert_eq!(
            event,
            Event::Acquire {
                reqid: template.reqid,
                source: policy.selector.source.address,
                destination: policy.selector.destination.address,
            }
        );
    }
}

#[test]
fn an_acquire_for_somebody_elses_policy_is_not_ours() {
    let policy = protecting().next().expect("one");
    let mut message = acquire_for(policy);
    // `index` of the policy info: selector 56, lifetimes 64 + 32, priority 4.
    let index = ACQUIRE_POLICY + 156;
    assert_eq!(message[index..index + 4], policy.index.value().to_ne_bytes());
    message[index..index + 4].copy_from_slice(&16_u32.to_ne_bytes());
    assert_eq!(parse(XFRM_MSG_ACQUIRE, &message), None);
}

#[test]
fn an_expire_says_soft_or_hard() {
    for hard in [false, true] {
        let sa = &sas()[0];
        assert_eq!(
            parse(XFRM_MSG_EXPIRE, &expire_of(hard)),
            Some(Event::Expire {
                spi: sa.id.spi,
                reqid: sa.reqid,
                hard,
            })
        );
    }
}

#[test]
fn an_expire_of_a_foreign_sa_is_not_ours() {
    let mut message = expire_of(true);
    message[REQID..REQID + 4].copy_from_slice(&42_u32.to_ne_bytes());
    assert_eq!(parse(XFRM_MSG_EXPIRE, &message), None);
}

#[test]
fn reports_of_other_kinds_are_passed_over() {
    for kind in (0x10..0x30).filter(|kind| ![XFRM_MSG_ACQUIRE, XFRM_MSG_EXPIRE].contains(kind)) {
        assert_eq!(parse(kind, &expire_of(true)), None, "type {kind:#x}");
    }
}

#[test]
fn no_truncation_and_no_flipped_bit_panics() {
    let messages = protecting().map(acquire_for).chain([expire_of(true)]);
    for message in messages {
        for broken in mutilations(&message) {
            for kind in [XFRM_MSG_ACQUIRE, XFRM_MSG_EXPIRE] {
                if let Some(Event::Acquire { reqid, .. } | Event::Expire { reqid, .. }) = parse(kind, &broken)
                {
                    assert_eq!(Reqid::new(reqid.value()), Some(reqid));
                }
            }
        }
    }
}
