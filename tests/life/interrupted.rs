//! Ctrl-C on a terminal is answered at once: what is stopped, and what the disk holds then.

use std::process::Command;

use serde_json::json;

use crate::rig::{SIZE, assert_nothing_deleted, create, existing, point, source, used_disk};
use crate::support::content::MIB;
use crate::support::engine::Engine;
use crate::support::run::wait_until;
use crate::support::terminal::Terminal;

/// Writes a part of the disk, and goes on for ever.
const HALF_A_COPY: &str = "head -c 1048576 /dev/urandom | dd of={} bs=1M conv=notrunc,fsync status=none";

/// The end of a script, which says that half is written and waits. A ctrl-C ends it whenever it comes after
/// that; a shell catches it, and loses one that comes just before it becomes another program.
const GO_ON: &str = "exec python3 -c 'import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); \
                     print(\"half is written\", flush=True); time.sleep(600)'";

/// `rhv-mount ARGS POINT -- sh -c SCRIPT`, with [`GO_ON`] after a script that is to be stopped.
fn program(engine: &Engine, args: &[String], script: &str) -> Command {
    let mut program = engine.program();
    program.args(engine.args()).args(args).arg(point(engine, "disk"));
    program.args(["--", "sh", "-c", script]);
    program
}

/// Waits until COMMAND says that half is written, presses ctrl-C, and returns the answer. It comes while the
/// engine answers nothing, which it does again afterwards.
#[track_caller]
fn stopped(engine: &Engine, terminal: &Terminal) -> String {
    terminal.wait_for_row("the copy is at work", |row| row == "half is written");
    let away = engine.away();
    terminal.press("C-c");
    // Whether COMMAND has ended when the signal arrives at rhv-mount is a matter of chance.
    let answer = answer(terminal, "rhv-mount: SIGINT: COMMAND is ");
    let rows = terminal.rows();
    assert!(
        !rows.iter().any(|row| row.starts_with("exit status: ")),
        "it is over: {rows:#?}"
    );
    drop(away);
    answer
}

/// Waits for a row that begins so, and returns it.
#[track_caller]
fn answer(terminal: &Terminal, begins: &str) -> String {
    terminal.wait_for_row(begins, |row| row.starts_with(begins));
    let found = terminal.rows().into_iter().find(|row| row.starts_with(begins));
    found.expect("it was there")
}

/// Waits for the end of the program; the last row is free then.
#[track_caller]
fn ends_with(terminal: &Terminal, status: i32) {
    let end = format!("exit status: {status}");
    terminal.wait_for_row(&end, |row| row == end);
    assert_eq!(terminal.last_row(), "", "{:#?}", terminal.rows());
}

#[test]
fn a_copy_onto_a_disk_that_was_there_is_stopped_and_the_mix_is_told() {
    let engine = Engine::start();
    let (disk, _) = used_disk(&engine, "web01", "raw");
    let terminal = Terminal::run(&program(
        &engine,
        &existing("web01"),
        &format!("{HALF_A_COPY}; {GO_ON}"),
    ));
    let answer = stopped(&engine, &terminal);
    assert!(
        answer.contains(&disk.id) && answer.contains("a mix of what was there and what was written"),
        "{answer}"
    );
    ends_with(&terminal, 128 + 2);
    terminal.wait_for_row("the last line", |row| {
        row.starts_with(&format!("rhv-mount: web01 ({}): 1.00 MiB written in ", disk.id))
            && row.ends_with("; exit status 130")
    });
    let after = engine.disk(&disk.id).expect("the disk is kept");
    assert_eq!((after.status.as_str(), after.locked_by.len()), ("ok", 0));
    assert_nothing_deleted(&engine);
    assert!(engine.state_files().is_empty());
}

#[test]
fn a_copy_onto_a_disk_that_was_made_for_it_is_stopped_and_the_disk_goes() {
    let engine = Engine::start();
    let terminal = Terminal::run(&program(
        &engine,
        &create("web02"),
        &format!("{HALF_A_COPY}; {GO_ON}"),
    ));
    let answer = stopped(&engine, &terminal);
    assert!(
        answer.contains("was made for this run") && answer.contains("is removed again"),
        "{answer}"
    );
    ends_with(&terminal, 128 + 2);
    wait_until("the disk is removed", 60, || engine.disk("web02").is_none());
}

