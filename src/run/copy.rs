//! `rhv-mount upload`, `download` and `populate`: the options are checked in this process, which then becomes
//! one whose arguments and environment hold no secret, and that one copies.

use super::{choose_output, start_log};
use crate::copying;
use crate::failure::Failure;
use crate::process::handover::{self, Role};
use crate::settings::Run;
use crate::settings::cli::{DownloadArgs, PopulateArgs, UploadArgs};
use crate::settings::copy::CopySettings;

pub(super) fn upload(args: UploadArgs) -> Result<u8, Failure> {
    choose_output(args.output.progress, args.output.quiet);
    become_clean(CopySettings::of_upload(args)?)
}

pub(super) fn download(args: DownloadArgs) -> Result<u8, Failure> {
    choose_output(args.output.progress, args.output.quiet);
    become_clean(CopySettings::of_download(args)?)
}

pub(super) fn populate(args: PopulateArgs) -> Result<u8, Failure> {
    choose_output(args.output.progress, args.output.quiet);
    become_clean(CopySettings::of_populate(args)?)
}

/// Becomes the process that copies; returns only if that fails.
fn become_clean(settings: CopySettings) -> Result<u8, Failure> {
    Err(handover::become_clean(
        Role::Foreground,
        &Run::Copy(Box::new(settings)),
    ))
}

/// Copies, in that process.
pub(super) fn go_on(settings: CopySettings) -> Result<u8, Failure> {
    choose_output(settings.output.progress, settings.output.quiet);
    start_log(&settings.output, settings.image.shown())?;
    copying::copy(settings)
}
