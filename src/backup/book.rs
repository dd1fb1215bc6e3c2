//! The book of a VM in a directory, `.VM.rhv-mount`: who holds its lock backs this VM up there, and nobody
//! else does. Those who only read the files there share another lock of it (`readers`). It tells the next run
//! what a run has begun there that no manifest tells of.
//!
//! A line of JSON is appended, and flushed, before the thing is done: the words with which a backup is asked
//! for, the checkpoint that it has made, a file that is about to get its name, or to go. So whatever a killed
//! run has left is known to be ours, and by its inode a file is. What a manifest names is not left, and
//! stays, and so does what lies below a file of another (`leftovers`). A line that was cut off in a crash
//! ends the book, and goes when it is opened.
//!
//! The file is never removed, as whoever waits for its lock would have that of a file without a name. Its
//! lock ends with its process (`process::lock`). Where not everybody who can open the book sees its lock, as
//! on network file systems, a run knows its own lines, and of those of others the ones that hold whether or
//! not their run goes on: what another one has begun may be what it is at.

mod leftovers;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::engine::BackedVm;
use crate::failure::{Exit, Failure};
use crate::images::Output;
use crate::logging::plain;
use crate::process::lock::{is_certain, let_in, try_lock, try_shut_out};
use crate::process::rights;

/// Upper bound on a book, in bytes: some ten thousand lines.
const MAX_BYTES: u64 = 4 << 20;

/// The end of the names of books.
const ENDING: &str = ".rhv-mount";

/// A fact that a run notes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    /// A backup was asked for with these words in its description.
    Begun(String),
    /// It has made this checkpoint.
    Checkpoint(String),
    /// This file of the directory counts for nothing unless a manifest names it.
    File { name: String, inode: u64 },
    /// No run needs this checkpoint of ours: the manifest that named it goes by `--keep`, or its own run has
    /// ended without one.
    Outdated(String),
    /// The engine has refused to delete this checkpoint.
    Refused(String),
}

impl Line {
    /// True where it holds whether or not its run goes on.
    fn is_settled(&self) -> bool {
        matches!(self, Line::Outdated(_) | Line::Refused(_))
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Book {
    dir: PathBuf,
    file: Mutex<File>,
    /// The lines that count: without a lock, not all of the file.
    lines: Mutex<Vec<Line>>,
    is_locked: bool,
}

/// The path of the book of a VM.
pub(crate) fn book_of(dir: &Path, vm: &str) -> PathBuf {
    dir.join(format!(".{vm}{ENDING}"))
}

/// True for the name of a book.
pub(super) fn is_book(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with('.') && name.ends_with(ENDING)
}

/// While there is one, nobody begins to read the files of the directory.
pub(super) struct Alone<'a>(&'a Book);

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        // They end with the file in any case.
        let _ = let_in(&self.0.file.lock());
    }
}

impl Book {
    /// Opens the book, and takes its lock; refuses where another process has it.
    pub(super) fn open(dir: &Path, vm: &BackedVm) -> Result<Book, Failure> {
        Book::open_where(dir, vm, is_certain)
    }

    /// The same; `is_certain` tells whether everybody who can open the file sees its lock.
    fn open_where(dir: &Path, vm: &BackedVm, is_certain: fn(&File) -> bool) -> Result<Book, Failure> {
        let path = book_of(dir, &vm.id);
        let failed = |e: io::Error| {
            let text = format!("cannot open {}: {e}; no backup was begun", path.display());
            Failure::text(Exit::Usage, plain(&text))
        };
        let to_open = path.clone();
        let mut file = rights::with(move || open(&to_open)).map_err(failed)?;
        let is_locked = match try_lock(&file) {
            Ok(true) => is_certain(&file),
            Ok(false) => {
                return Err(Failure::text(
                    Exit::Other,
                    plain(&format!(
                        "another backup of VM {} ({}) into {} is under way: wait until it has ended; no \
                         backup was begun",
                        vm.name,
                        vm.id,
                        dir.display()
                    )),
                ));
            }
            Err(e) => {
                info!("{} can't be locked: {e}", path.display());
                false
            }
        };
        let (mut lines, end) = read(&mut file).map_err(failed)?;
        if is_locked {
            let cut = file.metadata().and_then(|meta| match meta.len() > end {
                true => file.set_len(end),
                false => Ok(()),
            });
            cut.map_err(failed)?;
        } else {
            lines.retain(Line::is_settled);
        }
        Ok(Book {
            dir: dir.to_owned(),
            file: Mutex::new(file),
            lines: Mutex::new(lines),
            is_locked,
        })
    }

