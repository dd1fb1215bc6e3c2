//! The backups in the engine of one run: one of all disks, and another one of those whose changes can't be
//! read, as a whole. Each writes its manifest, and ends.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::base::Base;
use super::book::Book;
use super::disks;
use super::life::{Begun, Life, Split, Terms};
use super::manifest::{Adopted, Entry, Manifest, Mode, Named};
use super::naming::{Names, at, time};
use super::plan::Plan;
use super::shared::Shared;
use super::stop::Stop;
use crate::amounts;
use crate::engine::{Engine, Error as EngineError, VmDisk};
use crate::failure::{Exit, Failure};
use crate::images::write_whole;
use crate::logging::plain;
use crate::output::{inform, report, tell};
use crate::process::rights;
use crate::settings::backup::BackupSettings;
use crate::supervisor::{Stage, Supervisor};

/// Upper bound on the time by which a backup may be ahead of the clock and the next one goes behind it.
const MOST_AHEAD: Duration = Duration::from_secs(24 * 3600);

/// All that a run has from its beginning.
pub(super) struct Rounds<'a> {
    pub(super) engine: &'a Engine,
    pub(super) settings: &'a BackupSettings,
    pub(super) stop: &'a Stop,
    pub(super) supervisor: &'a Arc<Supervisor>,
    pub(super) plan: &'a Plan,
    pub(super) book: &'a Book,
}

/// The outcome of the run so far.
#[derive(Default)]
pub(super) struct Made {
    pub(super) failures: Vec<Failure>,
    /// How many manifests were written.
    pub(super) manifests: usize,
    /// A file of an earlier backup may have changed, so that nothing older may be needless.
    pub(super) differs: bool,
    /// Disks that need another backup, as a whole.
    again: Vec<VmDisk>,
    /// Disks that failed in a backup without a manifest, which that of the next one names.
    failed: Vec<Named>,
    /// The name of the last manifest.
    manifest: Option<String>,
}

/// The disks of one backup, what they are incremental to, and when it was begun.
type Round<'a> = (&'a [VmDisk], Option<&'a Base>, SystemTime);

