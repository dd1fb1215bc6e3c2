//! Checkpoints of ours that no disk needs any more: each costs a bitmap in every disk of it.
//!
//! A checkpoint is ours where a manifest in the directory names it; those that none names are the book's to
//! know (`book`). It stays where it is the newest usable one of any disk that a manifest names, whatever this
//! run has backed up. The others go (`tidy`), also those that are invalid, as a deletion leaves them that has
//! failed.

use std::collections::BTreeSet;

use super::manifest::Manifest;
use crate::engine::Checkpoint;

/// Returns the checkpoints of a VM that can go. `there` are those that the engine has.
pub(super) fn outdated(all: &[Manifest], vm: &str, there: &[Checkpoint]) -> Vec<String> {
    let ours: Vec<&Manifest> = all.iter().filter(|manifest| manifest.vm.id == vm).collect();
    let mut settled: BTreeSet<&str> = BTreeSet::new();
    let mut needed: BTreeSet<&str> = BTreeSet::new();
    for entry in ours.iter().rev().flat_map(|manifest| &manifest.disks) {
        let is_usable = |id: &&String| there.iter().any(|one| one.is_usable && one.id == **id);
        let Some(checkpoint) = entry.checkpoint.as_ref().filter(is_usable) else {
            continue;
        };
        if settled.insert(&entry.id) {
            needed.insert(checkpoint);
        }
    }
    // Without a usable one nothing tells which of them the next backup may want. Disks with raw volumes want
    // none.
    let mut entries = ours.iter().flat_map(|manifest| &manifest.disks);
    if needed.is_empty() && entries.any(|entry| entry.checkpoint.is_some()) {
        return Vec::new();
    }
    let named = ours.iter().filter_map(|manifest| manifest.checkpoint.as_ref());
    let mut found: Vec<String> = Vec::new();
    for id in named.filter(|id| is_there(id, there) && !needed.contains(id.as_str())) {
        if !found.contains(id) {
            found.push(id.clone());
        }
    }
    found
}

/// Returns the checkpoints that no manifest names once those with the numbers `gone` are gone. `there` are
/// those that the engine has, where it has told.
pub(super) fn orphaned(all: &[Manifest], gone: &[usize], there: Option<&[Checkpoint]>) -> BTreeSet<String> {
    let stays = |n: usize| !gone.contains(&n);
    let kept: Vec<&Manifest> = (0..all.len()).filter(|n| stays(*n)).map(|n| &all[n]).collect();
    let named = gone.iter().filter_map(|n| all[*n].checkpoint.as_ref());
    named
        .filter(|id| !kept.iter().any(|manifest| names(manifest, id)))
        .filter(|id| there.is_none_or(|there| is_there(id, there)))
        .cloned()
        .collect()
}

/// True where a manifest names a checkpoint, for itself or for a disk.
pub(super) fn names(manifest: &Manifest, checkpoint: &str) -> bool {
    let disks = manifest.disks.iter().map(|entry| &entry.checkpoint);
    let mut all = disks.chain([&manifest.checkpoint]);
    all.any(|one| one.as_deref() == Some(checkpoint))
}

fn is_there(id: &str, there: &[Checkpoint]) -> bool {
    there.iter().any(|one| one.id == id)
}

#[cfg(test)]
mod tests {
    use super::super::manifest::tests::manifest;
    use super::*;

    fn three() -> [Manifest; 3] {
        let mut all = [
            manifest("a", None),
            manifest("b", Some("a")),
            manifest("c", Some("b")),
        ];
        for (n, id) in ["c1", "c2", "c3"].into_iter().enumerate() {
            all[n].checkpoint = Some(id.into());
            all[n].disks[0].checkpoint = Some(id.into());
        }
        all
    }

    fn there(ids: &[&str]) -> Vec<Checkpoint> {
        ids.iter().map(|id| Checkpoint::for_tests(id, "")).collect()
    }

    #[test]
    fn the_newest_checkpoint_of_each_disk_stays_and_those_of_others_are_not_named() {
        let mut all = three();
        let of = |all: &[Manifest], ids: &[&str]| outdated(all, "v", &there(ids));
        assert_eq!(of(&all, &["x", "c1", "c2", "c3"]), ["c1", "c2"]);
        assert_eq!(of(&all, &["c1", "c2"]), ["c1"], "the newest one is gone");
        assert!(of(&all, &["x"]).is_empty());
        // The last backup has another disk only.
        all[2].disks[0].id = "other".into();
        assert_eq!(of(&all, &["c1", "c2", "c3"]), ["c1"]);
        assert!(outdated(&all, "another", &there(&["c1"])).is_empty());
    }

    /// The engine makes one for each backup of them all the same.
    #[test]
    fn disks_with_raw_volumes_need_no_checkpoint() {
        let mut all = three();
        for one in &mut all {
            one.disks[0].checkpoint = None;
        }
        let of = |all: &[Manifest]| outdated(all, "v", &there(&["x", "c1", "c2", "c3"]));
        assert_eq!(of(&all), ["c1", "c2", "c3"]);
        all[0].disks[0].checkpoint = Some("gone".into());
        assert!(of(&all).is_empty());
    }

    /// A deletion while the VM is down leaves it so, where a bitmap can't be removed.
    #[test]
    fn an_invalid_checkpoint_goes_and_is_not_the_newest_of_a_disk() {
        let all = three();
        let mut there = there(&["c1", "c2", "c3"]);
        there[0].is_usable = false;
        assert_eq!(outdated(&all, "v", &there), ["c1", "c2"]);
        there[2].is_usable = false;
        assert_eq!(outdated(&all, "v", &there), ["c1", "c3"]);
    }

    #[test]
    fn a_checkpoint_is_orphaned_where_no_manifest_that_stays_names_it() {
        let mut all = three();
        let of = |all: &[Manifest], gone: &[usize], there: Option<&[Checkpoint]>| -> Vec<String> {
            orphaned(all, gone, there).into_iter().collect()
        };
        assert_eq!(of(&all, &[0, 1], None), ["c1", "c2"]);
        assert_eq!(of(&all, &[0, 1], Some(&there(&["c2", "c3"]))), ["c2"]);
        all[2].disks[0].checkpoint = Some("c1".into());
        assert_eq!(of(&all, &[0, 1], None), ["c2"]);
        all[2].checkpoint = Some("c2".into());
        assert!(of(&all, &[0, 1], None).is_empty());
    }
}
