//! A scripted IKE peer on host 2 that owns the keys: it says exactly what a test wants it to say.

use ipsecmesh_ike::crypto::{
    ChildContext, IkeKeys, IkeSuite, Intermediate, NONCE_LENGTH, Provider, Secret, SignedOctets, Skeyseed,
    child_offer, prf_plus, psk_auth, select_ike,
};
use ipsecmesh_ike::wire::{
    Auth, AuthMethod, Body, ExchangeType, Flags, Header, Identification, Message, MessageId, Nonce, Notify,
    NotifyType, Payload, PayloadType, Payloads, Role, Spi, TrafficSelectors, Version, encode,
};
use ipsecmesh_ike::*;

use crate::draft::key_payload;
use crate::support::{cheap, child, name_of, peer_config};
use crate::sut::{SECRET, Sut, path_to};

pub(crate) fn init_header(spi_i: IkeSpi, spi_r: Option<IkeSpi>, sender: Role) -> Header {
    Header {
        initiator_spi: spi_i,
        responder_spi: spi_r,
        version: Version::V2_0,
        exchange: ExchangeType::IKE_SA_INIT,
        flags: match sender {
            Role::Initiator => Flags::request(sender),
            Role::Responder => Flags::response(sender),
        },
        message_id: MessageId(0),
    }
}

/// Header and payloads of a message in clear.
pub(crate) fn clear(datagram: &[u8]) -> (Header, Payloads) {
    let message = Message::parse(datagram).expect("a message");
    match message.body().expect("payloads") {
        Body::Plain(payloads) => (message.header, payloads),
        Body::Protected(_) | Body::Fragment(_) => panic!("the message is sealed"),
    }
}

/// One end of an IKE SA with host 1.
pub(crate) struct Peer {
    pub(crate) provider: &'static Provider,
    pub(crate) role: Role,
    pub(crate) spis: (IkeSpi, IkeSpi),
    pub(crate) nonces: (Nonce, Nonce),
    pub(crate) keys: IkeKeys,
    /// IKE_SA_INIT: request and response.
    pub(crate) messages: (Vec<u8>, Vec<u8>),
    /// ID of the peer's next request.
    pub(crate) next: u32,
    pub(crate) path: Path,
    pub(crate) secret: Vec<u8>,
    pub(crate) identity: Identity,
    /// Whether it says that it is of our kind.
    pub(crate) boot: Option<BootId>,
    pub(crate) intermediate: Option<Intermediate>,
    suite: IkeSuite,
    /// SK_e of what it sends, for content that no payload can express.
    raw_key: Vec<u8>,
    /// SK_pi.
    pub(crate) sk_pi: Vec<u8>,
}

impl Peer {
    pub(crate) fn new(
        provider: &'static Provider,
        role: Role,
        suite: IkeSuite,
        shared: &Secret,
        spis: (IkeSpi, IkeSpi),
        nonces: (Nonce, Nonce),
        messages: (Vec<u8>, Vec<u8>),
    ) -> Self {
        let keys = Skeyseed::initial(provider, suite, shared, &nonces.0, &nonces.1)
            .into_ike_keys(provider, spis.0, spis.1, role)
            .expect("keys");
        let (raw_key, sk_pi) = raw_keys(provider, role, suite, shared, spis, &nonces);
        Self {
            provider,
            role,
            spis,
            nonces,
            keys,
            messages,
            next: 1,
            path: path_to(2, 500, 500),
            secret: SECRET.to_vec(),
            identity: Identity::Fqdn(name_of(2)),
            boot: Some(BootId([2; 16])),
            intermediate: None,
            suite,
            raw_key,
            sk_pi,
        }
    }

    /// The keys after an additional key exchange.
    pub(crate) fn mix_in(&mut self, shared: &Secret, request: &[u8], response: &[u8]) {
        let (nonce_i, nonce_r) = &self.nonces;
        let before = self.intermediate.as_ref();
        let made = Intermediate::new(self.provider, &self.keys.auth, before, request, response);
        let keys = Skeyseed::additional(self.provider, &self.keys.d, self.suite, shared, nonce_i, nonce_r);
        let keys = keys.into_ike_keys(self.provider, self.spis.0, self.spis.1, self.role);
        self.keys = keys.expect("keys");
        self.intermediate = Some(made);
    }

    /// Answers an IKE_SA_INIT request of host 1 and gives the response.
    pub(crate) fn answer_init(request: &[u8], more: &[Payload]) -> (Self, Vec<u8>) {
        Self::answer_init_with(cheap::provider(), 9, request, more)
    }

    pub(crate) fn answer_init_with(
        provider: &'static Provider,
        number: u8,
        request: &[u8],
        more: &[Payload],
    ) -> (Self, Vec<u8>) {
        let ours = peer_config(2, 1, 1).ike_proposals;
        Self::choose(provider, number, request, more, &ours)
    }

