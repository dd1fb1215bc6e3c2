//! The kernel's side: the only place that knows fuser.
//!
//! ```text
//! operations  each request of the kernel
//! requests    those that may wait for a disk, asked of it and answered
//! seats       in which thread they wait
//! callers     lets go of programs that are killed while they wait
//! attr        names, sizes, owners and times
//! beside      what a mount tells beside the files of its disks
//! session     mounting and unmounting
//! errno       the one table of errnos
//! ```
//!
//! Session threads call the operations and block in them, with a share for each of several disks (`seats`);
//! the kernel sends requests of at most 1 MiB. Every open is direct, past the page cache. For writers that is
//! 1.4-1.7 times as fast as the kernel's writeback, with exact ENOSPC and sizes, and no second copy of the
//! truth for readers to see. For readers it is 1.6-2 times as fast with two thirds of the processor time: a
//! page cache fills fresh memory with bytes that are read once, and its readahead, which only root may raise,
//! is ours in any case (`disk/read`). The price: a small read costs a round trip to here, 10 µs or so.

mod attr;
mod beside;
mod callers;
mod errno;
mod operations;
mod requests;
mod seats;
mod session;
pub(crate) mod system;

use std::ffi::OsStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fuser::{Errno, INodeNo};
use tracing::{debug, error};

pub(crate) use self::attr::{Content, Tree};
use self::attr::{File, Inodes, Node};
pub(crate) use self::beside::{Attributes, Beside, Telling, Text};
use self::callers::Callers;
pub(crate) use self::seats::MAX_APART;
use self::seats::Seats;
pub(crate) use self::session::{ADDRESS_SPACE, MountError, MountOptions, THREADS, abort, mount, unmount};
use crate::disk::{Disk, DiskError};
use crate::failure::Failure;

/// The number of opens of a mount's files that are not closed yet, in whichever mount of the file system.
#[derive(Debug, Clone, Default)]
pub(crate) struct OpenFiles(Arc<AtomicUsize>);

impl OpenFiles {
    /// True while a program has a file open.
    pub(crate) fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// The file system: one file for each disk. Each has its own connections, caches and failures.
pub(crate) struct DiskFs(Arc<Files>);

/// The files, and those who wait for them.
struct Files {
    inodes: Inodes,
    open_files: OpenFiles,
    callers: Arc<Callers>,
    seats: Seats,
    /// Every change is on the storage before it is answered, as with O_SYNC.
    sync: bool,
}

impl DiskFs {
    fn new(inodes: Inodes, open_files: OpenFiles, sync: bool) -> Result<Self, Failure> {
        let callers = Callers::watch(inodes.disks().cloned())?;
        Ok(DiskFs(Arc::new(Files {
            seats: Seats::of(inodes.count()),
            inodes,
            open_files,
            callers,
            sync,
        })))
    }
}

impl Files {
    /// Flushes a change of the disk where every change has to be durable.
    fn settle(&self, disk: &Disk) -> Result<(), DiskError> {
        match self.sync {
            true => disk.flush(),
            false => Ok(()),
        }
    }

    /// The file with this inode.
    fn file(&self, ino: INodeNo) -> Result<&File, Errno> {
        match self.inodes.node(ino) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Directory | Node::Tellings) => Err(Errno::EISDIR),
            // It is read by operations of its own, and nothing else can be done to it.
            Some(Node::Telling(..)) => Err(Errno::EPERM),
            None => Err(Errno::ENOENT),
        }
    }

    /// The name of the file of a disk with this inode.
    fn disk_name(&self, ino: INodeNo) -> Option<&OsStr> {
        match self.inodes.node(ino) {
            Some(Node::File(file)) => Some(file.name()),
            _ => None,
        }
    }

    /// Runs one operation on the file; a panic in it is EIO, logged, and the mount lives on.
    fn on_file<T>(
        &self,
        what: &str,
        ino: INodeNo,
        op: impl FnOnce(&File, &Disk) -> Result<T, DiskError>,
    ) -> Result<T, Errno> {
        let file = self.file(ino)?;
        let disk = file.disk()?;
        match catch_unwind(AssertUnwindSafe(|| op(file, disk))) {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(e)) => {
                match e {
                    DiskError::NoSuchOffset => {}
                    DiskError::Read(_) => error!("{what}: {e}"),
                    _ => debug!("{what}: {e}"),
                }
                Err(errno::errno(&e))
            }
            Err(_) => {
                error!("{what}: internal error, answered with an I/O error");
                Err(Errno::EIO)
            }
        }
    }
}
