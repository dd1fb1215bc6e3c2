//! Releases of ovirt-imageio that are in the field: rhv-mount writes and reads a disk through each.

use crate::support::content::{MIB, sparse_image};
use crate::support::daemon::{Daemon, LocalSocket, Scheme};
use crate::support::disk::Disk;
use crate::support::image::{Backend, Content};
use crate::support::mount::{Mount, MountKind};
use crate::support::run::{scratch, sh};

/// Those that `scripts/setup test` installs beside the usual one.
const RELEASES: [&str; 2] = ["2.3.0", "2.4.5"];

const SIZE: u64 = 24 * MIB;

#[test]
fn a_disk_on_an_older_release_is_what_was_copied_to_it() {
    let dir = scratch();
    let source = dir.path().join("source.raw");
    sparse_image(&source, SIZE, 11);
    for release in RELEASES {
        for local in [LocalSocket::None, LocalSocket::Path] {
            let daemon = Daemon::start_release(Scheme::Https, local, release);
            for backend in [Backend::Qcow2Nbd, Backend::RawFile] {
                let mut disk = Disk::create(&daemon, backend, SIZE, Content::Used { seed: 3 });
                let mount = Mount::start(disk.url(), disk.args(), MountKind::Directory);
                let copied = sh(
                    r#"qemu-img convert -f raw -O raw "$1" "$2" && sync -d "$2" && cmp "$1" "$2""#,
                    [source.as_path(), &mount.file()],
                    120,
                );
                assert!(copied.success(), "{release}, {local:?}, {backend:?}: {copied}");
                let unmounted = mount.umount();
                assert!(
                    unmounted.success(),
                    "{release}, {local:?}, {backend:?}: {unmounted}"
                );
                disk.compare_with(&source)
                    .unwrap_or_else(|why| panic!("{release}, {local:?}, {backend:?}: {why}"));
            }
        }
    }
}
