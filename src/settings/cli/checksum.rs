//! The options of `checksum`. The docstrings here are the text of `--help`.

use std::path::PathBuf;

use clap::Args;

use super::forms::{ImageFormat, Output};
use super::groups::{DiskArgs, RunArgs};
use crate::block_hash::{Algorithm, Method};
use crate::settings::values::parse_size;

/// The options of `checksum`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ChecksumArgs {
    /// A local image: a file or a block device
    #[arg(conflicts_with_all = ["transfer_url", "transfer_url_file", "disk", "disk_snapshot"])]
    pub(crate) image: Option<PathBuf>,
    /// Format of the image [default: found out from its first bytes]
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        requires = "image",
        help_heading = "Image",
        hide_possible_values = true
    )]
    pub(crate) image_format: Option<ImageFormat>,
    /// Hash function: blake2b, blake2s, md5, sha1, sha224, sha256, sha384, sha512, sha3_224, sha3_256,
    /// sha3_384 or sha3_512
    #[arg(long, value_name = "NAME", default_value = "blake2b", value_parser = str::parse::<Algorithm>)]
    pub(crate) algorithm: Algorithm,
    /// Size of the blocks, 1M to 16M in steps of 4096 bytes
    #[arg(long, value_name = "SIZE", default_value = "4M", value_parser = parse_block_size)]
    pub(crate) block_size: u64,
    /// How to print it
    #[arg(short = 'o', long = "output", value_enum, default_value = "text")]
    pub(crate) form: Output,
    #[command(flatten)]
    pub(crate) disk: DiskArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
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
