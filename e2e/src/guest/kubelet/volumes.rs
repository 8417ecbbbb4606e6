//! Volumes: folders of the node that containers get mounted, filled from ConfigMaps, Secrets, fields and tokens.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Component, Path, PathBuf},
    time::Duration,
};

use k8s_openapi::{
    api::{
        authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
        core::v1::{
            DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, Pod, ServiceAccount,
            ServiceAccountTokenProjection, Volume, VolumeProjection,
        },
    },
    jiff::Timestamp,
};
use kube::{Api, Client, ResourceExt as _, api::PostParams};
use tokio::time::sleep;
use tracing::warn;

use super::{
    PodError,
    values::{Content, Fields, Sources},
};

/// Folder of all pods' volumes; tmpfs, so that tokens never reach a disk.
pub(super) const PODS: &str = "/run/lab/pods";
/// Life of a token that does not name one.
const TOKEN_LIFE: i64 = 3607;

/// A pod's volumes by name.
#[derive(Debug, Default)]
pub(super) struct Volumes {
    /// Where each one is on the node.
    pub(super) paths: BTreeMap<String, PathBuf>,
    /// Tokens to renew.
    pub(super) tokens: Vec<TokenFile>,
}

/// A projected token.
#[derive(Clone, Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    audiences: Vec<String>,
    life: i64,
    owner: Owner,
    expires: Timestamp,
}

/// Who may read projected files.
#[derive(Clone, Copy, Debug)]
struct Owner {
    user: Option<u32>,
    group: Option<u32>,
}

/// Makes and fills all volumes of a pod.
pub(super) async fn prepare(client: &Client, fields: &Fields<'_>) -> Result<Volumes, PodError> {
    let pod = fields.pod;
    let mut maker = Maker {
        client,
        fields,
        sources: Sources::new(client, &pod.namespace().unwrap_or_default()),
        folder: Path::new(PODS)
            .join(pod.uid().unwrap_or_default())
            .join("volumes"),
        owner: owner(pod),
        tokens: Vec::new(),
    };
    let mut paths = BTreeMap::new();
    for volume in pod
        .spec
        .as_ref()
        .and_then(|spec| spec.volumes.as_deref())
        .unwrap_or_default()
    {
        let path = maker.volume(volume).await.map_err(|error| match error {
            PodError::Config(message) => PodError::config(format!("volume {}: {message}", volume.name)),
            other @ (PodError::Api(_) | PodError::Io(_)) => other,
        })?;
        paths.insert(volume.name.clone(), path);
    }
    Ok(Volumes {
        paths,
        tokens: maker.tokens,
    })
}

/// Renews tokens when four fifths of their life are over; ends only by being aborted.
pub(super) async fn renew(client: Client, pod: std::sync::Arc<Pod>, mut tokens: Vec<TokenFile>) {
    loop {
        let Some(token) = tokens.iter_mut().min_by_key(|token| token.expires) else {
            return;
        };
        let left = token.expires.as_second() - Timestamp::now().as_second() - token.life / 5;
        sleep(Duration::from_secs(u64::try_from(left).unwrap_or_default())).await;
        if let Err(error) = token.write(&client, &pod).await {
            warn!(pod = %pod.name_any(), %error, "token was not renewed");
            sleep(Duration::from_secs(5)).await;
        }
    }
}

impl TokenFile {
    /// Asks for a token bound to the pod and puts it in place at once.
    async fn write(&mut self, client: &Client, pod: &Pod) -> Result<(), PodError> {
        let account = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.service_account_name.as_deref())
            .unwrap_or("default");
        let accounts: Api<ServiceAccount> =
            Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: self.audiences.clone(),
                expiration_seconds: Some(self.life),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
            },
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(account, &PostParams::default(), &request)
            .await?;
        let status = answer
            .status
            .ok_or_else(|| PodError::config("the TokenRequest has no answer".into()))?;
        self.expires = status.expiration_timestamp.0;
        Ok(write_file(
            &self.path,
            status.token.as_bytes(),
            if self.owner.user.is_some() { 0o600 } else { 0o644 },
            self.owner,
        )?)
    }
}

