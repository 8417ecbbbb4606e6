//! The two providers against each other through the whole engine: shared secrets, and certificates' keys of every kind.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{Ed25519KeyPair, RsaKeyPair};
use ipsecmesh_crypto::{KeyEncoding, PROVIDERS, PrivateKey, private_key};
use ipsecmesh_ike::crypto::Provider;
use ipsecmesh_ike::*;
use p256::pkcs8::EncodePrivateKey as _;

use crate::support::{name_of, peer_config, psk, with_kem};
use crate::sut::SECRET;

/// Kinds of keys, as certificates have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ed25519,
    P256,
    P384,
    P521,
    Rsa,
}

const KINDS: [Kind; 5] = [Kind::Ed25519, Kind::P256, Kind::P384, Kind::P521, Kind::Rsa];

/// The key of a host in PKCS #8.
fn pkcs8(kind: Kind, host: u8) -> Vec<u8> {
    static RSA: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
        [(), ()].map(|()| {
            let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
            AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap().as_ref().to_vec()
        })
    });
    let document = match kind {
        Kind::Ed25519 => {
            let pair = Ed25519KeyPair::from_seed_unchecked(&[host; 32]).unwrap();
            return pair.to_pkcs8v1().unwrap().as_ref().to_vec();
        }
        Kind::Rsa => return RSA[usize::from(host) - 1].clone(),
        Kind::P256 => p256::SecretKey::from_slice(&[host; 32]).unwrap().to_pkcs8_der(),
        Kind::P384 => p384::SecretKey::from_slice(&[host; 48]).unwrap().to_pkcs8_der(),
        Kind::P521 => {
            let mut number = [host; 66];
            number[0] = 0;
            p521::SecretKey::from_slice(&number).unwrap().to_pkcs8_der()
        }
    };
    document.unwrap().as_bytes().to_vec()
}

fn key_of(kind: Kind, host: u8, provider: &'static Provider) -> Arc<dyn PrivateKey> {
    private_key(provider, KeyEncoding::Pkcs8, &pkcs8(kind, host)).unwrap()
}

/// Takes a name for a certificate and knows each name's key.
struct Directory([Kind; 2]);

impl CertificateVerifier for Directory {
    fn verify(
        &self,
        peer: PeerId,
        _: &Identity,
        chain: &[&[u8]],
        _: WallTime,
    ) -> Result<Vec<u8>, CertificateError> {
        let host = u8::try_from(peer.0).unwrap();
        if chain.first() != Some(&name_of(host).as_bytes()) {
            return Err(CertificateError("another name".to_owned()));
        }
        let kind = self.0[usize::from(host) - 1];
        Ok(key_of(kind, host, PROVIDERS[0]).public_key().to_vec())
    }

    fn authorities(&self, _: PeerId) -> Vec<[u8; 20]> {
        Vec::new()
    }
}

struct End {
    endpoint: Endpoint,
    sent: VecDeque<(Path, Vec<u8>)>,
    keys: Vec<(bool, Vec<u8>)>,
}

impl End {
    fn new(host: u8, provider: &'static Provider, kinds: [Kind; 2]) -> Self {
        let credentials = Credentials {
            chain: Arc::from([name_of(host).into_bytes()]),
            signer: key_of(kinds[usize::from(host) - 1], host, provider),
        };
        let config = EndpointConfig {
            credentials: Some(credentials),
            verifier: Arc::new(Directory(kinds)),
            ..crate::support::endpoint_config(host, host)
        };
        Self {
            endpoint: Endpoint::new(config, provider, [host; 32], Now::default()),
            sent: VecDeque::new(),
            keys: Vec::new(),
        }
    }

    fn drain(&mut self, now: Now) {
        while let Some(effect) = self.endpoint.poll_effect() {
            match &effect.action {
                EffectAction::InstallInbound(spec) => self.keys.push((true, spec.key.0.to_vec())),
                EffectAction::InstallOutbound(spec) => self.keys.push((false, spec.key.0.to_vec())),
                EffectAction::Encapsulate(..)
                | EffectAction::RemoveInbound(_)
                | EffectAction::RemoveOutbound(_) => {}
            }
            self.endpoint.handle_effect(effect.id, EffectOutcome::Done, now);
        }
        let mut buffer = Vec::new();
        while let Some(transmit) = self.endpoint.poll_transmit(&mut buffer) {
            self.sent.push_back((transmit.path, buffer.clone()));
        }
    }
}

/// Carries datagrams until nobody says anything.
fn talk(ends: &mut [End; 2], now: Now) {
    for _ in 0..200 {
        let from = usize::from(ends[0].sent.is_empty());
        let Some((path, mut datagram)) = ends[from].sent.pop_front() else {
            return;
        };
        let path = Path {
            local: path.remote,
            remote: path.local,
        };
        ends[1 - from].endpoint.handle_datagram(path, &mut datagram, now);
        ends[1 - from].drain(now);
    }
    panic!("the ends talk without end");
}

/// As many additional key exchanges as there can be, of every kind.
fn seven() -> AdditionalKeyExchanges {
    AdditionalKeyExchanges::new(&[
        AdditionalKeyExchange::Kem(Kem::MlKem768),
        AdditionalKeyExchange::Method(KeyExchange::Ecp384),
        AdditionalKeyExchange::Kem(Kem::MlKem512),
        AdditionalKeyExchange::Method(KeyExchange::X25519),
        AdditionalKeyExchange::Kem(Kem::MlKem1024),
        AdditionalKeyExchange::Method(KeyExchange::Modp2048),
        AdditionalKeyExchange::Method(KeyExchange::Ecp256),
    ])
    .unwrap()
}

