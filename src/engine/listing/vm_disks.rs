//! The disks of one VM, for those who read or write them together: as they are while the VM is down, or as a
//! snapshot of the VM has them.
//!
//! A disk that no transfer can take, or that is not the VM's alone, is left out and named with the reason.
//! The disks of a snapshot come from the snapshot itself (`/vms/VM/snapshots/S/disks`): it may have disks
//! that were detached since. The id there is the disk's. The *disk snapshot* that a transfer takes is looked
//! up among the disk's volumes, by the snapshot that they belong to: another volume would give other bytes.

use serde_json::{Value, json};

use super::disks::{DISKS, ListedDisk};
use super::vms::{ListedVm, VMS, VmSnapshot};
use crate::engine::json::{flag, reference, text};
use crate::engine::{Engine, Error, is_uuid};
use crate::logging::plain;
use crate::shell;

/// A VM whose disks are wanted.
#[derive(Debug, Clone)]
pub(crate) struct Vm {
    pub(crate) id: String,
    pub(crate) name: String,
}

/// The disks of a VM.
#[derive(Debug)]
pub(crate) struct VmDisks {
    pub(crate) vm: Vm,
    /// The snapshot, as people call it, where they are those of one.
    pub(crate) snapshot: Option<String>,
    /// They can take part; ordered by name.
    pub(crate) disks: Vec<VmDisk>,
    /// They cannot.
    pub(crate) left_out: Vec<LeftOut>,
}

impl VmDisks {
    pub(super) fn sort(&mut self) {
        self.disks.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        self.left_out
            .sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    }
}

/// A disk that can take part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VmDisk {
    pub(crate) id: String,
    /// Several disks may have the same one, and it may be any text.
    pub(crate) name: String,
    /// The size in bytes that the guest sees.
    pub(crate) size: u64,
    /// The bytes that it takes on its storage.
    pub(crate) actual_size: Option<u64>,
    /// Its volumes are raw.
    pub(crate) raw: bool,
    /// The disk snapshot, where the disks are those of a snapshot of the VM.
    pub(crate) disk_snapshot: Option<String>,
}

/// A disk that cannot take part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeftOut {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) why: &'static str,
}

/// A disk as a snapshot shows it, and its volume there.
type Frozen = (Value, Option<String>);

impl Engine {
    /// Returns the disks of the VM with this name or id, which has to be down, or of its snapshot with this
    /// id or description. An error lists the candidates where several have the name.
    pub(crate) fn vm_disks(&self, wanted: &str, snapshot: Option<&str>) -> Result<VmDisks, Error> {
        let vm = self.the_vm(wanted)?;
        let attached = self.attachments(&vm.id)?;
        let named = Vm {
            id: vm.id.clone(),
            name: vm.name.clone(),
        };
        let found = match snapshot {
            Some(snapshot) => {
                let (snapshot, disks) = self.disks_of_snapshot(&vm, &attached, snapshot)?;
                let mut found = of_snapshot(&attached, &disks);
                found.snapshot = Some(snapshot);
                found
            }
            None => {
                refuse_while_it_runs(&vm)?;
                of_attachments(&attached)
            }
        };
        let mut found = VmDisks { vm: named, ..found };
        found.sort();
        Ok(found)
    }

    pub(super) fn the_vm(&self, wanted: &str) -> Result<ListedVm, Error> {
        let found = self.named(&VMS, wanted)?;
        let mut vms = match found.exactly {
            true => found.objects,
            false => Vec::new(),
        };
        match (vms.pop(), vms.len()) {
            (Some(vm), 0) => Ok(vm),
            (Some(vm), _) => {
                vms.push(vm);
                let shown = |vm: &ListedVm| format!("{} ({})", vm.id, status(vm));
                let all: Vec<String> = vms.iter().map(shown).collect();
                Err(Error::Unfit(plain(&format!(
                    "{} VMs are named {wanted}: {}; take --vm with one of these ids",
                    all.len(),
                    all.join(", ")
                ))))
            }
            (None, _) => Err(Error::Unfit(plain(&format!(
                "no VM {wanted} on {}: {}",
                self.url(),
                self.what_there_is(&VMS)
            )))),
        }
    }

    /// Returns each attachment of the VM with its disk. No disk is lost where an engine has not followed it.
    pub(super) fn attachments(&self, vm: &str) -> Result<Vec<(Value, Value)>, Error> {
        let path = format!("/vms/{vm}/diskattachments?follow=disk");
        let mut attached = self.part("disks of the VM", &path, "disk_attachment", |attachment| {
            let its_id = || json!({"id": text(attachment, "id")});
            let disk = attachment.get("disk").cloned().unwrap_or_else(its_id);
            Some((attachment.clone(), disk))
        })?;
        for (_, disk) in &mut attached {
            let followed = text(disk, "alias").or_else(|| text(disk, "name")).is_some();
            if let (false, Some(id)) = (followed, text(disk, "id")) {
                let answer = self.get(DISKS.one, &format!("/disks/{id}"))?;
                *disk = answer.unwrap_or_else(|| disk.clone());
            }
        }
        Ok(attached)
    }

