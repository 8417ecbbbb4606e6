//! `flush`: removes what is ours from the kernel, and nothing else. SAs first, policies last: nothing leaves in clear
//! before the last SA is gone.

use std::io::{self, Write as _};

use ipsecmesh_dataplane::{DataPlane as _, DataPlaneError, KernelDataPlane, SaFeatures};

/// Removes SAs and policies of ours.
pub(crate) async fn flush() -> Result<(), String> {
    let mut plane = KernelDataPlane::open(SaFeatures::default())
        .await
        .map_err(|e| e.to_string())?;
    let snapshot = plane.snapshot().await.map_err(|e| e.to_string())?;
    let sas: Vec<_> = snapshot.sas.iter().map(|sa| sa.name).collect();
    let policies: Vec<_> = snapshot.policies.iter().map(|policy| policy.key).collect();
    let mut failed: Vec<DataPlaneError> = plane
        .remove_sas(&sas)
        .await
        .into_iter()
        .filter_map(Result::err)
        .collect();
    failed.extend(
        plane
            .remove_policies(&policies)
            .await
            .into_iter()
            .filter_map(Result::err),
    );
    if !failed.is_empty() {
        let reasons: Vec<String> = failed.iter().map(ToString::to_string).collect();
        return Err(format!("{} objects stay: {}", failed.len(), reasons.join("; ")));
    }
    let (policies_left, sas_left) = snapshot.foreign;
    writeln!(
        io::stdout(),
        "removed {} SAs and {} policies; {sas_left} SAs and {policies_left} policies of others were not touched",
        sas.len(),
        policies.len()
    )
    .map_err(|e| e.to_string())
}
