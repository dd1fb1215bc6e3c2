//! The three kinds of mountpoint, and every reason to refuse one before anything is mounted.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, Uid, access};
use parking_lot::Mutex;
use tracing::warn;

use super::mount_table::{is_dead, is_mounted, mounted_by};
use super::record::Place;
use crate::failure::{Exit, Failure};
use crate::fuse::{Beside, Content, MountError, Tree, unmount};
use crate::output::tell;
use crate::process::identity::start_of;
use crate::process::rights;
use crate::process::runtime_directory::{self, key_of};
use crate::settings::{Settings, Shown};
use crate::shell;

/// A path that can be mounted on. A file made for it is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Mountpoint {
    /// The canonical path.
    pub(crate) path: PathBuf,
    /// The path that users of the file open; the directory's where it holds several.
    pub(crate) file: PathBuf,
    /// The path is a directory that holds the files; else it is the file itself.
    is_directory: bool,
    /// Device and inode of what is mounted on.
    seen: (u64, u64),
    /// Device and inode of the file that we made, until it is removed.
    made: Mutex<Option<(u64, u64)>>,
}

fn refuse(path: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::text(Exit::Mount, format!("cannot mount on {}: {why}", path.display()))
}

impl Mountpoint {
    /// Checks `settings.mountpoint`, and makes the file where there is nothing.
    pub(crate) fn prepare(settings: &Settings) -> Result<Self, Failure> {
        let path = canonical(&settings.mountpoint).map_err(|e| refuse(&settings.mountpoint, e))?;
        let shown = shell::word(&path);
        let in_use = || {
            refuse(
                &path,
                format!(
                    "a disk is already mounted there; see `rhv-mount status {shown}`, end it with `rhv-mount \
                     umount {shown}`"
                ),
            )
        };
        // A look at a mount whose process is stuck would be stuck too.
        if is_mounted(&path) && !is_dead(&path) && !dies(&path) {
            return Err(in_use());
        }
        let mut meta = fs::metadata(&path);
        while meta
            .as_ref()
            .is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN))
            || is_mounted(&path) && is_dead(&path)
        {
            clear_dead_mount(&path, settings.remount)?;
            meta = fs::metadata(&path);
        }
        if is_mounted(&path) {
            return Err(in_use());
        }
        let has_several = matches!(settings.disk.source, Shown::OfVm(_));
        let (is_directory, seen, made) = match meta {
            Ok(meta) if meta.is_dir() => (true, (meta.dev(), meta.ino()), None),
            Err(e) if has_several && e.kind() == io::ErrorKind::NotFound => {
                return Err(refuse(
                    &path,
                    format!(
                        "--vm shows the disks in a directory, and there is none: `mkdir {shown}` makes it"
                    ),
                ));
            }
            Ok(_) if has_several => {
                return Err(refuse(
                    &path,
                    "--vm shows the disks in a directory, and it is none; name an empty one",
                ));
            }
            Ok(meta) if meta.is_file() => {
                check_unused(&path, &meta)?;
                (false, (meta.dev(), meta.ino()), None)
            }
            Ok(_) => return Err(refuse(&path, "it is neither a directory nor a regular file")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&path)
                    .and_then(|file| file.metadata())
                    .map_err(|e| refuse(&path, format!("it does not exist and cannot be made: {e}")))?;
                let seen = (file.dev(), file.ino());
                (false, seen, Some(seen))
            }
            Err(e) => return Err(refuse(&path, e)),
        };
        // From here on a file that was made is removed by drop.
        let mountpoint = Mountpoint {
            file: match is_directory && !has_several {
                true => path.join(&settings.file_name),
                false => path.clone(),
            },
            path,
            is_directory,
            seen,
            made: Mutex::new(made),
        };
        mountpoint.check(settings.nonempty)?;
        Ok(mountpoint)
    }

    fn check(&self, nonempty: bool) -> Result<(), Failure> {
        let path = &self.path;
        if self.is_directory && !nonempty {
            let mut entries = fs::read_dir(path).map_err(|e| refuse(path, e))?;
            if entries.next().is_some() {
                return Err(refuse(
                    path,
                    "the directory is not empty, and its files would be hidden; use an empty one, or -o \
                     nonempty",
                ));
            }
        }
        if access(path, AccessFlags::W_OK).is_err() {
            return Err(refuse(
                path,
                "it is not writable for you; use a file or directory of your own",
            ));
        }
        Ok(())
    }
}

