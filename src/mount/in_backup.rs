//! `--backup`: the disks of a VM as a backup has them, which is begun for the mount and ends with it.
//!
//! ```text
//! disks found, checkpoint checked -> backup begun in the engine, ready -> a transfer for each disk
//!   ... mounted ...
//! transfers ended, all of them -> backup ended, for which the engine insists on that
//! ```
//!
//! Everything up to the mount happens in the thread "open", which a signal interrupts; whatever is begun by
//! then ends as it is dropped, the disks before the backup. At the end the main thread hears signals while
//! the thread "backup" waits for the engine: the first one leaves to the engine what it does by itself, the
//! second one leaves the rest to `recover`. Where this process is killed, the notes have the transfers and
//! the backup.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use crossbeam::channel::{Receiver, Sender};
use parking_lot::Mutex;

use super::dirty::Dirty;
use super::files::BackupStatus;
use super::wait::Ended;
use super::{Event, Mount};
use crate::amounts;
use crate::backup::{Begun, Life, Split, Stop, Terms};
use crate::engine::{BackedVm, Engine, Interrupt, LeftOut, VmDisk};
use crate::failure::{Exit, Failure};
use crate::logging::plain;
use crate::open_disk::of_vm::{self, Found, MAX_AT_ONCE, Opened};
use crate::open_disk::{OpenDisk, OpenVm};
use crate::output::{inform, tell};
use crate::process::side_by_side;
use crate::process::spawn;
use crate::settings::{DiskSettings, InBackup, VmSource, Wanted};
use crate::signals;

/// The states of a backup, by the names that the engine has for them.
const READY: &str = "ready";
const FINALIZING: &str = "finalizing";

/// Upper bound on the checkpoints that a message names.
const MAX_SHOWN: usize = 10;

/// Why a disk that was asked for is not in the backup.
const LEFT_OUT: &str = "the engine has left it out of the backup";

/// The backup that the mounted disks belong to. It ends as it is dropped, where nobody has ended it.
pub(super) struct OpenBackup {
    life: Mutex<Option<Life>>,
    status: Mutex<BackupStatus>,
    session: Session,
}

/// The session in which the backup was begun; it is logged out when this is dropped.
struct Session(Mutex<Option<Engine>>);

impl Session {
    fn log_out(&self) {
        let engine = self.0.lock().take();
        engine.iter().for_each(Engine::logout);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.log_out();
    }
}

impl OpenBackup {
    fn of(life: Life, session: Session) -> OpenBackup {
        let status = BackupStatus {
            id: life.id().to_owned(),
            checkpoint: life.checkpoint().map(str::to_owned),
            from_checkpoint: life.from().map(str::to_owned),
            phase: READY.to_owned(),
        };
        OpenBackup {
            life: Mutex::new(Some(life)),
            status: Mutex::new(status),
            session,
        }
    }

    pub(super) fn status(&self) -> BackupStatus {
        self.status.lock().clone()
    }

    /// Ends the backup if nobody has, as fast as the engine lets it: nobody hears signals meanwhile. Called
    /// after its transfers have ended.
    pub(super) fn end_in_any_case(&self) {
        let Some(life) = self.take() else { return };
        let stop = Stop::default();
        stop.begin();
        if let Some(failure) = life.end(&stop, false, false) {
            tell(&failure);
        }
        self.session.log_out();
    }

    /// The backup for the one who ends it; `None` where somebody else does.
    fn take(&self) -> Option<Life> {
        let life = self.life.lock().take()?;
        self.status.lock().phase = FINALIZING.to_owned();
        Some(life)
    }
}

impl Drop for OpenBackup {
    fn drop(&mut self) {
        self.end_in_any_case();
    }
}

/// The disks of a backup, open. The fields are dropped in their order, as the engine wants it.
pub(super) struct InBackupNow {
    pub(super) vm: OpenVm,
    /// The changes in each disk, by its id; none without `--since`.
    pub(super) dirty: HashMap<String, Dirty>,
    pub(super) backup: OpenBackup,
}

