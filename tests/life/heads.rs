//! The engine verifies an upload by the format that qemu detects in it, and removes a raw disk that is
//! detected as something else, also one that was there before. So rhv-mount lets nobody write such a head,
//! and finalizes no disk that has one.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::copying::{command, finished, in_shell};
use crate::existing::{expected, write_and_sync};
use crate::recovering::recover;
use crate::rig::{
    DATA_MAY_BE_LOST, SIZE, assert_free, assert_nothing_deleted, assert_told, create, existing, over,
    state_file, used_disk,
};
use crate::support::content::MIB;
use crate::support::engine::{DiskState, Engine};
use crate::support::mount::{Mount, Mounting};
use crate::support::run::{Ran, sh, wait_until};

/// Number of bytes at which qemu looks.
const HEAD: usize = 512;

/// The beginning of a LUKS header of version 1, the version that qemu knows.
const LUKS: &[u8] = b"LUKS\xba\xbe\0\x01";

fn padded(begin: &[u8]) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..begin.len()].copy_from_slice(begin);
    head
}

fn head_of(file: &Path) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    let mut file = File::open(file).expect("open the file");
    file.read_exact(&mut head).expect("read the head");
    head
}

/// Images of every format for which there is a tool here, and heads of the others.
fn images(dir: &Path) -> Vec<(String, PathBuf)> {
    let mut images = Vec::new();
    for format in ["qcow", "qcow2", "qed", "vdi", "vmdk", "vpc", "vhdx", "parallels"] {
        let path = dir.join(format!("image.{format}"));
        let words: [&dyn AsRef<std::ffi::OsStr>; 2] = [&format, &path];
        sh(
            r#"qemu-img create -q -f "$1" "$2" 1M"#,
            words.map(AsRef::as_ref),
            30,
        )
        .ok();
        images.push((format.to_owned(), path));
    }
    let text = b"# Disk DescriptorFile\nversion=1\nCID=fffffffe\n".as_slice();
    let cloop = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";
    let mut bochs = padded(b"Bochs Virtual HD Image");
    bochs[32..39].copy_from_slice(b"Redolog");
    bochs[48..55].copy_from_slice(b"Growing");
    bochs[64..68].copy_from_slice(&0x2_0000_u32.to_le_bytes());
    for (name, head) in [
        ("luks", padded(LUKS)),
        ("vmdk", padded(text)),
        ("cloop", padded(cloop)),
        ("bochs", bochs),
    ] {
        let path = dir.join(format!("head.{name}"));
        fs::write(&path, head).expect("write a head");
        images.push((name.to_owned(), path));
    }
    images
}

fn status(mount: &Mount) -> Value {
    let ran = mount.status(&["-o", "json"]).ok();
    serde_json::from_str(&ran.stdout).expect("the status")
}

fn dd(image: &Path, file: &Path) -> Ran {
    let script = r#"dd if="$1" of="$2" bs=512 count=1 conv=notrunc status=none"#;
    sh(script, [image, file], 30)
}

#[test]
fn no_head_that_the_engine_would_take_for_an_image_gets_onto_a_raw_disk() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).start();
    let before = head_of(&content);
    for (format, image) in images(engine.dir()) {
        let ran = dd(&image, &mount.file());
        assert!(ran.stderr.contains("Operation not permitted"), "{format}: {ran}");
        assert_eq!(head_of(&mount.file()), before, "{format}: the head has changed");
        let refused = status(&mount)["refused"].to_string();
        let told = format!("begin like a {format} image");
        assert!(
            refused.contains(&told) && refused.contains("qemu-img convert"),
            "{refused}"
        );
        assert!(mount.log().contains(&told), "{format} is not in the log");
    }
    write_and_sync(&mount.file(), MIB, MIB, 51);
    mount.umount().ok();
    assert_free(&engine, &disk.id, &expected(&content, MIB, MIB, 51));
    assert_nothing_deleted(&engine);
}

