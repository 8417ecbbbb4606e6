//! What only newer kernels do. Where the detection does not find it, the suite says so.

use ipsecmesh_dataplane::{DataPlane, SaFeatures};
use ipsecmesh_ike::{EffectAction, EffectOutcome, Mode, SaName, SaProtocol};
use ipsecmesh_xfrm::{Connection, Protocol, Reply, Request, SaDirection, SaId, SaState};

use super::super::net::{Net, PATIENCE};
use super::{Ends, Lack, SPI, V4, Verdict, done, name, remove, same, shape};

/// Its interval is RFC 3948's default of 20 s; the first one leaves at once.
const KEEPALIVE_SECONDS: u32 = 20;
/// IPv4 and UDP headers in front of the one byte (RFC 3948 §2.3).
const KEEPALIVE: (usize, u8) = (29, 0xff);

pub(super) async fn run(net: &Net, ends: &mut Ends, features: SaFeatures) -> (Vec<Verdict>, Vec<Lack>) {
    let (mut verdicts, mut lacking) = (Vec::new(), Vec::new());
    if features.direction {
        verdicts.push((
            "newer kernels: an SA says which way it goes",
            direction(net, ends).await,
        ));
    } else {
        lacking.push((
            "SAs that say which way they go",
            "Linux 6.10 brought them".to_owned(),
        ));
    }
    if features.keepalive {
        verdicts.push((
            "newer kernels: the mapping of a NAT is kept open by the kernel",
            keepalive(net, ends).await,
        ));
    } else {
        lacking.push((
            "keepalives of the kernel",
            "Linux 6.11 brought them; the agent sends its own".to_owned(),
        ));
    }
    let told = ends.a.keeps_mappings_open();
    verdicts.push((
        "the data plane says whether it keeps mappings open",
        same("what it says", &told, &features.keepalive),
    ));
    (verdicts, lacking)
}

async fn direction(net: &Net, ends: &mut Ends) -> Result<(), String> {
    let shape = shape("", Mode::Transport, SaProtocol::Esp, V4, false);
    let names = shape.install(ends, 50).await?;
    net.a.enter()?;
    let mut connection = Connection::open().map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    for name in names {
        found.push(read(&mut connection, name).await?.direction);
    }
    remove(ends, &names).await?;
    let expected = vec![Some(SaDirection::Out), Some(SaDirection::In)];
    same("directions at a", &found, &expected)
}

async fn keepalive(net: &Net, ends: &mut Ends) -> Result<(), String> {
    let shape = shape("", Mode::Transport, SaProtocol::Esp, V4, true);
    let (a, b) = shape.outer();
    let name = name(SPI + 60, a, b);
    let mut spec = shape.half(name, true);
    spec.keepalive = true;
    let wire = net.a.watch("wire0")?;
    done(&mut ends.a, EffectAction::InstallOutbound(Box::new(spec))).await?;
    let mut sent = 0;
    for _ in 0..20 {
        tokio::time::sleep(PATIENCE / 20).await;
        let packets = wire.packets();
        let is_one =
            |packet: &&Vec<u8>| (packet.len(), packet.last().copied()) == (KEEPALIVE.0, Some(KEEPALIVE.1));
        sent += packets.iter().filter(is_one).count();
    }
    same("keepalives in the first two seconds", &sent, &1)?;
    let moves = vec![EffectAction::Encapsulate(name, (4500, 40_000))];
    let outcomes = ends.a.apply_effects(moves).await;
    same("the move", &outcomes, &vec![EffectOutcome::Done])?;
    net.a.enter()?;
    let mut connection = Connection::open().map_err(|error| error.to_string())?;
    let state = read(&mut connection, name).await?;
    same(
        "its interval after the move",
        &state.keepalive,
        &Some(KEEPALIVE_SECONDS),
    )?;
    same("its ports", &state.encapsulation, &Some((4500, 40_000)))?;
    remove(ends, &[name, name]).await
}

async fn read(connection: &mut Connection, name: SaName) -> Result<SaState, String> {
    let id = SaId {
        protocol: Protocol::Esp,
        spi: name.spi.value(),
        source: name.source,
        destination: name.destination,
    };
    let replies = connection.execute_one(Request::read_sa(id)).await;
    let replies = replies.map_err(|error| error.to_string())?;
    replies
        .into_iter()
        .find_map(Reply::into_sa)
        .ok_or_else(|| "the SA is not there".to_owned())
}
