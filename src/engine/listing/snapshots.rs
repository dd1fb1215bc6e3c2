//! The disk snapshots: the volumes of which the disks consist.
//!
//! A snapshot of a VM makes one new volume for each of its disks, so there are two kinds of ids. The id of a
//! *disk snapshot* is that of a volume, and is what a transfer takes. The id of a *VM snapshot* is shared by
//! the volumes of its disks, and no transfer takes it. The description and the date are those of the VM
//! snapshot (DiskSnapshotMapper, SnapshotMapper).
//!
//! A disk or VM that is named is asked for its volumes by itself. For all, or for a pattern, each storage
//! domain is asked for the volumes that it has, and only disks that have a snapshot are listed.

use std::collections::{HashMap, HashSet};

use serde::Serialize;
use serde_json::Value;

use super::Named;
use super::disks::{DISKS, ListedDisk, format_of};
use super::vms::{ListedVm, VMS, VmSnapshot};
use crate::engine::json::{list, number, reference, text};
use crate::engine::{Engine, Error};

/// A disk snapshot in a list. Sizes are in bytes.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ListedSnapshot {
    /// The id of the disk snapshot, as `--disk-snapshot` takes it.
    pub(crate) id: String,
    /// The name of the disk.
    pub(crate) disk: String,
    pub(crate) disk_id: String,
    /// The disk writes to this volume: it is the disk as it is now.
    pub(crate) active: bool,
    /// The description of the VM snapshot.
    pub(crate) description: Option<String>,
    /// The date of the VM snapshot in UTC, as in `2026-11-28T18:35:14Z`.
    pub(crate) date: Option<String>,
    /// The size that a guest sees.
    pub(crate) size: Option<u64>,
    /// The space that this volume alone takes.
    pub(crate) actual_size: Option<u64>,
    /// `raw` or `qcow2`.
    pub(crate) format: Option<String>,
    /// `ok`, `locked` or `illegal`.
    pub(crate) status: Option<String>,
    /// The disk snapshot below this one, if there is one.
    pub(crate) parent_id: Option<String>,
    pub(crate) storage_domain: Option<String>,
    pub(crate) storage_domain_id: Option<String>,
    /// The name of the VM, where the disk is attached to one.
    pub(crate) vm: Option<String>,
    pub(crate) vm_id: Option<String>,
    /// The id of the VM snapshot.
    pub(crate) vm_snapshot_id: Option<String>,
}

impl ListedSnapshot {
    /// Reads what the engine says of the volume itself.
    fn of(value: &Value) -> Option<ListedSnapshot> {
        let domains = value.get("storage_domains").unwrap_or(&Value::Null);
        let domain = list(domains, "storage_domain").first();
        Some(ListedSnapshot {
            id: text(value, "id")?,
            disk: text(value, "alias")
                .or_else(|| text(value, "name"))
                .unwrap_or_default(),
            disk_id: reference(value, "disk")?,
            active: false,
            description: None,
            date: None,
            size: number(value, "provisioned_size"),
            actual_size: number(value, "actual_size"),
            format: text(value, "format").map(format_of),
            status: text(value, "status"),
            parent_id: reference(value, "parent"),
            storage_domain: None,
            storage_domain_id: domain
                .and_then(|domain| text(domain, "id"))
                .or_else(|| reference(value, "storage_domain")),
            vm: None,
            vm_id: None,
            vm_snapshot_id: reference(value, "snapshot"),
        })
    }
}

/// The disks whose snapshots are listed, the VMs that they are attached to, and their volumes.
struct Volumes {
    disks: Vec<ListedDisk>,
    vms: Vec<ListedVm>,
    volumes: Vec<ListedSnapshot>,
}

impl Engine {
    /// Lists the disk snapshots of all disks that have some, or of the disk or VM for a name: by disk, from
    /// the oldest to the active one.
    pub(crate) fn list_snapshots(&self, wanted: Option<&str>) -> Result<Vec<ListedSnapshot>, Error> {
        let found = match wanted {
            None => self.volumes_of_many(|_| true)?,
            Some(wanted) => self.volumes_for(wanted)?,
        };
        self.described(found)
    }

