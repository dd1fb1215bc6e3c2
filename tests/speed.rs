//! Several connections are faster than one.
//!
//! The storage takes 5 ms for each request (nbdkit's delay filter behind imageio), as storage far away does: then one
//! connection waits most of its time, and four wait side by side. A test binary of its own, so that nothing else runs
//! while it measures; one connection and four take turns, and the least disturbed round of each counts. The bytes travel over the
//! daemon's unix socket: TLS on both sides of two cores would be the limit, and not the storage.

#[path = "support/mod.rs"]
mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use support::content::{MIB, random_image};
use support::daemon::{Daemon, LocalSocket, Scheme};
use support::disk::Disk;
use support::image::{Backend, Content};
use support::mount::{MountKind, Mounting};
use support::run::{scratch, sh};

const SIZE: u64 = 192 * MIB;
const ROUNDS: usize = 4;
const LEAST_RATIO: f64 = 2.5;

const TOOLS: [(&str, &str); 3] = [
    ("dd bs=1M", r#"dd if="$1" of="$2" bs=1M status=none"#),
    ("cp", r#"cp "$1" "$2""#),
    (
        "qemu-img convert -n",
        r#"qemu-img convert -n -f raw -O raw "$1" "$2""#,
    ),
];

#[test]
fn four_connections_are_much_faster_than_one_where_the_storage_is_slow() {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::Path);
    let dir = scratch();
    let source = dir.path().join("source.raw");
    random_image(&source, SIZE, 1);
    let mut slow = Vec::new();
    for (tool, script) in TOOLS {
        let (mut one, mut four) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            one.push(copy(&daemon, &source, script, "1"));
            four.push(copy(&daemon, &source, script, "4"));
        }
        let (one, four) = (least(&one), least(&four));
        let ratio = one.as_secs_f64() / four.as_secs_f64();
        let line = format!(
            "{tool}: 1 connection {}, 4 connections {}, {ratio:.2} times",
            rate(one),
            rate(four)
        );
        println!("{line}");
        if ratio < LEAST_RATIO {
            slow.push(line);
        }
    }
    assert!(slow.is_empty(), "below {LEAST_RATIO} times:\n{}", slow.join("\n"));
}

/// From the tool's start to the end of `umount`, when every byte is on the storage.
fn copy(daemon: &Daemon, source: &Path, script: &str, connections: &str) -> Duration {
    let disk = Disk::create(daemon, Backend::Delayed, SIZE, Content::Fresh);
    let mount = Mounting::new(disk.url())
        .args(disk.args())
        .args(["--connections", connections])
        .kind(MountKind::Directory)
        .log_level("warn")
        .start();
    let started = Instant::now();
    sh(script, [source, &mount.file()], 120).ok();
    mount.umount().ok();
    started.elapsed()
}

fn least(times: &[Duration]) -> Duration {
    *times.iter().min().expect("there are rounds")
}

fn rate(time: Duration) -> String {
    format!(
        "{:.2} s ({:.0} MiB/s)",
        time.as_secs_f64(),
        (SIZE / MIB) as f64 / time.as_secs_f64()
    )
}
