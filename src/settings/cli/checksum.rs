//! The options of `checksum`. The docstrings here are the text of `--help`.

use std::path::PathBuf;

use clap::Args;

use super::forms::{LogTarget, Output, Progress};
use super::options::EngineArgs;
use crate::block_hash::{Algorithm, Method};
use crate::settings::values::{parse_connections, parse_size};

/// The options of `checksum`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ChecksumArgs {
    /// A local image: a file or a block device
    #[arg(conflicts_with_all = ["transfer_url", "transfer_url_file", "disk", "disk_snapshot"])]
    pub(crate) image: Option<PathBuf>,
    /// Format of IMAGE [default: found out]
    #[arg(long, value_name = "FORMAT", value_parser = ["raw", "qcow2", "vmdk"], requires = "image")]
    pub(crate) image_format: Option<String>,
    /// Hash function: blake2b, blake2s, md5, sha1, sha224, sha256, sha384, sha512, sha3_224, sha3_256,
    /// sha3_384 or sha3_512
    #[arg(long, value_name = "NAME", default_value = "blake2b", value_parser = str::parse::<Algorithm>)]
    pub(crate) algorithm: Algorithm,
    /// Size of the blocks, 1M to 16M in steps of 4096 bytes
    #[arg(long, value_name = "SIZE", default_value = "4M", value_parser = parse_block_size)]
    pub(crate) block_size: u64,
    /// How to print it
    #[arg(short, long, value_enum, default_value = "text")]
    pub(crate) output: Output,

    /// Transfer URL, https://HOST:54322/images/TICKET. It is a secret and `ps` shows it for a moment: prefer
    /// the environment or a file [env: RHV_MOUNT_TRANSFER_URL]
    #[arg(
        long,
        value_name = "URL",
        conflicts_with = "transfer_url_file",
        help_heading = "Disk"
    )]
    pub(crate) transfer_url: Option<String>,
    /// File that holds the transfer URL
    #[arg(long, value_name = "PATH", help_heading = "Disk")]
    pub(crate) transfer_url_file: Option<PathBuf>,
    /// An existing disk, by name or id [env: RHV_MOUNT_DISK]
    #[arg(long, value_name = "NAME|UUID", help_heading = "Disk")]
    pub(crate) disk: Option<String>,
    /// A disk snapshot [env: RHV_MOUNT_DISK_SNAPSHOT]
    #[arg(long, value_name = "UUID", help_heading = "Disk")]
    pub(crate) disk_snapshot: Option<String>,

    /// CA certificates to trust for imageio, PEM, where its CA is not the engine's [default: as for the
    /// engine]
    #[arg(long, value_name = "PATH", help_heading = "Connection")]
    pub(crate) imageio_cafile: Option<PathBuf>,
    /// Connect through the engine's proxy instead of directly to the host
    #[arg(long, help_heading = "Connection")]
    pub(crate) proxy: bool,
    /// Connections to imageio, reduced to what the server advises
    #[arg(long, value_name = "N", default_value = "4", help_heading = "Connection",
          value_parser = parse_connections)]
    pub(crate) connections: usize,
    /// Use TCP even when the server is this host
    #[arg(long, help_heading = "Connection")]
    pub(crate) no_unix_socket: bool,
    /// How long to retry when connections are lost or the server is away; 0 gives up at once
    #[arg(long, value_name = "SECONDS", default_value = "300", help_heading = "Connection",
          value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub(crate) retry_time: u32,
    /// Longest silence of the server within an ordinary request; the checksum itself may take that long for
    /// each 60M of the disk
    #[arg(long, value_name = "SECONDS", default_value = "60", help_heading = "Connection",
          value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) timeout: u32,

    /// off, error, warn, info, debug or trace [default: warn]
    #[arg(long, value_name = "LEVEL", help_heading = "Output",
          value_parser = ["off", "error", "warn", "warning", "info", "debug", "trace"])]
    pub(crate) log_level: Option<String>,
    /// Log to a file instead of stderr; a new file is begun when this one is moved away
    #[arg(long, value_name = "PATH", help_heading = "Output")]
    pub(crate) log_file: Option<PathBuf>,
    /// Log to stderr, syslog or journald (with fields) instead of a file
    #[arg(
        long,
        value_enum,
        value_name = "PLACE",
        conflicts_with = "log_file",
        help_heading = "Output",
        hide_possible_values = true
    )]
    pub(crate) log_target: Option<LogTarget>,
    /// Show how the work goes: auto (a bar on a terminal), bar, json (an object a line on stderr) or none
    #[arg(
        long,
        value_enum,
        value_name = "FORM",
        default_value = "auto",
        help_heading = "Output",
        hide_possible_values = true
    )]
    pub(crate) progress: Progress,
    /// Print warnings and errors only, and no bar
    #[arg(long, help_heading = "Output")]
    pub(crate) quiet: bool,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

impl ChecksumArgs {
    pub(crate) fn method(&self) -> Method {
        Method {
            algorithm: self.algorithm,
            block_size: self.block_size,
        }
    }
}

fn parse_block_size(text: &str) -> Result<u64, String> {
    parse_size(text).and_then(Method::check_block_size)
}
