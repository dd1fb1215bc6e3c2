//! Says what each connection did, as lines for people or as one line of JSON: at the end of a mount
//! (`--stats`), and when SIGUSR1 asks for it.

use std::sync::Arc;

use serde::Serialize;

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

/// Returns the statistics of `disks`: as text, a line for each connection in the form of imageio's own log;
/// as JSON, a line for each disk.
pub(crate) fn lines<'a>(disks: impl Iterator<Item = &'a Arc<OpenDisk>>, form: Output) -> Vec<String> {
    let lines = |disk: &Arc<OpenDisk>| match form {
        Output::Text => disk.statistics(),
        Output::Json => {
            let statistics = Statistics {
                disk: disk.status(),
                connections: disk.figures(),
            };
            serde_json::to_string(&statistics).into_iter().collect()
        }
    };
    disks.flat_map(lines).collect()
}
