//! Single qcow2 images of every kind that qemu-img makes.

use std::fs;

use super::tools::{Folder, assert_as_qemu_sees, pattern};
use crate::images::Format;

const SIZE: usize = 5 << 20;

#[test]
fn every_cluster_size_is_read_as_qemu_reads_it() {
    let folder = Folder::new();
    folder.raw("disk.raw", SIZE + 512);
    for bits in 9..=21 {
        let options = format!("cluster_size={}", 1 << bits);
        folder.run(&format!(
            "qemu-img convert -f raw -O qcow2 -o {options} disk.raw plain{bits}.qcow2"
        ));
        folder.run(&format!(
            "qemu-img convert -f raw -O qcow2 -c -o {options} disk.raw small{bits}.qcow2"
        ));
        for kind in ["plain", "small"] {
            assert_as_qemu_sees(&folder, &format!("{kind}{bits}.qcow2"), Format::Qcow2);
        }
    }
}

#[test]
fn versions_compressions_and_allocations_are_read_as_qemu_reads_them() {
    let folder = Folder::new();
    folder.raw("disk.raw", SIZE + 1536);
    let kinds = [
        ("old", "-o compat=0.10"),
        ("old_compressed", "-c -o compat=0.10"),
        ("lazy", "-o lazy_refcounts=on"),
        ("metadata", "-o preallocation=metadata"),
        ("full", "-o preallocation=full"),
        ("falloc", "-o preallocation=falloc"),
        ("counts", "-o refcount_bits=1"),
        ("zeros", "-S 0"),
        ("zstd", "-c -o compression_type=zstd"),
        ("zstd_small", "-c -o compression_type=zstd,cluster_size=4k"),
        ("zstd_large", "-c -o compression_type=zstd,cluster_size=2M"),
        ("extended", "-o extended_l2=on"),
        ("extended_small", "-o extended_l2=on,cluster_size=16k"),
        ("extended_compressed", "-c -o extended_l2=on,cluster_size=128k"),
        ("data", "-o data_file=data.bytes"),
        ("data_raw", "-o data_file=data_raw.bytes,data_file_raw=on"),
    ];
    for (name, options) in kinds {
        folder.run(&format!(
            "qemu-img convert -f raw -O qcow2 {options} disk.raw {name}.qcow2"
        ));
        assert_as_qemu_sees(&folder, &format!("{name}.qcow2"), Format::Qcow2);
    }
}

#[test]
fn small_writes_zeros_and_discards_are_read_as_qemu_reads_them() {
    let folder = Folder::new();
    for (name, options) in [
        ("plain", "cluster_size=64k"),
        ("extended", "extended_l2=on,cluster_size=64k"),
        ("old", "compat=0.10"),
        ("tiny", "cluster_size=512"),
    ] {
        let image = format!("{name}.qcow2");
        folder.run(&format!(
            "qemu-img create -q -f qcow2 -o {options} {image} 3000832"
        ));
        let commands = "write -P 1 5k 3k; write -P 2 131072 200k; write -P 3 2999808 1024; write -z 150k 2k; \
                        write -z 196608 64k; discard 262144 64k; write -z 1M 512k; write -P 5 1100k 1k";
        folder.qemu_io("qcow2", &image, commands);
        assert_as_qemu_sees(&folder, &image, Format::Qcow2);
    }
}

#[test]
fn snapshots_inside_do_not_matter() {
    let folder = Folder::new();
    folder.run("qemu-img create -q -f qcow2 disk.qcow2 4M");
    folder.qemu_io("qcow2", "disk.qcow2", "write -P 1 0 1M");
    folder.run("qemu-img snapshot -c before disk.qcow2");
    folder.qemu_io("qcow2", "disk.qcow2", "write -P 2 512k 1M; discard 0 64k");
    folder.run("qemu-img snapshot -c later disk.qcow2");
    folder.qemu_io("qcow2", "disk.qcow2", "write -P 3 3M 100k");
    assert_as_qemu_sees(&folder, "disk.qcow2", Format::Qcow2);
}

#[test]
fn an_image_that_was_not_closed_is_read() {
    let folder = Folder::new();
    folder.run("qemu-img create -q -f qcow2 -o lazy_refcounts=on disk.qcow2 1M");
    folder.qemu_io("qcow2", "disk.qcow2", "write -P 7 0 100k");
    let mut bytes = fs::read(folder.path("disk.qcow2")).unwrap();
    bytes[79] |= 1;
    fs::write(folder.path("disk.qcow2"), bytes).unwrap();
    assert!(folder.run("qemu-img info disk.qcow2").contains("refcounts"));
    let source = crate::images::Source::open(&folder.path("disk.qcow2"), None).unwrap();
    let mut read = vec![0; 100 << 10];
    source.read_at(&mut read, 0).unwrap();
    assert!(read.iter().all(|byte| *byte == 7));
}

#[test]
fn an_empty_disk_has_no_extents() {
    let folder = Folder::new();
    folder.run("qemu-img create -q -f qcow2 disk.qcow2 0");
    let source = crate::images::Source::open(&folder.path("disk.qcow2"), None).unwrap();
    assert_eq!(source.size(), 0);
    source.read_at(&mut [], 0).unwrap();
    assert!(source.extent_at(0).is_err());
}

#[test]
fn threads_read_one_image_at_once() {
    let folder = Folder::new();
    let bytes = folder.raw("disk.raw", SIZE);
    folder.run("qemu-img convert -f raw -O qcow2 -c -o cluster_size=4k disk.raw disk.qcow2");
    let source = crate::images::Source::open(&folder.path("disk.qcow2"), None).unwrap();
    assert_eq!(bytes, pattern(SIZE));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (source, bytes) = (&source, &bytes);
            scope.spawn(move || {
                for at in (thread * 1000..SIZE - 70_000).step_by(64 << 10) {
                    let mut part = vec![0; 70_000];
                    source.read_at(&mut part, at as u64).unwrap();
                    assert!(part == bytes[at..at + part.len()], "{at}");
                }
            });
        }
    });
}
