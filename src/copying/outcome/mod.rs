//! `--outcome`: what became of a copy, as one line of JSON in a file that many copies share, also over a
//! network file system.
//!
//! ```text
//! line    the facts, and which copy a line is about          once    --once: what an earlier line spares
//! ```
//!
//! The file is opened before anything is begun, with the rights that root has then: a place that can't be
//! written is told at once. A line is one write(2) to a file that is open for appending, under its lock where
//! the file system has locks: O_APPEND alone is no promise between machines. The write is done in a thread of
//! its own and waited for [`PATIENCE`]: no outcome of a copy depends on it. A process that is killed leaves
//! no line, so a copy without a line was not done as far as anybody knows.

mod line;
pub(super) mod once;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam::channel::bounded;
use parking_lot::Mutex;

use self::line::{Line, lines};
use crate::block_hash::Checksum;
use crate::failure::{Exit, Failure};
use crate::images::{FileStamp, file_stamp};
use crate::open_disk::DiskStatus;
use crate::output::tell;
use crate::process::identity::this_machine;
use crate::process::lock::try_lock;
use crate::process::spawn;
use crate::settings::copy::CopySettings;
use crate::settings::{Source, Task, Wanted};

/// Longest wait for the file system of the file at the end of a copy.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest wait for the lock of the file, which others hold for one write.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// The pause between two attempts to get it.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Upper bound on the bytes of the file that are read: lines have a kilobyte or so, and nobody has that many
/// disks.
const MAX_BYTES: u64 = 64 << 20;

/// The block hash that the disk and the image were found to have, once they were compared.
pub(super) type Proven = Arc<OnceLock<Checksum>>;

/// Which copy it is.
#[derive(Debug)]
pub(crate) struct Which {
    task: &'static str,
    image: PathBuf,
    /// The disk as the user names it; `None` behind a transfer URL.
    disk: Option<String>,
    /// The id that the user has chosen for a new disk.
    id: Option<String>,
    engine: Option<String>,
}

impl Which {
    pub(super) fn of(settings: &CopySettings) -> Which {
        let (engine, disk, id) = match &settings.disk.source {
            Source::Transfer(_) => (None, None, None),
            Source::Engine(source) => {
                let (disk, id) = match &source.wanted {
                    Wanted::Existing(name) | Wanted::Snapshot(name) => (name.clone(), None),
                    Wanted::New(new) => (new.name.clone(), new.id.clone()),
                    Wanted::OfBackup { disk, .. } => (disk.clone(), None),
                };
                (Some(source.account.url.clone()), Some(disk), id)
            }
        };
        Which {
            task: name_of(settings.disk.task),
            image: settings.image.shown().to_owned(),
            disk,
            id,
            engine,
        }
    }

    /// A copy whose settings could not be gathered, with the disk as the command line names it.
    pub(crate) fn refused(task: Task, image: &Path, disk: Option<String>) -> Which {
        Which {
            task: name_of(task),
            image: std::path::absolute(image).unwrap_or_else(|_| image.to_owned()),
            disk,
            id: None,
            engine: None,
        }
    }
}

fn name_of(task: Task) -> &'static str {
    match task {
        Task::Upload => "upload",
        Task::Download => "download",
        Task::Mount | Task::Checksum | Task::Backup | Task::Restore => "",
    }
}

/// The file as it was when the copy began. Lines are counted.
#[derive(Default)]
struct Earlier {
    /// The lines that are about this copy.
    own: Vec<(u64, Line)>,
    /// The image that another copy has written to a disk last, by the disk's id, and whether that was done.
    others: BTreeMap<String, (u64, String, bool)>,
}

impl Earlier {
    /// Takes the next line of the file.
    fn take(&mut self, number: u64, line: Line, copy: &Which) {
        if line.is_about(copy) {
            self.own.push((number, line));
        } else if let Some(disk) = line.written().filter(|_| line.is_of_engine(copy)) {
            let (disk, is_done) = (disk.to_ascii_lowercase(), line.is_done(false));
            self.others.insert(disk, (number, line.image, is_done));
        }
    }
}

