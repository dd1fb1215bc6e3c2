//! One disk's file: the disk is opened as it is in the backup, copied under a temporary name, read back and
//! compared with the server's block hash of the disk, and given its name. The transfer ends in any case.
//!
//! The comparison reads the file, and not what passed through memory: so what is proven is what a restore
//! will read. Where a server has no block hash, the disk is read a second time.

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{RecvTimeoutError, unbounded};

use super::disks::{Backed, Shared};
use super::manifest::{Entry, Mode};
use crate::block_hash::Method;
use crate::copying;
use crate::engine::VmDisk;
use crate::failure::{Exit, Failure};
use crate::images::{Backing, Format, ImageError, Output, Source};
use crate::open_disk::{Ending, Expected, OpenDisk, Work};
use crate::process::rights;
use crate::settings::DiskSettings;

/// How often the end of a transfer is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Makes the file of `disk`, with share number `n` of `count` of connections and memory.
pub(super) fn copy(shared: &Shared<'_>, disk: &VmDisk, n: usize, count: usize) -> Backed {
    if shared.stop.has_begun() {
        return Backed {
            entry: Err(stopped()),
            ended: Vec::new(),
        };
    }
    let settings = shared.settings_of(disk, n, count);
    let opened = OpenDisk::open(&settings, &shared.settings.dir, &shared.stop.interrupt);
    let open = match opened {
        Ok(open) => Arc::new(open),
        Err(failure) => {
            return Backed {
                entry: Err(failure),
                ended: Vec::new(),
            };
        }
    };
    shared.watch(&open);
    open.set_used();
    let entry =
        make(shared, disk, &open, settings.budgets.cache).map_err(|failure| match shared.stop.has_begun() {
            true => stopped(),
            false => failure,
        });
    let work = if entry.is_ok() { Work::Done } else { Work::Failed };
    Backed {
        entry,
        ended: end(open, work, &settings),
    }
}

fn stopped() -> Failure {
    Failure::text(Exit::Other, "stopped by a signal")
}

fn make(shared: &Shared<'_>, disk: &VmDisk, open: &Arc<OpenDisk>, memory: u64) -> Result<Entry, Failure> {
    let local = |e: ImageError| Failure::text(Exit::Other, e);
    let mode = Mode::Full;
    let name = shared.names.disk(&disk.id, mode);
    let path = shared.settings.dir.join(&name);
    let (target, size) = (path.clone(), open.disk().capacity());
    let output = rights::with(move || Output::create(&target, Format::Qcow2, size, false));
    let output = output.map_err(local)?;
    if let Some((path, file)) = output.unfinished() {
        open.note_of_image()(path, file);
    }
    let output = copying::fill(open, output, memory, &shared.stop.copying)?;
    let (hash, file_size) = verify(shared, open, &output, &name)?;
    shared.note_file(&path, &output);
    rights::with(move || output.publish()).map_err(local)?;
    Ok(Entry {
        id: disk.id.clone(),
        name: disk.name.clone(),
        mode,
        file: name,
        size,
        file_size,
        backing: None,
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
    output: &Output,
    name: &str,
) -> Result<(crate::open_disk::DiskHash, u64), Failure> {
    let (path, file) = output
        .unfinished()
        .ok_or_else(|| Failure::text(Exit::Other, "internal error: no file to be verified"))?;
    let file_size = file.metadata()?.len();
    let path = path.to_owned();
    let source = rights::with(move || Source::open_with(&path, Some(Format::Qcow2), Backing::Beside));
    let source = source.map_err(|e| Failure::text(Exit::Other, e))?;
    if source.size() != open.disk().capacity().next_multiple_of(512) {
        return Err(Failure::text(
            Exit::DataLoss,
            format!("{name} has another size than the disk"),
        ));
    }
    let hash = open.verify(
        Expected::Bytes(&source, name),
        Method::default(),
        &shared.stop.watch,
    )?;
    Ok((hash, file_size))
}

/// Ends the transfer of a disk; returns what has failed.
fn end(disk: Arc<OpenDisk>, work: Work, settings: &DiskSettings) -> Vec<Failure> {
    let (tell, steps) = unbounded();
    let limits = (settings.retry_time, settings.timeout);
    let mut ending = Ending::begin(disk, work, limits, None, move |step| drop(tell.send(step)));
    while !ending.is_over() {
        match steps.recv_timeout(LOOK_INTERVAL) {
            Ok(step) => ending.step(step),
            Err(RecvTimeoutError::Timeout) => ending.look(),
            Err(RecvTimeoutError::Disconnected) => ending.abandon(),
        }
    }
    ending
        .outcome()
        .map(|outcome| outcome.failures)
        .unwrap_or_default()
}
