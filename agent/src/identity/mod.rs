//! Who this node is: its key, its certificate, and how the certificates of others are judged.

pub(crate) mod csr;
pub(crate) mod keystore;
pub(crate) mod leaf;
pub(crate) mod renew;
pub(crate) mod signer;
pub(crate) mod trust;
pub(crate) mod verifier;
