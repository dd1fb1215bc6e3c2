//! Paths that are not UTF-8: a directory that was named in Latin-1 long ago is a mountpoint like any other.

use crate::rig::{MIB, pattern, settings, used_server};
use crate::support::mount::{is_mounted, processes_with, rhv_mount, rhv_mount_command};
use crate::support::run::{Ran, run, scratch, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

fn named(dir: &Path, name: &[u8]) -> PathBuf {
    dir.join(OsStr::from_bytes(name))
}

fn tool(words: &[&str], path: &Path) -> Ran {
    let mut args: Vec<OsString> = words.iter().map(OsString::from).collect();
    args.push(path.into());
    rhv_mount(None, args)
}

/// The directory, the file in it and the log file.
#[test]
fn a_disk_is_mounted_used_shown_and_unmounted_on_such_a_path() {
    let dir = scratch();
    let server = used_server(settings(4 * MIB));
    let point = named(dir.path(), b"caf\xe9 \xff");
    let log = named(dir.path(), b"l\xf6g");
    let file = named(&point, b"d\xefsk");
    fs::create_dir(&point).unwrap();
    let mut command = rhv_mount_command(Some(&server.url()));
    command.args(["--log-level", "info", "--log-file"]).arg(&log);
    command.arg("--file-name").arg(file.file_name().unwrap());
    run(command.arg(&point), 40).ok();
    assert!(fs::read(&file).unwrap() == pattern(9, 4 * MIB as usize));
    fs::write(&file, b"written").unwrap();
    for path in [&point, &file] {
        let json = tool(&["status", "-o", "json"], path).ok().stdout;
        let status: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(status["phase"], "mounted");
        // Text can't hold it, so it is there twice.
        assert_eq!(status["mountpoint"], point.to_string_lossy().into_owned());
        let bytes = |path: &Path| serde_json::json!(path.as_os_str().as_bytes());
        assert_eq!(status["mountpoint_bytes"], bytes(&point));
        assert_eq!(status["file_bytes"], bytes(&file));
    }
    let again = rhv_mount(Some(&server.url()), [&point]);
    assert_eq!(again.code, Some(6), "{again}");
    assert!(again.stderr.contains("already mounted"), "{again}");
    tool(&["umount"], &point).ok();
    assert!(!fs::read(&log).unwrap().is_empty(), "nothing is in the log");
    assert_eq!(fs::read_dir(&point).unwrap().count(), 0, "it is still mounted");
    assert_eq!(server.read_durable(0..7), b"written");
}

/// The file that was made to be mounted on, a COMMAND, and the remains of a killed mount.
#[test]
fn a_command_gets_the_path_as_it_is_and_a_killed_mount_is_cleared() {
    let dir = scratch();
    let server = used_server(settings(4 * MIB));
    let point = named(dir.path(), b"\xe9.raw");
    let mut args: Vec<OsString> = vec![point.clone().into(), "--".into()];
    args.extend(
        [
            "bash",
            "-euc",
            r#"test "$1" = "$RHV_MOUNT_FILE"; cmp "$1" {}"#,
            "sh",
            "{}",
        ]
        .map(Into::into),
    );
    rhv_mount(Some(&server.url()), args).ok();
    assert!(
        fs::symlink_metadata(&point).is_err(),
        "the file that was made is left"
    );
    rhv_mount(Some(&server.url()), [&point]).ok();
    for pid in processes_with(point.as_os_str()) {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    wait_until("the mount is gone", 60, || {
        processes_with(point.as_os_str()).is_empty()
    });
    let told = tool(&["status"], &point).ok();
    assert!(told.stdout.contains("was killed"), "{told}");
    let cleared = tool(&["umount"], &point);
    assert_eq!(cleared.code, Some(7), "{cleared}");
    assert!(!is_mounted(&point) && fs::symlink_metadata(&point).is_err());
    let after = tool(&["status"], &point);
    assert_eq!(after.code, Some(6), "{after}");
}
