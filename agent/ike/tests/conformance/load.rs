//! What a flood of requests to begin costs: nothing that lasts, no work with public keys, and never an answer longer
//! than its question (RFC 7296 §2.6, §2.21.1).

use std::cell::Cell;
use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use ipsecmesh_ike::crypto::{ActiveKeyExchange, CryptoError, KeyExchangeBackend, Provider, SecureRandom};
use ipsecmesh_ike::wire::{Nonce, NotifyType};
use ipsecmesh_ike::*;

use crate::draft::Draft;
use crate::peer::{clear, kinds};
use crate::support::{cheap, endpoint_config};
use crate::sut::{Sut, answering, path_to};

thread_local! {
    static STARTED: Cell<u32> = const { Cell::new(0) };
}

/// Counts how often a key exchange is started.
struct Counted;

impl KeyExchangeBackend for Counted {
    fn has(&self, method: KeyExchange) -> bool {
        cheap::provider().key_exchange.has(method)
    }

    fn start(
        &self,
        method: KeyExchange,
        random: &dyn SecureRandom,
    ) -> Result<Box<dyn ActiveKeyExchange>, CryptoError> {
        STARTED.set(STARTED.get() + 1);
        cheap::provider().key_exchange.start(method, random)
    }
}

fn counting() -> &'static Provider {
    let provider = Provider {
        key_exchange: &Counted,
        ..*cheap::provider()
    };
    Box::leak(Box::new(provider))
}

/// An engine that answers, and asks everybody for a cookie when `threshold` is 0.
fn sut(threshold: usize) -> Sut {
    let mut config = endpoint_config(1, 1);
    config.limits.cookie_threshold = threshold;
    let mut sut = Sut::empty(config, counting());
    sut.command(Command::UpsertPeer(Box::new(answering(1))));
    sut
}

/// A request that nobody has sent before, with so many bytes more than it needs.
fn fresh(number: u32, more: usize) -> Draft {
    let mut draft = Draft::new(1);
    draft.spi = IkeSpi::new(0x1000 + u64::from(number)).unwrap();
    let mut nonce = [0; 32];
    nonce[..4].copy_from_slice(&number.to_be_bytes());
    draft.nonce = Nonce::from(nonce);
    draft.padding = more;
    draft
}

/// What one datagram costs, until its answer has been sent.
fn cost(sut: &mut Sut, host: u8, datagram: &[u8]) -> (Disposition, AllocationInfo) {
    let now = sut.now();
    let path = path_to(host, 500, 500);
    let (mut datagram, mut answer) = (datagram.to_vec(), Vec::with_capacity(2000));
    let mut disposition = Disposition::Accepted;
    let cost = measure(|| {
        disposition = sut.endpoint.handle_datagram(path, &mut datagram, now);
        while sut.endpoint.poll_transmit(&mut answer).is_some() {}
    });
    (disposition, cost)
}

#[test]
fn a_flood_under_load_leaves_nothing_and_starts_no_key_exchange() {
    let mut sut = sut(0);
    // The first cookie makes the secret, and the queue of answers its room.
    cost(&mut sut, 2, &fresh(0, 0).request());
    let before = sut.endpoint.counts();
    STARTED.set(0);
    let mut forged = Vec::new();
    for number in 1..2000 {
        let mut draft = fresh(number, 0);
        draft.cookie = Some(vec![0; 33]);
        forged.push((
            fresh(number, usize::try_from(number).unwrap()).request(),
            draft.request(),
        ));
    }
    let begun = STARTED.get();
    for (plain, forged) in &forged {
        let (disposition, asked) = cost(&mut sut, 2, plain);
        assert_eq!(disposition, Disposition::Answered(AnswerReason::Cookie));
        assert_eq!(asked.bytes_current, 0, "nothing lasts");
        assert!(asked.bytes_max < 1024, "no more for a longer request: {asked:?}");

        let (disposition, refused) = cost(&mut sut, 2, forged);
        assert_eq!(disposition, Disposition::Dropped(DropReason::BadCookie));
        assert_eq!(refused.bytes_current, 0, "nothing lasts");
        assert!(refused.count_total <= 4, "one MAC: {refused:?}");
    }
    assert_eq!(sut.endpoint.counts(), before);
    assert_eq!(STARTED.get(), begun, "no work with public keys");
}

#[test]
fn strangers_and_endless_requests_cost_no_allocation_at_all() {
    let mut sut = sut(0);
    let (disposition, stranger) = cost(&mut sut, 77, &fresh(1, 100).request());
    assert_eq!(disposition, Disposition::Dropped(DropReason::UnknownPeer));
    assert_eq!(stranger.count_total, 0);
    let (disposition, endless) = cost(&mut sut, 2, &fresh(1, 5000).request());
    assert_eq!(disposition, Disposition::Dropped(DropReason::Malformed));
    assert_eq!(endless.count_total, 0);
}

#[test]
fn one_source_is_asked_for_cookies_before_others_are() {
    let mut sut = sut(64);
    let mut answers = (0..10).map(|number| cost(&mut sut, 2, &fresh(number, 200).request()).0);
    assert!(
        answers
            .by_ref()
            .take(3)
            .all(|answer| answer == Disposition::Accepted)
    );
    assert!(answers.all(|answer| answer == Disposition::Answered(AnswerReason::Cookie)));
}

#[test]
fn whoever_asks_for_more_bytes_than_it_sends_shows_first_that_it_receives() {
    let mut sut = sut(64);
    STARTED.set(0);
    let mut short = fresh(1, 0);
    short.nonce = Nonce::new(vec![7; 16]).unwrap();
    let begun = STARTED.get();
    let answer = sut.ask(path_to(2, 500, 500), &short.request());
    assert_eq!(kinds(&clear(&answer).1), [NotifyType::COOKIE]);
    assert_eq!((STARTED.get(), sut.endpoint.counts().half_open), (begun, 0));
    short.cookie = Some(clear(&answer).1.notify(NotifyType::COOKIE).unwrap().data.clone());
    let response = sut.ask(path_to(2, 500, 500), &short.request());
    assert!(clear(&response).0.responder_spi.is_some());
}

#[test]
fn no_answer_in_clear_is_longer_than_its_question() {
    let mut versions = fresh(1, 0).request();
    versions[17] = 0x30;
    let mut header = versions[..28].to_vec();
    header[16] = 0;
    header[24..28].copy_from_slice(&28_u32.to_be_bytes());
    let mut critical = fresh(1, 0).request();
    critical[16] = 200;
    critical[28 + 1] = 0x80;
    let mut nothing = fresh(2, 0);
    nothing.proposals[0].prf = vec![Prf::HmacSha512];
    for question in [
        versions,
        header,
        critical,
        nothing.request(),
        fresh(3, 0).request(),
        fresh(4, 500).request(),
    ] {
        let mut sut = sut(64);
        for _ in 0..3 {
            sut.give(path_to(2, 500, 500), &question);
            let answered: usize = sut.sent.drain(..).map(|(_, answer)| answer.len()).sum();
            assert!(
                answered <= question.len(),
                "{answered} for {} bytes",
                question.len()
            );
        }
        sut.pass(Duration::from_mins(1));
        assert_eq!(sut.endpoint.counts().half_open, 0);
    }
}
