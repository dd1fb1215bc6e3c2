//! Systems without the files that a mount needs: a chroot without devices, a user without fusermount3. What
//! is missing is named with the remedy, and the server is not asked for anything.

use crate::rig::{MIB, settings};
use crate::server::Server;
use crate::support::mount::{APART, BINARY, URL_VARIABLE, clean_environment};
use crate::support::run::{Ran, is_root, run, scratch};
use std::fs;
use std::process::Command;

const NOBODY: &str = "65534";

/// Runs a shell script in a mount namespace of its own; `$1` is rhv-mount, and `$2` a directory to mount on.
fn in_a_namespace(server: &Server, script: &str) -> Ran {
    let dir = scratch();
    let mut command = Command::new("unshare");
    clean_environment(&mut command);
    command
        .args(["--mount", "--", APART, "bash", "-euc", script, "sh", BINARY])
        .arg(dir.path())
        .env(URL_VARIABLE, server.url());
    run(&mut command, 40)
}

#[track_caller]
fn assert_refused(server: &Server, ran: &Ran, words: &[&str]) {
    assert_eq!(ran.code, Some(6), "{ran}");
    assert_eq!(ran.stderr.trim().lines().count(), 1, "{ran}");
    for word in words {
        assert!(ran.stderr.contains(word), "{word} is not named: {ran}");
    }
    assert_eq!(server.connections_opened(), 0, "the server was asked: {ran}");
}

#[test]
fn a_chroot_without_devices_is_told_how_to_get_them() {
    if !is_root() {
        return;
    }
    let server = Server::start(settings(MIB));
    let ran = in_a_namespace(&server, r#"mount -t tmpfs none /dev; exec "$1" "$2""#);
    assert_refused(&server, &ran, &["/dev/null", "mount --rbind /dev"]);
    let script = r#"mount -t tmpfs none /mnt; touch /mnt/null; mount --bind /dev/null /mnt/null
        mount --move /mnt /dev; exec "$1" "$2""#;
    let ran = in_a_namespace(&server, script);
    assert_refused(
        &server,
        &ran,
        &["no /dev/fuse", "modprobe fuse", "--device /dev/fuse"],
    );
    let ran = in_a_namespace(&server, r#"umount -l /proc; exec "$1" "$2""#);
    assert_refused(&server, &ran, &["/proc is not mounted", "mount -t proc"]);
}

#[test]
fn a_user_without_fusermount3_is_told_the_package() {
    if !is_root() {
        return;
    }
    let server = Server::start(settings(MIB));
    let (dir, program) = (scratch(), scratch());
    let program = program.path().join("rhv-mount");
    run(
        Command::new("install").args(["-m", "755", BINARY]).arg(&program),
        20,
    )
    .ok();
    fs::create_dir(dir.path().join("mnt")).unwrap();
    let mut command = Command::new("setpriv");
    clean_environment(&mut command);
    command
        .args([
            "--reuid",
            NOBODY,
            "--clear-groups",
            "--",
            "env",
            "PATH=/nonexistent",
        ])
        .arg(&program)
        .arg(dir.path().join("mnt"))
        .env(URL_VARIABLE, server.url());
    let ran = run(&mut command, 40);
    assert_refused(&server, &ran, &["fusermount3", "package fuse3"]);
}
