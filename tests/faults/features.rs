//! The features of a server besides reading and writing: extents, which lseek reports, and the replacements
//! for features that a server lacks.

use crate::rig::{MIB, Rig, fallocate, pattern, punch_hole, read_at, settings, used_server};
use crate::server::{Action, Fault, Server, Settings, Verb};
use nix::fcntl::FallocateFlags;
use nix::unistd::{Whence, lseek};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Returns the data segments that lseek reports for the whole file.
fn data_segments(file: &File) -> Vec<Range<u64>> {
    let mut segments = Vec::new();
    let mut at = 0;
    while let Ok(start) = lseek(file, at, Whence::SeekData) {
        let end = lseek(file, start, Whence::SeekHole).expect("each data segment ends");
        segments.push(start as u64..end as u64);
        at = end;
    }
    segments
}

#[test]
fn seek_data_and_seek_hole_report_the_servers_extents_and_every_write_since() {
    let server = Server::start(settings(32 * MIB));
    server.preset(8 * MIB, &pattern(1, MIB as usize));
    server.preset(20 * MIB, &pattern(2, 4 * MIB as usize));
    let rig = Rig::over(server, &[]);
    let file = rig.read_write();
    assert_eq!(data_segments(&file), [8 * MIB..9 * MIB, 20 * MIB..24 * MIB]);
    file.write_all_at(&pattern(3, 5000), 2 * MIB).unwrap();
    file.write_all_at(&pattern(3, 5000), 9 * MIB + 10).unwrap();
    punch_hole(&file, 20 * MIB..24 * MIB).unwrap();
    file.write_all_at(b"data", 22 * MIB).unwrap();
    let segments = data_segments(&file);
    for data in [
        2 * MIB..2 * MIB + 5000,
        8 * MIB..9 * MIB,
        9 * MIB + 10..9 * MIB + 5010,
        22 * MIB..22 * MIB + 4,
    ] {
        let covered = |byte: u64| segments.iter().any(|segment| segment.contains(&byte));
        assert!(
            data.clone().all(covered),
            "{data:?} is data but not in {segments:?}"
        );
    }
    for hole in [0..MIB, 12 * MIB..16 * MIB, 28 * MIB..32 * MIB] {
        let touched = segments
            .iter()
            .any(|segment| segment.start < hole.end && hole.start < segment.end);
        assert!(!touched, "{hole:?} was never written but is in {segments:?}");
    }
    assert_eq!(
        errno_of(lseek(&file, 32 * MIB as i64, Whence::SeekData)),
        libc::ENXIO
    );
    assert_eq!(
        lseek(&file, 31 * MIB as i64, Whence::SeekHole).unwrap(),
        31 * MIB as i64
    );
}

fn errno_of<T: std::fmt::Debug>(result: nix::Result<T>) -> i32 {
    result.unwrap_err() as i32
}

#[test]
fn a_server_without_extents_has_no_holes_and_the_right_bytes() {
    let mut settings = settings(8 * MIB);
    settings.extents = false;
    let rig = Rig::over(used_server(settings), &[]);
    let file = rig.read_write();
    assert_eq!(lseek(&file, 0, Whence::SeekData), Ok(0));
    assert_eq!(lseek(&file, 0, Whence::SeekHole), Ok(8 * MIB as i64));
    assert!(read_at(&file, 0..8 * MIB).unwrap() == pattern(9, 8 * MIB as usize));
}

#[test]
fn a_server_without_the_zero_feature_gets_zeros_as_data() {
    let mut settings = settings(8 * MIB);
    settings.zero = false;
    let rig = Rig::over(used_server(settings), &[]);
    let mut model = rig.server.visible();
    let file = rig.read_write();
    punch_hole(&file, MIB + 5..3 * MIB).unwrap();
    fallocate(&file, FallocateFlags::FALLOC_FL_ZERO_RANGE, 5 * MIB..5 * MIB + 7).unwrap();
    file.write_all_at(&vec![0; MIB as usize], 6 * MIB).unwrap();
    for range in [MIB + 5..3 * MIB, 5 * MIB..5 * MIB + 7, 6 * MIB..7 * MIB] {
        model.zero(range);
    }
    assert!(read_at(&file, 0..8 * MIB).unwrap() == model.read(0..8 * MIB));
    drop(file);
    rig.umount_expecting(&model);
}

#[test]
fn a_server_without_the_flush_feature_gets_writes_that_flush_themselves() {
    let mut settings = settings(8 * MIB);
    (settings.flush, settings.zero) = (false, false);
    let rig = Rig::over(used_server(settings), &[]);
    let mut model = rig.server.visible();
    let file = rig.read_write();
    file.write_all_at(&pattern(1, MIB as usize), 77).unwrap();
    model.write(77, &pattern(1, MIB as usize));
    file.sync_all().unwrap();
    assert_eq!(rig.server.unflushed(), []);
    drop(file);
    rig.umount_expecting(&model);
}

#[test]
fn old_servers_without_options_work_with_plain_reads_and_writes() {
    for action in [
        Action::Status(405, "Method OPTIONS not allowed"),
        Action::Reply(204, ""),
    ] {
        let server = used_server(Settings {
            zero: false,
            flush: false,
            extents: false,
            ..settings(4 * MIB)
        });
        server.arm(Fault::always(Verb::Options, action.clone()));
        let rig = Rig::over(server, &[]);
        let mut model = rig.server.visible();
        let file = rig.read_write();
        file.write_all_at(&pattern(1, 100_000), 3).unwrap();
        model.write(3, &pattern(1, 100_000));
        punch_hole(&file, MIB..2 * MIB).unwrap();
        model.zero(MIB..2 * MIB);
        assert!(
            read_at(&file, 0..4 * MIB).unwrap() == model.read(0..4 * MIB),
            "{action:?}"
        );
        file.sync_all().unwrap();
        assert_eq!(rig.server.unflushed(), [], "{action:?}");
        drop(file);
        rig.umount_expecting(&model);
    }
}
