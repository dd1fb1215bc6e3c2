//! One mount from the first connection to the last word: the order of things, and nothing else.
//!
//! ```text
//! mountpoint checked -> transfer started -> image opened -> pool -> disk -> control socket -> mounted -> ready
//!   ... until: unmounted | `rhv-mount umount` | signal | COMMAND ended ...
//! unmounted -> drained and flushed once more -> connections closed -> transfer ended -> outcome told
//! ```
//!
//! The main thread waits for [`Event`]s; signals, the control socket, the FUSE session and COMMAND
//! each have a thread that sends them.

use std::os::unix::net::UnixStream;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded, select, unbounded};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{info, warn};

mod close;
mod command;
pub(crate) mod control;
pub(crate) mod mountpoint;
mod open;
pub(crate) mod record;

use self::control::Ask;
use self::mountpoint::{Mountpoint, is_mounted};
use self::open::{Open, open};
use self::record::{Ending, Place, Record};
use crate::disk::{Disk, DiskError};
use crate::engine::Interrupt;
use crate::failure::{Exit, Failure};
use crate::fuse::{self, MountError, MountOptions};
use crate::imageio::Image;
use crate::pool::{Keeper, Pool, USUAL_TIMEOUT};
use crate::process::handover::Role;
use crate::process::rights;
use crate::process::{runtime_directory, spawn};
use crate::settings::{Settings, Source};
use crate::transfer::{EndOnDrop, Held};

/// How long COMMAND may take to end after a signal was passed on to it.
const COMMAND_GRACE: Duration = Duration::from_secs(10);

/// How long an unmount waits for a straggler to close the file.
const STRAGGLER_GRACE: Duration = Duration::from_secs(1);

/// A ticket on which nothing happened for so long is touched at the next look at its transfer.
const TICKET_QUIET: Duration = Duration::from_secs(1);

pub(crate) enum Event {
    Signal(i32),
    Umount(UnixStream),
    Unmounted,
    CommandEnded(ExitStatus),
    /// The data has come home, or has not; the transfer is to be ended.
    Drained(Result<(), DiskError>),
    /// The transfer has ended, or has not.
    Ended(Result<(), Failure>),
}

/// One mount at work.
pub(crate) struct Serving {
    pub(crate) settings: Settings,
    pub(crate) mountpoint: Mountpoint,
    pub(crate) image: Arc<Image>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) disk: Arc<Disk>,
    /// The transfer, when it is ours.
    pub(crate) held: Option<Arc<Held>>,
    pub(crate) place: Place,
    pub(crate) since: Instant,
    /// Unmounted; the last data is on its way.
    pub(crate) ending: AtomicBool,
}

/// Serves one mount; returns the exit code. Errors before the file is usable are returned, the outcome of
/// the data is printed.
pub(crate) fn serve(settings: Settings, role: Role) -> Result<u8, Failure> {
    // Before the first thread.
    rights::cut_down()?;
    let (events, inbox) = unbounded();
    forward_signals(events.clone())?;
    let wanted = settings.clone();
    let mountpoint = rights::with(move || Mountpoint::prepare(&wanted))?;
    let serving = Arc::new(open_unless_interrupted(settings, mountpoint, &inbox)?);
    let end_in_any_case = serving.held.clone().map(EndOnDrop);
    let keeper = Keeper::start(&serving.pool, serving.inactivity_timeout())?;
    serving.watch()?;
    let listener = control::listen(&serving.place)
        .map_err(|e| Failure::text(Exit::Other, format!("cannot listen for umount and status: {e}")))?;
    let mounted = serving
        .mount(events.clone())
        .inspect_err(|_| serving.place.clear())?;
    rights::settle();
    if let Some(held) = &serving.held {
        held.set_used();
    }
    let shared = serving.clone();
    let to_main = events.clone();
    spawn("control", move || {
        for stream in listener.incoming().flatten() {
            match control::read_ask(&stream) {
                Ok(Ask::Status) => control::answer(stream, &shared.status()),
                Ok(Ask::Umount) => drop(to_main.send(Event::Umount(stream))),
                Err(e) => info!("control socket: {e}"),
            }
        }
    })?;
    let mut ended = serving.wait(&inbox, &events, role).unwrap_or_else(|failure| {
        eprintln!("rhv-mount: {failure}");
        serving.leave_now();
        Ended {
            command: Some(failure.exit as u8),
            ..Ended::default()
        }
    });
    serving.ending.store(true, Ordering::Relaxed);
    let outcome = serving.close(&inbox, &events, &mut ended);
    drop((keeper, mounted, end_in_any_case));
    Ok(match (ended.command, outcome.code) {
        // COMMAND's own failure is the exit code, whatever became of the data (which was told).
        (Some(code), _) if code != 0 => code,
        (_, outcome) => outcome,
    })
}

