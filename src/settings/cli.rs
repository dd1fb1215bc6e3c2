//! The command line, a contract with scripts outside the project. The docstrings here are the text of
//! `--help`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use super::mount_options;
use super::values::{parse_connections, parse_mode, parse_size};
use crate::engine::Format;
use crate::failure::{Exit, Failure};
use crate::secret::hide;

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
#[derive(Debug, Parser)]
#[command(
    name = "rhv-mount",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    subcommand_precedence_over_arg = true,
    after_help = "Exit status: 0 done, 1 other, 2 usage, 3 login refused, 4 engine or transfer failed, 5 \
                  cannot connect, 6 mount failed, 7 data may be lost, else COMMAND's own."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    mount: Option<MountArgs>,
    #[command(flatten)]
    engine: EngineArgs,
    /// Takes the settings from an inherited file descriptor
    #[arg(long, hide = true, value_name = "FD", exclusive = false)]
    settings_fd: Option<i32>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Unmount, wait until the remote disk has everything, and exit with the outcome
    #[command(visible_alias = "unmount")]
    Umount {
        /// Path where the disk is mounted
        mountpoint: PathBuf,
    },
    /// Tell what is mounted here
    Status {
        /// Only this mount
        mountpoint: Option<PathBuf>,
        /// How to print it
        #[arg(short, long, value_enum, default_value = "text")]
        output: Output,
    },
    /// End a transfer that a killed rhv-mount left behind
    Recover(RecoverArgs),
    /// List what the engine has, with the ids that the other commands take
    List(ListArgs),
    /// Print the engine's CA certificate and its fingerprint, to be checked and saved
    Ca {
        /// https://ENGINE
        engine_url: String,
    },
}

/// The format in which facts are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Lines for people.
    Text,
    /// JSON for programs.
    Json,
}

/// The options of a mount.
#[derive(Debug, Args)]
pub(crate) struct MountArgs {
    /// Directory, file, or new path
    pub(crate) mountpoint: PathBuf,

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
    /// Refuse writes; works with an upload and with a download transfer
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
    pub(crate) file_name: String,
    /// Mount over a directory that is not empty
    #[arg(long, hide = true)]
    pub(crate) nonempty: bool,
    /// Pass a mount flag to the kernel
    #[arg(long, hide = true)]
    pub(crate) kernel_option: Vec<String>,
    /// Stay in the foreground
    #[arg(short, long, help_heading = "Mount")]
    pub(crate) foreground: bool,
    /// Options as mount(8) writes them, separated by commas: ro, allow_other, uid=N, noatime, or any long
    /// option without its dashes
    #[arg(short = 'o', value_name = "OPTIONS", help_heading = "Mount")]
    pub(crate) _mount_options: Vec<String>,

    /// off, error, warn, info, debug or trace [default: warn]
    #[arg(long, value_name = "LEVEL", help_heading = "Output",
          value_parser = ["off", "error", "warn", "warning", "info", "debug", "trace"])]
    pub(crate) log_level: Option<String>,
    /// Log to a file instead of stderr
    #[arg(long, value_name = "PATH", help_heading = "Output")]
    pub(crate) log_file: Option<PathBuf>,
    /// Print what each connection did at the end
    #[arg(long, help_heading = "Output")]
    pub(crate) stats: bool,

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
    /// Section of ~/.config/ovirt-img.conf with values for the options that are not given
    #[arg(short, long, value_name = "SECTION", help_heading = "Engine")]
    pub(crate) config: Option<String>,
}

/// The options of `recover`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RecoverArgs {
    /// Only this mount
    pub(crate) mountpoint: Option<PathBuf>,
    /// Finalize: keep the data that arrived; never removes a disk [default]
    #[arg(long, conflicts_with = "cancel")]
    pub(crate) finalize: bool,
    /// Discard the data that arrived and remove the disk that was made for it; refused for a disk that
    /// existed before
    #[arg(long)]
    pub(crate) cancel: bool,
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

/// The action that the user asked for.
#[derive(Debug)]
pub(crate) enum Action {
    /// Mount a disk.
    Mount(Box<MountArgs>),
    /// Continue with the settings in this file descriptor.
    Continue(i32),
    /// End a mount.
    Umount(PathBuf),
    /// Show one mount or all.
    Status(Option<PathBuf>, Output),
    /// End the transfers that killed mounts left behind.
    Recover(Box<RecoverArgs>),
    /// List what the engine has.
    List(Box<ListArgs>),
    /// Print the CA of this engine.
    Ca(String),
    /// Print this to stdout: help or version.
    Print(String),
}

