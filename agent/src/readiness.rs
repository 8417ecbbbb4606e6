//! Whether this agent does its part: everything listed once, and every desired policy in place.

use std::sync::{Arc, Mutex, PoisonError};

/// Shared by the one who knows and those who ask.
#[derive(Clone, Debug)]
pub(crate) struct Readiness(Arc<Mutex<Option<String>>>);

impl Readiness {
    /// Not ready: the agent is starting.
    pub(crate) fn starting() -> Self {
        Self(Arc::new(Mutex::new(Some("starting".to_owned()))))
    }

    /// Sets why not; `None` is ready.
    pub(crate) fn set(&self, reason: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// Why not; `None` is ready.
    pub(crate) fn why_not(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
