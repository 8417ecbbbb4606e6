//! The product in a lab, by the commands that a user types: both charts, tunnels, and pods that talk.

use std::time::Duration;

use super::{Lab, binaries::TRAFFIC_IMAGE};
use crate::error::{Error, Result, eventually};

/// Namespace of operator and agents.
pub const NAMESPACE: &str = "ipsecmesh-system";
/// Name of the container in traffic pods.
pub const TRAFFIC_CONTAINER: &str = "traffic";
/// Name of the release.
pub const RELEASE: &str = "ipsecmesh";
/// The tunnel of the README.
pub const TUNNEL: &str = "apiVersion: ipsecmesh.io/v1alpha1
kind: IPsecTunnel
metadata:
  name: cluster-mesh
spec: {}
";

const INSTALL: Duration = Duration::from_mins(2);

impl Lab {
    /// `helm install` of both charts; waits until operator and agents are Ready. Answers the command lines.
    pub fn install_product(&self, values: &[&str]) -> Result<Vec<String>> {
        let definitions = self.install_definitions()?;
        let line = self.helm_chart("install", values)?;
        self.wait_for_product()?;
        Ok(vec![definitions, line])
    }

    /// `helm install` of the definitions alone.
    pub fn install_definitions(&self) -> Result<String> {
        let chart = self
            .checkout()
            .join("charts/ipsecmesh-crds")
            .display()
            .to_string();
        self.helm().run(&[
            "upgrade",
            "--install",
            "ipsecmesh-crds",
            &chart,
            "--wait",
            "--timeout",
            "60s",
        ])?;
        Ok("helm install ipsecmesh-crds charts/ipsecmesh-crds".into())
    }

    /// `helm VERB` of the product's chart with `--set` for each value.
    pub fn helm_chart(&self, verb: &str, values: &[&str]) -> Result<String> {
        let chart = self.checkout().join("charts/ipsecmesh").display().to_string();
        let mut arguments = vec![
            verb,
            RELEASE,
            &chart,
            "--namespace",
            NAMESPACE,
            "--create-namespace",
        ];
        // A node that a trial removes must leave no policies for the next trial.
        let values = ["agent.departedGrace=30s"].iter().chain(values);
        arguments.extend(values.flat_map(|value| ["--set", *value]));
        self.helm().run(&arguments)?;
        Ok(format!(
            "helm {verb} {RELEASE} charts/ipsecmesh --namespace {NAMESPACE} --create-namespace"
        ))
    }

    /// Waits until the operator and one agent per node are Ready.
    pub fn wait_for_product(&self) -> Result<()> {
        const OPERATORS: usize = 2;
        let agents = self.nodes().len();
        self.wait_for_pods(NAMESPACE, agents + OPERATORS, INSTALL)
    }

    /// `helm uninstall`, which waits for the phases.
    pub fn uninstall_product(&self) -> Result<()> {
        self.helm()
            .run(&[
                "uninstall",
                RELEASE,
                "--namespace",
                NAMESPACE,
                "--wait",
                "--timeout",
                "3m",
            ])
            .map(drop)
    }

    /// Starts a pod with the traffic tool on a node and waits until it has an address.
    pub fn start_traffic_pod(&self, name: &str, node: &str, arguments: &[&str]) -> Result<String> {
        let pod = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": "traffic"}},
            "spec": {
                "nodeName": node,
                "restartPolicy": "Always",
                "terminationGracePeriodSeconds": 2,
                "automountServiceAccountToken": false,
                "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": TRAFFIC_CONTAINER, "image": TRAFFIC_IMAGE, "args": arguments}],
            },
        });
        self.kubectl().apply(&pod.to_string())?;
        self.kubectl().wait_for_value(
            &["pod", name],
            "{.status.phase}",
            "Running",
            Duration::from_secs(30),
        )?;
        self.kubectl().value(&["pod", name], "{.status.podIP}")
    }

    /// XFRM states and policies of ours on a node, as `ip xfrm` prints them: reqids and priorities of our range.
    pub fn our_kernel_state(&self, node: &str) -> Result<(usize, usize)> {
        let node = self.node(node)?;
        let states = node.run(&["ip", "xfrm", "state"])?;
        let policies = node.run(&["ip", "xfrm", "policy"])?;
        Ok((count_ours(&states, "reqid "), count_ours(&policies, "priority ")))
    }

    /// Waits until no XFRM state or policy of ours is left on any node.
    pub fn wait_until_kernels_are_clean(&self, limit: Duration) -> Result<()> {
        eventually("no XFRM state or policy of ours is left", limit, || {
            for node in self.nodes() {
                let left = self.our_kernel_state(node.name())?;
                if left != (0, 0) {
                    return Err(Error::observed(format!(
                        "{}: {} states, {} policies",
                        node.name(),
                        left.0,
                        left.1
                    )));
                }
            }
            Ok(())
        })
    }
}

/// How many numbers after `key` lie in the range 0x1950_0000–0x1950_ffff that the product reserves.
fn count_ours(text: &str, key: &str) -> usize {
    const OURS: u32 = 0x1950;
    text.match_indices(key)
        .filter_map(|(at, _)| {
            let rest = &text[at + key.len()..];
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u32>().ok()
        })
        .filter(|number| number >> 16 == OURS)
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_range_is_ours() {
        let text = "src 172.30.0.11 dst 172.30.0.12\n\tproto esp spi 0x01 reqid 424673281(0x19500001) mode transport\n\
                    src 1.1.1.1 dst 2.2.2.2\n\tproto esp spi 0x02 reqid 1 mode tunnel\n";
        assert_eq!(count_ours(text, "reqid "), 1);
        assert_eq!(count_ours("dir in priority 424673380 ptype main", "priority "), 1);
        assert_eq!(count_ours("socket in priority 0 ptype main", "priority "), 0);
    }
}
