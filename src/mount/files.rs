//! What `status` says of the files of several disks, and of the disks that have no file. The names are those
//! of `status -o json`.

use serde::{Deserialize, Serialize};

use crate::engine::LeftOut;
use crate::logging::plain;
use crate::open_disk::DiskStatus;

/// One file and its disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FileStatus {
    /// Its name in the directory.
    pub(crate) file_name: String,
    #[serde(flatten)]
    pub(crate) disk: DiskStatus,
}

/// A disk that is left out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LeftOutStatus {
    pub(crate) disk_id: String,
    pub(crate) disk_name: String,
    pub(crate) why: String,
}

impl FileStatus {
    /// The sum of `files`, in which what went wrong is told with the file's name.
    pub(super) fn sum(files: &[FileStatus]) -> DiskStatus {
        let told = |of: fn(&DiskStatus) -> &Option<String>| {
            let told = files.iter().filter_map(|file| {
                let why = of(&file.disk).as_ref()?;
                Some(format!("{}: {why}", file.file_name))
            });
            let told: Vec<String> = told.collect();
            (!told.is_empty()).then(|| told.join("; "))
        };
        DiskStatus {
            failure: told(|disk| &disk.failure),
            refused: told(|disk| &disk.refused),
            ..DiskStatus::sum(files.iter().map(|file| &file.disk))
        }
    }
}

impl LeftOutStatus {
    pub(super) fn of(one: &LeftOut) -> LeftOutStatus {
        LeftOutStatus {
            disk_id: plain(&one.id),
            disk_name: plain(&one.name),
            why: one.why.to_owned(),
        }
    }
}
