//! The Kubernetes control plane: etcd, kube-apiserver, kube-controller-manager and kube-scheduler as in any cluster.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;

use super::{
    cache::Tools,
    network::{HOST_ADDRESS, Network},
    pki::{Credential, Pki},
    process::Process,
    state::State,
    tools::Kubectl,
};
use crate::{
    error::{Context, Result, eventually},
    protocol::API_SERVER_PORT,
};

const SERVICE_NETWORK: &str = "10.96.0.0/16";
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const START: Duration = Duration::from_mins(1);

/// The control plane's processes and how to reach them.
#[derive(Debug)]
pub struct ControlPlane {
    program: PathBuf,
    folder: PathBuf,
    state: Arc<State>,
    server: String,
    kubectl: Kubectl,
    processes: Mutex<Processes>,
}

#[derive(Debug, Default)]
struct Processes {
    api_server: Option<Process>,
    others: Vec<Process>,
}

impl ControlPlane {
    /// Starts everything and waits until the API server is ready.
    pub fn start(
        folder: &Path,
        tools: &Tools,
        network: &Network,
        pki: &Pki,
        state: &Arc<State>,
    ) -> Result<Self> {
        let port = network.proxy(SocketAddr::from((HOST_ADDRESS, API_SERVER_PORT)))?;
        state.update(|record| record.api_port = port)?;
        let admin = pki.client("admin", "lab-admin", Some("system:masters"))?;
        let kubeconfig = folder.join("kubeconfig");
        let server = format!("https://127.0.0.1:{port}");
        write_kubeconfig(&kubeconfig, &server, &pki.file("ca.crt"), &client(&admin))?;
        let kubectl = Kubectl::new(folder, &tools.controlplane, &kubeconfig)?;
        let plane = Self {
            program: tools.controlplane.clone(),
            folder: folder.into(),
            state: state.clone(),
            server,
            kubectl,
            processes: Mutex::default(),
        };
        plane.start_etcd(network)?;
        plane.start_api_server(network)?;
        plane.start_controllers(network, pki)?;
        Ok(plane)
    }

    /// kubectl as the cluster's administrator.
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// kubectl with a bearer token, as whoever holds it could use it.
    pub fn kubectl_with_token(&self, token: &str) -> Result<Kubectl> {
        let holder = super::cache::path_hash(Path::new(token));
        let file = self.folder.join("pki").join(format!("{holder}.kubeconfig"));
        let user = serde_json::json!({"token": token});
        write_kubeconfig(&file, &self.server, &self.folder.join("pki/ca.crt"), &user)?;
        Ok(self.kubectl.with_kubeconfig(&file))
    }

    /// Every request that the API server finished, one JSON object per line.
    pub fn audit_log(&self) -> PathBuf {
        self.folder.join("log/audit.log")
    }

    /// Starts the API server, again after [`ControlPlane::stop_api_server`], and waits until it is ready.
    pub fn start_api_server(&self, network: &Network) -> Result<()> {
        let policy = self.folder.join("audit-policy.yaml");
        fs::write(&policy, AUDIT_POLICY).context(|| format!("write {}", policy.display()))?;
        let process = self.launch("kube-apiserver", network, &self.api_server_flags(&policy))?;
        self.processes().api_server = Some(process);
        eventually("the API server is ready", START, || {
            if let Some(process) = &self.processes().api_server {
                process.check()?;
            }
            self.kubectl.run(&["get", "--raw", "/readyz"])
        })?;
        Ok(())
    }

    /// Takes the API server away, as an outage does.
    pub fn stop_api_server(&self) -> Result<()> {
        let process = self.processes().api_server.take();
        process.map_or(Ok(()), |process| process.kill())
    }

    fn start_etcd(&self, network: &Network) -> Result<()> {
        let data = self.folder.join("etcd");
        let flags = [
            format!("--data-dir={}", data.display()),
            "--unsafe-no-fsync".into(),
            "--listen-client-urls=http://127.0.0.1:2379".into(),
            "--advertise-client-urls=http://127.0.0.1:2379".into(),
            "--listen-peer-urls=http://127.0.0.1:2380".into(),
            "--initial-advertise-peer-urls=http://127.0.0.1:2380".into(),
            "--initial-cluster=default=http://127.0.0.1:2380".into(),
            "--log-level=warn".into(),
        ];
        let process = self.launch("etcd", network, &flags)?;
        self.processes().others.push(process);
        Ok(())
    }

