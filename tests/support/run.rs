//! Runs programs within a time limit.
//!
//! A program's output goes to files and not to pipes: `rhv-mount` continues in the background, and a pipe
//! that it kept open would block the test for ever. Each program has its own process group, which is killed
//! when the limit passes. A process that has left the group (a mount in the background) must be ended by its
//! owner.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

/// The result of a program: its exit and its output.
#[derive(Clone, Debug)]
pub struct Ran {
    pub command: String,
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub timed_out: bool,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Ran {
    pub fn success(&self) -> bool {
        self.code == Some(0) && !self.timed_out
    }

    /// Returns the value itself when the program succeeded; otherwise panics and shows all of it.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.success(), "failed: {self}");
        self
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = match (self.timed_out, self.code, self.signal) {
            (true, ..) => format!("killed after its limit ({:.1} s)", self.took.as_secs_f64()),
            (_, Some(code), _) => format!("exit code {code}"),
            (_, _, signal) => format!("signal {}", signal.unwrap_or(0)),
        };
        write!(
            f,
            "{}\n  {end}\n  stdout: {}\n  stderr: {}",
            self.command,
            self.stdout.trim(),
            self.stderr.trim()
        )
    }
}

/// Runs `command` to its end, for at most `seconds`; then it is killed.
pub fn run(command: &mut Command, seconds: u64) -> Ran {
    run_with_output_in(command, seconds, scratch().path())
}

/// Does the same with the output files in `dir`, for a program whose descendants keep writing after its end.
pub fn run_with_output_in(command: &mut Command, seconds: u64, dir: &Path) -> Ran {
    let (out, err) = (dir.join("stdout"), dir.join("stderr"));
    let create = |path: &Path| File::create(path).expect("create an output file");
    let shown = shown(command);
    let mut child = start(
        command
            .stdin(Stdio::null())
            .stdout(create(&out))
            .stderr(create(&err))
            .process_group(0),
    );
    let started = Instant::now();
    let limit = Duration::from_secs(seconds);
    let mut timed_out = false;
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait for a child") {
            break status;
        }
        if started.elapsed() > limit && !timed_out {
            timed_out = true;
            let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
        }
        // A process in an uninterruptible read of a dead mount never ends, so stop waiting for it.
        assert!(
            started.elapsed() < limit + Duration::from_secs(20),
            "{shown}: the process cannot be killed"
        );
        std::thread::sleep(Duration::from_millis(2));
    };
    Ran {
        command: shown,
        code: status.code(),
        signal: status.signal(),
        timed_out,
        stdout: text(&out),
        stderr: text(&err),
        took: started.elapsed(),
    }
}

/// Starts a program once no other one is about to begin, and returns once it runs.
pub fn start(command: &mut Command) -> Child {
    beginners().into_iter().for_each(await_exec);
    let child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", shown(command)));
    await_exec(child.id());
    child
}

/// Waits until the program of a new process runs. It begins by closing its copies of the files that other
/// tests have open here, which may wait for a server that is slow on purpose; only then it gets its name.
fn await_exec(pid: u32) {
    let ours = names();
    let has_name = || name(&format!("/proc/{pid}")).is_none_or(|name| !ours.contains(&name));
    wait_until("the program begins", 600, has_name);
}

/// Returns the processes in which programs of other tests are about to begin. As long as one has a copy of a
/// file, an unmount of the file's mount is refused.
fn beginners() -> Vec<u32> {
    let (ours, parent) = (names(), std::process::id().to_string());
    let is_ours = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name of the program, which may hold anything, is in parentheses before state and parent.
        let parents = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.split(' ').nth(1));
        parents == Some(parent.as_str())
    };
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(is_ours)
        .filter(|pid| name(&format!("/proc/{pid}")).is_some_and(|name| ours.contains(&name)))
        .collect()
}

/// The names of this process's threads, which a new process has until its program runs.
fn names() -> Vec<Vec<u8>> {
    let threads = fs::read_dir("/proc/self/task").expect("/proc").flatten();
    threads
        .filter_map(|thread| name(&thread.path().display().to_string()))
        .collect()
}

fn name(process: &str) -> Option<Vec<u8>> {
    fs::read(format!("{process}/comm")).ok()
}

/// Runs a shell script for at most `seconds`; `args` are `$1`, `$2`, ...
pub fn sh<A: AsRef<OsStr>>(script: &str, args: impl IntoIterator<Item = A>, seconds: u64) -> Ran {
    run(
        Command::new("bash")
            .args(["-euo", "pipefail", "-c", script, "sh"])
            .args(args),
        seconds,
    )
}

/// Waits until `condition` holds, for at most `seconds`; the panic after that names `what`.
#[track_caller]
pub fn wait_until(what: &str, seconds: u64, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(seconds);
    while !condition() {
        assert!(Instant::now() < end, "waited {seconds} s for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Stops a process, and waits until each of its threads has stopped: on a busy machine, others go on until
/// the one that the kernel has chosen takes the signal.
#[track_caller]
pub fn stop(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("stop a process");
    let has_stopped = |thread: fs::DirEntry| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The name of the program, which may hold anything, is in parentheses before the state.
        stat.rsplit_once(") ")
            .is_none_or(|(_, state)| state.starts_with('T'))
    };
    wait_until("all threads of a process have stopped", 60, || {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("a process that is there");
        threads.flatten().all(has_stopped)
    });
}

/// Makes a directory for one test, removed when dropped. It is on a disk file system (for O_DIRECT), its path
/// is short enough for unix sockets, and other users may enter it, because some tests mount as another user.
pub fn scratch() -> TempDir {
    let base = Path::new("/var/tmp");
    let base = if base.is_dir() {
        base.to_path_buf()
    } else {
        std::env::temp_dir()
    };
    let dir = tempfile::Builder::new()
        .prefix("rhv-mount-")
        .tempdir_in(base)
        .expect("make a scratch directory");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("open the scratch directory");
    dir
}

/// Returns the project's top directory.
pub fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Returns a command for the program `name` in `scripts/`.
pub fn script(name: &str) -> Command {
    Command::new(top().join("scripts").join(name))
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Returns the text of a file, lossily decoded; empty when the file cannot be read.
pub fn text(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(path) {
        let _ = file.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}
