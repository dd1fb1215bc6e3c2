//! The session's token: login, renewal after the token has ended, and logout.

use std::time::Duration;

use serde_json::Value;
use tracing::{debug, info};
use ureq::http::header;
use zeroize::Zeroizing;

use super::{Engine, Error, json};
use crate::logging::plain;
use crate::secret::{Secret, clean, hide};

/// Upper bound on a logout, which is best effort.
const LOGOUT_TIMEOUT: Duration = Duration::from_secs(5);

impl Engine {
    /// Ends the session, as far as possible: an unused session also ends by itself.
    pub(crate) fn logout(&self) {
        let token = self.token.lock().take();
        if let Some(token) = token {
            let form = [("scope", "ovirt-app-api"), ("token", token.expose())];
            let sent = self
                .agent
                .post(format!("{}/ovirt-engine/services/sso-logout", self.url()))
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
        let mut patience = self.repetitions();
        loop {
            match self.ask_token() {
                Ok(new) => {
                    *token = Some(new);
                    debug!(url = self.url(), "logged in");
                    return Ok(());
                }
                Err(e) if e.is_passing() && !e.is_late() && !patience.is_over() => {
                    info!(attempt = patience.attempt(), "repeating the login after: {e}")
                }
                Err(e) => return Err(e),
            }
            patience.pause()?;
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
            .post(format!("{}/ovirt-engine/sso/oauth/token", self.url()))
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
            (400..500, Some(code)) => Err(Error::Login {
                url: self.url().to_owned(),
                username: self.account.username.clone(),
                message: plain(&clean(message.unwrap_or(code).trim_end_matches('.'))),
            }),
            (401 | 403, None) => Err(Error::Login {
                url: self.url().to_owned(),
                username: self.account.username.clone(),
                message: format!("HTTP {status}"),
            }),
            (_, _) => Err(self.fault(what, status, &body)),
        }
    }
}
