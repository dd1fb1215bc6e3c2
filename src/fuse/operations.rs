//! The operations of the kernel, each one short method: what waits for no disk is answered here, and the rest
//! goes to `requests`, in the thread that `seats` chooses.

use std::ffi::OsStr;
use std::io;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};

use super::attr::{Change, Node};
use super::requests::TTL;
use super::{DiskFs, beside};

/// Upper bound on a write request, in bytes: the kernel's own limit of 256 pages.
const MAX_WRITE_BYTES: u32 = 1 << 20;

/// Upper bound on requests from readahead and asynchronous I/O that wait here. With the kernel's default of
/// 12, readahead never reaches all connections.
const MAX_BACKGROUND: u16 = 64;

/// The two file handles. Closing a writable one reports write errors.
const READING: FileHandle = FileHandle(0);
const WRITING: FileHandle = FileHandle(1);

/// Returns the size that statfs reports for so many bytes. A program that looks whether an image of the
/// disk's size fits adds something for its own records: partclone 0.3 a bit for each sector, and a header.
fn with_room(bytes: u64) -> u64 {
    match bytes {
        0 => 0,
        bytes => bytes + bytes / 1024 + (1 << 20),
    }
}

/// Answers a request for attributes: one for 0 bytes asks how many there are.
fn answer(reply: ReplyXattr, size: u32, bytes: Result<&[u8], Errno>) {
    match bytes {
        Ok(bytes) if size == 0 => reply.size(bytes.len() as u32),
        Ok(bytes) if bytes.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(bytes) => reply.data(bytes),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for DiskFs {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Each is an improvement where the kernel has it: parallel AIO on direct files, and MAP_SHARED on
        // them at all.
        for flag in [InitFlags::FUSE_ASYNC_DIO, InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP] {
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_write(MAX_WRITE_BYTES);
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.0.inodes.named(parent, name) {
            Ok(node) => reply.entry(&TTL, &self.0.inodes.attr(node), Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.inodes.node(ino) {
            Some(node) => reply.attr(&TTL, &self.0.inodes.attr(node)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        caller: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = Change {
            mode,
            uid,
            gid,
            atime,
            mtime,
        };
        let caller = caller.pid();
        self.wait_for(ino, move |files| files.change(caller, ino, size, change, reply));
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let writing = flags.acc_mode() != OpenAccMode::O_RDONLY;
        let file = match self.0.inodes.node(ino) {
            Some(Node::File(file)) => file,
            Some(Node::Telling(..)) if writing => return reply.error(Errno::EROFS),
            Some(Node::Telling(..)) => {
                self.0.open_files.0.fetch_add(1, Ordering::Relaxed);
                return reply.opened(READING, FopenFlags::FOPEN_KEEP_CACHE);
            }
            Some(Node::Directory | Node::Tellings) | None => return reply.error(Errno::EISDIR),
        };
        match file.disk() {
            Ok(disk) if writing && disk.is_read_only() => return reply.error(Errno::EROFS),
            Ok(_) => {}
            Err(errno) => return reply.error(errno),
        }
        self.0.open_files.0.fetch_add(1, Ordering::Relaxed);
        let direct = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        reply.opened(if writing { WRITING } else { READING }, direct);
    }

    /// The last close of one open; the kernel waits for no answer.
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
        self.0.open_files.0.fetch_sub(1, Ordering::Relaxed);
        reply.ok();
    }

    fn read(
        &self,
        caller: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if let Some(Node::Telling(_, telling)) = self.0.inodes.node(ino) {
            return reply.data(&telling.text.read(offset, size as usize));
        }
        let caller = caller.pid();
        self.wait_for(ino, move |files| files.read(caller, ino, offset, size, reply));
    }

    fn write(
        &self,
        caller: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // The kernel leaves O_SYNC on direct files to us.
        let durable = self.0.sync || flags.0 & (libc::O_SYNC | libc::O_DSYNC) != 0;
        let caller = caller.pid();
        self.wait_with(ino, data, move |files, data| {
            files.write(caller, ino, offset, data, durable, reply);
        });
    }

    /// Called by close(2): every acknowledged write has been answered, or the error is reported now.
    fn flush(&self, caller: &Request, ino: INodeNo, fh: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        if fh != WRITING {
            return reply.ok();
        }
        let caller = caller.pid();
        self.wait_for(ino, move |files| files.close(caller, ino, reply));
    }

    fn fsync(&self, caller: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        if let Some(Node::Telling(..)) = self.0.inodes.node(ino) {
            return reply.ok();
        }
        let caller = caller.pid();
        self.wait_for(ino, move |files| files.fsync(caller, ino, reply));
    }

    fn fallocate(
        &self,
        caller: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let caller = caller.pid();
        self.wait_for(ino, move |files| {
            files.allocate(caller, ino, (offset, length), mode, reply);
        });
    }

    fn lseek(
        &self,
        caller: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let Ok(from) = u64::try_from(offset) else {
            return reply.error(Errno::ENXIO);
        };
        if let Some(Node::Telling(_, telling)) = self.0.inodes.node(ino) {
            return match beside::seek(telling.text.len(), from, whence) {
                Ok(at) => reply.offset(at as i64),
                Err(errno) => reply.error(errno),
            };
        }
        let caller = caller.pid();
        self.wait_for(ino, move |files| files.seek(caller, ino, from, whence, reply));
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        const UNIT: u32 = 4096;
        let units = |bytes: u64| with_room(bytes) / u64::from(UNIT);
        let size: u64 = self.0.inodes.disks().map(|disk| disk.capacity()).sum();
        let free: u64 = self.0.inodes.disks().map(|disk| disk.free()).sum();
        let (size, free, count) = (units(size), units(free), self.0.inodes.count() as u64);
        reply.statfs(size, free, free, count, 0, UNIT, 255, UNIT);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let Some(entries) = self.0.inodes.entries(ino) else {
            return reply.error(Errno::ENOTDIR);
        };
        for (n, (ino, kind, name)) in entries.into_iter().enumerate().skip(offset as usize) {
            if reply.add(ino, n as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let value = self.0.inodes.beside().attribute(self.0.disk_name(ino), name);
        answer(reply, size, value);
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.0.inodes.beside().names(self.0.disk_name(ino));
        answer(reply, size, names.as_deref().map_err(|errno| *errno));
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    /// The files stay as they are; ENOSYS would look like a broken mount.
    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EPERM);
    }

    /// ENOTTY tells a tool that this is a plain file; qemu and mkfs then go on.
    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }
}
