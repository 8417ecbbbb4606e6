//! What host and node say to each other: the configuration a node boots with and the frames of its exec channel.
//!
//! The channel is a TCP connection to the node's management address. One connection carries one request:
//! the client sends a [`Request`], the node answers with frames until [`Reply::Exit`], [`Reply::Done`],
//! [`Reply::Pods`] or [`Reply::Error`]. A client that closes the connection ends the command it started.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::Ipv4Addr,
    path::PathBuf,
};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Kernel command-line parameter that names the node's configuration file.
pub const CONFIG_PARAMETER: &str = "ipsecmesh.config=";
/// Kernel command-line parameter that names the host's root as the kernel's process sees it.
pub const ROOT_PARAMETER: &str = "rootflags=";
/// Port of the exec channel on the management address.
pub const EXEC_PORT: u16 = 7022;
/// Port of the API server on the lab's bridge.
pub const API_SERVER_PORT: u16 = 6443;
/// Where the node sees the host's root while its own folders are tmpfs (read-only).
pub const HOST_ROOT: &str = "/run/lab/host";
/// Modules that a node loads: ESP and what its algorithms need, overlays, pod network, masquerade, impairment.
pub const DEFAULT_MODULES: &[&str] = &[
    "ipv6",
    "xfrm_user",
    "esp4",
    "esp6",
    "esp4_offload",
    "esp6_offload",
    "ah4",
    "ah6",
    "gcm",
    "ctr",
    "seqiv",
    "echainiv",
    "ghash-generic",
    "hmac",
    "sha512",
    "sha512_generic",
    "jitterentropy_rng",
    "drbg",
    "chacha20poly1305",
    "chacha",
    "chacha_generic",
    "poly1305_generic",
    "authenc",
    "authencesn",
    "cbc",
    "veth",
    "bridge",
    "vxlan",
    "geneve",
    "tun",
    "iptable_nat",
    "xt_MASQUERADE",
    "xt_tcpudp",
    "sch_netem",
    "sch_ingress",
    "cls_flower",
    "act_pedit",
    "act_csum",
    "af_packet",
    "udp_diag",
    "inet_diag",
    "tcp_diag",
];
/// Longest frame that either side accepts.
const MAX_FRAME: usize = 16 << 20;

/// Everything a node knows before it reaches the API server.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeConfig {
    /// Node name, also the host name.
    pub name: String,
    /// Number of the node, from 1.
    pub index: u8,
    /// The node network's device (`vec0`): the Node's InternalIP and what ESP runs over.
    pub uplink: Nic,
    /// Default route of the node network.
    pub gateway: Ipv4Addr,
    /// The device of the exec channel (`vec1`), not an address of the Node.
    pub management: Nic,
    /// The Kubernetes API and the node's credentials for it.
    pub api_server: ApiServer,
    /// The pod network of the whole cluster: what is not masqueraded.
    pub cluster_cidr: Ipv4Net,
    /// The node's own share of it.
    pub pod_cidr: Ipv4Net,
    /// The overlay device between nodes.
    #[serde(default)]
    pub overlay: Overlay,
    /// All nodes, this one included; replaced at run time by [`Request::Nodes`].
    pub nodes: Vec<PeerNode>,
    /// Image reference → what runs for it.
    pub images: BTreeMap<String, Image>,
    /// Host folder that survives the node, as its disk does; seen as `/var/lib/ipsecmesh`.
    pub state_directory: PathBuf,
    /// Host folder for `node.log` and one `NAMESPACE_POD_CONTAINER.log` per container.
    pub log_directory: PathBuf,
    /// Kernel modules to load, with what they depend on.
    #[serde(default = "default_modules")]
    pub modules: Vec<String>,
    /// Modules that must stay out, even as a dependency.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules_without: Vec<String>,
    /// Kernel parameters to set beyond the lab's own, `net.core.xfrm_larval_drop` for example.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// Labels that the Node registers with.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Taints that the Node registers with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
    /// Whether the node runs a kubelet; without one it is a plain machine on the node network.
    #[serde(default = "enabled")]
    pub kubelet: bool,
}

