//! The options of `populate`. The docstrings here are the text of `--help`.
//!
//! Eight of them are those of forklift's populator, and may be written as Go's `flag` package reads them
//! (`settings::populator`).

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::groups::RunArgs;

/// The options of `populate`.
#[derive(Debug, Clone, Args)]
pub(crate) struct PopulateArgs {
    /// The file, or the block device, that gets the disk: /mnt/disk.img or /dev/block. What is there is
    /// replaced
    #[arg(long, value_name = "PATH", help_heading = "Volume")]
    pub(crate) volume_path: PathBuf,
    /// Id of the disk, or its name
    #[arg(long, value_name = "UUID", help_heading = "Volume")]
    pub(crate) disk_id: String,
    /// Size of the claim; a larger disk is refused before its first byte
    #[arg(long, value_name = "BYTES", help_heading = "Volume",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) pvc_size: Option<u64>,
    /// Id of the claim, a label of the metric
    #[arg(
        long,
        value_name = "UID",
        default_value = "",
        hide_default_value = true,
        help_heading = "Volume"
    )]
    pub(crate) owner_uid: String,
    /// Name of the secret; it is taken and not used, as the pod has its content in the environment
    #[arg(long, value_name = "NAME", help_heading = "Volume")]
    pub(crate) secret_name: Option<String>,
    /// Name of the populator resource; it is taken and not used
    #[arg(long, value_name = "NAME", help_heading = "Volume")]
    pub(crate) cr_name: Option<String>,
    /// Namespace of the populator resource; it is taken and not used
    #[arg(long, value_name = "NAME", help_heading = "Volume")]
    pub(crate) cr_namespace: Option<String>,
    /// Do not compare the bytes that were written with the disk on its storage [env: RHV_MOUNT_VERIFY=no]
    #[arg(long, help_heading = "Volume")]
    pub(crate) no_verify: bool,
    /// Address and port at which the progress is told over HTTPS [default: port 8443 at every address]
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = "Output")]
    pub(crate) metrics_listen: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}
