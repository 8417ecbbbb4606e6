//! IKEv2 (RFC 7296) as a sans-IO engine.
//!
//! The engine is a value: datagrams, commands, outcomes of effects and the passing of time go in; effects on the data
//! plane, datagrams and events come out. It opens no socket, reads no clock, draws no randomness but through its
//! provider, and implements no cryptographic primitive.

#![cfg_attr(
    not(test),
    deny(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used
    )
)]

mod auth;
mod child;
mod collision;
mod command;
pub mod config;
mod cookie;
pub mod crypto;
mod der;
mod distinguished_name;
mod endpoint;
mod exchange;
mod jitter;
mod nat;
pub mod output;
mod peer;
mod sa;
pub mod time;
mod timer;
pub mod types;
pub mod wire;

pub use config::*;
pub use distinguished_name::DistinguishedName;
pub use endpoint::{Counts, Endpoint};
pub use output::*;
pub use time::{Instant, Now, TimerReason, WallTime};
pub use types::*;
