//! Read-only mounts: downloads of disks and disk snapshots, which are always finalized and never change a
//! byte.

use std::process::Command;

use serde_json::json;

use crate::rig::{
    DATA_MAY_BE_LOST, ENGINE_FAILED, SIZE, USAGE, assert_free, assert_nothing_deleted, assert_refused,
    assert_told, existing, over, used_disk,
};
use crate::support::content::{MIB, random_image};
use crate::support::engine::Engine;
use crate::support::run::{run, sh};

fn read_only(name: &str) -> Vec<String> {
    let mut args = existing(name);
    args.push("--read-only".into());
    args
}

#[test]
fn a_disk_is_read_through_a_download_that_is_finalized() {
    let engine = Engine::start();
    for format in ["raw", "cow"] {
        let (disk, content) = used_disk(&engine, format, format);
        let script = format!("cmp {{}} '{}'", content.display());
        over(&engine, &read_only(format), &script).ok();
        let transfer = engine.transfer();
        assert_eq!(
            (transfer.direction.as_str(), transfer.phase.as_str()),
            ("download", "finished_success")
        );
        assert_free(&engine, &disk.id, &content);
    }
    assert_nothing_deleted(&engine);
    assert_eq!(engine.sessions(), 0, "a session is left open");
}

#[test]
fn a_read_only_mount_refuses_writers() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(read_only("web01")).start();
    let ran = sh(
        r#"dd if=/dev/zero of="$1" bs=4k count=1 conv=notrunc"#,
        [mount.file()],
        20,
    );
    assert!(
        !ran.success() && ran.stderr.to_lowercase().contains("read-only"),
        "{ran}"
    );
    mount.umount().ok();
    assert_free(&engine, &disk.id, &content);
}

/// A download has nothing to lose, so it ends in the same way whether COMMAND fails or succeeds.
#[test]
fn a_download_whose_command_failed_leaves_the_disk_free() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let ran = over(
        &engine,
        &read_only("web01"),
        "head -c 100 {} > /dev/null; exit 42",
    );
    assert_eq!(ran.code, Some(42), "{ran}");
    assert_free(&engine, &disk.id, &content);
    assert!(engine.state_files().is_empty());
}

/// The guest goes on writing to the disk, and the snapshot does not change.
#[test]
fn a_snapshot_is_read_while_its_vm_runs() {
    let engine = Engine::start();
    let content = engine.dir().join("content");
    random_image(&content, SIZE, 6);
    let disk = engine.add_disk(&json!({
        "name": "web01", "size": SIZE, "format": "cow", "content": content, "snapshots": 2, "vm": "web"
    }));
    for snapshot in &disk.snapshots {
        let args = ["--disk-snapshot".to_owned(), snapshot.id.clone()];
        over(
            &engine,
            &args,
            &format!("cmp {{}} '{}'; ! printf x > {{}}", content.display()),
        )
        .ok();
    }
    let ran = run(
        engine
            .program()
            .args(engine.args())
            .args(["--create", "x", "--size", "1M"]),
        20,
    );
    assert_eq!(ran.code, Some(USAGE), "{ran}");
    let started = engine.log("transfer_created");
    assert_eq!(started.len(), 2);
    assert!(
        started.iter().all(|one| one["direction"] == "download"),
        "{started:?}"
    );
    assert!(engine.disk("web01").expect("the disk").locked_by.is_empty());
    assert_nothing_deleted(&engine);
}

#[test]
fn a_snapshot_from_the_environment_is_read_only_too() {
    let engine = Engine::start();
    let disk = engine.add_disk(&json!({"name": "web01", "size": MIB, "snapshots": 1}));
    let mount = engine
        .mounting::<&str>([])
        .env("RHV_MOUNT_DISK_SNAPSHOT", &disk.snapshots[0].id)
        .start();
    let ran = run(Command::new("stat").args(["-c", "%s %a"]).arg(mount.file()), 20).ok();
    assert_eq!(ran.stdout.trim(), format!("{MIB} 400"));
    mount.umount().ok();
}

#[test]
fn a_snapshot_that_is_not_there_is_named() {
    let engine = Engine::start();
    let id = "0f3c2d4e-88f5-4a59-b1a9-3c6e2f1d7a60";
    let ran = over(&engine, &["--disk-snapshot".into(), id.into()], "true");
    assert_refused(&ran, &[USAGE, ENGINE_FAILED], &[id, "snapshot"]);
}

/// The host has lost the ticket, so the system cancels the download; a new download costs nothing.
#[test]
fn a_download_that_the_system_cancels_is_started_again_or_told_of() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let lose = engine.switch_line(&json!({"switch": "ticket_remove"}));
    let script = format!(
        "dd if={{}} of=/dev/null bs=1M count=1 iflag=direct status=none; {lose}; sleep 0.5; \
         dd if={{}} bs=1M iflag=direct status=none | cmp - '{}'",
        content.display()
    );
    let ran = over(&engine, &read_only("web01"), &script);
    if !ran.success() {
        assert_told(&ran, &[1, ENGINE_FAILED, DATA_MAY_BE_LOST], &["transfer|ticket"]);
    }
    assert_free(&engine, &disk.id, &content);
    assert!(engine.state_files().is_empty(), "{ran}");
}
