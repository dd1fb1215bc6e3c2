//! Images that are written here.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::tools::{Folder, assert_as_qemu_sees, pattern};
use crate::images::{Format, Output};

/// Clean, without a leak, and of this size.
fn assert_good(folder: &Folder, image: &str, size: u64) {
    let checked = folder.run(&format!("qemu-img check -f qcow2 {image}"));
    assert!(checked.contains("No errors were found"), "{checked}");
    let info = folder.run(&format!("qemu-img info --output=json -f qcow2 {image}"));
    assert!(info.contains(&format!("\"virtual-size\": {size},")), "{info}");
}

#[test]
fn written_images_are_what_qemu_would_write() {
    for size in [0, 512, 65_536, 65_536 * 3 + 512, 1_000_001, 7 << 20] {
        let folder = Folder::new();
        let bytes = pattern(size);
        let rounded = size.next_multiple_of(512);
        fs::write(
            folder.path("disk.raw"),
            [bytes.clone(), vec![0; rounded - size]].concat(),
        )
        .unwrap();
        let output = Output::create(&folder.path("disk.qcow2"), Format::Qcow2, size as u64, false).unwrap();
        // The pieces fit no cluster, come in another order, and from several threads; zeros are left out.
        let pieces: Vec<(u64, &[u8])> = bytes
            .chunks(50_000)
            .enumerate()
            .map(|(number, piece)| (number as u64 * 50_000, piece))
            .filter(|(_, piece)| piece.iter().any(|byte| *byte != 0))
            .collect();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (output, pieces) = (&output, &pieces);
                scope.spawn(move || {
                    for (at, piece) in pieces.iter().rev().skip(thread).step_by(4) {
                        output.write_at(piece, *at).unwrap();
                    }
                });
            }
        });
        output.publish().unwrap();
        assert_good(&folder, "disk.qcow2", rounded as u64);
        folder.run("qemu-img compare -f raw -F qcow2 disk.raw disk.qcow2");
        if size > 0 {
            assert_as_qemu_sees(&folder, "disk.qcow2", Format::Qcow2);
        }
    }
}

#[test]
fn zeros_over_data_are_zeros() {
    let folder = Folder::new();
    let output = Output::create(&folder.path("disk.qcow2"), Format::Qcow2, 2 << 20, false).unwrap();
    output.write_at(&[1; 1 << 20], 1000).unwrap();
    output.zero_at(70_000, 300_000).unwrap();
    output.write_at(&[2; 5000], 100_000).unwrap();
    output.zero_at(1 << 20, 1 << 20).unwrap();
    output.publish().unwrap();
    let mut expected = vec![0; 2 << 20];
    expected[1000..(1 << 20) + 1000].fill(1);
    expected[70_000..370_000].fill(0);
    expected[100_000..105_000].fill(2);
    expected[1 << 20..].fill(0);
    fs::write(folder.path("disk.raw"), expected).unwrap();
    assert_good(&folder, "disk.qcow2", 2 << 20);
    folder.run("qemu-img compare -f raw -F qcow2 disk.raw disk.qcow2");
}

#[test]
fn a_large_disk_costs_what_its_data_costs() {
    let folder = Folder::new();
    let size = 8_u64 << 40;
    let output = Output::create(&folder.path("disk.qcow2"), Format::Qcow2, size, false).unwrap();
    for at in [0, size / 3, size - 512] {
        output.write_at(&[7; 512], at).unwrap();
    }
    output.publish().unwrap();
    assert_good(&folder, "disk.qcow2", size);
    let meta = fs::metadata(folder.path("disk.qcow2")).unwrap();
    assert!(
        meta.len() < 1 << 20 && meta.blocks() < 2048,
        "{} bytes",
        meta.len()
    );
    folder.qemu_io("qcow2", "disk.qcow2", &format!("read -P 7 {} 512", size - 512));

    let source = crate::images::Source::open(&folder.path("disk.qcow2"), None).unwrap();
    let mut data = 0;
    let (mut at, mut extents) = (0, 0);
    while at < size {
        let extent = source.extent_at(at).unwrap();
        data += if extent.zero { 0 } else { extent.length };
        at += extent.length;
        extents += 1;
    }
    assert!((1..=3 * 65_536).contains(&data), "{data} bytes of data");
    assert!(extents < 3000, "{extents} extents");
}

#[test]
fn nothing_is_left_of_a_qcow2_that_was_not_published() {
    let folder = Folder::new();
    let output = Output::create(&folder.path("disk.qcow2"), Format::Qcow2, 1 << 20, false).unwrap();
    output.write_at(&[1; 512], 0).unwrap();
    drop(output);
    assert_eq!(fs::read_dir(folder.path("")).unwrap().count(), 0);
    let error = Output::create(&folder.path("big.qcow2"), Format::Qcow2, u64::MAX, false)
        .unwrap_err()
        .to_string();
    assert!(error.contains("more than the format holds"), "{error}");
}
