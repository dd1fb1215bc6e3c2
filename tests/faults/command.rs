//! `rhv-mount MOUNTPOINT -- COMMAND`: whether the exit code reports the failure of COMMAND or of the mount.

use crate::rig::{MIB, TICKET, pattern, settings, used_server};
use crate::server::{Action, Fault, Server, Verb};
use crate::support::mount::{BINARY, is_mounted, rhv_mount};
use crate::support::run::{Ran, scratch};
use std::fs;

/// Runs `script` as COMMAND, on a mountpoint that does not exist before and must not exist afterwards.
#[track_caller]
fn run_command(server: &Server, script: &str) -> Ran {
    run_command_with(server, &[], script)
}

#[track_caller]
fn run_command_with(server: &Server, options: &[&str], script: &str) -> Ran {
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let words = [target.to_str().unwrap(), "--", "sh", "-c", script];
    let ran = rhv_mount(Some(&server.url()), [options, &words].concat());
    assert!(!is_mounted(&target), "still mounted: {ran}");
    assert!(!target.exists(), "the mountpoint is left: {ran}");
    ran
}

fn server() -> Server {
    used_server(settings(8 * MIB))
}

#[test]
fn a_command_that_succeeds_leaves_its_bytes_durable_and_exits_0() {
    let server = server();
    let ran = run_command(
        &server,
        "head -c 100000 /dev/zero | tr '\\0' x | dd of={} conv=notrunc status=none",
    )
    .ok();
    assert_eq!(server.read_durable(0..100_000), vec![b'x'; 100_000], "{ran}");
    assert_eq!(server.unflushed(), []);
}

#[test]
fn the_path_is_in_the_arguments_and_in_the_environment_and_the_secret_in_neither() {
    let ran = run_command(
        &server(),
        "test {} = \"$RHV_MOUNT_FILE\" && head -c 3 {} | od -An -tx1; env; echo {}",
    )
    .ok();
    let expected: Vec<String> = pattern(9, 3).iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(
        ran.stdout.starts_with(&format!(" {}\n", expected.join(" "))),
        "{ran}"
    );
    assert!(!ran.stdout.contains(TICKET), "{ran}");
}

#[test]
fn the_status_of_a_command_that_fails_is_the_exit_code_and_its_bytes_are_durable() {
    let server = server();
    let ran = run_command(
        &server,
        "printf kept | dd of={} conv=notrunc status=none; exit 33",
    );
    assert_eq!(ran.code, Some(33), "{ran}");
    assert_eq!(server.read_durable(0..4), b"kept");
}

#[test]
fn a_lost_write_exits_7_although_the_command_did_not_notice_it() {
    let server = server();
    server.arm(Fault::always(Verb::Put, Action::Status(500, "broken")));
    let ran = run_command_with(
        &server,
        &["--retry-time", "1"],
        "printf lost | dd of={} conv=notrunc status=none 2>/dev/null; exit 0",
    );
    assert_eq!(ran.code, Some(7), "{ran}");
    let last = ran.stderr.lines().last().unwrap_or_default();
    assert!(
        last.contains("data may be lost") && last.contains("broken"),
        "{ran}"
    );
}

#[test]
fn a_failed_flush_at_the_end_exits_7() {
    let server = server();
    server.arm(Fault::always(Verb::Flush, Action::Status(500, "broken")));
    let ran = run_command_with(
        &server,
        &["--retry-time", "1"],
        "printf lost | dd of={} conv=notrunc status=none",
    );
    assert_eq!(ran.code, Some(7), "{ran}");
}

#[test]
fn a_flush_at_the_end_that_fails_once_is_repeated() {
    let server = server();
    server.arm(Fault::next(Verb::Flush, Action::Status(500, "broken")));
    run_command(&server, "printf kept | dd of={} conv=notrunc status=none").ok();
    assert_eq!(server.faults_fired(), 1);
    assert_eq!(server.read_durable(0..4), b"kept");
}

#[test]
fn a_command_that_cannot_be_started_is_named_and_nothing_stays_mounted() {
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let server = server();
    let ran = rhv_mount(
        Some(&server.url()),
        [target.to_str().unwrap(), "--", "/nonexistent/program"],
    );
    assert!(ran.code.is_some_and(|code| code != 0), "{ran}");
    assert!(ran.stderr.contains("/nonexistent/program"), "{ran}");
    assert!(!is_mounted(&target) && !target.exists(), "{ran}");
}

#[test]
fn umount_is_refused_while_the_command_runs() {
    let server = server();
    let script = format!("{BINARY} umount {{}}; echo \"code $?\"; printf late | dd of={{}} conv=notrunc");
    let ran = run_command(&server, &script).ok();
    assert!(ran.stdout.contains("code 6"), "{ran}");
    assert!(ran.stderr.contains("COMMAND is at work"), "{ran}");
    assert_eq!(server.read_durable(0..4), b"late");
}

#[test]
fn an_unmount_under_the_command_is_a_failure_and_keeps_a_file_written_in_its_place() {
    let server = server();
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let script = "umount {} && printf elsewhere > {}";
    let ran = rhv_mount(
        Some(&server.url()),
        [target.to_str().unwrap(), "--", "sh", "-c", script],
    );
    assert_eq!(ran.code, Some(6), "{ran}");
    assert!(ran.stderr.contains("unmounted while COMMAND ran"), "{ran}");
    assert_eq!(
        fs::read(&target).expect("the file that the command wrote"),
        b"elsewhere"
    );
}

/// While another process has the file open, the FUSE session ends only after COMMAND does.
#[test]
fn an_unmount_under_the_command_is_noticed_while_the_file_is_open_elsewhere() {
    let server = server();
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let script = "sleep 3 < {} & sleep 0.2; umount -l {}";
    let ran = rhv_mount(
        Some(&server.url()),
        [target.to_str().unwrap(), "--", "sh", "-c", script],
    );
    assert_eq!(ran.code, Some(6), "{ran}");
    assert!(ran.stderr.contains("unmounted while COMMAND ran"), "{ran}");
}

#[test]
fn a_command_may_have_as_many_arguments_as_the_kernel_takes() {
    let server = server();
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let many: Vec<String> = (0..4000).map(|n| format!("{n:0>100}")).collect();
    let mut args = vec![target.to_str().unwrap(), "--", "sh", "-c", "echo $#", "sh"];
    args.extend(many.iter().map(String::as_str));
    let ran = rhv_mount(Some(&server.url()), args).ok();
    assert_eq!(ran.stdout.trim(), "4000");
}
