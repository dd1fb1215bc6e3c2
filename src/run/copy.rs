//! `rhv-mount upload`, `download` and `populate`: the options are checked in this process, which then becomes
//! one whose arguments and environment hold no secret, and that one copies.

use std::path::{Path, PathBuf};

use super::end_left::Again;
use super::recover::recover_copy;
use super::{choose_output, start_log};
use crate::copying;
use crate::copying::outcome::{Outcome, Which};
use crate::failure::Failure;
use crate::output::tell;
use crate::process::handover::{self, Role};
use crate::settings::cli::{DiskArgs, DownloadArgs, EngineArgs, OutcomeArgs, PopulateArgs, UploadArgs};
use crate::settings::copy::CopySettings;
use crate::settings::{Run, Source, Task, Wanted};
use crate::transfer::note::Note;

pub(super) fn upload(args: UploadArgs) -> Result<u8, Failure> {
    choose_output(args.run.output.progress, args.run.output.quiet);
    let asked = Asked::of(Task::Upload, &args.image, &args.disk, &args.outcome);
    let engine = args.run.engine.clone();
    let settings = CopySettings::of_upload(args).and_then(|settings| take_up(settings, engine));
    become_clean(settings.inspect_err(|failure| asked.refused(failure))?)
}

pub(super) fn download(args: DownloadArgs) -> Result<u8, Failure> {
    choose_output(args.run.output.progress, args.run.output.quiet);
    let asked = Asked::of(Task::Download, &args.image, &args.disk, &args.outcome);
    let engine = args.run.engine.clone();
    let settings = CopySettings::of_download(args).and_then(|settings| take_up(settings, engine));
    become_clean(settings.inspect_err(|failure| asked.refused(failure))?)
}

/// With `--once`, ends first what a killed run of the same copy has left of itself: it would keep this one
/// from the disk.
fn take_up(settings: CopySettings, engine: EngineArgs) -> Result<CopySettings, Failure> {
    let is_once = settings.outcome.as_ref().is_some_and(|outcome| outcome.once);
    if let (true, Source::Engine(source)) = (is_once, &settings.disk.source) {
        let same_disk = |note: &Note| match &source.wanted {
            Wanted::New(new) => {
                let id = new.id.as_ref();
                id.is_some_and(|id| note.disk_id.eq_ignore_ascii_case(id))
            }
            Wanted::Existing(name) | Wanted::Snapshot(name) => {
                note.disk_id.eq_ignore_ascii_case(name) || note.disk_name == *name
            }
            Wanted::OfBackup { .. } => false,
        };
        let again = match &source.wanted {
            Wanted::New(_) if !source.keep_on_failure => Again::WithNewDisk,
            _ => Again::WithSameDisk,
        };
        recover_copy(engine, again, |note| {
            note.task == settings.disk.task
                && note.mountpoint == settings.image.shown()
                && note.engine_url == source.account.url
                && same_disk(note)
        })?;
    }
    Ok(settings)
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

pub(super) fn populate(args: PopulateArgs) -> Result<u8, Failure> {
    choose_output(args.run.output.progress, args.run.output.quiet);
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
