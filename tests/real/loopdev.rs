//! A file system on a loop device over the mounted file, with barriers, discards and odd block sizes as a
//! kernel sends them.

use crate::support::content::MIB;
use crate::support::daemon::{Daemon, LocalSocket, Scheme};
use crate::support::disk::Disk;
use crate::support::image::{Backend, Content};
use crate::support::mount::{BINARY, Mount, MountKind};
use crate::support::run::{is_root, scratch, sh};
use std::path::Path;

/// Makes a file system on the mounted file, writes and removes files, and records the checksums of those that
/// stay.
const FILL: &str = r#"
    file=$1 point=$2 sums=$3
    device=
    release() {
        mountpoint -q "$point" && umount "$point"
        [ -z "$device" ] || losetup -d "$device"
    }
    trap release EXIT
    PATH=$PATH:/usr/sbin:/sbin
    device=$(losetup --find --show "$file")
    mke2fs -q -t ext4 "$device"
    mount -t ext4 "$device" "$point"
    for n in $(seq 40); do
        head -c $((n * 17001)) /dev/urandom > "$point/file-$n"
    done
    sync -f "$point"
    rm "$point"/file-1*
    cp -r /etc/ssl "$point/tree" 2>/dev/null || true
    (cd "$point" && find . -type f -exec sha256sum {} +) > "$sums"
    umount "$point"
    losetup -d "$device"
    device=
"#;

/// Checks the file system on the storage's image and the checksum of every file in it.
const CHECK: &str = r#"
    image=$1 point=$2 sums=$3
    PATH=$PATH:/usr/sbin:/sbin
    e2fsck -fn "$image"
    trap 'mountpoint -q "$point" && umount "$point"' EXIT
    mount -t ext4 -o loop,ro,noload "$image" "$point"
    (cd "$point" && sha256sum --quiet --check "$sums")
"#;

/// No process shows that the file is open: the kernel has it.
const HOLD: &str = r#"
    program=$1 mount=$2 file=$3 point=$4
    PATH=$PATH:/usr/sbin:/sbin
    device=$(losetup --find --show "$file")
    trap 'umount "$point" 2>/dev/null || true; losetup -d "$device" 2>/dev/null || true' EXIT
    refused() {
        said=$("$program" umount "$mount" 2>&1) && exit 1
        echo "$said"
        grep -qF "$device" <<< "$said" && grep -qF "losetup -d $device" <<< "$said"
    }
    refused
    mke2fs -q -t ext4 "$device"
    mount -t ext4 "$device" "$point"
    refused
    grep -qF "umount $point" <<< "$said"
    umount "$point"
    losetup -d "$device"
    trap - EXIT
"#;

#[test]
fn a_loop_device_that_keeps_the_mount_is_named_with_what_detaches_it() {
    if !is_root() {
        return;
    }
    let daemon = Daemon::start(Scheme::Https, LocalSocket::None);
    let disk = Disk::create(&daemon, Backend::Qcow2Nbd, 16 * MIB, Content::Used { seed: 9 });
    let mount = Mount::start(disk.url(), disk.args(), MountKind::Directory);
    let point = scratch();
    let file = mount.file();
    let args = [Path::new(BINARY), mount.mountpoint(), &file, point.path()];
    sh(HOLD, args, 120).ok();
    mount.umount().ok();
}

#[test]
fn ext4_on_a_loop_device_over_the_mount_is_whole_on_the_server_side() {
    if !is_root() {
        eprintln!("not tested: a loop device over a mount of an ordinary user needs root and --allow-other");
        return;
    }
    let daemon = Daemon::start(Scheme::Https, LocalSocket::None);
    let mut disk = Disk::create(&daemon, Backend::Qcow2Nbd, 96 * MIB, Content::Used { seed: 8 });
    let mount = Mount::start(disk.url(), disk.args(), MountKind::Directory);
    let (point, other) = (scratch(), scratch());
    let sums = other.path().join("sums");
    sh(FILL, [mount.file().as_path(), point.path(), &sums], 240).ok();
    mount.umount().ok();
    sh(CHECK, [disk.server_side().as_path(), point.path(), &sums], 120).ok();
}
