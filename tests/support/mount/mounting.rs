//! The builder of a mount: how it is started, by which user, and with which secrets.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::sync::Arc;

use super::program::{URL_VARIABLE, is_mounted};
use super::user::User;
use super::{Mount, START_SECONDS};
use crate::support::redaction::{secret_of, trace_to};
use crate::support::run::{Ran, run_with_output_in, scratch};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// An existing directory; the disk is the file `disk` in it.
    Directory,
    /// An existing regular file; the disk covers it.
    File,
    /// A path that does not exist yet.
    New,
}

/// The settings of a mount. `Mount::start` is the short form.
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

/// A source of secrets that come into being while the mount exists.
#[derive(Clone)]
pub struct MoreSecrets(pub Arc<dyn Fn() -> Vec<String> + Send + Sync>);

impl fmt::Debug for MoreSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MoreSecrets")
    }
}

impl Mounting {
    /// A mount of the disk behind the transfer URL `url`.
    pub fn new(url: &str) -> Self {
        let mounting = Self::without_url().secret(&secret_of(url));
        Self {
            url: Some(url.to_owned()),
            ..mounting
        }
    }

    /// A mount of a disk that the arguments or the environment name in another way.
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

    /// Adds a string that must not appear in anything that the mount writes.
    pub fn secret(mut self, secret: &str) -> Self {
        self.secrets.push(secret.to_owned());
        self
    }

    /// Does the same for the strings that `secrets` returns after the mount has ended.
    pub fn secrets_from(mut self, secrets: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Self {
        self.more = Some(MoreSecrets(Arc::new(secrets)));
        self
    }

    pub fn kind(mut self, kind: MountKind) -> Self {
        self.kind = kind;
        self
    }

    /// Mounts as the user `nobody`, through the setuid fusermount3; the test itself must be root.
    pub fn by_nobody(mut self) -> Self {
        self.nobody = true;
        self
    }

    /// Sets another log level than trace, for measurements: tracing costs time.
    pub fn log_level(mut self, level: &'static str) -> Self {
        self.log_level = level;
        self
    }

    /// Starts the mount, or panics with the reason why it did not start.
    #[track_caller]
    pub fn start(self) -> Mount {
        match self.try_start() {
            Ok(mount) => mount,
            Err(ran) => panic!("rhv-mount did not start: {ran}"),
        }
    }

    /// Starts the mount, or returns the output of an rhv-mount that refused; then nothing may be mounted.
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
