//! A lock on a file that is held while its owner lives: it tells a live owner from the remains of a dead one,
//! where no process number can, because the owner runs in another PID namespace, or on another machine with
//! the same name that shares the file.
//!
//! It is a lock of the open file description (fcntl(2), `F_OFD_SETLK`). The kernel drops it when the last
//! copy of the descriptor is closed, whatever way the process ends; our descriptors are closed on exec, so no
//! child keeps it. A server of NFS passes it on to other clients, unless it, or a mount option, says that
//! locks stay local: [`is_certain`] tells where a lock that is free proves that its owner is gone.
//!
//! Beside the owner, a file has readers: each shares a lock on one byte far behind all others, and the owner
//! may shut them out for a while. Who is one is no owner's concern, and the other way round.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::statfs::fstatfs;

/// The file systems of one kernel, so that everybody who sees a file sees its locks, by their numbers in
/// `linux/magic.h`: ext2 to ext4, XFS, Btrfs, tmpfs, overlayfs, F2FS, ReiserFS, ZFS, bcachefs.
const OF_ONE_KERNEL: [u32; 9] = [
    0xEF53,
    0x5846_5342,
    0x9123_683E,
    0x0102_1994,
    0x794C_7630,
    0xF2F5_2010,
    0x5265_4973,
    0x2FC1_2FC1,
    0xCA45_1A4E,
];

/// The byte of the readers. No file is so long.
const OF_READERS: libc::off_t = libc::off_t::MAX / 2;

fn lock(kind: libc::c_int, start: libc::off_t, length: libc::off_t) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: length,
        l_pid: 0,
    }
}

/// The owner's lock.
fn whole_file() -> libc::flock {
    lock(libc::F_WRLCK, 0, OF_READERS)
}

fn of_readers(kind: libc::c_int) -> libc::flock {
    lock(kind, OF_READERS, 1)
}

fn try_to(file: &File, lock: &libc::flock) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(lock)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Takes the lock of a file that is open for writing; false when another owner has it. An error means that
/// its file system has no locks.
pub(crate) fn try_lock(file: &File) -> io::Result<bool> {
    try_to(file, &whole_file())
}

/// Becomes a reader of a file that is open for reading; false while its owner shuts readers out.
pub(crate) fn try_read(file: &File) -> io::Result<bool> {
    try_to(file, &of_readers(libc::F_RDLCK))
}

/// Shuts readers out of a file that is open for writing; false when there are some.
pub(crate) fn try_shut_out(file: &File) -> io::Result<bool> {
    try_to(file, &of_readers(libc::F_WRLCK))
}

/// Lets readers in again.
pub(crate) fn let_in(file: &File) -> io::Result<()> {
    try_to(file, &of_readers(libc::F_UNLCK)).map(drop)
}

/// True when somebody has the lock of a file, which is not taken.
pub(crate) fn is_locked(file: &File) -> io::Result<bool> {
    let mut found = whole_file();
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
    Ok(found.l_type != libc::F_UNLCK as libc::c_short)
}

/// True when everybody who can open the file sees its locks.
pub(crate) fn is_certain(file: &File) -> bool {
    // The number has 32 bits; the type of the field depends on the architecture.
    let kind = fstatfs(file).map(|stat| stat.filesystem_type().0 as u32);
    kind.is_ok_and(|kind| OF_ONE_KERNEL.contains(&kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_seen_by_others_until_its_last_descriptor_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        let (owner, other) = (open(), open());
        assert!(!is_locked(&other).unwrap());
        assert!(try_lock(&owner).unwrap() && try_lock(&owner).unwrap());
        assert!(is_locked(&other).unwrap() && !try_lock(&other).unwrap());
        assert!(!is_locked(&owner).unwrap(), "it does not keep its owner out");
        let copy = owner.try_clone().unwrap();
        drop(owner);
        assert!(!try_lock(&other).unwrap());
        drop(copy);
        assert!(try_lock(&other).unwrap());
    }

    #[test]
    fn readers_share_a_file_beside_its_owner_who_may_shut_them_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "").unwrap();
        let owner = File::options().read(true).write(true).open(&path).unwrap();
        let (one, other) = (File::open(&path).unwrap(), File::open(&path).unwrap());
        assert!(try_read(&one).unwrap() && !is_locked(&other).unwrap());
        assert!(try_lock(&owner).unwrap() && try_read(&other).unwrap());
        assert!(!try_shut_out(&owner).unwrap());
        drop(one);
        assert!(!try_shut_out(&owner).unwrap());
        drop(other);
        let late = File::open(&path).unwrap();
        assert!(try_shut_out(&owner).unwrap() && !try_read(&late).unwrap());
        let_in(&owner).unwrap();
        assert!(try_read(&late).unwrap() && is_locked(&late).unwrap());
    }

    #[test]
    fn locks_of_a_pseudo_file_system_prove_nothing() {
        assert!(!is_certain(&File::open("/proc/self/status").unwrap()));
    }
}
