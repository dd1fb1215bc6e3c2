//! `rhv-mount upload` and `rhv-mount download`: the options are checked in this process, which then becomes
//! one whose arguments and environment hold no secret, and that one copies.

use std::path::{Path, PathBuf};

use super::{choose_output, start_log};
use crate::copying;
use crate::copying::outcome::{Outcome, Which};
use crate::failure::Failure;
use crate::output::tell;
use crate::process::handover::{self, Role};
use crate::settings::cli::{DiskArgs, DownloadArgs, OutcomeArgs, UploadArgs};
use crate::settings::copy::CopySettings;
use crate::settings::{Run, Task};

pub(super) fn upload(args: UploadArgs) -> Result<u8, Failure> {
    choose_output(args.output.progress, args.output.quiet);
    let asked = Asked::of(Task::Upload, &args.image, &args.disk, &args.outcome);
    become_clean(CopySettings::of_upload(args).inspect_err(|failure| asked.refused(failure))?)
}

pub(super) fn download(args: DownloadArgs) -> Result<u8, Failure> {
    choose_output(args.output.progress, args.output.quiet);
    let asked = Asked::of(Task::Download, &args.image, &args.disk, &args.outcome);
    become_clean(CopySettings::of_download(args).inspect_err(|failure| asked.refused(failure))?)
}

/// A copy as the command line asks for it, whose settings are yet to be gathered.
struct Asked {
    task: Task,
    image: PathBuf,
    disk: Option<String>,
    outcome: Option<PathBuf>,
}

impl Asked {
    fn of(task: Task, image: &Path, disk: &DiskArgs, outcome: &OutcomeArgs) -> Asked {
        let named = [&disk.disk, &disk.disk_snapshot, &disk.create];
        Asked {
            task,
            image: image.to_owned(),
            disk: named.into_iter().flatten().next().cloned(),
            outcome: outcome.outcome.clone(),
        }
    }

    /// Keeps why it is refused, where the command line says where.
    fn refused(self, failure: &Failure) {
        let copy = Which::refused(self.task, &self.image, self.disk);
        match Outcome::open(self.outcome.as_deref(), copy, false) {
            Ok(outcome) => outcome.failed(failure),
            Err(unkept) => tell(&unkept),
        }
    }
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
