//! What can go wrong around a lab, in words that say which step, which command and which log.

use std::{io, time::Duration};

/// Shorthand of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure of the lab or of what runs in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A command that a user could have typed went wrong.
    #[error("`{command}` failed ({status}): {output}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// What it printed, standard error last.
        output: String,
    },
    /// A process of the lab is gone, so there is nothing to wait for.
    #[error("{0}")]
    Ended(String),
    /// The operating system refused.
    #[error("{context}: {source}")]
    Io {
        /// What was tried.
        context: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Something observed is not what it must be.
    #[error("{0}")]
    Observed(String),
    /// Something did not come to pass in time.
    #[error("{what}: not within {limit:?}; last seen: {last}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
        /// The last state seen.
        last: String,
    },
}

impl Error {
    /// An observation that contradicts what is promised.
    pub fn observed(message: impl Into<String>) -> Self {
        Self::Observed(message.into())
    }
}

/// Says what was tried when the operating system refuses.
pub trait Context<T> {
    /// Wraps the error with `context`.
    fn context(self, context: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, context: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io {
            context: context(),
            source,
        })
    }
}

impl<T> Context<T> for nix::Result<T> {
    fn context(self, context: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|errno| Error::Io {
            context: context(),
            source: errno.into(),
        })
    }
}

/// Polls until `probe` answers `Ok`, and tells what it last said if it never does.
pub fn eventually<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    const PAUSE: Duration = Duration::from_millis(100);
    let deadline = std::time::Instant::now() + limit;
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(error @ Error::Ended(_)) => return Err(error),
            Err(error) if std::time::Instant::now() >= deadline => {
                return Err(Error::Timeout {
                    what: what.into(),
                    limit,
                    last: error.to_string(),
                });
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}
