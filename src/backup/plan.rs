//! Which disks of the VM take part. The others are named, with the reason; none is left out in silence.

use super::base::Base;
use super::manifest::Named;
use crate::amounts;
use crate::engine::{BackedVm, Engine, Error, VmDisk};
use crate::failure::{Exit, Failure};
use crate::logging::plain;
use crate::output::{inform, report, tell};
use crate::settings::backup::BackupSettings;

/// See the head of this file.
pub(super) struct Plan {
    pub(super) vm: BackedVm,
    /// The status of the VM.
    pub(super) status: String,
    pub(super) disks: Vec<VmDisk>,
    pub(super) left_out: Vec<Named>,
    /// The base of the disks that are incremental, once that was looked for.
    pub(super) base: Option<Base>,
}

impl Plan {
    pub(super) fn of(engine: &Engine, settings: &BackupSettings) -> Result<Plan, Failure> {
        let (found, status) = engine.disks_for_backup(&settings.disk.source.vm)?;
        let mut plan = Plan {
            vm: found.vm,
            status,
            disks: Vec::new(),
            left_out: Vec::new(),
            base: None,
        };
        for one in found.left_out {
            plan.left_out.push(Named {
                id: one.id,
                name: one.name,
                why: one.why.to_owned(),
            });
        }
        let all = found.disks.len() + plan.left_out.len();
        plan.check_names(settings, &found.disks)?;
        for disk in found.disks {
            match settings.disks.why_not(&disk.id, &disk.name) {
                None => plan.disks.push(disk),
                Some(why) => plan.left_out.push(Named::of(&disk, why)),
            }
        }
        match (plan.disks.is_empty(), all) {
            (false, _) => Ok(plan),
            (true, 0) => {
                Err(Error::Unfit(format!("{} has no disks that this user may see", plan.shown())).into())
            }
            (true, _) => {
                let why: Vec<String> = plan.left_out.iter().map(left_out).collect();
                let text = format!("no disk of {} can be backed up: {}", plan.shown(), why.join("; "));
                Err(Error::Unfit(plain(&text)).into())
            }
        }
    }

    /// Looks for what the disks can be incremental to.
    pub(super) fn look_for_base(
        &mut self,
        engine: &Engine,
        settings: &BackupSettings,
    ) -> Result<(), Failure> {
        if !settings.full {
            let (dir, vm) = (&settings.dir, &self.vm.id);
            self.base = Base::of(engine, dir, vm, &self.disks, settings.longest)?;
        }
        Ok(())
    }

    /// Refuses names that no disk has.
    fn check_names(&self, settings: &BackupSettings, disks: &[VmDisk]) -> Result<(), Failure> {
        let left = self
            .left_out
            .iter()
            .map(|one| (one.id.as_str(), one.name.as_str()));
        let there = disks.iter().map(|disk| (disk.id.as_str(), disk.name.as_str()));
        let known: Vec<(&str, &str)> = left.chain(there).collect();
        let Some((option, name)) = settings.disks.unknown(&known) else {
            return Ok(());
        };
        let there: Vec<&str> = disks.iter().map(|disk| disk.name.as_str()).collect();
        Err(Failure::text(
            Exit::Usage,
            plain(&format!(
                "{option} {name}: {} has no such disk; it has {}",
                self.shown(),
                there.join(", ")
            )),
        ))
    }

    pub(super) fn shown(&self) -> String {
        plain(&format!("VM {} ({})", self.vm.name, self.vm.id))
    }

    /// Names the disks that do not take part.
    pub(super) fn tell(&self) {
        for one in &self.left_out {
            tell(plain(&left_out(one)));
        }
        for disk in self.disks.iter().filter(|disk| disk.raw) {
            inform(plain(&format!(
                "disk {} ({}) has raw volumes, which have no record of changes: it is always copied as a \
                 whole",
                disk.id, disk.name
            )));
        }
    }

    /// Says how much would move.
    pub(super) fn tell_amounts(&self) {
        let mut all = 0;
        for disk in &self.disks {
            let base = self.base.as_ref();
            let backing = base.and_then(|base| Some((base, base.files.get(&disk.id)?)));
            let mode = backing.map_or("full".to_owned(), |(base, file)| {
                format!("incremental since checkpoint {} over {file}", base.checkpoint)
            });
            let most = disk.actual_size.map_or(disk.size, |actual| actual.min(disk.size));
            all += most;
            report(plain(&format!(
                "disk {} ({}): {mode}, {} at most of {}",
                disk.id,
                disk.name,
                amounts::size(most),
                amounts::size(disk.size)
            )));
        }
        report(format_args!(
            "{}: {} at most would be copied; nothing was begun",
            self.shown(),
            amounts::size(all)
        ));
    }

    /// Tells of snapshots that the engine made for earlier backups, and has not removed. It is no reason to
    /// fail where that can't be found out.
    pub(super) fn tell_left_snapshots(&self, engine: &Engine) {
        let open = engine
            .backups(&self.vm.id)
            .map(|all| all.iter().any(|one| one.is_open()));
        let Ok(false) = open else { return };
        for id in engine.snapshots_of_backups(&self.vm.id).unwrap_or_default() {
            tell(plain(&format!(
                "WARNING: snapshot {id} of {} is left over from an earlier backup, takes space and slows the \
                 VM down: delete it in the engine, while the VM may go on",
                self.shown()
            )));
        }
    }
}

fn left_out(one: &Named) -> String {
    format!("disk {} ({}) is not backed up: {}", one.id, one.name, one.why)
}
