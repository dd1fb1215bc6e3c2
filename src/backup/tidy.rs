//! After a backup: checkpoints of ours that no disk needs any more go, and with `--keep` the backups that are
//! older than those to be kept. Neither is a reason to fail: what stays is told, and the next backup tries
//! again, with checkpoints before it begins, when no merge of a snapshot is in the way.
//!
//! The engine deletes any checkpoint of a chain: the one behind it gets its parent. So one that can't be
//! deleted is passed over, and the next run begins with the others.
//!
//! A disk that has failed keeps what it has: its newest backups count, and the checkpoint of the newest one
//! stays. So nothing waits for a disk that fails for ever. Backups go only where this run has made one.

use std::path::Path;

use tracing::info;

use super::book::Book;
use super::manifest::{Manifest, Unreadable};
use super::outdated::outdated;
use super::plan::Plan;
use super::retention::prune;
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

/// See the head of this file. `may_prune`: this run has written a manifest, and found no fault in a file.
pub(super) fn tidy(
    engine: &Engine,
    settings: &BackupSettings,
    stop: &Stop,
    plan: &Plan,
    book: &Book,
    may_prune: bool,
) {
    let Some((all, unreadable)) = manifests(&settings.dir) else {
        return;
    };
    let there = forget_checkpoints(engine, stop, plan, book, (&all, unreadable.is_empty()));
    let Some(keep) = settings.keep.filter(|_| may_prune) else {
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
    use std::fs;

    use super::super::manifest::tests::manifest;
    use super::*;
    use crate::engine::BackedVm;

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
            one.disks[0].file_size = 5;
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
}
