//! The way of the settings from the process that read the command line to the one that serves the mount.
//!
//! `ps` shows a transfer URL in argv or in the environment for as long as the process lives. So the first
//! process writes the checked settings into a memory file and becomes a new one, with a clean argv and
//! environment, that reads them from there. In the background form that one starts the server the same way
//! and waits until the server says [`READY`] on its stdout.
//!
//! ```text
//! rhv-mount --transfer-url https://.../images/SECRET /mnt        reads, checks, execs
//!   rhv-mount --settings-fd 3 /mnt                               foreground: serves
//!                                                                background: starts and waits for
//!     rhv-mount --settings-fd 4 /mnt                             ... the server, in a session of its own
//! ```
//!
//! Nothing forks without exec, so there is no `unsafe` and no question of which threads survive.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, close, dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGKILL, SIGTERM};
use signal_hook::iterator::Signals;
use zeroize::Zeroizing;

use super::{allocator, privacy};
use crate::failure::{Exit, Failure};

/// The line that the server prints when the file is usable.
const READY: &str = "ready";

/// The part of the next process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Serve in this process.
    Foreground,
    /// Start the server and wait until it is ready.
    Launcher,
    /// Serve, detached from the terminal, and tell the launcher when the file is usable.
    Background,
}

/// Settings that travel from one process to the next.
pub(crate) trait Errand: Serialize + DeserializeOwned {
    /// Environment variables that hold secrets. No later process inherits them.
    const SECRET_VARIABLES: &'static [&'static str];

    /// The argument that `ps` shows beside the program's name.
    fn shown(&self) -> &Path;

    /// Keeps the secrets in these settings out of every output of this process.
    fn hide_secrets(&self);
}

#[derive(Serialize, Deserialize)]
struct Handover<T> {
    role: Role,
    settings: T,
}

fn failed(what: &str, error: impl std::fmt::Display) -> Failure {
    Failure::text(Exit::Other, format!("{what}: {error}"))
}

/// Makes a command that runs this program again with `settings`, and the memory file, which must stay open
/// until the command has started.
fn again<T: Errand>(role: Role, settings: &T) -> Result<(Command, OwnedFd), Failure> {
    // It has no close-on-exec flag: the next process inherits it, under the number in its arguments.
    let memory = memfd_create(c"rhv-mount-settings", MFdFlags::empty())
        .map_err(|e| failed("cannot make a memory file", e))?;
    let handover = Handover { role, settings };
    let json = serde_json::to_vec(&handover)
        .map(Zeroizing::new)
        .map_err(|e| failed("cannot write the settings", e))?;
    let copy = memory.try_clone().map_err(|e| failed("memory file", e))?;
    File::from(copy)
        .write_all(&json)
        .map_err(|e| failed("memory file", e))?;
    let program = std::env::current_exe().map_err(|e| failed("cannot find my own program", e))?;
    let mut command = Command::new(program);
    command
        .arg0("rhv-mount")
        .args(["--settings-fd", &memory.as_raw_fd().to_string()])
        .arg(settings.shown());
    for variable in T::SECRET_VARIABLES {
        command.env_remove(variable);
    }
    allocator::tune(&mut command);
    Ok((command, memory))
}

/// Becomes the process that acts on `settings` as `role`; returns only if that fails.
pub(crate) fn become_clean(role: Role, settings: &impl Errand) -> Failure {
    match again(role, settings) {
        Ok((mut command, _memory)) => {
            let failure = privacy::as_before(|| command.exec());
            failed("cannot run myself again", failure)
        }
        Err(failure) => failure,
    }
}

/// Upper bound on the settings, in bytes. The kernel takes at most 6 MiB of arguments, and each byte of them
/// becomes up to four here.
const HANDOVER_LIMIT: u64 = 32 << 20;

/// Reads the settings that the previous process left in `fd`, and closes it.
pub(crate) fn receive<T: Errand>(fd: i32) -> Result<(Role, T), Failure> {
    let refuse = |e: &dyn std::fmt::Display| {
        Failure::text(
            Exit::Usage,
            format!("--settings-fd is for rhv-mount's own use: {e}"),
        )
    };
    let file = File::open(format!("/proc/self/fd/{fd}")).map_err(|e| refuse(&e))?;
    let size = file.metadata().map_err(|e| refuse(&e))?.len();
    // The buffer has its full size at once: a growing one would leave copies behind that are not overwritten.
    let mut json = Zeroizing::new(Vec::with_capacity(size.min(HANDOVER_LIMIT) as usize + 1));
    file.take(HANDOVER_LIMIT)
        .read_to_end(&mut json)
        .map_err(|e| refuse(&e))?;
    let handover: Handover<T> = serde_json::from_slice(&json).map_err(|e| refuse(&e))?;
    // COMMAND and fusermount3 must not inherit it.
    close(fd).map_err(|e| refuse(&e))?;
    handover.settings.hide_secrets();
    Ok((handover.role, handover.settings))
}

/// Starts the server in the background. Returns 0 when it is ready, and its exit code when it failed; the
/// server has said why.
pub(crate) fn launch(settings: &impl Errand) -> Result<u8, Failure> {
    let (mut command, memory) = again(Role::Background, settings)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut server = privacy::as_before(|| command.spawn())
        .map_err(|e| Failure::text(Exit::Mount, format!("cannot start the background process: {e}")))?;
    drop(memory);
    // Ctrl-C reaches only this process: the server is in a session of its own. A signal lets it end in order.
    let pid = Pid::from_raw(server.id() as i32);
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(|e| failed("cannot catch signals", e))?;
    let passing_on = super::spawn("signals", move || {
        for _ in signals.forever() {
            let _ = kill(pid, Signal::SIGTERM);
        }
    });
    if let Err(failure) = passing_on {
        // The server ends in order when it finds nobody to tell that it is ready.
        let _ = kill(pid, Signal::SIGTERM);
        return Err(failure);
    }
    let mut line = String::new();
    let stdout = server.stdout.take().expect("it is piped");
    let _ = BufReader::new(stdout).read_line(&mut line);
    if line.trim_end() == READY {
        return Ok(Exit::Done as u8);
    }
    let status = server
        .wait()
        .map_err(|e| failed("cannot wait for the background process", e))?;
    if let Some(signal) = status.signal() {
        return Err(Failure::text(
            Exit::Other,
            format!(
                "the background process {pid} was killed by signal {signal} before the disk was mounted{}",
                match signal {
                    SIGKILL => ": by somebody, or by the kernel because memory ran out (see dmesg)",
                    _ => "",
                }
            ),
        ));
    }
    // A server that ended well without being ready has failed all the same.
    Ok(status
        .code()
        .filter(|&code| code != 0)
        .map_or(Exit::Other as u8, |code| code as u8))
}

/// Leaves the launcher's session, so that its terminal's signals don't reach the mount.
pub(crate) fn detach() -> Result<(), Failure> {
    setsid().map_err(|e| failed("cannot leave the session", e))?;
    std::env::set_current_dir("/").map_err(|e| failed("cannot change to /", e))
}

/// Tells the launcher that the file is usable, and lets go of its terminal. An error means that the launcher
/// is gone: nobody wants the mount any more.
pub(crate) fn tell_ready() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{READY}")?;
    out.flush()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(())
}
