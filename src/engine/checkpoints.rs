//! The checkpoints of a VM: the points in time from which the engine knows what has changed in its disks.

use std::time::Duration;

use super::json::{list, text};
use super::{Engine, Error, Patience};
use crate::logging::plain;

/// Upper bound on the wait until a checkpoint is gone; the SDK's example uses the same.
const MAX_REMOVAL_WAIT: Duration = Duration::from_secs(60);

impl Engine {
    /// Returns the ids of the checkpoints that can be used.
    pub(crate) fn checkpoints(&self, vm: &str) -> Result<Vec<String>, Error> {
        let Some(answer) = self.get_list("checkpoints", &format!("/vms/{vm}/checkpoints"))? else {
            return Ok(Vec::new());
        };
        let answer = self.listed("checkpoints", "checkpoint", Some(answer))?;
        let usable = list(&answer, "checkpoint")
            .iter()
            .filter(|one| text(one, "state").as_deref() != Some("invalid"));
        Ok(usable
            .filter_map(|one| text(one, "id"))
            .map(|id| plain(&id))
            .collect())
    }

    /// Returns the ids of the disks that a checkpoint has.
    pub(crate) fn disks_of_checkpoint(&self, vm: &str, id: &str) -> Result<Vec<String>, Error> {
        let path = format!("/vms/{vm}/checkpoints/{id}/disks");
        let Some(answer) = self.get_list("disks of the checkpoint", &path)? else {
            return Ok(Vec::new());
        };
        let answer = self.listed("disks of the checkpoint", "disk", Some(answer))?;
        Ok(list(&answer, "disk")
            .iter()
            .filter_map(|disk| text(disk, "id"))
            .collect())
    }

    /// Deletes a checkpoint, and waits until it is gone. Its VM has to be up or down: an engine up to 4.5.6
    /// destroys the disks of one that is paused.
    pub(crate) fn delete_checkpoint(&self, vm: &str, id: &str) -> Result<(), Error> {
        let path = format!("/vms/{vm}/checkpoints/{id}");
        self.delete("removal of the checkpoint", &path)?;
        let mut patience = Patience::new(MAX_REMOVAL_WAIT, self.interrupt());
        while self.get("checkpoint", &path)?.is_some() {
            if !patience.pause()? {
                let what = format!("removal of checkpoint {id}");
                return Err(self.too_long(&what, MAX_REMOVAL_WAIT, "it is still there"));
            }
        }
        Ok(())
    }

    /// Returns the status of a VM.
    pub(crate) fn vm_status(&self, id: &str) -> Result<String, Error> {
        let answer = self.get("VM", &format!("/vms/{id}"))?;
        Ok(answer.and_then(|vm| text(&vm, "status")).unwrap_or_default())
    }
}
