//! Mounts of the built `rhv-mount`.
//!
//! A `Mount` runs in the background, as a user would start it: the transfer URL is in the environment, never in the
//! arguments; the log, at trace level, is in the mount's own directory. `umount` is `rhv-mount umount`, and its exit
//! code is the mount's outcome. However a mount ends, at its end nothing that it has written (log, output, record, state
//! file) may hold the ticket's id, nor another secret.
//!
//!     let mount = Mount::start(&disk.url(), disk.args(), MountKind::Directory);
//!     fs::write(mount.file(), b"...")
//!     mount.umount().ok();

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::redaction::{Trace, assert_shows_none, assert_text_shows_none, secret_of, trace_to};
use super::run::{Ran, run, run_with_output_in, scratch, text, wait_until};

pub const BINARY: &str = env!("CARGO_BIN_EXE_rhv-mount");
pub const URL_VARIABLE: &str = "RHV_MOUNT_TRANSFER_URL";

/// What rhv-mount reads from its environment: nothing of it comes from whoever runs the tests.
const VARIABLES: &[&str] = &[
    URL_VARIABLE,
    "RHV_MOUNT_DISK",
    "RHV_MOUNT_DISK_SNAPSHOT",
    "RHV_MOUNT_CREATE",
    "RHV_MOUNT_SIZE",
    "RHV_MOUNT_STORAGE_DOMAIN",
    "OVIRT_URL",
    "OVIRT_USERNAME",
    "OVIRT_PASSWORD",
    "OVIRT_CAFILE",
    "OVIRT_INSECURE",
    "HTTPS_PROXY",
    "https_proxy",
];

/// Where mounts leave records and state files: root's, and those of `nobody`, who has no home.
const NOTES: &[&str] = &[
    "/run/rhv-mount",
    "/var/lib/rhv-mount",
    "/tmp/rhv-mount-65534",
    "/tmp/rhv-mount-65534/state",
];

const START_SECONDS: u64 = 40;
const UMOUNT_SECONDS: u64 = 180;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// An existing directory: the disk is `disk` in it.
    Directory,
    /// An existing regular file, which the disk covers.
    File,
    /// Nothing there yet.
    New,
}

/// How to start a mount. `Mount::start` is the short form.
#[derive(Clone, Debug)]
pub struct Mounting {
    url: Option<String>,
    secrets: Vec<String>,
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    kind: MountKind,
    nobody: bool,
    log_level: &'static str,
    more: Option<MoreSecrets>,
}

/// Secrets that come into being while the mount is there.
#[derive(Clone)]
struct MoreSecrets(Arc<dyn Fn() -> Vec<String> + Send + Sync>);

impl fmt::Debug for MoreSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MoreSecrets")
    }
}

impl Mounting {
    pub fn new(url: &str) -> Self {
        let mounting = Self::without_url().secret(&secret_of(url));
        Self {
            url: Some(url.to_owned()),
            ..mounting
        }
    }

    /// Of a disk that the arguments or the environment name otherwise.
    pub fn without_url() -> Self {
        Self {
            url: None,
            secrets: Vec::new(),
            args: Vec::new(),
            envs: Vec::new(),
            kind: MountKind::Directory,
            nobody: false,
            log_level: "trace",
            more: None,
        }
    }

    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub fn arg(self, arg: impl AsRef<OsStr>) -> Self {
        self.args([arg])
    }

    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.envs
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// A string that nothing which the mount writes may hold.
    pub fn secret(mut self, secret: &str) -> Self {
        self.secrets.push(secret.to_owned());
        self
    }

    /// The same of what `secrets` gives when the mount has ended.
    pub fn secrets_from(mut self, secrets: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Self {
        self.more = Some(MoreSecrets(Arc::new(secrets)));
        self
    }

    pub fn kind(mut self, kind: MountKind) -> Self {
        self.kind = kind;
        self
    }

    /// As the user `nobody`, through the setuid fusermount3 (the test itself is root).
    pub fn by_nobody(mut self) -> Self {
        self.nobody = true;
        self
    }

    /// For measurements: trace costs time.
    pub fn log_level(mut self, level: &'static str) -> Self {
        self.log_level = level;
        self
    }

    /// Starts the mount; a panic says why it did not start.
    #[track_caller]
    pub fn start(self) -> Mount {
        match self.try_start() {
            Ok(mount) => mount,
            Err(ran) => panic!("rhv-mount did not start: {ran}"),
        }
    }

    /// Starts the mount; where rhv-mount refuses, what it said. Then nothing may be mounted.
    pub fn try_start(self) -> Result<Mount, Ran> {
        let dir = scratch();
        let target = dir.path().join(match self.kind {
            MountKind::Directory => "mnt",
            MountKind::File | MountKind::New => "disk.raw",
        });
        match self.kind {
            MountKind::Directory => fs::create_dir(&target).expect("make the mountpoint"),
            MountKind::File => fs::write(&target, b"covered").expect("make the mountpoint"),
            MountKind::New => {}
        }
        let user = self.nobody.then(|| User::nobody(dir.path(), &target));
        let mut mount = Mount {
            secrets: self.secrets,
            more: self.more,
            kind: self.kind,
            target,
            user,
            dir,
            ended: false,
        };
        let mut command = mount.program();
        let mut trace = trace_to(&mount.dir.path().join("log"));
        trace[1] = self.log_level.into();
        command
            .args(trace)
            .args(&self.args)
            .arg(&mount.target)
            .envs(self.url.iter().map(|url| (URL_VARIABLE, url)))
            .envs(self.envs.iter().map(|(name, value)| (name, value)));
        let ran = run_with_output_in(&mut command, START_SECONDS, mount.dir.path());
        if ran.success() {
            assert!(
                is_mounted(&mount.target),
                "nothing is mounted after a successful start: {ran}"
            );
            return Ok(mount);
        }
        assert!(
            !is_mounted(&mount.target),
            "a mount is left after a failed start: {ran}"
        );
        mount.ended = true;
        mount.assert_no_secret(&[]);
        Err(ran)
    }
}

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

