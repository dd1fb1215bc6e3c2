//! SOURCE, and the options that people write for mount(8), fstab and libfuse.

use std::process::Command;

use super::rig::{SIZE, engine};
use crate::support::daemon::{Daemon, LocalSocket, Scheme};
use crate::support::disk::Disk;
use crate::support::image::{Backend, Content};
use crate::support::mount::{Mounting, rhv_mount, rhv_mount_command};
use crate::support::run::{is_root, run, scratch};

const USAGE: i32 = 2;
const CANNOT_CONNECT: i32 = 5;

#[test]
fn a_source_names_the_disk_or_conflicts_with_the_option_that_does() {
    let dir = scratch();
    let point = dir.path().join("mnt");
    let refused = |args: &[&str], words: &[&str]| {
        let mut command = rhv_mount_command(None);
        let ran = run(command.args(args).arg(&point), 30);
        assert_eq!(ran.code, Some(USAGE), "{args:?}: {ran}");
        assert!(!ran.stderr.contains("0f3c2d4e"), "a ticket is shown: {ran}");
        for word in words {
            assert!(ran.stderr.contains(word), "{word}: {ran}");
        }
    };
    for option in ["--disk", "--create", "--disk-snapshot", "--transfer-url-file"] {
        refused(
            &[option, "web02", "web01"],
            &["SOURCE web01", option, "two disks"],
        );
    }
    refused(&["none"], &["which disk?"]);
    // The disk is known then, and the engine is asked for.
    refused(&["web01"], &["engine's URL"]);
    refused(&["--disk", "web01", "web01"], &["engine's URL"]);
    refused(&["--disk", "web01", "none"], &["engine's URL"]);
    refused(&["/home"], &["SOURCE /home", "disk=NAME"]);
    let secret = "https://127.0.0.1:1/images/0f3c2d4e-88f5-4a59-b1a9-3c6e2f1d7a60";
    refused(&[secret], &["transfer_url_file"]);
    let url = [("RHV_MOUNT_TRANSFER_URL", "http://127.0.0.1:1/images/t")];
    let mut command = rhv_mount_command(None);
    command.envs(url).args(["--retry-time", "0", "none"]).arg(&point);
    let ran = run(&mut command, 30);
    assert_eq!(ran.code, Some(CANNOT_CONNECT), "{ran}");
}

#[test]
fn a_disk_shows_as_the_source_by_its_name_or_id_however_it_was_named() {
    let engine = engine();
    let id = engine.disk("web01").expect("the disk").id;
    for (args, shown) in [
        (vec!["--disk", "web01"], "web01"),
        (vec![id.as_str()], id.as_str()),
    ] {
        let mount = engine.mounting(args).start();
        let mut findmnt = Command::new("findmnt");
        findmnt
            .args(["--noheadings", "--output", "SOURCE"])
            .arg(mount.mountpoint());
        let found = run(&mut findmnt, 20).ok().stdout;
        assert_eq!(found.trim(), shown);
        mount.umount().ok();
    }
}

/// The options that people write in fstab, for mount(8) or after `-o` of a program of libfuse.
const WRITTEN: &str = "defaults,rw,_netdev,nofail,noauto,user,users,owner,group,x-systemd.automount,x-foo=1,\
                       X-mount.mkdir=755,comment=x,subtype=rhv-mount,fsname=a\\b,sync,dirsync,lazytime,\
                       strictatime,nodiratime,relatime,nosuid,nodev,noexec,max_read=65536,attr_timeout=1,\
                       entry_timeout=1.5,kernel_cache,default_permissions,big_writes,umask=027,dmask=007,\
                       nonempty";

#[test]
fn what_people_write_in_fstab_and_for_libfuse_is_taken() {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::None);
    for nobody in [false, true] {
        if nobody && !is_root() {
            continue;
        }
        let disk = Disk::create(&daemon, Backend::Qcow2Nbd, SIZE, Content::Fresh);
        let mounting = Mounting::new(disk.url()).args(disk.args()).args(["-o", WRITTEN]);
        let mount = if nobody {
            mounting.by_nobody().start()
        } else {
            mounting.start()
        };
        let mut findmnt = mount.command("findmnt");
        findmnt
            .args(["--noheadings", "--raw", "--output", "SOURCE,OPTIONS"])
            .arg(mount.mountpoint());
        let found = run(&mut findmnt, 20).ok().stdout;
        assert!(found.starts_with(r"a\x5cb "), "{found}");
        for option in ["sync", "noexec", "nosuid", "nodev", "max_read=65536"] {
            assert!(
                found.trim().split([' ', ',']).any(|one| one == option),
                "{option}: {found}"
            );
        }
        let mut stat = mount.command("stat");
        stat.args(["-c", "%a"]).arg(mount.mountpoint()).arg(mount.file());
        assert_eq!(run(&mut stat, 20).ok().stdout, "770\n640\n");
        mount.umount().ok();
    }
}

#[test]
fn an_option_that_is_not_to_be_had_is_refused_with_the_reason() {
    let dir = scratch();
    let point = dir.path().join("mnt");
    for (option, word) in [
        ("remount,ro", "unmount it and mount it again"),
        ("auto_unmount", "rhv-mount umount"),
        ("subtype=other", "fuse.rhv-mount"),
        ("drop_privileges", "capabilities"),
        ("setuid=nobody", "uid=N"),
        ("max_read=many", "number of bytes"),
        ("mode=600,umask=022", "umask"),
    ] {
        let url = Some("http://127.0.0.1:1/images/0f3c2d4e-88f5");
        let args = ["-o", option, point.to_str().expect("UTF-8")];
        let ran = rhv_mount(url, args);
        assert_eq!(ran.code, Some(USAGE), "{ran}");
        assert!(ran.stderr.contains(word), "{ran}");
        assert!(!point.exists(), "{ran}");
    }
}
