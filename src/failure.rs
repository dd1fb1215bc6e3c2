//! Exit codes, the same everywhere, and the error that carries one to `main`.

use std::fmt;

use crate::engine;
use crate::fuse::MountError;
use crate::imageio;
use crate::logging::plain;
use crate::remote::RemoteError;
use crate::secret::clean;
use crate::settings::config_file::ConfigError;

/// What a whole run ended with. The numbers are a contract with scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Everything acknowledged is on the remote storage.
    Done = 0,
    /// Anything that has no code of its own.
    Other = 1,
    /// The command line, the environment or a file is wrong.
    Usage = 2,
    /// The engine refused the login.
    Login = 3,
    /// The engine or the transfer refused or failed.
    Transfer = 4,
    /// imageio can't be reached or trusted.
    Connect = 5,
    /// The mountpoint can't be used, mounted or unmounted.
    Mount = 6,
    /// A write, flush or finalize failed after data was acknowledged.
    DataLoss = 7,
}

/// An error with its exit code. Its text is one line without secrets.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The code.
    pub exit: Exit,
    error: anyhow::Error,
}

impl Failure {
    /// `error` ends the run with `exit`.
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Failure {
            exit,
            error: error.into(),
        }
    }

    /// A text ends the run with `exit`.
    pub(crate) fn text(exit: Exit, text: impl fmt::Display) -> Self {
        Failure {
            exit,
            error: anyhow::anyhow!("{text}"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = format!("{:#}", self.error);
        // It quotes what servers, files and users say, none of which may steer a terminal.
        let line = plain(&clean(&whole));
        f.write_str(&line.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

impl From<imageio::Error> for Failure {
    fn from(error: imageio::Error) -> Self {
        use imageio::Error::{CaFile, Connect, Denied, Lost, Nonsense, Resolve, Status, Trust, Url};
        let exit = match &error {
            Url { .. } | CaFile(_) => Exit::Usage,
            Resolve { .. } | Connect { .. } | Trust { .. } | Lost { heard: false, .. } => Exit::Connect,
            Denied { .. } | Status { .. } | Nonsense { .. } | Lost { .. } => Exit::Transfer,
        };
        Failure::new(exit, error)
    }
}

impl From<engine::Error> for Failure {
    fn from(error: engine::Error) -> Self {
        use engine::Error::{CaFile, Interrupted, Login, Url};
        let exit = match &error {
            Url { .. } | CaFile(_) => Exit::Usage,
            Login { .. } => Exit::Login,
            Interrupted => Exit::Other,
            _ => Exit::Transfer,
        };
        Failure::new(exit, error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Engine(error) => error.into(),
            error => Failure::new(Exit::Usage, error),
        }
    }
}

impl From<RemoteError> for Failure {
    fn from(error: RemoteError) -> Self {
        let exit = match &error {
            RemoteError::Lost(_) | RemoteError::Late(_) => Exit::Connect,
            RemoteError::Failed(_) | RemoteError::Denied(_) | RemoteError::Protocol(_) => Exit::Transfer,
        };
        Failure::new(exit, error)
    }
}

impl From<MountError> for Failure {
    fn from(error: MountError) -> Self {
        Failure::new(Exit::Mount, error)
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