/// Connecting may take as long as its timeouts; ctrl-C need not wait for them.
fn open_unless_interrupted(
    settings: Settings,
    mountpoint: Mountpoint,
    inbox: &Receiver<Event>,
) -> Result<Serving, Failure> {
    let (done, opened) = bounded(1);
    let (wanted, path, interrupt) = (settings.clone(), mountpoint.path.clone(), Interrupt::default());
    let interrupted = interrupt.clone();
    spawn("open", move || drop(done.send(open(&wanted, &path, &interrupt))))?;
    let open = select! {
        recv(opened) -> open => {
            open.map_err(|_| Failure::text(Exit::Other, "internal error while connecting"))??
        }
        recv(inbox) -> _ => {
            interrupted.set();
            return Err(wait_until_taken_back(&settings.disk.source, opened, inbox));
        }
    };
    let directory = runtime_directory::directory()
        .map_err(|e| Failure::text(Exit::Other, format!("cannot use the runtime directory: {e}")))?;
    let place = Place::of(&directory, &mountpoint.path);
    let Open {
        image,
        pool,
        disk,
        held,
    } = open;
    let (since, ending) = (Instant::now(), AtomicBool::new(false));
    Ok(Serving {
        settings,
        mountpoint,
        image,
        pool,
        disk,
        held,
        place,
        since,
        ending,
    })
}

/// What was begun in the engine is taken back first; a second signal leaves it to `recover`.
fn wait_until_taken_back(
    source: &Source,
    opened: Receiver<Result<Open, Failure>>,
    inbox: &Receiver<Event>,
) -> Failure {
    let interrupted = Failure::text(Exit::Other, "interrupted before the disk was mounted");
    if matches!(source, Source::Transfer(_)) {
        return interrupted;
    }
    let (done, taken_back) = bounded(1);
    let waiting = spawn("take back", move || {
        // What opened all the same ends as it is dropped.
        let failure = opened.recv().ok().and_then(Result::err);
        let _ = done.send(failure);
    });
    if waiting.is_err() {
        return interrupted;
    }
    select! {
        recv(taken_back) -> failure => failure.ok().flatten().unwrap_or(interrupted),
        recv(inbox) -> _ => Failure::text(
            Exit::Other,
            "interrupted before the disk was mounted, and again before all was taken back; see `rhv-mount recover`",
        ),
    }
}

/// Why the mount ended.
#[derive(Default)]
pub(crate) struct Ended {
    /// COMMAND's status.
    pub(crate) command: Option<u8>,
    /// `rhv-mount umount`, waiting for the outcome.
    pub(crate) waiting: Vec<UnixStream>,
    /// A signal has come: the next one gives up.
    pub(crate) signalled: bool,
    /// Nobody was told of the mount.
    pub(crate) unused: bool,
}

impl Serving {
    fn inactivity_timeout(&self) -> Duration {
        let of_transfer = self.held.as_ref().and_then(|held| held.inactivity_timeout());
        of_transfer.unwrap_or(USUAL_TIMEOUT)
    }

    fn watch(&self) -> Result<(), Failure> {
        let Some(held) = &self.held else { return Ok(()) };
        let pool = self.pool.clone();
        Held::watch(Arc::downgrade(held), move || pool.touch(TICKET_QUIET))
    }

    fn mount(&self, events: Sender<Event>) -> Result<std::thread::JoinHandle<()>, Failure> {
        let record = Record {
            mountpoint: self.mountpoint.path.clone(),
            pid: std::process::id(),
            created: self.mountpoint.is_made(),
            read_only: self.settings.disk.read_only,
        };
        self.place.write_record(&record)?;
        let options = MountOptions {
            shape: self.mountpoint.shape.clone(),
            uid: self.settings.uid,
            gid: self.settings.gid,
            mode: self.settings.mode,
            allow_other: self.settings.allow_other,
            source: self.image.host(),
            extra: self.settings.kernel_options.clone(),
        };
        let mounted = fuse::mount(self.disk.clone(), &self.mountpoint.path, options)?;
        spawn("session", move || {
            if let Err(e) = mounted.wait() {
                warn!("the FUSE session ended badly: {e}");
            }
            let _ = events.send(Event::Unmounted);
        })
    }

