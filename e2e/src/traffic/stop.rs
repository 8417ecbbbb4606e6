//! The wish to end: SIGTERM, SIGINT, or the time that was asked for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::{SigSet, Signal};

/// Tells whether to go on. Make it before any other thread, so that all of them leave the signals to its own.
#[derive(Clone, Debug)]
pub(super) struct Stop {
    asked: Arc<AtomicBool>,
    deadline: Option<Instant>,
}

impl Stop {
    pub(super) fn after(limit: Option<Duration>) -> Self {
        let asked = Arc::new(AtomicBool::new(false));
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGTERM);
        signals.add(Signal::SIGINT);
        if signals.thread_block().is_ok() {
            let told = asked.clone();
            thread::spawn(move || {
                if signals.wait().is_ok() {
                    told.store(true, Ordering::Relaxed);
                }
            });
        }
        Self {
            asked,
            deadline: limit.map(|limit| Instant::now() + limit),
        }
    }

    /// Whether it is time.
    pub(super) fn due(&self) -> bool {
        self.asked.load(Ordering::Relaxed) || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Ends the others when one has to.
    pub(super) fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }
}
