//! Several connections are at work at once.
//!
//! The storage takes 5 ms for each request (nbdkit's delay filter behind imageio), as storage far away does. How much
//! faster four connections are than one is the benchmark's to tell (`scripts/bench`); what has to hold on any machine is
//! that a single program's stream keeps all four of them at work most of the time.

#[path = "support/mod.rs"]
mod support;

use std::time::Instant;

use support::content::{MIB, random_image};
use support::daemon::{Daemon, LocalSocket, Scheme};
use support::disk::Disk;
use support::image::{Backend, Content};
use support::mount::{MountKind, Mounting};
use support::run::{scratch, sh};

const SIZE: u64 = 256 * MIB;
const CONNECTIONS: usize = 4;

/// Requests under way on average, over the whole time from the tool's start to its end.
const LEAST_AT_ONCE: f64 = 2.0;

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
fn one_program_keeps_all_connections_at_work() {
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
        let busy = seconds_in(op, &stats);
        assert_eq!(
            busy.len(),
            CONNECTIONS,
            "{tool}: each of them did its part:\n{stats}"
        );
        let at_once = busy.iter().sum::<f64>() / wall;
        println!("{tool}, {op}: {at_once:.1} requests at once");
        if at_once < LEAST_AT_ONCE {
            idle.push(format!("{tool}: {at_once:.1} {op} requests at once\n{stats}"));
        }
    }
    assert!(idle.is_empty(), "below {LEAST_AT_ONCE}:\n{}", idle.join("\n"));
}

/// The seconds that each connection spent in requests of `op`, from the lines of `--stats`.
fn seconds_in(op: &str, stats: &str) -> Vec<f64> {
    let after = format!("[{op} ");
    stats
        .lines()
        .filter_map(|line| {
            line.split_once(&after)?
                .1
                .split_once("ops, ")?
                .1
                .split_once(" s,")
        })
        .map(|(seconds, _)| seconds.parse().expect("seconds"))
        .collect()
}
