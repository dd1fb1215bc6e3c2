//! The rights of rhv-mount's processes, and the protection of those processes. When root mounts, one thread
//! keeps a few of root's capabilities and COMMAND keeps all of them. No other process of the same user can
//! trace or dump the mount.

use crate::rig::{MIB, Rig, pattern, settings, used_server};
use crate::server::{Action, Fault, Server, Verb};
use crate::support::foreground::Foreground;
use crate::support::mount::{
    BINARY, MountKind, Mounting, URL_VARIABLE, clean_environment, is_mounted, rhv_mount, rhv_mount_command,
};
use crate::support::redaction::Trace;
use crate::support::run::{is_root, run, scratch, text, wait_until};
use nix::sys::signal::Signal;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

const NOBODY: u32 = 65534;

/// CAP_DAC_OVERRIDE, CAP_KILL, CAP_SYS_ADMIN: numbers 1, 5 and 21 in capabilities(7).
const KEPT: u64 = 1 << 1 | 1 << 5 | 1 << 21;

/// Returns the hexadecimal value of a field in a process's `status`.
fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let value = line
        .unwrap_or_else(|| panic!("no {name} in {status}"))
        .trim_start_matches(':')
        .trim();
    u64::from_str_radix(value, 16).unwrap()
}

fn tasks(pid: i32) -> Vec<PathBuf> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks.map(|task| task.unwrap().path()).collect()
}

#[track_caller]
fn assert_few_rights(pid: i32) {
    let mut keepers = 0;
    for task in tasks(pid) {
        let (name, status) = (text(&task.join("comm")), text(&task.join("status")));
        let rights = ["CapEff", "CapPrm"].map(|set| field(&status, set));
        if name.trim() == "rights" {
            keepers += 1;
            assert_eq!(rights, [KEPT; 2], "{}", name.trim());
        } else {
            assert_eq!(rights, [0; 2], "{}", name.trim());
        }
    }
    assert_eq!(keepers, 1);
}

#[test]
fn of_a_mount_by_root_one_thread_keeps_what_the_end_needs_and_no_other_has_any_capability() {
    if !is_root() {
        return;
    }
    let rig = Rig::start(settings(4 * MIB), &[]);
    let file = rig.read_write();
    file.sync_all().unwrap();
    drop(file);
    let pid = rig.mount.server();
    assert!(tasks(pid).len() > 8, "the mount has too few threads");
    assert_few_rights(pid);
    assert_eq!(rig.umount().0.code, Some(0));
}

#[test]
fn a_command_of_root_keeps_every_capability() {
    if !is_root() {
        return;
    }
    let server = Server::start(settings(4 * MIB));
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let mine = dir.path().join("mine");
    fs::write(&mine, "").unwrap();
    // Only the directory's owner, or root with its capabilities, may enter it.
    let secret = dir.path().join("secret");
    fs::create_dir(&secret).unwrap();
    let script = secret.join("script");
    let lines = "#!/bin/sh\nset -e\ncat /proc/self/status\nchown 65534 \"$1\"\n\
                 unshare --mount --propagation unchanged true\n";
    fs::write(&script, lines).unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&secret, Permissions::from_mode(0o700)).unwrap();
    chown(&secret, Some(NOBODY), None).unwrap();
    let args = [&target, Path::new("--"), &script, &mine];
    let ran = rhv_mount(Some(&server.url()), args).ok();
    let own = text(Path::new("/proc/self/status"));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(&ran.stdout, set), field(&own, set), "{set}");
    }
    assert_eq!(fs::metadata(&mine).unwrap().uid(), NOBODY);
}

/// The end needs capabilities: the mountpoint is in another user's directory, and COMMAND runs as another
/// user.
#[test]
fn a_mount_by_root_can_end_what_belongs_to_others() {
    if !is_root() {
        return;
    }
    let server = Server::start(settings(4 * MIB));
    let dir = scratch();
    let theirs = dir.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    chown(&theirs, Some(NOBODY), None).unwrap();
    fs::set_permissions(&theirs, Permissions::from_mode(0o700)).unwrap();
    let target = theirs.join("disk.raw");
    let trace = Trace::of(&server.url());
    let mut program = rhv_mount_command(Some(&server.url()));
    program.args(trace.args()).arg(&target);
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    let began = dir.path().join("began");
    let script = format!("trap 'exit 9' TERM; touch '{}'; sleep 60 & wait", began.display());
    program.args([
        "--",
        "setpriv",
        "--reuid",
        "65534",
        "--clear-groups",
        "sh",
        "-c",
        &script,
    ]);
    let mut mount = Foreground::spawn(&mut program);
    wait_until("the command runs", 40, || began.exists());
    mount.signal(Signal::SIGTERM);
    assert_eq!(mount.wait(60).code(), Some(9), "{}", mount.stderr());
    assert!(!is_mounted(&target) && !target.exists());
}

