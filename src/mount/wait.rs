//! From ready to unmounted: the events that end the mount, and its way out of the tree.
//!
//! The main thread waits here. Under COMMAND the mount ends when COMMAND does: `umount` is refused and
//! signals are passed on. Acknowledged data stays in memory when the mount leaves the tree; `close` brings it
//! home.

use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGINT, SIGTERM};
use tracing::warn;

use super::mount_table::{is_mounted, is_seen_at};
use super::mountpoint::take_out;
use super::record::Ending;
use super::{Event, Mount, command, control, interrupted};
use crate::failure::{Exit, Failure};
use crate::fuse::MountError;
use crate::output::tell;
use crate::process::handover::{self, Role};
use crate::process::{rights, spawn};
use crate::supervisor::Stage;

/// How long COMMAND may take to end after a signal was passed on to it.
const COMMAND_GRACE: Duration = Duration::from_secs(10);

/// The status with which a COMMAND often ends that has handled ctrl-C itself: 128 and the number of SIGINT.
const COMMAND_INTERRUPTED: u8 = 130;

/// How long an unmount waits for a straggler to close the file.
const STRAGGLER_GRACE: Duration = Duration::from_secs(1);

/// How long an end that somebody waits for gives the last holder, once the mount has left the tree. A bind
/// mount, or a container that has the mount in its namespace, may never let go.
const HOLDER_GRACE: Duration = Duration::from_secs(3);

/// A ctrl-C goes to COMMAND and to this process. Where the end of COMMAND came first, it is answered already.
const SAME_KEY: Duration = Duration::from_secs(1);

/// The reason why the mount ended, and who waits for the outcome.
#[derive(Default)]
pub(super) struct Ended {
    /// COMMAND's status.
    pub(super) command: Option<u8>,
    /// Calls of `rhv-mount umount` that wait for the outcome.
    pub(super) waiting: Vec<UnixStream>,
    /// Another mount holds the file system, which does not wait for it.
    pub(super) cut_off: bool,
    /// A signal has come, and not while COMMAND ran: the next one gives up.
    pub(super) signalled: bool,
    /// Another one came while the disks ended, and they were given up.
    pub(super) gave_up: bool,
    /// When it was told that ctrl-C has ended COMMAND; the signal itself is still to come here.
    pub(super) interrupted: Option<Instant>,
    /// The launcher went away before it was told of the mount.
    pub(super) unused: bool,
}

impl Ended {
    /// True for the signal of a ctrl-C that has ended COMMAND, which was answered then.
    pub(super) fn has_answered(&mut self, signal: i32) -> bool {
        let told = self.interrupted.take().filter(|_| signal == SIGINT);
        told.is_some_and(|told| told.elapsed() < SAME_KEY)
    }
}

/// Waits until something ends the mount, and takes it out of the tree.
pub(super) fn wait(
    mount: &Mount,
    inbox: &Receiver<Event>,
    events: &Sender<Event>,
    role: Role,
) -> Result<Ended, Failure> {
    let mut ended = Ended::default();
    mount.write_pid_file()?;
    if role == Role::Background && handover::tell_ready().is_err() {
        ended.unused = true;
        leave_now(mount);
        return Ok(ended);
    }
    mount.supervisor.enter(Stage::Mounted);
    let mut child = None;
    if !mount.settings.command.is_empty() {
        // No COMMAND may run on after the mount, so the thread that waits for its end comes first.
        let watch = watch(events.clone())?;
        match command::start(&mount.settings.command, &mount.mountpoint.file) {
            Ok(started) => {
                child = Some(Pid::from_raw(started.id() as i32));
                let _ = watch.send(started);
            }
            Err((code, failure)) => {
                tell(&failure);
                ended.command = Some(code);
                leave_now(mount);
                return Ok(ended);
            }
        }
    }
    let (mut deadline, mut under_command) = (None, false);
    loop {
        let event = match deadline {
            None => inbox.recv().ok(),
            Some(at) => inbox.recv_deadline(at).ok(),
        };
        match event {
            Some(Event::Unmounted) => {
                // An aborted connection leaves its mount behind, dead.
                leave_now(mount);
                if child.is_none() {
                    return Ok(ended);
                }
                under_command = true;
            }
            Some(Event::Umount(stream)) if child.is_some() => {
                refuse(
                    mount,
                    stream,
                    "COMMAND is at work on it; the mount ends when COMMAND does",
                );
            }
            Some(Event::Umount(stream)) => match leave_soon(mount) {
                Some(busy) => refuse(mount, stream, busy),
                None => {
                    ended.waiting.push(stream);
                    deadline.get_or_insert_with(|| Instant::now() + HOLDER_GRACE);
                }
            },
            Some(Event::CommandEnded(status)) => {
                ended.command = Some(command::code(status));
                // The report of the session's end may come after that of COMMAND's end, which was later.
                under_command |= !is_mounted(&mount.mountpoint.path);
                // No signal has come here yet.
                if deadline.is_none() {
                    if status.signal() == Some(SIGINT) {
                        interrupted::tell_of_its_end(mount);
                        ended.interrupted = Some(Instant::now());
                    } else if ended.command == Some(COMMAND_INTERRUPTED) {
                        interrupted::tell_of_a_like_end(mount, COMMAND_INTERRUPTED);
                    }
                }
                if !status.success() {
                    tell_of_overflow(mount);
                }
                if under_command && status.success() {
                    tell(format_args!(
                        "{} was unmounted while COMMAND ran: what it wrote after that is not \
                         on the disk",
                        mount.mountpoint.path.display()
                    ));
                    ended.command = Some(Exit::Mount as u8);
                }
                if let Some(busy) = leave_soon(mount) {
                    warn!("{busy}; cutting off");
                    leave_now(mount);
                }
                return Ok(ended);
            }
            Some(Event::Signal(signal)) => match child {
                None => {
                    ended.signalled = true;
                    interrupted::tell_of_end(signal);
                    leave_now(mount);
                    return Ok(ended);
                }
                Some(pid) => {
                    let again = deadline.is_some();
                    pass_on(pid, signal, again);
                    interrupted::tell_of_command(mount, signal, again);
                    deadline = Some(Instant::now() + COMMAND_GRACE);
                }
            },
            Some(Event::Disk(..) | Event::BackupEnded(_)) => {}
            None => match child {
                Some(pid) => {
                    warn!("COMMAND does not end; killing it");
                    pass_on(pid, SIGTERM, true);
                    deadline = Some(Instant::now() + COMMAND_GRACE);
                }
                // It has left the tree here, and the session goes on.
                None if mount.open_files.any() => {
                    deadline = None;
                    let waiting = ended.waiting.drain(..);
                    waiting.for_each(|stream| control::answer(stream, &in_use(mount)));
                }
                None => {
                    ended.cut_off = true;
                    return Ok(ended);
                }
            },
        }
    }
}

