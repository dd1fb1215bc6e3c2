//! The directory in which the mounts of a user find each other, and the names of the files in it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Uid, geteuid};
use tracing::debug;

/// How often, and with which pause between, a lock of the directory is tried that somebody else has.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// The directory of user `uid`. It is not in `/run/user`, which goes when the user logs out: mounts stay
/// (tmux has its sockets in `/tmp` for the same reason).
fn path_of(uid: Uid) -> PathBuf {
    match uid.is_root() {
        true => PathBuf::from("/run/rhv-mount"),
        false => PathBuf::from(format!("/tmp/rhv-mount-{uid}")),
    }
}

/// Returns the directory of user `uid`; one that others could write to is refused.
pub(crate) fn directory_of(uid: Uid) -> io::Result<PathBuf> {
    let path = path_of(uid);
    let meta = fs::symlink_metadata(&path)?;
    if !meta.is_dir() || meta.uid() != uid.as_raw() || meta.mode() & 0o077 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "{} must be a directory of user {uid} with mode 700; remove it",
                path.display()
            ),
        ));
    }
    Ok(path)
}

/// Returns this user's own directory, and makes it where it is missing.
pub(crate) fn directory() -> io::Result<PathBuf> {
    match DirBuilder::new().mode(0o700).create(path_of(geteuid())) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => directory_of(geteuid()),
    }
}

/// Keeps the cleaners of old files away from this user's own directory, and from what is in it, as long as
/// the value lives: systemd-tmpfiles leaves alone a directory that somebody has locked (tmpfiles.d(5),
/// "Age"). It locks the directory itself while it cleans it, so there are several tries. `None` where there
/// is no lock to be had; then `umount` does without the record.
pub(crate) fn keep() -> Option<Flock<File>> {
    let mut file = File::open(directory().ok()?).ok()?;
    for _ in 0..LOCK_TRIES {
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(lock) => return Some(lock),
            Err((back, Errno::EWOULDBLOCK)) => file = back,
            Err((_, e)) => {
                debug!("the runtime directory has no locks: {e}");
                return None;
            }
        }
        sleep(LOCK_PAUSE);
    }
    debug!("the runtime directory is locked by another program, so a cleaner of old files may clean it");
    None
}

/// The directories in which to look for mounts, each with its user: the user's own; root looks into
/// everybody's.
pub(crate) fn directories() -> Vec<(Uid, PathBuf)> {
    let mut users = vec![geteuid()];
    if geteuid().is_root() {
        let entries = fs::read_dir("/tmp").into_iter().flatten().flatten();
        users.extend(entries.filter_map(|entry| {
            let uid = entry.file_name().to_str()?.strip_prefix("rhv-mount-")?.parse();
            uid.ok().map(Uid::from_raw)
        }));
    }
    let usable = |uid| Some((uid, directory_of(uid).ok()?));
    users.into_iter().filter_map(usable).collect()
}

/// The name of the files of a mountpoint, without their extension.
pub(crate) fn key_of(mountpoint: &Path) -> String {
    format!("{:016x}", fnv1a(mountpoint.as_os_str().as_encoded_bytes()))
}

/// FNV-1a, 64 bits: the same in every build, unlike the standard library's hasher.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
