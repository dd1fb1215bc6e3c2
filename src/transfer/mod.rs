//! A transfer of our own: from a login to a transfer URL, and from the last byte to a disk that is free
//! again.
//!
//! ```text
//! acquire   login, disk, host, transfer, ticket; taken back when a later step fails
//! life      the stages, and the turn: one thread at a time moves the transfer
//! watch     a thread that looks at the transfer every few seconds, and resumes it
//! renewal   another transfer in place of one whose ticket has ended
//! fate      whether there is to be another one
//! end       the table of ends: finalize, remove the disk, or leave the transfer paused
//! stopped   what a signal stops, and what the disk holds then
//! head      the first bytes of a disk that this run could not open, or that a killed mount has left
//! holder    who has a disk that another mount wants
//! cause     the reason why a transfer was left
//! note      the facts from which `recover` finds a transfer that this process could not end
//! note_file the file with them, and its lock, which says that this process lives
//! unfinished the image of a download among them, until it is whole
//! ```
//!
//! Each of these but `fate`, `life`, `stopped` and the notes is one act on the transfer. Others see
//! [`OwnTransfer`] only; `recover` sees the notes.
//!
//! An [`OwnTransfer`] ends once, by [`OwnTransfer::end`]. One that is dropped without it ends as a transfer
//! that never moved data, or, once it was used, as one whose data is lost: a panic.

mod acquire;
pub(crate) mod cause;
mod end;
mod fate;
pub(crate) mod head;
mod holder;
mod life;
pub(crate) mod note;
pub(crate) mod note_file;
mod renewal;
pub(crate) mod stopped;
mod take_back;
pub(crate) mod unfinished;
mod watch;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{OnceLock, Weak};
use std::time::Duration;

use tracing::info;

pub(crate) use self::acquire::NotBegun;
use self::cause::Cause;
pub(crate) use self::end::Verdict;
use self::end::{Closing, End, end_for};
use self::head::Danger;
use self::life::{Course, Life, Stage, Turn};
use self::renewal::Renewal;
use self::unfinished::Unfinished;
use crate::engine::{Direction, Engine, Interrupt, Order, Subject};
use crate::failure::{Exit, Failure};
use crate::imageio::{TicketState, TransferUrl};
use crate::logging::plain;
use crate::output::tell;
use crate::settings::{DiskSettings, EngineSource};

/// Returns why the engine might remove the disk now, if it were asked to finalize the upload.
type HeadQuestion = Box<dyn Fn() -> Option<Danger> + Send + Sync>;

/// A transfer that we started.
pub(crate) struct OwnTransfer {
    engine: Engine,
    order: Order,
    /// The disk's id and name.
    disk: (String, String),
    /// The disk, for messages.
    shown: String,
    /// The disk's volumes are raw, so that the engine removes it when it begins like another format.
    raw: bool,
    /// Tells as what the head of the disk may be detected now, see [`Self::ask_for_the_head`].
    head: OnceLock<HeadQuestion>,
    stake: end::Stake,
    /// How long a request waits before it fails.
    retry_time: Duration,
    /// Set when the end begins: a renewal that is under way gives up.
    giving_up: Interrupt,
    /// The mount has begun to end, and the note is to say so.
    is_to_end: AtomicBool,
    life: Life,
}

impl OwnTransfer {
    /// The URL straight to the host, or through the engine's proxy; `None` where the engine gave none.
    pub(crate) fn url(&self, proxy: bool) -> Result<Option<TransferUrl>, Failure> {
        let stage = self.life.stage();
        let transfer = stage.transfer();
        let url = match proxy {
            true => &transfer.proxy_url,
            false => &transfer.transfer_url,
        };
        let parsed = url.as_deref().map(TransferUrl::parse).transpose();
        parsed.map_err(|e| Failure::text(Exit::Transfer, format!("transfer {}: {e}", transfer.id)))
    }

    /// The transfer's id; that of the last one while a renewal has none.
    pub(crate) fn id(&self) -> String {
        self.life.stage().transfer().id.clone()
    }

    /// The disk's id and name.
    pub(crate) fn disk(&self) -> &(String, String) {
        &self.disk
    }

    /// How the transfer stands, as the engine calls it; seen a few seconds ago.
    pub(crate) fn phase(&self) -> String {
        self.life.shown()
    }

    /// How long the engine lets it be idle before it pauses it.
    pub(crate) fn inactivity_timeout(&self) -> Option<Duration> {
        self.life
            .stage()
            .transfer()
            .inactivity_timeout
            .map(Duration::from_secs)
    }

    /// True when nothing may finalize the upload while the disk begins like an image of another format: the
    /// engine verifies a raw disk by the format that it detects, and removes it when that is another one.
    pub(crate) fn minds_the_head(&self) -> bool {
        self.raw && self.is_upload()
    }

    /// Asks `question` before each finalize.
    pub(crate) fn ask_for_the_head(&self, question: impl Fn() -> Option<Danger> + Send + Sync + 'static) {
        let _ = self.head.set(Box::new(question));
    }

    /// Notes, for `recover`, that the head was looked at before anything was written, and what it was
    /// detected as.
    pub(crate) fn note_head(&self, head: Option<&Danger>) -> Result<(), Failure> {
        let mut turn = self.life.turn();
        let file = turn.note();
        file.note.looked = true;
        if let Some(Danger::Like(format)) = head {
            file.note.head = Some(format.clone());
        }
        file.update()
    }

