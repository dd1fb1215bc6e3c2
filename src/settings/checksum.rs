//! The settings of `checksum` for a disk.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::account::trust;
use super::choice::Choice;
use super::cli::{ChecksumArgs, Output};
use super::config_file::Section;
use super::{DiskSettings, OutputSettings, Task, usage};
use crate::block_hash::Method;
use crate::failure::Failure;

/// See the head of this file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ChecksumSettings {
    pub(crate) method: Method,
    /// How the result is printed.
    pub(crate) form: Output,
    /// The disk as the user has named it.
    pub(crate) shown: String,
    /// The same as the place of the run, which names what it leaves when it is killed. No file is meant.
    #[serde(with = "crate::path_bytes")]
    pub(crate) place: PathBuf,
    pub(crate) disk: DiskSettings,
    pub(crate) output: OutputSettings,
}

impl ChecksumSettings {
    /// Checks the options, adds the configuration file and the environment, and asks for a password where it
    /// must.
    pub(crate) fn gather(args: ChecksumArgs) -> Result<ChecksumSettings, Failure> {
        let section = Section::read(&args.run.engine)?;
        let trusted = trust(args.run.engine.cafile.clone(), args.run.engine.insecure, &section)?;
        let choice = Choice::of(&args.disk, &section)?;
        if matches!(choice, Choice::Create(_)) {
            return Err(usage(
                "checksum reads a disk that is there: --create is for a mount and for `upload`",
            ));
        }
        let method = args.method();
        let shown = choice.name().unwrap_or("the disk of the transfer").to_owned();
        let from = (&args.run.engine, args.run.connection.proxy);
        let source = choice.source(&args.disk, from, &section, &trusted)?;
        Ok(ChecksumSettings {
            method,
            form: args.form,
            place: PathBuf::from(&shown),
            shown,
            disk: DiskSettings::gather(args.run.connection, source, trusted, Task::Checksum, true)?,
            output: OutputSettings::gather(args.run.output, &section)?,
        })
    }
}
