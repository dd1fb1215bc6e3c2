//! A backup of a VM has to know these before it begins: the disks that can take part, whether the VM runs,
//! and what earlier backups have left.

use super::VmDisks;
use super::vm_disks::{of_attachments, status};
use crate::engine::listing::vm_disks::Vm;
use crate::engine::{Engine, Error};

/// The description of the snapshots that the engine makes for backups, and removes with them
/// (StorageConstants).
const OF_A_BACKUP: [&str; 1] = ["Auto-generated for Backup VM"];

impl Engine {
    /// Returns the disks of the VM with this name or id, and its status.
    pub(crate) fn disks_for_backup(&self, wanted: &str) -> Result<(VmDisks, String), Error> {
        let vm = self.the_vm(wanted)?;
        let status = status(&vm).to_owned();
        let found = of_attachments(&self.attachments(&vm.id)?);
        let mut found = VmDisks {
            vm: Vm {
                id: vm.id,
                name: vm.name,
            },
            ..found
        };
        found.sort();
        Ok((found, status))
    }

    /// Returns the ids of the VM's snapshots that were made for a backup. While none is under way, they are
    /// left over.
    pub(crate) fn snapshots_of_backups(&self, vm: &str) -> Result<Vec<String>, Error> {
        let all = self.vm_snapshots(vm)?.into_iter();
        Ok(all
            .filter(|one| one.description.as_deref() == Some(OF_A_BACKUP[0]))
            .map(|one| one.id)
            .collect())
    }
}
