//! The options that several commands have: which disk, over which connections, for whom to see, on which
//! engine. The docstrings here are the text of `--help`.

use std::path::PathBuf;

use clap::Args;

use super::forms::{LogTarget, Output, Progress};
use crate::engine::Format;
use crate::settings::values::{parse_connections, parse_size};

/// The options of every run that moves bytes: how, for whom to see, and on which engine.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// The disks of a VM that take part.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ChosenDisksArgs {
    /// Only this disk, by name or id; may be given several times
    #[arg(long, value_name = "DISK")]
    pub(crate) include: Vec<String>,
    /// Without this disk, by name or id; may be given several times
    #[arg(long, value_name = "DISK")]
    pub(crate) exclude: Vec<String>,
}

/// The disk.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct DiskArgs {
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
    /// A disk snapshot, read-only [env: RHV_MOUNT_DISK_SNAPSHOT]
    #[arg(long, value_name = "UUID", help_heading = "Disk")]
    pub(crate) disk_snapshot: Option<String>,
    /// Create a disk with this name, and remove it again when the run fails; needs --size and
    /// --storage-domain [env: RHV_MOUNT_CREATE]
    #[arg(long, value_name = "NAME", help_heading = "Disk")]
    pub(crate) create: Option<String>,
    /// Size of the new disk, for `upload` by default that of the image; for `upload -` how many bytes come
    /// [env: RHV_MOUNT_SIZE]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Disk")]
    pub(crate) size: Option<u64>,
    /// Storage domain of the new disk [env: RHV_MOUNT_STORAGE_DOMAIN]
    #[arg(long, value_name = "NAME", help_heading = "Disk")]
    pub(crate) storage_domain: Option<String>,
    /// Format of the new disk on its storage; the mounted file is always raw [default: raw]
    #[arg(long, value_enum, help_heading = "Disk")]
    pub(crate) format: Option<Format>,
    /// Allocate all space of the new disk at once
    #[arg(long, help_heading = "Disk")]
    pub(crate) preallocated: bool,
    /// Id of the new disk
    #[arg(long, value_name = "UUID", help_heading = "Disk")]
    pub(crate) disk_id: Option<String>,
    /// Keep the new disk even when the run fails
    #[arg(long, help_heading = "Disk")]
    pub(crate) keep_on_failure: bool,
    /// Refuse writes; works with an upload and with a download transfer [env: RHV_MOUNT_READ_ONLY]
    #[arg(long, help_heading = "Disk")]
    pub(crate) read_only: bool,
}

/// The data path.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ConnectionArgs {
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
    /// Memory for read cache, journal and writes under way together, at least 8M; some 64M come on top
    /// [default: 448M, less where a cgroup, ulimit or the machine has less]
    #[arg(long, value_name = "SIZE", help_heading = "Connection", value_parser = parse_size)]
    pub(crate) memory: Option<u64>,
    /// Memory for the read cache [default: 64M, or its share of --memory]
    #[arg(long, value_name = "SIZE", help_heading = "Connection", value_parser = parse_size)]
    pub(crate) cache_size: Option<u64>,
    /// Memory for writes that the server has answered and not flushed yet; they are written again when a
    /// connection is lost [default: 256M, or its share of --memory]
    #[arg(long, value_name = "SIZE", help_heading = "Connection", value_parser = parse_size)]
    pub(crate) journal_size: Option<u64>,
    /// How long to retry when connections are lost or the server is away; 0 gives up at once
    #[arg(long, value_name = "SECONDS", default_value = "300", help_heading = "Connection",
          value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub(crate) retry_time: u32,
    /// Longest silence of the server within a request; after it the connection counts as lost
    #[arg(long, value_name = "SECONDS", default_value = "60", help_heading = "Connection",
          value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) timeout: u32,
    /// Send zeros as data instead of zeroing the range
    #[arg(long, help_heading = "Connection")]
    pub(crate) no_zero_detect: bool,
}

/// The options for what is told, and where.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct OutputArgs {
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
    /// Print what each connection did at the end; --stats=json for programs. SIGUSR1 logs it at any time
    #[arg(long, value_enum, value_name = "FORM", num_args = 0..=1, require_equals = true,
          default_missing_value = "text", hide_possible_values = true, help_heading = "Output")]
    pub(crate) stats: Option<Output>,
    /// File that gets figures in Prometheus' text format, every 15 s and at the end
    #[arg(long, value_name = "PATH", help_heading = "Output")]
    pub(crate) metrics_file: Option<PathBuf>,

    /// Show how the work goes: auto (a bar where a COMMAND runs on a terminal), bar, json (an object a line
    /// on stderr) or none
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
}

/// The engine and the user, with the option names of `ovirt-img`.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct EngineArgs {
    /// The engine, https://ENGINE[/ovirt-engine/api] [env: OVIRT_URL]
    #[arg(long, value_name = "URL", help_heading = "Engine")]
    pub(crate) engine_url: Option<String>,
    /// User name with its domain, as in admin@internal [env: OVIRT_USERNAME]
    #[arg(long, value_name = "NAME", help_heading = "Engine")]
    pub(crate) username: Option<String>,
    /// File that holds the password, readable by you alone [env: OVIRT_PASSWORD, the password itself]
    #[arg(long, value_name = "PATH", help_heading = "Engine")]
    pub(crate) password_file: Option<PathBuf>,
    /// CA certificates to trust, PEM [env: OVIRT_CAFILE] [default: those of the system]
    #[arg(long, value_name = "PATH", help_heading = "Engine")]
    pub(crate) cafile: Option<PathBuf>,
    /// Do not verify certificates [env: OVIRT_INSECURE]
    #[arg(long, help_heading = "Engine")]
    pub(crate) insecure: bool,
    /// Section of ovirt-img.conf: the engine, the login and the disk, where no option gives them
    #[arg(short, long, value_name = "SECTION", help_heading = "Engine")]
    pub(crate) config: Option<String>,
    /// The file with that section [default: ~/.config/ovirt-img.conf, then /etc/ovirt-img.conf]
    #[arg(long, value_name = "PATH", help_heading = "Engine")]
    pub(crate) config_file: Option<PathBuf>,
}
