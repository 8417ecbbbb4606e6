//! The exec channel's server: commands on the node, in a pod's network or in a container; the list of nodes; the end.

use std::{
    io,
    os::unix::process::ExitStatusExt as _,
    process::{ExitStatus, Stdio},
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
    process::{Child, Command},
    sync::mpsc,
    task::JoinHandle,
};
use tracing::{debug, warn};

use super::{
    network,
    node::Node,
    pods::Pods,
    sandbox::{self, Entrance, process::Process},
    shell::{PATH, found},
};
use crate::protocol::{EXEC_PORT, Exec, Frame, HEADER, PeerNode, Place, Reply, Request};

/// How long a command may take to end after its client left.
const GRACE: Duration = Duration::from_secs(2);
/// Specifications of processes to start; a process takes its own away.
pub(super) const SPECIFICATIONS: &str = "/run/lab/specifications";

/// Listens on the management address; a task per connection.
pub(super) async fn serve(node: Arc<Node>, pods: Pods) -> io::Result<JoinHandle<()>> {
    let listener = TcpListener::bind((node.config.management.address.addr(), EXEC_PORT)).await?;
    Ok(tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (node, pods) = (Arc::clone(&node), pods.clone());
                    tokio::spawn(async move {
                        if let Err(error) = answer(stream, &node, &pods).await {
                            debug!(%error, "exec channel connection ended");
                        }
                    });
                }
                Err(error) => warn!(%error, "exec channel"),
            }
        }
    }))
}

async fn answer(stream: TcpStream, node: &Node, pods: &Pods) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = stream.into_split();
    let reply = match read_request(&mut reader).await? {
        Request::Exec(exec) => match start(&exec, pods) {
            Ok(child) => {
                let (frames, mut queue) = mpsc::channel(16);
                let input = if exec.attached {
                    Input::Client
                } else {
                    Input::Text(exec.stdin)
                };
                let running = tokio::spawn(run(child, input, reader, frames));
                while let Some(frame) = queue.recv().await {
                    writer.write_all(&Frame::encode(&frame)?).await?;
                }
                Reply::Exit(running.await.map_err(io::Error::other)??)
            }
            Err(error) => Reply::Error(error.to_string()),
        },
        Request::Nodes(nodes) => replace_nodes(node, nodes).await,
        Request::Pods => Reply::Pods(pods.list()),
        Request::Ready => Reply::Done,
        Request::Shutdown => {
            node.shutdown.send_replace(true);
            Reply::Done
        }
    };
    writer.write_all(&Frame::Message(reply).encode()?).await
}

async fn read_request(reader: &mut OwnedReadHalf) -> io::Result<Request> {
    let mut header = [0; HEADER];
    reader.read_exact(&mut header).await?;
    let (kind, length) = Frame::<Request>::header(header)?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await?;
    match Frame::decode(kind, body)? {
        Frame::Message(request) => Ok(request),
        Frame::Stdout(_) | Frame::Stderr(_) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "output instead of a request",
        )),
    }
}

async fn replace_nodes(node: &Node, nodes: Vec<PeerNode>) -> Reply {
    let before = node.peers.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match network::set_peers(&node.config, &before, &nodes).await {
        Ok(()) => {
            *node.peers.lock().unwrap_or_else(PoisonError::into_inner) = nodes;
            Reply::Done
        }
        Err(error) => Reply::Error(error.to_string()),
    }
}