    fn volumes_for(&self, wanted: &str) -> Result<Volumes, Error> {
        let disks = self.named(&DISKS, wanted)?;
        let vms = self.named(&VMS, wanted)?;
        if disks.exactly || vms.exactly {
            let disks = if disks.exactly { disks.objects } else { Vec::new() };
            let vms = if vms.exactly { vms.objects } else { Vec::new() };
            return self.volumes_of_few(disks, vms);
        }
        if disks.objects.is_empty() && vms.objects.is_empty() {
            return Err(Error::Unfit(format!(
                "no disk or VM {wanted} on {}: of disks, {}; of VMs, {}",
                self.url(),
                self.what_there_is(&DISKS),
                self.what_there_is(&VMS)
            )));
        }
        let chosen: HashSet<String> = ids(&disks.objects).chain(ids(&vms.objects)).collect();
        self.volumes_of_many(|disk| {
            chosen.contains(&disk.id) || disk.vms.iter().any(|vm| chosen.contains(vm))
        })
    }

    /// Asks each of these disks, and each disk of these VMs.
    fn volumes_of_few(&self, named: Vec<ListedDisk>, mut vms: Vec<ListedVm>) -> Result<Volumes, Error> {
        let mut disks: Vec<ListedDisk> = Vec::new();
        for vm in &vms {
            disks.extend(self.attached_disks(&vm.id)?.into_iter().map(|(disk, _)| disk));
        }
        for disk in named {
            if disks.iter().any(|known| known.id == disk.id) {
                continue;
            }
            // The disk alone tells the VMs that it is attached to.
            let disk = self.by_id(&DISKS, &disk.id)?.unwrap_or(disk);
            for id in &disk.vms {
                if !vms.iter().any(|vm| vm.id == *id) {
                    vms.extend(self.by_id(&VMS, id)?);
                }
            }
            disks.push(disk);
        }
        let mut volumes = Vec::new();
        for disk in &disks {
            let path = format!(
                "/disks/{}/disksnapshots?include_active=true&include_template=true",
                disk.id
            );
            let of_disk = self.volumes_at(&path)?;
            match (&disk.storage_domain_id, of_disk.is_empty()) {
                // Before 4.4.4 a disk lists no volumes, and its domain those below the active ones.
                (Some(domain), true) => {
                    let of_domain = self.volumes_at(&format!("/storagedomains/{domain}/disksnapshots"))?;
                    volumes.extend(of_domain.into_iter().filter(|one| one.disk_id == disk.id));
                }
                _ => volumes.extend(of_disk),
            }
        }
        Ok(Volumes { disks, vms, volumes })
    }

    /// Asks each storage domain for the volumes of the disks that `is_chosen` takes.
    fn volumes_of_many(&self, is_chosen: impl Fn(&ListedDisk) -> bool) -> Result<Volumes, Error> {
        let mut disks = self.all(&DISKS)?;
        let vms = self.all(&VMS)?;
        let mut owners: HashMap<&String, Vec<String>> = HashMap::new();
        for vm in &vms {
            for disk in &vm.disk_ids {
                owners.entry(disk).or_default().push(vm.id.clone());
            }
        }
        for disk in &mut disks {
            disk.vms = owners.remove(&disk.id).unwrap_or_default();
        }
        disks.retain(is_chosen);
        let chosen: HashSet<&str> = disks.iter().map(Named::id).collect();
        let domains: HashSet<&String> = disks
            .iter()
            .filter_map(|disk| disk.storage_domain_id.as_ref())
            .collect();
        let mut volumes: Vec<ListedSnapshot> = Vec::new();
        for domain in domains {
            let path = format!("/storagedomains/{domain}/disksnapshots?include_active=true");
            volumes.extend(self.volumes_at(&path)?);
        }
        volumes.retain(|volume| chosen.contains(volume.disk_id.as_str()));
        let active: HashSet<&String> = disks.iter().filter_map(|d| d.active_volume.as_ref()).collect();
        let with_snapshots: HashSet<String> = volumes
            .iter()
            .filter(|volume| !active.contains(&volume.id))
            .map(|volume| volume.disk_id.clone())
            .collect();
        volumes.retain(|volume| with_snapshots.contains(&volume.disk_id));
        disks.retain(|disk| with_snapshots.contains(&disk.id));
        Ok(Volumes { disks, vms, volumes })
    }

    fn volumes_at(&self, path: &str) -> Result<Vec<ListedSnapshot>, Error> {
        self.part("disk snapshots", path, "disk_snapshot", ListedSnapshot::of)
    }

