//! The sources of the engine, the user and the disk: options, the configuration file, the environment, a
//! prompt.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::termios::{LocalFlags, tcgetattr};

use crate::rig::{
    CANNOT_REACH_ENGINE, LIMIT, LOGIN_REFUSED, USAGE, assert_refused, assert_told, assert_warned, point,
    used_disk,
};
use crate::support::engine::{Engine, PASSWORD, USER, USER_WITH_TWO_ATS, write_private};
use crate::support::mount::BINARY;
use crate::support::redaction::assert_shows_none;
use crate::support::run::{Ran, run};

/// Returns an engine with a disk `web01`, and the path of its CA.
fn engine() -> (Engine, String) {
    let engine = Engine::start();
    used_disk(&engine, "web01", "raw");
    let ca = engine.cafile().to_str().expect("UTF-8").to_owned();
    (engine, ca)
}

/// Runs `rhv-mount ARGS POINT -- true` with the environment `envs`.
fn mount(engine: &Engine, args: &[&str], envs: &[(&str, &str)]) -> Ran {
    let point = point(engine, "configured");
    let mut program = engine.program();
    program.args(args).arg(&point).args(["--", "true"]);
    program.envs(envs.iter().copied());
    let ran = run(&mut program, LIMIT);
    assert_shows_none(&ran, &[PASSWORD]);
    assert!(!point.exists(), "the mountpoint is left: {ran}");
    ran
}

fn config(engine: &Engine, text: &str) {
    fs::write(engine.dir().join("config/ovirt-img.conf"), text).expect("write the configuration");
}

fn users(engine: &Engine) -> Vec<String> {
    let opened = engine.log("session_opened");
    let users = opened.iter().filter_map(|line| line["user"].as_str());
    users.map(str::to_owned).collect()
}

#[test]
fn the_environment_is_enough() {
    let (engine, ca) = engine();
    let api = format!("{}/ovirt-engine/api", engine.url());
    let envs = [
        ("OVIRT_URL", api.as_str()),
        ("OVIRT_USERNAME", USER_WITH_TWO_ATS),
        ("OVIRT_PASSWORD", PASSWORD),
        ("OVIRT_CAFILE", &ca),
        ("RHV_MOUNT_DISK", "web01"),
    ];
    mount(&engine, &[], &envs).ok();
    assert_eq!(users(&engine), [USER_WITH_TWO_ATS]);
    let mut envs = envs.to_vec();
    envs[3] = ("OVIRT_INSECURE", "true");
    let ran = mount(&engine, &[], &envs).ok();
    assert_warned(&ran, &[engine.url(), &engine.daemon().url()]);
    // Without a password rhv-mount would prompt on a terminal, and there is none.
    envs.remove(2);
    let ran = mount(&engine, &[], &envs);
    assert_refused(&ran, &[USAGE], &["password", "--password-file"]);
}

#[test]
fn a_disk_can_be_created_from_the_environment() {
    let (engine, ca) = engine();
    let envs = [
        ("OVIRT_URL", engine.url()),
        ("OVIRT_USERNAME", USER),
        ("OVIRT_PASSWORD", PASSWORD),
        ("OVIRT_CAFILE", &ca),
        ("RHV_MOUNT_CREATE", "new"),
        ("RHV_MOUNT_SIZE", "1M"),
        ("RHV_MOUNT_STORAGE_DOMAIN", "data"),
    ];
    mount(&engine, &[], &envs).ok();
    assert_eq!(engine.disk("new").expect("the new disk").size, 1 << 20);
}

#[test]
fn a_section_of_the_file_is_enough_and_names_the_disk_too() {
    let (engine, ca) = engine();
    write_private(
        &engine.dir().join("config/ovirt-img.conf"),
        &format!(
            "# as ovirt-img has it\n[other]\nengine_url = https://engine.invalid\n\n\
         [here]\nengine_url = {}\nusername = {USER_WITH_TWO_ATS}\npassword = {PASSWORD}\ncafile = {ca}\n\
         disk = web01\ndisk_timeout = 120\n",
            engine.url()
        ),
    );
    mount(&engine, &["-c", "here"], &[]).ok();
    assert_eq!(users(&engine), [USER_WITH_TWO_ATS]);
    let ran = mount(&engine, &["-c", "nowhere"], &[]);
    assert_refused(&ran, &[USAGE], &["nowhere", "ovirt-img.conf"]);
}

#[test]
fn a_section_can_create_a_disk_and_go_without_verification() {
    let (engine, _) = engine();
    write_private(
        &engine.dir().join("config/ovirt-img.conf"),
        &format!(
            "[here]\nengine_url = {}\nusername = {USER}\npassword = {PASSWORD}\nsecure = no\n\
         create = new\nsize = 1M\nstorage_domain = data\n",
            engine.url()
        ),
    );
    let ran = mount(&engine, &["--config", "here"], &[]).ok();
    assert_warned(&ran, &[engine.url(), &engine.daemon().url()]);
    assert_eq!(engine.disk("new").expect("the new disk").size, 1 << 20);
}

