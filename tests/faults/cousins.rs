//! Servers with imageio's API that are not imageio: Apache CloudStack's, and others that copy it.

use crate::rig::{MIB, Rig, TICKET, errno, pattern, punch_hole, read_at, settings, used_server};
use crate::server::{Action, Fault, Image, Server, Settings, Verb};
use crate::support::mount::{BINARY, URL_VARIABLE, is_mounted};
use crate::support::run::{run, scratch};
use nix::unistd::Whence;
use std::os::unix::fs::FileExt;
use std::process::Command;

const LIMIT_SECONDS: u64 = 150;
const REFUSED: i32 = 4;
const GIB: u64 = 1 << 30;

fn cousin(size: u64) -> Settings {
    Settings {
        cousin: true,
        ..settings(size)
    }
}

#[test]
fn a_disk_on_a_cousin_is_what_was_written_to_it() {
    let rig = Rig::start(cousin(8 * MIB), &[]);
    let mut expected = Image::new(8 * MIB);
    let file = rig.read_write();
    for (n, offset) in [0, 5000, 3 * MIB + 1, 8 * MIB - 70_000].into_iter().enumerate() {
        let bytes = pattern(n as u64, 70_000);
        file.write_all_at(&bytes, offset).expect("write");
        expected.write(offset, &bytes);
    }
    punch_hole(&file, 4096..40_000).expect("punch a hole");
    expected.zero(4096..40_000);
    file.sync_all().expect("fsync");
    assert!(read_at(&file, 0..8 * MIB).expect("read") == expected.read(0..8 * MIB));
    assert_eq!(rig.server.unflushed(), []);
    drop(file);
    rig.umount_expecting(&expected);
}

/// Each piece of the answer repeats the end of the extent before it.
#[test]
fn holes_are_kept_where_extents_are_told_twice() {
    let server = Server::start(cousin(64 * MIB));
    let data = pattern(1, 2 * MIB as usize);
    server.preset(10 * MIB + MIB / 2, &data);
    let rig = Rig::over(server, &["--read-only"]);
    let file = rig.open(std::fs::OpenOptions::new().read(true));
    // A read of data waits for the extents.
    assert!(read_at(&file, 10 * MIB + MIB / 2..12 * MIB + MIB / 2).expect("read") == data);
    let seek = |offset: u64, whence| nix::unistd::lseek(&file, offset as i64, whence).expect("seek") as u64;
    crate::support::run::wait_until("the holes are known", 60, || seek(0, Whence::SeekHole) == 0);
    assert_eq!(seek(0, Whence::SeekData), 10 * MIB + MIB / 2);
    assert_eq!(seek(10 * MIB + MIB / 2, Whence::SeekHole), 12 * MIB + MIB / 2);
}

/// A request of 4 GiB or more does not fit the lengths of NBD.
#[test]
fn a_hole_of_many_gib_is_made_in_pieces_below_4_gib() {
    let server = Server::start(cousin(20 * GIB));
    let data = pattern(2, MIB as usize);
    let places = [0, 4 * GIB - 1, 9 * GIB, 20 * GIB - MIB];
    places.iter().for_each(|at| server.preset(*at, &data));
    let rig = Rig::over(server, &[]);
    let file = rig.read_write();
    punch_hole(&file, 0..20 * GIB).expect("punch a hole");
    file.sync_all().expect("fsync");
    assert!(read_at(&file, 9 * GIB..9 * GIB + MIB).expect("read") == vec![0; MIB as usize]);
    drop(file);
    rig.umount_expecting(&Image::new(20 * GIB));
}

