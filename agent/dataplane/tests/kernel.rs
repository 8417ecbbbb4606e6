//! The kernel's data plane passes the suite on the Linux that it meets. Where that has no ESP, the cases about SAs and
//! packets are left out with the kernel's words; they run in the lab's nodes through `examples/conformance.rs`.

#[path = "suite/linux.rs"]
mod linux;
mod suite;

use ipsecmesh_dataplane::{DataPlane, KernelDataPlane, SaFeatures};
use ipsecmesh_ike::{EffectAction, EffectOutcome};
use linux::Linux;
use suite::{Ability, World, half, here, name, there};

#[tokio::test]
async fn kernel_passes_the_suite() {
    let world = Linux::enter().expect("namespace");
    let mut plane = KernelDataPlane::open(SaFeatures::default()).await.expect("open");
    let report = suite::run(&mut plane, &world).await;
    assert!(report.failed().is_empty(), "{report:#?}");
    let (cases, lacking) = match world.lacks(Ability::Sas) {
        None => (19, 0),
        Some(words) => {
            assert!(words.contains("Requested"), "{words}");
            (9, 2)
        }
    };
    assert_eq!((report.verdicts.len(), report.lacking.len()), (cases, lacking));
}

/// On a kernel without ESP or AES-GCM the refusal carries the kernel's own words.
#[tokio::test]
async fn an_sa_is_taken_or_refused_with_the_kernels_words() {
    let _world = Linux::enter().expect("namespace");
    let mut plane = KernelDataPlane::open(SaFeatures::default()).await.expect("open");
    let spec = half(name(0xc0de_0001, there(), here()));
    let outcomes = plane
        .apply_effects(vec![EffectAction::InstallInbound(Box::new(spec))])
        .await;
    match &outcomes[..] {
        [EffectOutcome::Done] => {}
        [EffectOutcome::Failed(text)] => assert!(text.contains("Requested"), "{text}"),
        other => panic!("{other:?}"),
    }
}

/// Another process of ours left policies: they are found, kept, and their indexes are not given out again.
#[tokio::test]
async fn a_second_plane_adopts_what_the_first_left() {
    let _world = Linux::enter().expect("namespace");
    let mut first = KernelDataPlane::open(SaFeatures::default()).await.expect("open");
    let old = suite::protect(
        ipsecmesh_dataplane::Direction::Outbound,
        here(),
        there(),
        ipsecmesh_dataplane::Demand::Required,
    );
    assert_eq!(first.put_policies(&[old]).await, [Ok(())]);
    drop(first);
    let mut second = KernelDataPlane::open(SaFeatures::default()).await.expect("open");
    let new = suite::protect(
        ipsecmesh_dataplane::Direction::Outbound,
        here(),
        std::net::Ipv4Addr::new(198, 51, 100, 3).into(),
        ipsecmesh_dataplane::Demand::Required,
    );
    assert_eq!(second.put_policies(&[new]).await, [Ok(())]);
    let mut policies = second.snapshot().await.expect("snapshot").policies;
    policies.sort();
    assert_eq!(policies, [old, new]);
}
