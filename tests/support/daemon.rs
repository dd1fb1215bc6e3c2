//! ovirt-imageio and its tickets, over `scripts/imageio`.

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
                .args([scheme, "--local", local]),
            60,
        )
        .ok();
        Self { dir }
    }

    /// What `scripts/imageio` takes.
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

    /// `https://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        text(&self.dir.path().join("url")).trim().to_owned()
    }

    pub fn log(&self) -> String {
        text(&self.dir.path().join("log"))
    }

    /// True when a connection over the local socket has carried data, and is closed by now.
    pub fn has_written_locally(&self) -> bool {
        self.log()
            .lines()
            .any(|line| line.contains("CLOSE") && line.contains("client=local") && line.contains("[write "))
    }

    /// A ticket with an id that nobody can guess; the daemon's own names for `options`. Gives its URL.
    pub fn ticket(&self, options: &[(&str, &str)]) -> String {
        let id = fs::read_to_string("/proc/sys/kernel/random/uuid").expect("make an id");
        self.ticket_with_id(id.trim(), options)
    }

    /// A ticket for a URL that was given out before: the daemon has lost it.
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

    /// Takes the ticket away, as the engine does when a transfer ends.
    pub fn remove_ticket(&self, url: &str) {
        let id = url.rsplit('/').next().unwrap_or(url);
        run(script("imageio").arg("remove").arg(self.dir.path()).arg(id), 30).ok();
    }

    /// Its process, where it is at work.
    fn pid(&self) -> Option<Pid> {
        let pid = text(&self.dir.path().join("pid")).trim().parse().ok()?;
        let command = text(&PathBuf::from(format!("/proc/{pid}/cmdline")));
        command.contains("ovirt-imageio").then(|| Pid::from_raw(pid))
    }

    /// A crash: it ends in the middle of whatever it does.
    pub fn kill(&self) {
        let pid = self.pid().expect("the daemon runs");
        kill(pid, Signal::SIGKILL).expect("kill the daemon");
        wait_until("the killed daemon is gone", 20, || self.pid().is_none());
    }

    /// Starts it once more after [`Self::kill`], at another address: as when another host serves its images.
    pub fn restart_elsewhere(&self) {
        let old = self.port();
        let mut command = script("imageio");
        command.arg("start").arg(self.dir.path());
        run(command.args(["--tls", "--local", "path"]), 60).ok();
        assert_ne!(self.port(), old, "the system has given it the same port again");
    }

    /// Starts it once more after [`Self::kill`]: the same address and certificate, and no ticket.
    pub fn restart(&self) {
        run(script("imageio").arg("restart").arg(self.dir.path()), 60).ok();
    }

    pub fn stop(&self) {
        run(script("imageio").arg("stop").arg(self.dir.path()), 60).ok();
    }
}

impl Drop for Daemon {
    /// Its orderly end takes it two seconds, for which nobody is left to care; `stop` then only tidies up.
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        let _ = run(script("imageio").arg("stop").arg(self.dir.path()), 60);
    }
}