impl Mountpoint {
    /// Looks once more, just before the mount: opening the disks has taken its time, and the path may lead
    /// elsewhere by now, or somebody may have begun to use what it leads to. Returns a descriptor of that,
    /// for a mount that no link can lead elsewhere any more.
    pub(super) fn look_again(&self) -> Result<File, Failure> {
        let (path, seen, is_made) = (self.path.clone(), self.seen, self.is_made());
        let is_directory = self.is_directory;
        rights::with(move || {
            let refused = |why: &str| refuse(&path, format!("{why}, while the disk was opened"));
            let flags = libc::O_PATH | libc::O_NOFOLLOW;
            let opened = OpenOptions::new().read(true).custom_flags(flags).open(&path);
            let file = opened.map_err(|e| refused(&format!("it was taken away ({e})")))?;
            let meta = file.metadata().map_err(|e| refuse(&path, e))?;
            let leads_to = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
            // The number of a file that is gone may be a new one's.
            let is_same_kind = (meta.is_dir(), meta.is_file()) == (is_directory, !is_directory);
            let is_there = leads_to.is_ok_and(|there| there == path);
            if (meta.dev(), meta.ino()) != seen || !is_same_kind || !is_there {
                return Err(refused("something else was put there"));
            }
            if meta.is_file() {
                check_unused(&path, &meta)?;
            }
            if is_made && meta.len() > 0 {
                return Err(refused("somebody has written into it"));
            }
            Ok(file)
        })
    }

    /// True for a directory that holds the files.
    pub(super) fn is_directory(&self) -> bool {
        self.is_directory
    }

    /// The path of the file with this name.
    pub(super) fn path_of(&self, name: &OsStr) -> PathBuf {
        match self.is_directory {
            true => self.path.join(name),
            false => self.path.clone(),
        }
    }

    /// Lays `files`, at least one, out for this kind of mountpoint; a directory has what is told beside them.
    pub(super) fn tree(&self, mut files: Vec<(OsString, Content)>, beside: Beside) -> Tree {
        match (self.is_directory, files.pop()) {
            (false, Some((_, Content::Disk(disk)))) => Tree::File(disk),
            (_, last) => {
                files.extend(last);
                Tree::Directory(files, beside)
            }
        }
    }

    /// True while there is a file that we made.
    pub(crate) fn is_made(&self) -> bool {
        self.made.lock().is_some()
    }

    /// Removes the file that we made, once: a later file there is somebody else's.
    pub(crate) fn remove_made(&self) {
        let mut made = self.made.lock();
        let Some(ours) = *made else { return };
        if is_mounted(&self.path) {
            return;
        }
        // Its directory may be one that only its owner can enter.
        let path = self.path.clone();
        match rights::with(move || fs::symlink_metadata(path)) {
            Ok(meta) if (meta.dev(), meta.ino()) == ours => remove_placeholder(&self.path),
            Err(e) if e.kind() != io::ErrorKind::NotFound => return,
            Ok(_) | Err(_) => {}
        }
        *made = None;
    }
}

impl Drop for Mountpoint {
    fn drop(&mut self) {
        self.remove_made();
    }
}

/// True when the process behind the mount on `path` was just killed: it is waited for, as it lets go of its
/// files one after the other.
fn dies(path: &Path) -> bool {
    let directory =
        mounted_by(path).and_then(|owner| runtime_directory::directory_of(Uid::from_raw(owner)).ok());
    let record = directory.and_then(|directory| Place::of(&directory, path).record());
    let pid = record.and_then(|record| record.pid_here());
    pid.is_some_and(|pid| start_of(pid).is_none()) && is_dead(path)
}

