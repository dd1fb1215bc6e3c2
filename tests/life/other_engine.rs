//! `recover` where the environment, a section or an option belongs to another engine than the transfer: no
//! password goes to an engine that it was not given with, and the remedy that is told is one.

use std::process::Command;

use crate::rig::{USAGE, assert_free, assert_refused, existing, used_disk};
use crate::support::engine::{Engine, PASSWORD, USER, write_private};
use crate::support::mount::Mounting;
use crate::support::redaction::assert_shows_none;
use crate::support::run::{Ran, run};

const OTHER_ENGINE: &str = "https://engine.invalid";
const OTHER_PASSWORD: &str = "for the other engine only";

/// Runs `rhv-mount recover WORDS` in the environment of somebody who works with the other engine.
fn recover(engine: &Engine, words: &[&str]) -> Ran {
    let mut command: Command = engine.tool();
    command.arg("recover").args(words);
    command.env("OVIRT_URL", OTHER_ENGINE);
    command.env("OVIRT_USERNAME", "somebody@else");
    command.env("OVIRT_PASSWORD", OTHER_PASSWORD);
    let ran = run(&mut command, 60);
    assert_shows_none(&ran, &[PASSWORD, OTHER_PASSWORD]);
    ran
}

#[test]
fn a_password_in_the_environment_that_is_another_engines_is_told_as_that_with_what_works() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mount = Mounting::without_url()
        .env("XDG_CONFIG_HOME", engine.dir().join("config"))
        .env("OVIRT_URL", engine.url())
        .env("OVIRT_USERNAME", USER)
        .env("OVIRT_PASSWORD", PASSWORD)
        .env("OVIRT_CAFILE", engine.cafile())
        .secret(PASSWORD)
        .args(existing("web01"))
        .start();
    let point = mount.mountpoint().to_str().expect("UTF-8").to_owned();
    mount.kill();
    let config =
        format!("[other]\nengine_url = {OTHER_ENGINE}\nusername = a@b\npassword = {OTHER_PASSWORD}\n");
    write_private(&engine.dir().join("config/ovirt-img.conf"), &config);
    let logins = || engine.requests("POST", "/oauth/token").len();
    let before = logins();
    assert!(before > 0, "the mount has logged in");
    let file = engine.password_file();
    let file = file.to_str().expect("UTF-8");
    for (words, remedy) in [
        (
            &[point.as_str()][..],
            &["OVIRT_PASSWORD", "OVIRT_URL", "--password-file", "--engine-url"][..],
        ),
        (&[&point, "--password-file", file], &["--engine-url"]),
        (&[&point, "-c", "other"], &["section", "--config"]),
        (
            &[&point, "--engine-url", OTHER_ENGINE],
            &["leave out --engine-url"],
        ),
    ] {
        let ran = recover(&engine, words);
        let both = [engine.url(), OTHER_ENGINE];
        assert_refused(&ran, &[USAGE], &[&both[..], remedy].concat());
    }
    assert_eq!(logins(), before, "a password was sent");
    // The remedy, as the first message says it.
    recover(
        &engine,
        &[&point, "--engine-url", engine.url(), "--password-file", file],
    )
    .ok();
    assert_free(&engine, &disk.id, &content);
}

/// A variable with a password that names no engine may be of any one: what the mount had goes before it.
#[test]
fn a_password_without_an_engine_is_not_tried_where_the_mount_had_a_file() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).start();
    let point = mount.mountpoint().to_path_buf();
    mount.kill();
    let mut command: Command = engine.tool();
    command.arg("recover").arg(&point);
    let ran = run(command.env("OVIRT_PASSWORD", OTHER_PASSWORD), 60).ok();
    assert_shows_none(&ran, &[PASSWORD, OTHER_PASSWORD]);
    assert_free(&engine, &disk.id, &content);
}
