//! What the binary does besides `run`: for people on the node, and for the end.

mod flush;
mod local;
mod probe;
mod table;

pub(crate) use flush::flush;
pub(crate) use local::{Failure, rekey, status, tunnel};
pub(crate) use probe::probe;
