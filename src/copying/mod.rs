//! `upload`, `download` and `populate`: a copy between a local image and an *open disk*, without a mount.
//!
//! ```text
//! image opened -> disk open -> sizes and head checked -> copied -> disk ended -> outcome told
//!
//! upload     the image into the disk's write-behind          download   the disk into an image
//! local      the image, before the first byte                stream     stdin and stdout
//! workers    several threads at one piece of work            ending     the disk's end, and the outcome
//! outcome    --outcome and --once: what later runs know       error      why a copy has failed
//! proof      --verify
//! ```
//!
//! The disk is the same value that a mount holds: transfer, pool, journal, renewal, watcher and note, and so
//! are its promises. The copy is to it what COMMAND is to a mount: where it fails, or a signal stops it, what
//! was acknowledged is brought home all the same, and the fate of the disk is that of the table in
//! `transfer::end`.
//!
//! The main thread waits for [`Event`]s, and touches no image itself. The thread "image" opens it, or makes
//! it; the thread "copy" does the work, with others that it starts; a signal is answered at once, and the end
//! does not wait for a thread that hangs in a read of the image or of the disk: the disk refuses its writes,
//! and the image is taken from it.

mod changes;
mod download;
mod ending;
mod error;
mod local;
pub(crate) mod outcome;
mod proof;
mod stream;
mod upload;
mod workers;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, unbounded};
use tracing::warn;

pub(crate) use self::changes::{Changes, fill_changes};
use self::download::Download;
use self::ending::{End, end};
use self::error::CopyError;
use self::local::{Local, Rights, attended, open_source, prepare};
use self::outcome::once::Comparison;
use self::outcome::{Outcome, Proven};
use self::proof::Proof;
use self::upload::Upload;
use crate::failure::{Exit, Failure};
use crate::images::{Output, Source};
use crate::open_disk::{OpenDisk, Step, Work, needs};
use crate::process::handover::Role;
use crate::process::{rights, spawn};
use crate::settings::Task;
use crate::settings::copy::{CopySettings, Image};
use crate::signals;
use crate::supervisor::{Stage, Supervisor, Told};

/// How long a copy that was told to stop is waited for. Nothing depends on it: a copy that ends in this time
/// leaves no thread that could still be at work on the image.
const STOP_GRACE: Duration = Duration::from_millis(500);

/// The exit code that Rust's runtime has for a panic of the main thread.
const PANICKED: u8 = 101;

/// An event that the main thread waits for.
enum Event {
    Signal(i32),
    /// The copy is over.
    Copied(Result<(), CopyError>),
    /// The end of the disk has made a step.
    Disk(Step),
}

/// The local side, once the disk is open.
enum Side {
    Upload(Upload),
    Download(Download),
    Stdin(u64, Option<Proof>),
    Stdout(Option<Proof>),
    /// The image is there, and is compared.
    Compare(Comparison),
}

/// Tells the end when a panic is its end.
struct TellOnDrop(Arc<Supervisor>);

impl Drop for TellOnDrop {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(PANICKED, Some("rhv-mount has panicked".to_owned()));
        }
    }
}

/// Ends the transfer when the copy ends without having done so, whoever else has the disk.
struct EndOnDrop(Arc<OpenDisk>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end_in_any_case();
    }
}

/// Makes one copy; returns the exit code. Errors before the first byte are returned, the outcome of the copy
/// is printed.
pub(crate) fn copy(settings: CopySettings) -> Result<u8, Failure> {
    let outcome = Outcome::of(&settings)?;
    copy_once(settings, &outcome).inspect_err(|failure| outcome.failed(failure))
}

/// Does the same, and has `outcome` keep how it ends. A failure is its caller's to keep.
fn copy_once(mut settings: CopySettings, outcome: &Outcome) -> Result<u8, Failure> {
    needs::check(&settings.disk, 1)?;
    // That is done before the first thread is made that stays. Root may copy another user's image: the
    // threads that open it and make it have the capabilities for that.
    rights::cut_down()?;
    if outcome.spares_the_copy(&mut settings)? {
        return Ok(Exit::Done as u8);
    }
    let supervisor = Arc::new(Supervisor::start(&Told::of_copy(&settings), Role::Foreground)?);
    let _in_any_case = TellOnDrop(supervisor.clone());
    copy_watched(&Arc::new(settings), &supervisor, outcome).inspect_err(|failure| {
        supervisor.end(failure.exit as u8, Some(failure.to_string()));
    })
}

