//! The checkpoints of a VM: the points in time from which the engine knows what has changed in its disks.

use super::json::{list, text};
use super::{Engine, Error};
use crate::logging::plain;

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
}
