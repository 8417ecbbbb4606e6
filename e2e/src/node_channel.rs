//! The host's end of a node's exec channel: run commands on the node or in its pods, replace its list of nodes.
//!
//! Blocking, because tests are threads; from async code wrap a call in `spawn_blocking`.

use std::{
    fs::File,
    io::{self, Write},
    net::{SocketAddr, SocketAddrV4, TcpStream},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};

use crate::protocol::{Exec, Frame, PeerNode, Place, PodInfo, Reply, Request};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A node's exec channel. Cheap to clone; each request has a connection of its own.
#[derive(Clone, Debug)]
pub struct NodeChannel {
    address: SocketAddrV4,
    network_namespace: Option<PathBuf>,
}

/// What a finished command left.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code; 128 + signal if a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text, or an error that holds both outputs if the command failed.
    pub fn text(self) -> io::Result<String> {
        let stdout = String::from_utf8_lossy(&self.stdout).into_owned();
        if self.code == 0 {
            return Ok(stdout);
        }
        let stderr = String::from_utf8_lossy(&self.stderr);
        Err(io::Error::other(format!(
            "exit code {}: {}{}",
            self.code,
            stdout.trim_end(),
            stderr.trim_end()
        )))
    }
}

/// A command that still runs; dropping it ends the command.
#[derive(Debug)]
pub struct Running {
    stream: TcpStream,
}

/// What a running command said next.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Bytes of its standard output.
    Stdout(Vec<u8>),
    /// Bytes of its standard error.
    Stderr(Vec<u8>),
    /// It ended.
    Exit(i32),
}

impl NodeChannel {
    /// A channel to `address`, connected from within a network namespace (`/run/netns/NAME`, `/proc/PID/ns/net`)
    /// or from the caller's own.
    pub fn new(address: SocketAddrV4, network_namespace: Option<PathBuf>) -> Self {
        Self {
            address,
            network_namespace,
        }
    }

    /// Waits until the node's network stands.
    pub fn wait_ready(&self, timeout: Duration) -> io::Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.request(&Request::Ready) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("node {}: {error}", self.address),
                    ));
                }
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Runs a command on the node and waits for its end.
    pub fn run(&self, argv: &[&str]) -> io::Result<Output> {
        self.exec(Exec {
            argv: argv.iter().map(ToString::to_string).collect(),
            ..Exec::default()
        })
    }

    /// Runs a command in a pod's network namespace, with the node's files.
    pub fn run_in_pod_network(&self, namespace: &str, pod: &str, argv: &[&str]) -> io::Result<Output> {
        self.exec(Exec {
            argv: argv.iter().map(ToString::to_string).collect(),
            place: Place::PodNetwork {
                namespace: namespace.into(),
                pod: pod.into(),
            },
            ..Exec::default()
        })
    }

    /// Runs a command and waits for its end.
    pub fn exec(&self, exec: Exec) -> io::Result<Output> {
        let mut running = self.start(exec)?;
        let mut output = Output {
            code: 0,
            stdout: Vec::new(),
            stderr: Vec::new(),
        };
        loop {
            match running.next_event()? {
                Event::Stdout(bytes) => output.stdout.extend(bytes),
                Event::Stderr(bytes) => output.stderr.extend(bytes),
                Event::Exit(code) => return Ok(Output { code, ..output }),
            }
        }
    }

    /// Starts a command whose output is read while it runs.
    pub fn start(&self, exec: Exec) -> io::Result<Running> {
        let mut stream = self.connect()?;
        Frame::Message(Request::Exec(exec)).write_to(&mut stream)?;
        Ok(Running { stream })
    }

    /// Replaces the node's list of nodes.
    pub fn set_nodes(&self, nodes: Vec<PeerNode>) -> io::Result<()> {
        self.request(&Request::Nodes(nodes)).map(drop)
    }

    /// The pods that run on the node.
    pub fn pods(&self) -> io::Result<Vec<PodInfo>> {
        match self.request(&Request::Pods)? {
            Reply::Pods(pods) => Ok(pods),
            other @ (Reply::Done | Reply::Exit(_) | Reply::Error(_)) => Err(unexpected(&other)),
        }
    }

    /// Powers the node off in order.
    pub fn shutdown(&self) -> io::Result<()> {
        self.request(&Request::Shutdown).map(drop)
    }

    fn request(&self, request: &Request) -> io::Result<Reply> {
        let mut stream = self.connect()?;
        Frame::Message(request.clone()).write_to(&mut stream)?;
        match Frame::read_from(&mut stream)? {
            Frame::Message(Reply::Error(message)) => Err(io::Error::other(message)),
            Frame::Message(reply) => Ok(reply),
            Frame::Stdout(_) | Frame::Stderr(_) => Err(io::Error::other("output without a command")),
        }
    }

    /// A socket belongs to the network namespace of the thread that makes it, so a thread of its own steps inside.
    fn connect(&self) -> io::Result<TcpStream> {
        let address = SocketAddr::V4(self.address);
        let Some(namespace) = self.network_namespace.clone() else {
            return prepared(TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?);
        };
        let connecting = thread::spawn(move || {
            setns(File::open(namespace)?, CloneFlags::CLONE_NEWNET)?;
            TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)
        });
        prepared(
            connecting
                .join()
                .map_err(|_| io::Error::other("connecting thread panicked"))??,
        )
    }
}

impl Running {
    /// Waits for the next piece of output or the end.
    pub fn next_event(&mut self) -> io::Result<Event> {
        match Frame::read_from(&mut self.stream)? {
            Frame::Stdout(bytes) => Ok(Event::Stdout(bytes)),
            Frame::Stderr(bytes) => Ok(Event::Stderr(bytes)),
            Frame::Message(Reply::Exit(code)) => Ok(Event::Exit(code)),
            Frame::Message(Reply::Error(message)) => Err(io::Error::other(message)),
            Frame::Message(other @ (Reply::Done | Reply::Pods(_))) => Err(unexpected(&other)),
        }
    }

    /// Passes standard output on until the command ends; answers its exit code.
    pub fn copy_stdout(mut self, sink: &mut impl Write) -> io::Result<i32> {
        loop {
            match self.next_event()? {
                Event::Stdout(bytes) => sink.write_all(&bytes)?,
                Event::Stderr(_) => {}
                Event::Exit(code) => return Ok(code),
            }
        }
    }

    /// A second handle that writes to the command's standard input, where the command was started attached.
    pub fn input(&self) -> io::Result<TcpStream> {
        self.stream.try_clone()
    }

    /// A second handle that can end the command from another thread.
    pub fn stopper(&self) -> io::Result<Stopper> {
        Ok(Stopper {
            stream: self.stream.try_clone()?,
        })
    }
}

/// Ends a running command: SIGTERM, SIGKILL after two seconds; its last output and exit code still arrive.
#[derive(Debug)]
pub struct Stopper {
    stream: TcpStream,
}

impl Stopper {
    /// Asks for the end.
    pub fn stop(&self) -> io::Result<()> {
        self.stream.shutdown(std::net::Shutdown::Write)
    }
}

fn prepared(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn unexpected(reply: &Reply) -> io::Error {
    io::Error::other(format!("unexpected answer {reply:?}"))
}
