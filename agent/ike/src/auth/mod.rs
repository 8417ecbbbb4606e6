//! Proof of identity in IKE_AUTH: signatures (RFC 7427) and shared keys (RFC 7296 §2.15).

use crate::config::{Identity, PeerAuth, SignatureAlgorithm};
use crate::crypto::{AuthKeys, CryptoError, Intermediate, PublicKey, SignedOctets, psk_auth};
use crate::endpoint::Endpoint;
use crate::types::PeerId;
use crate::wire::{
    Auth, AuthMethod, Body, Certificate, CertificateEncoding, CertificateRequest, HashAlgorithm,
    Identification, Message, Nonce, NotifyType, Payload, Payloads, Role, SignatureAuth,
};

/// What one end's AUTH covers, but for its identity.
#[derive(Clone, Copy)]
pub(crate) struct Proof<'a> {
    pub(crate) keys: &'a AuthKeys,
    /// The end that proves itself.
    pub(crate) signer: Role,
    /// Its IKE_SA_INIT message.
    pub(crate) message: &'a [u8],
    /// The other end's nonce.
    pub(crate) nonce: &'a Nonce,
    /// The IKE_INTERMEDIATE exchange in between.
    pub(crate) intermediate: Option<&'a Intermediate>,
}

/// Which of two shared secrets, while the one takes the other's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Generation {
    Current,
    Previous,
}

/// The peer has proven that it is who the configuration expects: nothing but [`Endpoint::authenticate`] makes one.
pub(crate) struct PeerAuthenticated {
    identity: Identity,
    generation: Generation,
}

impl PeerAuthenticated {
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The secret that the peer has used.
    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }
}

impl Endpoint {
    /// The payloads that prove our identity: CERT where it has one, then AUTH. `other` is the peer's IKE_SA_INIT
    /// message, which announces the hashes that it verifies. A responder takes the secret that the peer has used: it may not
    /// know the other one yet.
    pub(crate) fn prove(
        &self,
        peer: PeerId,
        generation: Generation,
        proof: &Proof<'_>,
        id: &Identification,
        other: &[u8],
    ) -> Result<Vec<Payload>, String> {
        let peer = self
            .peers
            .get(&peer)
            .ok_or("the peer is not configured any more")?;
        let octets = SignedOctets::new(
            self.provider,
            proof.keys,
            proof.signer,
            proof.message,
            proof.nonce,
            id,
        )
        .after(proof.intermediate);
        match &peer.config.auth {
            PeerAuth::Psk { current, previous } => {
                let secret = match generation {
                    Generation::Current => current,
                    Generation::Previous => previous.as_ref().unwrap_or(current),
                };
                let mac = psk_auth(self.provider, proof.keys.prf(), secret, &octets);
                let auth = Auth {
                    method: AuthMethod::SHARED_KEY,
                    data: mac.expose().to_vec(),
                };
                Ok(vec![Payload::Auth(auth)])
            }
            PeerAuth::Certificate => {
                let credentials = self
                    .config
                    .credentials
                    .as_ref()
                    .ok_or("this host has no certificate")?;
                let announced = announced(other);
                let offered = credentials.signer.algorithms();
                let algorithm = offered
                    .iter()
                    .copied()
                    .find(|algorithm| announced.contains(&algorithm.hash()))
                    .ok_or_else(|| {
                        format!(
                            "the peer announced the hashes {announced:?}, our key signs with {}: give this host another \
                             key, or let the peer announce more (RFC 7427 §4)",
                            list(offered)
                        )
                    })?;
                let signature = credentials
                    .signer
                    .sign(algorithm, octets.as_bytes())
                    .map_err(|error| error.to_string())?;
                let auth = SignatureAuth { algorithm, signature }
                    .to_auth()
                    .map_err(|error| error.to_string())?;
                let chain = credentials
                    .chain
                    .iter()
                    .cloned()
                    .map(Certificate::x509)
                    .map(Payload::Certificate);
                Ok(chain.chain([Payload::Auth(auth)]).collect())
            }
        }
    }

    /// Judges the peer's identity and its proof. The error is for our log; the peer hears one and the same answer
    /// for all of them.
    pub(crate) fn authenticate(
        &self,
        peer_id: PeerId,
        proof: &Proof<'_>,
        payloads: &Payloads,
    ) -> Result<PeerAuthenticated, String> {
        let peer = self
            .peers
            .get(&peer_id)
            .ok_or("the peer is not configured any more")?;
        let id = match proof.signer {
            Role::Initiator => payloads.id_initiator(),
            Role::Responder => payloads.id_responder(),
        };
        let (Some(id), Some(auth)) = (id, payloads.auth()) else {
            return Err("the peer sent no identity or no proof of it".to_owned());
        };
        let octets = SignedOctets::new(
            self.provider,
            proof.keys,
            proof.signer,
            proof.message,
            proof.nonce,
            id,
        )
        .after(proof.intermediate);
        let expected = &peer.config.remote_identity;
        let claimed = id.identity();
        let known = claimed
            .as_ref()
            .filter(|identity| identity.matches(expected))
            .ok_or_else(|| stranger(claimed.as_ref(), expected));
        let generation = match &peer.config.auth {
            PeerAuth::Psk { current, previous } => {
                let proves = |secret: &[u8]| {
                    psk_auth(self.provider, proof.keys.prf(), secret, &octets).constant_time_eq(&auth.data)
                };
                let by_previous = previous.as_ref().is_some_and(|previous| proves(previous));
                let accepted = match (proves(current), by_previous) {
                    (true, _) => Some(Generation::Current),
                    (false, true) => Some(Generation::Previous),
                    (false, false) => None,
                };
                // Both are judged before either counts: to the peer an unknown identity and a wrong secret look alike.
                known?;
                if auth.method != AuthMethod::SHARED_KEY {
                    return Err(format!(
                        "the peer proves itself by {}, a pre-shared key is expected: let both ends use the same kind",
                        auth.method
                    ));
                }
                accepted.ok_or_else(|| {
                    format!("the peer {expected} has another pre-shared key: give both ends the same")
                })?
            }
            PeerAuth::Certificate => {
                // A certificate speaks for the identity as it was sent (RFC 4945 §3.1).
                self.verify_signature(peer_id, known?, auth, payloads, &octets)?;
                Generation::Current
            }
        };
        Ok(PeerAuthenticated {
            identity: expected.clone(),
            generation,
        })
    }

