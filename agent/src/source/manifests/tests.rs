//! Files as people write and break them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use ipsecmesh_ike::Identity;

use super::*;
use crate::model::ExternalAuth;

const STORAGE: &str = "
apiVersion: ipsecmesh.io/v1alpha1
kind: IPsecTunnel
metadata: {name: storage}
spec:
  remote:
    type: External
    external:
      address: 192.0.2.10
      identity: {type: FQDN, value: array1.example.com}
      localIdentity: {type: KeyID, value: db-3}
  traffic: {type: Custom, selectors: [{protocol: 6, remotePort: 2049}]}
  childSA: {initiation: Eager, encapsulation: Always}
  auth: {type: PSK, psk: {secretRef: {name: storage, key: psk}}}
";

const NODES: &str = "
apiVersion: ipsecmesh.io/v1alpha1
kind: IPsecTunnel
metadata: {name: mesh}
spec:
  remote: {nodes: {nodeSelector: {matchLabels: {role: db}}}}
  traffic: {overlay: [{protocol: 17, port: 4789}]}
---
apiVersion: ipsecmesh.io/v1alpha1
kind: IPsecPeer
metadata: {name: a}
spec: {nodeUID: a, identity: a.example.com, addresses: [192.0.2.1]}
---
apiVersion: ipsecmesh.io/v1alpha1
kind: IPsecPeer
metadata: {name: b, labels: {role: db}}
spec: {nodeUID: b, identity: b.example.com, addresses: [192.0.2.2]}
---
";

fn psk(folder: &Path, content: &str) {
    secret(folder, "psk", content);
}

fn secret(folder: &Path, name: &str, content: &str) {
    let secret = folder.join("secrets/storage");
    fs::create_dir_all(&secret).expect("made");
    fs::write(secret.join(name), content).expect("written");
    fs::set_permissions(secret.join(name), fs::Permissions::from_mode(0o600)).expect("mode");
}

fn reader(folder: &Path, name: &str) -> Reader {
    Reader::new(folder.to_owned(), name, ipsecmesh_crypto::PROVIDERS[0])
}

fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).expect("written");
}

#[test]
fn a_tunnel_to_an_external_peer_is_read_with_its_key() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), "storage.yaml", STORAGE);
    psk(folder.path(), &"k".repeat(40));
    let snapshot = reader(folder.path(), "db-3").look();
    assert_eq!(snapshot.refused, BTreeMap::new());
    assert!(snapshot.synced);
    let tunnel = &snapshot.tunnels[0];
    assert_eq!(
        tunnel.rollout.map(|rollout| rollout.phase),
        Some(Phase::Enforcing)
    );
    let external = tunnel.external().expect("external");
    assert_eq!(external.address, "192.0.2.10");
    assert_eq!(
        external.identity,
        Some(Identity::Fqdn("array1.example.com".to_owned()))
    );
    assert_eq!(external.local_identity, Some(Identity::KeyId(b"db-3".to_vec())));
    assert_eq!(external.auth, ExternalAuth::Psk);
    assert_eq!(external.selectors[0].remote_port, Some(2049));
    assert_eq!(snapshot.psks["storage"].current.len(), 40);
    let own = snapshot.own.expect("this host");
    assert!(
        own.membership("storage")
            .is_some_and(|member| member.local && !member.remote)
    );
}

#[test]
fn a_post_quantum_preshared_key_is_read_beside_the_other_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let auth = "  auth:\n    type: PSK\n    psk: {secretRef: {name: storage, key: psk}}\n    ppk: {id: vault-7, secretRef: \
                {name: storage, key: ppk}, required: false}\n";
    let (head, _) = STORAGE.split_once("  auth:").expect("the last line");
    write(folder.path(), "storage.yaml", &format!("{head}{auth}"));
    psk(folder.path(), &"k".repeat(40));
    let mut reader = reader(folder.path(), "db-3");
    let refused = reader.look().refused;
    assert!(
        refused["IPsecTunnel storage"]
            .starts_with("spec.auth.ppk.secretRef: secrets/storage/ppk does not exist"),
        "{refused:?}"
    );
    secret(folder.path(), "ppk", &"q".repeat(33));
    let snapshot = reader.look();
    assert_eq!(snapshot.refused, BTreeMap::new());
    assert_eq!(snapshot.ppks["storage"].current.len(), 33);
    let external = snapshot.tunnels[0].external().expect("external");
    assert_eq!(external.ppk, Some(("vault-7".to_owned(), false)));
}

#[test]
fn selectors_choose_members_among_the_peers_of_the_files() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), "mesh.yml", NODES);
    let snapshot = reader(folder.path(), "a").look();
    let missing = snapshot.refused.values().map(String::as_str).collect::<Vec<_>>();
    assert!(
        missing.len() == 1 && missing[0].contains("certificates/default/tls.crt"),
        "{missing:?}"
    );
    let own = snapshot.own.expect("this host");
    assert_eq!(own.identity, "a.example.com");
    let own = own.membership("mesh").expect("a member");
    assert_eq!((own.local, own.remote), (true, false));
    let other = snapshot.peers[0].membership("mesh").expect("a member");
    assert_eq!((other.local, other.remote), (true, true));
    assert_eq!(snapshot.tunnels[0].overlay.len(), 1);
}

