//! A pod on a node, as far as it matters to the program: user 107 without capabilities, a root that
//! is read-only, no /dev/fuse, a volume, and the arguments and variables of forklift's controller.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::json;

use crate::rig::{LIMIT, SIZE};
use crate::support::engine::{DiskState, Engine, PASSWORD, Stalled, USER};
use crate::support::foreground::Foreground;
use crate::support::mount::{APART, BINARY};
use crate::support::redaction::assert_shows_none;
use crate::support::run::{Ran, run, text, wait_until};

/// User and group of forklift's pods.
pub(crate) const POD_USER: u32 = 107;

const CLAIM: &str = "2f0bc6a1-4d5e-4c0a-9a3d-7b8e5f601e11";

/// Becomes the program, with the arguments behind the first three, in what a pod is on a node: $1 is the
/// volume, a folder or a block device, $2 the program, and $3 its name. At $EMPTY_DIR is a folder to write
/// to.
pub(crate) const POD: &str = r#"
    volume=$1 program=$2 name=$3; shift 3
    mount --make-rprivate /
    mount -t tmpfs -o mode=755 none /mnt
    mkdir /mnt/dev
    cp -a /dev/null /dev/zero /dev/urandom /dev/random /mnt/dev
    if [ -b "$volume" ]; then
        cp -aL "$volume" /mnt/dev/block
        chown 107:107 /mnt/dev/block
    fi
    mount --bind /mnt/dev /dev
    touch /dev/program
    mount --bind "$program" /dev/program
    if [ -d "$volume" ]; then mount --bind "$volume" /mnt; else mount -t tmpfs -o ro none /mnt; fi
    for point in / /dev /tmp /var/tmp /run /home; do
        ! mountpoint -q "$point" || mount -o remount,bind,ro "$point"
    done
    for folder in / /dev /tmp /var/tmp /run /var/lib; do
        ! touch "$folder/written" 2>/dev/null
    done
    [ -z "${EMPTY_DIR-}" ] || mount -t tmpfs -o mode=777 none "$EMPTY_DIR"
    [ ! -e /dev/fuse ]
    exec setpriv --reuid 107 --regid 107 --groups 107 --inh-caps=-all --bounding-set=-all --no-new-privs \
        bash -c 'exec -a "$0" "$@"' "$name" /dev/program "$@"
"#;

/// A volume, and the port of its pod.
pub(crate) struct Claim {
    pub(crate) volume: PathBuf,
    pub(crate) port: u16,
}

impl Claim {
    /// A claim on a folder of user 107.
    pub(crate) fn on_a_file_system(engine: &Engine) -> Claim {
        let volume = engine.dir().join("volume");
        fs::create_dir(&volume).expect("make the volume");
        chown(&volume, Some(POD_USER), Some(POD_USER)).expect("give the volume to the pod");
        Claim::of(volume)
    }

    pub(crate) fn of(volume: PathBuf) -> Claim {
        // The kernel gives none of these to anybody who does not ask for it, so the port stays free until the
        // pod listens.
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let first = (std::process::id() % 900) as u16 * 10;
        let ports = (0..1000).map(|_| 21_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 9000);
        let mut free = ports.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
        Claim {
            volume,
            port: free.next().expect("a free port"),
        }
    }

    /// The pod of the claim, named like the program or like forklift's, with the controller's arguments and
    /// `more`. `--metrics-listen` is the tests' own, since other tests run at the same time.
    pub(crate) fn pod(&self, engine: &Engine, disk: &DiskState, name: &str, more: &[&str]) -> Command {
        let path = match self.volume.is_dir() {
            true => "/mnt/disk.img",
            false => "/dev/block",
        };
        let mut command = Command::new("unshare");
        command
            .args(["--mount", APART, "bash", "-euc", POD, "pod"])
            .arg(&self.volume)
            .args([BINARY, name])
            .arg(format!("--volume-path={path}"))
            .arg("--secret-name=secret")
            .arg(format!("--disk-id={}", disk.id))
            .arg(format!("--engine-url={}", engine.url()))
            .args(["--cr-name=populator", "--cr-namespace=vms"])
            .args([format!("--pvc-size={SIZE}"), format!("--owner-uid={CLAIM}")])
            .arg(format!("--metrics-listen=127.0.0.1:{}", self.port))
            .args(more)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("user", USER)
            .env("password", PASSWORD)
            .env("cacert", text(engine.cafile()))
            .env("insecureSkipVerify", "false");
        command
    }

    /// Runs the pod to its end.
    #[track_caller]
    pub(crate) fn run(&self, engine: &Engine, disk: &DiskState, more: &[&str]) -> Ran {
        let ran = run(&mut self.pod(engine, disk, "rhv-mount", more), LIMIT);
        assert_shows_none(&ran, &[PASSWORD]);
        assert!(!ran.timed_out && !ran.stderr.contains("panicked"), "{ran}");
        ran
    }

    /// The page that the controller reads; nothing while nobody answers.
    pub(crate) fn page(&self) -> Option<String> {
        let url = format!("https://127.0.0.1:{}/metrics", self.port);
        let args = ["-sSfk", "--noproxy", "*", "--max-time", "10", &url];
        let ran = run(Command::new("curl").args(args), 30);
        ran.success().then_some(ran.stdout)
    }

    /// The progress that the controller finds on the page.
    pub(crate) fn progress(&self) -> Option<f64> {
        let page = self.page()?;
        let (_, rest) = page
            .split_once(&format!("progress{{ownerUID=\"{CLAIM}\"}} "))
            .unwrap_or_else(|| panic!("no progress in {page}"));
        Some(rest.lines().next().expect("a number").parse().expect("a number"))
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.volume).expect("read the volume");
        let mut names: Vec<_> = entries
            .map(|entry| {
                let name = entry.expect("an entry").file_name();
                name.into_string().expect("a name")
            })
            .collect();
        names.sort();
        names
    }
}

/// Starts a pod, and holds the storage while the disk is opened, so that no byte comes.
pub(crate) fn held(engine: &Engine, claim: &Claim, disk: &DiskState) -> (Foreground, Stalled) {
    engine.switch(&json!({"switch": "unavailable", "match": "^GET .*/imagetransfers/"}));
    let pod = Foreground::spawn(&mut claim.pod(engine, disk, "rhv-mount", &[]));
    wait_until("the disk has a server", 60, || engine.has_storage());
    let held = engine.stall_storage();
    engine.clear_switches();
    wait_until("somebody answers", 60, || claim.progress() == Some(0.0));
    (pod, held)
}