/// Begins the backup, and opens its disks. `is_granted` may refuse the number of disks, before anything is
/// begun.
pub(super) fn open(
    settings: &DiskSettings<Box<VmSource>>,
    how: &InBackup,
    place: &Path,
    is_granted: &dyn Fn(usize) -> Result<(), Failure>,
    interrupt: &Interrupt,
) -> Result<InBackupNow, Failure> {
    let source = &settings.source;
    let engine = Engine::login(&source.account, interrupt)?;
    let session = Session(Mutex::new(Some(engine.uninterrupted())));
    let (found, _) = engine.disks_for_backup(&source.vm)?;
    let (vm, disks, left_out) = (found.vm, found.disks, found.left_out);
    let shown = plain(&format!("VM {} ({})", vm.name, vm.id));
    of_vm::check(settings, &shown, disks.len(), &left_out, is_granted)?;
    let since = how.since.as_deref();
    let since = since.map(|wanted| chosen(&engine.checkpoints(&vm.id)?, &shown, wanted));
    let since = since.transpose()?;
    inform(format_args!(
        "a backup of {shown} is being begun, which takes the engine from seconds to minutes"
    ));
    let terms = Terms {
        place,
        task: settings.task,
        source,
        live: how.live,
        consistent: how.require_consistency,
        from: since.as_deref(),
        book: None,
    };
    let life = match Life::begin(&engine, &terms, &vm, &disks, SystemTime::now())? {
        Begun::Life(life) => *life,
        Begun::FullNeeded(why) => return Err(no_changes(&engine, &vm, since.as_deref(), &why)),
    };
    let backup = OpenBackup::of(life, session);
    let split = match backup.life.lock().as_ref() {
        Some(life) => life.split(&disks)?,
        None => Split::default(),
    };
    inform(plain(&ready(&shown, &backup.status(), split.there.len())));
    let known = split.there.iter().filter(|(_, known)| *known);
    let known: Vec<&str> = known.map(|(disk, _)| disk.id.as_str()).collect();
    let opened = open_there(
        settings,
        place,
        (&vm, &shown),
        &split,
        left_out,
        &backup,
        interrupt,
    );
    let mut vm = opened.map_err(|failure| match known.is_empty() {
        true => failure,
        false => explained(failure),
    })?;
    for opened in &mut vm.disks {
        if known.contains(&opened.disk.id.as_str()) {
            let open = std::mem::replace(&mut opened.open, Err(Failure::text(Exit::Other, "")));
            opened.open = open.map_err(explained);
        }
    }
    let missing = split.missing.iter().map(|disk| Opened {
        disk: (*disk).clone(),
        open: Err(Failure::text(Exit::Transfer, LEFT_OUT)),
    });
    vm.disks.extend(missing);
    vm.disks
        .sort_by(|a, b| (&a.disk.name, &a.disk.id).cmp(&(&b.disk.name, &b.disk.id)));
    let dirty = match since {
        Some(_) => changes(&vm, &known),
        None => HashMap::new(),
    };
    // All that is open ends here, where a signal has come meanwhile.
    interrupt.check()?;
    Ok(InBackupNow { vm, dirty, backup })
}

/// Returns the checkpoint that is `wanted`, one of those that can be used; an error names these.
fn chosen(usable: &[String], shown: &str, wanted: &str) -> Result<String, Failure> {
    if let Some(found) = usable.iter().find(|id| id.eq_ignore_ascii_case(wanted)) {
        return Ok(found.clone());
    }
    let newest = &usable[usable.len().saturating_sub(MAX_SHOWN)..];
    let there = match newest {
        [] => "it has none".to_owned(),
        newest => format!("the newest are {}", newest.join(", ")),
    };
    let text = format!(
        "{shown} has no checkpoint {wanted} from which changes can be told: it is unknown, or invalid by \
         now; {there}. Leave --since out to have every disk as a whole"
    );
    Err(Failure::text(Exit::Transfer, plain(&text)))
}

