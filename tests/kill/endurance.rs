//! The long tests: `qemu-img convert` of random bytes while imageio restarts again and again, while
//! connections are cut, or while the engine is away; and random operations, checked by fsx and fio, while
//! connections are cut.
//!
//! By default they are small. `RHV_MOUNT_FULL_MATRIX=1` makes them 2 GiB, ten restarts, 200 cuts, and 60 s
//! without the engine.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::proxy::{Direction, Effect, Fault};
use crate::rig::{assert_free, assert_nothing_deleted, count, cut_at_random, daemon, full, proxy_to};
use crate::support::content::{KIB, MIB, random_image};
use crate::support::disk::Disk;
use crate::support::engine::Engine;
use crate::support::image::{Backend, Content};
use crate::support::mount::{Mount, Mounting};
use crate::support::run::{Ran, run, scratch, top, wait_until};

/// Ends the connections that the mount opened at its start, before the plan of cuts was set.
const CUT_FIRST_CONNECTIONS: Fault = Fault {
    effect: Effect::Cut,
    direction: Some(Direction::ToServer),
    after: MIB,
};

/// Upper bound on one program's run, in seconds: the full size on a busy machine.
const LIMIT: u64 = 1500;

fn size() -> u64 {
    if full() { 2048 * MIB } else { 256 * MIB }
}

/// A source image, and an engine with the disk `there`; `made` is created by the mount.
struct Copying {
    engine: Engine,
    source: PathBuf,
}

impl Copying {
    fn new() -> Self {
        let engine = Engine::start();
        let source = engine.dir().join("source.raw");
        random_image(&source, size(), 2026);
        engine.add_disk(&json!({"name": "there", "size": size(), "format": "raw"}));
        Self { engine, source }
    }

    fn disks() -> [Vec<String>; 2] {
        let size = size().to_string();
        let made = ["--create", "made", "--size", &size, "--storage-domain", "data"];
        [crate::rig::existing("there"), made.map(str::to_owned).to_vec()]
    }

    /// Logs at info: at trace level a copy of 2 GiB would write a huge log.
    fn mounting(&self, args: &[String]) -> Mounting {
        self.engine
            .mounting(args)
            .arg("--no-unix-socket")
            .log_level("info")
    }

    /// Copies the source while `disturb` runs, unmounts, and asserts that the disk holds the source. On a
    /// busy machine the copy may end first: it is compared then, and made once more. The second argument of
    /// `disturb` tells whether no copy has failed.
    fn copy(&self, mount: Mount, name: &str, disturb: impl FnOnce(&Mount, &dyn Fn() -> bool)) {
        let target = mount.file();
        let began = Instant::now();
        let is_disturbed = AtomicBool::new(true);
        std::thread::scope(|scope| {
            let copying = scope.spawn(|| {
                convert(&self.source, &target).ok();
                while is_disturbed.load(Ordering::Relaxed) {
                    run(Command::new("cmp").arg(&self.source).arg(&target), LIMIT).ok();
                    convert(&self.source, &target).ok();
                }
            });
            disturb(&mount, &|| !copying.is_finished());
            is_disturbed.store(false, Ordering::Relaxed);
            copying.join().expect("no panic");
        });
        let (replaced, written) = (count(&mount, "replaced"), count(&mount, "bytes_written"));
        mount.umount().ok();
        eprintln!(
            "{name}: {} MiB copied in {:.1} s; {} MiB written, {replaced} connections replaced",
            size() / MIB,
            began.elapsed().as_secs_f64(),
            written / MIB
        );
        assert_free(&self.engine, name, &self.source);
    }
}

fn convert(source: &Path, target: &Path) -> Ran {
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-n", "-f", "raw", "-O", "raw"]);
    if !full() {
        // Without a rate limit a short copy would end before anything has gone wrong.
        command.args(["-r", "32M"]);
    }
    run(command.arg(source).arg(target), LIMIT)
}

#[test]
fn imageio_restarts_during_a_copy_are_not_noticed() {
    let restarts = if full() { 10 } else { 3 };
    for args in Copying::disks() {
        let copying = Copying::new();
        let mount = copying.mounting(&args).start();
        copying.copy(mount, &args[1], |mount, still_copies| {
            for _ in 0..restarts {
                let far = count(mount, "bytes_written") + size() / (restarts + 1);
                wait_until("the copy has gone on", LIMIT, || {
                    count(mount, "bytes_written") >= far || !still_copies()
                });
                copying.engine.daemon().kill();
                copying.engine.daemon().restart();
            }
        });
        assert_nothing_deleted(&copying.engine);
        assert!(
            copying.engine.transfers().len() > 1,
            "no new transfer: nothing was lost"
        );
    }
}

