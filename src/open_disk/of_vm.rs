//! The disks of a VM, opened side by side.
//!
//! The VM is looked up first, in a session of its own: nothing is started where that fails, or where the VM
//! runs. Then a few threads open the disks, each with a transfer, a session and a share of connections and
//! memory of its own. One that cannot be opened keeps nobody else from it; where none can, all of it fails.
//! A disk that is not needed any more ends as it is dropped, all of them at the same time.
//!
//! The caller may find the disks in another way, as they are in a backup that it has begun: it does the same
//! in steps ([`check`], [`OpenVm::open`]), in the thread of [`unless_interrupted`].

use std::path::{Path, PathBuf};
use std::thread;

use crossbeam::channel::Receiver;

use super::OpenDisk;
use super::start::{self, LeftTo};
use crate::amounts;
use crate::engine::{Engine, Interrupt, LeftOut, VmDisk, VmDisks};
use crate::failure::{Exit, Failure};
use crate::logging::plain;
use crate::process::side_by_side;
use crate::settings::vm::Member;
use crate::settings::{DiskSettings, Task, VmSource, Wanted};

/// Upper bound on the disks that are opened at the same time. Most of it is waiting for the engine, which
/// takes its steps one after the other for each host.
pub(crate) const MAX_AT_ONCE: usize = 8;

/// A disk of a VM, open or not.
pub(crate) struct Opened {
    pub(crate) disk: VmDisk,
    pub(crate) open: Result<OpenDisk, Failure>,
}

/// The disks of a VM that are to be opened.
pub(crate) struct Found {
    /// The name of the VM.
    pub(crate) vm: String,
    /// The VM, and its snapshot where the disks are those of one, for people.
    pub(crate) shown: String,
    /// In the order of their names, each with what a transfer is asked for.
    pub(crate) disks: Vec<(VmDisk, Wanted)>,
    pub(crate) left_out: Vec<LeftOut>,
}

/// The disks of a VM. Those that are open end when this is dropped.
pub(crate) struct OpenVm {
    /// The VM, and its snapshot where the disks are those of one, for people.
    pub(crate) shown: String,
    /// In the order of their names; one of them at least is open.
    pub(crate) disks: Vec<Opened>,
    pub(crate) left_out: Vec<LeftOut>,
}

impl Drop for OpenVm {
    fn drop(&mut self) {
        let open = self.disks.iter().filter_map(|disk| disk.open.as_ref().ok());
        end_in_any_case(open);
    }
}

/// Ends disks that nobody has ended, at the same time.
pub(crate) fn end_in_any_case<'a>(disks: impl Iterator<Item = &'a OpenDisk>) {
    let disks: Vec<&OpenDisk> = disks.collect();
    thread::scope(|scope| {
        for (n, disk) in disks.iter().enumerate() {
            let end = || disk.end_in_any_case();
            // This thread ends the last one, and each for which there is no thread.
            let is_last = n + 1 == disks.len();
            if is_last || thread::Builder::new().spawn_scoped(scope, end).is_err() {
                end();
            }
        }
    });
}

impl OpenVm {
    /// Opens the disks of a VM that is down, or of its snapshot, in a thread of its own; an event in `inbox`
    /// meanwhile ends that in order. `signal` tells the number of a signal from other events. `is_granted`
    /// may refuse the number of disks, before the first transfer is started.
    pub(crate) fn open_unless_interrupted<E>(
        settings: &DiskSettings<Box<VmSource>>,
        place: &Path,
        is_granted: impl Fn(usize) -> Result<(), Failure> + Send + 'static,
        inbox: &Receiver<E>,
        signal: impl Fn(&E) -> Option<i32>,
    ) -> Result<OpenVm, Failure> {
        let (wanted, path): (_, PathBuf) = (settings.clone(), place.to_owned());
        let open = move |interrupt: &Interrupt| {
            let found = find(&wanted, interrupt)?;
            check(
                &wanted,
                &found.shown,
                found.disks.len(),
                &found.left_out,
                &is_granted,
            )?;
            OpenVm::open(&wanted, &path, found, interrupt)
        };
        unless_interrupted(open, settings.task, inbox, signal)
    }

    /// Opens the disks that were found. Fails where none can be opened.
    pub(crate) fn open(
        settings: &DiskSettings<Box<VmSource>>,
        place: &Path,
        found: Found,
        interrupt: &Interrupt,
    ) -> Result<OpenVm, Failure> {
        let count = found.disks.len();
        let open_one = |_, n: usize, (disk, wanted): &(VmDisk, Wanted)| {
            interrupt.check()?;
            let member = Member {
                vm: plain(&found.vm),
                disk: plain(&disk.name),
            };
            let settings = settings.of_disk(member, wanted.clone(), n, count);
            OpenDisk::open(&settings, place, interrupt)
        };
        let opened = side_by_side("open", &found.disks, MAX_AT_ONCE, open_one);
        let disks = found.disks.into_iter().zip(opened);
        let vm = OpenVm {
            shown: found.shown,
            disks: disks.map(|((disk, _), open)| Opened { disk, open }).collect(),
            left_out: found.left_out,
        };
        // All that is open ends with `vm`.
        interrupt.check()?;
        match vm.disks.iter().any(|disk| disk.open.is_ok()) {
            true => Ok(vm),
            false => Err(none_opened(&vm)),
        }
    }
}

