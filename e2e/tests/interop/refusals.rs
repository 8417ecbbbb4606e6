//! Ends that must not agree: our agent says precisely why, no SA is left, and nothing leaves in clear.

use std::time::Duration;

use ipsecmesh_e2e::{
    error::{Error, Result, eventually},
    interop::{
        agent::{Initiation, manifest},
        case::{Auth, Case, Mode, PLAIN},
        ground::Ground,
        proof::Proofs,
        strongswan::{Release, configuration},
        wire::Watch,
    },
};

use crate::{
    ends::{Ends, OURS, THEIRS},
    matrix::Starter,
    world::{ESTABLISHED, World, ensure, ping_both_ways},
};

/// Two networks behind the two ends.
const TUNNEL: Case = Case {
    mode: Mode::Tunnel,
    ..PLAIN
};
/// Proof by certificates.
const CERTIFICATES: Case = Case {
    auth: Auth::Ecdsa,
    ..PLAIN
};

/// One way in which the two ends do not fit.
struct Misfit {
    case: Case,
    ours: Vec<(&'static str, &'static str)>,
    theirs: Vec<(&'static str, &'static str)>,
    proofs: Proofs,
    /// Part of what our agent says when it has begun.
    we_say: &'static str,
    /// Part of what it says when they have begun.
    they_begin: &'static str,
}

impl Misfit {
    fn new(case: Case, we_say: &'static str, they_begin: &'static str) -> Result<Self> {
        Ok(Self {
            case,
            ours: Vec::new(),
            theirs: Vec::new(),
            proofs: Proofs::new(case.auth)?,
            we_say,
            they_begin,
        })
    }

    fn theirs(mut self, from: &'static str, to: &'static str) -> Self {
        self.theirs.push((from, to));
        self
    }

    fn proofs(mut self, change: impl FnOnce(Proofs) -> Result<Proofs>) -> Result<Self> {
        self.proofs = change(self.proofs)?;
        Ok(self)
    }

    /// Both roles, one after the other.
    fn refused(self, world: &World) -> Result<String> {
        let we = self.refused_by(world, Starter::We, self.we_say)?;
        let they = self.refused_by(world, Starter::They, self.they_begin)?;
        Ok(format!("we begin: {we} | they begin: {they}"))
    }

    fn refused_by(&self, world: &World, starter: Starter, reason: &str) -> Result<String> {
        let machine = world.machine()?;
        let ground = Ground::prepare(&machine, None)?;
        let watch = Watch::start(&ground, OURS)?;
        let ends = self.start(&ground, starter)?;
        let outcome = self
            .watch_refusal(&ground, &ends, starter, reason)
            .and_then(|said| {
                let seen = watch.stop();
                ensure(seen.esp + seen.udp + seen.ah == 0, || seen.to_string())?;
                ensure(seen.clear.is_empty(), || seen.to_string())?;
                Ok(said)
            });
        outcome.map_err(|error| ends.with_logs(&Error::observed(format!("{starter}: {error}"))))
    }

    fn watch_refusal(
        &self,
        ground: &Ground<'_>,
        ends: &Ends<'_>,
        starter: Starter,
        reason: &str,
    ) -> Result<String> {
        if starter == Starter::They {
            // Its own opinion is not asked for here.
            let _ = ends.strongswan.initiate();
        }
        let said = eventually(&format!("our agent says {reason:?}"), ESTABLISHED, || {
            let status = ends.agent.status()?;
            let problem = status["tunnels"][0]["problem"].as_str().unwrap_or_default();
            ensure(problem.contains(reason), || status.to_string())?;
            Ok(problem.to_owned())
        })?;
        let (from, to) = self.case.flow(OURS);
        // The answer that must not come.
        let answered = ground.on(OURS, &format!("ping -n -q -c 3 -i 0.1 -W 1 -I {from} {to}"));
        ensure(answered.is_err(), || format!("{to} answers"))?;
        for side in [OURS, THEIRS] {
            eventually(&format!("no SA in the kernel of {}", side.name()), REST, || {
                let found = ends.kernel_sas(side)?;
                ensure(found == 0, || format!("{found} SAs"))
            })?;
        }
        Ok(said)
    }

    fn start<'a>(&self, ground: &'a Ground<'a>, starter: Starter) -> Result<Ends<'a>> {
        let initiation = match starter {
            Starter::We => Initiation::Eager,
            Starter::They => Initiation::OnDemand,
        };
        let ours = manifest(&self.case, OURS, initiation);
        let theirs = configuration(&self.case, THEIRS, self.proofs.of(THEIRS));
        let ours = replaced(ours, &self.ours)?;
        let theirs = replaced(theirs, &self.theirs)?;
        Ends::start_with(ground, &Release::Installed, &ours, &theirs, &self.proofs)
    }
}

/// Text with replacements, each of which must find its place.
fn replaced(text: String, changes: &[(&str, &str)]) -> Result<String> {
    changes.iter().try_fold(text, |text, (from, to)| {
        ensure(text.contains(from), || format!("no {from:?} in\n{text}"))?;
        Ok(text.replace(from, to))
    })
}

/// Another secret.
pub(crate) fn wrong_psk(world: &World) -> Result<String> {
    let other = "another pre-shared key, which is just as long as it has to be";
    Misfit::new(PLAIN, "refused our identity or proof", " ")?
        .proofs(|proofs| Ok(proofs.with_secret(THEIRS, other)))?
        .refused(world)
}

