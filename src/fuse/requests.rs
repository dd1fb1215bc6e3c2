//! The requests that may wait for a disk, each asked of the [`Disk`] of its file and answered with its result
//! or an errno from `errno`. They run in a session thread, or in one of their own (`seats`).

use std::cell::RefCell;
use std::time::Duration;

use fuser::{Errno, INodeNo, ReplyAttr, ReplyData, ReplyEmpty, ReplyLseek, ReplyWrite};

use super::Files;
use super::attr::{Change, File, Node};
use super::callers::{Entry, ReplyFlushed};
use crate::disk::{Disk, DiskError};

/// How long the kernel may keep an answer about names and attributes. Nothing changes behind its back.
pub(super) const TTL: Duration = Duration::from_secs(1);

thread_local! {
    /// Each session thread reads into the same memory again and again.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(e),
    }
}

impl Files {
    /// Truncates the file to `size`, where that is given, and changes its attributes.
    pub(super) fn change(
        &self,
        caller: u32,
        ino: INodeNo,
        size: Option<u64>,
        change: Change,
        reply: ReplyAttr,
    ) {
        let truncate = |entry: &Entry<'_>, file: &File, disk: &Disk| {
            if let Some(size) = size {
                disk.truncate(size)?;
                entry.is_accepted();
                self.settle(disk)?;
                file.written();
            }
            file.change(change);
            Ok(self.inodes.attr(Node::File(file)))
        };
        let op = |entry: &Entry<'_>| self.on_file("truncate", ino, |file, disk| truncate(entry, file, disk));
        self.callers
            .attend(caller, reply, op, |reply, result| match result {
                Ok(attr) => reply.attr(&TTL, &attr),
                // Nobody needs another mode or time on the directory.
                Err(e) if i32::from(e) == libc::EISDIR => reply.error(Errno::EPERM),
                Err(e) => reply.error(e),
            });
    }

    pub(super) fn read(&self, caller: u32, ino: INodeNo, offset: u64, size: u32, reply: ReplyData) {
        BUFFER.with_borrow_mut(|buffer| {
            let size = size as usize;
            let op =
                |_: &Entry<'_>| self.on_file("read", ino, move |_, disk| disk.read(offset, size, buffer));
            self.callers
                .attend(caller, reply, op, |reply, result| match result {
                    Ok(bytes) => reply.data(&bytes),
                    Err(e) => reply.error(e),
                });
        });
    }

    /// Writes; `durable`: all of it is on the storage before it is answered.
    pub(super) fn write(
        &self,
        caller: u32,
        ino: INodeNo,
        offset: u64,
        data: &[u8],
        durable: bool,
        reply: ReplyWrite,
    ) {
        let write = |entry: &Entry<'_>, file: &File, disk: &Disk| {
            let n = disk.write(offset, data)?;
            if durable {
                entry.is_accepted();
                disk.flush()?;
            }
            file.written();
            Ok(n)
        };
        let op = |entry: &Entry<'_>| self.on_file("write", ino, |file, disk| write(entry, file, disk));
        self.callers
            .attend(caller, reply, op, |reply, result| match result {
                Ok(n) => reply.written(n as u32),
                Err(e) => reply.error(e),
            });
    }

    /// Waits until every acknowledged write has been answered, for close(2).
    pub(super) fn close(&self, caller: u32, ino: INodeNo, reply: ReplyEmpty) {
        let op = |_: &Entry<'_>| self.on_file("close", ino, |_, disk| disk.drain());
        self.callers
            .attend(caller, ReplyFlushed(reply), op, |reply, result| {
                empty(reply.0, result)
            });
    }

    pub(super) fn fsync(&self, caller: u32, ino: INodeNo, reply: ReplyEmpty) {
        let op = |_: &Entry<'_>| self.on_file("fsync", ino, |_, disk| disk.flush());
        self.callers
            .attend(caller, ReplyFlushed(reply), op, |reply, result| {
                empty(reply.0, result)
            });
    }

    pub(super) fn allocate(
        &self,
        caller: u32,
        ino: INodeNo,
        (offset, length): (u64, u64),
        mode: i32,
        reply: ReplyEmpty,
    ) {
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
        let end = offset.saturating_add(length);
        let allocate = |entry: &Entry<'_>, file: &File, disk: &Disk| {
            match mode {
                0 => disk.allocate(end)?,
                // The bytes within the disk have their place there.
                libc::FALLOC_FL_KEEP_SIZE if end <= disk.capacity() => {}
                libc::FALLOC_FL_KEEP_SIZE => {
                    return Err(DiskError::NoSpace {
                        size: disk.capacity(),
                    });
                }
                PUNCH | ZERO_KEEP => disk.zero(offset, length, false)?,
                libc::FALLOC_FL_ZERO_RANGE => disk.zero(offset, length, true)?,
                _ => return Ok(false),
            }
            entry.is_accepted();
            self.settle(disk)?;
            file.written();
            Ok(true)
        };
        let op = |entry: &Entry<'_>| self.on_file("fallocate", ino, |file, disk| allocate(entry, file, disk));
        self.callers
            .attend(caller, reply, op, |reply, result| match result {
                Ok(true) => reply.ok(),
                Ok(false) => reply.error(Errno::EOPNOTSUPP),
                Err(e) => reply.error(e),
            });
    }

    pub(super) fn seek(&self, caller: u32, ino: INodeNo, from: u64, whence: i32, reply: ReplyLseek) {
        let op = |_: &Entry<'_>| match whence {
            libc::SEEK_DATA => self.on_file("lseek", ino, |_, disk| disk.next_data(from)),
            libc::SEEK_HOLE => self.on_file("lseek", ino, |_, disk| disk.next_hole(from)),
            _ => Err(Errno::EINVAL),
        };
        self.callers
            .attend(caller, reply, op, |reply, result| match result {
                Ok(at) => reply.offset(at as i64),
                Err(e) => reply.error(e),
            });
    }
}
