//! The files that a disk can go over: the newest of it that a manifest names, with its chain; and what has to
//! be known about the directory for that.

use std::fs;
use std::path::Path;

use super::manifest::{Adopted, Manifest, known};
use crate::engine::VmDisk;
use crate::failure::{Exit, Failure};
use crate::images::is_passing;
use crate::process::rights;

/// The directory, as far as it matters for a base.
pub(super) struct Place<'a> {
    pub(super) dir: &'a Path,
    /// The manifests of the VM, the oldest first.
    pub(super) manifests: &'a [Manifest],
    /// The images that no manifest names, of this VM or another one.
    pub(super) unnamed: &'a [String],
    /// The checkpoints that the engine has, the oldest first.
    pub(super) usable: &'a [String],
}

/// A file that a disk could go over.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) file: String,
    pub(super) checkpoint: String,
    /// How many files its chain has.
    pub(super) length: usize,
    pub(super) adopted: Vec<Adopted>,
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum Unfit {
    /// The disk comes whole, for this reason.
    Whole(String),
    /// This machine can't tell now.
    Failed(Failure),
}

impl Unfit {
    /// The error of a file that was looked at.
    pub(super) fn of(passes: bool, why: String) -> Unfit {
        match passes {
            true => Unfit::Failed(Failure::text(Exit::Other, format!("{why}; no backup was begun"))),
            false => Unfit::Whole(why),
        }
    }
}

impl Place<'_> {
    /// The place of a checkpoint in the order of their making.
    pub(super) fn age(&self, checkpoint: &str) -> Option<usize> {
        self.usable.iter().position(|id| id == checkpoint)
    }
}

/// Returns the newest file that a manifest names.
pub(super) fn candidate(disk: &VmDisk, place: &Place<'_>) -> Result<Option<Candidate>, Unfit> {
    let mut why = None;
    for manifest in place.manifests.iter().rev() {
        let Some(entry) = manifest.disks.iter().find(|entry| entry.id == disk.id) else {
            continue;
        };
        let is_usable = |id: &&String| place.usable.contains(id);
        let Some(checkpoint) = entry.checkpoint.as_ref().filter(is_usable) else {
            why.get_or_insert_with(|| "the engine has no checkpoint of its files any more".to_owned());
            continue;
        };
        if entry.size != disk.size {
            let was = entry.size;
            why.get_or_insert_with(|| format!("it had {was} bytes, and has {} now", disk.size));
            continue;
        }
        match is_whole(&entry.file, place) {
            Ok(length) => {
                return Ok(Some(Candidate {
                    file: entry.file.clone(),
                    checkpoint: checkpoint.clone(),
                    length,
                    adopted: Vec::new(),
                }));
            }
            Err(Unfit::Whole(broken)) => {
                why.get_or_insert(broken);
            }
            Err(failed) => return Err(failed),
        }
    }
    why.map_or(Ok(None), |why| Err(Unfit::Whole(why)))
}

/// Fails unless every file of a chain from `file` down is there, with the length that its manifest tells.
/// Returns how many files that are.
pub(super) fn is_whole(file: &str, place: &Place<'_>) -> Result<usize, Unfit> {
    let mut seen: Vec<&str> = Vec::new();
    let mut next = Some(file);
    while let Some(name) = next.filter(|name| !seen.contains(name)) {
        let Some(known) = known(name, place.manifests) else {
            return Err(Unfit::Whole(format!(
                "no manifest names {name}, which its last file needs"
            )));
        };
        let path = place.dir.join(name);
        match rights::with(move || fs::metadata(path)) {
            Ok(meta) if meta.len() == known.file_size => {}
            Ok(_) => return Err(Unfit::Whole(format!("{name} has another length than it had"))),
            Err(e) => {
                let why = format!("{name}, which its last file needs: {e}");
                return Err(Unfit::of(is_passing(&e), why));
            }
        }
        seen.push(name);
        next = known.backing;
    }
    Ok(seen.len())
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::manifest::tests::manifest;
    use super::*;

    pub(in crate::backup) fn disk(id: &str, size: u64) -> VmDisk {
        VmDisk {
            id: id.into(),
            name: "disk".into(),
            size,
            actual_size: None,
            raw: false,
            disk_snapshot: None,
        }
    }

    fn why<T>(found: Result<T, Unfit>) -> String {
        match found {
            Err(Unfit::Whole(why)) => why,
            Err(Unfit::Failed(failure)) => panic!("{failure}"),
            Ok(_) => String::new(),
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
        let find = |size, ids: &[&str]| {
            let usable: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
            let place = Place {
                dir,
                manifests: &manifests,
                unnamed: &[],
                usable: &usable,
            };
            candidate(&disk("d", size), &place)
        };
        let file = |found: Result<Option<Candidate>, Unfit>| {
            let found = found.unwrap_or_else(|unfit| panic!("{unfit:?}"));
            found.map(|one| (one.file, one.length))
        };
        assert_eq!(file(find(1 << 20, &["c", "c2"])), Some(("b".to_owned(), 2)));
        assert_eq!(file(find(1 << 20, &["c"])), Some(("a".to_owned(), 1)));
        assert!(why(find(1 << 20, &[])).contains("no checkpoint"));
        assert!(why(find(2 << 20, &["c", "c2"])).contains("has 2097152 now"));
        fs::write(dir.join("a"), "short").unwrap();
        let broken = why(find(1 << 20, &["c", "c2"]));
        assert!(broken.contains("another length"), "{broken}");
        fs::remove_file(dir.join("a")).unwrap();
        assert!(!why(find(1 << 20, &["c", "c2"])).is_empty());
    }

    /// A full backup would be made, and hide it.
    #[test]
    fn an_error_of_this_machine_that_passes_is_no_broken_chain() {
        assert!(matches!(
            Unfit::of(true, "too many files".into()),
            Unfit::Failed(_)
        ));
        assert!(matches!(Unfit::of(false, "gone".into()), Unfit::Whole(_)));
    }
}