/// Takes a mount whose process is gone out of the way, where `wanted`, with what it has left beside the tree.
fn clear_dead_mount(path: &Path, wanted: bool) -> Result<(), Failure> {
    let shown = shell::word(path);
    let Some(owner) = mounted_by(path) else {
        // Somebody else may have taken it out of the tree just now.
        if fs::metadata(path).is_ok() {
            return Ok(());
        }
        return Err(refuse(
            path,
            format!(
                "a mount of another program whose process died is in the way; remove it with `fusermount3 \
                 -uz {shown}`, or as root with `umount -l {shown}`"
            ),
        ));
    };
    if !wanted {
        return Err(refuse(
            path,
            format!(
                "a mount whose process died is in the way; remove it with `rhv-mount umount {shown}`, or \
                 mount with --remount"
            ),
        ));
    }
    let directory = runtime_directory::directory_of(Uid::from_raw(owner)).ok();
    let place = directory.map(|directory| Place::of(&directory, path));
    // A `recover` or `umount` may remove it at the same time.
    let record = place.as_ref().and_then(Place::record);
    take_out(path, true)?;
    if let Some(place) = place.filter(|place| !place.stays_served()) {
        place.clear();
        if record.as_ref().is_some_and(|record| record.created) {
            remove_placeholder(path);
        }
    }
    let lost = match record.is_some_and(|record| record.read_only) {
        true => "",
        false => "; what was written to it since the last fsync may be lost",
    };
    tell(format_args!(
        "WARNING: {}: the dead mount is removed (--remount){lost}",
        path.display()
    ));
    Ok(())
}

/// Unmounts `path`, see [`unmount`]; somebody else may do so first, and that is no error.
pub(crate) fn take_out(path: &Path, lazy: bool) -> Result<(), MountError> {
    match unmount(path, lazy) {
        Err(_) if !is_mounted(path) => Ok(()),
        unmounted => unmounted,
    }
}

/// Removes a file that was made to be mounted on. A file that has content, or that somebody has open and may
/// write into, stays: it is not the one that we made any more.
pub(crate) fn remove_placeholder(path: &Path) {
    let path = path.to_owned();
    rights::with(move || {
        if !is_empty_file(&path) || is_mounted(&path) {
            return;
        }
        // The file's own name may be as long as a name can be.
        let aside = format!(".rhv-mount-{}-{}", key_of(&path), std::process::id());
        let aside = path.with_file_name(aside);
        // Nobody finds it by its name any more; an earlier user has it open, or has written into it.
        if aside.symlink_metadata().is_ok() || fs::rename(&path, &aside).is_err() {
            return;
        }
        let is_unused = || fs::symlink_metadata(&aside).is_ok_and(|meta| check_unused(&aside, &meta).is_ok());
        if is_left_empty(&aside, is_unused) {
            let _ = fs::remove_file(&aside);
            return;
        }
        // A link never replaces another file; some file systems have no links.
        let back = fs::hard_link(&aside, &path).and_then(|()| fs::remove_file(&aside));
        let back = back.or_else(|e| match path.symlink_metadata() {
            Err(_) => fs::rename(&aside, &path),
            Ok(_) => Err(e),
        });
        if let Err(e) = back {
            warn!(
                "what was written into {} after the unmount is in {}: {e}",
                path.display(),
                aside.display()
            );
        }
    });
}

fn is_empty_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() == 0)
}

/// True when nobody uses the file that has got the name `path`, and nothing was written into it. A program
/// may write and close it while `is_unused` looks, so only its size after that counts.
fn is_left_empty(path: &Path, is_unused: impl FnOnce() -> bool) -> bool {
    is_unused() && is_empty_file(path)
}

/// Returns the path with the links of its directory resolved. The last part is resolved only where that is
/// possible: it may not exist, or be a dead mount that nothing can look at.
pub(crate) fn canonical(path: &Path) -> io::Result<PathBuf> {
    // The components have no slash at the end.
    let whole: PathBuf = std::path::absolute(path)?.components().collect();
    // A look into a mount whose process is stuck would be stuck too, and the table of mounts has no links.
    if is_mounted(&whole) || whole.parent().is_some_and(is_mounted) {
        return Ok(whole);
    }
    if let Ok(whole) = fs::canonicalize(path) {
        return Ok(whole);
    }
    let path = whole;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(path);
    };
    let parent = fs::canonicalize(parent)
        .map_err(|e| io::Error::new(e.kind(), format!("its directory {}: {e}", parent.display())))?;
    Ok(parent.join(name))
}

