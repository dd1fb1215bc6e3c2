//! A single program's stream becomes requests that are large enough to be worth a round trip.
//!
//! The benchmark (`scripts/bench`) measures speed; this counts requests, which no machine's load changes.
//! That several of them are under way at once is in `tests/faults/company.rs`.

#[path = "support/mod.rs"]
mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;

use support::content::{MIB, Random, compare};
use support::daemon::{Daemon, LocalSocket, Scheme};
use support::disk::Disk;
use support::image::{Backend, Content};
use support::mount::{MountKind, Mounting};
use support::run::{scratch, sh};

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
        let reads = requests("read", &stats);
        println!("{tool}: {reads} reads");
        // The first reads are small, because a program that reads one block must not wait for 8 MiB.
        let most = RUNS * RUN / REQUEST + 16;
        assert!(reads <= most, "{tool}: {reads} reads, more than {most}:\n{stats}");
    }
}

/// Returns the numbers of requests with this operation in the connections' lines of `--stats`.
fn requests(op: &str, stats: &str) -> u64 {
    let part = format!("[{op} ");
    let number = |line: &str| {
        let (_, part) = line.split_once(&part)?;
        let (number, _) = part.split_once(" ops, ")?;
        Some(number.parse::<u64>().expect("a number"))
    };
    stats.lines().filter_map(number).sum()
}
