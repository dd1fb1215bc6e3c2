//! `--verify`: what COMMAND has written is compared with the image, on the storage; one byte that differs is
//! exit 7, wherever it was flipped.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::rig::{MIB, TICKET, pattern, settings, used_server};
use crate::server::{Action, Fault, Server, Settings, Verb};
use crate::support::mount::{is_mounted, rhv_mount};
use crate::support::run::{Ran, is_root, scratch, wait_until};

/// Size of the image in bytes; the disk has [`settings`]' more.
const IMAGE: usize = 9 * MIB as usize + 100;
const DISK: u64 = 10 * MIB;

const COPY: &str = "dd if=\"$1\" of=\"$2\" bs=1M status=none";

/// Copies an image onto the disk at `url` with `verify`, by `script`; `$1` is the image and `$2` the disk.
fn copy(url: &str, verify: &str, script: &str) -> Ran {
    let dir = scratch();
    let image = dir.path().join("image.raw");
    fs::write(&image, pattern(5, IMAGE)).unwrap();
    let verify = match verify {
        "image" => format!("--verify={}", image.display()),
        other => other.to_owned(),
    };
    let target = dir.path().join("disk");
    let target = target.to_str().unwrap();
    let image = image.to_str().unwrap();
    let words = [
        "--no-unix-socket",
        &verify,
        target,
        "--",
        "sh",
        "-c",
        script,
        "sh",
        image,
        "{}",
    ];
    rhv_mount(Some(url), words)
}

fn server() -> Server {
    used_server(settings(DISK))
}

#[track_caller]
fn assert_differs(ran: &Ran, block: u64) {
    assert_eq!(ran.code, Some(7), "{ran}");
    let place = format!("(block {block} of 3)");
    assert!(
        ran.stderr.contains("is not the same as") && ran.stderr.contains(&place),
        "{ran}"
    );
    assert!(!ran.stderr.contains("verified:"), "{ran}");
}

#[test]
fn what_has_arrived_is_verified_by_the_server_and_against_what_is_read_back() {
    for verify in ["image", "--verify"] {
        let server = server();
        let ran = copy(&server.url(), verify, COPY).ok();
        assert!(ran.stderr.contains("verified:"), "{ran}");
        assert_eq!(server.count(Verb::Checksum), 1);
        assert_eq!(server.read_durable(0..IMAGE as u64), pattern(5, IMAGE));
    }
}

#[test]
fn a_server_without_a_checksum_is_read_back() {
    let without = || {
        used_server(Settings {
            checksum: false,
            ..settings(DISK)
        })
    };
    let ran = copy(&without().url(), "image", COPY).ok();
    assert!(ran.stderr.contains("of what was read back"), "{ran}");
    let server = without();
    let ran = copy(&server.url(), "--verify", "echo ran");
    assert_eq!(ran.code, Some(4), "{ran}");
    assert!(
        ran.stderr.contains("--verify=IMAGE") && !ran.stdout.contains("ran"),
        "{ran}"
    );
}

#[test]
fn a_byte_that_the_storage_flips_is_found() {
    for checksum in [true, false] {
        let server = used_server(Settings {
            checksum,
            decays: Some(4 * MIB + 77),
            ..settings(DISK)
        });
        let ran = copy(&server.url(), "image", COPY);
        assert_differs(&ran, 1);
        let bytes = format!("bytes {} to {}", 4 * MIB, 8 * MIB - 1);
        assert!(ran.stderr.contains(&bytes), "{ran}");
    }
}

#[test]
fn a_byte_of_the_local_image_that_was_flipped_is_found() {
    let server = server();
    let script = format!("{COPY}; printf '\\356' | dd of=\"$1\" bs=1 seek=9000000 conv=notrunc status=none");
    assert_differs(&copy(&server.url(), "image", &script), 2);
}

#[test]
fn a_byte_that_is_flipped_on_the_wire_is_found() {
    let server = server();
    let proxy = Flipping::start(&server, Way::There);
    let ran = copy(&proxy.url, "image", COPY);
    assert!(proxy.has_flipped(), "it has flipped nothing: {ran}");
    assert_eq!(ran.code, Some(7), "{ran}");
    // Which of the requests that are under way at once comes first is open.
    assert!(ran.stderr.contains("the first difference is in bytes"), "{ran}");
}

/// Nothing is written, so only the way back can differ.
#[test]
fn a_byte_that_is_flipped_on_the_way_back_is_found_by_the_disk_itself() {
    let server = server();
    let proxy = Flipping::start(&server, Way::Back);
    let ran = copy(&proxy.url, "--verify", "true");
    assert!(proxy.has_flipped(), "it has flipped nothing: {ran}");
    assert_eq!(ran.code, Some(7), "{ran}");
    assert!(ran.stderr.contains("what is read back from it"), "{ran}");
}

