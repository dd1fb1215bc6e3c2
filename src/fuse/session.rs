//! Mounting and unmounting.
//!
//! fuser's own unmount is not lazy, and its second call reports success on a live mount (0.18), so
//! the calls here are ours: umount2 as root, fusermount3 for everybody else.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, umount2};
use thiserror::Error;

use super::attr::{Inodes, Tree};
use super::{DiskFs, OpenFiles, system};
use crate::failure::{Exit, Failure};
use crate::process::rights;

/// A mount or unmount that failed.
#[derive(Debug, Error)]
pub(crate) enum MountError {
    /// The mount call failed.
    #[error("cannot mount on {path}: {why}")]
    Mount { path: PathBuf, why: String },
    /// Somebody has the file open or is in the directory.
    #[error("cannot unmount {path}: it is in use; close what has it open (fuser -vm {path}) and try again")]
    Busy { path: PathBuf },
    /// Another file system is mounted over it, and that one would be unmounted.
    #[error("cannot unmount {path}: another file system is mounted over it; unmount that one first")]
    Covered { path: PathBuf },
    /// The unmount call failed.
    #[error("cannot unmount {path}: {why}")]
    Unmount { path: PathBuf, why: String },
}

impl From<MountError> for Failure {
    fn from(error: MountError) -> Self {
        Failure::new(Exit::Mount, error)
    }
}

/// The options of a mount.
#[derive(Debug, Clone)]
pub(crate) struct MountOptions {
    /// Owner of the file.
    pub(crate) uid: u32,
    /// Group of the file.
    pub(crate) gid: u32,
    /// Permission bits of the file.
    pub(crate) mode: u16,
    /// Permission bits of the directory, where they do not follow those of the file.
    pub(crate) directory_mode: Option<u16>,
    /// Other users may use the mount, as far as `mode` lets them.
    pub(crate) allow_other: bool,
    /// Shown as the source in `mount` and `df`; holds no secret.
    pub(crate) source: String,
    /// Further options: `noexec`, `noatime`, `sync`, `allow_root`, and those that are the kernel's data
    /// (`max_read=N`, `context=...`).
    pub(crate) extra: Vec<String>,
}

impl MountOptions {
    fn has(&self, option: &str) -> bool {
        self.extra.iter().any(|one| one == option)
    }
}

/// A live mount. Dropping it detaches the mount.
pub(crate) struct Mounted {
    session: Option<BackgroundSession>,
}

impl Mounted {
    /// Waits until all threads of the session are at work. fuser gives the session up when one of them cannot
    /// be started, and those that run answer for a moment more: one answer proves nothing.
    fn at_work(self, path: &Path) -> Result<Self, MountError> {
        let until = Instant::now() + START_LIMIT;
        let fail = |why| {
            Err(MountError::Mount {
                path: path.to_owned(),
                why,
            })
        };
        while session_threads() < SESSION_THREADS {
            if self
                .session
                .as_ref()
                .is_none_or(|session| session.guard.is_finished())
            {
                let why = self
                    .wait()
                    .err()
                    .map_or("it has ended".to_owned(), |e| e.to_string());
                return fail(format!(
                    "the {SESSION_THREADS} threads of the file system cannot be started: {why}"
                ));
            }
            if Instant::now() > until {
                return fail(format!(
                    "the threads of the file system do not start within {} s",
                    START_LIMIT.as_secs()
                ));
            }
            sleep(Duration::from_millis(1));
        }
        Ok(self)
    }

    /// Blocks until the kernel has let go of the mount (an unmount, and the last close after it).
    pub(crate) fn wait(mut self) -> io::Result<()> {
        self.session.take().map_or(Ok(()), BackgroundSession::join)
    }
}

/// Mounts the files of `tree` on `path`, to which `at` is open. When this returns they are usable;
/// `open_files` is kept up to date.
pub(crate) fn mount(
    tree: Tree,
    (path, at): (&Path, File),
    options: MountOptions,
    open_files: OpenFiles,
) -> Result<Mounted, MountError> {
    let read_only = match &tree {
        Tree::File(disk) => disk.is_read_only(),
        Tree::Directory(files, _) => {
            let mut disks = files.iter().filter_map(|(_, content)| content.disk());
            disks.all(|disk| disk.is_read_only())
        }
    };
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(escaped(&options.source)),
        MountOption::Subtype("rhv-mount".into()),
        MountOption::NoDev,
        MountOption::NoSuid,
        if read_only {
            MountOption::RO
        } else {
            MountOption::RW
        },
    ];
    let extra = options.extra.iter().filter(|o| *o != "allow_root");
    config.mount_options.extend(extra.map(|o| match o.as_str() {
        "noexec" => MountOption::NoExec,
        "noatime" => MountOption::NoAtime,
        "sync" => MountOption::Sync,
        other => MountOption::CUSTOM(other.to_owned()),
    }));
    if options.allow_other {
        config.acl = SessionACL::All;
        config.mount_options.push(MountOption::DefaultPermissions);
    } else if options.has("allow_root") {
        config.acl = SessionACL::RootAndOwner;
    }
    config.n_threads = Some(SESSION_THREADS);
    let (mode, directory_mode) = (options.mode, options.directory_mode);
    let inodes = Inodes::new(tree, mode, directory_mode, options.uid, options.gid);
    let fs = DiskFs::new(inodes, open_files, options.has("sync")).map_err(|e| MountError::Mount {
        path: path.to_owned(),
        why: e.to_string(),
    })?;
    let wanted = options.clone();
    let session = match rights::with(move || mount_as_root(&at, &wanted, read_only)) {
        Ok(device) => Session::from_fd(fs, device, config.acl, config)
            .and_then(Session::spawn)
            .inspect_err(|_| drop(unmount(path, true))),
        Err(Errno::EPERM) => Session::new(fs, path, &config).and_then(Session::spawn),
        Err(e) => Err(e.into()),
    };
    let session = session.map_err(|e| MountError::Mount {
        path: path.to_owned(),
        why: explain(&e),
    })?;
    let mounted = Mounted {
        session: Some(session),
    };
    mounted.at_work(path).inspect_err(|_| drop(unmount(path, true)))
}

