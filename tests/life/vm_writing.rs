//! `--vm --read-write`: each disk is written on its own, and ends on its own.

use std::fs;
use std::io::ErrorKind;

use serde_json::json;

use crate::existing::{expected, write_and_sync};
use crate::rig::{
    DATA_MAY_BE_LOST, DONE, LIMIT, USAGE, assert_free, assert_nothing_deleted, assert_told, source,
};
use crate::support::content::{MIB, random_image};
use crate::support::engine::Engine;
use crate::support::run::{run, sh};
use crate::vm_mounts::{directory, of_file, over, status, vm, web};

pub(crate) fn read_write(name: &str) -> Vec<String> {
    let mut args = vm(name);
    args.push("--read-write".into());
    args
}

#[test]
fn what_is_written_to_each_file_is_on_its_disk_and_a_flush_is_one_disks() {
    let engine = Engine::start();
    let disks = web(&engine);
    let mount = engine.mounting(read_write("web")).start();
    let point = mount.mountpoint();
    write_and_sync(&point.join("web_Disk1"), MIB, MIB, 1);
    let told = status(&engine, point);
    let flushes = |name: &str| of_file(&told, name)["flushes"].as_u64().expect("a number");
    assert!(flushes("web_Disk1") > 0, "{told}");
    assert_eq!(flushes("web_Disk2"), 0, "{told}");
    write_and_sync(&point.join("web_Disk2"), 2 * MIB, MIB, 2);
    mount.umount().ok();
    for ((disk, content), n) in disks.iter().zip([1, 2]) {
        assert_free(&engine, &disk.id, &expected(content, n * MIB, MIB, n));
    }
    assert_nothing_deleted(&engine);
    assert!(
        engine
            .transfers()
            .iter()
            .all(|one| one.phase == "finished_success")
    );
    assert!(engine.state_files().is_empty());
}

#[test]
fn a_command_that_fails_costs_no_disk_and_one_that_succeeds_is_verified() {
    let engine = Engine::start();
    let disks = web(&engine);
    let source = source(&engine, 71);
    let copy = format!("cp '{}' {{}}/web_Disk1", source.display());
    let ran = over(&engine, &read_write("web"), &format!("{copy}; exit 43"));
    assert_eq!(ran.code, Some(43), "{ran}");
    assert_free(&engine, &disks[0].0.id, &source);
    assert_free(&engine, &disks[1].0.id, &disks[1].1);
    let mut args = read_write("web");
    args.push("--verify".into());
    let ran = over(&engine, &args, &copy.replace("web_Disk1", "web_Disk2")).ok();
    for words in ["web_Disk1: verified: ", "web_Disk2: verified: "] {
        assert!(ran.stderr.contains(words), "{ran}");
    }
    assert_free(&engine, &disks[1].0.id, &source);
    assert_nothing_deleted(&engine);
}

/// The engine would remove a raw disk that begins so, see `heads`.
#[test]
fn a_head_of_another_format_is_refused_on_the_raw_disk_alone() {
    let engine = Engine::start();
    let disks = web(&engine);
    let mount = engine.mounting(read_write("web")).start();
    let mut head = [0; 4096];
    head[..8].copy_from_slice(b"LUKS\xba\xbe\0\x01");
    let write = |name: &str| {
        use std::os::unix::fs::FileExt;
        let file = fs::File::options()
            .write(true)
            .open(mount.mountpoint().join(name));
        file.expect("open the disk").write_all_at(&head, 0)
    };
    write("web_Disk1").expect("qcow2 volumes hold anything");
    let refused = write("web_Disk2").expect_err("a raw disk");
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    let told = status(&engine, mount.mountpoint());
    let is_told = |text: Option<&str>| text.is_some_and(|text| text.contains("luks"));
    assert!(is_told(of_file(&told, "web_Disk2")["refused"].as_str()), "{told}");
    assert!(of_file(&told, "web_Disk1")["refused"].is_null(), "{told}");
    mount.umount().ok();
    assert_free(&engine, &disks[1].0.id, &disks[1].1);
    assert_nothing_deleted(&engine);
}

