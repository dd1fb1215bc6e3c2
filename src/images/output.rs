//! An image that is written: what is the same for every format.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};

use super::direct::Direct;
use super::error::ImageError;
use super::format::Format;
use super::in_place;
use super::qcow2::{CLUSTER, MAX_SIZE, Writer};
use super::reader::within;
use super::stamp::{FileStamp, odd_kind};
use super::temporary::Temporary;

/// An image that lies over another one is written in units of so many bytes.
pub(crate) const CLUSTER_BYTES: u64 = CLUSTER;

/// Zeros are written in pieces of so many bytes where the storage has no cheaper way.
const ZEROS: usize = 1 << 20;

/// An image that is being made. Dropped before it is published, it leaves no file behind.
#[derive(Debug)]
pub(crate) struct Output {
    path: PathBuf,
    /// Bytes of the guest's disk.
    size: u64,
    kind: Kind,
    /// Data go past the page cache where they can. `None` where they can't, and for a device.
    direct: Option<Direct>,
}

#[derive(Debug)]
enum Kind {
    Raw(Temporary),
    Qcow2(Temporary, Writer),
    /// It is whole, and has not got its name.
    Whole(Temporary),
    /// A device holds old bytes where nothing is written.
    InPlace(File),
}

impl Output {
    /// Makes an image of `size` bytes that reads as zeros, under a temporary name beside `path`. A file that
    /// is there already is replaced only with `force`. A device is written in place: `force` is needed for a
    /// block device, and what is zero must be zeroed, as [`Output::keeps_old_bytes`] tells.
    pub(crate) fn create(path: &Path, format: Format, size: u64, force: bool) -> Result<Output, ImageError> {
        let kind = match (device(path, format, force)?, format) {
            (Some(meta), _) => Kind::InPlace(in_place::open(path, &meta, size)?),
            (None, Format::Raw) => {
                let temporary = Temporary::create(path, force)?;
                let sized = temporary.file().set_len(size);
                sized.map_err(ImageError::io("size", path))?;
                Kind::Raw(temporary)
            }
            (None, Format::Qcow2) if size > MAX_SIZE => {
                return Err(ImageError::TooLarge {
                    path: path.to_owned(),
                    size,
                });
            }
            (None, Format::Qcow2) => Kind::Qcow2(Temporary::create(path, force)?, Writer::new(size)),
            (None, Format::Vmdk) => return Err(unwritable(path, format, "")),
        };
        Ok(Output::of(path, size, kind))
    }

    /// Makes a qcow2 image of `size` bytes that reads as zeros, and that only this user may read, whatever
    /// the umask says. A file that is there already is an error.
    pub(crate) fn create_private(path: &Path, size: u64) -> Result<Output, ImageError> {
        Output::private(path, size, |size| Some(Writer::new(size)))
    }

    /// Makes a qcow2 image of `size` bytes that reads as the qcow2 file `backing` in the same folder, which
    /// has the same size, and that only this user may read. Whole units of [`CLUSTER_BYTES`] are written, or
    /// made zeros, and each once.
    pub(crate) fn create_over(path: &Path, size: u64, backing: &str) -> Result<Output, ImageError> {
        Output::private(path, size, |size| Writer::over(size, backing.as_bytes()))
    }

    fn private(
        path: &Path,
        size: u64,
        writer: impl FnOnce(u64) -> Option<Writer>,
    ) -> Result<Output, ImageError> {
        let writer = Some(size).filter(|size| *size <= MAX_SIZE).and_then(writer);
        let writer = writer.ok_or_else(|| ImageError::TooLarge {
            path: path.to_owned(),
            size,
        })?;
        let kind = Kind::Qcow2(Temporary::create_private(path)?, writer);
        Ok(Output::of(path, size, kind))
    }

    fn of(path: &Path, size: u64, kind: Kind) -> Output {
        let direct = match &kind {
            Kind::Raw(temporary) | Kind::Qcow2(temporary, _) => Direct::of(temporary.file()),
            Kind::Whole(_) | Kind::InPlace(_) => None,
        };
        Output {
            path: path.to_owned(),
            size,
            kind,
            direct,
        }
    }

    /// Refuses what [`Output::create`] would refuse by a look at the path: for who has more to begin before.
    pub(crate) fn check(path: &Path, format: Format, force: bool) -> Result<(), ImageError> {
        match device(path, format, force)? {
            Some(_) => Ok(()),
            None => Temporary::check(path, force).map(drop),
        }
    }