/// See the head of this file.
pub(crate) struct Outcome {
    copy: Which,
    began: Instant,
    /// The file, until it has its line.
    kept: Mutex<Option<(PathBuf, File)>>,
    earlier: Earlier,
    /// How the files of the image were before the copy began, or are since they were made.
    stamps: OnceLock<Vec<FileStamp>>,
    /// The bytes are to be compared.
    verify: bool,
}

impl Outcome {
    /// Opens the file of `--outcome`, where there is one.
    pub(super) fn of(settings: &CopySettings) -> Result<Outcome, Failure> {
        let path = settings.outcome.as_ref().map(|outcome| outcome.path.as_path());
        let outcome = Outcome::open(path, Which::of(settings), settings.verify)?;
        if let Some(stamps) = &settings.stamps {
            outcome.set_stamps(stamps.clone());
        }
        Ok(outcome)
    }

    /// Keeps how the files of the image are, so that a later run can tell whether they have changed since. It
    /// is of a moment at which nobody else can have changed them behind the copy.
    pub(super) fn set_stamps(&self, stamps: Vec<FileStamp>) {
        let _ = self.stamps.set(stamps);
    }

    /// Opens the file at `path` for the outcome of `copy`; `verify`: its bytes are to be compared.
    pub(crate) fn open(path: Option<&Path>, copy: Which, verify: bool) -> Result<Outcome, Failure> {
        let mut outcome = Outcome {
            copy,
            began: Instant::now(),
            kept: Mutex::default(),
            earlier: Earlier::default(),
            stamps: OnceLock::new(),
            verify,
        };
        if let Some(path) = path {
            let (file, earlier) = open(path, &outcome.copy).map_err(|e| {
                let text = format!("cannot use the file of --outcome, {}: {e}", path.display());
                Failure::text(Exit::Usage, text)
            })?;
            outcome.earlier = earlier;
            outcome.kept = Mutex::new(Some((path.to_owned(), file)));
        }
        Ok(outcome)
    }

    /// Keeps a failure from before the disk was open.
    pub(crate) fn failed(&self, failure: &Failure) {
        self.end(None, failure.exit as u8, Some(&failure.to_string()), None);
    }

    /// Keeps the end of the copy: how the disk stands, the exit code, the message of a bad end, and the hash
    /// that both sides were found to have.
    pub(super) fn end(
        &self,
        disk: Option<&DiskStatus>,
        code: u8,
        message: Option<&str>,
        proven: Option<&Proven>,
    ) {
        let Some((path, file)) = self.kept.lock().take() else {
            return;
        };
        let mut line = self.line(code, message, proven.and_then(|proven| proven.get()));
        if let Some(disk) = disk {
            line.disk_name.clone_from(&disk.disk_name);
            line.disk_id.clone_from(&disk.disk_id);
            line.transfer.clone_from(&disk.transfer);
            line.disk_size = Some(disk.disk_size);
            line.bytes_read = disk.bytes_read;
            line.bytes_written = disk.bytes_written;
            line.bytes_zeroed = disk.bytes_zeroed;
        }
        if let Some(stamps) = self.stamps.get() {
            line.set_stamps(stamps);
        }
        let (done, written) = bounded(1);
        let write = move || {
            let result = append(&file, &line);
            // The next one may have the lock.
            drop(file);
            let _ = done.send(result);
        };
        let kept = match spawn("outcome", write) {
            Ok(_) => written
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
            Err(failure) => Err(io::Error::other(failure.to_string())),
        };
        if let Err(e) = kept {
            tell(format_args!(
                "WARNING: the outcome, exit status {code}, is not in {}: {e}",
                path.display()
            ));
        }
    }

