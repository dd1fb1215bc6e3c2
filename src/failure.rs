//! Exit codes, the same everywhere, and the error that carries one to `main`.
//!
//! This stands below everything else: each module turns its own errors into a [`Failure`] beside their
//! definition.

use std::fmt;

use crate::logging::plain;
use crate::secret::clean;

/// The exit code of a whole run. The numbers are a contract with scripts; of two, the larger one is the
/// worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Everything acknowledged is on the remote storage.
    Done = 0,
    /// A failure that has no code of its own.
    Other = 1,
    /// The command line, the environment or a file is wrong.
    Usage = 2,
    /// The engine refused the login.
    Login = 3,
    /// The engine can't be reached or trusted, or it or the transfer refused or failed.
    Transfer = 4,
    /// imageio can't be reached or trusted. An engine that can't be is [`Exit::Transfer`].
    Connect = 5,
    /// The mountpoint can't be used, mounted or unmounted.
    Mount = 6,
    /// A write, flush or finalize failed after data was acknowledged.
    DataLoss = 7,
}

impl Exit {
    /// Every code with its meaning, in the words of the help, the manual and `docs/usage.md`; tests compare
    /// them.
    pub(crate) const MEANINGS: [(Exit, &str); 8] = [
        (Exit::Done, "done: every acknowledged byte is on the storage"),
        (Exit::Other, "anything else"),
        (Exit::Usage, "usage or configuration"),
        (Exit::Login, "the engine refused the login"),
        (
            Exit::Transfer,
            "the engine cannot be reached or trusted, or it or the transfer refused or failed",
        ),
        (Exit::Connect, "imageio cannot be reached or trusted"),
        (Exit::Mount, "the mountpoint cannot be used, mounted or unmounted"),
        (
            Exit::DataLoss,
            "data may be lost: a write, flush or finalize failed after data was acknowledged, or the process \
             was killed",
        ),
    ];
}

/// An error with its exit code. Its text is one line without secrets.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    error: anyhow::Error,
}

impl Failure {
    /// Wraps an error that ends the run with `exit`.
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Failure {
            exit,
            error: error.into(),
        }
    }

    /// Wraps a message that ends the run with `exit`.
    pub(crate) fn text(exit: Exit, text: impl fmt::Display) -> Self {
        Failure {
            exit,
            error: anyhow::anyhow!("{text}"),
        }
    }

    /// True where it wraps an error of this type.
    pub(crate) fn is<E: fmt::Display + fmt::Debug + Send + Sync + 'static>(&self) -> bool {
        self.error.is::<E>()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = format!("{:#}", self.error);
        // It quotes servers, files and users, none of which may steer a terminal.
        let line = plain(&clean(&whole));
        f.write_str(&line.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Failure::new(Exit::Other, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_that_steers_no_terminal() {
        let failure = Failure::text(Exit::Other, "HTTP 500:\r\n\u{1b}[2Jred\u{7}\u{9b}0m  end\n");
        assert_eq!(failure.to_string(), "HTTP 500: [2Jred 0m end");
    }
}
