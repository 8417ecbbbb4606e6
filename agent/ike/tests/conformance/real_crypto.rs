//! The two providers against each other through the whole engine: shared secrets and ECDSA certificates' keys.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ipsecmesh_crypto::PROVIDERS;
use ipsecmesh_ike::crypto::Provider;
use ipsecmesh_ike::*;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{DerSignature, SigningKey};
use p256::pkcs8::EncodePublicKey as _;

use crate::support::{name_of, peer_config, psk};
use crate::sut::SECRET;

struct Key(SigningKey);

impl Signer for Key {
    fn algorithms(&self) -> &[SignatureAlgorithm] {
        &[SignatureAlgorithm::EcdsaP256Sha256]
    }

    fn sign(&self, _: SignatureAlgorithm, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let signature: DerSignature = self.0.sign(message);
        Ok(signature.as_bytes().to_vec())
    }
}

fn key_of(host: u8) -> SigningKey {
    SigningKey::from_slice(&[host; 32]).unwrap()
}

/// Takes a name for a certificate and knows each name's key.
struct Directory;

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
        let der = key_of(host).verifying_key().to_public_key_der().unwrap();
        Ok(der.as_bytes().to_vec())
    }

    fn authorities(&self) -> Vec<[u8; 20]> {
        Vec::new()
    }
}

struct End {
    endpoint: Endpoint,
    sent: VecDeque<(Path, Vec<u8>)>,
    keys: Vec<(bool, Vec<u8>)>,
}

impl End {
    fn new(host: u8, provider: &'static Provider) -> Self {
        let credentials = Credentials {
            chain: Arc::from([name_of(host).into_bytes()]),
            signer: Arc::new(Key(key_of(host))),
        };
        let config = EndpointConfig {
            credentials: Some(credentials),
            verifier: Arc::new(Directory),
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

fn established(providers: [&'static Provider; 2], auth: &PeerAuth, method: KeyExchange, prf: Prf) {
    let mut ends = [End::new(1, providers[0]), End::new(2, providers[1])];
    let mut now = Now::default();
    for (index, end) in ends.iter_mut().enumerate() {
        let host = u8::try_from(index).unwrap() + 1;
        let mut config = peer_config(host, 3 - host, 1);
        config.auth = auth.clone();
        config.ike_proposals[0].key_exchange = vec![method];
        config.ike_proposals[0].prf = vec![prf];
        config.ike_proposals[0].additional = match (method, prf) {
            (KeyExchange::X25519, Prf::HmacSha384) => vec![Kem::MlKem768],
            (KeyExchange::X25519, Prf::HmacSha256) => vec![Kem::MlKem512],
            (KeyExchange::Ecp256 | KeyExchange::Ecp384, Prf::HmacSha384) => vec![Kem::MlKem1024],
            _ => Vec::new(),
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