    fn line(&self, code: u8, message: Option<&str>, proven: Option<&Checksum>) -> Line {
        let verified = code == 0 && proven.is_some();
        let unverified = match (verified, self.verify) {
            (true, _) => None,
            (false, true) => Some("copy failed"),
            (false, false) if code == 0 => Some("not asked"),
            (false, false) => Some("copy failed"),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Line {
            time: now.as_secs(),
            task: self.copy.task.to_owned(),
            image: self.copy.image.display().to_string(),
            disk: self.copy.disk.clone(),
            // A line that failed early is found by the id, too.
            disk_id: self.copy.id.clone(),
            engine: self.copy.engine.clone(),
            seconds: (self.began.elapsed().as_millis() as f64) / 1000.0,
            verified,
            checksum: proven.filter(|_| verified).map(|proven| proven.checksum.clone()),
            unverified: unverified.map(str::to_owned),
            exit_status: code,
            message: message.map(str::to_owned),
            attempt: self.earlier.own.len() as u64 + 1,
            machine: this_machine(),
            ..Line::default()
        }
    }
}

/// Opens the file, and reads what it has for `copy`.
fn open(path: &Path, copy: &Which) -> io::Result<(File, Earlier)> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o666);
    // A pipe, a terminal and their like have no earlier lines.
    let is_file = std::fs::metadata(path).map_or(true, |meta| meta.is_file());
    let file = options.read(is_file).open(path)?;
    let mut earlier = Earlier::default();
    if is_file {
        if file.metadata()?.len() > MAX_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let text = BufReader::new((&file).take(MAX_BYTES));
        for (number, line) in (0..).zip(lines(text)) {
            earlier.take(number, line?, copy);
        }
    }
    Ok((file, earlier))
}

/// Appends `line`, and waits until it is on the storage.
fn append(mut file: &File, line: &Line) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    let until = Instant::now() + LOCK_PATIENCE;
    // An error says that there are no locks.
    while !try_lock(file).unwrap_or(true) && Instant::now() < until {
        std::thread::sleep(LOCK_PAUSE);
    }
    // Somebody's line may have broken off.
    let mut last = [b'\n'];
    if file.seek(SeekFrom::End(-1)).is_ok() && file.read_exact(&mut last).is_ok() && last != [b'\n'] {
        text.insert(0, b'\n');
    }
    file.write_all(&text)?;
    match file.sync_all() {
        // A pipe has no storage.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EROFS | libc::ENOTSUP)) => Ok(()),
        synced => synced,
    }
}

/// How the file `path` is now; `None` for what is no file.
fn stamp(path: &Path) -> Option<FileStamp> {
    std::fs::metadata(path).ok().as_ref().and_then(file_stamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(path: &Path, image: &str) -> Outcome {
        let copy = Which::refused(Task::Download, Path::new(image), Some("web01".to_owned()));
        Outcome::open(Some(path), copy, false).unwrap()
    }

    #[test]
    fn many_copies_share_a_file_and_each_has_a_whole_line_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outcomes");
        std::fs::write(&path, "{\"task\": \"down").unwrap();
        std::thread::scope(|scope| {
            for number in 0..20 {
                let path = &path;
                scope.spawn(move || {
                    let message = "x".repeat(9000 + number);
                    outcome(path, &format!("/srv/{number}")).end(None, 4, Some(&message), None);
                });
            }
        });
        let text = std::fs::read(&path).unwrap();
        let mut images: Vec<String> = lines(&text[..]).map(|line| line.unwrap().image).collect();
        images.sort();
        images.dedup();
        assert_eq!(images.len(), 20, "{images:?}");
        assert_eq!(text.split(|byte| *byte == b'\n').count(), 22);
    }

    #[test]
    fn attempts_of_one_copy_are_counted_and_tell_why_nothing_is_verified() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outcomes");
        outcome(&path, "/srv/a").failed(&Failure::text(Exit::Transfer, "refused"));
        outcome(&path, "/srv/b").end(None, 0, None, None);
        outcome(&path, "/srv/a").end(None, 0, None, None);
        let text = std::fs::read(&path).unwrap();
        let told: Vec<Line> = lines(&text[..]).map(Result::unwrap).collect();
        let facts: Vec<_> = told.iter().map(|line| (line.attempt, line.exit_status)).collect();
        assert_eq!(facts, [(1, 4), (1, 0), (2, 0)]);
        let why: Vec<_> = told.iter().map(|line| line.unverified.as_deref()).collect();
        assert_eq!(why, [Some("copy failed"), Some("not asked"), Some("not asked")]);
        assert_eq!(told[0].message.as_deref(), Some("refused"));
    }
}
