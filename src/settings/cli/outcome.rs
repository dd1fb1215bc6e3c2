//! The options about the outcome of a copy, which stays after its end. The docstrings here are the text of
//! `--help`.

use std::path::PathBuf;

use clap::Args;

/// The words that a copy leaves to programs, and to later runs of the same copy.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct OutcomeArgs {
    /// File that gets a line of JSON when the copy has ended, however it ended. Many copies may share it
    #[arg(long, value_name = "PATH", help_heading = "Output")]
    pub(crate) outcome: Option<PathBuf>,
    /// Copy nothing where the lines of --outcome have this copy as done and it is still there: for a run
    /// that takes up what an earlier one has left undone. What a killed run of this copy has left is ended
    /// first. With --create it needs --disk-id, and goes on with that disk where an earlier run has made it
    #[arg(long, requires = "outcome", help_heading = "Output")]
    pub(crate) once: bool,
}
