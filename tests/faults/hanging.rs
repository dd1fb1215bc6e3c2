//! A file system of the tests' own that answers until it is told to hang: from then on no request gets an
//! answer. What a mount writes for others may lie on such a one, a network's, and nothing else may wait for
//! it.

use crate::rig::{MIB, Rig, pattern, settings};
use crate::server::Server;
use crate::support::foreground::Foreground;
use crate::support::manager::Manager;
use crate::support::mount::{BINARY, clean_environment, is_mounted, rhv_mount_command};
use crate::support::redaction::Trace;
use crate::support::run::{run, scratch, text, wait_until};
use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyWrite, Request, Session, TimeOrNow, WriteFlags,
};
use nix::sys::signal::Signal;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

const USAGE: i32 = 2;
const ROOT: INodeNo = INodeNo(1);
const NO_TIME: Duration = Duration::ZERO;

/// The words of the log about a file that could not be written.
const NOT_WRITTEN: &str = "the file of metrics";

/// The mounted file system; unmounted when dropped.
pub struct Hanging {
    state: Arc<State>,
    session: Option<BackgroundSession>,
    victim: Option<JoinHandle<()>>,
    dir: TempDir,
}

/// The file whose attributes are never told while the file system hangs. Its one thread is at that, so that
/// all other requests wait in the kernel, where a process can be killed, as on a network's file system. Only
/// the close of a file can't be killed there, so the file system does not begin to hang while one is open.
const TRAP: &str = "trap";
const TRAPPING: INodeNo = INodeNo(2);

/// The other thing that it does wrong.
#[derive(Default)]
pub struct Faults {
    /// A rename is not answered before [`Hanging::release`], and then as ever.
    pub holds_renames: AtomicBool,
    /// A rename has come meanwhile.
    pub rename_has_come: AtomicBool,
    /// A flush of the directory fails.
    pub fails_directory_flushes: AtomicBool,
}

#[derive(Default)]
struct State {
    faults: Faults,
    is_trapped: AtomicBool,
    released: AtomicBool,
    names: Mutex<HashMap<OsString, INodeNo>>,
    open_files: AtomicU64,
}

