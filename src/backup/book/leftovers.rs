//! The lines of the book are acted on here: a file that no manifest names goes, a checkpoint that no manifest
//! names is told, and what is settled is forgotten. Nothing is done where the book has no lock.

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
        if !self.is_locked {
            return;
        }
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
        if !self.is_locked {
            return false;
        }
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

    /// Forgets what is settled, at the end of a run: what the manifests name, and checkpoints that are gone.
    /// `there` are those of the engine, where it has told, and `may_come` is set while one may still be made.
    pub(in crate::backup) fn settle(&self, all: &[Manifest], there: Option<&[Checkpoint]>, may_come: bool) {
        if !self.is_locked {
            return;
        }
        let named = orphans::named(all);
        let is_there = |id: &str| there.is_none_or(|there| there.iter().any(|one| one.id == id));
        let mut lines = self.lines.lock();
        lines.retain(|line| match line {
            Line::File { name, .. } => !named.contains(name.as_str()),
            Line::Checkpoint(id) | Line::Outdated(id) => {
                !all.iter().any(|one| names(one, id)) && is_there(id)
            }
            Line::Refused(id) => is_there(id),
            Line::Begun(token) => {
                let name = |one: &Manifest| one.file_name().to_string_lossy().into_owned();
                let is_named = all.iter().any(|one| name(one).contains(token.as_str()));
                let is_there = there.is_none_or(|there| there.iter().any(|one| one.has_words(token)));
                !is_named && (may_come || is_there)
            }
        });
        if let Err(e) = self.rewrite(&lines) {
            info!("the book of {} is not shortened: {e}", self.dir.display());
        }
    }
}

/// Removes a file, where it is the one that was noted; returns whether it was there.
fn remove(path: &Path, inode: u64) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() && meta.ino() == inode => fs::remove_file(path).map(|()| true),
        // Another file has its name by now.
        Ok(_) => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}
