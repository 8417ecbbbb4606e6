//! The cluster's certificates: one CA, the API server's, and a client certificate per identity.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};

use super::network;
use crate::error::{Context, Error, Result};

/// The cluster's CA and the folder with everything it signed.
#[derive(Debug)]
pub struct Pki {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// Where a certificate and its key lie.
#[derive(Clone, Debug)]
pub struct Credential {
    /// PEM certificate.
    pub certificate: PathBuf,
    /// PEM key (PKCS#8).
    pub key: PathBuf,
}

impl Pki {
    /// Makes the CA, the API server's certificate and the service-account key in `folder`.
    pub fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).context(|| format!("make {}", folder.display()))?;
        let mut params = lifetime(CertificateParams::default());
        params.distinguished_name = name("ipsecmesh-lab", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let issuer = CertifiedIssuer::self_signed(params, key()?).map_err(signing)?;
        let pki = Self {
            folder: folder.into(),
            issuer,
        };
        pki.write("ca.crt", &pki.issuer.pem())?;
        pki.write("ca.key", &pki.issuer.key().serialize_pem())?;
        let service_account = key()?;
        pki.write("service-account.key", &service_account.serialize_pem())?;
        pki.write("service-account.pub", &service_account.public_key_pem())?;
        pki.api_server()?;
        Ok(pki)
    }

    /// A file of the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A client certificate: user name, and group if any.
    pub fn client(&self, file: &str, user: &str, group: Option<&str>) -> Result<Credential> {
        let mut params = lifetime(CertificateParams::default());
        params.distinguished_name = name(user, group);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(file, &params)
    }

    fn api_server(&self) -> Result<Credential> {
        let names = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
        ];
        let addresses = [
            network::HOST_ADDRESS,
            Ipv4Addr::new(10, 96, 0, 1),
            Ipv4Addr::LOCALHOST,
        ];
        let mut params = lifetime(CertificateParams::new(names.map(String::from)).map_err(signing)?);
        params
            .subject_alt_names
            .extend(addresses.map(|address| SanType::IpAddress(IpAddr::V4(address))));
        params.distinguished_name = name("kube-apiserver", None);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue("apiserver", &params)
    }

    fn issue(&self, file: &str, params: &CertificateParams) -> Result<Credential> {
        let key = key()?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(signing)?;
        Ok(Credential {
            certificate: self.write(&format!("{file}.crt"), &certificate.pem())?,
            key: self.write(&format!("{file}.key"), &key.serialize_pem())?,
        })
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let file = self.folder.join(name);
        fs::write(&file, text).context(|| format!("write {}", file.display()))?;
        Ok(file)
    }
}

fn key() -> Result<KeyPair> {
    KeyPair::generate().map_err(signing)
}

fn name(common: &str, organization: Option<&str>) -> rcgen::DistinguishedName {
    let mut name = rcgen::DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common);
    name
}

/// Valid for as long as a lab can possibly run, whatever the machine's clock says.
fn lifetime(mut params: CertificateParams) -> CertificateParams {
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2099, 1, 1);
    params
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn signing(error: rcgen::Error) -> Error {
    Error::observed(format!("lab certificate: {error}"))
}
