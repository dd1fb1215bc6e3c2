//! Chains that the SDK's own example of a backup has begun: ours goes on with them, and theirs with ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::backup_chains::{BLOCK, mode, now, write};
use crate::backups::{assert_holds, assert_nothing_left, back_up, dir, entry, manifests, web};
use crate::restoring::restore;
use crate::rig::LIMIT;
use crate::support::content::{MIB, compare};
use crate::support::engine::{DiskState, Engine};
use crate::support::run::run;

/// An engine with a VM that the example has backed up in full, and what its guests write then.
struct Begun {
    engine: Engine,
    vm: String,
    /// The first has qcow2 volumes.
    disks: Vec<DiskState>,
    files: Vec<PathBuf>,
}

impl Begun {
    fn by_the_example() -> Begun {
        let engine = Engine::start();
        let disks: Vec<DiskState> = web(&engine, "up", "4.7")
            .into_iter()
            .map(|(disk, _)| disk)
            .collect();
        let vm = engine.state("vms")[0]["id"].as_str().expect("an id").to_owned();
        fs::create_dir(dir(&engine)).expect("make the directory");
        let files = engine.sdk_backup(&vm, &dir(&engine), None);
        let begun = Begun {
            engine,
            vm,
            disks,
            files,
        };
        begun.guest_writes(1, 4);
        begun
    }

    fn guest_writes(&self, place: u64, pattern: u8) {
        let data = json!([{"offset": place * MIB, "length": BLOCK, "pattern": pattern}]);
        write(&self.engine, &self.disks, &data);
    }

    /// The example's file of the first disk.
    fn file_in(&self, files: &[PathBuf]) -> PathBuf {
        let is_it = |file: &&PathBuf| file.to_string_lossy().contains(&self.disks[0].id);
        files.iter().find(is_it).expect("a file of the disk").clone()
    }
}

fn name(file: &Path) -> &str {
    file.file_name().and_then(|name| name.to_str()).expect("a name")
}

#[track_caller]
fn assert_image_holds(engine: &Engine, file: &Path, content: &Path) {
    let to = engine.dir().join("restored.raw");
    let mut convert = Command::new("qemu-img");
    convert
        .args(["convert", "-f", "qcow2", "-O", "raw"])
        .arg(file)
        .arg(&to);
    run(&mut convert, 60).ok();
    compare(&to, content).unwrap();
}

#[test]
fn a_chain_that_the_sdks_example_has_begun_is_continued_by_ours_and_by_its_own_after_it() {
    let begun = Begun::by_the_example();
    let (engine, disks) = (&begun.engine, &begun.disks);
    let contents = now(engine, disks, "ours");
    let ran = back_up(engine, &[]).ok();
    assert_nothing_left(engine, &ran);
    let manifest = manifests(engine).remove(0);
    let theirs = begun.file_in(&begun.files);
    let root = entry(&manifest, &disks[0].id);
    assert_eq!(mode(&manifest, &disks[0]), "incremental", "{ran}");
    assert_eq!(root["backing"], name(&theirs), "{ran}");
    assert!(root["file_size"].as_u64().expect("a size") < MIB, "{root}");
    assert_eq!(manifest["adopted"][0]["file"], name(&theirs), "{manifest}");
    for (disk, content) in disks.iter().zip(&contents) {
        assert_holds(engine, &manifest, &disk.id, content);
    }

    // Files of both make the disks again.
    let to = Engine::start();
    restore(&to, engine, &["--disks-only"]).ok();
    for (disk, content) in disks.iter().zip(&contents) {
        to.compare(&to.disk(&disk.id).expect("it is there"), content)
            .unwrap();
    }

    begun.guest_writes(2, 5);
    let checkpoint = manifest["checkpoint"].as_str().expect("a checkpoint");
    let contents = now(engine, disks, "theirs");
    let files = engine.sdk_backup(&begun.vm, &dir(engine), Some(checkpoint));
    assert_image_holds(engine, &begun.file_in(&files), &contents[0]);

    begun.guest_writes(3, 6);
    let contents = now(engine, disks, "ours-again");
    let ran = back_up(engine, &[]).ok();
    let last = manifests(engine).remove(1);
    let below = begun.file_in(&files);
    assert_eq!(entry(&last, &disks[0].id)["backing"], name(&below), "{ran}");
    for (disk, content) in disks.iter().zip(&contents) {
        assert_holds(engine, &last, &disk.id, content);
    }
    let mut check = engine.tool();
    run(check.args(["backup", "--check"]).arg(dir(engine)), LIMIT).ok();

    // Another chain takes its place, and all of it goes, with the files of the example in it.
    let ran = back_up(engine, &["--full", "--keep", "1"]).ok();
    assert!(ran.stderr.contains("2 older backups are removed"), "{ran}");
    assert!(!theirs.exists() && !below.exists(), "{ran}");
}

/// Nobody has verified it, so the comparison of what lies over it has to tell.
#[test]
fn a_file_of_the_sdks_example_that_is_not_what_the_disk_was_means_a_whole_copy() {
    let begun = Begun::by_the_example();
    let (engine, disks) = (&begun.engine, &begun.disks);
    let path = begun.file_in(&begun.files);
    let mut bytes = fs::read(&path).expect("the file");
    let at = bytes.len() - 1_000_000;
    bytes[at] ^= 1;
    fs::write(&path, bytes).expect("change a byte");
    let contents = now(engine, disks, "then");
    let ran = back_up(engine, &[]).ok();
    assert!(ran.stderr.contains("is copied as a whole"), "{ran}");
    let manifest = manifests(engine).remove(0);
    assert_eq!(mode(&manifest, &disks[0]), "full");
    assert!(manifest.get("adopted").is_none(), "{manifest}");
    for (disk, content) in disks.iter().zip(&contents) {
        assert_holds(engine, &manifest, &disk.id, content);
    }
    assert_nothing_left(engine, &ran);
}

/// Its changes would be those since another point in time.
#[test]
fn a_file_of_the_sdks_example_without_its_checkpoint_is_no_base() {
    let begun = Begun::by_the_example();
    let (engine, disks) = (&begun.engine, &begun.disks);
    engine.control("DELETE", "/vms/web/checkpoints", None);
    back_up(engine, &[]).ok();
    assert_eq!(mode(&manifests(engine)[0], &disks[0]), "full");
    // The chain of ours is the newer one from here on.
    back_up(engine, &[]).ok();
    let last = manifests(engine).remove(1);
    assert_eq!(mode(&last, &disks[0]), "incremental");
    assert!(last.get("adopted").is_none(), "{last}");
}
