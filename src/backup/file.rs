//! One disk's file: the disk is opened as it is in the backup, copied under a temporary name, read back and
//! compared with the server's block hash of the disk, and given its name. The transfer ends in any case.
//!
//! The comparison reads the file, and not what passed through memory: so what is proven is what a restore
//! will read. Where a server has no block hash, the disk is read a second time.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use super::manifest::{Entry, Mode};
use super::shared::{Backed, Shared};
use crate::amounts;
use crate::block_hash::{Bytes, Method, Run};
use crate::copying::{self, Changes};
use crate::engine::VmDisk;
use crate::failure::{Exit, Failure};
use crate::images::{Backing, Format, ImageError, Output, Source};
use crate::logging::plain;
use crate::open_disk::{DiskHash, Expected, OpenDisk, Work};
use crate::output::{inform, tell};
use crate::process::rights;
use crate::remote::DirtyAnswer;
use crate::transfer::NotBegun;

/// Makes the file of `disk`, with share number `n` of `count` of connections and memory. The engine knows
/// what has changed in it where `changes` is set.
pub(super) fn copy(shared: &Shared<'_>, disk: &VmDisk, changes: bool, (n, count): (usize, usize)) -> Backed {
    let failed = |failure, again| Backed {
        entry: Err(failure),
        ended: Vec::new(),
        again,
    };
    if shared.stop.has_begun() {
        return failed(stopped(), false);
    }
    let settings = shared.settings_of(disk, n, count);
    let opened = OpenDisk::open(&settings, &shared.settings.dir, &shared.stop.interrupt);
    let open = match opened {
        Ok(open) => Arc::new(open),
        // A bitmap that is missing or in use shows here, and not when the backup begins: the transfer ends.
        // A failure before there was one has another reason, which a second backup would meet again.
        Err(failure) => {
            let ended = failure.exit == Exit::Transfer && !failure.is::<NotBegun>();
            let again = changes && ended && !shared.stop.has_begun();
            return failed(failure, again);
        }
    };
    shared.watch(&open);
    open.set_used();
    let bounds = (settings.budgets.cache, count);
    let made = make(shared, disk, changes, &open, bounds);
    let entry = made.map_err(|failure| match shared.stop.has_begun() {
        true => stopped(),
        false => failure,
    });
    let work = if entry.is_ok() { Work::Done } else { Work::Failed };
    Backed {
        entry,
        ended: open.end_alone(work, (settings.retry_time, settings.timeout)),
        again: false,
    }
}

fn stopped() -> Failure {
    Failure::text(Exit::Other, "stopped by a signal")
}

/// Copies what has changed, where that is known and there is a file to go over; else, and where that can't be
/// verified, all of the disk: in the same backup, as the disk can be read as a whole in any case.
fn make(
    shared: &Shared<'_>,
    disk: &VmDisk,
    changes: bool,
    open: &Arc<OpenDisk>,
    bounds: Bounds,
) -> Result<Entry, Failure> {
    if let Some(backing) = shared.base_of(disk).filter(|_| changes) {
        let why = match incremental(shared, disk, open, bounds, backing) {
            Ok(Made::Entry(entry)) => return Ok(*entry),
            Ok(Made::NotOffered(why)) => why,
            // The disk itself can't be read, or the storage here is full.
            Err(failure) if shared.stop.has_begun() || failure.exit != Exit::DataLoss => return Err(failure),
            Err(failure) => {
                shared.set_differs();
                failure.to_string()
            }
        };
        tell(plain(&format!(
            "disk {} ({}) is copied as a whole: {why}",
            disk.id, disk.name
        )));
    }
    full(shared, disk, open, bounds)
}

/// The bytes for what is on its way, and how many disks are copied at the same time: what else is in memory
/// for one of them is a share of the bound for all.
type Bounds = (u64, usize);

fn local(e: ImageError) -> Failure {
    Failure::text(Exit::Other, e)
}

fn full(
    shared: &Shared<'_>,
    disk: &VmDisk,
    open: &Arc<OpenDisk>,
    (memory, count): Bounds,
) -> Result<Entry, Failure> {
    let name = shared.names.disk(&disk.id, Mode::Full);
    let (target, size) = (shared.settings.dir.join(&name), open.disk().capacity());
    let output = rights::with(move || Output::create_private(&target, size));
    let output = noted(open, output.map_err(local)?);
    let part = path_of(&output);
    let made = copying::fill(open, output, memory, &shared.stop.copying)
        .and_then(|output| publish(shared, disk, open, (output, count), (name, Mode::Full, None)));
    made.inspect_err(|_| remove_part(part))
}

/// The outcome of an incremental copy.
enum Made {
    Entry(Box<Entry>),
    /// The server has no record of changes.
    NotOffered(String),
}

