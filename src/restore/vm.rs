//! The VM, made from its configuration once all of its disks are whole, and the look at its disks.
//!
//! An import that the engine accepts says nothing about the disks, so they are listed afterwards, and those
//! that lack are attached as the configuration has them. No signal interrupts this: a VM that is made gets
//! its disks.

use std::time::Duration;

use super::disks::Whole;
use super::plan::{Plan, Planned, PlannedVm};
use crate::engine::{Engine, Error, Interrupt, NewAttachment, NewVm, Patience, random_id};
use crate::failure::{Exit, Failure};
use crate::logging::plain;
use crate::output::inform;

/// How long a VM is looked for whose making got no answer: the engine may be at it still.
const LOST_PATIENCE: Duration = Duration::from_secs(60);

/// How a disk is attached of which the configuration says nothing.
const USUAL_INTERFACE: &str = "virtio_scsi";

/// A VM that is made.
pub(super) struct Made {
    pub(super) id: String,
    pub(super) name: String,
    /// The faults of its disks.
    pub(super) failures: Vec<Failure>,
}

/// A disk of the plan, and what became of it.
type Pair<'a> = (&'a Planned, &'a Whole);

/// Makes the VM. An error says that none is made, or that nobody knows.
pub(super) fn make(engine: &Engine, plan: &Plan, vm: &PlannedVm, whole: &[Whole]) -> Result<Made, Failure> {
    let disks: Vec<Pair<'_>> = plan.disks.iter().zip(whole).collect();
    let ids: Vec<(&str, &str)> = disks
        .iter()
        .map(|(disk, whole)| (disk.kept.id.as_str(), whole.id.as_str()))
        .collect();
    let configuration = vm.configuration.for_disks(&ids, random_id)?;
    let new = NewVm {
        shown: &vm.name,
        cluster: &vm.cluster.id,
        name: vm.new_name.as_deref(),
        configuration: &configuration,
    };
    let id = match engine.import_vm(&new) {
        Ok(id) => id,
        Err(e @ Error::Unclear(_)) => find(engine, vm, whole, &e)?,
        Err(e) => return Err(e.into()),
    };
    let failures = attach_lacking(engine, &id, &disks).unwrap_or_else(|e| vec![Failure::from(e)]);
    let of_vm = |failure: Failure| {
        let text = format!("VM {} ({id}) is made, and {failure}", vm.name);
        Failure::text(failure.exit, plain(&text))
    };
    Ok(Made {
        failures: failures.into_iter().map(of_vm).collect(),
        name: vm.name.clone(),
        id,
    })
}

/// Finds the VM whose making got no answer. One of that name may be somebody else's: ours has a disk of ours.
fn find(engine: &Engine, vm: &PlannedVm, whole: &[Whole], error: &Error) -> Result<String, Failure> {
    let never = Interrupt::default();
    let mut patience = Patience::steady(LOST_PATIENCE, &never);
    loop {
        let there = match &vm.id {
            Some(id) => engine.vm_with_id(id).map(|found| found.into_iter().collect()),
            None => engine.vms_named(&vm.name),
        };
        for one in there.unwrap_or_default() {
            let disks = engine.disks_of_vm(&one.id).unwrap_or_default();
            if whole.iter().any(|ours| has(&disks, &ours.id)) {
                return Ok(one.id);
            }
        }
        if !patience.pause()? {
            let text = format!("{error}; look for VM {} in the engine", vm.name);
            return Err(Failure::text(Exit::Transfer, plain(&text)));
        }
    }
}

fn has(disks: &[String], id: &str) -> bool {
    disks.iter().any(|one| one.eq_ignore_ascii_case(id))
}

/// Attaches the disks that the VM lacks; returns what has failed.
fn attach_lacking(engine: &Engine, vm: &str, disks: &[Pair<'_>]) -> Result<Vec<Failure>, Error> {
    let there = engine.disks_of_vm(vm)?;
    let lacks = |pair: &&Pair<'_>| !has(&there, &pair.1.id);
    let lacking: Vec<&Pair<'_>> = disks.iter().filter(lacks).collect();
    if lacking.is_empty() {
        return Ok(Vec::new());
    }
    let mut errors = Vec::new();
    for (disk, whole) in lacking {
        inform(plain(&format!(
            "the engine has not attached disk {} ({}), which is done now",
            whole.id, disk.kept.name
        )));
        if let Err(e) = engine.attach_disk(vm, &attachment(disk, whole)) {
            errors.push((whole.id.as_str(), e));
        }
    }
    let there = engine.disks_of_vm(vm)?;
    let still = disks.iter().filter(|(_, whole)| !has(&there, &whole.id));
    let failures = still.map(|(disk, whole)| {
        let error = errors.iter().find(|(id, _)| *id == whole.id);
        Failure::text(
            Exit::Transfer,
            format!(
                "disk {} ({}) is whole and not attached: {}; attach it in the engine",
                whole.id,
                disk.kept.name,
                error.map_or_else(
                    || "the engine does not show it".to_owned(),
                    |(_, e)| e.to_string()
                )
            ),
        )
    });
    Ok(failures.collect())
}

fn attachment<'a>(disk: &'a Planned, whole: &'a Whole) -> NewAttachment<'a> {
    let described = disk.described.as_ref();
    NewAttachment {
        disk: &whole.id,
        interface: described.map_or(USUAL_INTERFACE, |disk| disk.interface.as_str()),
        bootable: described.is_some_and(|disk| disk.bootable),
        read_only: described.is_some_and(|disk| disk.read_only),
        pass_discard: described.is_some_and(|disk| disk.pass_discard),
        active: described.is_none_or(|disk| disk.is_plugged),
    }
}
