//! VMDK images of the kinds that qemu-img makes.

use std::fs;

use super::tools::{Folder, assert_as_qemu_sees, refusal};
use crate::images::{Format, Source};

const KINDS: [&str; 5] = [
    "monolithicSparse",
    "monolithicFlat",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
    "streamOptimized",
];

#[test]
fn every_kind_is_read_as_qemu_reads_it() {
    for size in [512, 5 << 20, (33 << 20) + 512] {
        let folder = Folder::new();
        folder.raw("disk.raw", size);
        for kind in KINDS {
            folder.run(&format!(
                "qemu-img convert -f raw -O vmdk -o subformat={kind} disk.raw {kind}.vmdk"
            ));
            assert_as_qemu_sees(&folder, &format!("{kind}.vmdk"), Format::Vmdk);
        }
        folder.run("qemu-img convert -f raw -O vmdk -o zeroed_grain=on,compat6 disk.raw zeroed.vmdk");
        folder.qemu_io("vmdk", "zeroed.vmdk", "write -z 0 512");
        assert_as_qemu_sees(&folder, "zeroed.vmdk", Format::Vmdk);
    }
}

/// ovftool and VMware name the directory in a footer, as they know its place at the end only.
#[test]
fn the_header_may_stand_at_the_end() {
    let folder = Folder::new();
    folder.raw("disk.raw", 1 << 20);
    folder.run("qemu-img convert -f raw -O vmdk -o subformat=streamOptimized disk.raw stream.vmdk");
    let mut bytes = fs::read(folder.path("stream.vmdk")).unwrap();
    let header = bytes[..512].to_vec();
    bytes[56..64].fill(0xff);
    let mut marker = [0; 512];
    marker[0] = 1;
    marker[12] = 3;
    bytes.extend([&marker[..], &header, &[0; 512]].concat());
    fs::write(folder.path("footer.vmdk"), bytes).unwrap();
    assert_as_qemu_sees(&folder, "footer.vmdk", Format::Vmdk);
}

#[test]
fn a_disk_in_parts_is_read_over_their_borders() {
    let folder = Folder::new();
    for kind in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let image = format!("{kind}.vmdk");
        folder.run(&format!(
            "qemu-img create -q -f vmdk -o subformat={kind} {image} 5G"
        ));
        folder.qemu_io("vmdk", &image, "write -P 3 2047M 2M; write -P 4 4095M 1k");
        let source = Source::open(&folder.path(&image), None).unwrap();
        assert_eq!(source.size(), 5 << 30);
        let mut bytes = vec![0; 4 << 20];
        source.read_at(&mut bytes, 2046 << 20).unwrap();
        let threes = bytes.iter().position(|byte| *byte == 3).unwrap();
        assert_eq!(threes, 1 << 20);
        assert!(bytes[threes..threes + (2 << 20)].iter().all(|byte| *byte == 3));
        let (mut at, mut data) = (0, 0);
        while at < source.size() {
            let extent = source.extent_at(at).unwrap();
            data += if extent.zero { 0 } else { extent.length };
            at += extent.length;
        }
        assert!((2 << 20..4 << 20).contains(&data), "{data} bytes of data");
    }
}

#[test]
fn parts_elsewhere_snapshots_and_other_kinds_are_refused() {
    let folder = Folder::new();
    let text = |lines: &str| {
        let path = folder.path("disk.vmdk");
        fs::write(&path, format!("# Disk DescriptorFile\nversion=1\n{lines}\n")).unwrap();
        refusal(&path)
    };
    fs::write(folder.path("small"), [0; 512]).unwrap();
    for (lines, reason) in [
        (
            "RW 1 FLAT \"/etc/passwd\" 0",
            "needs /etc/passwd, which is not in its folder",
        ),
        ("RW 1 FLAT \"nbd://x\" 0", "which is no file"),
        ("parentCID=12345678\nRW 1 ZERO", "needs its parent"),
        ("RW 1 SESPARSE \"small\"", "convert it: qemu-img convert"),
        ("CID=1", "names no part"),
    ] {
        let error = text(lines);
        assert!(error.contains(reason), "{error}, and not: {reason}");
    }
    for lines in [
        "RW 2 FLAT \"small\" 0",
        "RW 1 FLAT \"small\" 1",
        "RW 1 SPARSE \"small\"",
    ] {
        fs::write(folder.path("disk.vmdk"), format!("version=1\n{lines}\n")).unwrap();
        let error = Source::open(&folder.path("disk.vmdk"), None)
            .unwrap_err()
            .to_string();
        assert!(error.contains("small is damaged"), "{error}");
    }
}

#[test]
fn a_sparse_file_may_not_claim_what_can_not_be_and_a_cut_one_is_damaged() {
    let folder = Folder::new();
    folder.raw("disk.raw", 1 << 20);
    folder.run("qemu-img convert -f raw -O vmdk disk.raw sparse.vmdk");
    folder.run("qemu-img convert -f raw -O vmdk -o subformat=streamOptimized disk.raw stream.vmdk");
    let whole = fs::read(folder.path("sparse.vmdk")).unwrap();
    let path = folder.path("broken.vmdk");
    for (at, change, reason) in [
        (4, &[9, 0, 0, 0][..], "version 9"),
        (12, &[0; 8], "has no sectors"),
        (12, &[0xff; 8], "claims a disk of"),
        (12, &[0, 0, 0, 0, 0, 0, 0x3f, 0], "directory is behind its end"),
        (20, &[0; 8], "impossible size"),
        (20, &[0xff; 8], "impossible size"),
        (44, &[0xff; 4], "claims tables of"),
        (56, &[0xff; 7], "directory is behind its end"),
    ] {
        let mut bytes = whole.clone();
        bytes[at..at + change.len()].copy_from_slice(change);
        fs::write(&path, bytes).unwrap();
        let error = refusal(&path);
        assert!(error.contains(reason), "{error}, and not: {reason}");
    }
    let stream = fs::read(folder.path("stream.vmdk")).unwrap();
    for bytes in [
        &whole[..600],
        &whole[..whole.len() - (64 << 10)],
        &stream[..stream.len() / 2],
        &stream[..700],
    ] {
        fs::write(&path, bytes).unwrap();
        let read = Source::open(&path, None).and_then(|source| {
            let mut all = vec![0; source.size() as usize];
            source.read_at(&mut all, 0)
        });
        let error = read.unwrap_err().to_string();
        assert!(error.contains("broken.vmdk is damaged"), "{error}");
    }
}
