//! How a mount stands, and how it ends: the last flush, the connections, the outcome and who hears it.

use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use tracing::{error, warn};

use super::control::{self, Status};
use super::record::Ending;
use super::{Ended, Event, Serving};
use crate::disk::DiskError;
use crate::engine::Interrupt;
use crate::failure::{Exit, Failure};
use crate::pool::Op;
use crate::process::spawn;
use crate::transfer::Verdict;

/// How often the way to the storage is looked at while the last data is on it.
const LOOK: Duration = Duration::from_secs(5);

/// Beyond the time that requests have by themselves: a renewal of the transfer, or one zero request for a large disk.
const EXTRA: Duration = Duration::from_secs(900);

/// Whether the last data moves. What it waits for has bounds of its own; this one is for what nobody has thought of.
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

fn gave_up() -> Result<(), DiskError> {
    Err(DiskError::Failed(
        "gave up on a second signal, with data still on its way".into(),
    ))
}

impl Serving {
    /// The end: flush and close the disk, then end the transfer, tell. A second signal during that gives up in order.
    pub(crate) fn close(&self, inbox: &Receiver<Event>, events: &Sender<Event>, ended: &mut Ended) -> Ending {
        let (disk, drained) = (self.disk.clone(), events.clone());
        let closing = spawn("close", move || {
            let closed = catch_unwind(AssertUnwindSafe(|| disk.close()));
            let panicked = || Err(DiskError::Failed("internal error while closing".into()));
            let _ = drained.send(Event::Drained(closed.unwrap_or_else(|_| panicked())));
        });
        let mut data = closing.is_err().then(gave_up);
        let patience = Interrupt::default();
        let mut transfer = None;
        let mut begun = false;
        let mut progress = Progress::of(self.answers());
        loop {
            if let (Some(data), false) = (&data, begun) {
                begun = true;
                let verdict = match (data, ended.command) {
                    (Err(_), _) => Verdict::Lost,
                    (Ok(()), Some(1..)) => Verdict::CommandFailed,
                    (Ok(()), _) if ended.unused => Verdict::Unused,
                    (Ok(()), _) => Verdict::Arrived,
                };
                transfer = self.end_transfer(verdict, &patience, events);
            }
            if let (Some(data), Some(transfer)) = (&data, &transfer) {
                let ending = self.ending(data, transfer);
                self.tell(&ending, std::mem::take(&mut ended.waiting));
                return ending;
            }
            match inbox.recv_timeout(LOOK) {
                Err(RecvTimeoutError::Timeout) if data.is_none() => {
                    let limit = self.settings.disk.retry_time + self.settings.disk.timeout + EXTRA;
                    data = progress.stuck(self.answers(), limit).map(|silent| {
                        Err(DiskError::Failed(format!(
                            "gave up after {} s without any answer, with data still on its way",
                            silent.as_secs()
                        )))
                    });
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Event::Drained(result)) => data = data.or(Some(result)),
                Ok(Event::Ended(result)) => transfer = Some(result),
                // The first one only says what is happening anyway.
                Ok(Event::Signal(_)) if !ended.signalled => ended.signalled = true,
                // The second while data is on its way, or while the engine is waited for; the third while
                // it does not even let us go.
                Ok(Event::Signal(_)) if data.is_none() => data = Some(gave_up()),
                Ok(Event::Signal(_)) if patience.check().is_ok() => patience.set(),
                Ok(Event::Signal(_)) | Err(_) => transfer = Some(Err(self.left_open())),
                Ok(Event::Umount(stream)) => ended.waiting.push(stream),
                Ok(Event::Unmounted | Event::CommandEnded(_)) => {}
            }
        }
    }

    /// Ends the transfer in a thread of its own, which tells; at once when there is none to end or no thread to be had.
    fn end_transfer(
        &self,
        verdict: Verdict,
        patience: &Interrupt,
        events: &Sender<Event>,
    ) -> Option<Result<(), Failure>> {
        let Some(held) = self.held.clone() else {
            return Some(Ok(()));
        };
        let (shared, patience_of_thread, events) = (held.clone(), patience.clone(), events.clone());
        let ending = spawn("finalize", move || {
            let ended = catch_unwind(AssertUnwindSafe(|| shared.end(verdict, &patience_of_thread)));
            let panicked = || {
                Err(Failure::text(
                    Exit::DataLoss,
                    "internal error while the transfer was ended; see `rhv-mount recover`",
                ))
            };
            let _ = events.send(Event::Ended(ended.unwrap_or_else(|_| panicked())));
        });
        match ending {
            Ok(_) => None,
            Err(_) => Some(held.end(verdict, patience)),
        }
    }

