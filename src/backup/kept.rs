//! The backups of a directory as a restore sees them: points in time, each with its disks and the files that
//! they need, and the configuration of the VM. No file of a disk is opened.
//!
//! One run of `backup` may write two manifests: a disk whose changes can't be read gets a second backup of
//! its own, moments later. The later manifest names only disks that the earlier one calls failed, and leaves
//! out the same ones. The two are one point here, or the newest point would be a part of the VM.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use super::manifest::{Entry, Manifest, Named, Unreadable, bytes_of, known};
use super::naming;
use super::points::chain;
use crate::block_hash::Checksum;
use crate::ovf::Configuration;

/// Upper bound on a configuration, in bytes: that of a VM with some ten thousand disks.
const MAX_CONFIGURATION_BYTES: u64 = 16 << 20;

/// Why a point lacks a disk of which no manifest tells.
const UNTOLD: &str = "the VM had it, and no manifest tells of it: one of the same run is gone, or the disk \
                      was attached in that moment";

/// A point in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Point {
    /// The names of its manifests, the first one's first.
    pub(crate) manifests: Vec<String>,
    /// When it was begun, in UTC, as `2026-11-29T08:35:01.250Z`.
    pub(crate) time: String,
    /// The checkpoints that were made with it.
    pub(crate) checkpoints: Vec<String>,
    pub(crate) vm_id: String,
    pub(crate) vm_name: String,
    /// The name of the file with the configuration of the VM.
    pub(crate) configuration: Option<String>,
    pub(crate) disks: Vec<KeptDisk>,
    /// Disks that could not, or were not to, take part.
    pub(crate) left_out: Vec<Absent>,
    /// Disks that should have been in it.
    pub(crate) failed: Vec<Absent>,
}

impl Point {
    /// Returns the disks of the configuration of which the manifests of the point say nothing. A backup tells
    /// of every disk of the VM, so another manifest of the same run is gone.
    pub(crate) fn untold(&self, configuration: &Configuration) -> Vec<Absent> {
        let absent = self.left_out.iter().chain(&self.failed).map(|one| &one.id);
        let told: Vec<&String> = absent.chain(self.disks.iter().map(|disk| &disk.id)).collect();
        let is_untold = |id: &String| !told.iter().any(|one| one.eq_ignore_ascii_case(id));
        let untold = configuration.disks.iter().filter(|disk| is_untold(&disk.id));
        untold
            .map(|disk| Absent {
                id: disk.id.clone(),
                name: disk.name.clone(),
                why: UNTOLD.into(),
            })
            .collect()
    }
}

/// A disk at a point in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeptDisk {
    pub(crate) id: String,
    pub(crate) name: String,
    /// Bytes of the guest's disk.
    pub(crate) size: u64,
    /// The block hash of what the guest saw.
    pub(crate) checksum: Checksum,
    /// The files that it needs, its own first.
    pub(crate) files: Vec<KeptFile>,
    /// When its backup was begun, in UTC.
    pub(crate) time: String,
}

/// A file of a disk, as its manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeptFile {
    pub(crate) name: String,
    /// Bytes of the file; `None` where no manifest names it.
    pub(crate) length: Option<u64>,
    /// The name of the file below it.
    pub(crate) backing: Option<String>,
}

/// A disk that a point does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Absent {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) why: String,
}

/// Returns the points of a directory, the oldest first; and the manifests that can't be read, with the
/// reasons.
pub(crate) fn points(dir: &Path) -> io::Result<(Vec<Point>, Unreadable)> {
    let (manifests, unreadable) = Manifest::all(dir)?;
    Ok((joined(&manifests), unreadable))
}

/// The time now, as points have it.
pub(crate) fn now() -> String {
    naming::time(SystemTime::now())
}

/// Reads the file `name` with the configuration of a VM; an error says why no VM can be made of it.
pub(crate) fn configuration(dir: &Path, name: &str) -> Result<Configuration, String> {
    let bytes = bytes_of(&dir.join(name), MAX_CONFIGURATION_BYTES).map_err(|e| e.to_string())?;
    let text = String::from_utf8(bytes).map_err(|_| "it is no text".to_owned())?;
    Configuration::read(text).map_err(|e| e.to_string())
}

/// Puts the manifests together to points, the oldest first.
pub(super) fn joined(manifests: &[Manifest]) -> Vec<Point> {
    let mut points: Vec<Point> = Vec::new();
    for manifest in manifests {
        let mut point = point(manifest, manifests);
        let first = manifest.second_of.as_ref();
        let first = first.and_then(|name| points.iter_mut().find(|one| one.manifests.contains(name)));
        match first.filter(|first| first.vm_id == point.vm_id) {
            Some(first) => {
                first
                    .failed
                    .retain(|gone| !has(&point.disks, &gone.id) && !is_among(&point.failed, &gone.id));
                first.failed.append(&mut point.failed);
                first.disks.append(&mut point.disks);
                first.checkpoints.append(&mut point.checkpoints);
                first.manifests.append(&mut point.manifests);
                first.configuration = first.configuration.take().or(point.configuration);
            }
            None => points.push(point),
        }
    }
    points
}

fn is_among(absent: &[Absent], id: &str) -> bool {
    absent.iter().any(|one| one.id == id)
}