    fn start_controllers(&self, network: &Network, pki: &Pki) -> Result<()> {
        let server = format!("https://{HOST_ADDRESS}:{API_SERVER_PORT}");
        let kubeconfig = |name: &str| -> Result<PathBuf> {
            let credential = pki.client(name, &format!("system:{name}"), None)?;
            let file = self.folder.join("pki").join(format!("{name}.kubeconfig"));
            write_kubeconfig(&file, &server, &pki.file("ca.crt"), &client(&credential))?;
            Ok(file)
        };
        let manager = [
            format!(
                "--kubeconfig={}",
                kubeconfig("kube-controller-manager")?.display()
            ),
            "--use-service-account-credentials".into(),
            format!(
                "--service-account-private-key-file={}",
                pki.file("service-account.key").display()
            ),
            format!("--cluster-signing-cert-file={}", pki.file("ca.crt").display()),
            format!("--cluster-signing-key-file={}", pki.file("ca.key").display()),
            format!("--root-ca-file={}", pki.file("ca.crt").display()),
            "--leader-elect=false".into(),
            "--bind-address=127.0.0.1".into(),
            format!("--cert-dir={}", self.folder.join("pki/manager").display()),
        ];
        let scheduler = [
            format!("--kubeconfig={}", kubeconfig("kube-scheduler")?.display()),
            "--leader-elect=false".into(),
            "--bind-address=127.0.0.1".into(),
            format!("--cert-dir={}", self.folder.join("pki/scheduler").display()),
        ];
        let started = [
            self.launch("kube-controller-manager", network, &manager)?,
            self.launch("kube-scheduler", network, &scheduler)?,
        ];
        self.processes().others.extend(started);
        Ok(())
    }

    fn api_server_flags(&self, audit_policy: &Path) -> Vec<String> {
        let pki = |name: &str| self.folder.join("pki").join(name).display().to_string();
        vec![
            "--etcd-servers=http://127.0.0.1:2379".into(),
            format!("--advertise-address={HOST_ADDRESS}"),
            "--bind-address=0.0.0.0".into(),
            format!("--secure-port={API_SERVER_PORT}"),
            format!("--service-cluster-ip-range={SERVICE_NETWORK}"),
            format!("--client-ca-file={}", pki("ca.crt")),
            format!("--tls-cert-file={}", pki("apiserver.crt")),
            format!("--tls-private-key-file={}", pki("apiserver.key")),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            "--allow-privileged=true".into(),
            format!("--service-account-issuer={ISSUER}"),
            format!("--service-account-key-file={}", pki("service-account.pub")),
            format!(
                "--service-account-signing-key-file={}",
                pki("service-account.key")
            ),
            format!("--audit-policy-file={}", audit_policy.display()),
            format!("--audit-log-path={}", self.audit_log().display()),
            "--endpoint-reconciler-type=none".into(),
        ]
    }

    fn launch(&self, name: &str, network: &Network, flags: &[String]) -> Result<Process> {
        let arguments: Vec<String> = std::iter::once(name.to_owned())
            .chain(flags.iter().cloned())
            .collect();
        let log = self.folder.join("log").join(format!("{name}.log"));
        Process::start(name, network, &self.state, &self.program, &arguments, &log)
    }

    fn processes(&self) -> std::sync::MutexGuard<'_, Processes> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who asked for what, once per request and without bodies: enough to count the requests of a service account.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- level: Metadata
  userGroups: ['system:serviceaccounts:ipsecmesh-system']
- level: None
";

fn client(credential: &Credential) -> Value {
    serde_json::json!({"client-certificate": credential.certificate, "client-key": credential.key})
}

fn write_kubeconfig(file: &Path, server: &str, issuer: &Path, user: &Value) -> Result<()> {
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": {"server": server, "certificate-authority": issuer}}],
        "users": [{"name": "lab", "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
    });
    let text = serde_json::to_string_pretty(&config)
        .map_err(|error| crate::error::Error::observed(error.to_string()))?;
    fs::write(file, text).context(|| format!("write {}", file.display()))
}
