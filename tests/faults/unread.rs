//! Output that nobody reads: closed, full, or with a reader who has gone. No outcome and no exit code depends
//! on a message.

use crate::rig::{MIB, Rig, pattern, settings};
use crate::server::Server;
use crate::support::mount::{BINARY, URL_VARIABLE, clean_environment, is_mounted, rhv_mount};
use crate::support::run::{Ran, run, scratch, wait_until};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// Runs `script`, in which `$0` is the program and `$1` is `path`.
fn bash(url: Option<&str>, script: &str, path: &Path) -> Ran {
    let mut shell = Command::new("bash");
    clean_environment(&mut shell);
    shell.args(["-uc", script, BINARY]).arg(path);
    run(shell.envs(url.map(|url| (URL_VARIABLE, url))), 60)
}

/// Runs `script` without a mount, and asserts its exit code and that nothing has panicked.
#[track_caller]
fn exits_with(code: i32, script: &str) {
    let ran = bash(None, script, Path::new("/nonexistent/dir/x"));
    assert_eq!(ran.code, Some(code), "{ran}");
    assert!(!ran.stderr.contains("panicked"), "{ran}");
}

#[test]
fn an_error_keeps_its_exit_code_wherever_its_message_goes() {
    let url = "--transfer-url http://127.0.0.1:1/images/t";
    for stderr in ["2>/dev/full", "2>&-", "2>&- >&- <&-", "2> >(:); sleep 0.2"] {
        let script = format!(r#"exec {stderr}; "$0" "$1" {url}"#);
        exits_with(6, &script);
        exits_with(6, &script.replace(&format!(r#""$1" {url}"#), r#"umount "$1""#));
        exits_with(2, &script.replace(url, "--no-such-option"));
    }
}

#[test]
fn a_reader_who_has_seen_enough_is_no_failure_and_a_full_disk_is_one() {
    let rig = Rig::start(settings(MIB), &[]);
    let point = rig.mount.mountpoint();
    for asked in [
        "status",
        "status -o json",
        r#"status "$1""#,
        "--help",
        "--version",
    ] {
        let gone = format!(r#"exec 3> >(:); sleep 0.2; "$0" {asked} >&3"#);
        let ran = bash(None, &gone, point);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran}");
        let full = format!(r#""$0" {asked} >/dev/full"#);
        let ran = bash(None, &full, point);
        assert_eq!(ran.code, Some(1), "{ran}");
        assert!(
            ran.stderr.contains("stdout") && !ran.stderr.contains("panicked"),
            "{ran}"
        );
    }
    assert_eq!(rig.umount().0.code, Some(0));
}

#[test]
fn umount_of_a_killed_mount_says_by_its_exit_code_what_nobody_reads() {
    for stderr in ["2>/dev/full", "2>&-"] {
        let rig = Rig::start(settings(MIB), &[]);
        rig.mount.kill();
        let script = format!(r#""$0" umount "$1" {stderr}"#);
        let ran = bash(None, &script, rig.mount.mountpoint());
        assert_eq!(ran.code, Some(7), "{ran}");
        assert!(!is_mounted(rig.mount.mountpoint()));
    }
}

/// The log of a mount in the foreground goes to `where_to`; it serves all the same.
fn a_log_that_goes_nowhere(options: &str, where_to: &str) {
    let server = Server::start(settings(4 * MIB));
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let fill = "[ -p /dev/stderr ] && head -c 65536 /dev/zero >&2";
    let script = format!(
        r#"exec {where_to}; {fill}; exec "$0" --log-level trace {options} "$1" -- cp /etc/hostname "$1""#
    );
    let ran = bash(Some(&server.url()), &script, &target);
    assert_eq!(ran.code, Some(0), "{ran}");
    let bytes = std::fs::read("/etc/hostname").unwrap();
    assert!(server.read_durable(0..bytes.len() as u64) == bytes);
    assert!(!target.exists());
}

#[test]
fn a_log_that_cannot_be_written_costs_nothing_but_the_log() {
    a_log_that_goes_nowhere("--log-file /dev/full", "");
    a_log_that_goes_nowhere("", "2>/dev/full");
    a_log_that_goes_nowhere("", "2>&-");
    a_log_that_goes_nowhere("", "2> >(:)");
}

/// The pipe is full before the first line.
#[test]
fn a_reader_of_the_log_who_does_not_read_holds_nothing_up() {
    a_log_that_goes_nowhere("--stats", "2> >(sleep 10)");
}

#[test]
fn the_outcome_of_a_mount_in_the_background_does_not_depend_on_its_stderr() {
    let server = Server::start(settings(4 * MIB));
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    bash(
        Some(&server.url()),
        r#""$0" --log-level debug "$1" 2>/dev/full"#,
        &target,
    )
    .ok();
    let file = std::fs::OpenOptions::new().write(true).open(&target).unwrap();
    file.write_all_at(&pattern(3, MIB as usize), 0).unwrap();
    drop(file);
    let ran = rhv_mount(None, [Path::new("umount"), &target]);
    assert_eq!(ran.code, Some(0), "{ran}");
    assert!(server.read_durable(0..MIB) == pattern(3, MIB as usize));
    wait_until("the placeholder is gone", 60, || !target.exists());
}
