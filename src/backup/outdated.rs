//! Checkpoints of ours that no disk needs any more: each costs a bitmap in every disk of it.
//!
//! A checkpoint is ours where a manifest in the directory names it; those that none names are the book's to
//! know (`book`). It stays where it is the newest usable one of any disk that a manifest names, whatever this
//! run has backed up. The others are deleted from the oldest on, after the backup has ended, and only while
//! the VM is up or down: an engine up to 4.5.6 destroys the disks of one that is paused.

use std::collections::BTreeSet;

use super::manifest::Manifest;

/// Returns the checkpoints of a VM that can go, the oldest first. `usable` are those that the engine has.
pub(super) fn outdated(all: &[Manifest], vm: &str, usable: &[String]) -> Vec<String> {
    let ours: Vec<&Manifest> = all.iter().filter(|manifest| manifest.vm.id == vm).collect();
    let mut settled: BTreeSet<&str> = BTreeSet::new();
    let mut needed: BTreeSet<&str> = BTreeSet::new();
    for entry in ours.iter().rev().flat_map(|manifest| &manifest.disks) {
        let Some(checkpoint) = entry.checkpoint.as_ref().filter(|id| usable.contains(id)) else {
            continue;
        };
        if settled.insert(&entry.id) {
            needed.insert(checkpoint);
        }
    }
    if needed.is_empty() {
        return Vec::new();
    }
    let named = ours.iter().filter_map(|manifest| manifest.checkpoint.as_ref());
    let mut found: Vec<String> = Vec::new();
    for id in named.filter(|id| usable.contains(id) && !needed.contains(id.as_str())) {
        if !found.contains(id) {
            found.push(id.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::manifest::tests::manifest;
    use super::*;

    #[test]
    fn the_newest_checkpoint_of_each_disk_stays_and_those_of_others_are_not_named() {
        let mut all = [
            manifest("a", None),
            manifest("b", Some("a")),
            manifest("c", Some("b")),
        ];
        for (n, id) in ["c1", "c2", "c3"].into_iter().enumerate() {
            all[n].checkpoint = Some(id.into());
            all[n].disks[0].checkpoint = Some(id.into());
        }
        let usable = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        let of = |all: &[Manifest], ids: &[&str]| outdated(all, "v", &usable(ids));
        assert_eq!(of(&all, &["x", "c1", "c2", "c3"]), ["c1", "c2"]);
        assert_eq!(of(&all, &["c1", "c2"]), ["c1"], "the newest one is gone");
        assert!(of(&all, &["x"]).is_empty());
        // The last backup has another disk only.
        all[2].disks[0].id = "other".into();
        assert_eq!(of(&all, &["c1", "c2", "c3"]), ["c1"]);
        assert!(outdated(&all, "another", &usable(&["c1"])).is_empty());
    }
}
