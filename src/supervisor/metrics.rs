//! `--metrics-file`: figures in Prometheus' text format 0.0.4, for the textfile collector of node_exporter,
//! which reads `*.prom` in its directory. The file is replaced as a whole, so nobody reads half of one. It
//! stays after the end, with the exit code: a job that failed can be alerted on. It has no secret, and all
//! may read it, since the collector is another user.
//!
//! Names follow prometheus.io/docs/practices/naming: the unit and, for what only grows, `_total` at the end.
//! Every sample has the mountpoint, or the image of a copy, as a label, so that files of several runs do not
//! collide.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::{Display, Write as _};
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam::channel::bounded;

use super::Stage;
use crate::logging::plain;
use crate::open_disk::DiskStatus;
use crate::pool::{Figures, OpFigures};
use crate::process::{rights, spawn};
use crate::secret::clean;
use crate::settings::Task;

/// The states of a run, of which one has the value 1; the second one is a mount's own, or a copy's.
const STATES: [[&str; 5]; 2] = [
    ["opening", "mounted", "flushing", "finalizing", "ended"],
    ["opening", "copying", "flushing", "finalizing", "ended"],
];

/// How a run stands at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Picture {
    /// The mountpoint, or the image.
    pub(super) place: String,
    pub(super) task: Task,
    pub(super) stage: Option<Stage>,
    pub(super) began: Option<SystemTime>,
    /// Each disk with the figures of its connections; none while it is opened.
    pub(super) disks: Vec<(DiskStatus, Vec<Figures>)>,
    /// The disks beside these that could not be opened.
    pub(super) unopened: Vec<DiskStatus>,
    /// Bytes of a download that the image has, holes included, and all of them.
    pub(super) copied: Option<(u64, u64)>,
}

/// Longest wait for the file system of the file. It may hang, and nothing else may hang with it.
const PATIENCE: Duration = Duration::from_secs(2);

/// A file is being written.
static UNDER_WAY: AtomicBool = AtomicBool::new(false);

/// Writes the file anew, in a thread that has root's capabilities, since the directory is the collector's.
/// Fails with `TimedOut` where that takes longer than [`PATIENCE`], and at once while an earlier one has not
/// ended.
pub(super) fn write(path: &Path, picture: &Picture) -> io::Result<()> {
    if UNDER_WAY.swap(true, Ordering::AcqRel) {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let (done, written) = bounded(1);
    let (text, path) = (text(picture), path.to_owned());
    let write = move || {
        let result = replace(&path, &text);
        UNDER_WAY.store(false, Ordering::Release);
        let _ = done.send(result);
    };
    if let Err(e) = rights::with(|| spawn("metrics", write)) {
        UNDER_WAY.store(false, Ordering::Release);
        return Err(io::Error::other(e.to_string()));
    }
    let written = written.recv_timeout(PATIENCE);
    written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    // The collector does not read a name that does not end in .prom.
    let mut beside = OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(beside);
    let written = || {
        let _ = fs::remove_file(&beside);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&beside)?;
        file.write_all(text.as_bytes())?;
        // The umask may have taken this away.
        file.set_permissions(Permissions::from_mode(0o644))?;
        fs::rename(&beside, path)
    };
    written().inspect_err(|_| drop(fs::remove_file(&beside)))
}

/// The text of a file.
pub(super) fn text(picture: &Picture) -> String {
    let mut page = Page {
        text: String::new(),
        place: (label_of(picture.task), &picture.place),
    };
    let began = picture
        .began
        .and_then(|began| began.duration_since(UNIX_EPOCH).ok());
    page.family(
        "start_time_seconds",
        "gauge",
        "When the run began, in seconds since 1970.",
    );
    page.sample("start_time_seconds", &[], began.unwrap_or_default().as_secs_f64());
    page.family(
        "state",
        "gauge",
        "The state of the run: 1 for the one that it is in.",
    );
    let now = picture.stage.as_ref().map_or("opening", Stage::name);
    for state in STATES[usize::from(picture.task != Task::Mount)] {
        page.sample("state", &[("state", state)], u8::from(state == now));
    }
    if let Some(Stage::Ended(code, _)) = &picture.stage {
        page.family(
            "exit_code",
            "gauge",
            "The exit code of a run that has ended: 0 when all data is safe.",
        );
        page.sample("exit_code", &[], code);
    }
    if !picture.disks.is_empty() {
        page.disks(picture);
        page.requests(picture);
    }
    page.text
}

