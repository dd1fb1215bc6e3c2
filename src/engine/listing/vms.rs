//! The VMs, with their disks and their snapshots.

use serde::Serialize;
use serde_json::Value;

use super::disks::{ListedDisk, attached_ids};
use super::{Collection, Named};
use crate::engine::json::{date, flag, text};
use crate::engine::{Engine, Error};

pub(super) const VMS: Collection<ListedVm> = Collection {
    many: "VMs",
    one: "VM",
    path: "/vms",
    key: "vm",
    parameter: "follow=disk_attachments",
    has_pages: true,
    of: ListedVm::of,
};

/// A VM in a list.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ListedVm {
    /// The name; VMs of different data centers may have the same one.
    pub(crate) name: String,
    pub(crate) id: String,
    /// `up`, `down` and others.
    pub(crate) status: Option<String>,
    /// The number of its disks.
    pub(crate) disk_count: Option<usize>,
    /// Its disks, ordered by name; only where it was asked for by its name or id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) disks: Option<Vec<AttachedDisk>>,
    /// Its snapshots, the oldest first; only where it was asked for by its name or id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) snapshots: Option<Vec<VmSnapshot>>,
    /// The ids of its disks.
    #[serde(skip)]
    pub(super) disk_ids: Vec<String>,
}

/// A disk of a VM.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct AttachedDisk {
    #[serde(flatten)]
    pub(crate) disk: ListedDisk,
    /// It is plugged in.
    pub(crate) active: Option<bool>,
    pub(crate) bootable: Option<bool>,
    pub(crate) read_only: Option<bool>,
    /// `virtio_scsi`, `virtio`, `sata` and others.
    pub(crate) interface: Option<String>,
}

/// A snapshot of a VM. Its id is not that of a disk snapshot.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct VmSnapshot {
    pub(crate) id: String,
    pub(crate) description: Option<String>,
    /// The time in UTC, as in `2026-11-28T18:35:14Z`.
    pub(crate) date: Option<String>,
    /// `regular`, `active` (the VM as it is now), `preview` or `stateless`.
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    /// `ok`, `locked` or `in_preview`.
    pub(crate) status: Option<String>,
}

impl Named for ListedVm {
    fn id(&self) -> &str {
        &self.id
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl ListedVm {
    fn of(value: &Value) -> Option<ListedVm> {
        let disk_ids = attached_ids(value);
        Some(ListedVm {
            name: text(value, "name").unwrap_or_default(),
            id: text(value, "id")?,
            status: text(value, "status"),
            disk_count: disk_ids.as_ref().map(Vec::len),
            disks: None,
            snapshots: None,
            disk_ids: disk_ids.unwrap_or_default(),
        })
    }
}

impl VmSnapshot {
    fn of(value: &Value) -> Option<VmSnapshot> {
        Some(VmSnapshot {
            id: text(value, "id")?,
            description: text(value, "description").filter(|words| !words.is_empty()),
            date: date(value, "date"),
            kind: text(value, "snapshot_type"),
            status: text(value, "snapshot_status"),
        })
    }
}

impl Engine {
    /// Lists the VMs, or those for a name. One that is asked for by its name or id has its disks and
    /// snapshots.
    pub(crate) fn list_vms(&self, wanted: Option<&str>) -> Result<Vec<ListedVm>, Error> {
        let found = self.objects(&VMS, wanted)?;
        let mut vms = found.objects;
        if found.exactly {
            for vm in &mut vms {
                let disks = self.attached_disks(&vm.id)?;
                let mut disks: Vec<AttachedDisk> = disks.into_iter().map(AttachedDisk::of).collect();
                self.name_domains(disks.iter_mut().map(|attached| &mut attached.disk))?;
                vm.disk_count = Some(disks.len());
                vm.disks = Some(disks);
                vm.snapshots = Some(self.vm_snapshots(&vm.id)?);
            }
        }
        Ok(vms)
    }

    /// Lists the snapshots of a VM, the oldest first.
    pub(super) fn vm_snapshots(&self, vm: &str) -> Result<Vec<VmSnapshot>, Error> {
        let path = format!("/vms/{vm}/snapshots");
        let mut snapshots = self.part("snapshots of the VM", &path, "snapshot", VmSnapshot::of)?;
        // The active one is as old as the newest snapshot.
        let active = |one: &VmSnapshot| one.kind.as_deref() == Some("active");
        snapshots.sort_by(|a, b| (active(a), &a.date, &a.id).cmp(&(active(b), &b.date, &b.id)));
        Ok(snapshots)
    }
}

impl AttachedDisk {
    /// Adds what the attachment says.
    fn of((disk, attachment): (ListedDisk, Value)) -> AttachedDisk {
        AttachedDisk {
            disk,
            active: flag(&attachment, "active"),
            bootable: flag(&attachment, "bootable"),
            read_only: flag(&attachment, "read_only"),
            interface: text(&attachment, "interface"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_vm_snapshot_has_its_date_in_utc() {
        let snapshot = VmSnapshot::of(&json!({
            "id": "s", "description": "before the update", "date": 1_609_459_200_000_u64,
            "snapshot_type": "regular", "snapshot_status": "ok"
        }));
        let snapshot = snapshot.unwrap();
        assert_eq!(snapshot.date.as_deref(), Some("2021-01-01T00:00:00Z"));
        assert_eq!(snapshot.description.as_deref(), Some("before the update"));
    }
}
