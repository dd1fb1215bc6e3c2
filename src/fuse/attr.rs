//! The inode table: one file that is the root itself, or a directory of files, one for each disk. Mode, owner
//! and times live in memory, so that `cp -p`, `touch` and `rsync` have nothing to complain about.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::SystemTime;

use fuser::{Errno, FileAttr, FileType, INodeNo, TimeOrNow};
use parking_lot::Mutex;

use crate::disk::Disk;

/// Reported as `st_blksize`, in bytes. A buffered reader fetches as much for each byte that it wants, so a
/// large one costs random readers. `cp` and `cat` move at least 128 KiB at a time whatever it says, which
/// read-ahead and write-behind turn into large requests.
const IO_BLOCK_BYTES: u32 = 4096;

/// The files of a mount.
pub(crate) enum Tree {
    /// The root is the file.
    File(Arc<Disk>),
    /// The root is a directory that holds a file for each disk, under its name.
    Directory(Vec<(OsString, Content)>),
}

/// What is in a file.
#[derive(Clone)]
pub(crate) enum Content {
    Disk(Arc<Disk>),
    /// A disk of so many bytes that could not be opened: whoever opens the file gets EIO.
    Broken(u64),
}

impl Content {
    /// The disk, where there is one.
    pub(super) fn disk(&self) -> Option<&Arc<Disk>> {
        match self {
            Content::Disk(disk) => Some(disk),
            Content::Broken(_) => None,
        }
    }
}

/// One inode.
#[derive(Clone, Copy)]
pub(super) enum Node<'a> {
    Directory,
    File(&'a File),
}

/// One file and what can be changed about it.
pub(super) struct File {
    ino: INodeNo,
    name: OsString,
    content: Content,
    /// Requests that wait for the disk in a session thread, see `seats`.
    pub(super) seated: AtomicUsize,
    attributes: Mutex<Changeable>,
}

#[derive(Debug, Clone)]
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

/// See the head of this file.
pub(super) struct Inodes {
    /// The owner and the mode of a directory, which nobody can change.
    root: Changeable,
    root_is_file: bool,
    /// The mode of the directory, where it does not follow that of the first file.
    directory_mode: Option<u16>,
    files: Vec<File>,
}

impl Inodes {
    pub(super) fn new(tree: Tree, mode: u16, directory_mode: Option<u16>, uid: u32, gid: u32) -> Self {
        let now = SystemTime::now();
        let root = Changeable {
            mode,
            uid,
            gid,
            atime: now,
            mtime: now,
            ctime: now,
        };
        let file = |ino, name, content| File {
            ino: INodeNo(ino),
            name,
            content,
            seated: AtomicUsize::new(0),
            attributes: Mutex::new(root.clone()),
        };
        let (root_is_file, files) = match tree {
            Tree::File(disk) => (true, vec![file(1, OsString::new(), Content::Disk(disk))]),
            Tree::Directory(files) => {
                let files = (2..).zip(files);
                (
                    false,
                    files
                        .map(|(ino, (name, content))| file(ino, name, content))
                        .collect(),
                )
            }
        };
        Inodes {
            root,
            root_is_file,
            directory_mode,
            files,
        }
    }

    pub(super) fn node(&self, ino: INodeNo) -> Option<Node<'_>> {
        match ino.0 {
            1 if !self.root_is_file => Some(Node::Directory),
            _ => self.files.iter().find(|file| file.ino == ino).map(Node::File),
        }
    }

    /// The file with this name in the directory.
    pub(super) fn file_named(&self, name: &OsStr) -> Option<&File> {
        self.files.iter().find(|file| file.name == name)
    }

    /// The number of files.
    pub(super) fn count(&self) -> usize {
        self.files.len()
    }

    /// The disks behind the files, as far as they could be opened.
    pub(super) fn disks(&self) -> impl Iterator<Item = &Arc<Disk>> {
        self.files.iter().filter_map(|file| file.content.disk())
    }

    /// Entries of the directory in order.
    pub(super) fn entries(&self) -> Vec<(INodeNo, FileType, OsString)> {
        let dots = [".", ".."].map(|name| (INodeNo(1), FileType::Directory, OsString::from(name)));
        let files = self.files.iter();
        let files = files.map(|file| (file.ino, FileType::RegularFile, file.name.clone()));
        dots.into_iter().chain(files).collect()
    }

    /// The attributes of a node.
    pub(super) fn attr(&self, node: Node<'_>) -> FileAttr {
        match node {
            Node::File(file) => file.attr(self.root.mtime),
            // A user who may read the files may enter the directory; its owner follows that of the first
            // file.
            Node::Directory => {
                let owner = self.files.first();
                let mut directory = owner.map_or(self.root.clone(), |file| file.attributes.lock().clone());
                let followed = directory.mode | ((directory.mode & 0o444) >> 2);
                directory.mode = self.directory_mode.unwrap_or(followed);
                FileAttr {
                    ino: INodeNo(1),
                    size: 0,
                    blocks: 0,
                    atime: self.root.atime,
                    mtime: self.root.mtime,
                    ctime: self.root.ctime,
                    crtime: self.root.mtime,
                    kind: FileType::Directory,
                    perm: directory.mode,
                    nlink: 2,
                    uid: directory.uid,
                    gid: directory.gid,
                    rdev: 0,
                    blksize: IO_BLOCK_BYTES,
                    flags: 0,
                }
            }
        }
    }
}

impl File {
    /// The disk behind the file.
    pub(super) fn disk(&self) -> Result<&Arc<Disk>, Errno> {
        self.content.disk().ok_or(Errno::EIO)
    }

    /// Blocks that the disk has allocated tell `cp` and `du` that there are holes to skip.
    fn attr(&self, mounted: SystemTime) -> FileAttr {
        let (size, allocated) = match &self.content {
            Content::Disk(disk) => (disk.len(), disk.allocated()),
            // It looks like data, so that nobody skips it as a hole.
            Content::Broken(size) => (*size, *size),
        };
        let attributes = self.attributes.lock();
        FileAttr {
            ino: self.ino,
            size,
            blocks: allocated.div_ceil(512),
            atime: attributes.atime,
            mtime: attributes.mtime,
            ctime: attributes.ctime,
            crtime: mounted,
            kind: FileType::RegularFile,
            perm: attributes.mode,
            nlink: 1,
            uid: attributes.uid,
            gid: attributes.gid,
            rdev: 0,
            blksize: IO_BLOCK_BYTES,
            flags: 0,
        }
    }

    pub(super) fn written(&self) {
        let mut attributes = self.attributes.lock();
        attributes.mtime = SystemTime::now();
        attributes.ctime = attributes.mtime;
    }

    pub(super) fn change(&self, change: Change) {
        let mut attributes = self.attributes.lock();
        let now = SystemTime::now();
        let time = |t: TimeOrNow| match t {
            TimeOrNow::SpecificTime(time) => time,
            TimeOrNow::Now => now,
        };
        attributes.mode = change.mode.map_or(attributes.mode, |mode| (mode & 0o7777) as u16);
        attributes.uid = change.uid.unwrap_or(attributes.uid);
        attributes.gid = change.gid.unwrap_or(attributes.gid);
        attributes.atime = change.atime.map_or(attributes.atime, time);
        attributes.mtime = change.mtime.map_or(attributes.mtime, time);
        attributes.ctime = now;
    }
}
