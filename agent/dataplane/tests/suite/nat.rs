//! ESP in UDP through a NAT: what the inner checksums say no longer fits, and the mapping changes on the way.
//!
//! The NAT rewrites addresses and ports by the traffic control of the kernel in the middle, which every kernel of the lab
//! has; connection tracking is not in all of them.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use ipsecmesh_dataplane::{
    DataPlane, DataPlaneEvent, Demand, Direction, KernelDataPlane, Policy, PolicyAction, PolicyKey,
    SaFeatures, Selector,
};
use ipsecmesh_ike::{EffectAction, EffectOutcome, Mode, SaName, SaProtocol, SaSpec, TrafficSelector};
use tokio::time::timeout;

use super::net::{Net, PATIENCE, deliver, far, near};
use super::suite::{REQID, Verdict, all_good, half, here, host, name, same, there};

const UDP: u8 = 17;
const SERVICE: u16 = 7007;
const SPI: u32 = 0xfade_0000;

/// `c` behind the NAT of `b`, and `a` on the other side of it.
struct Scene {
    net: Net,
    a: KernelDataPlane,
    c: KernelDataPlane,
    mode: Mode,
    _encapsulated: UdpSocket,
}

/// Runs all cases in namespaces of their own.
pub(crate) async fn run(features: SaFeatures) -> Vec<Verdict> {
    vec![
        (
            "traffic: through a NAT, transport mode, and its mapping changes",
            scene(features, Mode::Transport).await,
        ),
        (
            "traffic: through a NAT, tunnel mode, and its mapping changes",
            scene(features, Mode::Tunnel).await,
        ),
    ]
}

async fn scene(features: SaFeatures, mode: Mode) -> Result<(), String> {
    let net = Net::build()?;
    net.b.tc("qdisc add dev wire1 clsact")?;
    let (a, c) = (net.a.plane(features).await?, net.c.plane(features).await?);
    let encapsulated = net.c.encapsulated(far(true))?;
    let scene = Scene {
        net,
        a,
        c,
        mode,
        _encapsulated: encapsulated,
    };
    scene.play().await
}

impl Scene {
    async fn play(mut self) -> Result<(), String> {
        self.map(40_000)?;
        all_good("policies", self.a.put_policies(&self.policies(false)).await, 2)?;
        all_good("policies", self.c.put_policies(&self.policies(true)).await, 2)?;
        let seen = self.install().await?;
        let (inside, outside) = self.inner();
        let client = self.net.c.socket(inside.0, 0)?;
        let server = self.net.a.socket(inside.1, SERVICE)?;
        let address = SocketAddr::new(inside.1, SERVICE);
        let caller = deliver(&client, &server, address, "through")?;
        same("the caller as the server sees it", &caller.ip(), &outside)?;
        deliver(&server, &client, caller, "and back")?;
        let silent = timeout(PATIENCE / 20, self.a.next_event()).await.is_err();
        same("no event while the mapping stands", &silent, &true)?;

        self.map(50_000)?;
        deliver(&client, &server, address, "through once more")?;
        let event = timeout(PATIENCE, self.a.next_event()).await;
        let remote = SocketAddr::new(there(), 50_000);
        let expected = DataPlaneEvent::Mapping {
            spi: seen[0].spi,
            remote,
        };
        same("event", &event.map_err(|_| "none came"), &Ok(expected))?;
        let moves = vec![
            EffectAction::Encapsulate(seen[0], (50_000, 4500)),
            EffectAction::Encapsulate(seen[1], (4500, 50_000)),
        ];
        let outcomes = self.a.apply_effects(moves).await;
        same("moves", &outcomes, &vec![EffectOutcome::Done; 2])?;
        deliver(&server, &client, caller, "back the new way")?;
        deliver(&client, &server, address, "a third time")?;
        let silent = timeout(PATIENCE / 20, self.a.next_event()).await.is_err();
        same("no event after the move", &silent, &true)
    }

