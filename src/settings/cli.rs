//! The command line. Scripts outside the project rely on it: see `rhv-mount --help`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::engine::Format;
use crate::failure::{Exit, Failure};
use crate::secret::hide;

/// More connections than this help nobody; servers advise 8.
const MAX_CONNECTIONS: i64 = 64;

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
    after_help = "Exit status: 0 done, 1 other, 2 usage, 3 login refused, 4 engine or transfer failed, 5 cannot connect, 6 mount failed, \
                  7 data may be lost, else COMMAND's own."
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
        /// Where the disk is mounted
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
    /// Print the engine's CA certificate and its fingerprint, to be checked and saved
    Ca {
        /// https://ENGINE
        engine_url: String,
    },
}

/// How facts are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Everything about a mount.
#[derive(Debug, Args)]
#[allow(missing_docs)]
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
    /// A disk to be made, removed again when the run fails; needs --size and --storage-domain
    /// [env: RHV_MOUNT_CREATE]
    #[arg(long, value_name = "NAME", help_heading = "Disk")]
    pub(crate) create: Option<String>,
    /// Size of the new disk [env: RHV_MOUNT_SIZE]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Disk")]
    pub(crate) size: Option<u64>,
    /// Where to make it [env: RHV_MOUNT_STORAGE_DOMAIN]
    #[arg(long, value_name = "NAME", help_heading = "Disk")]
    pub(crate) storage_domain: Option<String>,
    /// Format of the new disk on its storage; the file is raw in any case [default: raw]
    #[arg(long, value_enum, help_heading = "Disk")]
    pub(crate) format: Option<Format>,
    /// Give the new disk all its space at once
    #[arg(long, help_heading = "Disk")]
    pub(crate) preallocated: bool,
    /// Id of the new disk
    #[arg(long, value_name = "UUID", help_heading = "Disk")]
    pub(crate) disk_id: Option<String>,
    /// Keep the new disk also when the run fails
    #[arg(long, help_heading = "Disk")]
    pub(crate) keep_on_failure: bool,
    /// Do not write; works with an upload and with a download transfer
    #[arg(long, help_heading = "Disk")]
    pub(crate) read_only: bool,

    /// Parsed beside the mount's own options: an optional group can't hold another one.
    #[arg(skip)]
    pub(crate) engine: EngineArgs,
    /// CA certificates to trust where imageio's CA is not the engine's, PEM [default: as for the engine]
    #[arg(long, value_name = "PATH", help_heading = "Connection")]
    pub(crate) imageio_cafile: Option<PathBuf>,
    /// Go through the engine's proxy, not straight to the host
    #[arg(long, help_heading = "Connection")]
    pub(crate) proxy: bool,
    /// Connections to imageio, cut to what the server advises
    #[arg(long, value_name = "N", default_value = "4", help_heading = "Connection",
          value_parser = parse_connections)]
    pub(crate) connections: usize,
    /// Stay with TCP, also when the server is this host
    #[arg(long, help_heading = "Connection")]
    pub(crate) no_unix_socket: bool,
    /// Memory for the read cache
    #[arg(long, value_name = "SIZE", default_value = "64M", help_heading = "Connection",
          value_parser = parse_size)]
    pub(crate) cache_size: u64,
    /// Memory for what the server has answered and not flushed: it is written again when a connection is lost
    #[arg(long, value_name = "SIZE", default_value = "256M", help_heading = "Connection",
          value_parser = parse_size)]
    pub(crate) journal_size: u64,
    /// How long to try again when connections are lost or the server is away; 0 gives up at once
    #[arg(long, value_name = "SECONDS", default_value = "300", help_heading = "Connection",
          value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub(crate) retry_time: u32,
    /// Longest silence of the server in a request; then its connection counts as lost
    #[arg(long, value_name = "SECONDS", default_value = "60", help_heading = "Connection",
          value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) timeout: u32,
    /// Send zeros in writes as they are, instead of zeroing the range
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
    /// A flag for the kernel
    #[arg(long, hide = true)]
    pub(crate) kernel_option: Vec<String>,
    /// Stay in the foreground
    #[arg(short, long, help_heading = "Mount")]
    pub(crate) foreground: bool,
    /// Options as mount(8) writes them, separated by commas: ro, allow_other, uid=N, noatime, or any long
    /// option of ours without its dashes
    #[arg(short = 'o', value_name = "OPTIONS", help_heading = "Mount")]
    pub(crate) _mount_options: Vec<String>,

    /// off, error, warn, info, debug or trace [default: warn]
    #[arg(long, value_name = "LEVEL", help_heading = "Output",
          value_parser = ["off", "error", "warn", "warning", "info", "debug", "trace"])]
    pub(crate) log_level: Option<String>,
    /// Log to a file instead of stderr
    #[arg(long, value_name = "PATH", help_heading = "Output")]
    pub(crate) log_file: Option<PathBuf>,
    /// At the end, print what each connection did
    #[arg(long, help_heading = "Output")]
    pub(crate) stats: bool,

    /// What to run on the file
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// Where the engine is and who we are, as `ovirt-img` names it.
#[derive(Debug, Clone, Default, Args)]
#[allow(missing_docs)]
pub(crate) struct EngineArgs {
    /// The engine, https://ENGINE[/ovirt-engine/api] [env: OVIRT_URL]
    #[arg(long, value_name = "URL", help_heading = "Engine")]
    pub(crate) engine_url: Option<String>,
    /// With its domain, as in admin@internal [env: OVIRT_USERNAME]
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
    /// Section of ~/.config/ovirt-img.conf that has what is not given here
    #[arg(short, long, value_name = "SECTION", help_heading = "Engine")]
    pub(crate) config: Option<String>,
}

