//! The errors of requests to the engine.

use thiserror::Error;

use crate::failure::{Exit, Failure};
use crate::trust::{CaFileError, Cure, Distrust};

/// A failure of the engine, or of the connection to it. The texts are one line without secrets.
#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error(
        "the engine URL {url} is not usable: {why}; it looks like https://ENGINE or \
         https://ENGINE/ovirt-engine/api"
    )]
    Url {
        /// The URL as given, without secrets.
        url: String,
        why: String,
    },
    #[error(transparent)]
    CaFile(#[from] CaFileError),
    /// No connection was made, or it broke before an answer: the request may have been performed.
    #[error("{what}: no answer from the engine {url}: {why}; is it up, and the URL right?")]
    Unanswered {
        /// The request, as in the variants below.
        what: String,
        /// `scheme://host[:port]`, as in the variants below.
        url: String,
        why: String,
        /// The time for an answer ran out.
        late: bool,
    },
    /// A creation that was not sent, or was turned away before it was performed: nothing was made.
    #[error("{0}")]
    NotSent(Box<Error>),
    /// The engine's certificate is not trusted.
    #[error("cannot trust the engine {url}: {why}; {}", remedy(why.cure, url))]
    Trust { url: String, why: Distrust },
    /// The login was refused.
    #[error(
        "the engine {url} refused the login of {username}: {message}; check the name (with its domain, as in \
         admin@internal or admin@ovirt@internalsso) and the password"
    )]
    Login {
        url: String,
        username: String,
        /// The engine's message.
        message: String,
    },
    /// The login was neither accepted nor refused: what decides about it has failed.
    #[error(
        "the engine {url} could not decide on the login of {username}: {message}; is it starting, or its \
         identity provider away?"
    )]
    Undecided {
        url: String,
        username: String,
        /// The engine's message.
        message: String,
    },
    /// A front end answered in the engine's place.
    #[error("{}", front_end(what, url, *status, page))]
    FrontEnd {
        what: String,
        url: String,
        status: u16,
        /// The title of the page that was sent, after a blank; empty without one.
        page: String,
    },
    /// A redirect. A login is not sent to another place.
    #[error(
        "the engine URL {url} is not usable: it redirects to {target}, and a login is not sent on; name the \
         engine itself"
    )]
    Redirect {
        url: String,
        /// The host of the new location.
        target: String,
    },
    /// The engine answered with an error status.
    #[error("{}", fault(what, *status, message, correlation))]
    Fault {
        what: String,
        /// The HTTP status.
        status: u16,
        meaning: Meaning,
        /// The fault's reason and detail.
        message: String,
        /// The correlation id of the request in engine.log.
        correlation: String,
    },
    /// The answer is invalid.
    #[error("{what}: the engine {url} sent nonsense: {why}; is the URL that of an oVirt engine?")]
    Nonsense { what: String, url: String, why: String },
    /// The requested object is missing or unusable; the text names the alternatives.
    #[error("{0}")]
    Unfit(String),
    /// The engine refused to make the requested object: nothing was made.
    #[error("{0}")]
    Refused(String),
    /// A creation was not answered, and its outcome could not be found out.
    #[error("it is not known whether the engine has made it: {0}")]
    Unclear(String),
    /// A wait ended at its limit.
    #[error(
        "{what} took longer than {seconds} s: {state}; engine.log says why (correlation id {correlation})"
    )]
    TooLong {
        /// The event that did not happen in time.
        what: String,
        /// The limit of the wait.
        seconds: u64,
        /// The last state seen.
        state: String,
        /// The correlation id of our requests in engine.log.
        correlation: String,
    },
    /// A transfer or disk is in a state from which it can't be used or ended well.
    #[error("{0}")]
    Failed(String),
    /// A signal ended a wait.
    #[error("interrupted by a signal")]
    Interrupted,
}

/// The message about an answer of a front end. 503 is what it sends while it has no engine behind it.
fn front_end(what: &str, url: &str, status: u16, page: &str) -> String {
    match status {
        503 => format!(
            "{what}: engine unavailable: {url} answers HTTP 503{page}; it starts, or is in maintenance: try \
             again later"
        ),
        _ => format!(
            "{what}: no answer from the engine {url}, but HTTP {status}{page} from what is in front of it \
             (its web server, or a proxy); is the engine up, and the URL right?"
        ),
    }
}

