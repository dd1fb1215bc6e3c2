//! `--create`: every kind of disk, filled by COMMAND or through a background mount, is identical to its
//! source on the engine's side, free and ok; and rhv-mount adds little to the time that the engine takes.

use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::rig::{
    ENGINE_FAILED, SIZE, USAGE, assert_free, assert_nothing_deleted, assert_refused, assert_told,
    copy_command, create, over, source,
};
use crate::support::content::MIB;
use crate::support::engine::Engine;
use crate::support::mount::MountKind;
use crate::support::run::{run, wait_until};

fn kinds() -> [(&'static str, Vec<&'static str>); 4] {
    [
        ("raw", vec![]),
        ("raw-full", vec!["--preallocated"]),
        ("qcow2", vec!["--format", "qcow2"]),
        ("qcow2-full", vec!["--format", "qcow2", "--preallocated"]),
    ]
}

fn assert_kind(engine: &Engine, name: &str) {
    let disk = engine.disk(name).expect("the new disk");
    let format = if name.starts_with("qcow2") { "cow" } else { "raw" };
    assert_eq!((disk.format.as_str(), disk.size), (format, SIZE), "{name}");
    assert_eq!(disk.sparse, !name.ends_with("-full"), "{name}");
    assert_eq!(disk.domain, "data");
}

#[test]
fn every_kind_of_disk_is_filled_by_a_command() {
    let engine = Engine::start();
    let source = source(&engine, 31);
    let script = format!("qemu-img convert -n -f raw -O raw '{}' {{}}", source.display());
    for (name, options) in kinds() {
        let mut args = create(name);
        args.extend(options.into_iter().map(str::to_owned));
        over(&engine, &args, &script).ok();
        assert_kind(&engine, name);
        assert_free(&engine, name, &source);
        assert_eq!(engine.transfer().phase, "finished_success");
    }
    assert_nothing_deleted(&engine);
    assert_eq!(engine.sessions(), 0, "a session is left open");
}

#[test]
fn every_kind_of_disk_is_filled_through_a_background_mount() {
    let engine = Engine::start();
    let source = source(&engine, 32);
    for (name, options) in kinds() {
        let mut mounting = engine.mounting(create(name)).args(options);
        if name == "qcow2" {
            mounting = mounting.kind(MountKind::New);
        }
        let mut mount = mounting.start();
        for secret in engine.secrets() {
            mount.add_secret(&secret);
        }
        assert_eq!(engine.disk(name).expect("the new disk").status, "locked");
        let convert = ["convert", "-n", "-f", "raw", "-O", "raw"];
        run(
            Command::new("qemu-img")
                .args(convert)
                .arg(&source)
                .arg(mount.file()),
            60,
        )
        .ok();
        mount.umount().ok();
        assert_kind(&engine, name);
        assert_free(&engine, name, &source);
        assert_eq!(engine.transfer().phase, "finished_success");
    }
    assert_nothing_deleted(&engine);
    assert!(engine.state_files().is_empty());
}

/// The image fits only if the request has told the engine the space that a full qcow2 image needs.
#[test]
fn thin_qcow2_on_block_storage_has_room_for_a_full_image() {
    let engine = Engine::with(["--block-extent", "1048576", "--block-chunk", "1048576"]);
    let full = engine.dir().join("full.raw");
    crate::support::content::random_image(&full, SIZE, 3);
    let args = ["--create", "thin", "--size", "8M", "--storage-domain", "san"];
    let mut args: Vec<String> = args.map(str::to_owned).to_vec();
    args.extend(["--format".into(), "qcow2".into()]);
    over(
        &engine,
        &args,
        &format!("cat '{}' > {{}}; sync {{}}", full.display()),
    )
    .ok();
    assert_free(&engine, "thin", &full);
}

#[test]
fn raw_disks_on_block_storage_are_preallocated_or_the_reason_is_said() {
    let engine = Engine::start();
    let source = source(&engine, 33);
    let mut args: Vec<String> = ["--create", "lun", "--size", "8M", "--storage-domain", "san"]
        .map(str::to_owned)
        .to_vec();
    let ran = over(&engine, &args, "true");
    if ran.success() {
        assert!(
            !engine.disk("lun").expect("the new disk").sparse,
            "sparse raw on block"
        );
    } else {
        assert_refused(&ran, &[USAGE, ENGINE_FAILED], &["preallocated|incompatible"]);
        assert!(engine.disks().is_empty(), "a disk is left");
        args.push("--preallocated".into());
        over(&engine, &args, &copy_command(&source)).ok();
        assert_free(&engine, "lun", &source);
    }
}

