//! IKE_FOLLOWUP_KE (RFC 9370 §2.2.4): additional key exchanges after CREATE_CHILD_SA, one after the other. The SA is made
//! when the last of them is done, and of all secrets.

use std::time::Duration;

use super::child_responder::PendingChild;
use super::intermediate::{key_data, key_payload};
use super::rekey_ike::PendingIke;
use crate::config::AdditionalKeyExchanges;
use crate::crypto::{Provider, Secret, StartedKeyExchange};
use crate::endpoint::Endpoint;
use crate::sa::IkeSa;
use crate::timer::Timer;
use crate::types::{ChildSaId, IkeSaId};
use crate::wire::{ExchangeType, Notify, NotifyType, Payload, Payloads};

/// How long the initiator of an exchange has for its next request: RFC 9370 §2.2.4 advises 5 to 20 s.
const PATIENCE: Duration = Duration::from_secs(20);

/// Exchanges of one IKE SA that wait for their next request. The oldest gives way.
const MAX_PENDING: usize = 8;

/// As initiator: the additional key exchange under way, and what came before it.
pub(crate) struct FollowUp {
    methods: AdditionalKeyExchanges,
    started: StartedKeyExchange,
    /// What the responder knows its state by.
    link: Vec<u8>,
    secrets: Secrets,
}

/// The secrets of the additional key exchanges that are done: SK(1), SK(2) and so on.
#[derive(Default)]
pub(crate) struct Secrets(Vec<Secret>);

impl Secrets {
    pub(crate) fn as_slice(&self) -> &[Secret] {
        &self.0
    }

    fn count(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }
}

/// What a response to IKE_FOLLOWUP_KE leads to.
pub(super) enum Advance {
    /// All secrets are there.
    Done(Secrets),
    /// Another request.
    More(FollowUp),
    /// The peer refuses.
    Refused(NotifyType),
    /// The response is no answer.
    Unacceptable(&'static str),
}

impl FollowUp {
    /// After a response to CREATE_CHILD_SA, where additional key exchanges were agreed on.
    pub(super) fn begin(
        provider: &Provider,
        methods: AdditionalKeyExchanges,
        response: &Payloads,
    ) -> Result<Option<Self>, &'static str> {
        if methods.is_empty() {
            return Ok(None);
        }
        Self::next(provider, methods, Secrets::default(), response).map(Some)
    }

    fn next(
        provider: &Provider,
        methods: AdditionalKeyExchanges,
        secrets: Secrets,
        response: &Payloads,
    ) -> Result<Self, &'static str> {
        let method = methods
            .after(secrets.count())
            .ok_or("no additional key exchange is left")?;
        let link = response
            .notify(NotifyType::ADDITIONAL_KEY_EXCHANGE)
            .map(|notify| notify.data.clone())
            .ok_or("the response has no ADDITIONAL_KEY_EXCHANGE notify for the next key exchange")?;
        let started = provider
            .start_additional(method)
            .map_err(|_| "the additional key exchange could not be started")?;
        Ok(Self {
            methods,
            started,
            link,
            secrets,
        })
    }

    /// Reads the response to our request.
    pub(super) fn advance(mut self, provider: &Provider, response: &Payloads) -> Advance {
        if let Some(error) = response.error_notify() {
            return Advance::Refused(error.kind);
        }
        let method = self.started.method();
        let shared = key_data(response, method).and_then(|data| self.started.complete(data).ok());
        let Some(shared) = shared else {
            return Advance::Unacceptable("the response to IKE_FOLLOWUP_KE has no valid KE payload");
        };
        self.secrets.0.push(shared);
        if self.methods.after(self.secrets.count()).is_none() {
            return Advance::Done(self.secrets);
        }
        match Self::next(provider, self.methods, self.secrets, response) {
            Ok(next) => Advance::More(next),
            Err(detail) => Advance::Unacceptable(detail),
        }
    }

    /// The request.
    pub(super) fn payloads(&self) -> [Payload; 2] {
        [
            key_payload(self.started.method(), self.started.public_value()),
            link_payload(self.link.clone()),
        ]
    }
}

/// As responder: what CREATE_CHILD_SA has agreed on, until the initiator has asked for all additional key exchanges.
pub(crate) struct Pending {
    link: u64,
    methods: AdditionalKeyExchanges,
    secrets: Secrets,
    agreed: Agreed,
}

/// What is to be made.
pub(super) enum Agreed {
    Child(Box<PendingChild>),
    Ike(Box<PendingIke>),
}

impl IkeSa {
    /// Whether the peer's rekey of this IKE SA waits for additional key exchanges.
    pub(super) fn is_being_rekeyed(&self) -> bool {
        let mut pending = self.pending.iter();
        pending.any(|pending| matches!(pending.agreed, Agreed::Ike(_)))
    }

