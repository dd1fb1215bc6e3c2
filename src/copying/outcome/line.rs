//! One line of the file of `--outcome`: a copy that has ended. The names are a contract
//! (`docs/many.md`), those of `--progress json` where both have a fact; more may be added.

use std::io::{self, BufRead};

use serde::{Deserialize, Serialize};

use super::Which;
use crate::images::FileStamp;

/// A copy that has ended. A line without the names that are always there is none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::copying) struct Line {
    /// When it ended, in seconds since 1970.
    #[serde(default)]
    pub(super) time: u64,
    /// `upload` or `download`.
    pub(super) task: String,
    /// The path of the image, or `-`.
    pub(super) image: String,
    /// The disk as the command line names it; absent behind a transfer URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) disk: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) engine: Option<String>,
    /// These are there once the disk was open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) disk_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) disk_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) disk_size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) transfer: Option<String>,
    #[serde(default)]
    pub(super) bytes_read: u64,
    #[serde(default)]
    pub(super) bytes_written: u64,
    #[serde(default)]
    pub(super) bytes_zeroed: u64,
    /// How long the copy took, with its end.
    #[serde(default)]
    pub(super) seconds: f64,
    /// The disk on its storage and the image were compared, and are the same.
    #[serde(default)]
    pub(super) verified: bool,
    /// The block hash of both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) checksum: Option<String>,
    /// Why it is not verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unverified: Option<String>,
    pub(super) exit_status: u8,
    /// Why it ended badly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<String>,
    /// The lines about this copy, this one included.
    #[serde(default)]
    pub(super) attempt: u64,
    /// The name of the machine that has made it.
    #[serde(default)]
    pub(super) machine: String,
    /// The length of the image, and when it was changed last, in nanoseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) image_size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) image_modified: Option<i64>,
    /// The same of each other file that an uploaded image needs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) image_others: Vec<FileStamp>,
}

impl Line {
    /// True where it is about this copy: the same image and the same disk of the same engine.
    pub(super) fn is_about(&self, copy: &Which) -> bool {
        // A path that is not UTF-8 has no exact name here.
        let same_image = copy.image.to_str() == Some(&self.image);
        let ids = [&self.disk, &self.disk_id];
        let same_disk = match (&copy.id, &copy.disk) {
            // The id of a new disk was chosen for this copy.
            (Some(id), _) => ids.into_iter().flatten().any(|one| one.eq_ignore_ascii_case(id)),
            (None, disk) => self.disk == *disk || (disk.is_some() && ids.contains(&disk)),
        };
        self.task == copy.task && same_image && self.is_of_engine(copy) && same_disk
    }

    /// True where it is about a disk of the same engine, or a transfer whose engine is not known.
    pub(super) fn is_of_engine(&self, copy: &Which) -> bool {
        self.engine == copy.engine || self.engine.is_none()
    }

    /// Keeps how the files of the image are, the image itself first.
    pub(super) fn set_stamps(&mut self, stamps: &[FileStamp]) {
        if let Some((&(size, modified), others)) = stamps.split_first() {
            (self.image_size, self.image_modified) = (Some(size), Some(modified));
            self.image_others = others.to_vec();
        }
    }

    /// True where the files of the image are `stamps` now, as they were then.
    pub(super) fn has_stamps(&self, stamps: &[FileStamp]) -> bool {
        stamps.split_first().is_some_and(|(&(size, modified), others)| {
            (self.image_size, self.image_modified) == (Some(size), Some(modified))
                && self.image_others == others
        })
    }

    /// Returns the id of the disk that it says was written, wholly or not. A run that was refused before it
    /// had a transfer has written nothing.
    pub(super) fn written(&self) -> Option<&str> {
        let began = self.task == "upload" && self.transfer.is_some();
        self.disk_id.as_deref().filter(|_| began)
    }

    /// True where it says that the copy was done; `verified`: and that the bytes were compared.
    pub(super) fn is_done(&self, verified: bool) -> bool {
        self.exit_status == 0 && self.disk_id.is_some() && (self.verified || !verified)
    }
}

/// Reads the lines of a file one after the other. What is no line of ours says nothing: one that broke off
/// when a storage was full, or when its machine failed.
pub(super) fn lines(text: impl BufRead) -> impl Iterator<Item = io::Result<Line>> {
    let lines = text.split(b'\n');
    lines.filter_map(|line| match line {
        Ok(line) => serde_json::from_slice(&line).ok().map(Ok),
        Err(e) => Some(Err(e)),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn done() -> Line {
        Line {
            task: "upload".to_owned(),
            image: "/srv/web01.raw".to_owned(),
            disk: Some("web01".to_owned()),
            engine: Some("https://e".to_owned()),
            disk_id: Some("d1".to_owned()),
            verified: true,
            ..Line::default()
        }
    }

    fn copy() -> Which {
        Which {
            task: "upload",
            image: Path::new("/srv/web01.raw").to_owned(),
            disk: Some("web01".to_owned()),
            id: None,
            engine: Some("https://e".to_owned()),
        }
    }

    #[test]
    fn only_a_line_with_the_same_image_disk_and_engine_is_about_a_copy() {
        assert!(done().is_about(&copy()));
        let by_id = Which {
            disk: Some("d1".to_owned()),
            ..copy()
        };
        assert!(
            done().is_about(&by_id),
            "the disk was named by its name, and is by its id"
        );
        let new = |id: &str| Which {
            id: Some(id.to_owned()),
            ..copy()
        };
        assert!(done().is_about(&new("D1")) && !done().is_about(&new("d2")));
        let others = [
            Which {
                task: "download",
                ..copy()
            },
            Which {
                image: Path::new("/srv/web02.raw").to_owned(),
                ..copy()
            },
            Which {
                disk: Some("web02".to_owned()),
                ..copy()
            },
            Which {
                engine: Some("https://other".to_owned()),
                ..copy()
            },
        ];
        for other in others {
            assert!(!done().is_about(&other), "{other:?}");
        }
    }

    #[test]
    fn a_line_counts_as_done_where_it_says_so_and_is_as_well_proven_as_is_asked_for() {
        assert!(done().is_done(true));
        let unverified = Line {
            verified: false,
            ..done()
        };
        assert!(unverified.is_done(false) && !unverified.is_done(true));
        let failed = Line {
            exit_status: 7,
            ..done()
        };
        let unknown = Line {
            disk_id: None,
            ..done()
        };
        assert!(!failed.is_done(false) && !unknown.is_done(false));
    }

    #[test]
    fn a_line_that_broke_off_says_nothing_and_hides_no_other() {
        let whole = serde_json::to_string(&done()).unwrap();
        let text = format!("{whole}\n{}\n\n[]\n{{}}\n{whole}\n", &whole[..whole.len() - 9]);
        let read: Result<Vec<Line>, _> = lines(text.as_bytes()).collect();
        assert_eq!(read.unwrap(), [done(), done()]);
    }
}
