//! `--keep`: whether anything may be removed now, and the removal. `prune` says what goes; nothing does while
//! the newest backup can't be told, a file that is there may need any other one, or somebody reads here.
//!
//! The book has what goes before it is gone, so that the next run finishes what is cut short.

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use super::book::Book;
use super::manifest::{Entry, Manifest};
use super::naming::time;
use super::orphans;
use super::outdated::orphaned;
use super::prune::{Goes, goes, has_its_files, remove};
use crate::engine::Checkpoint;
use crate::output::inform;
use crate::process::rights;

/// Removes the backups of a VM but for the newest `keep`. Returns how many those were, or why nothing may be
/// removed. `there` are the checkpoints of the engine, where it has told.
pub(super) fn prune(
    dir: &Path,
    all: Vec<Manifest>,
    (vm, keep): (&str, usize),
    book: &Book,
    there: Option<&[Checkpoint]>,
) -> io::Result<Result<usize, String>> {
    let now = time(SystemTime::now());
    let (place, vm, is_alone) = (dir.to_owned(), vm.to_owned(), book.is_locked());
    let chosen =
        rights::with(move || choose(&place, &all, (&vm, keep), &now, is_alone).map(|goes| (all, goes)));
    let (all, goes) = match chosen {
        Ok(chosen) => chosen,
        Err(why) => return Ok(Err(why)),
    };
    if goes.is_nothing() {
        return Ok(Ok(0));
    }
    let Some(_alone) = book.without_readers() else {
        inform(
            "--keep removes nothing for now: a restore or --check reads files here, and the next backup \
             removes what is too old",
        );
        return Ok(Ok(0));
    };
    // The next run knows them by this, if the rest is cut short.
    book.removes(&goes.files)?;
    // Nothing else tells then that those are ours which could not be deleted so far.
    for id in orphaned(&all, &goes.manifests, there) {
        book.outdates(&id)?;
    }
    let place = dir.to_owned();
    rights::with(move || remove(&place, &all, &goes)).map(Ok)
}

/// Decides what goes; an error says why nothing may be removed.
fn choose(
    dir: &Path,
    all: &[Manifest],
    (vm, keep): (&str, usize),
    now: &str,
    is_alone: bool,
) -> Result<Goes, String> {
    let is_early = |one: &&Manifest| one.vm.id == vm && one.time.as_str() > now;
    if let Some(early) = all.iter().find(is_early) {
        return Err(format!(
            "the backup {} is of {}, which is yet to come: set the clock, or move its files elsewhere",
            early.file_name().display(),
            early.time
        ));
    }
    let unreadable = |e: io::Error| format!("cannot read {}: {e}", dir.display());
    let written = match is_alone {
        true => None,
        false => being_written(dir).map_err(unreadable)?,
    };
    if let Some(name) = written {
        return Err(format!(
            "{name} may need any file: another backup writes it, or was killed, and `rhv-mount recover` \
             removes it"
        ));
    }
    let unnamed = orphans::unnamed(dir, &orphans::named(all)).map_err(unreadable)?;
    let held = orphans::needed(dir, &unnamed)?;
    let is_usable = |entry: &Entry| has_its_files(dir, entry, all);
    Ok(goes(all, vm, keep, &held, &is_usable))
}

/// Returns a file that is being written. Nobody is at one of this VM where this run has the lock of its book.
fn being_written(dir: &Path) -> io::Result<Option<String>> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') && name.ends_with(".part") {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::manifest::tests::manifest;
    use super::super::readers::Reader;
    use super::*;
    use crate::engine::BackedVm;

    const NOW: &str = "2026-11-29T08:35:02.000Z";

    #[test]
    fn nothing_goes_while_the_clock_says_that_a_backup_is_yet_to_come() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let all = [manifest("a.qcow2", None)];
        fs::write(dir.join("a.qcow2"), "bytes").unwrap();
        let why = |vm: &str, now: &str| choose(dir, &all, (vm, 1), now, true).err();
        assert_eq!(why("v", NOW), None);
        let early = why("v", "2026-11-28T08:35:02.000Z").unwrap();
        assert!(early.contains("yet to come"), "{early}");
        assert_eq!(why("another", "2026-11-28T08:35:02.000Z"), None);
    }

    #[test]
    fn nothing_goes_while_somebody_reads_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let mut all = vec![manifest("a.qcow2", None), manifest("b.qcow2", None)];
        for (one, name) in all.iter_mut().zip(["1.manifest.json", "2.manifest.json"]) {
            one.time = "2020-01-01T00:00:00.000Z".into();
            one.name = name.into();
            fs::write(dir.join(name), "").unwrap();
            let file = fs::File::create(dir.join(&one.disks[0].file)).unwrap();
            file.set_len(one.disks[0].file_size).unwrap();
        }
        let vm = BackedVm {
            id: "v".into(),
            name: "web".into(),
        };
        let book = Book::open(dir, &vm).unwrap();
        let pruned = || prune(dir, all.clone(), ("v", 1), &book, None).unwrap().unwrap();
        let reader = Reader::of(dir).unwrap();
        assert_eq!(pruned(), 0);
        assert!(dir.join("a.qcow2").exists() && dir.join("1.manifest.json").exists());
        drop(reader);
        assert_eq!(pruned(), 1);
        assert!(!dir.join("a.qcow2").exists() && dir.join("b.qcow2").exists());
        Reader::of(dir).unwrap();
    }

    /// The files of one VM never lie over those of another one.
    #[test]
    fn a_file_that_is_written_is_in_the_way_only_where_it_may_be_of_this_vm() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let all = [manifest("a.qcow2", None)];
        fs::write(dir.join(".2026.c.d.abc.part"), "bytes").unwrap();
        let why = |is_alone| choose(dir, &all, ("v", 1), NOW, is_alone).err();
        assert_eq!(why(true), None);
        let written = why(false).unwrap();
        assert!(written.contains(".part may need any file"), "{written}");
    }

    #[test]
    fn a_file_of_another_program_is_in_the_way_and_one_that_was_cut_off_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let all = [manifest("a.qcow2", None)];
        let why = || choose(dir, &all, ("v", 1), NOW, true).err();
        let killed = "20261129083501.None.3a8c1f56-9b55-4f0e-9f3b-0f1d2c3b4a59.full.qcow2";
        fs::write(dir.join(killed), "").unwrap();
        assert_eq!(why(), None);
        fs::write(dir.join("b.qcow2"), "bytes").unwrap();
        let unnamed = why().unwrap();
        assert!(unnamed.contains("no manifest names b.qcow2"), "{unnamed}");
    }
}