impl Rounds<'_> {
    /// Makes them; an error means that none was begun, or that it is taken back.
    pub(super) fn make(&self, made: &mut Made) -> Result<(), Failure> {
        let plan = self.plan;
        let mut base = plan.base.clone();
        loop {
            if self.stop.has_begun() {
                let why = "stopped by a signal before a backup of it could be made";
                return Err(Failure::text(Exit::Other, format!("{}: {why}", plan.shown())));
            }
            let begun = self.time_of_begin();
            match self.begin(&plan.disks, base.as_ref(), begun)? {
                Begun::Life(life) => {
                    self.one(*life, (plan.disks.as_slice(), base.as_ref(), begun), made);
                    break;
                }
                Begun::FullNeeded(why) if base.take().is_some() => tell(plain(&format!(
                    "{}: every disk is copied as a whole: {why}",
                    plan.shown()
                ))),
                Begun::FullNeeded(why) => return Err(Failure::text(Exit::Transfer, why)),
            }
        }
        let again = std::mem::take(&mut made.again);
        if self.stop.has_begun() {
            let why = "stopped by a signal before a full backup of it was begun";
            made.failures
                .extend(again.iter().map(|disk| of_disk(disk, Exit::Other, why)));
            return Ok(());
        }
        if again.is_empty() {
            return Ok(());
        }
        // The backup decides which parts are dirty, so these disks need another one.
        let begun = self.time_of_begin();
        match self.begin(&again, None, begun) {
            Ok(Begun::Life(life)) => self.one(*life, (again.as_slice(), None, begun), made),
            Ok(Begun::FullNeeded(why)) => made.failures.push(Failure::text(Exit::Transfer, why)),
            Err(failure) => made.failures.push(failure),
        }
        Ok(())
    }

    /// Returns the time of a backup that begins now: never one before that of another backup of the VM, by
    /// which they are told apart. A clock that was ahead by hours does not make the older one the newest; one
    /// that was ahead by more is left to the user, as later backups would be of that time, too.
    fn time_of_begin(&self) -> SystemTime {
        let (now, dir) = (SystemTime::now(), self.settings.dir.clone());
        let all = rights::with(move || Manifest::all(&dir)).map(|(all, _)| all);
        let mut of_vm = all.unwrap_or_default();
        of_vm.retain(|manifest| manifest.vm.id.eq_ignore_ascii_case(&self.plan.vm.id));
        let Some(newest) = of_vm.iter().filter_map(|manifest| at(&manifest.time)).max() else {
            return now;
        };
        if newest <= now || newest > now + MOST_AHEAD {
            return now;
        }
        tell(plain(&format!(
            "{}: the newest backup is of {}, which is yet to come, and this one counts as a second younger: \
             set the clock, if it is wrong",
            self.plan.shown(),
            time(newest)
        )));
        newest + Duration::from_secs(1)
    }

    fn begin(&self, disks: &[VmDisk], base: Option<&Base>, begun: SystemTime) -> Result<Begun, Failure> {
        let vm = &self.plan.vm;
        let terms = Terms::of(self.settings, base, self.book);
        Life::begin(self.engine, &terms, vm, disks, begun)
    }

    /// Copies the disks of one backup, and ends it.
    fn one(&self, mut life: Life, round: Round<'_>, made: &mut Made) {
        let before = made.manifests;
        let copied = self.copy_all(&mut life, round, made);
        self.supervisor.enter(Stage::Finalizing);
        made.failures.extend(copied.err());
        let ended = life.end(self.stop, !made.again.is_empty(), made.manifests > before);
        made.failures.extend(ended);
    }

    /// Copies the disks, and writes the manifest of those that are whole.
    fn copy_all(&self, life: &mut Life, round: Round<'_>, made: &mut Made) -> Result<(), Failure> {
        let (disks, base, begun) = round;
        let (plan, dir) = (self.plan, &self.settings.dir);
        let names = Names::of(begun, life.checkpoint());
        let mut failed = std::mem::take(&mut made.failed);
        // The manifest of this backup tells of them: their own one may fail, too.
        let mut awaited: Vec<Named> = Vec::new();
        let Split { there, missing } = life.split(disks)?;
        for disk in missing {
            let why = "the engine has left it out of the backup";
            made.failures.push(of_disk(disk, Exit::Transfer, why));
            failed.push(Named::of(disk, why));
        }
        // The snapshot that has it goes with the backup.
        let configuration = life.configuration();
        self.supervisor.enter(Stage::Copying);
        let shared = Shared::new(
            self.settings,
            self.stop,
            self.supervisor,
            life,
            &names,
            base,
            self.book,
        );
        let mut whole = Vec::new();
        for ((disk, _), backed) in there.iter().zip(disks::copy(&shared, &there)) {
            match backed.entry {
                Ok(entry) => {
                    inform(plain(&format!(
                        "disk {} ({}): {} in {}, {} of {}, verified",
                        disk.id,
                        disk.name,
                        entry.mode.name(),
                        entry.file,
                        amounts::size(entry.file_size),
                        amounts::size(entry.size)
                    )));
                    whole.push(entry);
                }
                Err(failure) if backed.again => {
                    tell(plain(&format!(
                        "disk {} ({}): its changes can't be read, and a full backup is made of it: {failure}",
                        disk.id, disk.name
                    )));
                    made.again.push((*disk).clone());
                    awaited.push(Named::of(disk, &failure.to_string()));
                }
                Err(failure) => {
                    failed.push(Named::of(disk, &failure.to_string()));
                    made.failures
                        .push(of_disk(disk, failure.exit, &failure.to_string()));
                }
            }
            made.failures.extend(backed.ended);
        }
        made.differs |= shared.differs();
        let any = failed.len() + awaited.len() > 0;
        if any && !self.stop.has_begun() {
            let why = life.powered_off(&plan.status);
            made.failures
                .extend(why.map(|why| Failure::text(Exit::Transfer, plain(&why))));
        }
        if whole.is_empty() && !made.again.is_empty() {
            made.failed = failed;
            return Ok(());
        }
        failed.append(&mut awaited);
        if whole.is_empty() && made.manifests > 0 {
            // The failures name its disks, and the manifest of the first backup stands.
            return Ok(());
        }
        if whole.is_empty() {
            return Err(Failure::text(
                Exit::Transfer,
                format!(
                    "no disk of {} is backed up, and no manifest is written",
                    plan.shown()
                ),
            ));
        }
        // Its file is written once a manifest can name it.
        let configuration = match save_configuration(configuration, life, dir, &names) {
            Ok(name) => {
                // It is worth nothing without the manifest, and a look finds it without the book.
                let _ = self.book.removes(std::slice::from_ref(&name));
                Some(name)
            }
            Err(failure) => {
                made.failures.push(failure);
                None
            }
        };
        let vm = Named {
            id: plan.vm.id.clone(),
            name: plan.vm.name.clone(),
            why: String::new(),
        };
        let kind = life.kind(&plan.status);
        let manifest = Manifest {
            checkpoint: life.checkpoint().map(str::to_owned),
            from_checkpoint: life.from().map(str::to_owned),
            configuration,
            adopted: adopted(&whole, base),
            disks: whole,
            second_of: made.manifest.take(),
            left_out: plan.left_out.clone(),
            failed,
            ..Manifest::begin(life.manifest_name(), vm, life.id(), kind, life.time())
        };
        // The SDK's example leaves its files to the page cache. Another machine may have removed them, where
        // locks are not seen by all.
        let (place, named) = (dir.clone(), manifest.clone());
        let (unsynced, lacks) = rights::with(move || (named.sync_adopted(&place), named.lacks(&place)));
        if let Some(why) = unsynced {
            let text =
                format!("the manifest is not written, as a file that it needs may not be on the disk: {why}");
            return Err(Failure::text(Exit::Other, plain(&text)));
        }
        if let Some(why) = lacks {
            let text = format!(
                "the manifest is not written, as a file is not there as it was made: {why}; back the VM \
                 up again"
            );
            return Err(Failure::text(Exit::DataLoss, plain(&text)));
        }
        manifest.write(dir)?;
        self.book.counts(&manifest);
        made.manifests += 1;
        made.manifest = Some(manifest.file_name().display().to_string());
        report(plain(&format!(
            "{}: backed up {} of {} as {}",
            plan.shown(),
            amounts::count(manifest.disks.len(), "disk"),
            disks.len(),
            dir.join(manifest.file_name()).display()
        )));
        Ok(())
    }
}