    /// Whether the peer's rekey of a pair waits for additional key exchanges.
    pub(super) fn is_being_replaced(&self, pair: ChildSaId) -> bool {
        let mut pending = self.pending.iter();
        pending
            .any(|pending| matches!(&pending.agreed, Agreed::Child(child) if child.replaces() == Some(pair)))
    }
}

impl Endpoint {
    /// Keeps what was agreed on; the notify by which the initiator refers to it.
    pub(super) fn await_follow_up(
        &mut self,
        id: IkeSaId,
        methods: AdditionalKeyExchanges,
        agreed: Agreed,
    ) -> Payload {
        self.keep_pending(
            id,
            Pending {
                link: 0,
                methods,
                secrets: Secrets::default(),
                agreed,
            },
        )
    }

    fn keep_pending(&mut self, id: IkeSaId, pending: Pending) -> Payload {
        let link = self.next_id();
        let mut oldest = None;
        if let Some(sa) = self.sas.get_mut(&id) {
            oldest = (sa.pending.len() >= MAX_PENDING).then(|| sa.pending.remove(0));
            sa.pending.push(Pending { link, ..pending });
        }
        if let Some(oldest) = oldest {
            self.drop_pending(id, &oldest);
        }
        self.set_timer(Timer::FollowUp(id, link), PATIENCE);
        link_payload(link.to_be_bytes().to_vec())
    }

    fn take_pending(&mut self, id: IkeSaId, link: u64) -> Option<Pending> {
        let pending = &mut self.sas.get_mut(&id)?.pending;
        let position = pending.iter().position(|pending| pending.link == link)?;
        self.timers.cancel(Timer::FollowUp(id, link));
        Some(pending.remove(position))
    }

    /// What was reserved for an SA that is not made is free again.
    pub(crate) fn drop_pending(&mut self, id: IkeSaId, pending: &Pending) {
        self.timers.cancel(Timer::FollowUp(id, pending.link));
        if let Agreed::Child(child) = &pending.agreed {
            self.reserved.remove(&child.inbound());
        }
    }

    /// The initiator has not asked for the next additional key exchange: it has forgotten.
    pub(crate) fn forget_pending(&mut self, id: IkeSaId, link: u64) {
        if let Some(pending) = self.take_pending(id, link) {
            self.drop_pending(id, &pending);
            self.pump(id);
        }
    }

    /// An IKE_FOLLOWUP_KE request of the peer.
    pub(super) fn receive_follow_up(&mut self, id: IkeSaId, number: u32, payloads: &Payloads) {
        if let Err(kind) = self.answer_follow_up(id, number, payloads) {
            let refused = [Payload::Notify(kind)];
            self.respond(id, ExchangeType::IKE_FOLLOWUP_KE, number, &refused);
        }
        self.pump(id);
    }

    fn answer_follow_up(&mut self, id: IkeSaId, number: u32, payloads: &Payloads) -> Result<(), Notify> {
        let link = payloads
            .notify(NotifyType::ADDITIONAL_KEY_EXCHANGE)
            .ok_or_else(|| Notify::new(NotifyType::INVALID_SYNTAX))?;
        let link = <[u8; 8]>::try_from(link.data.as_slice()).map(u64::from_be_bytes);
        let mut pending = link
            .ok()
            .and_then(|link| self.take_pending(id, link))
            .ok_or_else(|| Notify::new(NotifyType::STATE_NOT_FOUND))?;
        let answered = pending
            .methods
            .after(pending.secrets.count())
            .and_then(|method| Some((method, key_data(payloads, method)?)))
            .and_then(|(method, data)| {
                let (ours, shared) = self.provider.answer_additional(method, data).ok()?;
                Some((key_payload(method, &ours), shared))
            });
        let Some((answer, shared)) = answered else {
            self.drop_pending(id, &pending);
            return Err(Notify::new(NotifyType::INVALID_SYNTAX));
        };
        pending.secrets.0.push(shared);
        if pending.methods.after(pending.secrets.count()).is_some() {
            let link = self.keep_pending(id, pending);
            self.respond(id, ExchangeType::IKE_FOLLOWUP_KE, number, &[answer, link]);
            return Ok(());
        }
        let secrets = pending.secrets;
        match pending.agreed {
            Agreed::Child(child) => {
                let inbound = child.inbound();
                let made = self.finish_child_answer(id, number, *child, &secrets, answer);
                if made.is_err() {
                    self.reserved.remove(&inbound);
                }
                made
            }
            Agreed::Ike(ike) => self.finish_ike_rekey_answer(id, number, &ike, &secrets, answer),
        }
    }
}

fn link_payload(link: Vec<u8>) -> Payload {
    Payload::Notify(Notify::with_data(NotifyType::ADDITIONAL_KEY_EXCHANGE, link))
}
