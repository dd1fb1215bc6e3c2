//! The way out of one disk: refuse writes, bring home what is acknowledged, close the connections, end the
//! transfer.
//!
//! Two threads do the work, and wait for it from the opening of the disk on (`hands`): "close" closes the
//! disk, and "finalize" keeps the note of the transfer and ends it once the disk is closed or given up. The
//! thread that ends the disk owns the [`Ending`], hands it each [`Step`] that they report, and asks for the
//! [`Outcome`]; it waits for no file, lock or network itself. Nothing here waits for ever: what the threads
//! wait for has bounds of its own, [`Ending::look`] gives up where there is no progress at all, and
//! [`Ending::give_up`] does so at a signal, in order:
//!
//! ```text
//! draining      give up: the data counts as lost, and the transfer is ended as one whose data is lost
//! transfer      give up: the engine is not waited for any longer; once more: the transfer is left as it is
//! over
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::bounded;

use super::OpenDisk;
use crate::amounts;
use crate::block_hash::Watch;
use crate::disk::DiskError;
use crate::engine::Interrupt;
use crate::failure::{Exit, Failure};
use crate::settings::Task;
use crate::transfer::Verdict;

/// How long the last data may be without any answer, beyond the time that requests have by themselves: a
/// renewal of the transfer, or one zero request for a large disk.
const EXTRA_PATIENCE: Duration = Duration::from_secs(900);

/// Longest wait of the thread "close" for the note that says that the end has begun. The file system that has
/// the note may hang, and the data does not wait for that.
const NOTE_PATIENCE: Duration = Duration::from_secs(2);

/// The result of the work for which the disk was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// It was done, as far as anybody knows.
    Done,
    /// COMMAND has failed.
    Failed,
    /// Nobody ever came to use the disk.
    Unused,
}

/// A report of a thread that ends the disk.
#[derive(Debug)]
pub(crate) enum Step {
    /// The data has come home, or has not.
    Drained(Result<(), DiskError>),
    /// The transfer has ended, or has not.
    Ended(Result<(), Failure>),
}

/// How a disk ended: the data, and the transfer.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The reasons why it ended badly, the worst first; none when every acknowledged byte is on the storage
    /// and the disk is free.
    pub(crate) failures: Vec<Failure>,
}

/// The proof that the disk holds what it should, before its transfer ends. It is made once the data is on
/// the storage, in the thread that closes the disk.
pub(crate) struct Proof {
    /// Stops it.
    pub(crate) watch: Arc<Watch>,
    pub(crate) prove: Box<Prove>,
}

/// Makes the proof.
type Prove = dyn FnOnce(&Arc<OpenDisk>) -> Result<(), Failure> + Send;

enum State {
    /// The last data is on its way.
    Draining(Progress),
    /// The transfer is being ended.
    EndingTransfer(Result<(), DiskError>),
    /// Both are over.
    Over(Result<(), DiskError>, Result<(), Failure>),
}

impl State {
    /// Takes in a report. Returns the fate of the data where that is decided by it, for the end of the
    /// transfer; data that comes home after it was given up has come too late.
    fn step(&mut self, step: Step) -> Option<Result<(), DiskError>> {
        match (step, &*self) {
            (Step::Drained(data), State::Draining(_)) => return Some(data),
            (Step::Ended(transfer), State::EndingTransfer(data)) => {
                *self = State::Over(data.clone(), transfer);
            }
            (Step::Drained(_) | Step::Ended(_), _) => {}
        }
        None
    }
}

/// See the head of this file.
pub(crate) struct Ending {
    disk: Arc<OpenDisk>,
    work: Work,
    /// How a thread reaches the one who waits for it.
    report: Arc<dyn Fn(Step) + Send + Sync>,
    /// Set to stop waiting for the engine.
    patience: Interrupt,
    /// How long the last data may be without any answer.
    limit: Duration,
    /// Stops the proof, where one is to be made.
    proof: Option<Arc<Watch>>,
    /// The proof is being made, which has limits of its own.
    proving: Arc<AtomicBool>,
    state: State,
}

