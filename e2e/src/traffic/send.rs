//! `send`: paced, numbered packets with a text that anyone on the wire could read.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{Line, PATIENCE, REPORT, ledger::Ledger, print, stop::Stop};

/// In front of each packet: what it is, then its number.
const MAGIC: [u8; 8] = *b"ipsecmT1";
const HEADER: usize = 16;
/// The marker is repeated up to this length.
const LENGTH: usize = 160;

/// What to send.
#[derive(Clone, Debug)]
pub struct Options {
    /// Echo to send to.
    pub to: SocketAddrV4,
    /// Packets per second.
    pub rate: u32,
    /// Text in every packet.
    pub marker: String,
    /// How long; without it until SIGTERM.
    pub limit: Option<Duration>,
}

/// Sends and prints reports until it is told to end; the last report has decided about every packet.
pub fn run(options: &Options) -> io::Result<()> {
    let stop = Stop::after(options.limit);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // Not connected: an ICMP error of the path must not end a measurement.
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let books = Arc::new(Books::new());
    let receiver = {
        let (socket, books) = (socket.try_clone()?, books.clone());
        thread::spawn(move || receive(&socket, &books))
    };
    let reporter = {
        let (stop, books) = (stop.clone(), books.clone());
        thread::spawn(move || report(&stop, &books))
    };
    pace(options, &socket, &books, &stop);
    thread::sleep(PATIENCE + Duration::from_millis(100));
    books.print();
    drop((receiver, reporter));
    Ok(())
}

struct Books {
    begin: Instant,
    epoch: Duration,
    ledger: Mutex<Ledger>,
}

impl Books {
    fn new() -> Self {
        Self {
            begin: Instant::now(),
            epoch: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            ledger: Mutex::default(),
        }
    }

    fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn print(&self) -> bool {
        let mut ledger = self.ledger();
        let now = self.now();
        ledger.settle(now);
        let report = ledger.report(now, self.epoch);
        drop(ledger);
        print(&Line::Datagrams(report))
    }
}

/// One packet per interval; a late wake-up is made up for, but never by more than one interval's burst.
fn pace(options: &Options, socket: &UdpSocket, books: &Books, stop: &Stop) {
    let interval = Duration::from_secs(1) / options.rate.max(1);
    let mut next = Instant::now();
    while !stop.due() {
        let mut ledger = books.ledger();
        let number = ledger.send(books.now());
        drop(ledger);
        if socket
            .send_to(&packet(number, &options.marker), options.to)
            .is_err()
        {
            books.ledger().refused();
        }
        let now = Instant::now();
        next = (next + interval).max(now.checked_sub(interval).unwrap_or(now));
        thread::sleep(next.saturating_duration_since(now));
    }
}

fn receive(socket: &UdpSocket, books: &Books) {
    let mut buffer = [0; 2048];
    loop {
        if let Ok((length, _)) = socket.recv_from(&mut buffer)
            && let Some(number) = number(buffer.get(..length).unwrap_or_default())
        {
            let now = books.now();
            books.ledger().receive(number, now);
        }
    }
}

fn report(stop: &Stop, books: &Books) {
    while !stop.due() {
        thread::sleep(REPORT);
        if !books.print() {
            stop.ask();
        }
    }
}

fn packet(number: u64, marker: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(LENGTH);
    bytes.extend(MAGIC);
    bytes.extend(number.to_be_bytes());
    bytes.extend(marker.bytes().cycle().take(LENGTH - HEADER));
    bytes
}

fn number(packet: &[u8]) -> Option<u64> {
    let rest = packet.strip_prefix(&MAGIC)?;
    Some(u64::from_be_bytes(rest.get(..8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_carries_its_number_and_the_marker() {
        let bytes = packet(0x0102_0304, "READ-ME");
        assert_eq!(number(&bytes), Some(0x0102_0304));
        assert_eq!(bytes.len(), LENGTH);
        assert!(bytes.windows(7).any(|window| window == b"READ-ME"));
        assert_eq!(number(b"somebody else's packet"), None);
        assert_eq!(number(&bytes[..12]), None);
        assert_eq!(packet(1, "").len(), HEADER);
    }
}
