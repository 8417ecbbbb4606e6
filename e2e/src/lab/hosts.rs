//! One kernel with ESP and a root shell on it: where `docs/STANDALONE.md` can be tried on a machine whose own kernel lacks
//! ESP. The kernel ends with the shell.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _, Write as _},
    net::Shutdown,
};

use super::{command, machine::Machine};
use crate::{
    error::{Context, Result},
    node_channel::Event,
    protocol::{Exec, NodeConfig},
    report::{Progress, say},
};

/// Instance name of the machine.
pub const INSTANCE: &str = "hosts";
/// Where the node finds the programs of the host.
const SYSTEM: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Boots the kernel and hands its shell to the terminal, or runs what comes on standard input.
pub fn run() -> Result<i32> {
    let progress = Progress::new();
    let machine = Machine::boot(INSTANCE, &progress)?;
    let terminal = io::stdin().is_terminal();
    if terminal {
        say(
            "\nA root shell on a kernel with ESP; the files are this machine's, changes to /tmp, /run, /var/lib and /root are \
             the kernel's own.\nFollow docs/STANDALONE.md here; `exit` ends the kernel and everything on it.\n",
        );
    }
    let raw = terminal.then(RawTerminal::enter).transpose()?;
    let code = converse(&machine, raw.as_ref());
    drop(raw);
    code
}

/// A shell on `machine` in which the commands of the documentation work; its input comes from `exec.stdin` or the client.
pub fn shell(machine: &Machine) -> Exec {
    let programs = NodeConfig::host_path(&machine.folder().join("bin"));
    let env = [
        ("PATH".to_owned(), format!("{}:{SYSTEM}", programs.display())),
        ("PS1".to_owned(), r"hosts:\w# ".to_owned()),
    ];
    Exec {
        argv: ["bash", "-s"].map(str::to_owned).to_vec(),
        env: BTreeMap::from(env),
        ..Exec::default()
    }
}

fn converse(machine: &Machine, terminal: Option<&RawTerminal>) -> Result<i32> {
    let what = || "talk to the shell on the kernel".to_owned();
    let mut exec = shell(machine);
    exec.attached = true;
    if let Some(terminal) = terminal {
        // The kernel's own pseudo-terminal: job control, editing and Ctrl-C are the shell's.
        let inner = format!("stty {}; exec bash --norc -i", terminal.size);
        exec.argv = ["script", "-q", "-e", "-c", &inner, "/dev/null"]
            .map(str::to_owned)
            .to_vec();
        let name = std::env::var("TERM").unwrap_or_else(|_| "dumb".to_owned());
        exec.env.insert("TERM".to_owned(), name);
    }
    let mut running = machine.node().channel().start(exec).context(what)?;
    let mut input = running.input().context(what)?;
    // It waits for the person and ends with the process.
    std::thread::spawn(move || {
        // INVARIANT: a shell that has ended takes no more input, and nobody is left to be told.
        let _ = io::copy(&mut io::stdin(), &mut input).and_then(|_| input.shutdown(Shutdown::Write));
    });
    loop {
        let (mut out, mut err) = (io::stdout(), io::stderr());
        match running.next_event().context(what)? {
            Event::Stdout(bytes) => drop(out.write_all(&bytes).and_then(|()| out.flush())),
            Event::Stderr(bytes) => drop(err.write_all(&bytes)),
            Event::Exit(code) => return Ok(code),
        }
    }
}

/// The terminal hands every key on as it is. Dropping it makes the terminal as it was.
struct RawTerminal {
    before: String,
    size: String,
}

impl RawTerminal {
    fn enter() -> Result<Self> {
        let size = stty(&["size"])?;
        let (rows, columns) = size.trim().split_once(' ').unwrap_or(("24", "80"));
        let size = format!("rows {rows} columns {columns}");
        let before = stty(&["-g"])?;
        stty(&["raw", "-echo"])?;
        Ok(Self { before, size })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // INVARIANT: a terminal that is gone needs no settings.
        let _ = stty(&[self.before.trim()]);
    }
}

fn stty(arguments: &[&str]) -> Result<String> {
    command::run("stty", &[&["-F", "/dev/tty"], arguments].concat())
}
