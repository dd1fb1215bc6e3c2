//! A gateway that lets fewer connections through than the server advises: the mount works with those.

use crate::rig::{MIB, Rig, pattern, read_at, settings, used_server};
use crate::server::{Server, Settings};
use crate::short_lives::use_all_of;
use std::fs::OpenOptions;

const SIZE: u64 = 16 * MIB;

fn gateway(connections: usize, change: impl FnOnce(&mut Settings)) -> Server {
    let mut settings = settings(SIZE);
    settings.most_connections = connections;
    change(&mut settings);
    used_server(settings)
}

#[test]
fn a_mount_works_with_the_connections_that_a_gateway_lets_through() {
    for leaves_surplus in [false, true] {
        for connections in [1, 2] {
            let server = gateway(connections, |settings| settings.leaves_surplus = leaves_surplus);
            use_all_of(
                server,
                &["--connections=4"],
                &format!("{connections} connections, the others left open: {leaves_surplus}"),
            );
        }
    }
}

#[test]
fn a_download_works_with_the_connections_that_a_gateway_lets_through() {
    for leaves_surplus in [false, true] {
        let server = gateway(1, |settings| {
            (settings.read_only, settings.leaves_surplus) = (true, leaves_surplus);
        });
        let rig = Rig::over(server, &["--read-only"]);
        let file = rig.open(OpenOptions::new().read(true));
        assert!(read_at(&file, 0..SIZE).unwrap() == pattern(9, SIZE as usize));
        assert_eq!(rig.server.connections_opened(), 1);
        drop(file);
        let (ran, _server) = rig.umount();
        assert_eq!(ran.code, Some(0), "{ran}");
    }
}
