//! imageio has lost the ticket before the first request, as when it restarts just after the engine has told
//! its URL. Another transfer takes the place of the one that was started, unless that could cost a disk.

use serde_json::json;

use crate::heads::encrypted;
use crate::rig::{
    CANNOT_CONNECT, ENGINE_FAILED, assert_free, assert_nothing_deleted, assert_told, copy_command, create,
    existing, over, point, source, used_disk,
};
use crate::support::engine::Engine;
use crate::unseen::assert_left;

/// The first ticket is lost as soon as it is made.
fn lose_ticket(engine: &Engine) {
    engine.switch(&json!({"switch": "ticket_lost", "times": 1}));
}

fn with(mut args: Vec<String>, option: &str) -> Vec<String> {
    args.push(option.into());
    args
}

fn phases(engine: &Engine) -> Vec<String> {
    engine
        .transfers()
        .into_iter()
        .map(|transfer| transfer.phase)
        .collect()
}

#[test]
fn a_disk_that_was_made_or_is_qcow2_is_written_over_another_transfer() {
    for (args, name) in [
        (create("new"), "new"),
        (with(create("kept"), "--keep-on-failure"), "kept"),
        (existing("cow"), "cow"),
    ] {
        let engine = Engine::start();
        used_disk(&engine, "cow", "cow");
        lose_ticket(&engine);
        let source = source(&engine, 81);
        let ran = over(&engine, &args, &copy_command(&source)).ok();
        assert_told(
            &ran,
            &[0],
            &["does not know the ticket", "asked for another transfer"],
        );
        assert_free(&engine, name, &source);
        assert_nothing_deleted(&engine);
        assert_eq!(phases(&engine), ["finished_success"; 2], "{ran}");
        assert!(engine.state_files().is_empty());
    }
}

#[test]
fn a_raw_disk_is_read_over_another_transfer() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    lose_ticket(&engine);
    let compare = format!("cmp {{}} '{}'", content.display());
    over(&engine, &with(existing("web01"), "--read-only"), &compare).ok();
    assert_eq!(engine.transfers().len(), 2);
    assert_free(&engine, &disk.id, &content);
    assert_nothing_deleted(&engine);
}

/// Nobody has seen its head, and a finalize would remove a disk that begins like this one.
#[test]
fn a_raw_disk_that_was_there_is_left_as_it_is() {
    let engine = Engine::start();
    let (disk, _) = encrypted(&engine);
    lose_ticket(&engine);
    let ran = over(&engine, &existing("vault"), "true");
    assert_left(&engine, &disk, &point(&engine, "vault"), &ran, ENGINE_FAILED);
    assert_eq!(engine.transfers().len(), 1, "{ran}");
}

/// A proxy may never have had the ticket.
#[test]
fn a_ticket_that_a_proxy_does_not_know_is_not_replaced() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "cow", "cow");
    lose_ticket(&engine);
    let ran = over(&engine, &with(existing("cow"), "--proxy"), "true");
    assert_told(&ran, &[ENGINE_FAILED], &["No such ticket"]);
    assert_eq!(engine.transfers().len(), 1, "{ran}");
    assert_free(&engine, &disk.id, &content);
}

#[test]
fn a_refused_connection_is_tried_again_for_as_long_as_a_request_may_wait() {
    let engine = Engine::with(["--proxy-url", "dead"]);
    used_disk(&engine, "web01", "cow");
    engine.switch(&json!({"switch": "url_host", "value": "dead"}));
    let ran = over(&engine, &existing("web01"), "true");
    assert_told(&ran, &[CANNOT_CONNECT], &["Trying again for 3 s"]);
    let args = [existing("web01"), vec!["--retry-time".into(), "0".into()]].concat();
    let ran = over(&engine, &args, "true");
    assert_told(&ran, &[CANNOT_CONNECT], &["refused"]);
    assert!(!ran.stderr.contains("Trying again"), "{ran}");
}
