//! The requests to the engine, as its log shows them: those that keep a disk safe are right, sent once, and
//! waited for.

use std::fs;

use serde_json::{Value, json};

use crate::rig::{
    LIMIT, assert_free, assert_nothing_deleted, assert_told, command, copy_command, create, existing, over,
    point, source, used_disk,
};
use crate::support::engine::{Engine, PASSWORD};
use crate::support::redaction::assert_shows_none;
use crate::support::run::run;

fn one_transfer(engine: &Engine) -> Value {
    let started = engine.requests("POST", "/imagetransfers");
    assert_eq!(started.len(), 1, "{started:?}");
    started[0]["body"].clone()
}

/// The policy must be `pause`, since any other costs the disk after an idle hour. The inactivity timeout must
/// not be 0, which makes imageio drop connections; it is an hour or more, and another one for each run, by
/// which the transfer is known when the request gets no answer. `format=raw` gives the guest's view, whatever
/// the disk's own format.
#[test]
fn an_upload_is_asked_for_as_it_must_be() {
    let engine = Engine::start();
    used_disk(&engine, "web01", "cow");
    over(&engine, &existing("web01"), "true").ok();
    let body = one_transfer(&engine);
    assert_eq!(body["direction"], "upload");
    assert_eq!(body["format"], "raw");
    assert_eq!(body["timeout_policy"], "pause");
    let limit = body["inactivity_timeout"].to_string();
    let limit: u64 = limit.trim_matches('"').parse().expect("a number");
    assert!((3600..6 * 3600).contains(&limit), "{limit}");
    assert_eq!(engine.transfer().inactivity_timeout, limit);
    // Two runs may have the same one by chance, in one of 16384 cases; three don't.
    for _ in 0..2 {
        over(&engine, &existing("web01"), "true").ok();
    }
    let others = engine.transfers().into_iter().map(|t| t.inactivity_timeout);
    assert!(
        others.clone().count() == 3 && others.clone().any(|other| other != limit),
        "all are {limit}"
    );
}

#[test]
fn a_read_only_mount_is_a_download() {
    let engine = Engine::start();
    used_disk(&engine, "web01", "raw");
    let mut args = existing("web01");
    args.push("--read-only".into());
    over(&engine, &args, "cat {} > /dev/null").ok();
    let body = one_transfer(&engine);
    assert_eq!(body["direction"], "download");
    assert_eq!(body["format"], "raw");
    assert_ne!(body["timeout_policy"], "cancel");
}

#[test]
fn a_new_disk_is_asked_for_with_everything_that_matters() {
    let engine = Engine::start();
    over(&engine, &create("web01"), "true").ok();
    let orders = engine.requests("POST", "/disks");
    assert_eq!(orders.len(), 1, "{orders:?}");
    let body = &orders[0]["body"];
    assert_eq!(body["name"], "web01");
    assert_eq!(body["provisioned_size"].to_string().trim_matches('"'), "8388608");
    // The default of `sparse` depends on the storage, so it must be set.
    assert_eq!(body["sparse"].to_string().trim_matches('"'), "true");
    assert!(body["backup"].is_null(), "raw disks have no incremental backup");
}

/// All requests of a mount have `Version: 4` and one correlation id, by which an administrator finds them in
/// engine.log.
#[test]
fn every_request_has_a_version_and_a_correlation_id() {
    let engine = Engine::start();
    over(&engine, &create("web01"), "true").ok();
    let mut requests = engine.log("request");
    requests.retain(|one| {
        one["path"]
            .as_str()
            .is_some_and(|path| path.starts_with("/ovirt-engine/api"))
    });
    assert!(requests.len() > 5, "{requests:?}");
    for one in &requests {
        assert_eq!(one["version"], "4", "{one}");
        assert_eq!(one["correlation_id"], requests[0]["correlation_id"], "{one}");
        assert!(
            one["correlation_id"].as_str().is_some_and(|id| id.len() >= 8),
            "{one}"
        );
    }
}