#[test]
fn a_disk_that_is_not_finalized_keeps_no_other_one_from_it() {
    let engine = Engine::start();
    let disks = web(&engine);
    let mount = engine.mounting(read_write("web")).start();
    let point = mount.mountpoint().to_path_buf();
    for name in ["web_Disk1", "web_Disk2"] {
        write_and_sync(&point.join(name), MIB, MIB, 1);
    }
    engine.switch(&json!({"switch": "finalize_pause", "match": "web_Disk1"}));
    let ran = mount.umount();
    assert_told(
        &ran,
        &[DATA_MAY_BE_LOST],
        &["web_Disk1: ", &disks[0].0.id, "rhv-mount recover"],
    );
    assert!(!ran.stderr.contains(&disks[1].0.id), "it has ended well: {ran}");
    assert_free(&engine, &disks[1].0.id, &expected(&disks[1].1, MIB, MIB, 1));
    assert_eq!(engine.state_files().len(), 1, "only one is left to recover");
    engine.clear_switches();
    let mut args = vec!["recover".into()];
    args.extend(engine.args());
    args.push(point.into());
    let ran = engine.run(args, 120);
    assert_eq!(ran.code, Some(DONE), "{ran}");
    assert_free(&engine, &disks[0].0.id, &expected(&disks[0].1, MIB, MIB, 1));
    assert_nothing_deleted(&engine);
}

/// Ten disks share what one mount may have: 64 MiB, and what `--memory` says. No log is kept, which would take
/// longer than the copies.
#[test]
fn ten_disks_that_are_copied_at_once_stay_within_the_memory_of_one_mount() {
    const DISK: u64 = 20 * MIB;
    let engine = Engine::start();
    engine.add_vms(&json!([{"name": "many", "status": "down"}]));
    for n in 0..10 {
        engine.add_disk(&json!({"name": format!("d{n}"), "size": DISK, "format": "raw", "vm": "many"}));
    }
    let image = engine.dir().join("image");
    random_image(&image, DISK, 77);
    let (point, peak) = (directory(&engine, "point"), engine.dir().join("peak"));
    let with = |memory: &str| {
        let mut command = engine.tool();
        command.args(engine.args()).args(read_write("many")).args([
            "--connections",
            "12",
            "--memory",
            memory,
        ]);
        command.arg(&point);
        command
    };
    let script = format!(
        "all() {{ for n in $(seq 0 9); do \"$@\" & done; for job in $(jobs -p); do wait $job; done; }}; \
         write() {{ dd if='{0}' of={{}}/d$n bs=1M conv=notrunc,fsync status=none; }}; \
         read() {{ cmp '{0}' {{}}/d$n; }}; all write; all read; \
         grep -h VmHWM /proc/$PPID/status >'{1}'",
        image.display(),
        peak.display()
    );
    run(with("60M").args(["--", "bash", "-euc", &script]), LIMIT).ok();
    let told = fs::read_to_string(&peak).expect("the peak");
    let kib: u64 = told
        .split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse().ok())
        .expect("a number");
    assert!(kib << 10 <= (64 + 60) * MIB, "{told}");
    for n in 0..10 {
        assert_free(&engine, &format!("d{n}"), &image);
    }
    assert_told(
        &run(&mut with("20M"), 60),
        &[USAGE],
        &["10 disks", "--memory", "--disk"],
    );
    assert!(engine.state_files().is_empty());
}

#[test]
fn a_mount_that_was_killed_is_recovered_with_all_its_disks() {
    let engine = Engine::start();
    let disks = web(&engine);
    let mount = engine.mounting(read_write("web")).start();
    let point = mount.mountpoint().to_path_buf();
    write_and_sync(&point.join("web_Disk2"), MIB, MIB, 5);
    mount.kill();
    assert_eq!(engine.state_files().len(), 2);
    let left = sh(
        r#""$1" status "$2" "#,
        [crate::support::mount::BINARY.as_ref(), point.as_os_str()],
        20,
    );
    for (disk, _) in &disks {
        assert!(left.stdout.contains(&disk.id), "{left}");
    }
    let mut args = vec!["recover".into()];
    args.extend(engine.args());
    args.push(point.clone().into());
    engine.run(args, 120).ok();
    assert_free(&engine, &disks[0].0.id, &disks[0].1);
    assert_free(&engine, &disks[1].0.id, &expected(&disks[1].1, MIB, MIB, 5));
    assert_nothing_deleted(&engine);
    assert!(engine.state_files().is_empty());
    assert!(!crate::support::mount::is_mounted(&point));
}
