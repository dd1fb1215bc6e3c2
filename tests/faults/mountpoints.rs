//! Unsuitable mountpoints: rhv-mount exits with 6, reports the path and the reason in one line, and changes
//! nothing.

use crate::rig::{MIB, Rig, TICKET, pattern, settings, used_server};
use crate::server::Server;
use crate::support::mount::{is_mounted, rhv_mount};
use crate::support::run::{Ran, scratch};
use std::fs;
use std::path::Path;

const MOUNT_FAILED: i32 = 6;

#[track_caller]
fn refused(server: &Server, target: &Path, code: i32) -> Ran {
    let ran = rhv_mount(Some(&server.url()), [target]);
    assert_eq!(ran.code, Some(code), "{ran}");
    assert_eq!(ran.stderr.trim().lines().count(), 1, "{ran}");
    assert!(
        ran.stderr.contains(target.to_str().unwrap()),
        "the path is not named: {ran}"
    );
    assert!(
        !ran.stderr.contains("panicked") && !ran.stderr.contains(TICKET),
        "{ran}"
    );
    ran
}

fn server() -> Server {
    used_server(settings(4 * MIB))
}

#[test]
fn a_mountpoint_in_a_directory_that_does_not_exist_is_refused() {
    let dir = scratch();
    let target = dir.path().join("missing").join("disk.raw");
    refused(&server(), &target, MOUNT_FAILED);
    assert!(!dir.path().join("missing").exists());
}

#[test]
fn a_directory_with_something_in_it_is_refused_and_kept() {
    let dir = scratch();
    fs::write(dir.path().join("precious"), b"data").unwrap();
    let ran = refused(&server(), dir.path(), MOUNT_FAILED);
    assert!(ran.stderr.contains("empty"), "{ran}");
    assert!(!is_mounted(dir.path()));
    assert_eq!(fs::read(dir.path().join("precious")).unwrap(), b"data");
}

#[test]
fn a_mountpoint_that_is_mounted_already_is_refused_and_the_first_mount_goes_on() {
    let rig = Rig::over(server(), &[]);
    let ran = refused(&rig.server, rig.mount.mountpoint(), MOUNT_FAILED);
    assert!(ran.stderr.contains("mounted"), "{ran}");
    assert!(fs::read(rig.mount.file()).unwrap() == pattern(9, 4 * MIB as usize));
    assert_eq!(rig.umount().0.code, Some(0));
}

#[test]
fn a_mountpoint_that_is_neither_a_file_nor_a_directory_is_refused() {
    refused(&server(), Path::new("/dev/null"), MOUNT_FAILED);
}

#[test]
fn a_covered_file_is_unchanged_after_umount() {
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    fs::write(&target, b"covered").unwrap();
    let server = server();
    rhv_mount(Some(&server.url()), [&target]).ok();
    assert!(fs::read(&target).unwrap() == pattern(9, 4 * MIB as usize));
    rhv_mount(None, [Path::new("umount"), &target]).ok();
    assert_eq!(fs::read(&target).unwrap(), b"covered");
}

#[test]
fn a_file_that_was_made_goes_again_however_long_its_name_is() {
    let (dir, server) = (scratch(), server());
    let deep = dir.path().join("d/".repeat(200)).join("e".repeat(200));
    fs::create_dir_all(&deep).unwrap();
    let names = ["x".repeat(240), "x".repeat(255), "ä".repeat(127), "-".repeat(236)];
    for target in names.iter().map(|name| deep.join(name)) {
        rhv_mount(Some(&server.url()), [&target]).ok();
        assert!(fs::read(&target).unwrap() == pattern(9, 4 * MIB as usize));
        rhv_mount(None, [Path::new("umount"), &target]).ok();
        assert_eq!(fs::read_dir(&deep).unwrap().count(), 0, "{}", target.display());
    }
}

#[test]
fn a_file_name_that_no_program_could_open_is_a_usage_error() {
    let dir = scratch();
    let (option, name) = (Path::new("--file-name"), "x".repeat(256));
    let ran = rhv_mount(Some(&server().url()), [option, Path::new(&name), dir.path()]);
    assert_eq!(ran.code, Some(2), "{ran}");
    assert!(ran.stderr.contains("--file-name"), "{ran}");
}

#[test]
fn umount_of_a_path_that_is_not_a_mount_is_an_error() {
    let dir = scratch();
    let ran = rhv_mount(None, [Path::new("umount"), dir.path()]);
    assert!(ran.code.is_some_and(|code| code != 0 && code != 7), "{ran}");
    assert!(ran.stderr.contains(dir.path().to_str().unwrap()), "{ran}");
}

#[test]
fn a_mountpoint_whose_process_was_killed_is_named_as_stale_with_its_remedy() {
    let rig = Rig::over(server(), &[]);
    rig.mount.kill();
    let ran = refused(&rig.server, rig.mount.mountpoint(), MOUNT_FAILED);
    assert!(
        ran.stderr.contains("rhv-mount umount"),
        "the remedy is not named: {ran}"
    );
}

#[test]
fn no_disk_at_all_is_a_usage_error_that_names_the_ways_to_give_one() {
    let dir = scratch();
    let ran = rhv_mount(None, [dir.path()]);
    assert_eq!(ran.code, Some(2), "{ran}");
    assert!(ran.stderr.contains("--transfer-url"), "{ran}");
}

#[test]
fn a_transfer_url_file_that_is_missing_is_named() {
    let dir = scratch();
    let ran = rhv_mount(
        None,
        [
            "--transfer-url-file",
            "/nonexistent/url",
            dir.path().to_str().unwrap(),
        ],
    );
    assert_eq!(ran.code, Some(2), "{ran}");
    assert!(ran.stderr.contains("/nonexistent/url"), "{ran}");
}

#[test]
fn the_url_can_come_from_a_file_or_an_argument() {
    let server = server();
    let dir = scratch();
    let url_file = dir.path().join("url");
    fs::write(&url_file, format!("{}\n", server.url())).unwrap();
    let url = server.url();
    for args in [
        ["--transfer-url-file", url_file.to_str().unwrap()],
        ["--transfer-url", &url],
    ] {
        let target = dir.path().join("disk.raw");
        let ran = rhv_mount(
            None,
            [
                args[0],
                args[1],
                target.to_str().unwrap(),
                "--",
                "cmp",
                "-n4",
                "{}",
                "{}",
            ],
        );
        assert_eq!(ran.code, Some(0), "{ran}");
    }
}