impl Ending {
    /// Begins to end `disk`, whose requests are retried for `retry_time` and may be silent for `timeout`. A
    /// proof that fails counts as data that is lost.
    pub(crate) fn begin(
        disk: Arc<OpenDisk>,
        work: Work,
        (retry_time, timeout): (Duration, Duration),
        proof: Option<Proof>,
        report: impl Fn(Step) + Send + Sync + 'static,
    ) -> Ending {
        let (noted, note) = bounded::<()>(0);
        if let Some(transfer) = disk.transfer.clone() {
            disk.hands.finalize.do_next(move || {
                transfer.note_ending();
                drop(noted);
            });
        } else {
            drop(noted);
        }
        let report: Arc<dyn Fn(Step) + Send + Sync> = Arc::new(report);
        let (closed, tell) = (disk.clone(), report.clone());
        let (watch, proving) = (proof.as_ref().map(|proof| proof.watch.clone()), Arc::default());
        let begun = Arc::clone(&proving);
        disk.hands.close.do_next(move || {
            let _ = note.recv_timeout(NOTE_PATIENCE);
            tell(Step::Drained(close(&closed, proof, &begun)));
        });
        Ending {
            state: State::Draining(Progress::of(disk.answers())),
            disk,
            work,
            report,
            patience: Interrupt::default(),
            limit: retry_time + timeout + EXTRA_PATIENCE,
            proof: watch,
            proving,
        }
    }

    /// Takes in what a thread reported. A report that comes after its part was given up changes nothing.
    pub(crate) fn step(&mut self, step: Step) {
        if let Some(data) = self.state.step(step) {
            self.end_transfer(data);
        }
    }

    /// Gives up on data that has not moved for too long. Called every few seconds.
    pub(crate) fn look(&mut self) {
        let State::Draining(progress) = &mut self.state else {
            return;
        };
        if self.proving.load(Ordering::Relaxed) {
            // The close after it has all of its time.
            *progress = Progress::of(self.disk.answers());
            return;
        }
        if let Some(silent) = progress.stuck(self.disk.answers(), self.limit) {
            self.end_transfer(Err(DiskError::Failed(format!(
                "gave up after {} s without any answer, with data still on its way",
                silent.as_secs()
            ))));
        }
    }

    /// Gives up what is waited for now; what comes after it is still done.
    pub(crate) fn give_up(&mut self) {
        match &self.state {
            State::Draining(_) => {
                if let Some(watch) = &self.proof {
                    watch.stop();
                }
                let why = match self.proving.load(Ordering::Relaxed) {
                    true => "gave up on a second signal, before it was verified",
                    false => "gave up on a second signal, with data still on its way",
                };
                self.end_transfer(Err(DiskError::Failed(why.into())));
            }
            State::EndingTransfer(_) if self.patience.check().is_ok() => self.patience.set(),
            State::EndingTransfer(_) => self.abandon(),
            State::Over(..) => {}
        }
    }

    /// Says what goes on, what the disk holds, and what the next signal stops: the answer to one that has
    /// come now, after [`Self::give_up`] where that was called for it. `None` once it is over.
    pub(crate) fn answer(&self) -> Option<String> {
        let data = match &self.state {
            State::Draining(_) if self.proving.load(Ordering::Relaxed) => {
                return Some(
                    "the disk is being verified, which is waited for; the next signal gives up on that, and \
                     the disk counts as not verified then"
                        .to_owned(),
                );
            }
            State::Draining(_) => {
                // Zeros have no bytes that could be counted.
                let unflushed = match self.disk.disk.undurable_bytes() {
                    0 => "not everything is".to_owned(),
                    bytes => format!("{} not", amounts::size(bytes)),
                };
                return Some(format!(
                    "{unflushed} on the storage yet, which is waited for; the next signal gives up on that, \
                     and data may be lost then"
                ));
            }
            State::EndingTransfer(data) => data,
            State::Over(..) => return None,
        };
        let transfer = self.disk.transfer.as_ref()?;
        let stopped = self.patience.check().is_err();
        Some(transfer.while_ending(
            self.verdict(data),
            self.disk.disk.is_changed(),
            stopped,
            &self.disk.mountpoint,
        ))
    }

    /// Leaves the transfer as it is.
    pub(crate) fn abandon(&mut self) {
        let data = match &self.state {
            State::Over(..) => return,
            State::EndingTransfer(data) => data.clone(),
            State::Draining(_) => Err(DiskError::Failed("internal error while closing".into())),
        };
        let left = self.left_open(self.verdict(&data));
        self.state = State::Over(data, Err(left));
    }

    /// How it ended, once it has; a second call finds nothing.
    pub(crate) fn outcome(&mut self) -> Option<Outcome> {
        let State::Over(data, transfer) = &mut self.state else {
            return None;
        };
        let lost = data.as_ref().err().map(|e| {
            let message = format!(
                "data may be lost: {e} [disk on {}, {} {}]",
                self.disk.host(),
                match self.disk.task {
                    Task::Mount => "mounted on",
                    Task::Upload => "upload of",
                    Task::Download => "download to",
                    Task::Checksum => "checksum of",
                    Task::Backup => "backup to",
                    Task::Restore => "restore from",
                },
                self.disk.mountpoint.display()
            );
            Failure::text(Exit::DataLoss, message)
        });
        let transfer = std::mem::replace(transfer, Ok(()));
        let failures = lost.into_iter().chain(transfer.err()).collect();
        Some(Outcome { failures })
    }

