//! How peers prove who they are.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Name of the authority that is meant where none is named.
pub const DEFAULT_AUTHORITY: &str = "default";

/// Authentication: a union, discriminated by `type`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.type == 'PSK' ? has(self.psk) : !has(self.psk)")
        .message("auth.psk is required when auth.type is PSK, and forbidden otherwise")
        .field_path(".psk"),
    validation = Rule::new("self.type == 'Certificate' || !has(self.certificate)")
        .message("auth.certificate is forbidden when auth.type is PSK")
        .field_path(".certificate")
)]
pub struct Auth {
    /// Certificates, or a pre-shared key.
    #[serde(default, rename = "type")]
    pub type_: AuthType,
    /// Certificates, with type Certificate; of the authority `default` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateAuth>,
    /// The pre-shared key, with type PSK.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub psk: Option<PskAuth>,
    /// A post-quantum preshared key (RFC 8784), mixed into the keys besides either type: for external peers without
    /// ML-KEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ppk: Option<PpkAuth>,
}

impl Auth {
    /// Name of the authority whose certificates authenticate the peers; `None` with pre-shared keys.
    pub fn authority(&self) -> Option<&str> {
        match (self.type_, &self.certificate) {
            (AuthType::Certificate, Some(certificate)) => Some(&certificate.authority_ref.name),
            (AuthType::Certificate, None) => Some(DEFAULT_AUTHORITY),
            (AuthType::Psk, _) => None,
        }
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            type_: AuthType::Certificate,
            certificate: Some(CertificateAuth::default()),
            psk: None,
            ppk: None,
        }
    }
}

/// Kinds of authentication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum AuthType {
    /// Certificates of an `IPsecAuthority`.
    #[default]
    Certificate,
    /// A pre-shared key.
    #[serde(rename = "PSK")]
    Psk,
}

/// Authentication by certificates.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CertificateAuth {
    /// The authority that signs the nodes' certificates.
    #[serde(default)]
    pub authority_ref: AuthorityRef,
    /// A `ConfigMap` in the operator's namespace that holds an external peer's authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_bundle_ref: Option<TrustBundleRef>,
}

/// Names an `IPsecAuthority`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AuthorityRef {
    /// Name of the `IPsecAuthority`.
    #[serde(default = "default_authority")]
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

impl Default for AuthorityRef {
    fn default() -> Self {
        Self {
            name: default_authority(),
        }
    }
}

/// A key of a `ConfigMap` in the operator's namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TrustBundleRef {
    /// Name of the `ConfigMap`.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in it.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// Authentication by a pre-shared key.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PskAuth {
    /// The Secret, of type `ipsecmesh.io/psk` and in the operator's namespace.
    pub secret_ref: SecretKeyRef,
}

/// A post-quantum preshared key.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PpkAuth {
    /// Its name at both ends.
    #[schemars(length(min = 1, max = 64))]
    pub id: String,
    /// The key: at least 32 bytes.
    pub secret_ref: SecretKeyRef,
    /// While true, there is no SA with a peer that does not have the key. While false, a peer that has none is accepted
    /// without it; one that proves itself with a wrong key never is.
    #[serde(default = "default_required")]
    pub required: bool,
}

impl Default for PpkAuth {
    fn default() -> Self {
        Self {
            id: String::new(),
            secret_ref: SecretKeyRef::default(),
            required: default_required(),
        }
    }
}

/// A key of a Secret in the operator's namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in it; `<key>-previous` holds the one before, during a change.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

const fn default_required() -> bool {
    true
}

fn default_authority() -> String {
    DEFAULT_AUTHORITY.to_owned()
}
