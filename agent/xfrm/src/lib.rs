//! Linux XFRM over netlink: typed requests, batches, dumps and events.
//!
//! A thin, typed layer over `netlink-packet-xfrm`. It adds what that crate leaves to its users: attributes that it does
//! not know, length checks in front of its parsers, a sequence number and a result per message of a batch, the kernel's
//! extended error text, key bytes wiped once they are sent, and the ranges that tell our objects from everybody else's.
//! Only [`socket`] and [`udp`] do I/O; everything else is a pure function of its arguments.

pub mod address;
pub mod algorithm;
pub mod dump;
pub mod error;
pub mod event;
pub mod ownership;
pub mod policy;
pub mod request;
pub mod sa;
#[cfg(test)]
mod samples;
pub mod socket;
pub mod udp;

pub use address::{Prefix, Selector};
pub use algorithm::{Aead, Algorithm, Cipher, Integrity};
pub use dump::{HashThresholds, PolicyState, Reply, SaState};
pub use error::XfrmError;
pub use event::Event;
pub use ownership::{PolicyIndex, Reqid};
pub use policy::{Action, Direction, Policy, Template};
pub use request::Request;
pub use sa::{Key, Limits, Mode, Protocol, Sa, SaDirection, SaFeatures, SaId};
pub use socket::{Connection, Events};
