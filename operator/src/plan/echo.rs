//! Which nodes follow: an echo counts when it shows everything that is published, and nothing else.

use std::collections::BTreeSet;

use ipsecmesh_crds::Phase;

/// What every agent has to echo.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Expected {
    /// The rollout's generation.
    pub(crate) generation: i64,
    /// The tunnel's phase.
    pub(crate) phase: Phase,
    /// The hash over all overrides; `None` when there are none.
    pub(crate) transition: Option<String>,
}

/// A node as the plan sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Follower {
    /// Name of the Node.
    pub(crate) name: String,
    /// Whether the kubelet says Ready: others are not waited for.
    pub(crate) ready: bool,
    /// Whether its directory entry holds what is desired.
    pub(crate) published: bool,
    /// How many peers it has to know for this tunnel.
    pub(crate) peers: usize,
    /// Why its agent cannot work, from the conditions of its IPsecNode: (reason, message).
    pub(crate) trouble: Option<(String, String)>,
    /// What its agent reports on the tunnel.
    pub(crate) echo: Option<Echo>,
}

/// An agent's report on one tunnel.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Echo {
    /// The rollout's generation that it follows.
    pub(crate) generation: i64,
    /// The phase that it follows.
    pub(crate) phase: Phase,
    /// Its hash over all overrides.
    pub(crate) transition: Option<String>,
    /// Whether all policies of that stand.
    pub(crate) programmed: bool,
    /// Peers that it knows, of them with an SA, and of them failing.
    pub(crate) desired: usize,
    /// See `desired`.
    pub(crate) established: usize,
    /// See `desired`.
    pub(crate) failed: usize,
    /// The peers that fail, with reason and message; at most 16.
    pub(crate) failures: Vec<Failure>,
}

/// A pair without an SA.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Failure {
    /// The other node, or the external peer's address.
    pub(crate) peer: String,
    /// A word in CamelCase.
    pub(crate) reason: String,
    /// For a person.
    pub(crate) message: String,
}

/// Why a node is waited for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Lag {
    /// Its agent said nothing yet, or says what its node lacks.
    Agent {
        /// A word in CamelCase.
        reason: String,
        /// For a person.
        message: String,
    },
    /// It has not taken over what is published.
    Behind,
    /// Pairs with Ready nodes have no SA.
    Pairs(Vec<Failure>),
}

/// Whose SAs have to stand before a node follows.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sas<'a> {
    /// Nobody's.
    Any,
    /// The external peer's: it echoes nothing, and its SA stands for that.
    WithExternal,
    /// Those of all Ready nodes.
    WithReady {
        /// Names of the Ready nodes.
        ready: &'a BTreeSet<&'a str>,
        /// How many members nobody waits for.
        unready: usize,
    },
}

impl Follower {
    /// Why this node does not follow `expected`; `None` when it does.
    pub(crate) fn lag(&self, expected: &Expected, sas: Sas<'_>) -> Option<Lag> {
        if let Some((reason, message)) = self.trouble.clone() {
            return Some(Lag::Agent { reason, message });
        }
        let Some(echo) = &self.echo else {
            return Some(Lag::Behind);
        };
        let follows = echo.generation == expected.generation
            && echo.phase == expected.phase
            && echo.transition == expected.transition;
        // Nothing has to stand once everything is removed.
        let stands = expected.phase == Phase::Removing || (echo.programmed && echo.desired >= self.peers);
        let failures = echo.blocking(sas);
        if !failures.is_empty() {
            return Some(Lag::Pairs(failures));
        }
        if !self.published || !follows || !stands {
            return Some(Lag::Behind);
        }
        let missing = echo.desired.saturating_sub(echo.established);
        let waits = match sas {
            Sas::Any => false,
            Sas::WithExternal => missing > 0,
            Sas::WithReady { unready, .. } => missing > unready,
        };
        waits.then_some(Lag::Behind)
    }

    /// Whether the node has programmed what is published, SAs or not.
    pub(crate) fn is_programmed(&self, expected: &Expected) -> bool {
        self.lag(expected, Sas::Any).is_none()
    }
}

