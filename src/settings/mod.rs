//! The settings of one run: command line, configuration file and environment, checked and typed.
//!
//! They travel from the process that read the command line to the one that serves the mount (see
//! `process::handover`), and are serialised for that; the second process takes no setting from its
//! environment.

pub(crate) mod account;
pub(crate) mod backup;
pub(crate) mod checksum;
mod choice;
pub(crate) mod cli;
pub(crate) mod config_file;
mod config_path;
pub(crate) mod copy;
mod expected;
pub(crate) mod memory;
pub(crate) mod mount_helper;
mod mount_options;
pub(crate) mod outcome;
pub(crate) mod populator;
mod source;
pub(crate) mod values;
mod verify;
pub(crate) mod vm;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use self::account::{LoginPlaces, trust, variable};
use self::backup::BackupSettings;
use self::checksum::ChecksumSettings;
use self::choice::Choice;
use self::cli::{ConnectionArgs, LogTarget, MountArgs, Output, OutputArgs, Progress};
use self::config_file::{Section, yes_or_no};
use self::copy::CopySettings;
use self::memory::{Budgets, MIN_MEMORY_BYTES, Said};
pub(crate) use self::verify::Verify;
pub(crate) use self::vm::{Shown, VmSource};
use crate::engine::{Account, NewDisk};
use crate::failure::{Exit, Failure};
use crate::imageio::TransferUrl;
use crate::logging::Place;
use crate::output::tell;
use crate::process::handover::Errand;
use crate::process::memory_limit::memory_limit;
use crate::secret::hide;
use crate::trust::Trust;

/// Environment variable that holds the transfer URL.
pub(crate) const URL_VARIABLE: &str = "RHV_MOUNT_TRANSFER_URL";

/// Upper bound on the name of a file, in bytes (NAME_MAX).
const MAX_NAME_BYTES: usize = 255;

/// The way to a disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Source {
    /// A transfer that somebody else started.
    Transfer(TransferUrl),
    /// A disk of an engine; the transfer is ours to start and to end.
    Engine(Box<EngineSource>),
}

/// A disk of an engine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct EngineSource {
    /// The engine and the user.
    pub(crate) account: Account,
    /// The places from which the login came.
    pub(crate) login: LoginPlaces,
    pub(crate) wanted: Wanted,
    /// Connect through the engine's proxy.
    pub(crate) proxy: bool,
    /// Keep a disk that this run created even when the run fails.
    pub(crate) keep_on_failure: bool,
    /// The VM through which the disk was found, where it is one of those that are shown together.
    #[serde(default)]
    pub(crate) of_vm: Option<vm::Member>,
}

/// A disk as the user names it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Wanted {
    /// An existing disk, by name or id.
    Existing(String),
    /// A disk snapshot, by id.
    Snapshot(String),
    /// A disk to be created.
    New(NewDisk),
    /// A disk as it is in a backup that has begun, each by its id.
    OfBackup { disk: String, backup: String },
}

/// The work for which a disk is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Task {
    /// It is mounted.
    #[default]
    Mount,
    /// An image is copied into it.
    Upload,
    /// It is copied into an image.
    Download,
    /// Its checksum is computed.
    Checksum,
    /// It is copied into a file of a backup of its VM.
    Backup,
}

/// How one disk is opened, with or without a mount; with another kind of source, how several are, and then
/// connections and memory are for all of them together.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DiskSettings<S = Source> {
    pub(crate) source: S,
    /// The certificates that imageio is trusted with.
    pub(crate) trust: Trust,
    /// The work for which it is opened.
    pub(crate) task: Task,
    /// Refuse writes.
    pub(crate) read_only: bool,
    /// Connections that are wanted; the server may advise fewer.
    pub(crate) connections: usize,
    /// Use the server's unix socket when it is on this host.
    pub(crate) unix_socket: bool,
    /// How much memory it takes.
    pub(crate) budgets: Budgets,
    /// How long requests are retried when the server is away.
    pub(crate) retry_time: Duration,
    /// Longest silence of the server within a request.
    pub(crate) timeout: Duration,
    /// Send long runs of zeros as zero requests.
    pub(crate) zero_detect: bool,
    /// Nobody comes after a run that was killed, to end what it has left: a download keeps a note only where
    /// there is a place for one, and the engine ends its transfer soon after the last request.
    #[serde(default)]
    pub(crate) unattended: bool,
}

