//! The HTTP client for the engine, with its trust and its timeouts.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::Error;
use crate::trust::Trust;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Upper bound on a request that only reads or starts an action: the engine answers at once, and the outcome
/// of an action is polled for.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Upper bound on the header of an answer; ureq accepts at most 128 lines.
const MAX_HEADER_BYTES: usize = 64 << 10;

/// Returns an HTTP client with bounded waits. It follows no redirect, and uses the proxy of the environment
/// (`https_proxy`, `no_proxy`).
pub(super) fn agent(trust: &Trust) -> Result<Agent, Error> {
    let tls = TlsConfig::builder().unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()));
    let tls = match trust.roots()? {
        None => tls.disable_verification(true),
        Some(roots) => {
            let roots: Vec<_> = roots
                .iter()
                .map(|der| Certificate::from_der(der).to_owned())
                .collect();
            tls.root_certs(RootCerts::new_with_certs(&roots))
        }
    };
    let config = ureq::config::Config::builder()
        .tls_config(tls.build())
        .http_status_as_error(false)
        .max_response_header_size(MAX_HEADER_BYTES)
        .accept_encoding("identity")
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_global(Some(ANSWER_TIMEOUT))
        .user_agent(concat!("rhv-mount/", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(config.into())
}

pub(super) fn is_untrusted(error: &ureq::Error) -> bool {
    let certificate = |e: &rustls::Error| matches!(e, rustls::Error::InvalidCertificate(_));
    match error {
        ureq::Error::Rustls(e) => certificate(e),
        ureq::Error::Io(e) => e
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            .is_some_and(certificate),
        _ => false,
    }
}
