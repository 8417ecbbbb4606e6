//! What crossed a node's wire: recorded by tcpdump on the tap, read and judged by us.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::{
    error::{Context, Error, Result, eventually},
    lab::{Process, state::State},
    report,
};

pub use pcap::{Frame, frames};

pub mod pcap;

/// Everything on the wire but the Kubernetes API and ARP.
pub const ALL_BUT_API: &str = "ip and not tcp port 6443";

static NUMBER: AtomicU32 = AtomicU32::new(1);

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
}

impl Capture {
    /// Starts tcpdump and waits until it listens.
    pub(crate) fn start(
        network: &crate::lab::Network,
        state: &Arc<State>,
        folder: &Path,
        tap: &str,
        filter: &str,
    ) -> Result<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let file = folder.join(format!("{number:03}-{tap}.pcap"));
        let log = folder.join(format!("{number:03}-{tap}.log"));
        let path = file.display().to_string();
        let arguments = [
            "-Z",
            "root",
            "-n",
            "-p",
            "-U",
            "--immediate-mode",
            // KiB for packets that tcpdump has not read yet: with 16384 a busy machine lost some in a long trial.
            "-B",
            "65536",
            "-s",
            "0",
            "-i",
            tap,
            "-w",
            &path,
            filter,
        ];
        let process = Process::start("tcpdump", network, state, Path::new("tcpdump"), &arguments, &log)?;
        eventually("tcpdump listens", Duration::from_secs(10), || {
            process.check()?;
            let said = fs::read_to_string(&log).unwrap_or_default();
            if said.contains("listening on") {
                Ok(())
            } else {
                Err(Error::observed(said))
            }
        })?;
        Ok(Self { process, file })
    }

    /// The file that it writes.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// What has been recorded so far.
    pub fn look(&self) -> Result<Wire> {
        Wire::read(&self.file)
    }

    /// Ends the capture and reads it. An incomplete capture proves nothing, so lost packets are an error.
    pub fn finish(self) -> Result<Wire> {
        self.process.stop(Signal::SIGINT, Duration::from_secs(5))?;
        let said = fs::read_to_string(self.process.log()).unwrap_or_default();
        if !said.contains("\n0 packets dropped by kernel") {
            return Err(Error::observed(format!(
                "capture {} is incomplete: {said}",
                self.file.display()
            )));
        }
        Wire::read(&self.file)
    }
}

/// The packets of a capture.
#[derive(Clone, Debug, Default)]
pub struct Wire {
    frames: Vec<Frame>,
}

/// How many packets of which kind.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// ESP, bare or in UDP 4500.
    pub esp: usize,
    /// IKE on UDP 500 or 4500.
    pub ike: usize,
    /// VXLAN or Geneve in clear: pod traffic that anyone on the wire can read.
    pub clear_overlay: usize,
    /// All others.
    pub other: usize,
}

impl Wire {
    /// Reads a capture file.
    pub fn read(file: &Path) -> Result<Self> {
        let bytes = fs::read(file).context(|| format!("read {}", file.display()))?;
        Ok(Self {
            frames: frames(&bytes)
                .map_err(|error| Error::observed(format!("{}: {error}", file.display())))?,
        })
    }

    /// Counts what lies between the nodes of a set; an empty set means all.
    pub fn counts_between(&self, addresses: &[Ipv4Addr]) -> Counts {
        let inside = |address| addresses.is_empty() || addresses.contains(&address);
        let mut counts = Counts::default();
        for frame in self
            .frames
            .iter()
            .filter(|frame| inside(frame.source) && inside(frame.destination))
        {
            match frame.kind() {
                pcap::Kind::Esp => counts.esp += 1,
                pcap::Kind::Ike => counts.ike += 1,
                pcap::Kind::Overlay => counts.clear_overlay += 1,
                pcap::Kind::Other => counts.other += 1,
            }
        }
        counts
    }

    /// Counts everything.
    pub fn counts(&self) -> Counts {
        self.counts_between(&[])
    }

    /// How many packets hold a text that can be read on the wire.
    pub fn readable(&self, marker: &str) -> usize {
        self.frames
            .iter()
            .filter(|frame| frame.contains(marker.as_bytes()))
            .count()
    }

    /// The packets.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// The first clear overlay packet, for an error message.
    pub fn first_clear(&self) -> Option<&Frame> {
        self.frames
            .iter()
            .find(|frame| frame.kind() == pcap::Kind::Overlay)
    }

    /// Fails unless nothing of the overlay was readable between these nodes.
    pub fn assert_no_cleartext(&self, addresses: &[Ipv4Addr]) -> Result<Counts> {
        let counts = self.counts_between(addresses);
        if counts.clear_overlay == 0 {
            return Ok(counts);
        }
        let first = self.first_clear().map(ToString::to_string).unwrap_or_default();
        Err(Error::observed(format!(
            "{} overlay packets in clear between nodes ({} ESP), the first: {first}",
            counts.clear_overlay, counts.esp
        )))
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} ESP, {} IKE, {} overlay in clear, {} other",
            self.esp, self.ike, self.clear_overlay, self.other
        )
    }
}

/// Shows the first packets as tcpdump would, for the eye.
pub fn show(file: &Path, packets: usize, progress: &report::Progress) -> Result<()> {
    let path = file.display().to_string();
    let count = packets.to_string();
    let text = crate::lab::command::run("tcpdump", &["-n", "-t", "-r", &path, "-c", &count])?;
    progress.show(&text);
    Ok(())
}
