//! Requests to the engine in its session, and their repetition.
//!
//! | answer                     | reads and actions            | creations                               |
//! |----------------------------|------------------------------|-----------------------------------------|
//! | 401                        | log in and repeat            | log in and repeat                       |
//! | 503, or no connection      | repeat a few times           | repeat a few times: it was not performed|
//! | none, or a front end's     | repeat a few times           | error: the caller looks for the object  |
//! | anything else              | error                        | error                                   |
//!
//! `answers` tells a front end's answers from the engine's, and `opening` says how long an engine that starts
//! is waited for.
//!
//! Actions (finalize, cancel, pause, resume) may be repeated: the engine answers them with 200 in any phase.
//! A token ends after 30 minutes without a request, so 401 is no error by itself. The `exp` of a login is
//! meaningless.
//!
//! Several threads share an [`Engine`]. Each request blocks its thread; only the renewal of the token is
//! under a lock.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::info;
use ureq::Agent;
use ureq::http::header;
use url::Url;

use super::agent::{agent, distrust};
use super::effect::{Effect, MAX_ANSWER_BYTES};
use super::opening::Opening;
use super::{Error, Interrupt, Patience};
use crate::logging::plain;
use crate::page;
use crate::secret::{Secret, clean, hide};
use crate::trust::Trust;
use crate::zone;

/// Upper bound on the logins for one request. More than one may be needed, since the requests of other
/// threads may use up the new session first.
const MAX_RENEWALS: u32 = 3;

/// Upper bound on the repetitions of one request.
const MAX_REPETITIONS: u32 = 4;

/// Pause before the first repetition; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The engine's address, and the user to log in as.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Account {
    /// `scheme://host[:port]`.
    pub(crate) url: String,
    /// The name with its domain; it may hold more than one `@`.
    pub(crate) username: String,
    pub(crate) password: Secret,
    pub(crate) trust: Trust,
}

/// A session with an engine, shared by several threads.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(super) agent: Agent,
    pub(super) account: Account,
    pub(super) token: Mutex<Option<Secret>>,
    pub(super) correlation: String,
    pub(super) interrupt: Interrupt,
    pub(super) opening: Opening,
    /// When the engine last refused the password, and its message.
    pub(super) refusal: Mutex<Option<(Instant, String)>>,
}

impl Engine {
    pub(crate) fn login(account: &Account, interrupt: &Interrupt) -> Result<Engine, Error> {
        hide(account.password.expose());
        account.trust.warn("the engine", &account.url);
        // The engine drops special characters from a correlation id and cuts it at 36.
        let run = random_id().unwrap_or_default();
        let engine = Engine {
            agent: agent(&account.trust, &account.url)?,
            account: account.clone(),
            token: Mutex::new(None),
            correlation: format!("rhv-mount-{}", run.get(..8).unwrap_or("0")),
            interrupt: interrupt.clone(),
            opening: Opening::begin(),
            refusal: Mutex::new(None),
        };
        engine.renew(None)?;
        Ok(engine)
    }

    /// `scheme://host[:port]`.
    pub(crate) fn url(&self) -> &str {
        &self.account.url
    }

    /// The same as in a request: a zone of its address means nothing to the engine.
    pub(super) fn server(&self) -> String {
        zone::split(self.url()).0
    }

    /// The correlation id of this session's requests in engine.log.
    pub(crate) fn correlation(&self) -> &str {
        &self.correlation
    }

    /// Returns the same session for requests that a signal must not interrupt.
    pub(crate) fn uninterrupted(&self) -> Engine {
        let token = self.token.lock().clone();
        Engine {
            agent: self.agent.clone(),
            account: self.account.clone(),
            token: Mutex::new(token),
            correlation: self.correlation.clone(),
            interrupt: Interrupt::default(),
            opening: Opening::over(),
            refusal: Mutex::new(self.refusal.lock().clone()),
        }
    }

