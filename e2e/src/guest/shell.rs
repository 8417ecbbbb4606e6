//! Programs of the node's own that set up its network: one process per batch, since a fork costs 20–50 ms here.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{io::AsyncWriteExt as _, process::Command};

/// Where the node finds programs; PID 1 has no PATH of its own.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs `argv` with `input` on its standard input; an error holds what the program said.
pub(super) async fn run(argv: &[&str], input: &str) -> io::Result<String> {
    let (program, arguments) = argv
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "empty command"))?;
    let mut child = Command::new(found(program))
        .args(arguments)
        .env("PATH", PATH)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await?;
    }
    let output = child.wait_with_output().await?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!(
        "{}: {}: {}",
        argv.join(" "),
        output.status,
        stderr.trim()
    )))
}

/// `Command` searches the parent's PATH, which is empty here.
pub(super) fn found(program: &str) -> PathBuf {
    let mut candidates = PATH.split(':').map(|folder| Path::new(folder).join(program));
    candidates
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| program.into())
}
