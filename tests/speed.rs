//! A single program keeps several connections busy at once.
//!
//! The storage takes 5 ms for each request (nbdkit's delay filter behind imageio), like remote storage. The
//! benchmark (`scripts/bench`) measures how much faster four connections are than one. These tests check
//! that, on any machine, a single program's stream keeps all four connections busy most of the time, with
//! requests that are large enough to be worth a round trip.

#[path = "support/mod.rs"]
mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use support::content::{MIB, Random, compare, random_image};
use support::daemon::{Daemon, LocalSocket, Scheme};
use support::disk::Disk;
use support::image::{Backend, Content};
use support::mount::{MountKind, Mounting};
use support::run::{scratch, sh};

const SIZE: u64 = 256 * MIB;
const CONNECTIONS: usize = 4;

/// Lower bound on the average number of requests in flight, from the tool's start to its end.
const MIN_REQUESTS_AT_ONCE: f64 = 2.0;

/// The name of a tool, the operation that it does on the disk, and its shell line (`$1`: source, `$2`:
/// mounted file).
const TOOLS: [(&str, &str, &str); 6] = [
    ("dd", "write", r#"dd if="$1" of="$2" bs=1M status=none"#),
    ("cp", "write", r#"cp "$1" "$2""#),
    (
        "qemu-img",
        "write",
        r#"qemu-img convert -n -f raw -O raw "$1" "$2""#,
    ),
    ("dd", "read", r#"dd if="$2" of=/dev/null bs=1M status=none"#),
    ("cat", "read", r#"cat "$2" > /dev/null"#),
    ("nbdcopy", "read", r#"nbdcopy "$2" null:"#),
];

#[test]
fn one_program_keeps_all_connections_busy() {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::Path);
    let dir = scratch();
    let source = dir.path().join("source.raw");
    random_image(&source, SIZE, 1);
    let mut idle = Vec::new();
    for (tool, op, script) in TOOLS {
        let disk = Disk::create(&daemon, Backend::Delayed, SIZE, Content::Fresh);
        let mount = Mounting::new(disk.url())
            .args(disk.args())
            .args(["--connections", &CONNECTIONS.to_string()])
            .args(["--stats"])
            .kind(MountKind::Directory)
            .log_level("warn")
            .start();
        if op == "read" {
            sh(TOOLS[0].2, [&source, &mount.file()], 120).ok();
        }
        let started = Instant::now();
        sh(script, [&source, &mount.file()], 120).ok();
        let wall = started.elapsed().as_secs_f64();
        let stats = mount.umount().ok().stderr;
        let busy = numbers_in(op, "ops, ", " s,", &stats);
        assert_eq!(
            busy.len(),
            CONNECTIONS,
            "{tool}: connections that carried requests:\n{stats}"
        );
        let at_once = busy.iter().sum::<f64>() / wall;
        println!("{tool}, {op}: {at_once:.1} requests at once");
        if at_once < MIN_REQUESTS_AT_ONCE {
            idle.push(format!("{tool}: {at_once:.1} {op} requests at once\n{stats}"));
        }
    }
    assert!(
        idle.is_empty(),
        "below {MIN_REQUESTS_AT_ONCE}:\n{}",
        idle.join("\n")
    );
}

/// A reader that jumps over a hole still counts as sequential: the data behind the hole is already in flight,
/// in requests as large as those before the hole.
#[test]
fn holes_do_not_make_requests_smaller() {
    const RUN: u64 = 32 * MIB;
    const RUNS: u64 = 4;
    const REQUEST: u64 = 8 * MIB;
    let daemon = Daemon::start(Scheme::Https, LocalSocket::Path);
    let dir = scratch();
    let source = dir.path().join("source.raw");
    let file = File::create(&source).expect("create the source");
    file.set_len(3 * RUN * RUNS).expect("size the source");
    let bytes = Random::new(3).bytes(RUN as usize);
    for run in 0..RUNS {
        file.write_all_at(&bytes, 3 * RUN * run)
            .expect("write the source");
    }
    let copy = dir.path().join("copy.raw");
    // These tools read in order; the order of qemu-img's reads is random.
    let tools = [
        ("cp", r#"cp "$1" "$2""#),
        ("dd", r#"dd if="$1" of="$2" bs=1M status=none"#),
    ];
    for (tool, script) in tools {
        let disk = Disk::create(&daemon, Backend::Qcow2Nbd, 3 * RUN * RUNS, Content::File(&source));
        let mount = Mounting::new(disk.url())
            .args(disk.args())
            .args(["--connections", "1", "--read-only", "--stats"])
            .kind(MountKind::Directory)
            .log_level("warn")
            .start();
        sh(script, [&mount.file(), &copy], 120).ok();
        let stats = mount.umount().ok().stderr;
        compare(&copy, &source).expect("the copy is the disk");
        let reads = numbers_in("read", "", " ops, ", &stats).iter().sum::<f64>() as u64;
        println!("{tool}: {reads} reads");
        // The first reads are small, because a program that reads one block must not wait for 8 MiB.
        let most = RUNS * RUN / REQUEST + 16;
        assert!(reads <= most, "{tool}: {reads} reads, more than {most}:\n{stats}");
    }
}

/// Returns the number between `before` and `after` that follows `[OP ` in each connection's line of
/// `--stats`.
fn numbers_in(op: &str, before: &str, after: &str, stats: &str) -> Vec<f64> {
    let part = format!("[{op} ");
    let number = |line: &str| {
        let (_, part) = line.split_once(&part)?;
        let (_, part) = part.split_once(before)?;
        let (number, _) = part.split_once(after)?;
        Some(number.parse().expect("a number"))
    };
    stats.lines().filter_map(number).collect()
}
