//! What a configuration asks for and the crypto provider does not have: found before the first packet.

use super::provider::Provider;
use crate::config::{KeyExchange, PeerConfig};

impl Provider {
    /// The first key exchange of a configuration that this provider lacks: field, method, provider and what to do.
    pub(crate) fn lacks(&self, config: &PeerConfig) -> Option<String> {
        let ike = config.ike_proposals.iter().map(|proposal| {
            let kems = proposal.additional.iter().find(|kem| !self.kem.has(**kem));
            let method = self.without(&proposal.key_exchange);
            ("ike_proposals", method.or(kems.map(ToString::to_string)))
        });
        let children = config
            .children
            .iter()
            .flat_map(|child| &child.proposals)
            .map(|proposal| ("children.proposals", self.without(&proposal.key_exchange)));
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
}
