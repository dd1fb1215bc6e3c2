//! `backup --check DIR`: whether the files of a directory still hold what their manifests say. No engine is
//! asked: the guest's bytes of each file are hashed, through the chain of files below it, and each
//! configuration is read as a restore reads it. A backup is not whole, either, where a manifest is missing,
//! as a restore refuses it: each file of a chain has to be named by a manifest, and each disk of a
//! configuration has to be told of by one.

use std::path::Path;

use super::chains::{self, looks_as_it_was};
use super::kept::{KeptDisk, Point, configuration, joined, kept};
use super::manifest::{Entry, Manifest};
use super::orphans::unnamed_by_now;
use super::readers::Reader;
use crate::block_hash::{Algorithm, Bytes, Method, Watch, hash};
use crate::failure::{Exit, Failure};
use crate::images::{Backing, Format, Source};
use crate::logging::plain;
use crate::output::{report, tell};

/// Checks every file that a manifest in `dir` names; returns the exit code.
pub(crate) fn check(dir: &Path) -> Result<u8, Failure> {
    let _reader = Reader::of(dir)?;
    let unreadable_dir = |e| Failure::text(Exit::Usage, format!("cannot read {}: {e}", dir.display()));
    let (manifests, unreadable) = Manifest::all(dir).map_err(unreadable_dir)?;
    if manifests.is_empty() && unreadable.is_empty() {
        // A file system that is not mounted looks like this, and nothing of it is good.
        let none = plain(&format!("{} has no backups", dir.display()));
        return Err(Failure::text(Exit::Usage, none));
    }
    let (mut good, mut bad) = (0, 0);
    for (path, why) in &unreadable {
        bad += 1;
        tell(plain(&format!(
            "the manifest {} can't be used: {why}",
            path.display()
        )));
    }
    for manifest in &manifests {
        let saved = manifest.configuration.as_deref();
        if let Some((name, Err(why))) = saved.map(|name| (name, configuration(dir, name))) {
            bad += 1;
            tell(plain(&format!(
                "{name}: the configuration of the VM can't be used: {why}"
            )));
        }
        for entry in &manifest.disks {
            match verify(dir, entry, &kept(entry, manifest, &manifests)) {
                Ok(()) => {
                    good += 1;
                    report(plain(&format!("{}: whole", entry.file)));
                }
                Err(why) => {
                    bad += 1;
                    tell(plain(&format!("{}: {why}", entry.file)));
                }
            }
        }
    }
    bad += joined(&manifests)
        .iter()
        .map(|point| lacks(dir, point))
        .sum::<usize>();
    let adopted = manifests.iter().flat_map(|manifest| &manifest.adopted);
    for one in adopted {
        // Its bytes are proven by the file that goes over it.
        if let Err(why) = looks_as_it_was(dir, &one.file, one.file_size, one.backing.as_deref()) {
            bad += 1;
            tell(plain(&format!("{}: {why}", one.file)));
        }
    }
    for name in unnamed_by_now(dir, &manifests).map_err(unreadable_dir)? {
        report(plain(&format!("{name}: no manifest names it")));
    }
    report(format_args!(
        "{}: {good} files are whole, {bad} are not",
        plain(&dir.display().to_string())
    ));
    Ok(if bad == 0 { Exit::Done } else { Exit::DataLoss } as u8)
}

/// Tells the disks that a point lacks; returns how many of them no manifest tells of. One that a manifest
/// calls failed is no fault of the files.
fn lacks(dir: &Path, point: &Point) -> usize {
    for one in &point.failed {
        report(plain(&format!(
            "the backup of {} has no file of disk {} ({}): {}",
            point.time, one.id, one.name, one.why
        )));
    }
    // `check` has told of one that can't be read.
    let read = point.configuration.as_ref().map(|name| configuration(dir, name));
    let Some(Ok(configuration)) = read else { return 0 };
    let untold = point.untold(&configuration);
    for one in &untold {
        tell(plain(&format!(
            "the backup of {} is not whole: disk {} ({}): {}",
            point.time, one.id, one.name, one.why
        )));
    }
    untold.len()
}

