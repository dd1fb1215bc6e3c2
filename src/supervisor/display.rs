//! `--progress`: shows a mount in the foreground, or a copy, to whoever has started it, as a bar on the last
//! row of the terminal or as lines of JSON on stderr (`docs/progress.md` has their names).

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::metrics::Picture;
use super::{Stage, Told, words};
use crate::open_disk::DiskStatus;
use crate::output::{self, inform, tell};
use crate::process::handover::Role;
use crate::settings::Task;
use crate::settings::cli::Progress;
use crate::terminal::LastRow;

/// How often the row is drawn.
const ROW_INTERVAL: Duration = Duration::from_millis(250);

/// A mount that ends sooner than this is not worth a bar.
const QUIET_START: Duration = Duration::from_millis(500);

/// How often a line of JSON is written.
const JSON_INTERVAL: Duration = Duration::from_secs(1);

/// The form in which it is shown.
#[derive(Debug)]
enum Form {
    Nothing,
    Row(LastRow),
    Json,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Display {
    form: Form,
    began: Instant,
    due: Instant,
}

/// This makes a line of JSON.
#[derive(Debug, Serialize)]
struct Line<'a> {
    /// It is `progress`, or `ended` in the last line.
    event: &'static str,
    stage: &'static str,
    /// The stage began so long ago.
    stage_seconds: u64,
    /// The mount was begun so long ago.
    run_seconds: u64,
    /// It is there for a mount.
    #[serde(skip_serializing_if = "Option::is_none")]
    mountpoint: Option<&'a str>,
    /// It is there for a copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a str>,
    /// It is there for a backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    directory: Option<&'a str>,
    /// This and the message are there at the end only.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_status: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    /// It is absent until the disk is open.
    #[serde(flatten)]
    disk: Option<DiskStatus>,
    /// Each of several disks, whose sums the figures beside them are then.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    disks: Vec<&'a DiskStatus>,
}

impl Display {
    /// Decides what a process of this role shows.
    pub(super) fn of(run: &Told<'_>, role: Role) -> Display {
        let row = || LastRow::of_stderr().map_or(Form::Nothing, Form::Row);
        let form = match run.output.progress {
            _ if role != Role::Foreground => Form::Nothing,
            Progress::None => Form::Nothing,
            Progress::Auto if run.output.quiet || run.is_service => Form::Nothing,
            Progress::Auto | Progress::Bar => row(),
            Progress::Json => Form::Json,
        };
        if matches!((&form, run.output.progress), (Form::Nothing, Progress::Bar)) {
            tell(match io::stderr().is_terminal() {
                true => "--progress bar: TERM is not set, or is dumb, so there is no bar",
                false => "--progress bar: stderr is no terminal, so there is no bar",
            });
        }
        let began = Instant::now();
        let due = match form {
            Form::Row(_) => began + QUIET_START,
            Form::Json | Form::Nothing => began,
        };
        Display { form, began, due }
    }

    /// When it is to be shown next, if ever.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.form {
            Form::Nothing => None,
            Form::Row(_) | Form::Json => Some(self.due),
        }
    }

    /// Shows a stage that began `since` ago, where that is due. A stage that has just begun is always due in
    /// JSON, and at the end.
    pub(super) fn show(&mut self, picture: &Picture, since: Duration, is_new: bool) {
        let took = self.began.elapsed();
        let ended = match &picture.stage {
            Some(Stage::Ended(code, message)) => Some((*code, message.as_deref())),
            _ => None,
        };
        let is_due = Instant::now() >= self.due;
        match (&mut self.form, ended) {
            (Form::Nothing, _) => {}
            (Form::Row(row), None) if is_due => {
                row.draw(|columns| words::row(picture, since, columns));
                self.due = Instant::now() + ROW_INTERVAL;
            }
            (Form::Row(_), None) => {}
            (Form::Row(row), Some((code, _))) => {
                row.give_back();
                for (disk, _) in &picture.disks {
                    inform(words::outcome(disk, code, took));
                }
            }
            (Form::Json, ended) => {
                if is_due || is_new {
                    let disks: Vec<&DiskStatus> = picture.disks.iter().map(|(disk, _)| disk).collect();
                    let (disk, disks) = match disks.as_slice() {
                        [] => (None, Vec::new()),
                        [one] => (Some((*one).clone()), Vec::new()),
                        _ => (Some(DiskStatus::sum(disks.iter().copied())), disks),
                    };
                    let place = |task| Some(picture.place.as_str()).filter(|_| picture.task == task);
                    let line = Line {
                        event: if ended.is_some() { "ended" } else { "progress" },
                        stage: picture.stage.as_ref().map_or("opening", Stage::name),
                        stage_seconds: since.as_secs(),
                        run_seconds: took.as_secs(),
                        mountpoint: place(Task::Mount),
                        image: place(Task::Upload).or_else(|| place(Task::Download)),
                        directory: place(Task::Backup).or_else(|| place(Task::Restore)),
                        exit_status: ended.map(|(code, _)| code),
                        message: ended.and_then(|(_, message)| message),
                        disk,
                        disks,
                    };
                    match ended {
                        Some(_) => output::tell_last_object(&line),
                        None => output::tell_object(&line),
                    }
                    self.due = Instant::now() + JSON_INTERVAL;
                }
            }
        }
    }
}
