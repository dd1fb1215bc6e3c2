//! Buffers that are handed over keep the promises of writes that are copied.

use super::*;

/// Fills a lent buffer with `fill` and writes it as piece `n`.
fn write_piece(disk: &Disk, n: u64, fill: u8) {
    let mut bytes = disk.lend();
    bytes.fill(fill);
    disk.write_lent(n * disk.piece(), bytes).unwrap();
}

fn read(disk: &Disk, offset: u64, len: usize) -> Vec<u8> {
    disk.read(offset, len, &mut Vec::new()).unwrap().to_vec()
}

#[test]
fn a_buffer_that_is_handed_over_is_read_back_and_durable_after_a_flush() {
    let server = server_filled_with(9);
    let disk = server.disk(true, 1 << 20);
    let piece = disk.piece();
    write_piece(&disk, 1, 3);
    assert!(read(&disk, piece, piece as usize) == vec![3; piece as usize]);
    // Newer bytes go over a part of it, and it over older ones.
    disk.write(piece + 100, &[4; 50]).unwrap();
    disk.write(3 * piece + 5, &[5; 50]).unwrap();
    write_piece(&disk, 3, 6);
    disk.close().unwrap();
    let mut expected = vec![9; SIZE];
    expected[piece as usize..2 * piece as usize].fill(3);
    expected[piece as usize + 100..][..50].fill(4);
    expected[3 * piece as usize..4 * piece as usize].fill(6);
    assert!(server.state().durable == expected);
    assert_eq!(disk.given(), 2 * piece + 100);
}

#[test]
fn a_buffer_that_is_handed_over_is_written_again_when_it_is_lost() {
    let server = server_filled_with(9);
    let disk = server.disk(true, 1 << 20);
    for n in 0..4 {
        write_piece(&disk, n, n as u8 + 1);
    }
    disk.drain().unwrap();
    server.state().restart();
    disk.flush().unwrap();
    let piece = disk.piece() as usize;
    for n in 0..4 {
        assert!(server.state().durable[n * piece..][..piece] == vec![n as u8 + 1; piece]);
    }
}

#[test]
fn zeros_in_a_buffer_and_one_that_lies_across_two_pieces_are_written_as_ever() {
    let server = server_filled_with(9);
    let disk = server.disk(true, 1 << 20);
    write_piece(&disk, 0, 0);
    let mut bytes = disk.lend();
    bytes.fill(7);
    let across = disk.piece() + 1000;
    disk.write_lent(across, bytes).unwrap();
    assert!(matches!(
        disk.write_lent(SIZE as u64 - 1, vec![1; 2]),
        Err(DiskError::NoSpace { .. })
    ));
    disk.close().unwrap();
    let piece = disk.piece() as usize;
    let state = server.state();
    assert!(state.durable[..piece] == vec![0; piece]);
    assert!(state.durable[across as usize..][..piece] == vec![7; piece]);
}

/// A raw disk must not begin like another format, whichever way its bytes come.
#[test]
fn a_head_of_another_format_is_refused_in_a_buffer_too() {
    let server = server_filled_with(0);
    let disk = server.disk(true, 1 << 20);
    let mut bytes = disk.lend();
    bytes.fill(1);
    bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    assert!(matches!(
        disk.write_lent(0, bytes),
        Err(DiskError::LooksLike { .. })
    ));
    disk.close().unwrap();
    assert!(server.state().durable.iter().all(|byte| *byte == 0));
}