    /// Notes the image of a download, for as long as it is not whole. It is no reason to fail where that
    /// can't be noted.
    pub(crate) fn note_unfinished(&self, image: Unfinished) {
        self.life
            .turn()
            .note()
            .amend(|note| note.unfinished = Some(image));
    }

    /// Returns the warning about a head that was there before anything was written.
    pub(crate) fn head_warning(&self, danger: &Danger) -> String {
        head::warning(&self.shown, danger)
    }

    /// Notes, for whoever wants the disk next, that the end has begun. Where the watcher has the note at this
    /// moment, it does so. A renewal that is at work keeps it for itself: it gives up soon, and [`Self::end`]
    /// notes the same.
    pub(crate) fn note_ending(&self) {
        self.is_to_end.store(true, Ordering::Relaxed);
        if let Some(mut turn) = self.life.try_turn() {
            self.note_if_ending(&mut turn);
        }
    }

    fn note_if_ending(&self, turn: &mut Turn<'_>) {
        if self.is_to_end.load(Ordering::Relaxed) && !turn.note().note.is_ending() {
            turn.note().amend(|note| note.cause = Cause::Ending);
        }
    }

    /// Returns what keeps the transfer from being finalized.
    fn head_in_the_way(&self) -> Option<Danger> {
        self.head.get().and_then(|question| question())
    }

    /// Bytes may move from now on.
    pub(crate) fn set_used(&self) {
        self.life.set_used();
    }

    /// Logs in, finds or makes the disk, and starts the transfer. What was made is taken back when that
    /// fails. `mountpoint` is the path under which `recover` finds what is left; `settings` are those of the
    /// data path.
    pub(crate) fn acquire(
        source: &EngineSource,
        settings: &DiskSettings,
        mountpoint: &Path,
        interrupt: &Interrupt,
    ) -> Result<OwnTransfer, Failure> {
        acquire::acquire(source, settings, mountpoint, interrupt)
    }

    /// The command that ends what is left of it as the table in `end` says. While no transfer holds the disk,
    /// the disk names it.
    pub(crate) fn recover_line(&self, verdict: Verdict) -> String {
        let stage = self.life.stage();
        let id = match &stage {
            Stage::Between { .. } => &self.disk.0,
            _ => &stage.transfer().id,
        };
        let option = match end_for(self.stake, verdict) {
            End::Discard => "--cancel ",
            End::Finalize | End::LeavePaused => "",
        };
        format!("rhv-mount recover {option}{id}")
    }

    /// Looks at the transfer every few seconds, in a thread of its own, until it has ended. `touch` counts as
    /// activity on the ticket.
    pub(crate) fn watch(transfer: Weak<Self>, touch: impl Fn() + Send + 'static) -> Result<(), Failure> {
        watch::watch(transfer, touch)
    }

    /// Returns another URL for `refused`, whose ticket is in `state`; `None` where there can't be one, or
    /// none is needed. Blocks for minutes at most, see `renewal`.
    pub(crate) fn renew(&self, refused: &TransferUrl, state: TicketState) -> Option<TransferUrl> {
        let renewed = Renewal::of(self, state, &self.giving_up).run(refused);
        renewed.inspect_err(|why| info!("{why}")).ok()
    }

    /// Does the same at the start, for a ticket that imageio itself does not know any more, and says so. The
    /// transfer is finalized for it, and nobody has looked at the head of the disk yet: a raw disk that was
    /// there before keeps its transfer, and `None` is returned.
    pub(crate) fn renew_at_start(&self, refused: &TransferUrl, interrupt: &Interrupt) -> Option<TransferUrl> {
        if !self.stake.bears_a_blind_finalize(self.raw) {
            return None;
        }
        tell(format_args!(
            "{} does not know the ticket of transfer {} any more, as after a restart of imageio: the engine \
             is asked for another transfer of {}",
            refused.host(),
            self.id(),
            self.shown
        ));
        let renewed = Renewal::of(self, TicketState::Unknown, interrupt).run(refused);
        renewed.inspect_err(|why| tell(plain(why))).ok()
    }

    /// Ends the transfer as the table in `end` says. An error is the whole story: what still holds the disk,
    /// and what to do about it. `Ok` at once where another call has begun the end.
    pub(crate) fn end(&self, verdict: Verdict, interrupt: &Interrupt) -> Result<(), Failure> {
        if !self.life.begin_end() {
            return Ok(());
        }
        self.giving_up.set();
        Closing::of(self, interrupt).run(verdict)
    }

    /// Ends a transfer that nobody has ended: the mount failed before data could move, or panicked later.
    pub(crate) fn end_in_any_case(&self) {
        let verdict = match self.life.course() {
            Course::Unused => Verdict::Unused,
            Course::Used | Course::Ending => Verdict::Lost,
        };
        if let Err(failure) = self.end(verdict, &Interrupt::default()) {
            tell(&failure);
        }
    }

    fn is_ending(&self) -> bool {
        self.life.course() == Course::Ending
    }

    fn is_upload(&self) -> bool {
        self.order.direction == Direction::Upload
    }

    /// The disk whose status tells how a transfer has ended; a snapshot has none, and that of a disk in a
    /// backup is the backup's.
    fn disk_to_check(&self) -> Option<&str> {
        match &self.order.subject {
            Subject::Disk(id) if self.order.backup.is_none() => Some(id),
            Subject::Disk(_) | Subject::Snapshot(_) => None,
        }
    }
}

impl Drop for OwnTransfer {
    fn drop(&mut self) {
        self.end_in_any_case();
    }
}
