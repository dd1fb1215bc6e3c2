//! Limits of the system: a mount that they leave too little for is refused, with the reason and the number
//! that is needed, and leaves nothing behind. One that is told as mounted works.

use crate::rig::{MIB, pattern, settings, used_server};
use crate::server::{Action, Fault, Server, Verb};
use crate::support::foreground::Foreground;
use crate::support::mount::{
    BINARY, MountKind, Mounting, URL_VARIABLE, clean_environment, is_mounted, processes_with, rhv_mount,
};
use crate::support::run::{Ran, is_root, run, scratch, text, wait_until};
use nix::sys::signal::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const MOUNT_FAILED: i32 = 6;

/// A control group that limits the number of tasks, removed when dropped; `None` where this process may not
/// make one.
struct Tasks(PathBuf);

impl Tasks {
    fn at_most(count: usize, name: &str) -> Option<Tasks> {
        let roots = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(Path::new);
        let group = roots.map(|root| root.join(format!("rhv-mount-test-{}-{name}", std::process::id())));
        let group = group.into_iter().find(|group| fs::create_dir(group).is_ok())?;
        let limited = fs::write(group.join("pids.max"), count.to_string());
        let tasks = Tasks(group);
        limited.is_ok().then_some(tasks)
    }

    fn procs(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        wait_until("the group has no process", 60, || text(&self.procs()).is_empty());
        let _ = fs::remove_dir(&self.0);
    }
}

