//! The line by which umount(8) finds the program that waits for the end of a mount.
//!
//! umount(8) runs `/sbin/umount.fuse.rhv-mount`, where there is one, for a mount of that type. It reads the
//! type in the kernel's table of mounts, but not for root and a directory: there it takes the word of
//! statfs(2), which is `fuse` for all of them, and unmounts by itself, before the data is on the storage
//! (`lookup_umount_fs_by_statfs` in libmount, util-linux 2.38). It reads the kernel's table after all where
//! its own, `/run/mount/utab`, has a line for the directory.
//!
//! That table is libmount's. So mount(8) writes the line, as libfuse has it done for `/etc/mtab`: `--fake`
//! leaves out the mount itself. The line has a source of its own, as otherwise mount(8), when it calls us as
//! its helper, would believe that its own line for this mount is there already.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;
use tracing::debug;

/// The program for the type of our mounts, a link to this one.
const HELPER: &str = "/sbin/umount.fuse.rhv-mount";

/// The type of our mounts.
const TYPE: &str = "fuse.rhv-mount";

/// Longest wait for mount(8), which may wait for a lock.
const LIMIT: Duration = Duration::from_secs(5);

/// A line in the table, removed when dropped.
#[derive(Debug)]
pub(crate) struct Line(PathBuf);

impl Line {
    /// Adds a line for the mount on the directory `path`, where it is of use and can be had.
    pub(super) fn add(path: &Path) -> Option<Line> {
        if !geteuid().is_root() || !Path::new(HELPER).exists() {
            return None;
        }
        let mut mount = Command::new("mount");
        mount.args(["--fake", "--internal-only", "--no-canonicalize", "-t", TYPE, "-o"]);
        mount.arg(format!("helper={TYPE}")).arg(TYPE).arg(path);
        run(mount).then(|| Line(path.to_owned()))
    }

    /// A line for `path` that may be left: umount(8) takes out none when its helper fails.
    pub(crate) fn left(path: &Path) -> Option<Line> {
        geteuid().is_root().then(|| Line(path.to_owned()))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut umount = Command::new("umount");
        umount
            .args(["--fake", "--internal-only", "--no-canonicalize"])
            .arg(&self.0);
        run(umount);
    }
}

/// Runs a program to its end, for at most [`LIMIT`], and returns whether it succeeded.
fn run(mut command: Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(e) => {
            debug!("{command:?}: {e}");
            return false;
        }
    };
    let until = Instant::now() + LIMIT;
    loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < until => sleep(Duration::from_millis(2)),
            Ok(Some(status)) => {
                debug!("{command:?}: {status}");
                return status.success();
            }
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return false;
            }
        }
    }
}
