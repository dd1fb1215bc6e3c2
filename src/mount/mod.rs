//! One mount, from the first connection to the outcome: the order of things.
//!
//! ```text
//! limits, mountpoint checked -> disks open -> control socket -> mounted -> looked at -> ready
//!   ... until: unmounted | `rhv-mount umount` | signal | COMMAND ended ...
//! out of the tree -> each disk ended: drained, flushed, closed, transfer ended -> outcome told
//! ```
//!
//! The disks of a backup are opened once it has begun, and it is ended after them.
//!
//! ```text
//! mountpoint   checks the path            open     opens the disks, unless a signal comes first
//! mount_table  the kernel's mounts        wait     waits for the end of the mount, and unmounts it
//! record       finding it again           close    ends the disks and tells the outcome
//! control      `umount` and `status`      command  `-- COMMAND`
//! asks         hears those who want that
//! ready        what "mounted" means       holders  who keeps a mount from its end
//! umount_table lets umount(8) wait        loops    and the loop devices among them
//! interrupted  answers a signal at once
//! verification `--verify`                 files    the files, and what `status` says of several
//! file_names   the names of several    in_backup `--backup`: begun, open, ended
//! dirty        `--since`: what has changed
//! ```
//!
//! The main thread waits for [`Event`]s; signals, the control socket, the FUSE session, COMMAND and the end
//! of each disk have threads that send them. A mount is made for one disk, or for the disks of a VM; each
//! ends on its own, and the outcome is the worst of theirs. Of several, one that could not be opened has a
//! file that gives EIO.

mod asks;
mod close;
mod command;
pub(crate) mod control;
mod dirty;
mod file_names;
pub(crate) mod files;
pub(crate) mod holders;
mod in_backup;
mod interrupted;
mod loops;
pub(crate) mod mount_table;
pub(crate) mod mountpoint;
mod open;
mod ready;
pub(crate) mod record;
pub(crate) mod umount_table;
mod verification;
mod wait;

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam::channel::{Sender, bounded, unbounded};
use nix::fcntl::Flock;
use parking_lot::Mutex;
use tracing::warn;

use self::control::{Ask, Status};
use self::dirty::Dirty;
use self::files::{FileStatus, LeftOutStatus};
use self::in_backup::OpenBackup;
use self::mountpoint::Mountpoint;
use self::record::{Held, Place, Record};
use self::wait::Ended;
use crate::engine::LeftOut;
use crate::failure::{Exit, Failure};
use crate::fuse::{self, MountOptions, OpenFiles};
use crate::open_disk::{OpenDisk, Step, end_in_any_case};
use crate::output::tell;
use crate::process::handover::Role;
use crate::process::identity::this_pid_namespace;
use crate::process::pid_file::PidFile;
use crate::process::{limits, rights, spawn};
use crate::settings::Settings;
use crate::supervisor::{Stage, Supervisor, Told};
use crate::{shell, signals};

/// Longest wait at the end of a mount for the file system of the file with the process's number.
const PID_FILE_PATIENCE: Duration = Duration::from_secs(2);

/// The exit code that Rust's runtime has for a panic of the main thread.
const PANICKED: u8 = 101;

/// An event that the main thread waits for.
enum Event {
    Signal(i32),
    Umount(UnixStream),
    Unmounted,
    CommandEnded(ExitStatus),
    /// The end of the disk with this index has made a step.
    Disk(usize, Step),
    /// The backup that the disks belong to has ended, or has not, for this reason.
    BackupEnded(Option<Failure>),
}

/// A disk, and the name of its file in a directory.
struct MountedDisk {
    file_name: OsString,
    disk: Arc<OpenDisk>,
    /// The changes in it, where they are told.
    dirty: Option<Arc<Dirty>>,
    /// The checkpoint from which the changes after this mount can be told.
    checkpoint: Option<String>,
}

/// One of several disks that could not be opened.
struct BrokenDisk {
    file_name: OsString,
    id: String,
    name: String,
    /// The size that the engine has told, in bytes.
    size: u64,
    why: String,
    exit: Exit,
}

impl BrokenDisk {
    /// Says what is the matter with it.
    fn told(&self) -> String {
        format!(
            "disk {} ({}) could not be opened, and its file {} gives an error: {}",
            self.id,
            self.name,
            self.file_name.to_string_lossy(),
            self.why
        )
    }
}

/// The VM whose disks are mounted.
struct OfVm {
    /// For people.
    shown: String,
    left_out: Vec<LeftOut>,
}

