//! The state of the stand-in for the engine, its disks and transfers, and the log of the requests that it
//! received.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;

use super::Engine;
use super::control::given_out;
use crate::support::content::compare;
use crate::support::run::{run, scratch, text};

#[derive(Clone, Debug, Deserialize)]
pub struct DiskState {
    pub id: String,
    pub name: String,
    pub status: String,
    pub format: String,
    pub sparse: bool,
    pub size: u64,
    pub path: PathBuf,
    pub domain: String,
    pub initial_size: Option<u64>,
    pub capacity: Option<u64>,
    pub locked_by: Vec<String>,
    pub snapshots: Vec<SnapshotState>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct SnapshotState {
    pub id: String,
    pub path: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
pub struct TransferState {
    pub id: String,
    pub disk_id: String,
    pub phase: String,
    pub direction: String,
    pub format: String,
    pub policy: String,
    pub inactivity_timeout: u64,
    pub ticket: Option<String>,
    pub url: Option<String>,
}

impl Engine {
    #[track_caller]
    pub fn disks(&self) -> Vec<DiskState> {
        serde_json::from_value(self.state("disks")).expect("the disks")
    }

    /// Returns the disk with this name or id.
    #[track_caller]
    pub fn disk(&self, which: &str) -> Option<DiskState> {
        let mut disks = self.disks().into_iter();
        disks.find(|disk| disk.name == which || disk.id == which)
    }

    #[track_caller]
    pub fn transfers(&self) -> Vec<TransferState> {
        serde_json::from_value(self.state("transfers")).expect("the transfers")
    }

    /// Returns the transfer that was started last.
    #[track_caller]
    pub fn transfer(&self) -> TransferState {
        self.transfers().pop().expect("there is a transfer")
    }

    /// Returns the id of the engine's only host: `_stable_id("host host1")` in `tests/engine/directory.py`.
    pub fn host_id(&self) -> String {
        "ac927858-4336-53b3-90ee-846af5a37474".to_owned()
    }

    /// Returns the tokens and tickets that it has ever issued.
    #[track_caller]
    pub fn secrets(&self) -> Vec<String> {
        given_out(&self.ready.control)
    }

    #[track_caller]
    pub fn sessions(&self) -> usize {
        self.state("sessions").as_array().map_or(0, Vec::len)
    }

    /// Returns the log lines of this kind; see `tests/engine/journal.py`.
    pub fn log(&self, kind: &str) -> Vec<Value> {
        let log = text(&self.ready.log);
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["kind"] == kind).collect()
    }

    /// Returns the requests with this method whose path ends in `path_end`.
    pub fn requests(&self, method: &str, path_end: &str) -> Vec<Value> {
        let mut requests = self.log("request");
        requests.retain(|one| {
            one["method"] == method && one["path"].as_str().is_some_and(|path| path.ends_with(path_end))
        });
        requests
    }

    /// Returns the phases that a transfer went through, in order.
    pub fn phases(&self, transfer: &str) -> Vec<String> {
        let mut lines = self.log("phase");
        lines.retain(|line| line["transfer"] == transfer);
        lines
            .iter()
            .filter_map(|line| line["phase"].as_str().map(str::to_owned))
            .collect()
    }

    /// Checks that the disk holds `source` and only zeros behind it. Reads the storage, so no transfer may be
    /// using the disk.
    pub fn compare(&self, disk: &DiskState, source: &Path) -> Result<(), String> {
        if disk.format == "raw" {
            return compare(&disk.path, source);
        }
        let raw = scratch();
        let raw = raw.path().join("disk.raw");
        let convert = ["convert", "-f", "qcow2", "-O", "raw"];
        run(
            Command::new("qemu-img").args(convert).arg(&disk.path).arg(&raw),
            60,
        )
        .ok();
        compare(&raw, source)
    }
}