struct Maker<'a> {
    client: &'a Client,
    fields: &'a Fields<'a>,
    sources: Sources,
    folder: PathBuf,
    owner: Owner,
    tokens: Vec<TokenFile>,
}

impl Maker<'_> {
    async fn volume(&mut self, volume: &Volume) -> Result<PathBuf, PodError> {
        if let Some(host) = &volume.host_path {
            return host_path(host);
        }
        let folder = self.folder.join(&volume.name);
        fs::create_dir_all(&folder)?;
        if volume.empty_dir.is_some() {
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o2777))?;
            chown(&folder, None, self.owner.group)?;
        } else if let Some(map) = &volume.config_map {
            let optional = map.optional == Some(true);
            self.keys(
                "ConfigMap",
                &map.name,
                optional,
                map.items.as_deref(),
                map.default_mode,
                &folder,
            )
            .await?;
        } else if let Some(secret) = &volume.secret {
            let name = secret.secret_name.clone().unwrap_or_default();
            let optional = secret.optional == Some(true);
            self.keys(
                "Secret",
                &name,
                optional,
                secret.items.as_deref(),
                secret.default_mode,
                &folder,
            )
            .await?;
        } else if let Some(downward) = &volume.downward_api {
            self.downward(downward.items.as_deref(), downward.default_mode, &folder)?;
        } else if let Some(projected) = &volume.projected {
            for source in projected.sources.iter().flatten() {
                self.projection(source, projected.default_mode, &folder).await?;
            }
        } else {
            let known = "emptyDir, hostPath, configMap, secret, downwardAPI and projected";
            return Err(PodError::config(format!("this kubelet mounts {known}")));
        }
        Ok(folder)
    }

    async fn projection(
        &mut self,
        source: &VolumeProjection,
        mode: Option<i32>,
        folder: &Path,
    ) -> Result<(), PodError> {
        if let Some(token) = &source.service_account_token {
            return self.token(token, folder).await;
        }
        if let Some(map) = &source.config_map {
            let optional = map.optional == Some(true);
            return self
                .keys(
                    "ConfigMap",
                    &map.name,
                    optional,
                    map.items.as_deref(),
                    mode,
                    folder,
                )
                .await;
        }
        if let Some(secret) = &source.secret {
            let optional = secret.optional == Some(true);
            return self
                .keys(
                    "Secret",
                    &secret.name,
                    optional,
                    secret.items.as_deref(),
                    mode,
                    folder,
                )
                .await;
        }
        if let Some(downward) = &source.downward_api {
            return self.downward(downward.items.as_deref(), mode, folder);
        }
        Err(PodError::config(
            "this kubelet projects tokens, ConfigMaps, Secrets and fields".into(),
        ))
    }

    async fn token(&mut self, token: &ServiceAccountTokenProjection, folder: &Path) -> Result<(), PodError> {
        let mut file = TokenFile {
            path: inside(folder, &token.path)?,
            audiences: token
                .audience
                .iter()
                .filter(|audience| !audience.is_empty())
                .cloned()
                .collect(),
            life: token.expiration_seconds.unwrap_or(TOKEN_LIFE),
            owner: self.owner,
            expires: Timestamp::UNIX_EPOCH,
        };
        file.write(self.client, self.fields.pod).await?;
        self.tokens.push(file);
        Ok(())
    }

    async fn keys(
        &mut self,
        kind: &'static str,
        name: &str,
        optional: bool,
        items: Option<&[KeyToPath]>,
        mode: Option<i32>,
        folder: &Path,
    ) -> Result<(), PodError> {
        let owner = self.owner;
        let Some(content) = self.sources.content(kind, name, optional).await? else {
            return Ok(());
        };
        for (path, item_mode, bytes) in selected(kind, name, content, items, optional)? {
            write_file(
                &inside(folder, &path)?,
                bytes,
                permissions(item_mode.or(mode)),
                owner,
            )?;
        }
        Ok(())
    }

    fn downward(
        &self,
        items: Option<&[DownwardAPIVolumeFile]>,
        mode: Option<i32>,
        folder: &Path,
    ) -> Result<(), PodError> {
        for item in items.unwrap_or_default() {
            let selector = item.field_ref.as_ref().ok_or_else(|| {
                PodError::config(format!(
                    "downwardAPI {}: this kubelet resolves fieldRef only",
                    item.path
                ))
            })?;
            let value = self.fields.value(selector)?;
            write_file(
                &inside(folder, &item.path)?,
                value.as_bytes(),
                permissions(item.mode.or(mode)),
                self.owner,
            )?;
        }
        Ok(())
    }
}