/// They expect another name of us.
pub(crate) fn our_name_is_unknown_to_them(world: &World) -> Result<String> {
    Misfit::new(PLAIN, "refused our identity or proof", " ")?
        .theirs("id = left.example.com", "id = somebody.example.com")
        .refused(world)
}

/// We expect another name of them.
pub(crate) fn their_name_is_unknown_to_us(world: &World) -> Result<String> {
    Misfit::new(PLAIN, "refused our identity or proof", " ")?
        .theirs("id = right.example.com", "id = impostor.example.com")
        .refused(world)
}

/// Their certificate is of an authority that we do not know.
pub(crate) fn their_authority_is_unknown(world: &World) -> Result<String> {
    Misfit::new(
        CERTIFICATES,
        "no root here has issued it",
        "no root here has issued it",
    )?
    .proofs(|proofs| proofs.with_foreign(THEIRS))?
    .refused(world)
}

/// Our certificate is of an authority that they do not know.
pub(crate) fn our_authority_is_unknown(world: &World) -> Result<String> {
    Misfit::new(CERTIFICATES, "refused our identity or proof", " ")?
        .proofs(|proofs| proofs.with_foreign(OURS))?
        .refused(world)
}

/// Their certificate has expired.
pub(crate) fn their_certificate_has_expired(world: &World) -> Result<String> {
    Misfit::new(CERTIFICATES, "it expired", "it expired")?
        .proofs(|proofs| proofs.with_expired(THEIRS))?
        .refused(world)
}

/// Our certificate has expired: our agent says so without asking them.
pub(crate) fn our_certificate_has_expired(world: &World) -> Result<String> {
    Misfit::new(CERTIFICATES, "tls.crt: it expired", "tls.crt: it expired")?
        .proofs(|proofs| proofs.with_expired(OURS))?
        .refused(world)
}

/// No algorithm for the IKE SA in common.
pub(crate) fn ike_proposals(world: &World) -> Result<String> {
    Misfit::new(PLAIN, "NO_PROPOSAL_CHOSEN", "no proposal in common")?
        .theirs("aes256gcm16-prfsha384-x25519", "aes128gcm16-prfsha256-ecp256")
        .refused(world)
}

/// No algorithm for the CHILD SA in common.
pub(crate) fn child_proposals(world: &World) -> Result<String> {
    Misfit::new(
        PLAIN,
        "NO_PROPOSAL_CHOSEN",
        "no proposal for the CHILD SA in common",
    )?
    .theirs("esp_proposals = aes256gcm16", "esp_proposals = aes128gcm16")
    .refused(world)
}

/// Selectors that do not meet.
pub(crate) fn selectors(world: &World) -> Result<String> {
    Misfit::new(TUNNEL, "TS_UNACCEPTABLE", "the peer asks for")?
        .theirs("local_ts = 10.1.2.0/24", "local_ts = 10.9.2.0/24")
        .refused(world)
}

/// They want a tunnel, we do not.
pub(crate) fn they_want_a_tunnel(world: &World) -> Result<String> {
    Misfit::new(PLAIN, "mode", "mode")?
        .theirs("mode = transport", "mode = tunnel")
        .refused(world)
}

/// They offer and accept more than we want: what is agreed on is ours.
pub(crate) fn wider_selectors_of_theirs(world: &World) -> Result<String> {
    narrowed(
        world,
        &[],
        &[("remote_ts = 10.1.1.0/24", "remote_ts = 10.1.0.0/16")],
    )
}

/// We offer and accept more than they want: what is agreed on is theirs.
pub(crate) fn wider_selectors_of_ours(world: &World) -> Result<String> {
    narrowed(
        world,
        &[("remoteCIDR: '10.1.2.0/24'", "remoteCIDR: '10.1.0.0/16'")],
        &[],
    )
}

fn narrowed(
    world: &World,
    ours: &'static [(&'static str, &'static str)],
    theirs: &'static [(&'static str, &'static str)],
) -> Result<String> {
    let mut said = Vec::new();
    for starter in [Starter::We, Starter::They] {
        let machine = world.machine()?;
        let ground = Ground::prepare(&machine, None)?;
        let watch = Watch::start(&ground, OURS)?;
        let mut fit = Misfit::new(TUNNEL, "", "")?;
        (fit.ours, fit.theirs) = (ours.to_vec(), theirs.to_vec());
        let ends = fit.start(&ground, starter)?;
        let begun = match starter {
            Starter::We => Ok(String::new()),
            Starter::They => ends.strongswan.initiate(),
        };
        let outcome = begun.and_then(|_| {
            ends.strongswan.established(ESTABLISHED)?;
            ping_both_ways(&ground, TUNNEL, 3)?;
            let sas = ends.strongswan.sas()?;
            let selectors: Vec<&str> = sas
                .lines()
                .map(str::trim)
                .filter(|line| {
                    line.contains('/') && (line.starts_with("local ") || line.starts_with("remote "))
                })
                .collect();
            ensure(selectors == ["local  10.1.2.0/24", "remote 10.1.1.0/24"], || {
                sas.clone()
            })?;
            watch.stop_with(TUNNEL.protection(), 12)?;
            Ok(format!("{starter}: {}", selectors.join(", ")))
        });
        said.push(outcome.map_err(|error| ends.with_logs(&error))?);
    }
    Ok(said.join(" | "))
}

/// Until a failed exchange has left nothing.
const REST: Duration = Duration::from_secs(10);
