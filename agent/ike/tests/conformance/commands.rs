//! What the driver relies on.

use std::time::Duration;

use ipsecmesh_ike::crypto::{
    ActiveKeyExchange, CryptoError, Decapsulator, KemBackend, KeyExchangeBackend, Provider, Secret,
    SecureRandom,
};
use ipsecmesh_ike::wire::{Delete, ExchangeType, NotifyType};
use ipsecmesh_ike::*;

use crate::peer::clear;
use crate::support::{cheap, credentials, endpoint_config, peer_config, with_kem};
use crate::sut::{PEER, Sut, answering, configured, path_to};
use crate::talk::{deleted_spis, peer_began, peer_began_with, we_have_a_pair};

fn upsert(sut: &mut Sut, config: PeerConfig) {
    sut.command(Command::UpsertPeer(Box::new(config)));
}

/// Nothing was sent, asked of the kernel or told.
fn unmoved(sut: &Sut, before: (usize, usize, Counts)) {
    sut.assert_silent();
    assert_eq!((sut.log.len(), sut.events.len(), sut.endpoint.counts()), before);
}

#[test]
fn the_same_configuration_again_is_nothing() {
    let (mut sut, _, _) = we_have_a_pair();
    let before = (sut.log.len(), sut.events.len(), sut.endpoint.counts());
    let deadline = sut.endpoint.poll_timeout();
    for _ in 0..3 {
        upsert(&mut sut, configured(1));
    }
    unmoved(&sut, before);
    assert_eq!(sut.endpoint.poll_timeout(), deadline);

    // Not while it is still being negotiated, either.
    let mut sut = Sut::with(configured(1));
    sut.sent.clear();
    let before = (sut.log.len(), sut.events.len(), sut.endpoint.counts());
    upsert(&mut sut, configured(1));
    unmoved(&sut, before);
}

#[test]
fn one_changed_child_leaves_the_others_alone() {
    let (mut sut, peer, _) = peer_began_with(answering(2));
    let mut config = answering(2);
    config.children[1].reqid += 100;
    let before = (sut.log.len(), sut.events.len(), sut.endpoint.counts());
    upsert(&mut sut, config.clone());
    unmoved(&sut, before);
    config.children[0].lifetime.bytes = Some(1 << 30);
    upsert(&mut sut, config);
    let (_, request) = peer.take(&mut sut);
    assert!(request.notify(NotifyType::REKEY_SA).is_some());
    assert_eq!(sut.halves(), (1, 1));
}

#[test]
fn a_child_that_is_added_is_negotiated_and_one_that_is_removed_is_deleted() {
    let (mut sut, mut peer, inbound) = we_have_a_pair();
    upsert(&mut sut, configured(2));
    let (header, request) = peer.take(&mut sut);
    assert_eq!(header.exchange, ExchangeType::CREATE_CHILD_SA);
    assert!(request.notify(NotifyType::REKEY_SA).is_none());
    peer.reply(&mut sut, &header, &[]);
    let mut config = configured(2);
    config.children.remove(0);
    upsert(&mut sut, config);
    // Child 2 is tried again with the new configuration.
    let (header, _) = peer.take(&mut sut);
    peer.reply(&mut sut, &header, &[]);
    let (_, request) = peer.take(&mut sut);
    assert_eq!(deleted_spis(&request), [inbound]);
    assert_eq!(sut.halves(), (1, 0));
}

#[test]
fn other_ike_proposals_rekey_the_ike_sa_and_keep_the_pair() {
    let (mut sut, peer, _) = peer_began();
    let mut config = answering(1);
    config.ike_proposals[0].prf = vec![Prf::HmacSha256];
    upsert(&mut sut, config);
    assert!(peer.take(&mut sut).1.key_exchange().is_some());
    assert_eq!(sut.halves(), (1, 1));
}

#[test]
fn another_address_is_another_peer() {
    let (mut sut, peer, _) = peer_began();
    let mut config = answering(1);
    config.remote_address = crate::support::address_of(8);
    upsert(&mut sut, config);
    let (_, told) = peer.take(&mut sut);
    assert!(told.deletes().any(|delete| *delete == Delete::Ike));
    let stranger = sut.give(path_to(2, 500, 500), &crate::draft::Draft::new(7).request());
    assert_eq!(stranger, Disposition::Dropped(DropReason::UnknownPeer));
}

