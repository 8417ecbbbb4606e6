//! The command line. Every flag has a default that fits the chart's default names.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The operator of ipsecmesh.
#[derive(Debug, Parser)]
#[command(name = "ipsecmesh-operator", version)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the controllers (one leader, the other replicas stand by).
    Run(RunArgs),
    /// Take every tunnel back to cleartext in order and wait until no node holds anything of it.
    Uninstall(UninstallArgs),
    /// Check that every Ready Linux node has a Ready IPsecNode; print a table.
    Verify(VerifyArgs),
}

/// The arguments of `run`.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// Names and places that the subcommands share.
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// The service account of the agents, in the operator's namespace.
    #[arg(long, default_value = "ipsecmesh-agent")]
    pub(crate) agent_service_account: String,
    /// The Lease of the leader election, in the operator's namespace.
    #[arg(long, default_value = "ipsecmesh-operator")]
    pub(crate) lease_name: String,
    /// The Secret that keeps the authority's key, in the operator's namespace.
    #[arg(long, default_value = "ipsecmesh-ca")]
    pub(crate) ca_secret: String,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub(crate) listen: SocketAddr,
    /// Addresses outside of these networks are not published (default: no limit).
    #[arg(long, value_delimiter = ',')]
    pub(crate) node_cidrs: Vec<Cidr>,
    /// The ValidatingAdmissionPolicies (and bindings of the same names) without which agents' reports are not trusted.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "ipsecmesh-own-node,ipsecmesh-csr"
    )]
    pub(crate) admission_policies: Vec<String>,
    /// This replica's name in the election.
    #[arg(long, env = "POD_NAME")]
    pub(crate) identity: Option<String>,
    /// How many objects of one kind are reconciled at once.
    #[arg(long, default_value_t = 8)]
    pub(crate) concurrency: u16,
}

/// The arguments of `uninstall`.
#[derive(Args, Debug)]
pub(crate) struct UninstallArgs {
    /// Names and places that the subcommands share.
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// How long to wait for the nodes, in seconds.
    #[arg(long, default_value = "660", value_parser = seconds)]
    pub(crate) timeout: Duration,
}

/// The arguments of `verify`.
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// How long to wait for the nodes, in seconds.
    #[arg(long, default_value = "60", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// The form of the log.
    #[arg(long, value_enum, default_value_t = LogFormat::Human)]
    pub(crate) log_format: LogFormat,
}

/// What `run` and `uninstall` share.
#[derive(Args, Debug)]
pub(crate) struct CommonArgs {
    /// The operator's namespace.
    #[arg(long, env = "POD_NAMESPACE", default_value = "ipsecmesh-system")]
    pub(crate) namespace: String,
    /// The ConfigMap that carries the uninstall marker, in the operator's namespace.
    #[arg(long, default_value = "ipsecmesh-lifecycle")]
    pub(crate) lifecycle_config_map: String,
    /// The form of the log.
    #[arg(long, value_enum, default_value_t = LogFormat::Human)]
    pub(crate) log_format: LogFormat,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for a person.
    Human,
    /// One JSON object a line.
    Json,
}

/// A network in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cidr {
    network: std::net::IpAddr,
    prefix: u8,
}

impl Cidr {
    /// Whether `address` lies in this network.
    pub(crate) fn contains(&self, address: std::net::IpAddr) -> bool {
        use std::net::IpAddr::{V4, V6};
        let (network, address, width) = match (self.network, address) {
            (V4(network), V4(address)) => (u128::from(network.to_bits()), u128::from(address.to_bits()), 32),
            (V6(network), V6(address)) => (network.to_bits(), address.to_bits(), 128),
            (V4(_), V6(_)) | (V6(_), V4(_)) => return false,
        };
        let host_bits = width - u32::from(self.prefix);
        let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
        network & mask == address & mask
    }
}

impl std::str::FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a network such as 10.0.0.0/8 or 2001:db8::/32");
        let (network, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let network: std::net::IpAddr = network.parse().map_err(|_e| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_e| wrong())?;
        if prefix > if network.is_ipv4() { 32 } else { 128 } {
            return Err(wrong());
        }
        Ok(Self { network, prefix })
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let digits = text.strip_suffix('s').unwrap_or(text);
    digits
        .parse()
        .map(Duration::from_secs)
        .map_err(|_e| format!("{text:?} is not a number of seconds"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_charts_command_line_parses() {
        let line = "ipsecmesh-operator run --namespace ipsecmesh-system --agent-service-account ipsecmesh-agent \
                    --lease-name ipsecmesh-operator --ca-secret ipsecmesh-ca --lifecycle-config-map ipsecmesh-lifecycle \
                    --listen 0.0.0.0:8080 --log-format json --node-cidrs 10.0.0.0/8,2001:db8::/32";
        let cli = Cli::try_parse_from(line.split_whitespace()).expect("parses");
        let Command::Run(args) = cli.command else {
            panic!("run")
        };
        assert_eq!(args.common.log_format, LogFormat::Json);
        assert_eq!(args.node_cidrs.len(), 2);
        assert_eq!(args.admission_policies, ["ipsecmesh-own-node", "ipsecmesh-csr"]);
    }

    #[test]
    fn a_network_contains_its_addresses_only() {
        let cases = [
            ("10.12.0.0/16", "10.12.34.56", true),
            ("10.12.0.0/16", "10.13.0.1", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("192.0.2.1/32", "192.0.2.1", true),
            ("192.0.2.1/32", "192.0.2.2", false),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("::/0", "10.0.0.1", false),
        ];
        for (network, address, expected) in cases {
            let network: Cidr = network.parse().expect("network");
            assert_eq!(
                network.contains(address.parse().expect("address")),
                expected,
                "{network:?} {address}"
            );
        }
        for wrong in ["10.0.0.0", "10.0.0.0/33", "x/8", "::/129"] {
            wrong.parse::<Cidr>().expect_err(wrong);
        }
    }
}
