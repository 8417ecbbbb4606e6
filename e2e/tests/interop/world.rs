//! The kernel that the trials share, and what they do to two ends that should understand each other.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use ipsecmesh_e2e::{
    error::{Error, Result, eventually},
    interop::{
        case::Case,
        ground::{Ground, Side},
    },
    lab::{
        machine::Machine,
        suite::{self, Suite},
    },
    report::{self, Progress},
};

/// From the first message to SAs in both kernels, on a busy machine.
pub(crate) const ESTABLISHED: Duration = Duration::from_secs(15);

/// A root as the machine sees it, or why there is none.
type Fetched = std::result::Result<String, String>;

/// The machine, booted when the first trial asks for it.
#[derive(Default)]
pub(crate) struct World {
    machine: Mutex<Option<Arc<Machine>>>,
    forky: OnceLock<Fetched>,
    trixie: OnceLock<Fetched>,
    table: Mutex<Vec<(String, String)>>,
}

impl World {
    /// Runs a trial and keeps its evidence and duration for the table.
    pub(crate) fn run(&self, name: &str, check: impl FnOnce(&Self) -> Result<String>) -> Result<()> {
        self.machine()?;
        let start = Instant::now();
        let outcome = check(self).inspect_err(|error| report::fail(name, error));
        let took = start.elapsed().as_secs_f64();
        let evidence = outcome.as_ref().map_or("FAILED", String::as_str);
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.push((name.to_owned(), format!("{took:5.1} s  {evidence}")));
        outcome.map(drop)
    }

    /// Shows what was seen, and removes the machine.
    pub(crate) fn end(&self) {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        report::table("What the trials saw", &table);
        if let Some(machine) = self.machine.lock().unwrap_or_else(PoisonError::into_inner).take()
            && let Err(error) = machine.stop()
        {
            report::fail("removing the machine", &error);
        }
    }

    /// The booted machine.
    pub(crate) fn machine(&self) -> Result<Arc<Machine>> {
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(machine) = machine.as_ref() {
            return Ok(machine.clone());
        }
        let booted = Arc::new(Machine::boot("interop", &Progress::quiet())?);
        *machine = Some(booted.clone());
        Ok(booted)
    }

    /// The root of Debian's testing suite as the machine sees it, or why there is none: then what needs it is left out.
    pub(crate) fn forky(&self) -> std::result::Result<&str, String> {
        fetched(&self.forky, Suite::Forky)
    }

    /// Likewise of the stable suite.
    pub(crate) fn trixie(&self) -> std::result::Result<&str, String> {
        fetched(&self.trixie, Suite::Trixie)
    }
}

fn fetched(cell: &OnceLock<Fetched>, suite: Suite) -> std::result::Result<&str, String> {
    let fetched = cell.get_or_init(|| {
        suite::root(suite, &Progress::quiet())
            .map(|root| Machine::seen(&root))
            .map_err(|error| format!("LEFT OUT: {error}"))
    });
    fetched.as_deref().map_err(Clone::clone)
}

/// Pings in both directions until the first answer, then `count` times each; all must come back.
pub(crate) fn ping_both_ways(ground: &Ground<'_>, case: Case, count: usize) -> Result<()> {
    for side in Side::BOTH {
        let (from, to) = case.flow(side);
        eventually(&format!("{to} answers {from}"), Duration::from_secs(5), || {
            ping(ground, side, from, to, count)
        })?;
    }
    Ok(())
}

fn ping(ground: &Ground<'_>, side: Side, from: IpAddr, to: IpAddr, count: usize) -> Result<()> {
    let said = ground.on(
        side,
        &format!("ping -n -q -c {count} -i 0.02 -W 1 -I {from} {to}"),
    )?;
    ensure(said.contains(" 0% packet loss"), || said.clone())
}

/// Fails with the message unless the condition holds.
pub(crate) fn ensure(holds: bool, message: impl FnOnce() -> String) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(Error::observed(message()))
    }
}
