//! The stand-in for the oVirt engine (`tests/engine`) over a real imageio daemon of its own.
//!
//! `Engine` is the process, its control socket and its log. A test asks the engine itself how things ended:
//! `disk` and `transfers` return the state, `log` and `requests` the requests that the engine received.
//!
//!     let engine = Engine::start();
//!     engine.add_disk(json!({"name": "web01", "size": 8 * MIB}));
//!     let mount = engine.mounting(["--disk", "web01"]).start();
//!
//! Declare the engine before its mounts, so that the mounts are dropped first. The state files that a test
//! leaves behind for this engine are removed with it.

mod control;
mod sdk;
mod state;

pub use state::{DiskState, SnapshotState, TransferState};

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;

use super::daemon::{Daemon, LocalSocket, Scheme};
use super::mount::{BINARY, Mounting, clean_environment};
use super::redaction::{assert_files_show_none, assert_shows_none, assert_text_shows_none, trace_to};
use super::run::{Ran, is_root, run, scratch, start, stop, text, top, wait_until};
use control::given_out;

pub const USER: &str = "admin@internal";

/// A user name that contains an `@` itself, as with Keycloak.
pub const USER_WITH_TWO_ATS: &str = "admin@ovirt@internalsso";

/// The password of both users; nothing else in the tests contains it.
pub const PASSWORD: &str = "Goldcrest:48+%41 in hiding";

#[derive(Debug)]
pub struct Engine {
    ready: Ready,
    child: Child,
    dir: TempDir,
    daemon: Daemon,
    /// The number of logs handed out by `program`.
    traces: AtomicUsize,
}

/// The line that the stand-in for the engine prints when it is ready.
#[derive(Debug, Deserialize)]
struct Ready {
    url: String,
    port: u16,
    cafile: PathBuf,
    control: PathBuf,
    log: PathBuf,
}

impl Engine {
    pub fn start() -> Self {
        Self::with::<&str>([])
    }

    /// Starts the engine with options; see `tests/engine/main.py`.
    pub fn with<A: AsRef<OsStr>>(options: impl IntoIterator<Item = A>) -> Self {
        let daemon = Daemon::start(Scheme::Https, LocalSocket::Path);
        let dir = scratch();
        let path = |name: &str| dir.path().join(name);
        for name in ["config", "traces"] {
            fs::create_dir(path(name)).expect("make a directory");
        }
        let users = json!({USER: PASSWORD, USER_WITH_TWO_ATS: PASSWORD});
        fs::write(path("users"), users.to_string()).expect("write the users");
        write_private(&path("password"), &format!("{PASSWORD}\n"));
        let output = |name: &str| File::create(path(name)).expect("create an output file");
        let child = start(
            Command::new(top().join("target/venv/bin/python"))
                .arg("-B")
                .arg(top().join("tests/engine/main.py"))
                .arg("--imageio")
                .arg(daemon.dir())
                .arg("--dir")
                .arg(path("engine"))
                .arg("--users")
                .arg(path("users"))
                .args(options)
                .stdin(Stdio::null())
                .stdout(output("ready"))
                .stderr(output("stderr")),
        );
        let mut starting = Starting(Some(child));
        wait_until("the stand-in for the engine is ready", 60, || {
            assert!(
                starting.runs(),
                "the stand-in for the engine ended: {}",
                text(&path("stderr"))
            );
            text(&path("ready")).ends_with('\n')
        });
        let ready = serde_json::from_str(&text(&path("ready"))).expect("the stand-in's first line");
        Self {
            ready,
            child: starting.started(),
            dir,
            daemon,
            traces: AtomicUsize::new(0),
        }
    }

