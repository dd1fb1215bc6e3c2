//! Tests of the search for secrets at the end of every test's mount: it fails when there is a secret to find,
//! and the log that it searches contains the requests, because otherwise the search would prove nothing.

use crate::rig::{MIB, Rig, TICKET, settings};
use crate::support::redaction::Trace;
use crate::support::run::{is_root, text};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

fn append(path: &Path, line: &str) {
    let mut file = File::options()
        .append(true)
        .open(path)
        .expect("open a file of the mount");
    writeln!(file, "{line}").expect("write to it");
}

/// Returns the message of the panic in which `action` must end.
fn panic_of(action: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(action)).expect_err("the secret was not found");
    let words = panic.downcast::<String>().expect("a message");
    *words
}

fn record_of(rig: &Rig) -> PathBuf {
    let point = format!("\"{}\"", rig.mount.mountpoint().display());
    let files = fs::read_dir("/run/rhv-mount")
        .expect("look for records")
        .flatten();
    let mut files = files.map(|file| file.path()).filter(|path| path.is_file());
    files.find(|path| text(path).contains(&point)).expect("a record")
}

#[test]
fn a_ticket_in_a_file_of_a_mount_is_found_at_its_end() {
    for name in ["log", "stdout", "stderr"] {
        let rig = Rig::start(settings(MIB), &[]);
        append(&rig.mount.dir().join(name), &format!("GET /images/{TICKET}"));
        let words = panic_of(|| drop(rig.umount()));
        assert!(
            words.contains(&format!("the {name} of a mount shows a secret")),
            "{words}"
        );
    }
}

#[test]
fn a_part_of_a_ticket_is_found_also_when_a_mount_is_dropped() {
    let rig = Rig::start(settings(MIB), &[]);
    append(
        &rig.mount.dir().join("log"),
        &format!("00000010  {}", &TICKET[5..21]),
    );
    let words = panic_of(|| drop(rig));
    assert!(words.contains("the log of a mount shows a secret"), "{words}");
}

#[test]
fn a_ticket_in_a_record_is_found() {
    if !is_root() {
        return;
    }
    let rig = Rig::start(settings(MIB), &[]);
    append(&record_of(&rig), TICKET);
    let words = panic_of(|| drop(rig.umount()));
    assert!(words.contains("/run/rhv-mount"), "{words}");
}

#[test]
fn a_ticket_in_the_log_of_a_mount_with_a_command_is_found() {
    let url = format!("http://127.0.0.1:1/images/{TICKET}");
    let words = panic_of(|| {
        let trace = Trace::of(&url);
        fs::write(trace.log(), format!("{url}\n")).expect("write a log");
    });
    assert!(words.contains("shows a secret"), "{words}");
}

/// At trace level the log has the mount's requests, those of the HTTP library and the kernel's, but no
/// ticket.
#[test]
fn the_searched_log_contains_every_request() {
    let rig = Rig::start(settings(MIB), &[]);
    let file = rig.read_write();
    file.write_all_at(b"something", 0).expect("write");
    file.sync_all().expect("fsync");
    drop(file);
    let log = rig.mount.log();
    for words in ["/images/***", "ureq", "fuser", "OPTIONS", "PUT", "PATCH"] {
        assert!(log.contains(words), "no {words}: {}", rig.mount.log_end());
    }
    rig.umount();
}
