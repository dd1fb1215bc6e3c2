//! `rhv-mount upload` and `download` against a server that misbehaves: what a copy without a mount promises
//! is what a mount promises.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::rig::{MIB, assert_same, pattern, settings, used_server};
use crate::server::{Action, Fault, Image, Server, Verb};
use crate::support::foreground::Foreground;
use crate::support::mount::{rhv_mount, rhv_mount_command};
use crate::support::run::{Ran, scratch, wait_until};

const SIZE: u64 = 24 * MIB;

/// An image of this size with data at its beginning, in its middle and at its end, and holes between, and the
/// bytes of a disk of [`SIZE`] that holds it.
fn image(dir: &Path, size: u64) -> (PathBuf, Image) {
    let path = dir.join("image.raw");
    let file = File::create(&path).expect("make an image");
    file.set_len(size).expect("size an image");
    let mut expected = Image::new(SIZE.max(size));
    for (offset, length) in [(0, 3 * MIB), (9 * MIB + 4096, 5 * MIB), (size - 1000, 1000)] {
        let bytes = pattern(offset + 5, length as usize);
        file.write_all_at(&bytes, offset).expect("write an image");
        expected.write(offset, &bytes);
    }
    (path, expected)
}

fn copy(server: &Server, what: &str, image: &Path, options: &[&str]) -> Ran {
    let words = [&[what, image.to_str().unwrap()], options].concat();
    rhv_mount(Some(&server.url()), words)
}

