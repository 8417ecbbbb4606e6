//! Cases about SAs: they need ESP.

use std::net::IpAddr;

use ipsecmesh_dataplane::{DataPlane, SaStatus};
use ipsecmesh_ike::{
    EffectAction, EffectOutcome, Encryption, Integrity, Mode, SaKey, SaName, SaProtocol, SaSpec,
    TrafficSelector,
};

use super::{REQID, Verdict, World, all_good, half, here, here6, name, same, there, there6};

const SPI: u32 = 0xc0de_0001;

pub(super) async fn run<P: DataPlane>(plane: &mut P, world: &impl World) -> Vec<Verdict> {
    vec![
        ("an SA serves the traffic that waits", serves(plane).await),
        (
            "a pair of SAs stands with ESN and a window of 4096",
            pair(plane).await,
        ),
        ("every shape of SA is taken", shapes(plane).await),
        (
            "an SPI that is taken is told apart from other refusals",
            taken(plane).await,
        ),
        ("effects happen in their order", order(plane).await),
        (
            "an SA in UDP takes other ports and stays what it was",
            encapsulate(plane).await,
        ),
        ("removing an SA is idempotent", removal(plane).await),
        (
            "a foreign SA is neither replaced nor removed",
            foreign(plane, world).await,
        ),
        (
            "an SA that cannot be meant is refused with the field",
            refused(plane).await,
        ),
        ("two hundred SAs go in and out", many(plane).await),
    ]
}

fn inbound(spec: SaSpec) -> EffectAction {
    EffectAction::InstallInbound(Box::new(spec))
}

fn outbound(spec: SaSpec) -> EffectAction {
    EffectAction::InstallOutbound(Box::new(spec))
}

fn names(count: u32) -> Vec<SaName> {
    (0..count)
        .map(|offset| name(SPI + offset, there(), here()))
        .collect()
}

async fn standing<P: DataPlane>(plane: &mut P) -> Result<Vec<SaStatus>, String> {
    let mut sas = plane.snapshot().await.map_err(|error| error.to_string())?.sas;
    sas.sort_by_key(|sa| sa.name.spi);
    Ok(sas)
}

async fn standing_names<P: DataPlane>(plane: &mut P) -> Result<Vec<SaName>, String> {
    Ok(standing(plane).await?.into_iter().map(|sa| sa.name).collect())
}

async fn done<P: DataPlane>(plane: &mut P, effects: Vec<EffectAction>) -> Result<(), String> {
    let count = effects.len();
    let outcomes = plane.apply_effects(effects).await;
    same("outcomes", &outcomes, &vec![EffectOutcome::Done; count])
}

async fn clear<P: DataPlane>(plane: &mut P, names: &[SaName]) -> Result<(), String> {
    all_good("remove", plane.remove_sas(names).await, names.len())?;
    same("SAs at the end", &standing_names(plane).await?, &Vec::new())
}

async fn pair<P: DataPlane>(plane: &mut P) -> Result<(), String> {
    let both = [name(SPI, there(), here()), name(SPI + 1, here(), there())];
    done(plane, vec![inbound(half(both[0])), outbound(half(both[1]))]).await?;
    let sas = standing(plane).await?;
    same("names", &sas.iter().map(|sa| sa.name).collect(), &both.to_vec())?;
    same("reqids", &sas.iter().all(|sa| sa.reqid == REQID), &true)?;
    same("larval", &sas.iter().any(|sa| sa.larval), &false)?;
    let usage = plane
        .usage(&[both[1], name(SPI + 9, here(), there()), both[0]])
        .await;
    let found: Vec<Option<(SaName, u64)>> = usage
        .into_iter()
        .map(|sa| sa.map(|sa| (sa.name, sa.packets)))
        .collect();
    same(
        "usage",
        &found,
        &vec![Some((both[1], 0)), None, Some((both[0], 0))],
    )?;
    clear(plane, &both).await
}