    fn verify_signature(
        &self,
        peer: PeerId,
        identity: &Identity,
        auth: &Auth,
        payloads: &Payloads,
        octets: &SignedOctets,
    ) -> Result<(), String> {
        if auth.method != AuthMethod::DIGITAL_SIGNATURE {
            return Err(format!(
                "the peer proves itself by {}, a certificate is expected",
                auth.method
            ));
        }
        let signature = SignatureAuth::decode(&auth.data).map_err(|error| {
            let start: Vec<String> = auth
                .data
                .iter()
                .take(24)
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let start = start.concat();
            format!("the peer's signature: {error}; it begins with {start}")
        })?;
        let chain = chain(payloads)?;
        let key = self
            .config
            .verifier
            .verify(peer, identity, &chain, self.now.wall)
            .map_err(|error| format!("the peer's certificate is refused: {error}"))?;
        self.provider
            .signature
            .verify(signature.algorithm, &key, octets.as_bytes(), &signature.signature)
            .map_err(|error| self.unverified(error, signature.algorithm, &key))
    }

    /// Why a signature is refused, for our log.
    fn unverified(&self, error: CryptoError, algorithm: SignatureAlgorithm, key: &[u8]) -> String {
        let provider = self.provider.name;
        let key = PublicKey::parse(key).map_or_else(|_| "unknown".to_owned(), |key| key.to_string());
        match error {
            CryptoError::Unauthenticated => format!(
                "the peer's signature ({algorithm}) does not verify with the {key} key of its certificate"
            ),
            CryptoError::KeyMismatch => {
                format!("the peer signed with {algorithm}, its certificate has an {key} key")
            }
            CryptoError::Unsupported => {
                format!("the crypto provider {provider} does not verify {algorithm} with an {key} key")
            }
            CryptoError::InvalidLength
            | CryptoError::InvalidPublicKey
            | CryptoError::InvalidPublicValue
            | CryptoError::KeyExhausted
            | CryptoError::MessageTooLong
            | CryptoError::Random
            | CryptoError::RsaKeyLength
            | CryptoError::UnsupportedPublicKey => format!("the key of the peer's certificate: {error}"),
        }
    }

    /// CERTREQ: the trust anchors by which `peer` is judged. It goes into the response of IKE_SA_INIT and into the
    /// request of IKE_AUTH (RFC 7296 §1.2).
    pub(crate) fn certificate_request(&self, peer: PeerId) -> Payload {
        let mut authorities = self.config.verifier.authorities(peer);
        // Nobody who has not proven anything gets a long answer; an empty list asks for any certificate.
        if authorities.len() > MOST_AUTHORITIES {
            authorities.clear();
        }
        Payload::CertificateRequest(CertificateRequest::x509(&authorities))
    }
}

/// Most trust anchors in one CERTREQ.
const MOST_AUTHORITIES: usize = 8;
/// Most certificates that a peer may send, and most bytes of one: a chain is the leaf and a few intermediates.
const MOST_CERTIFICATES: usize = 8;
const LONGEST_CERTIFICATE: usize = 8192;

/// The certificates of the peer, leaf first: bounded before anybody looks into one.
fn chain(payloads: &Payloads) -> Result<Vec<&[u8]>, String> {
    let chain: Vec<&[u8]> = payloads
        .certificates()
        .filter(|certificate| certificate.encoding == CertificateEncoding::X509_SIGNATURE)
        .map(|certificate| certificate.data.as_slice())
        .collect();
    let longest = chain.iter().map(|der| der.len()).max().unwrap_or_default();
    if chain.len() > MOST_CERTIFICATES || longest > LONGEST_CERTIFICATE {
        return Err(format!(
            "the peer sent {} certificates, the longest with {longest} bytes: at most {MOST_CERTIFICATES} of \
             {LONGEST_CERTIFICATE} bytes are looked at",
            chain.len()
        ));
    }
    Ok(chain)
}

fn list(algorithms: &[SignatureAlgorithm]) -> String {
    let names: Vec<String> = algorithms.iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// What is wrong with an identity that is not the expected one.
fn stranger(claimed: Option<&Identity>, expected: &Identity) -> String {
    // A peer that has proven nothing fills no log.
    const MOST: usize = 300;
    let claimed = claimed.map_or_else(
        || "an identity of a kind, or in a form, that nothing here can name".to_owned(),
        |identity| identity.to_string().chars().take(MOST).collect(),
    );
    format!("the peer claims {claimed}, expected is {expected}: correct the identity at one of both ends")
}

/// The hashes that an IKE_SA_INIT message announces (RFC 7427 §4).
fn announced(message: &[u8]) -> Vec<HashAlgorithm> {
    let Ok(Body::Plain(payloads)) = Message::parse(message).and_then(|message| message.body()) else {
        return Vec::new();
    };
    payloads
        .notify(NotifyType::SIGNATURE_HASH_ALGORITHMS)
        .and_then(|notify| notify.announced_hashes().ok())
        .unwrap_or_default()
}