    /// Returns whether what is never written is not zero, so that [`Output::zero_at`] must be called for it.
    pub(crate) fn keeps_old_bytes(&self) -> bool {
        matches!(self.kind, Kind::InPlace(_))
    }

    /// Returns the file that is not whole yet, and its path; `None` for a device.
    pub(crate) fn unfinished(&self) -> Option<(&Path, &File)> {
        match &self.kind {
            Kind::Raw(temporary) | Kind::Qcow2(temporary, _) | Kind::Whole(temporary) => {
                Some((temporary.path(), temporary.file()))
            }
            Kind::InPlace(_) => None,
        }
    }

    /// Writes bytes of the guest's disk; all of them must be before the end. Two threads never write the same
    /// bytes at once.
    pub(crate) fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), ImageError> {
        within(&self.path, self.size, offset, buf.len() as u64)?;
        let write = |file: &File, buf: &[u8], offset| match &self.direct {
            Some(direct) => direct.write_all_at(file, buf, offset),
            None => file.write_all_at(buf, offset),
        };
        let written = match &self.kind {
            Kind::Raw(temporary) => write(temporary.file(), buf, offset),
            Kind::Qcow2(temporary, writer) => writer.write_at(temporary.file(), buf, offset, write),
            Kind::InPlace(file) => file.write_all_at(buf, offset),
            Kind::Whole(_) => Err(whole_already()),
        };
        written.map_err(ImageError::io("write", &self.path))
    }

    /// Makes bytes of the guest's disk zeros, without storage for them where that is possible.
    pub(crate) fn zero_at(&self, offset: u64, length: u64) -> Result<(), ImageError> {
        within(&self.path, self.size, offset, length)?;
        let zeroed = match &self.kind {
            Kind::Raw(temporary) => zero(temporary.file(), offset, length),
            Kind::Qcow2(temporary, writer) => writer.zero_at(temporary.file(), offset, length, zero),
            Kind::InPlace(file) => zero(file, offset, length),
            Kind::Whole(_) => Err(whole_already()),
        };
        zeroed.map_err(ImageError::io("write", &self.path))
    }

    /// Ends the writing, so that the image can be read under the name that it has now. All writes have
    /// returned before, and none follows.
    pub(crate) fn complete(self) -> Result<Output, ImageError> {
        let kind = match self.kind {
            Kind::Qcow2(temporary, writer) => {
                let finished = writer.finish(temporary.file());
                finished.map_err(ImageError::io("write", &self.path))?;
                Kind::Whole(temporary)
            }
            Kind::Raw(temporary) => Kind::Whole(temporary),
            other => other,
        };
        Ok(Output { kind, ..self })
    }

    /// Gives a file its name when everything is on the storage; nothing of it is there under this name
    /// before. A device is flushed. Returns how the file is then; `None` for a device.
    pub(crate) fn publish(self) -> Result<Option<FileStamp>, ImageError> {
        let Output { path, kind, .. } = self.complete()?;
        match kind {
            Kind::Whole(temporary) | Kind::Raw(temporary) | Kind::Qcow2(temporary, _) => temporary.publish(),
            Kind::InPlace(file) => {
                let flushed = file.sync_all().or_else(ignore_no_storage);
                flushed.map_err(ImageError::io("flush", &path))?;
                Ok(None)
            }
        }
    }
}

/// Makes a file with these bytes, which appears under its name only when it is whole and on the storage, and
/// which only this user may read. One that is there already is an error.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    let temporary = Temporary::create_private(path)?;
    let written = temporary.file().write_all_at(bytes, 0);
    written.map_err(ImageError::io("write", path))?;
    temporary.publish().map(drop)
}

/// The error of a write that comes too late.
fn whole_already() -> io::Error {
    io::Error::other("it is whole already")
}

/// Returns what the device `path` is; `None` where a file is to be made there. Refuses what can be neither.
fn device(path: &Path, format: Format, force: bool) -> Result<Option<Metadata>, ImageError> {
    let path_of = || path.to_owned();
    match fs::metadata(path) {
        Ok(meta) if !meta.is_file() => match odd_kind(&meta) {
            Some(what @ ("a directory" | "a pipe" | "a socket")) => Err(ImageError::NoTarget {
                path: path_of(),
                what,
            }),
            _ if format != Format::Raw => Err(unwritable(path, format, ", as it is a device")),
            None if !force => Err(ImageError::Device { path: path_of() }),
            _ => Ok(Some(meta)),
        },
        _ => Ok(None),
    }
}

