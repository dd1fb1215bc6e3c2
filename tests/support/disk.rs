//! A remote disk as a test sees it: an image, served by imageio under a ticket of the image's size.

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

    /// The same ticket, for a daemon that has lost it.
    pub fn grant_again(&self, daemon: &Daemon) {
        self.with_options(|options| daemon.ticket_again(&self.url, options));
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// The transfer URL: the secret that a mount needs.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The options that a mount of this disk needs.
    pub fn args(&self) -> Vec<OsString> {
        vec!["--cafile".into(), self.cafile.clone().into()]
    }

    /// The disk's raw bytes as the storage has them, not through a mount. Ends the storage's server.
    pub fn server_side(&mut self) -> PathBuf {
        self.image.raw()
    }

    /// Does the storage hold `source`, and zeros after it?
    pub fn compare_with(&mut self, source: &Path) -> Result<(), String> {
        compare(&self.server_side(), source)
    }

    /// The storage behind it.
    pub fn image(&mut self) -> &mut Image {
        &mut self.image
    }

    /// Ends the storage's server under a mount.
    pub fn stop_storage(&mut self) {
        self.image.stop();
    }

    /// The same as a shell line, for a program that runs on the mount.
    pub fn stop_line(&self) -> String {
        self.image.stop_line()
    }
}
