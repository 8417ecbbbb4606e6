//! How the two ends of a pair are configured: a mixture of everything that the engine can be told.
//!
//! A feature that a pair can have gets a field here, drawn in [`Mix::draw`] and carried out in [`Mix::config`]: then
//! every fault of the plan meets it.

use std::net::IpAddr;
use std::time::Duration;

use ipsecmesh_ike::*;

use crate::chance::Dice;
use crate::support::{child, peer_config, psk, with_additional};

/// The addresses that one end is configured with, and which hosts they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) local: (u8, IpAddr),
    pub(crate) remote: (u8, IpAddr),
}

/// What both ends of a pair agree on, and what differs between them. The first of two values is the lower host's.
#[derive(Clone, Debug)]
pub(crate) struct Mix {
    /// A shared secret instead of certificates.
    auth: PeerAuth,
    /// A post-quantum preshared key at both ends: a must or not.
    ppk: Option<[bool; 2]>,
    /// A cipher and an integrity algorithm instead of a combined mode.
    separate: bool,
    /// These additional key exchanges are proposed, and preferred, by none of the ends, by one, or by both.
    additional: AdditionalKeyExchanges,
    for_ike: [bool; 2],
    /// The same for children: shorter ones, since every third datagram may be lost, and a fragment may be short.
    additional_child: AdditionalKeyExchanges,
    for_children: [bool; 2],
    pub(crate) initiation: [Initiation; 2],
    encapsulation: [Encapsulation; 2],
    /// The mode and protocol of each child by its number.
    styles: [Style; 3],
    /// A short one makes the peers prove their identities anew again and again.
    pub(crate) ike_lifetime: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Style {
    mode: Mode,
    protocol: SaProtocol,
}

const PLAIN: Style = Style {
    mode: Mode::Transport,
    protocol: SaProtocol::Esp,
};

/// Longer than any run.
const LONG: Duration = Duration::from_hours(100);

impl Default for Mix {
    /// As nodes of a mesh are, one of them waiting for the other.
    fn default() -> Self {
        Self {
            auth: PeerAuth::Certificate,
            ppk: None,
            separate: false,
            additional: AdditionalKeyExchanges::NONE,
            for_ike: [false; 2],
            additional_child: AdditionalKeyExchanges::NONE,
            for_children: [false; 2],
            initiation: [Initiation::Eager, GRACE],
            encapsulation: [Encapsulation::Auto; 2],
            styles: [PLAIN; 3],
            ike_lifetime: LONG,
        }
    }
}

/// The end that only answers, unless nothing comes.
const GRACE: Initiation = Initiation::EagerAfter {
    grace: Duration::from_secs(3),
};

impl Mix {
    /// `translated`: a NAT lies before the lower host.
    pub(crate) fn draw(dice: &mut Dice, translated: bool) -> Self {
        let auth = if dice.percent(50) {
            psk(b"a secret of both")
        } else {
            PeerAuth::Certificate
        };
        let lower = dice.below(4);
        // Drawn apart, so that all else of a seed is as it was before there were several.
        let mut apart = Dice(dice.0 ^ 0x0add_0ce5);
        let methods = [
            AdditionalKeyExchange::Kem(Kem::MlKem768),
            AdditionalKeyExchange::Method(KeyExchange::Ecp384),
        ];
        let additional = with_additional(apart.pick(&[&methods[..1], &methods[..]]));
        let short = [KeyExchange::Ecp384, KeyExchange::Ecp521].map(AdditionalKeyExchange::Method);
        let additional_child = with_additional(apart.pick(&[&short[..1], &short[..]]));
        let children = apart.below(6);
        let forced = dice.percent(10);
        let mut style = || Style {
            mode: dice.pick(&[Mode::Transport, Mode::Transport, Mode::Tunnel]),
            // AH does not pass a NAT.
            protocol: if dice.percent(15) && !translated && !forced {
                SaProtocol::Ah
            } else {
                SaProtocol::Esp
            },
        };
        let styles = [style(), style(), style()];
        let forced = if forced {
            Encapsulation::Always
        } else {
            Encapsulation::Auto
        };
        let initiation = match dice.below(20) {
            0..9 => [Initiation::Eager; 2],
            9..18 => [Initiation::Eager, GRACE],
            _ => [Initiation::OnDemand; 2],
        };
        Self {
            auth,
            ppk: dice.percent(15).then(|| [dice.percent(50), dice.percent(50)]),
            separate: dice.percent(25),
            additional,
            for_ike: [lower > 0, lower > 1],
            additional_child,
            for_children: [children > 2, children > 3],
            // Nobody reaches a host behind a NAT that has not spoken.
            initiation: if translated {
                [Initiation::Eager, GRACE]
            } else {
                initiation
            },
            encapsulation: [forced, dice.pick(&[forced, Encapsulation::Auto])],
            styles,
            ike_lifetime: if dice.percent(20) {
                Duration::from_secs(60 + dice.below(90))
            } else {
                LONG
            },
        }
    }

    /// The configuration of one end with so many children.
    pub(crate) fn config(&self, ends: Ends, children: u32) -> PeerConfig {
        let (local, remote) = (ends.local.0, ends.remote.0);
        let own = usize::from(local > remote);
        let mut config = peer_config(local, remote, 0);
        (config.local_address, config.remote_address) = (ends.local.1, ends.remote.1);
        config.auth = self.auth.clone();
        config.initiation = self.initiation[own];
        config.encapsulation = self.encapsulation[own];
        config.ike_lifetime = self.ike_lifetime;
        config.ppk = self.ppk.map(|required| Ppk {
            id: b"the name".to_vec(),
            current: b"a post-quantum preshared key".to_vec().into(),
            previous: None,
            required: required[own],
        });
        if self.separate {
            for proposal in &mut config.ike_proposals {
                proposal.encryption = vec![Encryption::AesCbcKey256];
                proposal.integrity = vec![Integrity::HmacSha384];
            }
        }
        if self.for_ike[own] {
            let mut first = config.ike_proposals[0].clone();
            first.additional = self.additional;
            config.ike_proposals.insert(0, first);
        }
        let styled = (1..=children).zip(self.styles.iter().cycle());
        config.children = styled.map(|(id, style)| style.child(ends, id)).collect();
        for child in config.children.iter_mut().filter(|_| self.for_children[own]) {
            let mut first = child.proposals[0].clone();
            first.additional = self.additional_child;
            child.proposals.insert(0, first);
        }
        config
    }
}

impl Style {
    fn child(self, ends: Ends, id: u32) -> ChildConfig {
        let mut config = child(ends.local.0, ends.remote.0, id);
        config.mode = self.mode;
        config.reqid += 16 * u32::from(ends.remote.0);
        if self.protocol == SaProtocol::Ah {
            for proposal in &mut config.proposals {
                proposal.protocol = SaProtocol::Ah;
                proposal.encryption = Vec::new();
                proposal.integrity = vec![Integrity::HmacSha256];
            }
        }
        let sides = [
            (&mut config.local_selectors, ends.local),
            (&mut config.remote_selectors, ends.remote),
        ];
        for (selectors, (host, address)) in sides {
            for selector in selectors {
                let (first, last) = match self.mode {
                    Mode::Transport => (address, address),
                    Mode::Tunnel => (
                        IpAddr::from([172, 16, host, 0]),
                        IpAddr::from([172, 16, host, 255]),
                    ),
                };
                (selector.first_address, selector.last_address) = (first, last);
            }
        }
        config
    }
}