    /// Returns `https://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.ready.url
    }

    pub fn port(&self) -> u16 {
        self.ready.port
    }

    /// Returns the file with the CA of the API.
    pub fn cafile(&self) -> &Path {
        &self.ready.cafile
    }

    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Returns a directory for a test's own files, removed with the engine.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn password_file(&self) -> PathBuf {
        self.dir.path().join("password")
    }

    /// Returns the options that every command needs to talk to this engine.
    pub fn args(&self) -> Vec<OsString> {
        let mut args = self.args_without_trust();
        args.extend(["--cafile".into(), self.cafile().into()]);
        args
    }

    /// Returns the same options without the CA.
    pub fn args_without_trust(&self) -> Vec<OsString> {
        vec![
            "--engine-url".into(),
            self.url().into(),
            "--username".into(),
            USER.into(),
            "--password-file".into(),
            self.password_file().into(),
        ]
    }

    /// A mount through this engine. Nothing that it writes may contain the password, a token or a ticket.
    pub fn mounting<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Mounting {
        let control = self.ready.control.clone();
        Mounting::without_url()
            .env("XDG_CONFIG_HOME", self.dir.path().join("config"))
            .secret(PASSWORD)
            .secrets_from(move || given_out(&control))
            .args(self.args())
            .args(args)
    }

    /// Returns a command for `rhv-mount` that mounts, without the tester's own configuration. Its log, at
    /// trace level, is searched when the engine ends.
    pub fn program(&self) -> Command {
        let mut command = self.tool();
        let log = self.traces.fetch_add(1, Ordering::Relaxed);
        command.args(trace_to(&self.trace_dir().join(log.to_string())));
        command
    }

    /// Returns the same command for anything but a mount, without a log.
    pub fn tool(&self) -> Command {
        let mut command = Command::new(BINARY);
        clean_environment(&mut command);
        command.env("XDG_CONFIG_HOME", self.dir.path().join("config"));
        command
    }

    /// Returns the directory with the logs of `program`.
    pub fn trace_dir(&self) -> PathBuf {
        self.dir.path().join("traces")
    }

    /// Runs `rhv-mount ARGS` to its end and checks that it does not show the password.
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>, seconds: u64) -> Ran {
        let args: Vec<OsString> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let mounts = args
            .first()
            .is_some_and(|first| first.as_encoded_bytes().starts_with(b"-"));
        let mut command = if mounts { self.program() } else { self.tool() };
        let ran = run(command.args(args), seconds);
        assert_shows_none(&ran, &[PASSWORD]);
        ran
    }

    /// Checks that no mount through this engine has left a secret in its log or its state file.
    fn assert_no_secret(&self) {
        let mut secrets = self.secrets();
        secrets.push(PASSWORD.to_owned());
        assert_files_show_none(&self.trace_dir(), &secrets);
        for path in self.state_files() {
            assert_text_shows_none(&path.display().to_string(), &text(&path), &secrets);
        }
    }

    /// Kills the servers of the disks of the running transfers, as if the storage went away.
    pub fn kill_storage(&self) {
        for pid in self.storage_pids() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    /// Stops the servers of the disks until the value is dropped: imageio is there, and what it has to write
    /// is not answered.
    pub fn stall_storage(&self) -> Stalled {
        let pids = self.storage_pids().into_iter().map(Pid::from_raw);
        let pids: Vec<Pid> = pids.filter(|pid| kill(*pid, Signal::SIGSTOP).is_ok()).collect();
        assert!(!pids.is_empty(), "no disk has a server");
        Stalled(pids)
    }

    /// Does the same with the server of one transfer.
    pub fn stall_storage_of(&self, transfer: &str) -> Stalled {
        let file = self.nbd_dir().join(format!("{}.pid", &transfer[..8]));
        let pid = Pid::from_raw(text(&file).trim().parse().expect("the transfer has a server"));
        kill(pid, Signal::SIGSTOP).expect("stop the server");
        Stalled(vec![pid])
    }

    /// Stops the engine and its control socket from answering until the value is dropped: connections to them
    /// succeed but stay silent, as with a swapping machine or a network that drops packets.
    pub fn away(&self) -> Away {
        let pid = Pid::from_raw(self.child.id() as i32);
        stop(pid.as_raw());
        Away(pid)
    }

    /// Returns `kill_storage` as a shell line.
    pub fn kill_storage_line(&self) -> String {
        format!("kill -9 $(cat '{}'/*.pid)", self.nbd_dir().display())
    }

    /// True while a disk has a server.
    pub fn has_storage(&self) -> bool {
        !self.storage_pids().is_empty()
    }

    fn storage_pids(&self) -> Vec<i32> {
        let files = fs::read_dir(self.nbd_dir()).into_iter().flatten().flatten();
        let files = files.filter(|file| file.path().extension().is_some_and(|end| end == "pid"));
        files
            .filter_map(|file| text(&file.path()).trim().parse().ok())
            .collect()
    }

    fn nbd_dir(&self) -> PathBuf {
        self.dir.path().join("engine/nbd")
    }

    /// Returns the state files of mounts through this engine.
    pub fn state_files(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(state_directory()).into_iter().flatten().flatten();
        let files = files.map(|file| file.path());
        files
            .filter(|path| path.extension().is_some_and(|end| end == "json"))
            .filter(|path| text(path).contains(&self.ready.url))
            .collect()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let searched = catch_unwind(AssertUnwindSafe(|| self.assert_no_secret()));
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let ended = (0..3000).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            self.child.try_wait().is_ok_and(|status| status.is_some())
        });
        if !ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        for path in self.state_files() {
            let _ = fs::remove_file(path);
        }
        if !std::thread::panicking() {
            assert!(ended, "the stand-in for the engine had to be killed");
            if let Err(panic) = searched {
                resume_unwind(panic);
            }
        }
    }
}

/// Lets the storage go on when dropped; see [`Engine::stall_storage`].
#[derive(Debug)]
pub struct Stalled(Vec<Pid>);

impl Drop for Stalled {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = kill(*pid, Signal::SIGCONT);
        }
    }
}

/// Lets the engine answer again when dropped; see [`Engine::away`].
#[derive(Debug)]
pub struct Away(Pid);

impl Drop for Away {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// The stand-in for the engine before it has reported that it is ready; killed when dropped before that.
struct Starting(Option<Child>);

impl Starting {
    fn runs(&mut self) -> bool {
        let child = self.0.as_mut().expect("not started yet");
        child.try_wait().is_ok_and(|status| status.is_none())
    }

    fn started(mut self) -> Child {
        self.0.take().expect("not started yet")
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Returns the directory where rhv-mount keeps the files that outlive it.
pub fn state_directory() -> PathBuf {
    if is_root() {
        return PathBuf::from("/var/lib/rhv-mount");
    }
    let home = std::env::var_os("HOME").unwrap_or_default();
    let base = std::env::var_os("XDG_STATE_HOME")
        .map_or_else(|| PathBuf::from(home).join(".local/state"), PathBuf::from);
    base.join("rhv-mount")
}

/// Writes a file that only its owner can read.
pub fn write_private(path: &Path, content: &str) {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path).expect("create a private file");
    file.write_all(content.as_bytes()).expect("write a private file");
}
