//! One mount, from the first connection to the outcome: the order of things.
//!
//! ```text
//! limits, mountpoint checked -> disks open -> control socket -> mounted -> looked at -> ready
//!   ... until: unmounted | `rhv-mount umount` | signal | COMMAND ended ...
//! out of the tree -> each disk ended: drained, flushed, closed, transfer ended -> outcome told
//! ```
//!
//! ```text
//! mountpoint   checks the path            open     opens the disks, unless a signal comes first
//! mount_table  the kernel's mounts        wait     waits for the end of the mount, and unmounts it
//! record       finding it again           close    ends the disks and tells the outcome
//! control      `umount` and `status`      command  `-- COMMAND`
//! ready        what "mounted" means       holders  who keeps a mount from its end
//!                                         loops    and the loop devices among them
//! ```
//!
//! The main thread waits for [`Event`]s; signals, the control socket, the FUSE session, COMMAND and the end
//! of each disk have threads that send them. A mount is made for one disk or more (the command line names
//! one); each ends on its own, and the outcome is the worst of theirs.

mod close;
mod command;
pub(crate) mod control;
pub(crate) mod holders;
mod loops;
pub(crate) mod mount_table;
pub(crate) mod mountpoint;
mod open;
mod ready;
pub(crate) mod record;
mod wait;

use std::ffi::OsString;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam::channel::{Sender, unbounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{info, warn};

use self::control::{Ask, Status};
use self::mountpoint::Mountpoint;
use self::record::{Held, Place, Record};
use self::wait::Ended;
use crate::failure::{Exit, Failure};
use crate::fuse::{self, MountOptions, OpenFiles};
use crate::open_disk::{OpenDisk, Step};
use crate::output::tell;
use crate::process::handover::Role;
use crate::process::{limits, rights, spawn};
use crate::settings::Settings;

/// An event that the main thread waits for.
enum Event {
    Signal(i32),
    Umount(UnixStream),
    Unmounted,
    CommandEnded(ExitStatus),
    /// The end of the disk with this index has made a step.
    Disk(usize, Step),
}

/// A disk, and the name of its file in a directory.
struct MountedDisk {
    file_name: OsString,
    disk: Arc<OpenDisk>,
}

/// One mount at work.
struct Mount {
    settings: Settings,
    mountpoint: Mountpoint,
    /// At least one disk.
    disks: Vec<MountedDisk>,
    place: Place,
    open_files: OpenFiles,
    /// The numbers of the file system, once it is mounted.
    numbers: OnceLock<Held>,
    /// Unmounted; the last data is on its way.
    ending: AtomicBool,
}

/// Ends the transfers when the mount ends without having done so: as never used before it was mounted, and as
/// ones whose data is lost afterwards (a panic).
struct EndOnDrop(Vec<Arc<OpenDisk>>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.iter().for_each(|disk| disk.end_in_any_case());
    }
}

/// Serves one mount; returns the exit code. Errors before the file is usable are returned, the outcome of the
/// data is printed.
pub(crate) fn serve(settings: Settings, role: Role) -> Result<u8, Failure> {
    limits::check(ready::needs(&settings.disk))?;
    // Capabilities are given up before the first thread is made that stays.
    rights::cut_down()?;
    let (events, inbox) = unbounded();
    forward_signals(events.clone())?;
    let wanted = settings.clone();
    let mountpoint = rights::with(move || Mountpoint::prepare(&wanted))?;
    let mount = Arc::new(open::open_unless_interrupted(settings, mountpoint, &inbox)?);
    let end_in_any_case = EndOnDrop(mount.disks().cloned().collect());
    let listener = control::listen(&mount.place)
        .map_err(|e| Failure::text(Exit::Other, format!("cannot listen for umount and status: {e}")))?;
    let session = mount
        .mount(listener, events.clone())
        .inspect_err(|_| mount.place.clear())?;
    if let Some(earlier) = mount.place.earlier() {
        let shown = mount.mountpoint.path.display();
        tell(format_args!(
            "WARNING: {shown}: {earlier} (`rhv-mount umount` says it once more)"
        ));
    }
    rights::settle();
    mount.disks().for_each(|disk| disk.set_used());
    let mut ended = wait::wait(&mount, &inbox, &events, role).unwrap_or_else(|failure| {
        tell(&failure);
        wait::leave_now(&mount);
        Ended {
            command: Some(failure.exit as u8),
            ..Ended::default()
        }
    });
    mount.ending.store(true, Ordering::Relaxed);
    let outcome = close::close(&mount, &inbox, &events, &mut ended);
    drop((session, end_in_any_case));
    Ok(match ended.command {
        // COMMAND's own failure is the exit code, whatever became of the data (which was told).
        Some(code) if code != 0 => code,
        _ => outcome.code,
    })
}

