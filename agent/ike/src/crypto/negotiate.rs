//! Offers, choices, and the check that a choice was offered (RFC 7296 §2.7, §3.3).

use super::additional;
use super::suite::{ChildSuite, IkeSuite};
use crate::config::{AdditionalKeyExchanges, ChildProposal, IkeProposal, Integrity, KeyExchange};
use crate::types::SaProtocol;
use crate::wire::{
    KeyExchangeMethod, Proposal, Protocol, SecurityAssociation, Spi, Transform, TransformType,
};

/// What a responder chose from an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen<S> {
    /// The suite.
    pub suite: S,
    /// The SPI of the proposal: the offering end's.
    pub peer_spi: Spi,
    proposal: Proposal,
}

impl<S> Chosen<S> {
    /// The SA payload of the response, with our SPI.
    pub fn response(&self, our_spi: Spi) -> SecurityAssociation {
        SecurityAssociation {
            proposals: vec![Proposal {
                spi: our_spi,
                ..self.proposal.clone()
            }],
        }
    }
}

/// Which exchange makes a CHILD SA, because that decides about its key exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildContext {
    /// IKE_AUTH: the CHILD SA has no key exchange of its own (RFC 7296 §1.2).
    Auth,
    /// CREATE_CHILD_SA, whose initiator sent a KE payload of this method, or none.
    Create(Option<KeyExchangeMethod>),
}