/// The settings for what a run tells, and where.
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

/// The settings of a mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// An absolute path.
    #[serde(with = "crate::path_bytes")]
    pub(crate) mountpoint: PathBuf,
    /// The disk or the disks to show there.
    pub(crate) disk: DiskSettings<Shown>,
    /// Other users may use the mount.
    pub(crate) allow_other: bool,
    /// Owner of the file.
    pub(crate) uid: u32,
    /// Group of the file.
    pub(crate) gid: u32,
    /// Permission bits of the file.
    pub(crate) mode: u16,
    /// Permission bits of the directory, where they do not follow those of the file.
    pub(crate) directory_mode: Option<u16>,
    /// Source in the kernel's table of mounts; the server's host where there is none.
    pub(crate) shown_source: Option<String>,
    /// Name of the file when the mountpoint is a directory.
    pub(crate) file_name: OsString,
    /// Mount over a directory that is not empty.
    pub(crate) nonempty: bool,
    /// Remove a dead mount that is in the way.
    pub(crate) remount: bool,
    /// Mount flags for the kernel.
    pub(crate) kernel_options: Vec<String>,
    /// Stay in the foreground.
    pub(crate) foreground: bool,
    /// mount(8) reads the exit code.
    pub(crate) for_mount8: bool,
    /// COMMAND and its arguments; empty where there is none.
    pub(crate) command: Vec<OsString>,
    /// How the disk is verified when COMMAND has succeeded.
    #[serde(default)]
    pub(crate) verify: Option<Verify>,
    /// How much COMMAND may write, in bytes, the likeliest number first.
    pub(crate) expected: Vec<u64>,
    /// The settings for what it tells, and where.
    pub(crate) output: OutputSettings,
    /// The file that gets the number of the process that serves.
    #[serde(with = "crate::path_bytes::option")]
    pub(crate) pid_file: Option<PathBuf>,
}