impl Action {
    /// Reads the command line, the program's name first.
    pub(crate) fn parse(args: Vec<OsString>) -> Result<Action, Failure> {
        hide_tickets(&args);
        let cli = match Cli::try_parse_from(expand_mount_options(args)?) {
            Ok(cli) => cli,
            Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
                return Ok(Action::Print(e.render().to_string()));
            }
            Err(e) => return Err(usage(one_line(&e.render().to_string()))),
        };
        Ok(match (cli.command, cli.settings_fd, cli.mount) {
            (Some(Command::Umount { mountpoint }), _, _) => Action::Umount(mountpoint),
            (Some(Command::Status { mountpoint, output }), _, _) => Action::Status(mountpoint, output),
            (Some(Command::Recover(args)), _, _) => Action::Recover(Box::new(args)),
            (Some(Command::List(args)), _, _) => Action::List(Box::new(args)),
            (Some(Command::Ca { engine_url }), _, _) => Action::Ca(engine_url),
            (None, Some(fd), _) => Action::Continue(fd),
            // In `-fo ro` clap has taken the list, and nobody would read it.
            (None, None, Some(mount)) if !mount._mount_options.is_empty() => {
                return Err(usage("-o stands for itself: not -fo ro, but -f -o ro"));
            }
            (None, None, Some(mount)) => Action::Mount(Box::new(MountArgs {
                engine: cli.engine,
                ..mount
            })),
            (None, None, None) => return Err(usage("no MOUNTPOINT; see rhv-mount --help")),
        })
    }
}

fn usage(text: impl std::fmt::Display) -> Failure {
    Failure::text(Exit::Usage, text)
}

/// Returns the first paragraph of clap's message, which says what is wrong, as one line.
fn one_line(message: &str) -> String {
    let first = message.split("\n\n").next().unwrap_or(message);
    let line = first.split_whitespace().collect::<Vec<_>>().join(" ");
    format!("{}; see rhv-mount --help", line.trim_start_matches("error: "))
}

/// Keeps a transfer URL that stands in the wrong place out of error messages.
fn hide_tickets(args: &[OsString]) {
    for arg in args {
        if let Some((_, ticket)) = arg.to_string_lossy().split_once("/images/") {
            hide(ticket.trim_matches('/'));
        }
    }
}

/// Turns `-o ro,uid=3` into `--read-only --uid=3` before clap sees it.
pub(crate) fn expand_mount_options(args: Vec<OsString>) -> Result<Vec<OsString>, Failure> {
    mount_options::expand(args, &Cli::command())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::settings) fn parse(line: &str) -> Result<Action, Failure> {
        Action::parse(line.split_whitespace().map(OsString::from).collect())
    }

    pub(in crate::settings) fn mount(line: &str) -> MountArgs {
        match parse(line) {
            Ok(Action::Mount(args)) => *args,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_command_keeps_its_own_options() {
        let args = mount("rhv-mount --read-only /mnt -- cat -o ro {}");
        assert_eq!(args.command, ["cat", "-o", "ro", "{}"]);
    }

    #[test]
    fn subcommands_are_told_from_mountpoints() {
        assert!(matches!(
            parse("rhv-mount status -o json"),
            Ok(Action::Status(None, Output::Json))
        ));
        assert!(matches!(parse("rhv-mount umount /mnt"), Ok(Action::Umount(_))));
        assert_eq!(mount("rhv-mount ./status").mountpoint, PathBuf::from("./status"));
    }

    #[test]
    fn a_list_has_a_name_an_output_and_an_engine() {
        let Ok(Action::List(args)) = parse("rhv-mount list vms web* -o json -c prod") else {
            panic!("no list");
        };
        assert_eq!((args.what, args.output), (Listed::Vms, Output::Json));
        assert_eq!(
            (args.name.as_deref(), args.engine.config.as_deref()),
            (Some("web*"), Some("prod"))
        );
        let failure = parse("rhv-mount list hosts").unwrap_err();
        assert!(failure.to_string().contains("snapshots"), "{failure}");
        assert!(parse("rhv-mount list").is_err());
    }

    #[test]
    fn errors_are_one_line_and_quote_no_ticket() {
        for line in [
            "rhv-mount /mnt --connections 0",
            "rhv-mount /mnt --connections 1000000",
            "rhv-mount /mnt --connections 99999999999999999999999",
            "rhv-mount /mnt --cache-size big",
            "rhv-mount",
            "rhv-mount /mnt https://h/images/very-secret",
            "rhv-mount /mnt --transfer-url",
            "rhv-mount /mnt --transfer-url x --transfer-url-file y",
        ] {
            let failure = parse(line).unwrap_err();
            let text = failure.to_string();
            assert_eq!(failure.exit, Exit::Usage);
            assert!(
                !text.contains('\n') && !text.contains("very-secret"),
                "{line}: {text}"
            );
        }
    }
}
