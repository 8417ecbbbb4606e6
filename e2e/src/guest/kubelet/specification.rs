//! From a Pod's container to a sandbox: image, command, environment, user, capabilities, mounts.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{
    Capabilities, Container as Asked, Pod, PodSecurityContext, SecurityContext,
};
use kube::{Client, ResourceExt as _};

use super::{
    PodError,
    values::{Fields, environment, expand},
    volumes::{PODS, Volumes},
};
use crate::{
    guest::sandbox::{
        Container,
        process::{Process, Rights},
        root::{Mount, Root},
    },
    protocol::{Image, NodeConfig},
};

/// What container runtimes leave a container that asks for nothing.
const DEFAULT_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Where a pod stands on this node.
#[derive(Debug)]
pub(super) struct Place {
    /// Its address; the node's own with `hostNetwork`.
    pub(super) address: Ipv4Addr,
    /// Its network namespace; absent with `hostNetwork`.
    pub(super) network: Option<PathBuf>,
    /// Its volumes.
    pub(super) volumes: Volumes,
}

/// The sandbox that a container asks for.
pub(super) async fn sandbox(
    client: &Client,
    node: &NodeConfig,
    pod: &Pod,
    place: &Place,
    asked: &Asked,
) -> Result<Container, PodError> {
    let reference = asked.image.as_deref().unwrap_or_default();
    let image = node
        .images
        .get(reference)
        .ok_or_else(|| PodError::config(format!("image {reference}: is not among the lab's images")))?;
    let fields = Fields {
        pod,
        address: Some(place.address),
        host: node.uplink.address.addr(),
    };
    let env = environment(client, asked, &fields, base_environment(node, pod)).await?;
    let folder = Path::new(PODS).join(pod.uid().unwrap_or_default());
    let name = &asked.name;
    Ok(Container {
        host_name: place
            .network
            .is_some()
            .then(|| pod.name_any().chars().take(63).collect()),
        network: place.network.clone(),
        root: Root {
            read_only: security(asked).and_then(|context| context.read_only_root_filesystem) == Some(true),
            entrypoint: NodeConfig::host_path(&image.binary),
            hosts: format!("127.0.0.1 localhost\n{} {}\n", place.address, pod.name_any()),
            mounts: mounts(asked, &place.volumes, &env)?,
        },
        process: Process {
            argv: argv(asked, image, &env),
            directory: asked.working_dir.clone().unwrap_or_else(|| "/".into()),
            rights: Some(rights(pod, asked, image)?),
            env,
        },
        pid_file: folder.join(format!("{name}.pid")),
        error_file: folder.join(format!("{name}.error")),
    })
}

fn base_environment(node: &NodeConfig, pod: &Pod) -> Vec<(String, String)> {
    let address = node
        .api_server
        .url
        .trim_start_matches("https://")
        .trim_end_matches('/');
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "443"));
    [
        (
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/",
        ),
        ("HOME", "/root"),
        ("HOSTNAME", &pod.name_any()),
        ("KUBERNETES_SERVICE_HOST", host),
        ("KUBERNETES_SERVICE_PORT", port),
        ("KUBERNETES_SERVICE_PORT_HTTPS", port),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .to_vec()
}

/// `command` replaces the entrypoint, and with it the image's arguments.
fn argv(asked: &Asked, image: &Image, env: &[(String, String)]) -> Vec<String> {
    let given = |list: &Option<Vec<String>>| list.clone().filter(|list| !list.is_empty());
    let name = image.binary.file_name().unwrap_or_default().to_string_lossy();
    let command = given(&asked.command);
    let default = if command.is_some() {
        Vec::new()
    } else {
        image.arguments.clone()
    };
    let arguments = given(&asked.args).unwrap_or(default);
    let command = command.unwrap_or_else(|| vec![format!("/{name}")]);
    command
        .into_iter()
        .chain(arguments)
        .map(|word| expand(&word, env))
        .collect()
}

fn mounts(asked: &Asked, volumes: &Volumes, env: &[(String, String)]) -> Result<Vec<Mount>, PodError> {
    let mount = |mount: &k8s_openapi::api::core::v1::VolumeMount| {
        let volume = volumes.paths.get(&mount.name);
        let volume =
            volume.ok_or_else(|| PodError::config(format!("volumeMounts {}: no such volume", mount.name)))?;
        let inner = mount
            .sub_path
            .clone()
            .or_else(|| mount.sub_path_expr.as_ref().map(|text| expand(text, env)));
        Ok(Mount {
            source: inner.map_or_else(|| volume.clone(), |inner| volume.join(inner)),
            target: PathBuf::from(&mount.mount_path),
            read_only: mount.read_only == Some(true),
        })
    };
    asked.volume_mounts.iter().flatten().map(mount).collect()
}