#[test]
fn options_come_before_the_file_and_the_file_before_the_environment() {
    let (engine, ca) = engine();
    config(
        &engine,
        &format!("[here]\nengine_url = {}\nusername = {USER}\n", engine.url()),
    );
    let envs = [
        ("OVIRT_URL", "https://engine.invalid"),
        ("OVIRT_USERNAME", "nobody@internal"),
        ("OVIRT_PASSWORD", PASSWORD),
        ("OVIRT_CAFILE", ca.as_str()),
        ("RHV_MOUNT_DISK", "not-there"),
    ];
    let args = ["-c", "here", "--disk", "web01"];
    mount(&engine, &args, &envs).ok();
    let args = ["-c", "here", "--disk", "web01", "--username", USER_WITH_TWO_ATS];
    mount(&engine, &args, &envs).ok();
    assert_eq!(users(&engine), [USER, USER_WITH_TWO_ATS]);
    // Without `-c` the section's values do not count.
    let ran = mount(&engine, &["--disk", "web01"], &envs);
    assert_told(&ran, &[CANNOT_REACH_ENGINE], &["engine.invalid"]);
}

#[test]
fn an_engine_url_is_taken_as_users_write_it() {
    let (engine, _) = engine();
    for path in [
        "",
        "/",
        "/ovirt-engine",
        "/ovirt-engine/api",
        "/ovirt-engine/api/",
    ] {
        let url = format!("{}{path}", engine.url());
        let mut args: Vec<String> = engine
            .args()
            .into_iter()
            .map(|arg| arg.into_string().expect("UTF-8"))
            .collect();
        args[1] = url;
        args.extend(["--disk".into(), "web01".into()]);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        mount(&engine, &args, &[]).ok();
    }
    let url = format!("https://{USER}:{PASSWORD}@127.0.0.1:{}", engine.port());
    let point = point(&engine, "configured");
    let ran = run(
        engine
            .program()
            .args(["--engine-url", &url, "--disk", "web01"])
            .arg(&point),
        60,
    );
    assert_eq!(ran.code, Some(USAGE), "{ran}");
    assert!(!ran.stderr.contains(PASSWORD), "the password is shown: {ran}");
}

#[test]
fn a_password_file_that_others_can_read_is_refused_with_the_remedy() {
    let (engine, ca) = engine();
    let file = engine.dir().join("other-password");
    let shown = file.to_str().expect("UTF-8");
    let args = [
        "--engine-url",
        engine.url(),
        "--username",
        USER,
        "--cafile",
        &ca,
        "--disk",
        "web01",
        "--password-file",
        shown,
    ];
    write_private(&file, &format!("{PASSWORD}\n"));
    for mode in [0o644, 0o640, 0o604, 0o666] {
        fs::set_permissions(&file, Permissions::from_mode(mode)).expect("open the file");
        let ran = mount(&engine, &args, &[]);
        assert_refused(&ran, &[USAGE], &[shown, "chmod 600"]);
    }
    assert!(engine.log("request").is_empty(), "the password was used");
    for mode in [0o600, 0o400] {
        fs::set_permissions(&file, Permissions::from_mode(mode)).expect("close the file");
        mount(&engine, &args, &[]).ok();
    }
    // The password is the same with one trailing newline or none.
    write_private(&file, PASSWORD);
    mount(&engine, &args, &[]).ok();
    fs::remove_file(&file).expect("remove the file");
    let ran = mount(&engine, &args, &[]);
    assert_refused(&ran, &[USAGE], &[shown]);
}

/// Returns the engine's options and `words`.
fn with_engine(engine: &Engine, words: &str) -> Vec<String> {
    let args = engine
        .args()
        .into_iter()
        .map(|arg| arg.into_string().expect("UTF-8"));
    args.chain(words.split_whitespace().map(str::to_owned)).collect()
}

#[test]
fn exactly_one_disk_has_to_be_named() {
    let (engine, _) = engine();
    let snapshot = "--disk web01 --disk-snapshot 0f3c2d4e-88f5-4a59-b1a9-3c6e2f1d7a60";
    for (line, words) in [
        ("", ["--disk", "--create"]),
        (snapshot, ["two disks|--disk", "one"]),
        (
            "--disk web01 --create x --size 1M --storage-domain data",
            ["two disks|--disk", "one"],
        ),
        ("--create x --storage-domain data", ["--size", "--create|create"]),
        ("--create x --size 1M", ["--storage-domain", "--create|create"]),
        ("--disk web01 --size 1M", ["--size", "--create"]),
        (
            "--create x --size 1M --storage-domain data --read-only",
            ["--read-only", "--create"],
        ),
        ("--create x --size 0 --storage-domain data", ["size", "0"]),
        ("--create x --size big --storage-domain data", ["--size", "big"]),
    ] {
        let args = with_engine(&engine, line);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        assert_refused(&mount(&engine, &args, &[]), &[USAGE], &words);
    }
    assert_eq!(engine.disks().len(), 1, "a disk was made");
    assert!(
        engine.log("transfer_created").is_empty(),
        "a transfer was started"
    );
}

