//! The units in `packaging/systemd`, as systemd reads them.

use crate::support::mount::BINARY;
use crate::support::run::{run, scratch, top};
use std::fs;
use std::process::Command;

/// Options of a unit that give it a mount namespace of its own (systemd.exec(5)): the mount would be seen by
/// nobody else.
const HIDES_MOUNTS: [&str; 14] = [
    "ProtectSystem",
    "ProtectHome",
    "PrivateTmp",
    "PrivateDevices",
    "PrivateMounts",
    "ReadOnlyPaths",
    "ReadWritePaths",
    "InaccessiblePaths",
    "ProtectKernelTunables",
    "ProtectKernelModules",
    "ProtectKernelLogs",
    "ProtectControlGroups",
    "ProtectProc",
    "DynamicUser",
];

#[test]
fn the_units_are_sound_and_do_not_hide_their_mounts() {
    let dir = scratch();
    let units = fs::read_dir(top().join("packaging/systemd")).expect("the units");
    let mut names = Vec::new();
    for unit in units {
        let unit = unit.expect("an entry").path();
        let text = fs::read_to_string(&unit).expect("a unit");
        for option in HIDES_MOUNTS {
            let sets = |line: &str| line.starts_with(&format!("{option}="));
            assert!(!text.lines().any(sets), "{option} in {}", unit.display());
        }
        let name = unit
            .file_name()
            .expect("a name")
            .to_str()
            .expect("UTF-8")
            .to_owned();
        // The program is not installed where the units have it.
        let text = text.replace("/usr/bin/rhv-mount", BINARY);
        let name = name.replace("@.", "@web01.");
        fs::write(dir.path().join(&name), text).expect("copy the unit");
        names.push(name);
    }
    assert_eq!(names.len(), 2);
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no", "--recursive-errors=no"]);
    let ran = run(verify.args(names.iter().map(|name| dir.path().join(name))), 60).ok();
    assert_eq!(ran.stderr.trim(), "", "systemd has something to say");
}
