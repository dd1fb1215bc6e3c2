//! The lines of the book are acted on here: a file that no manifest names goes, a checkpoint that no manifest
//! names is told, and what is settled is forgotten. Without a certain lock, these are the lines of this run
//! and few others (`Line::is_settled`).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tracing::info;

use super::super::manifest::Manifest;
use super::super::orphans;
use super::super::outdated::names;
use super::{Book, Line};
use crate::engine::Checkpoint;
use crate::logging::plain;
use crate::output::{inform, tell};
use crate::process::rights;

impl Book {
    /// Removes the files that the book names and no manifest does. `all` are the manifests of the directory,
    /// every one.
    pub(in crate::backup) fn sweep(&self, all: &[Manifest]) {
        let mut lines = self.lines.lock();
        let held = {
            let ours = lines.iter().filter_map(|line| match line {
                Line::File { name, .. } => Some(name.clone()),
                _ => None,
            });
            let (dir, all, ours) = (self.dir.clone(), all.to_vec(), ours.collect::<Vec<_>>());
            rights::with(move || orphans::held(&dir, &all, &ours.iter().map(String::as_str).collect()))
        };
        let held = match held {
            Ok(held) => held,
            Err(why) => return info!("nothing that was left is removed: {why}"),
        };
        let mut gone = 0;
        lines.retain(|line| {
            let Line::File { name, inode } = line else {
                return true;
            };
            if held.contains(name) {
                return true;
            }
            let (path, inode) = (self.dir.join(name), *inode);
            match rights::with(move || remove(&path, inode)) {
                Ok(removed) => {
                    gone += usize::from(removed);
                    false
                }
                Err(e) => {
                    tell(plain(&format!(
                        "{name}, which no manifest names, can't be removed: {e}"
                    )));
                    true
                }
            }
        });
        if gone > 0 {
            inform(format_args!(
                "{gone} files of backups without a manifest are removed"
            ));
        }
    }

    /// True for a checkpoint of a run into this directory that no manifest names, so that it is no base.
    pub(in crate::backup) fn has_left(&self, checkpoint: &Checkpoint, all: &[Manifest]) -> bool {
        if all.iter().any(|manifest| names(manifest, &checkpoint.id)) {
            return false;
        }
        self.lines.lock().iter().any(|line| match line {
            Line::Begun(token) => checkpoint.has_words(token),
            Line::Checkpoint(id) | Line::Outdated(id) => *id == checkpoint.id,
            Line::File { .. } | Line::Refused(_) => false,
        })
    }

    /// Tells which of two checkpoints was refused later; those that never were come first.
    pub(in crate::backup) fn refused_at(&self, checkpoint: &str) -> Option<usize> {
        let is_it = |line: &Line| matches!(line, Line::Refused(id) if id == checkpoint);
        self.lines.lock().iter().rposition(is_it)
    }

    /// Forgets what this manifest tells of, which was written: it is not left, whatever a look at the
    /// directory finds. The file is the matter of `settle`.
    pub(in crate::backup) fn counts(&self, manifest: &Manifest) {
        let all = std::slice::from_ref(manifest);
        let named = orphans::named(all);
        self.lines.lock().retain(|line| !line.is_told(all, &named));
    }

    /// Forgets what is settled, at the end of a run: what the manifests name, and checkpoints that are gone.
    /// `there` are those of the engine, where it has told, and `may_come` is set while one may still be made.
    /// Without a certain lock, no line goes, and checkpoints that this run has left are noted as such.
    pub(in crate::backup) fn settle(&self, all: &[Manifest], there: Option<&[Checkpoint]>, may_come: bool) {
        let named = orphans::named(all);
        let is_there = |id: &str| there.is_none_or(|there| there.iter().any(|one| one.id == id));
        let mut lines = self.lines.lock();
        if !self.is_locked {
            let ours = lines.iter().filter(|line| !line.is_told(all, &named));
            let left = ours.filter_map(|line| match line {
                Line::Checkpoint(id) if is_there(id) => Some(id.clone()),
                _ => None,
            });
            let left: Vec<String> = left.collect();
            drop(lines);
            // The next run may act on this, as nobody needs them from now on.
            for id in left {
                self.add_or_log(Line::Outdated(id));
            }
            return;
        }
        lines.retain(|line| {
            !line.is_told(all, &named)
                && match line {
                    Line::File { .. } => true,
                    Line::Checkpoint(id) | Line::Outdated(id) | Line::Refused(id) => is_there(id),
                    Line::Begun(token) => {
                        may_come || there.is_none_or(|there| there.iter().any(|one| one.has_words(token)))
                    }
                }
        });
        if let Err(e) = self.rewrite(&lines) {
            info!("the book of {} is not shortened: {e}", self.dir.display());
        }
    }
}

