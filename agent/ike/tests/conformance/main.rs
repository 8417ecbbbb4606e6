//! Conformance: what RFC 7296 and the mesh's own rules ask of one end, shown against a scripted peer that owns the
//! keys and does what it should not. One file per theme; `docs/CONFORMANCE.md` is the table of them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod additional;
mod authentication;
mod authentication_header;
mod cases;
mod child;
mod childless;
mod collision;
mod commands;
mod cookie;
mod delete;
mod draft;
mod follow_up;
mod fragment;
mod half_open;
mod hostile;
mod identity;
mod ike_rekey;
mod install_order;
mod intermediate;
mod invalid_ke;
mod lifetime;
mod load;
mod nat;
mod notifies;
mod peer;
mod ppk;
mod real_crypto;
mod reauthentication;
mod refusal;
mod restart;
mod rules;
mod separate;
#[path = "../support/mod.rs"]
mod support;
mod suspicion;
mod sut;
mod table;
mod talk;
mod window;
