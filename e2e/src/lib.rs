//! The lab: a real cluster on one machine, the demo and the end-to-end tests.

pub mod capture;
pub mod demo;
pub mod error;
pub mod guest;
pub mod interop;
pub mod lab;
pub mod node_channel;
pub mod protocol;
pub mod report;
pub mod traffic;