impl NodeConfig {
    /// The file of a module tree, a state folder or a binary of the host, as the node sees it.
    pub fn host_path(path: &std::path::Path) -> PathBuf {
        PathBuf::from(HOST_ROOT).join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// A network device and its address.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Nic {
    /// Kernel name, `vec0`.
    pub device: String,
    /// Address with the prefix length of its network.
    pub address: Ipv4Net,
}

/// How the kubelet reaches the Kubernetes API.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApiServer {
    /// `https://172.30.0.1:6443`.
    pub url: String,
    /// PEM bundle of the API server's issuer.
    pub ca_file: PathBuf,
    /// PEM certificate of `system:node:NAME`, group `system:nodes`.
    pub client_certificate_file: PathBuf,
    /// PEM key of that certificate.
    pub client_key_file: PathBuf,
}

/// The device that carries pod traffic between nodes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Overlay {
    /// Device name.
    pub device: String,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP destination port.
    pub port: u16,
    /// MTU of the device and of pods; leaves room for VXLAN and ESP by default.
    pub mtu: u32,
}

impl Default for Overlay {
    fn default() -> Self {
        Self {
            device: "flannel.1".into(),
            vni: 1,
            port: 8472,
            mtu: 1416,
        }
    }
}

/// What a node must know of each node to reach its pods.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerNode {
    /// Node name.
    pub name: String,
    /// Number of the node, from 1.
    pub index: u8,
    /// Address on the node network.
    pub address: Ipv4Addr,
    /// Its pods' network.
    pub pod_cidr: Ipv4Net,
    /// MAC address of its overlay device.
    pub overlay_mac: String,
}

impl PeerNode {
    /// The lab's numbering plan: node network 172.30.0.0/24, pods 10.244.INDEX.0/24.
    pub fn numbered(name: impl Into<String>, index: u8) -> Self {
        Self {
            name: name.into(),
            index,
            address: Ipv4Addr::new(172, 30, 0, 10 + index),
            pod_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 244, index, 0), 24),
            overlay_mac: format!("02:0a:f4:00:{index:02x}:01"),
        }
    }
}

/// What the kubelet runs for an image reference.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Image {
    /// Entrypoint on the host; the container sees it as `/NAME`.
    pub binary: PathBuf,
    /// Default arguments, replaced by the container's `args`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<String>,
    /// User of the image, for `runAsNonRoot` without `runAsUser`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<u32>,
}

/// A taint to register with.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Taint {
    /// Taint key.
    pub key: String,
    /// Taint value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// What the host asks a node for.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// Runs a command; streams its output; ends with [`Reply::Exit`].
    Exec(Exec),
    /// Replaces the list of nodes: routes, neighbours and FDB follow. Ends with [`Reply::Done`].
    Nodes(Vec<PeerNode>),
    /// Lists the pods that run here. Ends with [`Reply::Pods`].
    Pods,
    /// Answers [`Reply::Done`] once the node's network stands.
    Ready,
    /// Powers the node off in order: containers get SIGTERM first.
    Shutdown,
}

/// A command to run on the node or inside one of its pods.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Exec {
    /// Program and arguments; the program is looked up in PATH.
    pub argv: Vec<String>,
    /// Environment beyond the node's own.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Standard input, closed after it.
    #[serde(default)]
    pub stdin: Option<String>,
    /// What the client sends after the request is standard input, until it closes its side; `stdin` says nothing then.
    #[serde(default)]
    pub attached: bool,
    /// Where to run it.
    #[serde(default)]
    pub place: Place,
}

/// Which namespaces a command runs in.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// The node itself.
    #[default]
    Node,
    /// The node's files, the pod's network.
    PodNetwork {
        /// Namespace of the pod.
        namespace: String,
        /// Name of the pod.
        pod: String,
    },
    /// All namespaces of a container, as `kubectl exec` would.
    Container {
        /// Namespace of the pod.
        namespace: String,
        /// Name of the pod.
        pod: String,
        /// Name of the container.
        container: String,
    },
}

