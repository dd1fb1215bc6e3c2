//! Finds who holds a mount that cannot end: the programs that have its file open, the loop devices over it,
//! and the other places where its file system is mounted (a bind mount, a container).
//!
//! The process that asks for the end looks, with the rights of its user: the one that serves the mount may
//! not look into other processes. No file is touched, since one of another mount may be on a server that
//! hangs: the kernel tells through which mount each was opened.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use super::loops;
use super::mount_table::mounts_of;
use super::record::Held;

/// Upper bound on the holders that are named.
const MAX_NAMED: usize = 8;

/// Returns a line for each holder of the file system `held` that this user may see.
pub(crate) fn holders(held: Held) -> Vec<String> {
    let device = held.device;
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
        if has_open(&directory, &mounts, held) {
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
    let devices = loops::over(held);
    devices.into_iter().chain(lines).take(MAX_NAMED).collect()
}

/// True when the process with this directory in `/proc` has a file of the file system open.
fn has_open(process: &Path, mounts: &HashMap<u64, ((u64, u64), PathBuf)>, held: Held) -> bool {
    let entries = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|fd| {
        let is_file = fs::read_link(&fd).is_ok_and(|target| target.is_absolute());
        let info = process.join("fdinfo").join(fd.file_name().unwrap_or_default());
        let Some(mount) = is_file.then(|| mount_of(&info)).flatten() else {
            return false;
        };
        match mounts.get(&mount) {
            Some((of, _)) => *of == held.device,
            // It was unmounted while it is open; its number stays its own until it is closed.
            None => mount == held.mount,
        }
    })
}

/// Reads the number of the mount through which a file was opened.
fn mount_of(info: &Path) -> Option<u64> {
    let text = fs::read_to_string(info).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
    line.trim().parse().ok()
}
