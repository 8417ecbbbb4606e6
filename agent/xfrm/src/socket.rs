//! The netlink sockets: one for requests, one for events. The only room of this crate that does I/O.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use netlink_packet_core::{NlaBuffer, NlasIterator};
use netlink_packet_xfrm::{XFRMNLGRP_ACQUIRE, XFRMNLGRP_EXPIRE, XFRMNLGRP_MAPPING};
use netlink_sys::protocols::NETLINK_XFRM;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::sys::socket::{setsockopt, sockopt};
use zeroize::{Zeroize, Zeroizing};

use crate::dump::{self, Reply};
use crate::error::XfrmError;
use crate::event::{self, Event};
use crate::request::{self, Request};

/// Messages per system call: more brings nothing.
pub const BATCH: usize = 64;

/// The kernel's largest datagram of a dump is half of this.
const RECEIVE_BUFFER: usize = 64 * 1024;

/// What the kernel may queue for us before it drops: the answers of a batch, or a burst of ACQUIREs.
const QUEUE_BYTES: usize = 4 * 1024 * 1024;

/// A dump that the kernel calls inconsistent is taken again, this often.
const DUMP_ATTEMPTS: usize = 4;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const ENOBUFS: i32 = 105;
const HEADER_LENGTH: usize = 16;
const CODE_LENGTH: usize = 4;

/// What one request led to.
pub type Outcome = Result<Vec<Reply>, XfrmError>;

/// The socket for requests.
pub struct Connection {
    socket: TokioSocket,
    sequence: u32,
    buffer: Zeroizing<Vec<u8>>,
}

impl Connection {
    /// Opens it in the calling thread's network namespace. Must be called within a tokio runtime.
    pub fn open() -> Result<Self, XfrmError> {
        let socket = open(&[]).map_err(|error| XfrmError::from_io("open netlink socket for XFRM", &error))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Zeroizing::new(Vec::with_capacity(RECEIVE_BUFFER)),
        })
    }

    /// Carries out requests in order, [`BATCH`] per system call; one outcome per request, in the same order.
    /// A request that fails does not stop those after it.
    pub async fn execute(&mut self, requests: Vec<Request>) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(requests.len());
        for batch in requests.chunks(BATCH) {
            outcomes.append(&mut self.batch(batch).await);
        }
        outcomes
    }

    /// Carries out one request.
    pub async fn execute_one(&mut self, request: Request) -> Outcome {
        let mut outcomes = self.batch(std::slice::from_ref(&request)).await;
        outcomes
            .pop()
            .unwrap_or_else(|| Err(XfrmError::new(request.operation(), 0, None)))
    }

    /// Carries out a dump request.
    pub async fn dump(&mut self, request: Request) -> Outcome {
        let operation = request.operation();
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(replies) = self.dump_once(&request).await? {
                return Ok(replies);
            }
        }
        let interrupted = io::Error::other("the kernel's tables kept changing while they were read");
        Err(XfrmError::from_io(operation, &interrupted))
    }

    async fn batch(&mut self, requests: &[Request]) -> Vec<Outcome> {
        let first = self.take_sequence(requests.len());
        let message = request::encode(requests, first);
        let mut pending = Pending::new(requests, first);
        let sent = self.socket.send(&message).await;
        drop(message);
        if let Err(error) = sent {
            pending.fail(&error);
        }
        while pending.open > 0 {
            match self.receive().await {
                Ok(()) => messages(&self.buffer).for_each(|message| pending.take(&message)),
                Err(error) => pending.fail(&error),
            }
            self.wipe();
        }
        pending.finish()
    }

    /// `None` when the dump was interrupted.
    async fn dump_once(&mut self, request: &Request) -> Result<Option<Vec<Reply>>, XfrmError> {
        let sequence = self.take_sequence(1);
        let fail = |error: io::Error| XfrmError::from_io(request.operation(), &error);
        let message = request::encode(std::slice::from_ref(request), sequence);
        self.socket.send(&message).await.map_err(fail)?;
        let mut dump = Dump::default();
        while !dump.done {
            self.receive().await.map_err(fail)?;
            let taken = messages(&self.buffer)
                .filter(|message| message.sequence == sequence)
                .try_for_each(|message| dump.take(&message, request.operation()));
            self.wipe();
            taken?;
        }
        Ok((!dump.interrupted).then_some(dump.replies))
    }

    async fn receive(&mut self) -> io::Result<()> {
        receive(&self.socket, &mut self.buffer).await
    }

    /// Only what was written is wiped: the rest of the buffer never held anything.
    fn wipe(&mut self) {
        self.buffer.as_mut_slice().zeroize();
        self.buffer.clear();
    }

    /// Numbers are never zero, which the kernel uses for its own messages, and a batch's never wrap.
    fn take_sequence(&mut self, count: usize) -> u32 {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let first = match self.sequence.checked_add(count) {
            Some(_) => self.sequence + 1,
            None => 1,
        };
        self.sequence = first + (count - 1);
        first
    }
}