#[test]
fn connections_cut_during_a_copy_are_not_noticed() {
    let cuts = if full() { 200 } else { 20 };
    for args in Copying::disks() {
        let copying = Copying::new();
        let proxy = proxy_to(copying.engine.daemon());
        let address = format!("127.0.0.1:{}", proxy.port());
        copying
            .engine
            .switch(&json!({"switch": "url_host", "value": address}));
        let mount = copying.mounting(&args).start();
        // The cuts come after up to twice the largest request, so that most requests pass. They go on to the
        // end: no connection lives long enough to fill the journal.
        cut_at_random(&proxy, cuts, u64::MAX, 16 * MIB, 2 * KIB);
        proxy.arm(CUT_FIRST_CONNECTIONS);
        copying.copy(mount, &args[1], |_, _| {});
        let counts = proxy.counts();
        eprintln!("{}: {counts:?}", args[1]);
        assert!(counts.faults >= cuts, "{counts:?}");
        assert_nothing_deleted(&copying.engine);
        assert_eq!(copying.engine.transfers().len(), 1);
    }
}

#[test]
fn an_engine_away_during_a_copy_is_not_noticed() {
    let absence = Duration::from_secs(if full() { 60 } else { 8 });
    let copying = Copying::new();
    let [args, _] = Copying::disks();
    let mount = copying.mounting(&args).start();
    copying.copy(mount, &args[1], |_, _| {
        let away = copying.engine.away();
        std::thread::sleep(absence);
        drop(away);
    });
    assert_nothing_deleted(&copying.engine);
    assert_eq!(copying.engine.transfers().len(), 1);
}

/// Mounts a disk behind a proxy that cuts every connection after a few megabytes, and runs `exercise` on the
/// file.
fn through_cuts(size: u64, exercise: impl FnOnce(&Path)) {
    let daemon = daemon();
    let disk = Disk::create(&daemon, Backend::Qcow2Nbd, size, Content::Used { seed: 8 });
    let proxy = proxy_to(&daemon);
    let mount = Mounting::new(&proxy.url(disk.url()))
        .args(disk.args())
        .log_level("info")
        .start();
    cut_at_random(&proxy, size, u64::MAX, 4 * MIB, 4 * MIB);
    proxy.arm(CUT_FIRST_CONNECTIONS);
    exercise(&mount.file());
    mount.umount().ok();
    let counts = proxy.counts();
    eprintln!("{counts:?}");
    assert!(counts.faults > 4, "{counts:?}");
}

#[test]
fn fsx_finds_no_wrong_byte_while_connections_are_cut() {
    const CONFIG: &str = "
blockmode = true
nosizechecks = true
[opsize]
max = 262144
[weights]
close_open = 0
truncate = 0
posix_fallocate = 0
read = 10
write = 10
mapread = 5
mapwrite = 5
punch_hole = 3
invalidate = 2
fsync = 0.3
fdatasync = 0.3
sendfile = 2
posix_fadvise = 1
";
    let operations = if full() { "20000" } else { "4000" };
    through_cuts(4 * MIB, |file| {
        let dir = scratch();
        let path = dir.path().join("fsx.toml");
        std::fs::write(&path, CONFIG).expect("write fsx.toml");
        let mut command = Command::new(top().join("target/tools/bin/fsx"));
        command.args(["-N", operations, "-S", "31", "-P"]).arg(dir.path());
        run(command.arg("-f").arg(&path).arg(file), 600).ok();
    });
}

#[test]
fn fio_verifies_what_it_wrote_while_connections_are_cut() {
    for how in [
        ["--direct=1", "--ioengine=libaio", "--iodepth=16"],
        ["--direct=0", "--ioengine=psync", "--fsync=64"],
    ] {
        through_cuts(64 * MIB, |file| {
            let mut command = Command::new("fio");
            command
                .args(["--name=verify", "--rw=randrw", "--bsrange=4k-256k", "--size=64m"])
                .args(["--verify=crc32c", "--verify_state_save=0", "--verify_fatal=1"])
                .args(["--randseed=11", "--minimal"])
                .args(how);
            run(command.arg(format!("--filename={}", file.display())), 600).ok();
        });
    }
}
