//! The host's view of a running `send` or `flow`: its reports as they come over the exec channel.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::{DatagramReport, FlowReport, Line};
use crate::{
    error::{Context, Error, Result},
    lab::{Lab, product::TRAFFIC_CONTAINER},
    node_channel::{Event, Running, Stopper},
    protocol::{Exec, Place},
};

/// How long a report may take: the command is started by a fork in a small kernel, and reports come twice a second.
const NEXT_REPORT: Duration = Duration::from_secs(20);

/// A measurement that runs in a pod; dropping it ends the command.
#[derive(Debug)]
pub struct Stream {
    what: String,
    shared: Arc<Shared>,
    stopper: Stopper,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    reports: u64,
    last: Option<Line>,
    ended: Option<String>,
}

impl Stream {
    /// Runs `ipsecmesh-traffic` with these arguments in a pod of the default namespace.
    pub fn start(lab: &Lab, node: &str, pod: &str, arguments: &[&str]) -> Result<Self> {
        let what = format!("{pod} on {node}: {}", arguments.join(" "));
        let argv = ["/ipsecmesh-traffic"].iter().chain(arguments);
        let running = lab
            .node(node)?
            .channel()
            .start(Exec {
                argv: argv.map(ToString::to_string).collect(),
                place: Place::Container {
                    namespace: "default".into(),
                    pod: pod.into(),
                    container: TRAFFIC_CONTAINER.into(),
                },
                ..Exec::default()
            })
            .context(|| what.clone())?;
        let stopper = running.stopper().context(|| what.clone())?;
        let shared = Arc::new(Shared::default());
        let stream = Self {
            what,
            shared: shared.clone(),
            stopper,
        };
        thread::spawn(move || follow(running, &shared));
        stream.next_report(0)?;
        Ok(stream)
    }

    /// The newest report of packets.
    pub fn datagrams(&self) -> Result<DatagramReport> {
        self.as_datagrams(self.shared.lock().last.clone())
    }

    /// The newest report of bytes.
    pub fn flow(&self) -> Result<FlowReport> {
        match self.shared.lock().last.clone() {
            Some(Line::Flow(report)) => Ok(report),
            other @ (Some(Line::Datagrams(_)) | None) => Err(self.wrong(other.as_ref())),
        }
    }

    /// A report that has decided about every packet that was sent before this call; late ones had half a second more.
    pub fn settled(&self) -> Result<DatagramReport> {
        let mut seen = self.shared.lock().reports;
        let mut wanted = None;
        loop {
            let (count, line) = self.next_report(seen)?;
            let report = self.as_datagrams(Some(line))?;
            let wanted = *wanted.get_or_insert(report.sent);
            if report.settled >= wanted {
                return self.as_datagrams(Some(self.next_report(count)?.1));
            }
            seen = count;
        }
    }

    /// A report of bytes from after this call.
    pub fn fresh_flow(&self) -> Result<FlowReport> {
        let seen = self.shared.lock().reports;
        self.next_report(seen)?;
        self.flow()
    }

    /// Whether the command still runs.
    pub fn runs(&self) -> bool {
        self.shared.lock().ended.is_none()
    }

    fn next_report(&self, seen: u64) -> Result<(u64, Line)> {
        let deadline = Instant::now() + NEXT_REPORT;
        let mut state = self.shared.lock();
        loop {
            if let Some(line) = state.last.clone().filter(|_| state.reports > seen) {
                return Ok((state.reports, line));
            }
            if let Some(end) = &state.ended {
                return Err(Error::Ended(format!("{}: {end}", self.what)));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Timeout {
                    what: format!("{} reports", self.what),
                    limit: NEXT_REPORT,
                    last: format!("{:?}", state.last),
                });
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn as_datagrams(&self, line: Option<Line>) -> Result<DatagramReport> {
        match line {
            Some(Line::Datagrams(report)) => Ok(report),
            other @ (Some(Line::Flow(_)) | None) => Err(self.wrong(other.as_ref())),
        }
    }

    fn wrong(&self, line: Option<&Line>) -> Error {
        Error::observed(format!("{}: another report than expected: {line:?}", self.what))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // A node that crashed has ended the command itself.
        let _ = self.stopper.stop();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Folds the command's output into the shared state until it ends.
fn follow(mut running: Running, shared: &Shared) {
    let mut pending = Vec::new();
    let mut said = String::new();
    let end = loop {
        match running.next_event() {
            Ok(Event::Stdout(bytes)) => {
                pending.extend(bytes);
                while let Some(line) = take_line(&mut pending) {
                    if let Ok(report) = serde_json::from_slice(&line) {
                        let mut state = shared.lock();
                        state.reports += 1;
                        state.last = Some(report);
                        drop(state);
                        shared.changed.notify_all();
                    }
                }
            }
            Ok(Event::Stderr(bytes)) => said.push_str(&String::from_utf8_lossy(&bytes)),
            Ok(Event::Exit(code)) => break format!("ended with code {code}: {said}"),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                break "the node is gone".to_owned();
            }
            Err(error) => break error.to_string(),
        }
    };
    shared.lock().ended = Some(end);
    shared.changed.notify_all();
}

/// The first whole line, without its end.
fn take_line(pending: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = pending.iter().position(|byte| *byte == b'\n')?;
    let rest = pending.split_off(end + 1);
    let mut line = std::mem::replace(pending, rest);
    line.pop();
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_whole_and_in_order() {
        let mut pending = b"one\ntwo\nthr".to_vec();
        assert_eq!(take_line(&mut pending), Some(b"one".to_vec()));
        assert_eq!(take_line(&mut pending), Some(b"two".to_vec()));
        assert_eq!(take_line(&mut pending), None);
        assert_eq!(pending, b"thr");
    }
}