/// Does the same, and says to `supervisor` which stage has begun.
fn copy_watched(
    settings: &Arc<CopySettings>,
    supervisor: &Arc<Supervisor>,
    outcome: &Outcome,
) -> Result<u8, Failure> {
    let (events, inbox) = unbounded();
    let (sender, reporter) = (events.clone(), supervisor.clone());
    let forward = move |signal| drop(sender.send(Event::Signal(signal)));
    signals::forward(forward, move || reporter.log_statistics())?;
    let wanted = settings.clone();
    let opened = attended(
        Rights::Roots,
        move || open_source(&wanted),
        &inbox,
        signals::begin_a_line,
    );
    let Local { source, wholes } = opened.value?;
    let signal = |event: &Event| match event {
        Event::Signal(signal) => Some(*signal),
        Event::Copied(_) | Event::Disk(_) => None,
    };
    let place = settings.image.shown();
    let disk = OpenDisk::open_unless_interrupted(&settings.disk, place, &inbox, signal)?;
    let disk = Arc::new(disk);
    let end_in_any_case = EndOnDrop(disk.clone());
    supervisor.watch(std::iter::once(&disk));
    disk.expect(wholes);
    let rights = match settings.disk.task {
        Task::Download => Rights::Roots,
        _ => Rights::None,
    };
    let prepared = attended(rights, prepare(settings, source, &disk), &inbox, |signal| {
        signals::tell(
            signal,
            &format!("the copy is stopped; {}", when_unbegun(&disk, settings)),
        );
    });
    if prepared.hangs {
        warn_of_remains(settings);
    }
    let (mut proof, mut proven, mut remains) = (None, None, not_made(settings));
    let mut published = None;
    let (work, failure, signalled) = match prepared.value {
        Err(failure) => {
            let signalled = matches!(failure, CopyError::Unbegun);
            (Work::Unused, Some(failure), signalled)
        }
        Ok(side) => {
            disk.set_used();
            if let Side::Download(download) = &side {
                supervisor.measure(download.done(), disk.disk().capacity());
                published = Some(download.stamp().clone());
            }
            if let Side::Compare(comparison) = &side {
                outcome.set_stamps(comparison.stamps().unwrap_or_default());
            }
            supervisor.enter(Stage::Copying);
            proof = side.proof_at_the_end();
            proven = side.proven();
            remains = side.remains(settings);
            run(settings, side, &disk, &inbox, &events)?
        }
    };
    if let Some(stamp) = published.as_ref().and_then(|stamp| stamp.get()) {
        outcome.set_stamps(vec![*stamp]);
    }
    supervisor.enter(Stage::Flushing);
    let end_of = End {
        settings,
        disk,
        work,
        failure,
        remains,
        signalled,
        proof: proof.filter(|_| work == Work::Done),
        proven,
        outcome,
    };
    let code = end(end_of, &inbox, &events, supervisor);
    drop(end_in_any_case);
    Ok(code)
}

/// Runs the copy to its end, or until a signal stops it. Returns what became of it, why it failed if that is
/// to be told, and whether a signal has come.
fn run(
    settings: &CopySettings,
    side: Side,
    disk: &Arc<OpenDisk>,
    inbox: &Receiver<Event>,
    events: &Sender<Event>,
) -> Result<(Work, Option<CopyError>, bool), Failure> {
    let (side, stop) = (Arc::new(side), Arc::new(AtomicBool::new(false)));
    let (copied, done) = (side.clone(), events.clone());
    let (worked, stopping) = (disk.clone(), stop.clone());
    spawn("copy", move || {
        let copy = || copied.run(&worked, &stopping);
        let result = catch_unwind(AssertUnwindSafe(copy)).unwrap_or(Err(CopyError::Panicked));
        // The main thread may have given up on it before.
        if let Side::Download(download) = &*copied {
            download.discard();
        }
        // The disk ends with its last owner.
        drop((copied, worked));
        let _ = done.send(Event::Copied(result));
    })?;
    // `publishing`: a signal has come while the image got its name.
    let (mut until, mut publishing) = (None, false);
    let result = loop {
        let event = match until {
            None => inbox.recv().ok(),
            Some(until) => inbox.recv_deadline(until).ok(),
        };
        match event {
            Some(Event::Copied(result)) => break result,
            Some(Event::Disk(_)) => {}
            Some(Event::Signal(signal)) if until.is_none() => match side.stop(&stop) {
                true => {
                    signals::tell(
                        signal,
                        &format!("the copy is stopped; {}", side.when_stopped(disk, settings)),
                    );
                    until = Some(Instant::now() + STOP_GRACE);
                }
                false if std::mem::replace(&mut publishing, true) => {
                    signals::tell(signal, "the image is not waited for any longer");
                    break Err(CopyError::Unpublished);
                }
                false => signals::tell(
                    signal,
                    "the image is whole, and is brought to the storage of this machine, which is waited for; \
                     the next signal gives up on that, and the image may or may not be there then",
                ),
            },
            Some(Event::Signal(_)) => {}
            // It hangs in a read, or in a write to a stream.
            None => break Err(CopyError::Stopped),
        }
    };
    if let Side::Download(download) = &*side {
        if !download.discard() {
            warn_of_remains(settings);
        }
    }
    Ok(match (until, result) {
        (Some(_), _) => (Work::Failed, Some(CopyError::Stopped), true),
        (None, Ok(())) => (Work::Done, None, publishing),
        (None, Err(e)) => (Work::Failed, Some(e), publishing),
    })
}

