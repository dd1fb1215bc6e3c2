//! The image, before the first byte is copied: it is opened, its head is read, that of a download is made.
//!
//! Its file system may hang (a network's, whose server is gone), and no thread can be called back from it. So
//! each of these steps has a thread of its own, which the main thread [attends](attended) with an ear for
//! signals; a panic in what parses an image is an error of the copy like others. Root may copy another user's
//! image, and make one in another user's directory: the threads that open it and make it have root's
//! capabilities, as the one has that makes these threads. The one that reads an image has none.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, bounded, select};

use super::download::Download;
use super::outcome::once::{Comparison, open_what_is_there};
use super::proof::Proof;
use super::upload::{self, Upload};
use super::{CopyError, Event, Side};
use crate::images::{Backing, Format, Output, Source, make_room};
use crate::open_disk::OpenDisk;
use crate::process::{rights, spawn};
use crate::settings::Task;
use crate::settings::copy::{CopySettings, Image, Volume};

/// How long a step that a signal stops is waited for: one that ends in this time leaves nothing behind.
const GRACE: Duration = Duration::from_millis(500);

/// The local side, before the disk is open.
pub(super) struct Local {
    /// The image of an upload, unless it is stdin; that of a download only where it is to be compared.
    pub(super) source: Option<Source>,
    /// How much may be written, in bytes, the likeliest number first.
    pub(super) wholes: Vec<u64>,
}

/// The end of a step.
pub(super) struct Attended<T> {
    /// [`CopyError::Unbegun`] where a signal came first.
    pub(super) value: Result<T, CopyError>,
    /// A signal has stopped it, and it goes on nevertheless: it hangs.
    pub(super) hangs: bool,
}

/// The capabilities of the thread of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rights {
    Roots,
    None,
}

/// Does `step` in a thread of its own with these `rights`. A signal meanwhile gives up on it, after `answer`
/// to that; what it returns later is dropped in its thread.
pub(super) fn attended<T: Send + 'static>(
    rights: Rights,
    step: impl FnOnce() -> Result<T, CopyError> + Send + 'static,
    inbox: &Receiver<Event>,
    answer: impl FnOnce(i32),
) -> Attended<T> {
    // Without a place for it, the value stays with the thread until it is taken.
    let (give, done) = bounded(0);
    let (alive, over) = bounded::<()>(0);
    let work = move || {
        let _alive = alive;
        let value = catch_unwind(AssertUnwindSafe(step)).unwrap_or(Err(CopyError::Panicked));
        let _ = give.send(value);
    };
    let start = move || spawn("image", work).map(drop);
    let started = match rights {
        Rights::Roots => rights::with(start),
        Rights::None => start(),
    };
    if let Err(failure) = started {
        let value = Err(CopyError::Other(failure));
        return Attended { value, hangs: false };
    }
    let signal = loop {
        select! {
            recv(done) -> value => {
                let value = value.unwrap_or(Err(CopyError::Panicked));
                return Attended { value, hangs: false };
            }
            recv(inbox) -> event => match event {
                Ok(Event::Signal(signal)) => break signal,
                Ok(Event::Copied(_) | Event::Disk(_)) => {}
                Err(_) => break 0,
            },
        }
    };
    answer(signal);
    drop(done);
    Attended {
        value: Err(CopyError::Unbegun),
        hangs: over.recv_deadline(Instant::now() + GRACE) == Err(RecvTimeoutError::Timeout),
    }
}

/// Opens the image of an upload, and looks how much it is, or that of a download which is there already and
/// is to be compared.
pub(super) fn open_source(settings: &CopySettings) -> Result<Local, CopyError> {
    let source = match (&settings.image, settings.disk.task) {
        (
            Image::File {
                path,
                format,
                anywhere,
                ..
            },
            Task::Upload,
        ) => Some(Source::open_with(
            path,
            format.map(Format::from),
            Backing::of(*anywhere),
        )?),
        (_, Task::Download) => open_what_is_there(settings)?,
        _ => None,
    };
    // It was looked at before, by the process that has read the command line.
    if let (Some(source), Some(disk)) = (&source, settings.new_size()) {
        if disk < source.size() {
            let image = source.size();
            return Err(CopyError::DiskTooSmall { image, disk });
        }
    }
    Ok(Local {
        source,
        wholes: settings.expected(),
    })
}

