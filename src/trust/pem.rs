//! The certificates of a PEM file, as OpenSSL reads it: text, keys and revocation lists around them are
//! passed over, and a certificate may have two older labels. Under `TRUSTED CERTIFICATE` (`openssl x509
//! -trustout`) the certificate is followed by its owner's settings, which may exclude servers from its use.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_cert::der::asn1::{AnyRef, ObjectIdentifier};
use x509_cert::der::{self, Decode, Reader, SliceReader, Tag, TagNumber, Tagged};

use super::certificate::{ANY_PURPOSE, SERVER_PURPOSE};

/// The labels of certificates (OpenSSL's pem.h).
const LABELS: [&str; 3] = ["CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"];

/// The label under which settings follow the certificate.
const TRUSTED: &str = LABELS[2];

/// Returns all certificates of a PEM file that may vouch for a server; none is an error.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut found = Vec::new();
    let mut excluded = false;
    for block in blocks(pem) {
        let (label, block) = block?;
        let der = CertificateDer::from_pem_slice(&block).map_err(|e| e.to_string())?;
        if label != TRUSTED {
            found.push(der);
            continue;
        }
        // Anything but DER is left to the verifier, which does not take it for a CA.
        let (length, settings) = split(&der).unwrap_or((der.len(), &[]));
        match settings.is_empty() || allow_servers(settings).unwrap_or(false) {
            true => found.push(CertificateDer::from(der[..length].to_vec())),
            false => excluded = true,
        }
    }
    match (found.is_empty(), excluded) {
        (true, true) => Err("the certificates in it are marked as not trusted for servers".to_owned()),
        (true, false) => Err("no certificate in it".to_owned()),
        (false, _) => Ok(found),
    }
}

/// Returns each block of a certificate with its label, under the usual one.
fn blocks(pem: &[u8]) -> impl Iterator<Item = Result<(&'static str, Vec<u8>), String>> + '_ {
    let mut lines = pem.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end);
    std::iter::from_fn(move || {
        let mark = |kind: &str, label: &str| format!("-----{kind} {label}-----").into_bytes();
        let label = lines.find_map(|line| LABELS.into_iter().find(|label| line == mark("BEGIN", label)))?;
        let mut block = mark("BEGIN", LABELS[0]);
        for line in lines.by_ref() {
            block.push(b'\n');
            if line == mark("END", label) {
                block.extend(mark("END", LABELS[0]));
                block.push(b'\n');
                return Some(Ok((label, block)));
            }
            block.extend(line);
        }
        Some(Err(format!("a block of {label} without its end")))
    })
}

/// Returns the length of the first value in `bytes`, and what follows it.
fn split(bytes: &[u8]) -> der::Result<(usize, &[u8])> {
    let mut reader = SliceReader::new(bytes)?;
    AnyRef::decode(&mut reader)?;
    let length = usize::try_from(reader.position())?;
    Ok((length, &bytes[length..]))
}

/// Reads `SEQUENCE { trust SEQUENCE OF OID OPTIONAL, reject [0] SEQUENCE OF OID OPTIONAL, ... }`
/// (X509_CERT_AUX in OpenSSL's x_x509a.c). A rejection goes first; a list of trusted purposes excludes all
/// others.
fn allow_servers(settings: &[u8]) -> der::Result<bool> {
    let mut reader = SliceReader::new(AnyRef::from_der(settings)?.value())?;
    let mut allowed = true;
    while !reader.is_finished() {
        let member = AnyRef::decode(&mut reader)?;
        let names_servers = || -> der::Result<bool> {
            let (mut purposes, mut named) = (SliceReader::new(member.value())?, false);
            while !purposes.is_finished() {
                let purpose = ObjectIdentifier::decode(&mut purposes)?;
                named |= purpose == SERVER_PURPOSE || purpose == ANY_PURPOSE;
            }
            Ok(named)
        };
        match member.tag() {
            Tag::Sequence => allowed &= names_servers()?,
            Tag::ContextSpecific {
                number: TagNumber(0), ..
            } => allowed &= !names_servers()?,
            _ => {}
        }
    }
    Ok(allowed)
}
