//! The unit of `packaging/systemd`, and the other forms of a unit that `docs/service.md` names, under a real
//! systemd: the first process of namespaces of its own, with few units beside ours.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::existing::expected;
use crate::rig::{assert_free, assert_nothing_deleted, used_disk};
use crate::support::content::{MIB, Random};
use crate::support::engine::{Engine, PASSWORD, USER, write_private};
use crate::support::mount::{APART, BINARY, clean_environment};
use crate::support::redaction::assert_shows_none;
use crate::support::run::{is_root, run, text, top};

/// Runs the script `$2` in namespaces and in a control group of its own, which is removed afterwards. `$1` is
/// the directory of the test.
const ISOLATE: &str = r#"
mkdir "$1/groups"
mount -t cgroup2 none "$1/groups"
group="$1/groups/rhv-mount-test-$$"
mkdir "$group"
code=0
(
    echo $BASHPID >"$group/cgroup.procs"
    exec unshare --mount --propagation private --cgroup --ipc --uts --pid --fork --kill-child --mount-proc \
        bash -euc "$2" sh "$1"
) || code=$?
find "$group" -depth -type d -exec rmdir {} +
exit $code
"#;

/// Makes the namespaces' own `/run`, `/etc` and control groups, and becomes systemd.
const BOOT: &str = r#"
mount -t tmpfs none /run
cp -a /etc "$1/etc"
cp -p "$1/ovirt-img.conf" "$1/etc/ovirt-img.conf"
mkdir -p "$1/etc/default"
cp "$1"/default/* "$1/etc/default"
mount --bind "$1/etc" /etc
mount -t cgroup2 none /sys/fs/cgroup
export container=test SYSTEMD_UNIT_PATH="$1/units"
exec /lib/systemd/systemd --system --unit=test.target --machine-id=0123456789abcdef0123456789abcdef \
    --log-target=console --log-level=notice --show-status=no
"#;

/// Works on a mount in each form of a unit, and stops it; the last one is left for the shutdown. The stop of
/// a unit takes longer than the time that it has, because the engine does.
const DRIVE: &str = r#"
at_work() {
    systemctl start "$1"
    # The process that serves speaks a moment after the launcher.
    [ "$2" = web03 ] || until systemctl show -p StatusText "$1" | grep -q "=$2 on"; do sleep 0.1; done
    systemctl show -p ActiveState -p StatusText -p MainPID -p NotifyAccess "$1"
    dd if="$dir/source-$2" of="$dir/$2/disk" conv=notrunc status=none
}
stopped() {
    systemctl stop "$1"
    systemctl show -p ActiveState -p Result -p ExecMainStatus "$1"
}
at_work rhv-mount@web01.service web01
stopped rhv-mount@web01.service
at_work background.service web02
stopped background.service
at_work forking.service web03
pid=$(cat /run/web03.pid)
[ "$pid" = "$(systemctl show --value -p MainPID forking.service)" ]
stopped forking.service
[ ! -e /run/web03.pid ]
at_work rhv-mount@web04.service web04
echo all done
"#;

/// Returns a unit that mounts the disk `name` in the background form, with `lines` of its own.
fn background(lines: &str, options: &str, name: &str, dir: &Path) -> String {
    format!(
        "[Service]\n{lines}ExecStart={BINARY} {options} -c {name} {}\n",
        dir.join(name).display()
    )
}

fn write_units(dir: &Path) {
    let units = dir.join("units");
    fs::create_dir(&units).expect("make a directory");
    let write = |name: &str, text: &str| fs::write(units.join(name), text).expect("write a unit");
    for name in [
        "sysinit.target",
        "basic.target",
        "network-online.target",
        "nss-lookup.target",
        "time-sync.target",
    ] {
        write(name, "[Unit]\nDefaultDependencies=no\n");
    }
    for name in [
        "exit.target",
        "systemd-exit.service",
        "shutdown.target",
        "umount.target",
        "final.target",
        "systemd-journald.socket",
    ] {
        let own = Path::new("/lib/systemd/system").join(name);
        symlink(own, units.join(name)).expect("link a unit");
    }
    write(
        "systemd-journald.service",
        "[Unit]\nDefaultDependencies=no\nRequires=systemd-journald.socket\nAfter=systemd-journald.socket\n\
         [Service]\nType=notify\nSockets=systemd-journald.socket\nExecStart=/lib/systemd/systemd-journald\n",
    );
    write(
        "test.target",
        "[Unit]\nRequires=driver.service systemd-journald.service\n",
    );
    write(
        "driver.service",
        &format!(
            "[Unit]\nAfter=systemd-journald.service\nSuccessAction=exit\nFailureAction=exit\n\
             [Service]\nType=oneshot\nEnvironment=dir={0}\nExecStart=/bin/bash -eux {0}/drive\n\
             StandardOutput=file:{0}/said\nStandardError=file:{0}/said\n",
            dir.display()
        ),
    );
    let packaged = top().join("packaging/systemd/rhv-mount@.service");
    let packaged = text(&packaged).replace("/usr/bin/rhv-mount", BINARY);
    let short = packaged.replace("[Service]\n", "[Service]\nTimeoutStopSec=8\n");
    write("rhv-mount@.service", &short);
    let notify = "Type=notify\nTimeoutStopSec=8\n";
    write("background.service", &background(notify, "", "web02", dir));
    let forking = "Type=forking\nPIDFile=/run/web03.pid\n";
    let pid_file = "--pid-file /run/web03.pid";
    write("forking.service", &background(forking, pid_file, "web03", dir));
}

/// Every form is active when the disk can be used, has a status, is stopped by a systemd that waits for the
/// engine, and ends well; and so does one that is left to the shutdown.
#[test]
fn units_wait_for_the_disk_at_the_start_and_for_its_bytes_at_the_end_and_at_a_shutdown() {
    if !is_root() {
        return;
    }
    let engine = Engine::start();
    let dir = engine.dir().join("systemd");
    fs::create_dir_all(dir.join("default")).expect("make a directory");
    let names = ["web01", "web02", "web03", "web04"];
    let mut config = String::new();
    let mut disks = Vec::new();
    for (seed, name) in (91..).zip(names) {
        disks.push(used_disk(&engine, name, "raw"));
        fs::create_dir(dir.join(name)).expect("make a mountpoint");
        let source = Random::new(seed).bytes(MIB as usize);
        fs::write(dir.join(format!("source-{name}")), source).expect("write a source");
        let options = format!("MOUNTPOINT={}\n", dir.join(name).display());
        fs::write(dir.join(format!("default/rhv-mount-{name}")), options).expect("write options");
        config += &format!(
            "[{name}]\nengine_url = {}\nusername = {USER}\npassword = {PASSWORD}\ncafile = {}\n\
             disk = {name}\n",
            engine.url(),
            engine.cafile().display()
        );
    }
    write_private(&dir.join("ovirt-img.conf"), &config);
    write_units(&dir);
    fs::write(dir.join("drive"), DRIVE).expect("write the driver");
    fs::set_permissions(&dir, Permissions::from_mode(0o755)).expect("open the directory");
    engine.switch(&json!({"switch": "finalize_slow", "value": 12}));
    let mut boot = Command::new("unshare");
    clean_environment(&mut boot);
    boot.args([
        "--mount",
        "--propagation",
        "private",
        APART,
        "bash",
        "-euc",
        ISOLATE,
        "sh",
    ]);
    boot.arg(&dir).arg(BOOT);
    let ran = run(&mut boot, 240);
    let said = text(&dir.join("said"));
    println!("{ran}\n{said}");
    assert!(said.contains("all done"));
    assert_shows_none(&ran, &[PASSWORD]);
    assert_eq!(said.matches("ActiveState=active").count(), 4, "{said}");
    assert_eq!(said.matches("ActiveState=inactive").count(), 3, "{said}");
    assert_eq!(
        said.matches("Result=success\nExecMainStatus=0").count(),
        3,
        "{said}"
    );
    // The packaged unit, in the foreground form, and one in the background form: only the main process is
    // heard.
    assert_eq!(said.matches("NotifyAccess=main").count(), 3, "{said}");
    for (name, told) in [
        ("web01", true),
        ("web02", true),
        ("web03", false),
        ("web04", true),
    ] {
        let status = format!("StatusText={name} on {}: ", dir.join(name).display());
        assert_eq!(said.contains(&status), told, "{said}");
    }
    for ((seed, _), (disk, content)) in (91..).zip(names).zip(&disks) {
        assert_free(&engine, &disk.id, &expected(content, 0, MIB, seed));
    }
    assert_nothing_deleted(&engine);
    assert!(engine.state_files().is_empty(), "{said}");
}
