//! `flow`: one long TCP connection; the longest time without a byte is what its user feels.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, SocketAddrV4, TcpStream},
    thread,
    time::{Duration, Instant},
};

use super::{FlowReport, Line, REPORT, print, stop::Stop};

/// Bytes per turn: several segments.
const BLOCK: usize = 4096;
const PACE: Duration = Duration::from_millis(5);
/// A flow that stands still this long is broken.
const BROKEN: Duration = Duration::from_mins(1);
/// How often a flow that stands still looks at the end.
const LOOK: Duration = Duration::from_millis(100);

/// Keeps the flow busy and prints reports until it is told to end or the flow breaks.
pub fn run(to: SocketAddrV4, marker: &str) -> io::Result<()> {
    let stop = Stop::after(None);
    let mut flow = TcpStream::connect_timeout(&SocketAddr::V4(to), BROKEN)?;
    flow.set_nodelay(true)?;
    flow.set_read_timeout(Some(LOOK))?;
    flow.set_write_timeout(Some(BROKEN))?;
    let block: Vec<u8> = marker.bytes().chain([b'\n']).cycle().take(BLOCK).collect();
    let mut report = FlowReport::default();
    let mut printed = Instant::now();
    while !stop.due() {
        let begin = Instant::now();
        if let Err(error) = turn(&mut flow, &block, &stop) {
            report.broken = Some(error.to_string());
            break;
        }
        report.bytes += u64::try_from(BLOCK).unwrap_or_default();
        let stall = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        report.longest_stall_ms = report.longest_stall_ms.max(stall);
        if printed.elapsed() >= REPORT {
            printed = Instant::now();
            if !print(&Line::Flow(report.clone())) {
                return Ok(());
            }
        }
        thread::sleep(PACE);
    }
    print(&Line::Flow(report));
    Ok(())
}

/// Sends a block and waits for all of it to come back.
fn turn(flow: &mut TcpStream, block: &[u8], stop: &Stop) -> io::Result<()> {
    flow.write_all(block)?;
    let begin = Instant::now();
    let mut back = vec![0; block.len()];
    let mut filled = 0;
    while filled < back.len() {
        match flow.read(back.get_mut(filled..).unwrap_or_default()) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => filled += length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if stop.due() {
                    return Ok(());
                }
                if begin.elapsed() >= BROKEN {
                    return Err(io::Error::other(format!(
                        "stands still for {} s",
                        BROKEN.as_secs()
                    )));
                }
            }
            Err(error) => return Err(error),
        }
    }
    if back == block {
        Ok(())
    } else {
        Err(io::Error::other("what came back is not what was sent"))
    }
}
