//! `upload -` and `download -`: a stream has one order, an end that must be the right one, and sometimes
//! another process at its other end that has made it non-blocking.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

use crate::rig::{MIB, TICKET, assert_same, pattern, settings, used_server};
use crate::server::{Image, Server};
use crate::support::mount::rhv_mount_command;
use crate::support::redaction::assert_shows_none;
use crate::support::run::{Ran, run, scratch, text, wait_until};

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

/// A program that could not even begin must not cost a disk what it had.
#[test]
fn a_stream_that_ends_at_once_changes_nothing() {
    let server = used_server(settings(SIZE));
    for bytes in [&[][..], &[1; 1000]] {
        let ran = from_stdin(&server, bytes, &["--size", "5M"]);
        assert_eq!(ran.code, Some(1), "{ran}");
        assert!(ran.stderr.contains("is unchanged"), "{ran}");
    }
    assert!(
        server.read_durable(0..SIZE) == pattern(9, SIZE as usize),
        "other bytes"
    );
    let nothing = from_stdin(&server, &[], &["--size", "0"]).ok();
    assert_same("durable", &server.durable(), &Image::new(SIZE));
    drop(nothing);
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

/// A pipe, both of whose ends are as node and ssh leave theirs: one that would block fails.
fn non_blocking_pipe() -> (File, File) {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).expect("make a pipe");
    let both = (File::from(reader), File::from(writer));
    for end in [&both.0, &both.1] {
        fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("set a flag");
    }
    both
}

/// Makes calls on our end of the pipe wait again: each end has flags of its own.
fn blocking(end: &File) {
    fcntl(end, FcntlArg::F_SETFL(OFlag::empty())).expect("clear a flag");
}

/// Starts `rhv-mount ARGS`, with stderr in `dir`.
fn start(server: &Server, args: &[&str], dir: &Path, stdin: Stdio, stdout: Stdio) -> Child {
    let stderr = File::create(dir.join("stderr")).expect("create an output file");
    let mut command = rhv_mount_command(Some(&server.url()));
    let command = command.args(args).stdin(stdin).stdout(stdout).stderr(stderr);
    command.spawn().expect("start rhv-mount")
}

#[track_caller]
fn assert_ends_well(mut child: Child, dir: &Path) {
    let mut code = None;
    wait_until("the copy ends", 60, || {
        code = child.try_wait().expect("look at the child");
        code.is_some()
    });
    let told = text(&dir.join("stderr"));
    assert_eq!(code.and_then(|status| status.code()), Some(0), "{told}");
}

#[test]
fn a_stdin_that_would_block_is_waited_for() {
    let (server, dir) = (used_server(settings(SIZE)), scratch());
    let (reader, mut writer) = non_blocking_pipe();
    let bytes = pattern(3, 5 * MIB as usize);
    let size = bytes.len().to_string();
    let args = ["upload", "-", "--size", &size];
    let child = start(&server, &args, dir.path(), reader.into(), Stdio::null());
    // It finds the pipe empty first.
    wait_until("the disk is open", 60, || server.connections_opened() > 1);
    blocking(&writer);
    for piece in bytes.chunks(1 << 20) {
        writer.write_all(piece).expect("write to the pipe");
    }
    drop(writer);
    assert_ends_well(child, dir.path());
    let mut expected = Image::new(SIZE);
    expected.write(0, &bytes);
    assert_same("durable", &server.durable(), &expected);
}

#[test]
fn a_stdout_that_would_block_is_waited_for() {
    let (server, dir) = (used_server(settings(SIZE)), scratch());
    let (mut reader, writer) = non_blocking_pipe();
    let args = ["download", "-"];
    let child = start(&server, &args, dir.path(), Stdio::null(), writer.into());
    // It finds the pipe full first.
    let mut byte = [0];
    wait_until("the first byte", 60, || reader.read(&mut byte).is_ok());
    blocking(&reader);
    let mut got = byte.to_vec();
    reader.read_to_end(&mut got).expect("read from the pipe");
    assert_ends_well(child, dir.path());
    assert!(got == pattern(9, SIZE as usize), "other bytes");
}