/// Writes a source for fusermount3, which takes it out of a list again.
fn escaped(source: &str) -> String {
    source.replace('\\', r"\\").replace(',', r"\,")
}

/// Counts the threads of this process to which fuser gave the name of a session thread.
fn session_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    let numbered = |name: &str| {
        name.trim()
            .strip_prefix("fuser-")
            .is_some_and(|n| n.parse::<u32>().is_ok())
    };
    names.filter(|name| numbered(name)).count()
}

/// Calls mount(2): fuser's own call would not set the type `fuse.rhv-mount`, by which `findmnt`, fstab and
/// our own `umount` know a mount. EPERM leaves it to fusermount3.
fn mount_as_root(at: &File, options: &MountOptions, read_only: bool) -> Result<OwnedFd, Errno> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Errno::EPERM);
    }
    let errno = |e: io::Error| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .map_err(errno)?;
    let root_mode = at.metadata().map_err(errno)?.mode() & libc::S_IFMT;
    let mut data = format!(
        "fd={},rootmode={root_mode:o},user_id=0,group_id=0",
        device.as_raw_fd()
    );
    if options.allow_other {
        data += ",allow_other,default_permissions";
    }
    let mut flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    flags.set(MsFlags::MS_RDONLY, read_only);
    for option in &options.extra {
        match option.as_str() {
            "noexec" => flags |= MsFlags::MS_NOEXEC,
            "noatime" => flags |= MsFlags::MS_NOATIME,
            "sync" => flags |= MsFlags::MS_SYNCHRONOUS,
            // The owner is root.
            "allow_root" => {}
            other => data.extend([",", other]),
        }
    }
    nix::mount::mount(
        Some(options.source.as_str()),
        // A link that somebody puts at the path now leads nowhere.
        format!("/proc/self/fd/{}", at.as_raw_fd()).as_str(),
        Some("fuse.rhv-mount"),
        flags,
        Some(data.as_str()),
    )?;
    Ok(device.into())
}

/// Session threads. Reads that wait for the server and writes that wait for room block here; a few more
/// threads answer stat.
pub(super) const SESSION_THREADS: usize = 16;

/// All threads of a mounted file system: fuser has one more, which waits for the others.
pub(crate) const THREADS: usize = SESSION_THREADS + 1;

/// Address space of a mounted file system, in bytes: fuser has a buffer of 16 MiB and a page in each thread.
pub(crate) const ADDRESS_SPACE: usize = SESSION_THREADS * ((16 << 20) + 4096);

/// Longest time in which the session's threads start. It is spent only on a machine that is stuck.
const START_LIMIT: Duration = Duration::from_secs(60);

fn explain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.trim();
    match error.kind() {
        io::ErrorKind::NotFound if !Path::new("/dev/fuse").exists() => system::NO_DEV_FUSE.into(),
        io::ErrorKind::NotFound => format!("{text}; {}", system::NO_FUSERMOUNT),
        _ if text.contains("user_allow_other") => {
            "--allow-other (or -o allow_root) needs the line user_allow_other in /etc/fuse.conf".into()
        }
        io::ErrorKind::PermissionDenied => format!("{text}; it must belong to you and be writable"),
        _ => text.trim_start_matches("fusermount3: ").to_owned(),
    }
}

/// Fails every request to the mount on `path`, as far as this user may. A thread of this process that waits
/// for an answer of this process would otherwise keep it from ending.
pub(crate) fn abort(path: &Path) {
    let target = path.to_owned();
    let _ = rights::with(move || umount2(&target, MntFlags::MNT_FORCE | MntFlags::UMOUNT_NOFOLLOW));
}

/// Unmounts `path`. With `lazy`, it disappears from the tree at once and ends with its last user; without,
/// a mount in use is refused.
pub(crate) fn unmount(path: &Path, lazy: bool) -> Result<(), MountError> {
    let flags = if lazy {
        MntFlags::MNT_DETACH
    } else {
        MntFlags::empty()
    } | MntFlags::UMOUNT_NOFOLLOW;
    let target = path.to_owned();
    match rights::with(move || umount2(&target, flags)) {
        Ok(()) => Ok(()),
        Err(Errno::EBUSY) => Err(MountError::Busy {
            path: path.to_owned(),
        }),
        Err(Errno::EPERM) => unmount_as_user(path, lazy),
        Err(e) => Err(MountError::Unmount {
            path: path.to_owned(),
            why: e.desc().to_owned(),
        }),
    }
}

fn unmount_as_user(path: &Path, lazy: bool) -> Result<(), MountError> {
    let fail = |why: String| MountError::Unmount {
        path: path.to_owned(),
        why,
    };
    let mut command = Command::new("fusermount3");
    command.env_remove("OVIRT_PASSWORD");
    command.arg("-u").args(lazy.then_some("-z")).arg("--").arg(path);
    let output = command.output().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => fail(system::NO_FUSERMOUNT.to_owned()),
        _ => fail(format!("cannot run fusermount3: {e}")),
    })?;
    let words = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false if words.contains("busy") => Err(MountError::Busy {
            path: path.to_owned(),
        }),
        false if words.contains("/etc/mtab") => Err(fail(format!(
            "{}; as root: ln -s ../proc/self/mounts /etc/mtab",
            words.trim()
        ))),
        false => Err(fail(words.trim().to_owned())),
    }
}
