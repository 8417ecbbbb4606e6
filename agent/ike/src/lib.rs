//! IKEv2 (RFC 7296) as a sans-IO engine.
//!
//! The engine is a value: datagrams, commands, outcomes of effects and the passing of time go in; effects on the data
//! plane, datagrams and events come out. It opens no socket, reads no clock, draws no randomness but through its
//! provider, and implements no cryptographic primitive.

#![cfg_attr(
    not(test),
    deny(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)
)]

pub mod config;
pub mod crypto;
pub mod output;
pub mod time;
pub mod types;
pub mod wire;

pub use config::*;
pub use output::*;
pub use time::{Instant, Now, TimerReason, WallTime};
pub use types::*;
