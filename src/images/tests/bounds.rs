//! Images that claim what can't be, are damaged, or are none of those that are read.

use std::fs;

use super::tools::{Folder, refusal};
use crate::images::Source;

/// Makes an image, overwrites bytes of it, and returns the refusal.
fn refusal_with(changes: &[(usize, &[u8])]) -> String {
    let folder = Folder::new();
    folder.run("qemu-img create -q -f qcow2 disk.qcow2 1G");
    let path = folder.path("disk.qcow2");
    let mut bytes = fs::read(&path).unwrap();
    for (at, change) in changes {
        bytes[*at..*at + change.len()].copy_from_slice(change);
    }
    fs::write(&path, bytes).unwrap();
    refusal(&path)
}

#[test]
fn a_header_may_not_claim_what_can_not_be() {
    let huge = (1_u64 << 63).to_be_bytes();
    let just_below = ((1_u64 << 63) - 512).to_be_bytes();
    let many = u32::MAX.to_be_bytes();
    for (changes, reason) in [
        (
            &[(24, huge.as_slice())][..],
            "claims a disk of 9223372036854775808 bytes",
        ),
        (
            &[(24, &just_below), (36, &many)],
            "claims a disk of 9223372036854775296 bytes",
        ),
        (&[(36, &many)], "and 4294967295 L1 entries"),
        (&[(36, &[0, 0, 0, 1])], "its L1 table has 1 entries of 2"),
        (&[(40, &[0; 8]), (47, &[1])], "does not begin at a cluster"),
        (
            &[(40, &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0])],
            "behind the end of the file",
        ),
        (&[(56, &many)], "claims a refcount table"),
        (&[(20, &[0, 0, 0, 22])], "claims clusters of 2^22 bytes"),
        (&[(20, &[0, 0, 0, 8])], "claims clusters of 2^8 bytes"),
        (&[(20, &[0xff; 4])], "claims clusters of"),
        (&[(96, &[0, 0, 0, 7])], "reference counts of 2^7 bits"),
        (&[(100, &[0xff; 4])], "claims a header of"),
        (
            &[(8, &[0, 0, 0, 0, 0, 0, 0xff, 0xff]), (16, &[0, 0, 3, 0])],
            "not in its first cluster",
        ),
        (&[(8, &[0xff; 8]), (16, &[0xff; 4])], "not in its first cluster"),
        (
            &[(112, &[1, 2, 3, 4, 0xff, 0xff, 0xff, 0xff])],
            "extension is longer",
        ),
        (&[(79, &[2])], "marked it as corrupt"),
        (&[(79, &[0x20])], "features of qcow2 that are unknown here (0x20)"),
        (
            &[(35, &[1])],
            "is encrypted, which can't be read; convert it: qemu-img convert",
        ),
        (&[(7, &[9])], "is qcow2 of version 9"),
    ] {
        let error = refusal_with(changes);
        assert!(error.contains(reason), "{error}\nand not: {reason}");
    }
}

#[test]
fn an_encrypted_image_is_refused() {
    let folder = Folder::new();
    folder.run(
        "qemu-img create -q -f qcow2 --object secret,id=key,data=abc \
         -o encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10 disk.qcow2 1M",
    );
    let error = refusal(&folder.path("disk.qcow2"));
    assert!(
        error.contains("is encrypted with LUKS, which can't be read"),
        "{error}"
    );
}

#[test]
fn an_image_that_was_cut_off_is_damaged() {
    let folder = Folder::new();
    folder.raw("disk.raw", 4 << 20);
    folder.run("qemu-img convert -f raw -O qcow2 disk.raw whole.qcow2");
    let bytes = fs::read(folder.path("whole.qcow2")).unwrap();
    let path = folder.path("cut.qcow2");
    for length in [
        40,
        80,
        64 << 10,
        200 << 10,
        300 << 10,
        bytes.len() - (64 << 10),
        bytes.len() / 2 + 1,
    ] {
        fs::write(&path, &bytes[..length]).unwrap();
        let read = Source::open(&path, None).and_then(|source| {
            let mut all = vec![0; source.size() as usize];
            source.read_at(&mut all, 0)
        });
        let error = read.unwrap_err().to_string();
        assert!(error.contains("cut.qcow2 is damaged"), "{length}: {error}");
    }
}

#[test]
fn tables_that_lead_astray_are_damage() {
    let folder = Folder::new();
    folder.raw("disk.raw", 1 << 20);
    folder.run("qemu-img convert -f raw -O qcow2 disk.raw whole.qcow2");
    folder.run("qemu-img convert -f raw -O qcow2 -c disk.raw small.qcow2");
    let l1_of = |bytes: &[u8]| u64::from_be_bytes(*bytes[40..].first_chunk().unwrap()) as usize;
    let entry = |bytes: &[u8], at: usize| u64::from_be_bytes(*bytes[at..].first_chunk().unwrap());
    let whole = fs::read(folder.path("whole.qcow2")).unwrap();
    let small = fs::read(folder.path("small.qcow2")).unwrap();
    let l1 = l1_of(&whole);
    let l2 = (entry(&whole, l1) & 0x00ff_ffff_ffff_fe00) as usize;
    let small_l1 = l1_of(&small);
    let small_l2 = (entry(&small, small_l1) & 0x00ff_ffff_ffff_fe00) as usize;
    let first_data = (0..16)
        .map(|index| small_l2 + index * 8)
        .find(|at| entry(&small, *at) != 0)
        .unwrap();
    let compressed = (entry(&small, first_data) & 0x003f_ffff_ffff_ffff) as usize;
    for (image, at, change, reason) in [
        (&whole, l1, (1_u64 << 50).to_be_bytes(), "a table at byte"),
        (
            &whole,
            l1,
            0x8000_0000_0000_0200_u64.to_be_bytes(),
            "its L2 table 0 does not begin",
        ),
        (&whole, l2, (1_u64 << 50).to_be_bytes(), "its data at byte"),
        (
            &whole,
            l2,
            0x8000_0000_0000_0200_u64.to_be_bytes(),
            "does not begin at a cluster of the file",
        ),
        (&small, compressed, [0xff; 8], "can't be expanded"),
        (&small, first_data, u64::MAX.to_be_bytes(), "can't be expanded"),
    ] {
        let mut bytes = image.clone();
        bytes[at..at + 8].copy_from_slice(&change);
        let path = folder.path("astray.qcow2");
        fs::write(&path, bytes).unwrap();
        let source = Source::open(&path, None).unwrap();
        let error = source.read_at(&mut vec![0; 1 << 20], 0).unwrap_err().to_string();
        assert!(
            error.contains("astray.qcow2 is damaged") && error.contains(reason),
            "{error}, not {reason}"
        );
    }
}
