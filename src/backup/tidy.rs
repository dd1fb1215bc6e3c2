//! After a backup: checkpoints of ours that no disk needs any more go, and with `--keep` the backups that are
//! older than those to be kept. Neither is a reason to fail: what stays is told, and the next backup tries
//! again, with checkpoints before it begins, when no merge of a snapshot is in the way.
//!
//! The engine deletes any checkpoint of a chain: the one behind it gets its parent. So one that can't be
//! deleted is passed over, and the next run begins with the others.
//!
//! A disk that has failed keeps what it has: its newest backups count, and the checkpoint of the newest one
//! stays. So nothing waits for a disk that fails for ever. Backups go only where this run has made one.

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use tracing::info;

use super::book::Book;
use super::manifest::{Manifest, Unreadable};
use super::naming::time;
use super::orphans;
use super::outdated::{orphaned, outdated};
use super::plan::Plan;
use super::prune::{Goes, goes, remove};
use super::stop::Stop;
use crate::engine::{Checkpoint, Engine};
use crate::logging::plain;
use crate::output::{inform, tell};
use crate::process::rights;
use crate::settings::backup::BackupSettings;

/// After so many checkpoints that could not be deleted, the others wait for the next backup, too: each may
/// take a minute.
const MAX_REFUSALS: usize = 2;

/// Removes what a run has left that was killed, or has just failed: files of ours that no manifest names.
pub(super) fn sweep(dir: &Path, book: &Book) {
    if let Some((all, unreadable)) = manifests(dir) {
        // A manifest that can't be read may name any of them.
        if unreadable.is_empty() {
            book.sweep(&all);
        }
    }
}

/// Deletes, before a backup is begun, the checkpoints that an earlier run could not delete.
pub(super) fn catch_up(engine: &Engine, settings: &BackupSettings, stop: &Stop, plan: &Plan, book: &Book) {
    let vm = &plan.vm.id;
    // The engine refuses it while a backup goes on, and the end of this run tries again.
    let is_free = engine
        .backups(vm)
        .is_ok_and(|all| !all.iter().any(|one| one.is_open()));
    if !is_free {
        return;
    }
    let Some((all, unreadable)) = manifests(&settings.dir) else {
        return;
    };
    let mut there = match engine.all_checkpoints(vm) {
        Ok(there) => there,
        Err(e) => return info!("{e}"),
    };
    let mut unneeded = unneeded((&all, unreadable.is_empty()), vm, &there, book);
    // This backup is about to ask for what has changed since it.
    let base = plan.base.as_ref().map(|base| base.checkpoint.as_str());
    unneeded.retain(|one| Some(one.id.as_str()) != base);
    delete(engine, stop, (vm, unneeded), book, &mut there);
}

/// See the head of this file. `has_made` tells whether this run has written a manifest.
pub(super) fn tidy(
    engine: &Engine,
    settings: &BackupSettings,
    stop: &Stop,
    plan: &Plan,
    book: &Book,
    has_made: bool,
) {
    let Some((all, unreadable)) = manifests(&settings.dir) else {
        return;
    };
    let there = forget_checkpoints(engine, stop, plan, book, (&all, unreadable.is_empty()));
    let Some(keep) = settings.keep.filter(|_| has_made) else {
        return;
    };
    if let Some((path, why)) = unreadable.first() {
        tell(plain(&format!(
            "--keep removes nothing: the manifest {} can't be used, and may need any file: {why}",
            path.display()
        )));
        return;
    }
    match prune(&settings.dir, all, (&plan.vm.id, keep), book, there.as_deref()) {
        Ok(Ok(0)) => {}
        Ok(Ok(count)) => inform(format_args!("--keep {keep}: {count} older backups are removed")),
        Ok(Err(why)) => tell(plain(&format!("--keep removes nothing: {why}"))),
        Err(e) => tell(format_args!("--keep could not remove everything: {e}")),
    }
}

/// Reads the manifests of the directory.
fn manifests(dir: &Path) -> Option<(Vec<Manifest>, Unreadable)> {
    let place = dir.to_owned();
    match rights::with(move || Manifest::all(&place)) {
        Ok(read) => Some(read),
        Err(e) => {
            tell(format_args!("nothing old is removed: {}: {e}", dir.display()));
            None
        }
    }
}

