//! Trust in the servers of TLS connections, in the engine and in imageio alike.
//!
//! ```text
//! pem          the certificates of a CA file
//! certificate  what a certificate says of itself
//! verifier     decides on a server's certificate
//! distrust     says why one is refused, and what mends that
//! ```

mod certificate;
mod distrust;
mod pem;
#[cfg(test)]
mod tests;
mod verifier;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub(crate) use self::distrust::{Cure, Distrust};
pub(crate) use self::pem::certificates;
use self::verifier::Verifier;
use crate::output::tell;
use crate::process::rights;

/// The servers that a TLS connection trusts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Trust {
    /// Servers with a certificate from a CA of the operating system.
    System,
    /// Servers with a certificate from a CA in this PEM file.
    CaFile(#[serde(with = "crate::path_bytes")] PathBuf),
    /// Servers with a certificate from a CA in this PEM text, which came in an environment variable.
    CaText {
        /// The name of the variable.
        variable: String,
        text: String,
    },
    /// All servers.
    Insecure,
}

/// The error of an unusable CA file.
#[derive(Debug, Error)]
#[error("cannot use the CA {place}: {why}; it must be PEM with the engine's CA")]
pub(crate) struct CaFileError {
    /// It is `file PATH`, or `in VARIABLE`.
    place: String,
    why: String,
}

/// The URLs that a warning was printed for.
static WARNED: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl Trust {
    /// Warns on stderr, once per URL, if `url` (`scheme://host:port`) is not verified or not encrypted.
    /// Called before any secret is sent to it. `what` names the server.
    pub(crate) fn warn(&self, what: &str, url: &str) {
        let encrypted = url.starts_with("https:");
        let danger = match (self, encrypted) {
            (Trust::Insecure, true) => {
                "is NOT VERIFIED (--insecure, secure = no, OVIRT_INSECURE or insecureSkipVerify): any server \
                 that answers there"
            }
            (_, false) if !is_loopback(url) => "is NOT ENCRYPTED (http): anybody on the way",
            _ => return,
        };
        let mut told = WARNED.lock();
        if !told.iter().any(|one| one == url) {
            told.push(url.to_owned());
            tell(format_args!(
                "WARNING: the connection to {what} {url} {danger} can read and change what is sent"
            ));
        }
    }

    /// The TLS configuration of a client that trusts these servers.
    pub(crate) fn client_config(&self) -> Result<Arc<ClientConfig>, CaFileError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("ring speaks TLS 1.2 and 1.3");
        let verifier = Verifier::new(self.roots()?, provider);
        Ok(Arc::new(
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
                .with_no_client_auth(),
        ))
    }

    /// Reads the certificates of the trusted CAs; `None` means that all servers are trusted.
    fn roots(&self) -> Result<Option<Vec<CertificateDer<'static>>>, CaFileError> {
        match self {
            Trust::Insecure => Ok(None),
            Trust::CaFile(path) => {
                let path = path.clone();
                rights::with(move || read_ca(&path)).map(Some)
            }
            Trust::CaText { variable, text } => {
                let refuse = |why| CaFileError {
                    place: format!("in the variable {variable}"),
                    why,
                };
                certificates(text.as_bytes()).map_err(refuse).map(Some)
            }
            Trust::System => Ok(Some(rights::with(rustls_native_certs::load_native_certs).certs)),
        }
    }
}

fn is_loopback(url: &str) -> bool {
    let url = url::Url::parse(url).ok();
    url.is_some_and(|url| match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    })
}

fn read_ca(path: &Path) -> Result<Vec<CertificateDer<'static>>, CaFileError> {
    let refuse = |why: String| CaFileError {
        place: format!("file {}", path.display()),
        why,
    };
    let pem = std::fs::read(path).map_err(|e| refuse(e.to_string()))?;
    certificates(&pem).map_err(refuse)
}
