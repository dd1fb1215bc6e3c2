//! The end of a transfer: finalizes or cancels it, and waits for the outcome.
//!
//! The answer to an action proves nothing, so the action is repeated until the transfer's phase shows an
//! effect. Engines before 4.4.7 forget a transfer as soon as it has ended: they answer 404, and the disk's
//! status tells the outcome.

use std::time::Duration;

use tracing::info;

use super::transfers::MAX_EFFECT_DELAY;
use super::{Engine, Error, Interrupt, Patience, Phase};

/// Upper bound on the wait for a finalize, which verifies the image; the stock client uses the same.
const MAX_FINALIZE_WAIT: Duration = Duration::from_secs(300);

/// Upper bound on the wait until the engine has removed the disk of an upload that failed: three of its
/// looks.
const MAX_REMOVAL_WAIT: Duration = Duration::from_secs(30);

/// Upper bound on the wait for a cancel, which takes four phases of up to 10 s each and the removal of the
/// disk.
const MAX_CANCEL_WAIT: Duration = Duration::from_secs(120);

/// Upper bound on the wait for a disk whose transfer has ended well. The engine unlocks a disk before it says
/// so; a lock that is seen then is, as a rule, of somebody who has waited for the disk.
const MAX_UNLOCK_WAIT: Duration = MAX_EFFECT_DELAY;

/// How far a finalize has got.
#[derive(Debug, PartialEq, Eq)]
enum Step<'a> {
    /// The transfer has ended well.
    Ended,
    /// The engine has forgotten it: its disk tells.
    Forgotten,
    /// The engine is at work on it.
    Works,
    /// No effect is to be seen yet.
    Waits,
    /// It has ended badly.
    Failed,
    /// It is in this phase for good.
    Stuck(&'a Phase),
}

/// Judges what was `seen` of a transfer that is being finalized; `gone`: the engine has forgotten it;
/// `finalizing`: the engine was seen at it before. A transfer that is paused was often paused before it was
/// finalized, and then the pause only has not ended yet; one that is paused again, or whose disk is
/// `illegal`, has failed.
fn step(seen: Option<&Phase>, gone: bool, finalizing: bool, illegal: impl FnOnce() -> bool) -> Step<'_> {
    match seen {
        Some(Phase::Finished) => Step::Ended,
        Some(Phase::Finalizing | Phase::Failing(_)) => Step::Works,
        Some(Phase::Failed) => Step::Failed,
        Some(paused @ Phase::Paused(_)) if finalizing || illegal() => Step::Stuck(paused),
        None if gone => Step::Forgotten,
        Some(_) | None => Step::Waits,
    }
}

impl Engine {
    /// Finalizes a transfer. `Ok` means that the engine has verified the image and reported success; it is
    /// true where the disk was seen free after that. Passing errors of the engine are waited out.
    pub(crate) fn finalize(
        &self,
        id: &str,
        disk: Option<&str>,
        interrupt: &Interrupt,
    ) -> Result<bool, Error> {
        let mut patience = Patience::new(MAX_FINALIZE_WAIT, interrupt);
        let mut asked = Asked::default();
        let mut finalizing = false;
        loop {
            let seen = self.ask_and_look(id, "finalize", &mut asked, &patience)?;
            match step(seen.as_ref(), asked.gone, finalizing, || self.is_illegal(disk)) {
                Step::Ended => {
                    let mut patience = Patience::new(MAX_UNLOCK_WAIT, interrupt);
                    return self.check_disk(id, disk, &mut patience, true);
                }
                Step::Forgotten => return self.check_disk(id, disk, &mut patience, false),
                Step::Works => {
                    finalizing |= seen == Some(Phase::Finalizing);
                    asked.show_effect(&patience);
                }
                Step::Waits => {}
                Step::Failed => {
                    return Err(Error::Failed(format!(
                        "transfer {id} failed when it was finalized, and {}; engine.log and vdsm.log say why \
                         (correlation id {})",
                        self.fate(disk, interrupt),
                        self.correlation()
                    )));
                }
                Step::Stuck(phase) => {
                    return Err(Error::Failed(format!(
                        "transfer {id} is {phase} and could not be finalized, and {}; engine.log and \
                         vdsm.log say why (correlation id {})",
                        self.state_of(disk),
                        self.correlation()
                    )));
                }
            }
            if !patience.pause()? {
                let what = format!("finalize of transfer {id}");
                let state = format!("{}, and {}", asked.last(seen), self.state_of(disk));
                return Err(self.too_long(&what, MAX_FINALIZE_WAIT, &state));
            }
        }
    }