fn has(disks: &[KeptDisk], id: &str) -> bool {
    disks.iter().any(|disk| disk.id == id)
}

fn point(of: &Manifest, manifests: &[Manifest]) -> Point {
    Point {
        manifests: vec![of.file_name().display().to_string()],
        time: of.time.clone(),
        checkpoints: of.checkpoint.iter().cloned().collect(),
        vm_id: of.vm.id.clone(),
        vm_name: of.vm.name.clone(),
        configuration: of.configuration.clone(),
        disks: of.disks.iter().map(|entry| kept(entry, of, manifests)).collect(),
        left_out: of.left_out.iter().map(absent).collect(),
        failed: of.failed.iter().map(absent).collect(),
    }
}

fn absent(of: &Named) -> Absent {
    Absent {
        id: of.id.clone(),
        name: of.name.clone(),
        why: of.why.clone(),
    }
}

/// Returns the disk of which the entry of a manifest tells, with the files that it needs.
pub(super) fn kept(entry: &Entry, of: &Manifest, manifests: &[Manifest]) -> KeptDisk {
    let file = |name: &str| {
        let known = known(name, manifests);
        KeptFile {
            name: name.to_owned(),
            length: known.map(|one| one.file_size),
            backing: known.and_then(|one| one.backing.map(str::to_owned)),
        }
    };
    KeptDisk {
        id: entry.id.clone(),
        name: entry.name.clone(),
        size: entry.size,
        checksum: entry.checksum.clone(),
        files: chain(entry, manifests).into_iter().map(file).collect(),
        time: of.time.clone(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::manifest::tests::manifest;
    use super::*;
    use crate::ovf::tests::{DATA, ROOT, ovf};

    /// The points of a full backup and of an incremental one over it.
    pub(crate) fn two() -> Vec<Point> {
        let mut all = [manifest("a", None), manifest("b", Some("a"))];
        for (one, name, time, checkpoint) in [
            (0, "1.manifest.json", "2026-11-29T08:35:01.250Z", "c1"),
            (1, "2.manifest.json", "2026-11-30T08:35:02.000Z", "c2"),
        ] {
            all[one].name = name.into();
            all[one].time = time.into();
            all[one].checkpoint = Some(checkpoint.into());
        }
        joined(&all)
    }

    pub(in crate::backup) fn named(id: &str) -> Named {
        Named {
            id: id.into(),
            name: "disk".into(),
            why: "why".into(),
        }
    }

    #[test]
    fn a_disk_has_all_files_that_it_needs_and_those_that_no_manifest_names() {
        let points = two();
        let files = |n: usize| -> Vec<(&str, Option<u64>)> {
            let files = points[n].disks[0].files.iter();
            files.map(|one| (one.name.as_str(), one.length)).collect()
        };
        let length = Some(1 << 18);
        assert_eq!(files(0), [("a", length)]);
        assert_eq!(files(1), [("b", length), ("a", length)]);
        let lost = joined(&[manifest("b", Some("gone"))]);
        assert_eq!(lost[0].disks[0].files[1].length, None);
    }

    #[test]
    fn a_second_backup_of_the_same_run_is_a_part_of_the_first() {
        let mut first = manifest("a", None);
        first.name = "first.manifest.json".into();
        first.failed.push(named("other"));
        first.failed.push(named("third"));
        let mut second = manifest("b", None);
        second.disks[0].id = "other".into();
        second.name = "second.manifest.json".into();
        second.second_of = Some("first.manifest.json".to_owned());
        second.failed.push(named("third"));
        let all = [first.clone(), second.clone()];
        let points = joined(&all);
        let [one] = points.as_slice() else {
            panic!("they are {}", points.len());
        };
        let ids: Vec<&str> = one.disks.iter().map(|disk| disk.id.as_str()).collect();
        let failed: Vec<&str> = one.failed.iter().map(|disk| disk.id.as_str()).collect();
        assert_eq!((ids, failed), (vec!["d", "other"], vec!["third"]));
        assert_eq!(one.manifests[1], "second.manifest.json");
        // A later run in which only that disk went well is a point of its own.
        let mut later = second.clone();
        later.second_of = None;
        assert_eq!(joined(&[first.clone(), later]).len(), 2);
        // So is one whose first manifest is gone.
        second.second_of = Some("gone.manifest.json".to_owned());
        assert_eq!(joined(&[first, second]).len(), 2);
    }

    /// The manifest of the other disk is gone, and the VM would be made without that.
    #[test]
    fn a_disk_of_which_no_manifest_tells_is_one_that_lacks() {
        let configuration = Configuration::read(ovf()).unwrap();
        let mut point = two().remove(0);
        let ids = |point: &Point| -> Vec<String> {
            let untold = point.untold(&configuration);
            untold.into_iter().map(|one| one.id).collect()
        };
        assert_eq!(ids(&point), [ROOT, DATA]);
        point.disks[0].id = ROOT.to_uppercase();
        assert_eq!(ids(&point), [DATA]);
        let data = Absent {
            id: DATA.into(),
            name: "data".into(),
            why: "it is shareable".into(),
        };
        let mut failed = point.clone();
        failed.failed.push(data.clone());
        assert!(ids(&failed).is_empty());
        point.left_out.push(data);
        assert!(ids(&point).is_empty());
    }
}