/// A file to write: its path in the volume, its mode, its content.
type Selected<'a> = (String, Option<i32>, &'a [u8]);

fn selected<'a>(
    kind: &str,
    name: &str,
    content: &'a Content,
    items: Option<&[KeyToPath]>,
    optional: bool,
) -> Result<Vec<Selected<'a>>, PodError> {
    let Some(items) = items else {
        return Ok(content
            .iter()
            .map(|(key, bytes)| (key.clone(), None, bytes.as_slice()))
            .collect());
    };
    let mut files = Vec::new();
    for item in items {
        match content.get(&item.key) {
            Some(bytes) => files.push((item.path.clone(), item.mode, bytes.as_slice())),
            None if optional => {}
            None => return Err(PodError::config(format!("{kind} {name} has no key {}", item.key))),
        }
    }
    Ok(files)
}

/// Token files belong to the one user that the pod runs as, or to everyone in it, as the real kubelet decides.
fn owner(pod: &Pod) -> Owner {
    let spec = pod.spec.as_ref();
    let context = spec.and_then(|spec| spec.security_context.as_ref());
    let common = context.and_then(|context| context.run_as_user);
    let users = spec
        .into_iter()
        .flat_map(|spec| &spec.containers)
        .map(|container| {
            container
                .security_context
                .as_ref()
                .and_then(|context| context.run_as_user)
                .or(common)
        });
    let mut users: Vec<_> = users.collect();
    users.dedup();
    let user = match users.as_slice() {
        [Some(user)] => u32::try_from(*user).ok(),
        _ => None,
    };
    Owner {
        user,
        group: context
            .and_then(|context| context.fs_group)
            .and_then(|group| u32::try_from(group).ok()),
    }
}

fn host_path(host: &HostPathVolumeSource) -> Result<PathBuf, PodError> {
    let path = PathBuf::from(&host.path);
    let wanted = host.type_.as_deref().unwrap_or_default();
    let refused = |error: io::Error| PodError::config(format!("hostPath {}: {error}", host.path));
    match wanted {
        "DirectoryOrCreate" => fs::create_dir_all(&path).map_err(refused)?,
        "FileOrCreate" if !path.exists() => fs::write(&path, "").map_err(refused)?,
        _ => {}
    }
    let fits = match wanted {
        "Directory" | "DirectoryOrCreate" => path.is_dir(),
        "File" | "FileOrCreate" => path.is_file(),
        _ => path.exists(),
    };
    if fits {
        Ok(path)
    } else {
        Err(PodError::config(format!(
            "hostPath {}: is no {wanted} on this node",
            host.path
        )))
    }
}

/// A relative path that stays in its volume.
fn inside(folder: &Path, path: &str) -> Result<PathBuf, PodError> {
    let relative = Path::new(path);
    if relative
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
    {
        return Ok(folder.join(relative));
    }
    Err(PodError::config(format!(
        "path {path}: must stay inside the volume"
    )))
}

fn permissions(mode: Option<i32>) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(0o644)
}

/// Whoever reads the file sees all of it; a group of the pod may read it too.
fn write_file(path: &Path, content: &[u8], mode: u32, owner: Owner) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let partial = path.with_extension("part");
    fs::write(&partial, content)?;
    chown(&partial, owner.user, owner.group)?;
    let group_read = if owner.group.is_some() { 0o040 } else { 0 };
    fs::set_permissions(&partial, fs::Permissions::from_mode(mode | group_read))?;
    fs::rename(&partial, path)
}
