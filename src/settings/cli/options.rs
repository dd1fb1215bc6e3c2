//! The options and subcommands. The docstrings here are the text of `--help`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::checksum::ChecksumArgs;
use super::forms::{LogTarget, Output, Progress};
use crate::engine::Format;
use crate::settings::values::{parse_connections, parse_mode, parse_size};

/// Mount an RHV/oVirt disk as one local file
///
/// MOUNTPOINT is an existing directory (the disk is MOUNTPOINT/disk), an existing regular file (the disk
/// covers it), or a path that does not exist (a file is made there, and removed again at unmount).
///
/// Without COMMAND and without --foreground, rhv-mount returns when the file is usable and goes on in
/// the background; end it with `rhv-mount umount MOUNTPOINT`, which tells whether all data arrived.
///
/// With COMMAND, every {} in its arguments becomes the file's path, which is also in
/// $RHV_MOUNT_FILE; when COMMAND ends, the disk is flushed and unmounted, and the exit status
/// is COMMAND's, or ours when COMMAND succeeded and the data did not arrive.
///
/// Options stand before or after the name of a subcommand. A MOUNTPOINT that is named like a subcommand, or
/// nearly so, is written with a slash, as in ./status.
#[derive(Debug, Parser)]
#[command(
    name = "rhv-mount",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    subcommand_precedence_over_arg = true,
    subcommand_value_name = "SUBCOMMAND",
    subcommand_help_heading = "Subcommands",
    override_usage = "rhv-mount [OPTIONS] [SOURCE] MOUNTPOINT [-- COMMAND [ARG...]]\n       \
                      rhv-mount [OPTIONS] <SUBCOMMAND>"
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten)]
    pub(super) mount: Option<MountArgs>,
    #[command(flatten)]
    pub(super) engine: EngineArgs,
    /// Takes the settings from an inherited file descriptor
    #[arg(long, hide = true, value_name = "FD", exclusive = false)]
    pub(super) settings_fd: Option<i32>,
}

/// The subcommands. Those that ask no engine take its options all the same and do nothing with them, so that
/// `rhv-mount -c prod` can be an alias; see [`super::WITHOUT_ENGINE`].
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Unmount, wait until all data is on the storage, exit with the outcome
    ///
    /// The disk is flushed and its transfer finalized. Where a program has the file open, nothing is
    /// unmounted and the program is named. The outcome of a mount that has ended already, by a plain umount
    /// or because its process was killed, is told too.
    #[command(visible_alias = "unmount")]
    Umount {
        /// Path where the disk is mounted
        mountpoint: PathBuf,
        #[command(flatten)]
        _engine: EngineArgs,
    },
    /// Tell what is mounted here, and what killed or failed runs have left behind
    ///
    /// For each mount: disk, transfer, host, phase, connections, bytes and errors. It also lists mounts whose
    /// process is gone, those that ended badly without anybody having heard of it, and the transfers that are
    /// left, each with the command that ends it. Root sees the mounts of all users.
    Status(StatusArgs),
    /// End what killed or failed runs of rhv-mount have left behind
    ///
    /// A mount keeps a note of its transfer until that has ended. This logs in to the engine of each note,
    /// ends the transfer, so that the disk is free again, and tells what became of it. A mount that lives is
    /// left alone.
    Recover(RecoverArgs),
    /// List what the engine has, with the ids that the other commands take
    List(ListArgs),
    /// Print the block hash of an image or a disk, as imageio computes it
    ///
    /// Two disks with the same checksum hold the same bytes, whatever their formats and holes are. That of a
    /// local image (raw, qcow2 with its backing chain, vmdk) is computed here. That of a disk, disk snapshot
    /// or transfer is computed by its server, with no byte on the network; where the server has none, the
    /// disk is read.
    Checksum(Box<ChecksumArgs>),
    /// Print the engine's CA certificate and its fingerprint, to be checked and saved
    ///
    /// The certificate goes to stdout, the fingerprints to stderr. It is fetched without verification:
    /// compare a fingerprint with the engine's own before you trust the file.
    Ca {
        /// https://ENGINE
        #[arg(value_name = "ENGINE_URL")]
        url: String,
        #[command(flatten)]
        _engine: EngineArgs,
    },
}

/// The options of a mount.
#[derive(Debug, Default, Args)]
pub(crate) struct MountArgs {
    /// Directory, file, or new path; SOURCE before it is the disk's name or id, or `none`, as mount(8) writes
    #[arg(value_name = "MOUNTPOINT", required = true, num_args = 1..)]
    pub(crate) places: Vec<OsString>,
    /// Filled in after parsing, from `places`.
    #[arg(skip)]
    pub(crate) mountpoint: PathBuf,
    /// Filled in after parsing, from `places`.
    #[arg(skip)]
    pub(crate) source: Option<String>,
    /// mount(8) has called this program as its helper, and reads the exit code.
    #[arg(skip)]
    pub(crate) for_mount8: bool,

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
    /// Size of the new disk [env: RHV_MOUNT_SIZE]
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

    /// Filled in after parsing: clap's optional group can't hold another group.
    #[arg(skip)]
    pub(crate) engine: EngineArgs,
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

