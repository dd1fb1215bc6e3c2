//! What can go wrong between us and the engine.

use thiserror::Error;

use crate::failure::{Exit, Failure};
use crate::trust::CaFileError;

/// A failure of the engine, or on the way to it. Texts are one line without secrets.
#[derive(Debug, Error)]
pub(crate) enum Error {
    /// The engine's URL can't be used.
    #[error(
        "the engine URL {url} is not usable: {why}; it looks like https://ENGINE or https://ENGINE/ovirt-engine/api"
    )]
    Url {
        /// As given.
        url: String,
        /// Reason.
        why: String,
    },
    /// The CA file can't be used.
    #[error(transparent)]
    CaFile(#[from] CaFileError),
    /// No connection, or it broke before an answer: whether the request was performed is not known.
    #[error("{what}: no answer from the engine {url}: {why}; is it up, and the URL right?")]
    Unanswered {
        /// The request.
        what: String,
        /// `https://host:port`.
        url: String,
        /// Reason.
        why: String,
        /// It took too long.
        late: bool,
    },
    /// The engine's certificate isn't trusted.
    #[error(
        "cannot trust the engine {url}: {why}; save its CA with `rhv-mount ca {url}`, check the fingerprint, \
         and name the file with --cafile, or give --insecure to go without verification"
    )]
    Trust {
        /// `https://host:port`.
        url: String,
        /// Reason of the verifier.
        why: String,
    },
    /// The login was refused.
    #[error(
        "the engine {url} refused the login of {username}: {message}; check the name (with its domain, as in \
         admin@internal or admin@ovirt@internalsso) and the password"
    )]
    Login {
        /// `https://host:port`.
        url: String,
        /// The user.
        username: String,
        /// The engine's words.
        message: String,
    },
    /// The engine answered with an error.
    #[error(
        "{what} failed: {message} (HTTP {status}, correlation id {correlation}; engine.log says more under that id)"
    )]
    Fault {
        /// The request.
        what: String,
        /// HTTP status.
        status: u16,
        /// How the fault bears on repeating the request.
        meaning: Meaning,
        /// Reason and detail.
        message: String,
        /// What to look for in engine.log.
        correlation: String,
    },
    /// The answer makes no sense.
    #[error("{what}: the engine {url} sent nonsense: {why}; is the URL that of an oVirt engine?")]
    Nonsense {
        /// The request.
        what: String,
        /// `https://host:port`.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// What was asked for isn't there, or isn't fit; the text says what is.
    #[error("{0}")]
    Unfit(String),
    /// The engine will not make what was asked for: nothing was made.
    #[error("{0}")]
    Refused(String),
    /// A creation was not answered, and it could not be found out what became of it.
    #[error("it is not known whether the engine has made it: {0}")]
    Unclear(String),
    /// A wait ended without its event.
    #[error(
        "{what} did not come in {seconds} s: {state}; engine.log says why (correlation id {correlation})"
    )]
    TooLong {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
        /// The last thing seen.
        state: String,
        /// What to look for in engine.log.
        correlation: String,
    },
    /// A transfer or disk went where no data can follow.
    #[error("{0}")]
    Failed(String),
    /// A signal.
    #[error("interrupted by a signal")]
    Interrupted,
}

/// How a fault bears on repeating its request; `wire` decides it when it reads the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// 503: the request was not performed.
    NotPerformed,
    /// 409 because another operation holds a lock; the engine frees it soon.
    Locked,
    /// Another 5xx without a fault in its body: the page of a front end, not the engine's answer.
    FrontEnd,
    /// The engine's considered answer: a repetition gets the same one.
    Final,
}

impl Error {
    /// Another operation holds a lock; the engine frees it soon.
    pub(crate) fn is_locked(&self) -> bool {
        self.meaning() == Some(Meaning::Locked)
    }

    /// It took too long.
    pub(crate) fn is_late(&self) -> bool {
        matches!(self, Error::Unanswered { late: true, .. })
    }

    /// A later repetition may succeed.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Error::Unanswered { .. } | Error::Nonsense { .. } => true,
            other => matches!(other.meaning(), Some(Meaning::NotPerformed | Meaning::FrontEnd)),
        }
    }

    /// The engine or a front end answered that it did not perform the request.
    pub(super) fn is_not_performed(&self) -> bool {
        self.meaning() == Some(Meaning::NotPerformed)
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
        let exit = match &error {
            Error::Url { .. } | Error::CaFile(_) => Exit::Usage,
            Error::Login { .. } => Exit::Login,
            Error::Interrupted => Exit::Other,
            _ => Exit::Transfer,
        };
        Failure::new(exit, error)
    }
}
