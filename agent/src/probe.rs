//! What this host can do for IPsec, and precisely what it lacks. Nothing is loaded and nothing stays: a trial SA is
//! installed and removed at once.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipsecmesh_dataplane::{SaFeatures, kernel};
use ipsecmesh_xfrm::{
    Aead, Algorithm, Connection, Key, Limits, Mode, Protocol, Reqid, Request, Sa, SaDirection, SaId,
    XfrmError,
};
use zeroize::Zeroizing;

/// Bits of the capability sets in /proc/self/status (capabilities(7)).
const CAP_NET_BIND_SERVICE: u32 = 10;
const CAP_NET_ADMIN: u32 = 12;

/// Addresses for benchmarks (RFC 2544) and documentation (RFC 3849): no real SA is between them.
const TRIAL_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 18, 0, 1), Ipv4Addr::new(198, 19, 0, 1)];
const TRIAL_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2),
];
/// What every suite begins with.
const TRIAL: Algorithm = Algorithm::Aead(Aead::AesGcm256);
const TRIAL_SPI: u32 = 0x1950_0100;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// What it is.
    pub(crate) name: &'static str,
    /// How it is.
    pub(crate) finding: Finding,
}

/// How something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// As needed.
    Good(String),
    /// Not as it should be; the agent works with it.
    Poor {
        /// What is seen.
        detail: String,
        /// What to do.
        fix: String,
    },
    /// The agent cannot work.
    Missing {
        /// A word for conditions.
        reason: &'static str,
        /// What is seen.
        detail: String,
        /// What to do.
        fix: String,
    },
}

/// Everything that was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProbeReport {
    /// In the order in which one needs the other.
    pub(crate) items: Vec<Item>,
    /// Release of the kernel.
    pub(crate) kernel: String,
    /// `net.core.xfrm_larval_drop`: packets that wait for an SA are dropped.
    pub(crate) larval_drop: Option<bool>,
    /// What SAs can carry.
    pub(crate) features: SaFeatures,
}

/// Why the agent cannot work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Obstacle {
    /// A word for conditions.
    pub(crate) reason: &'static str,
    /// What is missing and what to do.
    pub(crate) message: String,
}

impl ProbeReport {
    /// The first thing that the agent cannot work without: what follows from it is no news.
    pub(crate) fn obstacle(&self) -> Option<Obstacle> {
        self.items.iter().find_map(|item| match &item.finding {
            Finding::Missing { reason, detail, fix } => Some(Obstacle {
                reason,
                message: format!("{}: {detail}; {fix}", item.name),
            }),
            Finding::Good(_) | Finding::Poor { .. } => None,
        })
    }

    /// What works less well than it should.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = String> {
        self.items.iter().filter_map(|item| match &item.finding {
            Finding::Poor { detail, fix } => Some(format!("{}: {detail}; {fix}", item.name)),
            Finding::Good(_) | Finding::Missing { .. } => None,
        })
    }
}

impl fmt::Display for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for item in &self.items {
            match &item.finding {
                Finding::Good(detail) => writeln!(f, "ok       {:<24} {detail}", item.name)?,
                Finding::Poor { detail, fix } => writeln!(f, "poor     {:<24} {detail}; {fix}", item.name)?,
                Finding::Missing { detail, fix, .. } => {
                    writeln!(f, "MISSING  {:<24} {detail}; {fix}", item.name)?;
                }
            }
        }
        Ok(())
    }
}

/// Looks at everything. Must be called within a tokio runtime, in the network namespace that it is about.
pub(crate) async fn run() -> ProbeReport {
    let kernel = read("/proc/sys/kernel/osrelease");
    let larval_drop = match read("/proc/sys/net/core/xfrm_larval_drop").as_str() {
        "0" => Some(false),
        "" => None,
        _ => Some(true),
    };
    let mut items = capabilities(&fs::read_to_string("/proc/self/status").unwrap_or_default());
    let (mut transforms, features) = transforms().await;
    items.append(&mut transforms);
    items.push(larval(larval_drop));
    ProbeReport {
        items,
        kernel,
        larval_drop,
        features,
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

fn capabilities(status: &str) -> Vec<Item> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok())
        .unwrap_or_default();
    let one = |name, capability: &str, bit: u32, use_: &str| Item {
        name,
        finding: if effective >> bit & 1 == 1 {
            Finding::Good("present".to_owned())
        } else {
            Finding::Missing {
                reason: "MissingCapability",
                detail: format!("the agent lacks it and cannot {use_}"),
                fix: format!("add {capability} to the container's securityContext.capabilities.add"),
            }
        },
    };
    vec![
        one(
            "CAP_NET_ADMIN",
            "NET_ADMIN",
            CAP_NET_ADMIN,
            "program the kernel's IPsec",
        ),
        one(
            "CAP_NET_BIND_SERVICE",
            "NET_BIND_SERVICE",
            CAP_NET_BIND_SERVICE,
            "listen on UDP 500",
        ),
    ]
}

