//! The files of a mount, and what `status` says of those of several disks, and of disks that have no file.
//! The names are those of `status -o json`.

use std::ffi::{OsStr, OsString};

use serde::{Deserialize, Serialize};

use super::file_names::MAX_BYTES;
use super::{BrokenDisk, Mount, MountedDisk};
use crate::engine::LeftOut;
use crate::fuse::{Attributes, Beside, Content, Telling};
use crate::logging::plain;
use crate::open_disk::DiskStatus;

/// The directory beside the files, as the attribute of a file names it.
const BESIDE: &str = ".rhv-mount";

/// The end of the names of files that tell what has changed in a disk.
const DIRTY: &str = ".dirty.json";

/// The attribute that has the path of such a file, relative to the mountpoint.
const DIRTY_ATTRIBUTE: &str = "user.rhv_mount.dirty";

/// The attribute that has the checkpoint from which the next changes can be told.
const CHECKPOINT_ATTRIBUTE: &str = "user.rhv_mount.checkpoint";

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

/// A backup as `status` shows it. The names are those of `status -o json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BackupStatus {
    pub(crate) id: String,
    /// The checkpoint that it has made, from which the changes after it can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checkpoint: Option<String>,
    /// The checkpoint from which changes are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) from_checkpoint: Option<String>,
    /// `ready` while it is mounted, then `finalizing`.
    pub(crate) phase: String,
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

impl Mount {
    /// The files of a directory, in the order of their names.
    pub(super) fn files(&self) -> Vec<(OsString, Content)> {
        let open = self.disks.iter();
        let open = open.map(|one| (one.file_name.clone(), Content::Disk(one.disk.disk().clone())));
        let broken = self.broken.iter();
        let broken = broken.map(|one| (one.file_name.clone(), Content::Broken(one.size)));
        let mut files: Vec<(OsString, Content)> = open.chain(broken).collect();
        files.sort_by(|(a, _), (b, _)| a.cmp(b));
        files
    }

    /// The disks of several that could not be opened.
    pub(super) fn unopened(&self) -> Vec<DiskStatus> {
        self.broken.iter().map(BrokenDisk::status).collect()
    }

    /// All that is told beside the files of a directory.
    pub(super) fn beside(&self) -> Beside {
        let mut beside = Beside::default();
        for one in &self.disks {
            let mut attributes = Attributes::new();
            if let Some(dirty) = &one.dirty {
                let name = one.dirty_name();
                attributes.push((DIRTY_ATTRIBUTE, format!("{BESIDE}/{name}")));
                beside.tellings.push(Telling {
                    name: name.into(),
                    text: dirty.clone(),
                });
            }
            if let Some(checkpoint) = &one.checkpoint {
                attributes.push((CHECKPOINT_ATTRIBUTE, checkpoint.clone()));
            }
            if !attributes.is_empty() {
                beside.attributes.insert(one.file_name.clone(), attributes);
            }
        }
        beside.tellings.sort_by(|a, b| a.name.cmp(&b.name));
        beside
    }

    /// How each file stands, in the order of their names.
    pub(super) fn file_statuses(&self) -> Vec<FileStatus> {
        let of = |name: &OsStr, disk| FileStatus {
            file_name: name.to_string_lossy().into_owned(),
            disk,
        };
        let open = self.disks.iter().map(|one| of(&one.file_name, one.disk.status()));
        let broken = self.broken.iter().map(|one| of(&one.file_name, one.status()));
        let mut files: Vec<FileStatus> = open.chain(broken).collect();
        files.sort_by(|a, b| a.file_name.cmp(&b.file_name));
        files
    }
}

impl MountedDisk {
    /// The name of the file that tells what has changed in it: that of its own file with an end of its own,
    /// or, where that would be too long, its id, which no other disk's file has.
    fn dirty_name(&self) -> String {
        let name = self.file_name.to_string_lossy();
        let stem = match name.len() + DIRTY.len() <= MAX_BYTES {
            true => name.into_owned(),
            false => self.disk.status().disk_id.unwrap_or_default(),
        };
        stem + DIRTY
    }
}

impl BrokenDisk {
    fn status(&self) -> DiskStatus {
        DiskStatus {
            read_only: true,
            disk_size: self.size,
            file_size: self.size,
            disk_id: Some(self.id.clone()),
            disk_name: Some(self.name.clone()),
            failure: Some(format!("it could not be opened: {}", self.why)),
            ..DiskStatus::default()
        }
    }
}
