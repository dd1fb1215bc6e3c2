//! The callers of requests that wait here. One that is killed meanwhile is let go.
//!
//! A process that is killed in a read stays (state D) until that is answered; the kernel only asks for an
//! early answer, by an INTERRUPT, which fuser answers with ENOSYS before anybody else sees it (0.18). So a
//! thread of its own looks whether the callers of requests that take long are dying, and answers for them
//! with EINTR: a read, a seek, an fsync and a close at once, while the session thread still waits for the
//! server and then finds its answer gone. A change is not answered before it is known what becomes of it,
//! since it could follow a later one of the same bytes; but while it waits for room, or for the extents, it
//! is refused ([`caller`]). Once it is accepted, whoever waits for it to be durable is let go, too
//! ([`Entry::is_accepted`]).
//!
//! Session threads come and go through [`Callers::attend`], with one lock for a moment.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::sleep;
use std::time::{Duration, Instant};

use fuser::{Errno, ReplyAttr, ReplyData, ReplyEmpty, ReplyLseek, ReplyWrite};
use parking_lot::Mutex;
use tracing::debug;

use crate::disk::{Disk, caller};
use crate::failure::Failure;
use crate::process::spawn;

/// Time after which a request is looked at, and between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Bit of a process that ends, in the field `flags` of /proc/PID/stat (PF_EXITING, include/linux/sched.h).
const EXITING: u64 = 0x4;

/// A reply that can be given up.
pub(super) trait Reply: Send + 'static {
    /// The request may be answered before it is known what became of it.
    const EARLY: bool;

    fn refuse(self, errno: Errno);
}

macro_rules! reply {
    ($type:ty, $early:expr) => {
        impl Reply for $type {
            const EARLY: bool = $early;

            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        }
    };
}

reply!(ReplyData, true);
reply!(ReplyLseek, true);
reply!(ReplyAttr, false);
reply!(ReplyWrite, false);

/// The reply of an fsync or a close.
pub(super) struct ReplyFlushed(pub(super) ReplyEmpty);

impl Reply for ReplyFlushed {
    const EARLY: bool = true;

    fn refuse(self, errno: Errno) {
        self.0.error(errno);
    }
}

/// The reply of an fallocate.
impl Reply for ReplyEmpty {
    const EARLY: bool = false;

    fn refuse(self, errno: Errno) {
        self.error(errno);
    }
}

/// A request that a session thread works on.
struct Waiting {
    /// The calling thread, in the namespace of the mount; 0 where it has no number there.
    thread: u32,
    since: Instant,
    /// It was dying at the last look.
    seen: bool,
    gone: Arc<AtomicBool>,
    /// It is there once the reply may be given early.
    refuse: Option<Refuse>,
}

/// Answers with EINTR.
type Refuse = Box<dyn FnOnce() + Send>;

/// The callers of a mount's requests.
pub(super) struct Callers {
    waiting: Mutex<(u64, BTreeMap<u64, Waiting>)>,
    disks: Vec<Weak<Disk>>,
}

impl Callers {
    /// The callers of requests to `disks`. A thread looks at them from now on, until this value is dropped.
    pub(super) fn watch(disks: impl Iterator<Item = Arc<Disk>>) -> Result<Arc<Self>, Failure> {
        let callers = Arc::new(Callers {
            waiting: Mutex::default(),
            disks: disks.map(|disk| Arc::downgrade(&disk)).collect(),
        });
        // The numbers of processes mean nothing in a /proc of another namespace.
        let is_ours = fs::read_link("/proc/self").is_ok_and(|id| id.as_os_str() == &*own_id());
        if is_ours {
            let watched = Arc::downgrade(&callers);
            let look = move || {
                while let Some(callers) = watched.upgrade() {
                    callers.look();
                    drop(callers);
                    sleep(LOOK_INTERVAL);
                }
            };
            spawn("callers", look)?;
        }
        Ok(callers)
    }

    /// Runs `op` for the thread `caller` and then answers by `answer`, unless the caller has died meanwhile
    /// and has its answer.
    pub(super) fn attend<R: Reply, T>(
        &self,
        caller: u32,
        reply: R,
        op: impl FnOnce(&Entry<'_>) -> T,
        answer: impl FnOnce(R, T),
    ) {
        let owed = Arc::new(Mutex::new(Some(reply)));
        let given_up = owed.clone();
        let refuse = move || {
            let reply = given_up.lock().take();
            if let Some(reply) = reply {
                reply.refuse(Errno::EINTR);
            }
        };
        let entry = self.enter(caller, Box::new(refuse));
        if R::EARLY {
            entry.may_be_refused();
        }
        let done = op(&entry);
        drop(entry);
        let reply = owed.lock().take();
        if let Some(reply) = reply {
            answer(reply, done);
        }
    }

    fn enter(&self, thread: u32, refuse: Refuse) -> Entry<'_> {
        let gone = caller::flag();
        gone.store(false, Ordering::Relaxed);
        let waiting = Waiting {
            thread,
            since: Instant::now(),
            seen: false,
            gone,
            refuse: None,
        };
        let mut all = self.waiting.lock();
        all.0 += 1;
        let id = all.0;
        all.1.insert(id, waiting);
        Entry {
            callers: self,
            id,
            refuse: Cell::new(Some(refuse)),
        }
    }

