//! Cases about policies, and about traffic that waits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipsecmesh_dataplane::{
    DataPlane, DataPlaneEvent, Demand, Direction, Policy, PolicyAction, PolicyKey, Prefix, Selector, Waiting,
};
use ipsecmesh_ike::SaProtocol;
use tokio::time::timeout;

use super::{REQID, Verdict, World, all_good, here, here6, host, overlay, protect, same, there, there6};

const ICMP: u8 = 1;

pub(super) async fn run<P: DataPlane>(plane: &mut P, world: &impl World) -> Vec<Verdict> {
    vec![
        ("policies stand as they were asked for", stand(plane).await),
        (
            "a policy put again changes nothing but what differs",
            put_again(plane).await,
        ),
        (
            "touching writes the same policy, and only one that is there",
            touch(plane).await,
        ),
        ("removing is idempotent", remove(plane).await),
        (
            "tunnel policies stand in three directions, whatever the families",
            tunnels(plane).await,
        ),
        ("five hundred policies go in and out", many(plane).await),
        (
            "a foreign policy with the same selector is neither replaced nor removed",
            foreign(plane, world).await,
        ),
        (
            "what cannot be meant is refused, and the rest of the batch goes on",
            refused(plane).await,
        ),
        (
            "traffic without an SA is reported, and waits",
            acquire(plane, world).await,
        ),
    ]
}

fn set() -> Vec<Policy> {
    let (here, there) = (here(), there());
    let unreachable = Selector {
        protocol: ICMP,
        source_port: Some(3),
        destination_port: Some(3),
        ..overlay(here, there)
    };
    let api = Selector {
        source_port: Some(6443),
        destination_port: None,
        protocol: 6,
        ..overlay(here, there)
    };
    vec![
        protect(Direction::Outbound, here, there, Demand::Required),
        protect(Direction::Inbound, there, here, Demand::Optional),
        Policy {
            key: PolicyKey {
                direction: Direction::Outbound,
                selector: unreachable,
            },
            action: PolicyAction::Discard,
            rank: 0,
        },
        Policy {
            key: PolicyKey {
                direction: Direction::Outbound,
                selector: api,
            },
            action: PolicyAction::Bypass,
            rank: u16::MAX,
        },
    ]
}

fn keys(policies: &[Policy]) -> Vec<PolicyKey> {
    policies.iter().map(|policy| policy.key).collect()
}

async fn standing<P: DataPlane>(plane: &mut P) -> Result<Vec<Policy>, String> {
    let mut policies = plane
        .snapshot()
        .await
        .map_err(|error| error.to_string())?
        .policies;
    policies.sort();
    Ok(policies)
}

async fn put<P: DataPlane>(plane: &mut P, policies: &[Policy]) -> Result<(), String> {
    all_good("put", plane.put_policies(policies).await, policies.len())
}

async fn clear<P: DataPlane>(plane: &mut P, policies: &[Policy]) -> Result<(), String> {
    all_good(
        "remove",
        plane.remove_policies(&keys(policies)).await,
        policies.len(),
    )?;
    same("policies at the end", &standing(plane).await?, &Vec::new())
}

async fn stand<P: DataPlane>(plane: &mut P) -> Result<(), String> {
    let mut policies = set();
    put(plane, &policies).await?;
    policies.sort();
    same("policies", &standing(plane).await?, &policies)?;
    clear(plane, &policies).await
}

async fn put_again<P: DataPlane>(plane: &mut P) -> Result<(), String> {
    let mut policies = set();
    put(plane, &policies).await?;
    put(plane, &policies).await?;
    policies[1] = protect(Direction::Inbound, there(), here(), Demand::Required);
    policies[2].rank = 77;
    put(plane, &policies).await?;
    policies.sort();
    same("policies", &standing(plane).await?, &policies)?;
    clear(plane, &policies).await
}

async fn touch<P: DataPlane>(plane: &mut P) -> Result<(), String> {
    let policies = vec![protect(Direction::Outbound, here(), there(), Demand::Optional)];
    put(plane, &policies).await?;
    all_good("touch", plane.touch_policies(&keys(&policies)).await, 1)?;
    same("policies", &standing(plane).await?, &policies)?;
    clear(plane, &policies).await?;
    let touched = plane.touch_policies(&keys(&policies)).await;
    same(
        "touching a policy that is gone works",
        &touched.iter().any(Result::is_ok),
        &false,
    )?;
    same("policies", &standing(plane).await?, &Vec::new())
}

async fn remove<P: DataPlane>(plane: &mut P) -> Result<(), String> {
    let policies = set();
    put(plane, &policies).await?;
    clear(plane, &policies).await?;
    clear(plane, &policies).await
}

async fn many<P: DataPlane>(plane: &mut P) -> Result<(), String> {
    let peers = (0..250u8).map(|last| IpAddr::from(Ipv4Addr::new(203, 0, 113, last)));
    let mut policies: Vec<Policy> = peers
        .flat_map(|peer| {
            [
                protect(Direction::Outbound, here(), peer, Demand::Required),
                protect(Direction::Inbound, peer, here(), Demand::Required),
            ]
        })
        .collect();
    put(plane, &policies).await?;
    policies.sort();
    same("policies", &standing(plane).await?, &policies)?;
    clear(plane, &policies).await
}

