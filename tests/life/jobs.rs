//! The jobs in `packaging/kubernetes` do what they say: their arguments and variables, as the manifests have
//! them, in what a pod is on a node, against this engine.

use std::fs;
use std::os::unix::fs::chown;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::pods::{POD, POD_USER};
use crate::rig::{LIMIT, SIZE, assert_free, assert_nothing_deleted, used_disk};
use crate::support::content::compare;
use crate::support::engine::{Engine, PASSWORD, USER};
use crate::support::mount::{APART, BINARY};
use crate::support::redaction::assert_shows_none;
use crate::support::run::{Ran, is_root, run, sh, text, top};

/// The container of a job.
fn container(name: &str) -> Value {
    let script = "import json, sys, yaml; \
                  [job] = [one for one in yaml.safe_load_all(open(sys.argv[1])) if one['kind'] == 'Job']; \
                  print(json.dumps(job['spec']['template']['spec']['containers'][0]))";
    let path = top().join("packaging/kubernetes").join(name);
    let mut python = Command::new(top().join("target/venv/bin/python"));
    let ran = run(python.args(["-c", script]).arg(path), 30).ok();
    serde_json::from_str(&ran.stdout).expect("a container")
}

fn words(value: &Value) -> Vec<String> {
    let words = value.as_array().expect("a list").iter();
    words
        .map(|word| word.as_str().expect("a text").to_owned())
        .collect()
}

/// Runs the job: `volume` is its claim, a folder lies at /images there and at /mnt here. `replaced` are words
/// that name what this engine has otherwise, and `more` are the tests' own.
#[track_caller]
fn job(engine: &Engine, name: &str, volume: &Path, replaced: &[(&str, &str)], more: &[&str]) -> Ran {
    let container = container(name);
    let mut args = words(&container["args"]);
    for (from, to) in replaced {
        let hits = args.iter().filter(|word| word.contains(from)).count();
        assert_eq!(hits, 1, "{from} in {args:?}");
        args.iter_mut().for_each(|word| *word = word.replace(from, to));
    }
    for word in args.iter_mut().filter(|word| word.starts_with("/images/")) {
        *word = word.replacen("/images", "/mnt", 1);
    }
    let mut pod = Command::new("unshare");
    pod.args(["--mount", APART, "bash", "-euc", POD, "pod"])
        .arg(volume)
        .args([BINARY, "rhv-mount"])
        .args(&args)
        .args(more)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let has = |path: &str| {
        let mounts = container["volumeMounts"].as_array();
        mounts.is_some_and(|mounts| mounts.iter().any(|mount| mount["mountPath"] == path))
    };
    if has("/tmp") {
        pod.env("EMPTY_DIR", "/tmp");
    }
    // The variables of the secret, by the names that its manifest has.
    let secret = match container["envFrom"][0]["secretRef"]["name"].as_str() {
        Some("rhv") => [
            ("user", USER),
            ("password", PASSWORD),
            ("insecureSkipVerify", "false"),
        ],
        Some("rhv-login") => [
            ("OVIRT_URL", engine.url()),
            ("OVIRT_USERNAME", USER),
            ("OVIRT_PASSWORD", PASSWORD),
        ],
        other => panic!("an unknown secret: {other:?}"),
    };
    pod.envs(secret);
    match container["env"][0]["name"].as_str() {
        Some("cacert") => pod.env("cacert", text(engine.cafile())),
        Some("OVIRT_CAFILE") => pod.env("OVIRT_CAFILE", engine.cafile()),
        other => panic!("an unknown variable: {other:?}"),
    };
    let ran = run(&mut pod, LIMIT);
    assert_shows_none(&ran, &[PASSWORD]);
    ran.ok()
}

/// A folder of the pod's user, on which the CA can be read by everybody as from a ConfigMap.
fn claim(engine: &Engine) -> PathBuf {
    let volume = engine.dir().join("images");
    fs::create_dir(&volume).expect("make the volume");
    chown(&volume, Some(POD_USER), Some(POD_USER)).expect("give the volume to the pod");
    sh(
        r#"chmod a+rx "$(dirname "$1")" "$(dirname "$2")"; chmod a+r "$2""#,
        [engine.dir(), engine.cafile()],
        20,
    )
    .ok();
    volume
}

#[test]
fn the_job_that_downloads_and_the_one_that_uploads_carry_a_disk_over() {
    if !is_root() {
        return;
    }
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let volume = claim(&engine);
    let ran = job(&engine, "job-download.yaml", &volume, &[], &[]);
    assert!(ran.stderr.contains("verified: the disk holds the same"), "{ran}");
    assert_free(&engine, &disk.id, &content);
    assert_nothing_deleted(&engine);
    let image = volume.join("web01.qcow2");
    let raw = engine.dir().join("back.raw");
    sh(r#"qemu-img convert -O raw "$1" "$2""#, [&image, &raw], 60).ok();
    compare(&raw, &content).unwrap();

    let renamed = [("--create=web01", "--create=web02")];
    let ran = job(&engine, "job-upload.yaml", &volume, &renamed, &[]);
    assert!(ran.stderr.contains("verified: the disk holds the same"), "{ran}");
    assert_free(&engine, "web02", &content);
    assert_nothing_deleted(&engine);
}

#[test]
fn the_job_that_populates_needs_no_forklift() {
    if !is_root() {
        return;
    }
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let storage = engine.dir().join("storage");
    fs::File::create(&storage).unwrap().set_len(SIZE).unwrap();
    let device = sh(r#"losetup --find --show "$1""#, [&storage], 30).ok();
    let device = PathBuf::from(device.stdout.trim());
    let replaced = [
        ("5b0e7c1a-6a4f-4f0e-9f3e-0a6f5c1d2b7e", disk.id.as_str()),
        ("https://engine.example.com", engine.url()),
    ];
    // The tests listen on loopback only.
    let more = ["--metrics-listen=127.0.0.1:0"];
    let ran = catch_unwind(AssertUnwindSafe(|| {
        job(&engine, "job-populate.yaml", &device, &replaced, &more)
    }));
    sh(r#"losetup --detach "$1""#, [&device], 30).ok();
    ran.expect("the job");
    compare(&storage, &content).unwrap();
    assert_free(&engine, &disk.id, &content);
}
