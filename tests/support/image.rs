//! The server side: an image, and the NBD server that serves it to imageio.
//!
//! An image is read on this side only after its server has ended: until then qemu-nbd holds the image's lock
//! and keeps part of a qcow2 file's tables in memory.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::content::{random_image, sparse_image};
use super::run::{run, scratch, script, text, top, wait_until};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// A qcow2 file behind qemu-nbd, as oVirt serves qcow2 disks.
    Qcow2Nbd,
    /// A raw file behind qemu-nbd.
    RawNbd,
    /// A raw file that imageio opens itself; it allows one writer and has no extents.
    RawFile,
    /// A raw file behind nbdkit that can be made to fail; see [`Image::break_storage`].
    Failing,
}

#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// A new disk, which reads as zeros.
    Fresh,
    /// A used disk: random bytes everywhere.
    Used { seed: u64 },
    /// Data and holes; see `content`.
    Sparse { seed: u64 },
    /// The bytes of a raw file, and zeros behind its end.
    File(&'a Path),
}

#[derive(Debug)]
pub struct Image {
    backend: Backend,
    path: PathBuf,
    nbdkit: Option<Child>,
    dir: TempDir,
}

impl Image {
    pub fn create(backend: Backend, size: u64, content: Content<'_>) -> Self {
        let dir = scratch();
        let raw = dir.path().join("image.raw");
        match content {
            Content::Fresh => {}
            Content::Used { seed } => random_image(&raw, size, seed),
            Content::Sparse { seed } => sparse_image(&raw, size, seed),
            Content::File(source) => {
                run(
                    Command::new("cp").args(["--sparse=always"]).arg(source).arg(&raw),
                    60,
                )
                .ok();
            }
        }
        std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&raw)
            .and_then(|file| file.set_len(size))
            .expect("size a raw image");
        let mut path = raw.clone();
        if backend == Backend::Qcow2Nbd {
            path = dir.path().join("image.qcow2");
            let convert = ["convert", "-f", "raw", "-O", "qcow2"];
            run(Command::new("qemu-img").args(convert).arg(&raw).arg(&path), 120).ok();
            std::fs::remove_file(&raw).expect("remove the raw image");
        }
        let mut image = Self {
            backend,
            path,
            nbdkit: None,
            dir,
        };
        image.start_server();
        image
    }

    /// Starts the image's server, also after `kill_server`.
    pub fn start_server(&mut self) {
        let format = match self.backend {
            Backend::Qcow2Nbd => "qcow2",
            Backend::RawNbd => "raw",
            Backend::RawFile => return,
            Backend::Failing => {
                let file = ["file", &self.path.display().to_string()];
                let armed = format!("error-file={}", self.broken_mark().display());
                let how = ["error=EIO", "error-rate=100%", &armed];
                self.nbdkit = Some(nbdkit(self.dir.path(), "error", &file, &how));
                return;
            }
        };
        let mut start = script("nbd");
        start
            .arg("start")
            .arg(self.dir.path())
            .arg(&self.path)
            .arg(format);
        run(&mut start, 30).ok();
    }

    /// Simulates a crash of the image's server: kills qemu-nbd.
    pub fn kill_server(&self) {
        let pid = text(&self.dir.path().join("nbd.pid"));
        let pid: i32 = pid.trim().parse().expect("the pid of qemu-nbd");
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill qemu-nbd");
        // Nothing runs any more. This only removes the pid file, which stands for a listening server.
        run(script("nbd").arg("stop").arg(self.dir.path()), 60).ok();
    }

    /// Makes every read, write and zero of a `Backend::Failing` fail with EIO from now on.
    pub fn break_storage(&self) {
        File::create(self.broken_mark()).expect("arm the errors");
    }

    pub fn mend_storage(&self) {
        std::fs::remove_file(self.broken_mark()).expect("disarm the errors");
    }

    fn broken_mark(&self) -> PathBuf {
        self.dir.path().join("broken")
    }

    /// Returns the URL under which imageio finds the image; the ticket names it.
    pub fn url(&self) -> String {
        match self.backend {
            Backend::RawFile => format!("file://{}", self.path.display()),
            _ => format!("nbd:unix:{}", self.dir.path().join("nbd.sock").display()),
        }
    }

    /// Returns a file with the raw bytes that the storage holds. Stops the image's server.
    pub fn raw(&mut self) -> PathBuf {
        self.stop();
        match self.backend {
            Backend::RawNbd | Backend::RawFile | Backend::Failing => self.path.clone(),
            Backend::Qcow2Nbd => {
                let raw = self.dir.path().join("image.raw");
                run(
                    Command::new("qemu-img")
                        .args(["check", "-q", "-f", "qcow2"])
                        .arg(&self.path),
                    60,
                )
                .ok();
                let convert = ["convert", "-f", "qcow2", "-O", "raw"];
                run(
                    Command::new("qemu-img").args(convert).arg(&self.path).arg(&raw),
                    120,
                )
                .ok();
                raw
            }
        }
    }

    /// Stops the image's server, as if the storage went away.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.nbdkit.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if matches!(self.backend, Backend::Qcow2Nbd | Backend::RawNbd) {
            run(script("nbd").arg("stop").arg(self.dir.path()), 60).ok();
        }
    }

    /// Returns a shell line that stops the image's server.
    pub fn stop_line(&self) -> String {
        format!(
            "'{}' stop '{}'",
            top().join("scripts/nbd").display(),
            self.dir.path().display()
        )
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if let Some(mut child) = self.nbdkit.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = run(script("nbd").arg("stop").arg(self.dir.path()), 60);
    }
}

/// Starts nbdkit with `filter` on top of `plugin`; `options` belong to the filter.
fn nbdkit(dir: &Path, filter: &str, plugin: &[&str], options: &[&str]) -> Child {
    let socket = dir.join("nbd.sock");
    let child = Command::new("nbdkit")
        .args(["--foreground", "--unix"])
        .arg(&socket)
        .arg(format!("--filter={filter}"))
        .args(plugin)
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start nbdkit");
    wait_until("nbdkit listens", 60, || socket.exists());
    child
}