/// Removes the backups of a VM but for the newest `keep`. Returns how many those were, or why nothing may be
/// removed. `there` are the checkpoints of the engine, where it has told.
fn prune(
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
    Ok(goes(all, vm, keep, &held))
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

/// Deletes the checkpoints of ours that are no base, and forgets what is settled. Returns those that the
/// engine has then, where it has told. `are_all` tells whether every manifest could be read.
fn forget_checkpoints(
    engine: &Engine,
    stop: &Stop,
    plan: &Plan,
    book: &Book,
    (all, are_all): (&[Manifest], bool),
) -> Option<Vec<Checkpoint>> {
    let vm = &plan.vm.id;
    let mut there = match engine.all_checkpoints(vm) {
        Ok(there) => there,
        Err(e) => {
            info!("{e}");
            book.settle(all, None, true);
            return None;
        }
    };
    let unneeded = unneeded((all, are_all), vm, &there, book);
    for id in delete(engine, stop, (vm, unneeded), book, &mut there) {
        inform(plain(&format!(
            "checkpoint {id}, which no disk needs any more, is invalid: a backup while the VM is down \
             deletes it"
        )));
    }
    // One that was told to stop before it was ready makes its checkpoint at its end.
    let may_come = engine
        .backups(vm)
        .map_or(true, |all| all.iter().any(|one| one.is_open()));
    book.settle(all, Some(&there), may_come);
    Some(there)
}

/// Returns the checkpoints of ours that are no base: those of runs that have left no manifest, and those that
/// a newer one has replaced. The oldest is the first, and those that were refused are the last, the latest
/// refused behind the others: so a few that can't be deleted are in the way of no others.
fn unneeded(
    (all, are_all): (&[Manifest], bool),
    vm: &str,
    there: &[Checkpoint],
    book: &Book,
) -> Vec<Checkpoint> {
    let outdated = outdated(all, vm, there);
    let is_left = |one: &Checkpoint| are_all && book.has_left(one, all);
    let mut unneeded = there.to_vec();
    unneeded.retain(|one| outdated.contains(&one.id) || is_left(one));
    unneeded.sort_by_key(|one| book.refused_at(&one.id));
    unneeded
}

/// Deletes these checkpoints of a VM, which then are not `there` any more. Returns those that are invalid,
/// and have to wait until the VM is down.
fn delete(
    engine: &Engine,
    stop: &Stop,
    (vm, unneeded): (&str, Vec<Checkpoint>),
    book: &Book,
    there: &mut Vec<Checkpoint>,
) -> Vec<String> {
    let (mut refusals, mut waiting) = (0, Vec::new());
    for one in unneeded {
        match engine.delete_checkpoint(vm, &one) {
            Ok(true) => {
                info!(id = one.id, "checkpoint deleted");
                there.retain(|other| other.id != one.id);
            }
            Ok(false) if !one.is_usable => waiting.push(one.id),
            Ok(false) => {
                info!("the VM is neither up nor down, and no checkpoint is deleted now");
                break;
            }
            Err(_) if stop.has_begun() => break,
            // The backup is still at its end, or a bitmap is in use.
            Err(e) => {
                let id = one.id;
                inform(plain(&format!(
                    "checkpoint {id}, which no disk needs any more, stays for now: {e}"
                )));
                book.refuses(&id);
                refusals += 1;
                if refusals == MAX_REFUSALS {
                    break;
                }
            }
        }
    }
    waiting
}

#[cfg(test)]
mod tests {
    use super::super::manifest::tests::manifest;
    use super::super::readers::Reader;
    use super::*;
    use crate::engine::BackedVm;

    const NOW: &str = "2026-11-29T08:35:02.000Z";

    fn book(dir: &Path) -> Book {
        let vm = BackedVm {
            id: "v".into(),
            name: "web".into(),
        };
        Book::open(dir, &vm).unwrap()
    }

    /// Manifests with these checkpoints, in the directory; all are of the past.
    fn written(dir: &Path, checkpoints: &[&str]) -> Vec<Manifest> {
        for (n, id) in checkpoints.iter().enumerate() {
            let file = format!("file-{n}");
            let mut one = manifest(&file, None);
            one.time = format!("2020-01-0{n}T00:00:00.000Z");
            one.checkpoint = Some((*id).into());
            one.disks[0].checkpoint = Some((*id).into());
            fs::write(dir.join(&file), "bytes").unwrap();
            let json = serde_json::to_vec(&one).unwrap();
            fs::write(dir.join(format!("{n}.manifest.json")), json).unwrap();
        }
        Manifest::all(dir).unwrap().0
    }

    fn there(ids: &[&str]) -> Vec<Checkpoint> {
        ids.iter().map(|id| Checkpoint::for_tests(id, "")).collect()
    }

    fn ids(all: &[Manifest], there: &[Checkpoint], book: &Book) -> Vec<String> {
        let unneeded = unneeded((all, true), "v", there, book);
        unneeded.into_iter().map(|one| one.id).collect()
    }

    /// The engine was at a merge still when its deletion was tried.
    #[test]
    fn a_checkpoint_can_still_be_deleted_once_its_manifest_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let all = written(dir, &["c1", "c2", "c3"]);
        let all_there = there(&["c2", "theirs", "c3"]);
        let pruned = prune(dir, all, ("v", 1), &book(dir), Some(&all_there)).unwrap();
        assert_eq!(pruned, Ok(2));
        let book = book(dir);
        let (all, _) = Manifest::all(dir).unwrap();
        assert_eq!(ids(&all, &all_there, &book), ["c2"]);
        assert_eq!(
            ids(&all, &there(&["c1"]), &book),
            [""; 0],
            "it was gone when its manifest went"
        );
        book.settle(&all, Some(&there(&["theirs", "c3"])), false);
        assert!(ids(&all, &all_there, &book).is_empty(), "it is settled");
    }

    #[test]
    fn a_checkpoint_that_was_refused_is_in_the_way_of_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let all = written(dir, &["c1", "c2", "c3", "c4"]);
        let all_there = there(&["c1", "c2", "c3", "c4"]);
        let first = book(dir);
        assert_eq!(ids(&all, &all_there, &first), ["c1", "c2", "c3"]);
        first.refuses("c1");
        first.refuses("c2");
        assert_eq!(ids(&all, &all_there, &first), ["c3", "c1", "c2"]);
        first.refuses("c1");
        first.settle(&all, Some(&all_there), false);
        drop(first);
        let book = book(dir);
        assert_eq!(ids(&all, &all_there, &book), ["c3", "c2", "c1"]);
        book.settle(&all, Some(&there(&["c2", "c3", "c4"])), false);
        assert_eq!(book.refused_at("c1"), None);
    }

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
            fs::write(dir.join(&one.disks[0].file), "").unwrap();
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
