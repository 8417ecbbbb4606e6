//! Probes: HTTP, TCP and commands, as the Pod asks for them.

use std::{collections::BTreeMap, io, net::Ipv4Addr, process::Stdio, time::Duration};

use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::guest::{
    exec::entering,
    pods::RunningContainer,
    sandbox::{Entrance, process::Process},
};

/// Most of a probe's answer that is read.
const ANSWER: u64 = 4096;

/// A probe with its defaults filled in.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    probe: Probe,
    ports: BTreeMap<String, u16>,
    /// Before the first try.
    pub(super) delay: Duration,
    /// Between tries.
    pub(super) period: Duration,
    /// For one try.
    patience: Duration,
    /// Failures in a row that count.
    pub(super) failures: u32,
    /// Successes in a row that count.
    pub(super) successes: u32,
}

impl Schedule {
    /// The probe of a container, whose ports it may name.
    pub(super) fn new(probe: &Probe, container: &Container) -> Self {
        let seconds = |value: Option<i32>, default: u32| {
            Duration::from_secs(
                value
                    .and_then(|value| u64::try_from(value).ok())
                    .unwrap_or(default.into()),
            )
        };
        let count = |value: Option<i32>, default: u32| {
            value
                .and_then(|value| u32::try_from(value).ok())
                .unwrap_or(default)
        };
        let ports = container
            .ports
            .iter()
            .flatten()
            .filter_map(|port| Some((port.name.clone()?, u16::try_from(port.container_port).ok()?)));
        Self {
            probe: probe.clone(),
            ports: ports.collect(),
            delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10).max(Duration::from_secs(1)),
            patience: seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1)),
            failures: count(probe.failure_threshold, 3).max(1),
            successes: count(probe.success_threshold, 1).max(1),
        }
    }

    /// One try; the error says what was wrong.
    pub(super) async fn attempt(
        &self,
        address: Ipv4Addr,
        container: &RunningContainer,
    ) -> Result<(), String> {
        match timeout(self.patience, self.outcome(address, container)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", self.patience.as_secs())),
        }
    }

    async fn outcome(&self, address: Ipv4Addr, container: &RunningContainer) -> io::Result<()> {
        if let Some(get) = &self.probe.http_get {
            return self.http(address, get).await;
        }
        if let Some(socket) = &self.probe.tcp_socket {
            let host = host(socket.host.as_deref(), address);
            return TcpStream::connect((host, self.port(&socket.port)?))
                .await
                .map(drop);
        }
        if let Some(exec) = &self.probe.exec {
            return command(exec.command.clone().unwrap_or_default(), container).await;
        }
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this kubelet probes by httpGet, tcpSocket and exec only",
        ))
    }

    async fn http(&self, address: Ipv4Addr, get: &HTTPGetAction) -> io::Result<()> {
        if get.scheme.as_deref() == Some("HTTPS") {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "httpGet.scheme: this kubelet knows HTTP only",
            ));
        }
        let host = host(get.host.as_deref(), address);
        let port = self.port(&get.port)?;
        let path = get.path.as_deref().unwrap_or("/");
        let mut stream = TcpStream::connect((host.clone(), port)).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: kube-probe/1.33\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER).read_to_end(&mut answer).await?;
        let text = String::from_utf8_lossy(&answer);
        let status = text
            .split_whitespace()
            .nth(1)
            .and_then(|code| code.parse::<u16>().ok());
        match status {
            Some(200..400) => Ok(()),
            Some(code) => {
                let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
                Err(io::Error::other(format!("HTTP status {code}: {}", body.trim())))
            }
            None => Err(io::Error::other("no HTTP answer")),
        }
    }

    fn port(&self, port: &IntOrString) -> io::Result<u16> {
        let number = match port {
            IntOrString::Int(number) => u16::try_from(*number).ok(),
            IntOrString::String(name) => self.ports.get(name).copied().or_else(|| name.parse().ok()),
        };
        number.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("port {port:?} is not a port of the container"),
            )
        })
    }
}

/// Runs a command in the container; anything but exit code 0 is a failure.
async fn command(argv: Vec<String>, container: &RunningContainer) -> io::Result<()> {
    let process = Process {
        argv,
        ..container.process.clone()
    };
    let output = entering(&Entrance {
        target: Some(container.pid),
        network: None,
        process,
    })?
    .stdin(Stdio::null())
    .kill_on_drop(true)
    .output()
    .await?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(io::Error::other(format!(
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&said).trim()
    )))
}

fn host(asked: Option<&str>, address: Ipv4Addr) -> String {
    asked
        .filter(|host| !host.is_empty())
        .map_or_else(|| address.to_string(), ToOwned::to_owned)
}
