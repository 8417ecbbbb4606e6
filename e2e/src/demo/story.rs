//! The story, in order: readable, one object, unreadable, new keys, gone without a trace.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::Stage;
use crate::{
    capture::{self, ALL_BUT_API, Wire},
    error::{Error, Result},
    lab::{Lab, product::TUNNEL},
    report::Progress,
    traffic::{DatagramReport, Stream},
};

/// Text in every packet of the pods.
const MARKER: &str = "IF-YOU-CAN-READ-THIS-SO-CAN-ANYONE-ON-THE-WIRE";
/// Packets per second and pair.
const RATE: &str = "100";
/// How long the wire is watched before and after.
const WATCH: Duration = Duration::from_secs(2);

/// Tells it; the rows are claims with their evidence.
pub(super) fn tell(lab: &Arc<Lab>, progress: &Progress) -> Result<Vec<(String, String)>> {
    let mut stage = Stage {
        lab,
        progress,
        rows: Vec::new(),
    };
    stage.install()?;
    let pods = stage.pods()?;
    let streams = stage.streams(&pods)?;
    stage.readable()?;
    stage.encrypt()?;
    stage.unreadable()?;
    stage.nothing_lost(&streams, "packets lost across the switch")?;
    stage.rekey()?;
    stage.nothing_lost(&streams, "packets lost across switch and rekey")?;
    stage.delete()?;
    stage.nothing_lost(&streams, "packets lost from beginning to end")?;
    Ok(stage.rows)
}

struct Pod {
    name: String,
    node: String,
    address: String,
}

