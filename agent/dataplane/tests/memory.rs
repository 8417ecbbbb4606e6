//! The data plane in memory passes the suite, and can be made to refuse.

mod suite;

use std::net::IpAddr;

use ipsecmesh_dataplane::{
    DataPlane, DataPlaneEvent, Demand, Direction, MemoryDataPlane, MemoryHandle, PolicyKey,
};
use ipsecmesh_ike::SaName;
use suite::{Ability, REQID, World, here, protect, there};

struct Memory(MemoryHandle);

impl World for Memory {
    fn add_foreign_policy(&self, key: PolicyKey) -> Result<(), String> {
        self.0.add_foreign_policy(key);
        Ok(())
    }

    fn remove_foreign_policy(&self, key: PolicyKey) -> Result<(), String> {
        self.0.remove_foreign_policy(key);
        Ok(())
    }

    fn add_foreign_sa(&self, name: SaName) -> Result<(), String> {
        self.0.add_foreign_sa(name);
        Ok(())
    }

    fn remove_foreign_sa(&self, name: SaName) -> Result<(), String> {
        self.0.remove_foreign_sa(name);
        Ok(())
    }

    fn send(&self, source: IpAddr, destination: IpAddr) -> Result<(), String> {
        self.0.report(DataPlaneEvent::Acquire {
            reqid: REQID,
            source,
            destination,
        });
        Ok(())
    }

    fn lacks(&self, ability: Ability) -> Option<String> {
        match ability {
            Ability::Packets => Some("the data plane in memory carries none".to_owned()),
            Ability::Sas => None,
        }
    }
}

#[tokio::test]
async fn memory_passes_the_suite() {
    let mut plane = MemoryDataPlane::new();
    let world = Memory(plane.handle());
    let report = suite::run(&mut plane, &world).await;
    assert!(report.failed().is_empty(), "{report:#?}");
    assert_eq!(report.verdicts.len(), 19);
    let lacking: Vec<_> = report.lacking.iter().map(|(what, _)| *what).collect();
    assert_eq!(lacking, ["packets"]);
}

#[tokio::test]
async fn memory_refuses_when_told_so() {
    let mut plane = MemoryDataPlane::new();
    plane.handle().refuse_next("ENOMEM");
    let policies = [
        protect(Direction::Outbound, here(), there(), Demand::Required),
        protect(Direction::Inbound, there(), here(), Demand::Required),
    ];
    let results = plane.put_policies(&policies).await;
    assert_eq!(
        results[0].as_ref().map_err(|error| error.reason.as_str()),
        Err("ENOMEM")
    );
    assert_eq!(results[1], Ok(()));
    assert_eq!(plane.handle().snapshot().policies, [policies[1]]);
}
