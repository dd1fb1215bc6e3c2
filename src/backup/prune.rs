//! `--keep N`: removes the backups of a VM that are older than the newest N of each disk, and never what one
//! of those needs.
//!
//! A manifest stays where an entry of it is among the newest N of its disk, and where a file of it lies
//! below one that stays, or below one that no manifest names. An entry whose files are not all there does
//! not count towards N, and stays as long as one in its place would. Two manifests of one run are one
//! point in time, and stay or go together. The others go: the manifest first, so that it never names what
//! is gone, then its files, which the book has by then: where that is cut short, the next run goes on
//! with it. A disk that the VM has no more keeps its newest N, too.
//!
//! Files of the SDK's example below one of ours are part of its chain, and go with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::manifest::{Entry, Manifest, known};
use super::points::chain;

/// The files and manifests that go.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Goes {
    /// The numbers of the manifests.
    pub(super) manifests: Vec<usize>,
    pub(super) files: Vec<String>,
}

impl Goes {
    pub(super) fn is_nothing(&self) -> bool {
        self.manifests.is_empty()
    }
}

/// Decides what goes of the backups of `vm`, where the newest `keep` of each disk are kept. `all` are the
/// manifests of the directory, the oldest first; files that no manifest names need those of `held`, and
/// `is_usable` tells the entries that can be restored, as far as a look at their files shows.
pub(super) fn goes(
    all: &[Manifest],
    vm: &str,
    keep: usize,
    held: &BTreeSet<String>,
    is_usable: &dyn Fn(&Entry) -> bool,
) -> Goes {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut stay = BTreeSet::new();
    for (n, manifest) in all.iter().enumerate().rev() {
        if manifest.vm.id != vm {
            stay.insert(n);
            continue;
        }
        for entry in &manifest.disks {
            let count = seen.entry(&entry.id).or_default();
            if *count < keep {
                stay.insert(n);
                *count += usize::from(is_usable(entry));
            }
        }
    }
    // All entries of a manifest that stays are kept, and what they need.
    let mut needed: BTreeSet<&str> = held.iter().map(String::as_str).collect();
    loop {
        for n in &stay {
            let entries = all[*n].disks.iter();
            needed.extend(entries.flat_map(|entry| chain(entry, all)));
        }
        let before = stay.len();
        let has_needed = |manifest: &Manifest| {
            let mut files = manifest.disks.iter().map(|entry| &entry.file);
            let mut adopted = manifest.adopted.iter().map(|one| &one.file);
            files.any(|file| needed.contains(file.as_str()))
                || adopted.any(|file| needed.contains(file.as_str()))
        };
        let pairs: Vec<usize> = stay.iter().flat_map(|n| of_the_same_run(*n, all)).collect();
        stay.extend(pairs);
        stay.extend((0..all.len()).filter(|n| has_needed(&all[*n])));
        if stay.len() == before {
            break;
        }
    }
    let manifests: Vec<usize> = (0..all.len()).filter(|n| !stay.contains(n)).collect();
    let kept: BTreeSet<&str> = stay
        .iter()
        .filter_map(|n| all[*n].configuration.as_deref())
        .chain(needed)
        .collect();
    let files = manifests
        .iter()
        .flat_map(|n| all[*n].files())
        .filter(|name| !kept.contains(name))
        .map(str::to_owned)
        .collect();
    Goes { manifests, files }
}

/// True where every file that `entry` needs is in `dir`, with the length that a manifest tells.
pub(super) fn has_its_files(dir: &Path, entry: &Entry, all: &[Manifest]) -> bool {
    chain(entry, all).into_iter().all(|name| {
        let length = fs::metadata(dir.join(name)).map(|meta| meta.len());
        known(name, all).is_some_and(|known| length.is_ok_and(|length| length == known.file_size))
    })
}

/// Returns the numbers of the manifests that are one point in time with manifest `n`: the one that the same
/// run wrote before, or after.
fn of_the_same_run(n: usize, all: &[Manifest]) -> impl Iterator<Item = usize> {
    let is_second_of = |second: &Manifest, first: &Manifest| {
        let name = second.second_of.as_deref().map(Path::new);
        name == Some(first.file_name()) && second.vm.id == first.vm.id
    };
    let is_it =
        move |other: &usize| is_second_of(&all[n], &all[*other]) || is_second_of(&all[*other], &all[n]);
    (0..all.len()).filter(is_it)
}

/// Removes what goes; returns how many manifests that were.
pub(super) fn remove(dir: &Path, all: &[Manifest], goes: &Goes) -> io::Result<usize> {
    // The newest goes first, so that one that is there never lacks a file where this is cut short.
    for n in goes.manifests.iter().rev() {
        remove_file(&dir.join(all[*n].file_name()))?;
    }
    // Their names are gone before the files are, also where the power fails.
    File::open(dir)?.sync_all()?;
    for name in &goes.files {
        remove_file(&dir.join(name))?;
    }
    Ok(goes.manifests.len())
}