fn start(exec: &Exec, pods: &Pods) -> io::Result<Child> {
    let mut command = match &exec.place {
        Place::Node => {
            let (program, arguments) = exec.argv.split_first().ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidInput, "argv: is empty; name a program")
            })?;
            let mut command = Command::new(found(program));
            command
                .args(arguments)
                .env_clear()
                .env("PATH", PATH)
                .env("HOME", "/root")
                .envs(&exec.env)
                .current_dir("/");
            command
        }
        Place::PodNetwork { namespace, pod } => {
            let network = pods.find(namespace, pod)?.network;
            let mut env = vec![
                ("PATH".to_owned(), PATH.to_owned()),
                ("HOME".to_owned(), "/root".to_owned()),
            ];
            env.extend(exec.env.clone());
            let process = Process {
                argv: exec.argv.clone(),
                env,
                directory: "/".into(),
                rights: None,
            };
            entering(&Entrance {
                target: None,
                network,
                process,
            })?
        }
        Place::Container {
            namespace,
            pod,
            container,
        } => {
            let running = pods.container(namespace, pod, container)?;
            let mut process = Process {
                argv: exec.argv.clone(),
                ..running.process
            };
            process.env.extend(exec.env.clone());
            entering(&Entrance {
                target: Some(running.pid),
                network: None,
                process,
            })?
        }
    };
    let program = exec.argv.first().map_or("", String::as_str);
    command
        .stdin(if exec.attached || exec.stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))
}

/// This program again, as the step into existing namespaces.
pub(super) fn entering(entrance: &Entrance) -> io::Result<Command> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let name = format!("enter-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let specification = sandbox::write_specification(SPECIFICATIONS.as_ref(), &name, entrance)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg(sandbox::ENTER).arg(specification);
    Ok(command)
}

/// Where a command's standard input comes from.
enum Input {
    /// The request, or nowhere.
    Text(Option<String>),
    /// The connection.
    Client,
}

/// Streams the command's output until it ends; ends it when the client closes its side, unless that is its input's end.
async fn run(
    mut child: Child,
    input: Input,
    mut client: OwnedReadHalf,
    frames: mpsc::Sender<Frame<Reply>>,
) -> io::Result<i32> {
    let pipe = child.stdin.take();
    let client_left = async move {
        match (pipe, input) {
            (Some(mut pipe), Input::Client) => {
                // INVARIANT: a command that reads no more does not miss the rest.
                let _ = tokio::io::copy(&mut client, &mut pipe).await;
                drop(pipe);
                std::future::pending().await
            }
            (Some(mut pipe), Input::Text(Some(text))) => {
                tokio::spawn(async move { pipe.write_all(text.as_bytes()).await });
                client.read(&mut [0]).await
            }
            (None, _) | (_, Input::Text(None)) => client.read(&mut [0]).await,
        }
    };
    let group = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .map(Pid::from_raw);
    let stdout = tokio::spawn(pump(child.stdout.take(), frames.clone(), Frame::Stdout));
    let stderr = tokio::spawn(pump(child.stderr.take(), frames, Frame::Stderr));
    let status = tokio::select! {
        status = child.wait() => status?,
        _ = client_left => end(&mut child, group).await?,
    };
    // A command's own background processes may hold the pipes open: what it said itself arrives within the grace, and
    // nobody waits for more.
    let pumps = [stdout.abort_handle(), stderr.abort_handle()];
    let _ = tokio::time::timeout(GRACE, async { tokio::join!(stdout, stderr) }).await;
    pumps.iter().for_each(tokio::task::AbortHandle::abort);
    Ok(exit_code(status))
}

async fn end(child: &mut Child, group: Option<Pid>) -> io::Result<ExitStatus> {
    if let Some(group) = group {
        // INVARIANT: a group that is gone already needs no signal.
        let _ = killpg(group, Signal::SIGTERM);
        if let Ok(status) = tokio::time::timeout(GRACE, child.wait()).await {
            return status;
        }
        let _ = killpg(group, Signal::SIGKILL);
    }
    child.wait().await
}

async fn pump<R: AsyncRead + Unpin>(
    source: Option<R>,
    frames: mpsc::Sender<Frame<Reply>>,
    wrap: fn(Vec<u8>) -> Frame<Reply>,
) {
    let Some(mut source) = source else { return };
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = source.read(&mut buffer).await {
        if frames
            .send(wrap(buffer.get(..read).unwrap_or_default().to_vec()))
            .await
            .is_err()
        {
            return;
        }
    }
}

/// As a shell tells it.
pub(super) fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}