/// What a node answers, beside raw output.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    /// The command ended; 128 + signal if a signal ended it.
    Exit(i32),
    /// The request is carried out.
    Done,
    /// The pods of this node.
    Pods(Vec<PodInfo>),
    /// The request failed.
    Error(String),
}

/// A pod as the node runs it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodInfo {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// UID of the pod.
    pub uid: String,
    /// Its address; the node's own with `hostNetwork`.
    pub address: Option<Ipv4Addr>,
    /// Running containers and the process each one's entrypoint has on the node.
    pub processes: BTreeMap<String, i32>,
}

/// One frame of the exec channel.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame<T> {
    /// A [`Request`] or a [`Reply`].
    Message(T),
    /// Bytes of the command's standard output.
    Stdout(Vec<u8>),
    /// Bytes of the command's standard error.
    Stderr(Vec<u8>),
}

impl<T: Serialize + DeserializeOwned> Frame<T> {
    /// Kind and length first, then the bytes.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        let json;
        let (kind, body) = match self {
            Self::Message(message) => {
                json = serde_json::to_vec(message)?;
                (KIND_MESSAGE, json.as_slice())
            }
            Self::Stdout(bytes) => (KIND_STDOUT, bytes.as_slice()),
            Self::Stderr(bytes) => (KIND_STDERR, bytes.as_slice()),
        };
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        let mut frame = Vec::with_capacity(HEADER + body.len());
        frame.push(kind);
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(body);
        Ok(frame)
    }

    /// Kind and body length of a header.
    pub fn header(bytes: [u8; HEADER]) -> io::Result<(u8, usize)> {
        let [kind, length @ ..] = bytes;
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?;
        if length > MAX_FRAME {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("frame of {length} bytes, at most {MAX_FRAME}"),
            ));
        }
        Ok((kind, length))
    }

    /// A frame from its kind and body.
    pub fn decode(kind: u8, body: Vec<u8>) -> io::Result<Self> {
        match kind {
            KIND_MESSAGE => Ok(Self::Message(serde_json::from_slice(&body)?)),
            KIND_STDOUT => Ok(Self::Stdout(body)),
            KIND_STDERR => Ok(Self::Stderr(body)),
            other => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("unknown frame kind {other}"),
            )),
        }
    }

    /// Reads one frame.
    pub fn read_from(reader: &mut impl Read) -> io::Result<Self> {
        let mut header = [0; HEADER];
        reader.read_exact(&mut header)?;
        let (kind, length) = Self::header(header)?;
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        Self::decode(kind, body)
    }

    /// Writes one frame.
    pub fn write_to(&self, writer: &mut impl Write) -> io::Result<()> {
        writer.write_all(&self.encode()?)
    }
}

/// Bytes before each frame's body: kind, length.
pub const HEADER: usize = 5;
const KIND_MESSAGE: u8 = 0;
const KIND_STDOUT: u8 = 1;
const KIND_STDERR: u8 = 2;

fn default_modules() -> Vec<String> {
    DEFAULT_MODULES.iter().map(ToString::to_string).collect()
}

fn enabled() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_wire() -> io::Result<()> {
        let request = Request::Exec(Exec {
            argv: vec!["ip".into(), "link".into()],
            ..Exec::default()
        });
        let mut wire = Vec::new();
        Frame::Message(request.clone()).write_to(&mut wire)?;
        Frame::<Request>::Stdout(vec![0, 159, 146, 150]).write_to(&mut wire)?;
        let mut reader = wire.as_slice();
        assert_eq!(Frame::read_from(&mut reader)?, Frame::Message(request));
        assert_eq!(
            Frame::<Request>::read_from(&mut reader)?,
            Frame::Stdout(vec![0, 159, 146, 150])
        );
        assert!(reader.is_empty());
        Ok(())
    }

    #[test]
    fn an_endless_frame_is_refused() {
        let error = Frame::<Reply>::header([KIND_STDOUT, 0xff, 0xff, 0xff, 0xff]).expect_err("4 GiB");
        assert!(error.to_string().contains("at most"), "{error}");
    }
}
