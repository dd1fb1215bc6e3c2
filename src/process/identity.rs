//! The identity of a process: its machine, its boot, its PID namespace and its start tell a live one from the
//! remains of a dead one, as long as it is looked for in that namespace. A lock ([`super::lock`]) tells it
//! everywhere.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Longest time that a killed process may take to let go of its files.
pub(crate) const DYING_LIMIT: Duration = Duration::from_secs(5);

/// Returns when a process began, in clock ticks since boot (field 22 of `/proc/PID/stat`). A process that has
/// ended and that nobody has waited for yet counts as gone; one that is about to end (it has no memory any
/// more) is waited for.
pub(crate) fn start_of(pid: u32) -> Option<u64> {
    let until = Instant::now() + DYING_LIMIT;
    loop {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Fields 3, 22 and 23 are state, start and bytes of memory. The name before them may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let (state, start, memory) = (fields.first()?, fields.get(19)?, fields.get(20)?);
        match (*state, *memory) {
            ("Z" | "X", _) => return None,
            (_, "0") if Instant::now() < until => sleep(Duration::from_millis(10)),
            _ => return start.parse().ok(),
        }
    }
}

/// Says why a process that is there may not answer, and what to do about it.
pub(crate) fn why_silent(pid: u32) -> String {
    match state_of(pid) {
        Some('T') => format!("process {pid} is stopped; `kill -CONT {pid}` lets it go on"),
        Some('t') => format!("process {pid} is stopped by a debugger"),
        Some('D') => format!(
            "process {pid} waits in the kernel and cannot be interrupted: for a storage, for memory, or \
             because its control group is frozen"
        ),
        Some(_) => format!("process {pid} is there, and busy, frozen or stuck"),
        None => format!("process {pid} cannot be seen from here"),
    }
}

/// The state of a process as one letter (field 3 of `/proc/PID/stat`).
fn state_of(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// The name of this machine.
pub(crate) fn this_machine() -> String {
    kernel_says("hostname")
}

/// The id of this boot: another one at every boot.
pub(crate) fn this_boot() -> String {
    kernel_says("random/boot_id")
}

/// The PID namespace of this process: a process number means something in its own namespace only.
pub(crate) fn this_pid_namespace() -> String {
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    namespace.display().to_string()
}

fn kernel_says(what: &str) -> String {
    let text = fs::read_to_string(format!("/proc/sys/kernel/{what}")).unwrap_or_default();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_number() {
        let now = start_of(std::process::id());
        assert!(now.is_some());
        assert_eq!(start_of(u32::MAX), None);
    }

    #[test]
    fn a_stopped_process_is_told_from_one_that_runs() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        let until = Instant::now() + DYING_LIMIT;
        let said = || why_silent(child.id());
        while !said().contains("kill -CONT") {
            assert!(Instant::now() < until, "{}", said());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(why_silent(child.id()).contains("cannot be seen"));
    }

    #[test]
    fn a_killed_process_is_gone_before_anybody_has_waited_for_it() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(start_of(child.id()).is_some());
        child.kill().unwrap();
        let until = Instant::now() + DYING_LIMIT;
        while start_of(child.id()).is_some() {
            assert!(Instant::now() < until, "still there");
        }
        child.wait().unwrap();
    }
}
