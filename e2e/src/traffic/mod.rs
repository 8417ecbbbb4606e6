//! The workload of the lab: numbered packets and long flows between pods, with every loss and every gap reported.
//!
//! Reports are lines of JSON, twice a second, so that a test can judge one moment of a run without ending it.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub mod flow;
pub mod hostile;
mod ledger;
pub mod send;
pub mod serve;
mod stop;
mod stream;

pub use stream::Stream;

/// The port that pods serve on.
pub const PORT: u16 = 7777;

/// A packet that is not back after this time is lost.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time between two reports.
const REPORT: Duration = Duration::from_millis(500);
/// Gaps that a report lists; all of them count.
const GAPS: usize = 16;

/// One line of output.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Line {
    /// Of `send`.
    Datagrams(DatagramReport),
    /// Of `flow`.
    Flow(FlowReport),
}

/// What became of numbered packets.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DatagramReport {
    /// Packets sent.
    pub sent: u64,
    /// Packets that are decided: back, or lost.
    pub settled: u64,
    /// Packets that came back, each counted once.
    pub received: u64,
    /// Packets that did not come back in time.
    pub lost: u64,
    /// Packets that came back after they had been counted as lost.
    pub late: u64,
    /// Copies.
    pub duplicates: u64,
    /// Packets that the kernel refused to send.
    pub refused: u64,
    /// Longest run of losses, in milliseconds.
    pub longest_gap_ms: u64,
    /// The first runs of losses.
    pub gaps: Vec<Gap>,
}

impl DatagramReport {
    /// Packets that never came back. A machine that stands still for longer than the patience makes packets late: they
    /// were in its own queues all the time.
    pub fn missing(&self) -> u64 {
        self.lost.saturating_sub(self.late)
    }
}

/// A run of losses.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Gap {
    /// First packet that was lost.
    pub first: u64,
    /// Last packet that was lost.
    pub last: u64,
    /// When the first was sent, in milliseconds since 1970.
    pub at_ms: u64,
    /// Until the next packet that came back, in milliseconds.
    pub length_ms: u64,
}

/// What became of a TCP flow.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowReport {
    /// Bytes that came back unchanged.
    pub bytes: u64,
    /// Longest time without a byte, in milliseconds.
    pub longest_stall_ms: u64,
    /// Why it broke, if it did.
    pub broken: Option<String>,
}

/// Prints a line; `false` when nobody reads any more.
fn print(line: &Line) -> bool {
    let Ok(mut text) = serde_json::to_vec(line) else {
        return false;
    };
    text.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&text).and_then(|()| out.flush()).is_ok()
}
