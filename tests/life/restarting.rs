//! An engine that starts again: for a while its login fails, and what answers in its place is a front end
//! without the application. Neither is taken for the engine's word.

use serde_json::{Value, json};

use crate::existing::{expected, write_and_sync};
use crate::rig::{DONE, assert_free, assert_nothing_deleted, assert_told, create, existing, over, used_disk};
use crate::support::content::MIB;
use crate::support::engine::Engine;

/// Writes to a disk that was there, lets `switches` act from then on, and unmounts: the disk must be
/// finalized, with what was written.
#[track_caller]
fn finalized_despite(switches: &[Value]) {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).start();
    write_and_sync(&mount.file(), MIB, MIB, 23);
    for switch in switches {
        engine.switch(switch);
    }
    let ran = mount.umount();
    engine.clear_switches();
    assert_eq!(ran.code, Some(DONE), "{switches:?}: {ran}");
    assert_free(&engine, &disk.id, &expected(&content, MIB, MIB, 23));
    assert_nothing_deleted(&engine);
}

#[test]
fn a_login_that_fails_for_a_moment_is_no_refusal() {
    for code in ["server_error", "temporarily_unavailable"] {
        finalized_despite(&[
            json!({"switch": "expire_sessions"}),
            json!({"switch": "login_refused", "value": code, "times": 2}),
        ]);
    }
}

#[test]
fn a_front_end_without_its_application_is_waited_for() {
    for status in [404, 403, 400] {
        let switch =
            json!({"switch": "html_error", "value": status, "times": 3, "match": "/imagetransfers/"});
        finalized_despite(&[switch]);
    }
}

#[test]
fn a_front_end_without_its_application_refuses_no_login() {
    let login =
        |status: u16| json!({"switch": "html_error", "value": status, "times": 2, "match": "sso/oauth"});
    for status in [401, 403, 404] {
        finalized_despite(&[json!({"switch": "expire_sessions"}), login(status)]);
    }
}

/// The engine itself answers 404 without a body for a transfer that it does not know.
#[test]
fn only_the_engine_says_that_a_transfer_is_gone() {
    let empty = json!({"switch": "front_end", "value": {"status": 404}, "times": 6, "match": "^GET "});
    finalized_despite(&[empty]);
    let other = json!({"status": 200, "type": "application/json", "body": "{\"status\": \"starting\"}"});
    finalized_despite(&[json!({"switch": "front_end", "value": other, "times": 3, "match": "^GET "})]);
}

#[test]
fn a_redirect_to_a_page_of_maintenance_is_waited_for() {
    finalized_despite(&[json!({"switch": "redirect", "times": 2, "match": "/imagetransfers/"})]);
}

/// The disk was made for a COMMAND that fails, so it has to go.
#[test]
fn a_disk_is_removed_from_an_engine_that_has_just_started_again() {
    let engine = Engine::start();
    // The usual repetitions of a request are four.
    let page = json!({"switch": "html_error", "value": 404, "times": 7, "match": "/api/disks/"});
    let script = format!("{}; exit 9", engine.switch_line(&page));
    let ran = over(&engine, &create("new"), &script);
    engine.clear_switches();
    assert_eq!(ran.code, Some(9), "{ran}");
    assert!(engine.disk("new").is_none(), "the disk is left: {ran}");
    assert!(engine.state_files().is_empty(), "a note is left: {ran}");
}

#[test]
fn an_engine_that_starts_is_waited_for_at_the_start_and_that_is_said_once() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    for (switch, said) in [
        (
            json!({"switch": "html_error", "value": 502, "match": "sso/oauth"}),
            "HTTP 502",
        ),
        (
            json!({"switch": "html_error", "value": 404, "match": "/api/disks"}),
            "HTTP 404",
        ),
        (
            json!({"switch": "login_refused", "value": "server_error"}),
            "server_error",
        ),
    ] {
        let mut switch = switch;
        // The usual repetitions of a request are four.
        switch["times"] = json!(7);
        engine.switch(&switch);
        let ran = over(&engine, &existing("web01"), "true");
        assert_told(&ran, &[DONE], &[said, "trying again"]);
        assert_eq!(ran.stderr.matches("Trying again").count(), 1, "{ran}");
        assert!(!ran.stderr.contains('<'), "markup is shown: {ran}");
    }
    assert_free(&engine, &disk.id, &content);
}
