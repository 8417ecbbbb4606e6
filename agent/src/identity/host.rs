//! The certificate of a host without a cluster: chain and key as somebody else has issued them, in PEM.

use ipsecmesh_crypto::{InvalidPrivateKey, KeyEncoding, private_key};
use ipsecmesh_ike::crypto::Provider;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::identity::keystore::NodeCertificate;
use crate::identity::leaf::{Leaf, date};

/// Most certificates of a chain: peers take no more.
const LONGEST_CHAIN: usize = 8;

/// Joins the content of `tls.crt` (leaf first) and `tls.key`. An error names the file, and never shows a key.
pub(crate) fn certificate(
    chain: &str,
    key: &str,
    provider: &'static Provider,
) -> Result<NodeCertificate, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("tls.crt: not PEM: {error}"))?;
    if chain.is_empty() || chain.len() > LONGEST_CHAIN {
        return Err(format!(
            "tls.crt holds {} certificates: the host's own first, then those of the authorities between it and a root, \
             at most {LONGEST_CHAIN}",
            chain.len()
        ));
    }
    let (encoding, der) = read_key(key).map_err(|error| format!("tls.key: {error}"))?;
    let key = private_key(provider, encoding, der.secret_der()).map_err(|error| {
        let fix = match error {
            InvalidPrivateKey::Malformed => "write it anew with `openssl pkcs8 -topk8 -nodes`",
            InvalidPrivateKey::RsaKeyLength(_) | InvalidPrivateKey::Unsupported(_) => {
                "make one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`, and a certificate for it"
            }
        };
        format!("tls.key: {error}: {fix}")
    })?;
    NodeCertificate::new(key, chain, 0, 0).map_err(|error| {
        format!("tls.crt: {error}: the first certificate in it must be the one that was issued for tls.key")
    })
}

/// Whether the host can use its certificate at this time.
pub(crate) fn check_time(leaf: &Leaf, now: u64) -> Result<(), String> {
    if now > leaf.not_after {
        return Err(format!(
            "tls.crt: it expired at {}: put a new one in its place",
            date(leaf.not_after)
        ));
    }
    if now < leaf.not_before {
        return Err(format!(
            "tls.crt: it becomes valid at {}, and this host's clock says {}: set the clock, or wait",
            date(leaf.not_before),
            date(now)
        ));
    }
    Ok(())
}

fn read_key(pem: &str) -> Result<(KeyEncoding, Zeroizing<PrivateKeyDer<'static>>), String> {
    if pem.contains("ENCRYPTED") {
        return Err(
            "it is encrypted, and there is nobody to ask for the passphrase: decrypt it with `openssl pkcs8 -nodes`, \
             and chmod 600"
                .to_owned(),
        );
    }
    let der = PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| "it holds no private key in PEM (-----BEGIN PRIVATE KEY-----)".to_owned())?;
    let encoding = match &der {
        PrivateKeyDer::Pkcs1(_) => KeyEncoding::Pkcs1,
        PrivateKeyDer::Sec1(_) => KeyEncoding::Sec1,
        // The type may grow; PKCS #8 is what a label says that is neither.
        PrivateKeyDer::Pkcs8(_) | _ => KeyEncoding::Pkcs8,
    };
    Ok((encoding, Zeroizing::new(der)))
}

#[cfg(test)]
mod tests;
