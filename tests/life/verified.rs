//! `--verify` and `checksum` with an engine: a disk that is not what it should be is not finalized as good,
//! and a disk that is only read is free afterwards.

use crate::rig::{
    DATA_MAY_BE_LOST, assert_free, assert_nothing_deleted, assert_told, copy_command, create, existing, over,
    source, used_disk,
};
use crate::support::engine::Engine;
use crate::support::run::wait_until;

fn verified(mut args: Vec<String>, image: &std::path::Path) -> Vec<String> {
    args.push(format!("--verify={}", image.display()));
    args
}

#[test]
fn a_disk_that_holds_what_it_should_is_finalized() {
    let engine = Engine::start();
    let source = source(&engine, 61);
    let ran = over(
        &engine,
        &verified(create("good"), &source),
        &copy_command(&source),
    );
    assert_told(&ran, &[0], &["verified:"]);
    assert_free(&engine, "good", &source);
}

#[test]
fn a_disk_that_was_made_and_differs_is_removed() {
    let engine = Engine::start();
    let (written, meant) = (source(&engine, 62), source(&engine, 63));
    let ran = over(&engine, &verified(create("bad"), &meant), &copy_command(&written));
    assert_told(
        &ran,
        &[DATA_MAY_BE_LOST],
        &["is not the same as", "the first difference"],
    );
    wait_until("the engine removes the disk", 60, || engine.disks().is_empty());
}

#[test]
fn a_disk_that_was_there_and_differs_is_left_paused() {
    let engine = Engine::start();
    let (disk, _) = used_disk(&engine, "web01", "raw");
    let (written, meant) = (source(&engine, 64), source(&engine, 65));
    let ran = over(
        &engine,
        &verified(existing("web01"), &meant),
        &copy_command(&written),
    );
    assert_told(&ran, &[DATA_MAY_BE_LOST], &["is not the same as", "recover"]);
    assert_nothing_deleted(&engine);
    let phase = engine.transfer().phase;
    assert!(phase.starts_with("paused"), "the transfer is {phase}");
    assert!(engine.disk(&disk.id).is_some());
}

#[test]
fn a_disk_whose_checksum_was_computed_is_free_again() {
    let engine = Engine::start();
    for format in ["raw", "cow"] {
        let (disk, content) = used_disk(&engine, format, format);
        let mut args = engine.args();
        args.extend(["checksum".into(), "--disk".into(), format.into()]);
        let of_disk = engine.run(args, 120).ok().stdout;
        let of_image = engine
            .run(["checksum".as_ref(), content.as_os_str()], 120)
            .ok()
            .stdout;
        let value = |line: &str| line.split_whitespace().next().map(str::to_owned);
        assert_eq!(value(&of_disk), value(&of_image), "{format}");
        assert!(of_disk.contains(format), "{of_disk}");
        assert_eq!(engine.transfer().phase, "finished_success");
        assert_free(&engine, &disk.id, &content);
    }
    assert_nothing_deleted(&engine);
    assert!(engine.state_files().is_empty(), "a note is left");
    assert_eq!(engine.sessions(), 0, "a session is left open");
}