fn incremental(
    shared: &Shared<'_>,
    disk: &VmDisk,
    open: &Arc<OpenDisk>,
    (memory, count): Bounds,
    backing: &str,
) -> Result<Made, Failure> {
    let size = open.disk().capacity();
    let none = || Changes::of_one_in(count, size);
    let changes = RefCell::new(none());
    let answer = open.dirty_extents(&mut || drop(changes.replace(none())), &mut |extent| {
        changes.borrow_mut().add(&extent)
    })?;
    if let DirtyAnswer::NotOffered(why) = answer {
        return Ok(Made::NotOffered(why));
    }
    let changes = changes.into_inner().end();
    inform(plain(&format!(
        "disk {} ({}): {} of data changed since {backing}",
        disk.id,
        disk.name,
        amounts::size(changes.data_bytes())
    )));
    let name = shared.names.disk(&disk.id, Mode::Incremental);
    let (target, below) = (shared.settings.dir.join(&name), backing.to_owned());
    let output = rights::with(move || Output::create_over(&target, size, &below));
    let output = noted(open, output.map_err(local)?);
    let part = path_of(&output);
    let named = (name, Mode::Incremental, Some(backing.to_owned()));
    let made = copying::fill_changes(open, output, memory, &shared.stop.copying, &changes)
        .and_then(|output| publish(shared, disk, open, (output, count), named));
    let entry = made.inspect_err(|_| remove_part(part))?;
    Ok(Made::Entry(Box::new(entry)))
}

/// The path of a file that has not got its name.
fn path_of(output: &Output) -> Option<PathBuf> {
    output.unfinished().map(|(path, _)| path.to_owned())
}

/// Removes a file that has failed. It is gone already, unless root has made it in another user's directory:
/// this thread may remove nothing there.
fn remove_part(part: Option<PathBuf>) {
    if let Some(part) = part {
        let _ = rights::with(move || fs::remove_file(part));
    }
}

/// Notes the file until it is whole.
fn noted(open: &OpenDisk, output: Output) -> Output {
    if let Some((path, file)) = output.unfinished() {
        open.note_of_image()(path, file);
    }
    output
}

/// Verifies a file, and gives it its name.
fn publish(
    shared: &Shared<'_>,
    disk: &VmDisk,
    open: &Arc<OpenDisk>,
    (output, count): (Output, usize),
    (name, mode, backing): (String, Mode, Option<String>),
) -> Result<Entry, Failure> {
    let path = shared.settings.dir.join(&name);
    let (hash, file_size) = verify(shared, open, (&output, count), &name)?;
    shared.note_file(&path, &output);
    rights::with(move || output.publish()).map_err(local)?;
    Ok(Entry {
        id: disk.id.clone(),
        name: disk.name.clone(),
        mode,
        file: name,
        size: open.disk().capacity(),
        file_size,
        backing,
        checkpoint: shared.checkpoint_of(disk),
        verified_by: if hash.by_server { "server" } else { "client" }.to_owned(),
        checksum: hash.checksum,
    })
}

/// Compares the file, as it can be read now, with the disk. Returns the block hash of both, and the size of
/// the file.
fn verify(
    shared: &Shared<'_>,
    open: &Arc<OpenDisk>,
    (output, count): (&Output, usize),
    name: &str,
) -> Result<(DiskHash, u64), Failure> {
    let (path, file) = output
        .unfinished()
        .ok_or_else(|| Failure::text(Exit::Other, "internal error: no file to be verified"))?;
    let file_size = file.metadata()?.len();
    let path = path.to_owned();
    let read = move || Source::open_among(&path, Some(Format::Qcow2), Backing::Beside, count);
    let source = rights::with(read);
    let source = source.map_err(of_chain)?;
    if source.size() != open.disk().capacity().next_multiple_of(512) {
        return Err(Failure::text(
            Exit::DataLoss,
            format!("{name} has another size than the disk"),
        ));
    }
    let read = AsItReads {
        source: &source,
        parallel: open.connections(),
    };
    let hash = open.verify(
        Expected::Bytes(&read, name),
        Method::default(),
        &shared.stop.watch,
    )?;
    Ok((hash, file_size))
}

/// A file, with those below it. One that can't be read is a reason for a whole copy, as one is that holds
/// other bytes; see [`of_chain`]. Its disk's share of the connections is the bound on the blocks that are in
/// memory.
struct AsItReads<'a> {
    source: &'a Source,
    parallel: usize,
}

impl Bytes for AsItReads<'_> {
    fn size(&self) -> u64 {
        self.source.size()
    }

    fn run_at(&self, offset: u64) -> Result<Run, Failure> {
        let extent = self.source.extent_at(offset).map_err(of_chain)?;
        Ok(Run {
            length: extent.length,
            zero: extent.zero,
        })
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Failure> {
        self.source.read_at(buf, offset).map_err(of_chain)
    }

    fn parallel(&self) -> Option<usize> {
        Some(self.parallel)
    }
}

/// Tells a fault of the files, which is a reason for a whole copy, from one of this machine that passes: too
/// many open files say nothing about a chain, and a whole copy would need more of them.
fn of_chain(e: ImageError) -> Failure {
    let exit = if e.is_passing() {
        Exit::Other
    } else {
        Exit::DataLoss
    };
    Failure::text(exit, e)
}
