//! Mistakes that IKEv2 code makes, each shown to be impossible here. Those that other themes show in full are named
//! there: R8 in `collision`, R9 in `window`, R11 in `child`, R12 in `hostile`, R14 in `restart`; R4 in the simulation
//! and R5 in the crypto providers' vectors.

use std::time::Duration;

use ipsecmesh_ike::wire::{Delete, ExchangeType, Flags, Payload, PayloadType, Role};
use ipsecmesh_ike::*;

use crate::sut::{PEER, Sut, configured, path_to};
use crate::talk::{peer_began, we_have_a_pair};

/// A sealed message that claims to be a fragment (RFC 7383).
fn fragment(sealed: &[u8], number: u16, total: u16) -> Vec<u8> {
    let mut datagram = sealed[..32].to_vec();
    datagram[16] = PayloadType::SKF.0;
    datagram.extend(number.to_be_bytes());
    datagram.extend(total.to_be_bytes());
    datagram.extend(&sealed[32..]);
    let length = u32::try_from(datagram.len()).unwrap();
    datagram[24..28].copy_from_slice(&length.to_be_bytes());
    let length = u16::try_from(datagram.len() - 28).unwrap();
    datagram[30..32].copy_from_slice(&length.to_be_bytes());
    datagram
}

#[test]
fn r1_r2_fragments_that_were_never_agreed_on_are_neither_kept_nor_trusted() {
    let (mut sut, mut peer, _) = peer_began();
    let before = sut.endpoint.counts();
    let sealed = peer.request(ExchangeType::INFORMATIONAL, &[Payload::Delete(Delete::Ike)]);
    for (number, total) in [
        (1, 1),
        (1, 2),
        (2, 1),
        (0, 0),
        (0, 1),
        (1, 0),
        (65_535, 65_535),
        (2, 2),
    ] {
        let disposition = sut.give(peer.path, &fragment(&sealed, number, total));
        assert!(
            matches!(disposition, Disposition::Dropped(_)),
            "{number} of {total}"
        );
    }
    sut.assert_silent();
    assert_eq!(sut.endpoint.counts(), before);
}

#[test]
fn r3_no_length_of_a_sealed_part_panics() {
    let (mut sut, mut peer, _) = peer_began();
    let sealed = peer.request(ExchangeType::INFORMATIONAL, &[]);
    for length in 0..64_usize {
        let mut datagram = sealed[..28].to_vec();
        datagram.extend([0, 0]);
        datagram.extend(u16::try_from(4 + length).unwrap().to_be_bytes());
        datagram.extend(vec![0; length]);
        let total = u32::try_from(datagram.len()).unwrap();
        datagram[24..28].copy_from_slice(&total.to_be_bytes());
        let disposition = sut.give(peer.path, &datagram);
        assert_eq!(
            disposition,
            Disposition::Dropped(DropReason::BadIntegrity),
            "{length} bytes"
        );
    }
}

#[test]
fn r4_nothing_that_is_public_shows_a_secret() {
    let (sut, _, _) = we_have_a_pair();
    let shown = format!(
        "{:?} {:?} {:?} {:?}",
        sut.endpoint,
        configured(1),
        Command::UpsertPeer(Box::new(configured(1))),
        SaKey(zeroize::Zeroizing::new(b"a secret of both".to_vec())),
    );
    assert!(!shown.contains("a secret of both"));
    assert!(!shown.contains("[97, 32, 115"));
    assert!(shown.contains("redacted"));
}

#[test]
fn r6_no_datagram_ends_anything_and_each_has_a_disposition() {
    let (mut sut, mut peer, _) = peer_began();
    let mut datagrams = vec![vec![], vec![0], vec![0xff; 28], vec![0; 2000]];
    datagrams.push(crate::draft::Draft::new(1).request()[..30].to_vec());
    for datagram in datagrams {
        let disposition = sut.give(peer.path, &datagram);
        assert!(matches!(disposition, Disposition::Dropped(_)));
    }
    peer.confirm(&mut sut);
}

#[test]
fn r7_the_initiator_flag_says_who_began_and_not_that_it_is_a_request() {
    // The original responder asks and is answered, the original initiator answers.
    let (mut sut, mut peer, _) = we_have_a_pair();
    let request = peer.request(ExchangeType::INFORMATIONAL, &[]);
    let answer = sut.ask(peer.path, &request);
    let flags = peer.open(&answer).0.flags;
    assert_eq!((flags.sender(), flags.is_response()), (Role::Initiator, true));

    // Sealed with the right key, but under the flag of the other end.
    let mut header = peer.header(
        ExchangeType::INFORMATIONAL,
        Flags::request(Role::Initiator),
        peer.next,
    );
    let sealed = peer.keys.sealer.seal(peer.provider, &header, &[]).unwrap();
    assert!(matches!(sut.give(peer.path, &sealed), Disposition::Dropped(_)));
    header.flags = Flags::response(Role::Initiator);
    let sealed = peer.keys.sealer.seal(peer.provider, &header, &[]).unwrap();
    assert!(matches!(sut.give(peer.path, &sealed), Disposition::Dropped(_)));
    sut.assert_silent();
}

#[test]
fn r10_the_kernels_events_are_inputs_and_its_sas_have_a_replay_window() {
    let mut sut = Sut::with(configured(1));
    sut.hold = true;
    let (path, request) = sut.take();
    assert_eq!(path, path_to(2, 500, 500));
    let (mut peer, response) = crate::peer::Peer::answer_init(&request, &[]);
    sut.give(path, &response);
    let (header, auth) = peer.take(&mut sut);
    let answer = crate::talk::auth_answer(&peer, &auth);
    peer.reply(&mut sut, &header, &answer);
    let Some(EffectAction::InstallInbound(spec)) = sut.held.front().map(|effect| &effect.action) else {
        panic!("the inbound half is first")
    };
    assert_eq!(
        (spec.replay_window, spec.esn, spec.mode),
        (4096, true, Mode::Transport)
    );
    assert_eq!(spec.reqid, configured(1).children[0].reqid);
    assert_eq!(spec.key.0.len(), 36);
    assert!(spec.soft_lifetime.time < spec.lifetime.time);
}

#[test]
fn r13_whatever_fails_where_every_exchange_ends_in_a_known_state() {
    // The peer falls silent after each step in turn; at last the engine begins again, and holds nothing else.
    for step in 0..3 {
        let mut sut = Sut::with(configured(1));
        let (path, request) = sut.take();
        if step > 0 {
            let (mut peer, response) = crate::peer::Peer::answer_init(&request, &[]);
            sut.give(path, &response);
            let (header, auth) = peer.take(&mut sut);
            if step > 1 {
                let answer = crate::talk::auth_answer(&peer, &auth);
                peer.reply(&mut sut, &header, &answer);
            }
        }
        sut.pass(Duration::from_mins(10));
        let counts = sut.endpoint.counts();
        assert_eq!(
            (counts.ike_sas, counts.child_sas, counts.half_open),
            (0, 0, 0),
            "step {step}"
        );
        assert!(
            counts.initiating <= 1 && counts.timers == 1,
            "step {step}: {counts:?}"
        );
        assert!(counts.offered_spis == counts.initiating);
        sut.command(Command::RemovePeer { peer: PEER });
        assert_eq!(sut.endpoint.counts(), Counts::default());
    }
}