    /// Returns what the snapshot is called, and its disks, each with its volume in the snapshot.
    fn disks_of_snapshot(
        &self,
        vm: &ListedVm,
        attached: &[(Value, Value)],
        wanted: &str,
    ) -> Result<(String, Vec<Frozen>), Error> {
        let snapshot = self.the_snapshot(vm, wanted)?;
        let path = format!("/vms/{}/snapshots/{}/disks", vm.id, snapshot.id);
        let mut disks = self.part("disks of the snapshot", &path, "disk", |disk| Some(disk.clone()))?;
        if disks.is_empty() {
            let images = attached.iter().map(|(_, disk)| disk);
            disks.extend(
                images
                    .filter(|disk| why_never_in_a_snapshot(disk).is_none())
                    .cloned(),
            );
        }
        let mut found = Vec::with_capacity(disks.len());
        for disk in disks {
            let id = text(&disk, "id").unwrap_or_default();
            let path = format!("/disks/{id}/disksnapshots?include_active=true&include_template=true");
            let volumes = self.part("disk snapshots", &path, "disk_snapshot", |one| Some(one.clone()))?;
            let is_it = |one: &&(Value, Value)| text(&one.1, "id").as_ref() == Some(&id);
            let now = attached.iter().find(is_it);
            let active = now.and_then(|(_, now)| text(now, "image_id"));
            let volume = volume_of(&snapshot.id, &disk, &volumes, active.as_deref());
            found.push((disk, volume));
        }
        Ok((shown(&snapshot), found))
    }

    fn the_snapshot(&self, vm: &ListedVm, wanted: &str) -> Result<VmSnapshot, Error> {
        let all = self.vm_snapshots(&vm.id)?;
        chosen(all, vm, wanted).map_err(|why| Error::Unfit(plain(&why)))
    }
}

/// Chooses the snapshot with this id or description; an error says which there are.
fn chosen(mut all: Vec<VmSnapshot>, vm: &ListedVm, wanted: &str) -> Result<VmSnapshot, String> {
    let is_active = |one: &VmSnapshot| one.kind.as_deref() == Some("active");
    let is_id = |one: &VmSnapshot| one.id.eq_ignore_ascii_case(wanted);
    let is_it = |one: &VmSnapshot| is_id(one) || one.description.as_deref() == Some(wanted);
    let active_is_meant = all.iter().any(|one| is_active(one) && is_it(one));
    all.retain(|one| !is_active(one));
    let there_are = match all.is_empty() {
        true => "it has no snapshots".to_owned(),
        false => {
            let all: Vec<String> = all.iter().map(shown).collect();
            format!("it has {}", all.join(", "))
        }
    };
    if is_uuid(wanted) && all.iter().any(is_id) {
        all.retain(is_id);
    } else {
        all.retain(is_it);
    }
    let of_vm = format!("VM {} ({})", vm.name, vm.id);
    match (all.pop(), all.len()) {
        (Some(one), 0) if one.status.as_deref() == Some("locked") => Err(format!(
            "snapshot {} of {of_vm} is locked: the engine is making or removing it; try again when that \
             is over",
            shown(&one)
        )),
        (Some(one), 0) => Ok(one),
        (Some(one), _) => {
            all.push(one);
            let all: Vec<String> = all.iter().map(shown).collect();
            Err(format!(
                "{} snapshots of {of_vm} have the description {wanted}: {}; take --snapshot with one of \
                 these ids",
                all.len(),
                all.join(", ")
            ))
        }
        (None, _) if active_is_meant => Err(format!(
            "{wanted} of {of_vm} is no snapshot, but the VM as it is now: shut it down and leave --snapshot \
             out, or make a snapshot in the engine; {there_are}"
        )),
        (None, _) => Err(format!("no snapshot {wanted} of {of_vm}: {there_are}")),
    }
}

/// Returns the volume of a disk in a snapshot of its VM. Where the engine does not tell the snapshots of a
/// disk's volumes (before 4.4.4 it lists none), the word of the `disk`, as the snapshot shows it, is taken,
/// unless that is about another snapshot, or is the `active` volume.
fn volume_of(snapshot: &str, disk: &Value, volumes: &[Value], active: Option<&str>) -> Option<String> {
    let of = |one: &Value| reference(one, "snapshot");
    if let Some(volume) = volumes.iter().find(|one| of(one).as_deref() == Some(snapshot)) {
        return text(volume, "id");
    }
    let tells = volumes.iter().any(|one| of(one).is_some());
    let is_anothers = of(disk).is_some_and(|other| other != snapshot);
    let own = text(disk, "image_id").filter(|_| !tells && !is_anothers);
    own.filter(|own| Some(own.as_str()) != active)
}

