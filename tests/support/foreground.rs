//! A mount in the foreground, as a terminal or a service manager runs it, and the signals that they send.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::mount::is_mounted;
use super::run::{self, scratch, text, wait_until};

/// A mount in the foreground, killed when dropped.
#[derive(Debug)]
pub struct Foreground {
    child: Child,
    dir: TempDir,
}

impl Foreground {
    /// Starts `command`, which must contain `--foreground` or a COMMAND, and waits until `point` is mounted.
    #[track_caller]
    pub fn start(command: &mut Command, point: &Path) -> Self {
        let mut foreground = Self::spawn(command);
        wait_until("the foreground mount is ready", 60, || {
            let ended = foreground.child.try_wait().expect("look at the child");
            assert!(
                ended.is_none(),
                "rhv-mount ended: {ended:?}: {}",
                foreground.stderr()
            );
            is_mounted(point) && fs::metadata(point).is_ok()
        });
        foreground
    }

    /// Starts `command` without waiting for the mount.
    pub fn spawn(command: &mut Command) -> Self {
        let dir = scratch();
        let create = |name: &str| File::create(dir.path().join(name)).expect("create an output file");
        let child = run::start(
            command
                .stdin(Stdio::null())
                .stdout(create("stdout"))
                .stderr(create("stderr"))
                .process_group(0),
        );
        Self { child, dir }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("signal the mount");
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("look at the child").is_some()
    }

    #[track_caller]
    pub fn wait(&mut self, seconds: u64) -> ExitStatus {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(status) = self.child.try_wait().expect("look at the child") {
                return status;
            }
            assert!(
                Instant::now() < end,
                "rhv-mount did not end within {seconds} s: {}",
                self.stderr()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn stdout(&self) -> String {
        text(&self.path("stdout"))
    }

    pub fn stderr(&self) -> String {
        text(&self.path("stderr"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            // A process that waits for itself never ends; the test has failed by then.
            let end = Instant::now() + Duration::from_secs(20);
            while self.child.try_wait().is_ok_and(|status| status.is_none()) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}
