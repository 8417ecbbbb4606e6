//! A command that runs on the node while a test goes on, with all that it said so far.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use crate::{
    error::{Context, Error, Result, eventually},
    node_channel::{Event, NodeChannel, Stopper},
    protocol::Exec,
};

/// A running command. Dropping it ends the command.
#[derive(Debug)]
pub struct Task {
    name: String,
    said: Arc<Mutex<String>>,
    stopper: Stopper,
    reader: Option<JoinHandle<()>>,
    over: Arc<Mutex<Option<i32>>>,
}

impl Task {
    /// Starts `script` with the node's shell.
    pub fn start(channel: &NodeChannel, name: &str, script: &str) -> Result<Self> {
        let exec = Exec {
            argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
            ..Exec::default()
        };
        let what = || format!("start {name}");
        let mut running = channel.start(exec).context(what)?;
        let stopper = running.stopper().context(what)?;
        let said = Arc::<Mutex<String>>::default();
        let over = Arc::<Mutex<Option<i32>>>::default();
        let (text, end) = (said.clone(), over.clone());
        let reader = std::thread::spawn(move || {
            let code = loop {
                match running.next_event() {
                    Ok(Event::Stdout(bytes) | Event::Stderr(bytes)) => {
                        let mut text = text.lock().unwrap_or_else(PoisonError::into_inner);
                        text.push_str(&String::from_utf8_lossy(&bytes));
                    }
                    Ok(Event::Exit(code)) => break code,
                    Err(_) => break -1,
                }
            };
            *end.lock().unwrap_or_else(PoisonError::into_inner) = Some(code);
        });
        Ok(Self {
            name: name.to_owned(),
            said,
            stopper,
            reader: Some(reader),
            over,
        })
    }

    /// All that it has said.
    pub fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has said `text`.
    pub fn wait_for(&self, text: &str, limit: Duration) -> Result<()> {
        eventually(&format!("{} says {text:?}", self.name), limit, || {
            let said = self.said();
            if said.contains(text) {
                return Ok(());
            }
            if self.code().is_some() {
                return Err(Error::Ended(format!("{} ended: {said}", self.name)));
            }
            Err(Error::observed(said))
        })
    }

    /// Waits for its own end, and tells its exit code and all that it said.
    pub fn wait(mut self, limit: Duration) -> Result<(i32, String)> {
        let code = eventually(&format!("{} ends", self.name), limit, || {
            self.code().ok_or_else(|| Error::observed(self.said()))
        })?;
        self.join();
        Ok((code, self.said()))
    }

    /// Ends it, and tells all that it said.
    pub fn stop(mut self) -> String {
        self.end();
        self.said()
    }

    fn code(&self) -> Option<i32> {
        *self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&mut self) {
        // INVARIANT: a command that is over needs no end.
        let _ = self.stopper.stop();
        self.join();
    }

    fn join(&mut self) {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.end();
    }
}