/// Refuses a file that a process has open: it would go on being used under the mount.
fn check_unused(path: &Path, meta: &fs::Metadata) -> Result<(), Failure> {
    let me = std::process::id();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        if pid == me {
            continue;
        }
        for fd in fs::read_dir(process.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten()
        {
            // Only a file with our name is looked at: any other one may be on a server that hangs.
            let named = fs::read_link(fd.path()).is_ok_and(|target| target == path);
            let same = |open: fs::Metadata| open.dev() == meta.dev() && open.ino() == meta.ino();
            if named && fs::metadata(fd.path()).is_ok_and(same) {
                let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                return Err(refuse(
                    path,
                    format!(
                        "the file is in use by process {pid} ({}); close it first",
                        name.trim()
                    ),
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_while_its_users_are_looked_for_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        fs::write(&path, "").unwrap();
        assert!(is_left_empty(&path, || true) && !is_left_empty(&path, || false));
        assert!(!is_left_empty(&path, || fs::write(&path, "late").is_ok()));
    }

    #[test]
    fn a_placeholder_goes_unless_somebody_writes_into_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(dir.path()).unwrap().join("disk");
        let there = || fs::read_dir(dir.path()).unwrap().count();
        fs::write(&path, "").unwrap();
        let (hold, kept) = ("exec 3>> \"$1\"; echo; read go; printf late >&3", |path| {
            fs::read(path).unwrap()
        });
        let mut writer = std::process::Command::new("sh")
            .args(["-c", hold, "sh"])
            .arg(&path)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        io::Read::read_exact(writer.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        remove_placeholder(&path);
        io::Write::write_all(&mut writer.stdin.take().unwrap(), b"\n").unwrap();
        assert!(writer.wait().unwrap().success());
        assert_eq!((kept(&path), there()), (b"late".to_vec(), 1));
        remove_placeholder(&path);
        assert_eq!((kept(&path), there()), (b"late".to_vec(), 1));
        fs::write(&path, "").unwrap();
        remove_placeholder(&path);
        assert_eq!(there(), 0);
    }

    #[test]
    fn a_path_that_leads_elsewhere_once_the_disk_is_open_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(dir.path()).unwrap().join("disk");
        let fresh = || {
            let _ = fs::remove_file(&path);
            fs::write(&path, "").unwrap();
            let meta = fs::metadata(&path).unwrap();
            let seen = (meta.dev(), meta.ino());
            Mountpoint {
                path: path.clone(),
                file: path.clone(),
                is_directory: false,
                seen,
                made: Mutex::new(Some(seen)),
            }
        };
        assert!(fresh().look_again().is_ok());
        let other = path.with_file_name("other");
        fs::write(&other, "").unwrap();
        let changes: [(&dyn Fn(), &str); 4] = [
            (&|| fs::remove_file(&path).unwrap(), "taken away"),
            (&|| fs::rename(&other, &path).unwrap(), "something else"),
            (
                &|| {
                    fs::remove_file(&path).unwrap();
                    std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
                },
                "something else",
            ),
            (&|| fs::write(&path, "early").unwrap(), "written into it"),
        ];
        for (change, why) in changes {
            let mountpoint = fresh();
            change();
            let refused = mountpoint.look_again().unwrap_err().to_string();
            assert!(refused.contains(why), "{why}: {refused}");
        }
    }

    #[test]
    fn a_path_is_canonical_up_to_what_exists() {
        let dir = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(dir.path()).unwrap();
        assert_eq!(canonical(&dir.path().join("x/../new")).ok(), None);
        assert_eq!(canonical(&dir.path().join("new")).unwrap(), real.join("new"));
    }
}
