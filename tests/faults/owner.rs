//! A mount belongs to its owner: only the owner can use it and read the files that it writes about itself,
//! and the kernel accepts no setuid programs and no devices from it.

use crate::rig::{MIB, settings};
use crate::server::Server;
use crate::support::mount::{Mount, Mounting};
use crate::support::run::{is_root, run, text};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const NOBODY: &str = "65534";

fn server() -> Server {
    Server::start(settings(4 * MIB))
}

/// Starts a mount of root and, through fusermount3, one of an ordinary user.
fn each_owner(server: &Server, args: &[&str]) -> [Mount; 2] {
    let mounting = || Mounting::new(&server.url()).args(args);
    [mounting().start(), mounting().by_nobody().start()]
}

/// Returns the options of the mount and of its file system, as the kernel lists them.
fn kernel_options(mount: &Mount) -> String {
    let table = text(Path::new("/proc/self/mountinfo"));
    let path = mount.mountpoint().display().to_string();
    let line = table.lines().find(|line| line.split(' ').nth(4) == Some(&path));
    let line = line.unwrap_or_else(|| panic!("{path} is not mounted"));
    let (of_mount, of_system) = line.split_once(" - ").expect("a separator");
    format!(
        "{},{}",
        of_mount.split(' ').nth(5).expect("options"),
        of_system.split(' ').nth(2).expect("options")
    )
}

#[test]
fn a_mount_has_no_setuid_programs_and_no_devices() {
    if !is_root() {
        return;
    }
    let server = server();
    for args in [&[][..], &["-o", "suid,dev,exec"]] {
        for mount in each_owner(&server, args) {
            let options = kernel_options(&mount);
            for option in ["nosuid", "nodev"] {
                assert!(options.split(',').any(|one| one == option), "{args:?}: {options}");
            }
            mount.umount().ok();
        }
    }
}

/// Another user can neither see the file's size nor open it; with `--allow-other` the file's permissions
/// decide.
#[test]
fn a_mount_is_its_owners_alone() {
    if !is_root() {
        return;
    }
    let server = server();
    let stat = |mount: &Mount, user: &[&str]| {
        let words = [user, &["stat", "-c", "%s"]].concat();
        run(Command::new(words[0]).args(&words[1..]).arg(mount.file()), 20)
    };
    let nobody = ["setpriv", "--reuid", NOBODY, "--clear-groups", "--"];
    let [of_root, of_nobody] = each_owner(&server, &[]);
    assert!(!stat(&of_root, &nobody).success());
    assert!(stat(&of_root, &[]).success());
    assert!(!stat(&of_nobody, &["env"]).success(), "even root cannot see it");
    run(of_nobody.command("stat").arg(of_nobody.file()), 20).ok();
    of_root.umount().ok();
    of_nobody.umount().ok();

    for (mode, may) in [("600", false), ("644", true)] {
        let args = ["--allow-other", "--mode", mode];
        let mount = Mounting::new(&server.url()).args(args).start();
        let words = [&nobody[..], &["head", "-c", "1"]].concat();
        let read = run(Command::new(words[0]).args(&words[1..]).arg(mount.file()), 20);
        assert_eq!(read.success(), may, "mode {mode}: {read}");
        mount.umount().ok();
    }
}

/// Returns the directory of the mount's socket and record.
fn directory_of(mount: &Mount) -> PathBuf {
    let uid = fs::metadata(mount.dir()).expect("the mount's directory").uid();
    match uid {
        0 => PathBuf::from("/run/rhv-mount"),
        _ => PathBuf::from(format!("/tmp/rhv-mount-{uid}")),
    }
}

#[test]
fn what_a_mount_writes_is_readable_by_its_owner_only() {
    if !is_root() {
        return;
    }
    let server = server();
    for mount in each_owner(&server, &[]) {
        let owner = fs::metadata(mount.dir()).expect("the mount's directory").uid();
        let directory = directory_of(&mount);
        let point = format!("\"{}\"", mount.mountpoint().display());
        let files = fs::read_dir(&directory).expect("look for records").flatten();
        let mut records = files.map(|file| file.path()).filter(|path| path.is_file());
        let record = records
            .find(|path| text(path).contains(&point))
            .expect("a record");
        for (path, mode) in [
            (mount.dir().join("log"), 0o600),
            (record, 0o600),
            (directory, 0o700),
        ] {
            let meta = fs::metadata(&path).expect("stat it");
            assert_eq!(
                (meta.mode() & 0o777, meta.uid()),
                (mode, owner),
                "{}",
                path.display()
            );
        }
        mount.umount().ok();
    }
}