fn established(providers: [&'static Provider; 2], auth: &PeerAuth, method: KeyExchange, prf: Prf) {
    let kinds = [Kind::P256; 2];
    let mut ends = [End::new(1, providers[0], kinds), End::new(2, providers[1], kinds)];
    let mut now = Now::default();
    for (index, end) in ends.iter_mut().enumerate() {
        let host = u8::try_from(index).unwrap() + 1;
        let mut config = peer_config(host, 3 - host, 1);
        config.auth = auth.clone();
        config.ike_proposals[0].key_exchange = vec![method];
        config.ike_proposals[0].prf = vec![prf];
        config.ike_proposals[0].additional = match (method, prf) {
            (KeyExchange::X25519, Prf::HmacSha384) => with_kem(Kem::MlKem768),
            (KeyExchange::X25519, Prf::HmacSha256) => with_kem(Kem::MlKem512),
            (KeyExchange::Ecp256 | KeyExchange::Ecp384, Prf::HmacSha384) => with_kem(Kem::MlKem1024),
            (KeyExchange::Ecp521, Prf::HmacSha512) => seven(),
            _ => AdditionalKeyExchanges::NONE,
        };
        // Each PRF stands for one kind of cipher.
        let (cipher, integrity) = match (prf, method) {
            (Prf::HmacSha256, KeyExchange::Ecp256) => (Encryption::AesCbcKey128, vec![Integrity::HmacSha256]),
            (Prf::HmacSha384, KeyExchange::Ecp384) => (Encryption::AesCbcKey256, vec![Integrity::HmacSha384]),
            (Prf::HmacSha512, KeyExchange::Ecp521) => (Encryption::AesCbcKey256, vec![Integrity::HmacSha512]),
            (Prf::HmacSha256, _) => (Encryption::AesGcm16Key128, Vec::new()),
            (Prf::HmacSha384, _) => (Encryption::AesGcm16Key256, Vec::new()),
            (Prf::HmacSha512, _) => (Encryption::ChaCha20Poly1305, Vec::new()),
        };
        config.ike_proposals[0].encryption = vec![cipher];
        config.ike_proposals[0].integrity.clone_from(&integrity);
        config.children[0].proposals[0].encryption = vec![cipher];
        config.children[0].proposals[0].integrity = integrity;
        config.children[0].proposals[0].key_exchange = vec![method];
        config.children[0].proposals[0].additional = config.ike_proposals[0].additional;
        if host == 2 {
            config.initiation = Initiation::OnDemand;
        }
        end.endpoint
            .handle_command(Command::UpsertPeer(Box::new(config)), now)
            .unwrap();
        end.drain(now);
    }
    talk(&mut ends, now);
    now.mono = now.mono + Duration::from_secs(1);
    for command in [
        Command::RekeyIke { peer: PeerId(2) },
        Command::RekeyChild {
            peer: PeerId(2),
            child: ChildId(1),
        },
    ] {
        ends[0].endpoint.handle_command(command, now).unwrap();
        ends[0].drain(now);
        talk(&mut ends, now);
    }
    assert_eq!(ends[0].keys.len(), 4, "two pairs");
    for (inbound, key) in &ends[0].keys {
        assert!(
            ends[1].keys.contains(&(!inbound, key.clone())),
            "both ends have the same keys"
        );
    }
    assert_eq!(ends[0].endpoint.counts().ike_sas, 1);
}

#[test]
fn both_providers_agree_on_every_suite_with_both_proofs_and_through_both_rekeys() {
    for first in PROVIDERS {
        for second in PROVIDERS {
            for method in [
                KeyExchange::X25519,
                KeyExchange::Ecp256,
                KeyExchange::Ecp384,
                KeyExchange::Ecp521,
            ] {
                for prf in [Prf::HmacSha256, Prf::HmacSha384, Prf::HmacSha512] {
                    established([first, second], &psk(SECRET), method, prf);
                    established([first, second], &PeerAuth::Certificate, method, prf);
                }
            }
            // What external peers may need besides.
            for method in [
                KeyExchange::Modp2048,
                KeyExchange::Modp3072,
                KeyExchange::Modp4096,
            ] {
                established([first, second], &psk(SECRET), method, Prf::HmacSha256);
            }
        }
    }
}

/// Host 1 begins, host 2 answers, with keys of these kinds.
fn met(providers: [&'static Provider; 2], kinds: [Kind; 2]) -> [End; 2] {
    let mut ends = [End::new(1, providers[0], kinds), End::new(2, providers[1], kinds)];
    for (end, host) in ends.iter_mut().zip([1, 2]) {
        let mut config = peer_config(host, 3 - host, 1);
        if host == 2 {
            config.initiation = Initiation::OnDemand;
        }
        let command = Command::UpsertPeer(Box::new(config));
        end.endpoint.handle_command(command, Now::default()).unwrap();
        end.drain(Now::default());
    }
    talk(&mut ends, Now::default());
    ends
}

#[test]
fn every_kind_of_certificate_proves_either_end_to_every_other_kind() {
    for (first, second) in [(0, 1), (1, 0), (1, 1)] {
        for ours in KINDS {
            for theirs in KINDS {
                let ends = met([PROVIDERS[first], PROVIDERS[second]], [ours, theirs]);
                for end in ends {
                    assert_eq!(end.endpoint.counts().ike_sas, 1, "{ours:?} and {theirs:?}");
                }
            }
        }
    }
}