    /// Waits until something ends the mount, and takes it out of the tree.
    fn wait(&self, inbox: &Receiver<Event>, events: &Sender<Event>, role: Role) -> Result<Ended, Failure> {
        let mut ended = Ended::default();
        if role == Role::Background && crate::process::handover::tell_ready().is_err() {
            ended.unused = true;
            self.leave_now();
            return Ok(ended);
        }
        let mut child = None;
        if !self.settings.command.is_empty() {
            match command::start(&self.settings.command, &self.mountpoint.file) {
                Ok(started) => child = Some(watch(started, events.clone())?),
                Err((code, failure)) => {
                    eprintln!("rhv-mount: {failure}");
                    ended.command = Some(code);
                    self.leave_now();
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
                    self.leave_now();
                    if child.is_none() {
                        return Ok(ended);
                    }
                    under_command = true;
                }
                Some(Event::Umount(stream)) if child.is_some() => {
                    refuse(
                        stream,
                        "COMMAND is at work on it; the mount ends when COMMAND does",
                    );
                }
                Some(Event::Umount(stream)) => match self.leave_soon() {
                    Some(busy) => refuse(stream, busy),
                    None => ended.waiting.push(stream),
                },
                Some(Event::CommandEnded(status)) => {
                    ended.command = Some(command::code(status));
                    // The session's end may be heard of after COMMAND's, which came after it.
                    under_command |= !is_mounted(&self.mountpoint.path);
                    if !status.success() && self.disk.has_overflowed() {
                        eprintln!(
                            "rhv-mount: COMMAND wanted to write behind the end of the disk, which has {} bytes: what it \
                             writes is larger than the disk; take a larger one",
                            self.disk.capacity()
                        );
                    }
                    if under_command && status.success() {
                        eprintln!(
                            "rhv-mount: {} was unmounted while COMMAND ran: what it wrote after that is not on the disk",
                            self.mountpoint.path.display()
                        );
                        ended.command = Some(Exit::Mount as u8);
                    }
                    if let Some(busy) = self.leave_soon() {
                        warn!("{busy}; cutting off");
                        self.leave_now();
                    }
                    return Ok(ended);
                }
                Some(Event::Signal(signal)) => match child {
                    None => {
                        ended.signalled = true;
                        self.leave_now();
                        return Ok(ended);
                    }
                    Some(pid) => {
                        ended.signalled = true;
                        let again = deadline.is_some();
                        pass_on(pid, signal, again);
                        deadline = Some(Instant::now() + COMMAND_GRACE);
                    }
                },
                Some(Event::Drained(_) | Event::Ended(_)) => {}
                None => {
                    if let Some(pid) = child {
                        warn!("COMMAND does not end; killing it");
                        pass_on(pid, SIGTERM, true);
                    }
                    deadline = Some(Instant::now() + COMMAND_GRACE);
                }
            }
        }
    }

    /// Unmounts; returns why that was refused. With `lazy` the path is free at once, whoever has the file open.
    /// What is acknowledged stays in memory; `close` brings it home.
    fn leave(&self, lazy: bool) -> Option<MountError> {
        // What else may be mounted there is not ours.
        if is_mounted(&self.mountpoint.path)
            && let Err(refused) = fuse::unmount(&self.mountpoint.path, lazy)
            // Somebody else may have unmounted it meanwhile.
            && is_mounted(&self.mountpoint.path)
        {
            return Some(refused);
        }
        // Or a program that does not know of the end would go on to write into an ordinary file.
        self.mountpoint.remove_made();
        None
    }

    /// Unmounts whatever it takes.
    fn leave_now(&self) {
        if let Some(refused) = self.leave(true) {
            warn!("{refused}");
        }
    }

    /// As [`Self::leave`], with a moment of patience: who has just closed the file may not be gone yet.
    fn leave_soon(&self) -> Option<MountError> {
        let patience = Instant::now() + STRAGGLER_GRACE;
        loop {
            let busy = self.leave(false)?;
            if Instant::now() > patience {
                return Some(busy);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn refuse(stream: UnixStream, why: impl ToString) {
    let refusal = Ending {
        code: Exit::Mount as u8,
        message: Some(why.to_string()),
        stats: vec![],
    };
    control::answer(stream, &refusal);
}

fn forward_signals(events: Sender<Event>) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    spawn("signals", move || {
        for signal in signals.forever() {
            let _ = events.send(Event::Signal(signal));
        }
    })?;
    Ok(())
}

fn watch(mut child: Child, events: Sender<Event>) -> Result<Pid, Failure> {
    let pid = Pid::from_raw(child.id() as i32);
    spawn("command", move || {
        if let Ok(status) = child.wait() {
            let _ = events.send(Event::CommandEnded(status));
        }
    })?;
    Ok(pid)
}

/// A terminal's ctrl-C has reached COMMAND already; other signals are passed on. The second one kills.
fn pass_on(pid: Pid, signal: i32, again: bool) {
    let signal = match (again, signal) {
        (true, _) => Signal::SIGKILL,
        (false, SIGINT) => return,
        (false, _) => Signal::SIGTERM,
    };
    let _ = rights::with(move || kill(pid, signal));
}
