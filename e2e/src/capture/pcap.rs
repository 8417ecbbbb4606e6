//! Reads pcap files (the format of libpcap's savefile(5)) and tells apart what matters on a node's wire.

use std::{fmt, net::Ipv4Addr};

const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;
const LINK_ETHERNET: u32 = 1;
const ETHERNET_HEADER: usize = 14;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_ESP: u8 = 50;
const PORT_IKE: u16 = 500;
const PORT_NAT_TRAVERSAL: u16 = 4500;
const PORT_GENEVE: u16 = 6081;
const PORT_VXLAN: u16 = 8472;
/// RFC 3948 §2.2: four zero bytes in front of IKE on port 4500.
const NON_ESP_MARKER: [u8; 4] = [0; 4];

/// An IPv4 packet on the wire.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frame {
    /// Seconds and microseconds (or nanoseconds, as the file has it) since the epoch.
    pub time: (u32, u32),
    /// Sender.
    pub source: Ipv4Addr,
    /// Receiver.
    pub destination: Ipv4Addr,
    /// IP protocol number.
    pub protocol: u8,
    /// Whether this is a fragment other than the first.
    pub later_fragment: bool,
    /// Everything behind the IP header.
    pub payload: Vec<u8>,
}

/// What a packet is to a mesh.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Encrypted.
    Esp,
    /// Key exchange.
    Ike,
    /// Pod traffic in clear.
    Overlay,
    /// Anything else.
    Other,
}

impl Frame {
    /// Sorts the packet by protocol and port.
    pub fn kind(&self) -> Kind {
        match self.protocol {
            PROTOCOL_ESP => Kind::Esp,
            PROTOCOL_UDP if !self.later_fragment => self.udp_kind(),
            _ => Kind::Other,
        }
    }

    /// Source and destination port of a UDP packet.
    pub fn udp_ports(&self) -> Option<(u16, u16)> {
        if self.protocol != PROTOCOL_UDP || self.later_fragment {
            return None;
        }
        let port = |at: usize| Some(u16::from_be_bytes(self.payload.get(at..at + 2)?.try_into().ok()?));
        Some((port(0)?, port(2)?))
    }

    /// Whether these bytes can be read in it.
    pub fn contains(&self, needle: &[u8]) -> bool {
        !needle.is_empty() && self.payload.windows(needle.len()).any(|window| window == needle)
    }

    fn udp_kind(&self) -> Kind {
        const UDP_HEADER: usize = 8;
        let Some((source, destination)) = self.udp_ports() else {
            return Kind::Other;
        };
        let either = |port| source == port || destination == port;
        if either(PORT_IKE) {
            return Kind::Ike;
        }
        if either(PORT_NAT_TRAVERSAL) {
            let marked = self
                .payload
                .get(UDP_HEADER..)
                .is_some_and(|body| body.starts_with(&NON_ESP_MARKER));
            return if marked { Kind::Ike } else { Kind::Esp };
        }
        if destination == PORT_VXLAN || destination == PORT_GENEVE {
            Kind::Overlay
        } else {
            Kind::Other
        }
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:06} {} > {} protocol {}",
            self.time.0, self.time.1, self.source, self.destination, self.protocol
        )?;
        if let Some((source, destination)) = self.udp_ports() {
            write!(f, " ports {source} > {destination}")?;
        }
        write!(f, ", {} bytes", self.payload.len())
    }
}

/// All IPv4 packets of a capture; an incomplete record at the end is what tcpdump is writing now.
pub fn frames(file: &[u8]) -> Result<Vec<Frame>, String> {
    let Some(header) = file.get(..FILE_HEADER) else {
        return Ok(Vec::new());
    };
    let little = match header[..4] {
        [0xd4, 0xc3, 0xb2, 0xa1] | [0x4d, 0x3c, 0xb2, 0xa1] => true,
        [0xa1, 0xb2, 0xc3, 0xd4] | [0xa1, 0xb2, 0x3c, 0x4d] => false,
        _ => return Err("not a pcap file".into()),
    };
    let number = |bytes: &[u8], at: usize| -> Option<u32> {
        let word: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(if little {
            u32::from_le_bytes(word)
        } else {
            u32::from_be_bytes(word)
        })
    };
    if number(header, 20) != Some(LINK_ETHERNET) {
        return Err("link type is not Ethernet".into());
    }
    let mut found = Vec::new();
    let mut rest = &file[FILE_HEADER..];
    while let Some(record) = rest.get(..RECORD_HEADER) {
        let length = number(record, 8).unwrap_or_default() as usize;
        let Some(packet) = rest.get(RECORD_HEADER..RECORD_HEADER + length) else {
            break;
        };
        let time = (
            number(record, 0).unwrap_or_default(),
            number(record, 4).unwrap_or_default(),
        );
        found.extend(ipv4(packet, time));
        rest = &rest[RECORD_HEADER + length..];
    }
    Ok(found)
}

