//! A task that cannot outlive its owner: nothing in the agent is spawned without such a guard.

use std::future::Future;

use tokio::task::{JoinError, JoinHandle};

/// A named task, aborted when the guard is dropped.
#[derive(Debug)]
pub(crate) struct Task {
    name: &'static str,
    handle: JoinHandle<()>,
}

impl Task {
    /// Starts `work` on the present runtime.
    #[expect(clippy::disallowed_methods, reason = "the one place where tasks are started")]
    pub(crate) fn spawn(name: &'static str, work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self {
            name,
            handle: tokio::spawn(work),
        }
    }

    /// Waits for its end. A task of the agent ends only when something is wrong with it; the message names it.
    pub(crate) async fn ended(&mut self) -> TaskEnded {
        TaskEnded {
            name: self.name,
            panicked: (&mut self.handle).await.as_ref().is_err_and(JoinError::is_panic),
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// A task came to its end.
#[derive(Debug, thiserror::Error)]
#[error("task {name} {}", if *panicked { "panicked" } else { "ended" })]
pub(crate) struct TaskEnded {
    name: &'static str,
    panicked: bool,
}
