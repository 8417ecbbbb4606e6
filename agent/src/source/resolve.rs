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
    /// What it has, or last had.
    addresses: Vec<IpAddr>,
    /// Why nothing is known of it.
    reason: String,
    ask_at: Instant,
}

impl Resolver {
    async fn run(mut self) {
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            self.names.retain(|name, _| wanted.peers.contains(name));
            // First what is known: a name server that does not answer keeps no other peer waiting.
            self.publish(self.find(&wanted).await);
            if self.ask(&wanted).await {
                self.publish(self.find(&wanted).await);
            }
            tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Everything that is known; a name that nobody has asked for yet is left out.
    async fn find(&self, wanted: &Addresses) -> Resolved {
        let mut found = Resolved::new();
        for peer in &wanted.peers {
            let candidates = match (peer.parse::<IpAddr>(), self.names.get(peer)) {
                (Ok(address), _) => vec![address],
                (Err(_), Some(name)) => name.addresses.clone(),
                (Err(_), None) => continue,
            };
            let ends = match (candidates.is_empty(), self.names.get(peer)) {
                (true, Some(name)) => Err(format!(
                    "spec.remote.external.address: {peer:?} does not resolve: {}: correct the name, or this host's \
                     name servers",
                    name.reason
                )),
                (true, None) | (false, _) => self.ends(peer, candidates, &wanted.own).await,
            };
            found.insert(peer.clone(), ends);
        }
        found
    }

    /// Asks for all names whose time has come, at once; says whether there were any.
    async fn ask(&mut self, wanted: &Addresses) -> bool {
        let now = Instant::now();
        let due = wanted.peers.iter().filter(|peer| {
            let known = self.names.get(*peer);
            peer.parse::<IpAddr>().is_err() && known.is_none_or(|known| known.ask_at <= now)
        });
        let due: Vec<&String> = due.collect();
        let answers = futures::future::join_all(due.iter().map(|name| lookup(name))).await;
        let any = !due.is_empty();
        for (name, answer) in due.into_iter().zip(answers) {
            let known = self.names.entry(name.clone()).or_insert_with(|| Name {
                addresses: Vec::new(),
                reason: String::new(),
                ask_at: now,
            });
            match answer {
                Ok(addresses) => (known.addresses, known.ask_at) = (addresses, now + NAMES_EVERY),
                Err(reason) => known.reason = reason,
            }
        }
        any
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

    async fn ends(&self, peer: &str, candidates: Vec<IpAddr>, own: &[IpAddr]) -> Result<Ends, String> {
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
}

/// All addresses of a name, each once, in the name server's order.
async fn lookup(name: &str) -> Result<Vec<IpAddr>, String> {
    match timeout(PATIENCE, tokio::net::lookup_host((name, DISCARD))).await {
        Ok(Ok(found)) => {
            let mut addresses: Vec<IpAddr> = Vec::new();
            for address in found {
                if !addresses.contains(&address.ip()) {
                    addresses.push(address.ip());
                }
            }
            if addresses.is_empty() {
                return Err("the name has no address".to_owned());
            }
            Ok(addresses)
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
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

    /// A resolver that knows one name.
    fn knowing(addresses: &[[u8; 4]], reason: &str) -> Resolver {
        let name = Name {
            addresses: addresses.iter().map(|address| IpAddr::from(*address)).collect(),
            reason: reason.to_owned(),
            ask_at: Instant::now() + NAMES_EVERY,
        };
        Resolver {
            wanted: watch::channel(Addresses::default()).1,
            publisher: watch::channel(Arc::new(Resolved::new())).0,
            names: BTreeMap::from([("vpn.example".to_owned(), name)]),
        }
    }

    fn wanted() -> Addresses {
        Addresses {
            peers: BTreeSet::from(["vpn.example".to_owned(), "127.0.0.9".to_owned()]),
            own: Vec::new(),
        }
    }

    #[tokio::test]
    async fn of_several_addresses_the_first_that_can_be_reached_counts_and_stays() {
        let mut resolver = knowing(&[[127, 0, 0, 1], [127, 0, 0, 7], [127, 0, 0, 8]], "");
        let found = resolver.find(&wanted()).await;
        let remote = |found: &Resolved| found["vpn.example"].clone().map(|ends| ends.remote);
        assert_eq!(
            remote(&found),
            Ok(IpAddr::from([127, 0, 0, 7])),
            "the first is this host's own"
        );
        resolver.publish(found);
        let known = resolver.names.get_mut("vpn.example").expect("known");
        known.addresses.reverse();
        let found = resolver.find(&wanted()).await;
        assert_eq!(
            remote(&found),
            Ok(IpAddr::from([127, 0, 0, 7])),
            "another order moves nothing"
        );
        let known = resolver.names.get_mut("vpn.example").expect("known");
        known
            .addresses
            .retain(|address| *address == IpAddr::from([127, 0, 0, 8]));
        let found = resolver.find(&wanted()).await;
        assert_eq!(
            remote(&found),
            Ok(IpAddr::from([127, 0, 0, 8])),
            "it has the old one no more"
        );
    }

    #[tokio::test]
    async fn a_name_without_address_says_why_and_keeps_no_other_peer_waiting() {
        let found = knowing(&[], "no answer within 5 s").find(&wanted()).await;
        let refused = found["vpn.example"].clone().expect_err("unknown");
        let expected =
            "spec.remote.external.address: \"vpn.example\" does not resolve: no answer within 5 s: correct";
        assert!(refused.starts_with(expected), "{refused}");
        assert!(found["127.0.0.9"].is_ok());
        let nobody_asked = Resolver {
            names: BTreeMap::new(),
            ..knowing(&[], "")
        };
        let found = nobody_asked.find(&wanted()).await;
        assert!(!found.contains_key("vpn.example") && found["127.0.0.9"].is_ok());
    }
}
