//! A remote disk as a test sees it: an image that imageio serves under a ticket of the image's size.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::content::compare;
use super::daemon::Daemon;
use super::image::{Backend, Content, Image};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    ReadWrite,
    ReadOnly,
}

#[derive(Debug)]
pub struct Disk {
    size: u64,
    url: String,
    ops: &'static str,
    cafile: PathBuf,
    image: Image,
}

impl Disk {
    pub fn create(daemon: &Daemon, backend: Backend, size: u64, content: Content<'_>) -> Self {
        Self::with(daemon, backend, size, content, Access::ReadWrite)
    }

    pub fn read_only(daemon: &Daemon, backend: Backend, size: u64, content: Content<'_>) -> Self {
        Self::with(daemon, backend, size, content, Access::ReadOnly)
    }

    fn with(daemon: &Daemon, backend: Backend, size: u64, content: Content<'_>, access: Access) -> Self {
        let image = Image::create(backend, size, content);
        let ops = match access {
            Access::ReadWrite => "read,write",
            Access::ReadOnly => "read",
        };
        let mut disk = Self {
            size,
            url: String::new(),
            ops,
            cafile: daemon.cafile(),
            image,
        };
        disk.url = disk.with_options(|options| daemon.ticket(options));
        disk
    }

    fn with_options<T>(&self, use_them: impl FnOnce(&[(&str, &str)]) -> T) -> T {
        use_them(&[
            ("url", &self.image.url()),
            ("size", &self.size.to_string()),
            ("ops", self.ops),
            ("sparse", "true"),
            ("transfer_id", "a-test"),
        ])
    }

    /// Adds the same ticket again to a daemon that has lost it.
    pub fn grant_again(&self, daemon: &Daemon) {
        self.with_options(|options| daemon.ticket_again(&self.url, options));
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the transfer URL, the secret that a mount needs.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the options that a mount of this disk needs.
    pub fn args(&self) -> Vec<OsString> {
        vec!["--cafile".into(), self.cafile.clone().into()]
    }

    /// Returns a file with the raw bytes that the storage holds, read without a mount. Stops the storage's
    /// server.
    pub fn server_side(&mut self) -> PathBuf {
        self.image.raw()
    }

    /// Checks that the storage holds `source` and only zeros behind it.
    pub fn compare_with(&mut self, source: &Path) -> Result<(), String> {
        compare(&self.server_side(), source)
    }

    pub fn image(&mut self) -> &mut Image {
        &mut self.image
    }

    /// Stops the storage's server while the disk is mounted.
    pub fn stop_storage(&mut self) {
        self.image.stop();
    }

    /// Returns `stop_storage` as a shell line, for a program that runs on the mount.
    pub fn stop_line(&self) -> String {
        self.image.stop_line()
    }
}