#[test]
fn a_fault_names_file_document_object_and_field() {
    let folder = tempfile::tempdir().expect("a folder");
    let bad = NODES.replace("spec: {nodeUID: b, ", "spec: {colour: red, nodeUID: 7, ");
    write(folder.path(), "mesh.yaml", &bad);
    write(folder.path(), "storage.yaml", &STORAGE.replace("Eager", "eager"));
    let refused = reader(folder.path(), "a").look().refused;
    let mesh = &refused["mesh.yaml"];
    assert!(
        mesh.contains("mesh.yaml:17: IPsecPeer \"b\": spec.colour: unknown field"),
        "{mesh}"
    );
    assert!(mesh.contains("spec.nodeUID: Invalid value"), "{mesh}");
    let storage = &refused["storage.yaml"];
    let expected =
        "storage.yaml:13: IPsecTunnel \"storage\": spec.childSA.initiation: Unsupported value: \"eager\"";
    assert!(storage.contains(expected), "{storage}");
}

#[test]
fn a_broken_file_keeps_what_it_held_and_a_lost_one_goes_at_the_second_look() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), "storage.yaml", STORAGE);
    psk(folder.path(), &"k".repeat(40));
    let mut reader = reader(folder.path(), "db-3");
    let good = reader.look();
    write(folder.path(), "storage.yaml", &STORAGE[..200]);
    let half = reader.look();
    assert_eq!((&half.tunnels, &half.psks), (&good.tunnels, &good.psks));
    assert!(
        half.refused["storage.yaml"].contains("stays in force"),
        "{:?}",
        half.refused
    );
    // As `> file` leaves it for a moment.
    write(folder.path(), "storage.yaml", "");
    assert_eq!(reader.look().tunnels, good.tunnels);
    assert!(reader.look().tunnels.is_empty());
    write(folder.path(), "storage.yaml", STORAGE);
    assert_eq!(reader.look(), good);
    fs::remove_file(folder.path().join("storage.yaml")).expect("removed");
    assert_eq!(reader.look(), good);
    assert!(reader.look().tunnels.is_empty());
}

#[test]
fn what_must_not_change_does_not_and_twins_are_told_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), "a.yaml", STORAGE);
    psk(folder.path(), &"k".repeat(40));
    let mut reader = reader(folder.path(), "db-3");
    reader.look();
    let nodes = "apiVersion: ipsecmesh.io/v1alpha1\nkind: IPsecTunnel\nmetadata: {name: storage}\nspec: {}\n";
    write(folder.path(), "a.yaml", nodes);
    let refused = reader.look().refused;
    assert!(
        refused["a.yaml"].contains("remote.type is immutable"),
        "{refused:?}"
    );
    write(folder.path(), "a.yaml", STORAGE);
    write(folder.path(), "b.yaml", STORAGE);
    let refused = reader.look().refused;
    let twin = &refused["IPsecTunnel storage"];
    assert!(
        twin.contains("b.yaml:4: ") && twin.contains("stands at a.yaml:2 already"),
        "{twin}"
    );
}

#[test]
fn keys_are_asked_for_and_an_overlay_that_nobody_detects_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), "storage.yaml", STORAGE);
    write(
        folder.path(),
        "mesh.yaml",
        &NODES.replace("traffic: {overlay: [{protocol: 17, port: 4789}]}", "priority: 7"),
    );
    let refused = reader(folder.path(), "a").look().refused;
    assert!(
        refused["IPsecTunnel storage"].contains("secrets/storage/psk does not exist"),
        "{refused:?}"
    );
    assert!(
        refused["IPsecTunnel mesh"].contains("spec.traffic.overlay: Required value"),
        "{refused:?}"
    );
}

/// Keys and certificates are not there; the objects themselves have no fault.
#[test]
fn the_objects_of_the_documentation_are_accepted() {
    let document = include_str!("../../../../docs/STANDALONE.md");
    let blocks = document.split("```yaml\n").skip(1);
    let texts: Vec<&str> = blocks.filter_map(|block| block.split("```").next()).collect();
    assert!(texts.len() >= 2);
    for text in texts {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), "all.yaml", text);
        let snapshot = reader(folder.path(), "left").look();
        assert_eq!(snapshot.tunnels.len(), 1, "{text}");
        assert!(snapshot.tunnels[0].is_negotiable(), "{text}");
        for problem in snapshot.refused.values().flat_map(|problem| problem.lines()) {
            let missing = problem.contains("does not exist") || problem.contains("No such file");
            assert!(missing, "{problem}");
        }
    }
}

#[test]
fn a_certificate_that_does_not_carry_the_own_name_is_told_before_a_peer_refuses_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = folder.path().join("certificates/default");
    fs::create_dir_all(&files).expect("made");
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(vec!["a.example.com".to_owned()])
        .and_then(|parameters| parameters.self_signed(&key))
        .expect("a certificate");
    fs::write(files.join("ca.crt"), certificate.pem()).expect("written");
    fs::write(files.join("tls.crt"), certificate.pem()).expect("written");
    fs::write(files.join("tls.key"), key.serialize_pem()).expect("written");
    fs::set_permissions(files.join("tls.key"), fs::Permissions::from_mode(0o600)).expect("mode");
    write(folder.path(), "mesh.yaml", NODES);
    assert_eq!(reader(folder.path(), "a").look().refused, BTreeMap::new());
    let refused = reader(folder.path(), "b").look().refused;
    let told = &refused["IPsecPeer b"];
    let expected = "spec.identity: certificates/default/tls.crt does not carry FQDN b.example.com, only FQDN a.example.com";
    assert!(told.starts_with(expected), "{told}");

    // The roots that were read stay while the file is being written.
    let mut reader = reader(folder.path(), "a");
    let good = reader.look();
    fs::write(files.join("ca.crt"), "half").expect("written");
    let half = reader.look();
    assert_eq!(half.authorities, good.authorities);
    let told = &half.refused["IPsecTunnel mesh"];
    assert!(
        told.contains("certificates/default/ca.crt") && told.contains("stay in force"),
        "{told}"
    );
}
