//! Tables: each situation with its conditions.

use super::*;

fn standing() -> Standing {
    Standing {
        first: false,
        external: false,
        psk_holders: 0,
        suspended: false,
        goal: Goal::Enforce,
        phase: Some(Phase::Enforcing),
        in_transition: false,
        blocked: false,
        ready: 3,
        programmed: 3,
        agents: Vec::new(),
        behind: Vec::new(),
        failing: Vec::new(),
        overlap: Overlap::Nothing,
    }
}

fn of(verdicts: &[Verdict], type_: ConditionType) -> Option<(Truth, String)> {
    verdicts
        .iter()
        .find(|verdict| verdict.type_ == type_)
        .map(|verdict| (verdict.truth, verdict.reason.clone()))
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn each_situation_has_its_ready_condition() {
    let failure = |reason: &str| {
        let failure = Failure {
            peer: "b".to_owned(),
            reason: reason.to_owned(),
            message: "no".to_owned(),
        };
        vec![("a".to_owned(), failure)]
    };
    let kernel = vec![(
        "a".to_owned(),
        Problem::new("KernelUnsupported", "a: no ESP".to_owned()),
    )];
    let cases = [
        (
            "steady",
            Findings::default(),
            standing(),
            Truth::True,
            "Ready",
            false,
        ),
        (
            "first look",
            Findings::default(),
            Standing {
                first: true,
                phase: None,
                programmed: 0,
                ..standing()
            },
            Truth::Unknown,
            "Reconciling",
            false,
        ),
        (
            "no authority",
            Findings {
                refs: Some(Problem::new("AuthorityNotFound", "no authority x".to_owned())),
                ..Findings::default()
            },
            Standing {
                first: true,
                phase: None,
                ..standing()
            },
            Truth::False,
            "AuthorityNotFound",
            true,
        ),
        (
            "nothing selected",
            Findings {
                programmed: Some(Problem::new("NoNodesSelected", "none".to_owned())),
                ..Findings::default()
            },
            Standing {
                phase: None,
                ready: 0,
                programmed: 0,
                ..standing()
            },
            Truth::False,
            "NoNodesSelected",
            true,
        ),
        (
            "no ESP",
            Findings::default(),
            Standing {
                phase: Some(Phase::Permissive),
                programmed: 2,
                agents: kernel,
                ..standing()
            },
            Truth::False,
            "KernelUnsupported",
            false,
        ),
        (
            "authentication fails",
            Findings::default(),
            Standing {
                phase: Some(Phase::Permissive),
                programmed: 1,
                failing: failure("AuthenticationFailed"),
                ..standing()
            },
            Truth::False,
            "AuthenticationFailed",
            false,
        ),
        (
            "one pair of a large mesh",
            Findings::default(),
            Standing {
                ready: 100,
                programmed: 100,
                failing: failure("PeerUnreachable"),
                ..standing()
            },
            Truth::True,
            "Ready",
            false,
        ),
        (
            "blocked",
            Findings::default(),
            Standing {
                phase: Some(Phase::Permissive),
                programmed: 2,
                behind: vec!["c".to_owned()],
                blocked: true,
                ..standing()
            },
            Truth::False,
            "Reconciling",
            true,
        ),
        (
            "pending",
            Findings::default(),
            Standing {
                phase: Some(Phase::Encrypting),
                ..standing()
            },
            Truth::False,
            "RolloutPending",
            false,
        ),
        (
            "overridden",
            Findings::default(),
            Standing {
                overlap: Overlap::All(["other".to_owned()].into()),
                ..standing()
            },
            Truth::False,
            "Overridden",
            true,
        ),
        (
            "overridden in part",
            Findings::default(),
            Standing {
                overlap: Overlap::Part(["other".to_owned()].into()),
                ..standing()
            },
            Truth::True,
            "Ready",
            false,
        ),
        (
            "permissive by policy",
            Findings::default(),
            Standing {
                goal: Goal::Permit,
                phase: Some(Phase::Permissive),
                ..standing()
            },
            Truth::True,
            "Ready",
            false,
        ),
    ];
    for (name, findings, standing, truth, reason, stalled) in cases {
        let verdicts = conditions(&findings, &standing);
        assert_eq!(
            of(&verdicts, ConditionType::Ready),
            Some((truth, reason.to_owned())),
            "{name}: {verdicts:#?}"
        );
        assert_eq!(of(&verdicts, ConditionType::Stalled).is_some(), stalled, "{name}");
        let moving = of(&verdicts, ConditionType::Reconciling).is_some();
        assert_eq!(moving, truth != Truth::True && !stalled, "{name}");
    }
}

#[test]
fn an_overlap_names_the_winner_and_claims_nothing() {
    let names = || ["other".to_owned()].into();
    for (overlap, programmed, enforced) in [
        (
            Overlap::All(names()),
            (Truth::False, "Overridden"),
            (Truth::False, "Overridden"),
        ),
        (
            Overlap::Part(names()),
            (Truth::True, "PartiallyProgrammed"),
            (Truth::True, "Enforcing"),
        ),
    ] {
        let verdicts = conditions(
            &Findings::default(),
            &Standing {
                overlap,
                ..standing()
            },
        );
        let found = |type_| of(&verdicts, type_).expect("the condition");
        assert_eq!(
            found(ConditionType::Programmed),
            (programmed.0, programmed.1.to_owned())
        );
        assert_eq!(
            found(ConditionType::Enforced),
            (enforced.0, enforced.1.to_owned())
        );
        let message = &verdicts
            .iter()
            .find(|v| v.type_ == ConditionType::Programmed)
            .expect("it")
            .message;
        assert!(message.contains("IPsecTunnel other"), "{message}");
    }
}

#[test]
fn a_blocked_rollout_names_the_nodes() {
    let standing = Standing {
        phase: Some(Phase::Permissive),
        programmed: 2,
        behind: vec!["c".to_owned()],
        blocked: true,
        ..standing()
    };
    let verdicts = conditions(&Findings::default(), &standing);
    let enforced = verdicts
        .iter()
        .find(|verdict| verdict.type_ == ConditionType::Enforced)
        .expect("Enforced");
    assert_eq!(enforced.reason, "RolloutBlocked");
    assert_eq!(
        enforced.message,
        "phase Permissive: waiting for c; look at the log of their agents"
    );
}

#[test]
fn a_key_that_several_nodes_share_is_said_unless_something_is_worse() {
    let of_holders = |psk_holders, failing: &[(String, Failure)]| {
        let standing = Standing {
            external: true,
            psk_holders,
            failing: failing.to_vec(),
            ..standing()
        };
        of(
            &conditions(&Findings::default(), &standing),
            ConditionType::Degraded,
        )
    };
    let failure = Failure {
        peer: "192.0.2.10".to_owned(),
        reason: "PeerUnreachable".to_owned(),
        message: "no answer".to_owned(),
    };
    let degraded = |reason: &str| Some((Truth::True, reason.to_owned()));
    assert_eq!(of_holders(1, &[]), None);
    assert_eq!(of_holders(2, &[]), degraded("SharedPSK"));
    assert_eq!(
        of_holders(2, &[("a".to_owned(), failure)]),
        degraded("PeersFailing")
    );
}
