//! The options of `backup`. The docstrings here are the text of `--help`.

use std::path::PathBuf;

use clap::Args;

use super::forms::Output;
use super::groups::{ChosenDisksArgs, RunArgs};

/// The options of `backup`.
#[derive(Debug, Clone, Args)]
pub(crate) struct BackupArgs {
    /// Directory of the files, which is made where it is not there
    pub(crate) dir: PathBuf,
    /// The VM, up or down [env: RHV_MOUNT_VM]
    #[arg(long, value_name = "NAME|UUID", help_heading = "Backup")]
    pub(crate) vm: Option<String>,
    #[command(flatten, next_help_heading = "Backup")]
    pub(crate) disks: ChosenDisksArgs,
    /// Copy every disk as a whole, also where DIR has a base
    #[arg(long, help_heading = "Backup")]
    pub(crate) full: bool,
    /// Through libvirt instead of a snapshot: nothing is merged afterwards, and the VM can't migrate or stop
    /// meanwhile
    #[arg(long, help_heading = "Backup")]
    pub(crate) live: bool,
    /// Fail where the guest's file systems can't be frozen; implies --live
    #[arg(long, help_heading = "Backup")]
    pub(crate) require_consistency: bool,
    /// Afterwards remove the backups of this VM that are older than the newest N of each disk, and that no
    /// kept one needs
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..),
        help_heading = "Backup"
    )]
    pub(crate) keep: Option<u32>,
    /// Copy a disk as a whole where its last N backups need one another, so that older ones can go [default:
    /// that of --keep, or never]
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..),
        help_heading = "Backup"
    )]
    pub(crate) full_every: Option<u32>,
    /// Tell which disks would be copied, and how much at most; begin nothing
    #[arg(long, help_heading = "Backup")]
    pub(crate) dry_run: bool,
    /// Print the backups that DIR has, and end; asks no engine
    #[arg(long, conflicts_with_all = ["vm", "check", "dry_run"], help_heading = "Backup")]
    pub(crate) list: bool,
    /// Compare every file in DIR with its manifest, and end; asks no engine. A difference is exit status 7
    #[arg(long, conflicts_with_all = ["vm", "dry_run"], help_heading = "Backup")]
    pub(crate) check: bool,
    /// How --list prints it
    #[arg(short = 'o', long = "output", value_enum, default_value = "text")]
    pub(crate) form: Output,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}