/// The server allows no connection beside those of the mount, and one of them waits for its checksum: the end
/// does not wait for that once this side has failed.
#[test]
fn a_disk_that_cannot_be_read_back_ends_while_the_server_is_at_its_checksum() {
    let server = used_server(Settings {
        max_readers: 2,
        max_writers: 2,
        ..settings(DISK)
    });
    server.arm(Fault::always(Verb::Checksum, Action::Hold));
    let dir = scratch();
    let (target, go_on) = (dir.path().join("disk"), dir.path().join("go-on"));
    let words = ["--retry-time=2", "--timeout=300", "--connections=2", "--verify"].map(Path::new);
    let command = ["--", "sh", "-c", "until [ -e \"$0\" ]; do sleep 0.1; done"].map(Path::new);
    let ran = std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_until("it is mounted", 60, || is_mounted(&target));
            server.arm(Fault::always(Verb::Get, Action::Reply(500, "no disk")));
            fs::write(&go_on, "").unwrap();
        });
        rhv_mount(
            Some(&server.url()),
            [&words[..], &[&target], &command, &[&go_on]].concat(),
        )
    });
    server.disarm();
    assert_eq!(ran.code, Some(7), "{ran}");
    assert!(
        ran.stderr.contains("no disk") && !ran.stderr.contains("gave up after"),
        "{ran}"
    );
}

/// Root's COMMAND can read an image that is another user's alone, and so has the proof.
#[test]
fn an_image_that_only_its_owner_can_read_is_compared_by_root() {
    if !is_root() {
        return;
    }
    let server = server();
    let script = format!("{COPY} && chown 65534 \"$1\" && chmod 400 \"$1\"");
    let ran = copy(&server.url(), "image", &script).ok();
    assert!(ran.stderr.contains("verified:"), "{ran}");
}

#[test]
fn a_command_that_fails_is_not_verified() {
    let server = server();
    let ran = copy(&server.url(), "image", "exit 9");
    assert_eq!(ran.code, Some(9), "{ran}");
    assert_eq!(server.count(Verb::Checksum), 0);
}

#[test]
fn an_image_that_is_longer_than_the_disk_or_not_there_differs() {
    let small = used_server(settings(8 * MIB));
    let script = "head -c 8388608 \"$1\" | dd of=\"$2\" bs=1M conv=notrunc status=none";
    let ran = copy(&small.url(), "image", script);
    assert_eq!(ran.code, Some(7), "{ran}");
    assert!(ran.stderr.contains("which is larger"), "{ran}");
    let server = self::server();
    let ran = copy(&server.url(), "--verify=/does/not/exist", "echo ran");
    assert_eq!(ran.code, Some(2), "{ran}");
    assert!(
        ran.stderr.contains("/does/not/exist") && !ran.stdout.contains("ran"),
        "{ran}"
    );
    let ran = rhv_mount(Some(&server.url()), ["--verify", "/tmp/nowhere"]);
    assert_eq!(ran.code, Some(2), "{ran}");
}

#[test]
fn verification_names_no_secret() {
    let server = used_server(Settings {
        decays: Some(0),
        ..settings(DISK)
    });
    let ran = copy(&server.url(), "image", COPY);
    assert_eq!(ran.code, Some(7), "{ran}");
    assert!(!ran.stderr.contains(TICKET), "{ran}");
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the server.
    There,
    Back,
}

/// A proxy that flips one bit of the first long run of bytes on one way.
pub struct Flipping {
    pub url: String,
    has_flipped: Arc<AtomicBool>,
}

impl Flipping {
    pub fn start(server: &Server, way: Way) -> Flipping {
        let (url, server) = (server.url(), server.port());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        let port = listener.local_addr().expect("own address").port();
        let has_flipped = Arc::new(AtomicBool::new(false));
        let flipped = has_flipped.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)) else {
                    continue;
                };
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                for (from, to, this) in [(from, to, Way::There), (server, client, Way::Back)] {
                    let flipped = flipped.clone();
                    std::thread::spawn(move || pass(from, to, Some(&*flipped).filter(|_| this == way)));
                }
            }
        });
        Flipping {
            url: url.replace(&format!(":{server}/"), &format!(":{port}/")),
            has_flipped,
        }
    }

    pub fn has_flipped(&self) -> bool {
        self.has_flipped.load(Ordering::Relaxed)
    }
}

/// Passes bytes on. A long run of them ends in a body: no head is as long.
fn pass(mut from: TcpStream, mut to: TcpStream, flipped: Option<&AtomicBool>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let long = n > 32 << 10;
        if let Some(flipped) = flipped.filter(|_| long) {
            if !flipped.swap(true, Ordering::Relaxed) {
                buffer[n - 1] ^= 1;
            }
        }
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
