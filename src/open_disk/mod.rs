//! One remote disk at work, and everything that belongs to it: the transfer (ours, or one that somebody else
//! started), the image, the pool, the disk, and the keep-alive threads. It is opened, ended and reported as
//! one value, and knows nothing of FUSE.
//!
//! ```text
//! needs     what it takes of the system where it is not mounted
//! start     opens it unless a signal comes first
//! of_vm     opens the disks of a VM side by side
//! open      from the settings to a disk that can be read and written
//! connect   its first connection, straight to the host or through the engine's proxy
//! verify    the block hash of the disk, and the comparison with what it should hold
//! read_back its bytes as the server has them now
//! sum       the figures of several disks as one
//! course    how far the work on it has got, and how fast it goes on
//! alone     its end for who waits for nothing else
//! hands     the threads that wait for its end
//! ending    the way out: the last flush, the connections, the transfer; with signals on the way
//! ```
//!
//! [`OpenDisk::open`] blocks for as long as the engine and the first connection take; an [`Interrupt`] cuts
//! the waits for the engine short, and the connection has timeouts. Afterwards any thread may read and write
//! [`OpenDisk::disk`]. An `OpenDisk` ends by [`Ending`]. One that is dropped without it ends its transfer as
//! never used before [`OpenDisk::set_used`], and as one whose data is lost afterwards (a panic).
//!
//! [`Interrupt`]: crate::engine::Interrupt

mod alone;
mod connect;
mod course;
mod ending;
mod hands;
pub(crate) mod needs;
pub(crate) mod of_vm;
mod open;
mod ranges;
mod read_back;
mod start;
mod sum;
mod verify;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use self::course::Course;
pub(crate) use self::ending::{Ending, Proof, Step, Work};
use self::hands::Hands;
pub(crate) use self::of_vm::{OpenVm, end_in_any_case, left_out_shown};
pub(crate) use self::verify::{DiskHash, Expected};
use crate::disk::Disk;
use crate::failure::Failure;
use crate::imageio::Image;
use crate::pool::{ConnectionStatistics, Figures, Keeper, Op, Pool};
use crate::remote::{DirtyAnswer, DirtyExtent};
use crate::settings::Task;
use crate::transfer::unfinished::Unfinished;
use crate::transfer::{OwnTransfer, stopped};

/// See the head of this file.
pub(crate) struct OpenDisk {
    /// The mountpoint, or the image of a copy: the path under which `recover` finds what a killed process
    /// leaves.
    mountpoint: PathBuf,
    task: Task,
    image: Arc<Image>,
    pool: Arc<Pool>,
    disk: Arc<Disk>,
    /// `None` for a transfer that somebody else started and will end.
    transfer: Option<Arc<OwnTransfer>>,
    since: Instant,
    course: Course,
    hands: Hands,
    _keeper: Keeper,
}

/// The state of a disk at work. Numbers are bytes, unless the name says otherwise; the names are those of
/// `status -o json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct DiskStatus {
    pub(crate) host: String,
    /// `https`, `http` or `unix`.
    pub(crate) transport: String,
    pub(crate) read_only: bool,
    pub(crate) disk_size: u64,
    pub(crate) file_size: u64,
    pub(crate) connections: usize,
    pub(crate) writers: usize,
    /// Connections that were given up and replaced.
    pub(crate) replaced: u64,
    pub(crate) seconds: u64,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
    pub(crate) bytes_zeroed: u64,
    /// Data that was acknowledged and is not known to be on the storage.
    #[serde(default)]
    pub(crate) bytes_unflushed: u64,
    /// How far the work has got: what was written to the file, or, while that is nothing, what was read.
    #[serde(default)]
    pub(crate) bytes_done: u64,
    /// The whole of it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bytes_total: Option<u64>,
    /// The speed of the last seconds.
    #[serde(default)]
    pub(crate) bytes_per_second: u64,
    /// How long the rest takes at that speed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seconds_left: Option<u64>,
    /// How long no request was answered, while they are repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unanswered_seconds: Option<u64>,
    /// Flush requests, one for each connection and fsync.
    pub(crate) flushes: u64,
    /// Writes and zero requests that each carried a flush, since connections end early.
    #[serde(default)]
    pub(crate) durable_writes: u64,
    /// Requests that failed, repeated ones included.
    pub(crate) errors: u64,
    /// Why data may be lost.
    pub(crate) failure: Option<String>,
    /// Why a write was refused, or may cost the disk: its first bytes would look like an image of another
    /// format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) refused: Option<String>,
    /// The disk of a transfer of our own; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) disk_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) disk_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) transfer: Option<String>,
    /// As the engine calls it, seen a few seconds ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) transfer_phase: Option<String>,
}

impl OpenDisk {
    /// The block device itself.
    pub(crate) fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// `scheme://host:port` of the server.
    pub(crate) fn host(&self) -> String {
        self.image.host()
    }

    /// The number of connections.
    pub(crate) fn connections(&self) -> usize {
        self.pool.connections()
    }

    /// True where the engine removes the disk when it begins like an image of another format.
    pub(crate) fn minds_the_head(&self) -> bool {
        self.transfer
            .as_ref()
            .is_some_and(|transfer| transfer.minds_the_head())
    }