#[test]
fn an_option_for_the_disk_comes_before_the_environment() {
    let (engine, _) = engine();
    let args = with_engine(&engine, "--disk web01");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let envs = [("RHV_MOUNT_CREATE", "new"), ("RHV_MOUNT_SIZE", "1M")];
    mount(&engine, &args, &envs).ok();
    assert!(engine.disk("new").is_none());
    assert_eq!(engine.log("transfer_created").len(), 1);
}

#[test]
fn a_password_is_no_option() {
    let (engine, _) = engine();
    let point = point(&engine, "configured");
    for option in ["--password", "-p"] {
        let mut program = engine.program();
        program.args(["--engine-url", engine.url(), "--username", USER]);
        program.args([option, PASSWORD, "--disk", "web01"]).arg(&point);
        let ran = run(&mut program, 60);
        assert_eq!(ran.code, Some(USAGE), "{ran}");
        assert!(!ran.stderr.contains(PASSWORD), "the password is shown: {ran}");
    }
}

#[test]
fn wrong_names_and_passwords_are_login_refused() {
    let (engine, ca) = engine();
    let wrong = engine.dir().join("wrong");
    write_private(&wrong, "another one\n");
    let right = engine.password_file();
    for (user, file) in [(USER, &wrong), ("admin", &right), ("nobody@internal", &right)] {
        let args = [
            "--engine-url",
            engine.url(),
            "--username",
            user,
            "--cafile",
            &ca,
            "--disk",
            "web01",
            "--password-file",
            file.to_str().expect("UTF-8"),
        ];
        let ran = mount(&engine, &args, &[]);
        assert_refused(
            &ran,
            &[LOGIN_REFUSED],
            &[user, "cannot authenticate", engine.url()],
        );
    }
    assert_eq!(
        engine.requests("POST", "/token").len(),
        3,
        "one attempt each: more lock the account"
    );
}

/// The prompt names the user, and the terminal does not echo the password.
#[test]
fn a_password_is_asked_for_on_a_terminal_without_echo() {
    let (engine, ca) = engine();
    let pty = nix::pty::openpty(None, None).expect("open a terminal");
    let mut terminal = File::from(pty.master);
    let slave = File::from(pty.slave);
    let output = |file: &File| Stdio::from(file.try_clone().expect("share the terminal"));
    let point = point(&engine, "prompted");
    let mut command = Command::new("setsid");
    crate::support::mount::clean_environment(&mut command);
    let mut child = command
        .env("XDG_CONFIG_HOME", engine.dir().join("config"))
        .args([
            "--ctty",
            "--wait",
            BINARY,
            "--engine-url",
            engine.url(),
            "--username",
            USER,
        ])
        .args(["--cafile", &ca, "--disk", "web01"])
        .arg(&point)
        .args(["--", "true"])
        .stdin(output(&slave))
        .stdout(output(&slave))
        .stderr(output(&slave))
        .spawn()
        .expect("start rhv-mount on a terminal");
    drop((slave, command));
    let (sender, shown) = std::sync::mpsc::channel();
    let mut reader = terminal.try_clone().expect("share the terminal");
    let reading = std::thread::spawn(move || {
        let mut bytes = [0; 1024];
        // A terminal whose other side is closed gives EIO.
        while let Ok(length @ 1..) = reader.read(&mut bytes) {
            let _ = sender.send(String::from_utf8_lossy(&bytes[..length]).into_owned());
        }
    });
    let end = Instant::now() + Duration::from_secs(120);
    let (mut said, mut answered) = (String::new(), false);
    let status = loop {
        while let Ok(more) = shown.recv_timeout(Duration::from_millis(20)) {
            said += &more;
        }
        // The prompt comes before the terminal stops to echo.
        let echoes = tcgetattr(&terminal).map_or(true, |modes| modes.local_flags.contains(LocalFlags::ECHO));
        if !answered && !echoes && said.to_lowercase().contains("password") {
            answered = true;
            writeln!(terminal, "{PASSWORD}").expect("type the password");
        }
        if let Some(status) = child.try_wait().expect("look at the child") {
            break status;
        }
        if Instant::now() > end {
            let _ = child.kill();
            panic!("no end after: {said}");
        }
    };
    drop(terminal);
    said.extend(shown.try_iter());
    assert!(status.success() && answered, "{status:?}: {said}");
    assert!(
        !said.contains(PASSWORD),
        "the password is shown while it is typed"
    );
    assert!(
        said.contains(USER),
        "the prompt does not say whose password: {said}"
    );
    assert_eq!(users(&engine), [USER]);
    drop(reading);
    assert!(!Path::new(&point).exists());
}
