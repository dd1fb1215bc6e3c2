//! Finds who holds a mount that cannot end: the programs that have its file open, and the other places where
//! its file system is mounted (a bind mount, a container).
//!
//! The process that asks for the end looks, with the rights of its user: the one that serves the mount may
//! not look into other processes. A file of a mount that is in the table is not touched, since it may be on a
//! server that hangs; one that is in no table any more is looked at for a moment.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crossbeam::channel::bounded;
use nix::sys::stat::{major, minor};

use super::mount_table::mounts_of;
use crate::process::spawn;

/// Upper bound on the holders that are named.
const MAX_NAMED: usize = 8;

/// Longest look at a file of a mount that is in no table any more.
const LOOK_LIMIT: Duration = Duration::from_secs(1);

/// Returns a line for each holder of the file system with this device number, major and minor, that this user
/// may see.
pub(crate) fn holders(device: (u64, u64)) -> Vec<String> {
    let mut lines = BTreeSet::new();
    let mut namespaces = BTreeSet::new();
    let me = fs::read_link("/proc/self/ns/mnt").ok();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let directory = process.path();
        let name = fs::read_to_string(directory.join("comm")).unwrap_or_default();
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        if pid == std::process::id() {
            continue;
        }
        let who = format!("process {pid} ({})", name.trim());
        let table = fs::read(directory.join("mountinfo")).unwrap_or_default();
        let mounts = mounts_of(&table);
        let namespace = fs::read_link(directory.join("ns/mnt")).ok();
        // Without its name, a namespace may be this process's own.
        if namespace.is_some() && namespaces.insert(namespace.clone()) {
            let ours = mounts.values().filter(|(of, _)| *of == device);
            lines.extend(ours.map(|(_, path)| match namespace == me {
                true => format!("it is mounted on {}", path.display()),
                false => format!(
                    "it is mounted on {} in the mount namespace of {who}",
                    path.display()
                ),
            }));
        }
        if has_open(&directory, &mounts, device) {
            lines.insert(format!("{who} has the file open"));
        }
        let at = fs::read_link(directory.join("cwd")).unwrap_or_default();
        if mounts
            .values()
            .any(|(of, path)| *of == device && at.starts_with(path))
        {
            lines.insert(format!("{who} is in the directory"));
        }
    }
    lines.into_iter().take(MAX_NAMED).collect()
}

/// True when the process with this directory in `/proc` has a file of the device open.
fn has_open(process: &Path, mounts: &HashMap<u64, ((u64, u64), PathBuf)>, device: (u64, u64)) -> bool {
    let entries = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|fd| {
        let is_file = fs::read_link(&fd).is_ok_and(|target| target.is_absolute());
        let info = process.join("fdinfo").join(fd.file_name().unwrap_or_default());
        let Some(mount) = is_file.then(|| mount_of(&info)).flatten() else {
            return false;
        };
        match mounts.get(&mount) {
            Some((of, _)) => *of == device,
            // It was unmounted while it is open.
            None => is_on(fd, device),
        }
    })
}

/// Reads the number of the mount through which a file was opened.
fn mount_of(info: &Path) -> Option<u64> {
    let text = fs::read_to_string(info).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
    line.trim().parse().ok()
}

fn is_on(fd: PathBuf, device: (u64, u64)) -> bool {
    let (done, looked) = bounded(1);
    let look = move || drop(done.send(fs::metadata(fd).map(|meta| meta.dev())));
    let found = spawn("look", look)
        .ok()
        .and_then(|_| looked.recv_timeout(LOOK_LIMIT).ok());
    matches!(found, Some(Ok(dev)) if (major(dev), minor(dev)) == device)
}
