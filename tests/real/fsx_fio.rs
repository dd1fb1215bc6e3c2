//! Random operations, checked by `fsx` against a model (read, write, mapped reads and writes, punch hole,
//! invalidate, fsync, and truncate where the size may change) and by fio with checksums. All run over HTTPS
//! on a qcow2 disk.

use std::fs;

use crate::support::content::MIB;
use crate::support::daemon::{Daemon, LocalSocket, Scheme};
use crate::support::disk::Disk;
use crate::support::image::{Backend, Content};
use crate::support::mount::{Mount, MountKind};
use crate::support::run::{run, scratch, top};

const OPERATIONS: u32 = 20_000;

/// The weights that both configurations end with.
const COMMON_WEIGHTS: &str = "\
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

/// The size never changes, as on a block device.
const FIXED_SIZE: &str = "
blockmode = true
nosizechecks = true
[opsize]
max = 262144
[weights]
close_open = 0
truncate = 0
posix_fallocate = 0
";

/// The file is emptied, grows and shrinks below the disk's size, and is opened again.
const CHANGING_SIZE: &str = "
flen = 3145728
[opsize]
max = 262144
[weights]
close_open = 1
truncate = 5
posix_fallocate = 1
";

#[test]
fn fsx_finds_no_wrong_byte_in_a_file_of_fixed_size_seed_1() {
    fsx(FIXED_SIZE, 1);
}

#[test]
fn fsx_finds_no_wrong_byte_in_a_file_of_fixed_size_seed_2() {
    fsx(FIXED_SIZE, 20_260_307);
}

#[test]
fn fsx_finds_no_wrong_byte_in_a_file_of_fixed_size_seed_3() {
    fsx(FIXED_SIZE, 977);
}

#[test]
fn fsx_finds_no_wrong_byte_in_a_file_that_changes_its_size_seed_4() {
    fsx(CHANGING_SIZE, 4);
}

#[test]
fn fsx_finds_no_wrong_byte_in_a_file_that_changes_its_size_seed_5() {
    fsx(CHANGING_SIZE, 5_005);
}

fn fsx(config: &str, seed: u64) {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::None);
    let disk = Disk::create(&daemon, Backend::Qcow2Nbd, 4 * MIB, Content::Used { seed });
    let mount = Mount::start(disk.url(), disk.args(), MountKind::Directory);
    let dir = scratch();
    let path = dir.path().join("fsx.toml");
    fs::write(&path, format!("{config}{COMMON_WEIGHTS}")).expect("write fsx.toml");
    let mut command = std::process::Command::new(top().join("target/tools/bin/fsx"));
    command
        .args(["-N", &OPERATIONS.to_string(), "-S", &seed.to_string(), "-P"])
        .arg(dir.path());
    run(command.arg("-f").arg(&path).arg(mount.file()), 900).ok();
    mount.umount().ok();
}

#[test]
fn fio_verifies_random_direct_writes_and_reads() {
    fio(&["--direct=1", "--ioengine=libaio", "--iodepth=16"]);
}

#[test]
fn fio_verifies_random_buffered_writes_and_reads() {
    fio(&["--direct=0", "--ioengine=psync", "--fsync=64"]);
}

fn fio(how: &[&str]) {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::None);
    let disk = Disk::create(&daemon, Backend::Qcow2Nbd, 64 * MIB, Content::Fresh);
    let mount = Mount::start(disk.url(), disk.args(), MountKind::Directory);
    let mut command = std::process::Command::new("fio");
    command.args([
        "--name=verify",
        "--rw=randrw",
        "--bsrange=4k-256k",
        "--size=64m",
        "--verify=crc32c",
        "--verify_state_save=0",
    ]);
    command
        .args(["--verify_fatal=1", "--randseed=11", "--minimal"])
        .args(how);
    command.arg(format!("--filename={}", mount.file().display()));
    run(&mut command, 900).ok();
    mount.umount().ok();
}
