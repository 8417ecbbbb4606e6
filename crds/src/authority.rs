//! `IPsecAuthority`: a certificate authority for nodes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{schema::conditions, tunnel::TrustBundleRef, units::ApiDuration};

/// An authority that signs the nodes' certificates.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "ipsecmesh.io",
    version = "v1alpha1",
    kind = "IPsecAuthority",
    plural = "ipsecauthorities",
    shortname = "iauth",
    category = "ipsec",
    doc = "IPsecAuthority is a certificate authority that signs the certificates of nodes.",
    status = "IPsecAuthorityStatus",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(name = "Step", type_ = "string", json_path = ".status.rotation.step"),
    printcolumn(name = "CA Expires", type_ = "string", json_path = ".status.activeCA.notAfter"),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".status.summary.nodes"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 63")
        .message("metadata.name must be at most 63 characters")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.type == 'CASecret' ? has(self.caSecret) : !has(self.caSecret)")
        .message("caSecret is required when type is CASecret, and forbidden otherwise")
        .field_path(".caSecret"),
    validation = Rule::new("self.type == 'CertManager' ? has(self.certManager) : !has(self.certManager)")
        .message("certManager is required when type is CertManager, and forbidden otherwise")
        .field_path(".certManager"),
    validation = Rule::new("self.type == 'External' ? has(self.external) : !has(self.external)")
        .message("external is required when type is External, and forbidden otherwise")
        .field_path(".external"),
    validation = Rule::new("duration(self.rotation.overlap) >= duration(self.nodeCertificate.lifetime)")
        .message("rotation.overlap must not be shorter than nodeCertificate.lifetime")
        .field_path(".rotation.overlap"),
    validation = Rule::new("duration(self.caLifetime) > duration(self.nodeCertificate.lifetime)")
        .message("caLifetime must be longer than nodeCertificate.lifetime")
        .field_path(".caLifetime")
)]
pub struct IPsecAuthoritySpec {
    /// Where the authority's key lives.
    #[serde(default, rename = "type")]
    pub type_: AuthorityType,
    /// The domain that all identities end in; immutable.
    #[serde(default = "default_trust_domain")]
    #[schemars(
        length(min = 1, max = 128),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?([.][a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$")
    )]
    #[x_kube(validation = Rule::new("self == oldSelf").message("trustDomain is immutable: certificates and peers hold it; create another IPsecAuthority"))]
    pub trust_domain: String,
    /// Lifetime of a root of type `SelfSigned`.
    #[serde(default = "default_ca_lifetime")]
    pub ca_lifetime: ApiDuration,
    /// The nodes' certificates.
    #[serde(default)]
    pub node_certificate: NodeCertificate,
    /// When the root is replaced.
    #[serde(default)]
    pub rotation: Rotation,
    /// The Secret, with type `CASecret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<CaSecretRef>,
    /// The issuer, with type `CertManager`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_manager: Option<CertManagerIssuer>,
    /// The signer, with type External.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalSigner>,
}

impl Default for IPsecAuthoritySpec {
    fn default() -> Self {
        Self {
            type_: AuthorityType::default(),
            trust_domain: default_trust_domain(),
            ca_lifetime: default_ca_lifetime(),
            node_certificate: NodeCertificate::default(),
            rotation: Rotation::default(),
            ca_secret: None,
            cert_manager: None,
            external: None,
        }
    }
}

/// Kinds of authorities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum AuthorityType {
    /// The operator makes the root and keeps its key in a Secret.
    #[default]
    SelfSigned,
    /// The root comes in a Secret.
    #[serde(rename = "CASecret")]
    CaSecret,
    /// cert-manager signs.
    CertManager,
    /// Another signer of `CertificateSigningRequest`s.
    External,
}

/// The nodes' certificates.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeCertificate {
    /// Lifetime: 1h to 2184h. Half of it is the outage of the control plane that the mesh survives.
    #[serde(default = "default_leaf_lifetime")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1h') && duration(self) <= duration('2184h')")
        .message("nodeCertificate.lifetime must be between 1h and 2184h"))]
    pub lifetime: ApiDuration,
    /// Share of the lifetime after which a certificate is renewed.
    #[serde(default = "default_renew_at")]
    #[schemars(range(min = 10, max = 90))]
    pub renew_at_percent: u8,
    /// How certificates reach the nodes.
    #[serde(default)]
    pub delivery: Delivery,
}

