//! The operator of ipsecmesh: reconciles tunnels, publishes peers, runs the certificate authority.

fn main() {}
