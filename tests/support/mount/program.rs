//! The built program: how it is run, and its processes and mounts as the system lists them.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::START_SECONDS;
use crate::support::redaction::{Trace, assert_shows_none, secret_of};
use crate::support::run::{Ran, run};

pub const BINARY: &str = env!("CARGO_BIN_EXE_rhv-mount");
pub const URL_VARIABLE: &str = "RHV_MOUNT_TRANSFER_URL";

/// The environment variables that rhv-mount reads. They are removed, so that the environment of the person
/// who runs the tests has no effect.
const VARIABLES: &[&str] = &[
    URL_VARIABLE,
    "RHV_MOUNT_DISK",
    "RHV_MOUNT_DISK_SNAPSHOT",
    "RHV_MOUNT_CREATE",
    "RHV_MOUNT_SIZE",
    "RHV_MOUNT_STORAGE_DOMAIN",
    "RHV_MOUNT_READ_ONLY",
    "RHV_MOUNT_COMPLETE",
    "OVIRT_URL",
    "OVIRT_USERNAME",
    "OVIRT_PASSWORD",
    "OVIRT_CAFILE",
    "OVIRT_INSECURE",
    "NOTIFY_SOCKET",
    "SYSTEMD_EXEC_PID",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "JOURNAL_STREAM",
    "HTTPS_PROXY",
    "https_proxy",
];

/// Returns a command for `rhv-mount` without a `Mount`, with `url` in the environment.
pub fn rhv_mount_command(url: Option<&str>) -> Command {
    let mut command = Command::new(BINARY);
    clean_environment(&mut command);
    if let Some(url) = url {
        command.env(URL_VARIABLE, url);
    }
    command
}

/// Runs that command with `args` to its end. A call with a URL mounts, so its log is searched for the ticket.
pub fn rhv_mount<A: AsRef<OsStr>>(url: Option<&str>, args: impl IntoIterator<Item = A>) -> Ran {
    let mut command = rhv_mount_command(url);
    let trace = url.map(Trace::of);
    command.args(trace.iter().flat_map(Trace::args)).args(args);
    let ran = run(&mut command, START_SECONDS);
    if let Some(url) = url {
        assert_shows_none(&ran, &[secret_of(url)]);
    }
    ran
}

/// Removes the variables that rhv-mount would otherwise inherit from this process's environment.
pub fn clean_environment(command: &mut Command) {
    for name in VARIABLES {
        command.env_remove(name);
    }
}

/// Runs the program that follows it, in a mount namespace of its own, without the mounts of other tests.
pub const APART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/apart");

/// Returns a command that runs `script` with bash in a mount namespace of its own. The first argument that is
/// added is `$1`.
pub fn in_own_mounts(script: &str) -> Command {
    let mut command = Command::new("unshare");
    clean_environment(&mut command);
    command.args(["--mount", "--propagation", "private"]);
    command.args([APART, "bash", "-euo", "pipefail", "-c", script, "sh"]);
    command
}

/// True when the mount table has a mount at `path`.
pub fn is_mounted(path: &Path) -> bool {
    let table = fs::read("/proc/self/mountinfo").expect("read the mount table");
    // Paths are any bytes.
    table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .any(|point| point == path.as_os_str().as_encoded_bytes())
}

/// Returns the processes of the built program, or of a copy of it, that have `word` among their arguments.
pub fn processes_with(word: &OsStr) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let numbers = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers
        .filter(|pid| {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut arguments = arguments.split(|byte| *byte == 0);
            arguments
                .next()
                .is_some_and(|program| program.ends_with(b"rhv-mount"))
                && arguments.any(|argument| argument == word.as_encoded_bytes())
        })
        .collect()
}
