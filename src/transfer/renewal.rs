//! Another transfer in place of one whose ticket has ended under a disk that goes on: the host has restarted
//! its imageio, or was away for so long that the engine gave up.
//!
//! Tickets live in imageio's memory, and the engine makes none for a transfer that had one: `resume` only
//! prolongs a ticket that is still there. So an upload is finalized, which deletes nothing and ends whatever
//! request the old ticket may still have, and another one is started on the same disk; a download likewise.
//! The pool then writes again, over the new URL, what its journal holds.
//!
//! The caller is a thread of the image's (`imageio/renewals.rs`); the threads whose requests were refused
//! wait for it through the pool's `Dial::renew`, none longer than its retry time. It has the turn for as long
//! as it takes, at most [`RENEWAL_LIMIT`] and the engine's own limits, and [`OwnTransfer::end`] cuts it
//! short. A start whose ticket is lost before the first request calls it itself (`open_disk/connect.rs`).
//!
//! Between the two transfers none holds the disk ([`Stage::Between`]). A disk that ends there has nothing to
//! finalize or to pause; a process that is killed there leaves a note that says so, for `recover`. An upload
//! that somebody else has cancelled, finalized or paused for good is not brought back: its disk is their
//! business now. Neither is anything finalized because a host does not answer: the engine verifies the disk
//! that it finalizes, and removes one that it finds broken, so it is asked for that only when there is no
//! other way left. A pause that a user has made is left to the user for most of the retry time. The engine
//! may also remove the disk of an upload whose *start* fails on the host, so no host is asked for by name:
//! the one that served until now may be the one that fails. (That the old transfer was finalized just before
//! makes a failed start unlikely, and nothing here can exclude it.)

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::OwnTransfer;
use super::fate::{Facts, Fate, fate, users_time};
use super::life::{Seen, Stage, Start, Turn};
use crate::engine::{self, Direction, Interrupt, Patience, Phase, Subject, Transfer};
use crate::imageio::{TicketState, TransferUrl};

/// Longest time that an engine which is away is asked again: as long as a host takes to restart.
const RENEWAL_LIMIT: Duration = Duration::from_secs(300);

/// Longest wait for a resume to show its effect: two looks of the engine, 10 s apart.
const RESUME_LIMIT: Duration = Duration::from_secs(25);

/// Shortest time between two renewals: a server that refuses every ticket would get ticket after ticket.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(2);

/// How often a transfer that a user has paused is looked at while data waits for it.
const USER_INTERVAL: Duration = Duration::from_millis(500);

/// The result of an attempt.
enum Next {
    /// There is a ticket.
    Go,
    /// Nothing is to be done here: the ticket is there, or the disk is somebody else's now.
    Stay(String),
}

/// A renewal at work; it has the turn.
pub(super) struct Renewal<'a> {
    own: &'a OwnTransfer,
    turn: Turn<'a>,
    /// The ticket of the transfer that is to be renewed.
    state: TicketState,
    /// When data first had to wait for a user who has paused the transfer.
    awaits_user_since: Option<Instant>,
    /// Cuts the waits for the engine short.
    interrupt: &'a Interrupt,
}

impl<'a> Renewal<'a> {
    /// Waits for the turn, to renew a transfer whose ticket is in `state`, until `interrupt` is set.
    pub(super) fn of(own: &'a OwnTransfer, state: TicketState, interrupt: &'a Interrupt) -> Self {
        let turn = own.life.turn();
        Renewal {
            own,
            turn,
            state,
            awaits_user_since: None,
            interrupt,
        }
    }

