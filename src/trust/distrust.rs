//! Why a certificate is not accepted, in words that name the certificate's fault, and what mends it.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::{ServerName, UnixTime};
use rustls::{CertificateError, OtherError};

use super::certificate::{Description, shown_time};
use crate::logging::plain;

/// The remedy for a connection to a server whose certificate is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cure {
    /// Another CA has to be trusted.
    Ca,
    /// The server needs another certificate.
    NewCertificate,
    /// The server has to be addressed by one of the certificate's names.
    Name,
    /// The same as [`Self::NewCertificate`], or the clock of this machine is wrong.
    NewCertificateOrClock,
}

/// A certificate that is refused. It crosses rustls, and ureq, inside their errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Distrust {
    /// The fault in it.
    pub(crate) why: String,
    pub(crate) cure: Cure,
}

impl Distrust {
    /// Explains the verifier's `error` about a certificate for `name`.
    pub(super) fn of(
        error: &CertificateError,
        certificate: Option<&Description>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Distrust {
        let (why, cure) = explain(error, certificate, name, now);
        Distrust {
            why: plain(&why),
            cure,
        }
    }

    /// The explanation for a handshake that its certificate's key did not sign.
    pub(super) fn of_handshake(error: &CertificateError, certificate: Option<&Description>) -> Distrust {
        let why = match certificate {
            Some(one) if one.has_short_key => SHORT_KEY.to_owned(),
            _ => format!("the handshake is not signed by its certificate: {error}"),
        };
        Distrust {
            why: plain(&why),
            cure: Cure::NewCertificate,
        }
    }

    /// Returns the distrust in an error of rustls.
    pub(crate) fn in_error(error: &rustls::Error) -> Option<Distrust> {
        match error {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
                inner.downcast_ref::<Distrust>().cloned()
            }
            // Nothing but the verifier makes these.
            rustls::Error::InvalidCertificate(error) => Some(Distrust {
                why: format!("its certificate: {error}"),
                cure: Cure::Ca,
            }),
            _ => None,
        }
    }

    /// Returns true if the certificate may be accepted later: it is outside of its time, or the clock of this
    /// machine is wrong.
    pub(crate) fn is_passing(&self) -> bool {
        self.cure == Cure::NewCertificateOrClock
    }
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Distrust {}

impl From<Distrust> for rustls::Error {
    fn from(distrust: Distrust) -> Self {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(distrust))))
    }
}

const SHORT_KEY: &str = "its certificate has an RSA key of less than 2048 bits, which anybody may forge";

fn explain(
    error: &CertificateError,
    certificate: Option<&Description>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> (String, Cure) {
    use CertificateError::{
        BadSignature, Expired, ExpiredContext, InvalidPurpose, InvalidPurposeContext, NotValidForName,
        NotValidForNameContext, NotValidYet, NotValidYetContext, UnknownIssuer,
        UnsupportedSignatureAlgorithmContext, UnsupportedSignatureAlgorithmForPublicKeyContext,
    };
    let Some(one) = certificate else {
        return (format!("its certificate: {error}"), Cure::NewCertificate);
    };
    let clock = format!("the clock of this machine says {}", shown_time(now));
    match error {
        Expired | ExpiredContext { .. } => {
            let (whose, since) = match error {
                ExpiredContext { not_after, .. } if now <= one.not_after => {
                    ("a certificate of its CA", *not_after)
                }
                _ => ("its certificate", one.not_after),
            };
            let why = format!("{whose} has expired on {} ({clock})", shown_time(since));
            (why, Cure::NewCertificateOrClock)
        }
        NotValidYet | NotValidYetContext { .. } => {
            let (whose, until) = match error {
                NotValidYetContext { not_before, .. } if now >= one.not_before => {
                    ("a certificate of its CA", *not_before)
                }
                _ => ("its certificate", one.not_before),
            };
            let why = format!("{whose} is not valid before {} ({clock})", shown_time(until));
            (why, Cure::NewCertificateOrClock)
        }
        NotValidForName | NotValidForNameContext { .. } => {
            let (name, names) = (name.to_str(), one.shown_names());
            (
                format!("its certificate is valid for {names}, and not for {name}"),
                Cure::Name,
            )
        }
        UnknownIssuer if one.is_self_issued() => self_signed(one),
        UnknownIssuer => {
            let why = format!(
                "its certificate is from {}, which is not a trusted CA",
                one.issuer
            );
            (why, Cure::Ca)
        }
        BadSignature => {
            let why = format!(
                "its certificate is not signed by the trusted CA {}: that name has another CA, or a key of \
                 less than 2048 bits",
                one.issuer
            );
            (why, Cure::Ca)
        }
        CertificateError::Other(error) if is_ca_as_server(error) && one.is_self_issued() => self_signed(one),
        CertificateError::Other(error) if is_ca_as_server(error) => {
            let why =
                "its certificate is that of a CA, and is accepted only where it is itself in the CA file";
            (why.to_owned(), Cure::Ca)
        }
        _ if !one.is_version_3 => {
            let why = "its certificate is of X.509 version 1, which has no names of hosts".to_owned();
            (why, Cure::NewCertificate)
        }
        InvalidPurpose | InvalidPurposeContext { .. } => (
            "its certificate is not for servers".to_owned(),
            Cure::NewCertificate,
        ),
        UnsupportedSignatureAlgorithmContext { .. }
        | UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            let why =
                "its certificate is signed with an algorithm that is too weak, such as SHA-1".to_owned();
            (why, Cure::NewCertificate)
        }
        other => (format!("its certificate: {other}"), Cure::NewCertificate),
    }
}

/// Returns true for webpki's `CaUsedAsEndEntity`, for which rustls has no name of its own.
fn is_ca_as_server(error: &OtherError) -> bool {
    error.to_string().contains("CaUsedAsEndEntity")
}

fn self_signed(one: &Description) -> (String, Cure) {
    let why = format!(
        "its certificate ({}) is self-signed, and not in the CA file",
        one.subject
    );
    (why, Cure::Ca)
}
