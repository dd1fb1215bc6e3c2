//! A transfer of our own: from a login to a transfer URL, and from the last byte to a disk that is free again.
//!
//! How it ends (DESIGN, rule 5), where an upload that is cancelled takes its disk with it:
//!
//! | disk           | all data arrived, COMMAND fine | COMMAND failed     | data lost, or never mounted            |
//! |----------------|--------------------------------|--------------------|----------------------------------------|
//! | made here      | finalize                       | cancel: disk goes  | cancel: disk goes                      |
//! | with keep      | finalize                       | finalize           | finalize                               |
//! | there before   | finalize                       | finalize           | lost: pause and say so; else finalize  |
//! | download       | finalize                       | finalize           | finalize                               |
//!
//! [`Held::end`] is called once, by `outcome`; a `Held` that is dropped without it ends as one that never moved data (a
//! mount that failed), or, once it was mounted, as one whose data is lost (a panic). A watcher looks at the transfer while it is mounted and resumes it when the system has
//! paused it; data goes on meanwhile, since the ticket lives on.

use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::{info, warn};

pub(crate) mod acquire;
pub(crate) mod note;
mod renewal;

use self::note::{State, StateFile};
use self::renewal::Renewing;
use crate::engine::{self, Direction, Engine, Interrupt, Order, Phase, Transfer};
use crate::failure::{Exit, Failure};
use crate::imageio::TransferUrl;
use crate::process::spawn;

/// How often a transfer is looked at while it is mounted: well below the 300 s that a ticket lives in a pause.
const WATCH: Duration = Duration::from_secs(5);

/// Longest wait for an engine that has to say whether a transfer was started.
const UNANSWERED: Duration = Duration::from_secs(60);

/// What became of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Everything acknowledged is on the storage.
    Arrived,
    /// The same, and COMMAND failed.
    CommandFailed,
    /// Acknowledged bytes may be missing.
    Lost,
    /// Nothing was ever written.
    Unused,
}

/// A transfer that we started.
pub(crate) struct Held {
    pub(crate) engine: Engine,
    /// The last one: one whose ticket has ended is followed by another, see `renewal`.
    pub(crate) transfer: Mutex<Transfer>,
    pub(crate) order: Order,
    pub(crate) renewing: Mutex<Renewing>,
    /// Set at the end: a renewal is not waited for.
    pub(crate) giving_up: Interrupt,
    pub(crate) file: Mutex<StateFile>,
    pub(crate) what: String,
    pub(crate) keep: bool,
    pub(crate) phase: Mutex<String>,
    pub(crate) ended: AtomicBool,
    /// The disk was mounted; bytes may have moved.
    pub(crate) used: AtomicBool,
    /// A watcher is at work.
    pub(crate) watched: AtomicBool,
}

impl Held {
    /// Straight to the host, or through the proxy.
    pub(crate) fn url(&self, proxy: bool) -> Result<Option<TransferUrl>, Failure> {
        let transfer = self.transfer();
        let url = match proxy {
            true => &transfer.proxy_url,
            false => &transfer.transfer_url,
        };
        let parsed = url.as_deref().map(TransferUrl::parse).transpose();
        parsed.map_err(|e| Failure::text(Exit::Transfer, format!("transfer {}: {e}", self.id())))
    }

    /// The transfer's id.
    pub(crate) fn id(&self) -> String {
        self.transfer().id
    }

    pub(crate) fn transfer(&self) -> Transfer {
        self.transfer.lock().clone()
    }

    /// The disk's id and name.
    pub(crate) fn disk(&self) -> (String, String) {
        let file = self.file();
        (file.state.disk_id.clone(), file.state.disk_name.clone())
    }

    /// From now on bytes may move.
    pub(crate) fn set_used(&self) {
        self.used.store(true, Ordering::Relaxed);
    }

    /// What an end without a verdict means.
    fn verdict_of_silence(&self) -> Verdict {
        match self.used.load(Ordering::Relaxed) {
            true => Verdict::Lost,
            false => Verdict::Unused,
        }
    }

    /// The phase that was seen last.
    pub(crate) fn phase(&self) -> String {
        self.phase.lock().clone()
    }

    /// How long the engine lets it be idle.
    pub(crate) fn inactivity_timeout(&self) -> Option<Duration> {
        self.transfer().inactivity_timeout.map(Duration::from_secs)
    }

