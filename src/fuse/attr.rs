//! The inode table: one file, alone as the root or in a directory of its own. Mode, owner and times live in
//! memory, so that `cp -p`, `touch` and `rsync` have nothing to complain about.

use std::ffi::{OsStr, OsString};
use std::time::SystemTime;

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use parking_lot::Mutex;

/// Reported as `st_blksize`. `cp` and `cat` write in units of it, and 1 MiB is also the kernel's largest
/// request: 341 against 56 MiB/s for `cp` at 2 ms a request.
const BLOCK_SIZE: u32 = 1 << 20;

/// How the mount looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The root is the file.
    File,
    /// The root is a directory that holds the file under this name.
    Directory(OsString),
}

/// Which of the two inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    Directory,
    Disk,
}

#[derive(Debug)]
struct Changeable {
    mode: u16,
    uid: u32,
    gid: u32,
    atime: SystemTime,
    mtime: SystemTime,
    ctime: SystemTime,
}

/// A change asked for by setattr; the size is the disk's business.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) atime: Option<TimeOrNow>,
    pub(super) mtime: Option<TimeOrNow>,
}

#[derive(Debug)]
pub(super) struct Inodes {
    shape: Shape,
    mounted: SystemTime,
    disk: Mutex<Changeable>,
}

impl Inodes {
    pub(super) fn new(shape: Shape, mode: u16, uid: u32, gid: u32) -> Self {
        let now = SystemTime::now();
        let disk = Changeable {
            mode,
            uid,
            gid,
            atime: now,
            mtime: now,
            ctime: now,
        };
        Inodes {
            shape,
            mounted: now,
            disk: Mutex::new(disk),
        }
    }

    pub(super) fn node(&self, ino: INodeNo) -> Option<Node> {
        match (&self.shape, ino.0) {
            (Shape::File, 1) | (Shape::Directory(_), 2) => Some(Node::Disk),
            (Shape::Directory(_), 1) => Some(Node::Directory),
            _ => None,
        }
    }

    pub(super) fn is_file_name(&self, name: &OsStr) -> bool {
        matches!(&self.shape, Shape::Directory(file) if file == name)
    }

    /// Entries of the directory in order.
    pub(super) fn entries(&self) -> Vec<(INodeNo, FileType, OsString)> {
        let dir = |name: &str| (INodeNo(1), FileType::Directory, OsString::from(name));
        match &self.shape {
            Shape::File => Vec::new(),
            Shape::Directory(file) => {
                vec![
                    dir("."),
                    dir(".."),
                    (INodeNo(2), FileType::RegularFile, file.clone()),
                ]
            }
        }
    }

    /// `allocated` (bytes) tells `cp` and `du` that there are holes to skip.
    pub(super) fn attr(&self, node: Node, size: u64, allocated: u64) -> FileAttr {
        let disk = self.disk.lock();
        let directory = node == Node::Directory;
        // Who may read the file may enter the directory.
        let perm = if directory {
            disk.mode | ((disk.mode & 0o444) >> 2)
        } else {
            disk.mode
        };
        let times = match node {
            Node::Directory => [self.mounted; 3],
            Node::Disk => [disk.atime, disk.mtime, disk.ctime],
        };
        FileAttr {
            ino: INodeNo(if self.shape == Shape::File || directory {
                1
            } else {
                2
            }),
            size: if directory { 0 } else { size },
            blocks: if directory { 0 } else { allocated.div_ceil(512) },
            atime: times[0],
            mtime: times[1],
            ctime: times[2],
            crtime: self.mounted,
            kind: if directory {
                FileType::Directory
            } else {
                FileType::RegularFile
            },
            perm,
            nlink: if directory { 2 } else { 1 },
            uid: disk.uid,
            gid: disk.gid,
            rdev: 0,
            blksize: BLOCK_SIZE,
            flags: 0,
        }
    }

    pub(super) fn written(&self) {
        let mut disk = self.disk.lock();
        disk.mtime = SystemTime::now();
        disk.ctime = disk.mtime;
    }

    pub(super) fn change(&self, change: Change) {
        let mut disk = self.disk.lock();
        let now = SystemTime::now();
        let time = |t: TimeOrNow| match t {
            TimeOrNow::SpecificTime(time) => time,
            TimeOrNow::Now => now,
        };
        disk.mode = change.mode.map_or(disk.mode, |mode| (mode & 0o7777) as u16);
        disk.uid = change.uid.unwrap_or(disk.uid);
        disk.gid = change.gid.unwrap_or(disk.gid);
        disk.atime = change.atime.map_or(disk.atime, time);
        disk.mtime = change.mtime.map_or(disk.mtime, time);
        disk.ctime = now;
    }
}
