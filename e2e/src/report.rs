//! What the person in front of the terminal sees: each step with its time while it runs, and a table at the end.

use std::{
    io::{IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::error::{Error, Result};

/// Steps on standard output, each with its duration.
#[derive(Debug)]
pub struct Progress {
    begin: Instant,
    quiet: bool,
}

impl Progress {
    /// Starts the clock.
    pub fn new() -> Self {
        Self {
            begin: Instant::now(),
            quiet: false,
        }
    }

    /// Says nothing but what fails.
    pub fn quiet() -> Self {
        Self {
            begin: Instant::now(),
            quiet: true,
        }
    }

    /// Runs one step, shows that it runs, how long it took and whether it worked.
    pub fn step<T>(&self, title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.quiet {
            return work();
        }
        let start = Instant::now();
        let ticker = Ticker::start(self.begin, title);
        let outcome = work();
        drop(ticker);
        let took = start.elapsed().as_secs_f64();
        let mark = if outcome.is_ok() { "✓" } else { "✗" };
        say(&format!("{} {mark} {title} ({took:.1} s)", stamp(self.begin)));
        outcome
    }

    /// Shows text below the step it belongs to.
    pub fn show(&self, text: &str) {
        if !self.quiet {
            for line in text.trim_end().lines() {
                say(&format!("           │ {line}"));
            }
        }
    }

    /// Shows a command as a user would type it.
    pub fn command(&self, line: &str) {
        self.show(&format!("$ {line}"));
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

/// A table of what was shown: claim and evidence.
pub fn table(title: &str, rows: &[(String, String)]) {
    let width = rows
        .iter()
        .map(|(claim, _)| claim.chars().count())
        .max()
        .unwrap_or_default();
    say("");
    say(title);
    for (claim, evidence) in rows {
        say(&format!("  {claim:<width$}  {evidence}"));
    }
}

/// One line on standard output; a reader that went away is no reason to fail.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// An error on standard error, with the step that it ended.
pub fn fail(step: &str, error: &Error) {
    let _ = writeln!(std::io::stderr().lock(), "\nFAILED at: {step}\n  cause: {error}");
}

/// Redraws the running step on a terminal; elsewhere prints it once and again every half minute.
struct Ticker {
    over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Ticker {
    fn start(begin: Instant, title: &str) -> Self {
        const REDRAW: Duration = Duration::from_millis(100);
        const REMIND: u32 = 300;
        let over = Arc::new(AtomicBool::new(false));
        let (stop, title) = (over.clone(), title.to_owned());
        let terminal = std::io::stdout().is_terminal();
        let thread = thread::spawn(move || {
            let start = Instant::now();
            let mut turns = 0;
            while !stop.load(Ordering::Relaxed) {
                if terminal {
                    let mut out = std::io::stdout().lock();
                    let _ = write!(
                        out,
                        "\r{} … {title} {:.0} s",
                        stamp(begin),
                        start.elapsed().as_secs_f64()
                    );
                    let _ = out.flush();
                } else if turns % REMIND == REMIND - 1 {
                    say(&format!(
                        "{} … {title}, {:.0} s so far",
                        stamp(begin),
                        start.elapsed().as_secs_f64()
                    ));
                }
                turns += 1;
                thread::park_timeout(REDRAW);
            }
            if terminal {
                let _ = write!(std::io::stdout().lock(), "\r\x1b[2K");
            }
        });
        Self {
            over,
            thread: Some(thread),
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn stamp(begin: Instant) -> String {
    format!("[{:6.1} s]", begin.elapsed().as_secs_f64())
}
