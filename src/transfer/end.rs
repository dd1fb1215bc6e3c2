//! How a transfer of our own ends. An upload that is cancelled takes its disk with it (oVirt 4.5,
//! TransferDiskImageCommand), so no disk is deleted that this run did not make:
//!
//! | disk         | data arrived | COMMAND failed | data lost    | never used  |
//! |--------------|--------------|----------------|--------------|-------------|
//! | made here    | finalize     | discard        | discard      | discard     |
//! | made, keep   | finalize     | finalize       | finalize     | finalize    |
//! | there before | finalize     | finalize       | leave paused | finalize    |
//! | download     | finalize     | finalize       | finalize     | finalize    |
//!
//! A finalize is not sent for a raw disk that begins like an image of another format: the engine would remove
//! it. Such a transfer is left paused instead, and so is that of a raw disk at which nobody could look.
//!
//! [`end_for`] is this table. [`Closing::run`] is called once, by the thread "finalize" or by a drop, and
//! waits for the engine within the engine's own limits; `interrupt` cuts a finalize short, but never a
//! discard.

use std::time::Duration;

use tracing::{info, warn};

use super::cause::Cause;
use super::head::Danger;
use super::life::{Stage, Start, Turn};
use super::renewal::{find_unanswered, is_unanswered};
use super::{OwnTransfer, head};
use crate::engine::{self, Interrupt, Patience, Phase, Subject, Transfer};
use crate::failure::{Exit, Failure};
use crate::output::tell;

/// Longest wait for an engine that has to say whether a transfer was started.
const UNANSWERED_START_LIMIT: Duration = Duration::from_secs(60);

/// Longest wait for a transfer to appear whose start was asked for: the engine may be at it still.
const APPEARANCE_LIMIT: Duration = Duration::from_secs(10);

/// The fate of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Every acknowledged byte is on the storage.
    Arrived,
    /// The same, and COMMAND failed.
    CommandFailed,
    /// Acknowledged bytes may be missing.
    Lost,
    /// Nothing was ever written.
    Unused,
}

/// The disk that an end may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stake {
    /// The disk was made for this run.
    Made,
    /// The same, and it is kept in any case (`--keep-on-failure`).
    MadeAndKept,
    /// The disk was there before.
    ThereBefore,
    /// Nothing is written.
    Download,
}

impl Stake {
    /// Returns true if the transfer may be finalized before anybody has looked at the head of the disk. The
    /// engine removes a raw disk that begins like an image of another format, so one that was there before
    /// must not be risked; one that was made for this run is still empty.
    pub(super) fn bears_a_blind_finalize(self, raw: bool) -> bool {
        match self {
            Stake::Made | Stake::MadeAndKept | Stake::Download => true,
            Stake::ThereBefore => !raw,
        }
    }
}

/// The way in which a transfer is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The engine verifies the disk and frees it.
    Finalize,
    /// The disk goes, and the transfer with it.
    Discard,
    /// The disk stays locked with what has arrived, for `recover`.
    LeavePaused,
}

/// The table at the head of this file.
pub(super) fn end_for(stake: Stake, verdict: Verdict) -> End {
    match (stake, verdict) {
        (_, Verdict::Arrived) => End::Finalize,
        (Stake::Made, Verdict::CommandFailed | Verdict::Lost | Verdict::Unused) => End::Discard,
        (Stake::ThereBefore, Verdict::Lost) => End::LeavePaused,
        (Stake::MadeAndKept | Stake::Download, Verdict::Lost) => End::Finalize,
        (
            Stake::MadeAndKept | Stake::ThereBefore | Stake::Download,
            Verdict::CommandFailed | Verdict::Unused,
        ) => End::Finalize,
    }
}

/// A transfer that is being ended.
pub(super) struct Closing<'a> {
    own: &'a OwnTransfer,
    turn: Turn<'a>,
    /// Cuts the wait for the engine short.
    interrupt: &'a Interrupt,
}

impl<'a> Closing<'a> {
    /// Waits for the turn, to end a transfer.
    pub(super) fn of(own: &'a OwnTransfer, interrupt: &'a Interrupt) -> Self {
        let turn = own.life.turn();
        Closing { own, turn, interrupt }
    }

