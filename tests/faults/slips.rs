//! A first word that is nearly a subcommand is answered. It becomes a mountpoint where a path of this name is
//! there, or where it is written as a path.

use crate::rig::{MIB, pattern, settings, used_server};
use crate::support::mount::{is_mounted, rhv_mount, rhv_mount_command};
use crate::support::run::{Ran, run, scratch};
use std::fs;
use std::path::Path;

const USAGE: i32 = 2;

/// Runs rhv-mount with a transfer URL in the environment: all that a mount needs but its mountpoint.
fn within(dir: &Path, url: &str, args: &[&str]) -> Ran {
    run(rhv_mount_command(Some(url)).current_dir(dir).args(args), 40)
}

#[test]
fn a_misspelt_subcommand_is_answered_and_nothing_is_made_of_it() {
    let (dir, server) = (scratch(), used_server(settings(MIB)));
    for (args, words) in [
        (&["statu"][..], "did you mean `status`"),
        (&["-f", "unmout", "/mnt"], "did you mean `unmount`"),
        (&["--read-only", "Recover"], "did you mean `recover`"),
        (&["restor", "--", "true"], "did you mean `restore`"),
    ] {
        let ran = within(dir.path(), &server.url(), args);
        assert_eq!(ran.code, Some(USAGE), "{ran}");
        assert!(ran.stderr.contains(words) && ran.stderr.contains("./"), "{ran}");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "something was made");
}

#[test]
fn a_path_that_is_there_is_a_mountpoint_though_it_is_nearly_a_subcommand() {
    let (dir, server) = (scratch(), used_server(settings(MIB)));
    let (directory, file) = (dir.path().join("statu"), dir.path().join("umont"));
    fs::create_dir(&directory).unwrap();
    fs::write(&file, b"covered").unwrap();
    for (point, disk) in [(&directory, directory.join("disk")), (&file, file.clone())] {
        let name = point.file_name().unwrap().to_str().unwrap();
        within(dir.path(), &server.url(), &["--read-only", name]).ok();
        assert!(is_mounted(point));
        assert!(fs::read(&disk).unwrap() == pattern(9, MIB as usize));
        rhv_mount(None, [Path::new("umount"), point]).ok();
    }
    // The first one of two words is no mountpoint.
    let ran = within(dir.path(), &server.url(), &["statu", "umont"]);
    assert_eq!(ran.code, Some(USAGE), "{ran}");
    assert!(ran.stderr.contains("did you mean `status`"), "{ran}");
    assert!(!is_mounted(&directory) && !is_mounted(&file));
}

#[test]
fn a_mountpoint_with_the_name_of_a_subcommand_is_written_as_a_path() {
    let (dir, server) = (scratch(), used_server(settings(MIB)));
    for name in ["status", "list", "recove"] {
        let point = dir.path().join(name);
        within(dir.path(), &server.url(), &["--read-only", &format!("./{name}")]).ok();
        assert!(is_mounted(&point));
        let ran = rhv_mount(None, ["-c", "prod", "status", point.to_str().unwrap()]).ok();
        assert!(ran.stdout.contains(name), "options before the name: {ran}");
        rhv_mount(None, [Path::new("umount"), &point]).ok();
        assert!(!point.exists());
    }
}
