//! The checkpoints of a VM: the points in time from which the engine knows what has changed in its disks.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::json::{list, text};
use super::{Engine, Error, Patience};
use crate::logging::plain;

/// Upper bound on the wait until a checkpoint is gone; the SDK's example uses the same.
const MAX_REMOVAL_WAIT: Duration = Duration::from_secs(60);

/// A checkpoint as the engine describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) id: String,
    /// Changes since it can be asked for.
    pub(crate) is_usable: bool,
    /// The description of its backup.
    description: String,
    parent: Option<String>,
}

impl Checkpoint {
    fn of(value: &Value) -> Option<Checkpoint> {
        Some(Checkpoint {
            id: plain(&text(value, "id")?),
            is_usable: text(value, "state").as_deref() != Some("invalid"),
            description: text(value, "description").unwrap_or_default(),
            parent: text(value, "parent_id").map(|id| plain(&id)),
        })
    }

    /// A usable checkpoint for tests of other modules.
    #[cfg(test)]
    pub(crate) fn for_tests(id: &str, description: &str) -> Checkpoint {
        Checkpoint {
            id: id.to_owned(),
            is_usable: true,
            description: description.to_owned(),
            parent: None,
        }
    }

    /// True where the backup that has made it was begun with these words in its description.
    pub(crate) fn has_words(&self, token: &str) -> bool {
        !token.is_empty() && self.description.contains(token)
    }
}

impl Engine {
    /// Returns the checkpoints of a VM, the oldest first.
    pub(crate) fn all_checkpoints(&self, vm: &str) -> Result<Vec<Checkpoint>, Error> {
        let Some(answer) = self.get_list("checkpoints", &format!("/vms/{vm}/checkpoints"))? else {
            return Ok(Vec::new());
        };
        let answer = self.listed("checkpoints", "checkpoint", Some(answer))?;
        let all = list(&answer, "checkpoint").iter();
        Ok(by_age(all.filter_map(Checkpoint::of).collect()))
    }

    /// Returns the ids of the checkpoints that can be used, the oldest first.
    pub(crate) fn checkpoints(&self, vm: &str) -> Result<Vec<String>, Error> {
        let all = self.all_checkpoints(vm)?.into_iter();
        Ok(all.filter(|one| one.is_usable).map(|one| one.id).collect())
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

    /// Deletes a checkpoint, and waits until it is gone; false, with nothing done, unless its VM is up or
    /// down: an engine up to 4.5.6 destroys the disks of one that is paused. One that is invalid goes only
    /// while the VM is down: else the host has to define it anew first, and where that fails, since a bitmap
    /// of it is gone, the engine deletes every checkpoint of the VM.
    pub(crate) fn delete_checkpoint(&self, vm: &str, checkpoint: &Checkpoint) -> Result<bool, Error> {
        // It may have been paused, or started, at any moment.
        match self.vm_status(vm)?.as_str() {
            "down" => {}
            "up" if checkpoint.is_usable => {}
            _ => return Ok(false),
        }
        let id = &checkpoint.id;
        let path = format!("/vms/{vm}/checkpoints/{id}");
        self.delete("removal of the checkpoint", &path)?;
        let mut patience = Patience::new(MAX_REMOVAL_WAIT, self.interrupt());
        while self.get("checkpoint", &path)?.is_some() {
            if !patience.pause()? {
                let what = format!("removal of checkpoint {id}");
                return Err(self.too_long(&what, MAX_REMOVAL_WAIT, "it is still there"));
            }
        }
        Ok(true)
    }

    /// Returns the status of a VM.
    pub(crate) fn vm_status(&self, id: &str) -> Result<String, Error> {
        let answer = self.get("VM", &format!("/vms/{id}"))?;
        Ok(answer.and_then(|vm| text(&vm, "status")).unwrap_or_default())
    }
}

/// Returns them the oldest first: each after its parent, and else in the order that they have.
fn by_age(mut all: Vec<Checkpoint>) -> Vec<Checkpoint> {
    let mut left: BTreeSet<String> = all.iter().map(|one| one.id.clone()).collect();
    let mut sorted = Vec::with_capacity(all.len());
    while !all.is_empty() {
        let is_first = |one: &Checkpoint| one.parent.as_ref().is_none_or(|parent| !left.contains(parent));
        // Parents that lead round have no order.
        let next = all.iter().position(is_first).unwrap_or(0);
        let one = all.remove(next);
        left.remove(&one.id);
        sorted.push(one);
    }
    sorted
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_checkpoint_comes_after_its_parent_whatever_the_order_of_the_answer() {
        let of = |id: &str, parent: Option<&str>| {
            let value =
                json!({"id": id, "parent_id": parent, "state": "created", "description": "web token"});
            Checkpoint::of(&value).unwrap()
        };
        let ids = |all: Vec<Checkpoint>| by_age(all).into_iter().map(|one| one.id).collect::<Vec<_>>();
        let (a, b, c) = (of("a", None), of("b", Some("a")), of("c", Some("b")));
        assert_eq!(ids(vec![c.clone(), b.clone(), a.clone()]), ["a", "b", "c"]);
        assert_eq!(
            ids(vec![c.clone(), b.clone()]),
            ["b", "c"],
            "the first one is gone"
        );
        assert_eq!(
            ids(vec![of("x", Some("y")), of("y", Some("x")), a.clone()]),
            ["a", "x", "y"]
        );
        assert!(a.has_words("token") && !a.has_words("other") && !a.has_words(""));
        let invalid = Checkpoint::of(&json!({"id": "i", "state": "invalid"})).unwrap();
        assert!(a.is_usable && !invalid.is_usable);
    }
}