/// Returns the files of the SDK's example below those that are whole.
fn adopted(whole: &[Entry], base: Option<&Base>) -> Vec<Adopted> {
    let Some(base) = base else { return Vec::new() };
    let over = whole.iter().filter(|entry| entry.mode == Mode::Incremental);
    over.filter_map(|entry| base.adopted.get(&entry.id))
        .flatten()
        .cloned()
        .collect()
}

fn of_disk(disk: &VmDisk, exit: Exit, why: &str) -> Failure {
    Failure::text(
        exit,
        plain(&format!(
            "disk {} ({}) is not backed up: {why}",
            disk.id, disk.name
        )),
    )
}

/// Saves the configuration of the VM at the moment of the backup; returns the name of its file.
fn save_configuration(
    told: Result<Option<String>, EngineError>,
    life: &Life,
    dir: &Path,
    names: &Names,
) -> Result<String, Failure> {
    let fail = |why: String| {
        let text = format!("the configuration of the VM is not saved: {why}");
        Failure::text(Exit::Transfer, plain(&text))
    };
    let text = told.map_err(|e| fail(e.to_string()))?;
    let text = text.ok_or_else(|| fail("the engine gives none".to_owned()))?;
    let name = names.configuration(&life.vm().id);
    let path = dir.join(&name);
    rights::with(move || write_whole(&path, text.as_bytes())).map_err(|e| fail(e.to_string()))?;
    Ok(name)
}