/// Does `open` in a thread of its own; an event in `inbox` meanwhile ends that in order: what it returns all
/// the same ends as it is dropped.
pub(crate) fn unless_interrupted<T: Send + 'static, E>(
    open: impl FnOnce(&Interrupt) -> Result<T, Failure> + Send + 'static,
    task: Task,
    inbox: &Receiver<E>,
    signal: impl Fn(&E) -> Option<i32>,
) -> Result<T, Failure> {
    start::unless_interrupted(open, task, Some(LeftTo::Recover), inbox, signal)
}

/// Looks the disks up, in a session that ends with that.
fn find(settings: &DiskSettings<Box<VmSource>>, interrupt: &Interrupt) -> Result<Found, Failure> {
    let source = &settings.source;
    let engine = Engine::login(&source.account, interrupt)?;
    let found = engine.vm_disks(&source.vm, source.snapshot.as_deref());
    engine.uninterrupted().logout();
    let found = found?;
    let shown = shown(&found);
    let wanted = |disk: &VmDisk| match &disk.disk_snapshot {
        Some(id) => Wanted::Snapshot(id.clone()),
        None => Wanted::Existing(disk.id.clone()),
    };
    let disks = found.disks.into_iter();
    Ok(Found {
        vm: found.vm.name,
        shown,
        disks: disks
            .map(|disk| {
                let wanted = wanted(&disk);
                (disk, wanted)
            })
            .collect(),
        left_out: found.left_out,
    })
}

/// Refuses a VM of which no disk can be opened, and so many disks that their memory or the system is not
/// enough for them. Called before anything is begun in the engine.
pub(crate) fn check(
    settings: &DiskSettings<Box<VmSource>>,
    shown: &str,
    count: usize,
    left_out: &[LeftOut],
    is_granted: &dyn Fn(usize) -> Result<(), Failure>,
) -> Result<(), Failure> {
    if count == 0 {
        return Err(none_there(shown, left_out));
    }
    check_memory(settings, count)?;
    is_granted(count)
}

/// Refuses more disks than can be written with the memory that they share.
fn check_memory(settings: &DiskSettings<Box<VmSource>>, count: usize) -> Result<(), Failure> {
    let (all, each) = (settings.budgets.sum(), settings.budgets.share(count).sum());
    let needed = each.saturating_mul(count as u64);
    if settings.read_only || needed <= all {
        return Ok(());
    }
    Err(Failure::text(
        Exit::Usage,
        format!(
            "{count} disks that are written take at least {} of memory together, and they have {}: give more \
             with --memory, or mount them one by one with --disk",
            amounts::size(needed),
            amounts::size(all)
        ),
    ))
}

fn shown(found: &VmDisks) -> String {
    plain(&match &found.snapshot {
        Some(snapshot) => format!("VM {} ({}), snapshot {snapshot}", found.vm.name, found.vm.id),
        None => format!("VM {} ({})", found.vm.name, found.vm.id),
    })
}

/// A disk that is left out, for people.
pub(crate) fn left_out_shown(one: &LeftOut) -> String {
    plain(&format!(
        "disk {} ({}) is left out: {}",
        one.id, one.name, one.why
    ))
}

fn none_there(vm: &str, left_out: &[LeftOut]) -> Failure {
    let why: Vec<String> = left_out.iter().map(left_out_shown).collect();
    let why = match why.is_empty() {
        true => "it has no disks that this user may see".to_owned(),
        false => why.join("; "),
    };
    Failure::text(Exit::Transfer, format!("no disk of {vm} can be mounted: {why}"))
}

/// Returns the failure of all disks. The exit code is the one that they share, else the worst.
fn none_opened(vm: &OpenVm) -> Failure {
    let failures: Vec<&Failure> = vm
        .disks
        .iter()
        .filter_map(|disk| disk.open.as_ref().err())
        .collect();
    let exit = failures.iter().map(|failure| failure.exit).max();
    let mut texts: Vec<String> = failures.iter().map(ToString::to_string).collect();
    texts.dedup();
    Failure::text(
        exit.unwrap_or(Exit::Transfer),
        format!("no disk of {} could be opened: {}", vm.shown, texts.join("; ")),
    )
}
