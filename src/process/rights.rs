//! The rights of root: kept by one thread, which does nothing but a few named things for the others.
//!
//! Capabilities belong to threads, and a thread has those of the thread that made it. [`cut_down`] is therefore called
//! before the first thread is made: it leaves what is needed with the thread "rights", and nothing with its caller and so
//! with everybody who talks to the network, parses an answer or serves the kernel. Whoever needs a right passes the
//! deed to [`with`]: reading the user's files, mounting, unmounting, removing the file that was mounted on, signalling
//! COMMAND. [`settle`], once the disk is mounted, leaves that thread with what the end needs.
//!
//! COMMAND loses nothing: a program that root executes has every right of root's bounding set, whatever the thread
//! had that started it. What a program would inherit from the thread itself (ambient capabilities) it would lose: where
//! there are such, all stays as it is. Ordinary users have none to give up.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::OnceLock;
use std::thread;

use caps::{CapSet, Capability, CapsHashSet};
use crossbeam::channel::{Sender, bounded, unbounded};
use tracing::warn;

/// While the mount is made: files of other users (CA, vdsm.id), another user's server, mount(2).
const AT_FIRST: [Capability; 4] = [
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_KILL,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_PTRACE,
];

/// To the end: umount2, a mountpoint in somebody else's directory, a COMMAND that has become somebody else.
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

/// Leaves the calling thread, and every thread that it makes from now on, without capabilities.
pub(crate) fn cut_down() -> std::io::Result<()> {
    let inherited = caps::read(None, CapSet::Ambient).is_ok_and(|ambient| !ambient.is_empty());
    if !nix::unistd::geteuid().is_root() || inherited || DEEDS.get().is_some() {
        return Ok(());
    }
    let (deeds, inbox) = unbounded::<Deed>();
    let (done, ready) = bounded(1);
    thread::Builder::new().name("rights".into()).spawn(move || {
        HAS_RIGHTS.set(true);
        let _ = done.send(keep(&AT_FIRST));
        for deed in inbox {
            deed();
        }
    })?;
    let kept = ready.recv().unwrap_or_else(|e| Err(e.to_string()));
    kept.and_then(|()| keep(&[])).map_err(std::io::Error::other)?;
    let _ = DEEDS.set(deeds);
    Ok(())
}

/// The disk is mounted: the fewer rights from now on.
pub(crate) fn settle() {
    if DEEDS.get().is_some()
        && let Err(e) = with(|| keep(&TO_THE_END))
    {
        warn!("{e}");
    }
}

/// Does `deed` with the rights that are left; where nothing was cut down, at once.
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

/// Of this thread's capabilities, only `these` stay.
fn keep(these: &[Capability]) -> Result<(), String> {
    let cut = || {
        let had = caps::read(None, CapSet::Permitted)?;
        let left: CapsHashSet = these.iter().copied().filter(|c| had.contains(c)).collect();
        caps::set(None, CapSet::Effective, &left)?;
        caps::set(None, CapSet::Permitted, &left)
    };
    cut().map_err(|e: caps::errors::CapsError| format!("cannot give up root's capabilities: {e}"))
}
