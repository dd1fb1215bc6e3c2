//! Root's capabilities, kept by one thread that does nothing but a few named things for the others.
//!
//! Capabilities belong to threads, and a thread has those of the thread that made it. [`cut_down`] is
//! therefore called before the first thread is made: it leaves the needed ones with the thread "rights", and
//! none with its caller and so with any thread that talks to the network, parses an answer or serves the
//! kernel. A thread that needs one passes the deed to [`with`]: reading the user's files, mounting,
//! unmounting, removing the file that was mounted on, signalling COMMAND. [`settle`], once the disk is
//! mounted, leaves the thread "rights" with what the end needs.
//!
//! COMMAND loses nothing: a program that root executes has every capability of root's bounding set, whatever
//! the thread had that started it. It would lose only what a program inherits from the thread itself (ambient
//! capabilities): where there are any, everything stays as it is. Ordinary users have none to give up.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::OnceLock;
use std::thread;

use caps::{CapSet, Capability, CapsHashSet};
use crossbeam::channel::{Sender, bounded, unbounded};
use tracing::warn;

use super::limits::no_thread;
use crate::failure::Failure;

/// Needed while the mount is made: files of other users (CA, vdsm.id), another user's server, mount(2); and
/// by a download to the end, which may replace another user's image.
const AT_FIRST: [Capability; 6] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_KILL,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_PTRACE,
];

/// Needed to the end: umount2, a mountpoint in another user's directory, a COMMAND that has changed its user.
const TO_THE_END: [Capability; 3] = [
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_KILL,
    Capability::CAP_SYS_ADMIN,
];

type Deed = Box<dyn FnOnce() + Send>;

static DEEDS: OnceLock<Sender<Deed>> = OnceLock::new();

thread_local! {
    static HAS_RIGHTS: Cell<bool> = const { Cell::new(false) };
}

/// Leaves the calling thread, and every thread that it makes afterwards, without capabilities.
pub(crate) fn cut_down() -> Result<(), Failure> {
    let inherited = caps::read(None, CapSet::Ambient).is_ok_and(|ambient| !ambient.is_empty());
    if !nix::unistd::geteuid().is_root() || inherited || DEEDS.get().is_some() {
        return Ok(());
    }
    let (deeds, inbox) = unbounded::<Deed>();
    let (done, ready) = bounded(1);
    let spawned = thread::Builder::new().name("rights".into()).spawn(move || {
        HAS_RIGHTS.set(true);
        let _ = done.send(keep(&AT_FIRST));
        for deed in inbox {
            deed();
        }
    });
    spawned.map_err(|e| no_thread("rights", &e))?;
    let kept = ready.recv().unwrap_or_else(|e| Err(e.to_string()));
    kept.and_then(|()| keep(&[])).map_err(std::io::Error::other)?;
    let _ = DEEDS.set(deeds);
    Ok(())
}

/// Keeps only the capabilities that the end needs: the disk is mounted.
pub(crate) fn settle() {
    if DEEDS.get().is_none() {
        return;
    }
    if let Err(e) = with(|| keep(&TO_THE_END)) {
        warn!("{e}");
    }
}

/// Runs `deed` in the thread that has the capabilities; here, where nothing was cut down.
pub(crate) fn with<T: Send + 'static>(deed: impl FnOnce() -> T + Send + 'static) -> T {
    let deeds = match DEEDS.get() {
        Some(deeds) if !HAS_RIGHTS.get() => deeds,
        _ => return deed(),
    };
    let (done, result) = bounded(1);
    let deed: Deed = Box::new(move || {
        let _ = done.send(catch_unwind(AssertUnwindSafe(deed)));
    });
    deeds.send(deed).expect("the thread never ends");
    match result.recv().expect("it answers every deed") {
        Ok(result) => result,
        Err(panic) => resume_unwind(panic),
    }
}

/// Drops all capabilities of this thread but `these`.
fn keep(these: &[Capability]) -> Result<(), String> {
    let cut = || {
        let had = caps::read(None, CapSet::Permitted)?;
        let left: CapsHashSet = these.iter().copied().filter(|c| had.contains(c)).collect();
        caps::set(None, CapSet::Effective, &left)?;
        caps::set(None, CapSet::Permitted, &left)
    };
    cut().map_err(|e: caps::errors::CapsError| format!("cannot give up root's capabilities: {e}"))
}
