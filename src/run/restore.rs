//! `rhv-mount restore`: the options are checked in this process, which then becomes one whose arguments and
//! environment hold no secret, and that one restores.

use super::{choose_output, start_log};
use crate::failure::Failure;
use crate::process::handover::{self, Role};
use crate::restore;
use crate::settings::Run;
use crate::settings::cli::RestoreArgs;
use crate::settings::restore::RestoreSettings;

/// Becomes the process that restores; returns only if that fails.
pub(super) fn restore(args: RestoreArgs) -> Result<u8, Failure> {
    choose_output(args.run.output.progress, args.run.output.quiet);
    let settings = RestoreSettings::gather(args)?;
    Err(handover::become_clean(
        Role::Foreground,
        &Run::Restore(Box::new(settings)),
    ))
}

/// Restores, in that process.
pub(super) fn go_on(settings: RestoreSettings) -> Result<u8, Failure> {
    choose_output(settings.output.progress, settings.output.quiet);
    start_log(&settings.output, &settings.dir)?;
    restore::restore(settings)
}