impl Settings {
    /// Checks `args`, adds the configuration file and the environment, and asks for a password where it must.
    pub(crate) fn gather(args: MountArgs) -> Result<Settings, Failure> {
        let file_name = &args.file_name;
        let is_a_name =
            !matches!(file_name.as_bytes(), b"" | b"." | b"..") && !file_name.as_bytes().contains(&b'/');
        if !is_a_name || file_name.len() > MAX_NAME_BYTES {
            return Err(usage(format!("--file-name {file_name:?} is not a file name")));
        }
        let section = Section::read(&args.engine)?;
        let mut args = args;
        args.disk.read_only |= read_only_elsewhere(&section)?;
        let trusted = trust(args.engine.cafile.clone(), args.engine.insecure, &section)?;
        let named = (args.source.as_deref(), args.vm.as_deref());
        let disk = Choice::for_mount(named, &args.disk, &section)?;
        let snapshot = vm::check(&disk, &args, &section)?;
        let read_only = match disk {
            Choice::Vm(_) => !args.read_write,
            Choice::Snapshot(_) => true,
            _ => args.disk.read_only,
        };
        let mode = file_mode(&args, read_only)?;
        let named = args.source.clone().or_else(|| disk.name().map(str::to_owned));
        let shown_source = args.fsname.clone().or(named);
        let from = (&args.engine, args.connection.proxy);
        let source = match disk {
            Choice::Vm(name) => Shown::OfVm(Box::new(VmSource {
                account: account::engine_account(&args.engine, &section, trusted.clone())?,
                login: LoginPlaces::of(&args.engine, &section),
                vm: name,
                snapshot,
                proxy: args.connection.proxy,
            })),
            disk => Shown::Disk(disk.source(&args.disk, from, &section, &trusted)?),
        };
        let is_in_foreground = args.foreground || !args.command.is_empty();
        if matches!(args.output.progress, Progress::Bar | Progress::Json) && !is_in_foreground {
            return Err(usage(
                "--progress shows a mount in the foreground: add --foreground or a COMMAND; one in the \
                 background is followed by `rhv-mount status --follow`",
            ));
        }
        let verify = Verify::gather(&args, read_only)?;
        let output = OutputSettings::gather(args.output, &section)?;
        let disk = DiskSettings::gather(args.connection, source, trusted, Task::Mount, read_only)?;
        let mountpoint = absolute(&args.mountpoint)?;
        let expected = match &disk.source {
            Shown::Disk(source) if !read_only => expected::wholes(&args.command, &mountpoint, source),
            Shown::Disk(_) | Shown::OfVm(_) => Vec::new(),
        };
        Ok(Settings {
            mountpoint,
            disk,
            allow_other: args.allow_other,
            uid: args.uid.unwrap_or_else(|| nix::unistd::geteuid().as_raw()),
            gid: args.gid.unwrap_or_else(|| nix::unistd::getegid().as_raw()),
            mode,
            directory_mode: args.dmask.or(args.umask).map(|mask| 0o777 & !mask),
            shown_source,
            file_name: args.file_name,
            nonempty: args.nonempty,
            remount: args.remount,
            kernel_options: args.kernel_option,
            foreground: args.foreground,
            for_mount8: args.for_mount8,
            command: args.command,
            verify,
            expected,
            output,
            pid_file: args.pid_file.map(|path| absolute(&path)).transpose()?,
        })
    }
}

impl<S> DiskSettings<S> {
    /// Checks the options of the data path, for a disk that is opened for `task`; `trusted` are the
    /// certificates of the engine.
    fn gather(
        args: ConnectionArgs,
        source: S,
        trusted: Trust,
        task: Task,
        read_only: bool,
    ) -> Result<DiskSettings<S>, Failure> {
        let budgets = budgets(&args)?;
        Ok(DiskSettings {
            source,
            trust: match &args.imageio_cafile {
                Some(path) => Trust::CaFile(absolute(path)?),
                None => trusted,
            },
            task,
            read_only,
            connections: args.connections,
            unix_socket: !args.no_unix_socket,
            budgets,
            retry_time: Duration::from_secs(args.retry_time.into()),
            timeout: Duration::from_secs(args.timeout.into()),
            zero_detect: !args.no_zero_detect,
            unattended: false,
        })
    }

    /// The same for another source.
    pub(crate) fn with<T>(&self, source: T) -> DiskSettings<T> {
        DiskSettings {
            source,
            trust: self.trust.clone(),
            task: self.task,
            read_only: self.read_only,
            connections: self.connections,
            unix_socket: self.unix_socket,
            budgets: self.budgets,
            retry_time: self.retry_time,
            timeout: self.timeout,
            zero_detect: self.zero_detect,
            unattended: self.unattended,
        }
    }
}

impl Source {
    /// Keeps what is secret in it out of every output of this process.
    fn hide_secrets(&self) {
        match self {
            Source::Transfer(url) => hide(url.ticket()),
            Source::Engine(source) => hide(source.account.password.expose()),
        }
    }
}

impl OutputSettings {
    fn gather(args: OutputArgs, section: &Section) -> Result<OutputSettings, Failure> {
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

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| usage(format!("{}: {e}", path.display())))
}

fn usage(text: impl std::fmt::Display) -> Failure {
    Failure::text(Exit::Usage, text)
}