/// In /proc, a process that can be dumped belongs to its user, and one that cannot be dumped belongs to root.
#[test]
fn nobody_of_the_same_user_can_look_into_the_process() {
    if !is_root() {
        return;
    }
    let server = Server::start(settings(4 * MIB));
    for kind in [MountKind::Directory, MountKind::New] {
        let mount = Mounting::new(&server.url()).kind(kind).by_nobody().start();
        let process = PathBuf::from(format!("/proc/{}", mount.server()));
        assert_eq!(fs::metadata(process.join("environ")).unwrap().uid(), 0);
        let environ = process.join("environ");
        let looked = run(mount.command("cat").arg(&environ), 20);
        assert!(looked.stderr.contains("ermission denied"), "{looked}");
        let limits = text(&process.join("limits"));
        let core = limits.lines().find(|line| line.starts_with("Max core file size"));
        assert!(
            core.is_some_and(|line| line.split_whitespace().nth(4) == Some("0")),
            "{limits}"
        );
        // The mount's user still gets its status.
        mount.status(&[]).ok();
        mount.umount().ok();
    }
}

#[test]
fn a_command_has_the_users_own_limits() {
    let server = Server::start(settings(4 * MIB));
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let mut program = Command::new("sh");
    clean_environment(&mut program);
    let script = r#"ulimit -Sc 1000 && exec "$0" "$@""#;
    program.args(["-c", script, BINARY]).arg(&target);
    // rhv-mount sets its own limit back to 0 a moment after it has started the command.
    let command =
        r#"ulimit -Sc; until set -- $(grep core /proc/$PPID/limits) && [ "$5" = 0 ]; do sleep 0.1; done"#;
    program.args(["--", "sh", "-c", command]);
    let ran = run(program.env(URL_VARIABLE, server.url()), 60).ok();
    assert_eq!(ran.stdout.trim(), "1000", "{ran}");
}

/// The folder is another user's: nobody else may look into it, or, where everybody may write to it, replace
/// what is not his own.
#[test]
fn root_replaces_another_users_image_by_one_of_that_user() {
    if !is_root() {
        return;
    }
    for mode in [0o700, 0o1777] {
        let dir = scratch();
        let folder = dir.path().join("folder");
        let image = folder.join("disk.raw");
        fs::create_dir(&folder).unwrap();
        fs::write(&image, "old").unwrap();
        fs::set_permissions(&image, Permissions::from_mode(0o640)).unwrap();
        chown(&image, Some(NOBODY), Some(61234)).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(mode)).unwrap();
        chown(&folder, Some(61235), None).unwrap();
        let server = used_server(settings(8 * MIB));
        // The first bytes are asked for when the disk is opened.
        server.arm(Fault::always(Verb::Get, Action::Hold).touching(7 * MIB));
        let mut command = rhv_mount_command(Some(&server.url()));
        let mut copy = Foreground::spawn(command.args(["download", "--force"]).arg(&image));
        wait_until("the copy is at work", 60, || server.faults_fired() > 0);
        for task in tasks(copy.pid()) {
            let (name, status) = (text(&task.join("comm")), text(&task.join("status")));
            let is_copying = !["rights", "image"].contains(&name.trim());
            assert!(!is_copying || field(&status, "CapEff") == 0, "{name}");
        }
        server.disarm();
        assert_eq!(copy.wait(60).code(), Some(0), "{mode:o}: {}", copy.stderr());
        let meta = fs::metadata(&image).unwrap();
        assert_eq!(
            (meta.uid(), meta.gid(), meta.mode() & 0o7777),
            (NOBODY, 61234, 0o640)
        );
        assert!(fs::read(&image).unwrap() == pattern(9, 8 * MIB as usize));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }
}
