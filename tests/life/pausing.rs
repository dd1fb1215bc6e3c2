//! A pause that a user makes in the engine is the user's to end. It is told, data goes on while its ticket
//! lives, and only data that can wait no longer ends the pause.

use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::existing::{expected, write_and_sync};
use crate::recovering::by_hand;
use crate::rig::{assert_free, assert_nothing_deleted, existing, used_disk};
use crate::support::content::MIB;
use crate::support::engine::Engine;
use crate::support::run::wait_until;

fn resumes(engine: &Engine) -> usize {
    engine.requests("POST", "/resume").len()
}

/// The watcher looks twice meanwhile.
#[test]
fn a_pause_that_a_user_has_made_stays_and_is_told() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).start();
    let transfer = engine.transfer().id;
    by_hand(&engine, &transfer, "pause");
    let phase = || {
        let status = mount.status(&["-o", "json"]).ok().stdout;
        let status: Value = serde_json::from_str(&status).expect("status prints JSON");
        status["transfer_phase"].as_str().map(str::to_owned)
    };
    wait_until("it is seen", 30, || phase().as_deref() == Some("paused_user"));
    write_and_sync(&mount.file(), MIB, MIB, 71);
    let shown = mount.status(&[]).ok().stdout;
    assert!(shown.contains("a user of the engine has paused it"), "{shown}");
    sleep(Duration::from_secs(6));
    assert_eq!(engine.transfer().phase, "paused_user");
    assert_eq!(resumes(&engine), 0);
    let log = mount.log();
    assert!(
        log.contains(&format!("a user has paused transfer {transfer}")),
        "{log}"
    );
    by_hand(&engine, &transfer, "resume");
    wait_until("the resume is seen", 30, || {
        phase().as_deref() == Some("transferring")
    });
    write_and_sync(&mount.file(), 2 * MIB, MIB, 72);
    by_hand(&engine, &transfer, "pause");
    // The end is asked for by the user of the mount, and ends a pause too.
    mount.umount().ok();
    assert_eq!(resumes(&engine), 1, "only the user's own");
    let content = expected(&content, MIB, MIB, 71);
    assert_free(&engine, &disk.id, &expected(&content, 2 * MIB, MIB, 72));
    assert_nothing_deleted(&engine);
}

/// The ticket expires in the pause, so data has to wait: first for the user, then no longer.
#[test]
fn data_that_needs_the_ticket_waits_for_the_user_and_then_resumes_by_itself() {
    let engine = Engine::with(["--ticket-validity", "3", "--ticket-refresh", "2"]);
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mount = engine
        .mounting(existing("web01"))
        .args(["--retry-time", "24"])
        .start();
    write_and_sync(&mount.file(), 0, MIB, 73);
    let transfer = engine.transfer().id;
    for user_resumes in [true, false] {
        let before = resumes(&engine);
        by_hand(&engine, &transfer, "pause");
        // The watcher's touch, every 5 s, is too rare for such a ticket.
        sleep(Duration::from_secs(5));
        let seed = 74 + u64::from(user_resumes);
        let source = expected(&content, 0, MIB, seed);
        // Another process has the file open: a child of this one would wait for the data as it closes its
        // copy.
        let mut writer = Command::new("dd")
            .arg(format!("if={}", source.display()))
            .arg(format!("of={}", mount.file().display()))
            .arg(format!("seek={}", seed % 8))
            .args(["bs=1M", "count=1", "conv=notrunc,fsync", "status=none"])
            .spawn()
            .expect("start dd");
        let told = || mount.log().matches("data waits for it").count() > usize::from(!user_resumes);
        wait_until("data waits", 30, told);
        assert_eq!(resumes(&engine), before, "it did not wait for the user");
        if user_resumes {
            sleep(Duration::from_secs(1));
            by_hand(&engine, &transfer, "resume");
        }
        assert!(writer.wait().expect("dd ends").success(), "the data arrives");
        assert_eq!(resumes(&engine), before + 1);
    }
    mount.umount().ok();
    assert_eq!(engine.transfers().len(), 1, "no other transfer");
    let content = expected(&content, 0, MIB, 73);
    let content = expected(&content, 75 % 8 * MIB, MIB, 75);
    assert_free(&engine, &disk.id, &expected(&content, 74 % 8 * MIB, MIB, 74));
    assert_nothing_deleted(&engine);
}