impl Default for NodeCertificate {
    fn default() -> Self {
        Self {
            lifetime: default_leaf_lifetime(),
            renew_at_percent: default_renew_at(),
            delivery: Delivery::default(),
        }
    }
}

/// How certificates reach the nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Delivery {
    /// `CertificateSigningRequest` of the agent.
    #[default]
    #[serde(rename = "CSR")]
    Csr,
    /// `PodCertificateRequest` of the kubelet.
    PodCertificate,
}

/// When the root is replaced.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    /// Raised by one, it replaces the root now.
    #[serde(default)]
    #[schemars(range(min = 0))]
    #[x_kube(validation = Rule::new("self >= oldSelf").message("rotation.generation may only rise"))]
    pub generation: i64,
    /// How long the old root stays trusted.
    #[serde(default = "default_leaf_lifetime")]
    pub overlap: ApiDuration,
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            generation: 0,
            overlap: default_leaf_lifetime(),
        }
    }
}

/// A Secret in the operator's namespace with a root and its key.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CaSecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// An issuer of cert-manager.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CertManagerIssuer {
    /// Name of the issuer.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its kind, such as `ClusterIssuer`.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Its API group.
    #[schemars(length(min = 1, max = 253))]
    pub group: String,
}

/// Another signer.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ExternalSigner {
    /// Its signer name.
    #[schemars(length(min = 1, max = 253))]
    pub signer_name: String,
    /// Its roots.
    pub trust_bundle_ref: TrustBundleRef,
}

/// Status of an authority; the operator writes all of it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct IPsecAuthorityStatus {
    /// The generation that the status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where a rotation stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<RotationStatus>,
    /// The root that signs.
    #[serde(default, rename = "activeCA", skip_serializing_if = "Option::is_none")]
    pub active_ca: Option<RootCertificate>,
    /// All roots that are trusted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub trusted: Vec<RootCertificate>,
    /// The trusted roots, in PEM; public.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32768))]
    pub bundle: Option<String>,
    /// Fingerprint of the bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub bundle_hash: Option<String>,
    /// How many nodes follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<AuthorityNodes>,
    /// Text for the columns of `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<AuthoritySummary>,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

/// Where a rotation stands.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RotationStatus {
    /// The `rotation.generation` that the step belongs to.
    #[serde(default)]
    pub observed_generation: i64,
    /// The step.
    #[serde(default)]
    pub step: RotationStep,
}

/// Steps of a rotation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RotationStep {
    /// None runs.
    #[default]
    Idle,
    /// The new root is published.
    Publishing,
    /// The new root signs.
    Issuing,
    /// Nodes get certificates of the new root.
    Reissuing,
    /// Both roots are trusted.
    Overlap,
    /// The old root is dropped.
    Retiring,
}

/// A root certificate.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RootCertificate {
    /// SHA-256 of the certificate.
    #[schemars(length(max = 128))]
    pub fingerprint: String,
    /// When it ends.
    pub not_after: Time,
}

/// How many nodes follow an authority.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AuthorityNodes {
    /// Linux nodes.
    #[serde(default)]
    pub total: u32,
    /// Nodes that trust the present bundle.
    #[serde(default)]
    pub trusting_bundle: u32,
    /// Nodes whose certificate the active root signed.
    #[serde(default)]
    pub issued_by_active: u32,
}

/// Text for the columns of `kubectl get`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AuthoritySummary {
    /// Nodes with a certificate of the active root, such as `42/42`.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub nodes: String,
}

fn default_trust_domain() -> String {
    "ipsecmesh.local".to_owned()
}

const fn default_ca_lifetime() -> ApiDuration {
    ApiDuration::from_hours(8760)
}

const fn default_leaf_lifetime() -> ApiDuration {
    ApiDuration::from_hours(168)
}

const fn default_renew_at() -> u8 {
    50
}
