//! The end of a tunnel: when the finalizer may go, and when waiting ends.

use std::time::Duration;

use ipsecmesh_crds::Phase;

/// After this a deletion goes on without the nodes that do not follow; they converge because the object is gone.
pub(crate) const CAP: Duration = Duration::from_mins(10);

/// What becomes of a tunnel that is going.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Teardown {
    /// Every node has acknowledged `Removing`: the members and the finalizer go.
    Done,
    /// The cap is reached: the same, with a warning.
    TimedOut,
    /// The phases go on.
    Wait,
}

/// Decides on a tunnel whose published phase is `phase` and whose end was asked for `since` ago.
pub(crate) fn teardown(phase: Option<Phase>, acknowledged: bool, since: Duration) -> Teardown {
    match phase {
        None => Teardown::Done,
        Some(Phase::Removing) if acknowledged => Teardown::Done,
        Some(_) if since >= CAP => Teardown::TimedOut,
        Some(_) => Teardown::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_goes_when_all_have_removed_it_or_after_the_cap() {
        let short = Duration::from_secs(1);
        let cases = [
            (None, false, short, Teardown::Done),
            (Some(Phase::Enforcing), true, short, Teardown::Wait),
            (Some(Phase::Removing), false, short, Teardown::Wait),
            (Some(Phase::Removing), true, short, Teardown::Done),
            (Some(Phase::Draining), false, CAP, Teardown::TimedOut),
        ];
        for (phase, acknowledged, since, expected) in cases {
            assert_eq!(
                teardown(phase, acknowledged, since),
                expected,
                "{phase:?} {acknowledged} {since:?}"
            );
        }
    }
}
