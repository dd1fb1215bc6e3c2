//! `populate` as forklift's controller runs it: with its arguments and the variables of its secret, as user
//! 107 without capabilities, on a root that is read-only, without /dev/fuse; and its progress over HTTPS.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::pods::{Claim, POD_USER, held};
use crate::rig::{
    ENGINE_FAILED, LIMIT, SIZE, USAGE, assert_free, assert_nothing_deleted, assert_told, source, used_disk,
};
use crate::support::content::{MIB, compare, random_image};
use crate::support::engine::{DiskState, Engine, PASSWORD};
use crate::support::foreground::Foreground;
use crate::support::redaction::{assert_shows_none, shows};
use crate::support::run::{is_root, run, sh, text, wait_until};

/// Asserts that neither the environment nor the arguments of the pod's process show a secret.
#[track_caller]
fn assert_process_shows_none(pod: &Foreground, engine: &Engine) {
    let mut secrets = engine.secrets();
    secrets.push(PASSWORD.to_owned());
    for name in ["cmdline", "environ"] {
        let text = text(Path::new(&format!("/proc/{}/{name}", pod.pid())));
        assert!(!text.is_empty(), "{name} is not readable");
        for secret in &secrets {
            assert!(!shows(&text, secret), "{name} shows a secret");
        }
    }
}

/// A disk with data and holes, and its content.
fn sparse_disk(engine: &Engine) -> (DiskState, PathBuf) {
    let content = source(engine, 71);
    let disk = engine.add_disk(&json!({"name": "web01", "size": SIZE, "format": "raw", "content": content}));
    (disk, content)
}

#[test]
fn a_claim_on_a_file_system_is_populated_and_its_progress_is_told_to_the_end() {
    if !is_root() {
        return;
    }
    let engine = Engine::start();
    let (disk, content) = sparse_disk(&engine);
    let claim = Claim::on_a_file_system(&engine);
    // The bytes are there, and the end is not.
    let slow = json!({"switch": "unavailable", "match": "POST .*/finalize"});
    engine.switch(&slow);
    let mut pod = Foreground::spawn(&mut claim.pod(&engine, &disk, "rhv-mount", &[]));
    wait_until("the disk is copied", 60, || {
        let page = claim.page();
        page.is_some_and(|page| page.contains("state=\"finalizing\"} 1"))
    });
    assert_eq!(claim.progress(), Some(99.0));
    assert_process_shows_none(&pod, &engine);
    let status = text(Path::new(&format!("/proc/{}/status", pod.pid())));
    for line in [
        "Uid:\t107\t107\t107\t107",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
    ] {
        assert!(status.contains(line), "{line}: {status}");
    }
    let page = claim.page().expect("the page");
    for secret in engine.secrets().iter().map(String::as_str).chain([PASSWORD]) {
        assert!(!shows(&page, secret), "the page shows a secret");
    }
    engine.clear_switches();
    // It was asked before, so it stays until somebody has seen this.
    wait_until("the end is told", 60, || claim.progress() == Some(100.0));
    assert_eq!(pod.wait(60).code(), Some(0), "{}", pod.stderr());
    assert!(
        pod.stderr().contains("verified: the disk holds the same"),
        "{}",
        pod.stderr()
    );
    assert_eq!(claim.names(), ["disk.img"]);
    let image = claim.volume.join("disk.img");
    compare(&image, &content).unwrap();
    let (meta, of_content) = (fs::metadata(&image).unwrap(), fs::metadata(&content).unwrap());
    assert_eq!((meta.uid(), meta.len()), (POD_USER, SIZE));
    assert!(
        meta.blocks() <= of_content.blocks() + 16,
        "{} blocks, and {} of the disk",
        meta.blocks(),
        of_content.blocks()
    );
    assert_free(&engine, &disk.id, &content);
    let transfer = engine.transfer();
    assert_eq!(
        (transfer.direction.as_str(), transfer.phase.as_str()),
        ("download", "finished_success")
    );
    assert_nothing_deleted(&engine);
    assert_eq!(engine.sessions(), 0, "a session is left open");
}

