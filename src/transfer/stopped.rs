//! What the disk holds, and what becomes of it, where a signal stops the work: for the user who has sent it,
//! before the engine has answered anything.

use std::path::Path;

use super::OwnTransfer;
use super::end::{End, Stake, Verdict, end_for};
use crate::shell;

impl OwnTransfer {
    /// Says it where the work on the disk is stopped now; `changed`: something was written; `over`: COMMAND has
    /// failed, and does not only get a signal.
    pub(crate) fn when_stopped(&self, changed: bool, over: bool) -> String {
        match (self.stake, over) {
            (Stake::Made, false) => format!(
                "{} was made for this run, and is removed again unless COMMAND succeeds all the same",
                self.shown
            ),
            _ => held_by(self.stake, &self.shown, changed),
        }
    }

    /// Says it while the transfer is being ended, and how it is; `stopped`: the wait for a finalize has been
    /// stopped, too. `mountpoint` is the path under which `recover` finds what is left.
    pub(crate) fn while_ending(
        &self,
        verdict: Verdict,
        changed: bool,
        stopped: bool,
        mountpoint: &Path,
    ) -> String {
        let (id, shown) = (self.id(), &self.shown);
        let recover = format!("`rhv-mount recover {}`", shell::word(mountpoint));
        let holds = match verdict {
            _ if !changed => format!("{shown} is unchanged"),
            Verdict::Lost => format!("{shown} may lack what was written last"),
            Verdict::CommandFailed => held_by(self.stake, shown, changed),
            Verdict::Arrived | Verdict::Unused => format!("{shown} holds every byte that was written"),
        };
        match (end_for(self.stake, verdict), stopped) {
            (End::Finalize, false) => format!(
                "the engine is asked to finalize transfer {id}; {holds}. The next signal stops the wait for \
                 the engine"
            ),
            (End::Finalize, true) => format!(
                "the wait for the engine to finalize transfer {id} is stopped; {holds}, and stays locked \
                 until the transfer has ended: {recover} looks after that"
            ),
            (End::Discard, false) => format!("{shown} was made for this run and is being removed"),
            (End::Discard, true) => format!(
                "{shown} was made for this run and is being removed, which is waited for; the next signal \
                 leaves that to {recover}"
            ),
            (End::LeavePaused, _) => format!("transfer {id} is being left paused; {holds}"),
        }
    }
}

fn held_by(stake: Stake, shown: &str, changed: bool) -> String {
    match (stake, changed) {
        (Stake::Download, _) | (Stake::ThereBefore, false) => format!("{shown} is unchanged"),
        (Stake::ThereBefore, true) => {
            format!("{shown} holds a mix of what was there and what was written: write the whole image again")
        }
        (Stake::Made, _) => format!("{shown} was made for this run and is removed again"),
        (Stake::MadeAndKept, _) => {
            format!("{shown} is kept, with the part that was written (--keep-on-failure)")
        }
    }
}
