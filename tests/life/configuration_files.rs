//! The places in which the configuration file is looked for, and which file with a password is taken.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::rig::{LIMIT, USAGE, assert_nothing_local, assert_refused, point, used_disk};
use crate::support::engine::{Engine, PASSWORD, USER, write_private};
use crate::support::mount::{APART, BINARY, clean_environment};
use crate::support::redaction::{assert_shows_none, trace_to};
use crate::support::run::{Ran, is_root, run};

/// Returns an engine with a disk `web01`.
fn engine() -> Engine {
    let engine = Engine::start();
    used_disk(&engine, "web01", "raw");
    engine
}

/// A file with the section `here`, which is all that a mount needs.
fn complete(engine: &Engine) -> String {
    format!(
        "[here]\nengine_url = {}\nusername = {USER}\npassword = {PASSWORD}\ncafile = {}\ndisk = web01\n",
        engine.url(),
        engine.cafile().display()
    )
}

/// Runs `PREFIX rhv-mount OPTIONS POINT -- true` in `directory`, without a home.
fn mount_without_home(engine: &Engine, prefix: &[&str], options: &[&str], directory: &Path) -> Ran {
    let point = point(engine, "configured");
    let words: Vec<&str> = prefix.iter().copied().chain([BINARY]).collect();
    let mut command = Command::new(words[0]);
    clean_environment(&mut command);
    command.args(&words[1..]);
    command.args(trace_to(&engine.trace_dir().join("without-home")));
    command.args(options).arg(&point).args(["--", "true"]);
    command.env_remove("HOME").env_remove("XDG_CONFIG_HOME");
    let ran = run(command.current_dir(directory), LIMIT);
    assert_shows_none(&ran, &[PASSWORD]);
    assert_nothing_local(&point, &ran);
    ran
}

/// Whoever can write into the directory that a unit or a cron job begins in would choose the engine.
#[test]
fn without_a_home_no_file_is_taken_from_the_working_directory() {
    let engine = engine();
    let directory = engine.dir().join("work");
    fs::create_dir_all(directory.join(".config")).expect("make a directory");
    for path in [".config/ovirt-img.conf", "ovirt-img.conf"] {
        write_private(&directory.join(path), &complete(&engine));
    }
    let ran = mount_without_home(&engine, &[], &["-c", "here"], &directory);
    assert_refused(&ran, &[USAGE], &["here", "/etc/ovirt-img.conf|no section"]);
    assert!(engine.log("request").is_empty(), "the file was used");
    // The same file does, when it is named; also by a relative path, which is the user's own.
    let named = ["-c", "here", "--config-file", ".config/ovirt-img.conf"];
    mount_without_home(&engine, &[], &named, &directory).ok();
}

/// A unit, or a line of fstab, names no file and has no home; here /etc is a copy in a namespace of its own.
#[test]
fn the_systems_file_is_found_where_the_user_has_none() {
    if !is_root() {
        return;
    }
    let engine = engine();
    let (config, etc) = (engine.dir().join("system.conf"), engine.dir().join("etc"));
    write_private(&config, &complete(&engine));
    let script = r#"
        cp -a /etc "$1"
        cp -p "$2" "$1/ovirt-img.conf"
        mount --bind "$1" /etc
        shift 2
        exec "$@""#;
    let shown = |path: &PathBuf| path.to_str().expect("UTF-8").to_owned();
    let (etc, config) = (shown(&etc), shown(&config));
    let namespace = ["unshare", "--mount", "--propagation", "private", APART];
    let shell = ["bash", "-euc", script, "sh", &etc, &config];
    let prefix = [&namespace[..], &shell].concat();
    mount_without_home(&engine, &prefix, &["-c", "here"], engine.dir()).ok();
    // The user's file comes first, and the system's has what that one lacks.
    write_private(
        &engine.dir().join("config/ovirt-img.conf"),
        "[here]\nengine_url = https://engine.invalid\nusername = x@y\npassword = z\ndisk = web01\n[mine]\n",
    );
    let home = format!("XDG_CONFIG_HOME={}", engine.dir().join("config").display());
    let prefix = [&prefix[..], &["env", &home]].concat();
    let ran = mount_without_home(&engine, &prefix, &["-c", "here"], engine.dir());
    assert!(ran.stderr.contains("engine.invalid"), "{ran}");
    fs::write(engine.dir().join("config/ovirt-img.conf"), "[mine]\n").expect("write");
    mount_without_home(&engine, &prefix, &["-c", "here"], engine.dir()).ok();
}

#[test]
fn a_file_that_is_named_has_to_be_there_and_to_be_used() {
    let engine = engine();
    let missing = engine.dir().join("missing.conf");
    let missing = missing.to_str().expect("UTF-8");
    let named = ["-c", "here", "--config-file", missing];
    let ran = mount_without_home(&engine, &[], &named, engine.dir());
    assert_refused(&ran, &[USAGE], &[missing, "No such file"]);
    let ran = mount_without_home(&engine, &[], &["--config-file", missing], engine.dir());
    assert_refused(&ran, &[USAGE], &["--config-file", "-c SECTION"]);
}

#[test]
fn a_file_with_a_password_that_others_can_read_is_refused_as_a_password_file_is() {
    let engine = engine();
    let config = engine.dir().join("open.conf");
    write_private(&config, &complete(&engine));
    let shown = config.to_str().expect("UTF-8");
    let named = ["-c", "here", "--config-file", shown];
    for mode in [0o644, 0o640, 0o604] {
        fs::set_permissions(&config, Permissions::from_mode(mode)).expect("open the file");
        let ran = mount_without_home(&engine, &[], &named, engine.dir());
        assert_refused(&ran, &[USAGE], &[shown, "password", "chmod 600"]);
    }
    assert!(engine.log("request").is_empty(), "the password was used");
    fs::set_permissions(&config, Permissions::from_mode(0o400)).expect("close the file");
    mount_without_home(&engine, &[], &named, engine.dir()).ok();
}
