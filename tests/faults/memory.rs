//! Memory stays within the limits that the options promise, whatever is written: 64 MiB plus the cache, the
//! journal and the write-behind.

use crate::rig::{MIB, Random, Rig, pattern, settings};
use crate::server::Server;
use crate::support::mount::{BINARY, URL_VARIABLE, clean_environment, rhv_mount, rhv_mount_command};
use crate::support::redaction::Trace;
use crate::support::run::{is_root, run, scratch, text, wait_until};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const SIZE: u64 = 64 * MIB;
const WRITERS: u64 = 6;

/// Bytes that each writer writes.
const BYTES_PER_WRITER: u64 = 160 * MIB;

/// Returns the resident size of a process, in bytes.
fn resident(pid: i32) -> u64 {
    let status = text(&PathBuf::from(format!("/proc/{pid}/status")));
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let line = line.unwrap_or_else(|| panic!("no VmRSS in {status}"));
    let kib = line.split_whitespace().next().expect("a number");
    kib.parse::<u64>().expect("a number") << 10
}

/// Several threads write pieces of all sizes with an occasional fsync, while another thread reads.
#[test]
fn writes_of_all_sizes_leave_the_memory_within_its_limits() {
    // The last term is the write-behind of four connections, 64 MiB.
    let limit = (64 + 16 + 32 + 64) * MIB;
    stays_within(limit, &["--cache-size", "16M", "--journal-size", "32M"]);
}

#[test]
fn one_option_bounds_all_of_the_memory() {
    stays_within((64 + 48) * MIB, &["--memory", "48M"]);
}

fn stays_within(limit: u64, args: &[&str]) {
    let rig = Rig::start(settings(SIZE), args);
    let pid = rig.mount.server();
    let bytes = pattern(1, MIB as usize);
    let done = AtomicBool::new(false);
    let peak = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|n| {
                let (file, bytes) = (rig.read_write(), &bytes);
                scope.spawn(move || {
                    let (mut random, mut left) = (Random::new(n), BYTES_PER_WRITER);
                    while left > 0 {
                        // This gives as many small writes as large ones.
                        let scale = 512 << random.below(11);
                        let length = 1 + random.below(scale).min(left - 1);
                        let offset = random.below(SIZE - length);
                        file.write_all_at(&bytes[..length as usize], offset)
                            .expect("write");
                        left -= length;
                        if random.below(200) == 0 {
                            file.sync_all().expect("fsync");
                        }
                    }
                })
            })
            .collect();
        let (file, done) = (rig.read_write(), &done);
        scope.spawn(move || {
            let mut buffer = vec![0; MIB as usize];
            for n in (0..SIZE / MIB).cycle() {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                file.read_exact_at(&mut buffer, n * MIB).expect("read");
            }
        });
        let mut peak = 0;
        while !writers.iter().all(|writer| writer.is_finished()) {
            peak = peak.max(resident(pid));
            thread::sleep(Duration::from_millis(20));
        }
        done.store(true, Ordering::Relaxed);
        peak
    });
    assert!(
        peak < limit,
        "{} MiB are resident, the limits add up to {}",
        peak >> 20,
        limit >> 20
    );
    assert_eq!(rig.umount().0.code, Some(0));
}

/// A control group that limits the memory of its processes, removed when dropped.
struct Group(PathBuf);

impl Group {
    /// Returns `None` where this process may not make one.
    fn of(bytes: u64) -> Option<Group> {
        let roots = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ];
        roots.into_iter().find_map(|(root, file)| {
            let group = Group(Path::new(root).join(format!("rhv-mount-test-{}", std::process::id())));
            fs::create_dir(&group.0).ok()?;
            fs::write(group.0.join(file), bytes.to_string()).ok()?;
            Some(group)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        wait_until("the group has no process", 60, || {
            text(&self.0.join("cgroup.procs")).is_empty()
        });
        let _ = fs::remove_dir(&self.0);
    }
}

/// Without smaller budgets the kernel kills the mount in the middle of the copy.
#[test]
fn in_a_small_control_group_the_budgets_fit_and_a_copy_arrives() {
    let Some(group) = Group::of(128 * MIB) else {
        return;
    };
    const COPIED: u64 = 320 * MIB;
    let mut slow = settings(COPIED);
    // The storage is slower than the writer, so that everything fills up.
    slow.put_delay = Duration::from_millis(20);
    let server = Server::start(slow);
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let script = format!("echo $$ > {}/cgroup.procs; exec \"$@\"", group.0.display());
    for (options, told) in [(&[][..], true), (&["--memory", "16M"][..], false)] {
        let mut shell = Command::new("sh");
        clean_environment(&mut shell);
        shell
            .args(["-c", &script, "sh", BINARY])
            .args(options)
            .arg(&target);
        let ran = run(shell.env(URL_VARIABLE, server.url()), 60).ok();
        assert_eq!(ran.stderr.contains("memory is limited to 128 MiB"), told, "{ran}");
        assert_eq!(ran.stderr.lines().count(), usize::from(told), "{ran}");
        let file = OpenOptions::new().read(true).write(true).open(&target).unwrap();
        let bytes = pattern(if told { 1 } else { 2 }, MIB as usize);
        for n in 0..COPIED / MIB {
            file.write_all_at(&bytes, n * MIB)
                .unwrap_or_else(|e| panic!("MiB {n}: {e}"));
        }
        file.sync_all().unwrap();
        drop(file);
        rhv_mount(None, [Path::new("umount"), &target]).ok();
        assert!(server.read_durable(COPIED - MIB..COPIED) == bytes);
    }
}

#[test]
fn a_memory_too_small_for_any_copy_is_a_usage_error() {
    let dir = scratch();
    let words = ["--memory", "7M", dir.path().to_str().unwrap()];
    let ran = rhv_mount(Some(&Server::start(settings(MIB)).url()), words);
    assert_eq!(ran.code, Some(2), "{ran}");
    assert!(ran.stderr.contains("8M"), "{ran}");
}

/// rhv-mount's setting for its own allocator must not reach COMMAND, which keeps the user's setting.
#[test]
fn a_command_has_the_users_own_allocator_setting() {
    if !is_root() {
        return;
    }
    let server = Server::start(settings(MIB));
    let dir = scratch();
    // The script also prints the setting of the mount itself, which only root may read.
    let script =
        "printenv MALLOC_ARENA_MAX || true; tr '\\0' '\\n' < /proc/$PPID/environ | grep ^MALLOC_ARENA >&2";
    for (set, seen) in [(None, ""), (Some("7"), "7\n")] {
        let trace = Trace::of(&server.url());
        let mut program = rhv_mount_command(Some(&server.url()));
        program
            .args(trace.args())
            .arg(dir.path().join("disk.raw"))
            .args(["--", "sh", "-c", script])
            .env_remove("MALLOC_ARENA_MAX")
            .envs(set.map(|value| ("MALLOC_ARENA_MAX", value)));
        let ran = run(&mut program, 60).ok();
        assert_eq!(ran.stdout, seen, "{ran}");
        let ours = format!("MALLOC_ARENA_MAX={}\n", set.unwrap_or("2"));
        assert_eq!(ran.stderr, ours, "{ran}");
    }
}
