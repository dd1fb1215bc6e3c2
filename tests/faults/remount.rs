//! A dead mount is in the way of the next one: `--remount` removes it, and nothing else does.

use crate::rig::{MIB, Rig, pattern, settings, used_server};
use crate::support::mount::{MountKind, Mounting, is_mounted, rhv_mount};
use std::fs;
use std::path::Path;

const MOUNT_FAILED: i32 = 6;

#[test]
fn a_dead_mount_is_removed_by_remount_and_by_no_mount_without_it() {
    for kind in [MountKind::Directory, MountKind::File, MountKind::New] {
        let server = used_server(settings(4 * MIB));
        let url = server.url();
        let dead = Mounting::new(&url).kind(kind).start();
        let point = dead.mountpoint();
        dead.kill();
        let refused = rhv_mount(Some(&url), [point]);
        assert_eq!(refused.code, Some(MOUNT_FAILED), "{kind:?}: {refused}");
        assert!(refused.stderr.contains("--remount"), "{kind:?}: {refused}");
        assert!(is_mounted(point), "{kind:?}: it was removed: {refused}");
        let again = rhv_mount(Some(&url), [Path::new("--remount"), point]).ok();
        assert!(
            again.stderr.contains("the dead mount is removed"),
            "{kind:?}: {again}"
        );
        assert!(fs::read(dead.file()).unwrap() == pattern(9, 4 * MIB as usize));
        rhv_mount(None, [Path::new("umount"), point]).ok();
        assert_eq!(point.exists(), kind != MountKind::New, "{kind:?}: the mountpoint");
        let clean = rhv_mount(Some(&url), [Path::new("--remount"), point]).ok();
        assert_eq!(clean.stderr, "", "{kind:?}: nothing was in the way");
        rhv_mount(None, [Path::new("umount"), point]).ok();
    }
}

#[test]
fn a_mount_that_is_alive_is_not_removed_by_remount() {
    let rig = Rig::over(used_server(settings(4 * MIB)), &[]);
    let ran = rhv_mount(
        Some(&rig.server.url()),
        [Path::new("--remount"), rig.mount.mountpoint()],
    );
    assert_eq!(ran.code, Some(MOUNT_FAILED), "{ran}");
    assert!(ran.stderr.contains("already mounted"), "{ran}");
    assert!(fs::read(rig.mount.file()).unwrap() == pattern(9, 4 * MIB as usize));
    assert_eq!(rig.umount().0.code, Some(0));
}
