//! `status`, `rekey`, `down` and `up`: questions to the agent that runs on this node.

use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

use crate::args::{CONTROL_SOCKET, Output, RekeyArgs, StatusArgs, TunnelArgs};
use crate::clock::wall;
use crate::commands::table::table;
use crate::server::RekeyAnswer;
use crate::status::local::LocalStatus;

/// The agent answers at once or not at all.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often `status --wait` looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Why a command ended without success; each kind has an exit code of its own.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The agent, or this host, refused: 1.
    Refused(String),
    /// No agent answers: 3.
    NoAgent(String),
    /// The tunnels are not up in time: 4.
    NotUp(String),
}

impl Failure {
    /// The exit code. 2 is a wrong command line.
    pub(crate) const fn code(&self) -> u8 {
        match self {
            Self::Refused(_) => 1,
            Self::NoAgent(_) => 3,
            Self::NotUp(_) => 4,
        }
    }

    /// One sentence for people.
    pub(crate) fn message(&self) -> &str {
        match self {
            Self::Refused(message) | Self::NoAgent(message) | Self::NotUp(message) => message,
        }
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::Refused(message)
    }
}

/// Prints the agent's state, at once or when its tunnels are up.
pub(crate) async fn status(args: &StatusArgs) -> Result<(), Failure> {
    let deadline = args.wait.map(|wait| Instant::now() + wait.to_std());
    let late = |now: Instant| deadline.is_none_or(|deadline| now >= deadline);
    let state = loop {
        let state = state(&args.local.run_dir).await;
        let up = state.as_ref().is_ok_and(|state| state.missing().is_none());
        if up || late(Instant::now()) {
            break state?;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    let text = match args.output {
        Output::Table => table(&state, false, wall().as_secs()),
        Output::Wide => table(&state, true, wall().as_secs()),
        Output::Json => serde_json::to_string_pretty(&state).map_err(|e| e.to_string())? + "\n",
        Output::Yaml => serde_yaml_ng::to_string(&state).map_err(|e| e.to_string())?,
    };
    write!(io::stdout(), "{text}").map_err(|e| e.to_string())?;
    match (args.wait, state.missing()) {
        (Some(wait), Some(missing)) => Err(Failure::NotUp(format!("after {wait}: {missing}"))),
        (None, _) | (_, None) => Ok(()),
    }
}

async fn state(folder: &Path) -> Result<LocalStatus, Failure> {
    let text = ask(folder, "GET", "/state").await?;
    serde_json::from_str(&text).map_err(|e| Failure::Refused(format!("not the agent's answer: {e}")))
}

/// Makes the agent replace SAs.
pub(crate) async fn rekey(args: &RekeyArgs) -> Result<(), Failure> {
    let name = match &args.name {
        Some(name) => format!("&name={}", plain(name)?),
        None => String::new(),
    };
    let path = format!("/rekey?ike={}{name}", args.ike);
    let text = ask(&args.local.run_dir, "POST", &path).await?;
    let answer: RekeyAnswer =
        serde_json::from_str(&text).map_err(|e| format!("not the agent's answer: {e}"))?;
    let kind = if args.ike { "IKE" } else { "CHILD" };
    if answer.started == 0 {
        let whom = args.name.as_deref().unwrap_or("any peer");
        return Err(Failure::Refused(format!(
            "no {kind} SA of {whom} to be replaced; see `ipsecmesh-agent status`"
        )));
    }
    writeln!(io::stdout(), "{} {kind} SAs are being replaced", answer.started).map_err(|e| e.to_string())?;
    Ok(())
}

/// Takes a tunnel down, or up again.
pub(crate) async fn tunnel(args: &TunnelArgs, down: bool) -> Result<(), Failure> {
    let path = format!("/tunnel?down={down}&name={}", plain(&args.tunnel)?);
    let text = ask(&args.local.run_dir, "POST", &path).await?;
    write!(io::stdout(), "{text}").map_err(|e| e.to_string())?;
    Ok(())
}

/// Names of tunnels, nodes and hosts, and addresses, need no quoting in a request.
fn plain(name: &str) -> Result<&str, String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    if name.bytes().all(good) {
        Ok(name)
    } else {
        Err(format!("{name:?} is no name of a tunnel or peer"))
    }
}

/// One request over HTTP/1.0: the server closes after the answer. A whole HTTP client would be the largest part of the
/// binary for two questions to a socket of this host.
async fn ask(folder: &Path, method: &str, path: &str) -> Result<String, Failure> {
    let socket = folder.join(CONTROL_SOCKET);
    let exchange = async {
        let mut stream = UnixStream::connect(&socket).await?;
        let request = format!("{method} {path} HTTP/1.0\r\nHost: agent\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let answer = timeout(PATIENCE, exchange)
        .await
        .map_err(|_| {
            Failure::NoAgent(format!(
                "the agent at {} does not answer within {} s; see its log",
                socket.display(),
                PATIENCE.as_secs()
            ))
        })?
        .map_err(|error| Failure::NoAgent(unreachable(&socket, &error)))?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| format!("{} is no agent's socket: no HTTP answer", socket.display()))?;
    let line = head.lines().next().unwrap_or_default();
    if line.split_whitespace().nth(1) == Some("200") {
        Ok(body.to_owned())
    } else {
        Err(Failure::Refused(body.trim().to_owned()))
    }
}

/// Why nobody answers, and what to do.
fn unreachable(socket: &Path, error: &io::Error) -> String {
    let socket = socket.display();
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "dozens of ways to fail, which name themselves"
    )]
    match error.kind() {
        io::ErrorKind::NotFound => format!(
            "no agent has made {socket}: start it, or name the folder that it was started with by --run-dir"
        ),
        io::ErrorKind::ConnectionRefused => {
            format!("the agent that made {socket} runs no more: start it again")
        }
        io::ErrorKind::PermissionDenied => {
            format!("{socket} belongs to another user: ask as root, who runs the agent")
        }
        _ => format!("the agent at {socket} does not answer: {error}"),
    }
}