/// The socket for events.
pub struct Events {
    socket: TokioSocket,
    buffer: Vec<u8>,
    ready: VecDeque<Event>,
}

impl Events {
    /// Opens it in the calling thread's network namespace. Must be called within a tokio runtime.
    pub fn open() -> Result<Self, XfrmError> {
        let socket = open(&[XFRMNLGRP_ACQUIRE, XFRMNLGRP_EXPIRE, XFRMNLGRP_MAPPING])
            .map_err(|error| XfrmError::from_io("open netlink socket for XFRM events", &error))?;
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(RECEIVE_BUFFER),
            ready: VecDeque::new(),
        })
    }

    /// The next event about something of ours. Cancel-safe: what was read and not handed out stays queued.
    pub async fn next(&mut self) -> Event {
        /// So that a socket that only fails does not take the processor.
        const PAUSE: Duration = Duration::from_millis(100);
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            self.buffer.clear();
            match receive(&self.socket, &mut self.buffer).await {
                Ok(()) => {
                    let events = messages(&self.buffer)
                        .filter_map(|message| event::parse(message.kind, message.payload));
                    self.ready.extend(events);
                }
                Err(error) => {
                    if error.raw_os_error() != Some(ENOBUFS) {
                        tracing::warn!(%error, "reading XFRM events failed");
                        tokio::time::sleep(PAUSE).await;
                    }
                    return Event::Overrun;
                }
            }
        }
    }
}

fn open(groups: &[u32]) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_XFRM)?;
    let inner = socket.socket_mut();
    inner.bind_auto()?;
    // Errors repeat only the header of the request (never a key), and bring the kernel's own words.
    inner.set_cap_ack(true)?;
    inner.set_ext_ack(true)?;
    // Without CAP_NET_ADMIN the kernel's default must do; the requests themselves then fail with EPERM.
    if let Err(error) = setsockopt(inner, sockopt::RcvBufForce, &QUEUE_BYTES) {
        tracing::debug!(%error, "keeping the default size of the XFRM socket's queue");
    }
    for group in groups {
        inner.add_membership(*group)?;
    }
    Ok(socket)
}

/// One datagram from the kernel, appended to an empty buffer.
async fn receive(socket: &TokioSocket, buffer: &mut Vec<u8>) -> io::Result<()> {
    const KERNEL: u32 = 0;
    loop {
        let sender: SocketAddr = socket.recv_from(buffer).await?;
        if sender.port_number() == KERNEL {
            return Ok(());
        }
        buffer.clear();
    }
}

/// One netlink message.
struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

/// The messages of a datagram up to the first malformed one.
fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let header = rest.get(..HEADER_LENGTH)?;
        let length = usize::try_from(u32::from_ne_bytes(header[0..4].try_into().ok()?)).ok()?;
        let message = Message {
            kind: u16::from_ne_bytes(header[4..6].try_into().ok()?),
            flags: u16::from_ne_bytes(header[6..8].try_into().ok()?),
            sequence: u32::from_ne_bytes(header[8..12].try_into().ok()?),
            payload: rest.get(HEADER_LENGTH..length)?,
        };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

