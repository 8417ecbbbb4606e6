//! The memory of this process, read through `/proc/self/mem`: heap, stacks, and all else that is mapped.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use crate::record::{PIECE, Piece, Record};

/// Bytes that are read at a time.
const STEP: usize = 1 << 20;

/// A piece of a key, and where it lies.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) kind: &'static str,
    /// What is mapped there, as the kernel names it.
    #[expect(dead_code, reason = "shown when the test fails")]
    region: String,
    #[expect(dead_code, reason = "shown when the test fails")]
    address: u64,
}

pub(crate) struct Scanner {
    record: &'static Record,
    memory: File,
    buffer: Box<[u8]>,
}

impl Scanner {
    pub(crate) fn new(record: &'static Record) -> Self {
        Self {
            record,
            memory: File::open("/proc/self/mem").unwrap(),
            buffer: vec![0; STEP].into_boxed_slice(),
        }
    }

    /// All pieces of keys in readable memory.
    pub(crate) fn scan(&mut self) -> Vec<Found> {
        let pieces = self.record.pieces();
        let mut starts = vec![Vec::new(); 1 << 16];
        for piece in &pieces {
            starts[first_two(piece.byte(0), piece.byte(1))].push(*piece);
        }
        let mut found = Vec::new();
        let own = self.buffer.as_ptr().addr() as u64;
        for line in fs::read_to_string("/proc/self/maps").unwrap().lines() {
            let mut words = line.split_whitespace();
            let range = words.next().unwrap();
            let readable = words.next().unwrap().starts_with('r');
            let region = words.nth(3).unwrap_or_default();
            if !readable || region.starts_with("[v") {
                continue;
            }
            let (start, end) = range.split_once('-').unwrap();
            let number = |text| u64::from_str_radix(text, 16).unwrap();
            let (start, end) = (number(start), number(end));
            // What this buffer holds is a copy of what lies elsewhere.
            for (start, end) in [(start, end.min(own)), (start.max(own + STEP as u64), end)] {
                self.range(start, end, region, &starts, &mut found);
            }
        }
        found
    }

    fn range(&mut self, start: u64, end: u64, region: &str, starts: &[Vec<Piece>], found: &mut Vec<Found>) {
        let mut at = start;
        while at + (PIECE as u64) <= end {
            let length = usize::try_from((end - at).min(STEP as u64)).unwrap();
            let Ok(read) = self.memory.read_at(&mut self.buffer[..length], at) else {
                return;
            };
            let buffer = &self.buffer[..read];
            for (offset, window) in buffer.windows(PIECE).enumerate() {
                for piece in &starts[first_two(window[0], window[1])] {
                    if (2..PIECE).all(|index| window[index] == piece.byte(index)) {
                        found.push(Found {
                            kind: piece.kind,
                            region: region.to_owned(),
                            address: at + offset as u64,
                        });
                    }
                }
            }
            if read < PIECE {
                return;
            }
            at += (read - PIECE + 1) as u64;
        }
    }
}

fn first_two(first: u8, second: u8) -> usize {
    usize::from(u16::from_be_bytes([first, second]))
}