    /// Let other users use the mount
    #[arg(long, help_heading = "Mount")]
    pub(crate) allow_other: bool,
    /// Owner of the file [default: you]
    #[arg(long, help_heading = "Mount")]
    pub(crate) uid: Option<u32>,
    /// Group of the file [default: yours]
    #[arg(long, help_heading = "Mount")]
    pub(crate) gid: Option<u32>,
    /// Permissions of the file, octal [default: 600, 400 with --read-only]
    #[arg(long, value_parser = parse_mode, help_heading = "Mount")]
    pub(crate) mode: Option<u16>,
    /// Name of the file when MOUNTPOINT is a directory
    #[arg(long, value_name = "NAME", default_value = "disk", help_heading = "Mount")]
    pub(crate) file_name: OsString,
    /// Remove a dead mount of rhv-mount that is in the way: one whose process was killed
    #[arg(long, help_heading = "Mount")]
    pub(crate) remount: bool,
    /// Mount over a directory that is not empty
    #[arg(long, hide = true)]
    pub(crate) nonempty: bool,
    /// Pass a mount flag to the kernel
    #[arg(long, hide = true)]
    pub(crate) kernel_option: Vec<String>,
    /// Source of the mount, as df and findmnt show it [default: SOURCE]
    #[arg(long, hide = true)]
    pub(crate) fsname: Option<String>,
    /// Permissions that neither the file nor the directory has, octal
    #[arg(long, hide = true, value_parser = parse_mode)]
    pub(crate) umask: Option<u16>,
    /// Permissions that the file does not have, octal [default: --umask]
    #[arg(long, hide = true, value_parser = parse_mode)]
    pub(crate) fmask: Option<u16>,
    /// Permissions that the directory does not have, octal [default: --umask]
    #[arg(long, hide = true, value_parser = parse_mode)]
    pub(crate) dmask: Option<u16>,
    /// Stay in the foreground
    #[arg(short, long, help_heading = "Mount")]
    pub(crate) foreground: bool,
    /// File that gets the number of the process that serves, from ready to the end
    #[arg(long, value_name = "PATH", help_heading = "Mount")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Options as mount(8) writes them, separated by commas: ro, allow_other, uid=N, noatime, or any long
    /// option without its dashes
    #[arg(short = 'o', value_name = "OPTIONS", help_heading = "Mount")]
    pub(crate) _mount_options: Vec<String>,

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

    /// When COMMAND has succeeded, compare the disk on its storage with IMAGE, by their block hashes; without
    /// IMAGE, the server's hash with that of what is read back. A difference is exit status 7
    #[arg(long, value_name = "IMAGE", num_args = 0..=1, require_equals = true, default_missing_value = "",
          help_heading = "Disk")]
    pub(crate) verify: Option<PathBuf>,

    /// Command to run on the file
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
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
    /// Section of ovirt-img.conf with values for the options that are not given
    #[arg(short, long, value_name = "SECTION", help_heading = "Engine")]
    pub(crate) config: Option<String>,
    /// The file with that section [default: ~/.config/ovirt-img.conf, then /etc/ovirt-img.conf]
    #[arg(long, value_name = "PATH", help_heading = "Engine")]
    pub(crate) config_file: Option<PathBuf>,
}

/// The options of `status`.
#[derive(Debug, Clone, Args)]
pub(crate) struct StatusArgs {
    /// Only this mount
    pub(crate) mountpoint: Option<PathBuf>,
    /// How to print it
    #[arg(short, long, value_enum, default_value = "text")]
    pub(crate) output: Output,
    /// Tell it again every second, until no such mount is left or ctrl-C; JSON is one object a line
    #[arg(long)]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) _engine: EngineArgs,
}

/// The options of `recover`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RecoverArgs {
    /// Only what is left of this mount, or this transfer
    #[arg(value_name = "MOUNTPOINT|TRANSFER")]
    pub(crate) which: Option<PathBuf>,
    /// Finalize: keep the data that arrived [default]
    #[arg(long, conflicts_with_all = ["cancel", "forget"])]
    pub(crate) finalize: bool,
    /// Discard the data that arrived and remove the disk that was made for it; refused for a disk that
    /// existed before
    #[arg(long, conflicts_with = "forget")]
    pub(crate) cancel: bool,
    /// End nothing, and drop the note of it: for an engine that is gone for good
    #[arg(long)]
    pub(crate) forget: bool,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// The options of `list`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ListArgs {
    /// The kind of objects
    #[arg(value_enum)]
    pub(crate) what: Listed,
    /// Only what has this name or id, or a name that fits a pattern like 'web*'; snapshots by the name of
    /// their disk or VM
    pub(crate) name: Option<String>,
    /// How to print it
    #[arg(short, long, value_enum, default_value = "text")]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// The objects that `list` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Listed {
    /// Disks, for --disk
    #[value(alias = "disk")]
    Disks,
    /// Disk snapshots, for --disk-snapshot
    #[value(alias = "snapshot")]
    Snapshots,
    /// Storage domains, for --storage-domain
    #[value(alias = "domain")]
    Domains,
    /// VMs, with their disks and snapshots where one is named
    #[value(alias = "vm")]
    Vms,
}
