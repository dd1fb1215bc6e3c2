//! A VM from its saved configuration, and disks that are attached to one (oVirt 4.5: BackendVmsResource,
//! ImportVmFromConfigurationCommand).
//!
//! The answer to the import says that the VM is there, and nothing about its disks: one that can't be
//! attached does not fail the request, and only an event tells. So whoever imports a VM lists its disks
//! afterwards, and attaches those that lack.

use serde_json::json;
use tracing::info;

use super::disks::MAX_LOCK_WAIT;
use super::effect::Effect;
use super::json::text;
use super::{Engine, Error, Patience};

/// A VM to make from a configuration.
#[derive(Debug, Clone)]
pub(crate) struct NewVm<'a> {
    /// Its name in messages.
    pub(crate) shown: &'a str,
    /// The id of its cluster.
    pub(crate) cluster: &'a str,
    /// Its name, where it is not that of the configuration. The VM gets a new id then, too.
    pub(crate) name: Option<&'a str>,
    /// The OVF, in the engine's own flavour.
    pub(crate) configuration: &'a str,
}

/// A disk to attach to a VM, and how.
#[derive(Debug, Clone)]
pub(crate) struct NewAttachment<'a> {
    /// The id of the disk.
    pub(crate) disk: &'a str,
    /// `virtio_scsi`, `virtio`, `sata` and others.
    pub(crate) interface: &'a str,
    pub(crate) bootable: bool,
    pub(crate) read_only: bool,
    pub(crate) pass_discard: bool,
    /// It is plugged in.
    pub(crate) active: bool,
}

impl Engine {
    /// Makes a VM; returns its id. [`Error::Unclear`] means that the engine may have made one nevertheless;
    /// after any other error it has not.
    pub(crate) fn import_vm(&self, new: &NewVm<'_>) -> Result<String, Error> {
        let what = format!("import of VM {}", new.shown);
        let configuration = json!({"type": "ovf", "data": new.configuration});
        let mut body = json!({
            "cluster": {"id": new.cluster},
            "initialization": {"configuration": configuration},
        });
        if let Some(name) = new.name {
            body["name"] = name.into();
            body["initialization"]["regenerate_ids"] = "true".into();
        }
        match self.post(&what, Effect::Creation, "/vms", &body) {
            Ok(answer) => match answer.and_then(|vm| text(&vm, "id")) {
                Some(id) => {
                    info!(id, "VM made");
                    Ok(id)
                }
                None => Err(Error::Unclear(
                    self.nonsense(&what, "no VM in the answer".into()).to_string(),
                )),
            },
            Err(e) if e.may_have_made() => Err(Error::Unclear(e.to_string())),
            Err(e) => Err(e),
        }
    }

    /// Attaches a disk to a VM, unless it is attached to that already. A lock of the disk, which the engine
    /// keeps for a moment after a transfer, is waited for.
    pub(crate) fn attach_disk(&self, vm: &str, new: &NewAttachment<'_>) -> Result<(), Error> {
        let what = format!("attachment of disk {}", new.disk);
        let body = json!({
            "disk": {"id": new.disk},
            "interface": new.interface,
            "bootable": new.bootable.to_string(),
            "read_only": new.read_only.to_string(),
            "pass_discard": new.pass_discard.to_string(),
            "active": new.active.to_string(),
        });
        let path = format!("/vms/{vm}/diskattachments");
        let mut patience = Patience::new(MAX_LOCK_WAIT, self.interrupt());
        loop {
            let error = match self.post(&what, Effect::Creation, &path, &body) {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            info!("{error}");
            // It may be there nevertheless: the answer was lost, or the import was late.
            let there = self.disks_of_vm(vm).unwrap_or_default();
            if there.iter().any(|id| id.eq_ignore_ascii_case(new.disk)) {
                return Ok(());
            }
            if !(error.is_locked() || error.is_passing()) || !patience.pause()? {
                return Err(error);
            }
        }
    }
}