impl Hanging {
    pub fn mount() -> Hanging {
        let dir = scratch();
        let state = Arc::<State>::default();
        let fs = Memory(state.clone());
        let session = Session::new(fs, dir.path(), &Config::default()).and_then(Session::spawn);
        Hanging {
            state,
            session: Some(session.expect("mount a file system")),
            victim: None,
            dir,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn has(&self, name: &str) -> bool {
        let names = self.state.names.lock().expect("no panic");
        names.contains_key(OsStr::new(name))
    }

    pub fn faults(&self) -> &Faults {
        &self.state.faults
    }

    /// Goes on with what is held.
    pub fn release(&self) {
        self.state.released.store(true, Ordering::SeqCst);
    }

    pub fn hang(&mut self) {
        let (trap, state) = (self.path(TRAP), self.state.clone());
        let victim = std::thread::spawn(move || {
            while !state.is_trapped.load(Ordering::SeqCst) && !state.released.load(Ordering::SeqCst) {
                let _ = std::fs::symlink_metadata(&trap);
            }
        });
        self.victim = Some(victim);
        wait_until("the file system hangs", 60, || {
            self.state.is_trapped.load(Ordering::SeqCst)
        });
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.state.released.store(true, Ordering::SeqCst);
        if let Some(victim) = self.victim.take() {
            let _ = victim.join();
        }
        run(Command::new("umount").arg("-l").arg(self.dir.path()), 20);
        drop(self.session.take());
    }
}

/// Names of files without content.
struct Memory(Arc<State>);

impl Memory {
    fn attr(ino: INodeNo) -> FileAttr {
        let (kind, perm) = match ino {
            ROOT => (FileType::Directory, 0o755),
            _ => (FileType::RegularFile, 0o644),
        };
        FileAttr {
            ino,
            size: 0,
            blocks: 0,
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
            crtime: SystemTime::UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Memory {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == TRAP {
            return reply.entry(&NO_TIME, &Memory::attr(TRAPPING), Generation(0));
        }
        match self.0.names.lock().expect("no panic").get(name) {
            Some(ino) => reply.entry(&NO_TIME, &Memory::attr(*ino), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let is_trap = ino == TRAPPING && self.0.open_files.load(Ordering::SeqCst) == 0;
        while is_trap && !self.0.released.load(Ordering::SeqCst) {
            self.0.is_trapped.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(10));
        }
        reply.attr(&NO_TIME, &Memory::attr(ino));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.attr(&NO_TIME, &Memory::attr(ino));
    }

    fn create(&self, _: &Request, _: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        static LAST: AtomicU64 = AtomicU64::new(TRAPPING.0);
        let ino = INodeNo(LAST.fetch_add(1, Ordering::SeqCst) + 1);
        self.0
            .names
            .lock()
            .expect("no panic")
            .insert(name.to_owned(), ino);
        let attr = Memory::attr(ino);
        self.0.open_files.fetch_add(1, Ordering::SeqCst);
        reply.created(&NO_TIME, &attr, Generation(0), FileHandle(0), FopenFlags::empty());
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.0.open_files.fetch_add(1, Ordering::SeqCst);
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.written(data.len() as u32);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.0.open_files.fetch_sub(1, Ordering::SeqCst);
        reply.ok();
    }

    fn unlink(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.0.names.lock().expect("no panic").remove(name) {
            Some(_) => reply.ok(),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.0.faults.fails_directory_flushes.load(Ordering::SeqCst) {
            true => reply.error(Errno::EIO),
            false => reply.ok(),
        }
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _: INodeNo,
        new: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let faults = &self.0.faults;
        while faults.holds_renames.load(Ordering::SeqCst) && !self.0.released.load(Ordering::SeqCst) {
            faults.rename_has_come.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut names = self.0.names.lock().expect("no panic");
        match names.remove(name) {
            Some(ino) => {
                names.insert(new.to_owned(), ino);
                reply.ok();
            }
            None => reply.error(Errno::ENOENT),
        }
    }
}

fn metrics_option(hanging: &Hanging) -> String {
    format!("--metrics-file={}", hanging.path("disk.prom").display())
}

#[test]
fn a_file_of_metrics_that_hangs_holds_up_neither_the_watchdog_nor_work_nor_the_end() {
    let (server, manager, mut hanging) = (
        Server::start(settings(4 * MIB)),
        Manager::start(),
        Hanging::mount(),
    );
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let trace = Trace::of(&server.url());
    let mut shell = Command::new("sh");
    clean_environment(&mut shell);
    shell.args([
        "-c",
        r#"WATCHDOG_PID=$$ WATCHDOG_USEC=2000000 exec "$0" "$@""#,
        BINARY,
    ]);
    shell
        .args(trace.args())
        .args(["-f", &metrics_option(&hanging)])
        .arg(&target);
    shell.env("RHV_MOUNT_TRANSFER_URL", server.url());
    shell.env("NOTIFY_SOCKET", manager.address());
    let mut mount = Foreground::spawn(&mut shell);
    manager.wait_for("STATUS=disk on", 40);
    wait_until("the file is written", 40, || hanging.has("disk.prom"));
    hanging.hang();
    wait_until("it is written once more", 60, || {
        text(&trace.log()).contains(NOT_WRITTEN)
    });
    let pings = || {
        let words = manager.words(mount.pid());
        words.iter().filter(|word| *word == "WATCHDOG=1").count()
    };
    let before = pings();
    wait_until("signs of life", 60, || pings() >= before + 4);
    let bytes = pattern(1, MIB as usize);
    let file = std::fs::File::options()
        .write(true)
        .open(&target)
        .expect("open the disk");
    file.write_all_at(&bytes, 0).expect("write");
    file.sync_all().expect("flush");
    drop(file);
    mount.signal(Signal::SIGTERM);
    assert_eq!(mount.wait(60).code(), Some(0), "{}", mount.stderr());
    manager.wait_for("STATUS=done", 10);
    assert!(server.read_durable(0..MIB) == bytes);
}

#[test]
fn umount_and_the_end_of_the_process_do_not_wait_for_a_file_of_metrics_that_hangs() {
    let mut hanging = Hanging::mount();
    let rig = Rig::start(settings(4 * MIB), &[metrics_option(&hanging).as_str()]);
    let bytes = pattern(2, MIB as usize);
    rig.read_write().write_all_at(&bytes, 0).expect("write");
    hanging.hang();
    let log = rig.mount.dir().join("log");
    let log = std::fs::File::open(log).expect("open the log, which goes with the mount");
    let (ran, server) = rig.umount();
    assert_eq!(ran.code, Some(0), "{ran}");
    assert!(server.read_durable(0..MIB) == bytes);
    let log = std::io::read_to_string(log).expect("read the log");
    assert!(log.contains(NOT_WRITTEN), "the last figures were written");
}

#[test]
fn a_file_of_metrics_that_hangs_from_the_start_is_refused() {
    let (server, mut hanging) = (Server::start(settings(MIB)), Hanging::mount());
    hanging.hang();
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let mut command = rhv_mount_command(Some(&server.url()));
    let ran = run(command.arg(metrics_option(&hanging)).arg(&target), 60);
    assert_eq!(ran.code, Some(USAGE), "{ran}");
    assert!(ran.stderr.contains("--metrics-file"), "{ran}");
    assert!(!target.exists() && !is_mounted(&target), "{ran}");
}
