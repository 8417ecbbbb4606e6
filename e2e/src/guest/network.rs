//! The node's network: addresses, the pods' bridge, the VXLAN overlay to other nodes (flannel's shape), masquerade.

use std::{fmt::Write as _, fs, io, path::Path};

use tracing::warn;

use super::shell;
use crate::protocol::{NodeConfig, PeerNode};

/// The bridge that this node's pods hang on.
pub(super) const BRIDGE: &str = "cni0";

/// There when the module is loaded; newer kernels are built without it.
const TRANSLATION: &str = "/sys/module/iptable_nat";
/// Kernel parameters of every lab node.
const SYSCTLS: &[(&str, &str)] = &[
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.ipv6.conf.all.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_dad", "0"),
    ("net.core.rmem_max", "4194304"),
    ("net.core.wmem_max", "4194304"),
];

/// Brings up everything that does not depend on other nodes, then the routes to them.
pub(super) async fn set_up(config: &NodeConfig) -> io::Result<()> {
    nix::unistd::sethostname(&config.name)?;
    set_sysctls(config);
    shell::run(&["ip", "-batch", "-"], &links(config)?).await?;
    if Path::new(TRANSLATION).exists() {
        shell::run(&["iptables-legacy-restore", "--noflush"], &masquerade(config)).await?;
    } else {
        // The lab's network has a route back to the pods, so they reach the API server all the same.
        warn!("this kernel has no iptable_nat: pods keep their own addresses towards the node network");
    }
    set_peers(config, &[], &config.nodes).await
}

/// Makes the overlay reach `after` instead of `before`.
pub(super) async fn set_peers(
    config: &NodeConfig,
    before: &[PeerNode],
    after: &[PeerNode],
) -> io::Result<()> {
    let changes = PeerChanges::between(config, before, after);
    if !changes.ip.is_empty() {
        shell::run(&["ip", "-force", "-batch", "-"], &changes.ip).await?;
        shell::run(&["bridge", "-force", "-batch", "-"], &changes.bridge).await?;
    }
    Ok(())
}

/// A parameter that this kernel lacks is told, not fatal.
fn set_sysctls(config: &NodeConfig) {
    let own = SYSCTLS.iter().map(|(key, value)| (*key, *value));
    let asked = config
        .sysctls
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()));
    for (key, value) in own.chain(asked) {
        if let Err(error) = fs::write(Path::new("/proc/sys").join(key.replace('.', "/")), value) {
            warn!(key, value, %error, "kernel parameter was not set");
        }
    }
}

fn links(config: &NodeConfig) -> io::Result<String> {
    let own = config
        .nodes
        .iter()
        .find(|node| node.name == config.name)
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("nodes: {} itself is missing", config.name),
            )
        })?;
    let bridge_address = config
        .pod_cidr
        .hosts()
        .next()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "podCidr: has no addresses"))?;
    let overlay = &config.overlay;
    let prefix = config.pod_cidr.prefix_len();
    // A bridge without an address of its own takes the lowest of its ports: when that pod goes, all others speak to a
    // gateway that is no more until they ask again, for seconds.
    let bridge_mac = format!("02:20:00:00:00:{:02x}", config.index);
    Ok(format!(
        "link set lo up\n\
         address add {uplink_address} dev {uplink}\nlink set {uplink} up\n\
         address add {management_address} dev {management}\nlink set {management} up\n\
         route add default via {gateway} dev {uplink}\n\
         link add {BRIDGE} address {bridge_mac} mtu {mtu} type bridge forward_delay 0 stp_state 0\n\
         address add {bridge_address}/{prefix} dev {BRIDGE}\nlink set {BRIDGE} up\n\
         link add {device} address {mac} mtu {mtu} type vxlan id {vni} dev {uplink} local {local} dstport {port} nolearning\n\
         address add {network}/32 dev {device}\nlink set {device} up\n",
        uplink_address = config.uplink.address,
        uplink = config.uplink.device,
        management_address = config.management.address,
        management = config.management.device,
        gateway = config.gateway,
        mtu = overlay.mtu,
        device = overlay.device,
        mac = own.overlay_mac,
        vni = overlay.vni,
        local = own.address,
        port = overlay.port,
        network = config.pod_cidr.network(),
    ))
}

/// Pods reach what is outside the pod network by the node's address; nobody reaches the exec channel from a pod.
fn masquerade(config: &NodeConfig) -> String {
    format!(
        "*nat\n-A POSTROUTING -s {pods} ! -d {cluster} -o {uplink} -j MASQUERADE\nCOMMIT\n",
        pods = config.pod_cidr,
        cluster = config.cluster_cidr,
        uplink = config.uplink.device,
    )
}

#[derive(Debug, Default, PartialEq)]
struct PeerChanges {
    ip: String,
    bridge: String,
}

impl PeerChanges {
    fn between(config: &NodeConfig, before: &[PeerNode], after: &[PeerNode]) -> Self {
        let mut changes = Self::default();
        let device = &config.overlay.device;
        let others = |node: &&PeerNode| node.name != config.name;
        for gone in before.iter().filter(others).filter(|node| !after.contains(node)) {
            let PeerNode {
                address,
                pod_cidr,
                overlay_mac,
                ..
            } = gone;
            changes.ip(format_args!("route del {pod_cidr} dev {device}"));
            changes.ip(format_args!("neigh del {} dev {device}", pod_cidr.network()));
            changes.bridge(format_args!("fdb del {overlay_mac} dev {device} dst {address}"));
        }
        for new in after.iter().filter(others).filter(|node| !before.contains(node)) {
            let PeerNode {
                address,
                pod_cidr,
                overlay_mac,
                ..
            } = new;
            let gateway = pod_cidr.network();
            changes.ip(format_args!(
                "neigh replace {gateway} lladdr {overlay_mac} dev {device} nud permanent"
            ));
            changes.ip(format_args!(
                "route replace {pod_cidr} via {gateway} dev {device} onlink"
            ));
            changes.bridge(format_args!(
                "fdb replace {overlay_mac} dev {device} dst {address} self permanent"
            ));
        }
        changes
    }

    fn ip(&mut self, line: std::fmt::Arguments<'_>) {
        append(&mut self.ip, line);
    }

    fn bridge(&mut self, line: std::fmt::Arguments<'_>) {
        append(&mut self.bridge, line);
    }
}

fn append(batch: &mut String, line: std::fmt::Arguments<'_>) {
    // INVARIANT: writing to a String cannot fail.
    let _ = writeln!(batch, "{line}");
}