impl Stage<'_> {
    fn install(&mut self) -> Result<()> {
        let (lab, progress) = (self.lab, self.progress);
        let begin = Instant::now();
        let lines = progress.step("helm install: both charts", || lab.install_product(&[]))?;
        for line in &lines {
            progress.command(line);
        }
        self.shown(
            "two Helm charts installed",
            format!(
                "operator × 2 and {} agents Ready after {:.1} s",
                lab.nodes().len(),
                begin.elapsed().as_secs_f64()
            ),
        );
        Ok(())
    }

    fn pods(&self) -> Result<Vec<Pod>> {
        let (lab, progress) = (self.lab, self.progress);
        let pods = progress.step("start a pod on every node", || {
            let start = |(number, node): (usize, Arc<crate::lab::Node>)| {
                let name = format!("demo-{}", number + 1);
                Ok(Pod {
                    address: lab.start_traffic_pod(&name, node.name(), &["serve"])?,
                    node: node.name().to_owned(),
                    name,
                })
            };
            lab.nodes()
                .into_iter()
                .enumerate()
                .map(start)
                .collect::<Result<Vec<Pod>>>()
        })?;
        progress.command("kubectl get pods -o wide");
        progress.show(&lab.kubectl().run(&["get", "pods", "-o", "wide"])?);
        Ok(pods)
    }

    /// Every pod sends to the next one, in a ring.
    fn streams(&self, pods: &[Pod]) -> Result<Vec<Stream>> {
        let lab = self.lab;
        self.progress
            .step("every pod sends numbered packets to the next", || {
                let next = pods.iter().cycle().skip(1);
                pods.iter()
                    .zip(next)
                    .map(|(from, to)| {
                        let arguments = ["send", "--to", &to.address, "--rate", RATE, "--marker", MARKER];
                        Stream::start(lab, &from.node, &from.name, &arguments)
                    })
                    .collect()
            })
    }

    fn watch(&self, title: &str) -> Result<Wire> {
        let (lab, progress) = (self.lab, self.progress);
        progress.step(title, || {
            let capture = lab.capture("worker-1", ALL_BUT_API)?;
            let file = capture.file().to_owned();
            thread::sleep(WATCH);
            let wire = capture.finish()?;
            capture::show(&file, 4, progress)?;
            Ok(wire)
        })
    }

    fn readable(&mut self) -> Result<()> {
        let wire = self.watch("watch the wire of worker-1, as anyone between the nodes could")?;
        let readable = wire.readable(MARKER);
        self.progress
            .show(&format!("{readable} packets hold the text {MARKER:?}"));
        if readable == 0 {
            return Err(Error::observed(format!(
                "nothing readable on the wire: {}",
                wire.counts()
            )));
        }
        self.shown(
            "before: pod traffic is readable",
            format!("the text is in {readable} of {}", wire.counts()),
        );
        Ok(())
    }

    fn encrypt(&mut self) -> Result<()> {
        let (lab, progress) = (self.lab, self.progress);
        progress.command("kubectl apply -f tunnel.yaml");
        progress.show(TUNNEL);
        let begin = Instant::now();
        progress.step(
            "kubectl wait --for=condition=Ready ipsectunnel/cluster-mesh",
            || {
                lab.kubectl().apply(TUNNEL)?;
                lab.kubectl().run(&[
                    "wait",
                    "--for=condition=Ready",
                    "ipsectunnel/cluster-mesh",
                    "--timeout=60s",
                ])
            },
        )?;
        let took = begin.elapsed().as_secs_f64();
        progress.command("kubectl get ipsec");
        progress.show(&lab.kubectl().run(&["get", "ipsec"])?);
        let sas = lab.kernel_sas("worker-1")?;
        progress.command("ip xfrm state    # on worker-1, without keys");
        for sa in &sas {
            progress.show(&sa.to_string());
        }
        self.shown("kubectl apply → enforced everywhere", format!("{took:.1} s"));
        self.shown(
            "SAs of our own IKEv2 in worker-1's kernel",
            format!("{}, {}", sas.len(), kinds(&sas)),
        );
        Ok(())
    }

    fn unreadable(&mut self) -> Result<()> {
        let wire = self.watch("watch the same wire again")?;
        let readable = wire.readable(MARKER);
        let addresses: Vec<_> = self.lab.nodes().iter().map(|node| node.address()).collect();
        let counts = wire.assert_no_cleartext(&addresses)?;
        if readable > 0 || counts.esp == 0 {
            return Err(Error::observed(format!("{readable} readable packets, {counts}")));
        }
        self.shown("after: ESP, the text is gone", format!("{counts}; readable: 0"));
        Ok(())
    }

    fn nothing_lost(&mut self, streams: &[Stream], claim: &str) -> Result<()> {
        let reports = self.progress.step(claim, || {
            streams
                .iter()
                .map(Stream::settled)
                .collect::<Result<Vec<DatagramReport>>>()
        })?;
        let lost: u64 = reports.iter().map(DatagramReport::missing).sum();
        let sent: u64 = reports.iter().map(|report| report.settled).sum();
        self.shown(claim, format!("{lost} of {sent}"));
        if lost > 0 {
            let gaps: Vec<_> = reports.iter().flat_map(|report| &report.gaps).collect();
            return Err(Error::observed(format!("{lost} packets lost: {gaps:?}")));
        }
        Ok(())
    }

    fn rekey(&mut self) -> Result<()> {
        let (lab, progress) = (self.lab, self.progress);
        let before = lab.kernel_sas("worker-1")?;
        let said = progress.step("replace all keys of worker-1 under traffic", || {
            let said = lab.agent("worker-1", &["rekey"])?;
            lab.wait_for_one_pair_each(Duration::from_secs(30))?;
            Ok(said)
        })?;
        progress.command("kubectl exec ipsecmesh-agent-… -- /ipsecmesh-agent rekey");
        progress.show(&said);
        let after = lab.kernel_sas("worker-1")?;
        let kept = after
            .iter()
            .filter(|sa| before.iter().any(|old| old.spi == sa.spi))
            .count();
        if kept > 0 {
            return Err(Error::observed(format!("{kept} SAs are still the old ones")));
        }
        self.shown(
            "rekey: new SAs, one pair per node pair",
            format!("{} replaced", after.len()),
        );
        Ok(())
    }

    fn delete(&mut self) -> Result<()> {
        let (lab, progress) = (self.lab, self.progress);
        progress.step("kubectl delete ipsectunnel cluster-mesh", || {
            lab.kubectl()
                .run(&["delete", "ipsectunnel", "cluster-mesh", "--timeout=60s"])
        })?;
        progress.step("nothing of ours is left in any kernel", || {
            lab.wait_until_kernels_are_clean(Duration::from_secs(20))
        })?;
        self.shown("deleted: SAs and policies left on any node", "0".to_owned());
        Ok(())
    }
}

fn kinds(sas: &[crate::lab::KernelSa]) -> String {
    let mut kinds: Vec<&str> = sas.iter().map(|sa| sa.kind.as_str()).collect();
    kinds.dedup();
    kinds.join(", ")
}
