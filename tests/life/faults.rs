//! Runs every fault switch of the stand-in (see `fault_table`), and asserts the right exit code, a message
//! that names cause and remedy, no disk locked that could be free, and no temporary file, process or mount
//! left.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;

use serde_json::json;

use crate::fault_table::{Fate, Of, Row, of_requests, of_transfers};
use crate::rig::{DONE, assert_free, assert_told, create, existing, over, source, used_disk};
use crate::support::engine::Engine;
use crate::support::run::{Ran, wait_until};

/// Number of rows that run in parallel; most of them only wait.
const PARALLEL_ROWS: usize = 8;

#[test]
fn every_switch_of_the_stand_in_has_its_row() {
    let engine = Engine::start();
    let existing: BTreeSet<String> = engine.switch_names().into_iter().collect();
    let rows = of_requests().into_iter().chain(of_transfers());
    let tried: BTreeSet<String> = rows.map(|row| row.switch.to_owned()).collect();
    assert_eq!(tried, existing);
}

#[test]
fn faults_of_requests_end_as_they_should() {
    let engine = Engine::start();
    let failed: Vec<String> = of_requests()
        .iter()
        .enumerate()
        .filter_map(|(number, row)| {
            let reason = attempt(&engine, row, number);
            engine.clear_switches();
            reason
        })
        .collect();
    assert!(
        failed.is_empty(),
        "{} rows:\n{}",
        failed.len(),
        failed.join("\n\n")
    );
}