async fn transforms() -> (Vec<Item>, SaFeatures) {
    let mut connection = match Connection::open() {
        Ok(connection) => connection,
        Err(error) => {
            let finding = Finding::Missing {
                reason: "KernelUnsupported",
                detail: error.to_string(),
                fix: "load the module xfrm_user on the node (modprobe xfrm_user), or take a kernel with CONFIG_XFRM_USER"
                    .to_owned(),
            };
            let item = Item {
                name: "XFRM netlink",
                finding,
            };
            return (vec![item], SaFeatures::default());
        }
    };
    let features = kernel::detect(&mut connection).await;
    let v4 = trial(&mut connection, TRIAL_V4.map(IpAddr::from), features).await;
    let mut items = vec![Item {
        name: "ESP over IPv4",
        finding: judge(v4, "esp4"),
    }];
    // Without IPv6 on the host there is nothing to protect.
    if fs::metadata("/proc/sys/net/ipv6").is_ok() {
        let v6 = trial(&mut connection, TRIAL_V6.map(IpAddr::from), features).await;
        let finding = match judge(v6, "esp6") {
            Finding::Missing { detail, fix, .. } => Finding::Poor { detail, fix },
            other @ (Finding::Good(_) | Finding::Poor { .. }) => other,
        };
        items.push(Item {
            name: "ESP over IPv6",
            finding,
        });
    }
    if items
        .iter()
        .all(|item| !matches!(item.finding, Finding::Missing { .. }))
    {
        items.extend(optional(features));
    }
    (items, features)
}

/// What the agent uses where it is there, and does without where not.
fn optional(features: SaFeatures) -> [Item; 2] {
    let item = |name, has, with: &str, without: &str| Item {
        name,
        finding: Finding::Good(if has { with } else { without }.to_owned()),
    };
    [
        item(
            "direction of SAs",
            features.direction,
            "used: the kernel takes an SA for its own direction only",
            "not in this kernel (Linux 6.10): done without",
        ),
        item(
            "keepalives behind a NAT",
            features.keepalive,
            "sent by the kernel",
            "not in this kernel (Linux 6.11): sent by the agent",
        ),
    ]
}

/// Installs an SA as the agent needs it, and removes it.
async fn trial(
    connection: &mut Connection,
    ends: [IpAddr; 2],
    features: SaFeatures,
) -> Result<(), XfrmError> {
    let [source, destination] = ends;
    let id = SaId {
        protocol: Protocol::Esp,
        spi: TRIAL_SPI,
        source,
        destination,
    };
    let sa = Sa {
        id,
        reqid: Reqid::PROBE,
        mode: Mode::Transport,
        direction: SaDirection::In,
        algorithm: TRIAL,
        // Nothing will ever be encrypted under it.
        key: Key::new(Zeroizing::new(vec![0; TRIAL.key_length()])),
        esn: true,
        replay_window: ipsecmesh_xfrm::sa::MAX_REPLAY_WINDOW,
        encapsulation: None,
        keepalive: None,
        selector: None,
        limits: Limits::default(),
    };
    let installed = connection.execute_one(Request::add_sa(&sa, features)).await;
    // One of an earlier probe that was cut off is as good.
    let installed = match installed {
        Err(error) if !error.exists() => Err(error),
        Ok(_) | Err(_) => Ok(()),
    };
    // INVARIANT: an SA that could not be installed cannot be removed either, and that is no news.
    let _ = connection.execute_one(Request::delete_sa(id)).await;
    installed
}

fn judge(trial: Result<(), XfrmError>, module: &str) -> Finding {
    let Err(error) = trial else {
        return Finding::Good("AES-GCM-16-256, extended sequence numbers, replay window 4096".to_owned());
    };
    let (reason, fix) = if error.permission() {
        (
            "MissingCapability",
            "add NET_ADMIN to the container's securityContext.capabilities.add".to_owned(),
        )
    } else if error.unknown_algorithm() {
        (
            "KernelUnsupported",
            "the kernel has no AES-GCM: load the modules gcm, aes and seqiv on the node".to_owned(),
        )
    } else if error.unknown_transform() {
        (
            "KernelUnsupported",
            format!("the kernel has no ESP: load the module {module} on the node (modprobe {module})"),
        )
    } else {
        (
            "KernelUnsupported",
            format!("see the node's kernel log; the module {module} is needed"),
        )
    };
    Finding::Missing {
        reason,
        detail: error.to_string(),
        fix,
    }
}

fn larval(drop: Option<bool>) -> Item {
    let finding = match drop {
        Some(true) => Finding::Poor {
            detail: "net.core.xfrm_larval_drop is 1: with initiation OnDemand the first packets of a pair are lost"
                .to_owned(),
            fix: "sysctl net.core.xfrm_larval_drop=0 on the node, or initiation Eager".to_owned(),
        },
        Some(false) => Finding::Good("packets wait for their first SA".to_owned()),
        None => Finding::Good("not readable here".to_owned()),
    };
    Item {
        name: "larval packets",
        finding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_capability_is_named_with_its_use() {
        let items = capabilities("Name:\tx\nCapEff:\t0000000000000400\n");
        let report = ProbeReport {
            items,
            ..ProbeReport::default()
        };
        let obstacle = report.obstacle().expect("NET_ADMIN is missing");
        assert_eq!(obstacle.reason, "MissingCapability");
        assert!(obstacle.message.contains("NET_ADMIN") && obstacle.message.contains("securityContext"));
        let both = capabilities("CapEff:\t0000000000001400\n");
        assert!(both.iter().all(|item| matches!(item.finding, Finding::Good(_))));
    }

    #[test]
    fn what_a_kernel_lacks_and_the_agent_replaces_is_no_fault() {
        let said = |features| {
            let items = optional(features).to_vec();
            let report = ProbeReport {
                items,
                ..ProbeReport::default()
            };
            assert_eq!((report.obstacle(), report.warnings().count()), (None, 0));
            report.to_string()
        };
        assert!(said(SaFeatures::default()).contains("sent by the agent"));
        let all = SaFeatures {
            direction: true,
            keepalive: true,
        };
        assert!(said(all).contains("sent by the kernel"));
    }

    #[test]
    fn a_poor_host_still_works() {
        let report = ProbeReport {
            items: vec![larval(Some(true))],
            ..ProbeReport::default()
        };
        assert_eq!(report.obstacle(), None);
        assert_eq!(report.warnings().count(), 1);
    }
}
