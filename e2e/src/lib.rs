//! The lab: a real cluster on one machine, the demo and the end-to-end tests.

pub mod node_channel;
pub mod protocol;