#[test]
fn faults_of_disks_and_transfers_end_as_they_should() {
    let engine = Engine::start();
    let rows = of_transfers();
    let next = Mutex::new(rows.iter().enumerate());
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL_ROWS {
            scope.spawn(|| {
                loop {
                    let taken = next.lock().expect("no thread has failed").next();
                    let Some((number, row)) = taken else { break };
                    if let Some(reason) = attempt(&engine, row, number) {
                        failed.lock().expect("no thread has failed").push(reason);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no thread has failed");
    assert!(
        failed.is_empty(),
        "{} rows:\n{}",
        failed.len(),
        failed.join("\n\n")
    );
}

/// Runs a row and returns the reason if it fails, so that the other rows still run.
fn attempt(engine: &Engine, row: &Row, number: usize) -> Option<String> {
    let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| try_row(engine, row, number)));
    let reason = tried.err()?;
    let text = reason
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| reason.downcast_ref::<&str>().map(|&text| text.to_owned()))
        .unwrap_or_default();
    Some(format!("row {number}, {row:?}:\n{text}"))
}

fn try_row(engine: &Engine, row: &Row, number: usize) {
    let name = format!("{}-{number}", row.switch);
    let new = source(engine, 121);
    let old = (row.of == Of::Old).then(|| used_disk(engine, &name, "raw").1);
    let order = order(row, &name);
    let middle = if row.midway {
        format!("{}; sleep 0.4;", engine.switch_line(&order))
    } else {
        engine.switch(&order);
        String::new()
    };
    let args = match row.of {
        Of::New => create(&name),
        Of::Kept => [create(&name), vec!["--keep-on-failure".into()]].concat(),
        Of::Old => existing(&name),
    };
    // The writes may fail; COMMAND still succeeds, so that rhv-mount has to report the failure.
    let script = format!(
        "set +e; dd if='{0}' of={{}} bs=1M count=4 conv=notrunc,fsync status=none; {middle} \
         dd if='{0}' of={{}} bs=1M skip=4 seek=4 conv=notrunc,fsync status=none; exit 0",
        new.display()
    );
    let ran = over(engine, &args, &script);
    assert_told(&ran, row.codes, row.words);
    if ran.code == Some(DONE) {
        if row.switch == "finalize_vanish" {
            // The status is ok before the lock is free, and nothing else tells a client about the lock.
            wait_until("the lock is free", 60, || {
                engine.disk(&name).is_some_and(|disk| disk.locked_by.is_empty())
            });
        }
        assert_free(engine, &name, &new);
    } else {
        assert!(
            ran.stderr.lines().any(|line| line.starts_with("rhv-mount:")),
            "no message: {ran}"
        );
        assert_fate(engine, &name, row, old.as_deref(), &ran);
    }
    if row.of == Of::Old {
        assert_never_deleted(engine, &name);
    }
}

fn order(row: &Row, name: &str) -> serde_json::Value {
    let mut order = json!({"switch": row.switch, "value": row.value});
    if let Some(times) = row.times {
        order["times"] = json!(times);
    }
    if row.midway {
        // This is an act, whose value selects the transfer.
        order["value"] = json!(name);
        return order;
    }
    match row.requests {
        Some(pattern) => order["match"] = json!(pattern),
        None if of_transfers().iter().any(|other| other.switch == row.switch) => {
            order["match"] = json!(format!("{name}$"));
        }
        None => {}
    }
    order
}

#[track_caller]
fn assert_fate(engine: &Engine, name: &str, row: &Row, old: Option<&Path>, ran: &Ran) {
    match row.fate {
        Fate::Untouched => assert_free(engine, name, old.expect("a disk that was there")),
        Fate::Gone => {
            let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
            while engine.disk(name).is_some() {
                assert!(std::time::Instant::now() < end, "the disk is left: {ran}");
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        }
        Fate::There => assert!(engine.disk(name).is_some(), "the disk is gone: {ran}"),
    }
}

/// Asserts that rhv-mount has neither cancelled an upload to the existing disk nor deleted the disk.
#[track_caller]
fn assert_never_deleted(engine: &Engine, name: &str) {
    let existing = engine.log("disk_existing");
    let known = existing.iter().find(|line| line["name"] == name);
    let id = known
        .and_then(|line| line["disk"].as_str())
        .expect("a disk that was there");
    let created = engine.log("transfer_created");
    let transfers = created.iter().filter(|line| line["disk"] == id);
    for transfer in transfers.filter_map(|line| line["transfer"].as_str()) {
        let cancelled = engine.requests("POST", &format!("/imagetransfers/{transfer}/cancel"));
        assert!(cancelled.is_empty(), "{name} was cancelled: {cancelled:?}");
    }
    let deleted = engine.requests("DELETE", id);
    assert!(deleted.is_empty(), "{name} was deleted: {deleted:?}");
}

/// The error of a refused login has one of two shapes.
#[test]
fn both_shapes_of_a_refused_login_are_understood() {
    let engine = Engine::start();
    used_disk(&engine, "web01", "raw");
    for shape in [false, true] {
        engine.switch(&json!({"switch": "login_refused", "value": "access_denied"}));
        if shape {
            engine.switch(&json!({"switch": "sso_oauth_shape"}));
        }
        let ran = over(&engine, &existing("web01"), "true");
        assert_told(
            &ran,
            &[crate::rig::LOGIN_REFUSED],
            &["refused by the identity provider"],
        );
        engine.clear_switches();
    }
}

/// The user may not finalize any more: the message names the transfer that is left, and recover ends it
/// later.
#[test]
fn an_engine_that_refuses_the_end_leaves_what_recover_finds() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).start();
    let point = mount.mountpoint().to_path_buf();
    let fault = json!({"status": 403, "detail": "[User is not authorized to perform this action.]"});
    engine.switch(&json!({"switch": "fault", "value": fault, "match": "/finalize$"}));
    let ran = mount.umount();
    let words = [&disk.id, "rhv-mount recover", "403", "not authorized"];
    assert_told(&ran, &[crate::rig::DATA_MAY_BE_LOST], &words);
    engine.clear_switches();
    let mut args = vec!["recover".into()];
    args.extend(engine.args());
    args.push(point.into());
    engine.run(args, 60).ok();
    wait_until("the disk is free", 60, || {
        engine
            .disk(&disk.id)
            .is_some_and(|disk| disk.locked_by.is_empty())
    });
    assert_free(&engine, &disk.id, &content);
}
