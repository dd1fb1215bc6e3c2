//! Those who read the files of a directory for hours: a restore, and `--check`. `--keep` removes nothing
//! meanwhile, as each file is opened when its turn comes.
//!
//! A reader shares a lock of the book of each VM that has one there (`process::lock`), which needs no right
//! to write. So it is seen by every run that would remove something, on other machines too where the file
//! system passes locks on. Where a book can't be opened or locked, the files are read as they are.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tracing::info;

use super::book::is_book;
use crate::failure::{Exit, Failure};
use crate::logging::plain;
use crate::process::lock::try_read;
use crate::process::rights;

/// Upper bound on the wait for a run that removes older backups: it has chosen them before.
const MAX_WAIT: Duration = Duration::from_secs(60);

const PAUSE: Duration = Duration::from_millis(100);

/// While there is one, `--keep` removes nothing from the directory.
#[derive(Debug)]
pub(crate) struct Reader {
    /// Their locks end with them.
    _books: Vec<File>,
}

impl Reader {
    /// Becomes a reader of `dir`, before its manifests are read.
    pub(crate) fn of(dir: &Path) -> Result<Reader, Failure> {
        let place = dir.to_owned();
        let books = rights::with(move || open_books(&place)).unwrap_or_else(|e| {
            info!("{} can't be listed: {e}", dir.display());
            Vec::new()
        });
        let until = Instant::now() + MAX_WAIT;
        for book in &books {
            loop {
                match try_read(book) {
                    Ok(true) => break,
                    Ok(false) if Instant::now() < until => thread::sleep(PAUSE),
                    Ok(false) => {
                        let text = format!(
                            "a backup is removing older ones from {}: try again when it has ended",
                            dir.display()
                        );
                        return Err(Failure::text(Exit::Other, plain(&text)));
                    }
                    Err(e) => {
                        info!("a book in {} can't be locked: {e}", dir.display());
                        break;
                    }
                }
            }
        }
        Ok(Reader { _books: books })
    }
}

/// Opens the books of all VMs.
fn open_books(dir: &Path) -> io::Result<Vec<File>> {
    let mut books = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if !is_book(&entry.file_name()) {
            continue;
        }
        let mut options = OpenOptions::new();
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        match options.read(true).custom_flags(flags).open(entry.path()) {
            Ok(book) => books.push(book),
            Err(e) => info!("{} can't be opened: {e}", entry.path().display()),
        }
    }
    Ok(books)
}

#[cfg(test)]
mod tests {
    use super::super::book::Book;
    use super::*;
    use crate::engine::BackedVm;

    #[test]
    fn a_book_shuts_readers_out_only_where_there_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let early = Reader::of(dir).unwrap();
        let vm = |id: &str| BackedVm {
            id: id.into(),
            name: "web".into(),
        };
        let (book, other) = (
            Book::open(dir, &vm("v")).unwrap(),
            Book::open(dir, &vm("w")).unwrap(),
        );
        drop(early);
        let readers = (Reader::of(dir).unwrap(), Reader::of(dir).unwrap());
        assert!(book.without_readers().is_none() && other.without_readers().is_none());
        drop(readers.0);
        assert!(book.without_readers().is_none());
        drop(readers.1);
        let alone = book.without_readers().unwrap();
        let opened = open_books(dir).unwrap();
        let shut_out = |books: &[File]| books.iter().filter(|one| !try_read(one).unwrap()).count();
        assert_eq!((opened.len(), shut_out(&opened)), (2, 1));
        drop(alone);
        assert_eq!(shut_out(&opened), 0);
        // The run goes on beside its readers, and another one is refused all the same.
        assert!(Book::open(dir, &vm("v")).is_err());
    }

    #[test]
    fn a_pipe_with_the_name_of_a_book_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&folder.path().join(".v.rhv-mount"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        Reader::of(folder.path()).unwrap();
        Reader::of(&folder.path().join("none")).unwrap();
    }
}
