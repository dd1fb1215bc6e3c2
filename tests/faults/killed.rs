//! A mount that is killed while it starts: it looks through its own mount then, and must not wait for itself
//! for ever.

use crate::rig::{MIB, settings, used_server};
use crate::server::{Action, Fault, Verb};
use crate::support::foreground::Foreground;
use crate::support::mount::{is_mounted, rhv_mount, rhv_mount_command};
use crate::support::run::{scratch, wait_until};
use nix::sys::signal::Signal;

/// The look waits for the extents, which the server does not tell, for a second.
#[test]
fn a_mount_that_is_killed_while_it_looks_at_itself_ends() {
    let server = used_server(settings(MIB));
    server.arm(Fault::always(Verb::Extents, Action::Hold));
    let dir = scratch();
    let point = dir.path().join("disk.raw");
    let mut command = rhv_mount_command(Some(&server.url()));
    command.arg("--foreground").arg(&point);
    let mut mount = Foreground::spawn(&mut command);
    wait_until("it is mounted", 60, || is_mounted(&point));
    mount.signal(Signal::SIGKILL);
    mount.wait(60);
    let dead = std::fs::metadata(&point).map_err(|e| e.raw_os_error());
    assert_eq!(
        dead.err(),
        Some(Some(libc::ENOTCONN)),
        "a dead mount answers at once"
    );
    rhv_mount(None, ["umount", point.to_str().expect("a plain path")]);
    assert!(!is_mounted(&point), "it is still in the tree");
}
