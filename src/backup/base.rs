//! The base of an incremental backup: a checkpoint that the engine still has, and for each disk the file
//! that it goes over.
//!
//! A disk's base is the newest file of it whose manifest names a checkpoint that is usable, whose disk has
//! the same size as now, and whose chain of files is there. One backup has one checkpoint. The changes since
//! an older checkpoint, laid over a newer file of the same disk, are right: more is dirty than need be, and
//! the bytes are those of now. So the checkpoint is taken with which the most disks can be incremental, the
//! newest among those; the other disks come whole.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::manifest::{Entry, Manifest};
use super::points::chain;
use crate::engine::{Engine, VmDisk};
use crate::failure::Failure;
use crate::logging::plain;
use crate::output::inform;
use crate::process::rights;

/// See the head of this file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) checkpoint: String,
    /// The file below the next one of each disk, by the disk's id.
    pub(super) files: BTreeMap<String, String>,
}

/// A file that a disk could go over.
#[derive(Debug, Clone)]
struct Candidate {
    file: String,
    checkpoint: String,
    /// The number of its manifest, by age.
    age: usize,
}

impl Base {
    /// Returns the base of these disks of a VM; `None` where all of them come whole. What is said of a disk
    /// that comes whole is told.
    pub(super) fn of(
        engine: &Engine,
        dir: &Path,
        vm: &str,
        disks: &[VmDisk],
    ) -> Result<Option<Base>, Failure> {
        let place = dir.to_owned();
        let read = rights::with(move || match place.is_dir() {
            true => Manifest::all(&place),
            false => Ok((Vec::new(), Vec::new())),
        });
        let (mut manifests, unreadable) = read?;
        for (path, why) in unreadable {
            inform(plain(&format!(
                "the manifest {} is no base: {why}",
                path.display()
            )));
        }
        manifests.retain(|manifest| manifest.vm.id.eq_ignore_ascii_case(vm));
        if manifests.is_empty() {
            return Ok(None);
        }
        let usable = engine.checkpoints(vm)?;
        let mut candidates: BTreeMap<String, Candidate> = BTreeMap::new();
        for disk in disks.iter().filter(|disk| !disk.raw) {
            match candidate(disk, &manifests, &usable, dir) {
                Ok(Some(found)) => drop(candidates.insert(disk.id.clone(), found)),
                Ok(None) => {}
                Err(why) => inform(plain(&format!(
                    "disk {} ({}) comes whole: {why}",
                    disk.id, disk.name
                ))),
            }
        }
        let of_checkpoint = |id: &str| engine.disks_of_checkpoint(vm, id);
        let ages = ages(&manifests);
        let mut best: Option<(usize, usize, Base)> = None;
        let mut tried: Vec<&str> = candidates.values().map(|one| one.checkpoint.as_str()).collect();
        tried.sort_unstable();
        tried.dedup();
        for checkpoint in tried {
            let Some(age) = ages.get(checkpoint) else { continue };
            let there = of_checkpoint(checkpoint)?;
            let files: BTreeMap<String, String> = candidates
                .iter()
                .filter(|(disk, one)| one.age >= *age && there.iter().any(|id| id.eq_ignore_ascii_case(disk)))
                .map(|(disk, one)| (disk.clone(), one.file.clone()))
                .collect();
            let rank = (files.len(), *age);
            if rank.0 > 0 && best.as_ref().is_none_or(|(n, age, _)| rank > (*n, *age)) {
                let checkpoint = checkpoint.to_owned();
                best = Some((rank.0, rank.1, Base { checkpoint, files }));
            }
        }
        Ok(best.map(|(_, _, base)| base))
    }
}

/// The number of the manifest that each checkpoint was made with, by age.
fn ages(manifests: &[Manifest]) -> BTreeMap<&str, usize> {
    let numbered = manifests.iter().enumerate();
    numbered
        .filter_map(|(age, manifest)| Some((manifest.checkpoint.as_deref()?, age)))
        .collect()
}

/// Returns the newest file that the disk could go over; an error says why there is none although there are
/// files of it.
fn candidate(
    disk: &VmDisk,
    manifests: &[Manifest],
    usable: &[String],
    dir: &Path,
) -> Result<Option<Candidate>, String> {
    let mut why = None;
    for (age, manifest) in manifests.iter().enumerate().rev() {
        let Some(entry) = manifest.disks.iter().find(|entry| entry.id == disk.id) else {
            continue;
        };
        let is_usable = |id: &&String| usable.contains(id);
        let Some(checkpoint) = entry.checkpoint.as_ref().filter(is_usable) else {
            why.get_or_insert_with(|| "the engine has no checkpoint of its files any more".to_owned());
            continue;
        };
        if entry.size != disk.size {
            let was = entry.size;
            why.get_or_insert_with(|| format!("it had {was} bytes, and has {} now", disk.size));
            continue;
        }
        if let Err(broken) = is_whole(entry, manifests, dir) {
            why.get_or_insert(broken);
            continue;
        }
        return Ok(Some(Candidate {
            file: entry.file.clone(),
            checkpoint: checkpoint.clone(),
            age,
        }));
    }
    why.map_or(Ok(None), Err)
}

/// Fails unless every file of a chain is there, with the length that its manifest tells.
fn is_whole(entry: &Entry, manifests: &[Manifest], dir: &Path) -> Result<(), String> {
    for file in chain(entry, manifests) {
        let known = manifests
            .iter()
            .flat_map(|manifest| &manifest.disks)
            .find(|one| one.file == file);
        let Some(known) = known else {
            return Err(format!("no manifest names {file}, which its last file needs"));
        };
        let path = dir.join(file);
        match rights::with(move || fs::metadata(path)) {
            Ok(meta) if meta.len() == known.file_size => {}
            Ok(_) => return Err(format!("{file} has another length than it had")),
            Err(e) => return Err(format!("{file}, which its last file needs: {e}")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::manifest::tests::manifest;
    use super::*;

    fn disk(size: u64) -> VmDisk {
        VmDisk {
            id: "d".into(),
            name: "disk".into(),
            size,
            actual_size: None,
            raw: false,
            disk_snapshot: None,
        }
    }

    #[test]
    fn a_file_is_a_base_only_with_its_checkpoint_its_size_and_its_chain() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let mut manifests = [manifest("a", None), manifest("b", Some("a"))];
        manifests[1].disks[0].checkpoint = Some("c2".into());
        for name in ["a", "b"] {
            fs::write(dir.join(name), vec![0; 1 << 18]).unwrap();
        }
        let usable = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        let find = |size, ids: &[&str]| candidate(&disk(size), &manifests, &usable(ids), dir);
        let file = |found: Result<Option<Candidate>, String>| found.unwrap().map(|one| one.file);
        assert_eq!(file(find(1 << 20, &["c", "c2"])).as_deref(), Some("b"));
        assert_eq!(file(find(1 << 20, &["c"])).as_deref(), Some("a"));
        assert!(find(1 << 20, &[]).unwrap_err().contains("no checkpoint"));
        assert!(
            find(2 << 20, &["c", "c2"])
                .unwrap_err()
                .contains("has 2097152 now")
        );
        fs::write(dir.join("a"), "short").unwrap();
        let why = find(1 << 20, &["c", "c2"]).unwrap_err();
        assert!(why.contains("another length"), "{why}");
        fs::remove_file(dir.join("a")).unwrap();
        assert!(find(1 << 20, &["c", "c2"]).is_err());
    }
}
