//! libreswan of Debian's stable suite: another implementation, with other habits.

use std::time::Duration;

use ipsecmesh_e2e::{
    error::{Error, Result, eventually},
    interop::{
        agent::{Agent, Initiation, manifest},
        case::{Auth, Case, Mode, PLAIN, Path, Suite},
        ground::Ground,
        libreswan::Libreswan,
        proof::Proofs,
        traffic::Numbered,
        wire::Watch,
    },
};

use crate::{
    ends::{OURS, THEIRS},
    life::{Part, judge, name_of},
    matrix::Starter,
    world::{ESTABLISHED, World, ensure, ping_both_ways},
};

const PINGS: usize = 5;

/// A shared secret, transport mode, AES-GCM.
pub(crate) fn psk_transport(world: &World) -> Result<String> {
    both_roles(world, PLAIN)
}

/// Certificates, tunnel mode, AES-CBC with HMAC-SHA2.
pub(crate) fn ecdsa_cbc_tunnel(world: &World) -> Result<String> {
    both_roles(
        world,
        Case {
            auth: Auth::Ecdsa,
            suite: Suite::Cbc,
            mode: Mode::Tunnel,
            ..PLAIN
        },
    )
}

/// RSA-PSS, transport mode in forced UDP, AES-GCM with ECP-256.
pub(crate) fn rsa_gcm128_udp(world: &World) -> Result<String> {
    both_roles(
        world,
        Case {
            auth: Auth::Rsa,
            suite: Suite::Gcm128,
            path: Path::ForcedUdp,
            ..PLAIN
        },
    )
}

/// A shared secret, a tunnel of IPv4 in IPv6, ChaCha20-Poly1305.
pub(crate) fn chacha_tunnel_4in6(world: &World) -> Result<String> {
    both_roles(
        world,
        Case {
            suite: Suite::ChaCha,
            mode: Mode::Tunnel,
            outer_v6: true,
            ..PLAIN
        },
    )
}

/// Both ends rekey both kinds of SAs, and nothing is lost.
pub(crate) fn rekeys(world: &World) -> Result<String> {
    let root = match world.trixie() {
        Ok(root) => root.to_owned(),
        Err(why) => return Ok(why),
    };
    let machine = world.machine()?;
    let ground = Ground::prepare(&machine, None)?;
    let watch = Watch::start(&ground, OURS)?;
    let ends = Ends::start(&ground, PLAIN, &root, Initiation::Eager)?;
    let outcome = ends.libreswan.established(ESTABLISHED).and_then(|_| {
        let traffic = Numbered::start(&ground, OURS, PLAIN.flow(OURS).1)?;
        let steps: [(Part, &dyn Fn() -> Result<String>); 5] = [
            (Part::Child, &|| ends.agent.rekey_child()),
            (Part::Child, &|| ends.libreswan.rekey_child()),
            (Part::Ike, &|| ends.agent.rekey_ike()),
            (Part::Ike, &|| ends.libreswan.rekey_ike()),
            (Part::Child, &|| ends.libreswan.rekey_child()),
        ];
        for (part, action) in steps {
            let before = name_of(&ends.agent, part)?;
            action()?;
            eventually(&format!("another {part:?} SA"), ESTABLISHED, || {
                let now = name_of(&ends.agent, part)?;
                ensure(now != before, || format!("still {now}"))
            })?;
            traffic.wait_for(100, ESTABLISHED)?;
        }
        let books = judge(&traffic.stop()?, Duration::ZERO)?;
        let seen = watch.stop_with(PLAIN.protection(), 100)?;
        Ok(format!("{books}; {seen}"))
    });
    outcome.map_err(|error| ends.with_logs(&error))
}

/// Both daemons.
struct Ends<'a> {
    agent: Agent<'a>,
    libreswan: Libreswan<'a>,
}

impl<'a> Ends<'a> {
    fn start(ground: &'a Ground<'a>, case: Case, root: &str, initiation: Initiation) -> Result<Self> {
        let proofs = Proofs::new(case.auth)?;
        let libreswan = Libreswan::start(ground, THEIRS, root, case, proofs.of(THEIRS))?;
        let manifest = manifest(&case, OURS, initiation);
        let agent = Agent::start(ground, OURS, &manifest, proofs.of(OURS))?;
        Ok(Self { agent, libreswan })
    }

    fn with_logs(&self, error: &Error) -> Error {
        Error::observed(format!(
            "{error}\n--- our agent\n{}\n--- pluto\n{}",
            self.agent.log(),
            self.libreswan.log()
        ))
    }
}

fn both_roles(world: &World, case: Case) -> Result<String> {
    let root = match world.trixie() {
        Ok(root) => root.to_owned(),
        Err(why) => return Ok(why),
    };
    let we = row(world, case, &root, Starter::We)?;
    let they = row(world, case, &root, Starter::They)?;
    Ok(format!("{we} | {they}"))
}

fn row(world: &World, case: Case, root: &str, starter: Starter) -> Result<String> {
    let machine = world.machine()?;
    let ground = Ground::prepare(&machine, None)?;
    let watch = Watch::start(&ground, OURS)?;
    let initiation = match starter {
        Starter::We => Initiation::Eager,
        Starter::They => Initiation::OnDemand,
    };
    let ends = Ends::start(&ground, case, root, initiation)?;
    let begun = match starter {
        Starter::We => Ok(String::new()),
        Starter::They => ends.libreswan.initiate(),
    };
    let outcome = begun.and_then(|_| {
        let agreed = ends.libreswan.established(ESTABLISHED)?;
        ping_both_ways(&ground, case, PINGS)?;
        let seen = watch.stop_with(case.protection(), 4 * PINGS)?;
        Ok(format!("{starter}: {agreed}; {seen}"))
    });
    outcome.map_err(|error| ends.with_logs(&error))
}
