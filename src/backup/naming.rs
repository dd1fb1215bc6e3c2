//! The names of the files of one backup.
//!
//! A disk's is `{time}.{checkpoint}.{disk}.{mode}.qcow2`, as the SDK's example of a backup names it: its
//! next incremental backup finds ours by checkpoint and disk. `{checkpoint}` is `None` where the backup makes
//! none. The time is in UTC, by which the names sort.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_cert::der::DateTime;

use super::manifest::{MANIFEST, Mode};
use crate::engine::is_uuid;

/// See the head of this file.
#[derive(Debug, Clone)]
pub(super) struct Names {
    /// As `20261129083501`.
    stamp: String,
    checkpoint: String,
}

impl Names {
    pub(super) fn of(begun: SystemTime, checkpoint: Option<&str>) -> Names {
        Names {
            stamp: stamp(begun),
            checkpoint: checkpoint.unwrap_or("None").to_owned(),
        }
    }

    pub(super) fn disk(&self, id: &str, mode: Mode) -> String {
        format!("{}.{}.{id}.{}.qcow2", self.stamp, self.checkpoint, mode.name())
    }

    pub(super) fn configuration(&self, vm: &str) -> String {
        format!("{}.{}.{vm}.ovf", self.stamp, self.checkpoint)
    }
}

/// The name of the manifest of a backup that began then.
pub(super) fn manifest(begun: SystemTime, token: &str) -> String {
    format!("{}.{token}{MANIFEST}", stamp(begun))
}

/// The parts of the name of a disk's file, of ours or of the example's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parts<'a> {
    /// `None` where the backup has made none.
    pub(super) checkpoint: Option<&'a str>,
    pub(super) disk: &'a str,
    pub(super) mode: Mode,
}

impl Parts<'_> {
    /// Returns `None` for another name.
    pub(super) fn of(name: &str) -> Option<Parts<'_>> {
        let parts: Vec<&str> = name.split('.').collect();
        let [stamp, checkpoint, disk, mode, "qcow2"] = parts[..] else {
            return None;
        };
        let mode = [Mode::Full, Mode::Incremental]
            .into_iter()
            .find(|one| one.name() == mode)?;
        let is_one = is_stamp(stamp) && is_checkpoint(checkpoint) && is_uuid(disk);
        is_one.then(|| Parts {
            checkpoint: Some(checkpoint).filter(|id| is_uuid(id)),
            disk,
            mode,
        })
    }
}

/// True for the name of the configuration of a VM.
pub(super) fn is_configuration(name: &str) -> bool {
    let parts: Vec<&str> = name.split('.').collect();
    matches!(parts[..], [stamp, checkpoint, vm, "ovf"]
        if is_stamp(stamp) && is_checkpoint(checkpoint) && is_uuid(vm))
}

fn is_stamp(part: &str) -> bool {
    part.len() == 14 && part.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_checkpoint(part: &str) -> bool {
    part == "None" || is_uuid(part)
}

fn date(at: SystemTime) -> Option<DateTime> {
    let since = at.duration_since(UNIX_EPOCH).ok()?;
    // Certificates have the same calendar, without fractions.
    DateTime::from_unix_duration(Duration::from_secs(since.as_secs())).ok()
}

fn stamp(at: SystemTime) -> String {
    date(at).map_or_else(
        || "00000000000000".to_owned(),
        |date| {
            format!(
                "{:04}{:02}{:02}{:02}{:02}{:02}",
                date.year(),
                date.month(),
                date.day(),
                date.hour(),
                date.minutes(),
                date.seconds()
            )
        },
    )
}

/// The time for manifests, as `2026-11-29T08:35:01.250Z`: two of them may be of the same second.
pub(super) fn time(at: SystemTime) -> String {
    let millis = at.duration_since(UNIX_EPOCH).unwrap_or_default().subsec_millis();
    date(at).map_or_else(String::new, |date| {
        let date = date.to_string();
        format!("{}.{millis:03}Z", date.trim_end_matches('Z'))
    })
}

/// Reads a [`time`] back.
pub(super) fn at(time: &str) -> Option<SystemTime> {
    let (seconds, fraction) = time.split_once('.')?;
    let date: DateTime = format!("{seconds}Z").parse().ok()?;
    let millis: u64 = fraction
        .strip_suffix('Z')?
        .parse()
        .ok()
        .filter(|millis| *millis < 1000)?;
    Some(UNIX_EPOCH + date.unix_duration() + Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_back() {
        for millis in [0, 7, 250] {
            let then = UNIX_EPOCH + Duration::from_secs(1_795_941_301) + Duration::from_millis(millis);
            assert_eq!(at(&time(then)), Some(then));
        }
        assert_eq!(
            (at(""), at("yesterday"), at("2026-13-01T00:00:00.000Z")),
            (None, None, None)
        );
    }

    #[test]
    fn a_name_tells_its_checkpoint_disk_and_mode_and_another_name_is_none_of_ours() {
        let (disk, checkpoint) = (
            "3a8c1f56-9b55-4f0e-9f3b-0f1d2c3b4a59",
            "5b8c1f56-9b55-4f0e-9f3b-0f1d2c3b4a59",
        );
        let at = UNIX_EPOCH + Duration::from_secs(1_795_941_301);
        for id in [None, Some(checkpoint)] {
            let names = Names::of(at, id);
            let name = names.disk(disk, Mode::Incremental);
            let parts = Parts::of(&name).unwrap();
            assert_eq!(
                (parts.checkpoint, parts.disk, parts.mode),
                (id, disk, Mode::Incremental)
            );
            assert!(is_configuration(&names.configuration(disk)));
            assert!(!is_configuration(&name));
        }
        for other in ["other.qcow2", "2026.None.d.full.qcow2", ".20261129083501.None"] {
            assert_eq!(Parts::of(other), None);
        }
    }

    #[test]
    fn names_are_those_of_the_sdks_example() {
        let at = UNIX_EPOCH + Duration::from_millis(1_795_941_301_999);
        let names = Names::of(at, Some("c1"));
        assert_eq!(names.disk("d1", Mode::Full), "20261129083501.c1.d1.full.qcow2");
        assert_eq!(
            names.disk("d1", Mode::Incremental),
            "20261129083501.c1.d1.incremental.qcow2"
        );
        let none = Names::of(at, None).disk("d1", Mode::Full);
        assert_eq!(none, "20261129083501.None.d1.full.qcow2");
        assert_eq!(Parts::of(&none), None, "the names of tests are no ids");
        assert_eq!(time(at), "2026-11-29T08:35:01.999Z");
        assert_eq!(manifest(at, "t"), "20261129083501.t.manifest.json");
    }
}
