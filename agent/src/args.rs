//! The command line. Every flag says its unit, its default and why it exists.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::ArgPredicate;
use clap::{Args, Parser, Subcommand, ValueEnum};
use ipsecmesh_crds::units::ApiDuration;

/// The node agent of ipsecmesh.
#[derive(Debug, Parser)]
#[command(name = "ipsecmesh-agent", version, about)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Cli {
    /// What to do; `run` where nothing else is said.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Flags of `run`.
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs the agent until SIGTERM; SAs and policies stay in the kernel afterwards.
    Run(Box<RunArgs>),
    /// Removes the SAs and policies of ipsecmesh from this host's kernel, and nothing else.
    Flush(LogArgs),
    /// Prints what this host can do for IPsec and what it lacks.
    Probe(LogArgs),
    /// Makes the running agent replace SAs now, without loss.
    Rekey(RekeyArgs),
    /// Prints tunnels, peers and SAs of the running agent, without keys.
    Status(StatusArgs),
    /// Takes a tunnel of the running agent down: its SAs go, its policies stay.
    Down(TunnelArgs),
    /// Takes a tunnel up again.
    Up(TunnelArgs),
}

/// Flags of `run`.
#[derive(Clone, Debug, Args)]
pub(crate) struct RunArgs {
    /// Works without Kubernetes, on the YAML files in this folder: the same kinds, read again when they change.
    #[arg(long, value_name = "DIR")]
    pub(crate) manifests: Option<PathBuf>,
    /// Name of the Node that this agent serves; with --manifests the name of its IPsecPeer, by default the host's name.
    #[arg(long, env = "NODE_NAME", required_unless_present = "manifests")]
    pub(crate) node_name: Option<String>,
    /// Folder that survives a reboot: key, certificate, last policies, latches. Made with mode 0700.
    #[arg(long, default_value = "/var/lib/ipsecmesh")]
    pub(crate) state_dir: PathBuf,
    /// Folder that does not survive a reboot. Made with mode 0700.
    #[arg(long, default_value = "/run/ipsecmesh")]
    pub(crate) run_dir: PathBuf,
    /// Where /healthz and /readyz are served: an address of this host only.
    #[arg(long, default_value = "127.0.0.1:9810")]
    pub(crate) health_listen: SocketAddr,
    /// Where /metrics is served; with --manifests 127.0.0.1:9811 by default.
    #[arg(
        long,
        default_value = "0.0.0.0:9811",
        default_value_if("manifests", ArgPredicate::IsPresent, "127.0.0.1:9811")
    )]
    pub(crate) metrics_listen: SocketAddr,
    /// Which implementation of the cryptographic primitives the IKE engine uses.
    #[arg(long, value_enum, default_value_t = CryptoProvider::AwsLcRs)]
    pub(crate) crypto_provider: CryptoProvider,
    /// For how long after a node, or an address of it, has left the directory cleartext to and from it is still blocked:
    /// hours, minutes and seconds, as in 1h30m or 5m.
    #[arg(long, default_value = "5m")]
    pub(crate) departed_grace: ApiDuration,
    /// How the log looks.
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// Which implementation of the cryptographic primitives the IKE engine uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CryptoProvider {
    /// AWS-LC.
    AwsLcRs,
    /// The RustCrypto crates.
    #[value(name = "rustcrypto")]
    RustCrypto,
}

/// Flags of `rekey`.
#[derive(Clone, Debug, Args)]
pub(crate) struct RekeyArgs {
    /// Only the SAs of this tunnel, or with this peer: a node's name or an external peer's address; all without it.
    #[arg(value_name = "TUNNEL|PEER")]
    pub(crate) name: Option<String>,
    /// The IKE SAs instead of the CHILD SAs.
    #[arg(long)]
    pub(crate) ike: bool,
    /// Where the agent listens.
    #[command(flatten)]
    pub(crate) local: LocalArgs,
}

/// Flags of `status`.
#[derive(Clone, Debug, Args)]
pub(crate) struct StatusArgs {
    /// How the state is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// Waits until every tunnel is up or idle, at most for so long: seconds and minutes, as in 30s. Without it the present
    /// state is printed at once.
    #[arg(long, value_name = "DURATION")]
    pub(crate) wait: Option<ApiDuration>,
    /// Where the agent listens.
    #[command(flatten)]
    pub(crate) local: LocalArgs,
}

