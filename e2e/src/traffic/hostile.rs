//! `hold` and `hostile`: another daemon at the agent's port, and datagrams that no honest peer sends.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    thread,
    time::Duration,
};

use super::stop::Stop;

const PORT_IKE: u16 = 500;
const PORT_NAT_TRAVERSAL: u16 = 4500;
/// RFC 3948 §2.2: what tells IKE from ESP on port 4500.
const NON_ESP_MARKER: [u8; 4] = [0; 4];

/// Takes a UDP port as soon as it is free, and holds it until SIGTERM.
pub fn hold(port: u16) -> io::Result<()> {
    let stop = Stop::after(None);
    while !stop.due() {
        if let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)) {
            while !stop.due() {
                thread::sleep(Duration::from_millis(20));
            }
            drop(socket);
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Sends every kind of bad datagram to both ports of a node; answers how many.
pub fn send(to: Ipv4Addr) -> io::Result<usize> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut sent = 0;
    for datagram in datagrams() {
        socket.send_to(&datagram, SocketAddrV4::new(to, PORT_IKE))?;
        let marked: Vec<u8> = NON_ESP_MARKER.into_iter().chain(datagram).collect();
        socket.send_to(&marked, SocketAddrV4::new(to, PORT_NAT_TRAVERSAL))?;
        sent += 2;
        thread::sleep(Duration::from_millis(1));
    }
    Ok(sent)
}

/// Garbage of all lengths, headers that lie about their length, an endless payload chain, unknown SPIs, old versions.
fn datagrams() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = (1..=64).map(|length| vec![0xa5; length]).collect();
    all.push(vec![0xff; 1400]);
    for exchange in [34, 35, 36, 37, 43, 240] {
        for flags in [0x08, 0x20, 0x28, 0xff] {
            let body = [0x29, 0x80, 0x00, 0x04].repeat(40);
            all.push(message([0x5a; 8], [0; 8], exchange, flags, &body, 0));
            all.push(message([0x5a; 8], [0x11; 8], exchange, flags, &body, 0));
            all.push(message([0x5a; 8], [0x11; 8], exchange, flags, &[], 0x7fff_0000));
        }
    }
    // A chain of empty payloads that refers to itself, and a payload that is longer than the message.
    all.push(message([1; 8], [0; 8], 34, 0x08, &[0x21, 0x00, 0x00, 0x00], 0));
    all.push(message([2; 8], [0; 8], 34, 0x08, &[0x21, 0x00, 0xff, 0xff], 0));
    all
}

/// An IKE header (RFC 7296 §3.1) before a body; `extra` is added to the true length.
fn message(spi_i: [u8; 8], spi_r: [u8; 8], exchange: u8, flags: u8, body: &[u8], extra: u32) -> Vec<u8> {
    const HEADER: usize = 28;
    let length = u32::try_from(HEADER + body.len()).unwrap_or_default();
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(spi_i);
    bytes.extend(spi_r);
    bytes.extend([0x21, 0x20, exchange, flags]);
    bytes.extend(0_u32.to_be_bytes());
    bytes.extend(length.wrapping_add(extra).to_be_bytes());
    bytes.extend(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_kinds_and_none_too_long_for_the_wire() {
        let all = datagrams();
        assert!(all.len() > 100, "{}", all.len());
        assert!(all.iter().all(|datagram| (1..=1400).contains(&datagram.len())));
        assert_eq!(message([1; 8], [2; 8], 34, 8, &[], 0).len(), 28);
    }
}