/// Its storage was away for a moment: the answer is 400 with the number of the error.
#[test]
fn a_400_with_an_error_number_is_asked_again() {
    for verb in [Verb::Get, Verb::Put, Verb::Zero, Verb::Flush] {
        let rig = Rig::over(used_server(cousin(4 * MIB)), &[]);
        let refusal = "{\"error\": \"[Errno 111] Connection refused\"}";
        rig.server
            .arm(Fault::next(verb, Action::Reply(400, refusal)).times(2));
        let file = rig.read_write();
        let mut expected = Image::new(4 * MIB);
        expected.write(0, &pattern(9, 4 * MIB as usize));
        let bytes = pattern(3, 100_000);
        file.write_all_at(&bytes, 70_000).expect("write");
        expected.write(70_000, &bytes);
        punch_hole(&file, 2 * MIB..3 * MIB).expect("punch a hole");
        expected.zero(2 * MIB..3 * MIB);
        file.sync_all().unwrap_or_else(|e| panic!("{verb:?}: fsync: {e}"));
        let read = read_at(&file, 0..4 * MIB).unwrap_or_else(|e| panic!("{verb:?}: read: {e}"));
        assert!(read == expected.read(0..4 * MIB), "{verb:?}");
        assert_eq!(rig.server.faults_fired(), 2, "{verb:?}");
        drop(file);
        rig.umount_expecting(&expected);
    }
}

/// Runs `rhv-mount ARGS MOUNTPOINT`, which must fail with code 4 and leave nothing; returns its messages.
#[track_caller]
fn refused(server: &Server, args: &[&str]) -> String {
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let mut command = Command::new(BINARY);
    command.args(args).arg(&target).env(URL_VARIABLE, server.url());
    let ran = run(&mut command, LIMIT_SECONDS);
    let mounted = is_mounted(&target);
    if mounted {
        let _ = run(Command::new(BINARY).arg("umount").arg(&target), LIMIT_SECONDS);
    }
    assert!(!mounted && !target.exists(), "{ran}");
    assert_eq!(ran.code, Some(REFUSED), "{ran}");
    assert!(!ran.stderr.contains(TICKET), "the ticket is shown: {ran}");
    ran.stderr
}

#[test]
fn a_404_for_the_ticket_is_told_as_a_403_is() {
    let server = Server::start(cousin(4 * MIB));
    server.change(|settings| settings.revoked = true);
    let told = refused(&server, &[]);
    assert!(
        told.contains("HTTP 404") && told.contains("unknown image_id"),
        "{told}"
    );
    assert!(told.contains("start a new one and take its URL"), "{told}");

    let rig = Rig::over(used_server(cousin(4 * MIB)), &[]);
    let file = rig.read_write();
    rig.server.change(|settings| settings.revoked = true);
    assert_eq!(errno(read_at(&file, 0..4096)), nix::libc::EIO);
    drop(file);
    let told = rig.mount.log_end();
    assert!(
        told.contains("HTTP 404") && told.contains("unknown image_id"),
        "{told}"
    );
}

#[test]
fn a_first_connection_that_is_reset_is_made_again_and_that_is_said_once() {
    let server = Server::start(cousin(4 * MIB));
    server.arm(Fault::next(Verb::Options, Action::CloseBeforeBody));
    let rig = Rig::over(server, &[]);
    let told = rig.mount.stderr();
    assert_eq!(told.matches("Trying again").count(), 1, "{told}");
    rig.umount_expecting(&Image::new(4 * MIB));
}

#[test]
fn a_server_that_takes_a_whole_image_only_is_refused_for_writing_at_the_start() {
    let whole_only = || {
        let server = used_server(Settings {
            whole_only: true,
            zero: false,
            extents: false,
            max_writers: 1,
            ..cousin(4 * MIB)
        });
        server.preset(0, b"the first bytes");
        server
    };
    let server = whole_only();
    let before = server.visible();
    let told = refused(&server, &[]);
    assert!(told.contains("use full PUT"), "{told}");
    assert!(told.contains("--read-only"), "{told}");
    assert!(server.visible().first_difference(&before).is_none());

    let rig = Rig::over(whole_only(), &["--read-only"]);
    let file = rig.open(std::fs::OpenOptions::new().read(true));
    assert_eq!(read_at(&file, 0..15).expect("read"), b"the first bytes");
    drop(file);
    let (ran, _) = rig.umount();
    assert_eq!(ran.code, Some(0), "{ran}");
}

/// A server with few features that does take ranges has its first bytes written again, and nothing changes.
#[test]
fn a_server_without_zeros_and_extents_that_takes_ranges_is_mounted() {
    let server = used_server(Settings {
        zero: false,
        extents: false,
        ..cousin(4 * MIB)
    });
    let before = server.visible();
    Rig::over(server, &[]).umount_expecting(&before);
}
