//! The fuzz target for manifests; see `crate::fuzzing`.

use std::collections::BTreeSet;

use super::manifest::{Manifest, is_plain_name};
use super::naming::Parts;
use super::outdated::outdated;
use super::points::chain;
use super::prune::goes;

/// Takes a manifest. One that is understood is written as it was read, names no file outside its directory,
/// and leads to no endless chain; nothing that a kept backup needs goes.
pub fn manifests(data: &[u8]) {
    let Ok(manifest) = Manifest::of_bytes(data) else {
        return;
    };
    let written = serde_json::to_vec(&manifest).expect("it came from JSON");
    let again = Manifest::of_bytes(&written).expect("it was written by us");
    assert_eq!(again, manifest);
    let all = [manifest, again];
    for name in all[0].files() {
        assert!(is_plain_name(name), "{name:?}");
        if let Some(parts) = Parts::of(name) {
            assert!(name.contains(parts.disk) && !name.starts_with('.'));
        }
    }
    for entry in &all[0].disks {
        let chain = chain(entry, &all);
        let names: BTreeSet<&str> = chain.iter().copied().collect();
        assert_eq!(names.len(), chain.len(), "{chain:?} has a file twice");
    }
    let (vm, held) = (&all[0].vm.id, BTreeSet::new());
    for keep in [1, 2] {
        let gone = goes(&all, vm, keep, &held, &|_| true);
        let newest = all[1].disks.iter().map(|entry| &entry.file);
        for name in newest {
            assert!(!gone.files.contains(name), "{name:?} is of the newest one");
        }
    }
    outdated(&all, vm, &[]);
}
