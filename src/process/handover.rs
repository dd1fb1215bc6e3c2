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
//! Under a service manager the launcher passes its part on to the server before it ends, and the manager
//! waits for the end of its own children alone: systemd kills another one at once where it should be stopped.
//! So a process in between starts the server there and ends, which makes the server a child of the manager's.
//!
//! Nothing forks without exec, so there is no `unsafe` and no question of which threads survive.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, close, dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGKILL, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use tracing::info;
use zeroize::Zeroizing;

use super::notify::{self, Word};
use super::{allocator, limits, privacy};
use crate::failure::{Exit, Failure};

/// The line that the server prints when the file is usable.
const READY: &str = "ready";

/// The word before the server's exit code in the line that it prints when it ends without being ready.
const ENDED: &str = "ended";

/// Longest wait for the launcher to end, in milliseconds, before the server speaks to the service manager.
const LAUNCHER_MS: u16 = 5000;

/// The part of the next process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Serve in this process.
    Foreground,
    /// Start the server and wait until it is ready.
    Launcher,
    /// Start the server and end, so that it is no child of the launcher's.
    Between,
    /// Serve, detached from the terminal, and tell the launcher when the file is usable.
    Background,
}

/// Settings that travel from one process to the next.
pub(crate) trait Errand: Serialize + DeserializeOwned {
    /// Environment variables that hold secrets. No later process inherits them.
    fn secret_variables(&self) -> &'static [&'static str];

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
    let copy = memory
        .try_clone()
        .map_err(|e| failed("cannot fill the memory file", e))?;
    File::from(copy)
        .write_all(&json)
        .map_err(|e| failed("cannot fill the memory file", e))?;
    let program = std::env::current_exe().map_err(|e| failed("cannot find my own program", e))?;
    let mut command = Command::new(program);
    command
        .arg0("rhv-mount")
        .args(["--settings-fd", &memory.as_raw_fd().to_string()])
        .arg(settings.shown());
    for variable in settings.secret_variables() {
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
    // A mount in the background would take the place of the service that has started it.
    let under_manager = notify::is_wanted() && notify::is_for_us();
    let (mut command, memory) = again(
        match under_manager {
            true => Role::Between,
            false => Role::Background,
        },
        settings,
    )?;
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    match under_manager {
        true => notify::pass_on(&mut command),
        false => notify::keep_from(&mut command),
    }
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1]).map_err(|e| failed("cannot catch signals", e))?;
    let (tell, told) = channel();
    // Ctrl-C reaches only this process: the server is in a session of its own. A signal lets it end in order.
    // The thread is there before the server: without it, nothing has begun that would still have to end.
    super::spawn("signals", move || {
        let Ok(server) = told.recv() else { return };
        // There are no statistics yet for which SIGUSR1 asks.
        for _ in signals.forever().filter(|signal| *signal != SIGUSR1) {
            let _ = kill(server, Signal::SIGTERM);
        }
    })?;
    let mut server = privacy::as_before(|| command.spawn()).map_err(|e| limits::no_process(&e))?;
    drop(memory);
    // The server sees by the end of the pipe that the launcher has spoken.
    let mut words = BufReader::new(server.stdout.take().expect("it is piped"));
    let pid = match under_manager {
        true => server_of(&mut server, &mut words)?,
        false => server.id(),
    };
    let pid = Pid::from_raw(pid as i32);
    // The thread is there until this process ends.
    let _ = tell.send(pid);
    let mut line = String::new();
    let _ = words.read_line(&mut line);
    let line = line.trim_end();
    if line == READY {
        if under_manager {
            notify::tell(&[Word::MainPid(pid.as_raw() as u32), Word::Ready]);
        }
        return Ok(Exit::Done as u8);
    }
    if under_manager {
        // A server that ended well without being ready has failed all the same.
        let code = line
            .strip_prefix(ENDED)
            .and_then(|code| code.trim_start().parse().ok())
            .filter(|code| *code != 0);
        return code.ok_or_else(|| {
            let message = format!(
                "the background process {pid} was killed, or ended without a word, before the disk was \
                 mounted"
            );
            Failure::text(Exit::Other, message)
        });
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

/// Waits until the process `between` has started the server, told its number in the first of `words`, and
/// ended.
fn server_of(between: &mut Child, words: &mut impl BufRead) -> Result<u32, Failure> {
    let mut line = String::new();
    let _ = words.read_line(&mut line);
    let ended = between.wait();
    let ended = ended.map_err(|e| {
        failed(
            "cannot wait for the process that starts the background process",
            e,
        )
    })?;
    line.trim_end().parse().map_err(|_| {
        failed(
            "cannot start the background process",
            format_args!("the process that starts it ended with {ended}"),
        )
    })
}

/// Starts the server for the launcher, tells its number, and lets it wait for the end of this process.
pub(crate) fn start_apart(settings: &impl Errand) -> Result<u8, Failure> {
    // A signal of the terminal's is the launcher's to pass on; this process has to tell the number.
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let _ = signal_hook::flag::register(signal, Arc::default());
    }
    let (mut command, memory) = again(Role::Background, settings)?;
    // The server's first line must come after the number, so it waits for the end of this process.
    command.stdin(Stdio::piped());
    let server = privacy::as_before(|| command.spawn()).map_err(|e| limits::no_process(&e))?;
    drop(memory);
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", server.id())?;
    out.flush()?;
    Ok(Exit::Done as u8)
}

/// Tells the launcher the exit code of a server that ends. Once the disk is mounted, nobody listens.
pub(crate) fn tell_ended(code: u8) {
    if notify::is_wanted() {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{ENDED} {code}").and_then(|()| out.flush());
    }
}

/// Leaves the launcher's session, so that its terminal's signals don't reach the mount.
pub(crate) fn detach() -> Result<(), Failure> {
    setsid().map_err(|e| failed("cannot leave the session", e))?;
    // It is a pipe only where the process that has started this one tells its number first, and then ends.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    std::env::set_current_dir("/").map_err(|e| failed("cannot change to /", e))
}

/// Tells the launcher that the file is usable, and lets go of its terminal. An error means that the launcher
/// is gone: nobody wants the mount any more.
pub(crate) fn tell_ready() -> std::io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{READY}")?;
    out.flush()?;
    if notify::is_wanted() {
        // Until the launcher has passed its part on, the service manager does not listen to this process.
        let mut launcher = [PollFd::new(out.as_fd(), PollFlags::empty())];
        while poll(&mut launcher, PollTimeout::from(LAUNCHER_MS)) == Err(Errno::EINTR) {}
    }
    // From here on the mount is wanted, and a stream that stays open is no reason to end it.
    for moved in [dup2_stdin(&null), dup2_stdout(&null), dup2_stderr(&null)] {
        if let Err(e) = moved {
            info!("a stream of the launcher's stays open: {e}");
        }
    }
    Ok(())
}
