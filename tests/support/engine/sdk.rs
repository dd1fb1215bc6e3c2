//! The SDK's own example of a backup, as people run it. `scripts/setup test` installs it; nothing of it is in
//! this repository.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Engine, PASSWORD, USER, write_private};
use crate::support::run::{run, top};

impl Engine {
    /// Backs a VM up into `dir` with the SDK's example, in full or since a checkpoint; returns the new files,
    /// named `TIME.CHECKPOINT.DISK.MODE.qcow2`.
    #[track_caller]
    pub fn sdk_backup(&self, vm: &str, dir: &Path, since: Option<&str>) -> Vec<PathBuf> {
        let home = self.dir.path().join("sdk");
        let configuration = home.join(".config/ovirt.conf");
        fs::create_dir_all(home.join(".config")).expect("make the SDK's home");
        let lines = format!(
            "[engine]\nengine_url = {}\nusername = {USER}\npassword = {PASSWORD}\ncafile = {}\n",
            self.url(),
            self.cafile().display()
        );
        write_private(&configuration, &lines);
        let before = files(dir);
        let mut command = Command::new(top().join("target/venv/bin/python"));
        command
            .arg("-B")
            .arg(top().join("target/sdk/examples/backup_vm.py"))
            .args(["-c", "engine", "--logfile"])
            .arg(home.join("log"))
            .arg(if since.is_some() { "incremental" } else { "full" })
            .args([vm, "--backup-dir"])
            .arg(dir)
            .env("HOME", &home);
        if let Some(checkpoint) = since {
            command.args(["--from-checkpoint-uuid", checkpoint]);
        }
        run(&mut command, 240).ok();
        let mut new = files(dir);
        new.retain(|file| !before.contains(file));
        new
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("the directory of backups");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a backup").path()).collect();
    files.sort();
    files
}
