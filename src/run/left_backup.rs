//! The end of a backup of a VM that a killed run has left. Its transfers have notes of their own, and end
//! before it.

use std::time::Duration;

use tracing::info;

use crate::backup::{book_of, held_in};
use crate::engine::{BackupEnd, Engine, Interrupt, Patience};
use crate::failure::{Exit, Failure};
use crate::images::unfinished_in;
use crate::logging::plain;
use crate::output::{report, tell};
use crate::settings::Task;
use crate::transfer::note::{Note, NotedBackup};
use crate::transfer::note_file::NoteFile;
use crate::transfer::unfinished::{Removal, Unfinished};

/// How long the end is waited for once the engine is at it.
const PATIENCE: Duration = Duration::from_secs(600);

/// How long a backup, or a transfer of one, is looked for that the engine may be about to make: its process
/// was killed before it had an answer. Others of the VM are refused meanwhile, so nothing of theirs is taken
/// for it.
pub(super) const APPEARANCE_PATIENCE: Duration = Duration::from_secs(10);

/// Says for people what a note is about.
pub(super) fn shown(note: &Note, backup: &NotedBackup) -> String {
    plain(&format!(
        "backup {} of VM {} ({})",
        backup.id.as_deref().unwrap_or("(unknown)"),
        note.disk_id,
        note.disk_name
    ))
}

/// Ends the backup of a note that this process has claimed, and removes the files that are worth nothing.
pub(super) fn end(engine: &Engine, file: &NoteFile, backup: &NotedBackup) -> Result<(), Failure> {
    let note = &file.note;
    let (place, vm) = (note.mountpoint.display(), &note.disk_id);
    // One that is mounted makes none, and what is in the directory is the user's.
    if note.task == Task::Backup {
        remove_files(note, backup);
    }
    let id = match &backup.id {
        Some(id) => id.clone(),
        None => match find(engine, vm, &backup.token)? {
            Some(id) => id,
            None => {
                report(format_args!("{place}: no backup was begun"));
                file.remove();
                return Ok(());
            }
        },
    };
    // It also has the snapshot, where the run was gone before it had heard of that.
    let seen = engine.backup(vm, &id)?;
    let snapshot = seen.and_then(|seen| seen.snapshot).or(backup.snapshot.clone());
    let ended = engine.finalize_backup(vm, &id, PATIENCE, &Interrupt::default())?;
    let merges = matches!(ended, BackupEnd::Going);
    report(format_args!(
        "{place}: {}",
        match ended {
            BackupEnd::Succeeded => format!("backup {id} is ended"),
            BackupEnd::Going => format!("the engine is at the end of backup {id}, which needs nobody"),
            BackupEnd::Failed(why) => format!("backup {id} is over, and has failed: {why}"),
            BackupEnd::Forgotten => format!("backup {id} is over, and the engine has forgotten it"),
        }
    ));
    file.remove();
    // The snapshot of one that the engine is still at is not left over.
    if merges {
        return Ok(());
    }
    forget_checkpoint(engine, note, backup);
    match engine.left_by_backup(vm, &id, snapshot.as_deref()) {
        Some(left) => Err(Failure::text(Exit::Transfer, left)),
        None => Ok(()),
    }
}

/// Deletes the checkpoint of a backup that has no manifest: it is no base, and costs a bitmap in every disk.
/// Nobody is told of one that stays, as the next backup into the directory tries again.
fn forget_checkpoint(engine: &Engine, note: &Note, backup: &NotedBackup) {
    let (vm, dir) = (&note.disk_id, &note.mountpoint);
    // A directory that is not mounted has no manifest either, and no book.
    let is_there = book_of(dir, vm).is_file();
    let has_none = matches!(backup.manifest.try_exists(), Ok(false));
    // The checkpoint of a mount is left to the user.
    if note.task != Task::Backup || !is_there || !has_none || note.is_ending() {
        return;
    }
    let all = match engine.all_checkpoints(vm) {
        Ok(all) => all,
        Err(e) => return info!("{e}"),
    };
    let is_its = |id: &str| backup.checkpoint.as_deref() == Some(id);
    for one in all {
        if !is_its(&one.id) && !one.has_words(&backup.token) {
            continue;
        }
        match engine.delete_checkpoint(vm, &one) {
            Ok(true) => report(format_args!(
                "{}: checkpoint {} is deleted: its backup has no manifest",
                dir.display(),
                one.id
            )),
            Ok(false) => info!(
                "checkpoint {} stays, as its VM is not in the state for that",
                one.id
            ),
            Err(e) => info!("{e}"),
        }
    }
}

