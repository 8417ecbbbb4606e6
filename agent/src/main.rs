//! The agent of ipsecmesh: one per node, it turns desired tunnels into security associations.

fn main() {}