/// One mount at work.
struct Mount {
    settings: Settings,
    mountpoint: Mountpoint,
    /// At least one disk.
    disks: Vec<MountedDisk>,
    /// The files beside them that give EIO.
    broken: Vec<BrokenDisk>,
    /// `None` for one disk that was named itself.
    of_vm: Option<OfVm>,
    /// The backup that the disks belong to, where they do.
    backup: Option<Arc<OpenBackup>>,
    place: Place,
    /// The files at the place stay while this is there, however old they are.
    _kept: Option<Flock<File>>,
    open_files: OpenFiles,
    /// The numbers of the file system, once it is mounted.
    numbers: OnceLock<Held>,
    /// Lets umount(8) wait for the end, as long as the mount is in the tree.
    umount_line: Mutex<Option<umount_table::Line>>,
    /// Unmounted; the last data is on its way.
    ending: AtomicBool,
    /// The file with the number of this process, from ready to the end, where it is asked for.
    pid_file: OnceLock<Arc<PidFile>>,
    supervisor: Arc<Supervisor>,
}

/// Ends the transfers when the mount ends without having done so: as never used before it was mounted, and as
/// ones whose data is lost afterwards (a panic). Then it ends their backup.
struct EndOnDrop {
    disks: Vec<Arc<OpenDisk>>,
    backup: Option<Arc<OpenBackup>>,
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        end_in_any_case(self.disks.iter().map(Arc::as_ref));
        self.backup.iter().for_each(|backup| backup.end_in_any_case());
    }
}

/// Tells the end of the mount when a panic is its end: the terminal's last row is given back, and a reader of
/// JSON gets the object that it waits for.
struct TellOnDrop(Arc<Supervisor>);

impl Drop for TellOnDrop {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(PANICKED, Some("rhv-mount has panicked".to_owned()));
        }
    }
}

/// Serves one mount; returns the exit code. Errors before the file is usable are returned, the outcome of the
/// data is printed.
pub(crate) fn serve(settings: Settings, role: Role) -> Result<u8, Failure> {
    limits::check(limits::Kind::Mount, ready::needs(&settings.disk, 1))?;
    // Capabilities are given up before the first thread is made that stays.
    rights::cut_down()?;
    if let Some(path) = settings.pid_file.clone() {
        rights::with(move || PidFile::check(&path))?;
    }
    let supervisor = Arc::new(Supervisor::start(&Told::of_mount(&settings), role)?);
    let _in_any_case = TellOnDrop(supervisor.clone());
    serve_watched(settings, role, &supervisor).inspect_err(|failure| {
        supervisor.end(failure.exit as u8, Some(failure.to_string()));
    })
}

/// Does the same, and says to `supervisor` which stage has begun.
fn serve_watched(settings: Settings, role: Role, supervisor: &Arc<Supervisor>) -> Result<u8, Failure> {
    let (events, inbox) = unbounded();
    let (sender, reporter) = (events.clone(), supervisor.clone());
    let end = move |signal| drop(sender.send(Event::Signal(signal)));
    signals::forward(end, move || reporter.log_statistics())?;
    let wanted = settings.clone();
    let mountpoint = rights::with(move || Mountpoint::prepare(&wanted))?;
    let mount = open::open_unless_interrupted(settings, mountpoint, &inbox, supervisor.clone())?;
    let mount = Arc::new(mount);
    supervisor.watch(mount.disks());
    supervisor.watch_unopened(mount.unopened());
    let end_in_any_case = EndOnDrop {
        disks: mount.disks().cloned().collect(),
        backup: mount.backup.clone(),
    };
    let listener = control::listen(&mount.place).map_err(|e| {
        let socket = mount.place.socket();
        let what = format!("cannot listen for umount and status on {}: {e}", socket.display());
        Failure::text(Exit::Other, what)
    })?;
    let session = mount
        .mount(listener, events.clone())
        .inspect_err(|_| mount.place.clear())?;
    if let Some(earlier) = mount.place.earlier() {
        let path = &mount.mountpoint.path;
        tell(format_args!(
            "WARNING: {}: {earlier} (`rhv-mount umount {}` says it once more)",
            path.display(),
            shell::word(path)
        ));
    }
    rights::settle();
    for disk in mount.disks() {
        disk.expect(mount.settings.expected.clone());
        disk.set_used();
    }
    let mut ended = wait::wait(&mount, &inbox, &events, role).unwrap_or_else(|failure| {
        tell(&failure);
        wait::leave_now(&mount);
        Ended {
            command: Some(failure.exit as u8),
            ..Ended::default()
        }
    });
    mount.ending.store(true, Ordering::Relaxed);
    supervisor.enter(Stage::Flushing);
    let code = close::close(&mount, &inbox, &events, &mut ended);
    drop((session, end_in_any_case));
    Ok(code)
}

