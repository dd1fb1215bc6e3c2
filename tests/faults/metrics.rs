//! `--metrics-file`, read by a parser of Prometheus' own (the Python package prometheus_client).

use crate::rig::{MIB, Rig, pattern, settings};
use crate::server::{Action, Fault, Server, Verb};
use crate::support::mount::rhv_mount;
use crate::support::run::{run, scratch, top, wait_until};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// Prints each family of the file `argv[1]` with its type, help and samples.
const PARSE: &str = "\
import json, sys
from prometheus_client.parser import text_string_to_metric_families as parse
with open(sys.argv[1], encoding='utf-8') as file:
    text = file.read()
print(json.dumps([{'name': f.name, 'kind': f.type, 'help': f.documentation,
                   'samples': [{'name': s.name, 'labels': s.labels, 'value': s.value} for s in f.samples]}
                  for f in parse(text)]))
";

#[derive(Debug, Deserialize)]
struct Family {
    name: String,
    kind: String,
    help: String,
    samples: Vec<Sample>,
}

#[derive(Debug, Deserialize)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

#[track_caller]
fn families(path: &Path) -> Vec<Family> {
    let mut python = Command::new(top().join("target/venv/bin/python"));
    let ran = run(python.args(["-c", PARSE]).arg(path), 60).ok();
    serde_json::from_str(&ran.stdout).expect("the parser's words")
}

/// Returns the value of the sample with this name and, if not empty, this value of some label.
#[track_caller]
fn value(families: &[Family], name: &str, label: &str) -> f64 {
    let samples = families.iter().flat_map(|family| &family.samples);
    let fits = |sample: &&Sample| {
        sample.name == name && (label.is_empty() || sample.labels.values().any(|value| value == label))
    };
    let sample = samples.filter(|sample| fits(sample)).collect::<Vec<_>>();
    assert_eq!(sample.len(), 1, "{name} {label}: {families:#?}");
    sample[0].value
}

#[test]
fn the_figures_of_a_mount_are_what_moved_under_names_as_prometheus_has_them() {
    let dir = scratch();
    let path = dir.path().join("disk.prom");
    let rig = Rig::start(settings(8 * MIB), &["--metrics-file", path.to_str().unwrap()]);
    let state = |state: &str| value(&families(&path), "rhv_mount_state", state);
    wait_until("it is told as mounted", 60, || state("mounted") == 1.0);
    let mountpoint = rig.mount.mountpoint().display().to_string();
    let file = rig.read_write();
    file.write_all_at(&pattern(1, 3 * MIB as usize), 0).unwrap();
    file.sync_all().unwrap();
    drop(file);
    assert_eq!(rig.umount().0.code, Some(0));
    let families = families(&path);
    for (name, label, expected) in [
        ("rhv_mount_state", "ended", 1.0),
        ("rhv_mount_state", "mounted", 0.0),
        ("rhv_mount_exit_code", "", 0.0),
        ("rhv_mount_failed", "", 0.0),
        ("rhv_mount_request_bytes_total", "write", 3.0 * MIB as f64),
        ("rhv_mount_request_errors_total", "write", 0.0),
        ("rhv_mount_unflushed_bytes", "", 0.0),
        ("rhv_mount_disk_size_bytes", "", 8.0 * MIB as f64),
        ("rhv_mount_info", "http", 1.0),
    ] {
        assert_eq!(value(&families, name, label), expected, "{name} {label}");
    }
    assert!(value(&families, "rhv_mount_requests_total", "flush") >= 1.0);
    let mut seen = BTreeSet::new();
    for family in &families {
        assert!(
            family.name.starts_with("rhv_mount_") && !family.help.is_empty(),
            "{family:?}"
        );
        assert!(matches!(family.kind.as_str(), "gauge" | "counter"), "{family:?}");
        for sample in &family.samples {
            let grows = sample.name.ends_with("_total");
            assert_eq!(grows, family.kind == "counter", "{sample:?}");
            assert_eq!(sample.labels["mountpoint"], mountpoint);
            let new = seen.insert((&sample.name, &sample.labels));
            assert!(new, "it is there twice: {sample:?}");
        }
    }
}

#[test]
fn a_bad_end_stays_in_the_file() {
    let dir = scratch();
    let path = dir.path().join("disk.prom");
    let server = Server::start(settings(8 * MIB));
    server.arm(Fault::always(Verb::Flush, Action::Status(500, "broken")));
    let options = ["--retry-time", "1", "--metrics-file", path.to_str().unwrap()];
    let rig = Rig::over(server, &options);
    rig.read_write().write_all_at(b"lost", 0).unwrap();
    assert_eq!(rig.umount().0.code, Some(7));
    let families = families(&path);
    assert_eq!(value(&families, "rhv_mount_exit_code", ""), 7.0);
    assert_eq!(value(&families, "rhv_mount_failed", ""), 1.0);
    assert!(value(&families, "rhv_mount_request_errors_total", "flush") >= 1.0);
}

#[test]
fn a_file_that_cannot_be_written_is_refused_before_anything_is_begun() {
    let server = Server::start(settings(MIB));
    let dir = scratch();
    let (path, target) = (dir.path().join("missing/x.prom"), dir.path().join("disk.raw"));
    let args = [Path::new("--metrics-file"), &path, &target];
    let ran = rhv_mount(Some(&server.url()), args);
    assert_eq!(ran.code, Some(2), "{ran}");
    assert!(ran.stderr.contains("--metrics-file"), "{ran}");
    assert_eq!(server.connections_opened(), 0);
    assert!(!target.exists());
}
