//! The loop devices over a mounted file. The kernel itself has the file open then, and no process shows it:
//! `/sys/block/loopN/loop/backing_file` does, by the path that the file has now.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::mount_table::mounts_of;
use super::record::Held;
use crate::shell;

/// Returns a line for each loop device over a file of the file system `held`, with what detaches it.
pub(super) fn over(held: Held) -> Vec<String> {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mounts: Vec<((u64, u64), PathBuf)> = mounts_of(&table).into_values().collect();
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let mut lines: Vec<String> = entries
        .filter_map(|entry| {
            let directory = entry.path();
            let file = backing_file(&directory)?;
            if !is_of(&file, held, &mounts) {
                return None;
            }
            let device = format!("/dev/{}", entry.file_name().to_string_lossy());
            let numbers = device_numbers(&directory);
            let used = mounts.iter().find(|(device, _)| numbers.contains(device));
            Some(match used {
                Some((_, path)) => format!(
                    "the loop device {device} has the file open, and is mounted on {}: `umount {}`, then \
                     `losetup -d {device}`",
                    path.display(),
                    shell::word(path)
                ),
                None => {
                    format!("the loop device {device} has the file open: `losetup -d {device}` detaches it")
                }
            })
        })
        .collect();
    lines.sort();
    lines
}

/// Reads the path of the file behind the block device with this directory in `/sys/block`; `None` for one
/// that is no loop device, or a free one.
fn backing_file(directory: &Path) -> Option<PathBuf> {
    let mut path = fs::read(directory.join("loop/backing_file")).ok()?;
    while path.last() == Some(&b'\n') {
        path.pop();
    }
    Some(OsString::from_vec(path).into())
}

/// True for a file of the file system `held`. While that is in no tree that is seen here, its files have
/// paths that begin at its own root: `/disk`.
fn is_of(file: &Path, held: Held, mounts: &[((u64, u64), PathBuf)]) -> bool {
    let mut ours = mounts
        .iter()
        .filter(|(device, _)| *device == held.device)
        .peekable();
    match ours.peek() {
        Some(_) => ours.any(|(_, path)| file.starts_with(path)),
        None => {
            let is_at_root = file.parent().is_none_or(|parent| parent == Path::new("/"));
            is_at_root && (file == Path::new("/") || file.symlink_metadata().is_err())
        }
    }
}

/// Returns the numbers of a block device and of its partitions.
fn device_numbers(directory: &Path) -> Vec<(u64, u64)> {
    let partitions = fs::read_dir(directory).into_iter().flatten().flatten();
    let partitions = partitions.map(|entry| entry.path().join("dev"));
    let files = std::iter::once(directory.join("dev")).chain(partitions);
    files
        .filter_map(|file| {
            let text = fs::read_to_string(file).ok()?;
            let (major, minor) = text.trim().split_once(':')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_by_the_mount_that_it_is_below() {
        let held = Held {
            device: (0, 7),
            mount: 3,
        };
        let mounts =
            [((0, 7), "/mnt/a"), ((0, 8), "/mnt")].map(|(device, path)| (device, PathBuf::from(path)));
        let is_ours = |file: &str| is_of(Path::new(file), held, &mounts);
        assert!(is_ours("/mnt/a/disk") && is_ours("/mnt/a"));
        assert!(!is_ours("/mnt/ab/disk") && !is_ours("/mnt/disk") && !is_ours("/no-such-file"));
        let detached = |file: &str| is_of(Path::new(file), held, &mounts[1..]);
        assert!(detached("/no-such-file") && detached("/"));
        assert!(!detached("/etc") && !detached("/mnt/a/disk"));
    }
}