#[test]
fn a_disk_gets_the_id_that_was_asked_for_unless_a_disk_has_it() {
    let engine = Engine::start();
    let id = "8a2f4b60-91d1-4f53-9a54-0c9be2f1a377";
    let source = source(&engine, 34);
    let mut args = create("chosen");
    args.extend(["--disk-id".into(), id.into()]);
    over(&engine, &args, &copy_command(&source)).ok();
    assert_eq!(engine.disk("chosen").expect("the new disk").id, id);
    args[1] = "another".into();
    let ran = over(&engine, &args, "true");
    assert_refused(&ran, &[USAGE, ENGINE_FAILED], &[id]);
    // The existing disk must not be deleted.
    assert_free(&engine, "chosen", &source);
    assert_nothing_deleted(&engine);
    args[7] = "not-a-uuid".into();
    let ran = over(&engine, &args, "true");
    assert_refused(&ran, &[USAGE, ENGINE_FAILED], &["not-a-uuid", "uuid"]);
    assert_eq!(engine.disks().len(), 1);
}

#[test]
fn an_image_that_is_larger_than_the_disk_is_no_space_left() {
    let engine = Engine::start();
    let large = engine.dir().join("large.raw");
    crate::support::content::random_image(&large, SIZE + MIB, 3);
    let script = format!(
        "dd if='{}' of={{}} bs=64k status=none conv=notrunc",
        large.display()
    );
    let ran = over(&engine, &create("small"), &script);
    assert_told(&ran, &[1], &["no space left on device"]);
    wait_until("the new disk is removed", 60, || engine.disk("small").is_none());
    let (disk, content) = crate::rig::used_disk(&engine, "old", "raw");
    let ran = over(&engine, &crate::rig::existing("old"), &script);
    assert_told(&ran, &[1], &["no space left on device"]);
    let expected = engine.dir().join("expected");
    std::fs::copy(&content, &expected).expect("copy the old content");
    let head = std::fs::read(&large).expect("read the image");
    std::fs::write(&expected, &head[..SIZE as usize]).expect("write the expected content");
    assert_free(&engine, &disk.id, &expected);
}

#[test]
fn an_empty_disk_takes_hardly_more_than_what_the_engine_takes() {
    let engine = Engine::start();
    let least = (0..3)
        .map(|round| {
            let args = ["--create", &format!("empty-{round}"), "--size", "64M"];
            let mut args: Vec<String> = args.map(str::to_owned).to_vec();
            args.extend(["--storage-domain".into(), "data".into()]);
            over(&engine, &args, "true").ok().took
        })
        .min()
        .expect("there are rounds");
    let own = engine_time(&engine);
    // On a quiet machine it takes some tenths of a second, and a busy one stretches them.
    assert!(
        least < own + Duration::from_secs(5),
        "{least:?}, of which the engine takes {own:?}"
    );
}

/// Returns the time that the stand-in takes for the last disk, by its log: from the request to create it
/// until it is ok, and from the request to finalize until its lock is free.
fn engine_time(engine: &Engine) -> Duration {
    let at = |value: &serde_json::Value| value["time"].as_f64().expect("a time");
    let disk = engine.disk("empty-2").expect("the last disk").id;
    let of_disk = |kind: &str| {
        let lines = engine.log(kind);
        lines.into_iter().find(|line| line["disk"] == json!(disk))
    };
    let created = of_disk("disk_created").expect("a disk was created");
    let ready = of_disk("disk_status").expect("a disk became ok");
    let released = of_disk("lock_released").expect("a lock was released");
    let finalizing = engine
        .log("phase")
        .into_iter()
        .find(|line| line["disk"] == json!(disk) && line["phase"] == json!("finalizing_success"));
    let finalizing = finalizing.expect("a transfer was finalized");
    let seconds = at(&ready) - at(&created) + at(&released) - at(&finalizing);
    Duration::from_secs_f64(seconds.max(0.0))
}