fn names_in(dir: &TempDir) -> Vec<String> {
    let names = fs::read_dir(dir.path()).expect("look into a directory");
    names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn an_upload_onto_a_used_disk_is_durable_and_the_rest_of_the_disk_is_zero() {
    let dir = scratch();
    let server = used_server(settings(SIZE));
    let (path, expected) = image(dir.path(), SIZE - 3 * MIB - 77);
    let ran = copy(&server, "upload", &path, &[]).ok();
    assert_eq!(ran.stdout, "", "{ran}");
    assert_same("durable", &server.durable(), &expected);
    assert_eq!(server.unflushed(), []);
    assert_eq!(server.violations(), Vec::<String>::new());
}

#[test]
fn holes_cost_no_byte_on_a_disk_that_is_zero() {
    let dir = scratch();
    let server = Server::start(settings(SIZE));
    let (path, expected) = image(dir.path(), SIZE);
    copy(&server, "upload", &path, &[]).ok();
    assert_same("durable", &server.durable(), &expected);
    assert_eq!(
        server.count(Verb::Zero),
        0,
        "the server's extents tell that all is zero"
    );
}

#[test]
fn connections_that_are_lost_cost_nothing() {
    for (action, verb) in [
        (Action::CloseMidBody, Verb::Put),
        (Action::CloseBeforeReply, Verb::Put),
        (Action::Status(500, "broken"), Verb::Put),
        (Action::CloseBeforeReply, Verb::Flush),
    ] {
        let dir = scratch();
        let server = used_server(settings(SIZE));
        let shown = format!("{action:?}");
        server.arm(Fault::next(verb, action).after(1).times(2));
        let (path, expected) = image(dir.path(), SIZE);
        let ran = copy(&server, "upload", &path, &[]).ok();
        assert!(server.faults_fired() > 0, "{shown}");
        assert_same(&shown, &server.durable(), &expected);
        assert_eq!(server.unflushed(), [], "{ran}");
    }
}

#[test]
fn a_write_that_fails_for_good_exits_7() {
    let dir = scratch();
    let server = used_server(settings(SIZE));
    server.arm(Fault::always(Verb::Put, Action::Status(500, "no space")));
    let (path, _) = image(dir.path(), SIZE);
    let ran = copy(&server, "upload", &path, &["--retry-time", "1"]);
    assert_eq!(ran.code, Some(7), "{ran}");
    let told = ran
        .stderr
        .lines()
        .filter(|line| line.contains("data may be lost"));
    assert_eq!(told.count(), 1, "{ran}");
    assert!(
        ran.stderr.contains("no space") && ran.stderr.contains("upload of"),
        "{ran}"
    );
}

#[test]
fn an_image_that_is_larger_than_the_disk_is_refused_before_the_first_byte() {
    let dir = scratch();
    let server = used_server(settings(SIZE));
    let (path, _) = image(dir.path(), SIZE + 512);
    let ran = copy(&server, "upload", &path, &[]);
    assert_eq!(ran.code, Some(2), "{ran}");
    assert!(ran.stderr.contains("nothing was written"), "{ran}");
    assert_eq!(server.count(Verb::Put) + server.count(Verb::Zero), 0);
}

#[test]
fn a_download_has_every_byte_and_the_holes() {
    let dir = scratch();
    let server = Server::start(settings(SIZE));
    let (_, expected) = image(dir.path(), SIZE);
    server.preset(0, &expected.read(0..SIZE));
    let path = dir.path().join("out.raw");
    copy(&server, "download", &path, &[]).ok();
    assert!(fs::read(&path).unwrap() == expected.read(0..SIZE), "other bytes");
    assert!(
        fs::metadata(&path).unwrap().blocks() * 512 < 12 * MIB,
        "it has no holes"
    );
    assert_eq!(names_in(&dir).len(), 2, "{:?}", names_in(&dir));

    let again = copy(&server, "download", &path, &[]);
    assert_eq!(again.code, Some(2), "{again}");
    assert!(again.stderr.contains("--force"), "{again}");
    server.preset(0, b"changed");
    copy(&server, "download", &path, &["--force"]).ok();
    assert!(fs::read(&path).unwrap().starts_with(b"changed"));
}

#[test]
fn a_download_gets_over_lost_connections_and_answers_that_fail() {
    for action in [
        Action::CloseMidBody,
        Action::CloseBeforeReply,
        Action::Status(503, "busy"),
        Action::ShortLength,
    ] {
        let dir = scratch();
        let server = used_server(settings(SIZE));
        let shown = format!("{action:?}");
        server.arm(Fault::next(Verb::Get, action).after(1).times(2));
        let path = dir.path().join("out.raw");
        let ran = copy(&server, "download", &path, &[]).ok();
        assert!(server.faults_fired() > 0, "{shown}: {ran}");
        assert!(fs::read(&path).unwrap() == pattern(9, SIZE as usize), "{shown}");
    }
}

#[test]
fn a_read_that_fails_for_good_leaves_no_file() {
    let dir = scratch();
    let server = used_server(settings(SIZE));
    server.arm(Fault::always(Verb::Get, Action::Status(500, "a bad sector")).touching(17 * MIB));
    let path = dir.path().join("out.raw");
    let ran = copy(&server, "download", &path, &["--retry-time", "1"]);
    assert_eq!(ran.code, Some(4), "{ran}");
    assert!(
        ran.stderr.contains("a bad sector") && ran.stderr.contains("is not made"),
        "{ran}"
    );
    assert_eq!(names_in(&dir), Vec::<String>::new());
}

/// Starts a copy that the server holds up, and waits until it does.
fn held_up(server: &Server, fault: Fault, what: &str, path: &Path) -> Foreground {
    server.arm(fault);
    let mut command = rhv_mount_command(Some(&server.url()));
    // With less memory than the image has data, the copy can't be over before the server goes on.
    command.args([what, path.to_str().unwrap(), "--memory", "8M"]);
    let copy = Foreground::spawn(&mut command);
    wait_until("the copy is at work", 60, || server.faults_fired() > 0);
    copy
}

#[test]
fn an_upload_that_a_signal_stops_brings_home_what_it_has_written() {
    let dir = scratch();
    let server = used_server(settings(SIZE));
    let path = dir.path().join("image.raw");
    fs::write(&path, pattern(4, SIZE as usize)).unwrap();
    let fault = Fault::always(Verb::Put, Action::Hold);
    let mut copy = held_up(&server, fault, "upload", &path);
    copy.signal(Signal::SIGINT);
    wait_until("the answer", 30, || copy.stderr().contains("the copy is stopped"));
    assert!(!copy.has_ended(), "{}", copy.stderr());
    server.disarm();
    assert_eq!(copy.wait(60).code(), Some(1), "{}", copy.stderr());
    assert!(
        copy.stderr()
            .contains("holds a mix of what was there and what was written"),
        "{}",
        copy.stderr()
    );
    assert_eq!(server.unflushed(), []);
}

#[test]
fn a_signal_after_the_last_byte_was_read_is_answered_and_the_upload_is_whole() {
    let dir = scratch();
    let server = used_server(settings(SIZE));
    let (path, expected) = image(dir.path(), SIZE);
    server.arm(Fault::always(Verb::Flush, Action::Hold));
    let mut command = rhv_mount_command(Some(&server.url()));
    command.args(["upload", path.to_str().unwrap()]);
    let mut copy = Foreground::spawn(&mut command);
    wait_until("the last flush", 60, || server.faults_fired() > 0);
    copy.signal(Signal::SIGINT);
    wait_until("the answer", 30, || {
        copy.stderr()
            .contains("on the storage yet, which is waited for; the next signal gives up")
    });
    assert!(!copy.has_ended(), "{}", copy.stderr());
    server.disarm();
    assert_eq!(copy.wait(60).code(), Some(0), "{}", copy.stderr());
    assert_same("durable", &server.durable(), &expected);
    assert_eq!(server.unflushed(), []);
}

#[test]
fn a_download_that_a_signal_stops_leaves_no_file() {
    let dir = scratch();
    let server = used_server(settings(SIZE));
    let path = dir.path().join("out.raw");
    // The first bytes are asked for when the disk is opened.
    let fault = Fault::always(Verb::Get, Action::Hold).touching(10 * MIB);
    let mut copy = held_up(&server, fault, "download", &path);
    wait_until("the image has a temporary name", 30, || {
        !names_in(&dir).is_empty()
    });
    copy.signal(Signal::SIGTERM);
    wait_until("the image is removed", 30, || names_in(&dir).is_empty());
    server.disarm();
    assert_eq!(copy.wait(60).code(), Some(1), "{}", copy.stderr());
    assert!(copy.stderr().contains("out.raw is not made"), "{}", copy.stderr());
    assert_eq!(names_in(&dir), Vec::<String>::new());
}

#[test]
fn the_figures_name_the_image() {
    let dir = scratch();
    let server = Server::start(settings(SIZE));
    let (path, _) = image(dir.path(), SIZE);
    let figures = dir.path().join("copy.prom");
    let ran = copy(
        &server,
        "upload",
        &path,
        &[
            "--stats=json",
            "--progress",
            "json",
            "--metrics-file",
            figures.to_str().unwrap(),
        ],
    )
    .ok();
    let text = fs::read_to_string(figures).unwrap();
    let label = format!("image=\"{}\"", path.display());
    assert!(
        text.contains(&format!("rhv_mount_exit_code{{{label}}} 0\n")),
        "{text}"
    );
    assert!(
        text.contains(&format!("rhv_mount_state{{{label},state=\"copying\"}} 0\n")),
        "{text}"
    );
    let mut objects = ran.stderr.lines().map(|line| {
        let object: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        object
    });
    let last = objects.next_back().unwrap();
    assert_eq!(
        (&last["event"], &last["exit_status"]),
        (&"ended".into(), &0.into()),
        "{ran}"
    );
    assert_eq!(last["image"], path.to_str().unwrap(), "{ran}");
}

#[test]
fn an_image_that_changes_while_it_is_copied_is_told() {
    let dir = scratch();
    let server = used_server(settings(SIZE));
    let path = dir.path().join("image.raw");
    fs::write(&path, pattern(4, SIZE as usize - 512)).unwrap();
    // No write is answered, and the rest of the image has no room in memory, so it is not read yet.
    server.arm(Fault::always(Verb::Put, Action::Hold));
    let mut command = rhv_mount_command(Some(&server.url()));
    command.args(["upload", path.to_str().unwrap(), "--memory", "8M"]);
    let mut copy = Foreground::spawn(&mut command);
    wait_until("the copy is at work", 60, || server.faults_fired() > 0);
    let mut file = File::options().append(true).open(&path).unwrap();
    file.write_all(b"more").unwrap();
    server.disarm();
    assert_eq!(copy.wait(60).code(), Some(1), "{}", copy.stderr());
    let told = copy.stderr();
    assert!(
        told.contains("image.raw has changed since it was opened") && told.contains("holds a mix"),
        "{told}"
    );
    assert_eq!(server.unflushed(), []);
}

#[test]
fn a_target_without_room_is_named() {
    let server = used_server(settings(SIZE));
    let ran = copy(&server, "download", Path::new("/dev/full"), &[]);
    assert_eq!(ran.code, Some(1), "{ran}");
    let told = [
        "cannot write /dev/full: No space left on device",
        "/dev/full has a part of the disk",
    ];
    assert!(told.iter().all(|words| ran.stderr.contains(words)), "{ran}");
}

#[test]
fn a_target_that_can_not_be_made_is_refused_before_anything_is_begun() {
    let (server, dir) = (used_server(settings(MIB)), scratch());
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("folder")).unwrap();
    fs::write(path("file"), "mine").unwrap();
    nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink("nowhere", path("dangling")).unwrap();
    symlink("circle", path("circle")).unwrap();
    for (name, options, told) in [
        ("folder", &["--force"][..], "is a directory"),
        ("new/", &[], "is a directory"),
        ("pipe", &["--force"], "is a pipe"),
        ("file", &[], "exists"),
        ("dangling", &[], "exists"),
        ("dangling", &["--force"], "No such file"),
        ("circle", &["--force"], "symbolic links"),
        ("none/disk.raw", &[], "No such file"),
        ("file/disk.raw", &[], "Not a directory"),
        ("disk.raw", &["--image-format", "vmdk"], "vmdk"),
    ] {
        let ran = copy(&server, "download", &path(name), options);
        assert_eq!(ran.code, Some(2), "{name}: {ran}");
        assert!(ran.stderr.contains(told), "{name}: {ran}");
    }
    assert_eq!(server.connections_opened(), 0);
    assert_eq!(fs::read(path("file")).unwrap(), b"mine");
    assert_eq!(names_in(&dir).len(), 5, "{:?}", names_in(&dir));
}

/// Both have the same name in mind, and each has a temporary name of its own.
#[test]
fn of_two_downloads_at_once_into_one_file_one_makes_it_whole_and_the_other_is_told() {
    let (server, dir) = (used_server(settings(SIZE)), scratch());
    let path = dir.path().join("disk.raw");
    let both = std::thread::scope(|scope| {
        let one = scope.spawn(|| copy(&server, "download", &path, &[]));
        [copy(&server, "download", &path, &[]), one.join().unwrap()]
    });
    let good = both.iter().filter(|ran| ran.success()).count();
    assert_eq!(good, 1, "{} {}", both[0], both[1]);
    let told = both.iter().any(|ran| ran.stderr.contains("disk.raw exists"));
    assert!(told, "{} {}", both[0], both[1]);
    assert!(
        fs::read(&path).unwrap() == pattern(9, SIZE as usize),
        "other bytes"
    );
    assert_eq!(names_in(&dir), ["disk.raw"]);
}