/// Opens the disks that are in the backup.
fn open_there(
    settings: &DiskSettings<Box<VmSource>>,
    place: &Path,
    (vm, shown): (&BackedVm, &str),
    split: &Split<'_>,
    left_out: Vec<LeftOut>,
    backup: &OpenBackup,
    interrupt: &Interrupt,
) -> Result<OpenVm, Failure> {
    let id = backup.status().id;
    let wanted = |disk: &VmDisk| Wanted::OfBackup {
        disk: disk.id.clone(),
        backup: id.clone(),
    };
    let disks = split
        .there
        .iter()
        .map(|(disk, _)| ((*disk).clone(), wanted(disk)));
    let found = Found {
        vm: vm.name.clone(),
        shown: format!("{shown}, backup {id}"),
        disks: disks.collect(),
        left_out,
    };
    if found.disks.is_empty() {
        let text = format!("no disk of {shown} can be mounted: {LEFT_OUT}, each of them");
        return Err(Failure::text(Exit::Transfer, text));
    }
    OpenVm::open(settings, place, found, interrupt)
}

/// Says what is ready, and how its changes can be asked for the next time.
fn ready(shown: &str, status: &BackupStatus, count: usize) -> String {
    let disks = amounts::count(count, "disk");
    let checkpoint = match &status.checkpoint {
        Some(id) => format!("checkpoint {id}, from which --since tells the changes the next time"),
        None => "without a checkpoint".to_owned(),
    };
    format!(
        "backup {} of {shown} has {disks} at one point in time, {checkpoint}",
        status.id
    )
}

/// Says why no backup was begun that tells changes, and what to do about it.
fn no_changes(engine: &Engine, vm: &BackedVm, since: Option<&str>, why: &str) -> Failure {
    let usable = engine.uninterrupted().checkpoints(&vm.id);
    let is_gone = usable.is_ok_and(|usable| !usable.iter().any(|id| Some(id.as_str()) == since));
    let words = why.to_lowercase();
    let is_of_checkpoints = ["checkpoint", "incremental", "10791"]
        .iter()
        .any(|sign| words.contains(sign));
    let text = match is_gone || is_of_checkpoints {
        true => format!(
            "the changes since checkpoint {} can't be told: {why}. The record of them is gone, or can't be \
             used: mount without --since, and take the checkpoint of that backup from then on",
            since.unwrap_or("(none)")
        ),
        false => why.to_owned(),
    };
    Failure::text(Exit::Transfer, plain(&text))
}

/// Adds the remedy to the failure of a disk whose changes are asked for: a bitmap that is missing, or in use,
/// shows when the transfer starts.
fn explained(failure: Failure) -> Failure {
    match failure.exit {
        Exit::Transfer => Failure::text(
            failure.exit,
            format!(
                "{failure}; where the record of its changes is missing or in use, a mount without --since \
                 has the disk"
            ),
        ),
        _ => failure,
    }
}

/// Asks for the changes in each open disk, several at once, and tells how much that is.
fn changes(vm: &OpenVm, known: &[&str]) -> HashMap<String, Dirty> {
    let count = vm.disks.len();
    let open = vm
        .disks
        .iter()
        .filter_map(|one| Some((&one.disk, one.open.as_ref().ok()?)));
    let open: Vec<(&VmDisk, &OpenDisk)> = open.collect();
    let told = side_by_side("changes", &open, MAX_AT_ONCE, |_, _, (disk, open)| {
        let known = known.contains(&disk.id.as_str());
        let (dirty, whole) = Dirty::of(open, known, count);
        tell_changes(disk, &dirty, known, whole);
        (disk.id.clone(), dirty)
    });
    told.into_iter().collect()
}