    /// Gives ESP in UDP of `c` the address of `b` and a source port, instead of an earlier one.
    fn map(&self, port: u16) -> Result<(), String> {
        let (inside, outside) = (far(true), there());
        let rewrite = |end: &str, address: IpAddr, port: u16| {
            format!(
                "action pedit ex munge ip {end} set {address} munge udp {} set {port} pipe csum ip and udp",
                if end == "src" { "sport" } else { "dport" }
            )
        };
        for hook in ["egress", "ingress"] {
            self.net.b.tc(&format!("filter delete dev wire1 {hook}"))?;
        }
        let filter = "protocol ip pref 1 flower ip_proto udp";
        self.net.b.tc(&format!(
            "filter add dev wire1 egress {filter} src_ip {inside} src_port 4500 {}",
            rewrite("src", outside, port)
        ))?;
        self.net.b.tc(&format!(
            "filter add dev wire1 ingress {filter} dst_ip {outside} dst_port {port} {}",
            rewrite("dst", inside, 4500)
        ))
    }

    /// The addresses of `c` and `a` inside, and that of `c` as `a` sees it.
    fn inner(&self) -> ((IpAddr, IpAddr), IpAddr) {
        match self.mode {
            Mode::Transport => ((far(true), here()), there()),
            Mode::Tunnel => ((far(true), near(true)), far(true)),
        }
    }

    fn policies(&self, at_c: bool) -> Vec<Policy> {
        let ((inside_c, inside_a), outside_c) = self.inner();
        let (own, other, tunnel) = if at_c {
            (inside_c, inside_a, (far(true), here()))
        } else {
            (inside_a, outside_c, (here(), there()))
        };
        let one = |direction, source, destination, (from, to)| Policy {
            key: PolicyKey {
                direction,
                selector: Selector {
                    source: host(source),
                    destination: host(destination),
                    protocol: UDP,
                    source_port: None,
                    destination_port: None,
                },
            },
            action: PolicyAction::Protect {
                demand: Demand::Required,
                protocol: SaProtocol::Esp,
                reqid: REQID,
                tunnel: self.mode == Mode::Tunnel,
                source: from,
                destination: to,
            },
            rank: 7,
        };
        vec![
            one(Direction::Outbound, own, other, tunnel),
            one(Direction::Inbound, other, own, (tunnel.1, tunnel.0)),
        ]
    }

    /// A pair of SAs; as `a` has them.
    async fn install(&mut self) -> Result<[SaName; 2], String> {
        let at_c = [name(SPI, far(true), here()), name(SPI + 1, here(), far(true))];
        let at_a = [name(SPI, there(), here()), name(SPI + 1, here(), there())];
        let mut leaving = self.half(at_c[0], (4500, 4500));
        leaving.keepalive = true;
        let in_a = EffectAction::InstallInbound(Box::new(self.half(at_a[0], (40_000, 4500))));
        let in_c = EffectAction::InstallInbound(Box::new(self.half(at_c[1], (4500, 4500))));
        let out_a = EffectAction::InstallOutbound(Box::new(self.half(at_a[1], (4500, 40_000))));
        let out_c = EffectAction::InstallOutbound(Box::new(leaving));
        let outcomes = self.a.apply_effects(vec![in_a, out_a]).await;
        same("at a", &outcomes, &vec![EffectOutcome::Done; 2])?;
        let outcomes = self.c.apply_effects(vec![in_c, out_c]).await;
        same("at c", &outcomes, &vec![EffectOutcome::Done; 2])?;
        Ok(at_a)
    }

    fn half(&self, name: SaName, ports: (u16, u16)) -> SaSpec {
        let mut spec = half(name);
        spec.mode = self.mode;
        spec.encapsulation = Some(ports);
        if self.mode == Mode::Tunnel {
            let ((c, a), _) = self.inner();
            let towards_a = name.destination == here();
            let (source, destination) = if towards_a { (c, a) } else { (a, c) };
            let one = |address| TrafficSelector {
                first_address: address,
                last_address: address,
                ..spec.source_selectors[0]
            };
            let (source, destination) = (one(source), one(destination));
            spec.source_selectors = vec![source];
            spec.destination_selectors = vec![destination];
        }
        spec
    }
}
