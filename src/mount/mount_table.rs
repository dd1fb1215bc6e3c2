//! The kernel's table of mounts: whether one of ours is on a path, which user mounted it, and whether its
//! process lives.
//!
//! Looking at a mount whose process is stuck would be stuck too. So the table is read instead, and a look
//! that cannot be avoided is made by a thread that nobody waits for longer than [`LOOK_LIMIT`].

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crossbeam::channel::bounded;

use super::record::Held;

/// A mount that does not say within this time whether it is dead counts as alive.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// True when an rhv-mount file system is mounted on exactly this path, dead or alive.
pub(crate) fn is_mounted(path: &Path) -> bool {
    mounted_by(path).is_some()
}

/// True when what is seen at exactly this path is an rhv-mount file system: nothing is mounted over it.
pub(crate) fn is_on_top(path: &Path) -> bool {
    let table = read_table();
    let table = String::from_utf8_lossy(&table);
    let top = table.lines().rev().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let target = mount.split(' ').nth(4).map(unescape)?;
        (Path::new(&target) == path).then_some(kind)
    });
    top.is_some_and(|kind| kind.starts_with("fuse.rhv-mount "))
}

/// Returns the user who mounted the rhv-mount file system on exactly this path, dead or alive.
pub(crate) fn mounted_by(path: &Path) -> Option<u32> {
    owner_in(&read_table(), path)
}

/// Returns the numbers of the rhv-mount file system on exactly this path.
pub(super) fn numbers_of(path: &Path) -> Option<Held> {
    numbers_in(&read_table(), path)
}

/// Finds the owner in the content of the table.
pub(crate) fn owner_in(table: &[u8], path: &Path) -> Option<u32> {
    find_in(table, path, |_, kind| {
        let options = kind.split(' ').nth(1)?;
        let user = options.split(',').find_map(|o| o.strip_prefix("user_id="))?;
        user.parse().ok()
    })
}

fn numbers_in(table: &[u8], path: &Path) -> Option<Held> {
    find_in(table, path, |mount, _| {
        let fields: Vec<&str> = mount.split(' ').take(3).collect();
        let (major, minor) = fields.get(2)?.split_once(':')?;
        Some(Held {
            device: (major.parse().ok()?, minor.parse().ok()?),
            mount: fields.first()?.parse().ok()?,
        })
    })
}

/// Asks `pick` for a fact about the topmost mount of ours on `path`: it gets the part of the line before the
/// dash, and source and options of the file system. Other mounts may have any bytes in their paths; ours are
/// UTF-8.
fn find_in<T>(table: &[u8], path: &Path, pick: impl Fn(&str, &str) -> Option<T>) -> Option<T> {
    let table = String::from_utf8_lossy(table);
    table.lines().rev().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let target = mount.split(' ').nth(4).map(unescape)?;
        let kind = kind.strip_prefix("fuse.rhv-mount ")?;
        (Path::new(&target) == path).then(|| pick(mount, kind))?
    })
}

/// Returns device number and path of every mount in the content of a table, by the number of the mount.
pub(super) fn mounts_of(table: &[u8]) -> HashMap<u64, ((u64, u64), PathBuf)> {
    let table = String::from_utf8_lossy(table);
    let mounts = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(' ').take(5).collect();
        let [number, _, device, _, path] = fields[..] else {
            return None;
        };
        let (major, minor) = device.split_once(':')?;
        let device = (major.parse().ok()?, minor.parse().ok()?);
        Some((number.parse().ok()?, (device, PathBuf::from(unescape(path)))))
    });
    mounts.collect()
}

fn read_table() -> Vec<u8> {
    fs::read("/proc/self/mountinfo").unwrap_or_default()
}

/// True when the process behind the mount on `path` is gone. A process that is there and does not answer
/// counts as alive.
pub(crate) fn is_dead(path: &Path) -> bool {
    let (done, looked) = bounded(1);
    let path = path.to_owned();
    let look = move || {
        let error = fs::metadata(path).err();
        let _ = done.send(error.and_then(|e| e.raw_os_error()) == Some(libc::ENOTCONN));
    };
    let spawned = std::thread::Builder::new().spawn(look);
    spawned.is_ok() && looked.recv_timeout(LOOK_LIMIT).unwrap_or(false)
}

/// Reads a path as the kernel writes it: blanks are `\040`.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut out = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok())
        {
            Some(byte) => {
                out.push(byte);
                out.extend(&part.as_bytes()[3..]);
            }
            None => {
                out.push(b'\\');
                out.extend(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_in_mount_paths_are_read_back() {
        assert_eq!(unescape(r"/mnt/a\040b\134c"), r"/mnt/a b\c");
        assert_eq!(unescape(r"/mnt/\9x"), r"/mnt/\9x");
    }

    #[test]
    fn another_mount_with_strange_bytes_hides_nothing() {
        let table = b"1 2 0:1 / /mnt/\xff rw - ext4 x rw\n\
                      3 2 0:2 / /mnt/a\\040b rw - fuse.rhv-mount r rw,user_id=7\n";
        assert_eq!(owner_in(table, Path::new("/mnt/a b")), Some(7));
        assert_eq!(owner_in(table, Path::new("/mnt/a")), None);
        let (device, mount) = ((0, 2), 3);
        assert_eq!(
            numbers_in(table, Path::new("/mnt/a b")),
            Some(Held { device, mount })
        );
        assert_eq!(mounts_of(table)[&3], ((0, 2), PathBuf::from("/mnt/a b")));
    }
}