    pub(crate) fn file(&self) -> parking_lot::MutexGuard<'_, StateFile> {
        self.file.lock()
    }

    fn set_phase(&self, phase: &str) {
        *self.phase.lock() = phase.to_owned();
    }

    /// Watches the transfer until it has ended. `touch` counts as activity on the ticket: a transfer that is resumed
    /// while it counts as idle is paused again at once.
    pub(crate) fn watch(held: Weak<Held>, touch: impl Fn() + Send + 'static) -> Result<(), Failure> {
        spawn("watch", move || {
            while let Some(held) = held.upgrade() {
                if held.ended.load(Ordering::Relaxed) || !held.watched.load(Ordering::Relaxed) {
                    return;
                }
                held.look(&touch);
                drop(held);
                std::thread::sleep(WATCH);
            }
        })
        .map(drop)
    }

    fn look(&self, touch: &impl Fn()) {
        // The engine's limit may be shorter than what it was asked for.
        touch();
        let Some(_not_renewed_meanwhile) = self.renewing.try_lock() else {
            return self.set_phase("renewing");
        };
        let id = self.id();
        let transfer = match self.engine.transfer(&id) {
            Ok(Some(transfer)) => transfer,
            Ok(None) => return self.set_phase("gone"),
            Err(e @ engine::Error::Login { .. }) => {
                // Not every few seconds: accounts get locked for that.
                self.watched.store(false, Ordering::Relaxed);
                return warn!("the transfer is not watched any more: {e}");
            }
            Err(e) => return warn!("the transfer cannot be looked at: {e}"),
        };
        let phase = transfer.phase.to_string();
        if phase != self.phase() {
            info!(transfer = id, "the transfer is {phase}");
        }
        self.set_phase(&phase);
        if let Phase::Paused(phase) = &transfer.phase
            && !self.ended.load(Ordering::Relaxed)
        {
            warn!("the transfer is {phase}, resuming it");
            match self.engine.resume(&id) {
                Ok(()) => self.set_phase("resuming"),
                Err(e) => warn!("{e}"),
            }
        }
    }

    /// Ends the transfer as the table at the head of this file says. An error is the whole story: what is held still,
    /// and what to do about it.
    pub(crate) fn end(&self, verdict: Verdict, interrupt: &Interrupt) -> Result<(), Failure> {
        if self.ended.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        self.giving_up.set();
        let mut renewing = self.renewing();
        self.resolve_start(&mut renewing, interrupt)?;
        let (state, upload) = {
            let file = self.file();
            (file.state.clone(), file.state.direction == Direction::Upload)
        };
        self.set_phase("ending");
        let disk = (!state.snapshot).then_some(state.disk_id.as_str());
        let failed = matches!(verdict, Verdict::Lost | Verdict::CommandFailed | Verdict::Unused);
        if state.created && failed && !self.keep {
            return self.throw_away(&state, renewing.between);
        }
        if upload && verdict == Verdict::Lost && !state.created {
            return Err(match renewing.between {
                true => self.left_between(&state),
                false => self.leave_paused(&state),
            });
        }
        let finalized = self.engine.finalize(&self.id(), disk, interrupt);
        match finalized {
            Ok(()) => {
                info!(transfer = self.id(), "transfer finalized");
                self.file().remove();
                self.engine.logout();
                Ok(())
            }
            // The engine has refused it for good, and it was made for this run.
            Err(e @ engine::Error::Failed(_)) if state.created && !self.keep && upload => {
                let refused = Failure::text(Exit::DataLoss, format!("{} is not finalized: {e}", self.what));
                match self.throw_away(&state, false) {
                    Ok(()) => Err(refused),
                    Err(also) => Err(Failure::text(Exit::DataLoss, format!("{refused}; {also}"))),
                }
            }
            Err(e) => {
                let gone = self
                    .engine
                    .transfer(&self.id())
                    .is_ok_and(|t| t.is_none_or(|t| matches!(t.phase, Phase::Failed | Phase::Finished)));
                if gone {
                    self.file().remove();
                }
                Err(self.not_finalized(&state, &e, gone, upload))
            }
        }
    }

    /// A renewal that was cut short may have started a transfer that nobody knows of.
    fn resolve_start(&self, renewing: &mut Renewing, interrupt: &Interrupt) -> Result<(), Failure> {
        let begun = Instant::now();
        loop {
            let error = match self.find_unanswered(renewing) {
                // What can't be found by its disk stays unanswered.
                Ok(_) if !renewing.unanswered => return Ok(()),
                Ok(_) => engine::Error::Unclear("another download of the snapshot".to_owned()),
                Err(error) => error,
            };
            let wait = error.is_passing() && begun.elapsed() < UNANSWERED;
            if !wait || interrupt.sleep(Duration::from_secs(1)).is_err() {
                let (exit, shown) = (Exit::Transfer, self.file().state.mountpoint.display().to_string());
                return Err(Failure::text(
                    if self.order.direction == Direction::Upload {
                        Exit::DataLoss
                    } else {
                        exit
                    },
                    format!(
                        "transfer {} of {} lost its ticket and was finalized, and whether another one was started is not \
                         known: {error}; the disk may be locked, `rhv-mount recover {shown}` looks for it and ends it",
                        self.id(),
                        self.what
                    ),
                ));
            }
        }
    }

    /// With `free`, no transfer holds the disk.
    fn throw_away(&self, state: &State, free: bool) -> Result<(), Failure> {
        let gone = match free {
            true => self.engine.remove_disk(&state.disk_id),
            false => self.engine.discard(&self.id(), &state.disk_id),
        };
        match gone {
            Ok(()) => {
                eprintln!(
                    "rhv-mount: {} was made for this run and is removed again",
                    self.what
                );
                self.file().remove();
                self.engine.logout();
                Ok(())
            }
            Err(e) => Err(Failure::text(
                Exit::Transfer,
                format!(
                    "{e}; {} was made for this run and may be there still: `rhv-mount recover --cancel {}` removes it",
                    self.what,
                    state.mountpoint.display()
                ),
            )),
        }
    }

    /// The last transfer's ticket was lost, and there is no other transfer that could be paused.
    fn left_between(&self, state: &State) -> Failure {
        self.file().remove();
        self.engine.logout();
        Failure::text(
            Exit::DataLoss,
            format!(
                "transfer {} of {} on host {} lost its ticket and was finalized, and no other one could be started: \
                 the disk is kept, free, with what had arrived; mount it again and write the image once more",
                self.id(),
                self.what,
                state.host.as_deref().unwrap_or("unknown"),
            ),
        )
    }

    fn leave_paused(&self, state: &State) -> Failure {
        if let Ok(
            None
            | Some(Transfer {
                phase: Phase::Failed | Phase::Failing(_) | Phase::Finished,
                ..
            }),
        ) = self.engine.transfer(&self.id())
        {
            // Nothing is left to be paused, and what became of the disk is the engine's business.
            return Failure::text(
                Exit::DataLoss,
                format!(
                    "transfer {} of {} on host {} was ended, not by this mount, before every byte had arrived: look at \
                     the disk in the engine; `rhv-mount recover {}` tells how it is",
                    self.id(),
                    self.what,
                    state.host.as_deref().unwrap_or("unknown"),
                    state.mountpoint.display()
                ),
            );
        }
        let paused = self.engine.pause(&self.id());
        if let Err(e) = &paused {
            warn!("{e}");
        }
        Failure::text(
            Exit::DataLoss,
            format!(
                "transfer {} of {} on host {} is left {}, since not every byte arrived: the disk is kept, locked. Mount it \
                 again after `rhv-mount recover --finalize {}`, which frees it with what has arrived, and write the \
                 image once more",
                self.id(),
                self.what,
                state.host.as_deref().unwrap_or("unknown"),
                if paused.is_ok() { "paused" } else { "open" },
                state.mountpoint.display()
            ),
        )
    }

    fn not_finalized(&self, state: &State, error: &engine::Error, gone: bool, upload: bool) -> Failure {
        let exit = if upload { Exit::DataLoss } else { Exit::Transfer };
        let next = match (gone, error) {
            (true, _) => "look at the disk in the engine before you use it".to_owned(),
            (false, engine::Error::Interrupted) => format!(
                "gave up waiting on a signal; `rhv-mount recover {}` waits for it again",
                state.mountpoint.display()
            ),
            (false, _) => format!(
                "the disk may be locked; `rhv-mount recover {}` tries again",
                state.mountpoint.display()
            ),
        };
        Failure::text(
            exit,
            format!(
                "transfer {} of {} on host {} is not finalized: {error}; {next}",
                self.id(),
                self.what,
                state.host.as_deref().unwrap_or("unknown"),
            ),
        )
    }
}

/// Ends a transfer, as one whose data is lost, when its mount ends without having done so: a panic.
pub(crate) struct EndOnDrop(pub(crate) std::sync::Arc<Held>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if let Err(failure) = self.0.end(self.0.verdict_of_silence(), &Interrupt::default()) {
            eprintln!("rhv-mount: {failure}");
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Err(failure) = self.end(self.verdict_of_silence(), &Interrupt::default()) {
            eprintln!("rhv-mount: {failure}");
        }
    }
}
