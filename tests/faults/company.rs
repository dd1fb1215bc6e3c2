//! A single program keeps several connections busy at once, counted at the server: it answers no request
//! before others run beside it, so nothing depends on how fast the machine is. (How much faster four
//! connections are than one is measured by `scripts/bench`.)

use crate::rig::{MIB, Rig, settings, used_server};
use crate::server::{Record, Settings, Verb};
use crate::support::run::{scratch, sh};
use std::fs;

const SIZE: u64 = 256 * MIB;

/// A reader is known to be sequential after this much.
const BEGINNING: u64 = 32 * MIB;

/// The last requests have no others to run beside: four connections with requests of 8 MiB.
const END: u64 = SIZE - 96 * MIB;

/// A thread of nbdcopy reads so many bytes. The second one begins behind them whenever its turn comes, and
/// its reader is not known to be sequential then.
const NBDCOPY_PART: u64 = 128 * MIB;

/// Connections, of which so many must be busy at any time.
const CONNECTIONS: &str = "4";
const AT_ONCE: usize = 3;

/// The two threads of nbdcopy are two readers, and each may wait for a request of its own.
const AT_ONCE_OF_TWO: usize = 2;

fn gated(end: u64, wanted: usize) -> Settings {
    let mut settings = settings(SIZE);
    settings.company = Some((BEGINNING..end, wanted));
    settings
}

/// Runs `script` (`$1`: a local file, `$2`: the mounted one), and checks the requests with this verb that lie
/// before `end`.
#[track_caller]
fn assert_busy(verb: Verb, script: &str, (end, wanted): (u64, usize)) {
    let server = used_server(gated(end, wanted));
    let dir = scratch();
    let source = dir.path().join("source.raw");
    if verb == Verb::Put {
        fs::write(&source, vec![0x5a; SIZE as usize]).expect("write the source");
    }
    let rig = Rig::over(server, &["--connections", CONNECTIONS]);
    sh(script, [&source, &rig.mount.file()], 300).ok();
    let (ran, server) = rig.umount();
    ran.ok();
    let records = server.records_of(verb);
    let counted: Vec<&Record> = records
        .iter()
        .filter(|record| BEGINNING <= record.range.start && record.range.end <= end)
        .collect();
    assert!(counted.len() >= 5, "{script}: {} requests", counted.len());
    let alone: Vec<&&Record> = counted.iter().filter(|record| record.at_once < wanted).collect();
    // Once in some hundred requests the program waits for one that has too few beside it.
    assert!(
        alone.len() * 8 <= counted.len(),
        "{script}: {} of {} requests had less than {wanted} under way at once: {alone:?}",
        alone.len(),
        counted.len()
    );
}

#[test]
fn dd_keeps_the_connections_busy_while_it_writes() {
    assert_busy(
        Verb::Put,
        r#"dd if="$1" of="$2" bs=1M conv=notrunc status=none"#,
        (END, AT_ONCE),
    );
}

#[test]
fn cp_keeps_the_connections_busy_while_it_writes() {
    assert_busy(Verb::Put, r#"cp "$1" "$2""#, (END, AT_ONCE));
}

#[test]
fn qemu_img_keeps_the_connections_busy_while_it_writes() {
    assert_busy(
        Verb::Put,
        r#"qemu-img convert -n -f raw -O raw "$1" "$2""#,
        (END, AT_ONCE),
    );
}

#[test]
fn dd_keeps_the_connections_busy_while_it_reads() {
    assert_busy(
        Verb::Get,
        r#"dd if="$2" of=/dev/null bs=1M status=none"#,
        (END, AT_ONCE),
    );
}

#[test]
fn cat_keeps_the_connections_busy_while_it_reads() {
    assert_busy(Verb::Get, r#"cat "$2" > /dev/null"#, (END, AT_ONCE));
}

#[test]
fn nbdcopy_keeps_the_connections_busy_while_it_reads() {
    assert_busy(
        Verb::Get,
        r#"nbdcopy "$2" null:"#,
        (NBDCOPY_PART - 32 * MIB, AT_ONCE_OF_TWO),
    );
}