#[test]
fn a_removed_peer_leaves_nothing() {
    let (mut sut, mut peer, _) = we_have_a_pair();
    sut.command(Command::RemovePeer { peer: PEER });
    assert_eq!(sut.halves(), (1, 0), "outbound first");
    let (header, told) = peer.take(&mut sut);
    assert!(told.deletes().any(|delete| *delete == Delete::Ike));
    peer.reply(&mut sut, &header, &[]);
    sut.pass(Duration::from_secs(6));
    assert_eq!(sut.halves(), (0, 0));
    assert_eq!(sut.endpoint.counts(), Counts::default());
    assert_eq!(sut.endpoint.poll_timeout(), None);
    let now = sut.now();
    let again = sut
        .endpoint
        .handle_command(Command::RemovePeer { peer: PEER }, now);
    assert_eq!(again, Err(CommandError::UnknownPeer));
}

#[test]
fn a_peer_that_is_removed_while_it_is_begun_leaves_nothing() {
    let mut sut = Sut::with(configured(1));
    sut.command(Command::RemovePeer { peer: PEER });
    assert_eq!(sut.endpoint.counts(), Counts::default());
    let mut sut = Sut::with(answering(1));
    crate::draft::Draft::new(1).exchange(&mut sut);
    sut.command(Command::RemovePeer { peer: PEER });
    assert_eq!(sut.endpoint.counts(), Counts::default());
}

#[test]
fn before_the_first_certificate_exchanges_wait_and_the_driver_is_told_once() {
    let config = EndpointConfig {
        credentials: None,
        ..endpoint_config(1, 1)
    };
    let mut sut = Sut::empty(config, cheap::provider());
    upsert(&mut sut, peer_config(1, 2, 1));
    let request = crate::draft::Draft::new(1).request();
    for _ in 0..3 {
        let early = sut.give(path_to(2, 500, 500), &request);
        assert_eq!(early, Disposition::Dropped(DropReason::NoCredentials));
    }
    sut.pass(Duration::from_mins(10));
    sut.assert_silent();
    assert_eq!(sut.failures(), [Failure::NoCredentials]);

    sut.command(Command::SetCredentials(credentials(1)));
    assert_eq!(clear(&sut.take().1).0.exchange, ExchangeType::IKE_SA_INIT);
    let answer = sut.ask(path_to(2, 500, 500), &request);
    assert!(clear(&answer).0.responder_spi.is_some());
}

#[test]
fn a_renewed_certificate_touches_no_sa() {
    let (mut sut, _, _) = we_have_a_pair();
    let before = (sut.log.len(), sut.events.len(), sut.endpoint.counts());
    sut.command(Command::SetCredentials(credentials(1)));
    unmoved(&sut, before);
}

#[test]
fn a_retry_begins_anew_at_once_and_leaves_a_standing_sa_alone() {
    let mut sut = Sut::empty(endpoint_config(1, 1), cheap::provider());
    let unknown = sut
        .endpoint
        .handle_command(Command::RetryPeer { peer: PEER }, sut.now());
    assert_eq!(unknown, Err(CommandError::UnknownPeer));

    upsert(&mut sut, peer_config(1, 2, 1));
    let first = clear(&sut.take().1).0.initiator_spi;
    sut.command(Command::RetryPeer { peer: PEER });
    assert_ne!(clear(&sut.take().1).0.initiator_spi, first);

    let (mut sut, _, _) = we_have_a_pair();
    let before = (sut.log.len(), sut.events.len(), sut.endpoint.counts());
    sut.command(Command::RetryPeer { peer: PEER });
    unmoved(&sut, before);
}

#[test]
fn rekey_commands_are_idempotent_and_name_what_they_do_not_know() {
    let (mut sut, peer, _) = we_have_a_pair();
    for _ in 0..3 {
        sut.command(Command::RekeyChild {
            peer: PEER,
            child: ChildId(1),
        });
        sut.command(Command::RekeyIke { peer: PEER });
    }
    assert!(peer.take(&mut sut).1.notify(NotifyType::REKEY_SA).is_some());
    sut.assert_silent();
    let now = sut.now();
    let unknown = [
        (Command::RekeyIke { peer: PeerId(9) }, CommandError::UnknownPeer),
        (
            Command::RekeyChild {
                peer: PEER,
                child: ChildId(9),
            },
            CommandError::UnknownChild,
        ),
        (
            Command::RekeyChild {
                peer: PeerId(9),
                child: ChildId(1),
            },
            CommandError::UnknownPeer,
        ),
    ];
    for (command, error) in unknown {
        assert_eq!(sut.endpoint.handle_command(command, now), Err(error));
    }
}

