//! Another transfer in place of one whose ticket has ended under a disk that goes on: the host has restarted
//! its imageio, or was away for so long that the engine gave up.
//!
//! Tickets live in imageio's memory, and the engine makes none for a transfer that had one: `resume` only
//! prolongs a ticket that is still there. So an upload is finalized, which deletes nothing and ends whatever
//! request the old ticket may still have, and another one is started on the same disk; a download likewise.
//! The pool then writes again, over the new URL, what its journal holds.
//!
//! The caller is the thread whose request was refused, through the pool's `Dial::renew`, while it holds a
//! connection; other threads that are refused wait for it there. It has the turn for as long as it takes, at
//! most [`RENEWAL_LIMIT`] and the engine's own limits, and [`OwnTransfer::end`] cuts it short.
//!
//! Between the two transfers none holds the disk ([`Stage::Between`]). A disk that ends there has nothing to
//! finalize or to pause; a process that is killed there leaves a note that says so, for `recover`. An upload
//! that somebody else has cancelled, finalized or paused for good is not brought back: its disk is their
//! business now. Neither is anything finalized because a host does not answer: the engine verifies the disk
//! that it finalizes, and removes one that it finds broken, so it is asked for that only when there is no
//! other way left. (It may also remove the disk of an upload whose *start* fails on the host. That the old
//! transfer was finalized just before makes this unlikely, and nothing here can exclude it.)

use std::time::Duration;

use tracing::{info, warn};

use super::OwnTransfer;
use super::acquire::wait_for_url;
use super::life::{Stage, Start, Turn};
use crate::engine::{self, Direction, Patience, Phase, Subject, Transfer};
use crate::imageio::{TicketState, TransferUrl};

/// Longest time that an engine which is away is asked again: as long as a host takes to restart.
const RENEWAL_LIMIT: Duration = Duration::from_secs(300);

/// Longest wait for a resume to show its effect: two looks of the engine, 10 s apart.
const RESUME_LIMIT: Duration = Duration::from_secs(25);

/// Shortest time between two renewals: a server that refuses every ticket would get ticket after ticket.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(2);

/// The result of an attempt.
enum Next {
    /// There is a ticket.
    Go,
    /// Nothing is to be done here: the ticket is there, or the disk is somebody else's now.
    Stay(String),
}

impl OwnTransfer {
    /// Returns another URL for `refused`, whose ticket is in `state`; `None` where there can't be one, or
    /// none is needed.
    pub(crate) fn renew(&self, refused: &TransferUrl, state: TicketState) -> Option<TransferUrl> {
        let mut turn = self.life.turn();
        let leads_to = |proxy| {
            let url = self.url(proxy).ok().flatten();
            url.is_some_and(|url| url.host() == refused.host())
        };
        let proxy = leads_to(true) && !leads_to(false);
        let mut patience = Patience::new(RENEWAL_LIMIT, &self.giving_up);
        let since_last = turn.renewed().unwrap_or(RENEWAL_INTERVAL);
        let _ = self.giving_up.sleep(RENEWAL_INTERVAL.saturating_sub(since_last));
        loop {
            if self.is_ending() {
                return None;
            }
            let error = match self.try_to_renew(&mut turn, state) {
                Ok(Next::Go) => {
                    turn.set_renewed();
                    return self.url(proxy).ok().flatten();
                }
                Ok(Next::Stay(why)) => {
                    info!("transfer {} stays as it is: {why}", turn.id());
                    return None;
                }
                Err(error) => error,
            };
            let snapshot = matches!(self.order.subject, Subject::Snapshot(_));
            let again = match &error {
                // An unanswered start can be looked for by its disk only; another start would be one more.
                engine::Error::Unclear(_) => !snapshot,
                // Does not wait where nobody listens: the request must be repeated as soon as the server
                // returns.
                _ => error.is_passing() && state != TicketState::NobodyThere,
            };
            if !(again && patience.pause().unwrap_or(false)) {
                warn!("no new transfer in place of {}: {error}", turn.id());
                return None;
            }
            info!("{error}");
        }
    }

