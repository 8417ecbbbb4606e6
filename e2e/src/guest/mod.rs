//! What runs inside a node's kernel: its init, its network, its kubelet and the containers' sandbox.
//!
//! A node's root file system is the host's own, mounted read-only over hostfs: everything a node writes goes to
//! tmpfs, to its state folder or to its log folder.

pub mod boot;
mod exec;
mod kubelet;
mod modules;
mod network;
mod node;
mod pod_network;
mod pods;
pub mod sandbox;
mod shell;

pub use node::NodeError;
