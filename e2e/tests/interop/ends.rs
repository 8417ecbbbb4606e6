//! The two ends of a trial: our agent and a strongSwan, told the same thing in two languages.

use ipsecmesh_e2e::{
    error::{Error, Result},
    interop::{
        agent::{Agent, Initiation, manifest},
        case::Case,
        ground::{Ground, Side},
        proof::Proofs,
        strongswan::{Release, StrongSwan, configuration},
    },
};

/// Where our agent stands.
pub(crate) const OURS: Side = Side::Left;
/// Where the peer stands.
pub(crate) const THEIRS: Side = Side::Right;

/// Both daemons.
pub(crate) struct Ends<'a> {
    ground: &'a Ground<'a>,
    /// Ours.
    pub(crate) agent: Agent<'a>,
    /// Theirs.
    pub(crate) strongswan: StrongSwan<'a>,
}

impl<'a> Ends<'a> {
    /// Starts both with what the case says.
    pub(crate) fn start(
        ground: &'a Ground<'a>,
        case: Case,
        release: &Release,
        initiation: Initiation,
    ) -> Result<Self> {
        let proofs = Proofs::new(case.auth)?;
        let ours = manifest(&case, OURS, initiation);
        let theirs = configuration(&case, THEIRS, proofs.of(THEIRS));
        Self::start_with(ground, release, &ours, &theirs, &proofs)
    }

    /// Starts both with configurations of their own.
    pub(crate) fn start_with(
        ground: &'a Ground<'a>,
        release: &Release,
        ours: &str,
        theirs: &str,
        proofs: &Proofs,
    ) -> Result<Self> {
        let strongswan = StrongSwan::start(ground, THEIRS, release, theirs, proofs.of(THEIRS))?;
        let agent = Agent::start(ground, OURS, ours, proofs.of(OURS))?;
        Ok(Self {
            ground,
            agent,
            strongswan,
        })
    }

    /// How many SAs the kernel of a side has; one that only waits for its keys is none.
    pub(crate) fn kernel_sas(&self, side: Side) -> Result<usize> {
        let listed = self.ground.on(side, "ip xfrm state")?;
        let spis = listed
            .lines()
            .filter_map(|line| line.trim().strip_prefix("proto "));
        Ok(spis.filter(|line| !line.contains("spi 0x00000000")).count())
    }

    /// Takes the kernel of a side what a crash of its host would take.
    pub(crate) fn flush(&self, side: Side) -> Result<()> {
        self.ground
            .on(side, "ip xfrm state flush && ip xfrm policy flush")
            .map(drop)
    }

    /// An error with what both said last.
    pub(crate) fn with_logs(&self, error: &Error) -> Error {
        Error::observed(format!(
            "{error}\n--- our agent\n{}\n--- charon\n{}",
            self.agent.log(),
            self.strongswan.log()
        ))
    }
}