    /// Lets go of the callers that are dying. One look can meet a thread on the way out of a process that
    /// goes on; nothing keeps it there until the next one.
    fn look(&self) {
        let old = |waiting: &Waiting| waiting.thread != 0 && waiting.since.elapsed() >= LOOK_INTERVAL;
        let all = self.waiting.lock();
        let old: Vec<_> = all.1.iter().filter(|(_, waiting)| old(waiting)).collect();
        let old: Vec<_> = old
            .into_iter()
            .map(|(id, waiting)| (*id, waiting.thread))
            .collect();
        drop(all);
        let mut any = false;
        for (id, thread) in old {
            let dies = dies(thread);
            let mut all = self.waiting.lock();
            let Some(waiting) = all.1.get_mut(&id) else {
                continue;
            };
            if dies && waiting.seen {
                waiting.gone.store(true, Ordering::Relaxed);
                let refuse = waiting.refuse.take();
                drop(all);
                any = true;
                if let Some(refuse) = refuse {
                    debug!("thread {thread} was killed while it waited for an answer, and gets one");
                    refuse();
                }
            } else {
                waiting.seen = dies;
            }
        }
        if any {
            let disks = self.disks.iter().filter_map(Weak::upgrade);
            disks.for_each(|disk| disk.look_at_callers());
        }
    }
}

/// A request in the list, until it is dropped.
pub(super) struct Entry<'a> {
    callers: &'a Callers,
    id: u64,
    /// It is here until the reply may be given early.
    refuse: Cell<Option<Refuse>>,
}

impl Entry<'_> {
    /// Notes that the change is accepted: no later one can come before it, so its caller may be let go.
    pub(super) fn is_accepted(&self) {
        self.may_be_refused();
    }

    fn may_be_refused(&self) {
        let mut all = self.callers.waiting.lock();
        if let (Some(waiting), Some(refuse)) = (all.1.get_mut(&self.id), self.refuse.take()) {
            waiting.refuse = Some(refuse);
        }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.callers.waiting.lock().1.remove(&self.id);
        // Nothing else that this thread does is for that caller.
        caller::flag().store(false, Ordering::Relaxed);
    }
}

fn own_id() -> std::ffi::OsString {
    std::process::id().to_string().into()
}

/// True when `thread` is on its way out: it was killed, or it ends and closes its files.
fn dies(thread: u32) -> bool {
    let of = |name: &str| text(Path::new(&format!("/proc/{thread}/{name}")));
    let stat = of("stat");
    // The first thread of a process may end before the others do, and what it has begun goes on.
    let is_zombie = behind_name(&stat).trim_start().starts_with('Z');
    let all_exit = || {
        let tasks = fs::read_dir(format!("/proc/{thread}/task"));
        let mut tasks = tasks.into_iter().flatten().flatten();
        tasks.all(|task| is_exiting(&text(&task.path().join("stat"))))
    };
    is_exiting(&stat) && (!is_zombie || all_exit()) || is_killed(&of("status"))
}

/// Returns what is in a file of /proc; the name of a process is any bytes.
fn text(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns what follows the name of the process in /proc/PID/stat, which is in brackets.
fn behind_name(stat: &str) -> &str {
    stat.rsplit_once(')').map_or("", |(_, rest)| rest)
}

/// Reads the flags out of /proc/PID/stat.
fn is_exiting(stat: &str) -> bool {
    let flags = behind_name(stat).split_whitespace().nth(6);
    flags.and_then(|flags| flags.parse::<u64>().ok()).unwrap_or(0) & EXITING != 0
}

/// Reads from /proc/PID/status whether SIGKILL is pending. Any other signal that ends a process comes with it
/// (kernel/signal.c, complete_signal).
fn is_killed(status: &str) -> bool {
    let bits = |line: &str| {
        let mask = line.strip_prefix("SigPnd:").or(line.strip_prefix("ShdPnd:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    };
    let pending = status.lines().filter_map(bits).fold(0, |all, bits| all | bits);
    pending & (1 << (libc::SIGKILL - 1)) != 0
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_pending_kill_and_an_exit_are_seen_and_other_signals_are_not() {
        let status = |own, shared| format!("Name:\tdd\nSigPnd:\t{own}\nShdPnd:\t{shared}\nSigBlk:\t0100\n");
        let none = "0000000000000000";
        assert!(is_killed(&status("0000000000000100", none)));
        assert!(is_killed(&status(none, "0000000000004100")));
        assert!(!is_killed(&status(none, "0000000000004002")));
        let stat = |flags: u32| format!("7 (a) 1 (b) D 1 7 7 34816 7 {flags} 120 0 0 0");
        assert!(is_exiting(&stat(0x0040_0004)));
        assert!(!is_exiting(&stat(0x0040_0000)));
        assert!(!is_exiting("") && !is_killed(""));
    }

    /// Its first thread has ended, and shows as a zombie for as long as the other one lives.
    #[test]
    fn a_process_whose_first_thread_has_ended_is_not_dying() {
        let script = "import ctypes, threading, time\n\
                      threading.Thread(target=time.sleep, args=(600,)).start()\n\
                      ctypes.CDLL(None).pthread_exit(None)";
        let mut child = Command::new("python3").args(["-c", script]).spawn().unwrap();
        let stat = || text(Path::new(&format!("/proc/{}/stat", child.id())));
        while !behind_name(&stat()).trim_start().starts_with('Z') {
            assert!(!stat().is_empty());
            std::thread::yield_now();
        }
        assert!(is_exiting(&stat()) && !dies(child.id()));
        child.kill().unwrap();
        while !dies(child.id()) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }

    /// The fields are where this kernel has them.
    #[test]
    fn a_process_that_lives_is_not_dying_and_one_that_was_killed_is() {
        assert!(!dies(nix::unistd::gettid().as_raw() as u32));
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        assert!(!dies(child.id()));
        child.kill().unwrap();
        // Nobody has waited for it, so it stays as it has ended.
        while !dies(child.id()) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }
}