    fn try_to_renew(&self, turn: &mut Turn<'_>, state: TicketState) -> Result<Next, engine::Error> {
        let old = turn.id();
        if let Stage::Starting { .. } = turn.stage() {
            let open = self.engine.transfer(&old)?.filter(Transfer::is_open);
            if let Some(fresh) = open {
                self.make_ready(turn, fresh)?;
                return Ok(Next::Go);
            }
        }
        if !matches!(turn.stage(), Stage::Between { .. }) {
            let phase = self.engine.transfer(&old)?.map(|transfer| transfer.phase);
            if let Some(next) = self.keep(turn, &phase, state)? {
                return Ok(next);
            }
            self.retire(turn, &phase)?;
        }
        if self.find_unanswered(turn)? {
            let found = turn.stage().transfer().clone();
            self.make_ready(turn, found)?;
            return Ok(Next::Go);
        }
        if let (
            Stage::Between {
                start: Start::Unanswered,
                ..
            },
            Subject::Snapshot(id),
        ) = (turn.stage(), &self.order.subject)
        {
            let what = format!("another download of disk snapshot {id}");
            return Err(engine::Error::Unclear(what));
        }
        self.start_again(turn)?;
        Ok(Next::Go)
    }

    /// Decides whether the transfer can go on, or is out of our hands; `None` when it is to be replaced.
    fn keep(
        &self,
        turn: &mut Turn<'_>,
        phase: &Option<Phase>,
        state: TicketState,
    ) -> Result<Option<Next>, engine::Error> {
        let stay = |why: &str| Ok(Some(Next::Stay(why.to_owned())));
        let finalized_by_us = matches!(turn.stage(), Stage::Finalizing { .. });
        let resumed = turn.stage().was_resumed();
        match phase {
            Some(Phase::Paused(_)) => {}
            Some(Phase::Transferring | Phase::Coming(_)) => {
                return match state {
                    TicketState::NobodyThere => stay("the engine sees it at work"),
                    // The watcher has resumed it just now.
                    TicketState::Refused if !resumed => {
                        turn.step(Stage::resume);
                        Ok(Some(Next::Go))
                    }
                    TicketState::Refused | TicketState::Unknown => Ok(None),
                };
            }
            // That was us, in an earlier attempt.
            Some(Phase::Finalizing | Phase::Finished) | None if finalized_by_us => return Ok(None),
            // The engine ends a download by itself when every byte was read, and when its ticket is lost.
            Some(Phase::Finalizing | Phase::Finished | Phase::Failing(_) | Phase::Failed) | None
                if !self.is_upload() =>
            {
                return Ok(None);
            }
            Some(phase) => return stay(&format!("it is {phase}, which was not us")),
            None => return stay("the engine does not know it any more"),
        }
        // A resume brings back a ticket that has expired, and none that is not there.
        if state == TicketState::Unknown || resumed {
            return Ok(None);
        }
        self.resume(turn, state)
    }

    /// Resumes a paused transfer and waits for the effect; `None` when there is none.
    fn resume(&self, turn: &mut Turn<'_>, state: TicketState) -> Result<Option<Next>, engine::Error> {
        let stay = |why: &str| Ok(Some(Next::Stay(why.to_owned())));
        let id = turn.id();
        turn.step(Stage::resume);
        match self.engine.resume(&id) {
            // The watcher has resumed it just now.
            Err(error) if !error.is_passing() => info!("{error}"),
            other => other?,
        }
        let mut patience = Patience::new(RESUME_LIMIT, &self.giving_up);
        loop {
            match self.engine.transfer(&id)?.map(|transfer| transfer.phase) {
                Some(Phase::Transferring) if state == TicketState::NobodyThere => {
                    return stay("it is resumed");
                }
                Some(Phase::Transferring) => return Ok(Some(Next::Go)),
                Some(Phase::Coming(_)) if patience.pause()? => {}
                Some(Phase::Coming(_) | Phase::Paused(_)) => return Ok(None),
                Some(other) => return stay(&format!("it is {other}, which was not us")),
                None => return stay("the engine does not know it any more"),
            }
        }
    }