/// Runs `limit` in a shell that then becomes `rhv-mount TARGET ARGS`.
fn mount_under(limit: &str, server: &Server, target: &Path, args: &[&str]) -> Ran {
    let mut shell = Command::new("bash");
    clean_environment(&mut shell);
    let script = format!(r#"{limit}; exec "$0" "$@""#);
    shell.args(["-euc", &script, BINARY]).arg(target).args(args);
    run(shell.env(URL_VARIABLE, server.url()), 120)
}

/// Asserts that the mount under `limit` is either refused with `reason` or works; returns whether it works.
#[track_caller]
fn refused_or_usable(limit: &str, reason: &str) -> bool {
    let server = used_server(settings(4 * MIB));
    refused_or_usable_with(&server, limit, reason, || {})
}

/// Does the same with a change of the limit while the mount starts.
#[track_caller]
fn refused_or_usable_with(server: &Server, limit: &str, reason: &str, change: impl FnOnce() + Send) -> bool {
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let ran = std::thread::scope(|scope| {
        scope.spawn(change);
        mount_under(limit, server, &target, &[])
    });
    if ran.code == Some(0) {
        assert!(
            fs::read(&target).unwrap() == pattern(9, 4 * MIB as usize),
            "{limit}"
        );
        fs::write(&target, b"hello").unwrap();
        let ended = rhv_mount(None, [Path::new("umount"), &target]).ok();
        assert_eq!(server.read_durable(0..5), b"hello", "{limit}: {ended}");
    } else {
        assert_eq!(ran.code, Some(MOUNT_FAILED), "{limit}: {ran}");
        assert!(ran.stderr.contains(reason), "{limit}: {ran}");
        assert!(!ran.stderr.contains("panicked"), "{limit}: {ran}");
    }
    assert!(!is_mounted(&target), "{limit}: {ran}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{limit}: {ran}");
    wait_until("the process has ended", 60, || {
        processes_with(target.as_os_str()).is_empty()
    });
    ran.code == Some(0)
}

/// The steps of a start need different numbers of threads, and each of them may be the one that gets none.
#[test]
fn with_a_limit_of_threads_a_mount_is_refused_or_works() {
    if !is_root() || Tasks::at_most(9, "probe").is_none() {
        return;
    }
    let mut worked = Vec::new();
    for count in [1, 2, 3, 4, 12, 20, 24, 28, 32, 36, 40, 44, 48, 60, 100] {
        let tasks = Tasks::at_most(count, "refused").expect("a group");
        let limit = format!("echo $$ > {}", tasks.procs().display());
        worked.push(refused_or_usable(&limit, "pids.max"));
    }
    assert!(!worked[8], "32 threads are not enough");
    assert!(worked[14], "100 threads are enough");
}

/// Threads that were there when the mount began are gone when it takes them, at one step or another.
#[test]
fn a_thread_that_is_missing_half_way_is_a_refusal_too() {
    if !is_root() || Tasks::at_most(9, "probe2").is_none() {
        return;
    }
    let mut worked = Vec::new();
    for more in [0, 3, 8, 12, 14, 16, 20, 24, 30, 34, 60] {
        let server = used_server(settings(4 * MIB));
        server.arm(Fault::next(Verb::Options, Action::Hold));
        let tasks = Tasks::at_most(200, "half").expect("a group");
        let limit = format!("echo $$ > {}", tasks.procs().display());
        let squeeze = || {
            wait_until("the mount connects", 40, || server.count(Verb::Options) > 0);
            let now: usize = text(&tasks.0.join("pids.current"))
                .trim()
                .parse()
                .expect("a number");
            fs::write(tasks.0.join("pids.max"), (now + more).to_string()).expect("squeeze");
            server.disarm();
        };
        worked.push(refused_or_usable_with(&server, &limit, "thread", squeeze));
    }
    assert!(
        !worked[0] && !worked[4],
        "the session's threads are missing: {worked:?}"
    );
    assert!(worked[10], "{worked:?}");
}

/// The threads that end a mount are there before the end: nothing that is waited for then keeps the second
/// signal from giving up on it.
#[test]
fn a_mount_that_gets_no_thread_at_its_end_ends_and_answers_signals() {
    if !is_root() || Tasks::at_most(9, "probe3").is_none() {
        return;
    }
    let server = used_server(settings(4 * MIB));
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let tasks = Tasks::at_most(200, "end").expect("a group");
    let mut shell = Command::new("bash");
    clean_environment(&mut shell);
    shell.args(["-euc", r#"echo $$ > "$1"; shift; exec "$@""#, "bash"]);
    shell
        .arg(tasks.procs())
        .arg(BINARY)
        .arg("--foreground")
        .arg(&target);
    let mut mount = Foreground::start(shell.env(URL_VARIABLE, server.url()), &target);
    let words = [Path::new("status"), &target];
    wait_until("all its threads are there", 60, || {
        rhv_mount(None, words).stdout.contains("phase        mounted")
    });
    server.arm(Fault::always(Verb::Flush, Action::Hold));
    fs::write(&target, b"hello").unwrap();
    fs::write(tasks.0.join("pids.max"), "1").expect("squeeze");
    mount.signal(Signal::SIGTERM);
    wait_until("the last flush is asked for", 60, || {
        server.count(Verb::Flush) > 0
    });
    assert!(!mount.has_ended(), "{}", mount.stderr());
    mount.signal(Signal::SIGTERM);
    assert_eq!(mount.wait(40).code(), Some(7), "{}", mount.stderr());
    assert!(
        mount.stderr().contains("gave up on a second signal"),
        "{}",
        mount.stderr()
    );
    server.disarm();
}

#[test]
fn a_limit_of_descriptors_is_raised_where_it_can_be_and_refused_with_the_number_where_not() {
    for count in [12, 16, 20] {
        assert!(
            !refused_or_usable(&format!("ulimit -n {count}"), "a mount needs 24"),
            "{count}"
        );
        assert!(refused_or_usable(&format!("ulimit -Sn {count}"), ""), "{count}");
    }
    assert!(refused_or_usable("ulimit -n 100", ""));
}

#[test]
fn a_limit_of_address_space_is_refused_with_the_number_that_is_needed() {
    assert!(!refused_or_usable("ulimit -v 400000", "address space"));
    // The budgets fit themselves to what is left.
    refused_or_usable("ulimit -v 800000", "address space");
    assert!(refused_or_usable("ulimit -v 4000000", ""));
}

/// A copy that has begun must not lack a thread or a buffer half way: it is refused with the number.
#[test]
fn a_copy_without_what_it_needs_is_refused_before_anything_is_begun() {
    let dir = scratch();
    for (limit, told) in [
        ("ulimit -n 20", "a copy needs 24 file descriptors"),
        ("ulimit -v 170000", "a copy needs"),
    ] {
        for what in ["download", "checksum"] {
            let server = used_server(settings(4 * MIB));
            let image = dir.path().join("disk.raw");
            let mut shell = Command::new("bash");
            clean_environment(&mut shell);
            let script = format!(r#"{limit}; exec "$0" "$@""#);
            shell.args(["-euc", &script, BINARY, what]);
            if what == "download" {
                shell.arg(&image);
            }
            let ran = run(shell.env(URL_VARIABLE, server.url()), 60);
            assert_eq!(ran.code, Some(1), "{limit}, {what}: {ran}");
            assert!(ran.stderr.contains(told), "{limit}, {what}: {ran}");
            assert_eq!(server.connections_opened(), 0, "{limit}, {what}: {ran}");
            assert!(!image.exists());
        }
    }
}

#[test]
fn a_command_keeps_the_limit_that_was_raised_for_the_mount() {
    let server = Server::start(settings(MIB));
    let dir = scratch();
    let args = ["--", "bash", "-c", "ulimit -Sn"];
    let ran = mount_under("ulimit -Sn 18", &server, &dir.path().join("disk.raw"), &args).ok();
    assert_eq!(ran.stdout.trim(), "18", "{ran}");
}

/// A user's own limit counts the threads of all processes of that user; no other test may run as this user.
#[test]
fn a_users_limit_of_threads_and_a_command_that_must_not_run() {
    if !is_root() {
        return;
    }
    let server = Server::start(settings(MIB));
    let dir = scratch();
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let (target, ran_mark) = (dir.path().join("disk.raw"), dir.path().join("ran"));
    let program = dir.path().join("rhv-mount");
    run(
        Command::new("install").args(["-m", "755", BINARY]).arg(&program),
        20,
    )
    .ok();
    let mut shell = Command::new("setpriv");
    clean_environment(&mut shell);
    shell.args([
        "--reuid",
        "61234",
        "--regid",
        "61234",
        "--clear-groups",
        "bash",
        "-euc",
    ]);
    shell
        .args([r#"ulimit -u 30; exec "$@""#, "sh"])
        .arg(&program)
        .arg(&target);
    shell.args(["--", "touch"]).arg(&ran_mark);
    let ran = run(
        shell.env(URL_VARIABLE, server.url()).env("HOME", "/nonexistent"),
        60,
    );
    assert_eq!(ran.code, Some(MOUNT_FAILED), "{ran}");
    assert!(ran.stderr.contains("a mount needs 55 threads"), "{ran}");
    assert!(!target.exists() && !ran_mark.exists(), "{ran}");
    let _ = fs::remove_dir("/tmp/rhv-mount-61234");
}

#[test]
fn a_covered_file_and_a_directory_are_as_before_when_a_mount_is_refused() {
    let server = Server::start(settings(MIB));
    for kind in [MountKind::File, MountKind::Directory, MountKind::New] {
        // Nothing has so many connections and 24 descriptors.
        let dir = scratch();
        let target = dir.path().join("disk");
        match kind {
            MountKind::Directory => fs::create_dir(&target).unwrap(),
            MountKind::File => fs::write(&target, b"covered").unwrap(),
            MountKind::New => {}
        }
        let ran = mount_under("ulimit -n 24", &server, &target, &["--connections", "64"]);
        assert_eq!(ran.code, Some(MOUNT_FAILED), "{ran}");
        assert!(ran.stderr.contains("--connections"), "{ran}");
        match kind {
            MountKind::Directory => assert_eq!(fs::read_dir(&target).unwrap().count(), 0),
            MountKind::File => assert_eq!(fs::read(&target).unwrap(), b"covered"),
            MountKind::New => assert!(!target.exists()),
        }
    }
    Mounting::new(&server.url()).start().umount().ok();
}
