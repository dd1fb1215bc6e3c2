//! `rhv-mount ca`: the engine's own CA certificate. It is fetched without trust, since it is what trust begins
//! with; the fingerprint is for a person to compare.

use std::fmt::Write;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::wire::agent;
use super::{Error, address};
use crate::trust::Trust;

/// The largest certificate worth reading, bytes.
const LIMIT: u64 = 1 << 20;

/// A certificate to be checked and saved.
#[derive(Debug)]
pub struct Certificate {
    /// The file.
    pub pem: String,
    /// SHA-256 of the DER form, as `openssl x509 -fingerprint -sha256` prints it.
    pub fingerprint: String,
}

/// Asks the engine at `url` for its CA; no login is needed.
pub fn certificate(url: &str) -> Result<Certificate, Error> {
    let url = address(url)?;
    let what = "the CA certificate";
    let nonsense = |why: String| Error::Nonsense {
        what: what.to_owned(),
        url: url.clone(),
        why,
    };
    let resource = "/ovirt-engine/services/pki-resource?resource=ca-certificate&format=X509-PEM-CA";
    let mut answer = agent(&Trust::Insecure)?
        .get(format!("{url}{resource}"))
        .call()
        .map_err(|e| Error::Unanswered {
            what: what.to_owned(),
            url: url.clone(),
            why: e.to_string(),
            late: false,
        })?;
    if answer.status() != 200 {
        return Err(nonsense(format!("HTTP {}", answer.status().as_u16())));
    }
    let pem = answer
        .body_mut()
        .with_config()
        .limit(LIMIT)
        .read_to_string()
        .map_err(|e| nonsense(e.to_string()))?;
    let der = CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|e| nonsense(format!("no certificate: {e}")))?;
    let digest = ring::digest::digest(&ring::digest::SHA256, &der);
    let fingerprint = digest.as_ref().iter().fold(String::new(), |mut text, byte| {
        let colon = if text.is_empty() { "" } else { ":" };
        let _ = write!(text, "{colon}{byte:02X}");
        text
    });
    Ok(Certificate { pem, fingerprint })
}
