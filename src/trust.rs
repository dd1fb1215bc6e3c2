//! Whom to trust at the other end of a TLS connection: one answer for the engine and for imageio.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::rights;

/// Whom to trust.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trust {
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
pub struct CaFileError {
    path: String,
    why: String,
}

impl Trust {
    /// The CAs to trust, read now; `None` for anyone.
    pub fn roots(&self) -> Result<Option<Vec<CertificateDer<'static>>>, CaFileError> {
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

fn read_ca(path: &Path) -> Result<Vec<CertificateDer<'static>>, CaFileError> {
    let refuse = |why: String| CaFileError {
        path: path.display().to_string(),
        why,
    };
    let pem = std::fs::read(path).map_err(|e| refuse(e.to_string()))?;
    let certs: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|e| refuse(e.to_string()))?;
    match certs.is_empty() {
        true => Err(refuse("no certificate in it".into())),
        false => Ok(certs),
    }
}