impl Message<'_> {
    /// The errno of an acknowledgement, positive; 0 is success.
    fn errno(&self) -> Option<i32> {
        let code = self.payload.get(..CODE_LENGTH)?;
        Some(i32::from_ne_bytes(code.try_into().ok()?).wrapping_neg())
    }

    /// The kernel's own words: behind the repeated request in an acknowledgement, behind the code at a dump's end.
    fn words(&self) -> Option<String> {
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        let repeated = match (self.kind, self.flags & NLM_F_CAPPED) {
            (NLMSG_DONE, _) => 0,
            (_, 0) => self.repeated_length()?,
            _ => HEADER_LENGTH,
        };
        let attributes = self.payload.get(CODE_LENGTH + repeated..)?;
        NlasIterator::new(attributes)
            .map_while(Result::ok)
            .find(|attribute: &NlaBuffer<&[u8]>| attribute.kind() == NLMSGERR_ATTR_MSG)
            .map(|attribute| {
                String::from_utf8_lossy(attribute.value())
                    .trim_end_matches('\0')
                    .to_owned()
            })
    }

    fn repeated_length(&self) -> Option<usize> {
        let length = self.payload.get(CODE_LENGTH..CODE_LENGTH + 4)?;
        Some(
            usize::try_from(u32::from_ne_bytes(length.try_into().ok()?))
                .ok()?
                .next_multiple_of(4),
        )
    }
}

/// A batch whose answers are being collected.
struct Pending<'a> {
    requests: &'a [Request],
    first: u32,
    outcomes: Vec<Option<Outcome>>,
    replies: Vec<Vec<Reply>>,
    open: usize,
}

impl<'a> Pending<'a> {
    fn new(requests: &'a [Request], first: u32) -> Self {
        Self {
            requests,
            first,
            outcomes: requests.iter().map(|_| None).collect(),
            replies: requests.iter().map(|_| Vec::new()).collect(),
            open: requests.len(),
        }
    }

    /// Answers to requests of an earlier, cancelled batch have numbers outside this one.
    fn take(&mut self, message: &Message<'_>) {
        let position = message
            .sequence
            .checked_sub(self.first)
            .and_then(|offset| usize::try_from(offset).ok());
        let Some(position) = position.filter(|position| *position < self.requests.len()) else {
            return;
        };
        if message.kind == NLMSG_ERROR {
            self.close(position, message);
        } else if let Some(reply) = dump::parse(message.kind, message.payload) {
            self.replies[position].push(reply);
        }
    }

    fn close(&mut self, position: usize, message: &Message<'_>) {
        let operation = self.requests[position].operation();
        let outcome = match message.errno() {
            Some(0) => Ok(std::mem::take(&mut self.replies[position])),
            errno => Err(XfrmError::new(operation, errno.unwrap_or(0), message.words())),
        };
        if self.outcomes[position].replace(outcome).is_none() {
            self.open -= 1;
        }
    }

    /// The socket failed: whatever has no answer has this one.
    fn fail(&mut self, error: &io::Error) {
        for (outcome, request) in self.outcomes.iter_mut().zip(self.requests) {
            outcome.get_or_insert_with(|| Err(XfrmError::from_io(request.operation(), error)));
        }
        self.open = 0;
    }

    fn finish(self) -> Vec<Outcome> {
        self.outcomes.into_iter().flatten().collect()
    }
}

/// A dump whose parts are being collected.
#[derive(Default)]
struct Dump {
    replies: Vec<Reply>,
    interrupted: bool,
    done: bool,
}

impl Dump {
    fn take(&mut self, message: &Message<'_>, operation: &'static str) -> Result<(), XfrmError> {
        self.interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
        match message.kind {
            NLMSG_ERROR | NLMSG_DONE => {
                self.done = true;
                match message.errno() {
                    Some(0) | None => Ok(()),
                    Some(errno) => Err(XfrmError::new(operation, errno, message.words())),
                }
            }
            kind => {
                self.replies.extend(dump::parse(kind, message.payload));
                Ok(())
            }
        }
    }
}
