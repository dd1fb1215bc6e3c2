//! Helpers of the tests of mount(8): links in /sbin, mountpoints that clean up, disks and their options.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::content::{MIB, random_image};
use crate::support::daemon::Daemon;
use crate::support::disk::Disk;
use crate::support::engine::{Engine, USER};
use crate::support::image::{Backend, Content};
use crate::support::mount::{BINARY, is_mounted, processes_with};
use crate::support::run::{run, text, wait_until};

pub(super) const SIZE: u64 = 8 * MIB;

/// Links to the built program as the helpers of a file system type that only this test has; removed when
/// dropped.
pub(super) struct Helpers(pub(super) String);

impl Helpers {
    pub(super) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let helpers = Helpers(format!("rhv-mount-test-{}-{count}", std::process::id()));
        for link in helpers.links() {
            symlink(BINARY, link).expect("make a link in /sbin");
        }
        helpers
    }

    fn links(&self) -> [String; 2] {
        ["mount", "umount"].map(|program| format!("/sbin/{program}.{}", self.0))
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        for link in self.links() {
            let _ = fs::remove_file(link);
        }
    }
}

/// A directory to be mounted on; whatever is mounted there is gone when it is dropped.
pub(super) struct Point(pub(super) PathBuf);

impl Point {
    pub(super) fn new(dir: &Path) -> Self {
        let path = dir.join("mnt");
        fs::create_dir(&path).expect("make the mountpoint");
        Point(path)
    }

    pub(super) fn shown(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }

    pub(super) fn disk(&self) -> PathBuf {
        self.0.join("disk")
    }

    /// The words of findmnt(8) about the mount.
    pub(super) fn findmnt(&self, columns: &str) -> String {
        let mut command = Command::new("findmnt");
        command
            .args(["--noheadings", "--raw", "--output", columns])
            .arg(&self.0);
        run(&mut command, 20).ok().stdout.trim().to_owned()
    }

    /// Checks that umount(8) has taken its lines about the mount out of its table.
    #[track_caller]
    pub(super) fn assert_no_line_left(&self) {
        assert!(
            !text(Path::new("/run/mount/utab")).contains(self.shown()),
            "a line is left"
        );
    }

    pub(super) fn await_end(&self) {
        await_end(&self.0);
    }
}

/// Waits until no process of the mount on `target` is left.
pub(super) fn await_end(target: &Path) {
    wait_until("the process has ended", 60, || {
        processes_with(target.as_os_str()).is_empty()
    });
}

impl Drop for Point {
    fn drop(&mut self) {
        if is_mounted(&self.0) {
            let _ = run(Command::new(BINARY).arg("umount").arg(&self.0), 60);
            let _ = run(Command::new("umount").args(["-l", "-i"]).arg(&self.0), 20);
        }
        for pid in processes_with(self.0.as_os_str()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// An engine with a disk `web01`.
pub(super) fn engine() -> Engine {
    let engine = Engine::start();
    engine.add_disk(&json!({"name": "web01", "size": SIZE, "format": "raw"}));
    engine
}

/// The options by which `engine` is found and logged in to.
pub(super) fn login(engine: &Engine) -> String {
    format!(
        "engine_url={},username={USER},password_file={},cafile={}",
        engine.url(),
        engine.password_file().display(),
        engine.cafile().display()
    )
}

#[track_caller]
pub(super) fn assert_free(engine: &Engine, content: &Path) {
    let disk = engine.disk("web01").expect("the disk is there");
    assert_eq!(
        (disk.status.as_str(), disk.locked_by.len()),
        ("ok", 0),
        "it is locked"
    );
    engine.compare(&disk, content).expect("the disk holds the copy");
}

/// A disk behind a transfer URL, and the options that mount it.
pub(super) fn transfer(daemon: &Daemon, dir: &Path) -> (Disk, String) {
    let disk = Disk::create(daemon, Backend::Qcow2Nbd, SIZE, Content::Fresh);
    let file = dir.join("url");
    fs::write(&file, disk.url()).expect("write the URL");
    fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("show it to nobody");
    let options = format!(
        "transfer_url_file={},cafile={}",
        file.display(),
        daemon.cafile().display()
    );
    (disk, options)
}

pub(super) fn source(dir: &Path) -> PathBuf {
    let source = dir.join("source.raw");
    random_image(&source, SIZE, 41);
    source
}
