//! The two crypto providers of the IKEv2 engine: aws-lc-rs and pure Rust.