fn tell_changes(disk: &VmDisk, dirty: &Dirty, known: bool, whole: Result<(), String>) {
    let shown = plain(&format!("disk {} ({})", disk.id, disk.name));
    match whole {
        Err(why) => tell(format_args!(
            "WARNING: {shown}: all of it is told as changed, since its changes are not known: {}",
            plain(&why)
        )),
        Ok(()) if !known => inform(format_args!(
            "{shown}: all of it is told as changed, since the checkpoint does not have this disk"
        )),
        Ok(()) if dirty.coarse => inform(format_args!(
            "{shown}: {} are told as changed, with what lies between some of very many places",
            amounts::size(dirty.bytes())
        )),
        Ok(()) => inform(format_args!(
            "{shown}: {} are told as changed",
            amounts::size(dirty.bytes())
        )),
    }
}

/// Ends the backup of a mount whose transfers have ended; returns what has failed.
pub(super) fn end(
    mount: &Mount,
    inbox: &Receiver<Event>,
    events: &Sender<Event>,
    ended: &mut Ended,
) -> Option<Failure> {
    let backup = mount.backup.as_ref()?;
    let life = backup.take()?;
    let (id, stop) = (life.id().to_owned(), Arc::new(Stop::default()));
    if ended.gave_up {
        // Somebody who has asked for the end twice is not to ask a third time.
        stop.begin();
    }
    let life = Arc::new(Mutex::new(Some(life)));
    let (taken, stopped, report) = (life.clone(), stop.clone(), events.clone());
    let work = move || {
        let life = taken.lock().take();
        let end = || life.and_then(|life| life.end(&stopped, false, false));
        let failed = catch_unwind(AssertUnwindSafe(end)).unwrap_or_else(|_| Some(panicked()));
        let _ = report.send(Event::BackupEnded(failed));
    };
    if spawn("backup", work).is_err() {
        // Nobody hears signals now, so it must not take its time.
        stop.begin();
        let life = life.lock().take();
        let failed = life.and_then(|life| life.end(&stop, false, false));
        backup.session.log_out();
        return failed;
    }
    loop {
        match inbox.recv() {
            Ok(Event::BackupEnded(failed)) => {
                backup.session.log_out();
                return failed;
            }
            Ok(Event::Umount(stream)) => ended.waiting.push(stream),
            Ok(Event::Signal(signal)) if ended.has_answered(signal) => {}
            Ok(Event::Signal(signal)) if stop.begin() => signals::tell(
                signal,
                &format!(
                    "backup {id} is being ended, and what the engine does by itself is not waited for; the \
                     next signal leaves the backup to `rhv-mount recover`"
                ),
            ),
            Ok(Event::Signal(_)) => {
                let text = format!(
                    "gave up on a signal before backup {id} had ended; `rhv-mount recover {id}` ends it"
                );
                return Some(Failure::text(Exit::Transfer, text));
            }
            Ok(Event::Unmounted | Event::CommandEnded(_) | Event::Disk(..)) => {}
            Err(_) => return Some(panicked()),
        }
    }
}

fn panicked() -> Failure {
    Failure::text(
        Exit::Other,
        "internal error while the backup was ended; see `rhv-mount recover`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_that_can_not_be_used_is_refused_with_those_that_can() {
        let usable: Vec<String> = (0..40).map(|n| format!("c{n}")).collect();
        let of = |usable: &[String], wanted| chosen(usable, "VM web (v)", wanted);
        assert_eq!(of(&usable, "C7").unwrap(), "c7");
        let refused = of(&usable, "c40").unwrap_err();
        let told = refused.to_string();
        assert_eq!(refused.exit, Exit::Transfer);
        assert!(
            told.contains("no checkpoint c40") && told.contains("c30, c31"),
            "{told}"
        );
        assert!(told.contains("c39") && !told.contains("c29"), "{told}");
        assert!(of(&[], "c1").unwrap_err().to_string().contains("it has none"));
    }
}