#[test]
fn a_configuration_that_cannot_be_carried_out_is_refused_by_name() {
    type Change = fn(&mut PeerConfig);
    let mut sut = Sut::with(answering(1));
    let wrong: [(Change, &str); 5] = [
        (
            |config| config.remote_address = "::1".parse().unwrap(),
            "remote_address",
        ),
        (|config| config.ike_proposals.clear(), "ike_proposals"),
        (
            |config| config.children[0].proposals.clear(),
            "children.proposals",
        ),
        (
            |config| config.children[0].local_selectors.clear(),
            "children.local_selectors",
        ),
        (
            |config| config.children[0].rekey_margin_percent = 0,
            "children.rekey_margin_percent",
        ),
    ];
    for (change, field) in wrong {
        let mut config = answering(1);
        change(&mut config);
        let now = sut.now();
        let error = sut
            .endpoint
            .handle_command(Command::UpsertPeer(Box::new(config)), now);
        let error = error.unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
    let mut twin = answering(1);
    twin.id = PeerId(77);
    let now = sut.now();
    let error = sut
        .endpoint
        .handle_command(Command::UpsertPeer(Box::new(twin)), now);
    assert_eq!(error, Err(CommandError::DuplicateAddresses));
}

#[test]
fn an_end_that_only_answers_begins_itself_after_its_grace_time() {
    let mut config = configured(1);
    config.initiation = Initiation::EagerAfter {
        grace: Duration::from_secs(3),
    };
    let mut sut = Sut::with(config);
    sut.assert_silent();
    let wait = sut.pass_until_sent(Duration::from_secs(4));
    assert_eq!(wait, Duration::from_secs(3));
}

#[test]
fn outcomes_of_unknown_effects_and_early_timeouts_do_nothing() {
    let (mut sut, _, _) = we_have_a_pair();
    let before = (sut.log.len(), sut.events.len(), sut.endpoint.counts());
    let now = sut.now();
    sut.endpoint
        .handle_effect(EffectId(999_999), EffectOutcome::Done, now);
    sut.endpoint.handle_timeout(now);
    sut.pass(Duration::ZERO);
    unmoved(&sut, before);
}

/// A library that has nothing but curves.
struct Curves;

impl KeyExchangeBackend for Curves {
    fn has(&self, method: KeyExchange) -> bool {
        !matches!(
            method,
            KeyExchange::Modp2048 | KeyExchange::Modp3072 | KeyExchange::Modp4096
        )
    }

    fn start(
        &self,
        method: KeyExchange,
        random: &dyn SecureRandom,
    ) -> Result<Box<dyn ActiveKeyExchange>, CryptoError> {
        cheap::provider().key_exchange.start(method, random)
    }
}

impl KemBackend for Curves {
    fn has(&self, kem: Kem) -> bool {
        kem != Kem::MlKem512
    }

    fn generate(&self, kem: Kem, random: &dyn SecureRandom) -> Result<Box<dyn Decapsulator>, CryptoError> {
        cheap::provider().kem.generate(kem, random)
    }

    fn encapsulate(
        &self,
        kem: Kem,
        public_key: &[u8],
        random: &dyn SecureRandom,
    ) -> Result<(Vec<u8>, Secret), CryptoError> {
        cheap::provider().kem.encapsulate(kem, public_key, random)
    }
}

#[test]
fn a_method_that_the_provider_lacks_is_refused_with_both_names() {
    let provider: &'static Provider = Box::leak(Box::new(Provider {
        name: "curves-only",
        key_exchange: &Curves,
        kem: &Curves,
        ..*cheap::provider()
    }));
    let refused = |edit: fn(&mut PeerConfig)| {
        let mut config = answering(1);
        edit(&mut config);
        let mut endpoint = Endpoint::new(endpoint_config(1, 1), provider, [1; 32], Now::default());
        let command = Command::UpsertPeer(Box::new(config));
        endpoint
            .handle_command(command, Now::default())
            .map_err(|error| error.to_string())
    };
    assert_eq!(refused(|_| {}), Ok(()));
    let message = |field: &str, method: &str| {
        Err(format!(
            "invalid configuration: {field}: the crypto provider curves-only has no {method}; take it out of the \
             proposals, or choose another provider"
        ))
    };
    assert_eq!(
        refused(|config| config.ike_proposals[0].key_exchange.push(KeyExchange::Modp3072)),
        message("ike_proposals", "MODP-3072")
    );
    assert_eq!(
        refused(|config| config.ike_proposals[0].additional = with_kem(Kem::MlKem512)),
        message("ike_proposals", "ML-KEM-512")
    );
    assert_eq!(
        refused(|config| config.children[0].proposals[0].key_exchange = vec![KeyExchange::Modp2048]),
        message("children.proposals", "MODP-2048")
    );
}
