//! A mount lives longer than files do in /tmp, where an ordinary user's mounts find each other: cleaners
//! remove what nobody has touched for days.

use crate::rig::{MIB, settings};
use crate::server::Server;
use crate::support::mount::{BINARY, URL_VARIABLE, in_own_mounts};
use crate::support::run::{is_root, run, scratch};
use std::os::unix::fs::chown;

const NOBODY: u32 = 65534;

/// Runs in a mount namespace with a /tmp of its own: the mount, a cleaner that finds everything in there old,
/// and what a user does with the mount after that.
const SCRIPT: &str = r#"
    dir=$1 point=$2
    install -m 755 "$3" "$dir/rhv-mount"
    mount -n -t tmpfs -o mode=1777 tmpfs /tmp
    as_nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
    as_nobody "$dir/rhv-mount" "$point"
    touch /tmp/somebodys
    find /tmp -mindepth 1 -exec touch --no-dereference --date '30 days ago' {} +
    echo 'q /tmp 1777 root root mM:1d' > "$dir/clean.conf"
    systemd-tmpfiles --clean "$dir/clean.conf"
    if [ -e /tmp/somebodys ]; then echo "the cleaner does not clean"; exit 9; fi
    ls /tmp/rhv-mount-65534
    as_nobody "$dir/rhv-mount" status
    as_nobody "$dir/rhv-mount" umount "$point"
"#;

#[test]
fn the_files_of_a_live_mount_outlast_a_cleaner_of_old_files() {
    if !is_root() {
        return;
    }
    let server = Server::start(settings(MIB));
    let dir = scratch();
    let point = dir.path().join("mnt");
    std::fs::create_dir(&point).expect("make the mountpoint");
    chown(&point, Some(NOBODY), Some(NOBODY)).expect("give it to nobody");
    let mut command = in_own_mounts(SCRIPT);
    command.arg(dir.path()).arg(&point).arg(BINARY);
    command
        .env(URL_VARIABLE, server.url())
        .env("HOME", "/nonexistent");
    let ran = run(&mut command, 90).ok();
    let files: Vec<&str> = ran.stdout.lines().take(2).collect();
    let has = |end: &str| files.iter().any(|file| file.ends_with(end));
    assert!(has(".json") && has(".sock"), "{ran}");
    assert!(ran.stdout.contains(point.to_str().expect("UTF-8")), "{ran}");
}
