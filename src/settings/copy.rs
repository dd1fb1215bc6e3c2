//! The settings of a copy without a mount: `upload` and `download`.
//!
//! They are checked as far as that goes without the engine: an image that can't be read, or is larger than
//! the disk that is to be made, is refused before anything is begun.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::account::trust;
use super::choice::{Choice, read_only_elsewhere};
use super::cli::{DownloadArgs, ImageFormat, UploadArgs};
use super::config_file::Section;
use super::expected::sizes;
use super::outcome::OutcomeSettings;
use super::{DiskSettings, OutputSettings, Source, Task, Wanted, absolute, usage};
use crate::failure::Failure;
use crate::images;

/// The word that means stdin or stdout.
const STREAM: &str = "-";

/// Unit of the size of a disk in bytes.
const SECTOR_BYTES: u64 = 512;

/// The local side of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Image {
    /// Raw bytes on stdin, as many as this, or on stdout.
    Stream { bytes: u64 },
    /// A file or a device.
    File {
        /// An absolute path.
        #[serde(with = "crate::path_bytes")]
        path: PathBuf,
        /// `None` where it is to be found out.
        format: Option<ImageFormat>,
        /// A file that is there is replaced.
        force: bool,
        /// Its backing files may be anywhere.
        anywhere: bool,
    },
}

impl Image {
    /// The path; `None` for a stream.
    fn path(&self) -> Option<&Path> {
        match self {
            Image::Stream { .. } => None,
            Image::File { path, .. } => Some(path),
        }
    }

    /// The path, or the word for a stream.
    pub(crate) fn shown(&self) -> &Path {
        match self {
            Image::Stream { .. } => Path::new(STREAM),
            Image::File { path, .. } => path,
        }
    }
}

/// The volume of a claim in Kubernetes, which a download populates.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Volume {
    /// The size of the claim, where that is known.
    pub(crate) bytes: Option<u64>,
    /// The id of the claim.
    pub(crate) owner: String,
    /// The address at which the progress is told; `None` is the usual one.
    pub(crate) listen: Option<SocketAddr>,
}

/// The settings of one copy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CopySettings {
    pub(crate) image: Image,
    /// How the files of an upload's image are, as [`images::Source::stamps`] tells; they are opened later.
    #[serde(default)]
    pub(crate) stamps: Option<Vec<images::FileStamp>>,
    /// The bytes are compared at the end.
    pub(crate) verify: bool,
    pub(crate) disk: DiskSettings,
    pub(crate) output: OutputSettings,
    /// The volume that the image is on, where `populate` fills it.
    #[serde(default)]
    pub(crate) volume: Option<Volume>,
    /// The place of its outcome.
    #[serde(default)]
    pub(crate) outcome: Option<OutcomeSettings>,
}

impl CopySettings {
    /// Checks the options of `upload`, and opens the image for its size.
    pub(crate) fn of_upload(args: UploadArgs) -> Result<CopySettings, Failure> {
        let section = Section::read(&args.run.engine)?;
        let trusted = trust(args.run.engine.cafile.clone(), args.run.engine.insecure, &section)?;
        let choice = Choice::of(&args.disk, &section)?;
        if args.disk.read_only || read_only_elsewhere(&section)? || matches!(choice, Choice::Snapshot(_)) {
            return Err(usage(
                "upload writes the disk, and the options, the section or the environment ask for one that is \
                 read-only: leave that out, or use `download`",
            ));
        }
        let creates = matches!(choice, Choice::Create(_));
        let (mut disk, mut stamps) = (args.disk, None);
        let image = match args.image == Path::new(STREAM) {
            true => {
                if args.image_format.is_some_and(|format| format != ImageFormat::Raw) {
                    return Err(usage(
                        "stdin is raw: another format needs a file, in which one can go back",
                    ));
                }
                let bytes = disk.size.or(choice.size(&disk, &section)?).ok_or_else(|| {
                    usage(
                        "upload of `-` needs --size, the number of bytes that come: a stream that ends early \
                         is no whole image",
                    )
                })?;
                Image::Stream { bytes }
            }
            false => {
                // As `recover` looks for it.
                let path = fs::canonicalize(&args.image).or_else(|_| absolute(&args.image))?;
                let format = args.image_format.map(images::Format::from);
                let anywhere = args.allow_backing_elsewhere;
                let source = images::Source::open_with(&path, format, images::Backing::of(anywhere));
                let source = source.map_err(usage)?;
                stamps = source.stamps().map(<[_]>::to_vec);
                let wanted = choice.size(&disk, &section)?;
                if let Some(size) = wanted.filter(|size| *size < source.size()) {
                    return Err(usage(format!(
                        "--size {size} is smaller than the image {}, which has {} bytes; leave --size out, \
                         and the disk gets the size of the image",
                        path.display(),
                        source.size()
                    )));
                }
                disk.size = disk
                    .size
                    .or(Some(source.size()).filter(|_| creates && wanted.is_none()));
                Image::File {
                    path,
                    format: Some(source.format().into()),
                    force: false,
                    anywhere,
                }
            }
        };
        disk.size = match (&image, creates) {
            // A disk has whole sectors.
            (_, true) => disk.size.map(|size| size.next_multiple_of(SECTOR_BYTES)),
            (Image::Stream { .. }, false) => None,
            (Image::File { .. }, false) => disk.size,
        };
        let from = (&args.run.engine, args.run.connection.proxy);
        let source = choice.source(&disk, from, &section, &trusted)?;
        let outcome = OutcomeSettings::gather(args.outcome, image.path(), &source)?;
        Ok(CopySettings {
            image,
            stamps,
            outcome,
            verify: args.verify,
            disk: DiskSettings::gather(args.run.connection, source, trusted, Task::Upload, false)?,
            output: OutputSettings::gather(args.run.output, &section)?,
            volume: None,
        })
    }

