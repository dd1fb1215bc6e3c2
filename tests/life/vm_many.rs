//! `--vm` with more disks than the file system has threads.

use std::process::{Child, Command};

use serde_json::json;

use crate::support::content::MIB;
use crate::support::engine::Engine;
use crate::support::run::{sh, wait_until};
use crate::vm_mounts::{files, status, vm};

const DISKS: usize = 30;

/// The host of all disks answers nothing, for as long as it is waited for here.
#[test]
fn names_are_answered_while_a_program_waits_for_each_of_thirty_disks() {
    let engine = Engine::start();
    engine.add_vms(&json!([{"name": "many", "status": "down"}]));
    for n in 0..DISKS {
        engine.add_disk(&json!({"name": format!("d{n}"), "size": MIB, "format": "raw", "vm": "many"}));
    }
    let mount = engine.mounting(vm("many")).log_level("debug").start();
    let point = mount.mountpoint();
    assert_eq!(files(point).len(), DISKS);
    let stalled = engine.stall_storage();
    let readers = (0..DISKS).map(|n| {
        let mut dd = Command::new("dd");
        dd.arg(format!("if={}", point.join(format!("d{n}")).display()));
        dd.args(["of=/dev/null", "bs=64K", "count=1", "status=none"]);
        dd.spawn().expect("start a reader")
    });
    let mut readers: Vec<Child> = readers.collect();
    wait_until("each reader waits for its disk", 60, || {
        mount.log().matches(" READ ").count() == DISKS
    });
    sh(r#"ls -l "$1" >/dev/null; df "$1" >/dev/null"#, [point], 60).ok();
    let told = status(&engine, point);
    assert_eq!(told["disks"].as_array().map(Vec::len), Some(DISKS), "{told}");
    for reader in &mut readers {
        assert!(reader.try_wait().expect("look").is_none(), "a disk has answered");
    }
    drop(stalled);
    for reader in &mut readers {
        assert!(reader.wait().expect("wait for a reader").success());
    }
    mount.umount().ok();
    assert!(engine.state_files().is_empty());
}