/// Returns the step that checks that the image and the disk fit together, and makes the image of a download.
pub(super) fn prepare(
    settings: &Arc<CopySettings>,
    source: Option<Source>,
    disk: &OpenDisk,
) -> impl FnOnce() -> Result<Side, CopyError> + Send + use<> {
    let (settings, device) = (settings.clone(), disk.disk().clone());
    let minds_the_head = disk.minds_the_head();
    let shared = (disk.connections(), settings.disk.budgets.cache);
    let note = disk.note_of_image();
    move || {
        let proof = settings.verify.then(|| Proof::begin(device.capacity()));
        Ok(match (&settings.image, source) {
            (image, Some(source)) if settings.disk.task == Task::Download => {
                Side::Compare(Comparison::new(source, image.shown().to_owned()))
            }
            (_, Some(source)) => {
                upload::check(&source, &device, minds_the_head)?;
                Side::Upload(Upload::new(source, device, proof))
            }
            (Image::Stream { bytes }, None) if settings.disk.task == Task::Upload => {
                upload::check_size(*bytes, &device)?;
                Side::Stdin(*bytes, proof)
            }
            (Image::Stream { .. }, None) => Side::Stdout(proof),
            (
                Image::File {
                    path, format, force, ..
                },
                None,
            ) => {
                let format = format.map_or_else(|| Format::of_name(path), Format::from);
                if let Some(volume) = &settings.volume {
                    check_claim(volume, device.capacity())?;
                    make_room(path)?;
                }
                let output = Output::create(path, format, device.capacity(), *force)?;
                if let Some((path, file)) = output.unfinished() {
                    note(path, file);
                }
                Side::Download(Download::new(device, output, shared, proof))
            }
        })
    }
}

/// Refuses a disk that is larger than the claim that it is to populate: the file system may have more room
/// than that now, and a thin one may seem to have it.
fn check_claim(volume: &Volume, disk: u64) -> Result<(), CopyError> {
    match volume.bytes {
        Some(claim) if claim < disk => Err(CopyError::ClaimTooSmall { disk, claim }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use crossbeam::channel::unbounded;

    use super::*;

    #[test]
    fn a_step_that_panics_is_an_error() {
        let (_events, inbox) = unbounded();
        let ended = attended(
            Rights::None,
            || -> Result<(), CopyError> { panic!("a decoder") },
            &inbox,
            |_| {},
        );
        assert!(matches!(ended.value, Err(CopyError::Panicked)) && !ended.hangs);
    }

    #[test]
    fn a_step_that_hangs_is_left_at_a_signal_and_what_it_makes_later_goes_with_its_thread() {
        struct Made(crossbeam::channel::Sender<std::thread::ThreadId>);
        impl Drop for Made {
            fn drop(&mut self) {
                let _ = self.0.send(std::thread::current().id());
            }
        }
        let (events, inbox) = unbounded();
        let (go, wait) = bounded::<()>(0);
        let (tell, dropped) = unbounded();
        events.send(Event::Signal(15)).unwrap();
        let mut answered = None;
        let step = move || {
            let _ = wait.recv();
            Ok(Made(tell))
        };
        let ended = attended(Rights::Roots, step, &inbox, |signal| answered = Some(signal));
        assert!(matches!(ended.value, Err(CopyError::Unbegun)) && ended.hangs);
        assert_eq!(answered, Some(15));
        drop(go);
        assert_ne!(dropped.recv().unwrap(), std::thread::current().id());
    }
}
