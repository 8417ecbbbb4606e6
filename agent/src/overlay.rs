//! Finds the encapsulations that carry pod traffic: VXLAN and Geneve devices with their ports.

use std::collections::{BTreeMap, BTreeSet};
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
    /// The largest MTU whose packets fit through the device below as ESP; `None` where that device is not known.
    pub(crate) fits: Option<u32>,
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
    let (connection, handle, _) = rtnetlink::new_connection()
        .map_err(|error| rtnetlink::Error::NamespaceError(format!("netlink socket for devices: {error}")))?;
    let worker = Task::spawn("netlink", connection);
    let links: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
    drop(worker);
    let mtus: BTreeMap<u32, u32> = links
        .iter()
        .filter_map(|link| Some((link.header.index, mtu(link)?)))
        .collect();
    let found: BTreeSet<DetectedOverlay> = links.iter().filter_map(|link| overlay(link, &mtus)).collect();
    Ok(found.into_iter().collect())
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "of all that the kernel says about a device, little matters"
)]
fn overlay(link: &LinkMessage, mtus: &BTreeMap<u32, u32>) -> Option<DetectedOverlay> {
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
    let below = match data {
        Some(InfoData::Vxlan(fields)) => fields.iter().find_map(|field| match field {
            InfoVxlan::Link(index) => mtus.get(index).copied(),
            _ => None,
        }),
        _ => None,
    };
    let over_ipv6 = matches!(data, Some(InfoData::Vxlan(fields))
        if fields.iter().any(|field| matches!(field, InfoVxlan::Local6(_) | InfoVxlan::Group6(_))));
    Some(DetectedOverlay {
        protocol: UDP,
        port: Some(port.unwrap_or(default)),
        device,
        mtu: mtu(link),
        fits: below.map(|below| fitting(below, over_ipv6)),
    })
}

fn mtu(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| {
        if let LinkAttribute::Mtu(mtu) = attribute {
            Some(*mtu)
        } else {
            None
        }
    })
}

/// The largest inner packet that leaves whole through a device of this MTU: outer IP header, SPI and sequence number,
/// IV, and ICV of AES-GCM-16 (RFC 4106 §3, §6) around Ethernet, VXLAN and UDP headers, the packet, and the ESP trailer,
/// which is padded to four octets (RFC 4303 §2.4).
fn fitting(mtu: u32, over_ipv6: bool) -> u32 {
    let outer = if over_ipv6 { 40 } else { 20 };
    let room = mtu.saturating_sub(outer + ESP_AROUND) / 4 * 4;
    room.saturating_sub(VXLAN_INSIDE + ESP_TRAILER)
}

/// SPI and sequence number, IV, ICV.
const ESP_AROUND: u32 = 8 + 8 + 16;
/// Pad length and next header.
const ESP_TRAILER: u32 = 2;
/// UDP, VXLAN, Ethernet.
const VXLAN_INSIDE: u32 = 8 + 8 + 14;

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
            let data = InfoData::Vxlan(vec![InfoVxlan::Id(1), InfoVxlan::Link(2), InfoVxlan::Port(port)]);
            link(
                "flannel.1",
                vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(data)],
            )
        };
        let found = overlay(&vxlan(4789), &BTreeMap::from([(2, 1500)])).expect("an overlay");
        assert_eq!(
            (found.protocol, found.port, found.device.as_str()),
            (17, Some(4789), "flannel.1")
        );
        assert_eq!((found.mtu, found.fits), (Some(1450), Some(1416)));
        let geneve = link("genev_sys", vec![LinkInfo::Kind(InfoKind::Geneve)]);
        assert_eq!(
            overlay(&geneve, &BTreeMap::new()).and_then(|found| found.port),
            Some(6081)
        );
    }

    #[test]
    fn what_fits_is_computed_to_the_octet() {
        // 1416 + 30 + 2 is a multiple of four: 20 + 8 + 8 + 1448 + 16 = 1500.
        assert_eq!(fitting(1500, false), 1416);
        assert_eq!(fitting(1500, true), 1396);
        assert_eq!(fitting(1501, false), 1416, "the trailer is padded");
        assert_eq!(fitting(9000, false), 8916);
        assert_eq!(fitting(0, false), 0);
    }

    #[test]
    fn other_devices_are_none() {
        assert_eq!(
            overlay(
                &link("cni0", vec![LinkInfo::Kind(InfoKind::Bridge)]),
                &BTreeMap::new()
            ),
            None
        );
        assert_eq!(overlay(&LinkMessage::default(), &BTreeMap::new()), None);
    }
}