/// What `recover` is asked to do.
#[derive(Debug, Clone, Args)]
#[allow(missing_docs)]
pub(crate) struct RecoverArgs {
    /// Only this mount
    pub(crate) mountpoint: Option<PathBuf>,
    /// Make what arrived final; no disk is ever removed by it [default]
    #[arg(long, conflicts_with = "cancel")]
    pub(crate) finalize: bool,
    /// Throw away what arrived, with a disk that was made for it; a disk that was there before is refused
    #[arg(long)]
    pub(crate) cancel: bool,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// What the user asked for.
#[derive(Debug)]
pub(crate) enum Action {
    /// Mount a disk.
    Mount(Box<MountArgs>),
    /// Go on with the settings in this file descriptor.
    Continue(i32),
    /// End a mount.
    Umount(PathBuf),
    /// Show one mount or all.
    Status(Option<PathBuf>, Output),
    /// End the transfers that killed mounts left.
    Recover(Box<RecoverArgs>),
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
            (Some(Command::Ca { engine_url }), _, _) => Action::Ca(engine_url),
            (None, Some(fd), _) => Action::Continue(fd),
            // As in -fo ro: clap has taken the list, which nobody reads there.
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

/// The first paragraph of clap's message is the message.
fn one_line(message: &str) -> String {
    let first = message.split("\n\n").next().unwrap_or(message);
    let line = first.split_whitespace().collect::<Vec<_>>().join(" ");
    format!("{}; see rhv-mount --help", line.trim_start_matches("error: "))
}

/// A transfer URL in the wrong place must not end up in an error message.
fn hide_tickets(args: &[OsString]) {
    for arg in args {
        if let Some((_, ticket)) = arg.to_string_lossy().split_once("/images/") {
            hide(ticket.trim_matches('/'));
        }
    }
}

/// Options of mount(8) and fstab that mean nothing to a FUSE mount.
const IGNORED: [&str; 17] = [
    "defaults",
    "rw",
    "auto",
    "noauto",
    "user",
    "users",
    "nouser",
    "_netdev",
    "nofail",
    "nosuid",
    "nodev",
    "async",
    "relatime",
    "nouser_xattr",
    "exec",
    "suid",
    "dev",
];

/// Turns `-o ro,uid=3` into `--read-only --uid=3` before clap sees it.
pub(crate) fn expand_mount_options(args: Vec<OsString>) -> Result<Vec<OsString>, Failure> {
    // `status -o json` is another -o.
    let is_command = |arg: &OsStr| {
        ["umount", "unmount", "status", "recover", "ca", "help"]
            .iter()
            .any(|c| arg == *c)
    };
    if args.get(1).is_some_and(|arg| is_command(arg)) {
        return Ok(args);
    }
    let mut out = Vec::with_capacity(args.len());
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy();
        let list = match text.strip_prefix("-o") {
            _ if arg == "--" => {
                out.push(arg);
                out.extend(args);
                break;
            }
            Some("") => args.next().ok_or_else(|| usage("-o takes a list of options"))?,
            // A program's arguments are bytes.
            Some(_) => OsStr::from_bytes(&arg.as_bytes()["-o".len()..]).to_owned(),
            None => {
                out.push(arg);
                continue;
            }
        };
        let list = list
            .to_str()
            .ok_or_else(|| usage(format!("-o {}: it is not valid UTF-8", list.to_string_lossy())))?;
        for option in list.split(',').filter(|o| !o.is_empty()) {
            out.extend(mount_option(option)?);
        }
    }
    Ok(out)
}

fn mount_option(option: &str) -> Result<Option<OsString>, Failure> {
    let (name, value) = option
        .split_once('=')
        .map_or((option, None), |(n, v)| (n, Some(v)));
    let name = name.replace('_', "-");
    if IGNORED.contains(&option) || name.starts_with("x-") || name == "comment" {
        return Ok(None);
    }
    let flags = [
        "allow-other",
        "nonempty",
        "insecure",
        "no-unix-socket",
        "no-zero-detect",
        "foreground",
        "stats",
        "preallocated",
        "keep-on-failure",
        "proxy",
    ];
    let values = [
        "uid",
        "gid",
        "mode",
        "file-name",
        "connections",
        "cache-size",
        "journal-size",
        "retry-time",
        "timeout",
        "cafile",
        "imageio-cafile",
        "engine-url",
        "username",
        "password-file",
        "config",
        "disk",
        "disk-snapshot",
        "create",
        "size",
        "storage-domain",
        "format",
        "disk-id",
        "transfer-url-file",
        "log-level",
        "log-file",
    ];
    let long = match (name.as_str(), value) {
        ("ro" | "read-only", None) => "--read-only".to_owned(),
        ("noatime" | "noexec", None) => format!("--kernel-option={name}"),
        // The kernel checks permissions whenever others may come in.
        ("default-permissions", None) => return Ok(None),
        (flag, None) if flags.contains(&flag) => format!("--{flag}"),
        (key, Some(value)) if values.contains(&key) => format!("--{key}={value}"),
        _ => {
            return Err(usage(format!(
                "-o {option}: unknown option; see rhv-mount --help"
            )));
        }
    };
    Ok(Some(long.into()))
}

pub(crate) fn parse_connections(text: &str) -> Result<usize, String> {
    match text.parse::<i64>() {
        Ok(n) if (1..=MAX_CONNECTIONS).contains(&n) => Ok(n as usize),
        _ => Err(format!("it takes a number from 1 to {MAX_CONNECTIONS}")),
    }
}

pub(crate) fn parse_mode(text: &str) -> Result<u16, String> {
    let mode = u16::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "it takes an octal number up to 777".to_owned())
}

