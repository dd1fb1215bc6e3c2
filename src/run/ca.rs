//! `rhv-mount ca`: the engine's CA certificate on stdout, its fingerprint on stderr.

use crate::engine;
use crate::failure::{Exit, Failure};
use crate::output::{self, tell_plainly};

pub(super) fn print(engine_url: &str) -> Result<u8, Failure> {
    let certificate = engine::certificate(engine_url)?;
    output::print(&certificate.pem)?;
    for fingerprint in &certificate.fingerprints {
        tell_plainly(format_args!("SHA-256 fingerprint: {fingerprint}"));
    }
    tell_plainly(
        "Compare it with the engine's own before you trust it (there: openssl x509 -noout -fingerprint \
         -sha256 -in /etc/pki/ovirt-engine/ca.pem)",
    );
    Ok(Exit::Done as u8)
}