fn ipv4(packet: &[u8], time: (u32, u32)) -> Option<Frame> {
    if packet.get(12..ETHERNET_HEADER)? != ETHERTYPE_IPV4 {
        return None;
    }
    let packet = &packet[ETHERNET_HEADER..];
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let total = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
    let fragment = u16::from_be_bytes(packet.get(6..8)?.try_into().ok()?);
    // Segmentation offload leaves the length zero on a tap; Ethernet padding makes the frame longer than the packet.
    let end = if total == 0 {
        packet.len()
    } else {
        total.min(packet.len())
    };
    Some(Frame {
        time,
        source: address(12)?,
        destination: address(16)?,
        protocol: *packet.get(9)?,
        later_fragment: fragment & 0x1fff != 0,
        payload: packet.get(header..end)?.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u8; 4] = [172, 30, 0, 11];
    const B: [u8; 4] = [172, 30, 0, 12];

    fn file(packets: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0];
        bytes.extend([0; 8]);
        bytes.extend([0xff, 0xff, 0, 0, 1, 0, 0, 0]);
        for packet in packets {
            let length = u32::try_from(packet.len()).expect("short").to_le_bytes();
            bytes.extend([1, 0, 0, 0, 2, 0, 0, 0]);
            bytes.extend(length);
            bytes.extend(length);
            bytes.extend(packet);
        }
        bytes
    }

    fn packet(protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 12];
        bytes.extend(ETHERTYPE_IPV4);
        let total = u16::try_from(20 + payload.len()).expect("short").to_be_bytes();
        bytes.extend([0x45, 0, total[0], total[1], 0, 0]);
        bytes.extend(fragment.to_be_bytes());
        bytes.extend([64, protocol, 0, 0]);
        bytes.extend(A);
        bytes.extend(B);
        bytes.extend(payload);
        bytes
    }

    fn udp(source: u16, destination: u16, body: &[u8]) -> Vec<u8> {
        let mut payload = Vec::new();
        payload.extend(source.to_be_bytes());
        payload.extend(destination.to_be_bytes());
        payload.extend([0; 4]);
        payload.extend(body);
        packet(PROTOCOL_UDP, 0, &payload)
    }

    #[test]
    fn every_kind_is_recognised() {
        use Kind::{Esp, Ike, Other, Overlay};
        let wire = file(&[
            packet(PROTOCOL_ESP, 0, &[1; 40]),
            udp(4500, 4500, &[0, 0, 1, 0, 9]),
            udp(4500, 4500, &[0, 0, 0, 0, 9]),
            udp(500, 500, &[1]),
            udp(51000, 8472, b"marker"),
            udp(51000, 6081, b"x"),
            packet(1, 0, &[8, 0]),
            packet(PROTOCOL_UDP, 185, b"rest of a datagram"),
        ]);
        let kinds: Vec<Kind> = frames(&wire).expect("pcap").iter().map(Frame::kind).collect();
        assert_eq!(kinds, [Esp, Esp, Ike, Ike, Overlay, Overlay, Other, Other]);
    }

    #[test]
    fn a_marker_is_found_where_it_is_readable() {
        let found = frames(&file(&[udp(51000, 8472, b"....MARKER....")])).expect("pcap");
        assert!(found[0].contains(b"MARKER"));
        assert!(!found[0].contains(b"marker"));
        assert!(!found[0].contains(b""));
        assert_eq!(found[0].source, Ipv4Addr::from(A));
        assert_eq!(found[0].udp_ports(), Some((51000, 8472)));
    }

    #[test]
    fn a_file_cut_anywhere_is_read_as_far_as_it_goes() {
        let wire = file(&[udp(1, 2, b"one"), udp(3, 4, b"two")]);
        for end in 0..wire.len() {
            let found = frames(&wire[..end]).expect("a prefix is fine");
            assert!(found.len() < 2, "cut at {end}");
        }
        assert_eq!(frames(&wire).expect("whole").len(), 2);
        assert!(frames(b"this is not a capture file at all").is_err());
    }
}
