//! The ovirt-imageio daemon and its tickets, controlled by `scripts/imageio`.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::run::{run, scratch, script, text, wait_until};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Https,
    Http,
}

/// The socket that the daemon offers to clients on its own host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalSocket {
    Path,
    Abstract,
    None,
}

#[derive(Debug)]
pub struct Daemon {
    dir: TempDir,
}

impl Daemon {
    pub fn start(scheme: Scheme, local: LocalSocket) -> Self {
        Self::start_release(scheme, local, "")
    }

    /// Starts another release, as `2.3.0`; an empty name is the usual one.
    pub fn start_release(scheme: Scheme, local: LocalSocket, release: &str) -> Self {
        let dir = scratch();
        let scheme = match scheme {
            Scheme::Https => "--tls",
            Scheme::Http => "--http",
        };
        let local = match local {
            LocalSocket::Path => "path",
            LocalSocket::Abstract => "abstract",
            LocalSocket::None => "none",
        };
        run(
            script("imageio")
                .arg("start")
                .arg(dir.path())
                .args([scheme, "--local", local])
                .env("RHV_MOUNT_IMAGEIO_RELEASE", release),
            60,
        )
        .ok();
        Self { dir }
    }

    /// The daemon's directory, which `scripts/imageio` takes as an argument.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn cafile(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    pub fn port(&self) -> u16 {
        text(&self.dir.path().join("port"))
            .trim()
            .parse()
            .expect("the daemon's port")
    }

    /// Returns `https://127.0.0.1:PORT`, or `http:` for a daemon without TLS.
    pub fn url(&self) -> String {
        text(&self.dir.path().join("url")).trim().to_owned()
    }

    pub fn log(&self) -> String {
        text(&self.dir.path().join("log"))
    }

    /// True once a connection over the local socket has carried written data and has been closed.
    pub fn has_written_locally(&self) -> bool {
        self.log()
            .lines()
            .any(|line| line.contains("CLOSE") && line.contains("client=local") && line.contains("[write "))
    }

    /// Adds a ticket with a random id and returns its URL. `options` have the names that the daemon uses.
    pub fn ticket(&self, options: &[(&str, &str)]) -> String {
        let id = fs::read_to_string("/proc/sys/kernel/random/uuid").expect("make an id");
        self.ticket_with_id(id.trim(), options)
    }

    /// Adds a ticket for `url` again after the daemon has lost the first one.
    pub fn ticket_again(&self, url: &str, options: &[(&str, &str)]) {
        self.ticket_with_id(url.rsplit('/').next().unwrap_or(url), options);
    }

    fn ticket_with_id(&self, id: &str, options: &[(&str, &str)]) -> String {
        let mut command = script("imageio");
        command.arg("ticket").arg(self.dir.path()).arg(id);
        for (name, value) in options {
            command.arg(format!("{name}={value}"));
        }
        run(&mut command, 30).ok().stdout.trim().to_owned()
    }

    /// Removes the ticket, as the engine does when a transfer ends.
    pub fn remove_ticket(&self, url: &str) {
        let id = url.rsplit('/').next().unwrap_or(url);
        run(script("imageio").arg("remove").arg(self.dir.path()).arg(id), 30).ok();
    }

    /// Returns the daemon's process while it runs.
    fn pid(&self) -> Option<Pid> {
        let pid = text(&self.dir.path().join("pid")).trim().parse().ok()?;
        let command = text(&PathBuf::from(format!("/proc/{pid}/cmdline")));
        command.contains("ovirt-imageio").then(|| Pid::from_raw(pid))
    }

    /// Simulates a crash: kills the daemon in the middle of its work.
    pub fn kill(&self) {
        let pid = self.pid().expect("the daemon runs");
        kill(pid, Signal::SIGKILL).expect("kill the daemon");
        wait_until("the killed daemon is gone", 60, || self.pid().is_none());
    }

    /// Starts it again after [`Self::kill`], on another port, as if another host now served its images.
    pub fn restart_elsewhere(&self) {
        let old = self.port();
        let mut command = script("imageio");
        command.arg("start").arg(self.dir.path());
        run(command.args(["--tls", "--local", "path"]), 60).ok();
        assert_ne!(self.port(), old, "the system assigned the same port again");
    }

    /// Starts it again after [`Self::kill`], with the same address and certificate but without any ticket.
    pub fn restart(&self) {
        run(script("imageio").arg("restart").arg(self.dir.path()), 60).ok();
    }

    pub fn stop(&self) {
        run(script("imageio").arg("stop").arg(self.dir.path()), 60).ok();
    }
}

impl Drop for Daemon {
    /// Kills the daemon, because its orderly shutdown takes two seconds; `stop` then only cleans up.
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        let _ = run(script("imageio").arg("stop").arg(self.dir.path()), 60);
    }
}
