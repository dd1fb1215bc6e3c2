//! The settings of a mount.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::account::{LoginPlaces, engine_account, trust};
use super::choice::{Choice, read_only_elsewhere};
use super::cli::{MountArgs, Progress};
use super::config_file::Section;
use super::{DiskSettings, OutputSettings, Shown, Task, Verify, VmSource, absolute, expected, usage, vm};
use crate::failure::Failure;

/// Upper bound on the name of a file, in bytes (NAME_MAX).
const MAX_NAME_BYTES: usize = 255;

/// See the head of this file.
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
        let frozen = vm::check(&disk, &args, &section)?;
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
                account: engine_account(&args.engine, &section, trusted.clone())?,
                login: LoginPlaces::of(&args.engine, &section),
                vm: name,
                snapshot: frozen.snapshot,
                backup: frozen.backup,
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