    /// Returns another URL for `refused`, or why there can't be one, or none is needed.
    pub(super) fn run(mut self, refused: &TransferUrl) -> Result<TransferUrl, String> {
        let own = self.own;
        let leads_to = |proxy| {
            let url = own.url(proxy).ok().flatten();
            url.is_some_and(|url| url.host() == refused.host())
        };
        let proxy = leads_to(true) && !leads_to(false);
        let mut patience = Patience::steady(RENEWAL_LIMIT, self.interrupt);
        let since_last = self.turn.renewed().unwrap_or(RENEWAL_INTERVAL);
        let _ = self.interrupt.sleep(RENEWAL_INTERVAL.saturating_sub(since_last));
        loop {
            if own.is_ending() {
                return Err(format!("transfer {} is being ended", self.turn.id()));
            }
            let error = match self.attempt() {
                Ok(Next::Go) => {
                    self.turn.set_renewed();
                    let url = own.url(proxy).map_err(|e| e.to_string())?;
                    return url.ok_or_else(|| format!("transfer {} has no URL", self.turn.id()));
                }
                Ok(Next::Stay(why)) => {
                    return Err(format!("transfer {} stays as it is: {why}", self.turn.id()));
                }
                Err(error) => error,
            };
            let snapshot = matches!(own.order.subject, Subject::Snapshot(_));
            let again = match &error {
                // An unanswered start can be looked for by its disk only; another start would be one more.
                engine::Error::Unclear(_) => !snapshot,
                // Does not wait where nobody listens: the request must be repeated as soon as the server
                // returns.
                _ => error.is_passing() && self.state != TicketState::NobodyThere,
            };
            if !(again && patience.pause().unwrap_or(false)) {
                return Err(format!("no new transfer in place of {}: {error}", self.turn.id()));
            }
            info!("{error}");
        }
    }

    fn attempt(&mut self) -> Result<Next, engine::Error> {
        let old = self.turn.id();
        if let Stage::Starting { .. } = self.turn.stage() {
            let open = self.own.engine.transfer(&old)?.filter(Transfer::is_open);
            if let Some(fresh) = open {
                self.make_ready(fresh)?;
                return Ok(Next::Go);
            }
        }
        if !matches!(self.turn.stage(), Stage::Between { .. }) {
            let (phase, kept) = self.keep()?;
            if let Some(next) = kept {
                return Ok(next);
            }
            self.retire(&phase)?;
        }
        if find_unanswered(self.own, &mut self.turn)? {
            let found = self.turn.stage().transfer().clone();
            self.make_ready(found)?;
            return Ok(Next::Go);
        }
        if let (true, Subject::Snapshot(id)) = (is_unanswered(&self.turn.stage()), &self.own.order.subject) {
            let what = format!("another download of disk snapshot {id}");
            return Err(engine::Error::Unclear(what));
        }
        self.start_again()?;
        Ok(Next::Go)
    }

    /// Lets the transfer go on where that is possible. Returns its phase, and nothing more where it is to be
    /// replaced.
    fn keep(&mut self) -> Result<(Option<Phase>, Option<Next>), engine::Error> {
        let mut patience = Patience::steady(RESUME_LIMIT, self.interrupt);
        loop {
            let phase = self.own.engine.transfer(&self.turn.id())?.map(|t| t.phase);
            let facts = Facts {
                state: self.state,
                is_upload: self.own.is_upload(),
                finalized_by_us: matches!(self.turn.stage(), Stage::Finalizing { .. }),
                resumed: self.turn.stage().was_resumed(),
                awaited: self
                    .awaits_user_since
                    .is_some_and(|since| since.elapsed() >= users_time(self.own.retry_time)),
            };
            let next = match (fate(phase.as_ref(), facts), &phase) {
                // Its ticket is good once the engine has got to the resume: a request that comes before is
                // refused as if there had been none.
                (Fate::GoesOn, Some(Phase::Coming(_))) if patience.pause()? => continue,
                (Fate::GoesOn, _) => {
                    self.turn.step(Stage::resume);
                    Some(Next::Go)
                }
                (Fate::IsTheirs, Some(phase)) => Some(Next::Stay(format!("it is {phase}, which was not us"))),
                (Fate::IsTheirs, None) => Some(Next::Stay("it was ended, and not by us".to_owned())),
                (Fate::Stays(why), _) => Some(Next::Stay(why.to_owned())),
                (Fate::Replaced, _) => None,
                (Fate::Resumed, _) => self.resume()?,
                (Fate::AwaitsUser, _) => {
                    self.await_user(phase)?;
                    continue;
                }
            };
            return Ok((phase, next));
        }
    }

