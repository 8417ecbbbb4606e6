//! Addresses of external peers: names are asked for again and again, and the host's routes say which of its own
//! addresses talks to each. What was found stays in force while a name server is silent.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::model::{Ends, Resolved};
use crate::task::Task;

/// Names are asked for this often; after a failure, at every look.
const NAMES_EVERY: Duration = Duration::from_mins(1);
/// Routes may change without notice.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long one name may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Any port: a connected UDP socket sends nothing.
const DISCARD: u16 = 9;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// Addresses and names of peers.
    pub(crate) peers: BTreeSet<String>,
    /// Addresses that this host is to use, where it is told; otherwise its routes decide.
    pub(crate) own: Vec<IpAddr>,
}

/// Follows all addresses that are wanted.
pub(crate) fn follow(wanted: watch::Receiver<Addresses>) -> (watch::Receiver<Arc<Resolved>>, Task) {
    let (publisher, resolved) = watch::channel(Arc::new(Resolved::new()));
    let task = Resolver {
        wanted,
        publisher,
        names: BTreeMap::new(),
    };
    (resolved, Task::spawn("addresses of external peers", task.run()))
}

struct Resolver {
    wanted: watch::Receiver<Addresses>,
    publisher: watch::Sender<Arc<Resolved>>,
    names: BTreeMap<String, Name>,
}

/// A name and what it last stood for.
struct Name {
    addresses: Vec<IpAddr>,
    ask_at: Instant,
}

impl Resolver {
    async fn run(mut self) {
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            self.names.retain(|name, _| wanted.peers.contains(name));
            let mut found = Resolved::new();
            for peer in &wanted.peers {
                let ends = self.ends(peer, &wanted.own).await;
                found.insert(peer.clone(), ends);
            }
            self.publish(found);
            tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    fn publish(&self, found: Resolved) {
        self.publisher.send_if_modified(|present| {
            let fresh = **present != found;
            if fresh {
                for (peer, news) in found
                    .iter()
                    .filter(|(peer, news)| present.get(*peer) != Some(news))
                {
                    match news {
                        Ok(ends) => {
                            tracing::info!(peer, local = %ends.local, remote = %ends.remote, "peer found");
                        }
                        Err(reason) => tracing::warn!(peer, reason, "peer not found"),
                    }
                }
                *present = Arc::new(found);
            }
            fresh
        });
    }

    async fn ends(&mut self, peer: &str, own: &[IpAddr]) -> Result<Ends, String> {
        let candidates = match peer.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => self.name(peer).await?,
        };
        // The address in use stays as long as the name still has it: no name server's order moves a tunnel.
        let present = self
            .publisher
            .borrow()
            .get(peer)
            .and_then(|ends| ends.clone().ok());
        let in_use = present
            .map(|ends| ends.remote)
            .filter(|remote| candidates.contains(remote));
        let mut reason = String::new();
        for remote in in_use.into_iter().chain(candidates) {
            match local(remote, own).await {
                Ok(local) if local == remote => {
                    reason = format!("{remote} is an address of this host");
                }
                Ok(local) => return Ok(Ends { local, remote }),
                Err(error) => reason = format!("this host has no route to {remote}: {error}"),
            }
        }
        Err(format!("spec.remote.external.address: {reason}"))
    }

    async fn name(&mut self, name: &str) -> Result<Vec<IpAddr>, String> {
        let now = Instant::now();
        let known = self.names.get(name);
        if let Some(known) = known.filter(|known| known.ask_at > now) {
            return Ok(known.addresses.clone());
        }
        let mut addresses: Vec<IpAddr> = Vec::new();
        let reason = match timeout(PATIENCE, tokio::net::lookup_host((name, DISCARD))).await {
            Ok(Ok(found)) => {
                for address in found {
                    if !addresses.contains(&address.ip()) {
                        addresses.push(address.ip());
                    }
                }
                "the name has no address".to_owned()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
        };
        if !addresses.is_empty() {
            let ask_at = now + NAMES_EVERY;
            let known = Name {
                addresses: addresses.clone(),
                ask_at,
            };
            self.names.insert(name.to_owned(), known);
            return Ok(addresses);
        }
        match known {
            Some(known) => Ok(known.addresses.clone()),
            None => Err(format!(
                "spec.remote.external.address: {name:?} does not resolve: {reason}"
            )),
        }
    }
}

/// The address of this host that talks to `remote`: one that it was told to use, or the one that its routes choose.
async fn local(remote: IpAddr, own: &[IpAddr]) -> io::Result<IpAddr> {
    if let Some(told) = own.iter().find(|address| address.is_ipv4() == remote.is_ipv4()) {
        return Ok(*told);
    }
    let any: IpAddr = if remote.is_ipv4() {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(SocketAddr::new(remote, DISCARD)).await?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn routes_choose_the_own_address_unless_it_is_told() {
        let remote = IpAddr::from([127, 0, 0, 9]);
        assert_eq!(local(remote, &[]).await.ok(), Some(IpAddr::from([127, 0, 0, 1])));
        let told = IpAddr::from([192, 0, 2, 1]);
        assert_eq!(local(remote, &[told]).await.ok(), Some(told));
    }

    #[tokio::test]
    async fn a_name_and_a_literal_are_found_and_an_own_address_is_refused() {
        let (sender, wanted) = watch::channel(Addresses::default());
        let (mut resolved, _task) = follow(wanted);
        let peers = ["127.0.0.9", "127.0.0.1", "localhost"].map(str::to_owned);
        let peers = BTreeSet::from(peers);
        sender.send_replace(Addresses {
            peers,
            own: Vec::new(),
        });
        let found = resolved
            .wait_for(|found| found.len() == 3)
            .await
            .expect("an answer")
            .clone();
        assert!(found["127.0.0.9"].is_ok());
        let own = found["127.0.0.1"].clone().expect_err("itself");
        assert!(own.contains("127.0.0.1 is an address of this host"), "{own}");
        let own = found["localhost"].clone().expect_err("itself");
        assert!(own.starts_with("spec.remote.external.address: "), "{own}");
    }
}
