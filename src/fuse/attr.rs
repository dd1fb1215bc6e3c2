//! The inode table: one file that is the root itself, or a directory of files, one for each disk, and what a
//! mount tells beside them. Mode, owner and times live in memory, so that `cp -p`, `touch` and `rsync` have
//! nothing to complain about.
//!
//! ```text
//! 1               the root
//! 2 ...           the disks' files
//! after these     the directory of `beside`, and then its files
//! ```

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::SystemTime;

use fuser::{Errno, FileAttr, FileType, INodeNo, TimeOrNow};
use parking_lot::Mutex;

use super::beside::{Beside, DIRECTORY, Telling};
use crate::disk::Disk;

/// Reported as `st_blksize`, in bytes. A buffered reader fetches as much for each byte that it wants, so a
/// large one costs random readers. `cp` and `cat` move at least 128 KiB at a time whatever it says, which
/// read-ahead and write-behind turn into large requests.
const IO_BLOCK_BYTES: u32 = 4096;

/// The files of a mount.
pub(crate) enum Tree {
    /// The root is the file.
    File(Arc<Disk>),
    /// The root is a directory that holds a file for each disk, under its name, and what is told beside them.
    Directory(Vec<(OsString, Content)>, Beside),
}

/// The content of a file.
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
    /// The directory of [`Beside`].
    Tellings,
    /// A file there, with its own number.
    Telling(INodeNo, &'a Telling),
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
    beside: Beside,
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
        let (root_is_file, files, beside) = match tree {
            Tree::File(disk) => (
                true,
                vec![file(1, OsString::new(), Content::Disk(disk))],
                Beside::default(),
            ),
            Tree::Directory(files, beside) => {
                let files = (2..).zip(files);
                let files = files.map(|(ino, (name, content))| file(ino, name, content));
                (false, files.collect(), beside)
            }
        };
        Inodes {
            root,
            root_is_file,
            directory_mode,
            files,
            beside,
        }
    }

    pub(super) fn node(&self, ino: INodeNo) -> Option<Node<'_>> {
        if ino.0 == 1 && !self.root_is_file {
            return Some(Node::Directory);
        }
        if let Some(file) = self.files.iter().find(|file| file.ino == ino) {
            return Some(Node::File(file));
        }
        let n = ino.0.checked_sub(self.tellings_ino().0)?;
        match n {
            _ if self.beside.tellings.is_empty() => None,
            0 => Some(Node::Tellings),
            n => {
                let telling = self.beside.tellings.get(usize::try_from(n - 1).ok()?)?;
                Some(Node::Telling(ino, telling))
            }
        }
    }

    /// The node with this name in a directory; an errno where the parent is none, or has no such name.
    pub(super) fn named(&self, parent: INodeNo, name: &OsStr) -> Result<Node<'_>, Errno> {
        let found = match self.node(parent) {
            Some(Node::Directory) if name == DIRECTORY => self.node(self.tellings_ino()),
            Some(Node::Directory) => self.files.iter().find(|file| file.name == name).map(Node::File),
            Some(Node::Tellings) => self.beside.telling_named(name).map(|(n, telling)| {
                let ino = INodeNo(self.tellings_ino().0 + 1 + n as u64);
                Node::Telling(ino, telling)
            }),
            Some(Node::File(_) | Node::Telling(..)) => return Err(Errno::ENOTDIR),
            None => None,
        };
        found.ok_or(Errno::ENOENT)
    }

    /// The number of the directory beside the files, whether there is one or not.
    fn tellings_ino(&self) -> INodeNo {
        INodeNo(2 + self.files.len() as u64)
    }

    /// All that is told beside the files.
    pub(super) fn beside(&self) -> &Beside {
        &self.beside
    }

    /// The number of files.
    pub(super) fn count(&self) -> usize {
        self.files.len()
    }

    /// The disks behind the files, as far as they could be opened.
    pub(super) fn disks(&self) -> impl Iterator<Item = &Arc<Disk>> {
        self.files.iter().filter_map(|file| file.content.disk())
    }

    /// Entries of a directory in order; `None` where this is none.
    pub(super) fn entries(&self, ino: INodeNo) -> Option<Vec<(INodeNo, FileType, OsString)>> {
        match self.node(ino)? {
            Node::Directory => {
                let directory = |ino, name: &str| (ino, FileType::Directory, OsString::from(name));
                let dots = [".", ".."].map(|name| directory(INodeNo(1), name));
                let files = self.files.iter();
                let files = files.map(|file| (file.ino, FileType::RegularFile, file.name.clone()));
                let tells = !self.beside.tellings.is_empty();
                let tellings = tells.then(|| directory(self.tellings_ino(), DIRECTORY));
                Some(dots.into_iter().chain(files).chain(tellings).collect())
            }
            Node::Tellings => Some(self.beside.entries(ino.0)),
            Node::File(_) | Node::Telling(..) => None,
        }
    }

    /// The attributes of a node.
    pub(super) fn attr(&self, node: Node<'_>) -> FileAttr {
        match node {
            Node::File(file) => file.attr(self.root.mtime),
            // A find(1) that counts links looks into no directory that the count leaves no room for.
            Node::Directory => self.directory(INodeNo(1), 2 + u32::from(!self.beside.tellings.is_empty())),
            Node::Tellings => self.directory(self.tellings_ino(), 2),
            Node::Telling(ino, telling) => {
                let size = telling.text.len();
                FileAttr {
                    ino,
                    size,
                    blocks: size.div_ceil(512),
                    kind: FileType::RegularFile,
                    perm: self.root.mode & 0o444,
                    nlink: 1,
                    uid: self.root.uid,
                    gid: self.root.gid,
                    ..self.directory(ino, 1)
                }
            }
        }
    }

    /// The attributes of a directory. A user who may read the files may enter it; its owner follows that of
    /// the first file.
    fn directory(&self, ino: INodeNo, nlink: u32) -> FileAttr {
        let owner = self.files.first();
        let mut directory = owner.map_or(self.root.clone(), |file| file.attributes.lock().clone());
        let followed = directory.mode | ((directory.mode & 0o444) >> 2);
        directory.mode = self.directory_mode.unwrap_or(followed);
        FileAttr {
            ino,
            size: 0,
            blocks: 0,
            atime: self.root.atime,
            mtime: self.root.mtime,
            ctime: self.root.ctime,
            crtime: self.root.mtime,
            kind: FileType::Directory,
            perm: directory.mode,
            nlink,
            uid: directory.uid,
            gid: directory.gid,
            rdev: 0,
            blksize: IO_BLOCK_BYTES,
            flags: 0,
        }
    }
}

impl File {
    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }

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
