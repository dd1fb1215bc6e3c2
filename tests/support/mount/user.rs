//! Another user, for mounts through the setuid fusermount3.

use std::ffi::OsStr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::program::BINARY;
use crate::support::run::run;

/// Another user, with a copy of the program in a directory that this user can reach.
#[derive(Debug)]
pub struct User {
    pub program: PathBuf,
    id: u32,
    group: u32,
}

impl User {
    pub fn nobody(dir: &Path, target: &Path) -> Self {
        let nobody = nix::unistd::User::from_name("nobody")
            .expect("look up nobody")
            .expect("nobody exists");
        let (id, group) = (nobody.uid.as_raw(), nobody.gid.as_raw());
        let program = dir.join("rhv-mount");
        // A child process makes the copy. If this process had it open for writing, the fork of another test
        // could inherit the descriptor, and executing the copy would fail with "text file busy".
        run(
            Command::new("install").args(["-m", "755", BINARY]).arg(&program),
            20,
        )
        .ok();
        chown(dir, Some(id), Some(group)).expect("give the directory to nobody");
        if target.exists() {
            chown(target, Some(id), Some(group)).expect("give the mountpoint to nobody");
        }
        Self { program, id, group }
    }

    pub fn command(&self, program: &OsStr) -> Command {
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid",
            &self.id.to_string(),
            "--regid",
            &self.group.to_string(),
            "--clear-groups",
            "--",
        ]);
        command
            .arg(program)
            .env_remove("XDG_RUNTIME_DIR")
            .env("HOME", "/nonexistent");
        command
    }
}
