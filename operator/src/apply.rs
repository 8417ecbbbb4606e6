//! Writes to the API server: server-side apply, guarded by the version that the plan was made from.
//!
//! Plans are made from stores, which lag behind. Every write therefore names the resource version that it was planned
//! from; the API server refuses it when that is no longer the present one, and the newer version, which is on its way to
//! the store, starts the reconciliation again.

use std::fmt::Debug;

use ipsecmesh_crds::CONTROLLER_FIELD_MANAGER;
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::metrics::Metrics;

/// Why a reconciliation did not finish; it is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The API server refused or did not answer.
    #[error("cannot {action} {kind} {name}: {}", cause(source))]
    Api {
        /// The verb, for a person.
        action: &'static str,
        /// The kind.
        kind: String,
        /// The object.
        name: String,
        /// What the client says.
        #[source]
        source: kube::Error,
    },
    /// A certificate could not be made.
    #[error(transparent)]
    Authority(#[from] crate::pki::ca::CaError),
    /// An object does not serialize.
    #[error("cannot serialize: {0}")]
    Serialize(#[from] serde_json::Error),
}

impl Error {
    /// Wraps what the client says about one object.
    pub(crate) fn api<K>(action: &'static str, name: &str) -> impl FnOnce(kube::Error) -> Self
    where
        K: Resource<DynamicType = ()>,
    {
        move |source| Self::Api {
            action,
            kind: K::kind(&()).into_owned(),
            name: name.to_owned(),
            source,
        }
    }

    /// Whether the object changed since the plan was made: not a failure, the change starts the next attempt.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { source: kube::Error::Api(status), .. } if status.code == 409)
    }

    /// Whether the object is gone.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Api { source: kube::Error::Api(status), .. } if status.code == 404)
    }
}

/// Writes objects and counts the writes.
#[derive(Clone, Copy)]
pub(crate) struct Writer<'a> {
    /// Where writes are counted.
    pub(crate) metrics: &'a Metrics,
}

impl Writer<'_> {
    /// Applies a whole object that the operator owns.
    pub(crate) async fn apply<K>(&self, api: &Api<K>, object: &K) -> Result<K, Error>
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
    {
        let name = object.name_any();
        self.metrics.wrote(&K::kind(&()));
        api.patch(&name, &params(), &Patch::Apply(object))
            .await
            .map_err(Error::api::<K>("apply", &name))
    }

    /// Applies the status of `object`, as planned from exactly this version of it.
    pub(crate) async fn apply_status<K>(
        &self,
        api: &Api<K>,
        object: &K,
        status: &impl Serialize,
    ) -> Result<K, Error>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
    {
        let name = object.name_any();
        let mut body = identified(object);
        body["status"] = serde_json::to_value(status)?;
        self.metrics.wrote(&K::kind(&()));
        let result = api.patch_status(&name, &params(), &Patch::Apply(&body)).await;
        result.map_err(Error::api::<K>("apply the status of", &name))
    }

    /// Sets or removes our finalizer on `object`.
    pub(crate) async fn set_finalizer<K>(&self, api: &Api<K>, object: &K, present: bool) -> Result<K, Error>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
    {
        let name = object.name_any();
        let mut body = identified(object);
        if present {
            body["metadata"]["finalizers"] = json!([ipsecmesh_crds::FINALIZER]);
        }
        self.metrics.wrote(&K::kind(&()));
        let result = api.patch(&name, &params(), &Patch::Apply(&body)).await;
        result.map_err(Error::api::<K>("set the finalizer of", &name))
    }
}

/// What the API server says, without the debug form of its whole answer.
fn cause(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        status.message.clone()
    } else {
        error.to_string()
    }
}

fn params() -> PatchParams {
    PatchParams::apply(CONTROLLER_FIELD_MANAGER).force()
}

/// The head of an apply: with UID and version it can neither create an object nor overwrite a newer one.
fn identified<K: Resource<DynamicType = ()>>(object: &K) -> Value {
    json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {
            "name": object.meta().name,
            "uid": object.meta().uid,
            "resourceVersion": object.meta().resource_version,
        },
    })
}
