//! The password, the session's token and the transfer's ticket appear nowhere: not in a trace log, a state
//! file, the environment or arguments of a process, or a message.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde_json::json;

use crate::rig::{assert_nothing_local, assert_told, create, existing, point, used_disk};
use crate::support::engine::{Engine, PASSWORD, state_directory};
use crate::support::foreground::Foreground;
use crate::support::mount::{MountKind, Mounting};
use crate::support::redaction::{assert_files_show_none, assert_shows_none, shows};
use crate::support::run::{run, text, wait_until};

/// Asserts that neither the environment nor the arguments of `pid` show a secret.
#[track_caller]
fn assert_process_shows_none(pid: i32, secrets: &[String]) {
    for name in ["cmdline", "environ"] {
        let text = text(Path::new(&format!("/proc/{pid}/{name}")));
        for secret in secrets {
            assert!(!shows(&text, secret), "/proc/{pid}/{name} shows a secret");
        }
    }
}

fn mounting(engine: &Engine) -> Mounting {
    // The password comes from the environment, as most users give it.
    Mounting::without_url()
        .env("XDG_CONFIG_HOME", engine.dir().join("config"))
        .env("OVIRT_URL", engine.url())
        .env("OVIRT_USERNAME", crate::support::engine::USER)
        .env("OVIRT_PASSWORD", PASSWORD)
        .env("OVIRT_CAFILE", engine.cafile())
        .secret(PASSWORD)
}

/// The final `umount` also searches the log, stdout and stderr for all secrets.
#[test]
fn a_background_mount_shows_no_secret() {
    let engine = Engine::start();
    used_disk(&engine, "web01", "raw");
    let mut mount = mounting(&engine)
        .args(existing("web01"))
        .kind(MountKind::New)
        .start();
    let mut secrets = engine.secrets();
    assert!(!secrets.is_empty(), "no ticket and no token is known");
    secrets.push(PASSWORD.into());
    crate::existing::write_and_sync(&mount.file(), 0, 4096, 1);
    engine.switch(&json!({"switch": "expire_sessions"}));
    engine.switch(&json!({"switch": "pause_now"}));
    std::thread::sleep(std::time::Duration::from_millis(300));
    secrets.extend(engine.secrets());
    for secret in &secrets {
        mount.add_secret(secret);
    }
    assert_files_show_none(&state_directory(), &secrets);
    assert_files_show_none(Path::new("/run/rhv-mount"), &secrets);
    let pids = mount.pids();
    assert!(!pids.is_empty());
    for pid in pids {
        assert_process_shows_none(pid, &secrets);
    }
    // Other tests use the same password, some of them on a command line on purpose.
    let shown = run(std::process::Command::new("ps").args(["auxww"]), 20).ok();
    secrets.retain(|secret| secret != PASSWORD);
    assert_shows_none(&shown, &secrets);
    secrets.push(PASSWORD.into());
    for args in [vec![], vec!["-o", "json"]] {
        assert_shows_none(&mount.status(&args).ok(), &secrets);
    }
    // The log proves something only if it traces the requests.
    assert!(
        mount.log().contains("imagetransfers"),
        "the log says nothing of the engine"
    );
    mount.umount().ok();
}

#[test]
fn a_command_sees_no_secret() {
    let engine = Engine::start();
    let point = point(&engine, "web01");
    let seen = engine.dir().join("seen");
    fs::create_dir(&seen).expect("make a directory");
    let go = engine.dir().join("go");
    let script = format!(
        "env > '{0}/env'; cat /proc/self/environ > '{0}/environ'; \
         tr '\\0' ' ' < /proc/$PPID/cmdline > '{0}/parent'; \
         ls -l /proc/self/fd > '{0}/fds'; touch '{0}/done'; while [ ! -e '{1}' ]; do sleep 0.05; done",
        seen.display(),
        go.display()
    );
    let mut program = engine.tool();
    program
        .env("OVIRT_URL", engine.url())
        .env("OVIRT_USERNAME", crate::support::engine::USER)
        .env("OVIRT_PASSWORD", PASSWORD)
        .env("OVIRT_CAFILE", engine.cafile())
        .args(["--log-level", "trace", "--log-file"])
        .arg(seen.join("log"))
        .args(create("web01"))
        .arg(&point)
        .args(["--", "bash", "-euc", &script]);
    let mut mount = Foreground::spawn(&mut program);
    wait_until("the command has looked", 40, || seen.join("done").exists());
    let mut secrets = engine.secrets();
    secrets.push(PASSWORD.into());
    assert_process_shows_none(mount.pid(), &secrets[..secrets.len() - 1]);
    fs::write(&go, "").expect("let the command end");
    assert_eq!(mount.wait(60).code(), Some(0), "{}", mount.stderr());
    assert!(text(&seen.join("env")).contains("RHV_MOUNT_FILE="));
    assert!(text(&seen.join("log")).contains("imagetransfers"));
    assert_files_show_none(&seen, &secrets);
    for secret in &secrets {
        assert!(
            !shows(&(mount.stdout() + &mount.stderr()), secret),
            "a message shows a secret"
        );
    }
}

/// An engine that quotes the password in its fault must not make rhv-mount show it.
#[test]
fn messages_of_failures_show_no_secret() {
    let engine = Engine::start();
    used_disk(&engine, "web01", "raw");
    let fault = json!({"status": 400, "detail": format!("[Bad request of {PASSWORD}: no]")});
    engine.switch(&json!({"switch": "fault", "value": fault, "match": "POST .*/imagetransfers$"}));
    let point = point(&engine, "web01");
    let mut args = engine.args();
    args.extend(["--disk".into(), "web01".into()]);
    args.extend([point.clone().into(), "--".into(), "true".into()]);
    let ran = engine.run(args, 60);
    assert_told(&ran, &[4], &["Bad request"]);
    assert_nothing_local(&point, &ran);
}

/// The engine's tokens are searched for in the files of every mount that used it, even when they are no
/// longer valid.
#[test]
fn a_token_in_a_log_is_found_at_the_end_of_the_mount_and_of_the_engine() {
    let finds = |end: &mut dyn FnMut()| {
        let panic = catch_unwind(AssertUnwindSafe(end)).expect_err("the token was not found");
        *panic.downcast::<String>().expect("a message")
    };
    let engine = Engine::start();
    used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).start();
    let token = engine.secrets().pop().expect("a token");
    engine.switch(&json!({"switch": "expire_sessions"}));
    fs::write(mount.dir().join("stderr"), format!("Bearer {token}\n")).expect("write to a file of the mount");
    let mut mount = Some(mount);
    let words = finds(&mut || drop(mount.take().map(|mount| mount.umount())));
    assert!(words.contains("the stderr of a mount shows a secret"), "{words}");

    fs::write(engine.trace_dir().join("planted"), token).expect("write a log");
    let mut engine = Some(engine);
    let words = finds(&mut || drop(engine.take()));
    assert!(words.contains("planted shows a secret"), "{words}");
}