    /// Says what became of the disk of a transfer that has failed. The engine removes that of an upload a
    /// moment later, also one that was there before, so a disk that is not usable is waited for.
    fn fate(&self, disk: Option<&str>, interrupt: &Interrupt) -> String {
        let mut patience = Patience::steady(MAX_REMOVAL_WAIT, interrupt);
        while let Some(Ok(Some(found))) = disk.map(|id| self.disk(id)) {
            if found.status == "ok" || !patience.pause().unwrap_or(false) {
                break;
            }
        }
        self.state_of(disk)
    }

    /// Says whether the disk is still there.
    fn state_of(&self, disk: Option<&str>) -> String {
        let Some(id) = disk else {
            return "a snapshot stays as it was".to_owned();
        };
        match self.disk(id) {
            Ok(Some(found)) => format!("disk {id} is still there, {}", found.status),
            Ok(None) => format!("disk {id} is gone: the engine has removed it"),
            Err(e) => format!("whether disk {id} is still there is not known ({e})"),
        }
    }

    /// One step of a wait for an action's effect: sends the action, again after [`MAX_EFFECT_DELAY`] without
    /// an effect, and returns the transfer's phase. Passing errors are only logged; the result is `None`
    /// then, and if the transfer is gone.
    fn ask_and_look(
        &self,
        id: &str,
        action: &str,
        asked: &mut Asked,
        patience: &Patience<'_>,
    ) -> Result<Option<Phase>, Error> {
        if asked
            .at
            .is_none_or(|at| patience.waited() > at + MAX_EFFECT_DELAY)
        {
            match self.act(id, action) {
                Ok(()) => asked.at = Some(patience.waited()),
                // Another operation holds a lock, or the engine is away: the next step repeats the action.
                Err(e) if e.is_passing() || e.is_locked() => info!("{e}"),
                Err(e) => return Err(e),
            }
        }
        match self.transfer(id) {
            Ok(Some(transfer)) => Ok(Some(transfer.phase)),
            Ok(None) => {
                asked.gone = true;
                Ok(None)
            }
            Err(e) if e.is_passing() => {
                info!("{e}");
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    fn is_illegal(&self, disk: Option<&str>) -> bool {
        let found = disk.and_then(|id| self.disk(id).ok().flatten());
        found.is_some_and(|disk| disk.status == "illegal")
    }

    /// Decides the outcome of an ended transfer from the status of its disk, once the disk is unlocked; the
    /// result tells whether it is. Where the transfer has `succeeded`, the disk need not be.
    fn check_disk(
        &self,
        id: &str,
        disk: Option<&str>,
        patience: &mut Patience<'_>,
        succeeded: bool,
    ) -> Result<bool, Error> {
        let Some(disk_id) = disk else { return Ok(true) };
        loop {
            match self.disk(disk_id) {
                Ok(Some(disk)) if disk.status == "ok" => return Ok(true),
                Ok(Some(disk)) if disk.status == "illegal" => {
                    return Err(Error::Failed(format!(
                        "transfer {id} has ended, and disk {disk_id} is illegal"
                    )));
                }
                Ok(None) => {
                    return Err(Error::Failed(format!(
                        "transfer {id} has ended, and disk {disk_id} is gone"
                    )));
                }
                Err(e) if !e.is_passing() => return Err(e),
                Ok(Some(_)) | Err(_) => {}
            }
            let goes_on = patience.pause();
            if succeeded && !matches!(goes_on, Ok(true)) {
                info!("transfer {id} has ended well, and disk {disk_id} was not seen free");
                return Ok(false);
            }
            if !goes_on? {
                return Err(self.too_long(
                    &format!("unlocking of disk {disk_id}"),
                    MAX_FINALIZE_WAIT,
                    "it is still locked",
                ));
            }
        }
    }

    /// Cancels a transfer. **The engine removes an upload's disk then**, so this is only for downloads, and
    /// for disks that this run made.
    pub(crate) fn cancel(&self, id: &str) -> Result<(), Error> {
        let interrupt = Interrupt::default();
        let mut patience = Patience::new(MAX_CANCEL_WAIT, &interrupt);
        let mut asked = Asked::default();
        loop {
            let seen = self.ask_and_look(id, "cancel", &mut asked, &patience)?;
            match &seen {
                Some(Phase::Failed) => return Ok(()),
                Some(Phase::Finished) => {
                    return Err(Error::Failed(format!(
                        "transfer {id} has ended well, and can no longer be cancelled"
                    )));
                }
                Some(Phase::Failing(_)) => asked.show_effect(&patience),
                Some(_) => {}
                None if asked.gone => return Ok(()),
                None => {}
            }
            if !patience.pause()? {
                let what = format!("cancel of transfer {id}");
                return Err(self.too_long(&what, MAX_CANCEL_WAIT, &asked.last(seen)));
            }
        }
    }
}

impl Engine {
    /// Cancels the upload to a disk that this run made, and makes sure that the disk is gone: the engine
    /// removes it after the end of the transfer, unless it has lost track of the transfer.
    pub(crate) fn discard(&self, transfer: &str, disk: &str) -> Result<(), Error> {
        self.cancel(transfer)?;
        self.remove_disk(disk)
    }
}

/// The state of an action.
#[derive(Debug, Default)]
struct Asked {
    /// The time from the start of the wait until the action was answered or last showed an effect.
    at: Option<Duration>,
    /// The engine no longer knows the transfer.
    gone: bool,
}

impl Asked {
    fn show_effect(&mut self, patience: &Patience<'_>) {
        self.at = Some(patience.waited());
    }

    /// The last phase seen, for messages.
    fn last(&self, seen: Option<Phase>) -> String {
        seen.map_or("no answer".to_owned(), |phase| format!("its phase is {phase}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_a_failure_only_after_the_engine_was_at_the_finalize() {
        let paused = Phase::of("paused_system");
        assert_eq!(step(Some(&paused), false, false, || false), Step::Waits);
        assert_eq!(step(Some(&paused), false, true, || false), Step::Stuck(&paused));
        assert_eq!(step(Some(&paused), false, false, || true), Step::Stuck(&paused));
    }

    #[test]
    fn a_finalize_has_ended_where_the_engine_says_so_or_has_forgotten_it() {
        assert_eq!(step(Some(&Phase::Finished), false, true, || false), Step::Ended);
        assert_eq!(step(None, true, true, || false), Step::Forgotten);
        assert_eq!(step(None, false, true, || false), Step::Waits);
        assert_eq!(step(Some(&Phase::Failed), false, true, || false), Step::Failed);
        for phase in ["finalizing_success", "finalizing_failure", "cancelled_system"] {
            assert_eq!(
                step(Some(&Phase::of(phase)), false, true, || false),
                Step::Works,
                "{phase}"
            );
        }
        for phase in ["transferring", "resuming"] {
            assert_eq!(
                step(Some(&Phase::of(phase)), false, false, || false),
                Step::Waits,
                "{phase}"
            );
        }
    }
}