impl Mount {
    fn disks(&self) -> impl Iterator<Item = &Arc<OpenDisk>> {
        self.disks.iter().map(|mounted| &mounted.disk)
    }

    /// Answers `umount` and `status`, in a thread of its own.
    fn answer_asks(self: &Arc<Self>, listener: UnixListener, events: Sender<Event>) -> Result<(), Failure> {
        let mount = self.clone();
        let answer = move || {
            for stream in listener.incoming().flatten() {
                match control::read_ask(&stream) {
                    Ok(Ask::Status) => control::answer(stream, &mount.status()),
                    Ok(Ask::Umount) => drop(events.send(Event::Umount(stream))),
                    Err(e) => info!("control socket: {e}"),
                }
            }
        };
        spawn("control", answer).map(drop)
    }

    /// Mounts the disks, and returns once a look through the mount has found the file and `umount` and
    /// `status` are answered. The thread that is returned ends with the FUSE session.
    fn mount(
        self: &Arc<Self>,
        listener: UnixListener,
        events: Sender<Event>,
    ) -> Result<std::thread::JoinHandle<()>, Failure> {
        let record = Record {
            mountpoint: self.mountpoint.path.clone(),
            pid: std::process::id(),
            created: self.mountpoint.is_made(),
            read_only: self.settings.disk.read_only,
        };
        self.place.write_record(&record)?;
        let options = MountOptions {
            uid: self.settings.uid,
            gid: self.settings.gid,
            mode: self.settings.mode,
            allow_other: self.settings.allow_other,
            source: self.disks[0].disk.host(),
            extra: self.settings.kernel_options.clone(),
        };
        let file = |mounted: &MountedDisk| (mounted.file_name.clone(), mounted.disk.disk().clone());
        let tree = self.mountpoint.tree(self.disks.iter().map(file).collect());
        let mounted = fuse::mount(tree, &self.mountpoint.path, options, self.open_files.clone())?;
        let ended = events.clone();
        let watch = move || {
            if let Err(e) = mounted.wait() {
                warn!("the FUSE session ended badly: {e}");
            }
            let _ = ended.send(Event::Unmounted);
        };
        let begun = spawn("session", watch).and_then(|session| {
            let _ = self.numbers.set(ready::look(&self.mountpoint)?);
            self.answer_asks(listener, events)?;
            Ok(session)
        });
        begun.inspect_err(|_| {
            // A look that is under way would outlive this process.
            if mount_table::is_on_top(&self.mountpoint.path) {
                fuse::abort(&self.mountpoint.path);
            }
            wait::leave_now(self);
        })
    }

    fn status(&self) -> Status {
        let detached = self
            .numbers
            .get()
            .copied()
            .filter(|held| !mount_table::is_in_tree(*held));
        let phase = match (self.ending.load(Ordering::Relaxed), detached) {
            (true, _) => "ending",
            (false, Some(_)) => "detached",
            (false, None) => "mounted",
        };
        let Mountpoint { path, file, .. } = &self.mountpoint;
        Status {
            held: detached.filter(|_| phase == "detached"),
            earlier: self.place.earlier(),
            ..Status::of(path, file, std::process::id(), phase, self.disks[0].disk.status())
        }
    }
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
