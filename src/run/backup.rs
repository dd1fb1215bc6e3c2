//! `rhv-mount backup`: `--list` and `--check` read the directory in this process; a backup is made in one
//! whose arguments and environment hold no secret.

use super::{choose_output, start_log};
use crate::backup::{back_up, check, list};
use crate::failure::Failure;
use crate::process::handover::{self, Role};
use crate::settings::Run;
use crate::settings::backup::BackupSettings;
use crate::settings::cli::BackupArgs;

/// Prints what a directory has, or becomes the process that backs a VM up.
pub(super) fn backup(args: BackupArgs) -> Result<u8, Failure> {
    choose_output(args.run.output.progress, args.run.output.quiet);
    if args.list {
        return list(&args.dir, args.form);
    }
    if args.check {
        return check(&args.dir);
    }
    let settings = BackupSettings::gather(args)?;
    Err(handover::become_clean(
        Role::Foreground,
        &Run::Backup(Box::new(settings)),
    ))
}

/// Backs a VM up, in that process.
pub(super) fn go_on(settings: BackupSettings) -> Result<u8, Failure> {
    choose_output(settings.output.progress, settings.output.quiet);
    start_log(&settings.output, &settings.dir)?;
    back_up(settings)
}
