//! What the simulation and the conformance tests share: a cheap deterministic provider, and configurations.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]
#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod cheap;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipsecmesh_ike::*;
use zeroize::Zeroizing;

/// Accepts a chain whose leaf is `expected-name` spelled out, and takes the name for the key.
pub(crate) struct NamesAreKeys;

impl CertificateVerifier for NamesAreKeys {
    fn verify(
        &self,
        _: PeerId,
        identity: &Identity,
        chain: &[&[u8]],
        _: WallTime,
    ) -> Result<Vec<u8>, CertificateError> {
        let Identity::Fqdn(name) = identity else {
            return Err(CertificateError("not a name".to_owned()));
        };
        match chain.first() {
            Some(leaf) if *leaf == name.as_bytes() => Ok(leaf.to_vec()),
            _ => Err(CertificateError("another name".to_owned())),
        }
    }

    fn authorities(&self, _: PeerId) -> Vec<[u8; 20]> {
        vec![[7; 20]]
    }
}

/// Signs with the cheap provider's signature under its own name.
pub(crate) struct NameSigner(pub(crate) String);

impl Signer for NameSigner {
    fn algorithms(&self) -> &[SignatureAlgorithm] {
        &[SignatureAlgorithm::EcdsaSha256]
    }

    fn sign(&self, _: SignatureAlgorithm, message: &[u8]) -> Result<Vec<u8>, SignError> {
        Ok(cheap::signature(self.0.as_bytes(), message).to_vec())
    }
}

pub(crate) fn name_of(host: u8) -> String {
    format!("host-{host}.example")
}

pub(crate) fn address_of(host: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, host])
}

pub(crate) fn credentials(host: u8) -> Credentials {
    Credentials {
        chain: Arc::from([name_of(host).into_bytes()]),
        signer: Arc::new(NameSigner(name_of(host))),
    }
}

pub(crate) fn endpoint_config(host: u8, boot: u8) -> EndpointConfig {
    EndpointConfig {
        boot_id: BootId([boot; 16]),
        credentials: Some(credentials(host)),
        verifier: Arc::new(NamesAreKeys),
        retransmit: Retransmit::default(),
        limits: Limits::default(),
        fragment_size: Some(EndpointConfig::FRAGMENT_SIZE),
    }
}

pub(crate) fn selector(host: u8, protocol: u8, port: Option<u16>) -> TrafficSelector {
    TrafficSelector {
        protocol,
        first_port: port.unwrap_or(0),
        last_port: port.unwrap_or(u16::MAX),
        first_address: address_of(host),
        last_address: address_of(host),
    }
}

pub(crate) fn child(local: u8, remote: u8, id: u32) -> ChildConfig {
    ChildConfig {
        id: ChildId(id),
        mode: Mode::Transport,
        proposals: vec![ChildProposal {
            protocol: SaProtocol::Esp,
            encryption: vec![Encryption::AesGcm16Key256],
            integrity: Vec::new(),
            key_exchange: vec![KeyExchange::X25519],
            additional: AdditionalKeyExchanges::NONE,
        }],
        local_selectors: vec![selector(local, 17, Some(8000 + u16::try_from(id).unwrap()))],
        remote_selectors: vec![selector(remote, 17, Some(8000 + u16::try_from(id).unwrap()))],
        lifetime: Lifetime {
            time: Duration::from_hours(24),
            bytes: None,
            packets: None,
        },
        rekey_margin_percent: 10,
        esn: true,
        replay_window: 4096,
        reqid: 0x1950_0000 + id,
    }
}

pub(crate) fn peer_config(local: u8, remote: u8, children: u32) -> PeerConfig {
    PeerConfig {
        id: PeerId(u64::from(remote)),
        local_address: address_of(local),
        remote_address: address_of(remote),
        local_identity: Identity::Fqdn(name_of(local)),
        remote_identity: Identity::Fqdn(name_of(remote)),
        auth: PeerAuth::Certificate,
        ppk: None,
        ike_proposals: vec![IkeProposal {
            encryption: vec![Encryption::AesGcm16Key256],
            integrity: Vec::new(),
            prf: vec![Prf::HmacSha384],
            key_exchange: vec![KeyExchange::X25519, KeyExchange::Ecp256],
            additional: AdditionalKeyExchanges::NONE,
        }],
        ike_lifetime: Duration::from_hours(100),
        liveness: Liveness {
            interval: Duration::from_secs(10),
            max_retries: 3,
            action: LivenessAction::Restart,
        },
        initiation: Initiation::Eager,
        encapsulation: Encapsulation::Auto,
        children: (1..=children).map(|id| child(local, remote, id)).collect(),
    }
}

/// Additional key exchanges in this order.
pub(crate) fn with_additional(methods: &[AdditionalKeyExchange]) -> AdditionalKeyExchanges {
    AdditionalKeyExchanges::new(methods).expect("at most seven, each once")
}

/// One additional key exchange.
pub(crate) fn with_kem(kem: Kem) -> AdditionalKeyExchanges {
    with_additional(&[AdditionalKeyExchange::Kem(kem)])
}

pub(crate) fn psk(secret: &[u8]) -> PeerAuth {
    PeerAuth::Psk {
        current: Zeroizing::new(secret.to_vec()),
        previous: None,
    }
}