/// Looks for a backup whose start was asked for: the engine may be at the request still.
fn find(engine: &Engine, vm: &str, token: &str) -> Result<Option<String>, Failure> {
    let never = Interrupt::default();
    let mut patience = Patience::new(APPEARANCE_PATIENCE, &never);
    loop {
        if let Some(found) = engine.backup_with(vm, token)? {
            return Ok(Some(found.id));
        }
        if !patience.pause()? {
            return Ok(None);
        }
    }
}

/// Removes the files that no manifest names, as the run was killed before it wrote that.
fn remove_files(note: &Note, backup: &NotedBackup) {
    let shown = note.mountpoint.display();
    for part in parts(note, backup) {
        if part.remove() == Removal::Removed {
            let path = part.path.display();
            report(format_args!("{shown}: the unfinished file {path} is removed"));
        }
    }
    // A directory that does not tell may have it.
    if !matches!(backup.manifest.try_exists(), Ok(false)) {
        return;
    }
    let names = backup
        .files
        .iter()
        .filter_map(|file| file.path.file_name()?.to_str());
    // A file of another may lie over one of these by now.
    let held = held_in(&note.mountpoint, &names.collect());
    for file in &backup.files {
        let path = file.path.display();
        let name = file.path.file_name().unwrap_or_default().to_string_lossy();
        let removal = match &held {
            Ok(held) if held.contains(name.as_ref()) => Removal::Left("another file needs it".to_owned()),
            Ok(_) => file.remove(),
            Err(why) => Removal::Left(why.clone()),
        };
        match removal {
            Removal::Removed => report(format_args!(
                "{shown}: {path} is removed: its backup has no manifest"
            )),
            Removal::Gone => {}
            Removal::Left(why) => tell(plain(&format!(
                "{shown}: {path} is not removed, and its backup has no manifest: {why}"
            ))),
        }
    }
}

/// Returns the files of a backup that have not got their names: those of its disks are in the notes of their
/// transfers, and the others are known by what their hidden names begin with.
fn parts(note: &Note, backup: &NotedBackup) -> Vec<Unfinished> {
    let name = backup.manifest.file_name().unwrap_or_default().to_string_lossy();
    let stamp = name.split('.').next().unwrap_or_default();
    let checkpoint = backup.checkpoint.as_deref().unwrap_or("None");
    if stamp.is_empty() {
        return Vec::new();
    }
    let names: [&str; 2] = [&name, &format!("{stamp}.{checkpoint}")];
    let found = unfinished_in(&note.mountpoint, &names);
    found
        .iter()
        .filter_map(|path| Unfinished::found(path).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::engine::Direction;

    #[test]
    fn a_file_goes_only_where_its_manifest_is_surely_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let (path, manifest) = (dir.join("a.qcow2"), dir.join("1.manifest.json"));
        fs::write(&path, "bytes").unwrap();
        let note = Note {
            mountpoint: dir.to_owned(),
            ..Note::for_tests(Direction::Download)
        };
        let backup = NotedBackup {
            manifest: manifest.clone(),
            files: vec![Unfinished::found(&path).unwrap()],
            ..NotedBackup::default()
        };
        // A name that can't be looked up.
        std::os::unix::fs::symlink(&manifest, &manifest).unwrap();
        remove_files(&note, &backup);
        assert!(path.exists());
        fs::remove_file(&manifest).unwrap();
        // A file of another program may need any.
        let other = dir.join("other.qcow2");
        fs::write(&other, "bytes").unwrap();
        remove_files(&note, &backup);
        assert!(path.exists());
        fs::remove_file(&other).unwrap();
        remove_files(&note, &backup);
        assert!(!path.exists());
    }
}
