//! The options and subcommands. The docstrings here are the text of `--help`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::backup::BackupArgs;
use super::checksum::ChecksumArgs;
use super::forms::{ImageFormat, Output};
use super::groups::{ConnectionArgs, DiskArgs, EngineArgs, OutputArgs, RunArgs};
use super::outcome::OutcomeArgs;
use super::populate::PopulateArgs;
use super::restore::RestoreArgs;
use crate::settings::values::parse_mode;

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
    pub(super) disk: DiskArgs,
    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
    #[command(flatten)]
    pub(super) mount: Option<MountArgs>,
    #[command(flatten)]
    pub(super) output: OutputArgs,
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
    /// Copy an image into a disk, without a mount
    ///
    /// The image goes into an existing disk (--disk) or a new one (--create), in this process: neither
    /// /dev/fuse nor any privilege is needed. What is a hole in the image reads as zeros on the disk, and so
    /// does what is behind its end. The exit status is the outcome: 0 says that every byte is on the storage.
    Upload(UploadArgs),
    /// Copy a disk into an image, without a mount
    ///
    /// Holes of the disk are holes in the image. It is written under another name beside IMAGE, and has its
    /// own only once it is whole and on the storage of this machine. A file that is there is kept, unless
    /// --force is given.
    Download(DownloadArgs),
    /// Copy a disk into a volume of Kubernetes, in the place of forklift's ovirt-populator
    ///
    /// It takes the flags and the environment of that program, tells its progress over HTTPS as that does,
    /// and needs no privilege and no file outside of the volume. The bytes are compared with the disk before
    /// the volume counts as populated; the progress is 100 only then.
    #[command(args_override_self = true)]
    Populate(Box<PopulateArgs>),
    /// Back up every disk of a VM at one point in time, with its configuration
    ///
    /// The VM may be up or down. Each disk becomes a qcow2 file in DIR; it is compared with the disk by the
    /// server's block hash, and counts once the manifest of the backup, which is written last, names it. A
    /// disk that can't take part is named. Where one fails, the others are kept, and the exit status tells.
    Backup(Box<BackupArgs>),
    /// Make disks, and their VM, from what `backup` has written
    ///
    /// Each disk of the point in time is made anew, written from its chain of files, and compared by the
    /// server's block hash with what was backed up. Then the VM is made from its saved configuration, and
    /// its disks are attached. A VM or disk that exists is never touched.
    Restore(Box<RestoreArgs>),
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
#[derive(Debug, Args)]
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

    /// Filled in after parsing, as those below: clap's optional group can't hold another group.
    #[arg(skip)]
    pub(crate) disk: DiskArgs,
    #[arg(skip)]
    pub(crate) connection: ConnectionArgs,
    #[arg(skip)]
    pub(crate) output: OutputArgs,
    #[arg(skip)]
    pub(crate) engine: EngineArgs,

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

    /// Every disk of this VM, which has to be down, as the files of the directory MOUNTPOINT; read-only
    /// [env: RHV_MOUNT_VM]
    #[arg(long, value_name = "NAME|UUID", help_heading = "Disk")]
    pub(crate) vm: Option<String>,
    /// With --vm, up or down: the disks as this snapshot of the VM has them, by its id or description
    /// [env: RHV_MOUNT_SNAPSHOT]
    #[arg(long, value_name = "UUID|NAME", help_heading = "Disk")]
    pub(crate) snapshot: Option<String>,
    /// With --vm, up or down: every disk as it is now, at one point in time, by a backup that the engine
    /// begins for this mount and that ends with it; read-only [env: RHV_MOUNT_BACKUP]
    #[arg(long, help_heading = "Disk")]
    pub(crate) backup: bool,
    /// With --backup: tell what has changed since this checkpoint, in MOUNTPOINT/.rhv-mount/DISK.dirty.json
    /// [env: RHV_MOUNT_SINCE]
    #[arg(long, value_name = "CHECKPOINT", help_heading = "Disk")]
    pub(crate) since: Option<String>,
    /// With --backup: through libvirt instead of a snapshot. Nothing is merged afterwards, and the VM can't
    /// migrate or stop meanwhile
    #[arg(long, help_heading = "Disk")]
    pub(crate) live: bool,
    /// With --backup: fail where the guest's file systems can't be frozen; implies --live
    #[arg(long, help_heading = "Disk")]
    pub(crate) require_consistency: bool,
    /// With --vm: let the disks be written
    #[arg(long, help_heading = "Disk")]
    pub(crate) read_write: bool,

    /// When COMMAND has succeeded, compare the disk on its storage with IMAGE, by their block hashes; without
    /// IMAGE, the server's hash with that of what is read back. A difference is exit status 7
    #[arg(long, value_name = "IMAGE", num_args = 0..=1, require_equals = true, default_missing_value = "",
          help_heading = "Disk")]
    pub(crate) verify: Option<OsString>,

    /// Command to run on the file
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
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

impl RecoverArgs {
    /// True where the user vouches for what can't be seen: that is said of one mount or transfer by its name,
    /// and not of whatever there may be.
    pub(crate) fn vouches(&self) -> bool {
        self.which.is_some() && (self.finalize || self.cancel)
    }

    /// True where the user vouches for it and wants the disk finalized.
    pub(crate) fn vouches_for_finalize(&self) -> bool {
        self.which.is_some() && self.finalize
    }
}

/// The options of `upload`.
#[derive(Debug, Clone, Args)]
pub(crate) struct UploadArgs {
    /// The image; `-` is a raw one on stdin, with --size
    pub(crate) image: PathBuf,
    /// Format of the image [default: found out from its first bytes]
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        help_heading = "Image",
        hide_possible_values = true
    )]
    pub(crate) image_format: Option<ImageFormat>,
    /// Read backing files outside of the image's own folder, as qemu-img does
    #[arg(long, help_heading = "Image")]
    pub(crate) allow_backing_elsewhere: bool,
    /// Compare the disk on its storage with the bytes that were read, by their block hashes. A difference is
    /// exit status 7
    #[arg(long, help_heading = "Image")]
    pub(crate) verify: bool,
    #[command(flatten)]
    pub(crate) disk: DiskArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) outcome: OutcomeArgs,
}

/// The options of `download`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DownloadArgs {
    /// The image that is made; `-` is stdout, raw
    pub(crate) image: PathBuf,
    /// Format of the image: raw or qcow2 [default: by the end of its name, else raw]
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        help_heading = "Image",
        hide_possible_values = true
    )]
    pub(crate) image_format: Option<ImageFormat>,
    /// Replace a file that is there
    #[arg(long, help_heading = "Image")]
    pub(crate) force: bool,
    /// Compare the bytes that were written with the disk on its storage, by their block hashes, before the
    /// image gets its name. A difference is exit status 7
    #[arg(long, help_heading = "Image")]
    pub(crate) verify: bool,
    #[command(flatten)]
    pub(crate) disk: DiskArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) outcome: OutcomeArgs,
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