    /// Ends the transfer as the table says. What is left after that is `recover`'s, even before this process
    /// is gone.
    pub(super) fn run(mut self, verdict: Verdict) -> Result<(), Failure> {
        let is_discarded = end_for(self.own.stake, verdict) == End::Discard;
        self.turn.note().amend(|note| {
            // Nothing else tells that the disk was to go, if the process is gone before that is done.
            note.cause = match is_discarded {
                true => Cause::NotRemoved,
                false => Cause::Ending,
            };
            note.all_arrived = !is_discarded && matches!(verdict, Verdict::Arrived | Verdict::Unused);
        });
        let ended = self.end(verdict);
        self.turn.note().leave();
        ended
    }

    fn end(&mut self, verdict: Verdict) -> Result<(), Failure> {
        let is_certain = self.resolve_start()?;
        let between = matches!(self.turn.stage(), Stage::Between { .. });
        match end_for(self.own.stake, verdict) {
            End::Finalize if between => self.finalize(is_certain),
            End::Finalize => match self.head_in_the_way() {
                Some(danger) => Err(self.left_for_its_head(&danger)),
                None => self.finalize(true),
            },
            End::Discard => self.discard(between),
            End::LeavePaused if between => Err(self.left_between()),
            End::LeavePaused => Err(self.leave_paused()),
        }
    }

    /// Finalizes the transfer. Unless it `is_certain` that no other one was started, a disk that stays locked
    /// may be held by that.
    fn finalize(&mut self, is_certain: bool) -> Result<(), Failure> {
        let id = self.turn.id();
        let error = match self
            .own
            .engine
            .finalize(&id, self.own.disk_to_check(), self.interrupt)
        {
            Ok(false) if !is_certain => {
                let error = engine::Error::Unclear("the disk is locked".to_owned());
                return Err(self.start_unclear(&error));
            }
            Ok(_) => {
                info!(transfer = id, "transfer finalized");
                self.let_go();
                return Ok(());
            }
            Err(error) => error,
        };
        // The engine has refused it for good, and the disk was made for this run.
        if matches!(error, engine::Error::Failed(_)) && self.own.stake == Stake::Made {
            let refused = Failure::text(
                Exit::DataLoss,
                format!("{} is not finalized: {error}", self.own.shown),
            );
            return match self.discard(false) {
                Ok(()) => Err(refused),
                Err(also) => Err(Failure::text(Exit::DataLoss, format!("{refused}; {also}"))),
            };
        }
        let found = self.own.engine.transfer(&id);
        let gone = found.is_ok_and(|found| found.is_none_or(|transfer| !transfer.is_open()));
        match gone {
            true => self.turn.note().remove(),
            false => self.note_cause(Cause::FinalizeFailed),
        }
        Err(self.not_finalized(&id, &error, gone))
    }

    /// A renewal that was cut short may have started a transfer that nobody knows of. Returns true where it
    /// is certain that there is none but the one that is ended.
    fn resolve_start(&mut self) -> Result<bool, Failure> {
        let mut patience = Patience::steady(UNANSWERED_START_LIMIT, self.interrupt);
        loop {
            let error = match find_unanswered(self.own, &mut self.turn) {
                Err(error) => error,
                Ok(_) if !is_unanswered(&self.turn.stage()) => return Ok(true),
                Ok(_) => match &self.own.order.subject {
                    // A start that can't be found by its disk stays unanswered.
                    Subject::Snapshot(_) => {
                        engine::Error::Unclear("another download of the snapshot".to_owned())
                    }
                    Subject::Disk(_) if patience.waited() < APPEARANCE_LIMIT => match patience.pause() {
                        Ok(_) => continue,
                        Err(interrupted) => interrupted,
                    },
                    Subject::Disk(_) => {
                        self.turn.step(|stage| stage.asked(Start::NotAsked));
                        return Ok(false);
                    }
                },
            };
            if !(error.is_passing() && patience.pause().unwrap_or(false)) {
                return Err(self.start_unclear(&error));
            }
        }
    }

