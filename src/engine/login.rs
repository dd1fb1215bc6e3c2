//! The session's token: login, renewal after the token has ended, and logout.

use std::time::{Duration, Instant};

use serde_json::Value;
use tracing::debug;
use ureq::http::header;
use zeroize::Zeroizing;

use super::{Engine, Error, json};
use crate::logging::plain;
use crate::secret::{Secret, clean, hide};

/// Upper bound on a logout, which is best effort.
const LOGOUT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time after a refused login in which no other one is tried: every request of a mount would be one, and some
/// directories lock an account after a few.
const REFUSAL_PAUSE: Duration = Duration::from_secs(60);

impl Engine {
    /// Ends the session, as far as possible: an unused session also ends by itself.
    pub(crate) fn logout(&self) {
        let token = self.token.lock().take();
        if let Some(token) = token {
            let form = [("scope", "ovirt-app-api"), ("token", token.expose())];
            let sent = self
                .agent
                .post(format!("{}/ovirt-engine/services/sso-logout", self.server()))
                .header(header::ACCEPT, "application/json")
                .config()
                .timeout_global(Some(LOGOUT_TIMEOUT))
                .build()
                .send_form(form);
            debug!(ok = sent.is_ok(), "logged out");
        }
    }

    /// Gets a new token, unless another thread has replaced `old` meanwhile. Blocks the other threads that
    /// need one.
    pub(super) fn renew(&self, old: Option<&Secret>) -> Result<(), Error> {
        let mut token = self.token.lock();
        if token.is_some() && token.as_ref() != old {
            return Ok(());
        }
        let refusal = self.refusal.lock().clone();
        if let Some((at, message)) = refusal.filter(|(at, _)| at.elapsed() < REFUSAL_PAUSE) {
            debug!(seconds = at.elapsed().as_secs(), "not logging in again yet");
            return Err(self.refused(message));
        }
        let mut patience = self.repetitions();
        loop {
            let error = match self.ask_token() {
                Ok(new) => {
                    *token = Some(new);
                    debug!(url = self.url(), "logged in");
                    return Ok(());
                }
                Err(error) => error,
            };
            // Before the first login the URL, or this machine's clock, is wrong rather than the engine away.
            let wrong_start = old.is_none() && matches!(error, Error::Redirect { .. } | Error::Trust { .. });
            if wrong_start || !error.is_passing() {
                return Err(error);
            }
            self.pause_after(error, &mut patience)?;
        }
    }

    fn ask_token(&self) -> Result<Secret, Error> {
        let what = "login";
        let form = [
            ("grant_type", "password"),
            ("scope", "ovirt-app-api"),
            ("username", &self.account.username),
            ("password", self.account.password.expose()),
        ];
        let answer = self
            .agent
            .post(format!("{}/ovirt-engine/sso/oauth/token", self.server()))
            // The service compares the header with exactly this value.
            .header(header::ACCEPT, "application/json")
            .send_form(form);
        let (status, body) = self.read(what, answer)?;
        let body = Zeroizing::new(body);
        let value: Option<Value> = serde_json::from_slice(&body).ok();
        if let (200, Some(token)) = (status, value.as_ref().and_then(|v| json::text(v, "access_token"))) {
            hide(&token);
            return Ok(Secret::new(token));
        }
        // An error has one of two forms:
        // {"error_code": CODE, "error": MESSAGE} or {"error": CODE, "error_description": MESSAGE}.
        let value = value.unwrap_or_default();
        let (code, message) = match json::text(&value, "error_code") {
            Some(code) => (Some(code), json::text(&value, "error")),
            None => (
                json::text(&value, "error"),
                json::text(&value, "error_description"),
            ),
        };
        match (status, code) {
            (200, _) => Err(self.nonsense(what, "a login without a token".into())),
            (_, Some(code)) if is_refusal(status, &code) => {
                let message = said(&message.unwrap_or(code));
                *self.refusal.lock() = Some((Instant::now(), message.clone()));
                Err(self.refused(message))
            }
            (_, Some(code)) => Err(self.undecided(match message {
                Some(message) => format!("{} ({}, HTTP {status})", said(&message), said(&code)),
                None => format!("{} (HTTP {status})", said(&code)),
            })),
            (_, None) => Err(self.front_end(what, status, &body)),
        }
    }

    fn refused(&self, message: String) -> Error {
        Error::Login {
            url: self.url().to_owned(),
            username: self.account.username.clone(),
            message,
        }
    }

    /// The error of a login that was neither accepted nor refused.
    pub(super) fn undecided(&self, message: String) -> Error {
        Error::Undecided {
            url: self.url().to_owned(),
            username: self.account.username.clone(),
            message,
        }
    }
}

/// Returns true for the error codes that a repetition of the same login gets again: those of RFC 6749, 5.2,
/// and `access_denied`, with which the engine answers a wrong name or password. The engine sends all of them,
/// and also `server_error`, with status 400 (SsoService). A 5xx is never the last word.
fn is_refusal(status: u16, code: &str) -> bool {
    let final_code = matches!(
        code,
        "access_denied"
            | "invalid_client"
            | "invalid_grant"
            | "invalid_request"
            | "invalid_scope"
            | "unauthorized_client"
            | "unsupported_grant_type"
    );
    (400..500).contains(&status) && final_code
}

fn said(message: &str) -> String {
    plain(&clean(message.trim_end_matches('.')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_code_that_no_repetition_mends_is_a_refusal() {
        for code in [
            "access_denied",
            "invalid_grant",
            "unauthorized_client",
            "unsupported_grant_type",
        ] {
            assert!(is_refusal(400, code), "{code}");
            assert!(!is_refusal(503, code), "{code}");
        }
        for code in [
            "server_error",
            "temporarily_unavailable",
            "slow_down",
            "",
            "ACCESS_DENIED ",
        ] {
            assert!(!is_refusal(400, code), "{code}");
        }
    }
}