/// Says why a file does not hold what it should. `disk` is the one that `entry` tells of, with the files that
/// it needs.
fn verify(dir: &Path, entry: &Entry, disk: &KeptDisk) -> Result<(), String> {
    let path = dir.join(&entry.file);
    looks_as_it_was(dir, &entry.file, entry.file_size, entry.backing.as_deref())?;
    chains::check(dir, disk)?;
    let algorithm: Algorithm = entry.checksum.algorithm.parse()?;
    let block_size = Method::check_block_size(entry.checksum.block_size)?;
    let method = Method {
        algorithm,
        block_size,
    };
    let source = Source::open_with(&path, Some(Format::Qcow2), Backing::Beside).map_err(|e| e.to_string())?;
    if source.size() != entry.size {
        return Err(format!(
            "the disk in it has {} bytes, and had {}",
            source.size(),
            entry.size
        ));
    }
    let (there, _) = hash(&source as &dyn Bytes, method, &Watch::default()).map_err(|e| e.to_string())?;
    match there == entry.checksum {
        true => Ok(()),
        false => Err(format!(
            "the guest's bytes in it are not those that were backed up ({} {} instead of {}): it, or a file \
             below it, has changed",
            there.algorithm, there.checksum, entry.checksum.checksum
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::kept::tests::named;
    use super::super::manifest::tests::manifest;
    use super::*;
    use crate::images::Output;
    use crate::ovf::tests::{DATA, ROOT, ovf};

    /// The guest reads the same through it, while it is there.
    #[test]
    fn a_file_that_goes_over_another_one_than_it_did_is_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        for name in ["a", "copy"] {
            Output::create_private(&dir.join(name), 1 << 20)
                .and_then(Output::publish)
                .unwrap();
        }
        Output::create_over(&dir.join("b"), 1 << 20, "a")
            .and_then(Output::publish)
            .unwrap();
        let checked = |name: &str, backing: Option<&str>| {
            let mut all = ["a", "copy"].map(|name| manifest(name, None)).to_vec();
            all.retain(|one| one.disks[0].file != name);
            all.push(manifest(name, backing));
            for entry in all.iter_mut().flat_map(|one| &mut one.disks) {
                entry.file_size = fs::metadata(dir.join(&entry.file)).unwrap().len();
            }
            let mut entry = all[all.len() - 1].disks[0].clone();
            let source = Source::open(&dir.join(name), None).unwrap();
            entry.checksum = hash(&source, Method::default(), &Watch::default()).unwrap().0;
            verify(dir, &entry, &kept(&entry, &all[all.len() - 1], &all))
        };
        checked("a", None).unwrap();
        checked("b", Some("a")).unwrap();
        for (backing, shown) in [(Some("copy"), "went over copy"), (None, "went over no file")] {
            let why = checked("b", backing).unwrap_err();
            assert!(why.contains("b goes over a") && why.contains(shown), "{why}");
        }
    }

    fn write(dir: &Path, name: &str, one: &Manifest) {
        fs::write(dir.join(name), serde_json::to_vec(one).unwrap()).unwrap();
    }

    /// Makes the file of the disk of `one`, over the file that it names.
    fn make(dir: &Path, one: &mut Manifest) {
        let entry = &mut one.disks[0];
        let path = dir.join(&entry.file);
        match &entry.backing {
            None => Output::create_private(&path, entry.size),
            Some(backing) => Output::create_over(&path, entry.size, backing),
        }
        .and_then(Output::publish)
        .unwrap();
        entry.file_size = fs::metadata(&path).unwrap().len();
        let source = Source::open(&path, None).unwrap();
        entry.checksum = hash(&source, Method::default(), &Watch::default()).unwrap().0;
    }

    /// A restore refuses it: nothing tells what the file below it was.
    #[test]
    fn a_file_over_one_that_no_manifest_names_is_not_whole() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let (mut full, mut over) = (manifest("a.qcow2", None), manifest("b.qcow2", Some("a.qcow2")));
        make(dir, &mut full);
        make(dir, &mut over);
        write(dir, "1.manifest.json", &full);
        write(dir, "2.manifest.json", &over);
        let code = || check(dir).unwrap();
        assert_eq!(code(), Exit::Done as u8);
        fs::remove_file(dir.join("1.manifest.json")).unwrap();
        assert_eq!(code(), Exit::DataLoss as u8);
    }

    /// A restore of that point would make no VM.
    #[test]
    fn a_configuration_that_is_cut_off_or_gone_is_not_whole() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let mut one = manifest("a.qcow2", None);
        one.disks.clear();
        one.left_out = vec![named(ROOT), named(DATA)];
        one.configuration = Some("web.ovf".into());
        write(dir, "1.manifest.json", &one);
        let code = || check(dir).unwrap();
        assert_eq!(code(), Exit::DataLoss as u8);
        fs::write(dir.join("web.ovf"), ovf()).unwrap();
        assert_eq!(code(), Exit::Done as u8);
        fs::write(dir.join("web.ovf"), &ovf()[..ovf().len() / 2]).unwrap();
        assert_eq!(code(), Exit::DataLoss as u8);
    }

    /// The manifest that tells of it is gone. One that failed in its backup was told then.
    #[test]
    fn a_disk_of_the_vm_of_which_no_manifest_tells_is_not_whole() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let mut one = manifest("a.qcow2", None);
        one.disks.clear();
        one.left_out = vec![named(ROOT)];
        one.configuration = Some("web.ovf".into());
        fs::write(dir.join("web.ovf"), ovf()).unwrap();
        write(dir, "1.manifest.json", &one);
        let code = || check(dir).unwrap();
        assert_eq!(code(), Exit::DataLoss as u8);
        one.failed = vec![named(DATA)];
        write(dir, "1.manifest.json", &one);
        assert_eq!(code(), Exit::Done as u8);
    }

    #[test]
    fn a_directory_without_backups_is_not_good() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.qcow2"), "of another program").unwrap();
        let failure = check(folder.path()).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.to_string().contains("has no backups"), "{failure}");
    }
}
