//! Images on a file system that hangs, a network's whose server is gone: no copy, checksum or verification
//! can go on then, and each is ended by signals.

use std::fs;
use std::sync::atomic::Ordering;

use nix::sys::signal::Signal;

use crate::hanging::Hanging;
use crate::rig::{MIB, settings, used_server};
use crate::server::{Action, Fault, Settings, Verb};
use crate::support::foreground::Foreground;
use crate::support::mount::{is_mounted, rhv_mount_command};
use crate::support::run::{run, scratch, wait_until};

const INTERRUPTED: i32 = 1;
const DATA_MAY_BE_LOST: i32 = 7;

fn download() -> Settings {
    Settings {
        read_only: true,
        ..settings(4 * MIB)
    }
}

#[test]
fn a_download_whose_image_can_not_be_made_is_ended_by_one_signal() {
    let (server, mut hanging) = (used_server(download()), Hanging::mount());
    server.arm(Fault::always(Verb::Options, Action::Hold));
    let mut command = rhv_mount_command(Some(&server.url()));
    let mut copy = Foreground::spawn(command.arg("download").arg(hanging.path("disk.raw")));
    wait_until("the server is asked", 60, || server.count(Verb::Options) > 0);
    hanging.hang();
    server.disarm();
    // It makes the others when the first one is there, and the disk is open.
    wait_until("the disk is open", 60, || server.connections_opened() > 1);
    copy.signal(Signal::SIGTERM);
    assert_eq!(copy.wait(60).code(), Some(INTERRUPTED), "{}", copy.stderr());
    let told = copy.stderr();
    assert!(
        told.contains("interrupted before the first byte was copied"),
        "{told}"
    );
}

#[test]
fn the_checksum_of_an_image_that_hangs_is_ended_by_signals() {
    let mut hanging = Hanging::mount();
    let image = hanging.path("disk.raw");
    fs::write(&image, "").expect("make an image");
    hanging.hang();
    let mut command = rhv_mount_command(None);
    let mut running = Foreground::spawn(command.arg("checksum").arg(&image));
    // Before it hears signals, one would end it as well.
    let hears = || {
        let status = fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        caught.unwrap_or(0) & (1 << (Signal::SIGTERM as u32 - 1)) != 0
    };
    wait_until("it hears signals", 60, hears);
    running.signal(Signal::SIGTERM);
    wait_until("the answer", 60, || {
        running.stderr().contains("the checksum is given up")
    });
    running.signal(Signal::SIGTERM);
    assert_eq!(running.wait(60).code(), Some(INTERRUPTED), "{}", running.stderr());
}

#[test]
fn a_verification_whose_image_hangs_is_given_up_at_a_second_signal() {
    let (server, mut hanging, dir) = (used_server(settings(4 * MIB)), Hanging::mount(), scratch());
    let image = hanging.path("disk.raw");
    fs::write(&image, "").expect("make an image");
    let (target, go) = (dir.path().join("disk"), dir.path().join("go"));
    let mut command = rhv_mount_command(Some(&server.url()));
    command.arg(format!("--verify={}", image.display())).arg(&target);
    command.args(["--", "sh", "-c", "until [ -e \"$1\" ]; do sleep 0.05; done", "sh"]);
    let mut mount = Foreground::start(command.arg(&go), &target);
    hanging.hang();
    fs::write(&go, "").expect("let the command end");
    wait_until("it is unmounted", 60, || !is_mounted(&target));
    mount.signal(Signal::SIGTERM);
    wait_until("the answer", 60, || {
        mount.stderr().contains("the next signal gives up")
    });
    mount.signal(Signal::SIGTERM);
    assert_eq!(
        mount.wait(60).code(),
        Some(DATA_MAY_BE_LOST),
        "{}",
        mount.stderr()
    );
    assert!(!mount.stderr().contains("verified:"), "{}", mount.stderr());
}

/// No thread can be called back from it, so the process ends when it is answered.
#[test]
fn a_download_whose_rename_hangs_tells_at_a_second_signal_that_nobody_knows() {
    let (server, hanging) = (used_server(download()), Hanging::mount());
    hanging.faults().holds_renames.store(true, Ordering::SeqCst);
    let mut command = rhv_mount_command(Some(&server.url()));
    let mut copy = Foreground::spawn(command.arg("download").arg(hanging.path("disk.raw")));
    wait_until("the rename", 60, || {
        hanging.faults().rename_has_come.load(Ordering::SeqCst)
    });
    copy.signal(Signal::SIGTERM);
    wait_until("the answer", 60, || copy.stderr().contains("the image is whole"));
    copy.signal(Signal::SIGTERM);
    wait_until("the outcome", 60, || {
        copy.stderr().contains("it may or may not be there")
    });
    hanging.release();
    assert_eq!(copy.wait(60).code(), Some(INTERRUPTED), "{}", copy.stderr());
    assert!(!copy.stderr().contains("is not made"), "{}", copy.stderr());
}

#[test]
fn a_download_whose_name_may_be_undone_by_a_power_failure_is_told_as_that() {
    let (server, hanging) = (used_server(download()), Hanging::mount());
    let fails = &hanging.faults().fails_directory_flushes;
    fails.store(true, Ordering::SeqCst);
    let mut command = rhv_mount_command(Some(&server.url()));
    let ran = run(command.arg("download").arg(hanging.path("disk.raw")), 60);
    assert_eq!(ran.code, Some(INTERRUPTED), "{ran}");
    assert!(
        ran.stderr.contains("is whole, but its folder can't be flushed"),
        "{ran}"
    );
    assert!(
        !ran.stderr.contains("is not made") && hanging.has("disk.raw"),
        "{ran}"
    );
}
