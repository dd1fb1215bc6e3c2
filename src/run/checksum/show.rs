//! How far a checksum has got, on the last row of the terminal or as lines of JSON on stderr.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::amounts;
use crate::failure::Failure;
use crate::output::{tell_last_object, tell_object};
use crate::settings::cli::Progress;
use crate::terminal::LastRow;

/// Work that ends sooner than this is not worth a row.
const QUIET_START: Duration = Duration::from_millis(500);

/// How often a line of JSON is written.
const JSON_INTERVAL: Duration = Duration::from_secs(1);

enum Form {
    Nothing,
    Row(LastRow),
    Json,
}

/// See the head of this file.
pub(super) struct Show {
    form: Form,
    began: Instant,
    due: Instant,
}

/// A line of JSON, with the names of a mount's (`docs/progress.md`).
#[derive(Serialize)]
struct Line<'a> {
    event: &'static str,
    stage: &'static str,
    run_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_done: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_total: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_status: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

impl Show {
    pub(super) fn of(progress: Progress, quiet: bool) -> Show {
        let form = match progress {
            Progress::None => Form::Nothing,
            Progress::Auto if quiet => Form::Nothing,
            Progress::Auto | Progress::Bar => LastRow::of_stderr().map_or(Form::Nothing, Form::Row),
            Progress::Json => Form::Json,
        };
        let began = Instant::now();
        let due = match form {
            Form::Row(_) => began + QUIET_START,
            Form::Json | Form::Nothing => began,
        };
        Show { form, began, due }
    }

    /// Does `work`, and tells how it ended.
    pub(super) fn attended(
        mut self,
        work: impl FnOnce(&mut Show) -> Result<u8, Failure>,
    ) -> Result<u8, Failure> {
        let result = work(&mut self);
        match &mut self.form {
            Form::Nothing => {}
            Form::Row(row) => row.give_back(),
            Form::Json => {
                let (code, message) = match &result {
                    Ok(code) => (*code, None),
                    Err(failure) => (failure.exit as u8, Some(failure.to_string())),
                };
                let line = Line {
                    exit_status: Some(code),
                    message: message.as_deref(),
                    ..self.line("ended", "ended")
                };
                tell_last_object(&line);
            }
        }
        result
    }

    /// Shows that `done` of `total` bytes are hashed; without a total, that the server is at work.
    pub(super) fn row(&mut self, name: &str, done: u64, total: Option<u64>) {
        if Instant::now() < self.due {
            return;
        }
        let elapsed = amounts::time(self.began.elapsed().as_secs());
        match (&mut self.form, total) {
            (Form::Nothing, _) => {}
            (Form::Row(row), Some(total)) => {
                let percent = (u128::from(done) * 100 / u128::from(total.max(1))) as u64;
                let (done, total) = (amounts::size(done), amounts::size(total));
                row.draw(|_| format!("{name}  {percent:>3} %  {done} of {total}  {elapsed}"));
            }
            (Form::Row(row), None) => {
                row.draw(|_| format!("{name}  the server computes its checksum  {elapsed}"));
            }
            (Form::Json, total) => {
                let line = Line {
                    bytes_done: total.map(|_| done),
                    bytes_total: total,
                    ..self.line("progress", "hashing")
                };
                tell_object(&line);
                self.due = Instant::now() + JSON_INTERVAL;
            }
        }
    }

    fn line(&self, event: &'static str, stage: &'static str) -> Line<'static> {
        Line {
            event,
            stage,
            run_seconds: self.began.elapsed().as_secs(),
            bytes_done: None,
            bytes_total: None,
            exit_status: None,
            message: None,
        }
    }
}
