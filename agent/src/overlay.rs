//! Finds the encapsulations that carry pod traffic: VXLAN and Geneve devices with their ports.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::TryStreamExt as _;
use rtnetlink::packet_route::link::{
    InfoData, InfoGeneve, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage,
};
use tokio::sync::watch;

use crate::task::Task;

/// Devices change when a CNI is installed or upgraded; nobody waits for this.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const UDP: u8 = 17;
/// What Linux takes when nobody says otherwise (RFC 8926 §3.3; VXLAN's is the older one of the kernel).
const GENEVE_PORT: u16 = 6081;
const VXLAN_PORT: u16 = 8472;

/// A device that encapsulates.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DetectedOverlay {
    /// IP protocol of the outer packets.
    pub(crate) protocol: u8,
    /// Their destination port.
    pub(crate) port: Option<u16>,
    /// Name of the device.
    pub(crate) device: String,
    /// Its MTU.
    pub(crate) mtu: Option<u32>,
}

/// Keeps looking. `None` until the first look.
pub(crate) fn follow() -> (watch::Receiver<Option<Vec<DetectedOverlay>>>, Task) {
    let (sender, receiver) = watch::channel(None);
    let task = Task::spawn("overlay detection", async move {
        loop {
            match detect().await {
                Ok(found) => {
                    sender.send_if_modified(|known| {
                        let changed = known.as_ref() != Some(&found);
                        if changed {
                            tracing::info!(overlays = ?found, "encapsulating devices of this node");
                            *known = Some(found);
                        }
                        changed
                    });
                }
                Err(error) => tracing::warn!(%error, "the node's devices cannot be listed"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    (receiver, task)
}

async fn detect() -> Result<Vec<DetectedOverlay>, rtnetlink::Error> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| {
        rtnetlink::Error::NamespaceError(format!("netlink socket for devices: {error}"))
    })?;
    let worker = Task::spawn("netlink", connection);
    let links: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
    drop(worker);
    let found: BTreeSet<DetectedOverlay> = links.iter().filter_map(overlay).collect();
    Ok(found.into_iter().collect())
}

#[expect(clippy::wildcard_enum_match_arm, reason = "of all that the kernel says about a device, little matters")]
fn overlay(link: &LinkMessage) -> Option<DetectedOverlay> {
    let infos = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    })?;
    let kind = infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })?;
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(data) => Some(data),
        _ => None,
    });
    let port = match (kind, data) {
        (InfoKind::Vxlan, Some(InfoData::Vxlan(fields))) => fields.iter().find_map(|field| match field {
            InfoVxlan::Port(port) => Some(*port),
            _ => None,
        }),
        (InfoKind::Geneve, Some(InfoData::Geneve(fields))) => fields.iter().find_map(|field| match field {
            InfoGeneve::Port(port) => Some(*port),
            _ => None,
        }),
        _ => None,
    };
    let default = match kind {
        InfoKind::Vxlan => VXLAN_PORT,
        InfoKind::Geneve => GENEVE_PORT,
        _ => return None,
    };
    let device = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let mtu = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    Some(DetectedOverlay {
        protocol: UDP,
        port: Some(port.unwrap_or(default)),
        device,
        mtu,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, info: Vec<LinkInfo>) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(1450),
            LinkAttribute::LinkInfo(info),
        ];
        link
    }

    #[test]
    fn ports_come_from_the_device_or_are_the_kernels_default() {
        let vxlan = |port| {
            let data = InfoData::Vxlan(vec![InfoVxlan::Id(1), InfoVxlan::Port(port)]);
            link("flannel.1", vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(data)])
        };
        let found = overlay(&vxlan(4789)).expect("an overlay");
        assert_eq!((found.protocol, found.port, found.device.as_str()), (17, Some(4789), "flannel.1"));
        assert_eq!(found.mtu, Some(1450));
        let geneve = link("genev_sys", vec![LinkInfo::Kind(InfoKind::Geneve)]);
        assert_eq!(overlay(&geneve).and_then(|found| found.port), Some(6081));
    }

    #[test]
    fn other_devices_are_none() {
        assert_eq!(overlay(&link("cni0", vec![LinkInfo::Kind(InfoKind::Bridge)])), None);
        assert_eq!(overlay(&LinkMessage::default()), None);
    }
}
