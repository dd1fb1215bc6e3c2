//! Says what each connection did, as lines for people or as one line of JSON: at the end of a mount
//! (`--stats`), and when SIGUSR1 asks for it.

use std::sync::Arc;

use serde::Serialize;

use crate::amounts::size;
use crate::logging::plain;
use crate::open_disk::{DiskStatus, OpenDisk};
use crate::pool::Figures;
use crate::settings::cli::Output;

/// One disk of a mount. The names are those of `--stats=json`.
#[derive(Debug, Serialize)]
struct Statistics {
    /// As in `status -o json`.
    disk: DiskStatus,
    /// In the order of their numbers, from 1 on.
    connections: Vec<Figures>,
}

/// The last line of JSON where there are several disks.
#[derive(Debug, Serialize)]
struct Sum {
    sum: DiskStatus,
}

/// Returns the statistics of `disks`: as text, a line for each connection in the form of imageio's own log;
/// as JSON, a line for each disk. Several disks are told apart by their names, and have a sum at the end.
pub(crate) fn lines<'a>(disks: impl Iterator<Item = &'a Arc<OpenDisk>>, form: Output) -> Vec<String> {
    let disks: Vec<&Arc<OpenDisk>> = disks.collect();
    let lines = |disk: &&Arc<OpenDisk>| match form {
        Output::Text if disks.len() > 1 => {
            let name = disk.status().disk_name.unwrap_or_default();
            let lines = disk.statistics().into_iter();
            lines.map(|line| plain(&format!("disk={name} {line}"))).collect()
        }
        Output::Text => disk.statistics(),
        Output::Json => {
            let statistics = Statistics {
                disk: disk.status(),
                connections: disk.figures(),
            };
            serde_json::to_string(&statistics).into_iter().collect()
        }
    };
    let mut all: Vec<String> = disks.iter().flat_map(lines).collect();
    if disks.len() > 1 {
        let statuses: Vec<DiskStatus> = disks.iter().map(|disk| disk.status()).collect();
        let sum = DiskStatus::sum(statuses.iter());
        all.extend(match form {
            Output::Text => Some(sum_line(disks.len(), &sum)),
            Output::Json => serde_json::to_string(&Sum { sum }).ok(),
        });
    }
    all
}

fn sum_line(count: usize, sum: &DiskStatus) -> String {
    format!(
        "disks={count} connections={} [read {}] [write {}] [zero {}] [flush {} ops] [errors {}]",
        sum.connections,
        size(sum.bytes_read),
        size(sum.bytes_written),
        size(sum.bytes_zeroed),
        sum.flushes,
        sum.errors
    )
}