fn security(asked: &Asked) -> Option<&SecurityContext> {
    asked.security_context.as_ref()
}

fn rights(pod: &Pod, asked: &Asked, image: &Image) -> Result<Rights, PodError> {
    let none = (PodSecurityContext::default(), SecurityContext::default());
    let common = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.security_context.as_ref())
        .unwrap_or(&none.0);
    let own = security(asked).unwrap_or(&none.1);
    let number = |value: i64| {
        u32::try_from(value).map_err(|_| PodError::config(format!("user or group {value}: is too large")))
    };
    let user = match own.run_as_user.or(common.run_as_user) {
        Some(user) => number(user)?,
        None => image.user.unwrap_or(0),
    };
    if user == 0 && own.run_as_non_root.or(common.run_as_non_root) == Some(true) {
        return Err(PodError::config(
            "container has runAsNonRoot and image will run as root".into(),
        ));
    }
    let group = own
        .run_as_group
        .or(common.run_as_group)
        .map_or(Ok(image.user.unwrap_or(0)), number)?;
    let groups = common
        .supplemental_groups
        .iter()
        .flatten()
        .copied()
        .chain(common.fs_group);
    Ok(Rights {
        user,
        group,
        groups: groups.map(number).collect::<Result<_, _>>()?,
        capabilities: capabilities(own.capabilities.as_ref(), own.privileged == Some(true)),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
    })
}

fn capabilities(asked: Option<&Capabilities>, privileged: bool) -> Vec<String> {
    let all = || {
        caps::all()
            .iter()
            .map(ToString::to_string)
            .collect::<BTreeSet<_>>()
    };
    let canonical = |name: &String| caps::to_canonical(&name.to_uppercase());
    if privileged {
        return all().into_iter().collect();
    }
    let mut kept: BTreeSet<String> = DEFAULT_CAPABILITIES
        .iter()
        .map(|name| format!("CAP_{name}"))
        .collect();
    for name in asked.and_then(|asked| asked.drop.as_ref()).into_iter().flatten() {
        if name == "ALL" {
            kept.clear();
        } else {
            kept.remove(&canonical(name));
        }
    }
    for name in asked.and_then(|asked| asked.add.as_ref()).into_iter().flatten() {
        if name == "ALL" {
            kept.extend(all());
        } else {
            kept.insert(canonical(name));
        }
    }
    kept.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn exactly_what_was_added_is_left_after_drop_all() {
        let asked = Capabilities {
            drop: Some(words(&["ALL"])),
            add: Some(words(&["NET_ADMIN", "NET_BIND_SERVICE"])),
        };
        assert_eq!(
            capabilities(Some(&asked), false),
            ["CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE"]
        );
        assert!(capabilities(None, false).contains(&"CAP_NET_RAW".to_owned()));
        assert!(!capabilities(None, false).contains(&"CAP_NET_ADMIN".to_owned()));
    }

    #[test]
    fn a_command_drops_the_images_arguments() {
        let image = Image {
            binary: "/x/agent".into(),
            arguments: vec!["run".into()],
            user: None,
        };
        let plain = Asked::default();
        assert_eq!(argv(&plain, &image, &[]), ["/agent", "run"]);
        let command = Asked {
            command: Some(words(&["sh"])),
            ..Asked::default()
        };
        assert_eq!(argv(&command, &image, &[]), ["sh"]);
        let args = Asked {
            args: Some(words(&["probe"])),
            ..Asked::default()
        };
        assert_eq!(argv(&args, &image, &[]), ["/agent", "probe"]);
    }

    #[test]
    fn root_is_refused_where_it_must_not_be() {
        let image = Image {
            binary: "/x/agent".into(),
            arguments: Vec::new(),
            user: None,
        };
        let context = SecurityContext {
            run_as_non_root: Some(true),
            ..SecurityContext::default()
        };
        let asked = Asked {
            security_context: Some(context),
            ..Asked::default()
        };
        assert!(rights(&Pod::default(), &asked, &image).is_err());
        assert!(
            rights(
                &Pod::default(),
                &asked,
                &Image {
                    user: Some(65532),
                    ..image
                }
            )
            .is_ok()
        );
    }
}
