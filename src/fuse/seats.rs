//! The threads in which requests wait for their disk.
//!
//! The session's threads serve all files of a mount. Where there are several, requests to a disk that answers
//! nothing could take every thread, and hold up the other disks with them. So each file has only so many
//! *seats* in the session's threads, and all files together leave a few of these threads free: many disks may
//! be on one host that answers nothing. A request that finds no seat goes on in a thread of its own, up to
//! [`MAX_APART`] of them at a time; beyond these it takes a session thread after all. A file that is alone
//! has all seats.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Builder;

use fuser::INodeNo;
use parking_lot::Mutex;
use tracing::info;

use super::session::SESSION_THREADS;
use super::{DiskFs, Files};

/// Upper bound on the threads beside those of the session. Each may hold the data of a write, 1 MiB.
pub(crate) const MAX_APART: usize = 32;

/// Session threads that are left for what waits for no disk: names, sizes, opens.
const LEFT_OVER: usize = 2;

/// The seats in use.
#[derive(Debug)]
pub(super) struct Seats {
    /// The number for each file.
    of_file: usize,
    /// Those of all files that are taken, where there are several.
    taken: AtomicUsize,
    apart: AtomicUsize,
}

/// One of the places that are counted in `0`, until it is dropped.
struct Taken<'a>(&'a AtomicUsize);

/// A seat: a place among those of its file, and among those of all files.
struct Seat<'a> {
    _of_file: Taken<'a>,
    _of_all: Option<Taken<'a>>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes one place of `most`, if there is one.
fn take(taken: &AtomicUsize, most: usize) -> Option<Taken<'_>> {
    let place = Taken(taken);
    (taken.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
}

impl Seats {
    /// The seats of a mount with so many files.
    pub(super) fn of(files: usize) -> Seats {
        Seats {
            of_file: match files {
                ..=1 => usize::MAX,
                files => ((SESSION_THREADS - LEFT_OVER) / files).max(1),
            },
            taken: AtomicUsize::new(0),
            apart: AtomicUsize::new(0),
        }
    }

    /// Takes a seat of a file, of which so many are taken, if there is one.
    fn take<'a>(&'a self, of_file: &'a AtomicUsize) -> Option<Seat<'a>> {
        let _of_file = take(of_file, self.of_file)?;
        let _of_all = match self.of_file {
            usize::MAX => None,
            _ => Some(take(&self.taken, SESSION_THREADS - LEFT_OVER)?),
        };
        Some(Seat { _of_file, _of_all })
    }
}

/// Work that may wait for a disk.
type Work = Box<dyn FnOnce(&Files) + Send>;

impl DiskFs {
    /// Does `work`, which may wait for the disk of this file. Returns at once where another thread does it.
    pub(super) fn wait_for(&self, ino: INodeNo, work: impl FnOnce(&Files) + Send + 'static) {
        let Ok(file) = self.0.file(ino) else {
            return work(&self.0);
        };
        match self.0.seats.take(&file.seated) {
            Some(_seat) => work(&self.0),
            None => self.apart(Box::new(work)),
        }
    }

    /// The same with the bytes of the request, which are copied only where another thread does it.
    pub(super) fn wait_with(
        &self,
        ino: INodeNo,
        data: &[u8],
        work: impl FnOnce(&Files, &[u8]) + Send + 'static,
    ) {
        let Ok(file) = self.0.file(ino) else {
            return work(&self.0, data);
        };
        match self.0.seats.take(&file.seated) {
            Some(_seat) => work(&self.0, data),
            None => {
                let data = data.to_vec();
                self.apart(Box::new(move |files| work(files, &data)));
            }
        }
    }

    fn apart(&self, work: Work) {
        let Some(place) = take(&self.0.seats.apart, MAX_APART) else {
            return work(&self.0);
        };
        // The place is given back by the thread.
        std::mem::forget(place);
        let (files, work) = (self.0.clone(), Arc::new(Mutex::new(Some(work))));
        let handed = work.clone();
        let started = Builder::new().name("apart".to_owned()).spawn(move || {
            let _place = Taken(&files.seats.apart);
            let work = handed.lock().take();
            if let Some(work) = work {
                work(&files);
            }
        });
        if let Err(e) = started {
            info!("no thread for a request to one of several disks: {e}");
            let _place = Taken(&self.0.seats.apart);
            let work = work.lock().take();
            if let Some(work) = work {
                work(&self.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_files_leave_session_threads_to_each_other() {
        assert_eq!(Seats::of(1).of_file, usize::MAX);
        for files in 2..=SESSION_THREADS - LEFT_OVER {
            let seats = Seats::of(files).of_file;
            assert!(
                seats >= 1 && seats * files <= SESSION_THREADS - LEFT_OVER,
                "{files}"
            );
        }
        assert_eq!(Seats::of(100).of_file, 1);
    }

    #[test]
    fn more_files_than_session_threads_leave_some_of_these_free() {
        let (seats, files) = (Seats::of(30), [const { AtomicUsize::new(0) }; 30]);
        let taken: Vec<Seat> = files.iter().filter_map(|file| seats.take(file)).collect();
        assert_eq!(taken.len(), SESSION_THREADS - LEFT_OVER);
        drop(taken);
        let (seats, alone) = (Seats::of(1), AtomicUsize::new(0));
        let taken: Vec<Seat> = (0..100).filter_map(|_| seats.take(&alone)).collect();
        assert_eq!(taken.len(), 100);
    }

    #[test]
    fn a_place_is_taken_once_and_given_back() {
        let taken = AtomicUsize::new(0);
        let first = take(&taken, 1);
        assert!(first.is_some() && take(&taken, 1).is_none());
        drop(first);
        assert!(take(&taken, 1).is_some());
        assert_eq!(taken.load(Ordering::Relaxed), 0);
    }
}