impl Side {
    fn run(&self, disk: &Arc<OpenDisk>, stop: &AtomicBool) -> Result<(), CopyError> {
        match self {
            Side::Upload(upload) => upload.run(disk.connections(), stop),
            Side::Download(download) => download.run(disk, stop),
            Side::Stdin(bytes, proof) => upload::from_stdin(disk.disk(), *bytes, proof.as_ref(), stop),
            Side::Stdout(proof) => download::to_stdout(disk, proof.as_ref(), stop),
            Side::Compare(comparison) => comparison.run(disk, stop),
        }
    }

    /// The proof that is made when the disk ends.
    fn proof_at_the_end(&self) -> Option<Proof> {
        match self {
            Side::Upload(upload) => upload.proof(),
            Side::Stdin(_, proof) => proof.clone(),
            Side::Download(_) | Side::Stdout(_) | Side::Compare(_) => None,
        }
    }

    /// The place of the hash that both sides are found to have.
    fn proven(&self) -> Option<Proven> {
        match self {
            Side::Upload(upload) => upload.proof().map(|proof| proof.proven()),
            Side::Download(download) => download.proof().map(|proof| proof.proven()),
            Side::Stdin(_, proof) | Side::Stdout(proof) => proof.as_ref().map(Proof::proven),
            Side::Compare(comparison) => Some(comparison.proven.clone()),
        }
    }

    /// Stops it; false where it is too late for that.
    fn stop(&self, stop: &AtomicBool) -> bool {
        match self {
            Side::Download(download) => download.stop(stop),
            Side::Upload(_) | Side::Stdin(..) => {
                stop.store(true, Ordering::Relaxed);
                true
            }
            Side::Stdout(proof) => {
                stop.store(true, Ordering::Relaxed);
                proof.iter().for_each(Proof::stop);
                true
            }
            Side::Compare(comparison) => {
                stop.store(true, Ordering::Relaxed);
                comparison.stop();
                true
            }
        }
    }

    /// Says what the disk, and the image, hold where the copy is stopped now.
    fn when_stopped(&self, disk: &OpenDisk, settings: &CopySettings) -> String {
        let held = disk.when_stopped(true);
        match self {
            Side::Download(_) => format!("{}, and {held}", self.remains(settings)),
            Side::Upload(_) | Side::Stdin(..) | Side::Stdout(_) | Side::Compare(_) => held,
        }
    }

    /// Says what a download that has failed leaves.
    fn remains(&self, settings: &CopySettings) -> String {
        let shown = settings.image.shown().display();
        match self {
            Side::Download(download) if download.is_in_place() => {
                format!("{shown} has a part of the disk, over what it had before")
            }
            Side::Stdout(_) => "stdout has a part of the disk".to_owned(),
            Side::Compare(_) => format!("{shown} is kept as it is"),
            Side::Download(_) | Side::Upload(_) | Side::Stdin(..) => not_made(settings),
        }
    }
}

/// Says what the disk, and the image, hold where the copy is stopped before its first byte.
fn when_unbegun(disk: &OpenDisk, settings: &CopySettings) -> String {
    let held = disk.when_stopped(true);
    match (&settings.image, settings.disk.task) {
        (Image::File { .. }, Task::Download) => format!("{}, and {held}", not_made(settings)),
        _ => held,
    }
}

/// Tells of the image of a download that could not be removed, as its file system hangs.
fn warn_of_remains(settings: &CopySettings) {
    if settings.disk.task != Task::Download {
        return;
    }
    let (name, folder) = hidden_name(settings.image.shown());
    warn!(
        "the unfinished image may still be in {folder} as {name}: it could not be removed in time; \
         remove it when the file system answers again"
    );
}

/// The name that an image at `path` has before it is whole, as a pattern, and its folder.
fn hidden_name(path: &Path) -> (String, String) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let folder = path.parent().unwrap_or(Path::new("/"));
    (format!(".{name}.*.part"), folder.display().to_string())
}

/// Fills `output` with all of a disk, over all connections, until `stop` is set; the buffers take at most
/// `memory` bytes together. Returns the image, which is whole and has not got its name.
pub(crate) fn fill(
    disk: &Arc<OpenDisk>,
    output: Output,
    memory: u64,
    stop: &AtomicBool,
) -> Result<Output, Failure> {
    let shared = (disk.connections(), memory);
    let download = Download::new(disk.disk().clone(), output, shared, None);
    Ok(download.fill(disk.connections(), stop)?)
}

/// Copies all of an image into a disk that has its size, over all connections, until `stop` is set, which a
/// failure sets too. Every byte is acknowledged then, and durable once the disk was flushed.
pub(crate) fn pour(disk: &OpenDisk, source: Source, stop: &AtomicBool) -> Result<(), Failure> {
    upload::check(&source, disk.disk(), disk.minds_the_head())?;
    let upload = Upload::new(source, disk.disk().clone(), None);
    Ok(upload.run(disk.connections(), stop)?)
}

/// Says that a download has left no image.
fn not_made(settings: &CopySettings) -> String {
    match &settings.image {
        Image::File { path, .. } => format!("{} is not made", path.display()),
        Image::Stream { .. } => "stdout has got nothing".to_owned(),
    }
}
