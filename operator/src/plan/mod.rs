//! Pure planning: (specs, observations) → objects and conditions. No clock, no request, no store.

pub(crate) mod address;
pub(crate) mod echo;
pub(crate) mod membership;
pub(crate) mod overlap;
pub(crate) mod overlay;
pub(crate) mod rollout;
pub(crate) mod teardown;
pub(crate) mod transition;