/// The message about an error of the engine's own.
fn fault(what: &str, status: u16, message: &str, correlation: &str) -> String {
    let said = match message {
        "" => "no reason given",
        said => said,
    };
    let failed = match status {
        503 => "failed: engine unavailable, try again later",
        _ => "failed",
    };
    format!(
        "{what} {failed}: {said} (HTTP {status}, correlation id {correlation}; engine.log says more under \
         that id)"
    )
}

/// The advice about a certificate of the engine at `url` that is refused.
fn remedy(cure: Cure, url: &str) -> String {
    match cure {
        Cure::Ca => format!(
            "save its CA with `rhv-mount ca {url}`, check the fingerprint, and name the file with --cafile, \
             or give --insecure to go without verification"
        ),
        Cure::NewCertificate => {
            "renew it on the engine (engine-setup --offline), or give --insecure to go without verification"
                .to_owned()
        }
        Cure::NewCertificateOrClock => {
            "where the clock is right, renew the certificate on the engine (engine-setup --offline)"
                .to_owned()
        }
        Cure::Name => "use one of its names in the engine URL".to_owned(),
    }
}

/// The meaning of a fault for a repetition of the request. `wire` decides it when it reads the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// 503: the request was not performed.
    NotPerformed,
    /// 409 because another operation holds a lock, which it usually releases soon.
    Locked,
    /// An answer of the engine: a repetition would get the same one.
    Final,
}

impl Error {
    /// Returns true if another operation holds a lock, which it usually releases soon.
    pub(crate) fn is_locked(&self) -> bool {
        self.meaning() == Some(Meaning::Locked)
    }

    /// Returns true for an answer of the engine's own that a repetition would get again.
    pub(crate) fn is_refusal(&self) -> bool {
        self.meaning() == Some(Meaning::Final)
    }

    /// Returns true if the time for an answer ran out.
    pub(crate) fn is_late(&self) -> bool {
        match self {
            Error::NotSent(why) => why.is_late(),
            other => matches!(other, Error::Unanswered { late: true, .. }),
        }
    }

    /// Returns true if a later repetition of the request may succeed.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Error::Unanswered { .. } | Error::Nonsense { .. } | Error::Redirect { .. } => true,
            Error::Trust { why, .. } => why.is_passing(),
            Error::NotSent(why) => why.is_passing(),
            other => other.is_unready() || other.meaning() == Some(Meaning::NotPerformed),
        }
    }

    /// Returns true for an answer from the place of the engine that is not the engine's, or not its last
    /// word: as long as the engine starts, this is what is heard.
    pub(super) fn is_unready(&self) -> bool {
        match self {
            Error::NotSent(why) => why.is_unready(),
            other => matches!(other, Error::FrontEnd { .. } | Error::Undecided { .. }),
        }
    }

    /// Returns true if it is certain that the request was not performed.
    pub(super) fn is_not_performed(&self) -> bool {
        matches!(self, Error::NotSent(_) | Error::FrontEnd { status: 503, .. })
            || self.meaning() == Some(Meaning::NotPerformed)
    }

    /// Returns true if this attempt at a creation may have made the object: it was sent, and the engine has
    /// given no answer of its own.
    pub(super) fn may_have_made(&self) -> bool {
        self.is_passing() && !self.is_not_performed()
    }

    /// The same error of a creation that has made nothing.
    pub(super) fn nothing_made(self) -> Error {
        match self {
            already @ (Error::NotSent(_) | Error::Refused(_)) => already,
            other => Error::NotSent(Box::new(other)),
        }
    }

    /// The exit code of a run that ends with this.
    fn exit(&self) -> Exit {
        match self {
            Error::Url { .. } | Error::Redirect { .. } | Error::CaFile(_) => Exit::Usage,
            Error::Login { .. } => Exit::Login,
            Error::Interrupted => Exit::Other,
            Error::NotSent(why) => why.exit(),
            _ => Exit::Transfer,
        }
    }

    fn meaning(&self) -> Option<Meaning> {
        match self {
            Error::Fault { meaning, .. } => Some(*meaning),
            _ => None,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::new(error.exit(), error)
    }
}