impl Mount {
    fn disks(&self) -> impl Iterator<Item = &Arc<OpenDisk>> {
        self.disks.iter().map(|mounted| &mounted.disk)
    }

    /// Answers `umount` and `status`, in a thread of its own.
    fn answer_asks(self: &Arc<Self>, listener: UnixListener, events: Sender<Event>) -> Result<(), Failure> {
        let mount = self.clone();
        let answer = move || {
            asks::hear(&listener, |stream, ask| match ask {
                Ask::Status => control::answer(stream, &mount.status()),
                Ask::Umount => drop(events.send(Event::Umount(stream))),
            });
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
            file: Some(self.mountpoint.file.clone()),
            pid: std::process::id(),
            namespace: this_pid_namespace(),
            created: self.mountpoint.is_made(),
            read_only: self.settings.disk.read_only,
        };
        self.place.write_record(&record)?;
        let options = MountOptions {
            uid: self.settings.uid,
            gid: self.settings.gid,
            mode: self.settings.mode,
            directory_mode: self.settings.directory_mode,
            allow_other: self.settings.allow_other,
            source: match &self.settings.shown_source {
                Some(source) => source.clone(),
                None => self.disks[0].disk.host(),
            },
            extra: self.settings.kernel_options.clone(),
        };
        let tree = self.mountpoint.tree(self.files(), self.beside());
        let at = self.mountpoint.look_again()?;
        let mounted = fuse::mount(
            tree,
            (&self.mountpoint.path, at),
            options,
            self.open_files.clone(),
        )?;
        let ended = events.clone();
        let watch = move || {
            if let Err(e) = mounted.wait() {
                warn!("the FUSE session ended badly: {e}");
            }
            let _ = ended.send(Event::Unmounted);
        };
        let begun = spawn("session", watch).and_then(|session| {
            let _ = self
                .numbers
                .set(ready::look(&self.mountpoint, &self.disks[0].file_name)?);
            if self.mountpoint.is_directory() {
                *self.umount_line.lock() = umount_table::Line::add(&self.mountpoint.path);
            }
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

    /// Writes the file with the number of this process, where that is asked for.
    fn write_pid_file(&self) -> Result<(), Failure> {
        if let Some(path) = self.settings.pid_file.clone() {
            let file = rights::with(move || PidFile::write(&path))?;
            let _ = self.pid_file.set(Arc::new(file));
        }
        Ok(())
    }

    fn remove_pid_file(&self) {
        let Some(file) = self.pid_file.get().cloned() else {
            return;
        };
        // Its file system may hang, and others wait for the outcome.
        let (done, removed) = bounded(1);
        let remove = move || {
            file.remove();
            let _ = done.send(());
        };
        if rights::with(|| spawn("pid file", remove)).is_ok() {
            let _ = removed.recv_timeout(PID_FILE_PATIENCE);
        }
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
        let of = |disk| Status::of(path, file, Some(std::process::id()), phase, disk);
        let status = match &self.of_vm {
            None => of(self.disks[0].disk.status()),
            Some(vm) => {
                let files = self.file_statuses();
                let left_out = vm.left_out.iter().map(LeftOutStatus::of);
                Status {
                    vm: Some(vm.shown.clone()),
                    backup: self.backup.as_ref().map(|backup| backup.status()),
                    left_out: left_out.collect(),
                    ..of(FileStatus::sum(&files)).with_files(files)
                }
            }
        };
        Status {
            held: detached.filter(|_| phase == "detached"),
            earlier: self.place.earlier(),
            ..status
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::settings::cli::Action;

    #[test]
    fn a_panic_of_the_main_thread_is_told_as_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let figures = dir.path().join("disk.prom");
        let words = [
            "rhv-mount",
            "--transfer-url",
            "http://127.0.0.1:1/images/t",
            "--metrics-file",
        ];
        let mut words: Vec<OsString> = words.map(OsString::from).into();
        words.extend([figures.clone().into(), dir.path().join("disk.raw").into()]);
        let Ok(Action::Mount(args)) = Action::parse(words) else {
            panic!("no mount");
        };
        let settings = Settings::gather(*args).unwrap();
        let supervisor = Arc::new(Supervisor::start(&Told::of_mount(&settings), Role::Foreground).unwrap());
        let guard = TellOnDrop(supervisor.clone());
        let panicked = catch_unwind(AssertUnwindSafe(move || {
            let _guard = guard;
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        let told = std::fs::read_to_string(&figures).unwrap();
        let is_code = |line: &str| line.starts_with("rhv_mount_exit_code{") && line.ends_with(" 101");
        assert!(told.lines().any(is_code), "{told}");
        // It is told once.
        supervisor.end(0, None);
        assert_eq!(std::fs::read_to_string(&figures).unwrap(), told);
    }
}
