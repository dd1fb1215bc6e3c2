//! `upload -` and `download -`: a stream has one order, an end that must be the right one, and sometimes
//! another process at its other end that has made it non-blocking.

use std::fs;
use std::io::Write;
use std::process::Command;

use crate::rig::{MIB, TICKET, assert_same, pattern, settings, used_server};
use crate::server::{Image, Server};
use crate::support::mount::rhv_mount_command;
use crate::support::redaction::assert_shows_none;
use crate::support::run::{Ran, run, scratch};

const SIZE: u64 = 24 * MIB;

/// Runs an upload of stdin, which gets `bytes`.
fn from_stdin(server: &Server, bytes: &[u8], options: &[&str]) -> Ran {
    let dir = scratch();
    let input = dir.path().join("stdin");
    fs::write(&input, bytes).unwrap();
    let script = "cat \"$1\" | \"$2\" upload - \"${@:3}\"";
    let command = rhv_mount_command(Some(&server.url()));
    let program = command.get_program().to_owned();
    let mut shell = Command::new("bash");
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
        .args(["-c", script, "sh"])
        .arg(&input)
        .arg(program)
        .args(options);
    let ran = run(&mut shell, 60);
    assert_shows_none(&ran, &[TICKET]);
    ran
}

#[test]
fn a_stream_arrives_and_one_of_another_length_is_a_failure() {
    let server = used_server(settings(SIZE));
    let bytes = pattern(3, 5 * MIB as usize + 1234);
    let size = bytes.len().to_string();
    from_stdin(&server, &bytes, &["--size", &size]).ok();
    let mut expected = Image::new(SIZE);
    expected.write(0, &bytes);
    assert_same("durable", &server.durable(), &expected);

    let short = from_stdin(&server, &bytes[..MIB as usize], &["--size", &size]);
    assert_eq!(short.code, Some(1), "{short}");
    assert!(
        short.stderr.contains("stdin ended after 1048576 bytes"),
        "{short}"
    );
    let long = from_stdin(&server, &bytes, &["--size", "1M"]);
    assert_eq!(long.code, Some(1), "{long}");
    assert!(long.stderr.contains("more than the 1048576 bytes"), "{long}");
    let unsaid = from_stdin(&server, &bytes, &[]);
    assert_eq!(unsaid.code, Some(2), "{unsaid}");
    assert!(unsaid.stderr.contains("--size"), "{unsaid}");
}

#[test]
fn a_download_into_a_pipe_is_in_order_and_a_reader_who_leaves_is_told() {
    let server = used_server(settings(SIZE));
    let whole = run_to(&server, "cat").ok();
    let expected = run(
        Command::new("sha256sum")
            .arg("-b")
            .arg(written(&pattern(9, SIZE as usize)).path()),
        60,
    );
    assert_eq!(
        whole.stdout.split(' ').next(),
        expected.stdout.split(' ').next(),
        "{whole}"
    );
    let left = run_to(&server, "head -c 1000");
    assert_eq!(left.code, Some(1), "{left}");
    assert!(left.stderr.contains("cannot write to stdout"), "{left}");
}

fn written(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Downloads through `filter` into sha256sum; the exit code is the download's.
fn run_to(server: &Server, filter: &str) -> Ran {
    let script = format!("\"$1\" download - | {filter} | sha256sum; exit ${{PIPESTATUS[0]}}");
    let command = rhv_mount_command(Some(&server.url()));
    let mut shell = Command::new("bash");
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.args(["-c", &script, "sh"]).arg(command.get_program());
    run(&mut shell, 60)
}

