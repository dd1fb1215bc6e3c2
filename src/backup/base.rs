//! The base of an incremental backup: a checkpoint that the engine still has, and for each disk the file
//! that it goes over.
//!
//! A disk's base is the newest file of it whose checkpoint is usable, whose disk has the same size as now,
//! and whose chain of files is there: one that a manifest names, or one of the SDK's example (`adopt`). One
//! backup has one checkpoint. The changes since an older checkpoint, laid over a newer file of the same disk,
//! are right: more is dirty than need be, and the bytes are those of now. So the checkpoint is taken with
//! which the most disks can be incremental, the newest among those; the other disks come whole.
//!
//! A chain that is as long as it may get ends here, too: its disk comes whole, so that older chains can go.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use super::adopt;
use super::candidates::{Candidate, Place, Unfit, candidate};
use super::manifest::{Adopted, Manifest};
use super::orphans;
use crate::engine::{Engine, VmDisk};
use crate::failure::Failure;
use crate::logging::plain;
use crate::output::inform;
use crate::process::rights;

/// See the head of this file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) checkpoint: String,
    /// The file below the next one of each disk, by the disk's id.
    pub(super) files: BTreeMap<String, String>,
    /// The files of the SDK's example from there down, by the disk's id.
    pub(super) adopted: BTreeMap<String, Vec<Adopted>>,
}

impl Base {
    /// Returns the base of these disks of a VM; `None` where all of them come whole. What is said of a disk
    /// that comes whole is told. A chain has `longest` files at most.
    pub(super) fn of(
        engine: &Engine,
        dir: &Path,
        vm: &str,
        disks: &[VmDisk],
        longest: Option<usize>,
    ) -> Result<Option<Base>, Failure> {
        let place = dir.to_owned();
        let (mut manifests, unnamed) = rights::with(move || read(&place))?;
        manifests.retain(|manifest| manifest.vm.id.eq_ignore_ascii_case(vm));
        if manifests.is_empty() && unnamed.is_empty() {
            return Ok(None);
        }
        let usable = engine.checkpoints(vm)?;
        let place = Place {
            dir,
            manifests: &manifests,
            unnamed: &unnamed,
            usable: &usable,
        };
        let mut candidates: BTreeMap<String, Candidate> = BTreeMap::new();
        for disk in disks.iter().filter(|disk| !disk.raw) {
            match newest(disk, &place).and_then(|found| found.map(|one| short(one, longest)).transpose()) {
                Ok(Some(found)) => drop(candidates.insert(disk.id.clone(), found)),
                Ok(None) => {}
                Err(Unfit::Whole(why)) => inform(plain(&format!(
                    "disk {} ({}) comes whole: {why}",
                    disk.id, disk.name
                ))),
                Err(Unfit::Failed(failure)) => return Err(failure),
            }
        }
        let mut best: Option<(usize, usize, &str)> = None;
        let mut bases: BTreeMap<&str, Base> = BTreeMap::new();
        let tried: BTreeSet<&str> = candidates.values().map(|one| one.checkpoint.as_str()).collect();
        for checkpoint in tried {
            let there = engine.disks_of_checkpoint(vm, checkpoint)?;
            let age = place.age(checkpoint);
            let over = candidates.iter().filter(|(disk, one)| {
                place.age(&one.checkpoint) >= age && there.iter().any(|id| id.eq_ignore_ascii_case(disk))
            });
            let base = Base::over(checkpoint, over);
            let rank = (base.files.len(), age.unwrap_or_default());
            if rank.0 > 0 && best.is_none_or(|(n, age, _)| rank > (n, age)) {
                best = Some((rank.0, rank.1, checkpoint));
            }
            bases.insert(checkpoint, base);
        }
        Ok(best.and_then(|(_, _, checkpoint)| bases.remove(checkpoint)))
    }

    fn over<'a>(checkpoint: &str, candidates: impl Iterator<Item = (&'a String, &'a Candidate)>) -> Base {
        let mut base = Base {
            checkpoint: checkpoint.to_owned(),
            ..Base::default()
        };
        for (disk, one) in candidates {
            base.files.insert(disk.clone(), one.file.clone());
            if !one.adopted.is_empty() {
                base.adopted.insert(disk.clone(), one.adopted.clone());
            }
        }
        base
    }
}

/// Returns the manifests of a directory, and the images that none of them names. What can't be read is told.
fn read(dir: &Path) -> io::Result<(Vec<Manifest>, Vec<String>)> {
    if !dir.is_dir() {
        return Ok((Vec::new(), Vec::new()));
    }
    let (manifests, unreadable) = Manifest::all(dir)?;
    for (path, why) in unreadable {
        inform(plain(&format!(
            "the manifest {} is no base: {why}",
            path.display()
        )));
    }
    let unnamed = orphans::unnamed(dir, &orphans::named(&manifests))?;
    Ok((manifests, unnamed))
}

/// Returns the newest file that the disk could go over; an error says why there is none although there are
/// files of it.
fn newest(disk: &VmDisk, place: &Place<'_>) -> Result<Option<Candidate>, Unfit> {
    let ours = candidate(disk, place);
    if let Err(failed @ Unfit::Failed(_)) = ours {
        return Err(failed);
    }
    let theirs = adopt::candidate(disk, place)?;
    let age = |one: &Candidate| place.age(&one.checkpoint);
    match (ours, theirs) {
        (Ok(Some(ours)), Some(theirs)) if age(&ours) >= age(&theirs) => Ok(Some(ours)),
        (_, Some(theirs)) => Ok(Some(theirs)),
        (ours, None) => ours,
    }
}

/// Refuses one whose chain is as long as it may get.
fn short(one: Candidate, longest: Option<usize>) -> Result<Candidate, Unfit> {
    match longest {
        Some(longest) if one.length >= longest => Err(Unfit::Whole(format!(
            "its chain has {} files, and --full-every, or --keep, lets it have no more than {longest}",
            one.length
        ))),
        _ => Ok(one),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_that_is_as_long_as_it_may_get_ends() {
        let one = |length| Candidate {
            file: "a".into(),
            checkpoint: "c".into(),
            length,
            adopted: Vec::new(),
        };
        assert!(short(one(2), None).is_ok() && short(one(2), Some(3)).is_ok());
        let why = match short(one(3), Some(3)) {
            Err(Unfit::Whole(why)) => why,
            other => panic!("{other:?}"),
        };
        assert!(why.contains("no more than 3"), "{why}");
    }
}