#[test]
fn a_read_is_stopped_and_the_disk_is_unchanged() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let args = [existing("web01"), vec!["--read-only".to_owned()]].concat();
    let script = format!("head -c 65536 {{}} >/dev/null; {GO_ON}");
    let terminal = Terminal::run(&program(&engine, &args, &script));
    let answer = stopped(&engine, &terminal);
    assert!(
        answer.contains(&disk.id) && answer.ends_with("is unchanged"),
        "{answer}"
    );
    ends_with(&terminal, 128 + 2);
    crate::rig::assert_free(&engine, &disk.id, &content);
}

/// The storage does not answer when the disk is emptied, and so the zeros are on their way, or not even that,
/// all the time.
#[test]
fn a_disk_that_is_emptied_is_not_unchanged_and_only_an_announced_signal_gives_up() {
    let engine = Engine::start();
    let (disk, _) = used_disk(&engine, "web01", "raw");
    // Nothing has the file open, so no close waits for the storage.
    let empty = "echo ready; read -r go; python3 -c 'import os; os.truncate(\"{}\", 0)'";
    let script = format!("{empty}; {GO_ON}");
    let terminal = Terminal::run(&program(&engine, &existing("web01"), &script));
    terminal.wait_for_row("COMMAND", |row| row == "ready");
    let stalled = engine.stall_storage();
    terminal.press("Enter");
    let told = stopped(&engine, &terminal);
    assert!(
        told.contains("a mix of what was there and what was written") && !told.contains("unchanged"),
        "{told}"
    );
    terminal.wait_for_last_row("the flush", |row| row.starts_with("flushing "));
    terminal.press("C-c");
    let waits = answer(
        &terminal,
        "rhv-mount: SIGINT: not everything is on the storage yet",
    );
    assert!(waits.contains("the next signal gives up on that"), "{waits}");
    drop(stalled);
    ends_with(&terminal, 128 + 2);
    let zeros = engine.dir().join("zeros");
    std::fs::File::create(&zeros).unwrap().set_len(SIZE).unwrap();
    crate::rig::assert_free(&engine, &disk.id, &zeros);
    assert!(engine.state_files().is_empty());
}

/// No signal has come, so none is named.
#[test]
fn a_command_that_ends_with_the_status_of_a_ctrl_c_is_told_as_that() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let terminal = Terminal::run(&program(&engine, &existing("web01"), "exit 130"));
    let told = answer(&terminal, "rhv-mount: COMMAND has ended with exit status 130; ");
    assert!(
        told.contains(&disk.id) && told.ends_with(" is unchanged"),
        "{told}"
    );
    ends_with(&terminal, 130);
    let rows = terminal.rows();
    assert!(!rows.iter().any(|row| row.contains("SIGINT")), "{rows:#?}");
    crate::rig::assert_free(&engine, &disk.id, &content);
}

/// The engine would finalize for a day, so each answer comes before its.
#[test]
fn ctrl_c_in_a_finalize_that_never_ends_is_answered_and_the_second_one_ends_it() {
    let engine = Engine::start();
    let (disk, _) = used_disk(&engine, "web01", "raw");
    engine.switch(&json!({"switch": "finalize_slow", "value": 86_400}));
    let script = format!("cp '{}' {{}}", source(&engine, 17).display());
    let terminal = Terminal::run(&program(&engine, &existing("web01"), &script));
    terminal.wait_for_last_row("the finalize", |row| {
        row.starts_with("web01: finalizing, ") && row.ends_with(" s")
    });
    let transfer = engine.transfer().id;
    terminal.press("C-c");
    let first = answer(
        &terminal,
        &format!("rhv-mount: SIGINT: transfer {transfer} is being ended"),
    );
    assert!(
        first.contains(&disk.id)
            && first.contains("holds every byte that was written. The next signal stops the wait"),
        "{first}"
    );
    terminal.press("C-c");
    let second = answer(&terminal, "rhv-mount: SIGINT: the wait for the end of transfer");
    assert!(
        second.contains("stays locked until the transfer has ended") && second.contains("rhv-mount recover"),
        "{second}"
    );
    ends_with(&terminal, 7);
    assert_nothing_deleted(&engine);
}

#[test]
fn a_lock_that_is_waited_for_is_shown_and_ctrl_c_ends_the_wait() {
    let engine = Engine::start();
    engine.add_disk(&json!({"name": "web01", "size": MIB, "status": "locked"}));
    let terminal = Terminal::run(&program(&engine, &existing("web01"), "true"));
    terminal.wait_for_last_row("the wait", |row| row.starts_with("opening the disk for "));
    terminal.wait_for_row("its reason", |row| row.contains("is locked"));
    terminal.press("C-c");
    ends_with(&terminal, 1);
    assert!(engine.state_files().is_empty());
}
