//! What a configuration asks for and the crypto provider does not have: found before the first packet.

use super::provider::Provider;
use crate::config::{AdditionalKeyExchange, AdditionalKeyExchanges, KeyExchange, PeerConfig};

impl Provider {
    /// The first key exchange of a configuration that this provider lacks: field, method, provider and what to do.
    pub(crate) fn lacks(&self, config: &PeerConfig) -> Option<String> {
        let ike = config.ike_proposals.iter().map(|proposal| {
            let method = self.without(&proposal.key_exchange);
            let more = || self.without_additional(proposal.additional);
            ("ike_proposals", method.or_else(more))
        });
        let children = config
            .children
            .iter()
            .flat_map(|child| &child.proposals)
            .map(|proposal| {
                let method = self.without(&proposal.key_exchange);
                let more = || self.without_additional(proposal.additional);
                ("children.proposals", method.or_else(more))
            });
        let (field, method) = ike
            .chain(children)
            .find_map(|(field, method)| Some((field, method?)))?;
        Some(format!(
            "{field}: the crypto provider {} has no {method}; take it out of the proposals, or choose another provider",
            self.name
        ))
    }

    fn without(&self, methods: &[KeyExchange]) -> Option<String> {
        let lacking = methods.iter().find(|method| !self.key_exchange.has(**method));
        lacking.map(ToString::to_string)
    }

    fn without_additional(&self, methods: AdditionalKeyExchanges) -> Option<String> {
        let lacking = methods.iter().find(|method| match method {
            AdditionalKeyExchange::Kem(kem) => !self.kem.has(*kem),
            AdditionalKeyExchange::Method(method) => !self.key_exchange.has(*method),
        });
        lacking.map(|method| method.to_string())
    }
}
