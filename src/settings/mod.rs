//! The settings of one run: command line, configuration file and environment, checked and typed.
//!
//! They travel from the process that read the command line to the one that serves the mount (see
//! `process::handover`), and are serialised for that; the second process takes no setting from its
//! environment.

pub(crate) mod account;
pub(crate) mod backup;
pub(crate) mod checksum;
mod choice;
pub(crate) mod chosen_disks;
pub(crate) mod cli;
pub(crate) mod config_file;
mod config_path;
pub(crate) mod copy;
mod expected;
pub(crate) mod memory;
mod mount;
pub(crate) mod mount_helper;
mod mount_options;
pub(crate) mod outcome;
mod output;
pub(crate) mod populator;
pub(crate) mod restore;
mod source;
pub(crate) mod values;
mod verify;
pub(crate) mod vm;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::account::LoginPlaces;
use self::backup::BackupSettings;
use self::checksum::ChecksumSettings;
use self::cli::ConnectionArgs;
use self::copy::CopySettings;
use self::memory::{Budgets, MIN_MEMORY_BYTES, Said};
pub(crate) use self::mount::Settings;
pub(crate) use self::output::OutputSettings;
use self::restore::RestoreSettings;
pub(crate) use self::verify::Verify;
pub(crate) use self::vm::{InBackup, Shown, VmSource};
use crate::engine::{Account, NewDisk};
use crate::failure::{Exit, Failure};
use crate::imageio::TransferUrl;
use crate::output::tell;
use crate::process::handover::Errand;
use crate::process::memory_limit::memory_limit;
use crate::secret::hide;
use crate::trust::Trust;

/// Environment variable that holds the transfer URL.
pub(crate) const URL_VARIABLE: &str = "RHV_MOUNT_TRANSFER_URL";

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
    /// It is made anew from a backup.
    Restore,
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

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| usage(format!("{}: {e}", path.display())))
}

fn usage(text: impl std::fmt::Display) -> Failure {
    Failure::text(Exit::Usage, text)
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

/// The settings of one run, on their way from one process to the next.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Run {
    Mount(Box<Settings>),
    Copy(Box<CopySettings>),
    Checksum(Box<ChecksumSettings>),
    Backup(Box<BackupSettings>),
    Restore(Box<RestoreSettings>),
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
            Run::Restore(settings) => &settings.dir,
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
            Run::Restore(settings) => hide(settings.disk.source.account.password.expose()),
        }
    }
}
