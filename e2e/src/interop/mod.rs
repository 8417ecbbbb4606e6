//! Two IPsec implementations in network namespaces of one kernel, with a router between them: what they agree on, what
//! the router sees, and whether packets arrive.

pub mod agent;
pub mod case;
pub mod ground;
pub mod libreswan;
pub mod proof;
pub mod strongswan;
pub mod task;
pub mod traffic;
pub mod wire;
