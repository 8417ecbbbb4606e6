//! The agents and the kernels that they program: what `kubectl exec` and `ip xfrm` would show.

use std::time::Duration;

use super::{Lab, product::NAMESPACE};
use crate::{
    error::{Context, Error, Result, eventually},
    node_channel::Output,
    protocol::{Exec, Place},
};

/// An SA as the kernel shows it, without its key.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct KernelSa {
    /// Source address.
    pub source: String,
    /// Destination address.
    pub destination: String,
    /// SPI, `0x…`.
    pub spi: String,
    /// Mode and algorithm.
    pub kind: String,
}

impl std::fmt::Display for KernelSa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            source,
            destination,
            spi,
            kind,
        } = self;
        write!(f, "{source} → {destination}  {spi}  {kind}")
    }
}

impl Lab {
    /// Name of the agent's pod on a node.
    pub fn agent_pod(&self, node: &str) -> Result<String> {
        let template = "{range .items[*]}{.metadata.name} {end}";
        let field = format!("--field-selector=spec.nodeName={node}");
        let label = "-l=app.kubernetes.io/component=agent";
        let names = self
            .kubectl()
            .value(&["pods", "-n", NAMESPACE, label, &field], template)?;
        let first = names.split_whitespace().next().map(str::to_owned);
        first.ok_or_else(|| Error::observed(format!("no agent runs on {node}")))
    }

    /// Runs the agent's own binary in its container, `ipsecmesh-agent rekey` for example.
    pub fn agent(&self, node: &str, arguments: &[&str]) -> Result<String> {
        self.agent_in(node, &self.agent_pod(node)?, arguments)
    }

    /// The same in a pod whose name is known, which works without the API server.
    pub fn agent_in(&self, node: &str, pod: &str, arguments: &[&str]) -> Result<String> {
        let mut argv = vec!["/ipsecmesh-agent".to_owned()];
        argv.extend(arguments.iter().map(ToString::to_string));
        let exec = Exec {
            argv,
            place: Place::Container {
                namespace: NAMESPACE.into(),
                pod: pod.into(),
                container: "agent".into(),
            },
            ..Exec::default()
        };
        let output = self.node(node)?.channel().exec(exec).and_then(Output::text);
        output.context(|| format!("ipsecmesh-agent {} on {node}", arguments.join(" ")))
    }

    /// Where a node finds a program of the lab: its own `/root`, `/tmp` and `/var` hide those of the host.
    pub fn program_on_node(&self, name: &str) -> String {
        let program = self.folder().join("bin").join(name);
        crate::protocol::NodeConfig::host_path(&program)
            .display()
            .to_string()
    }

    /// The ESP SAs of ours on a node.
    pub fn kernel_sas(&self, node: &str) -> Result<Vec<KernelSa>> {
        let text = self.node(node)?.run(&["ip", "xfrm", "state"])?;
        let mut sas = parse_sas(&text);
        sas.sort();
        Ok(sas)
    }

    /// Waits until every pair of nodes has exactly one SA in each direction.
    pub fn wait_for_one_pair_each(&self, limit: Duration) -> Result<usize> {
        let nodes = self.nodes();
        let wanted = 2 * (nodes.len() - 1);
        eventually(&format!("{wanted} SAs per node"), limit, || {
            for node in &nodes {
                let sas = self.kernel_sas(node.name())?;
                let mut ends: Vec<_> = sas.iter().map(|sa| (&sa.source, &sa.destination)).collect();
                ends.dedup();
                if sas.len() != wanted || ends.len() != wanted {
                    let seen: Vec<String> = sas.iter().map(ToString::to_string).collect();
                    return Err(Error::observed(format!("{}: {}", node.name(), seen.join("; "))));
                }
            }
            Ok(wanted)
        })
    }
}

/// Reads `ip xfrm state`; keys are dropped here and go nowhere. SAs that are not ours are left out.
fn parse_sas(text: &str) -> Vec<KernelSa> {
    let mut sas = Vec::new();
    for block in text
        .split("\nsrc ")
        .map(|block| block.strip_prefix("src ").unwrap_or(block))
    {
        let mut words = block.split_whitespace();
        let after = |key: &str| {
            block
                .split_once(key)
                .and_then(|(_, rest)| rest.split_whitespace().next())
        };
        let (Some(source), Some("dst"), Some(destination)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let ours = after("reqid ")
            .and_then(|reqid| reqid.parse::<u32>().ok())
            .is_some_and(|reqid| reqid >> 16 == 0x1950);
        let (true, Some(spi), Some(mode)) = (ours, after("spi "), after("mode ")) else {
            continue;
        };
        let cipher = after("aead ").unwrap_or("no key yet");
        let esn = if block.contains("esn") { " esn" } else { "" };
        sas.push(KernelSa {
            source: source.to_owned(),
            destination: destination.to_owned(),
            spi: spi.to_owned(),
            kind: format!("{mode} {cipher}{esn}"),
        });
    }
    sas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_foreign_sas_are_left_out() {
        let text = "src 172.30.0.11 dst 172.30.0.12\n\tproto esp spi 0xcb9239a2 reqid 424694656 mode transport\n\
                    \treplay-window 0 flag esn\n\taead rfc4106(gcm(aes)) 0xdeadbeef 128\n\
                    src 10.0.0.1 dst 10.0.0.2\n\tproto esp spi 0x01 reqid 1 mode tunnel\n\taead rfc4106(gcm(aes)) 0xcafe 128\n";
        let sas = parse_sas(text);
        assert_eq!(sas.len(), 1);
        let shown = sas[0].to_string();
        assert_eq!(
            shown,
            "172.30.0.11 → 172.30.0.12  0xcb9239a2  transport rfc4106(gcm(aes)) esn"
        );
    }
}
