//! The verifier of servers' certificates. What webpki accepts is accepted. Two kinds of certificates that
//! OpenSSL accepts beside these, and so the stock client, are accepted too:
//!
//! - a server's own certificate that is itself in the CA file, byte by byte, in its time and with its name,
//!   whoever has signed it and whether it is marked as a CA or not. The file's owner has vouched for it;
//! - one whose chain is verified and that has no host in its subjectAltName, by its common name. There must
//!   be no name constraints on the way, since webpki does not apply them to common names.
//!
//! Neither skips the signature of the handshake, which proves that the server has the certificate's key.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::certificate::Description;
use super::distrust::Distrust;

/// Verifies servers by the certificates of a CA file, or of the system; without `roots` any server is
/// accepted.
#[derive(Debug)]
pub(super) struct Verifier {
    roots: Option<Roots>,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
struct Roots {
    anchors: RootCertStore,
    /// The same certificates as they are.
    certificates: Vec<CertificateDer<'static>>,
}

impl Verifier {
    /// Accepts what `certificates` vouch for. `None` accepts every server.
    pub(super) fn new(
        certificates: Option<Vec<CertificateDer<'static>>>,
        provider: Arc<CryptoProvider>,
    ) -> Self {
        let roots = certificates.map(|certificates| {
            let mut anchors = RootCertStore::empty();
            anchors.add_parsable_certificates(certificates.iter().cloned());
            Roots {
                anchors,
                certificates,
            }
        });
        Verifier { roots, provider }
    }

    fn verify(
        &self,
        roots: &Roots,
        own: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(own)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let chain = verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &roots.anchors,
            intermediates,
            now,
            algorithms,
        );
        if chain.is_err() && roots.certificates.iter().any(|one| one.as_ref() == own.as_ref()) {
            check_pinned(own, now)?;
        } else {
            chain?;
        }
        match verify_server_name(&parsed, name) {
            Err(_) if roots.lets_common_name(own, intermediates, name) => Ok(()),
            other => other,
        }
    }
}

impl Roots {
    fn lets_common_name(
        &self,
        own: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
    ) -> bool {
        let free =
            |der: &CertificateDer<'_>| Description::of(der).is_some_and(|one| !one.has_name_constraints);
        let no_constraints = self
            .anchors
            .roots
            .iter()
            .all(|root| root.name_constraints.is_none())
            && intermediates.iter().all(free);
        no_constraints && Description::of(own).is_some_and(|own| own.covers_by_common_name(name))
    }
}

/// Checks what webpki has not reached in a certificate that it refuses: its time and its purpose.
fn check_pinned(der: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let own = Description::of(der).ok_or(CertificateError::BadEncoding)?;
    let wrong = if now < own.not_before {
        CertificateError::NotValidYet
    } else if now > own.not_after {
        CertificateError::Expired
    } else if !own.is_for_servers {
        CertificateError::InvalidPurpose
    } else {
        return Ok(());
    };
    Err(wrong.into())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(roots) = &self.roots else {
            return Ok(ServerCertVerified::assertion());
        };
        match self.verify(roots, end_entity, intermediates, server_name, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(Error::InvalidCertificate(error)) => {
                let own = Description::of(end_entity);
                Err(Distrust::of(&error, own.as_ref(), server_name, now).into())
            }
            Err(other) => Err(other),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // Whoever accepts every certificate accepts one with a key of the attacker's.
        if self.roots.is_none() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        explained(verify_tls12_signature(message, cert, signed, algorithms), cert)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // Whoever accepts every certificate accepts one with a key of the attacker's.
        if self.roots.is_none() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        explained(verify_tls13_signature(message, cert, signed, algorithms), cert)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn explained(
    result: Result<HandshakeSignatureValid, Error>,
    certificate: &CertificateDer<'_>,
) -> Result<HandshakeSignatureValid, Error> {
    result.map_err(|error| match error {
        Error::InvalidCertificate(error) => {
            Distrust::of_handshake(&error, Description::of(certificate).as_ref()).into()
        }
        other => other,
    })
}