fn unwritable(path: &Path, format: Format, why: &'static str) -> ImageError {
    ImageError::Unwritable {
        path: path.to_owned(),
        format: format.name(),
        why,
    }
}

/// A character device (/dev/null) has no storage, and says so with EINVAL.
fn ignore_no_storage(e: io::Error) -> io::Result<()> {
    match e.raw_os_error() {
        Some(libc::EINVAL) => Ok(()),
        _ => Err(e),
    }
}

/// Makes a hole; where there can be none, the cheapest zeros.
fn zero(file: &File, offset: u64, length: u64) -> io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
    for way in [
        FallocateFlags::FALLOC_FL_PUNCH_HOLE | keep,
        FallocateFlags::FALLOC_FL_ZERO_RANGE | keep,
    ] {
        if fallocate(file, way, offset as i64, length as i64).is_ok() {
            return Ok(());
        }
    }
    let zeros = vec![0; ZEROS.min(usize::try_from(length).unwrap_or(ZEROS))];
    let mut done = 0;
    while done < length {
        let count = (length - done).min(zeros.len() as u64);
        file.write_all_at(&zeros[..count as usize], offset + done)?;
        done += count;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn names_in(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap();
        names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_file_appears_whole_and_what_was_not_written_is_a_hole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        let output = Output::create(&path, Format::Raw, 64 << 20, false).unwrap();
        assert!(!output.keeps_old_bytes());
        std::thread::scope(|scope| {
            for part in 0..4 {
                let output = &output;
                scope.spawn(move || output.write_at(&[part as u8 + 1; 4096], part * 4096).unwrap());
            }
        });
        output.zero_at(4096, 4096).unwrap();
        let error = output.write_at(&[1, 1], (64 << 20) - 1).unwrap_err().to_string();
        assert!(error.contains("outside of"), "{error}");
        let [name] = names_in(folder.path()).try_into().unwrap();
        assert!(name.starts_with(".disk.raw.") && name.len() > 20, "{name}");
        output.publish().unwrap();

        assert_eq!(names_in(folder.path()), ["disk.raw"]);
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.len(), meta.permissions().mode() & 0o600), (64 << 20, 0o600));
        assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
        let bytes = fs::read(&path).unwrap();
        for (part, value) in [1, 0, 3, 4, 0].into_iter().enumerate() {
            let at = part * 4096;
            assert!(
                bytes[at..at + 4096].iter().all(|byte| *byte == value),
                "part {part}"
            );
        }
    }

    #[test]
    fn nothing_is_left_of_an_output_that_was_not_published() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        drop(Output::create(&path, Format::Raw, 4096, false).unwrap());
        assert!(names_in(folder.path()).is_empty());
    }

    #[test]
    fn a_file_that_exists_is_replaced_with_force_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        let late = Output::create(&path, Format::Raw, 4096, false).unwrap();
        fs::write(&path, "mine").unwrap();
        let early = Output::create(&path, Format::Raw, 4096, false)
            .unwrap_err()
            .to_string();
        let late = late.publish().unwrap_err().to_string();
        for error in [early, late] {
            assert!(
                error.contains("disk.raw exists") && error.contains("--force"),
                "{error}"
            );
        }
        assert_eq!(fs::read(&path).unwrap(), b"mine");

        let link = folder.path().join("link");
        symlink(&path, &link).unwrap();
        let output = Output::create(&link, Format::Raw, 4096, true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        output.publish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), [0; 4096]);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(names_in(folder.path()).len(), 2);
    }

    #[test]
    fn what_is_no_file_and_no_device_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = Output::create(folder.path(), Format::Raw, 1, true)
            .unwrap_err()
            .to_string();
        assert!(error.contains("is a directory"), "{error}");
        let missing = folder.path().join("none/disk.raw");
        let error = Output::create(&missing, Format::Raw, 1, true)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("cannot create") && error.contains("none/disk.raw"),
            "{error}"
        );
        let vmdk = folder.path().join("disk.vmdk");
        let error = Output::create(&vmdk, Format::Vmdk, 1, true)
            .unwrap_err()
            .to_string();
        assert!(error.contains("written as vmdk"), "{error}");
    }

    #[test]
    fn a_device_is_written_in_place() {
        let output = Output::create(Path::new("/dev/null"), Format::Raw, 1 << 20, false).unwrap();
        assert!(output.keeps_old_bytes());
        output.write_at(&[1; 512], 512).unwrap();
        output.zero_at(0, 1 << 20).unwrap();
        output.publish().unwrap();
    }
}
