//! Whom to trust at the other end of a TLS connection: one answer for the engine and for imageio.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::process::rights;

/// Whom to trust.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Trust {
    /// The CAs of the operating system.
    System,
    /// The CAs in this PEM file and no other.
    CaFile(PathBuf),
    /// Anyone.
    Insecure,
}

/// A CA file that can't be used.
#[derive(Debug, Error)]
#[error("cannot use the CA file {path}: {why}; it must be a PEM file with the engine's CA")]
pub(crate) struct CaFileError {
    path: String,
    why: String,
}

/// Whom we have warned of.
static WARNED: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl Trust {
    /// Before anything secret goes to `url` (`scheme://host:port`) of `what`: says once on stderr when it is not known
    /// who answers there, or when everybody on the way can listen.
    pub(crate) fn warn(&self, what: &str, url: &str) {
        let encrypted = url.starts_with("https:");
        let why = match (self, encrypted) {
            (Trust::Insecure, true) => {
                "is NOT VERIFIED (--insecure, secure = no or OVIRT_INSECURE): whoever answers there is believed"
            }
            (_, false) if !is_loopback(url) => "is NOT ENCRYPTED (http): everybody on the way can read along",
            _ => return,
        };
        let mut told = WARNED.lock();
        if !told.iter().any(|one| one == url) {
            told.push(url.to_owned());
            eprintln!(
                "rhv-mount: WARNING: the connection to {what} {url} {why}, and can read and change what is sent"
            );
        }
    }

    /// The CAs to trust, read now; `None` for anyone.
    pub(crate) fn roots(&self) -> Result<Option<Vec<CertificateDer<'static>>>, CaFileError> {
        match self {
            Trust::Insecure => Ok(None),
            Trust::CaFile(path) => {
                let path = path.clone();
                rights::with(move || read_ca(&path)).map(Some)
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
        path: path.display().to_string(),
        why,
    };
    let pem = std::fs::read(path).map_err(|e| refuse(e.to_string()))?;
    certificates(&pem).map_err(refuse)
}

/// All certificates of a PEM file; there is at least one.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certs: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| e.to_string())?;
    match certs.is_empty() {
        true => Err("no certificate in it".into()),
        false => Ok(certs),
    }
}