/// The page is in the format of Prometheus, by its own parser.
#[test]
fn the_page_is_read_by_prometheus_and_other_pages_are_not_there() {
    if !is_root() {
        return;
    }
    let engine = Engine::start();
    let (disk, _) = sparse_disk(&engine);
    let claim = Claim::on_a_file_system(&engine);
    engine.switch(&json!({"switch": "unavailable", "match": "POST .*/finalize"}));
    let mut pod = Foreground::spawn(&mut claim.pod(&engine, &disk, "rhv-mount", &[]));
    wait_until("somebody answers", 60, || claim.page().is_some());
    let script = r#"
        export no_proxy='*'
        curl -sSfk "$1" | python3 -c '
import sys
from prometheus_client.parser import text_string_to_metric_families
families = {family.name: family for family in text_string_to_metric_families(sys.stdin.read())}
[sample] = families["ovirt_progress"].samples
assert families["ovirt_progress"].type == "counter", families["ovirt_progress"]
assert list(sample.labels) == ["ownerUID"] and 0 <= sample.value <= 99, sample
assert "rhv_mount_state" in families, families
'
        curl -sk -o /dev/null -w '%{http_code} ' "${1%metrics}"
        curl -sk -o /dev/null -w '%{http_code} ' -I "$1"
        curl -sk -o /dev/null -w '%{http_code} ' -d x "$1"
        # One who says nothing, and one who speaks no TLS, hold up nobody.
        exec 3<>"/dev/tcp/127.0.0.1/$2"
        echo nonsense >"/dev/tcp/127.0.0.1/$2"
        curl -sSfk -o /dev/null -w '%{http_code}' "$1"
    "#;
    let venv = crate::support::run::top().join("target/venv/bin");
    let script = format!("PATH={}:$PATH; {script}", venv.display());
    let url = format!("https://127.0.0.1:{}/metrics", claim.port);
    let ran = sh(&script, [url, claim.port.to_string()], 60).ok();
    assert_eq!(ran.stdout.trim(), "404 200 400 200", "{ran}");
    engine.clear_switches();
    wait_until("the end is told", 60, || claim.progress() == Some(100.0));
    assert_eq!(pod.wait(60).code(), Some(0), "{}", pod.stderr());
}

