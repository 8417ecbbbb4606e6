//! `status`, `rekey`, `down` and `up`: questions to the agent that runs on this node.

use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::args::{CONTROL_SOCKET, Output, RekeyArgs, StatusArgs, TunnelArgs};
use crate::clock::wall;
use crate::commands::table::table;
use crate::server::RekeyAnswer;
use crate::status::local::LocalStatus;

/// The agent answers at once or not at all.
const PATIENCE: Duration = Duration::from_secs(5);

/// Prints the agent's state.
pub(crate) async fn status(args: &StatusArgs) -> Result<(), String> {
    let text = ask(&args.local.run_dir, "GET", "/state").await?;
    let state: LocalStatus =
        serde_json::from_str(&text).map_err(|e| format!("not the agent's answer: {e}"))?;
    let text = match args.output {
        Output::Table => table(&state, false, wall().as_secs()),
        Output::Wide => table(&state, true, wall().as_secs()),
        Output::Json => serde_json::to_string_pretty(&state).map_err(|e| e.to_string())? + "\n",
        Output::Yaml => serde_yaml_ng::to_string(&state).map_err(|e| e.to_string())?,
    };
    write!(io::stdout(), "{text}").map_err(|e| e.to_string())
}

/// Makes the agent replace SAs.
pub(crate) async fn rekey(args: &RekeyArgs) -> Result<(), String> {
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
        return Err(format!(
            "no {kind} SA of {whom} to be replaced; see `ipsecmesh-agent status`"
        ));
    }
    writeln!(io::stdout(), "{} {kind} SAs are being replaced", answer.started).map_err(|e| e.to_string())
}

/// Takes a tunnel down, or up again.
pub(crate) async fn tunnel(args: &TunnelArgs, down: bool) -> Result<(), String> {
    let path = format!("/tunnel?down={down}&name={}", plain(&args.tunnel)?);
    let text = ask(&args.local.run_dir, "POST", &path).await?;
    write!(io::stdout(), "{text}").map_err(|e| e.to_string())
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
async fn ask(folder: &Path, method: &str, path: &str) -> Result<String, String> {
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
        .map_err(|_| format!("the agent at {} does not answer", socket.display()))?
        .map_err(|error| {
            format!(
                "no agent answers at {}: {error}; does it run on this node, and are you root?",
                socket.display()
            )
        })?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("not an HTTP answer")?;
    let line = head.lines().next().unwrap_or_default();
    if line.split_whitespace().nth(1) == Some("200") {
        Ok(body.to_owned())
    } else {
        Err(format!("the agent refused: {}", body.trim()))
    }
}
