//! A raw image that is read: a file or a block device whose bytes are the guest's.
//!
//! Extents come from the file system (SEEK_DATA, SEEK_HOLE). Where it doesn't know them, all is data. The
//! offset of the open file moves with these questions; nothing else depends on it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::error::ImageError;
use super::reader::{Extent, Reader};
use super::stamp::{Stamp, odd_kind};

#[derive(Debug)]
pub(super) struct Raw {
    path: PathBuf,
    file: File,
    stamp: Stamp,
}

/// Opens a file to be read; pipes and directories are refused, before an open could wait for a writer.
pub(super) fn open(path: &Path) -> Result<File, ImageError> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = options.open(path).map_err(ImageError::io("open", path))?;
    let meta = file.metadata().map_err(ImageError::io("look at", path))?;
    match odd_kind(&meta) {
        None => Ok(file),
        Some(what) => Err(ImageError::NoImage {
            path: path.to_owned(),
            what,
        }),
    }
}

/// Reads from the beginning as much as `buf` holds, less at the end of the file.
pub(super) fn read_up_to(file: &File, buf: &mut [u8]) -> io::Result<usize> {
    read_up_to_at(file, buf, 0)
}

pub(super) fn read_up_to_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut count = 0;
    while count < buf.len() {
        // No file has bytes behind the largest offset.
        let Some(at) = offset
            .checked_add(count as u64)
            .filter(|at| i64::try_from(*at).is_ok())
        else {
            break;
        };
        match file.read_at(&mut buf[count..], at) {
            Ok(0) => break,
            Ok(read) => count += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(count)
}

/// Asks the file system for the extent that begins at `offset` and ends before `end`. `None`: there is no
/// data from there on, or no file.
pub(super) fn hole_or_data(file: &File, offset: u64, end: u64) -> Option<Extent> {
    let seek = |whence| lseek(file, offset as i64, whence).map(|at| at as u64);
    let extent = |until: u64, zero| {
        Some(Extent {
            length: until.min(end) - offset,
            zero,
        })
    };
    // A file system that can't tell answers EINVAL.
    match seek(Whence::SeekData) {
        Ok(data) if data > offset => extent(data, true),
        Ok(_) => match seek(Whence::SeekHole) {
            Ok(hole) if hole > offset => extent(hole, false),
            _ => extent(end, false),
        },
        Err(Errno::ENXIO) => None,
        Err(_) => extent(end, false),
    }
}

/// Returns where a file ends, of which `count` bytes were read at `offset` and there were no more. One that
/// has become shorter since it was opened ends at 0: nothing of it counts.
pub(super) fn end_of_file(stamp: &Stamp, offset: u64, count: usize) -> u64 {
    match count {
        0 if stamp.length() > offset => 0,
        0 => stamp.length(),
        count => offset + count as u64,
    }
}

impl Raw {
    pub(super) fn new(path: &Path, file: File) -> Result<Raw, ImageError> {
        let stamp = Stamp::of(path, &file).map_err(ImageError::io("look at", path))?;
        Ok(Raw {
            path: path.to_owned(),
            file,
            stamp,
        })
    }
}

impl Reader for Raw {
    fn size(&self) -> u64 {
        self.stamp.length()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ImageError> {
        let count = read_up_to_at(&self.file, buf, offset).map_err(ImageError::io("read", &self.path))?;
        match count == buf.len() {
            true => Ok(()),
            false => Err(ImageError::Ended {
                path: self.path.clone(),
                end: offset + count as u64,
                size: self.size(),
            }),
        }
    }

    fn extent_at(&self, offset: u64, max: u64) -> Result<Extent, ImageError> {
        let length = max.min(self.size() - offset);
        match hole_or_data(&self.file, offset, offset + length) {
            Some(extent) => Ok(extent),
            None => {
                // The file may be shorter than it was; then this hole is none of the image's.
                self.stamp.check(&self.file)?;
                Ok(Extent { length, zero: true })
            }
        }
    }

    fn check_unchanged(&self) -> Result<(), ImageError> {
        self.stamp.check(&self.file)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, SystemTime};

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;
    use crate::images::{Format, Source};

    #[test]
    fn holes_are_zero_extents_and_bytes_are_read_from_several_threads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        let file = File::create(&path).unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(&[7; 1 << 20], 2 << 20).unwrap();
        file.sync_all().unwrap();

        let source = Source::open(&path, None).unwrap();
        assert_eq!((source.size(), source.format()), (8 << 20, Format::Raw));
        let mut at = 0;
        let mut data = 0;
        while at < source.size() {
            let extent = source.extent_at(at).unwrap();
            assert!(extent.length > 0);
            data += if extent.zero { 0 } else { extent.length };
            at += extent.length;
        }
        assert_eq!(at, source.size());
        assert!((1 << 20..=2 << 20).contains(&data), "{data} bytes of data");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut bytes = vec![1; 2 << 20];
                    source.read_at(&mut bytes, 1 << 20).unwrap();
                    assert!(bytes[..1 << 20].iter().all(|byte| *byte == 0));
                    assert!(bytes[1 << 20..].iter().all(|byte| *byte == 7));
                });
            }
        });
        let error = source.read_at(&mut [0; 2], (8 << 20) - 1).unwrap_err();
        assert!(error.to_string().contains("outside of"), "{error}");
        assert!(source.extent_at(8 << 20).is_err());
    }

    #[test]
    fn another_length_or_time_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        fs::write(&path, [1; 1000]).unwrap();
        let source = Source::open(&path, None).unwrap();
        source.check_unchanged().unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(5))
            .unwrap();
        let error = source.check_unchanged().unwrap_err().to_string();
        assert!(error.contains("disk.raw has changed"), "{error}");

        let source = Source::open(&path, None).unwrap();
        file.set_len(600).unwrap();
        let error = source.check_unchanged().unwrap_err().to_string();
        assert!(error.contains("it had 1000 bytes and has 600"), "{error}");
        let error = source.read_at(&mut [0; 1000], 0).unwrap_err().to_string();
        assert!(error.contains("ended at byte 600"), "{error}");
    }

    #[test]
    fn pipes_directories_and_other_formats_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        let vhdx = folder.path().join("disk.vhdx");
        fs::write(&vhdx, b"vhdxfile").unwrap();
        for (path, reason) in [
            (pipe.as_path(), "is a pipe"),
            (folder.path(), "is a directory"),
            (Path::new("/dev/null"), "is a character device"),
            (&vhdx, "format vhdx"),
            (&folder.path().join("none"), "No such file"),
        ] {
            let error = Source::open(path, None).unwrap_err().to_string();
            assert!(
                error.contains(reason) && error.contains(path.to_str().unwrap()),
                "{error}"
            );
        }
        assert_eq!(Source::open(&vhdx, Some(Format::Raw)).unwrap().size(), 8);
    }
}