/// How a state is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// One line per pair of SAs.
    Table,
    /// The table with more columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// Flags of `down` and `up`.
#[derive(Clone, Debug, Args)]
pub(crate) struct TunnelArgs {
    /// Name of the IPsecTunnel.
    pub(crate) tunnel: String,
    /// Where the agent listens.
    #[command(flatten)]
    pub(crate) local: LocalArgs,
}

/// Where the running agent is asked.
#[derive(Clone, Debug, Args)]
pub(crate) struct LocalArgs {
    /// Folder of the running agent's control socket, as `run` was told it.
    #[arg(long, default_value = "/run/ipsecmesh")]
    pub(crate) run_dir: PathBuf,
}

/// Name of the control socket in the folder that does not survive a reboot.
pub(crate) const CONTROL_SOCKET: &str = "agent.sock";

/// How the log looks.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct LogArgs {
    /// `human` for a terminal, `json` for a collector. The level comes from RUST_LOG, `info` without it.
    #[arg(long, value_enum, default_value_t = LogFormat::Human)]
    pub(crate) log_format: LogFormat,
}

/// How the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Text for a terminal.
    #[default]
    Human,
    /// One JSON object per line.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn run_needs_a_node_name_and_takes_the_documented_flags() {
        let parsed = Cli::try_parse_from([
            "ipsecmesh-agent",
            "run",
            "--node-name",
            "node-a",
            "--log-format",
            "json",
            "--crypto-provider",
            "rustcrypto",
        ])
        .expect("valid flags");
        let Some(Command::Run(run)) = parsed.command else {
            panic!("run expected");
        };
        assert_eq!(run.node_name.as_deref(), Some("node-a"));
        assert_eq!(run.metrics_listen.to_string(), "0.0.0.0:9811");
        assert_eq!(run.crypto_provider, CryptoProvider::RustCrypto);
        assert_eq!(run.log.log_format, LogFormat::Json);
        assert_eq!(run.departed_grace, ApiDuration::from_mins(5));
        assert_eq!(run.health_listen.to_string(), "127.0.0.1:9810");
    }
    #[test]
    fn manifests_stand_for_run_and_need_no_node_name() {
        for line in [
            &["ipsecmesh-agent", "--manifests", "/etc/ipsecmesh"][..],
            &["ipsecmesh-agent", "run", "--manifests", "/etc/ipsecmesh"],
        ] {
            let parsed = Cli::try_parse_from(line).expect("valid flags");
            let run = match parsed.command {
                Some(Command::Run(run)) => *run,
                _ => parsed.run,
            };
            assert_eq!(run.manifests, Some(PathBuf::from("/etc/ipsecmesh")));
            assert_eq!(run.metrics_listen.to_string(), "127.0.0.1:9811");
        }
        assert!(Cli::try_parse_from(["ipsecmesh-agent", "run"]).is_err());
        assert!(Cli::try_parse_from(["ipsecmesh-agent"]).is_err());
        assert!(Cli::try_parse_from(["ipsecmesh-agent", "--manifests", "x", "probe"]).is_err());
        assert!(Cli::try_parse_from(["ipsecmesh-agent", "probe"]).is_ok());
    }

    #[test]
    fn the_service_of_the_documentation_starts_the_agent() {
        let unit = include_str!("../../docs/ipsecmesh-agent.service");
        let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart="));
        let words = line.expect("ExecStart").split_whitespace();
        let parsed = Cli::try_parse_from(words).expect("valid flags");
        assert_eq!(parsed.run.manifests, Some(PathBuf::from("/etc/ipsecmesh")));
        for (directive, folder) in [
            ("StateDirectory", parsed.run.state_dir),
            ("RuntimeDirectory", parsed.run.run_dir),
        ] {
            let name = folder.file_name().and_then(|name| name.to_str()).expect("a name");
            assert!(unit.contains(&format!("{directive}={name}\n")), "{directive}");
        }
    }
}
