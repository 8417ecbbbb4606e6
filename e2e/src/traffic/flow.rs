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
    let mut books = Books::default();
    while !stop.due() && !books.unread {
        if let Err(error) = turn(&mut flow, &block, &stop, &mut books) {
            books.report.broken = Some(error.to_string());
            break;
        }
        thread::sleep(PACE);
    }
    print(&Line::Flow(books.report));
    Ok(())
}

/// What is reported, and when it was reported last.
struct Books {
    report: FlowReport,
    printed: Instant,
    /// Nobody reads any more.
    unread: bool,
}

impl Default for Books {
    fn default() -> Self {
        Self {
            report: FlowReport::default(),
            printed: Instant::now(),
            unread: false,
        }
    }
}

impl Books {
    /// Notes how long the flow has been standing still, and reports when it is time: a stall that lasts is told too.
    fn note(&mut self, since: Instant) {
        let stall = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.report.longest_stall_ms = self.report.longest_stall_ms.max(stall);
        if self.printed.elapsed() >= REPORT {
            self.printed = Instant::now();
            self.unread = !print(&Line::Flow(self.report.clone()));
        }
    }
}

/// Sends a block and waits for all of it to come back.
fn turn(flow: &mut TcpStream, block: &[u8], stop: &Stop, books: &mut Books) -> io::Result<()> {
    let begin = Instant::now();
    flow.write_all(block)?;
    let mut back = vec![0; block.len()];
    let mut filled = 0;
    while filled < back.len() {
        match flow.read(back.get_mut(filled..).unwrap_or_default()) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => filled += length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                books.note(begin);
                if stop.due() || books.unread {
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
    if back != block {
        return Err(io::Error::other("what came back is not what was sent"));
    }
    books.report.bytes += u64::try_from(block.len()).unwrap_or_default();
    books.note(begin);
    Ok(())
}