/// `4096`, `64k`, `32M`, `1.5G`, `2TiB`: powers of 1024, as qemu-img reads them.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let refuse = || "it takes a size like 4096, 64k, 32M, 1.5G or 2T".to_owned();
    let digits = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(refuse()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift).ok_or_else(refuse);
    }
    let value = number.parse::<f64>().map_err(|_| refuse())? * (1u64 << shift) as f64;
    if value.is_finite() && (0.0..9e18).contains(&value) {
        Ok(value as u64)
    } else {
        Err(refuse())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Action, Failure> {
        Action::parse(line.split_whitespace().map(OsString::from).collect())
    }

    fn mount(line: &str) -> MountArgs {
        match parse(line) {
            Ok(Action::Mount(args)) => *args,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn options_of_mount_and_fstab_become_ours() {
        let args = mount("rhv-mount /mnt -o ro,_netdev,x-systemd.automount,uid=7 -oallow_other,noatime");
        assert!(args.read_only && args.allow_other);
        assert_eq!(
            (args.uid, args.kernel_option),
            (Some(7), vec!["noatime".to_owned()])
        );
        let error = parse("rhv-mount /mnt -o frobnicate").unwrap_err();
        assert!(error.to_string().contains("frobnicate"));
    }

    #[test]
    fn no_list_of_options_is_dropped_or_changed() {
        for line in [
            "rhv-mount -fo ro /mnt",
            "rhv-mount -foro /mnt",
            "rhv-mount /mnt -fo ro",
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains("-f -o ro"), "{line}: {error}");
        }
        for list in [&b"-ocafile=/ca\xff"[..], b"-olog_file=\xff,ro"] {
            let args = [
                "rhv-mount".into(),
                "/mnt".into(),
                OsStr::from_bytes(list).to_owned(),
            ];
            let error = Action::parse(args.into()).unwrap_err().to_string();
            assert!(error.contains("UTF-8"), "{error}");
        }
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

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, size) in [
            ("4096", 4096),
            ("64k", 65536),
            ("1.5G", 3 << 29),
            ("2TiB", 2 << 40),
            ("1MB", 1 << 20),
        ] {
            assert_eq!(parse_size(text), Ok(size));
        }
        for bad in ["", "k", "-1", "1x", "99999999T", "nan", "5ib", "1kbb", "1GiBiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