    /// Requests that were answered so far.
    fn answers(&self) -> u64 {
        let ops = [Op::Read, Op::Write, Op::Zero, Op::Flush];
        let clocks = self.pool.clocks().iter();
        clocks
            .map(|clock| ops.iter().map(|op| clock.ops(*op)).sum::<u64>())
            .sum()
    }

    fn left_open(&self) -> Failure {
        let id = self.held.as_ref().map(|held| held.id()).unwrap_or_default();
        let exit = if self.settings.disk.read_only {
            Exit::Transfer
        } else {
            Exit::DataLoss
        };
        Failure::text(
            exit,
            format!(
                "gave up on a signal before transfer {id} had ended; `rhv-mount recover {}` ends it",
                self.mountpoint.path.display()
            ),
        )
    }

    fn ending(&self, data: &Result<(), DiskError>, transfer: &Result<(), Failure>) -> Ending {
        let lost = data.as_ref().err().map(|e| {
            let message = format!(
                "data may be lost: {e} [disk on {}, mounted on {}]",
                self.image.host(),
                self.mountpoint.path.display()
            );
            Failure::text(Exit::DataLoss, message)
        });
        let failures: Vec<&Failure> = lost.iter().chain(transfer.as_ref().err()).collect();
        let texts: Vec<String> = failures.iter().map(ToString::to_string).collect();
        Ending {
            code: failures.first().map_or(Exit::Done, |f| f.exit) as u8,
            message: (!texts.is_empty()).then(|| texts.join("; ")),
            stats: if self.settings.stats {
                self.stats()
            } else {
                Vec::new()
            },
        }
    }

    /// The last word, to everybody who waits for it; a bad one with no listener is kept for the next.
    fn tell(&self, ending: &Ending, waiting: Vec<UnixStream>) {
        if let Some(message) = &ending.message {
            eprintln!("rhv-mount: {message}");
            if self.settings.log_file.is_some() {
                error!("{message}");
            }
            if waiting.is_empty()
                && self.settings.command.is_empty()
                && let Err(e) = self.place.write_ending(ending)
            {
                warn!("the outcome cannot be kept for `rhv-mount umount`: {e}");
            }
        }
        for line in &ending.stats {
            eprintln!("{line}");
        }
        self.place.clear();
        // Before anybody is told that all is over; the drop of the mountpoint would come too late.
        self.mountpoint.remove_made();
        for stream in waiting {
            control::answer(stream, ending);
        }
    }

    /// One line for each connection, as imageio's own log writes them.
    fn stats(&self) -> Vec<String> {
        let clocks = self.pool.clocks().iter().enumerate();
        clocks
            .map(|(n, clock)| format!("connection={} {clock}", n + 1))
            .collect()
    }

    pub(crate) fn status(&self) -> Status {
        let phase = if self.ending.load(Ordering::Relaxed) {
            "ending"
        } else {
            "mounted"
        };
        let disk = self.held.as_ref().map(|held| held.disk());
        let sum = |of: fn(&crate::pool::Clock) -> u64| self.pool.clocks().iter().map(of).sum();
        Status {
            mountpoint: self.mountpoint.path.display().to_string(),
            file: self.mountpoint.file.display().to_string(),
            pid: std::process::id(),
            phase: phase.to_owned(),
            host: self.image.host(),
            transport: self.image.transport().to_owned(),
            read_only: self.settings.disk.read_only,
            disk_size: self.disk.capacity(),
            file_size: self.disk.len(),
            connections: self.pool.connections(),
            writers: if self.settings.disk.read_only {
                0
            } else {
                self.pool.writers()
            },
            replaced: self.pool.replaced(),
            seconds: self.since.elapsed().as_secs(),
            bytes_read: sum(|clock| clock.bytes(Op::Read)),
            bytes_written: sum(|clock| clock.bytes(Op::Write)),
            bytes_zeroed: sum(|clock| clock.bytes(Op::Zero)),
            flushes: sum(|clock| clock.ops(Op::Flush)),
            errors: sum(crate::pool::Clock::errors),
            failure: self.disk.failure(),
            disk_id: disk.as_ref().map(|(id, _)| id.clone()),
            disk_name: disk.map(|(_, name)| name),
            transfer: self.held.as_ref().map(|held| held.id()),
            transfer_phase: self.held.as_ref().map(|held| held.phase()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
