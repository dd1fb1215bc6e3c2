//! The program under the names that a package installs in /sbin, where umount(8) looks for them by itself.
//!
//! /sbin is covered in a mount namespace of the test's own. Before all else the mounts of other tests are
//! taken out of it, which would be held there.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::rig::{Point, assert_free, await_end, engine, login, source, transfer};
use crate::support::daemon::{Daemon, LocalSocket, Scheme};
use crate::support::disk::Disk;
use crate::support::mount::{BINARY, in_own_mounts};
use crate::support::redaction::{assert_shows_none, secret_of};
use crate::support::run::{Ran, is_root, run, scratch};

const NOBODY: u32 = 65534;

/// Runs `body` where /sbin has the links that a package installs. Its arguments are `$1`, `$2`, ...; in
/// `$bin` is a copy of the program that every user can run, and fstab has the lines `fstab`.
fn with_installed_helpers(dir: &Path, fstab: &str, body: &str, args: &[&Path]) -> Ran {
    const PREPARE: &str = r#"
        mapfile -t held < <(cut -d ' ' -f 5 /proc/self/mountinfo | grep '^/var/tmp/rhv-mount-' | tac)
        umount -n -l -i "${held[@]}" || true
        dir=$1; shift
        bin=$dir/rhv-mount; install -m 755 "$1" "$bin"; shift
        sbin=$(readlink -f /sbin); mkdir "$dir/sbin"
        mount -n --bind "$sbin" "$dir/sbin"; mount -n -t tmpfs -o mode=755 tmpfs "$sbin"
        ln -s "$dir"/sbin/* "$sbin/"
        for name in mount.rhv-mount mount.fuse.rhv-mount umount.rhv-mount umount.fuse.rhv-mount; do
            ln -s "$bin" "$sbin/$name"
        done
        mount -n --bind "$dir/fstab" /etc/fstab
        echo user_allow_other > "$dir/fuse.conf"; mount -n --bind "$dir/fuse.conf" /etc/fuse.conf
    "#;
    fs::write(dir.join("fstab"), fstab).expect("write fstab");
    let mut command = in_own_mounts(&format!("{PREPARE}{body}"));
    command.arg(dir).arg(BINARY).args(args);
    run(&mut command, 150)
}

/// A disk behind a transfer URL, the options that mount it, and an image to be copied there.
struct Job {
    disk: Disk,
    options: String,
    source: PathBuf,
    point: Point,
    dir: TempDir,
    _daemon: Daemon,
}

impl Job {
    fn new() -> Job {
        let (daemon, dir) = (Daemon::start(Scheme::Https, LocalSocket::None), scratch());
        let point = Point::new(dir.path());
        let (disk, options) = transfer(&daemon, dir.path());
        let source = source(dir.path());
        Job {
            disk,
            options,
            source,
            point,
            dir,
            _daemon: daemon,
        }
    }

    /// Checks that what has run showed no ticket, and that the disk holds the image once the mount has ended.
    #[track_caller]
    fn assert_copied(mut self, ran: &Ran) {
        assert_shows_none(ran, &[secret_of(self.disk.url())]);
        self.disk
            .compare_with(&self.source)
            .expect("the disk holds the copy");
        self.point.await_end();
    }
}

/// On a directory, umount(8) takes the mount for any `fuse` and has to be told of the helper; not with `-c`,
/// as systemd calls it.
#[test]
fn a_plain_umount_of_what_root_has_mounted_without_mount_waits_too() {
    if !is_root() {
        return;
    }
    let engine = engine();
    for (file, umount) in [(false, "umount"), (false, "umount -c"), (true, "umount")] {
        let dir = scratch();
        let point = Point::new(dir.path());
        let source = source(dir.path());
        let (target, disk) = match file {
            true => (dir.path().join("disk.raw"), dir.path().join("disk.raw")),
            false => (point.0.clone(), point.disk()),
        };
        let options = login(&engine);
        let body = r#"
            "$bin" -o "$1" web01 "$2"
            cat "$4" > "$3"
            env -i /usr/bin/$5 "$2"
            if grep -F " $2 " /proc/self/mountinfo; then exit 9; fi
        "#;
        let args = [Path::new(&options), &target, &disk, &source, Path::new(umount)];
        with_installed_helpers(dir.path(), "", body, &args).ok();
        assert_free(&engine, &source);
        await_end(&target);
        point.assert_no_line_left();
    }
}

/// libfuse's helper runs `rhv-mount SOURCE DIR -o OPTIONS` by a shell. mount(8) gives it neither PATH nor
/// HOME.
#[test]
fn mount_of_libfuse_runs_it_with_options_of_its_own() {
    if !is_root() {
        return;
    }
    let job = Job::new();
    let options = format!(
        "{},fsname=a disk,subtype=rhv-mount,attr_timeout=5,kernel_cache",
        job.options
    );
    let body = r#"
        rm "$sbin/mount.fuse.rhv-mount"; ln -s "$bin" "$sbin/rhv-mount"
        env -i /usr/bin/mount -t fuse.rhv-mount -o "$1" none "$2"
        findmnt --noheadings --raw --output SOURCE,FSTYPE "$2"
        cat "$3" > "$2/disk"
        env -i /usr/bin/umount "$2"
    "#;
    let args = [Path::new(&options), &job.point.0, &job.source];
    let ran = with_installed_helpers(job.dir.path(), "", body, &args).ok();
    assert_eq!(ran.stdout.trim(), r"a\x20disk fuse.rhv-mount");
    job.assert_copied(&ran);
}

#[test]
fn an_ordinary_user_mounts_and_unmounts_what_fstab_lets_users_mount() {
    if !is_root() {
        return;
    }
    let job = Job::new();
    chown(&job.point.0, Some(NOBODY), Some(NOBODY)).expect("give it to nobody");
    let fstab = format!(
        "none {} rhv-mount noauto,user,allow_root,{} 0 0\n",
        job.point.shown(),
        job.options
    );
    let body = r#"
        as_nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups env -i "$@"; }
        as_nobody /usr/bin/mount "$1"
        as_nobody /usr/bin/findmnt -n -o SOURCE,FSTYPE,OPTIONS "$1"
        as_nobody /bin/sh -c 'cat "$2" > "$1/disk"' sh "$1" "$2"
        cmp "$2" "$1/disk"
        if setpriv --reuid 65533 --clear-groups cat "$1/disk" > "$dir/seen"; then exit 8; fi
        as_nobody /usr/bin/umount "$1"
        if grep -F " $1 " /proc/self/mountinfo; then exit 9; fi
    "#;
    let args: [&Path; 2] = [&job.point.0, &job.source];
    let ran = with_installed_helpers(job.dir.path(), &fstab, body, &args).ok();
    let shown = ran.stdout.split_whitespace().collect::<Vec<_>>();
    assert_eq!(shown[..2], ["none", "fuse.rhv-mount"], "{ran}");
    for option in ["noexec", "nosuid", "nodev", "user_id=65534"] {
        assert!(shown[2].split(',').any(|one| one == option), "{option}: {ran}");
    }
    job.assert_copied(&ran);
}