    /// Waits for a moment in which the user may resume the transfer.
    fn await_user(&mut self, phase: Option<Phase>) -> Result<(), engine::Error> {
        if self.awaits_user_since.is_none() {
            self.awaits_user_since = Some(Instant::now());
            self.turn.step(Stage::paused_by_user);
            warn!(
                "a user has paused transfer {}, and data waits for it: it is resumed in {} s if no user does",
                self.turn.id(),
                users_time(self.own.retry_time).as_secs()
            );
        }
        if let Some(phase) = phase {
            self.own.life.see(Seen::Phase(phase));
        }
        self.interrupt.sleep(USER_INTERVAL)
    }

    /// Resumes a paused transfer and waits for the effect; `None` when there is none.
    fn resume(&mut self) -> Result<Option<Next>, engine::Error> {
        let stay = |why: &str| Ok(Some(Next::Stay(why.to_owned())));
        let id = self.turn.id();
        self.turn.step(Stage::resume);
        match self.own.engine.resume(&id) {
            // The watcher has resumed it just now.
            Err(error) if !error.is_passing() => info!("{error}"),
            other => other?,
        }
        let mut patience = Patience::steady(RESUME_LIMIT, self.interrupt);
        loop {
            match self.own.engine.transfer(&id)?.map(|transfer| transfer.phase) {
                Some(Phase::Transferring) if self.state == TicketState::NobodyThere => {
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
    fn retire(&mut self, phase: &Option<Phase>) -> Result<(), engine::Error> {
        let old = self.turn.id();
        if let Some(danger) = self.own.head_in_the_way() {
            return Err(engine::Error::Failed(format!(
                "it would have to be finalized, and {danger}"
            )));
        }
        note(&mut self.turn, |note| note.renewing = true)?;
        self.turn.step(Stage::finalize);
        match (phase, self.own.order.direction) {
            (Some(Phase::Finished | Phase::Failed) | None, _) => {}
            (Some(Phase::Failing(_)), Direction::Download) => self.own.engine.cancel(&old)?,
            _ => {
                let disk = self.own.disk_to_check();
                self.own.engine.finalize(&old, disk, self.interrupt)?;
            }
        }
        self.turn.step(Stage::ended);
        Ok(())
    }

    fn start_again(&mut self) -> Result<(), engine::Error> {
        let old = self.turn.id();
        note_transfer(&mut self.turn, None, true)?;
        let unanswered = is_unanswered(&self.turn.stage());
        let order = self.own.order.on_any_host();
        let new = match self.own.engine.start_transfer(&order, unanswered) {
            Ok(new) => new,
            Err(error) => {
                if matches!(error, engine::Error::Unclear(_)) {
                    self.turn.step(|stage| stage.asked(Start::Unanswered));
                }
                if let Stage::Between {
                    start: Start::NotAsked,
                    ..
                } = self.turn.stage()
                {
                    note_transfer(&mut self.turn, None, false)?;
                }
                return Err(error);
            }
        };
        info!(
            old,
            new = new.id,
            "the ticket had ended, another transfer is started"
        );
        take_on(&mut self.turn, &new);
        self.make_ready(new)
    }

    fn make_ready(&mut self, new: Transfer) -> Result<(), engine::Error> {
        note_transfer(&mut self.turn, Some(&new), true)?;
        let new = self.own.engine.wait_for_transferring(new)?;
        let new = self.own.engine.wait_for_urls(new, self.interrupt)?;
        note_transfer(&mut self.turn, Some(&new), true)?;
        self.own.life.see(Seen::Phase(new.phase.clone()));
        self.turn.step(|_| Stage::serving(new));
        Ok(())
    }
}

/// True while nobody has said whether another transfer was started.
pub(super) fn is_unanswered(stage: &Stage) -> bool {
    matches!(
        stage,
        Stage::Between {
            start: Start::Unanswered,
            ..
        }
    )
}

/// Looks for the transfer whose start was not answered; false when there is none now. The engine may be at
/// the request still.
pub(super) fn find_unanswered(own: &OwnTransfer, turn: &mut Turn<'_>) -> Result<bool, engine::Error> {
    let (true, Subject::Disk(disk)) = (is_unanswered(&turn.stage()), &own.order.subject) else {
        return Ok(false);
    };
    let mut open = own.engine.open_transfers(disk)?.into_iter();
    let Some(found) = open.find(|found| turn.note().note.is_proven(found)) else {
        return Ok(false);
    };
    info!(id = found.id, "the transfer was started all the same");
    take_on(turn, &found);
    Ok(true)
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