    /// A transfer that may have been started is left to `recover`.
    fn start_unclear(&mut self, error: &engine::Error) -> Failure {
        self.note_cause(Cause::StartUnclear);
        Failure::text(
            self.exit_of_a_bad_end(),
            format!(
                "transfer {} of {} lost its ticket and was finalized, and whether another one was started is \
                 not known: {error}; the disk may be locked, {}",
                self.turn.id(),
                self.own.shown,
                self.turn.note().remedy("looks for it and ends it")
            ),
        )
    }

    /// Removes the disk that was made for this run; with `free`, no transfer holds it.
    fn discard(&mut self, free: bool) -> Result<(), Failure> {
        let disk = self.turn.note().note.disk_id.clone();
        let gone = match free {
            true => self.own.engine.remove_disk(&disk),
            false => self.own.engine.discard(&self.turn.id(), &disk),
        };
        match gone {
            Ok(()) => {
                tell(format_args!(
                    "{} was made for this run and is removed again",
                    self.own.shown
                ));
                self.let_go();
                Ok(())
            }
            Err(e) => {
                self.note_cause(Cause::NotRemoved);
                Err(Failure::text(
                    Exit::Transfer,
                    format!(
                        "{e}; {} was made for this run and may be there still: `{}` removes it",
                        self.own.shown,
                        self.turn.note().note.recover_line()
                    ),
                ))
            }
        }
    }

    /// The last transfer's ticket was lost, and there is no other transfer that could be paused.
    fn left_between(&mut self) -> Failure {
        self.let_go();
        Failure::text(
            Exit::DataLoss,
            format!(
                "transfer {} of {} on host {} lost its ticket and was finalized, and no other one could be \
                 started: the disk is kept, free, with what had arrived; mount it again and write the image \
                 once more",
                self.turn.id(),
                self.own.shown,
                self.turn.note().note.host_shown(),
            ),
        )
    }

    fn leave_paused(&mut self) -> Failure {
        let id = self.turn.id();
        let note = self.turn.note().note.clone();
        let host = note.host_shown();
        if let Ok(
            None
            | Some(Transfer {
                phase: Phase::Failed | Phase::Failing(_) | Phase::Finished,
                ..
            }),
        ) = self.own.engine.transfer(&id)
        {
            // Nothing is left to be paused, and what became of the disk is the engine's business.
            self.note_cause(Cause::EndedByOthers);
            return Failure::text(
                Exit::DataLoss,
                format!(
                    "transfer {id} of {} on host {host} was ended, not by this mount, before every byte had \
                     arrived: look at the disk in the engine; `{}` tells how it is",
                    self.own.shown,
                    note.recover_line()
                ),
            );
        }
        self.note_cause(Cause::Paused);
        let paused = self.own.engine.pause(&id);
        if let Err(e) = &paused {
            warn!("{e}");
        }
        Failure::text(
            Exit::DataLoss,
            format!(
                "transfer {id} of {} on host {host} is left {}, since not every byte arrived: the disk is \
                 kept, locked. Mount it again after `{}`, which frees it with what has arrived, and write \
                 the image once more",
                self.own.shown,
                if paused.is_ok() { "paused" } else { "open" },
                note.recover_with("--finalize")
            ),
        )
    }

    /// Returns why the engine might remove the disk if it were asked to finalize the upload. A disk that
    /// could not be opened is looked at now: two servers lead to it, and only one of them may have failed.
    fn head_in_the_way(&mut self) -> Option<Danger> {
        let danger = match self.own.head.get() {
            Some(question) => question(),
            None => self.own.minds_the_head().then_some(Danger::Unseen),
        };
        if danger != Some(Danger::Unseen) {
            return danger;
        }
        let id = self.turn.id();
        // It may have been paused since its start, and a pause is ended before the look.
        let seen = match self.own.engine.transfer(&id) {
            Ok(Some(now)) if now.is_open() => {
                head::in_the_way(&self.own.engine, &self.turn.note().note, &now, false)
            }
            // Somebody else has ended it, and a finalize tells how.
            Ok(_) => Ok(None),
            Err(e) => Err(e),
        };
        seen.unwrap_or_else(|e| {
            info!("{e}");
            danger
        })
    }

