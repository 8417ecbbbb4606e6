//! What tells IKE from ESP on port 4500 (RFC 3948 §2.2, §2.3).

/// Four zero bytes where ESP has its SPI.
pub(super) const NON_ESP_MARKER: [u8; 4] = [0; 4];

/// The port that carries both.
pub(super) const ENCAPSULATED: u16 = 4500;

/// A NAT-keepalive: one byte that no SPI and no marker begins with.
pub(super) const KEEPALIVE: [u8; 1] = [0xff];

/// Removes the marker from what came to port 4500; `false` for what is no IKE message: a keepalive, or ESP that the
/// kernel did not take because it has no SA for it.
pub(super) fn strip(port: u16, datagram: &mut Vec<u8>) -> bool {
    if port != ENCAPSULATED {
        return true;
    }
    let marked = datagram.starts_with(&NON_ESP_MARKER);
    if marked {
        datagram.drain(..NON_ESP_MARKER.len());
    }
    marked
}

/// The datagram as it leaves from `port`.
pub(super) fn dress(port: u16, datagram: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    if port == ENCAPSULATED {
        [&NON_ESP_MARKER[..], datagram].concat().into()
    } else {
        datagram.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_is_there_on_port_4500_only() {
        let message = [1, 2, 3, 4, 5];
        for port in [500, 4500] {
            let mut travelled = dress(port, &message).into_owned();
            assert_eq!(travelled.len(), if port == 4500 { 9 } else { 5 });
            assert!(strip(port, &mut travelled));
            assert_eq!(travelled, message);
        }
    }

    #[test]
    fn keepalives_and_stray_esp_are_no_messages() {
        for stray in [vec![0xff], vec![0, 0, 1, 0, 9, 9], vec![], vec![0, 0, 0]] {
            assert!(!strip(4500, &mut stray.clone()), "{stray:?}");
        }
    }
}
