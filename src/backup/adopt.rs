//! Files of the SDK's example of a backup (backup_vm.py) that one of ours can go over: their names are ours,
//! and no manifest has them.
//!
//! Nobody has verified them. Such a file is taken where its name tells a checkpoint that the engine has, and
//! where it and the files below it are qcow2 images of this disk's size, down to a full one, or to a file
//! that a manifest of the VM names. What then lies over it is compared with the disk as a whole, so the bytes
//! of all of them are proven before a manifest names any; where they are others, the disk is copied as a
//! whole.

use super::candidates::{Candidate, Place, Unfit, is_whole};
use super::manifest::{Adopted, Mode, is_plain_name, known};
use super::naming::Parts;
use crate::engine::VmDisk;
use crate::images::head;
use crate::logging::plain;
use crate::output::inform;
use crate::process::rights;

/// Upper bound on the files of a chain, which is QEMU's.
const MAX_FILES: usize = 200;

/// Returns the newest of them. Why a newer one is none is told.
pub(super) fn candidate(disk: &VmDisk, place: &Place<'_>) -> Result<Option<Candidate>, Unfit> {
    for checkpoint in place.usable.iter().rev() {
        let is_of_it = |name: &&String| {
            Parts::of(name).is_some_and(|parts| {
                let has = |id: &str| id.eq_ignore_ascii_case(checkpoint);
                parts.disk.eq_ignore_ascii_case(&disk.id) && parts.checkpoint.is_some_and(has)
            })
        };
        for name in place.unnamed.iter().filter(is_of_it) {
            match from(name, disk, place) {
                Ok((adopted, below)) => {
                    return Ok(Some(Candidate {
                        file: name.clone(),
                        checkpoint: checkpoint.clone(),
                        length: adopted.len() + below,
                        adopted,
                    }));
                }
                Err(Unfit::Whole(why)) => inform(plain(&format!(
                    "{name}, which no manifest names, is no base: {why}"
                ))),
                Err(failed) => return Err(failed),
            }
        }
    }
    Ok(None)
}

/// Returns the files from `name` down that no manifest names, and how many are below them.
fn from(name: &str, disk: &VmDisk, place: &Place<'_>) -> Result<(Vec<Adopted>, usize), Unfit> {
    let mut adopted: Vec<Adopted> = Vec::new();
    let mut next = name.to_owned();
    loop {
        let one = look(&next, disk, place)?;
        let below = one.backing.clone();
        adopted.push(one);
        let Some(below) = below else {
            return Ok((adopted, 0));
        };
        if known(&below, place.manifests).is_some() {
            let count = is_whole(&below, place)?;
            return Ok((adopted, count));
        }
        let comes_back = adopted.iter().any(|one| one.file == below);
        if comes_back || adopted.len() >= MAX_FILES || !place.unnamed.contains(&below) {
            return Err(Unfit::Whole(format!("it needs {below}, which is no file for it")));
        }
        next = below;
    }
}