/// A snapshot for messages.
fn shown(snapshot: &VmSnapshot) -> String {
    let words = snapshot.description.iter().chain(&snapshot.date);
    let words: Vec<&str> = words.map(String::as_str).collect();
    match words.is_empty() {
        true => snapshot.id.clone(),
        false => format!("{} ({})", snapshot.id, words.join(", ")),
    }
}

pub(super) fn status(vm: &ListedVm) -> &str {
    vm.status.as_deref().unwrap_or("of unknown status")
}

/// The disks of a VM that runs change at any time, and the engine gives none of them to a transfer.
fn refuse_while_it_runs(vm: &ListedVm) -> Result<(), Error> {
    match status(vm) {
        "down" => Ok(()),
        other => Err(Error::Unfit(plain(&format!(
            "VM {} ({}) is {other}, and not down: its disks may change at any time, and no transfer gets \
             them. Shut it down first, or mount a snapshot of it with --snapshot, which the VM may go on \
             beside (`rhv-mount list vms {}` shows its snapshots), or with --backup the disks as they are \
             now",
            vm.name,
            vm.id,
            shell::word(&vm.name)
        )))),
    }
}

/// Tells the disks of a VM that is down.
pub(super) fn of_attachments(attached: &[(Value, Value)]) -> VmDisks {
    let mut found = VmDisks::none();
    for (attachment, disk) in attached {
        let Some(listed) = ListedDisk::of(disk) else {
            found.leave_out_unknown(attachment);
            continue;
        };
        match why_left_out(attachment, disk) {
            Some(why) => found.leave_out(listed, why),
            None => found.disks.push(VmDisk {
                id: listed.id,
                name: listed.name,
                size: listed.size.unwrap_or_default(),
                actual_size: listed.actual_size,
                raw: listed.format.as_deref() == Some("raw"),
                disk_snapshot: None,
            }),
        }
    }
    found
}

/// Tells the disks of a snapshot. A disk that is attached and not in it is left out.
fn of_snapshot(attached: &[(Value, Value)], disks: &[Frozen]) -> VmDisks {
    let mut found = VmDisks::none();
    for (disk, volume) in disks {
        let Some(listed) = ListedDisk::of(disk) else {
            continue;
        };
        match volume.clone() {
            Some(volume) => found.disks.push(VmDisk {
                id: listed.id,
                name: listed.name,
                size: listed.size.unwrap_or_default(),
                actual_size: listed.actual_size,
                raw: listed.format.as_deref() == Some("raw"),
                disk_snapshot: Some(volume),
            }),
            None => found.leave_out(listed, "the engine names no disk snapshot of it in this snapshot"),
        }
    }
    for (attachment, disk) in attached {
        let Some(listed) = ListedDisk::of(disk) else {
            found.leave_out_unknown(attachment);
            continue;
        };
        let is_known = found.disks.iter().any(|one| one.id == listed.id)
            || found.left_out.iter().any(|one| one.id == listed.id);
        if !is_known {
            let why = why_never_in_a_snapshot(disk);
            found.leave_out(listed, why.unwrap_or("it is not in the snapshot"));
        }
    }
    found
}

/// Says why a disk of a VM that is down cannot take part.
fn why_left_out(attachment: &Value, disk: &Value) -> Option<&'static str> {
    let is_inactive = flag(attachment, "active") == Some(false);
    why_never_in_a_snapshot(disk)
        .or_else(|| is_inactive.then_some("it is not active in the VM; --disk mounts it alone"))
}

/// Says why the engine takes no snapshot of a disk.
fn why_never_in_a_snapshot(disk: &Value) -> Option<&'static str> {
    let storage = text(disk, "storage_type");
    match storage.as_deref() {
        Some("image") | None if disk.get("lun_storage").is_some() => {
            Some("it is a direct LUN, which the engine gives to no transfer")
        }
        Some("lun") => Some("it is a direct LUN, which the engine gives to no transfer"),
        Some("image") | None if flag(disk, "shareable") == Some(true) => {
            Some("it is shareable, so that other VMs may write to it; --disk mounts it alone")
        }
        Some("image") | None => None,
        Some(_) => Some("its storage is not the engine's own, which gives it to no transfer"),
    }
}

impl VmDisks {
    fn none() -> VmDisks {
        VmDisks {
            vm: Vm {
                id: String::new(),
                name: String::new(),
            },
            snapshot: None,
            disks: Vec::new(),
            left_out: Vec::new(),
        }
    }

    fn leave_out(&mut self, disk: ListedDisk, why: &'static str) {
        self.left_out.push(LeftOut {
            id: disk.id,
            name: disk.name,
            why,
        });
    }

    fn leave_out_unknown(&mut self, attachment: &Value) {
        self.left_out.push(LeftOut {
            id: text(attachment, "id").unwrap_or_default(),
            name: String::new(),
            why: "the engine tells nothing of it",
        });
    }
}

#[cfg(test)]
mod tests;