async fn shapes<P: DataPlane>(plane: &mut P) -> Result<(), String> {
    let plain = |offset, change: fn(&mut SaSpec)| {
        let mut spec = half(name(SPI + offset, there(), here()));
        change(&mut spec);
        spec
    };
    let specs = vec![
        plain(0, |spec| {
            spec.encryption = Some(Encryption::AesGcm16Key128);
            spec.key = SaKey(vec![3; 20].into());
        }),
        plain(1, |spec| spec.esn = false),
        plain(2, |spec| spec.replay_window = 32),
        plain(3, |spec| spec.encapsulation = Some((4500, 4500))),
        plain(4, |spec| {
            spec.lifetime.bytes = Some(1 << 40);
            spec.lifetime.packets = Some(1 << 30);
            spec.soft_lifetime.bytes = Some(1 << 39);
            spec.soft_lifetime.packets = Some(1 << 29);
        }),
        plain(5, |spec| spec.source_selectors.clear()),
        plain(6, |spec| spec.mode = Mode::Tunnel),
        plain(7, |spec| {
            spec.mode = Mode::Tunnel;
            spec.source_selectors = vec![net([10, 2, 0, 0], [10, 2, 255, 255])];
            spec.destination_selectors = vec![net([10, 1, 0, 0], [10, 1, 255, 255])];
        }),
        plain(8, |spec| {
            spec.mode = Mode::Tunnel;
            spec.source_selectors = vec![host6(there6())];
            spec.destination_selectors = vec![host6(here6())];
        }),
        // Several selectors, or a range that is no block: the policies alone say what may come.
        plain(9, |spec| {
            spec.mode = Mode::Tunnel;
            spec.source_selectors = vec![host6(there6()), net([10, 2, 0, 0], [10, 2, 255, 255])];
        }),
        plain(10, |spec| {
            spec.mode = Mode::Tunnel;
            spec.source_selectors = vec![net([10, 2, 0, 1], [10, 2, 0, 6])];
        }),
        SaSpec {
            mode: Mode::Tunnel,
            ..half(name(SPI + 11, there6(), here6()))
        },
        half(name(SPI + 12, there6(), here6())),
        header(
            name(SPI + 13, there(), here()),
            Integrity::HmacSha256,
            Mode::Transport,
        ),
        header(
            name(SPI + 14, there(), here()),
            Integrity::HmacSha384,
            Mode::Tunnel,
        ),
        header(
            name(SPI + 15, there6(), here6()),
            Integrity::HmacSha512,
            Mode::Transport,
        ),
        // AH has SPIs of its own.
        header(
            name(SPI + 15, there(), here()),
            Integrity::HmacSha512,
            Mode::Tunnel,
        ),
        half(name(SPI + 15, there(), here())),
    ];
    let mut names: Vec<SaName> = specs.iter().map(|spec| spec.name).collect();
    done(plane, specs.into_iter().map(inbound).collect()).await?;
    let mut standing = standing_names(plane).await?;
    names.sort();
    standing.sort();
    same("names", &standing, &names)?;
    clear(plane, &names).await?;
    let mut out = half(name(SPI, here(), there()));
    out.esn = false;
    let names = [out.name];
    done(plane, vec![outbound(out)]).await?;
    clear(plane, &names).await
}

/// One half of a pair of AH.
pub(crate) fn header(name: SaName, integrity: Integrity, mode: Mode) -> SaSpec {
    let length = match integrity {
        Integrity::HmacSha256 => 32,
        Integrity::HmacSha384 => 48,
        Integrity::HmacSha512 => 64,
    };
    SaSpec {
        mode,
        encryption: None,
        integrity: Some(integrity),
        key: SaKey(vec![5; length].into()),
        ..half(SaName {
            protocol: SaProtocol::Ah,
            ..name
        })
    }
}

fn net(first: [u8; 4], last: [u8; 4]) -> TrafficSelector {
    TrafficSelector {
        protocol: 0,
        first_port: 0,
        last_port: u16::MAX,
        first_address: first.into(),
        last_address: last.into(),
    }
}

fn host6(address: IpAddr) -> TrafficSelector {
    TrafficSelector {
        first_address: address,
        last_address: address,
        ..net([0; 4], [0; 4])
    }
}

async fn taken<P: DataPlane>(plane: &mut P) -> Result<(), String> {
    let names = names(1);
    done(plane, vec![inbound(half(names[0]))]).await?;
    let outcomes = plane.apply_effects(vec![inbound(half(names[0]))]).await;
    same("outcomes", &outcomes, &vec![EffectOutcome::SpiInUse])?;
    clear(plane, &names).await
}

async fn order<P: DataPlane>(plane: &mut P) -> Result<(), String> {
    let names = names(3);
    let effects = vec![
        inbound(half(names[0])),
        EffectAction::RemoveInbound(names[0]),
        inbound(half(names[0])),
        inbound(half(names[1])),
        EffectAction::RemoveInbound(names[1]),
        EffectAction::RemoveInbound(names[2]),
        inbound(half(names[2])),
    ];
    done(plane, effects).await?;
    same("names", &standing_names(plane).await?, &vec![names[0], names[2]])?;
    clear(plane, &names).await
}

