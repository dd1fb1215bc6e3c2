//! The SDK's own example of a backup, which people know and copy, works against the stand-in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::support::content::{MIB, compare, random_image};
use crate::support::engine::Engine;
use crate::support::run::run;

/// A chain of backups that the example makes is what the guest had: the data of each disk, zeros that it has
/// written, and a raw disk, which is never incremental.
#[test]
fn the_sdk_backs_a_vm_up_in_full_and_incrementally() {
    let engine = Engine::start();
    let path = |name: &str| engine.dir().join(name);
    fs::create_dir(path("backups")).expect("a directory of backups");
    random_image(&path("content"), MIB, 11);
    let disks = ["cow", "raw"].map(|format| {
        let disk = json!({"name": format, "size": MIB, "format": format, "content": path("content"),
            "vm": "web"});
        engine.add_disk(&disk).id
    });
    let vm = engine.state("vms")[0]["id"].as_str().expect("an id").to_owned();

    let full = engine.sdk_backup(&vm, &path("backups"), None);
    let checkpoint = parts(&full[0])[1].clone();
    let writes = json!([
        {"offset": 0, "length": 65536, "pattern": 5},
        {"offset": 524_288, "length": 131_072, "zero": true},
    ]);
    for disk in &disks {
        engine.guest_writes(disk, &writes);
    }
    let later = engine.sdk_backup(&vm, &path("backups"), Some(&checkpoint));

    assert_eq!((full.len(), later.len()), (2, 2));
    for (disk, mode) in disks.iter().zip(["incremental", "full"]) {
        let of_disk = |files: &[PathBuf]| {
            let mut files = files.iter().filter(|file| parts(file)[2] == *disk);
            files.next().expect("a file of the disk").clone()
        };
        assert_eq!(parts(&of_disk(&full))[3], "full");
        assert_eq!(parts(&of_disk(&later))[3], mode);
        engine.guest_copy(disk, &path("now"));
        assert_same(&of_disk(&later), &path("now"));
        assert_same(&of_disk(&full), &path("content"));
    }
}

/// Returns the parts of a name: time, checkpoint, disk, mode and `qcow2`.
fn parts(file: &Path) -> Vec<String> {
    let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
    name.split('.').map(str::to_owned).collect()
}

#[track_caller]
fn assert_same(image: &Path, source: &Path) {
    let raw = image.with_extension("raw");
    let convert = ["convert", "-f", "qcow2", "-O", "raw"];
    run(Command::new("qemu-img").args(convert).arg(image).arg(&raw), 60).ok();
    compare(&raw, source).unwrap_or_else(|reason| panic!("{}: {reason}", image.display()));
    fs::remove_file(raw).expect("remove a copy");
}
