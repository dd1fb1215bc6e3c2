//! Helpers of this crate's tests: options, models of the disks' content, proxies, and a mount's progress.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::proxy::{Direction, Effect, Fault, Proxy};
use crate::support::content::{MIB, Random, random_image};
use crate::support::daemon::{Daemon, LocalSocket, Scheme};
use crate::support::disk::Disk;
use crate::support::engine::Engine;
use crate::support::image::{Backend, Content};
use crate::support::mount::{Mount, Mounting};
use crate::support::run::{Ran, scratch, sh, wait_until};

pub(crate) use crate::life::{
    DATA_MAY_BE_LOST, DONE, SIZE, assert_free, assert_nothing_deleted, assert_told, create, existing,
    used_disk,
};
pub(crate) use crate::load::{Load, assert_eio, bytes};

/// Options for failures that last: the mount gives up as soon as it can. The assertions hold for the defaults
/// of 300 s and 60 s too.
pub(crate) const SOON: [&str; 4] = ["--retry-time", "3", "--timeout", "3"];

/// Upper bound on a failing call, in seconds, on a busy machine: with the options above nothing waits for
/// minutes.
pub(crate) const BOUND: u64 = 90;

/// Tells whether to use the full sizes, which take minutes.
pub(crate) fn full() -> bool {
    std::env::var_os("RHV_MOUNT_FULL_MATRIX").is_some_and(|value| value == "1")
}

pub(crate) fn daemon() -> Daemon {
    Daemon::start(Scheme::Https, LocalSocket::None)
}

/// A proxy in front of `daemon`, without faults for now.
pub(crate) fn proxy_to(daemon: &Daemon) -> Proxy {
    let port = daemon.port();
    Proxy::start(move || Ok(port))
}

/// Cuts new connections until `times` cuts have happened, each after up to `most` random bytes to the server.
/// One cut in four is in the other direction, after up to `most_answers` bytes: answers to writes have no
/// body.
pub(crate) fn cut_at_random(proxy: &Proxy, seed: u64, times: u64, most: u64, most_answers: u64) {
    let mut random = Random::new(seed);
    proxy.plan(move |struck| {
        let (direction, most) = match random.below(4) {
            0 => (Direction::ToClient, most_answers),
            _ => (Direction::ToServer, most),
        };
        (struck < times).then_some(Fault {
            effect: Effect::Cut,
            direction: Some(direction),
            after: random.below(most) + 1,
        })
    });
}

pub(crate) fn mounting(disk: &Disk) -> Mounting {
    Mounting::new(disk.url()).args(disk.args())
}

/// Writes into the local file `path` the bytes that `Load::write` writes into a mounted one.
pub(crate) fn also_in(path: &Path, seed: u64, offset: u64, length: u64) {
    let file = File::options().write(true).open(path).expect("open the model");
    file.write_all_at(&bytes(seed, length), offset)
        .expect("write the model");
}

/// Copies the model next to itself, with the extension `name`.
pub(crate) fn copy_of(model: &Path, name: &str) -> PathBuf {
    let path = model.with_extension(name);
    fs::copy(model, &path).expect("copy the model");
    path
}

/// Asserts that each block of 512 bytes is that of one of `versions`. So nothing may have changed where the
/// versions agree, and where a write was not flushed any of them is right.
#[track_caller]
pub(crate) fn assert_each_block_is_of(image: &Path, versions: &[&Path]) {
    let read = |path: &Path| fs::read(path).expect("read an image");
    let image = read(image);
    let versions: Vec<Vec<u8>> = versions.iter().map(|path| read(path)).collect();
    assert!(
        versions.iter().all(|version| version.len() == image.len()),
        "the sizes differ"
    );
    for (number, block) in image.chunks(512).enumerate() {
        let place = number * 512..number * 512 + block.len();
        assert!(
            versions.iter().any(|version| block == &version[place.clone()]),
            "bytes {place:?} are neither the old ones nor ones that were written"
        );
    }
}

#[track_caller]
pub(crate) fn assert_old_or_new(image: &Path, old: &Path, new: &Path) {
    assert_each_block_is_of(image, &[old, new]);
}

/// Writes one MiB at the start of the disk, flushes it, and writes it into the model.
pub(crate) fn write_flushed(load: &Load, model: &Path) {
    load.write(1, 0, MIB).expect("write");
    load.sync().expect("fsync");
    also_in(model, 1, 0, MIB);
}

/// Asserts that `call` fails with EIO, and within [`BOUND`].
#[track_caller]
pub(crate) fn assert_eio_in_time(what: &str, call: impl FnOnce() -> io::Result<()>) {
    let began = Instant::now();
    assert_eio(what, call());
    let took = began.elapsed();
    assert!(took < Duration::from_secs(BOUND), "{what}: {took:?}");
}

/// Asserts that each block of the image is that of `old`, or that of an unflushed write over it.
#[track_caller]
pub(crate) fn assert_old_or_written(image: &Path, old: &Path, seed: u64, offset: u64, length: u64) {
    let new = copy_of(old, "new");
    also_in(&new, seed, offset, length);
    assert_old_or_new(image, old, &new);
}

/// Reads the MiB with this number from the mount, past the page cache.
pub(crate) fn read_mib(file: &Path, number: u64, limit: u64) -> Ran {
    let script = r#"dd if="$1" of=/dev/null iflag=direct bs=1M skip="$2" count=1 status=none"#;
    sh(script, [file.as_os_str(), number.to_string().as_ref()], limit)
}

#[track_caller]
pub(crate) fn assert_read_fails(file: &Path, number: u64) {
    let ran = read_mib(file, number, BOUND);
    assert!(
        ran.code == Some(1) && ran.stderr.contains("Input/output error"),
        "{ran}"
    );
}

/// Returns the counter `name` of `rhv-mount status`.
pub(crate) fn count(mount: &Mount, name: &str) -> u64 {
    let ran = mount.status(&["--output", "json"]).ok();
    let status: Value = serde_json::from_str(&ran.stdout).expect("the status is JSON");
    status[name]
        .as_u64()
        .unwrap_or_else(|| panic!("no {name} in {status}"))
}

/// Waits until the server has answered writes of `size` bytes in total. Without an fsync they are not
/// flushed.
#[track_caller]
pub(crate) fn wait_until_written(mount: &Mount, size: u64) {
    wait_until("the server has the bytes", 60, || {
        count(mount, "bytes_written") >= size
    });
}

/// Asserts the outcome of a mount that may have lost data, with `words` in the message.
#[track_caller]
pub(crate) fn assert_lost(ran: &Ran, words: &[&str]) {
    let words: Vec<&str> = ["data may be lost"].iter().chain(words).copied().collect();
    assert_told(ran, &[DATA_MAY_BE_LOST], &words);
}

/// `rhv-mount recover OPTIONS POINT`
pub(crate) fn recover(engine: &Engine, options: &[&str], point: &Path) -> Ran {
    let mut args: Vec<OsString> = vec!["recover".into()];
    args.extend(options.iter().map(OsString::from));
    args.extend(engine.args());
    args.push(point.into());
    engine.run(args, 150)
}

/// Half of the disk, in bytes.
pub(crate) const HALF: u64 = SIZE / 2;

/// Returns a disk without an engine, with the content of a [`used_disk`], its model, and the model's
/// directory.
pub(crate) fn used_image(daemon: &Daemon, backend: Backend) -> (Disk, PathBuf, TempDir) {
    let dir = scratch();
    let model = dir.path().join("model.raw");
    random_image(&model, SIZE, 5);
    let disk = Disk::create(daemon, backend, SIZE, Content::File(&model));
    (disk, model, dir)
}