/// One pair of networks behind two hosts: what leaves, what comes for this host, what comes for others.
fn tunnel(
    ours: Prefix,
    theirs: Prefix,
    (here, there): (IpAddr, IpAddr),
    protocol: SaProtocol,
) -> Vec<Policy> {
    let one = |direction, source, destination, (from, to)| Policy {
        key: PolicyKey {
            direction,
            selector: Selector {
                source,
                destination,
                protocol: 6,
                source_port: None,
                destination_port: Some(443),
            },
        },
        action: PolicyAction::Protect {
            demand: Demand::Required,
            protocol,
            reqid: REQID,
            tunnel: true,
            source: from,
            destination: to,
        },
        rank: 20,
    };
    vec![
        one(Direction::Outbound, ours, theirs, (here, there)),
        one(Direction::Inbound, theirs, ours, (there, here)),
        one(Direction::Forward, theirs, ours, (there, here)),
    ]
}

async fn tunnels<P: DataPlane>(plane: &mut P) -> Result<(), String> {
    let net4 = |last: u8| Prefix {
        address: Ipv4Addr::new(10, last, 0, 0).into(),
        length: 16,
    };
    let net6 = |last: u16| Prefix {
        address: Ipv6Addr::new(0xfd00, last, 0, 0, 0, 0, 0, 0).into(),
        length: 32,
    };
    let (outer4, outer6) = ((here(), there()), (here6(), there6()));
    let mut policies = [
        tunnel(net4(1), net4(2), outer4, SaProtocol::Esp),
        tunnel(net4(3), net4(4), outer6, SaProtocol::Esp),
        tunnel(net6(1), net6(2), outer4, SaProtocol::Ah),
        tunnel(net6(3), net6(4), outer6, SaProtocol::Esp),
    ]
    .concat();
    put(plane, &policies).await?;
    all_good(
        "touch",
        plane.touch_policies(&keys(&policies)).await,
        policies.len(),
    )?;
    policies.sort();
    same("policies", &standing(plane).await?, &policies)?;
    clear(plane, &policies).await?;
    let mut transport = protect(Direction::Forward, there(), here(), Demand::Required);
    transport.rank = 0;
    let refused = plane.put_policies(&[transport]).await;
    let text = refused
        .into_iter()
        .filter_map(Result::err)
        .map(|error| error.reason);
    same(
        "the refusal names the mode",
        &text.collect::<String>().contains("tunnel mode only"),
        &true,
    )
}

async fn foreign<P: DataPlane>(plane: &mut P, world: &impl World) -> Result<(), String> {
    let policies = set();
    world.add_foreign_policy(policies[0].key)?;
    let results = plane.put_policies(&policies).await;
    let good: Vec<bool> = results.iter().map(Result::is_ok).collect();
    same(
        "which policies were installed",
        &good,
        &vec![false, true, true, true],
    )?;
    let text = results
        .into_iter()
        .filter_map(Result::err)
        .map(|error| error.to_string())
        .collect::<String>();
    same(
        "the error names the other owner",
        &text.contains("not ours"),
        &true,
    )?;
    clear(plane, &policies).await?;
    let snapshot = plane.snapshot().await.map_err(|error| error.to_string())?;
    same("foreign policies", &snapshot.foreign.0, &1)?;
    world.remove_foreign_policy(policies[0].key)?;
    let snapshot = plane.snapshot().await.map_err(|error| error.to_string())?;
    same("foreign policies at the end", &snapshot.foreign.0, &0)
}

async fn refused<P: DataPlane>(plane: &mut P) -> Result<(), String> {
    let mut policies = set();
    if let PolicyAction::Protect { reqid, .. } = &mut policies[0].action {
        *reqid = 7;
    }
    policies[2].key.selector.source.length = 33;
    let results = plane.put_policies(&policies).await;
    let texts: Vec<String> = results
        .into_iter()
        .map(|result| result.map_or_else(|error| error.reason, |()| String::new()))
        .collect();
    same(
        "the reqid is named",
        &texts[0].contains("reqid 0x00000007"),
        &true,
    )?;
    same(
        "the prefix length is named",
        &texts[2].contains("prefix length 33"),
        &true,
    )?;
    same("the others", &(texts[1].as_str(), texts[3].as_str()), &("", ""))?;
    policies[2].key.selector.source = host(here());
    clear(plane, &policies).await
}

async fn acquire<P: DataPlane>(plane: &mut P, world: &impl World) -> Result<(), String> {
    let policies = vec![protect(Direction::Outbound, here(), there(), Demand::Required)];
    put(plane, &policies).await?;
    world.send(here(), there())?;
    let expected = DataPlaneEvent::Acquire {
        reqid: REQID,
        source: here(),
        destination: there(),
    };
    let event = timeout(Duration::from_secs(5), plane.next_event())
        .await
        .map_err(|_| "no event came".to_owned())?;
    same("event", &event, &expected)?;
    let snapshot = plane.snapshot().await.map_err(|error| error.to_string())?;
    let waiting = Waiting {
        reqid: REQID,
        source: here(),
        destination: there(),
    };
    same("waiting", &snapshot.waiting, &vec![waiting])?;
    clear(plane, &policies).await
}