/// Reads the header of one of them.
fn look(name: &str, disk: &VmDisk, place: &Place<'_>) -> Result<Adopted, Unfit> {
    let whole = |why: String| Err(Unfit::Whole(why));
    let parts = Parts::of(name).filter(|parts| parts.disk.eq_ignore_ascii_case(&disk.id));
    let Some(parts) = parts else {
        return whole(format!("{name} is of another disk"));
    };
    let path = place.dir.join(name);
    let head = rights::with(move || head(&path)).map_err(|e| Unfit::of(e.is_passing(), e.to_string()))?;
    if head.size != disk.size {
        return whole(format!(
            "the disk in {name} has {} bytes, and this one {}",
            head.size, disk.size
        ));
    }
    let backing = match (head.backing, parts.mode) {
        (None, Mode::Incremental) => return whole(format!("{name} has changes only, and no file below it")),
        (None, Mode::Full) => None,
        (Some(bytes), _) => {
            let plain_name = |name: &String| is_plain_name(name);
            match String::from_utf8(bytes).ok().filter(plain_name) {
                Some(below) => Some(below),
                None => return whole(format!("{name} goes over a file that is not beside it")),
            }
        }
    };
    Ok(Adopted {
        disk: disk.id.clone(),
        file: name.to_owned(),
        file_size: head.length,
        backing,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::candidates::tests::disk;
    use super::super::manifest::Manifest;
    use super::super::manifest::tests::manifest;
    use super::super::orphans::{named, unnamed};
    use super::*;
    use crate::images::Output;

    const DISK: &str = "3a8c1f56-9b55-4f0e-9f3b-0f1d2c3b4a59";
    const FIRST: &str = "1a8c1f56-9b55-4f0e-9f3b-0f1d2c3b4a59";
    const SECOND: &str = "2a8c1f56-9b55-4f0e-9f3b-0f1d2c3b4a59";
    const SIZE: u64 = 1 << 20;

    fn name(stamp: u64, checkpoint: &str, mode: &str) -> String {
        format!("{}.{checkpoint}.{DISK}.{mode}.qcow2", 20_261_129_083_500 + stamp)
    }

    fn make(dir: &Path, name: &str, size: u64, over: Option<&str>) {
        let path = dir.join(name);
        let output = match over {
            Some(below) => Output::create_over(&path, size, below),
            None => Output::create_private(&path, size),
        };
        output.and_then(Output::publish).unwrap();
    }

    fn find(dir: &Path, manifests: &[Manifest], usable: &[&str]) -> Option<Candidate> {
        let unnamed = unnamed(dir, &named(manifests)).unwrap();
        let usable: Vec<String> = usable.iter().map(|id| (*id).to_owned()).collect();
        let place = Place {
            dir,
            manifests,
            unnamed: &unnamed,
            usable: &usable,
        };
        candidate(&disk(DISK, SIZE), &place).unwrap_or_else(|unfit| panic!("{unfit:?}"))
    }

    #[test]
    fn a_chain_of_the_example_is_taken_down_to_its_full_file_or_to_one_of_ours() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let (full, over) = (name(1, FIRST, "full"), name(2, SECOND, "incremental"));
        make(dir, &full, SIZE, None);
        make(dir, &over, SIZE, Some(&full));
        let found = find(dir, &[], &[FIRST, SECOND]).unwrap();
        assert_eq!((found.file.as_str(), found.length), (over.as_str(), 2));
        assert_eq!(found.checkpoint, SECOND);
        let below: Vec<&str> = found.adopted.iter().map(|one| one.file.as_str()).collect();
        assert_eq!(below, [over.as_str(), full.as_str()]);
        assert_eq!(
            find(dir, &[], &[FIRST]).unwrap().file,
            full,
            "its checkpoint is gone"
        );
        assert!(find(dir, &[], &[]).is_none());

        let mut ours = manifest(&full, None);
        ours.disks[0].file_size = fs::metadata(dir.join(&full)).unwrap().len();
        let found = find(dir, std::slice::from_ref(&ours), &[FIRST, SECOND]).unwrap();
        assert_eq!((found.adopted.len(), found.length), (1, 2));
        ours.disks[0].file_size += 1;
        assert!(
            find(dir, std::slice::from_ref(&ours), &[FIRST, SECOND]).is_none(),
            "ours has changed"
        );
    }

    #[test]
    fn what_is_no_whole_chain_of_this_disk_is_never_taken() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        make(dir, &name(1, FIRST, "full"), 2 * SIZE, None);
        assert!(find(dir, &[], &[FIRST]).is_none(), "another size");
        make(dir, &name(2, FIRST, "incremental"), SIZE, None);
        assert!(find(dir, &[], &[FIRST]).is_none(), "no file below it");
        make(dir, &name(3, FIRST, "incremental"), SIZE, Some("elsewhere.qcow2"));
        assert!(find(dir, &[], &[FIRST]).is_none(), "another program's");
        fs::write(dir.join(name(4, FIRST, "full")), "cut off").unwrap();
        assert!(find(dir, &[], &[FIRST]).is_none());
        make(dir, &name(5, FIRST, "full"), SIZE, None);
        assert!(find(dir, &[], &[FIRST]).is_some());
    }
}