/// Unmounts; returns why that was refused. With `lazy` the path is free at once, even while the file is
/// open.
fn leave(mount: &Mount, lazy: bool) -> Option<MountError> {
    let path = &mount.mountpoint.path;
    // Another mount there is not ours, and somebody else may have unmounted ours meanwhile.
    let is_seen = is_seen_at(path, mount.numbers.get().copied());
    if is_seen == Some(false) {
        return Some(MountError::Covered { path: path.clone() });
    }
    if is_seen.is_some() {
        if let Err(refused) = take_out(path, lazy) {
            return Some(refused);
        }
    }
    drop(mount.umount_line.lock().take());
    // Otherwise a program that does not know of the end would go on to write into an ordinary file.
    mount.mountpoint.remove_made();
    None
}

/// Unmounts in any case.
pub(super) fn leave_now(mount: &Mount) {
    if let Some(refused) = leave(mount, true) {
        warn!("{refused}");
    }
}

/// Unmounts, with a moment of patience for a program that is just closing the file; returns why that was
/// refused.
fn leave_soon(mount: &Mount) -> Option<MountError> {
    let patience = Instant::now() + STRAGGLER_GRACE;
    loop {
        let busy = leave(mount, false)?;
        if Instant::now() > patience {
            return Some(busy);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Says why a mount that has left the tree does not end. The one who asks knows what to call this process.
fn in_use(mount: &Mount) -> Ending {
    let shown = mount.mountpoint.path.display();
    let why = format!("{shown} is unmounted, and a program still has the file open: close it and try again");
    Ending {
        detached: true,
        ..refusal(mount, why)
    }
}

/// Says why COMMAND may have failed: it wrote past the end of a disk.
fn tell_of_overflow(mount: &Mount) {
    let disks = mount.disks().map(|disk| disk.disk());
    for disk in disks.filter(|disk| disk.has_overflowed()) {
        tell(format_args!(
            "COMMAND wanted to write behind the end of the disk, which has {} bytes: what it \
             writes is larger than the disk; take a larger one",
            disk.capacity()
        ));
    }
}

fn refuse(mount: &Mount, stream: UnixStream, why: impl ToString) {
    control::answer(stream, &refusal(mount, why));
}

fn refusal(mount: &Mount, why: impl ToString) -> Ending {
    Ending {
        code: Exit::Mount as u8,
        message: Some(why.to_string()),
        stats: vec![],
        mountpoint: None,
        notes: vec![],
        held: mount.numbers.get().copied(),
        detached: false,
    }
}

/// Starts the thread that waits for the end of the COMMAND that is sent to it.
fn watch(events: Sender<Event>) -> Result<Sender<Child>, Failure> {
    let (sender, receiver) = bounded::<Child>(1);
    spawn("command", move || {
        // None comes where COMMAND cannot be started.
        let status = receiver.recv().ok().and_then(|mut child| child.wait().ok());
        if let Some(status) = status {
            let _ = events.send(Event::CommandEnded(status));
        }
    })?;
    Ok(sender)
}

/// Passes a signal on to COMMAND; the second one kills it. A terminal's ctrl-C has reached it already.
fn pass_on(pid: Pid, signal: i32, again: bool) {
    let signal = match (again, signal) {
        (true, _) => Signal::SIGKILL,
        (false, SIGINT) => return,
        (false, _) => Signal::SIGTERM,
    };
    let _ = rights::with(move || kill(pid, signal));
}
