//! The words that options about output take.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The format in which facts are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Output {
    /// Lines for people.
    Text,
    /// JSON for programs.
    Json,
}

/// How a mount in the foreground shows its progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Progress {
    /// A bar where a COMMAND runs on a terminal, or a copy is made.
    #[default]
    Auto,
    /// A bar on the terminal, also without COMMAND.
    Bar,
    /// An object a line on stderr, for programs.
    Json,
    /// Nothing.
    None,
}

/// The format of a local image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(crate) enum ImageFormat {
    /// The bytes of the disk, one after the other.
    Raw,
    /// QEMU's, with its backing chain.
    Qcow2,
    /// VMware's.
    Vmdk,
}

/// A place for the log that is no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogTarget {
    /// Standard error.
    Stderr,
    /// The syslog daemon of this machine.
    Syslog,
    /// The journal of systemd, with a field for each value.
    Journald,
}
