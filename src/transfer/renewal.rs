//! A transfer whose ticket has ended under a mount that goes on: the host has restarted its imageio, or was away for so long
//! that the engine gave up.
//!
//! Tickets live in imageio's memory, and the engine makes none for a transfer that had one: `resume` only prolongs a ticket
//! that is still there. So an upload is finalized, which deletes nothing and ends whatever request the old ticket may still
//! have, and another one is started on the same disk; a download likewise. The pool then writes again, over the new URL,
//! what the journal holds.
//!
//! Who calls: the thread whose request was refused, through the pool's `Dial::renew`, while it holds a connection; others
//! that are refused wait for it there. It is bounded by [`LIMIT`] and the engine's own limits, and [`Held::end`] cuts it
//! short.
//!
//! Between the two transfers none holds the disk ([`Renewing::between`]). A mount that ends there has nothing to finalize or
//! to pause; one that is killed there leaves a note that says so, for `recover`. An upload that somebody else has cancelled,
//! finalized or paused for good is not brought back: its disk is their business now. Neither is anything finalized because a
//! host does not answer: the engine verifies what it finalizes, and removes a disk that it finds broken, so it is asked for that
//! only when there is no other way left. (It may also remove the disk of an upload whose *start* fails on the host. That the
//! old transfer was finalized just before makes this unlikely, and nothing here can exclude it.)

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;
use tracing::{info, warn};

use super::Held;
use super::acquire::wait_for_url;
use crate::engine::{self, Direction, Phase, Subject, Transfer};
use crate::imageio::{TicketState, TransferUrl};

/// Longest time that an engine which is away is asked again: as long as a host takes to restart.
const LIMIT: Duration = Duration::from_secs(300);

/// Between two questions to an engine that is away.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a resume may take to show its effect: two looks of the engine, 10 s apart.
const RESUME_LIMIT: Duration = Duration::from_secs(25);

/// Renewals are not asked for more often: who refuses every ticket would be given ticket after ticket.
const INTERVAL: Duration = Duration::from_secs(2);

/// How far a renewal has got.
#[derive(Debug, Default)]
pub(crate) struct Renewing {
    last: Option<Instant>,
    /// The transfer that a resume was tried on, once.
    resumed: Option<String>,
    /// The transfer that was asked to finalize, whatever came of it.
    finalized: Option<String>,
    /// The last transfer has ended and there is no other one yet.
    pub(crate) between: bool,
    /// A start was not answered: there may be one all the same.
    pub(crate) unanswered: bool,
    /// The transfer that was started here and is not there for data yet.
    fresh: Option<String>,
}

/// What an attempt came to.
enum Next {
    /// There is a ticket.
    Go,
    /// Nothing to be done here: the ticket is there, or the disk is somebody else's now.
    Stay(String),
}

impl Held {
    /// Another URL for `refused`, whose ticket is in `state`; `None` where there can't be one, or none is needed.
    pub(crate) fn renew(&self, refused: &TransferUrl, state: TicketState) -> Option<TransferUrl> {
        let mut renewing = self.renewing();
        let leads_to = |proxy| {
            let url = self.url(proxy).ok().flatten();
            url.is_some_and(|url| url.host() == refused.host())
        };
        let proxy = leads_to(true) && !leads_to(false);
        let begun = Instant::now();
        let early = renewing
            .last
            .map_or(Duration::ZERO, |last| INTERVAL.saturating_sub(last.elapsed()));
        let _ = self.giving_up.sleep(early);
        loop {
            if self.ended.load(Ordering::Relaxed) {
                return None;
            }
            let error = match self.try_to_renew(&mut renewing, state) {
                Ok(Next::Go) => {
                    renewing.last = Some(Instant::now());
                    return self.url(proxy).ok().flatten();
                }
                Ok(Next::Stay(why)) => {
                    info!("transfer {} stays as it is: {why}", self.id());
                    return None;
                }
                Err(error) => error,
            };
            let snapshot = matches!(self.order.subject, Subject::Snapshot(_));
            let again = match &error {
                // Whether it was started can be found out for a disk only; another start would be one more.
                engine::Error::Unclear(_) => !snapshot,
                // What waits here is needed at once when the server is back.
                _ => error.is_passing() && state != TicketState::NobodyThere,
            };
            if !again || begun.elapsed() > LIMIT || self.giving_up.sleep(PAUSE).is_err() {
                warn!("no new transfer in place of {}: {error}", self.id());
                return None;
            }
            info!("{error}");
        }
    }

