//! Soft and hard limits, by our clock and by the kernel's counters (RFC 7296 §2.8).

use std::time::Duration;

use ipsecmesh_ike::wire::{ExchangeType, Notify, NotifyType, Payload};
use ipsecmesh_ike::*;

use crate::sut::{PEER, Sut, answering};
use crate::talk::{PEER_SPI, create_answer, deleted_spis, peer_began, peer_began_with, we_have_a_pair};

fn short() -> PeerConfig {
    let mut config = answering(1);
    config.children[0].lifetime.time = Duration::from_secs(1000);
    config.liveness.interval = Duration::from_hours(100);
    config
}

#[test]
fn a_pair_is_rekeyed_before_its_hard_limit() {
    let (mut sut, peer, _) = peer_began_with(short());
    let wait = sut.pass_until_sent(Duration::from_secs(1000));
    assert!(
        wait >= Duration::from_secs(850) && wait <= Duration::from_secs(901),
        "{wait:?}"
    );
    let (_, request) = peer.take(&mut sut);
    assert!(request.notify(NotifyType::REKEY_SA).is_some());
}

#[test]
fn a_rekey_that_the_peer_refuses_is_tried_again_and_the_pair_stays() {
    let (mut sut, mut peer, _) = peer_began_with(short());
    sut.pass_until_sent(Duration::from_secs(1000));
    for _ in 0..3 {
        let (header, _) = peer.take(&mut sut);
        peer.reply(
            &mut sut,
            &header,
            &[Payload::Notify(Notify::new(NotifyType::NO_PROPOSAL_CHOSEN))],
        );
        assert_eq!(sut.halves(), (1, 1));
        assert!(sut.pass_until_sent(Duration::from_secs(21)) >= Duration::from_secs(9));
    }
    assert_eq!(sut.failures(), [Failure::NoProposalChosen; 3]);
}

#[test]
fn at_the_hard_limit_the_pair_is_deleted_and_a_new_one_made() {
    let (mut sut, mut peer, inbound) = peer_began_with(short());
    let mut deleted = false;
    while sut.now < Duration::from_secs(1010) {
        sut.pass_until_sent(Duration::from_secs(1000));
        let (header, request) = peer.take(&mut sut);
        deleted |= deleted_spis(&request) == [inbound];
        let fresh = header.exchange == ExchangeType::CREATE_CHILD_SA
            && request.notify(NotifyType::REKEY_SA).is_none();
        if fresh {
            peer.reply(&mut sut, &header, &create_answer(&request, 0x3000, [3; 32]));
            break;
        }
        let refusal = Payload::Notify(Notify::new(NotifyType::NO_PROPOSAL_CHOSEN));
        let answer = if deleted { vec![] } else { vec![refusal] };
        peer.reply(&mut sut, &header, &answer);
    }
    assert!(deleted || !sut.kernel.contains_key(&PEER_SPI));
    assert_eq!(sut.kernel.get(&0x3000), Some(&false));
}

#[test]
fn limits_that_the_kernel_reports_count_like_ours() {
    for outbound in [false, true] {
        let (mut sut, peer, inbound) = peer_began();
        let spi = if outbound {
            EspSpi::new(PEER_SPI).unwrap()
        } else {
            inbound
        };
        sut.command(Command::Expire { spi, hard: false });
        let (_, request) = peer.take(&mut sut);
        assert!(request.notify(NotifyType::REKEY_SA).is_some());
    }
    let (mut sut, peer, inbound) = peer_began();
    sut.command(Command::Expire {
        spi: inbound,
        hard: true,
    });
    assert_eq!(sut.halves().1, 0);
    let (header, _) = peer.take(&mut sut);
    assert_eq!(header.message_id.0, 0);
    assert!([ExchangeType::CREATE_CHILD_SA, ExchangeType::INFORMATIONAL].contains(&header.exchange));
}

#[test]
fn limits_of_sas_that_are_not_ours_are_ignored() {
    let (mut sut, _, _) = peer_began();
    for hard in [false, true] {
        sut.command(Command::Expire {
            spi: EspSpi::new(0x0bad_cafe).unwrap(),
            hard,
        });
    }
    sut.assert_silent();
    assert_eq!(sut.halves(), (1, 1));
}

#[test]
fn an_ike_sa_is_rekeyed_in_the_middle_of_its_time() {
    let mut config = answering(1);
    config.ike_lifetime = Duration::from_secs(1000);
    config.liveness.interval = Duration::from_hours(100);
    let (mut sut, peer, _) = peer_began_with(config);
    let wait = sut.pass_until_sent(Duration::from_secs(1000));
    assert!(
        wait >= Duration::from_secs(400) && wait <= Duration::from_secs(500),
        "{wait:?}"
    );
    assert!(peer.take(&mut sut).1.key_exchange().is_some());
}

#[test]
fn traffic_that_waits_starts_what_is_missing() {
    let mut sut = Sut::with(answering(1));
    sut.assert_silent();
    sut.command(Command::Acquire {
        peer: PEER,
        child: ChildId(1),
    });
    assert_eq!(sut.sent.len(), 1);
    sut.command(Command::Acquire {
        peer: PEER,
        child: ChildId(1),
    });
    assert_eq!(sut.sent.len(), 1, "once");
    sut.command(Command::Acquire {
        peer: PEER,
        child: ChildId(9),
    });
    sut.command(Command::Acquire {
        peer: PeerId(9),
        child: ChildId(1),
    });
    assert_eq!(sut.sent.len(), 1);

    let (mut sut, _, _) = we_have_a_pair();
    sut.command(Command::Acquire {
        peer: PEER,
        child: ChildId(1),
    });
    sut.assert_silent();
}
