//! The Node object and its heartbeat, written with the node's own identity.

use std::{collections::BTreeMap, fs, time::Duration};

use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{
            Node as NodeObject, NodeAddress, NodeCondition, NodeSpec, NodeStatus, NodeSystemInfo, Taint,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time},
    },
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::protocol::NodeConfig;

/// How often the Lease is renewed.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How often the unchanged status is written again.
const STATUS: Duration = Duration::from_mins(1);
/// How long one request may hang before it is given up.
const PATIENCE: Duration = Duration::from_secs(5);
/// Namespace of all nodes' Leases.
const LEASES: &str = "kube-node-lease";

/// Keeps the Node registered and its Lease fresh for as long as the kubelet runs.
pub(super) async fn keep(client: Client, config: NodeConfig) {
    let nodes: Api<NodeObject> = Api::all(client.clone());
    let leases: Api<Lease> = Api::namespaced(client, LEASES);
    let mut owner = None;
    let mut due = Instant::now();
    let mut complained = false;
    loop {
        let beat = async {
            if Instant::now() >= due {
                owner = Some(register(&nodes, &config).await?);
            }
            renew(&leases, &config.name, owner.as_ref()).await
        };
        let outcome = timeout(PATIENCE, beat).await;
        let pause = match outcome {
            Ok(Ok(())) => {
                if Instant::now() >= due {
                    info!("node is registered");
                    due = Instant::now() + STATUS;
                }
                complained = false;
                HEARTBEAT
            }
            Ok(Err(error)) => complain(&mut complained, &error.to_string()),
            Err(_) => complain(&mut complained, "the API server does not answer"),
        };
        sleep(pause).await;
    }
}

/// Says it once per outage; answers when to try again.
fn complain(complained: &mut bool, error: &str) -> Duration {
    if !std::mem::replace(complained, true) {
        warn!(error, "node heartbeat failed");
    }
    Duration::from_millis(500)
}

/// Creates the Node or takes up the one that an earlier boot left; answers the reference for its Lease.
async fn register(nodes: &Api<NodeObject>, config: &NodeConfig) -> kube::Result<OwnerReference> {
    let present = match nodes.get_opt(&config.name).await? {
        Some(node) => node,
        None => nodes.create(&PostParams::default(), &object(config)).await?,
    };
    let patch = NodeObject {
        status: Some(status(config, &present)),
        ..NodeObject::default()
    };
    nodes
        .patch_status(&config.name, &PatchParams::default(), &Patch::Strategic(&patch))
        .await?;
    Ok(OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: config.name.clone(),
        uid: present.metadata.uid.unwrap_or_default(),
        ..OwnerReference::default()
    })
}

async fn renew(leases: &Api<Lease>, name: &str, owner: Option<&OwnerReference>) -> kube::Result<()> {
    let spec = LeaseSpec {
        holder_identity: Some(name.to_owned()),
        lease_duration_seconds: Some(40),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..LeaseSpec::default()
    };
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(LEASES.to_owned()),
        owner_references: owner.map(|owner| vec![owner.clone()]),
        ..ObjectMeta::default()
    };
    let lease = Lease {
        metadata,
        spec: Some(spec),
    };
    match leases
        .patch(name, &PatchParams::default(), &Patch::Merge(&lease))
        .await
    {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            leases.create(&PostParams::default(), &lease).await.map(drop)
        }
        other => other.map(drop),
    }
}

fn object(config: &NodeConfig) -> NodeObject {
    let labels = [
        ("kubernetes.io/hostname", config.name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", "amd64"),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", "amd64"),
    ];
    let labels: BTreeMap<_, _> = labels
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .chain(config.labels.clone())
        .collect();
    let taints = config.taints.iter().map(|taint| Taint {
        key: taint.key.clone(),
        value: taint.value.clone(),
        effect: taint.effect.clone(),
        time_added: None,
    });
    NodeObject {
        metadata: ObjectMeta {
            name: Some(config.name.clone()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            pod_cidr: Some(config.pod_cidr.to_string()),
            pod_cidrs: Some(vec![config.pod_cidr.to_string()]),
            taints: Some(taints.collect()),
            ..NodeSpec::default()
        }),
        status: None,
    }
}

fn status(config: &NodeConfig, present: &NodeObject) -> NodeStatus {
    let address = |kind: &str, address: String| NodeAddress {
        type_: kind.into(),
        address,
    };
    let resources: BTreeMap<_, _> = [
        ("cpu", "1"),
        ("memory", "1Gi"),
        ("pods", "110"),
        ("ephemeral-storage", "1Gi"),
    ]
    .into_iter()
    .map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())))
    .collect();
    NodeStatus {
        addresses: Some(vec![
            address("InternalIP", config.uplink.address.addr().to_string()),
            address("Hostname", config.name.clone()),
        ]),
        capacity: Some(resources.clone()),
        allocatable: Some(resources),
        conditions: Some(
            [
                ("MemoryPressure", "False", "KubeletHasSufficientMemory"),
                ("DiskPressure", "False", "KubeletHasNoDiskPressure"),
                ("PIDPressure", "False", "KubeletHasSufficientPID"),
                ("Ready", "True", "KubeletReady"),
            ]
            .map(|(kind, status, reason)| condition(present, kind, status, reason))
            .to_vec(),
        ),
        node_info: Some(system_info()),
        ..NodeStatus::default()
    }
}

fn condition(present: &NodeObject, kind: &str, status: &str, reason: &str) -> NodeCondition {
    let now = Time(Timestamp::now());
    let before = present
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let same = before.and_then(|list| list.iter().find(|old| old.type_ == kind && old.status == status));
    NodeCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some("reported by the lab's kubelet".into()),
        last_heartbeat_time: Some(now.clone()),
        last_transition_time: same
            .and_then(|old| old.last_transition_time.clone())
            .or(Some(now)),
    }
}

fn system_info() -> NodeSystemInfo {
    let read = |path: &str| {
        fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .unwrap_or_default()
    };
    let boot_id = read("/proc/sys/kernel/random/boot_id");
    NodeSystemInfo {
        architecture: "amd64".into(),
        operating_system: "linux".into(),
        kernel_version: read("/proc/sys/kernel/osrelease"),
        os_image: "lab node".into(),
        kubelet_version: format!("v1.33.0-lab.{}", env!("CARGO_PKG_VERSION")),
        kube_proxy_version: String::new(),
        container_runtime_version: format!("ipsecmesh-lab://{}", env!("CARGO_PKG_VERSION")),
        machine_id: boot_id.replace('-', ""),
        system_uuid: boot_id.clone(),
        boot_id,
        ..NodeSystemInfo::default()
    }
}
