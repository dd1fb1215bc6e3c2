//! The options of `restore`. The docstrings here are the text of `--help`.

use std::path::PathBuf;

use clap::Args;

use super::forms::Output;
use super::groups::{ChosenDisksArgs, RunArgs};

/// The options of `restore`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RestoreArgs {
    /// Directory that `backup` has written
    pub(crate) dir: PathBuf,
    /// The point in time: a time as `backup --list` prints it, or its beginning, such as a date; a
    /// checkpoint; or the name of a manifest [default: the newest]
    #[arg(long, value_name = "TIME|CHECKPOINT", help_heading = "Restore")]
    pub(crate) point: Option<String>,
    /// The VM that was backed up, where DIR has backups of several
    #[arg(long, value_name = "NAME|UUID", help_heading = "Restore")]
    pub(crate) vm: Option<String>,
    /// Make the VM under this name and with a new id, beside the one that was backed up
    #[arg(long, value_name = "NAME", help_heading = "Restore")]
    pub(crate) name: Option<String>,
    /// Cluster of the VM [default: the one that it was in]
    #[arg(long, value_name = "NAME|UUID", help_heading = "Restore")]
    pub(crate) cluster: Option<String>,
    /// Storage domain of the disks [default: the one that each was on] [env: RHV_MOUNT_STORAGE_DOMAIN]
    #[arg(long, value_name = "NAME", help_heading = "Restore")]
    pub(crate) storage_domain: Option<String>,
    /// Make the disks, and no VM
    #[arg(long, conflicts_with_all = ["name", "cluster"], help_heading = "Restore")]
    pub(crate) disks_only: bool,
    #[command(flatten, next_help_heading = "Restore")]
    pub(crate) disks: ChosenDisksArgs,
    /// Tell what would be made, and from which files; make nothing
    #[arg(long, help_heading = "Restore")]
    pub(crate) dry_run: bool,
    /// Keep a disk whose copy has failed, for a look at it; one that is whole is kept in any case
    #[arg(long, help_heading = "Restore")]
    pub(crate) keep_on_failure: bool,
    /// Compare each disk on its storage with what was backed up, by their block hashes; that is done in any
    /// case. A difference is exit status 7
    #[arg(long = "verify", id = "verify", help_heading = "Restore")]
    pub(crate) _verify: bool,
    /// How to print what was made
    #[arg(short = 'o', long = "output", value_enum, default_value = "text")]
    pub(crate) form: Output,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}
