//! The settings for the outcome of a copy: where it is kept, and whether an earlier one counts.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cli::OutcomeArgs;
use super::{Source, Wanted, absolute, usage};
use crate::failure::Failure;

/// The place of the outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OutcomeSettings {
    /// An absolute path.
    #[serde(with = "crate::path_bytes")]
    pub(crate) path: PathBuf,
    /// Nothing is copied where an earlier run of this copy has done it.
    pub(crate) once: bool,
}

impl OutcomeSettings {
    /// Checks the options beside `image`, which is `None` where it is a stream, and `source`.
    pub(super) fn gather(
        args: OutcomeArgs,
        image: Option<&Path>,
        source: &Source,
    ) -> Result<Option<OutcomeSettings>, Failure> {
        let Some(path) = args.outcome else {
            return Ok(None);
        };
        if args.once {
            check_once(image, source)?;
        }
        Ok(Some(OutcomeSettings {
            path: absolute(&path)?,
            once: args.once,
        }))
    }
}

/// Refuses what leaves nothing by which a later run could tell that it was done.
fn check_once(image: Option<&Path>, source: &Source) -> Result<(), Failure> {
    let is_device = |path: &Path| {
        let kind = fs::metadata(path).map(|meta| meta.file_type());
        kind.is_ok_and(|kind| kind.is_block_device() || kind.is_char_device())
    };
    match image {
        None => {
            return Err(usage("--once needs an image that is a file, and `-` is none"));
        }
        Some(path) if is_device(path) => {
            return Err(usage(format!(
                "--once needs an image that is a file, and {} is a device, which keeps no time of its last \
                 change",
                path.display()
            )));
        }
        Some(_) => {}
    }
    match source {
        Source::Transfer(_) => Err(usage(
            "--once needs an engine and a disk: a transfer URL does not say which disk it is of",
        )),
        Source::Engine(source) => match &source.wanted {
            Wanted::New(new) if new.id.is_none() => Err(usage(
                "--once needs --disk-id beside --create: by its id a later run finds the disk that an \
                 earlier one has made (`uuidgen` makes one)",
            )),
            _ => Ok(()),
        },
    }
}