impl Line {
    /// True where manifests tell of it, so that it is not left. `named` are the files that they name.
    fn is_told(&self, all: &[Manifest], named: &BTreeSet<&str>) -> bool {
        match self {
            Line::File { name, .. } => named.contains(name.as_str()),
            Line::Checkpoint(id) | Line::Outdated(id) => all.iter().any(|one| names(one, id)),
            Line::Begun(token) => all
                .iter()
                .any(|one| one.file_name().to_string_lossy().contains(token.as_str())),
            Line::Refused(_) => false,
        }
    }
}

/// Removes a file, where it is the one that was noted; returns whether it was there.
fn remove(path: &Path, inode: u64) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() && meta.ino() == inode => match fs::remove_file(path) {
            // A `recover` has removed it meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            removed => removed.map(|()| true),
        },
        // Another file has its name by now.
        Ok(_) => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::manifest::tests::manifest;
    use super::super::tests::{names, vm};
    use super::*;

    /// Nobody knows there whether another run goes on.
    #[test]
    fn without_a_certain_lock_a_run_takes_back_what_it_has_made_and_nothing_of_others() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        for name in ["theirs", "ours", "counts", "replaced", "other"] {
            fs::write(dir.join(name), name).unwrap();
        }
        let open = || Book::open_where(dir, &vm(), |_| false).unwrap();
        let made = |book: &Book, token: &str, checkpoint: &str, files: &[&str]| {
            book.begins(token);
            book.has_made(checkpoint);
            let names: Vec<String> = files.iter().map(|name| (*name).to_owned()).collect();
            book.removes(&names).unwrap();
        };
        let theirs = open();
        made(&theirs, "their-token", "c1", &["theirs"]);
        theirs.outdates("c0").unwrap();
        drop(theirs);
        let book = open();
        assert!(!book.is_locked());
        made(&book, "our-token", "c2", &["ours", "counts", "replaced"]);
        fs::rename(dir.join("other"), dir.join("replaced")).unwrap();
        let manifests = [manifest("counts", None)];
        book.sweep(&manifests);
        assert_eq!(names(dir), [".v.rhv-mount", "counts", "replaced", "theirs"]);
        let has_left = |id: &str, words: &str| {
            let one = Checkpoint::for_tests(id, words);
            book.has_left(&one, &manifests)
        };
        assert!(has_left("c2", "") && has_left("new", "our-token"));
        assert!(!has_left("c1", "") && !has_left("new", "their-token"));
        assert!(has_left("c0", ""), "its manifest is gone, whoever has removed it");
        book.has_made("c3");
        book.settle(&manifests, Some(&[Checkpoint::for_tests("c2", "")]), false);
        drop(book);
        let book = open();
        let has_left = |id: &str| book.has_left(&Checkpoint::for_tests(id, ""), &manifests);
        assert!(has_left("c2"), "its run has ended without a manifest");
        assert!(!has_left("c1") && !has_left("c3"));
        drop(book);
        let book = Book::open(dir, &vm()).unwrap();
        book.sweep(&manifests);
        assert_eq!(names(dir), [".v.rhv-mount", "counts", "replaced"]);
    }

    /// The listing of a directory behind a network may be older than what was written there.
    #[test]
    fn what_a_manifest_of_this_run_names_stays_whatever_a_look_at_the_directory_finds() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        fs::write(dir.join("a"), "bytes").unwrap();
        let book = Book::open(dir, &vm()).unwrap();
        book.begins("token");
        book.has_made("c");
        book.removes(&["a".to_owned()]).unwrap();
        let mut written = manifest("a", None);
        written.name = "1.token.manifest.json".into();
        book.counts(&written);
        book.sweep(&[]);
        assert_eq!(names(dir), [".v.rhv-mount", "a"]);
        assert!(!book.has_left(&Checkpoint::for_tests("c", "token"), &[]));
        book.settle(&[], None, true);
        drop(book);
        assert!(Book::open(dir, &vm()).unwrap().lines.lock().is_empty());
    }
}
