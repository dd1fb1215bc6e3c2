//! The settings for what a run tells, and where.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::cli::{LogTarget, Output, OutputArgs, Progress};
use super::config_file::Section;
use super::{absolute, usage};
use crate::failure::Failure;
use crate::logging::Place;

/// See the head of this file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct OutputSettings {
    /// One of `off`, `error`, `warn`, `info`, `debug`, `trace`.
    pub(crate) log_level: String,
    /// The place of the log.
    pub(crate) log: Place,
    /// Print statistics of each connection at the end, in this form.
    pub(crate) stats: Option<Output>,
    /// The file that gets figures for Prometheus.
    #[serde(with = "crate::path_bytes::option")]
    pub(crate) metrics_file: Option<PathBuf>,
    /// How a mount in the foreground, or a copy, shows its progress.
    pub(crate) progress: Progress,
    /// Tell warnings and errors only.
    pub(crate) quiet: bool,
}

impl OutputSettings {
    pub(super) fn gather(args: OutputArgs, section: &Section) -> Result<OutputSettings, Failure> {
        if args.progress == Progress::Bar && args.quiet {
            return Err(usage("--quiet shows no bar: leave it out, or --progress bar"));
        }
        Ok(OutputSettings {
            log: log_place(args.log_target, args.log_file.as_deref(), section)?,
            log_level: log_level(args.log_level, section)?,
            stats: args.stats,
            metrics_file: args.metrics_file.map(|path| absolute(&path)).transpose()?,
            progress: args.progress,
            quiet: args.quiet,
        })
    }
}

fn log_level(given: Option<String>, section: &Section) -> Result<String, Failure> {
    let level = given.or_else(|| section.get("log_level").map(str::to_lowercase));
    match level.as_deref() {
        None | Some("warning") => Ok("warn".to_owned()),
        Some("critical") => Ok("error".to_owned()),
        Some(level @ ("off" | "error" | "warn" | "info" | "debug" | "trace")) => Ok(level.to_owned()),
        Some(other) => Err(usage(format!(
            "log_level = {other}: it takes error, warning, info, debug or trace"
        ))),
    }
}

/// The place of the log: what the command line says, else what the section says.
fn log_place(target: Option<LogTarget>, file: Option<&Path>, section: &Section) -> Result<Place, Failure> {
    let of_section = match (target, file, section.get("log_target")) {
        (None, None, Some(text)) => Some(LogTarget::from_str(text, true).map_err(|_| {
            usage(format!(
                "log_target = {text}: it takes stderr, syslog or journald"
            ))
        })?),
        _ => None,
    };
    let file_of_section = || section.get("log_file").map(Path::new);
    let file = match (target.or(of_section), file.or_else(file_of_section)) {
        (Some(LogTarget::Stderr), _) | (None, None) => return Ok(Place::Stderr),
        (Some(LogTarget::Syslog), _) => return Ok(Place::Syslog),
        (Some(LogTarget::Journald), _) => return Ok(Place::Journald),
        (None, Some(file)) => file,
    };
    Ok(Place::File(absolute(file)?))
}
