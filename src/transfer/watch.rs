//! The watcher: a thread that looks at the transfer while its disk is open, keeps its ticket from idling out,
//! and resumes it when the system has paused it. Data goes on meanwhile, since the ticket lives on. A pause
//! that a user has made is told of and stays; only data that needs it ends it, see `renewal`.
//!
//! It never waits for the turn: while a renewal or the end has it, the watcher looks again later. It ends
//! with the transfer, or when the engine refuses the login.

use std::ops::ControlFlow;
use std::sync::Weak;
use std::time::Duration;

use tracing::{info, warn};

use super::OwnTransfer;
use super::life::{Seen, Turn};
use crate::engine::{self, Phase};
use crate::failure::Failure;
use crate::process::spawn;

/// How often the transfer is looked at: well below the 300 s that a ticket lives in a pause.
const WATCH_INTERVAL: Duration = Duration::from_secs(5);

/// Watches the transfer until it has ended. `touch` counts as activity on the ticket: a transfer that is
/// resumed while it counts as idle is paused again at once.
pub(super) fn watch(transfer: Weak<OwnTransfer>, touch: impl Fn() + Send + 'static) -> Result<(), Failure> {
    let watch = move || {
        while let Some(transfer) = transfer.upgrade() {
            if transfer.is_ending() || look(&transfer, &touch).is_break() {
                return;
            }
            drop(transfer);
            std::thread::sleep(WATCH_INTERVAL);
        }
    };
    spawn("watch", watch).map(drop)
}

fn look(own: &OwnTransfer, touch: &impl Fn()) -> ControlFlow<()> {
    // The engine's limit may be shorter than the one that it was asked for.
    touch();
    let Some(mut turn) = own.life.try_turn() else {
        return ControlFlow::Continue(());
    };
    own.note_if_ending(&mut turn);
    let flow = look_at(own, &turn);
    own.note_if_ending(&mut turn);
    flow
}

fn look_at(own: &OwnTransfer, turn: &Turn<'_>) -> ControlFlow<()> {
    let id = turn.id();
    let phase = match own.engine.transfer(&id) {
        Ok(Some(transfer)) => transfer.phase,
        Ok(None) => {
            own.life.see(Seen::Gone);
            return ControlFlow::Continue(());
        }
        Err(e @ engine::Error::Login { .. }) => {
            // The login is not repeated every few seconds: accounts get locked for that.
            warn!("the transfer is not watched any more: {e}");
            return ControlFlow::Break(());
        }
        Err(e) => {
            warn!("the transfer cannot be looked at: {e}");
            return ControlFlow::Continue(());
        }
    };
    let seen = Seen::Phase(phase.clone());
    let is_news = own.life.see(seen.clone()) != seen;
    if is_news {
        info!(transfer = id, "the transfer is {phase}");
    }
    if phase.is_paused_by_user() {
        if is_news {
            warn!("a user has paused transfer {id}: it stays so until a user resumes it in the engine");
        }
    } else if matches!(phase, Phase::Paused(_)) && !own.is_ending() {
        warn!("the transfer is {phase}, resuming it");
        match own.engine.resume(&id) {
            Ok(()) => drop(own.life.see(Seen::Resuming)),
            Err(e) => warn!("{e}"),
        }
    }
    ControlFlow::Continue(())
}
