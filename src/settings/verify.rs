//! `--verify`: what the disk is compared with when COMMAND has succeeded.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cli::MountArgs;
use super::{absolute, usage};
use crate::failure::Failure;
use crate::images::{Backing, Source};

/// See the head of this file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Verify {
    /// The bytes that are read back from it.
    Itself,
    /// A local image, by its absolute path.
    Image(#[serde(with = "crate::path_bytes")] PathBuf),
}

impl Verify {
    /// Reads the option. An image that can't be opened is refused now, before COMMAND runs for hours.
    pub(super) fn gather(args: &MountArgs, read_only: bool) -> Result<Option<Verify>, Failure> {
        let Some(image) = &args.verify else {
            return Ok(None);
        };
        if args.command.is_empty() {
            return Err(usage(
                "--verify is for the end of a COMMAND: add one, or compare the disk with `rhv-mount checksum`",
            ));
        }
        if read_only {
            return Err(usage(
                "--verify beside --read-only: COMMAND changes nothing that could be compared; leave one out",
            ));
        }
        // This is the option without a value.
        if image.is_empty() {
            return Ok(Some(Verify::Itself));
        }
        let path = absolute(Path::new(image))?;
        Source::open_with(&path, None, Backing::Anywhere).map_err(|e| usage(format!("--verify: {e}")))?;
        Ok(Some(Verify::Image(path)))
    }
}