    /// True while the last data is on its way.
    pub(crate) fn is_draining(&self) -> bool {
        matches!(self.state, State::Draining(_))
    }

    /// True when there is an outcome.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, State::Over(..))
    }

    /// The data is decided: has the transfer ended.
    fn end_transfer(&mut self, data: Result<(), DiskError>) {
        let verdict = self.verdict(&data);
        let Some(transfer) = &self.disk.transfer else {
            self.state = State::Over(data, Ok(()));
            return;
        };
        let (shared, patience, tell) = (transfer.clone(), self.patience.clone(), self.report.clone());
        self.disk.hands.finalize.do_next(move || {
            let ended = catch_unwind(AssertUnwindSafe(|| shared.end(verdict, &patience)));
            let panicked = || {
                Err(Failure::text(
                    Exit::DataLoss,
                    "internal error while the transfer was ended; see `rhv-mount recover`",
                ))
            };
            tell(Step::Ended(ended.unwrap_or_else(|_| panicked())));
        });
        self.state = State::EndingTransfer(data);
    }

    fn verdict(&self, data: &Result<(), DiskError>) -> Verdict {
        match (data, self.work) {
            (Err(_), _) => Verdict::Lost,
            (Ok(()), Work::Failed) => Verdict::CommandFailed,
            (Ok(()), Work::Unused) => Verdict::Unused,
            (Ok(()), Work::Done) => Verdict::Arrived,
        }
    }

    fn left_open(&self, verdict: Verdict) -> Failure {
        let transfer = self.disk.transfer.as_ref();
        let (id, again) = transfer
            .map(|transfer| (transfer.id(), transfer.recover_line(verdict)))
            .unwrap_or_default();
        let exit = match self.disk.disk.is_read_only() {
            true => Exit::Transfer,
            false => Exit::DataLoss,
        };
        Failure::text(
            exit,
            format!("gave up on a signal before transfer {id} had ended; `{again}` ends it"),
        )
    }
}

/// Closes the disk, after the proof that it holds what it should.
fn close(disk: &Arc<OpenDisk>, proof: Option<Proof>, proving: &AtomicBool) -> Result<(), DiskError> {
    let closed = catch_unwind(AssertUnwindSafe(|| {
        let proven = match proof {
            Some(proof) => disk.disk.flush().and_then(|()| {
                proving.store(true, Ordering::Relaxed);
                let proven = (proof.prove)(disk);
                proving.store(false, Ordering::Relaxed);
                proven.map_err(|failure| DiskError::Failed(failure.to_string()))
            }),
            None => Ok(()),
        };
        disk.disk.close().and(proven)
    }));
    closed.unwrap_or_else(|_| Err(DiskError::Failed("internal error while closing".into())))
}

/// Watches whether the last data moves.
#[derive(Debug)]
struct Progress {
    answers: u64,
    since: Instant,
}

impl Progress {
    fn of(answers: u64) -> Self {
        Progress {
            answers,
            since: Instant::now(),
        }
    }

    /// How long there was no answer, when that is longer than `limit`.
    fn stuck(&mut self, answers: u64, limit: Duration) -> Option<Duration> {
        if answers != self.answers {
            *self = Progress::of(answers);
        }
        Some(self.since.elapsed()).filter(|silent| *silent > limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_that_comes_home_after_it_was_given_up_stays_lost() {
        let lost = || Err(DiskError::Failed("gave up".into()));
        let mut state = State::Draining(Progress::of(0));
        assert!(state.step(Step::Ended(Ok(()))).is_none());
        assert!(matches!(state.step(Step::Drained(Ok(()))), Some(Ok(()))));
        state = State::EndingTransfer(lost());
        assert!(state.step(Step::Drained(Ok(()))).is_none());
        assert!(matches!(state, State::EndingTransfer(Err(_))));
        assert!(state.step(Step::Ended(Ok(()))).is_none());
        assert!(matches!(state, State::Over(Err(_), Ok(()))));
        assert!(state.step(Step::Drained(Ok(()))).is_none());
        assert!(matches!(state, State::Over(Err(_), Ok(()))));
    }

    #[test]
    fn only_a_silence_is_given_up_on() {
        let mut progress = Progress::of(5);
        assert_eq!(progress.stuck(5, Duration::from_secs(100)), None);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(progress.stuck(6, Duration::from_millis(10)), None, "an answer");
        std::thread::sleep(Duration::from_millis(20));
        assert!(progress.stuck(6, Duration::from_millis(10)).is_some());
    }
}