    /// True where no other process is at a backup of this VM into the directory.
    pub(super) fn is_locked(&self) -> bool {
        self.is_locked
    }

    /// Shuts out those who would read the files of the directory; nothing where somebody does.
    pub(super) fn without_readers(&self) -> Option<Alone<'_>> {
        let shut_out = try_shut_out(&self.file.lock()).unwrap_or_else(|e| {
            info!("readers of {} are not known: {e}", self.dir.display());
            true
        });
        shut_out.then(|| Alone(self))
    }

    /// Notes that a backup is about to be asked for with these words in its description.
    pub(super) fn begins(&self, token: &str) {
        self.add_or_log(Line::Begun(token.to_owned()));
    }

    /// Notes the checkpoint of a backup.
    pub(super) fn has_made(&self, checkpoint: &str) {
        self.add_or_log(Line::Checkpoint(checkpoint.to_owned()));
    }

    /// Notes a checkpoint that no run needs any more, and that no manifest is about to name.
    pub(super) fn outdates(&self, checkpoint: &str) -> io::Result<()> {
        self.add(Line::Outdated(checkpoint.to_owned()))
    }

    /// Notes that a checkpoint could not be deleted, in the place of what was noted of it before.
    pub(super) fn refuses(&self, checkpoint: &str) {
        let line = Line::Refused(checkpoint.to_owned());
        self.lines.lock().retain(|one| *one != line);
        self.add_or_log(line);
    }

    /// Notes a file that is about to get its name.
    pub(super) fn publishes(&self, name: &str, output: &Output) {
        if let Some((_, file)) = output.unfinished() {
            match file.metadata() {
                Ok(meta) => self.add_or_log(Line::File {
                    name: name.to_owned(),
                    inode: meta.ino(),
                }),
                Err(e) => info!("{name} is not noted: {e}"),
            }
        }
    }

    /// Notes files that are there and about to go.
    pub(super) fn removes(&self, names: &[String]) -> io::Result<()> {
        for name in names {
            let path = self.dir.join(name);
            match rights::with(move || fs::symlink_metadata(path)) {
                Ok(meta) => self.add(Line::File {
                    name: name.clone(),
                    inode: meta.ino(),
                })?,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// A line that can't be written is no reason against a backup, which has its note, too.
    fn add_or_log(&self, line: Line) {
        if let Err(e) = self.add(line) {
            info!("the book of {} is not written: {e}", self.dir.display());
        }
    }

    fn add(&self, line: Line) -> io::Result<()> {
        let mut json = serde_json::to_vec(&line).map_err(io::Error::other)?;
        json.push(b'\n');
        self.lines.lock().push(line);
        let mut file = self.file.lock();
        let before = file.seek(SeekFrom::End(0))?;
        if let Err(e) = file.write_all(&json) {
            // Half a line would spoil those that follow it.
            let _ = file.set_len(before);
            return Err(e);
        }
        file.sync_data()
    }

    /// A crash in the middle loses lines of what is settled at most, or leaves all of them.
    fn rewrite(&self, lines: &[Line]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut bytes, line).map_err(io::Error::other)?;
            bytes.push(b'\n');
        }
        let mut file = self.file.lock();
        if bytes.len() as u64 == file.metadata()?.len() {
            return Ok(());
        }
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&bytes)?;
        file.set_len(bytes.len() as u64)?;
        file.sync_data()
    }
}

fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no file")),
    }
}

/// Reads the lines up to the first that is none; returns them, and where they end.
fn read(file: &mut File) -> io::Result<(Vec<Line>, u64)> {
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    let (mut found, mut end) = (Vec::new(), 0);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let Ok(read) = serde_json::from_slice(line) else {
            break;
        };
        if !line.ends_with(b"\n") {
            break;
        }
        end += line.len() as u64;
        if !matches!(&read, Line::File { name, .. } if !super::manifest::is_plain_name(name)) {
            found.push(read);
        }
    }
    Ok((found, end))
}

#[cfg(test)]
mod tests {
    use super::super::manifest::tests::manifest;
    use super::*;
    use crate::engine::Checkpoint;

    pub(super) fn vm() -> BackedVm {
        BackedVm {
            id: "v".into(),
            name: "web".into(),
        }
    }