async fn encapsulate<P: DataPlane>(plane: &mut P) -> Result<(), String> {
    let names = names(3);
    let specs = names
        .iter()
        .zip([Some((40_000, 4500)), Some((40_001, 4500)), None]);
    let specs = specs.map(|(name, ports)| {
        let mut spec = half(*name);
        spec.encapsulation = ports;
        spec.lifetime.packets = Some(1000);
        spec
    });
    done(plane, specs.map(inbound).collect()).await?;
    let before = standing(plane).await?;
    let moves = |name| EffectAction::Encapsulate(name, (50_000, 4500));
    let outcomes = plane
        .apply_effects(vec![
            moves(names[0]),
            moves(names[2]),
            moves(name(SPI + 9, there(), here())),
        ])
        .await;
    same("the first", &outcomes[0], &EffectOutcome::Done)?;
    for (outcome, word) in outcomes[1..].iter().zip(["does not travel in UDP", "not there"]) {
        let says = matches!(outcome, EffectOutcome::Failed(text) if text.contains(word));
        same(&format!("{word} is said"), &says, &true)?;
    }
    let mut expected = before;
    expected[0].encapsulation = Some((50_000, 4500));
    same("SAs", &standing(plane).await?, &expected)?;
    clear(plane, &names).await
}

async fn removal<P: DataPlane>(plane: &mut P) -> Result<(), String> {
    let names = names(2);
    done(plane, vec![inbound(half(names[0]))]).await?;
    done(
        plane,
        names
            .iter()
            .map(|name| EffectAction::RemoveInbound(*name))
            .collect(),
    )
    .await?;
    clear(plane, &names).await
}

async fn foreign<P: DataPlane>(plane: &mut P, world: &impl World) -> Result<(), String> {
    let names = names(1);
    world.add_foreign_sa(names[0])?;
    let outcomes = plane.apply_effects(vec![inbound(half(names[0]))]).await;
    same("outcomes", &outcomes, &vec![EffectOutcome::SpiInUse])?;
    done(plane, vec![EffectAction::RemoveInbound(names[0])]).await?;
    clear(plane, &names).await?;
    let snapshot = plane.snapshot().await.map_err(|error| error.to_string())?;
    same("foreign SAs", &snapshot.foreign.1, &1)?;
    same("usage of a foreign SA", &plane.usage(&names).await, &vec![None])?;
    world.remove_foreign_sa(names[0])
}

async fn refused<P: DataPlane>(plane: &mut P) -> Result<(), String> {
    let mut short = half(name(SPI, there(), here()));
    short.key = SaKey(vec![1; 32].into());
    let mut foreign = half(name(SPI + 1, there(), here()));
    foreign.reqid = 1;
    let good = half(name(SPI + 2, there(), here()));
    let mut in_udp = header(
        name(SPI + 3, there(), here()),
        Integrity::HmacSha256,
        Mode::Transport,
    );
    in_udp.encapsulation = Some((4500, 4500));
    let mut both = half(name(SPI + 4, there(), here()));
    both.integrity = Some(Integrity::HmacSha256);
    let mut bare = header(
        name(SPI + 5, there(), here()),
        Integrity::HmacSha256,
        Mode::Transport,
    );
    bare.integrity = None;
    let names = [
        short.name,
        foreign.name,
        good.name,
        in_udp.name,
        both.name,
        bare.name,
    ];
    let outcomes = plane
        .apply_effects(vec![
            inbound(short),
            inbound(foreign),
            inbound(good),
            inbound(in_udp),
            inbound(both),
            inbound(bare),
        ])
        .await;
    let says = |outcome: &EffectOutcome, word: &str| matches!(outcome, EffectOutcome::Failed(text) if text.contains(word));
    same(
        "the key's length is named",
        &says(&outcomes[0], "32 bytes"),
        &true,
    )?;
    same(
        "the reqid is named",
        &says(&outcomes[1], "reqid 0x00000001"),
        &true,
    )?;
    same("the good one", &outcomes[2], &EffectOutcome::Done)?;
    for (outcome, word) in outcomes[3..]
        .iter()
        .zip(["not carried in UDP", "combined-mode", "an integrity"])
    {
        same(&format!("{word} is named"), &says(outcome, word), &true)?;
    }
    clear(plane, &names).await
}

/// The first of these cases: what the last one about policies left is still waiting.
async fn serves<P: DataPlane>(plane: &mut P) -> Result<(), String> {
    let names = [name(SPI, here(), there())];
    let snapshot = plane.snapshot().await.map_err(|error| error.to_string())?;
    same("waiting before", &snapshot.waiting.len(), &1)?;
    done(plane, vec![outbound(half(names[0]))]).await?;
    let snapshot = plane.snapshot().await.map_err(|error| error.to_string())?;
    same("waiting after", &snapshot.waiting, &Vec::new())?;
    clear(plane, &names).await
}

async fn many<P: DataPlane>(plane: &mut P) -> Result<(), String> {
    let names = names(200);
    done(plane, names.iter().map(|name| inbound(half(*name))).collect()).await?;
    same("names", &standing_names(plane).await?, &names)?;
    clear(plane, &names).await
}
