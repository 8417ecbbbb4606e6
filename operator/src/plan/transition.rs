//! How single members and overlay entries come and go under a tunnel that stays: each carries a phase of its own
//! until it has caught up with the tunnel, or is gone. One rule for both.

use std::collections::{BTreeMap, BTreeSet};

use ipsecmesh_crds::Phase;

/// The next state of every item: `None` as value means that it follows the tunnel.
///
/// `current` is what is published, `desired` what the spec selects, `tunnel` the tunnel's phase, and `step` says that
/// every node has acknowledged what is published, so that the items on their way may go on.
pub(crate) fn transition<K: Clone + Ord>(
    current: &BTreeMap<K, Option<Phase>>,
    desired: &BTreeSet<K>,
    tunnel: Phase,
    step: bool,
) -> BTreeMap<K, Option<Phase>> {
    let coming = desired
        .iter()
        .map(|key| (key.clone(), arrive(current.get(key).copied(), tunnel, step)));
    let going = current.iter().filter(|(key, _)| !desired.contains(key));
    let going = going.filter_map(|(key, phase)| Some((key.clone(), Some(leave(*phase, tunnel, step)?))));
    coming.chain(going).collect()
}

/// The phase of an item that is selected. The outer `None` of `current` means that it is not published yet.
#[expect(
    clippy::option_option,
    reason = "published or not, and with a phase of its own or not"
)]
fn arrive(current: Option<Option<Phase>>, tunnel: Phase, step: bool) -> Option<Phase> {
    match current {
        None if matches!(tunnel, Phase::Encrypting | Phase::Enforcing) => Some(Phase::Permissive),
        None | Some(None | Some(Phase::Enforcing)) => None,
        // What was on its way out turns round where nothing has opened yet, and starts anew where it has.
        Some(Some(Phase::Draining)) => Some(Phase::Encrypting),
        Some(Some(Phase::Releasing | Phase::Removing)) => Some(Phase::Permissive),
        Some(Some(Phase::Permissive)) => Some(if step {
            Phase::Encrypting
        } else {
            Phase::Permissive
        }),
        Some(Some(Phase::Encrypting)) => (!step).then_some(Phase::Encrypting),
    }
}

/// The phase of an item that is no longer selected; `None` when it goes.
fn leave(current: Option<Phase>, tunnel: Phase, step: bool) -> Option<Phase> {
    match current {
        None => Some(tunnel.towards_removing()),
        Some(phase @ (Phase::Permissive | Phase::Encrypting | Phase::Enforcing)) => {
            Some(phase.towards_removing())
        }
        Some(Phase::Removing) => (!step).then_some(Phase::Removing),
        Some(phase @ (Phase::Draining | Phase::Releasing)) => {
            Some(if step { phase.towards_removing() } else { phase })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Phase::{Draining, Encrypting, Enforcing, Permissive, Releasing, Removing};

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table")]
    fn an_item_comes_in_steps_and_goes_in_steps() {
        // (published, selected, tunnel, acknowledged) → published next
        let cases = [
            (
                "new under a new tunnel follows it",
                None,
                true,
                Permissive,
                true,
                Some(None),
            ),
            (
                "new by an edit starts permissive",
                None,
                true,
                Enforcing,
                false,
                Some(Some(Permissive)),
            ),
            (
                "waits for the echoes",
                Some(Some(Permissive)),
                true,
                Enforcing,
                false,
                Some(Some(Permissive)),
            ),
            (
                "encrypts then",
                Some(Some(Permissive)),
                true,
                Enforcing,
                true,
                Some(Some(Encrypting)),
            ),
            (
                "waits again",
                Some(Some(Encrypting)),
                true,
                Enforcing,
                false,
                Some(Some(Encrypting)),
            ),
            (
                "follows the tunnel",
                Some(Some(Encrypting)),
                true,
                Enforcing,
                true,
                Some(None),
            ),
            ("settled stays", Some(None), true, Enforcing, true, Some(None)),
            (
                "leaving drains at once",
                Some(None),
                false,
                Enforcing,
                false,
                Some(Some(Draining)),
            ),
            (
                "leaving a permissive tunnel releases",
                Some(None),
                false,
                Permissive,
                false,
                Some(Some(Releasing)),
            ),
            (
                "draining waits",
                Some(Some(Draining)),
                false,
                Enforcing,
                false,
                Some(Some(Draining)),
            ),
            (
                "releases",
                Some(Some(Draining)),
                false,
                Enforcing,
                true,
                Some(Some(Releasing)),
            ),
            (
                "removes",
                Some(Some(Releasing)),
                false,
                Enforcing,
                true,
                Some(Some(Removing)),
            ),
            (
                "removing waits",
                Some(Some(Removing)),
                false,
                Enforcing,
                false,
                Some(Some(Removing)),
            ),
            ("is gone", Some(Some(Removing)), false, Enforcing, true, None),
            (
                "turns round while draining",
                Some(Some(Draining)),
                true,
                Enforcing,
                true,
                Some(Some(Encrypting)),
            ),
            (
                "starts anew after releasing",
                Some(Some(Releasing)),
                true,
                Enforcing,
                true,
                Some(Some(Permissive)),
            ),
            (
                "half come goes back",
                Some(Some(Encrypting)),
                false,
                Enforcing,
                false,
                Some(Some(Draining)),
            ),
        ];
        for (name, current, selected, tunnel, step, expected) in cases {
            let current = current.map(|phase| ("x", phase)).into_iter().collect();
            let desired = selected.then_some("x").into_iter().collect();
            let next = transition(&current, &desired, tunnel, step);
            assert_eq!(next.get("x").copied(), expected, "{name}");
        }
    }
}