#[test]
fn a_block_device_is_populated_and_what_is_behind_the_disk_stays() {
    if !is_root() {
        return;
    }
    let engine = Engine::start();
    let (disk, content) = sparse_disk(&engine);
    let storage = engine.dir().join("storage");
    random_image(&storage, SIZE + MIB, 72);
    let before = fs::read(&storage).expect("read the storage");
    let device = sh(r#"losetup --find --show "$1""#, [&storage], 30).ok();
    let device = PathBuf::from(device.stdout.trim());
    let claim = Claim::of(device.clone());
    // The last word of a flag counts, and one dash is enough, as with Go's flags.
    let words = ["-volume-path", "/dev/block", "-pvc-size=9437184"];
    let mut pod = claim.pod(&engine, &disk, "ovirt-populator", &words);
    let ran = run(pod.args(["--no-verify", "--log-level=trace"]), LIMIT);
    let detached = sh(r#"losetup --detach "$1""#, [&device], 30);
    let secrets = [engine.secrets(), vec![PASSWORD.to_owned()]].concat();
    assert_shows_none(&ran, &secrets);
    assert!(
        ran.stderr.contains("imagetransfers"),
        "the log says nothing of the engine: {ran}"
    );
    assert!(
        !ran.ok().stderr.contains("verified: the disk"),
        "it was not to be"
    );
    detached.ok();
    let after = fs::read(&storage).expect("read the storage");
    let size = SIZE as usize;
    assert!(
        after[..size] == fs::read(&content).expect("read the disk")[..],
        "another disk"
    );
    assert!(after[size..] == before[size..], "the rest has changed");
    assert_free(&engine, &disk.id, &content);
    assert_nothing_deleted(&engine);
}

#[test]
fn a_claim_that_is_smaller_than_the_disk_is_refused_before_the_first_byte() {
    if !is_root() {
        return;
    }
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let claim = Claim::on_a_file_system(&engine);
    let image = claim.volume.join("disk.img");
    fs::write(&image, "what was there").expect("write an image");
    let ran = claim.run(&engine, &disk, &["--pvc-size=8388607"]);
    assert_told(
        &ran,
        &[USAGE],
        &["8388608 bytes, and the claim 8388607", "nothing was written"],
    );
    assert_eq!(text(&image), "what was there");
    assert_free(&engine, &disk.id, &content);
    assert_eq!(engine.transfer().phase, "finished_success");
    assert_nothing_deleted(&engine);
}

/// An earlier pod was killed, and another one has failed behind its last byte.
#[test]
fn what_an_earlier_pod_has_left_makes_room_for_the_next_one() {
    if !is_root() {
        return;
    }
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let claim = Claim::on_a_file_system(&engine);
    let mount = sh(
        r#"mount -t tmpfs -o size=9m,uid=107,gid=107 none "$1""#,
        [&claim.volume],
        30,
    );
    mount.ok();
    for name in [".disk.img.abcdefghijkl.part", "disk.img"] {
        let mut file = fs::File::create(claim.volume.join(name)).expect("make a file");
        file.write_all(&vec![1; 4 << 20]).expect("fill it");
    }
    let ran = claim.run(&engine, &disk, &[]);
    let same = compare(&claim.volume.join("disk.img"), &content);
    let names = claim.names();
    sh(r#"umount "$1""#, [&claim.volume], 30).ok();
    assert_eq!(names, ["disk.img"], "{ran}");
    ran.ok();
    same.unwrap();
}

#[test]
fn a_copy_that_fails_is_never_told_as_whole_and_leaves_no_image() {
    if !is_root() {
        return;
    }
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let claim = Claim::on_a_file_system(&engine);
    sh(
        r#"mount -t tmpfs -o size=4m,uid=107,gid=107 none "$1""#,
        [&claim.volume],
        30,
    )
    .ok();
    // The failure is told while the engine lets it wait.
    engine.switch(&json!({"switch": "unavailable", "match": "POST .*/finalize"}));
    let mut pod = Foreground::spawn(&mut claim.pod(&engine, &disk, "rhv-mount", &[]));
    let mut told = Vec::new();
    wait_until("the copy is over", 60, || {
        let page = claim.page().unwrap_or_default();
        told.extend(claim.progress());
        page.contains("state=\"finalizing\"} 1")
    });
    engine.clear_switches();
    wait_until("the pod ends", 120, || {
        told.extend(claim.progress());
        pod.has_ended()
    });
    let code = pod.wait(60).code();
    let names = claim.names();
    sh(r#"umount "$1""#, [&claim.volume], 30).ok();
    assert_eq!(code, Some(1), "{}", pod.stderr());
    assert!(pod.stderr().contains("No space left"), "{}", pod.stderr());
    assert!(
        !told.is_empty() && told.iter().all(|progress| *progress < 100.0),
        "{told:?}"
    );
    assert!(names.is_empty(), "{names:?}");
    assert_free(&engine, &disk.id, &content);
    assert_nothing_deleted(&engine);
}

#[test]
fn a_pod_that_is_stopped_frees_the_disk_and_leaves_no_image() {
    if !is_root() {
        return;
    }
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let claim = Claim::on_a_file_system(&engine);
    let (mut pod, held) = held(&engine, &claim, &disk);
    pod.signal(Signal::SIGTERM);
    drop(held);
    assert_eq!(pod.wait(120).code(), Some(1), "{}", pod.stderr());
    assert!(pod.stderr().contains("SIGTERM"), "{}", pod.stderr());
    assert!(claim.names().is_empty(), "{:?}", claim.names());
    assert_free(&engine, &disk.id, &content);
    assert_nothing_deleted(&engine);
}

/// There is no place for a note in a pod, and nobody who would read it.
#[test]
fn what_a_killed_pod_has_left_in_the_engine_ends_by_itself_and_the_next_pod_waits_for_that() {
    if !is_root() {
        return;
    }
    let engine = Engine::with(["--inactivity-cap", "5"]);
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let claim = Claim::on_a_file_system(&engine);
    let (mut first, held) = held(&engine, &claim, &disk);
    first.signal(Signal::SIGKILL);
    first.wait(60);
    drop(held);
    claim.run(&engine, &disk, &[]).ok();
    let started = engine.log("transfer_created");
    assert!(started.len() >= 2, "{started:?}");
    assert!(
        started.iter().all(|one| one["direction"] == "download"),
        "{started:?}"
    );
    assert_eq!(claim.names(), ["disk.img"]);
    compare(&claim.volume.join("disk.img"), &content).unwrap();
    assert_free(&engine, &disk.id, &content);
    assert_nothing_deleted(&engine);
}

#[test]
fn a_password_that_is_refused_a_certificate_that_is_none_and_a_missing_volume_are_told() {
    if !is_root() {
        return;
    }
    let engine = Engine::start();
    let (disk, _) = used_disk(&engine, "web01", "raw");
    let claim = Claim::on_a_file_system(&engine);
    let pod = |name: &str, value: &str| {
        let mut pod = claim.pod(&engine, &disk, "rhv-mount", &[]);
        pod.env(name, value);
        let ran = run(&mut pod, LIMIT);
        assert_shows_none(&ran, &[PASSWORD]);
        ran
    };
    assert_told(&pod("password", "wrong"), &[3], &["password"]);
    assert_told(
        &pod("cacert", "nonsense"),
        &[USAGE],
        &["cannot use the CA in the variable cacert"],
    );
    assert_told(&pod("cacert", ""), &[ENGINE_FAILED], &["certificate"]);
    assert_told(
        &pod("insecureSkipVerify", "perhaps"),
        &[USAGE],
        &["insecureSkipVerify is perhaps"],
    );
    let skipped = pod("insecureSkipVerify", "true");
    assert!(
        skipped.success() && skipped.stderr.contains("NOT VERIFIED"),
        "{skipped}"
    );
    let missing = claim.run(&engine, &disk, &["--volume-path=/mnt/none/disk.img"]);
    assert_told(
        &missing,
        &[USAGE],
        &["/mnt/none/disk.img: there is no such folder"],
    );
}

/// Another program has the port: nobody can ask, and the copy is made.
#[test]
fn a_port_that_is_taken_is_told_and_stops_nothing() {
    if !is_root() {
        return;
    }
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let claim = Claim::on_a_file_system(&engine);
    let _taken = TcpListener::bind(("127.0.0.1", claim.port)).expect("take the port");
    let ran = claim.run(&engine, &disk, &[]).ok();
    assert!(ran.stderr.contains("nobody can ask how the copy goes"), "{ran}");
    compare(&claim.volume.join("disk.img"), &content).unwrap();
}
