//! The kernel's table of mounts: whether one of ours is on a path, which user mounted it, and whether its
//! process lives.
//!
//! Looking at a mount whose process is stuck would be stuck too. So the table is read instead, and a look
//! that cannot be avoided is made by a thread that nobody waits for longer than [`LOOK_LIMIT`].

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crossbeam::channel::bounded;
use nix::sys::statfs::statfs;

use super::record::Held;

/// A mount that does not say within this time whether it is dead counts as alive.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// True when an rhv-mount file system is mounted on exactly this path, dead or alive.
pub(crate) fn is_mounted(path: &Path) -> bool {
    mounted_by(path).is_some()
}

/// True when what is seen at exactly this path is an rhv-mount file system: nothing is mounted over it.
pub(crate) fn is_on_top(path: &Path) -> bool {
    is_seen_at(path, None) == Some(true)
}

/// Tells whether the mount with the numbers `held`, or any of ours where they are not known, is at exactly
/// this path: `Some(true)` where nothing is mounted over it.
pub(super) fn is_seen_at(path: &Path, held: Option<Held>) -> Option<bool> {
    is_seen_in(&read_table(), path, held)
}

fn is_seen_in(table: &[u8], path: &Path, held: Option<Held>) -> Option<bool> {
    let mut at_path = lines(table).rev().filter(|line| line.path == path);
    let is_it = |line: &Line<'_>| match held {
        Some(held) => line.numbers == held,
        None => line.is_ours(),
    };
    at_path.position(|line| is_it(&line)).map(|over| over == 0)
}

/// True while the mount with the numbers `held` is in the tree, on whatever path.
pub(super) fn is_in_tree(held: Held) -> bool {
    lines(&read_table()).any(|line| line.numbers == held)
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
    topmost(table, path, |line| {
        let user = line
            .options
            .split(|byte| *byte == b',')
            .find_map(|option| option.strip_prefix(b"user_id="))?;
        number(user)
    })
}

fn numbers_in(table: &[u8], path: &Path) -> Option<Held> {
    topmost(table, path, |line| Some(line.numbers))
}

/// Asks `pick` for a fact about the topmost mount of ours on `path` of which it knows one.
fn topmost<T>(table: &[u8], path: &Path, pick: impl Fn(&Line<'_>) -> Option<T>) -> Option<T> {
    let mut ours = lines(table)
        .rev()
        .filter(|line| line.is_ours() && line.path == path);
    ours.find_map(|line| pick(&line))
}

/// Returns device number and path of every mount in the content of a table, by the number of the mount.
pub(super) fn mounts_of(table: &[u8]) -> HashMap<u64, ((u64, u64), PathBuf)> {
    let mounts = lines(table).map(|line| (line.numbers.mount, (line.numbers.device, line.path)));
    mounts.collect()
}

/// A line of the table, see proc_pid_mountinfo(5). Paths and sources are any bytes.
struct Line<'a> {
    numbers: Held,
    path: PathBuf,
    /// The type of the file system.
    kind: &'a [u8],
    /// The options of the file system.
    options: &'a [u8],
}

impl<'a> Line<'a> {
    fn of(line: &'a [u8]) -> Option<Line<'a>> {
        const DASH: &[u8] = b" - ";
        let dash = line.windows(DASH.len()).position(|three| three == DASH)?;
        let fields: Vec<&[u8]> = line[..dash].split(|byte| *byte == b' ').take(5).collect();
        let [mount, _, device, _, path] = fields[..] else {
            return None;
        };
        let colon = device.iter().position(|byte| *byte == b':')?;
        let mut system = line[dash + DASH.len()..].split(|byte| *byte == b' ');
        Some(Line {
            numbers: Held {
                device: (number(&device[..colon])?, number(&device[colon + 1..])?),
                mount: number(mount)?,
            },
            path: unescape(path),
            kind: system.next()?,
            options: system.nth(1).unwrap_or_default(),
        })
    }

    fn is_ours(&self) -> bool {
        self.kind == b"fuse.rhv-mount"
    }
}

fn lines(table: &[u8]) -> impl DoubleEndedIterator<Item = Line<'_>> {
    table.split(|byte| *byte == b'\n').filter_map(Line::of)
}

fn number<T: FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
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
        // The kernel may remember the attributes of a file for a while; it asks anew for the file system's.
        let error = fs::metadata(&path).and_then(|_| Ok(statfs(&path)?)).err();
        let _ = done.send(error.and_then(|e| e.raw_os_error()) == Some(libc::ENOTCONN));
    };
    let spawned = std::thread::Builder::new().spawn(look);
    spawned.is_ok() && looked.recv_timeout(LOOK_LIMIT).unwrap_or(false)
}

/// Reads a path as the kernel writes it: blanks are `\040`.
fn unescape(text: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| byte == b'\\').and_then(octal);
        out.push(code.unwrap_or(byte));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(out).into()
}

fn octal(digits: &[u8]) -> Option<u8> {
    let is_octal = digits.iter().all(|digit| (b'0'..=b'7').contains(digit));
    let text = std::str::from_utf8(digits).ok().filter(|_| is_octal)?;
    u8::from_str_radix(text, 8).ok()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn only_what_nothing_is_mounted_over_is_seen() {
        let line = |mount: u64, kind: &str| {
            format!("{mount} 1 0:{mount} / /mnt/x rw - {kind} source rw,user_id=0\n").into_bytes()
        };
        let held = |mount| Held {
            device: (0, mount),
            mount,
        };
        let (ours, path) = (line(40, "fuse.rhv-mount"), Path::new("/mnt/x"));
        assert_eq!(is_seen_in(&ours, path, Some(held(40))), Some(true));
        assert_eq!(is_seen_in(&ours, path, None), Some(true));
        let covered = [ours.clone(), line(41, "ext4")].concat();
        assert_eq!(is_seen_in(&covered, path, Some(held(40))), Some(false));
        assert_eq!(is_seen_in(&covered, path, None), Some(false));
        let later = line(42, "fuse.rhv-mount");
        assert_eq!(
            is_seen_in(&later, path, Some(held(40))),
            None,
            "it is another one"
        );
        assert_eq!(is_seen_in(&ours, Path::new("/mnt"), None), None);
    }

    #[test]
    fn blanks_in_mount_paths_are_read_back() {
        assert_eq!(unescape(br"/mnt/a\040b\134c"), Path::new(r"/mnt/a b\c"));
        assert_eq!(unescape(br"/mnt/\9x"), Path::new(r"/mnt/\9x"));
        assert_eq!(unescape(br"/mnt/\777\04"), Path::new(r"/mnt/\777\04"));
    }

    #[test]
    fn a_mount_whose_path_is_not_utf_8_is_found() {
        let path = Path::new(OsStr::from_bytes(b"/mnt/caf\xe9 1"));
        let table = b"3 2 0:2 / /mnt/caf\xe9\\0401 rw - fuse.rhv-mount r\xe9 rw,user_id=7\n";
        assert_eq!(owner_in(table, path), Some(7));
        assert_eq!(mounts_of(table)[&3].1, path);
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