#[test]
fn an_image_that_is_copied_onto_a_raw_disk_is_refused_and_the_disk_stays() {
    let engine = Engine::start();
    let (disk, _) = used_disk(&engine, "web01", "raw");
    let image = engine.dir().join("web01.qcow2");
    sh(r#"qemu-img create -q -f qcow2 "$1" 8M"#, [&image], 30).ok();
    let ran = over(
        &engine,
        &existing("web01"),
        &format!("cp '{}' {{}}", image.display()),
    );
    assert_told(
        &ran,
        &[1],
        &[
            "operation not permitted",
            "qcow2",
            "raw",
            "qemu-img convert -n -O raw",
        ],
    );
    let disk = engine.disk(&disk.id).expect("the disk is there");
    assert_eq!((disk.status.as_str(), disk.locked_by.len()), ("ok", 0));
    assert_nothing_deleted(&engine);
    assert!(engine.state_files().is_empty());
}

#[test]
fn a_made_raw_disk_is_guarded_and_a_qcow2_disk_may_hold_anything() {
    let engine = Engine::start();
    let image = engine.dir().join("image.qcow2");
    sh(r#"qemu-img create -q -f qcow2 "$1" 8M"#, [&image], 30).ok();
    let copy = format!(
        "dd if='{}' of={{}} bs=64k conv=notrunc status=none",
        image.display()
    );
    let ran = over(&engine, &create("raw"), &copy);
    assert_told(&ran, &[1], &["operation not permitted", "qcow2"]);
    let mut cow = create("cow");
    cow.extend(["--format", "qcow2"].map(str::to_owned));
    over(&engine, &cow, &copy).ok();
    let (disk, _) = used_disk(&engine, "there", "cow");
    over(&engine, &existing("there"), &copy).ok();
    assert_eq!(engine.disk(&disk.id).expect("the disk is there").status, "ok");
}

/// The head comes together from writes, zeros, a truncate and a mapping, each harmless by itself.
#[test]
fn the_last_piece_of_a_head_is_refused() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).start();
    let file = File::options().read(true).write(true).open(mount.file());
    let file = file.expect("open the disk");
    let refused = |done: std::io::Result<()>, what: &str| {
        assert_eq!(
            done.map_err(|e| e.kind()),
            Err(ErrorKind::PermissionDenied),
            "{what}"
        );
    };
    file.write_all_at(b"\xfb\0\0\0\x03", 3).expect("half of a header");
    refused(file.write_all_at(b"QFI", 0), "the other half");
    file.write_all_at(b"LUKS\xba\xbe\x01\x01", 0)
        .expect("version 257");
    let zero_range = r#"fallocate --zero-range --keep-size --offset 6 --length 1 "$1""#;
    let ran = sh(zero_range, [mount.file()], 30);
    assert!(ran.stderr.contains("Operation not permitted"), "zeros: {ran}");
    file.write_all_at(b"QED!", 0).expect("almost a header");
    refused(file.set_len(3), "a truncate");
    assert_eq!(
        file.metadata().expect("the size").len(),
        SIZE,
        "nothing was cut off"
    );
    let map = r#"
import mmap, sys
with open(sys.argv[1], "r+b") as f, mmap.mmap(f.fileno(), 4096) as m:
    m[0:4] = b"COWD"
    try:
        m.flush()
    except OSError:
        sys.exit(9)
"#;
    let ran = sh(
        r#"python3 -c "$1" "$2""#,
        [OsString::from(map), mount.file().into()],
        30,
    );
    assert_eq!(ran.code, Some(9), "a mapping: {ran}");
    let mut head = [0; 4];
    file.read_exact_at(&mut head, 0).expect("read the head");
    assert_eq!(&head, b"QED!");
    file.write_all_at(&head_of(&content), 0).expect("the old head");
    drop(file);
    mount.umount().ok();
    assert_free(&engine, &disk.id, &content);
}

