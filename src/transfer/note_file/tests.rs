//! Notes on disk: whose they are, and what becomes of them.

use super::super::cause::Cause;
use super::*;
use crate::engine::Direction;

fn note() -> Note {
    Note::for_tests(Direction::Upload)
}

/// The note as another process finds it.
fn found(file: &NoteFile) -> NoteFile {
    NoteFile {
        path: file.path.clone(),
        note: file.note.clone(),
        file: None,
        kept: true,
    }
}

/// Pretends that this process has written it in another PID namespace, or on another machine.
fn from_elsewhere(file: &mut NoteFile) {
    file.note.namespace = "pid:[1]".into();
    file.update().unwrap();
}

#[test]
fn a_note_is_its_owners_from_its_creation_through_every_rewriting() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = NoteFile::create_in(dir.path(), note()).unwrap();
    assert_eq!(found(&file).claim().unwrap(), Some(Owner::AtWork));
    for _ in 0..3 {
        from_elsewhere(&mut file);
        assert_eq!(found(&file).claim().unwrap(), Some(Owner::Elsewhere));
    }
    file.note.boot = "another".into();
    file.note.machine = "another".into();
    file.update().unwrap();
    assert_eq!(found(&file).claim().unwrap(), Some(Owner::Elsewhere));
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_note_whose_owner_is_gone_is_claimed_by_one_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = NoteFile::create_in(dir.path(), note()).unwrap();
    from_elsewhere(&mut file);
    assert!(file.note.locked, "the tests want a file system with locks");
    let (mut first, mut second) = (found(&file), found(&file));
    drop(file);
    assert_eq!(first.claim().unwrap(), Some(Owner::Gone));
    assert_eq!(second.claim().unwrap(), Some(Owner::Elsewhere));
    first.remove();
    assert_eq!(second.claim().unwrap(), None);
}

/// A process that is killed while it writes leaves what it has written, once under the note's name as well.
#[test]
fn with_a_note_goes_what_killed_processes_have_left_of_it_and_nothing_that_is_being_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = NoteFile::create_in(dir.path(), note()).unwrap();
    let beside = |word: &str| file.path.with_extension(format!("{UNFINISHED}{word}"));
    fs::write(beside("left"), "{").unwrap();
    fs::hard_link(&file.path, beside("linked")).unwrap();
    let (written, writer) = write_beside(&file.path, &mut note()).unwrap();
    let others = dir.path().join(format!("other.{UNFINISHED}left"));
    fs::write(&others, "{").unwrap();
    file.remove();
    assert!(!beside("left").exists() && !beside("linked").exists() && !file.path.exists());
    assert!(written.exists() && others.exists());
    drop(writer);
}

#[test]
fn the_note_of_a_later_mount_is_neither_rewritten_nor_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = NoteFile::create_in(dir.path(), note()).unwrap();
    assert!(NoteFile::create_in(dir.path(), note()).is_err());
    fs::remove_file(&first.path).unwrap();
    let second = NoteFile::create_in(dir.path(), note()).unwrap();
    assert!(first.update().is_err());
    first.remove();
    assert!(is_at(second.file.as_ref().unwrap(), &second.path));
}

#[test]
fn what_is_left_of_another_disk_is_in_nobodys_way_and_what_is_left_of_this_one_is() {
    let dir = tempfile::tempdir().unwrap();
    let of = |disk: &str| Note {
        disk_id: disk.to_owned(),
        ..note()
    };
    let mut first = NoteFile::create_in(dir.path(), of("first")).unwrap();
    assert!(
        NoteFile::create_in(dir.path(), of("second")).is_err(),
        "a process serves it"
    );
    from_elsewhere(&mut first);
    let first_path = first.path.clone();
    drop(first);
    let mut second = NoteFile::create_in(dir.path(), of("second")).unwrap();
    assert_ne!(second.path, first_path);
    second.amend(|note| note.cause = Cause::Paused);
    from_elsewhere(&mut second);
    drop(second);
    for disk in ["first", "second"] {
        let refused = NoteFile::create_in(dir.path(), of(disk)).unwrap_err().to_string();
        assert!(refused.contains("rhv-mount recover"), "{refused}");
        assert_eq!(refused.contains("was killed"), disk == "first", "{refused}");
    }
    assert!(NoteFile::create_in(dir.path(), of("third")).is_ok());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
}

/// Runs begin and end while others look.
#[test]
fn a_note_that_goes_while_it_is_looked_at_is_neither_unreadable_nor_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let file = NoteFile::create_in(dir.path(), note()).unwrap();
    let all = || NoteFile::all_of(std::iter::once(file.path.clone()), None);
    let seen = all();
    assert_eq!(seen[0].owner(), Some(Owner::AtWork));
    assert!(in_the_way(&file.path, &note()).is_some());
    file.remove();
    assert_eq!(seen[0].owner(), None);
    assert!(!seen[0].is_left());
    assert!(all().is_empty() && !TOLD.lock().contains(&file.path));
    assert!(in_the_way(&file.path, &note()).is_none());
}

/// The name is free when a run has ended, and the same copy may be begun again.
#[test]
fn a_note_whose_name_is_the_next_runs_by_now_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = NoteFile::create_in(dir.path(), note()).unwrap();
    from_elsewhere(&mut first);
    let mut seen = found(&first);
    fs::remove_file(&first.path).unwrap();
    let next = NoteFile::create_in(dir.path(), note()).unwrap();
    assert_eq!(seen.path, next.path);
    assert_eq!(seen.owner(), None);
    assert_eq!(seen.claim().unwrap(), None);
    drop(next);
    assert_eq!(seen.claim().unwrap(), None);
    let mut left = found(&seen);
    left.note = read(&left.path).unwrap();
    assert_eq!(left.claim().unwrap(), Some(Owner::Gone));
}

/// Nobody may find a note again that its owner has removed.
#[test]
fn a_note_that_is_gone_is_not_amended() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = NoteFile::create_in(dir.path(), note()).unwrap();
    file.remove();
    file.amend(|note| note.cause = Cause::Paused);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Without a lock that everybody sees, only the number of a process in its own namespace tells.
#[test]
fn where_no_lock_tells_nobody_is_taken_for_dead_who_can_not_be_seen() {
    let mut note = note();
    let dead = Some(0);
    for lock in [Lock::Unknown, Lock::Free { certain: false }] {
        note.started = dead;
        assert_eq!(note.owner(lock), Owner::Gone);
        let mut other = note.clone();
        other.namespace = "pid:[1]".into();
        assert_eq!(other.owner(lock), Owner::Unknown);
        other = note.clone();
        other.boot = "another".into();
        assert_eq!(other.owner(lock), Owner::Unknown);
        other.machine = "another".into();
        assert_eq!(other.owner(lock), Owner::Foreign);
        other.locked = true;
        assert_eq!(other.owner(lock), Owner::Foreign);
    }
    note.boot = "another".into();
    assert_eq!(note.owner(Lock::Free { certain: true }), Owner::Unknown);
    note.locked = true;
    assert_eq!(note.owner(Lock::Free { certain: true }), Owner::Gone);
    assert_eq!(note.owner(Lock::Held), Owner::Elsewhere);
}