    pub(super) fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_vm_has_one_run_at_a_time_and_another_vm_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let first = Book::open(folder.path(), &vm()).unwrap();
        assert!(first.is_locked());
        let why = Book::open(folder.path(), &vm()).unwrap_err().to_string();
        assert!(why.contains("another backup of VM web (v)"), "{why}");
        let other = BackedVm {
            id: "w".into(),
            ..vm()
        };
        Book::open(folder.path(), &other).unwrap();
        drop(first);
        Book::open(folder.path(), &vm()).unwrap();
        let meta = fs::metadata(book_of(folder.path(), "v")).unwrap();
        assert_eq!(meta.mode() & 0o777, 0o600);
    }

    /// The first run is killed before it writes a manifest that names `b`.
    #[test]
    fn a_file_that_was_noted_goes_unless_a_manifest_names_it_or_another_file_has_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        for name in ["a", "b", "c", "other"] {
            fs::write(dir.join(name), name).unwrap();
        }
        let book = Book::open(dir, &vm()).unwrap();
        book.removes(&["a", "b", "c", "none"].map(str::to_owned)).unwrap();
        drop(book);
        fs::rename(dir.join("other"), dir.join("c")).unwrap();
        let book = Book::open(dir, &vm()).unwrap();
        book.sweep(&[manifest("a", None)]);
        assert_eq!(names(dir), [".v.rhv-mount", "a", "c"]);
        book.settle(&[manifest("a", None)], None, false);
        drop(book);
        let book = Book::open(dir, &vm()).unwrap();
        assert!(book.lines.lock().is_empty());
    }

    /// The SDK's example goes on with the file of a run that was killed.
    #[test]
    fn a_file_that_was_noted_stays_while_a_file_of_another_lies_over_it() {
        const DISK: &str = "3a8c1f56-9b55-4f0e-9f3b-0f1d2c3b4a59";
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let ours = format!("20261129083501.None.{DISK}.full.qcow2");
        let theirs = format!("20261130083501.None.{DISK}.incremental.qcow2");
        let made = Output::create_private(&dir.join(&ours), 1 << 20);
        made.and_then(Output::publish).unwrap();
        let made = Output::create_over(&dir.join(&theirs), 1 << 20, &ours);
        made.and_then(Output::publish).unwrap();
        let book = Book::open(dir, &vm()).unwrap();
        book.removes(std::slice::from_ref(&ours)).unwrap();
        book.sweep(&[]);
        assert_eq!(names(dir), [".v.rhv-mount", ours.as_str(), theirs.as_str()]);
        // A manifest that names only what lies over it needs it, too.
        fs::remove_file(dir.join(&theirs)).unwrap();
        book.sweep(&[manifest("b", Some(&ours))]);
        assert!(dir.join(&ours).exists());
        book.sweep(&[]);
        assert_eq!(names(dir), [".v.rhv-mount"]);
    }

    #[test]
    fn a_checkpoint_is_left_where_a_run_of_ours_has_made_it_and_no_manifest_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let book = Book::open(folder.path(), &vm()).unwrap();
        book.begins("token");
        book.has_made("c1");
        let of = |id: &str, words: &str| Checkpoint::for_tests(id, words);
        let all = [
            of("c1", ""),
            of("c2", "web token"),
            of("c", "token"),
            of("c3", "other"),
        ];
        let manifests = [manifest("a", None)];
        let left = |all: &[Checkpoint]| -> Vec<String> {
            let of_ours = all.iter().filter(|one| book.has_left(one, &manifests));
            of_ours.map(|one| one.id.clone()).collect()
        };
        assert_eq!(
            left(&all),
            ["c1", "c2"],
            "a manifest names c, and c3 is somebody else's"
        );
        book.settle(&manifests, Some(&all[1..]), false);
        assert_eq!(*book.lines.lock(), [Line::Begun("token".into())]);
        book.settle(&manifests, Some(&[]), true);
        assert_eq!(book.lines.lock().len(), 1, "its checkpoint may still come");
        book.settle(&manifests, Some(&[]), false);
        assert!(book.lines.lock().is_empty());
    }

    #[test]
    fn a_line_that_was_cut_off_ends_the_book_and_a_pipe_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = book_of(folder.path(), "v");
        let lines = "{\"begun\":\"t\"}\n{\"file\":{\"name\":\"../x\",\"inode\":1}}\n{\"checkpoint\":\"c";
        fs::write(&path, lines).unwrap();
        let book = Book::open(folder.path(), &vm()).unwrap();
        assert_eq!(*book.lines.lock(), [Line::Begun("t".into())]);
        book.begins("next");
        drop(book);
        let book = Book::open(folder.path(), &vm()).unwrap();
        let begun = |token: &str| Line::Begun(token.to_owned());
        assert_eq!(*book.lines.lock(), [begun("t"), begun("next")]);
        drop(book);
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        Book::open(folder.path(), &vm()).unwrap_err();
    }
}