/// A disk whose first bytes are a guest's LUKS header already.
pub(crate) fn encrypted(engine: &Engine) -> (DiskState, PathBuf) {
    let content = engine.dir().join("vault.content");
    let mut bytes = vec![7; SIZE as usize];
    bytes[..HEAD].copy_from_slice(&padded(LUKS));
    fs::write(&content, bytes).expect("write the content");
    let spec = json!({"name": "vault", "size": SIZE, "format": "raw", "content": content});
    (engine.add_disk(&spec), content)
}

#[track_caller]
fn assert_kept(engine: &Engine, disk: &DiskState, point: &Path, ran: &Ran) {
    assert_told(
        ran,
        &[DATA_MAY_BE_LOST],
        &[
            "luks",
            "would remove",
            "not finalized",
            &disk.id,
            "recover --finalize",
        ],
    );
    assert!(
        engine.requests("POST", "/finalize").is_empty(),
        "it was finalized: {ran}"
    );
    assert_nothing_deleted(engine);
    assert!(engine.disk(&disk.id).is_some(), "the disk is gone: {ran}");
    assert!(state_file(point).is_some(), "nothing is left for recover: {ran}");
}

/// Mounts the last transfer by its URL, as somebody can who sees it in the engine.
fn over_the_url_of_the_transfer(engine: &Engine) -> Mount {
    let url = engine.transfer().url.expect("the transfer has a URL");
    let mounting = Mounting::new(&url).arg("--cafile").arg(engine.cafile());
    mounting.start()
}

/// Writes another head over the transfer that was left.
fn mend(engine: &Engine, head: &[u8]) {
    let mount = over_the_url_of_the_transfer(engine);
    let file = File::options()
        .write(true)
        .open(mount.file())
        .expect("open the disk");
    file.write_all_at(head, 0).expect("write the head");
    drop(file);
    mount.umount().ok();
}

#[test]
fn a_disk_that_begins_like_an_image_is_never_finalized() {
    let engine = Engine::start();
    let (disk, _) = encrypted(&engine);
    let mount = engine.mounting(existing("vault")).start();
    let warned = mount.stderr();
    assert!(warned.contains("luks") && warned.contains(&disk.id), "{warned}");
    write_and_sync(&mount.file(), MIB, MIB, 52);
    let point = mount.mountpoint().to_path_buf();
    assert_kept(&engine, &disk, &point, &mount.umount());
    let ran = recover(&engine, &["--finalize"], Some(&point));
    assert_kept(&engine, &disk, &point, &ran);
    mend(&engine, &[0; HEAD]);
    recover(&engine, &["--finalize"], Some(&point)).ok();
    assert_eq!(engine.disk(&disk.id).expect("the disk is there").status, "ok");
    assert_nothing_deleted(&engine);
}

#[test]
fn a_killed_mount_of_a_disk_that_begins_like_an_image_is_not_finalized_by_recover() {
    let engine = Engine::start();
    let (disk, _) = encrypted(&engine);
    let mount = engine.mounting(existing("vault")).start();
    let point = mount.mountpoint().to_path_buf();
    mount.kill();
    for paused in [false, true] {
        if paused {
            engine.switch(&json!({"switch": "pause_now"}));
        }
        let ran = recover(&engine, &[], Some(&point));
        assert_kept(&engine, &disk, &point, &ran);
    }
    // Without its ticket nobody can look at the disk, and the note remembers.
    engine.switch(&json!({"switch": "ticket_remove"}));
    let ran = recover(&engine, &["--finalize"], Some(&point));
    assert_kept(&engine, &disk, &point, &ran);
}