    /// Answers an IKE_SA_INIT request with a choice from these proposals.
    pub(crate) fn choose(
        provider: &'static Provider,
        number: u8,
        request: &[u8],
        more: &[Payload],
        ours: &[IkeProposal],
    ) -> (Self, Vec<u8>) {
        let (header, payloads) = clear(request);
        let chosen = select_ike(ours, payloads.security_association().expect("SA")).expect("a suite");
        let ke = payloads.key_exchange().expect("KE");
        let method = chosen.suite.key_exchange;
        assert_eq!(ke.method, method.into());
        let started = provider
            .key_exchange
            .start(method, provider.random)
            .expect("it starts");
        let shared = started.complete(&ke.data).expect("a shared secret");
        let nonce = Nonce::from([number; 32]);
        let spi = IkeSpi::new(0x0500 + u64::from(number)).expect("not zero");
        let mut answer = vec![
            Payload::SecurityAssociation(chosen.response(Spi::Absent)),
            key_payload(started.as_ref()),
            Payload::Nonce(nonce.clone()),
        ];
        answer.extend(more.to_vec());
        let header_r = init_header(header.initiator_spi, Some(spi), Role::Responder);
        let response = encode(&header_r, &answer).expect("it fits");
        let nonces = (payloads.nonce().expect("a nonce").clone(), nonce);
        let spis = (header.initiator_spi, spi);
        let messages = (request.to_vec(), response.clone());
        let mut peer = Self::new(
            provider,
            Role::Responder,
            chosen.suite,
            &shared,
            spis,
            nonces,
            messages,
        );
        peer.next = 0;
        (peer, response)
    }

    pub(crate) fn header(&self, exchange: ExchangeType, flags: Flags, number: u32) -> Header {
        Header {
            initiator_spi: self.spis.0,
            responder_spi: Some(self.spis.1),
            version: Version::V2_0,
            exchange,
            flags,
            message_id: MessageId(number),
        }
    }

    /// A sealed request with the next ID.
    pub(crate) fn request(&mut self, exchange: ExchangeType, payloads: &[Payload]) -> Vec<u8> {
        let header = self.header(exchange, Flags::request(self.role), self.next);
        self.next += 1;
        self.keys
            .sealer
            .seal(self.provider, &header, payloads)
            .expect("it seals")
    }

    /// A sealed response.
    pub(crate) fn response(&mut self, exchange: ExchangeType, number: u32, payloads: &[Payload]) -> Vec<u8> {
        let header = self.header(exchange, Flags::response(self.role), number);
        self.keys
            .sealer
            .seal(self.provider, &header, payloads)
            .expect("it seals")
    }

    /// A request whose content is not made of payloads that we can express.
    pub(crate) fn raw_request(
        &mut self,
        exchange: ExchangeType,
        first: PayloadType,
        content: &[u8],
    ) -> Vec<u8> {
        let header = self.header(exchange, Flags::request(self.role), self.next);
        self.next += 1;
        let length = 28 + 4 + 8 + content.len() + 1 + 16;
        let mut datagram = encode(&header, &[]).expect("it fits");
        datagram[16] = PayloadType::SK.0;
        datagram[24..28].copy_from_slice(&u32::try_from(length).expect("short").to_be_bytes());
        datagram.extend([first.0, 0]);
        datagram.extend(u16::try_from(length - 28).expect("short").to_be_bytes());
        let iv = [0xee; 8];
        let encryption = self.suite.encryption;
        let (key, salt) = self.raw_key.split_at(encryption.key_length());
        let nonce: [u8; NONCE_LENGTH] = [salt, &iv[..]].concat().try_into().expect("twelve bytes");
        let mut sealed = [content, &[0]].concat();
        let aead = self
            .provider
            .aead
            .seal(encryption, key, &nonce, &datagram, &mut sealed);
        aead.expect("it seals");
        datagram.extend(iv);
        datagram.extend(sealed);
        datagram
    }

    /// Opens what host 1 has sealed.
    pub(crate) fn open(&self, datagram: &[u8]) -> (Header, Payloads) {
        let mut datagram = datagram.to_vec();
        let Body::Protected(envelope) = Message::parse(&datagram)
            .expect("a message")
            .body()
            .expect("a body")
        else {
            panic!("not sealed")
        };
        let opened = self.keys.opener.open(self.provider, &mut datagram, envelope);
        let opened = opened.expect("sealed for this SA").into_inner();
        (opened.header, opened.payloads.expect("payloads"))
    }

    /// Sends a request and opens the answer.
    pub(crate) fn ask(&mut self, sut: &mut Sut, exchange: ExchangeType, payloads: &[Payload]) -> Payloads {
        let request = self.request(exchange, payloads);
        let answer = sut.ask(self.path, &request);
        self.open(&answer).1
    }

