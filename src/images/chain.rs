//! The other files that an image names: its backing file, and so on below it, and the file with its data.
//!
//! A name in an image was written by whoever made the image. A malicious one names /etc/shadow, so that the
//! copy holds it, or a server. So only files in the folder of the image that the user has named are opened,
//! with symbolic links followed first; others need [`Backing::Anywhere`], the word of the user. A name that
//! is no name of a file (`nbd://`, `json:`) is never followed. A chain has an end: no file occurs in it
//! twice, and it has [`MAX_DEPTH`] files at most.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::ImageError;
use super::format::Format;
use super::kept::{Kept, KeptOfFile};
use super::raw;
use super::reader::Reader;
use super::stamp::{FileStamp, file_stamp};

/// Chains of snapshots that oVirt makes have 27 files at most by default; libvirt takes 200.
const MAX_DEPTH: usize = 200;

/// Which files an image may name as those that hold the rest of it (backing file, data file, part).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backing {
    /// Files in the image's own folder: an image from elsewhere must not read what its user can read.
    Beside,
    /// Any file, as qemu-img does.
    Anywhere,
}

impl Backing {
    pub(crate) fn of(anywhere: bool) -> Backing {
        match anywhere {
            true => Backing::Anywhere,
            false => Backing::Beside,
        }
    }
}

/// Opens an image of a chain by its format.
type Open = fn(&Path, File, Option<Format>, &Opening) -> Result<Box<dyn Reader>, ImageError>;

/// The opening of one image with all files below it.
pub(super) struct Opening {
    backing: Backing,
    open: Open,
    /// The folders of the image that the user has named: of that name, and of the file that it leads to.
    folders: Vec<PathBuf>,
    /// Device and inode of the images that are open already.
    seen: RefCell<Vec<(u64, u64)>>,
    /// The stamps of the files that were opened, in order; `None` where one of them keeps no time.
    stamps: RefCell<Option<Vec<FileStamp>>>,
    kept: Arc<Kept>,
}

impl Opening {
    /// The opening of one of `count` images that are read at the same time.
    pub(super) fn new(path: &Path, backing: Backing, count: usize, open: Open) -> Opening {
        let folders = [
            Some(folder_of(path).to_owned()),
            real(path).map(|real| folder_of(&real).to_owned()),
        ];
        Opening {
            backing,
            open,
            folders: folders
                .into_iter()
                .flatten()
                .filter_map(|folder| real(&folder))
                .collect(),
            seen: RefCell::default(),
            stamps: RefCell::new(Some(Vec::new())),
            kept: Kept::of_one_in(count),
        }
    }

    /// The cache for the tables of the file that is being opened.
    pub(super) fn kept(&self) -> KeptOfFile {
        self.kept.of_next_file()
    }

    /// Notes the stamp of a file.
    pub(super) fn note(&self, path: &Path, file: &File) -> Result<(), ImageError> {
        let meta = file.metadata().map_err(ImageError::io("look at", path))?;
        let mut stamps = self.stamps.borrow_mut();
        *stamps = stamps.take().zip(file_stamp(&meta)).map(|(mut all, one)| {
            all.push(one);
            all
        });
        Ok(())
    }

    /// Returns the stamps of all files; see the field.
    pub(super) fn stamps(self) -> Option<Vec<FileStamp>> {
        self.stamps.into_inner()
    }

    /// Notes an image of the chain, and refuses one that is in it already.
    pub(super) fn enter(&self, path: &Path, file: &File) -> Result<(), ImageError> {
        let meta = file.metadata().map_err(ImageError::io("look at", path))?;
        let mut seen = self.seen.borrow_mut();
        let chain = |what: String| ImageError::damaged(path, what);
        if seen.contains(&(meta.dev(), meta.ino())) {
            return Err(chain("its backing files lead back to it".to_owned()));
        }
        if seen.len() >= MAX_DEPTH {
            return Err(chain(format!("it is below {MAX_DEPTH} other images")));
        }
        seen.push((meta.dev(), meta.ino()));
        Ok(())
    }

    /// Opens the backing file of `image`.
    pub(super) fn backing(
        &self,
        image: &Path,
        name: &[u8],
        format: Option<&str>,
    ) -> Result<Box<dyn Reader>, ImageError> {
        let (path, file) = self.other_file(image, name)?;
        let format = match format {
            // As the engine and QEMU name a raw image on a device.
            Some("raw" | "file" | "host_device") => Some(Format::Raw),
            Some(name) => Some(Format::named(name).ok_or_else(|| ImageError::Refused {
                path: image.to_owned(),
                what: format!("has a backing file of format {name}"),
            })?),
            None => None,
        };
        (self.open)(&path, file, format, self)
    }

    /// Opens the file that `image` calls `name`.
    pub(super) fn other_file(&self, image: &Path, name: &[u8]) -> Result<(PathBuf, File), ImageError> {
        let shown = || String::from_utf8_lossy(name).into_owned();
        let name = match protocol(name) {
            None => name,
            Some(b"file") => &name[5..],
            Some(_) => {
                return Err(ImageError::Refused {
                    path: image.to_owned(),
                    what: format!("needs {}, which is no file", shown()),
                });
            }
        };
        if name.is_empty() || name.contains(&0) {
            return Err(ImageError::damaged(image, "it needs a file without a name"));
        }
        let path = folder_of(image).join(OsStr::from_bytes(name));
        let missing = |source| ImageError::Missing {
            path: path.clone(),
            image: image.to_owned(),
            source,
        };
        let real = fs::canonicalize(&path).map_err(missing)?;
        let beside = real
            .parent()
            .is_some_and(|folder| self.folders.iter().any(|own| own == folder));
        if self.backing == Backing::Beside && !beside {
            return Err(ImageError::Elsewhere {
                path: image.to_owned(),
                other: real,
            });
        }
        let file = raw::open(&real)?;
        // Somebody who may write the folder could have put a link in its place since.
        if self.backing == Backing::Beside && !is_at(&file, &real) {
            return Err(ImageError::replaced(&real));
        }
        self.note(&real, &file)?;
        // Names in the other file are relative to where its own name is.
        Ok((path, file))
    }
}

/// True where `file` was found at the path `real`, in which no link was followed.
fn is_at(file: &File, real: &Path) -> bool {
    match fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())) {
        Ok(path) => path == real,
        // Without /proc the file that has this name now must be the one that was opened.
        Err(_) => match (file.metadata(), fs::symlink_metadata(real)) {
            (Ok(opened), Ok(named)) => (opened.dev(), opened.ino()) == (named.dev(), named.ino()),
            _ => false,
        },
    }
}

/// Returns what stands before the first colon, where QEMU takes that for a protocol and not for a part of a
/// path (block.c, `path_has_protocol`).
fn protocol(name: &[u8]) -> Option<&[u8]> {
    let end = name.iter().position(|byte| matches!(byte, b':' | b'/'))?;
    (name[end] == b':').then(|| &name[..end])
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn real(path: &Path) -> Option<PathBuf> {
    fs::canonicalize(path).ok()
}
