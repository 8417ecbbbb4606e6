//! Numbered packets from one side to the other and back, while something happens to the SAs that carry them.

use std::{net::IpAddr, time::Duration};

use super::{
    ground::{Ground, Side},
    task::Task,
};
use crate::{
    error::{Error, Result, eventually},
    traffic::{DatagramReport, Line, PORT},
};

const PROGRAM: &str = "ipsecmesh-traffic";
/// Packets per second.
const RATE: u32 = 200;
/// A packet that is not back after two seconds is lost; the last report comes after that.
const SETTLED: Duration = Duration::from_secs(10);
const FIRST: Duration = Duration::from_secs(10);

/// Running traffic.
#[derive(Debug)]
pub struct Numbered<'a> {
    ground: &'a Ground<'a>,
    pid: String,
    send: Task,
    _serve: Task,
}

impl<'a> Numbered<'a> {
    /// Starts it from `side` to an address of the other one, and waits until packets come back.
    pub fn start(ground: &'a Ground<'a>, side: Side, to: IpAddr) -> Result<Self> {
        let program = ground.machine().program(PROGRAM)?;
        let serve = ground.start(
            &ground.namespace(side.other()),
            "serve",
            &format!("exec {program} serve"),
        )?;
        ground.on(
            side.other(),
            &format!("i=0; until grep -q :{PORT:04X} /proc/net/udp; do i=$((i+1)); [ $i -lt 100 ] || exit 1; sleep 0.1; done"),
        )?;
        let pid = format!("{}/traffic.pid", ground.folder(side));
        let script = format!("echo $$ >{pid}; exec {program} send --to {to} --rate {RATE} --marker {MARKER}");
        let send = ground.start(&ground.namespace(side), "send", &script)?;
        let traffic = Self {
            ground,
            pid,
            send,
            _serve: serve,
        };
        eventually("numbered packets come back", FIRST, || {
            let report = traffic.report()?;
            if report.received > 0 {
                return Ok(());
            }
            Err(Error::observed(format!("{report:?}")))
        })?;
        Ok(traffic)
    }

    /// What the books say so far.
    pub fn report(&self) -> Result<DatagramReport> {
        last(&self.send.said())
    }

    /// Waits until `more` packets have come back from now on, and tells how long that took.
    pub fn wait_for(&self, more: u64, limit: Duration) -> Result<Duration> {
        let (start, before) = (std::time::Instant::now(), self.report()?.received);
        eventually(&format!("{more} more packets come back"), limit, || {
            let report = self.report()?;
            if report.received >= before + more {
                return Ok(start.elapsed());
            }
            Err(Error::observed(format!("{report:?}")))
        })
    }

    /// Ends it; the report has decided about every packet.
    pub fn stop(self) -> Result<DatagramReport> {
        self.ground.script(&format!("kill -TERM $(cat {})", self.pid))?;
        let (_, said) = self.send.wait(SETTLED)?;
        last(&said)
    }
}

/// The last whole line of what was said.
fn last(said: &str) -> Result<DatagramReport> {
    let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let line = whole.lines().rev().find(|line| line.starts_with('{'));
    match line.map(serde_json::from_str) {
        Some(Ok(Line::Datagrams(report))) => Ok(report),
        Some(Ok(Line::Flow(_)) | Err(_)) | None => {
            Err(Error::observed(format!("the traffic said nothing: {said:?}")))
        }
    }
}

/// Text in every packet, which nobody on the wire may read.
const MARKER: &str = "READ-ME-IF-YOU-CAN";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_whole_report_counts() {
        let line = |sent| {
            let report = DatagramReport {
                sent,
                ..DatagramReport::default()
            };
            serde_json::to_string(&Line::Datagrams(report)).expect("serializable")
        };
        let said = format!("{}\n{}\n{{\"data", line(1), line(2));
        assert_eq!(last(&said).expect("a report").sent, 2);
        assert!(last("no such address\n").is_err());
    }
}
