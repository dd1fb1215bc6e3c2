//! `rhv-mount ca`: the engine's own CA certificate. Trust begins with it, so it is fetched from an unverified
//! server, and a person compares its fingerprint.

use std::fmt::Write;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::agent::agent;
use super::{Error, address};
use crate::trust::Trust;
use crate::zone;

/// Upper bound on the PEM file that the engine sends.
const MAX_CERTIFICATE_BYTES: u64 = 1 << 20;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The CA file for the user to check and save. To trust the file is to trust every certificate in it.
#[derive(Debug)]
pub(crate) struct Certificate {
    /// The certificates in PEM, without the rest of the answer.
    pub(crate) pem: String,
    /// The SHA-256 of each certificate's DER form, as printed by `openssl x509 -fingerprint -sha256`.
    pub(crate) fingerprints: Vec<String>,
}

/// Asks the engine at `url` for its CA, which needs no login.
pub(crate) fn certificate(url: &str) -> Result<Certificate, Error> {
    let url = address(url)?;
    let what = "the CA certificate";
    let nonsense = |why: String| Error::Nonsense {
        what: what.to_owned(),
        url: url.clone(),
        why,
    };
    let resource = "/ovirt-engine/services/pki-resource?resource=ca-certificate&format=X509-PEM-CA";
    let mut answer = agent(&Trust::Insecure, &url)?
        .get(format!("{}{resource}", zone::split(&url).0))
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
        .limit(MAX_CERTIFICATE_BYTES)
        .read_to_string()
        .map_err(|e| nonsense(e.to_string()))?;
    of_pem(&pem).map_err(|e| nonsense(format!("no certificate: {e}")))
}

/// Length of a line of base64 in a PEM file (RFC 7468, section 2).
const LINE_BYTES: usize = 64;

/// Extracts the certificates; there must be at least one, and none with anything but base64 in it.
pub(super) fn of_pem(text: &str) -> Result<Certificate, rustls::pki_types::pem::Error> {
    let mut all = Certificate {
        pem: String::new(),
        fingerprints: Vec::new(),
    };
    for block in text.split(BEGIN).skip(1) {
        let inside = block.split(END).next().unwrap_or_default();
        let body: Vec<u8> = inside.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        let is_base64 = |b: &u8| b.is_ascii_alphanumeric() || b"+/=".contains(b);
        if !body.iter().all(is_base64) {
            return Err(rustls::pki_types::pem::Error::NoItemsFound);
        }
        // Its lines are written anew: every reader of the saved file finds the same frames.
        let lines: String = body
            .chunks(LINE_BYTES)
            .map(|line| String::from_utf8_lossy(line) + "\n")
            .collect();
        let pem = format!("{BEGIN}\n{lines}{END}\n");
        let der = CertificateDer::from_pem_slice(pem.as_bytes())?;
        all.fingerprints.push(fingerprint(&der));
        all.pem += &pem;
    }
    match all.fingerprints.is_empty() {
        true => Err(rustls::pki_types::pem::Error::NoItemsFound),
        false => Ok(all),
    }
}

fn fingerprint(der: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, der);
    digest.as_ref().iter().fold(String::new(), |mut text, byte| {
        let colon = if text.is_empty() { "" } else { ":" };
        let _ = write!(text, "{colon}{byte:02X}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_certificate_is_told_and_nothing_else_is_passed_on() {
        // These are no real certificates: only the frame is parsed.
        let sent = format!("\x1b[2JCertificate:\n{BEGIN}\nAAAA\n{END}\nrm -rf\n{BEGIN}\nBBBB\n{END}\n");
        let found = of_pem(&sent).unwrap();
        assert_eq!(found.pem, format!("{BEGIN}\nAAAA\n{END}\n{BEGIN}\nBBBB\n{END}\n"));
        assert_eq!(found.fingerprints.len(), 2);
        assert_ne!(found.fingerprints[0], found.fingerprints[1]);
        assert!(of_pem("none").is_err());
        assert!(of_pem(&format!("{BEGIN}\nAA\x1b[2JAA\n{END}\n")).is_err());
    }
}
