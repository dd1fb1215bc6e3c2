//! The server side: an image, and what serves it to imageio.
//!
//! An image is read on this side only after its server has ended: qemu-nbd holds its lock and part of a qcow2 file's
//! tables until then.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::content::{random_image, sparse_image};
use super::run::{run, scratch, script, top, wait_until};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// qcow2 behind qemu-nbd: what oVirt does for qcow2 disks.
    Qcow2Nbd,
    /// raw behind qemu-nbd.
    RawNbd,
    /// A raw file that imageio opens itself: one writer, no extents.
    RawFile,
    /// Memory that takes 5 ms for each request, behind nbdkit: storage far away.
    Delayed,
}

#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// New: reads as zeros.
    Fresh,
    /// Random bytes everywhere.
    Used { seed: u64 },
    /// Data and holes, see `content`.
    Sparse { seed: u64 },
    /// What a raw file holds, zeros behind its end.
    File(&'a Path),
}

#[derive(Debug)]
pub struct Image {
    backend: Backend,
    path: PathBuf,
    delayed: Option<Child>,
    dir: TempDir,
}

impl Image {
    pub fn create(backend: Backend, size: u64, content: Content<'_>) -> Self {
        let dir = scratch();
        let raw = dir.path().join("image.raw");
        if backend == Backend::Delayed {
            assert!(matches!(content, Content::Fresh), "a delayed image is in memory");
            let delayed = Some(delayed_server(dir.path(), size));
            return Self {
                backend,
                path: raw,
                delayed,
                dir,
            };
        }
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
        let image = Self {
            backend,
            path,
            delayed: None,
            dir,
        };
        if backend != Backend::RawFile {
            let format = if backend == Backend::Qcow2Nbd {
                "qcow2"
            } else {
                "raw"
            };
            run(
                script("nbd")
                    .arg("start")
                    .arg(image.dir.path())
                    .arg(&image.path)
                    .arg(format),
                30,
            )
            .ok();
        }
        image
    }

    /// The URL that a ticket gives to imageio.
    pub fn url(&self) -> String {
        match self.backend {
            Backend::RawFile => format!("file://{}", self.path.display()),
            _ => format!("nbd:unix:{}", self.dir.path().join("nbd.sock").display()),
        }
    }

    /// The raw bytes as the storage has them. Ends the image's server.
    pub fn raw(&mut self) -> PathBuf {
        self.stop();
        match self.backend {
            Backend::RawNbd | Backend::RawFile => self.path.clone(),
            Backend::Delayed => panic!("a delayed image can't be read on the server side"),
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

    /// Ends the image's server, as storage that goes away.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.delayed.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if matches!(self.backend, Backend::Qcow2Nbd | Backend::RawNbd) {
            run(script("nbd").arg("stop").arg(self.dir.path()), 60).ok();
        }
    }

    /// A shell line that ends the image's server.
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
        if let Some(mut child) = self.delayed.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = run(script("nbd").arg("stop").arg(self.dir.path()), 60);
    }
}

fn delayed_server(dir: &Path, size: u64) -> Child {
    let socket = dir.join("nbd.sock");
    let child = Command::new("nbdkit")
        .args(["--foreground", "--unix"])
        .arg(&socket)
        .args([
            "--filter=delay",
            "memory",
            &format!("size={size}"),
            "rdelay=5ms",
            "wdelay=5ms",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start nbdkit");
    wait_until("nbdkit listens", 20, || socket.exists());
    child
}
