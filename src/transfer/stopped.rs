//! Says what the disk holds, and what becomes of it, where a signal stops the work: for the user who has sent
//! it, before the engine has answered anything. So it says nothing that only the engine or a look at the disk
//! could tell, such as whether the transfer can be finalized.

use std::path::Path;

use super::OwnTransfer;
use super::end::{End, Stake, Verdict, end_for};
use crate::shell;

impl OwnTransfer {
    /// Says it where the work on the disk is stopped now; `changed`: something was written; `goes_on`:
    /// COMMAND has got a signal, and may write more and succeed.
    pub(crate) fn when_stopped(&self, changed: bool, goes_on: bool) -> String {
        match (self.stake, goes_on) {
            (Stake::Made, true) => format!(
                "{} was made for this run, and is removed again unless COMMAND succeeds all the same",
                self.shown
            ),
            _ => held_by(self.stake, &self.shown, changed, goes_on),
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
        let mountpoint = shell::word(mountpoint);
        let recover = format!("`rhv-mount recover {mountpoint}`");
        let holds = match verdict {
            _ if !changed => format!("{shown} is unchanged"),
            Verdict::Lost => format!("{shown} may lack what was written last"),
            Verdict::CommandFailed => held_by(self.stake, shown, changed, false),
            Verdict::Arrived | Verdict::Unused => format!("{shown} holds every byte that was written"),
        };
        match (end_for(self.stake, verdict), stopped) {
            (End::Finalize, false) => format!(
                "transfer {id} is being ended; {holds}. The next signal stops the wait for the engine"
            ),
            (End::Finalize, true) => format!(
                "the wait for the end of transfer {id} is stopped; {holds}, and stays locked until the \
                 transfer has ended: {recover} looks after that"
            ),
            (End::Discard, false) => format!("{shown} was made for this run and is being removed"),
            (End::Discard, true) => format!(
                "{shown} was made for this run and is being removed, which is waited for; the next signal \
                 leaves that to `rhv-mount recover --cancel {mountpoint}`"
            ),
            (End::LeavePaused, _) => format!("transfer {id} is being left paused; {holds}"),
        }
    }
}

fn held_by(stake: Stake, shown: &str, changed: bool, goes_on: bool) -> String {
    match stake {
        Stake::Download => format!("{shown} is unchanged"),
        Stake::ThereBefore => was_there(shown, changed, goes_on),
        Stake::Made => format!("{shown} was made for this run and is removed again"),
        Stake::MadeAndKept => {
            format!("{shown} is kept, with the part that was written (--keep-on-failure)")
        }
    }
}

/// Says what a disk holds that was there before, after a change or none.
pub(crate) fn was_there(shown: &str, changed: bool, goes_on: bool) -> String {
    match (changed, goes_on) {
        (false, false) => format!("{shown} is unchanged"),
        (false, true) => format!("{shown} is unchanged so far"),
        (true, false) => {
            format!("{shown} holds a mix of what was there and what was written: write the whole image again")
        }
        (true, true) => format!(
            "{shown} holds a mix of what was there and what was written: write the whole image again, \
             unless COMMAND succeeds all the same"
        ),
    }
}