impl Echo {
    /// The failures that hold the rollout up: those towards nodes that are Ready, for a dead node must not hold up the
    /// others, and those towards the external peer.
    fn blocking(&self, sas: Sas<'_>) -> Vec<Failure> {
        let counts = |failure: &&Failure| match sas {
            Sas::Any => false,
            Sas::WithExternal => true,
            Sas::WithReady { ready, .. } => ready.contains(failure.peer.as_str()),
        };
        self.failures.iter().filter(counts).cloned().collect()
    }
}

/// Names for a message, not more than a line can hold.
pub(crate) fn names(all: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = all.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if all.len() > SHOWN {
        text = format!("{text} and {} more", all.len() - SHOWN);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected() -> Expected {
        Expected {
            generation: 3,
            phase: Phase::Permissive,
            transition: None,
        }
    }

    fn follower(change: impl FnOnce(&mut Follower, &mut Echo)) -> Follower {
        let mut echo = Echo {
            generation: 3,
            programmed: true,
            desired: 2,
            established: 2,
            ..Echo::default()
        };
        let mut follower = Follower {
            name: "a".to_owned(),
            ready: true,
            published: true,
            peers: 2,
            ..Follower::default()
        };
        change(&mut follower, &mut echo);
        follower.echo = Some(echo);
        follower
    }

    #[test]
    fn an_echo_counts_only_when_it_shows_everything() {
        let failure = Failure {
            peer: "b".to_owned(),
            ..Failure::default()
        };
        let cases = [
            ("all there", follower(|_, _| {}), None),
            (
                "old generation",
                follower(|_, e| e.generation = 2),
                Some(Lag::Behind),
            ),
            (
                "other phase",
                follower(|_, e| e.phase = Phase::Encrypting),
                Some(Lag::Behind),
            ),
            (
                "other overrides",
                follower(|_, e| e.transition = Some("x".to_owned())),
                Some(Lag::Behind),
            ),
            (
                "policies missing",
                follower(|_, e| e.programmed = false),
                Some(Lag::Behind),
            ),
            (
                "not all members seen",
                follower(|f, _| f.peers = 3),
                Some(Lag::Behind),
            ),
            (
                "directory not written",
                follower(|f, _| f.published = false),
                Some(Lag::Behind),
            ),
            (
                "SA missing",
                follower(|_, e| e.established = 1),
                Some(Lag::Behind),
            ),
            (
                "pair fails",
                follower(|_, e| e.failures = vec![failure.clone()]),
                Some(Lag::Pairs(vec![failure.clone()])),
            ),
        ];
        let ready = BTreeSet::from(["a", "b"]);
        for (name, follower, lag) in cases {
            let sas = Sas::WithReady {
                ready: &ready,
                unready: 0,
            };
            assert_eq!(follower.lag(&expected(), sas), lag, "{name}");
        }
    }

    #[test]
    fn an_external_peer_holds_up_by_its_sa() {
        let failure = Failure {
            peer: "192.0.2.10".to_owned(),
            ..Failure::default()
        };
        let one = |established, failures: &[Failure]| {
            follower(|f, e| {
                (f.peers, e.desired, e.established) = (1, 1, established);
                e.failures = failures.to_vec();
            })
        };
        let fails = Lag::Pairs(vec![failure.clone()]);
        for (follower, lag) in [
            (one(1, &[]), None),
            (one(0, &[]), Some(Lag::Behind)),
            (one(0, &[failure]), Some(fails)),
        ] {
            assert_eq!(follower.lag(&expected(), Sas::WithExternal), lag);
            assert!(follower.is_programmed(&expected()));
        }
    }

    #[test]
    fn a_dead_node_holds_up_nobody() {
        let failure = Failure {
            peer: "dead".to_owned(),
            ..Failure::default()
        };
        let follower = follower(|_, echo| {
            echo.established = 1;
            echo.failed = 1;
            echo.failures = vec![failure];
        });
        let sas = Sas::WithReady {
            ready: &BTreeSet::from(["a", "b"]),
            unready: 1,
        };
        assert_eq!(follower.lag(&expected(), sas), None);
    }

    #[test]
    fn a_removed_tunnel_needs_no_policies() {
        let expected = Expected {
            phase: Phase::Removing,
            ..expected()
        };
        let follower = follower(|_, echo| {
            *echo = Echo {
                generation: 3,
                phase: Phase::Removing,
                ..Echo::default()
            };
        });
        assert!(follower.is_programmed(&expected));
    }
}