    pub(crate) fn renewing(&self) -> MutexGuard<'_, Renewing> {
        self.renewing.lock()
    }

    fn try_to_renew(&self, renewing: &mut Renewing, state: TicketState) -> Result<Next, engine::Error> {
        let old = self.id();
        if renewing.fresh.as_deref() == Some(&old)
            && let Some(fresh) = self.engine.transfer(&old)?
            && fresh.is_open()
        {
            self.make_ready(fresh, renewing)?;
            return Ok(Next::Go);
        }
        if !renewing.between {
            let phase = self.engine.transfer(&old)?.map(|transfer| transfer.phase);
            let failing = matches!(phase, Some(Phase::Failing(_)));
            let ended = matches!(phase, Some(Phase::Finished | Phase::Failed) | None);
            if let Some(next) = self.keep(&old, phase, renewing, state)? {
                return Ok(next);
            }
            self.note_renewal()?;
            renewing.finalized = Some(old.clone());
            // Without a ticket it is of no use, and it keeps the disk locked.
            match self.order.direction {
                _ if ended => {}
                Direction::Download if failing => self.engine.cancel(&old)?,
                _ => self
                    .engine
                    .finalize(&old, self.disk_to_check(), &self.giving_up)?,
            }
            renewing.between = true;
        }
        if self.find_unanswered(renewing)? {
            self.make_ready(self.transfer(), renewing)?;
            return Ok(Next::Go);
        }
        if renewing.unanswered && self.disk_to_check().is_none() {
            return Err(engine::Error::Unclear(format!(
                "another download of disk snapshot {}",
                self.disk().0
            )));
        }
        self.start_again(&old, renewing)?;
        Ok(Next::Go)
    }

    /// Can the transfer go on, or is it out of our hands? `None` when it is to be replaced.
    fn keep(
        &self,
        old: &str,
        phase: Option<Phase>,
        renewing: &mut Renewing,
        state: TicketState,
    ) -> Result<Option<Next>, engine::Error> {
        let upload = self.order.direction == Direction::Upload;
        let stay = |why: &str| Ok(Some(Next::Stay(why.to_owned())));
        match phase {
            Some(Phase::Paused(_)) => {}
            Some(Phase::Transferring | Phase::Coming(_)) if state == TicketState::NobodyThere => {
                return stay("the engine sees it at work");
            }
            Some(Phase::Transferring | Phase::Coming(_))
                if state == TicketState::Refused && renewing.resumed.as_deref() != Some(old) =>
            {
                // Resumed by the watcher just now.
                renewing.resumed = Some(old.to_owned());
                return Ok(Some(Next::Go));
            }
            Some(Phase::Transferring | Phase::Coming(_)) => return Ok(None),
            // That was us, in an earlier attempt.
            Some(Phase::Finalizing | Phase::Finished) | None
                if renewing.finalized.as_deref() == Some(old) =>
            {
                return Ok(None);
            }
            // The engine ends a download by itself when every byte was read, and when its ticket is lost.
            Some(Phase::Finalizing | Phase::Finished | Phase::Failing(_) | Phase::Failed) | None
                if !upload =>
            {
                return Ok(None);
            }
            Some(phase) => return stay(&format!("it is {phase}, which was not us")),
            None => return stay("the engine does not know it any more"),
        }
        // A resume brings back a ticket that has expired, and none that is not there.
        if state == TicketState::Unknown || renewing.resumed.as_deref() == Some(old) {
            return Ok(None);
        }
        renewing.resumed = Some(old.to_owned());
        match self.engine.resume(old) {
            // Resumed by the watcher just now.
            Err(error) if !error.is_passing() => info!("{error}"),
            other => other?,
        }
        let begun = Instant::now();
        while begun.elapsed() < RESUME_LIMIT {
            match self.engine.transfer(old)?.map(|transfer| transfer.phase) {
                Some(Phase::Transferring) if state == TicketState::NobodyThere => {
                    return stay("it is resumed");
                }
                Some(Phase::Transferring) => return Ok(Some(Next::Go)),
                Some(Phase::Coming(_)) => self.giving_up.sleep(PAUSE)?,
                Some(Phase::Paused(_)) => break,
                Some(other) => return stay(&format!("it is {other}, which was not us")),
                None => return stay("the engine does not know it any more"),
            }
        }
        Ok(None)
    }

    fn start_again(&self, old: &str, renewing: &mut Renewing) -> Result<(), engine::Error> {
        self.note(None, true)?;
        let new = match self.engine.start_transfer(&self.order) {
            Ok(new) => new,
            Err(error) => {
                renewing.unanswered |= matches!(error, engine::Error::Unclear(_)) || error.is_passing();
                if !renewing.unanswered {
                    self.note(None, false)?;
                }
                return Err(error);
            }
        };
        info!(
            old,
            new = new.id,
            "the ticket had ended, another transfer is started"
        );
        self.take_on(&new, renewing);
        self.make_ready(new, renewing)
    }

    /// From here on it is ours, whatever else fails.
    fn take_on(&self, new: &Transfer, renewing: &mut Renewing) {
        self.set_transfer(new);
        *renewing = Renewing {
            last: renewing.last,
            fresh: Some(new.id.clone()),
            ..Renewing::default()
        };
    }

    fn make_ready(&self, new: Transfer, renewing: &mut Renewing) -> Result<(), engine::Error> {
        self.note(Some(&new), true)?;
        let new = wait_for_url(&self.engine, self.engine.wait_for_transferring(new)?)?;
        self.set_transfer(&new);
        self.note(Some(&new), true)?;
        renewing.fresh = None;
        Ok(())
    }

    fn set_transfer(&self, transfer: &Transfer) {
        *self.transfer.lock() = transfer.clone();
    }

    /// For `recover`: when the transfer has ended, that was not the end.
    fn note_renewal(&self) -> Result<(), engine::Error> {
        let mut file = self.file();
        file.state.renewing = true;
        file.update()
            .map_err(|failure| engine::Error::Failed(failure.to_string()))
    }

    /// For `recover`: this is the transfer that holds the disk, or, with `asked`, one that was asked for.
    fn note(&self, transfer: Option<&Transfer>, asked: bool) -> Result<(), engine::Error> {
        let mut file = self.file();
        file.state.asked = asked;
        file.state.transfer = transfer.map(|transfer| transfer.id.clone());
        if let Some(transfer) = transfer {
            file.state.host.clone_from(&transfer.host);
            file.state.renewing = false;
        }
        file.update()
            .map_err(|failure| engine::Error::Failed(failure.to_string()))
    }

    fn disk_to_check(&self) -> Option<&str> {
        match &self.order.subject {
            Subject::Disk(id) => Some(id),
            Subject::Snapshot(_) => None,
        }
    }

    /// Looks for the transfer whose start was not answered; false when there is none.
    pub(crate) fn find_unanswered(&self, renewing: &mut Renewing) -> Result<bool, engine::Error> {
        let Subject::Disk(disk) = &self.order.subject else {
            return Ok(false);
        };
        if !(renewing.between && renewing.unanswered) {
            return Ok(false);
        }
        let found = self.engine.transfer_of(disk)?;
        // If there were one, the engine would have it by now: it answers.
        renewing.unanswered = false;
        let Some(found) = found.filter(|found| found.direction == self.order.direction) else {
            return Ok(false);
        };
        info!(id = found.id, "the transfer was started all the same");
        self.take_on(&found, renewing);
        Ok(true)
    }
}
