//! The part of a restore that needs no engine: the point, its disks, their files, and the configuration of
//! the VM. All that can be refused for them is refused before a login.

use super::point::choose;
use crate::backup::{self, Absent, KeptDisk, Point, points};
use crate::failure::{Exit, Failure};
use crate::logging::plain;
use crate::output::tell;
use crate::ovf::Configuration;
use crate::process::rights;
use crate::settings::restore::RestoreSettings;

/// See the head of this file.
pub(super) struct Local {
    pub(super) point: Point,
    /// The disks that are restored; at least one.
    pub(super) disks: Vec<KeptDisk>,
    /// There is one where a VM is to be made.
    pub(super) configuration: Option<Configuration>,
}

fn usage(text: impl std::fmt::Display) -> Failure {
    Failure::text(Exit::Usage, plain(&text.to_string()))
}

impl Local {
    pub(super) fn read(settings: &RestoreSettings) -> Result<Local, Failure> {
        let shown = settings.dir.display();
        let dir = settings.dir.clone();
        let read = rights::with(move || points(&dir));
        let (points, unreadable) = read.map_err(|e| usage(format!("cannot read {shown}: {e}")))?;
        for (path, why) in &unreadable {
            tell(plain(&format!(
                "the manifest {} can't be used: {why}",
                path.display()
            )));
        }
        if points.is_empty() {
            return Err(usage(format!("{shown} has no backups")));
        }
        if settings.point.is_none() && !unreadable.is_empty() {
            return Err(usage(format!(
                "which backup of {shown} is the newest can't be told beside a manifest that can't be used: \
                 name one with --point"
            )));
        }
        let (vm, named) = (settings.vm.as_deref(), settings.point.as_deref());
        let point = choose(&points, vm, named, &backup::now());
        let mut point = point.map_err(|why| usage(format!("{shown}: {why}")))?.clone();
        let configuration = configuration(&point, settings)?;
        if let Some(configuration) = &configuration {
            let untold = point.untold(configuration);
            point.failed.extend(untold);
        }
        let disks = wanted(&point, settings)?;
        tell_absent(&point, settings)?;
        for disk in &disks {
            let (dir, checked) = (settings.dir.clone(), disk.clone());
            rights::with(move || backup::check_chain(&dir, &checked)).map_err(|why| {
                let text = format!(
                    "disk {} ({}) can't be restored as it was at {}: {why}; take another --point, or leave \
                     the disk out with --exclude",
                    disk.id, disk.name, disk.time
                );
                Failure::text(Exit::DataLoss, plain(&text))
            })?;
        }
        Ok(Local {
            point,
            disks,
            configuration,
        })
    }

    /// The VM that was backed up, for people.
    pub(super) fn vm_shown(&self) -> String {
        plain(&format!("VM {} ({})", self.point.vm_name, self.point.vm_id))
    }
}

/// Returns the disks that the options want. A name that no disk has is refused.
fn wanted(point: &Point, settings: &RestoreSettings) -> Result<Vec<KeptDisk>, Failure> {
    let absent = point.left_out.iter().chain(&point.failed);
    let known: Vec<(&str, &str)> = absent
        .map(|one| (one.id.as_str(), one.name.as_str()))
        .chain(
            point
                .disks
                .iter()
                .map(|disk| (disk.id.as_str(), disk.name.as_str())),
        )
        .collect();
    if let Some((option, name)) = settings.disks.unknown(&known) {
        let there: Vec<&str> = point.disks.iter().map(|disk| disk.name.as_str()).collect();
        return Err(usage(format!(
            "{option} {name}: the backup of {} has no such disk; it has {}",
            point.time,
            there.join(", ")
        )));
    }
    let mut disks = point.disks.clone();
    disks.retain(|disk| settings.disks.why_not(&disk.id, &disk.name).is_none());
    match disks.is_empty() {
        false => Ok(disks),
        true => Err(usage(format!(
            "--include and --exclude leave no disk of the backup of {}",
            point.time
        ))),
    }
}

/// Names the disks that the VM had and that can't be restored. One that should have been in the backup is a
/// reason against the VM, unless the user has left it out.
fn tell_absent(point: &Point, settings: &RestoreSettings) -> Result<(), Failure> {
    let shown = |one: &Absent| format!("disk {} ({}) is not in the backup: {}", one.id, one.name, one.why);
    let is_wanted = |one: &&Absent| settings.disks.why_not(&one.id, &one.name).is_none();
    for one in point.failed.iter().filter(is_wanted) {
        if !settings.disks_only {
            return Err(usage(format!(
                "{}; the VM would lack it: take another --point, leave it out with --exclude, or restore the \
                 other disks with --disks-only",
                shown(one)
            )));
        }
        tell(plain(&shown(one)));
    }
    for one in point.left_out.iter().filter(is_wanted) {
        tell(plain(&shown(one)));
    }
    for disk in point.disks.iter().filter(|disk| disk.time != point.time) {
        tell(plain(&format!(
            "disk {} ({}) is of {}, and the others of {}: the same backup had to copy it on its own",
            disk.id, disk.name, disk.time, point.time
        )));
    }
    Ok(())
}

/// Reads the configuration of the VM, which a restore of disks alone does without.
fn configuration(point: &Point, settings: &RestoreSettings) -> Result<Option<Configuration>, Failure> {
    let Some(name) = &point.configuration else {
        return without(
            settings,
            format!("the backup of {} has no configuration of the VM", point.time),
        );
    };
    let (dir, file) = (settings.dir.clone(), name.clone());
    match rights::with(move || backup::configuration(&dir, &file)) {
        Ok(read) => Ok(Some(read)),
        Err(why) => without(
            settings,
            format!("the configuration of the VM, {name}, can't be used: {why}"),
        ),
    }
}

fn without(settings: &RestoreSettings, why: String) -> Result<Option<Configuration>, Failure> {
    match settings.disks_only {
        true => {
            tell(plain(&why));
            Ok(None)
        }
        false => Err(usage(format!(
            "{why}; take another --point, or restore the disks alone with --disks-only"
        ))),
    }
}
