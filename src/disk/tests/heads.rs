//! The head of a raw disk: which changes are refused, and when a finalize is safe.

use super::*;

const JOURNAL: u64 = 1 << 20;

fn head_of(disk: &Disk) -> Vec<u8> {
    let mut buf = Vec::new();
    disk.read(0, HEAD_BYTES, &mut buf).unwrap().to_vec()
}

/// Opens a disk whose storage begins with `head`, and looks at it.
fn disk_with(head: &[u8]) -> (Arc<MemoryServer>, Disk) {
    let server = server_filled_with(9);
    let mut state = server.state();
    state.visible[..head.len()].copy_from_slice(head);
    state.durable[..head.len()].copy_from_slice(head);
    drop(state);
    let disk = server.disk(true, JOURNAL);
    (server, disk)
}

fn assert_refused<T: std::fmt::Debug>(result: Result<T, DiskError>, wanted: ImageFormat) {
    match result {
        Err(DiskError::LooksLike { format }) => assert_eq!(format, wanted),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_head_is_refused_whole_and_by_its_last_piece() {
    let (server, disk) = disk_with(b"");
    assert_refused(disk.write(0, b"QFI\xfb\0\0\0\x03"), ImageFormat::Qcow2);
    assert_eq!(head_of(&disk), [9; HEAD_BYTES]);
    disk.write(4, &[0, 0, 0, 3]).unwrap();
    disk.write(0, b"QFI").unwrap();
    assert_refused(disk.write(3, b"\xfb"), ImageFormat::Qcow2);
    disk.write(1 << 17, &[1; 70_000]).unwrap();
    disk.flush().unwrap();
    assert_eq!(
        detect(server.state().durable[..HEAD_BYTES].try_into().unwrap()),
        None
    );
    assert_eq!(&server.state().durable[..8], b"QFI\x09\0\0\0\x03");
    assert_eq!(disk.failure(), None);
    assert!(disk.head_told().unwrap().contains("qcow2"));
}

#[test]
fn zeros_and_a_truncate_are_refused_where_they_uncover_a_head() {
    let (_server, disk) = disk_with(b"LUKS\xba\xbe\x01\x01");
    assert_refused(disk.zero(6, 1, false), ImageFormat::Luks);
    disk.write(0, b"QED!").unwrap();
    assert_refused(disk.truncate(3), ImageFormat::Qed);
    assert_eq!(disk.len(), SIZE as u64);
    disk.truncate(2).unwrap();
    disk.truncate(SIZE as u64).unwrap();
    assert_refused(disk.write(2, b"D\0"), ImageFormat::Qed);
    disk.zero(0, 4096, false).unwrap();
    assert_eq!(disk.head_in_danger(), None);
}

/// A finalize removes a disk with such a head, until another one is on the storage.
#[test]
fn a_head_that_was_there_is_a_danger_until_another_one_is_durable() {
    let (_server, disk) = disk_with(b"conectix");
    assert_eq!(disk.head_in_danger(), Some(ImageFormat::Vpc));
    disk.write(8192, &[1; 4096]).unwrap();
    disk.flush().unwrap();
    assert_eq!(
        disk.head_in_danger(),
        Some(ImageFormat::Vpc),
        "that was not the head"
    );
    assert_refused(disk.write(100, &[1]), ImageFormat::Vpc);
    disk.write(0, b"C").unwrap();
    assert_eq!(
        disk.head_in_danger(),
        Some(ImageFormat::Vpc),
        "it is not durable yet"
    );
    disk.flush().unwrap();
    assert_eq!(disk.head_in_danger(), None);
}

#[test]
fn a_disk_of_unknown_format_takes_any_head_and_says_so_once() {
    let server = server_filled_with(9);
    let disk = server.disk_under(HeadRule::Warn);
    disk.write(4, &[0, 0, 0, 3]).unwrap();
    assert_eq!(disk.head_told(), None);
    disk.write(0, b"QFI\xfb").unwrap();
    assert!(disk.head_told().unwrap().contains("qcow2"));
    let disk = server.disk_under(HeadRule::Any);
    disk.write(0, b"vhdxfile").unwrap();
    assert_eq!(disk.head_told(), None);
}

/// Somebody else has written over the same transfer.
#[test]
fn the_head_that_the_storage_has_in_the_end_counts() {
    let (server, disk) = disk_with(b"");
    disk.write(0, &[1; 4096]).unwrap();
    disk.flush().unwrap();
    let mut state = server.state();
    state.visible[..8].copy_from_slice(b"vhdxfile");
    state.durable[..8].copy_from_slice(b"vhdxfile");
    drop(state);
    disk.close().unwrap();
    assert_eq!(disk.head_in_danger(), Some(ImageFormat::Vhdx));
}

/// The ticket was lost while nobody used the disk: its end needs no other one.
#[test]
fn the_last_look_at_the_head_renews_nothing() {
    let (server, disk) = disk_with(b"");
    disk.write(0, &[1; 4096]).unwrap();
    disk.flush().unwrap();
    disk.next_data(0)
        .expect("the extents are here, and need no ticket any more");
    let mut state = server.state();
    (state.renewals, state.ended) = (1, Some(state.epoch));
    drop(state);
    disk.close().unwrap();
    assert_eq!((server.state().epoch, disk.head_in_danger()), (0, None));
}