#[test]
fn a_fault_is_told_with_its_detail_status_and_correlation_id() {
    let engine = Engine::start();
    used_disk(&engine, "web01", "raw");
    let fault = json!({"status": 409, "detail": "[Cannot transfer: the moon is in the way.]"});
    engine.switch(&json!({"switch": "fault", "value": fault, "match": "POST .*/imagetransfers$"}));
    let ran = over(&engine, &existing("web01"), "true");
    assert_told(&ran, &[4], &["the moon is in the way", "409"]);
    let refused = engine.requests("POST", "/imagetransfers");
    let id = refused[0]["correlation_id"].as_str().expect("a correlation id");
    assert!(ran.stderr.contains(id), "{id} is missing: {ran}");
    assert_eq!(refused.len(), 1, "a refused request is not repeated");
}

/// A repeated request would start a second transfer.
#[test]
fn a_transfer_that_takes_its_time_is_asked_for_once() {
    let engine = Engine::start();
    let source = source(&engine, 71);
    engine.switch(&json!({"switch": "stay_initializing", "value": 1.5, "times": 1}));
    over(&engine, &create("web01"), &copy_command(&source)).ok();
    one_transfer(&engine);
    assert_free(&engine, "web01", &source);
}

/// The disk is `ok` before its lock is free: only the transfer's last phase shows that it has ended.
#[test]
fn done_means_that_the_lock_is_free() {
    let engine = Engine::with(["--unlock-delay", "0.8"]);
    let (disk, content) = used_disk(&engine, "web01", "raw");
    engine.switch(&json!({"switch": "finalize_slow", "value": 1, "times": 1}));
    let ran = over(&engine, &existing("web01"), "true").ok();
    assert_eq!(engine.transfer().phase, "finished_success", "{ran}");
    assert_free(&engine, &disk.id, &content);
    // Polling faster than the engine takes its steps is useless, so the pauses grow with the time waited,
    // which is 1.8 s at least from the request to finalize on. A slow machine makes them longer.
    let id = engine.transfer().id;
    let requests = engine.log("request").into_iter();
    let is_before = |one: &serde_json::Value| !one["path"].to_string().contains("/finalize");
    let polls = requests
        .skip_while(is_before)
        .filter(|one| one["method"] == "GET" && one["path"].to_string().contains(&id));
    let times: Vec<f64> = polls.filter_map(|one| one["time"].as_f64()).collect();
    let longest = times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
    assert!(
        longest > 0.1,
        "{longest} s at most between two polls at {times:?}"
    );
    // The next mount starts at once.
    over(&engine, &existing("web01"), "true").ok();
    assert_nothing_deleted(&engine);
}

/// An engine on a busy machine takes a transfer's next step only every few seconds.
#[test]
fn a_slow_engine_is_waited_for() {
    let engine = Engine::with(["--poll", "0.5", "--poll-max", "2"]);
    let source = source(&engine, 72);
    over(&engine, &create("web01"), &copy_command(&source)).ok();
    assert_free(&engine, "web01", &source);
    let ran = over(&engine, &create("failed"), "exit 3");
    assert_told(&ran, &[3], &[]);
    assert!(engine.disk("failed").is_none(), "it is removed: {ran}");
}

/// A host is identified by its vdsm.id. This machine has none, so the test makes one.
#[test]
fn a_host_of_the_engine_serves_itself() {
    const HARDWARE: &str = "00000000-1111-2222-3333-444444444444";
    let engine = Engine::with(["--hardware-id", HARDWARE]);
    let source = source(&engine, 73);
    let id = engine.dir().join("vdsm.id");
    fs::write(&id, format!("{HARDWARE}\n")).expect("write a vdsm.id");
    let script = copy_command(&source);
    let mut command = command(&engine, &create("local"), &point(&engine, "local"), &script);
    let ran = run(command.env("RHV_MOUNT_VDSM_ID", &id), LIMIT).ok();
    assert_shows_none(&ran, &[PASSWORD]);
    let body = one_transfer(&engine);
    assert!(body["host"]["id"].is_string(), "no host was asked for: {body}");
    assert!(
        engine.daemon().log().contains("client=local"),
        "the unix socket was not used"
    );
    assert_free(&engine, "local", &source);
}