    /// The engine would remove the disk if it were asked to finalize the upload, or might.
    fn left_for_its_head(&mut self, danger: &Danger) -> Failure {
        self.note_cause(danger.cause());
        let (id, note) = (self.turn.id(), &self.turn.note().note);
        Failure::text(Exit::DataLoss, head::leave(&self.own.engine, note, &id, danger))
    }

    fn not_finalized(&mut self, id: &str, error: &engine::Error, gone: bool) -> Failure {
        let file = self.turn.note();
        let note = file.note.clone();
        let [waits, tries] = ["waits for it again", "tries again"].map(|does| file.remedy(does));
        let next = match (gone, error) {
            (true, _) => "look at the disk in the engine before you use it".to_owned(),
            (false, engine::Error::Interrupted) => {
                format!("gave up waiting on a signal; {waits}")
            }
            (false, _) => format!("the disk may be locked; {tries}"),
        };
        Failure::text(
            self.exit_of_a_bad_end(),
            format!(
                "transfer {id} of {} on host {} is not finalized: {error}; {next}",
                self.own.shown,
                note.host_shown(),
            ),
        )
    }

    /// Notes why the transfer is left, for `status` and the next mount.
    fn note_cause(&mut self, cause: Cause) {
        self.turn.note().amend(|note| note.cause = cause);
    }

    /// Nothing of ours is left in the engine.
    fn let_go(&mut self) {
        self.turn.note().remove();
        self.own.engine.logout();
    }

    fn exit_of_a_bad_end(&self) -> Exit {
        match self.own.is_upload() {
            true => Exit::DataLoss,
            false => Exit::Transfer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The disk, the verdict and the end of one cell of the table.
    macro_rules! cell {
        ($name:ident: $stake:ident, $verdict:ident => $end:ident) => {
            #[test]
            fn $name() {
                assert_eq!(end_for(Stake::$stake, Verdict::$verdict), End::$end);
            }
        };
    }

    #[test]
    fn only_a_raw_disk_that_was_there_is_not_finalized_unseen() {
        for raw in [true, false] {
            assert_eq!(Stake::ThereBefore.bears_a_blind_finalize(raw), !raw);
            for other in [Stake::Made, Stake::MadeAndKept, Stake::Download] {
                assert!(other.bears_a_blind_finalize(raw), "{other:?}, raw: {raw}");
            }
        }
    }

    cell!(a_made_disk_whose_data_arrived_is_finalized: Made, Arrived => Finalize);
    cell!(a_made_disk_goes_when_the_command_failed: Made, CommandFailed => Discard);
    cell!(a_made_disk_goes_when_data_is_lost: Made, Lost => Discard);
    cell!(a_made_disk_goes_when_it_was_never_used: Made, Unused => Discard);
    cell!(a_kept_disk_whose_data_arrived_is_finalized: MadeAndKept, Arrived => Finalize);
    cell!(a_kept_disk_stays_when_the_command_failed: MadeAndKept, CommandFailed => Finalize);
    cell!(a_kept_disk_stays_when_data_is_lost: MadeAndKept, Lost => Finalize);
    cell!(a_kept_disk_stays_when_it_was_never_used: MadeAndKept, Unused => Finalize);
    cell!(an_old_disk_whose_data_arrived_is_finalized: ThereBefore, Arrived => Finalize);
    cell!(an_old_disk_stays_when_the_command_failed: ThereBefore, CommandFailed => Finalize);
    cell!(an_old_disk_is_left_paused_when_data_is_lost: ThereBefore, Lost => LeavePaused);
    cell!(an_old_disk_stays_when_it_was_never_used: ThereBefore, Unused => Finalize);
    cell!(a_download_that_arrived_is_finalized: Download, Arrived => Finalize);
    cell!(a_download_is_finalized_when_the_command_failed: Download, CommandFailed => Finalize);
    cell!(a_download_is_finalized_when_it_failed: Download, Lost => Finalize);
    cell!(a_download_is_finalized_when_it_was_never_used: Download, Unused => Finalize);
}
