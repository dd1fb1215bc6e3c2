//! Endless answers and redirects: each leads to one line of error within a time limit and in bounded memory,
//! and rhv-mount never connects to a server other than the one that it was given.

use crate::hostile::{Answer, Hostile, endless, once};
use crate::rig::TICKET;
use crate::support::mount::{BINARY, is_mounted, rhv_mount_command};
use crate::support::run::{Ran, run, scratch};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;

/// A limit above the time for which rhv-mount waits for the engine.
const LIMIT_SECONDS: u64 = 100;

/// Upper bound on the program's address space, in KiB. An unbounded buffer for the answers here would not
/// fit.
const MAX_ADDRESS_SPACE_KIB: u64 = 2 << 20;

/// Runs `rhv-mount` with bounded memory and checks that it fails with one line of error.
#[track_caller]
fn refused(mut program: Command, args: &[&str], target: &Path, what: &str) -> Ran {
    let mut limited = Command::new("sh");
    let script = format!("ulimit -v {MAX_ADDRESS_SPACE_KIB} && exec \"$0\" \"$@\"");
    limited.args(["-c", &script, BINARY]).args(args).arg(target);
    limited.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    limited.envs(
        program
            .args(args)
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let ran = run(&mut limited, LIMIT_SECONDS);
    assert!(!ran.timed_out, "{what}: {ran}");
    assert!(matches!(ran.code, Some(2..=5)), "{what}: {ran}");
    assert_eq!(ran.stderr.trim().lines().count(), 1, "{what}: {ran}");
    assert!(ran.stderr.len() < 4000, "{what}: {} bytes", ran.stderr.len());
    assert!(
        !ran.stderr.contains(|c: char| c.is_control() && c != '\n'),
        "{what}: {ran}"
    );
    assert!(
        !ran.stderr.contains("panicked") && !ran.stderr.contains(TICKET),
        "{what}: {ran}"
    );
    assert!(!is_mounted(target) && !target.exists(), "{what}: {ran}");
    ran
}

fn endless_answers() -> Vec<(&'static str, Answer)> {
    let ok = "HTTP/1.1 200 OK\r\n";
    let text = "Content-Type: application/json\r\n";
    vec![
        ("headers", endless(ok, "X-More: yes\r\n")),
        ("one header", endless("HTTP/1.1 200 OK\r\nX-More: ", "yes")),
        ("a status line", endless("HTTP/1.1 200 ", "OK")),
        ("100", endless("", "HTTP/1.1 100 Continue\r\n\r\n")),
        ("102", endless("", "HTTP/1.1 102 Processing\r\n\r\n")),
        (
            "103 with headers",
            endless("", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
        ),
        (
            "a body",
            endless(
                &format!("{ok}{text}Connection: close\r\n\r\n{{\"features\": [\""),
                "x",
            ),
        ),
        (
            "a body with a huge content-length",
            endless(
                &format!("{ok}{text}Content-Length: 9223372036854775807\r\n\r\n[\""),
                "x",
            ),
        ),
        (
            "chunks",
            endless(
                &format!("{ok}{text}Transfer-Encoding: chunked\r\n\r\n"),
                "4\r\n[[[[\r\n",
            ),
        ),
        (
            "a chunk",
            endless(
                &format!("{ok}{text}Transfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\n"),
                "[",
            ),
        ),
        (
            "a chunk's size",
            endless(&format!("{ok}{text}Transfer-Encoding: chunked\r\n\r\n"), "0"),
        ),
        (
            "a body that claims to be compressed",
            endless(
                &format!("{ok}{text}Content-Encoding: gzip\r\nConnection: close\r\n\r\n"),
                "\u{1f}x",
            ),
        ),
        (
            "an error page",
            endless("HTTP/1.1 500 No\r\nConnection: close\r\n\r\n", "no \u{1b}[2J "),
        ),
        (
            "a refusal",
            endless("HTTP/1.1 403 No\r\nConnection: close\r\n\r\n", "no \u{1b}[2J "),
        ),
    ]
}

#[test]
fn an_answer_of_imageio_without_end_is_an_error() {
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    for (what, answer) in endless_answers() {
        let server = Hostile::start(move |_| answer.clone());
        refused(rhv_mount_command(Some(&server.image())), &[], &target, what);
    }
}

/// The answer to the second request has no end; the first request was answered correctly.
#[test]
fn a_first_byte_without_end_is_an_error() {
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let partial = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-0/";
    for (what, answer) in [
        (
            "a body",
            endless(
                &format!("{partial}4096\r\nContent-Length: 9999999999\r\n\r\n"),
                "x",
            ),
        ),
        ("a size", endless(partial, "9")),
        ("102", endless("", "HTTP/1.1 102 Processing\r\n\r\n")),
    ] {
        let server = Hostile::start(move |request| match request.starts_with("OPTIONS") {
            true => options(),
            false => answer.clone(),
        });
        // The body of this answer has a byte too many, which rhv-mount may skip once, so it may also succeed.
        let program = rhv_mount_command(Some(&server.image()));
        if what != "a body" {
            refused(program, &[], &target, what);
            continue;
        }
        let mut program = program;
        let ran = run(
            program.arg("--read-only").arg(&target).args(["--", "true"]),
            LIMIT_SECONDS,
        );
        assert!(!ran.timed_out && ran.code.is_some(), "{ran}");
        assert!(!is_mounted(&target) && !target.exists(), "{ran}");
    }
}

#[test]
fn an_answer_of_the_engine_without_end_is_an_error() {
    let cases: Vec<_> = endless_answers()
        .into_iter()
        .map(|(what, answer)| {
            thread::spawn(move || {
                let server = Hostile::start(move |_| answer.clone());
                refused_by_engine(&server, what);
            })
        })
        .collect();
    for case in cases {
        case.join().unwrap();
    }
}

#[track_caller]
fn refused_by_engine(server: &Hostile, what: &str) -> Ran {
    let dir = scratch();
    let (target, password) = (dir.path().join("disk.raw"), dir.path().join("password"));
    fs::write(&password, "secret word 17").unwrap();
    fs::set_permissions(&password, Permissions::from_mode(0o600)).unwrap();
    let url = format!("http://127.0.0.1:{}", server.port);
    let password = password.to_str().unwrap();
    let args = [
        "--engine-url",
        &url,
        "--username",
        "a@b",
        "--password-file",
        password,
        "--disk",
        "d",
    ];
    let ran = refused(rhv_mount_command(None), &args, &target, what);
    assert!(!ran.stderr.contains("secret word"), "{ran}");
    ran
}

fn options() -> Answer {
    let body = "{\"features\": [\"zero\", \"flush\"], \"max_readers\": 1, \"max_writers\": 1}";
    once("200 OK", "Allow: OPTIONS,GET,PUT,PATCH\r\n", body)
}

const REDIRECTS: [&str; 5] = [
    "301 Moved Permanently",
    "302 Found",
    "303 See Other",
    "307 Temporary Redirect",
    "308 Permanent Redirect",
];

/// The ticket is in the request's path, and anybody who learns it can access the disk.
#[test]
fn imageio_cannot_send_us_elsewhere() {
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let elsewhere = Hostile::start(|_| options());
    let location = format!("Location: {}\r\n", elsewhere.image());
    for status in REDIRECTS {
        for method in ["OPTIONS", "GET"] {
            let answer = once(status, &location, "");
            let server = Hostile::start(move |request| match request.starts_with(method) {
                true => answer.clone(),
                false => options(),
            });
            let ran = refused(rhv_mount_command(Some(&server.image())), &[], &target, status);
            assert!(ran.stderr.contains(&status[..3]), "{ran}");
        }
        let answer = once(status, &location, "");
        let server = Hostile::start(move |request| match request.split(' ').next() {
            Some("OPTIONS") => options(),
            Some("GET") => once("206 Partial", "Content-Range: bytes 0-0/1048576\r\n", "x"),
            _ => answer.clone(),
        });
        let mut program = rhv_mount_command(Some(&server.image()));
        let script = "printf lost > {}";
        let ran = run(
            program.arg(&target).args(["--", "sh", "-c", script]),
            LIMIT_SECONDS,
        );
        assert!(!is_mounted(&target) && !target.exists(), "{ran}");
        assert!(
            ran.code.is_some_and(|code| code != 0),
            "a lost write is no success: {ran}"
        );
    }
    assert_eq!(elsewhere.connections(), 0);
}

/// The first request contains the password, every later one the session's token.
#[test]
fn the_engine_cannot_send_us_elsewhere() {
    let elsewhere = Hostile::start(|_| once("200 OK", "", "{\"access_token\": \"another\"}"));
    let location = format!(
        "Location: http://127.0.0.1:{}/ovirt-engine/api\r\n",
        elsewhere.port
    );
    for status in REDIRECTS {
        let answer = once(status, &location, "");
        let first = Hostile::start(move |_| answer.clone());
        let ran = refused_by_engine(&first, status);
        assert!(ran.stderr.contains("redirects"), "{ran}");
        let answer = once(status, &location, "");
        let second = Hostile::start(move |request| match request.contains("/sso/oauth/token") {
            true => once("200 OK", "", "{\"access_token\": \"the token of this session\"}"),
            false => answer.clone(),
        });
        let ran = refused_by_engine(&second, status);
        assert!(ran.stderr.contains("redirects"), "{ran}");
        let ca = ["ca", &format!("http://127.0.0.1:{}", first.port)];
        let ran = run(rhv_mount_command(None).args(ca), LIMIT_SECONDS);
        assert!(!ran.success() && ran.stdout.is_empty(), "{ran}");
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[test]
fn a_ca_certificate_without_end_is_an_error() {
    for (what, answer) in endless_answers() {
        if matches!(what, "100" | "102" | "103 with headers") {
            // These take as long as with the engine, whose test above covers them.
            continue;
        }
        let server = Hostile::start(move |_| answer.clone());
        let url = format!("http://127.0.0.1:{}", server.port);
        let ran = run(rhv_mount_command(None).args(["ca", &url]), LIMIT_SECONDS);
        assert!(
            ran.code.is_some_and(|code| code != 0) && ran.stdout.is_empty(),
            "{what}: {ran}"
        );
        assert!(ran.stderr.len() < 4000, "{what}: {} bytes", ran.stderr.len());
    }
}
