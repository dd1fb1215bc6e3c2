//! Memory stays within the limits that the options promise, whatever is written: 64 MiB plus the cache, the
//! journal and the write-behind.

use crate::rig::{MIB, Random, Rig, pattern, settings};
use crate::server::Server;
use crate::support::mount::rhv_mount_command;
use crate::support::redaction::Trace;
use crate::support::run::{is_root, run, scratch, text};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
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
    let args = ["--cache-size", "16M", "--journal-size", "32M"];
    let rig = Rig::start(settings(SIZE), &args);
    // The last term is the write-behind of four connections, 64 MiB.
    let limit = (64 + 16 + 32 + 64) * MIB;
    let pid = rig.mount.pids()[0];
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
