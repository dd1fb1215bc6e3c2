//! The settings of `checksum` for a disk, as far as they are not those of a mount: the same disk, connection
//! and log, read-only, without a mountpoint.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::cli::{ChecksumArgs, MountArgs, Output, Progress};
use super::{Settings, usage};
use crate::block_hash::Method;
use crate::failure::Failure;

/// A checksum instead of a mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ChecksumTask {
    pub(crate) method: Method,
    /// How the result is printed.
    pub(crate) output: Output,
}

impl Settings {
    /// Checks the options of `checksum`, adds the configuration file and the environment, and asks for a
    /// password where it must.
    pub(crate) fn gather_for_checksum(args: ChecksumArgs) -> Result<Settings, Failure> {
        let task = ChecksumTask {
            method: args.method(),
            output: args.output,
        };
        let name = args.disk.as_ref().or(args.disk_snapshot.as_ref());
        // It is no path that is used; `recover` shows it for what a killed process leaves.
        let place = match name {
            Some(name) => format!("checksum-of-{}", name.replace('/', "_")),
            None => "checksum".to_owned(),
        };
        let (progress, quiet) = (args.progress, args.quiet);
        if progress == Progress::Bar && quiet {
            return Err(usage("--quiet shows no bar: leave it out, or --progress bar"));
        }
        let settings = Settings::gather(MountArgs {
            mountpoint: PathBuf::from(place),
            file_name: "disk".into(),
            transfer_url: args.transfer_url,
            transfer_url_file: args.transfer_url_file,
            disk: args.disk,
            disk_snapshot: args.disk_snapshot,
            read_only: true,
            engine: args.engine,
            imageio_cafile: args.imageio_cafile,
            proxy: args.proxy,
            connections: args.connections,
            no_unix_socket: args.no_unix_socket,
            retry_time: args.retry_time,
            timeout: args.timeout,
            log_level: args.log_level,
            log_file: args.log_file,
            log_target: args.log_target,
            foreground: true,
            ..MountArgs::default()
        })?;
        Ok(Settings {
            progress,
            quiet,
            checksum: Some(task),
            ..settings
        })
    }
}
