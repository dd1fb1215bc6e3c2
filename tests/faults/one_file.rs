//! The file among files: locks between programs, the directory that holds nothing else, and the attributes
//! that can be set.

use crate::rig::{MIB, Rig, errno, settings};
use crate::support::run::run;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, SystemTime};

/// Locks of another program: of the whole file by flock(2), and of the bytes 0 to 100, or 100 to 200, by
/// fcntl(2). Each fails at once where somebody else has the lock.
const FLOCK: &str = r#"exec flock --nonblock "$1" true"#;
const FIRST_BYTES: &str = "0";
const NEXT_BYTES: &str = "100";
const BY_FCNTL: &str = "import fcntl, sys\n\
    file = open(sys.argv[1], 'r+b')\n\
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 100, int(sys.argv[2]))";

/// Tells whether another program gets its lock by flock(2).
fn flock_succeeds(rig: &Rig) -> bool {
    let mut command = Command::new("sh");
    command.args(["-c", FLOCK, "sh"]).arg(rig.mount.file());
    let ran = run(&mut command, 20);
    assert!(matches!(ran.code, Some(0 | 1)), "{ran}");
    ran.success()
}

/// Tells whether another program gets the lock on 100 bytes from `start`.
fn fcntl_succeeds(rig: &Rig, start: &str) -> bool {
    let mut command = Command::new("python3");
    command.args(["-c", BY_FCNTL]).arg(rig.mount.file()).arg(start);
    let ran = run(&mut command, 20);
    assert!(ran.success() || ran.stderr.contains("BlockingIOError"), "{ran}");
    ran.success()
}

/// Locks the first 100 bytes, or unlocks them.
fn set_lock(file: &File, kind: libc::c_int) {
    let lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 100,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock)).expect("set the lock");
}

#[test]
fn locks_keep_the_programs_of_one_machine_apart() {
    let rig = Rig::start(settings(4 * MIB), &[]);
    let lock = Flock::lock(rig.read_write(), FlockArg::LockExclusiveNonblock).expect("take the lock");
    assert!(!flock_succeeds(&rig), "a lock on a locked file");
    drop(lock);
    assert!(flock_succeeds(&rig), "a lock on an unlocked file");

    let file = rig.read_write();
    set_lock(&file, libc::F_WRLCK);
    assert!(!fcntl_succeeds(&rig, FIRST_BYTES), "a lock on locked bytes");
    assert!(fcntl_succeeds(&rig, NEXT_BYTES), "a lock on other bytes");
    set_lock(&file, libc::F_UNLCK);
    assert!(fcntl_succeeds(&rig, FIRST_BYTES), "a lock on unlocked bytes");
    drop(file);
    assert_eq!(rig.umount().0.code, Some(0));
}

#[test]
fn nothing_is_made_renamed_or_removed_beside_the_disk() {
    let rig = Rig::start(settings(4 * MIB), &[]);
    let (disk, other) = (rig.mount.file(), rig.mount.mountpoint().join("other"));
    for (what, result) in [
        ("a file", File::create(&other).map(drop)),
        ("a directory", fs::create_dir(&other)),
        ("a link", std::os::unix::fs::symlink("disk", &other)),
        ("a second name", fs::hard_link(&disk, &other)),
        ("another name", fs::rename(&disk, &other)),
        ("the end of the disk", fs::remove_file(&disk)),
    ] {
        assert_eq!(errno(result), libc::EPERM, "{what}");
    }
    let entries = fs::read_dir(rig.mount.mountpoint()).expect("list the directory");
    let names: Vec<_> = entries
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(names, ["disk"]);
    assert_eq!(rig.umount().0.code, Some(0));
}

#[test]
fn mode_and_time_can_be_set_and_are_gone_with_the_mount() {
    let rig = Rig::start(settings(4 * MIB), &[]);
    let path = rig.mount.file();
    fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("chmod");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let file = rig.read_write();
    file.set_modified(time).expect("utimes");
    let seen = file.metadata().expect("stat");
    assert_eq!(seen.permissions().mode() & 0o777, 0o640);
    assert_eq!(seen.modified().expect("a time"), time);
    drop(file);
    let (ran, server) = rig.umount();
    assert_eq!(ran.code, Some(0), "{ran}");
    let rig = Rig::over(server, &[]);
    let seen = fs::metadata(rig.mount.file()).expect("stat");
    assert_eq!(seen.permissions().mode() & 0o777, 0o600);
    assert!(seen.modified().expect("a time") > time);
    assert_eq!(rig.umount().0.code, Some(0));
}