    /// Reports what has changed since the checkpoint of the backup that the disk is read in; `begin` is
    /// called before each attempt, which reports all of it.
    pub(crate) fn dirty_extents(
        &self,
        begin: &mut dyn FnMut(),
        found: &mut dyn FnMut(DirtyExtent),
    ) -> Result<DirtyAnswer, Failure> {
        Ok(self.pool.dirty_extents(begin, found)?)
    }

    /// Bytes may move from now on: an end without a verdict means that data is lost.
    pub(crate) fn set_used(&self) {
        if let Some(transfer) = &self.transfer {
            transfer.set_used();
        }
    }

    /// Returns what notes the image of a download until it is whole, for `recover`.
    pub(crate) fn note_of_image(&self) -> impl FnOnce(&Path, &File) + Send + use<> {
        let transfer = self.transfer.clone();
        move |path, file| match (transfer, Unfinished::begin(path, file)) {
            (Some(transfer), Ok(image)) => transfer.note_unfinished(image),
            (None, _) | (_, Err(_)) => {}
        }
    }

    /// Tells how much may be written, in bytes, the likeliest number first.
    pub(crate) fn expect(&self, wholes: Vec<u64>) {
        self.course.expect(wholes);
    }

    /// How it stands now.
    pub(crate) fn status(&self) -> DiskStatus {
        let statistics = self.pool.statistics();
        let sum = |of: fn(&ConnectionStatistics) -> u64| statistics.iter().map(of).sum();
        let transfer = self.transfer.as_ref();
        let disk = transfer.map(|transfer| transfer.disk().clone());
        let read_only = self.disk.is_read_only();
        let (bytes_read, given) = (sum(|connection| connection.bytes(Op::Read)), self.disk.given());
        let (bytes_done, pace) = match given {
            0 => {
                let data = self.disk.data_bytes();
                let wholes = data.map(|data| vec![data, self.disk.len()]);
                let pace = self.course.look(bytes_read, &wholes.unwrap_or_default());
                (bytes_read, pace)
            }
            given => (given, self.course.look(given, self.course.written_wholes())),
        };
        DiskStatus {
            host: self.host(),
            transport: self.image.transport().to_owned(),
            read_only,
            disk_size: self.disk.capacity(),
            file_size: self.disk.len(),
            connections: self.pool.connections(),
            writers: if read_only { 0 } else { self.pool.writers() },
            replaced: self.pool.replaced(),
            seconds: self.since.elapsed().as_secs(),
            bytes_read,
            bytes_written: sum(|connection| connection.bytes(Op::Write)),
            bytes_zeroed: sum(|connection| connection.bytes(Op::Zero)),
            bytes_unflushed: self.disk.undurable_bytes(),
            bytes_done,
            bytes_total: pace.total,
            bytes_per_second: pace.bytes_per_second,
            seconds_left: pace.seconds_left,
            unanswered_seconds: self.pool.unanswered().map(|silence| silence.as_secs()),
            flushes: sum(|connection| connection.ops(Op::Flush)),
            durable_writes: self.pool.durable_writes(),
            errors: sum(ConnectionStatistics::errors),
            failure: self.disk.failure(),
            refused: self.disk.head_told(),
            disk_id: disk.as_ref().map(|(id, _)| id.clone()),
            disk_name: disk.map(|(_, name)| name),
            transfer: transfer.map(|transfer| transfer.id()),
            transfer_phase: transfer.map(|transfer| transfer.phase()),
        }
    }

    /// Says what the disk holds, and what becomes of it, where the work on it is stopped now; `over`: COMMAND
    /// has failed, and does not only get a signal.
    pub(crate) fn when_stopped(&self, over: bool) -> String {
        let (changed, goes_on) = (self.disk.is_changed(), !over);
        match &self.transfer {
            Some(transfer) => transfer.when_stopped(changed, goes_on),
            None => stopped::was_there(&format!("the disk on {}", self.host()), changed, goes_on),
        }
    }

    /// One line for each connection, as imageio's own log writes them.
    pub(crate) fn statistics(&self) -> Vec<String> {
        let connections = self.pool.statistics().iter().enumerate();
        connections
            .map(|(n, connection)| format!("connection={} {connection}", n + 1))
            .collect()
    }

    /// The same for programs.
    pub(crate) fn figures(&self) -> Vec<Figures> {
        let connections = self.pool.statistics().iter();
        connections.map(ConnectionStatistics::figures).collect()
    }

    /// Requests that were answered so far.
    fn answers(&self) -> u64 {
        let ops = [Op::Read, Op::Write, Op::Zero, Op::Flush];
        let connections = self.pool.statistics().iter();
        connections
            .map(|connection| ops.iter().map(|op| connection.ops(*op)).sum::<u64>())
            .sum()
    }

    /// Ends the transfer if nobody has: for a disk that nobody came to use, and for the way out of a panic.
    pub(crate) fn end_in_any_case(&self) {
        if let Some(transfer) = &self.transfer {
            transfer.end_in_any_case();
        }
    }
}

impl Drop for OpenDisk {
    /// The transfer ends here and not with its last owner: that may be the watcher, whose thread nobody waits
    /// for.
    fn drop(&mut self) {
        self.end_in_any_case();
    }
}