/// The labels that tell several disks of a mount apart. A disk that is alone needs none.
fn labels_of<'a>(picture: &Picture, disk: &'a DiskStatus) -> Vec<(&'static str, &'a str)> {
    match picture.disks.len() + picture.unopened.len() {
        ..=1 => Vec::new(),
        _ => vec![
            ("disk", disk.disk_name.as_deref().unwrap_or_default()),
            ("disk_id", disk.disk_id.as_deref().unwrap_or_default()),
        ],
    }
}

/// The name of the label that tells runs apart.
fn label_of(task: Task) -> &'static str {
    match task {
        Task::Mount => "mountpoint",
        Task::Upload | Task::Download | Task::Checksum => "image",
        Task::Backup | Task::Restore => "directory",
    }
}

struct Page<'a> {
    text: String,
    /// A label, and its value, that every sample has.
    place: (&'static str, &'a str),
}

impl Page<'_> {
    fn disks(&mut self, picture: &Picture) {
        let disks = || picture.disks.iter().map(|(disk, _)| disk);
        self.family(
            "disk_open",
            "gauge",
            "1 for a disk that could be opened, 0 for one of several that could not.",
        );
        let all = disks().map(|disk| (disk, 1));
        for (disk, open) in all.chain(picture.unopened.iter().map(|disk| (disk, 0))) {
            self.sample("disk_open", &labels_of(picture, disk), open);
        }
        self.family(
            "info",
            "gauge",
            "The disk, the server and the program; the value is 1.",
        );
        for disk in disks() {
            let labels = [
                ("disk", disk.disk_name.as_deref().unwrap_or_default()),
                ("disk_id", disk.disk_id.as_deref().unwrap_or_default()),
                ("host", disk.host.as_str()),
                ("transport", disk.transport.as_str()),
                ("read_only", if disk.read_only { "true" } else { "false" }),
                ("version", env!("CARGO_PKG_VERSION")),
            ];
            self.sample("info", &labels, 1);
        }
        let mut family = |name: &str, kind: &str, help: &str, value: fn(&DiskStatus) -> u64| {
            self.family(name, kind, help);
            for disk in disks() {
                self.sample(name, &labels_of(picture, disk), value(disk));
            }
        };
        family("disk_size_bytes", "gauge", "Size of the disk.", |disk| {
            disk.disk_size
        });
        let help = "Size of the file, which a truncate changes.";
        family("file_size_bytes", "gauge", help, |disk| disk.file_size);
        let help = "Connections to imageio.";
        family("connections", "gauge", help, |disk| disk.connections as u64);
        let help = "Acknowledged data that is not known to be on the storage.";
        family("unflushed_bytes", "gauge", help, |disk| disk.bytes_unflushed);
        let help = "1 when acknowledged data may be lost.";
        family("failed", "gauge", help, |disk| disk.failure.is_some().into());
        let help = "Connections that were lost or given up, and replaced.";
        family("connections_replaced_total", "counter", help, |disk| {
            disk.replaced
        });
    }

    /// The sums over all connections of each disk.
    fn requests(&mut self, picture: &Picture) {
        let disks = picture.disks.iter();
        let sums = disks.map(|(disk, connections)| (disk, sums(connections)));
        let sums: Vec<_> = sums.collect();
        let mut family = |name: &str, help: &str, value: fn(&OpFigures) -> f64| {
            self.family(name, "counter", help);
            for (disk, of_disk) in &sums {
                for (operation, sum) in of_disk {
                    let mut labels = labels_of(picture, disk);
                    labels.push(("operation", operation));
                    self.sample(name, &labels, value(sum));
                }
            }
        };
        family("requests_total", "Requests to imageio that succeeded.", |sum| {
            sum.ops as f64
        });
        let help = "Requests to imageio that failed, repeated ones included.";
        family("request_errors_total", help, |sum| sum.errors as f64);
        let help = "Time that requests to imageio took, over all connections.";
        family("request_seconds_total", help, |sum| sum.seconds);
        let help = "Bytes that requests moved, or made zero.";
        family("request_bytes_total", help, |sum| sum.bytes as f64);
    }

    /// Begins the samples of one name; `kind` is `gauge` or `counter`.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(
            self.text,
            "# HELP rhv_mount_{name} {help}\n# TYPE rhv_mount_{name} {kind}"
        );
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(
            self.text,
            "rhv_mount_{name}{{{}=\"{}\"",
            self.place.0,
            label(self.place.1)
        );
        for (key, value) in labels {
            let _ = write!(self.text, ",{key}=\"{}\"", label(value));
        }
        let _ = writeln!(self.text, "}} {value}");
    }
}

