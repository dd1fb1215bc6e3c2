//! Writes past the page cache.
//!
//! The bytes of a copy are not read again soon, and are flushed at the end in any case. Through the page
//! cache they cost a copy, fresh pages and the kernel's write-back, several times the processor time of a
//! write that goes straight to the storage, and push out what others need. docs/performance.md has the
//! figures.
//!
//! Such a write needs memory, offset and length that are multiples of [`ALIGN`]; the rest of a piece goes
//! through the page cache. A file system or a device that refuses it gets everything that way.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, Ordering};

/// Unit in bytes of memory, offset and length: the page size, and the largest block of usual storage.
const ALIGN: usize = 4096;

/// Lower bound on a write that is worth two ways, in bytes.
const MIN_BYTES: usize = 64 << 10;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Direct {
    file: File,
    /// The storage has refused a write.
    refused: AtomicBool,
}

impl Direct {
    /// Opens a regular file a second time; `None` where its file system refuses that.
    pub(super) fn of(file: &File) -> Option<Direct> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let opened = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_DIRECT | libc::O_CLOEXEC)
            .open(path);
        Some(Direct {
            file: opened.ok()?,
            refused: AtomicBool::new(false),
        })
    }

    /// Writes all of `buf` at `offset`: what is aligned past the page cache, the rest through `cached`, which
    /// is the same file.
    pub(super) fn write_all_at(&self, cached: &File, buf: &[u8], offset: u64) -> io::Result<()> {
        let Some((head, tail)) = aligned(buf.as_ptr().addr(), buf.len(), offset) else {
            return cached.write_all_at(buf, offset);
        };
        if self.refused.load(Ordering::Relaxed) {
            return cached.write_all_at(buf, offset);
        }
        let middle = &buf[head..tail];
        let mut done = 0;
        while done < middle.len() {
            match self.file.write_at(&middle[done..], offset + (head + done) as u64) {
                Ok(n) if n > 0 && n % ALIGN == 0 => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EIO)) => {
                    return Err(e);
                }
                // Another reason that keeps this description from it may let the other one write.
                Err(_) => {
                    self.refused.store(true, Ordering::Relaxed);
                    break;
                }
                // A file system that ends a write within a block is asked for the rest in the usual way.
                Ok(n) => {
                    done += n;
                    break;
                }
            }
        }
        cached.write_all_at(&buf[..head], offset)?;
        cached.write_all_at(&buf[head + done..], offset + (head + done) as u64)
    }
}

/// Returns where in a piece of `len` bytes at the address `memory`, for `offset` in the file, the part begins
/// and ends that can go past the page cache; `None` where it is too short, or can't.
fn aligned(memory: usize, len: usize, offset: u64) -> Option<(usize, usize)> {
    let into = (offset % ALIGN as u64) as usize;
    if memory % ALIGN != into {
        return None;
    }
    let head = (ALIGN - into) % ALIGN;
    let tail = head + len.checked_sub(head)? / ALIGN * ALIGN;
    (tail - head >= MIN_BYTES).then_some((head, tail))
}

/// Returns the part of `buffer`, which is grown for that, that has `len` bytes and can be written past the
/// page cache at `offset`.
pub(crate) fn placed(buffer: &mut Vec<u8>, len: usize, offset: u64) -> &mut [u8] {
    if buffer.len() < len + ALIGN {
        buffer.resize(len + ALIGN, 0);
    }
    let into = (offset % ALIGN as u64) as usize;
    let skip = into.wrapping_sub(buffer.as_ptr().addr()) % ALIGN;
    &mut buffer[skip..skip + len]
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn what_goes_past_the_page_cache_is_aligned_in_memory_and_in_the_file() {
        assert_eq!(aligned(0, MIB, 0), Some((0, MIB)));
        assert_eq!(aligned(4096 + 512, MIB, 512), Some((3584, MIB - 512)));
        assert_eq!(aligned(512, MIB, 0), None);
        assert_eq!(aligned(0, MIN_BYTES - 1, 0), None);
        assert_eq!(aligned(1, 100, 1), None);
        let mut buffer = Vec::new();
        for offset in [0, 1, 512, 4095, 4096, (1 << 40) + 7] {
            let place = placed(&mut buffer, MIB, offset);
            assert_eq!(place.len(), MIB);
            assert_eq!(place.as_ptr().addr() % ALIGN, (offset % ALIGN as u64) as usize);
        }
    }

    #[test]
    fn all_bytes_arrive_wherever_they_begin_and_end() {
        let file = tempfile::tempfile().unwrap();
        // A file system that refuses it has everything go the usual way, which is to be right, too.
        let Some(direct) = Direct::of(&file) else { return };
        let (mut buffer, mut model) = (Vec::new(), vec![0; 4 * MIB]);
        let writes = [
            (0, MIB),
            (MIB, 5),
            (MIB + 5, MIB),
            (2 * MIB + 77, 70_000),
            (3 * MIB + 4095, 65_537),
        ];
        for (n, (offset, len)) in writes.into_iter().enumerate() {
            let bytes = placed(&mut buffer, len, offset as u64);
            for (at, byte) in bytes.iter_mut().enumerate() {
                *byte = (at / 512 + at + 31 * n) as u8 | 1;
            }
            model[offset..offset + len].copy_from_slice(bytes);
            direct.write_all_at(&file, bytes, offset as u64).unwrap();
        }
        // Memory that can't go past the page cache is written all the same.
        let skewed = &vec![9; MIB][1..];
        model[1..MIB].copy_from_slice(skewed);
        direct.write_all_at(&file, skewed, 1).unwrap();
        let mut found = vec![0; 3 * MIB + 4095 + 65_537];
        file.read_exact_at(&mut found, 0).unwrap();
        model.truncate(found.len());
        assert!(found == model);
        direct.refused.store(true, Ordering::Relaxed);
        direct
            .write_all_at(&file, placed(&mut buffer, MIB, 0), 0)
            .unwrap();
    }
}