    /// Adds to the volumes what their disks and the snapshots of their VMs say, and brings them in order.
    fn described(&self, found: Volumes) -> Result<Vec<ListedSnapshot>, Error> {
        let Volumes { disks, vms, volumes } = found;
        let names = self.domain_names()?;
        let disks: HashMap<&str, &ListedDisk> = disks.iter().map(|disk| (disk.id(), disk)).collect();
        let vms: HashMap<&str, &ListedVm> = vms.iter().map(|vm| (vm.id(), vm)).collect();
        let mut asked: HashMap<&str, Vec<VmSnapshot>> = HashMap::new();
        let mut listed = Vec::with_capacity(volumes.len());
        for mut volume in volumes {
            if let Some(disk) = disks.get(volume.disk_id.as_str()) {
                volume.disk.clone_from(&disk.name);
                volume.active = disk.active_volume.as_ref() == Some(&volume.id);
                if let Some(vm) = disk.vms.iter().find_map(|id| vms.get(id.as_str())) {
                    if !asked.contains_key(vm.id()) {
                        asked.insert(vm.id(), self.vm_snapshots(&vm.id)?);
                    }
                    let its_own = |one: &&VmSnapshot| Some(&one.id) == volume.vm_snapshot_id.as_ref();
                    let snapshot = asked.get(vm.id()).and_then(|all| all.iter().find(its_own));
                    volume.description = snapshot.and_then(|one| one.description.clone());
                    volume.date = snapshot.and_then(|one| one.date.clone());
                    volume.vm = Some(vm.name.clone());
                    volume.vm_id = Some(vm.id.clone());
                }
            }
            let domain = volume.storage_domain_id.as_ref();
            volume.storage_domain = domain.and_then(|id| names.get(id).cloned());
            listed.push(volume);
        }
        Ok(in_order(listed))
    }
}

fn ids<T: Named>(objects: &[T]) -> impl Iterator<Item = String> {
    objects.iter().map(|one| one.id().to_owned())
}

/// Orders the volumes by their disks, and those of a disk from the lowest to the active one, each once: disks
/// of one template share a volume.
fn in_order(mut volumes: Vec<ListedSnapshot>) -> Vec<ListedSnapshot> {
    let mut seen = HashSet::new();
    volumes.retain(|volume| seen.insert(volume.id.clone()));
    let parents: HashMap<String, String> = volumes
        .iter()
        .filter_map(|volume| Some((volume.id.clone(), volume.parent_id.clone()?)))
        .collect();
    let height = |volume: &ListedSnapshot| {
        let below = std::iter::successors(parents.get(&volume.id), |id| parents.get(*id));
        below.take(parents.len()).count()
    };
    volumes.sort_by_cached_key(|volume| {
        (
            volume.disk.clone(),
            volume.disk_id.clone(),
            volume.active,
            height(volume),
            volume.date.clone(),
            volume.id.clone(),
        )
    });
    volumes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn volume(id: &str, disk: &str, parent: Option<&str>) -> ListedSnapshot {
        let value = json!({"id": id, "alias": disk, "disk": {"id": disk}, "parent": {"id": parent},
            "snapshot": {"id": "of the VM"}, "provisioned_size": "4096", "format": "cow"});
        ListedSnapshot::of(&value).unwrap()
    }

    fn order(volumes: Vec<ListedSnapshot>) -> Vec<String> {
        in_order(volumes).into_iter().map(|volume| volume.id).collect()
    }

    #[test]
    fn the_id_is_the_disk_snapshots_and_not_the_vm_snapshots() {
        let volume = volume("v", "web", Some("below"));
        assert_eq!((volume.id.as_str(), volume.disk_id.as_str()), ("v", "web"));
        assert_eq!(volume.vm_snapshot_id.as_deref(), Some("of the VM"));
        assert_eq!(volume.parent_id.as_deref(), Some("below"));
        assert_eq!(
            (volume.size, volume.format.as_deref()),
            (Some(4096), Some("qcow2"))
        );
    }

    #[test]
    fn volumes_are_ordered_by_disk_and_from_the_lowest_up() {
        let volumes = vec![
            volume("a", "web", Some("m")),
            volume("x", "db", None),
            volume("z", "web", None),
            volume("m", "web", Some("z")),
            volume("x", "db", None),
        ];
        assert_eq!(order(volumes), ["x", "z", "m", "a"]);
    }

    #[test]
    fn a_circle_of_parents_is_no_endless_chain() {
        let volumes = vec![volume("a", "web", Some("b")), volume("b", "web", Some("a"))];
        assert_eq!(order(volumes).len(), 2);
    }
}