/// Removes a file; another run may have done so first.
fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::super::manifest::Adopted;
    use super::super::manifest::tests::manifest;
    use super::*;

    #[test]
    fn a_backup_keeps_its_base_where_its_own_manifest_can_not_be_removed() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let mut all = [manifest("a", None), manifest("b", Some("a"))];
        for (manifest, name) in all.iter_mut().zip(["1.manifest.json", "2.manifest.json"]) {
            manifest.name = name.into();
        }
        std::fs::write(dir.join("1.manifest.json"), "").unwrap();
        std::fs::create_dir(dir.join("2.manifest.json")).unwrap();
        let goes = Goes {
            manifests: vec![0, 1],
            files: Vec::new(),
        };
        assert!(remove(dir, &all, &goes).is_err());
        assert!(dir.join("1.manifest.json").exists());
    }

    /// Another run, or somebody by hand, has removed it.
    #[test]
    fn a_manifest_that_is_gone_already_keeps_no_other_from_going() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let mut all = [manifest("a", None), manifest("b", None)];
        for (manifest, name) in all.iter_mut().zip(["1.manifest.json", "2.manifest.json"]) {
            manifest.name = name.into();
        }
        for name in ["1.manifest.json", "a", "b"] {
            fs::write(dir.join(name), "").unwrap();
        }
        let goes = Goes {
            manifests: vec![0, 1],
            files: ["a", "b"].map(str::to_owned).to_vec(),
        };
        assert_eq!(remove(dir, &all, &goes).unwrap(), 2);
        assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
    }

    #[test]
    fn a_backup_without_all_of_its_files_does_not_count() {
        let all = [
            manifest("a", None),
            manifest("b", None),
            manifest("c", Some("lost")),
            manifest("d", Some("c")),
        ];
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        for entry in all.iter().flat_map(|manifest| &manifest.disks) {
            let file = std::fs::File::create(dir.join(&entry.file)).unwrap();
            file.set_len(entry.file_size).unwrap();
        }
        let is_usable = |entry: &Entry| has_its_files(dir, entry, &all);
        let goes = |keep| goes(&all, "v", keep, &BTreeSet::new(), &is_usable).files;
        assert_eq!(goes(1), ["a"], "b is the newest that can be restored");
        assert!(goes(2).is_empty());
        std::fs::write(dir.join("b"), "another length").unwrap();
        assert!(goes(1).is_empty());
    }

    #[test]
    fn what_a_kept_backup_needs_is_never_removed() {
        let all = [
            manifest("a", None),
            manifest("b", Some("a")),
            manifest("c", None),
            manifest("d", Some("c")),
            manifest("e", Some("d")),
        ];
        let of = |manifests: &[usize], files: &[&str]| Goes {
            manifests: manifests.to_vec(),
            files: files.iter().map(|name| (*name).to_owned()).collect(),
        };
        let none = BTreeSet::new();
        assert_eq!(goes(&all, "v", 1, &none, &|_| true), of(&[0, 1], &["a", "b"]));
        assert_eq!(goes(&all, "v", 3, &none, &|_| true), of(&[0, 1], &["a", "b"]));
        assert_eq!(goes(&all, "v", 4, &none, &|_| true), of(&[], &[]), "b needs a");
        assert_eq!(goes(&all, "another", 1, &none, &|_| true), of(&[], &[]));
        // A file of another program lies over a, or over b, and so over a, too.
        let over = |name: &str| BTreeSet::from([name.to_owned()]);
        assert_eq!(goes(&all, "v", 1, &over("a"), &|_| true), of(&[1], &["b"]));
        assert_eq!(goes(&all, "v", 1, &over("b"), &|_| true), of(&[], &[]));
    }

    #[test]
    fn a_file_of_the_sdks_example_goes_with_the_chain_that_it_is_part_of() {
        let mut all = [manifest("a", None), manifest("b", Some("s")), manifest("c", None)];
        all[1].adopted = vec![Adopted {
            disk: "d".into(),
            file: "s".into(),
            file_size: 1,
            backing: Some("a".into()),
        }];
        let none = BTreeSet::new();
        assert!(
            goes(&all, "v", 2, &none, &|_| true).files.is_empty(),
            "b needs s, which needs a"
        );
        assert_eq!(goes(&all, "v", 1, &none, &|_| true).files, ["a", "b", "s"]);
    }

    /// Half of it would be a point of its own, without the other disks.
    #[test]
    fn two_manifests_of_one_run_stay_and_go_together() {
        let names = ["1", "2", "3", "4"];
        let mut all = names.map(|name| manifest(name, None));
        for (one, name) in all.iter_mut().zip(names) {
            one.name = name.into();
        }
        all[1].disks[0].id = "other".into();
        all[1].second_of = Some("1".into());
        let gone = |all: &[Manifest]| goes(all, "v", 1, &BTreeSet::new(), &|_| true).files;
        assert_eq!(
            gone(&all),
            ["3"],
            "2 is the newest one of its disk, and 1 is of the same run"
        );
        // The first one is the newest one of a disk of its own.
        let mut other_way = all.clone();
        other_way[0].disks[0].id = "third".into();
        other_way[1].disks[0].id = "d".into();
        assert_eq!(gone(&other_way), ["3"]);
        let mut newer = all[1].disks[0].clone();
        newer.file = "5".into();
        all[3].disks.push(newer);
        assert_eq!(gone(&all), ["1", "2", "3"]);
    }

    #[test]
    fn a_disk_that_is_in_few_backups_keeps_its_own() {
        let mut all = [manifest("a", None), manifest("b", None), manifest("c", None)];
        all[0].disks[0].id = "gone".into();
        let goes = goes(&all, "v", 1, &BTreeSet::new(), &|_| true);
        assert_eq!((goes.manifests, goes.files), (vec![1], vec!["b".to_owned()]));
    }

    #[test]
    fn the_manifest_goes_with_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        for (name, file) in [("1.manifest.json", "a"), ("2.manifest.json", "b")] {
            let mut one = serde_json::to_value(manifest(file, None)).unwrap();
            one["time"] = name.into();
            fs::write(dir.join(name), one.to_string()).unwrap();
            fs::write(dir.join(file), "bytes").unwrap();
        }
        let (all, _) = Manifest::all(dir).unwrap();
        let goes = goes(&all, "v", 1, &BTreeSet::new(), &|_| true);
        assert_eq!(remove(dir, &all, &goes).unwrap(), 1);
        let mut left: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["2.manifest.json", "b"]);
    }
}
