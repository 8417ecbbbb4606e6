//! Every sample cut at every length, and every byte of every sample corrupted: never a panic, and never a message
//! that says more than its bytes do.

mod samples;

use ipsecmesh_ike::wire::{Body, Malformation, Message, Payloads, encode};

/// The datagram with a header that says the length it has.
fn with_true_length(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let length = u32::try_from(bytes.len()).expect("short");
    bytes[24..28].copy_from_slice(&length.to_be_bytes());
    bytes
}

fn plain(bytes: &[u8]) -> Option<Payloads> {
    match Message::parse(bytes).ok()?.body().ok()? {
        Body::Plain(payloads) => Some(payloads),
        Body::Fragment(_) | Body::Protected(_) => None,
    }
}

#[test]
fn r3_every_sample_cut_at_every_length_is_an_error() {
    for sample in samples::all() {
        let bytes = encode(&sample.header, &sample.payloads).expect(sample.name);
        for length in 0..bytes.len() {
            let error = Message::parse(&bytes[..length]).expect_err(sample.name);
            assert_eq!(
                error.malformation,
                Malformation::Truncated,
                "{} at {length}",
                sample.name
            );
            if length >= 28 {
                // Behind a true header the chain itself is cut.
                let cut = with_true_length(&bytes[..length]);
                let body = Message::parse(&cut).expect(sample.name).body();
                assert!(body.is_err(), "{} at {length}", sample.name);
            }
        }
    }
}

#[test]
fn bytes_behind_a_message_are_an_error() {
    for sample in samples::all() {
        let mut bytes = encode(&sample.header, &sample.payloads).expect(sample.name);
        bytes.push(0);
        assert_eq!(
            Message::parse(&bytes).expect_err(sample.name).malformation,
            Malformation::Trailing
        );
        let body = Message::parse(&with_true_length(&bytes))
            .expect(sample.name)
            .body();
        assert_eq!(
            body.expect_err(sample.name).malformation,
            Malformation::Trailing,
            "{}",
            sample.name
        );
    }
}

/// Among the corrupted bytes are all inner lengths and counts, each too small, too large, zero and at its maximum.
#[test]
fn every_byte_of_every_sample_corrupted() {
    for sample in samples::all() {
        let bytes = encode(&sample.header, &sample.payloads).expect(sample.name);
        for at in 0..bytes.len() {
            let original = bytes[at];
            let values = [
                0,
                1,
                0x7f,
                0x80,
                0xff,
                original.wrapping_add(1),
                original.wrapping_sub(1),
                original ^ 4,
            ];
            for value in values {
                let mut corrupted = bytes.clone();
                corrupted[at] = value;
                if let Some(payloads) = plain(&corrupted) {
                    let header = Message::parse(&corrupted).expect(sample.name).header;
                    let again = encode(&header, payloads.as_slice()).expect(sample.name);
                    assert!(again.len() <= bytes.len(), "{} at {at}", sample.name);
                    assert_eq!(plain(&again), Some(payloads), "{} at {at}", sample.name);
                }
            }
        }
    }
}

/// The same at every cut: lengths that reach beyond what is there.
#[test]
fn every_sixteen_bit_field_corrupted() {
    for sample in samples::all() {
        let bytes = encode(&sample.header, &sample.payloads).expect(sample.name);
        for at in 28..bytes.len().saturating_sub(1) {
            for value in [0_u16, 3, 4, 5, 7, 8, 0x7fff, 0xffff] {
                let mut corrupted = bytes.clone();
                corrupted[at..at + 2].copy_from_slice(&value.to_be_bytes());
                if let Some(payloads) = plain(&corrupted) {
                    assert!(payloads.as_slice().len() <= 64, "{} at {at}", sample.name);
                }
            }
        }
    }
}