/// Tells whether the section, or else the environment, asks for a mount that refuses writes.
fn read_only_elsewhere(section: &Section) -> Result<bool, Failure> {
    const VARIABLE: &str = "RHV_MOUNT_READ_ONLY";
    let of_environment = || {
        variable(VARIABLE)
            .map(|text| yes_or_no(VARIABLE, &text))
            .transpose()
    };
    Ok(match section.flag("read_only")? {
        Some(asked) => asked,
        None => of_environment()?.unwrap_or(false),
    })
}

/// Decides the permission bits of the file. As for a process with that umask, a mask leaves it no execute
/// bits: it is a disk, and not a program.
fn file_mode(args: &MountArgs, read_only: bool) -> Result<u16, Failure> {
    let (usual, most) = if read_only { (0o400, 0o444) } else { (0o600, 0o666) };
    match (args.mode, args.fmask.or(args.umask)) {
        (Some(_), Some(_)) => Err(usage(
            "--mode beside umask or fmask: each of them sets the permissions of the file, so give one",
        )),
        (Some(mode), None) => Ok(mode),
        (None, Some(mask)) => Ok(most & !mask),
        (None, None) => Ok(usual),
    }
}

/// Divides the memory, and tells the user once where it is less than usual.
fn budgets(args: &ConnectionArgs) -> Result<Budgets, Failure> {
    if args.memory.is_some_and(|bytes| bytes < MIN_MEMORY_BYTES) {
        return Err(usage(format!(
            "--memory: it takes at least {}M",
            MIN_MEMORY_BYTES >> 20
        )));
    }
    let said = Said {
        memory: args.memory,
        cache: args.cache_size,
        journal: args.journal_size,
    };
    let (budgets, told) = Budgets::divide(said, memory_limit().as_ref());
    told.iter().for_each(tell);
    Ok(budgets)
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

/// The settings of one run, on their way from one process to the next.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Run {
    Mount(Box<Settings>),
    Copy(Box<CopySettings>),
    Checksum(Box<ChecksumSettings>),
    Backup(Box<BackupSettings>),
}

impl Errand for Run {
    fn secret_variables(&self) -> &'static [&'static str] {
        match self {
            // That is a name of everybody's, which means a password to nobody else.
            Run::Copy(settings) if settings.volume.is_some() => {
                &[URL_VARIABLE, "OVIRT_PASSWORD", populator::PASSWORD]
            }
            _ => &[URL_VARIABLE, "OVIRT_PASSWORD"],
        }
    }

    fn shown(&self) -> &Path {
        match self {
            Run::Mount(settings) => &settings.mountpoint,
            Run::Copy(settings) => settings.image.shown(),
            Run::Checksum(settings) => &settings.place,
            Run::Backup(settings) => &settings.dir,
        }
    }

    fn hide_secrets(&self) {
        match self {
            Run::Mount(settings) => match &settings.disk.source {
                Shown::Disk(source) => source.hide_secrets(),
                Shown::OfVm(source) => hide(source.account.password.expose()),
            },
            Run::Copy(settings) => settings.disk.source.hide_secrets(),
            Run::Checksum(settings) => settings.disk.source.hide_secrets(),
            Run::Backup(settings) => hide(settings.disk.source.account.password.expose()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_can_ask_for_a_mount_that_refuses_writes() {
        for (line, read_only) in [("read_only = yes", true), ("read_only = no", false), ("", false)] {
            let text = format!("[a]\nusername = x\n{line}\n");
            let section = Section::of_text(text, Path::new("ovirt-img.conf"), "a").unwrap();
            assert_eq!(read_only_elsewhere(&section).unwrap(), read_only, "{line}");
        }
        let text = "[a]\nread_only = perhaps\n".to_owned();
        let section = Section::of_text(text, Path::new("ovirt-img.conf"), "a").unwrap();
        assert!(read_only_elsewhere(&section).is_err());
    }
}
