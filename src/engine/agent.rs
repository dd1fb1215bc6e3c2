//! The HTTP client for the engine, with its trust and its timeouts.

use std::time::Duration;

use ureq::Agent;

use super::{Error, transport};
use crate::trust::{Distrust, Trust};
use crate::zone;

/// Upper bound on a request that only reads or starts an action: the engine answers at once, and the outcome
/// of an action is polled for.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Upper bound on the header of an answer; ureq accepts at most 128 lines.
const MAX_HEADER_BYTES: usize = 64 << 10;

/// Returns an HTTP client with bounded waits for the engine at `url`. It follows no redirect, and uses the
/// proxy of the environment (`https_proxy`, `no_proxy`).
pub(super) fn agent(trust: &Trust, url: &str) -> Result<Agent, Error> {
    let config = ureq::config::Config::builder()
        .http_status_as_error(false)
        .max_response_header_size(MAX_HEADER_BYTES)
        .accept_encoding("identity")
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_connect(Some(transport::CONNECT_TIMEOUT))
        .timeout_global(Some(ANSWER_TIMEOUT))
        .user_agent(concat!("rhv-mount/", env!("CARGO_PKG_VERSION")))
        .build();
    let scope = zone::split(url).1.map(|zone| zone::scope(&zone)).transpose();
    let scope = scope.map_err(|why| Error::Url {
        url: url.to_owned(),
        why,
    })?;
    Ok(transport::agent(config, trust.client_config()?, scope))
}

/// Returns the distrust in an error of ureq.
pub(super) fn distrust(error: &ureq::Error) -> Option<Distrust> {
    match error {
        ureq::Error::Rustls(e) => Distrust::in_error(e),
        ureq::Error::Io(e) => e
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            .and_then(Distrust::in_error),
        _ => None,
    }
}
