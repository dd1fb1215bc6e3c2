//! Slow cases: idle mounts, locks that may be freed at any moment, addresses that never answer. They only
//! wait, so they run in parallel in one test.

use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use crate::rig::{
    ENGINE_FAILED, assert_free, assert_nothing_deleted, assert_told, copy_command, create, existing, over,
    source, used_disk,
};
use crate::support::content::MIB;
use crate::support::engine::Engine;

#[test]
fn what_takes_its_time_comes_to_the_right_end() {
    let tests: [(&str, fn()); 5] = [
        (
            "an umount that waits for the engine says so",
            an_umount_that_waits_for_the_engine_says_so,
        ),
        (
            "activity keeps an idle mount from being paused",
            activity_keeps_an_idle_mount_from_being_paused,
        ),
        (
            "a disk that is mounted already is refused to a second mount",
            a_disk_that_is_mounted_already_is_refused_to_a_second_mount,
        ),
        (
            "a locked disk is refused after a while, and one that is freed is taken",
            a_locked_disk_is_refused_after_a_while_and_one_that_is_freed_is_taken,
        ),
        (
            "a host that never answers is given up for the proxy",
            a_host_that_never_answers_is_given_up_for_the_proxy,
        ),
    ];
    std::thread::scope(|scope| {
        let running = tests.map(|(name, test)| (name, scope.spawn(test)));
        let failed: Vec<&str> = running
            .into_iter()
            .filter_map(|(name, thread)| thread.join().err().map(|_| name))
            .collect();
        assert!(failed.is_empty(), "{failed:?}, see above");
    });
}

fn a_host_that_never_answers_is_given_up_for_the_proxy() {
    let engine = Engine::start();
    let source = source(&engine, 131);
    engine.switch(&json!({"switch": "url_host", "value": "silent"}));
    let script = copy_command(&source);
    let ran = over(&engine, &create("proxied"), &script).ok();
    assert!(ran.stderr.to_lowercase().contains("proxy"), "not said: {ran}");
    assert!(ran.took.as_secs() < 25, "it took too long: {ran}");
    assert_free(&engine, "proxied", &source);
}

/// Without activity on the ticket the engine would pause the transfer after 28 seconds; rhv-mount keeps it
/// alive.
fn activity_keeps_an_idle_mount_from_being_paused() {
    let engine = Engine::with(["--inactivity-cap", "28"]);
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).start();
    sleep(Duration::from_secs(33));
    let transfer = engine.transfer();
    assert_eq!(engine.phases(&transfer.id), ["transferring"], "it was paused");
    mount.umount().ok();
    assert_free(&engine, &disk.id, &content);
}

/// The refusal of the second mount names the transfer that holds the disk.
fn a_disk_that_is_mounted_already_is_refused_to_a_second_mount() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let first = engine.mounting(existing("web01")).start();
    let started = std::time::Instant::now();
    let ran = over(&engine, &existing("web01"), "true");
    assert_told(
        &ran,
        &[4],
        &["locked|being transferred", &engine.transfers()[0].id],
    );
    assert!(started.elapsed().as_secs() < 60, "{ran}");
    first.umount().ok();
    assert_free(&engine, &disk.id, &content);
    assert_nothing_deleted(&engine);
}

/// A lock may be freed at any moment, so rhv-mount waits for a while. All cases run in parallel.
fn a_locked_disk_is_refused_after_a_while_and_one_that_is_freed_is_taken() {
    let engine = Engine::start();
    let locked = json!({"name": "locked", "size": MIB, "status": "locked"});
    engine.add_disk(&locked);
    let freed = engine.add_disk(&json!({"name": "freed", "size": MIB, "status": "locked"}));
    used_disk(&engine, "busy", "raw");
    engine.switch(&json!({"switch": "transfer_locked", "match": "busy"}));
    used_disk(&engine, "soon", "raw");
    engine.switch(&json!({"switch": "transfer_locked", "times": 2, "match": "soon"}));
    std::thread::scope(|scope| {
        let mut refused = Vec::new();
        for name in ["locked", "busy"] {
            let engine = &engine;
            refused.push(scope.spawn(move || over(engine, &existing(name), "true")));
        }
        let taken = scope.spawn(|| over(&engine, &existing("freed"), "true"));
        let soon = scope.spawn(|| over(&engine, &existing("soon"), "true"));
        sleep(Duration::from_secs(1));
        engine.change_disk(&freed.id, &json!({"status": "ok"}));
        taken.join().expect("the mount of a freed disk").ok();
        soon.join().expect("the mount of a disk that is soon free").ok();
        for (ran, name) in refused.into_iter().zip(["locked", "busy"]) {
            let ran = ran.join().expect("the mount of a locked disk");
            assert_told(&ran, &[ENGINE_FAILED], &[name, "locked", "for 30 s at most"]);
            assert!(ran.took.as_secs() < 60, "{ran}");
        }
    });
    assert_nothing_deleted(&engine);
}

/// After five seconds of silence one line says that umount waits; the outcome is that of the engine's answer.
fn an_umount_that_waits_for_the_engine_says_so() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).start();
    engine.switch(&json!({"switch": "finalize_slow", "value": 7}));
    let ran = mount.umount();
    assert_told(&ran, &[0], &["on its way"]);
    assert_free(&engine, &disk.id, &content);
}
