//! `ipsecmesh-traffic`: what runs in the lab's pods.

use std::{
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddrV4},
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand};
use ipsecmesh_e2e::traffic::{PORT, flow, hostile, send, serve};

/// Numbered packets and long flows between pods.
#[derive(Debug, Parser)]
#[command(name = "ipsecmesh-traffic", version)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Send everything back until SIGTERM.
    Serve,
    /// Send numbered packets and report what comes back.
    Send {
        /// Address of a pod that serves.
        #[arg(long)]
        to: Ipv4Addr,
        /// Packets per second.
        #[arg(long, default_value_t = 100)]
        rate: u32,
        /// Text in every packet.
        #[arg(long, default_value = "")]
        marker: String,
        /// End after so many seconds; at SIGTERM without it.
        #[arg(long)]
        seconds: Option<u64>,
    },
    /// Keep a TCP flow busy and report its stalls.
    Flow {
        /// Address of a pod that serves.
        #[arg(long)]
        to: Ipv4Addr,
        /// Text in every segment.
        #[arg(long, default_value = "")]
        marker: String,
    },
    /// Take a UDP port as soon as it is free, and hold it.
    Hold {
        /// The port.
        #[arg(long)]
        port: u16,
    },
    /// Send every kind of bad datagram to a node's IKE ports.
    Hostile {
        /// Address of the node.
        #[arg(long)]
        to: Ipv4Addr,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().role {
        Role::Serve => serve::run(),
        Role::Send {
            to,
            rate,
            marker,
            seconds,
        } => send::run(&send::Options {
            to: SocketAddrV4::new(to, PORT),
            rate,
            marker,
            limit: seconds.map(Duration::from_secs),
        }),
        Role::Hold { port } => hostile::hold(port),
        Role::Hostile { to } => {
            hostile::send(to).and_then(|count| writeln!(io::stdout(), "{count} bad datagrams sent"))
        }
        Role::Flow { to, marker } => flow::run(SocketAddrV4::new(to, PORT), &marker),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "ipsecmesh-traffic: {error}");
            ExitCode::FAILURE
        }
    }
}