#[test]
fn a_renewal_does_not_finalize_a_disk_that_begins_like_an_image() {
    let engine = Engine::start();
    let (disk, _) = encrypted(&engine);
    let mount = engine.mounting(existing("vault")).arg("--retry-time=3").start();
    let point = mount.mountpoint().to_path_buf();
    engine.switch(&json!({"switch": "ticket_remove"}));
    let file = File::options()
        .write(true)
        .open(mount.file())
        .expect("open the disk");
    let written = file.write_all_at(&[1; 4096], MIB).and_then(|()| file.sync_all());
    assert!(written.is_err(), "there is no ticket to write with");
    drop(file);
    let ran = mount.umount();
    assert_told(&ran, &[DATA_MAY_BE_LOST], &["paused"]);
    assert!(engine.requests("POST", "/finalize").is_empty(), "{ran}");
    assert!(engine.disk(&disk.id).is_some() && state_file(&point).is_some());
}

/// Another head, once it is durable, ends the danger.
#[test]
fn a_disk_that_got_another_head_is_finalized() {
    let engine = Engine::start();
    let (disk, content) = encrypted(&engine);
    let mount = engine.mounting(existing("vault")).start();
    write_and_sync(&mount.file(), 0, MIB, 53);
    mount.umount().ok();
    assert_free(&engine, &disk.id, &expected(&content, 0, MIB, 53));
    assert!(engine.state_files().is_empty());
}

/// Zeros behind such an image come with it: over the old head they would leave one that looks like an image.
#[test]
fn an_image_shorter_than_the_head_replaces_one_that_looks_like_an_image() {
    for (bytes, args) in [
        ([7; 300].as_slice(), [].as_slice()),
        (&[0; 300], &[]),
        (&[7; 8], &["--verify"]),
        (&[7; 300], &["--size", "300", "--verify"]),
    ] {
        let engine = Engine::start();
        encrypted(&engine);
        let image = engine.dir().join("short.raw");
        fs::write(&image, bytes).expect("write the image");
        let is_stream = args.contains(&"--size");
        let name = if is_stream { Path::new("-") } else { &image };
        let args = args.iter().map(|word| word.to_string());
        let args: Vec<String> = existing("vault").into_iter().chain(args).collect();
        let upload = command(&engine, "upload", name, &args);
        let redirected = format!("exec \"$@\" < '{}'", image.display());
        finished(in_shell(&upload, &redirected)).ok();
        let whole = File::options().write(true).open(&image).expect("open the image");
        whole.set_len(SIZE).expect("fill it up");
        assert_free(&engine, "vault", &image);
    }
}

#[test]
fn a_transfer_of_somebody_else_gets_a_warning() {
    let engine = Engine::start();
    used_disk(&engine, "web01", "raw");
    let theirs = engine.mounting(existing("web01")).start();
    let mount = over_the_url_of_the_transfer(&engine);
    let image = engine.dir().join("image.qcow2");
    sh(r#"qemu-img create -q -f qcow2 "$1" 8M"#, [&image], 30).ok();
    let head = head_of(&mount.file());
    dd(&image, &mount.file()).ok();
    wait_until("it warns", 60, || {
        mount.log().contains("begins like a qcow2 image")
    });
    assert!(status(&mount)["refused"].to_string().contains("qcow2"));
    let file = File::options()
        .write(true)
        .open(mount.file())
        .expect("open the disk");
    file.write_all_at(&head, 0).expect("the old head");
    drop(file);
    mount.umount().ok();
    theirs.umount().ok();
}

#[test]
fn a_finalize_that_fails_says_whether_the_disk_is_still_there() {
    for (name, args, fate) in [
        ("failed", existing("web01"), "is gone"),
        ("paused", existing("web01"), "is still there"),
    ] {
        let engine = Engine::start();
        used_disk(&engine, "web01", "raw");
        let mount = engine.mounting(args).start();
        write_and_sync(&mount.file(), 0, MIB, 54);
        let switch = if name == "failed" {
            "finalize_failure"
        } else {
            "finalize_pause"
        };
        engine.switch(&json!({"switch": switch}));
        let ran = mount.umount();
        assert_told(&ran, &[DATA_MAY_BE_LOST], &["not finalized", fate]);
        assert_eq!(engine.disk("web01").is_none(), name == "failed", "{ran}");
    }
}