    pub(super) fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// The pauses between the attempts of one request.
    pub(super) fn repetitions(&self) -> Patience<'_> {
        Patience::doubling(FIRST_PAUSE, MAX_REPETITIONS, &self.interrupt)
    }

    pub(super) fn get(&self, what: &str, path: &str) -> Result<Option<Value>, Error> {
        self.call(what, Effect::Idempotent, "GET", path, None)
    }

    /// Gets a list that may be as long as the engine is large.
    pub(super) fn get_list(&self, what: &str, path: &str) -> Result<Option<Value>, Error> {
        self.call(what, Effect::Listing, "GET", path, None)
    }

    pub(super) fn delete(&self, what: &str, path: &str) -> Result<Option<Value>, Error> {
        self.call(what, Effect::Idempotent, "DELETE", path, None)
    }

    pub(super) fn post(
        &self,
        what: &str,
        effect: Effect,
        path: &str,
        body: &Value,
    ) -> Result<Option<Value>, Error> {
        self.call(what, effect, "POST", path, Some(body))
    }

    /// Waits before another attempt after one failed with `error`; returns the error when there shall be
    /// none.
    pub(super) fn pause_after(&self, error: Error, patience: &mut Patience<'_>) -> Result<(), Error> {
        // A timeout is not repeated here: the caller decides whether to wait that long again.
        if error.is_late() {
            return Err(error);
        }
        let attempt = patience.attempt();
        if patience.pause()? {
            info!(attempt, "repeating after: {error}");
            return Ok(());
        }
        self.opening.pause_after(error, &self.interrupt)
    }

    /// Sends a request below `/ovirt-engine/api`, with repetitions as in the table above. Returns `None` for
    /// a missing object: 404 without a body, from an engine that is there (404 with a fault is an error).
    fn call(
        &self,
        what: &str,
        effect: Effect,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Option<Value>, Error> {
        let (mut patience, mut renewals) = (self.repetitions(), 0);
        let mut engine_seen = false;
        // The body of an answer to an action tells nothing: its effect is looked for.
        let acts = method == "POST" && effect == Effect::Idempotent;
        loop {
            let token = self.token.lock().clone();
            let answer = self.send(method, path, body, token.as_ref(), effect);
            let unsent = effect == Effect::Creation && answer.as_ref().is_err_and(is_unsent);
            let error = match self.read_up_to(effect.byte_limit(), what, answer) {
                Ok((401, _)) if renewals < MAX_RENEWALS => {
                    info!("the engine session has ended, logging in again");
                    self.renew(token.as_ref()).map_err(|e| match effect {
                        Effect::Creation => e.nothing_made(),
                        Effect::Idempotent | Effect::Listing => e,
                    })?;
                    renewals += 1;
                    continue;
                }
                Ok((401, _)) => {
                    self.undecided("it accepted the login, and then not its token (HTTP 401)".into())
                }
                Ok((404, body)) if body.is_empty() && engine_seen => return Ok(None),
                Ok((404, body)) if body.is_empty() => match self.look_for_engine(what, token.as_ref()) {
                    Ok(()) => {
                        engine_seen = true;
                        continue;
                    }
                    Err(error) => error,
                },
                Ok((status @ 200..300, body)) => match serde_json::from_slice(&body) {
                    Ok(value) => return Ok(Some(value)),
                    // Apache CloudStack's control service answers an action by a word.
                    Err(_) if acts && !page::is_page(&body) => return Ok(Some(Value::Null)),
                    Err(e) => self.nonsense(what, format!("HTTP {status} with a body that is not JSON: {e}")),
                },
                Ok((status, body)) => self.refusal(what, status, &body),
                Err(error) if unsent => error.nothing_made(),
                Err(error) => error,
            };
            engine_seen = false;
            let may_repeat = match effect {
                Effect::Idempotent | Effect::Listing => error.is_passing(),
                Effect::Creation => error.is_not_performed(),
            };
            if !may_repeat {
                return Err(error);
            }
            self.pause_after(error, &mut patience).map_err(|e| match effect {
                Effect::Creation => e.nothing_made(),
                Effect::Idempotent | Effect::Listing => e,
            })?;
            renewals = 0;
        }
    }

    /// A 404 without a body is the engine's for a missing object, and may also be that of a front end whose
    /// application is gone. The root of the API, which the engine always has, tells them apart.
    fn look_for_engine(&self, what: &str, token: Option<&Secret>) -> Result<(), Error> {
        let answer = self.send("GET", "", None, token, Effect::Idempotent);
        let (status, body) = self.read(what, answer)?;
        let root = serde_json::from_slice::<Value>(&body).ok();
        match status == 200 && root.is_some_and(|root| root.get("product_info").is_some()) {
            true => Ok(()),
            false => Err(self.front_end(what, status, &body)),
        }
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        token: Option<&Secret>,
        effect: Effect,
    ) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}/ovirt-engine/api{path}", self.server()))
            .header("Version", "4")
            .header(header::ACCEPT, "application/json")
            .header("Correlation-Id", &self.correlation);
        if let Some(token) = token {
            let bearer = header::HeaderValue::try_from(format!("Bearer {}", token.expose()));
            let mut bearer = bearer.map_err(ureq::http::Error::from)?;
            bearer.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, bearer);
        }
        let limit = effect.time_limit();
        match body {
            Some(body) => {
                let request = request
                    .header(header::CONTENT_TYPE, "application/json")
                    .body(body.to_string())?;
                let request = self.agent.configure_request(request).timeout_global(Some(limit));
                self.agent.run(request.build())
            }
            None => {
                let request = self
                    .agent
                    .configure_request(request.body(())?)
                    .timeout_global(Some(limit));
                self.agent.run(request.build())
            }
        }
    }

    /// Reads status and body of an answer. A redirect is an error.
    pub(super) fn read(
        &self,
        what: &str,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<(u16, Vec<u8>), Error> {
        self.read_up_to(MAX_ANSWER_BYTES, what, answer)
    }

    /// Does the same with a body of up to `limit` bytes.
    fn read_up_to(
        &self,
        limit: u64,
        what: &str,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<(u16, Vec<u8>), Error> {
        let mut answer = answer.map_err(|e| self.broken(what, &e))?;
        let status = answer.status().as_u16();
        if (300..400).contains(&status) {
            let location = answer
                .headers()
                .get(header::LOCATION)
                .and_then(|l| l.to_str().ok());
            let target = location.and_then(|l| Url::parse(l).ok());
            let host = target
                .as_ref()
                .and_then(Url::host_str)
                .unwrap_or("somewhere")
                .to_owned();
            return Err(Error::Redirect {
                url: self.url().to_owned(),
                target: plain(&host),
            });
        }
        let body = answer.body_mut().with_config().limit(limit).read_to_vec();
        match body {
            Ok(body) => Ok((status, body)),
            Err(ureq::Error::BodyExceedsLimit(_)) if limit > MAX_ANSWER_BYTES => Err(Error::Unfit(format!(
                "{what}: the engine {} has more than {} MiB of them; ask for fewer, by a name or a pattern \
                 like 'web*'",
                self.url(),
                limit >> 20
            ))),
            Err(ureq::Error::BodyExceedsLimit(_)) => {
                Err(self.nonsense(what, format!("an answer of more than {limit} bytes")))
            }
            Err(e) => Err(self.broken(what, &e)),
        }
    }

    /// The error of a request without an answer.
    fn broken(&self, what: &str, error: &ureq::Error) -> Error {
        let why = match error {
            ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                "it closed the connection".to_owned()
            }
            other => clean(&other.to_string()).into_owned(),
        };
        let url = self.url().to_owned();
        match distrust(error) {
            Some(why) => Error::Trust { url, why },
            None => Error::Unanswered {
                what: what.to_owned(),
                url,
                why,
                late: match error {
                    ureq::Error::Io(e) => e.kind() == std::io::ErrorKind::TimedOut,
                    other => matches!(other, ureq::Error::Timeout(_)),
                },
            },
        }
    }

    pub(super) fn nonsense(&self, what: &str, why: String) -> Error {
        Error::Nonsense {
            what: what.to_owned(),
            url: self.url().to_owned(),
            why: plain(&clean(&why)),
        }
    }

    pub(super) fn too_long(&self, what: &str, limit: Duration, state: &str) -> Error {
        Error::TooLong {
            what: what.to_owned(),
            seconds: limit.as_secs(),
            state: state.to_owned(),
            correlation: self.correlation().to_owned(),
        }
    }
}

/// Returns true if no connection was made, so that the engine has not got the request.
fn is_unsent(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => true,
        ureq::Error::Io(e) => e.kind() == std::io::ErrorKind::ConnectionRefused,
        _ => false,
    }
}

/// Returns a random UUID from the kernel.
pub(crate) fn random_id() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/uuid")?
        .trim()
        .to_owned())
}
