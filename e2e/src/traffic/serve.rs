//! `serve`: the end that sends everything back.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use super::{PORT, stop::Stop};

/// Echoes packets and flows until it is told to end.
pub fn run() -> io::Result<()> {
    let stop = Stop::after(None);
    let packets = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    packets.set_read_timeout(Some(Duration::from_millis(100)))?;
    let flows = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    thread::spawn(move || {
        for flow in flows.incoming().flatten() {
            thread::spawn(move || echo(flow));
        }
    });
    let mut buffer = [0; 2048];
    while !stop.due() {
        if let Ok((length, from)) = packets.recv_from(&mut buffer) {
            // An echo that cannot leave is a loss, and the sender counts those.
            let _ = packets.send_to(buffer.get(..length).unwrap_or_default(), from);
        }
    }
    Ok(())
}

fn echo(mut flow: TcpStream) {
    let mut buffer = [0; 16_384];
    while let Ok(length @ 1..) = flow.read(&mut buffer) {
        if flow.write_all(buffer.get(..length).unwrap_or_default()).is_err() {
            return;
        }
    }
}
