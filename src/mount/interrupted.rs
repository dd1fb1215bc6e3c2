//! The answer to a signal, at once: what is stopped, what the disk holds then, and what the next signal does.

use signal_hook::consts::SIGINT;

use super::Mount;
use crate::output;
use crate::signals::{begin_a_line, tell};

/// Tells that COMMAND is stopped, or, the second time, killed.
pub(super) fn tell_of_command(mount: &Mount, signal: i32, again: bool) {
    if again {
        return tell(signal, "COMMAND is killed");
    }
    let disks: Vec<String> = mount.disks().map(|disk| disk.when_stopped(false)).collect();
    let disks = disks.join("; ");
    tell(
        signal,
        &format!("COMMAND is to end, and the next signal kills it; {disks}"),
    );
}

/// Tells that ctrl-C has ended COMMAND, before it was seen here.
pub(super) fn tell_of_its_end(mount: &Mount) {
    tell(SIGINT, &format!("COMMAND is stopped; {}", after_command(mount)));
}

/// Tells that COMMAND has ended with the status that it would have after a ctrl-C, of which nothing is known
/// here.
pub(super) fn tell_of_a_like_end(mount: &Mount, status: u8) {
    let disks = after_command(mount);
    output::tell(format_args!(
        "COMMAND has ended with exit status {status}; {disks}"
    ));
}

fn after_command(mount: &Mount) -> String {
    let disks: Vec<String> = mount.disks().map(|disk| disk.when_stopped(true)).collect();
    disks.join("; ")
}

/// Tells that the mount ends, to whoever has pressed ctrl-C. A service manager knows what it has asked for.
pub(super) fn tell_of_end(signal: i32) {
    if signal == SIGINT {
        begin_a_line(signal);
        output::inform(
            "unmounting: what is not on the storage yet is brought there, and the transfer ends; the next \
             ctrl-C gives up on that",
        );
    }
}