    /// One more string that nothing which the mount writes may hold.
    pub fn add_secret(&mut self, secret: &str) {
        self.secrets.push(secret.to_owned());
    }

    /// What `umount` and `status` take.
    pub fn mountpoint(&self) -> &Path {
        &self.target
    }

    /// The file that is the disk.
    pub fn file(&self) -> PathBuf {
        match self.kind {
            MountKind::Directory => self.target.join("disk"),
            MountKind::File | MountKind::New => self.target.clone(),
        }
    }

    /// A directory of this mount's own, outside of the mount.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The log so far.
    pub fn log(&self) -> String {
        text(&self.dir.path().join("log"))
    }

    /// What the mount has written to stderr so far, also from the background.
    pub fn stderr(&self) -> String {
        text(&self.dir.path().join("stderr"))
    }

    /// `rhv-mount` as the mount's user.
    pub fn program(&self) -> Command {
        self.command(self.user.as_ref().map_or(Path::new(BINARY), |user| &user.program))
    }

    /// Any program as the mount's user: nobody else, not even root, may look into an ordinary user's mount.
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

    /// The processes that serve this mount.
    pub fn pids(&self) -> Vec<i32> {
        processes_with(self.target.as_os_str())
    }

    /// `rhv-mount umount`: its exit code is the mount's outcome. It must have ended the mount, whatever the outcome.
    pub fn umount(mut self) -> Ran {
        let notes = self.notes();
        let ran = self.umount_command();
        assert!(
            !ran.timed_out,
            "umount hangs: {ran}\nlog ends with:\n{}",
            self.log_end()
        );
        assert!(!is_mounted(&self.target), "still mounted after: {ran}");
        wait_until("the mount's process ends after umount", 20, || {
            self.pids().is_empty()
        });
        assert_eq!(
            self.target.exists(),
            self.kind != MountKind::New,
            "the mountpoint after umount"
        );
        self.assert_no_secret(&notes);
        assert_shows_none(&ran, &self.secrets);
        self.ended = true;
        ran
    }

    /// Kills the mount's processes as a crash would. The mountpoint is stale then.
    pub fn kill(&self) {
        for pid in self.pids() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        wait_until("the killed mount is gone", 20, || self.pids().is_empty());
    }

    /// The last lines of the log, for a failure's message.
    pub fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn umount_command(&self) -> Ran {
        run(self.program().arg("umount").arg(&self.target), UMOUNT_SECONDS)
    }

    /// What it has written about itself where everybody's mounts are: its record, and its state file.
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

    /// No log line, no message and none of `notes` may show the ticket (its id is the credential), nor any other secret.
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

/// `rhv-mount` without a mount of the harness, with `url` in the environment.
pub fn rhv_mount_command(url: Option<&str>) -> Command {
    let mut command = Command::new(BINARY);
    clean_environment(&mut command);
    if let Some(url) = url {
        command.env(URL_VARIABLE, url);
    }
    command
}

/// The same with `args`, to its end. Who has a URL mounts.
pub fn rhv_mount<A: AsRef<OsStr>>(url: Option<&str>, args: impl IntoIterator<Item = A>) -> Ran {
    let mut command = rhv_mount_command(url);
    let trace = url.map(Trace::of);
    command.args(trace.iter().flat_map(Trace::args)).args(args);
    let ran = run(&mut command, START_SECONDS);
    if let Some(url) = url {
        assert_shows_none(&ran, &[secret_of(url)]);
    }
    ran
}

/// Takes away what rhv-mount would read from this process's environment.
pub fn clean_environment(command: &mut Command) {
    for name in VARIABLES {
        command.env_remove(name);
    }
}

/// Does a line of the mount table name `path`?
pub fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("read the mount table");
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .any(|point| Path::new(point) == path)
}

/// The processes of the built program (or of a copy) that have `word` among their arguments.
pub fn processes_with(word: &OsStr) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let numbers = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers
        .filter(|pid| {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut arguments = arguments.split(|byte| *byte == 0);
            arguments
                .next()
                .is_some_and(|program| program.ends_with(b"rhv-mount"))
                && arguments.any(|argument| argument == word.as_encoded_bytes())
        })
        .collect()
}

/// Another user, with a copy of the program that it can reach.
#[derive(Debug)]
struct User {
    program: PathBuf,
    id: u32,
    group: u32,
}

impl User {
    fn nobody(dir: &Path, target: &Path) -> Self {
        let nobody = nix::unistd::User::from_name("nobody")
            .expect("look up nobody")
            .expect("nobody exists");
        let (id, group) = (nobody.uid.as_raw(), nobody.gid.as_raw());
        let program = dir.join("rhv-mount");
        // By a child: a descriptor of our own, open for writing, could be inherited by another test's fork just when
        // the copy is to be executed ("text file busy").
        run(
            Command::new("install").args(["-m", "755", BINARY]).arg(&program),
            20,
        )
        .ok();
        chown(dir, Some(id), Some(group)).expect("give the directory to nobody");
        if target.exists() {
            chown(target, Some(id), Some(group)).expect("give the mountpoint to nobody");
        }
        Self { program, id, group }
    }

    fn command(&self, program: &OsStr) -> Command {
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid",
            &self.id.to_string(),
            "--regid",
            &self.group.to_string(),
            "--clear-groups",
            "--",
        ]);
        command
            .arg(program)
            .env_remove("XDG_RUNTIME_DIR")
            .env("HOME", "/nonexistent");
        command
    }
}