/// The sums of each kind of request.
fn sums(connections: &[Figures]) -> BTreeMap<&'static str, OpFigures> {
    let mut sums: BTreeMap<&str, OpFigures> = BTreeMap::new();
    for (operation, figures) in connections.iter().flat_map(|connection| &connection.operations) {
        let sum = sums.entry(*operation).or_default();
        sum.ops += figures.ops;
        sum.errors += figures.errors;
        sum.seconds += figures.seconds;
        sum.bytes += figures.bytes;
    }
    sums
}

/// Returns a text as the value of a label, between quotes.
pub(super) fn label(text: &str) -> String {
    plain(&clean(text)).replace('\\', r"\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_disks_and_paths_cannot_break_a_sample() {
        let disk = DiskStatus {
            disk_name: Some("a\"} 1\nb\\".to_owned()),
            ..DiskStatus::default()
        };
        let picture = Picture {
            place: "/mnt/\"b c\"".to_owned(),
            disks: vec![(disk, vec![])],
            ..Picture::default()
        };
        let text = text(&picture);
        assert!(
            text.contains(r#"rhv_mount_info{mountpoint="/mnt/\"b c\"",disk="a\"} 1 b\\",disk_id="""#),
            "{text}"
        );
        let ours = |line: &str| line.starts_with("# ") || line.starts_with("rhv_mount_");
        assert!(text.lines().all(ours), "{text}");
    }

    #[test]
    fn several_disks_are_told_apart_and_each_family_stands_once() {
        let disk = |name: &str| DiskStatus {
            disk_name: Some(name.to_owned()),
            disk_id: Some(format!("id of {name}")),
            disk_size: name.len() as u64,
            ..DiskStatus::default()
        };
        let figures = || {
            let statistics = crate::pool::ConnectionStatistics::start();
            vec![statistics.figures(), statistics.figures()]
        };
        let picture = Picture {
            place: "/mnt".to_owned(),
            disks: vec![(disk("a"), figures()), (disk("bc"), figures())],
            unopened: vec![disk("broken")],
            ..Picture::default()
        };
        let text = text(&picture);
        for line in [
            r#"rhv_mount_disk_open{mountpoint="/mnt",disk="a",disk_id="id of a"} 1"#,
            r#"rhv_mount_disk_open{mountpoint="/mnt",disk="broken",disk_id="id of broken"} 0"#,
            r#"rhv_mount_disk_size_bytes{mountpoint="/mnt",disk="a",disk_id="id of a"} 1"#,
            r#"rhv_mount_disk_size_bytes{mountpoint="/mnt",disk="bc",disk_id="id of bc"} 2"#,
        ] {
            assert!(text.lines().any(|one| one == line), "{text}");
        }
        let mut seen = std::collections::BTreeSet::new();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let names = samples.map(|line| line.rsplit_once(' ').unwrap().0);
        for name in names {
            assert!(seen.insert(name), "{name} stands twice: {text}");
        }
        let heads: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let different: std::collections::BTreeSet<&&str> = heads.iter().collect();
        assert_eq!(heads.len(), different.len(), "{text}");
    }

    #[test]
    fn the_file_is_replaced_as_a_whole_and_all_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.prom");
        for stage in [Stage::Opening, Stage::Ended(7, None)] {
            let picture = Picture {
                stage: Some(stage),
                ..Picture::default()
            };
            write(&path, &picture).unwrap();
        }
        assert!(
            fs::read_to_string(&path)
                .unwrap()
                .contains("rhv_mount_exit_code{mountpoint=\"\"} 7\n")
        );
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
        let nowhere = dir.path().join("missing/disk.prom");
        assert!(write(&nowhere, &Picture::default()).is_err());
    }
}