/// A response that is no choice from what was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("SA payload of the response: {0}")]
pub struct NotOffered(pub &'static str);

/// The offer of an IKE SA. `spi` is ours for a rekey, and absent in IKE_SA_INIT.
pub fn ike_offer(proposals: &[IkeProposal], spi: &Spi) -> SecurityAssociation {
    number(
        proposals
            .iter()
            .map(|proposal| (Protocol::IKE, ike_transforms(proposal))),
        spi,
    )
}

/// The offer of a CHILD SA with our inbound SPI. In CREATE_CHILD_SA a proposal that names key exchange methods also
/// offers none: a mismatch of methods would otherwise show only at the first rekey.
pub fn child_offer(
    proposals: &[ChildProposal],
    esn: bool,
    context: ChildContext,
    spi: &Spi,
) -> SecurityAssociation {
    number(
        proposals
            .iter()
            .map(|proposal| (proposal.protocol.into(), child_transforms(proposal, esn, context))),
        spi,
    )
}

/// Chooses from the offer of an IKE SA, by our order of preference; `None` is NO_PROPOSAL_CHOSEN.
pub fn select_ike(ours: &[IkeProposal], offer: &SecurityAssociation) -> Option<Chosen<IkeSuite>> {
    first_match(ours, offer, |ours, theirs| {
        if theirs.protocol != Protocol::IKE || !only_optional_besides(theirs, &ike_types(ours)) {
            return None;
        }
        let additional = additional::select(&ours.additional, theirs)?;
        let suite = IkeSuite {
            additional: ours.additional,
            encryption: pick(&ours.encryption, theirs)?,
            integrity: pick_integrity(&ours.integrity, theirs)?.0,
            prf: pick(&ours.prf, theirs)?,
            key_exchange: pick(&ours.key_exchange, theirs)?,
        };
        let mut transforms = vec![
            suite.encryption.into(),
            suite.prf.into(),
            suite.key_exchange.into(),
        ];
        transforms.extend(suite.integrity.map(Transform::from));
        transforms.extend(additional);
        Some((suite, transforms))
    })
}

/// Chooses from the offer of a CHILD SA, by our order of preference; `None` is NO_PROPOSAL_CHOSEN. When the suite's
/// key exchange is another than that of the KE payload, the answer is INVALID_KE_PAYLOAD.
pub fn select_child(
    ours: &[ChildProposal],
    esn: bool,
    context: ChildContext,
    offer: &SecurityAssociation,
) -> Option<Chosen<ChildSuite>> {
    first_match(ours, offer, |ours, theirs| {
        if theirs.protocol != Protocol::from(ours.protocol)
            || !matches!(theirs.spi, Spi::Esp(_))
            || !only_optional_besides(theirs, &child_types(ours, context))
        {
            return None;
        }
        let encryption = match ours.protocol {
            SaProtocol::Esp => Some(pick(&ours.encryption, theirs)?),
            SaProtocol::Ah => None,
        };
        let additional = match context {
            ChildContext::Auth => Vec::new(),
            ChildContext::Create(_) => additional::select(&ours.additional, theirs)?,
        };
        let suite = ChildSuite {
            protocol: ours.protocol,
            encryption,
            integrity: pick_integrity(&ours.integrity, theirs)?.0,
            key_exchange: pick_child_key_exchange(ours, context, theirs)?.0,
            additional: child_additional(ours, context),
            esn: if esn && theirs.transforms.contains(&Transform::esn(true)) {
                true
            } else if theirs.transforms.contains(&Transform::esn(false)) {
                false
            } else {
                return None;
            },
        };
        let mut transforms: Vec<Transform> = suite.encryption.map(Transform::from).into_iter().collect();
        transforms.push(Transform::esn(suite.esn));
        transforms.extend(suite.integrity.map(Transform::from));
        transforms.extend(suite.key_exchange.map(Transform::from));
        transforms.extend(additional);
        Some((suite, transforms))
    })
}

/// The suite that the response to [`ike_offer`] names, and the responder's SPI.
pub fn confirm_ike(
    offered: &[IkeProposal],
    response: &SecurityAssociation,
) -> Result<(IkeSuite, Spi), NotOffered> {
    let proposal = the_only(response)?;
    let offered = numbered(offered, proposal.number)?;
    confirm_shape(proposal, Protocol::IKE, &ike_types(offered))?;
    additional::confirm(&offered.additional, proposal)?;
    let suite = IkeSuite {
        additional: offered.additional,
        encryption: confirm(&offered.encryption, proposal, "cipher not offered")?,
        integrity: confirm_integrity(&offered.integrity, proposal)?,
        prf: confirm(&offered.prf, proposal, "PRF not offered")?,
        key_exchange: confirm(&offered.key_exchange, proposal, "key exchange method not offered")?,
    };
    Ok((suite, proposal.spi.clone()))
}

/// The suite that the response to [`child_offer`] names, and the responder's SPI. In `context` is the method of the KE
/// payload that we sent: another one can only come as INVALID_KE_PAYLOAD.
pub fn confirm_child(
    offered: &[ChildProposal],
    esn: bool,
    context: ChildContext,
    response: &SecurityAssociation,
) -> Result<(ChildSuite, Spi), NotOffered> {
    let proposal = the_only(response)?;
    let offered = numbered(offered, proposal.number)?;
    confirm_shape(proposal, offered.protocol.into(), &child_types(offered, context))?;
    if !matches!(proposal.spi, Spi::Esp(_)) {
        return Err(NotOffered("no valid SPI"));
    }
    let esn_offered = if esn { &[true, false][..] } else { &[false][..] };
    let esn = esn_offered
        .iter()
        .copied()
        .find(|&esn| proposal.transforms.contains(&Transform::esn(esn)))
        .ok_or(NotOffered("extended sequence numbers not as offered"))?;
    let additional = child_additional(offered, context);
    additional::confirm(&additional, proposal)?;
    let encryption = match offered.protocol {
        SaProtocol::Esp => Some(confirm(&offered.encryption, proposal, "cipher not offered")?),
        SaProtocol::Ah => None,
    };
    let suite = ChildSuite {
        protocol: offered.protocol,
        encryption,
        integrity: confirm_integrity(&offered.integrity, proposal)?,
        key_exchange: confirm_child_key_exchange(offered, context, proposal)?,
        additional,
        esn,
    };
    Ok((suite, proposal.spi.clone()))
}

/// The types of which a suite has one transform each. A type that is not among them may occur only where "none" of
/// it is one of the choices (RFC 7296 §3.3.6).
fn ike_types(proposal: &IkeProposal) -> Vec<TransformType> {
    let mut types = vec![TransformType::ENCR, TransformType::PRF, TransformType::KE];
    types.extend((!proposal.integrity.is_empty()).then_some(TransformType::INTEG));
    types.extend(additional::types(&proposal.additional));
    types
}

fn child_types(proposal: &ChildProposal, context: ChildContext) -> Vec<TransformType> {
    let mut types = vec![TransformType::KE, TransformType::ESN];
    types.extend(additional::types(&child_additional(proposal, context)));
    types.extend((!proposal.encryption.is_empty()).then_some(TransformType::ENCR));
    types.extend((!proposal.integrity.is_empty()).then_some(TransformType::INTEG));
    types
}

fn ike_transforms(proposal: &IkeProposal) -> Vec<Transform> {
    let encryption = proposal.encryption.iter().copied().map(Transform::from);
    let integrity = proposal.integrity.iter().copied().map(Transform::from);
    let prf = proposal.prf.iter().copied().map(Transform::from);
    let key_exchange = proposal.key_exchange.iter().copied().map(Transform::from);
    encryption
        .chain(integrity)
        .chain(prf)
        .chain(key_exchange)
        .chain(additional::offer(&proposal.additional))
        .collect()
}

fn child_transforms(proposal: &ChildProposal, esn: bool, context: ChildContext) -> Vec<Transform> {
    let mut transforms: Vec<Transform> = proposal.encryption.iter().copied().map(Transform::from).collect();
    transforms.extend(proposal.integrity.iter().copied().map(Transform::from));
    if matches!(context, ChildContext::Create(_)) && !proposal.key_exchange.is_empty() {
        transforms.extend(proposal.key_exchange.iter().copied().map(Transform::from));
        if proposal.additional.is_empty() {
            transforms.push(Transform::no_key_exchange());
        }
    }
    transforms.extend(additional::offer(&child_additional(proposal, context)));
    if esn {
        transforms.push(Transform::esn(true));
    }
    transforms.push(Transform::esn(false));
    transforms
}

/// Proposals are numbered from 1 (RFC 7296 §3.3.1); what has no number is not offered.
fn number(transforms: impl Iterator<Item = (Protocol, Vec<Transform>)>, spi: &Spi) -> SecurityAssociation {
    let proposals = (1..=u8::MAX)
        .zip(transforms)
        .map(|(number, (protocol, transforms))| Proposal {
            number,
            protocol,
            spi: spi.clone(),
            transforms,
        })
        .collect();
    SecurityAssociation { proposals }
}

fn first_match<P, S>(
    ours: &[P],
    offer: &SecurityAssociation,
    choose: impl Fn(&P, &Proposal) -> Option<(S, Vec<Transform>)>,
) -> Option<Chosen<S>> {
    let pairs = ours
        .iter()
        .flat_map(|ours| offer.proposals.iter().map(move |theirs| (ours, theirs)));
    pairs.into_iter().find_map(|(ours, theirs)| {
        let (suite, transforms) = choose(ours, theirs)?;
        let proposal = Proposal {
            number: theirs.number,
            protocol: theirs.protocol,
            spi: Spi::Absent,
            transforms,
        };
        Some(Chosen {
            suite,
            peer_spi: theirs.spi.clone(),
            proposal,
        })
    })
}

/// The first of ours that is among theirs, with exactly the same attributes.
fn pick<A: Copy>(ours: &[A], theirs: &Proposal) -> Option<A>
where
    Transform: From<A>,
{
    ours.iter()
        .copied()
        .find(|&algorithm| theirs.transforms.contains(&Transform::from(algorithm)))
}

/// `None` is "no match".
fn pick_integrity(ours: &[Integrity], theirs: &Proposal) -> Option<Check> {
    if ours.is_empty() {
        return Some(Check(None));
    }
    pick(ours, theirs).map(|integrity| Check(Some(integrity)))
}

/// In IKE_AUTH there is none.
fn child_additional(proposal: &ChildProposal, context: ChildContext) -> AdditionalKeyExchanges {
    match context {
        ChildContext::Auth => AdditionalKeyExchanges::NONE,
        ChildContext::Create(_) => proposal.additional,
    }
}

/// `None` is "no match". "No key exchange" suits us unless additional ones follow; where the peer offers both, a method
/// is better.
fn pick_child_key_exchange(
    ours: &ChildProposal,
    context: ChildContext,
    theirs: &Proposal,
) -> Option<ChildKeyExchange> {
    let optional = theirs.of_kind(TransformType::KE).next().is_none()
        || theirs.transforms.contains(&Transform::no_key_exchange());
    let optional = optional && ours.additional.is_empty();
    match context {
        // Methods in IKE_AUTH say what later exchanges may use; they do not bind this one.
        ChildContext::Auth => Some(ChildKeyExchange(None)),
        ChildContext::Create(None) if optional => Some(ChildKeyExchange(None)),
        ChildContext::Create(_) => {
            let common = pick(&ours.key_exchange, theirs);
            (common.is_some() || optional).then_some(ChildKeyExchange(common))
        }
    }
}

/// A match: on an integrity algorithm, or on none.
struct Check(Option<Integrity>);

/// A match: on a method, or on none.
struct ChildKeyExchange(Option<KeyExchange>);

fn confirm_child_key_exchange(
    offered: &ChildProposal,
    context: ChildContext,
    proposal: &Proposal,
) -> Result<Option<KeyExchange>, NotOffered> {
    let not_offered = NotOffered("key exchange method not offered");
    match (context, proposal.of_kind(TransformType::KE).next()) {
        (ChildContext::Auth, None) => Ok(None),
        (ChildContext::Create(_), None) if offered.additional.is_empty() => Ok(None),
        (ChildContext::Create(_), Some(transform)) if *transform == Transform::no_key_exchange() => {
            offered.additional.is_empty().then_some(None).ok_or(not_offered)
        }
        (ChildContext::Auth, Some(_)) | (ChildContext::Create(_), None) => Err(not_offered),
        (ChildContext::Create(sent), Some(_)) => {
            let method = pick(&offered.key_exchange, proposal).ok_or(not_offered)?;
            if sent == Some(method.into()) {
                Ok(Some(method))
            } else {
                Err(not_offered)
            }
        }
    }
}

fn confirm_integrity(offered: &[Integrity], proposal: &Proposal) -> Result<Option<Integrity>, NotOffered> {
    if offered.is_empty() {
        return Ok(None);
    }
    confirm(offered, proposal, "integrity algorithm not offered").map(Some)
}

/// Additional key exchanges are judged by their own rules.
fn only_optional_besides(proposal: &Proposal, expected: &[TransformType]) -> bool {
    proposal
        .transforms
        .iter()
        .filter(|transform| {
            !expected.contains(&transform.kind) && !TransformType::ADDITIONAL.contains(&transform.kind)
        })
        .all(|transform| {
            proposal
                .of_kind(transform.kind)
                .any(|alternative| alternative.id == 0 && alternative.attributes.is_empty())
        })
}

fn the_only(response: &SecurityAssociation) -> Result<&Proposal, NotOffered> {
    match response.proposals.as_slice() {
        [proposal] => Ok(proposal),
        _ => Err(NotOffered("not exactly one proposal")),
    }
}

fn numbered<P>(offered: &[P], number: u8) -> Result<&P, NotOffered> {
    usize::from(number)
        .checked_sub(1)
        .and_then(|index| offered.get(index))
        .ok_or(NotOffered("number of a proposal that was not made"))
}

/// One protocol, at most one transform per type, and no type besides the expected ones but "no integrity algorithm".
fn confirm_shape(
    proposal: &Proposal,
    protocol: Protocol,
    expected: &[TransformType],
) -> Result<(), NotOffered> {
    if proposal.protocol != protocol {
        return Err(NotOffered("protocol not offered"));
    }
    for transform in &proposal.transforms {
        if proposal.of_kind(transform.kind).count() != 1 {
            return Err(NotOffered("more than one transform of a type"));
        }
        if !expected.contains(&transform.kind) && *transform != Transform::no_integrity() {
            return Err(NotOffered("transform type not offered"));
        }
    }
    Ok(())
}

fn confirm<A: Copy>(offered: &[A], proposal: &Proposal, error: &'static str) -> Result<A, NotOffered>
where
    Transform: From<A>,
{
    pick(offered, proposal).ok_or(NotOffered(error))
}