    /// Ends the old transfer: without a ticket it is of no use, and it keeps the disk locked.
    fn retire(&self, turn: &mut Turn<'_>, phase: &Option<Phase>) -> Result<(), engine::Error> {
        let old = turn.id();
        note(turn, |note| note.renewing = true)?;
        turn.step(Stage::finalize);
        match (phase, self.order.direction) {
            (Some(Phase::Finished | Phase::Failed) | None, _) => {}
            (Some(Phase::Failing(_)), Direction::Download) => self.engine.cancel(&old)?,
            _ => self
                .engine
                .finalize(&old, self.disk_to_check(), &self.giving_up)?,
        }
        turn.step(Stage::ended);
        Ok(())
    }

    fn start_again(&self, turn: &mut Turn<'_>) -> Result<(), engine::Error> {
        let old = turn.id();
        note_transfer(turn, None, true)?;
        let new = match self.engine.start_transfer(&self.order) {
            Ok(new) => new,
            Err(error) => {
                if matches!(error, engine::Error::Unclear(_)) || error.is_passing() {
                    turn.step(|stage| stage.asked(Start::Unanswered));
                }
                if let Stage::Between {
                    start: Start::NotAsked,
                    ..
                } = turn.stage()
                {
                    note_transfer(turn, None, false)?;
                }
                return Err(error);
            }
        };
        info!(
            old,
            new = new.id,
            "the ticket had ended, another transfer is started"
        );
        take_on(turn, &new);
        self.make_ready(turn, new)
    }

    fn make_ready(&self, turn: &mut Turn<'_>, new: Transfer) -> Result<(), engine::Error> {
        note_transfer(turn, Some(&new), true)?;
        let new = self.engine.wait_for_transferring(new)?;
        let new = wait_for_url(&self.engine, new, &self.giving_up)?;
        note_transfer(turn, Some(&new), true)?;
        turn.step(|_| Stage::serving(new));
        Ok(())
    }

    /// Looks for the transfer whose start was not answered; false when there is none.
    pub(super) fn find_unanswered(&self, turn: &mut Turn<'_>) -> Result<bool, engine::Error> {
        let (
            Stage::Between {
                start: Start::Unanswered,
                ..
            },
            Subject::Disk(disk),
        ) = (turn.stage(), &self.order.subject)
        else {
            return Ok(false);
        };
        let found = self.engine.transfer_of(disk)?;
        // If there were one, the engine would have it by now: it answers.
        turn.step(|stage| stage.asked(Start::NotAsked));
        let Some(found) = found.filter(|found| found.direction == self.order.direction) else {
            return Ok(false);
        };
        info!(id = found.id, "the transfer was started all the same");
        take_on(turn, &found);
        Ok(true)
    }
}

/// From here on the transfer is ours, whatever else fails.
fn take_on(turn: &mut Turn<'_>, new: &Transfer) {
    let transfer = new.clone();
    turn.step(|_| Stage::Starting { transfer });
}

/// Notes, for `recover`, the transfer that holds the disk, or, with `asked`, that one was asked for.
fn note_transfer(turn: &mut Turn<'_>, transfer: Option<&Transfer>, asked: bool) -> Result<(), engine::Error> {
    note(turn, |note| {
        note.asked = asked;
        note.transfer = transfer.map(|transfer| transfer.id.clone());
        if let Some(transfer) = transfer {
            note.host.clone_from(&transfer.host);
            note.renewing = false;
        }
    })
}

fn note(turn: &mut Turn<'_>, change: impl FnOnce(&mut super::note::Note)) -> Result<(), engine::Error> {
    let file = turn.note();
    change(&mut file.note);
    file.update()
        .map_err(|failure| engine::Error::Failed(failure.to_string()))
}
