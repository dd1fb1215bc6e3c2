//! Mounts of the built `rhv-mount`.
//!
//! A `Mount` runs in the background, as a user would start it: the transfer URL is in the environment, never
//! in the arguments, and the log, at trace level, is in the mount's own directory. `umount` runs `rhv-mount
//! umount`, and its exit code is the mount's outcome. However a mount ends, nothing that it has written (log,
//! output, record, state file) may contain the ticket's id or another secret.
//!
//!     let mount = Mount::start(&disk.url(), disk.args(), MountKind::Directory);
//!     fs::write(mount.file(), b"...")
//!     mount.umount().ok();

mod mounting;
mod program;
mod user;

pub use mounting::{MountKind, Mounting};
pub use program::{
    APART, BINARY, URL_VARIABLE, clean_environment, in_own_mounts, is_mounted, processes_with, rhv_mount,
    rhv_mount_command,
};

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::redaction::{assert_shows_none, assert_text_shows_none};
use super::run::{Ran, run, text, wait_until};
use mounting::MoreSecrets;
use user::User;

/// Directories where mounts leave records and state files: those of root and of `nobody`, a user without a
/// home.
const NOTES: &[&str] = &[
    "/run/rhv-mount",
    "/var/lib/rhv-mount",
    "/tmp/rhv-mount-65534",
    "/tmp/rhv-mount-65534/state",
];

const START_SECONDS: u64 = 120;
const UMOUNT_SECONDS: u64 = 180;

/// A running mount, ended when dropped.
#[derive(Debug)]
pub struct Mount {
    secrets: Vec<String>,
    more: Option<MoreSecrets>,
    kind: MountKind,
    target: PathBuf,
    user: Option<User>,
    dir: TempDir,
    ended: bool,
}

impl Mount {
    #[track_caller]
    pub fn start<A: AsRef<OsStr>>(url: &str, args: impl IntoIterator<Item = A>, kind: MountKind) -> Self {
        Mounting::new(url).args(args).kind(kind).start()
    }

    /// Adds a string that must not appear in anything that the mount writes.
    pub fn add_secret(&mut self, secret: &str) {
        self.secrets.push(secret.to_owned());
    }

    /// Returns the mountpoint, as `umount` and `status` take it.
    pub fn mountpoint(&self) -> &Path {
        &self.target
    }

    /// Returns the path of the file that is the disk.
    pub fn file(&self) -> PathBuf {
        match self.kind {
            MountKind::Directory => self.target.join("disk"),
            MountKind::File | MountKind::New => self.target.clone(),
        }
    }

    /// Returns this mount's own directory, which is outside of the mounted file system.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the log so far.
    pub fn log(&self) -> String {
        text(&self.dir.path().join("log"))
    }

    /// Returns everything that the mount has written to stderr so far, also from the background.
    pub fn stderr(&self) -> String {
        text(&self.dir.path().join("stderr"))
    }

    /// Returns a command that runs `rhv-mount` as the mount's user.
    pub fn program(&self) -> Command {
        self.command(self.user.as_ref().map_or(Path::new(BINARY), |user| &user.program))
    }

    /// Returns a command that runs `program` as the mount's user. Nobody else, not even root, may access an
    /// ordinary user's mount.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = match &self.user {
            None => Command::new(program),
            Some(user) => user.command(program.as_ref()),
        };
        clean_environment(&mut command);
        command
    }

    pub fn status(&self, args: &[&str]) -> Ran {
        run(self.program().arg("status").args(args).arg(&self.target), 20)
    }

    /// Returns the processes that serve this mount.
    pub fn pids(&self) -> Vec<i32> {
        processes_with(self.target.as_os_str())
    }

    /// Waits until no process serves this mount. A program that another test starts may hold a copy of a file
    /// of this mount while a server or a file system of that test hangs, so the limit is long.
    pub fn wait_until_ended(&self) {
        wait_until("the mount's process has ended", 120, || self.pids().is_empty());
    }

    /// Returns the process that serves this mount, once the one that has started it is gone: the command
    /// returns before the system has taken that one away.
    pub fn server(&self) -> i32 {
        wait_until("one process serves the mount", 60, || self.pids().len() == 1);
        self.pids()[0]
    }

    /// Runs `rhv-mount umount` and checks that the mount has ended, whatever the outcome. The exit code is
    /// the mount's outcome.
    pub fn umount(mut self) -> Ran {
        let notes = self.notes();
        let ran = self.umount_command();
        assert!(
            !ran.timed_out,
            "umount hangs: {ran}\nthe log ends with:\n{}",
            self.log_end()
        );
        assert!(!is_mounted(&self.target), "still mounted after: {ran}");
        self.wait_until_ended();
        assert_eq!(
            self.target.exists(),
            self.kind != MountKind::New,
            "whether the mountpoint exists after umount"
        );
        self.assert_no_secret(&notes);
        assert_shows_none(&ran, &self.secrets);
        self.ended = true;
        ran
    }

    /// Kills the mount's processes, as a crash would. The mountpoint is stale afterwards.
    pub fn kill(&self) {
        for pid in self.pids() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        self.wait_until_ended();
    }

    /// Returns the last 20 lines of the log, for the message of a failed test.
    pub fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn umount_command(&self) -> Ran {
        run(self.program().arg("umount").arg(&self.target), UMOUNT_SECONDS)
    }

    /// Returns path and text of the mount's record and state file, which are in directories that all mounts
    /// share.
    fn notes(&self) -> Vec<(PathBuf, String)> {
        let point = self.target.display().to_string();
        let entries = NOTES.iter().filter_map(|directory| fs::read_dir(directory).ok());
        let paths = entries.flatten().flatten().map(|entry| entry.path());
        let files = paths.filter(|path| path.is_file());
        let texts = files
            .map(|path| (text(&path), path))
            .filter(|(text, _)| text.contains(&point));
        texts.map(|(text, path)| (path, text)).collect()
    }

    /// Checks that no log line, no message and none of `notes` shows the ticket, whose id is the credential,
    /// or any other secret.
    fn assert_no_secret(&self, notes: &[(PathBuf, String)]) {
        let mut secrets = self.secrets.clone();
        secrets.extend(self.more.iter().flat_map(|more| more.0()));
        for name in ["log", "stdout", "stderr"] {
            let text = text(&self.dir.path().join(name));
            assert_text_shows_none(&format!("the {name} of a mount"), &text, &secrets);
        }
        for (path, text) in notes {
            assert_text_shows_none(&path.display().to_string(), text, &secrets);
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let failing = std::thread::panicking();
        if failing {
            eprintln!("the mount's log ends with:\n{}", self.log_end());
        }
        let notes = self.notes();
        let ran = self.umount_command();
        if is_mounted(&self.target) {
            let _ = run(Command::new("umount").arg("-l").arg(&self.target), 20);
            let _ = run(Command::new("fusermount3").arg("-uz").arg(&self.target), 20);
        }
        self.kill();
        if !failing {
            assert!(!ran.timed_out, "umount hangs: {ran}");
            self.assert_no_secret(&notes);
        }
    }
}
