//! The files of the system without which there is no mount: `/proc`, `/dev/null`, `/dev/fuse`, and for
//! ordinary users `fusermount3` and `/etc/mtab`. A chroot or a container may lack any of them, and the call
//! that misses one says no more than "No such file or directory", after a transfer was started for nothing.
//! So they are looked for before anything is begun.

use std::env;
use std::ffi::OsStr;
use std::path::Path;

use crate::failure::{Exit, Failure};

/// The way out where the kernel has no `/dev/fuse`.
pub(super) const NO_DEV_FUSE: &str = "there is no /dev/fuse: load the kernel module with `modprobe fuse`; a \
                                      container is given it with `--device /dev/fuse`, a chroot with `mount \
                                      --rbind /dev CHROOT/dev`";

/// The way out where an ordinary user has no `fusermount3`.
pub(super) const NO_FUSERMOUNT: &str = "there is no fusermount3 in PATH, through which ordinary users mount: \
                                        install the package fuse3, or mount as root";

/// The way out where `fusermount3`, which looks there for whose a mount is, could mount and not unmount.
const NO_MTAB: &str = "there is no /etc/mtab, without which fusermount3 does not unmount; as root: `ln -s \
                       ../proc/self/mounts /etc/mtab`";

/// The variable by which fuser is told of another `fusermount3`.
const FUSERMOUNT_VARIABLE: &str = "FUSERMOUNT_PATH";

/// Refuses, with exit code 6, where something is missing.
pub(crate) fn check() -> Result<(), Failure> {
    match missing(
        Path::new("/"),
        nix::unistd::geteuid().is_root(),
        env::var_os("PATH"),
    ) {
        Some(what) => Err(Failure::text(Exit::Mount, format!("cannot mount: {what}"))),
        None => Ok(()),
    }
}

/// Returns what is missing in the file system at `root`.
fn missing(root: &Path, is_root: bool, path: Option<impl AsRef<OsStr>>) -> Option<&'static str> {
    let is_there = |path: &str| root.join(path).exists();
    if !is_there("proc/self/mountinfo") {
        return Some(
            "/proc is not mounted here: `mount -t proc proc /proc`, for a chroot `mount -t proc proc \
             CHROOT/proc`",
        );
    }
    if !is_there("dev/null") {
        return Some(
            "there is no /dev/null: /dev is empty, as in a chroot; give it the devices with `mount --rbind \
             /dev CHROOT/dev`",
        );
    }
    if !is_there("dev/fuse") {
        return Some(NO_DEV_FUSE);
    }
    if is_root || env::var_os(FUSERMOUNT_VARIABLE).is_some() {
        return None;
    }
    // Without the variable a program is looked for in these (execvp(3)).
    let path = path.as_ref().map_or(OsStr::new("/bin:/usr/bin"), AsRef::as_ref);
    if !env::split_paths(path).any(|directory| directory.join("fusermount3").is_file()) {
        return Some(NO_FUSERMOUNT);
    }
    (!is_there("etc/mtab")).then_some(NO_MTAB)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_is_missing_is_named_one_after_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let bin = root.join("bin");
        for (file, before) in [
            ("proc/self/mountinfo", "mount -t proc"),
            ("dev/null", "/dev/null"),
            ("dev/fuse", "modprobe fuse"),
            ("bin/fusermount3", "package fuse3"),
            ("etc/mtab", "ln -s ../proc/self/mounts /etc/mtab"),
        ] {
            let what = missing(root, false, Some(&bin)).unwrap();
            assert!(what.contains(before), "{file}: {what}");
            fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            fs::write(root.join(file), "").unwrap();
        }
        assert_eq!(missing(root, false, Some(&bin)), None);
        assert_eq!(missing(root, true, None::<&str>), None);
    }
}