    /// Takes the next request of host 1.
    pub(crate) fn take(&self, sut: &mut Sut) -> (Header, Payloads) {
        let (path, datagram) = sut.take();
        assert_eq!(path, self.path, "sent along another path");
        let (header, payloads) = self.open(&datagram);
        assert!(
            !header.flags.is_response(),
            "a response where a request is expected"
        );
        (header, payloads)
    }

    /// Answers a request of host 1.
    pub(crate) fn reply(&mut self, sut: &mut Sut, request: &Header, payloads: &[Payload]) -> Disposition {
        let response = self.response(request.exchange, request.message_id.0, payloads);
        sut.give(self.path, &response)
    }

    /// Says that its inbound halves stand.
    pub(crate) fn confirm(&mut self, sut: &mut Sut) {
        let answer = self.ask(sut, ExchangeType::INFORMATIONAL, &[]);
        assert!(answer.as_slice().is_empty());
    }

    pub(crate) fn id(&self) -> Identification {
        Identification::from(&self.identity)
    }

    pub(crate) fn octets(&self) -> SignedOctets {
        let (message, nonce) = match self.role {
            Role::Initiator => (&self.messages.0, &self.nonces.1),
            Role::Responder => (&self.messages.1, &self.nonces.0),
        };
        SignedOctets::new(
            self.provider,
            &self.keys.auth,
            self.role,
            message,
            nonce,
            &self.id(),
        )
        .after(self.intermediate.as_ref())
    }

    /// Identity and proof by the shared secret.
    pub(crate) fn proof(&self) -> Vec<Payload> {
        let prf = self.keys.auth.prf();
        let mac = psk_auth(self.provider, prf, &self.secret, &self.octets());
        let auth = Payload::Auth(Auth {
            method: AuthMethod::SHARED_KEY,
            data: mac.expose().to_vec(),
        });
        let id = match self.role {
            Role::Initiator => Payload::IdInitiator(self.id()),
            Role::Responder => Payload::IdResponder(self.id()),
        };
        let boot = self.boot.map(|boot| Payload::Notify(Notify::boot_id(boot)));
        [id, auth].into_iter().chain(boot).collect()
    }
}

/// SK_ei or SK_er, and SK_pi, cut by hand (RFC 7296 §2.14).
fn raw_keys(
    provider: &Provider,
    role: Role,
    suite: IkeSuite,
    shared: &Secret,
    spis: (IkeSpi, IkeSpi),
    nonces: &(Nonce, Nonce),
) -> (Vec<u8>, Vec<u8>) {
    let both = [nonces.0.as_bytes(), nonces.1.as_bytes()].concat();
    let seed = provider.prf.keyed(suite.prf, &both).apply(&[shared.expose()]);
    let (spi_i, spi_r) = (spis.0.value().to_be_bytes(), spis.1.value().to_be_bytes());
    let (prf, key) = (suite.prf.output_length(), suite.encryption.key_length() + 4);
    let keyed = provider.prf.keyed(suite.prf, seed.expose());
    let seeds = [nonces.0.as_bytes(), nonces.1.as_bytes(), &spi_i, &spi_r];
    let material = prf_plus(keyed.as_ref(), &seeds, 3 * prf + 2 * key).expect("key material");
    let start = match role {
        Role::Initiator => prf,
        Role::Responder => prf + key,
    };
    let sk_pi = &material.expose()[prf + 2 * key..2 * (prf + key)];
    (material.expose()[start..start + key].to_vec(), sk_pi.to_vec())
}

/// The payloads with which host 2 asks for a child in transport mode.
pub(crate) fn child_request(number: u32, spi: u32, context: ChildContext) -> Vec<Payload> {
    let config = child(2, 1, number);
    let spi = Spi::Esp(EspSpi::new(spi).expect("a valid SPI"));
    vec![
        Payload::Notify(Notify::new(NotifyType::USE_TRANSPORT_MODE)),
        Payload::SecurityAssociation(child_offer(&config.proposals, config.esn, context, &spi)),
        Payload::TsInitiator(selectors(&config.local_selectors)),
        Payload::TsResponder(selectors(&config.remote_selectors)),
    ]
}

pub(crate) fn selectors(list: &[TrafficSelector]) -> TrafficSelectors {
    list.iter().copied().collect()
}

/// Kinds of notifies that a message has.
pub(crate) fn kinds(payloads: &Payloads) -> Vec<NotifyType> {
    payloads.notifies().map(|notify| notify.kind).collect()
}

/// The SPI of the one proposal of a response.
pub(crate) fn chosen_spi(payloads: &Payloads) -> EspSpi {
    let offer = payloads.security_association().expect("an SA payload");
    match offer.proposals.first().map(|proposal| &proposal.spi) {
        Some(Spi::Esp(spi)) => *spi,
        _ => panic!("no ESP SPI"),
    }
}
