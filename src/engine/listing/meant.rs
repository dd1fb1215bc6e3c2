//! The disk snapshots that somebody may have meant with a word that is none's id.
//!
//! The engine's web page shows the snapshots of a VM, by their description, and its API gives them ids of
//! their own; a transfer takes neither (see `snapshots`).

use super::ListedSnapshot;
use crate::engine::{Engine, Error};
use crate::logging::plain;
use crate::shell;

/// Upper bound on the ids in a message.
const MAX_NAMED: usize = 8;

impl Engine {
    /// Says what `given` is where it is not the id of a disk snapshot, and which of them may be meant; `None`
    /// where it is such an id.
    pub(crate) fn disk_snapshot_meant(&self, given: &str) -> Result<Option<String>, Error> {
        let all = self.list_snapshots(None)?;
        if all.iter().any(|one| one.id.eq_ignore_ascii_case(given)) {
            return Ok(None);
        }
        Ok(Some(plain(&meant(&all, given))))
    }
}

fn meant(all: &[ListedSnapshot], given: &str) -> String {
    let is = |text: &Option<String>| {
        text.as_deref()
            .is_some_and(|text| text.eq_ignore_ascii_case(given))
    };
    let of_vm = |one: &&ListedSnapshot| is(&one.vm_snapshot_id) || one.description.as_deref() == Some(given);
    let of_disk = |one: &&ListedSnapshot| one.disk_id.eq_ignore_ascii_case(given) || one.disk == given;
    let snapshots: Vec<&ListedSnapshot> = all.iter().filter(of_vm).collect();
    let volumes: Vec<&ListedSnapshot> = all.iter().filter(of_disk).filter(|one| !one.active).collect();
    let (what, found) = match (snapshots.is_empty(), volumes.is_empty()) {
        (false, _) => (
            "that is a snapshot of a VM, with a disk snapshot for each disk",
            snapshots,
        ),
        (true, false) => ("that is a disk, with these disk snapshots", volumes),
        (true, true) => {
            return format!(
                "no disk snapshot with the id {given} is among those that this user can list: `rhv-mount \
                 list snapshots` shows them"
            );
        }
    };
    let more = match found.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let ids = found.iter().take(MAX_NAMED);
    let ids: Vec<String> = ids
        .map(|one| format!("{} of disk {}", one.id, one.disk))
        .collect();
    // One description may be that of snapshots of several VMs.
    let name = |one: &ListedSnapshot| one.vm.clone().unwrap_or_else(|| one.disk.clone());
    let first = name(found[0]);
    let only = match found.iter().all(|one| name(one) == first) {
        true => format!(" {}", shell::word(first.as_str())),
        false => String::new(),
    };
    format!(
        "{given} is not the id of a disk snapshot: {what}: {}{more}; `rhv-mount list snapshots{only}` shows \
         them",
        ids.join(", ")
    )
}
