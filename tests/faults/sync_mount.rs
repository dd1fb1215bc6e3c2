//! A mount with the option `sync`: every change is on the storage before it is answered.

use std::os::unix::fs::FileExt;

use crate::rig::{MIB, Rig, pattern, punch_hole, settings, used_server};

#[test]
fn on_a_mount_with_sync_every_change_is_durable_before_it_is_answered() {
    let rig = Rig::over(used_server(settings(8 * MIB)), &["-o", "sync"]);
    let file = rig.read_write();
    file.write_all_at(&pattern(1, 5000), 77).unwrap();
    assert!(rig.server.read_durable(77..5077) == pattern(1, 5000));
    punch_hole(&file, MIB..2 * MIB).unwrap();
    assert!(rig.server.read_durable(MIB..2 * MIB) == vec![0; MIB as usize]);
    file.set_len(4 * MIB).unwrap();
    assert!(rig.server.read_durable(4 * MIB..8 * MIB) == vec![0; 4 * MIB as usize]);
    drop(file);
    assert_eq!(rig.umount().0.code, Some(0));
}