    /// Checks the options of `download`.
    pub(crate) fn of_download(args: DownloadArgs) -> Result<CopySettings, Failure> {
        let section = Section::read(&args.run.engine)?;
        let trusted = trust(args.run.engine.cafile.clone(), args.run.engine.insecure, &section)?;
        let choice = Choice::of(&args.disk, &section)?;
        if matches!(choice, Choice::Create(_)) {
            return Err(usage(
                "download reads a disk that is there: --create is for `upload`",
            ));
        }
        let image = match (args.image == Path::new(STREAM), args.image_format) {
            (_, Some(ImageFormat::Vmdk)) => {
                return Err(usage(
                    "--image-format vmdk is for `upload`: download makes raw or qcow2",
                ));
            }
            (true, Some(ImageFormat::Qcow2)) => {
                return Err(usage(
                    "stdout is raw: another format needs a file, in which one can go back",
                ));
            }
            (true, _) => Image::Stream { bytes: 0 },
            (false, format) => {
                let path = absolute(&args.image)?;
                let written = format.map_or_else(|| images::Format::of_name(&path), images::Format::from);
                // A refusal that would come when the image is made comes before anything is begun. With
                // --once it may be what an earlier run has made.
                let may_be_there = args.force || args.outcome.once;
                images::Output::check(&path, written, may_be_there).map_err(usage)?;
                Image::File {
                    path,
                    format,
                    force: args.force,
                    anywhere: false,
                }
            }
        };
        let from = (&args.run.engine, args.run.connection.proxy);
        let source = choice.source(&args.disk, from, &section, &trusted)?;
        let outcome = OutcomeSettings::gather(args.outcome, image.path(), &source)?;
        Ok(CopySettings {
            image,
            stamps: None,
            outcome,
            verify: args.verify,
            disk: DiskSettings::gather(args.run.connection, source, trusted, Task::Download, true)?,
            output: OutputSettings::gather(args.run.output, &section)?,
            volume: None,
        })
    }

    /// How much an upload may write, in bytes, the likeliest number first.
    pub(crate) fn expected(&self) -> Vec<u64> {
        let of_image = match (&self.image, self.disk.task) {
            (Image::Stream { bytes }, Task::Upload) => vec![*bytes],
            (Image::File { path, .. }, Task::Upload) => File::open(path).map(sizes).unwrap_or_default(),
            _ => Vec::new(),
        };
        of_image.into_iter().chain(self.new_size()).collect()
    }

    /// The size of the disk that is to be made, in bytes.
    pub(crate) fn new_size(&self) -> Option<u64> {
        match &self.disk.source {
            Source::Engine(source) => match &source.wanted {
                Wanted::New(disk) => Some(disk.size),
                Wanted::Existing(_) | Wanted::Snapshot(_) | Wanted::OfBackup { .. } => None,
            },
            Source::Transfer(_) => None,
        }
    }
}

impl From<ImageFormat> for images::Format {
    fn from(format: ImageFormat) -> images::Format {
        match format {
            ImageFormat::Raw => images::Format::Raw,
            ImageFormat::Qcow2 => images::Format::Qcow2,
            ImageFormat::Vmdk => images::Format::Vmdk,
        }
    }
}

impl From<images::Format> for ImageFormat {
    fn from(format: images::Format) -> ImageFormat {
        match format {
            images::Format::Raw => ImageFormat::Raw,
            images::Format::Qcow2 => ImageFormat::Qcow2,
            images::Format::Vmdk => ImageFormat::Vmdk,
        }
    }
}
