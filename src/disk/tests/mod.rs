//! The disk over a pool over a server in memory ([`remote::memory`](crate::remote::memory)).

#[cfg(not(feature = "shuttle"))]
mod callers;
#[cfg(not(feature = "shuttle"))]
mod heads;
#[cfg(not(feature = "shuttle"))]
mod model;
#[cfg(not(feature = "shuttle"))]
mod reconnect;
#[cfg(feature = "shuttle")]
mod schedules;
mod table;
#[cfg(not(feature = "shuttle"))]
mod whole;

use std::time::Duration;

use super::*;
use crate::remote::Dial;
use crate::remote::memory::MemoryServer;

/// Size of the disk in bytes: small where thousands of servers are made, each for a few steps.
const SIZE: usize = if cfg!(feature = "shuttle") {
    16 << 10
} else {
    512 << 10
};

fn server_filled_with(fill: u8) -> Arc<MemoryServer> {
    MemoryServer::new(SIZE, fill)
}

#[cfg(not(feature = "shuttle"))]
impl MemoryServer {
    /// Opens the disk on four connections; without a journal, no request is repeated for longer than the
    /// attempts that are granted anyway.
    fn disk(self: &Arc<Self>, zero_detect: bool, journal_size: u64) -> Disk {
        let retry_time = Duration::from_secs(if journal_size == 0 { 0 } else { 10 });
        self.disk_with(zero_detect, journal_size, retry_time)
    }

    fn disk_with(self: &Arc<Self>, zero_detect: bool, journal_size: u64, retry_time: Duration) -> Disk {
        self.disk_over(4, zero_detect, journal_size, retry_time)
    }

    fn disk_over(
        self: &Arc<Self>,
        connections: usize,
        zero_detect: bool,
        journal_size: u64,
        retry_time: Duration,
    ) -> Disk {
        self.disk_like(connections, retry_time, |options| DiskOptions {
            zero_detect,
            journal_size,
            ..options
        })
    }

    fn disk_under(self: &Arc<Self>, head: HeadRule) -> Disk {
        self.disk_like(4, Duration::from_secs(10), |options| DiskOptions {
            head,
            ..options
        })
    }

    fn disk_like(
        self: &Arc<Self>,
        connections: usize,
        retry_time: Duration,
        change: impl FnOnce(DiskOptions) -> DiskOptions,
    ) -> Disk {
        let first = self.dial().unwrap();
        let pool = Pool::open(self.clone(), first, connections, connections, retry_time);
        pool.await_all();
        let options = change(DiskOptions {
            read_only: false,
            cache_size: 4 << 20,
            journal_size: 1 << 20,
            write_behind: u64::MAX,
            request_size: 64 << 10,
            zero_detect: true,
            extents: true,
            spare_connection: false,
            head: HeadRule::Refuse,
            announce: |_| {},
        });
        let disk = Disk::open(pool, SIZE as u64, options).unwrap();
        if disk.options.head == HeadRule::Refuse {
            disk.begins_with(self.state().durable[..HEAD_BYTES].try_into().unwrap());
        }
        disk
    }
}

#[cfg(not(feature = "shuttle"))]
#[test]
fn a_used_disk_is_emptied_by_one_zero_request_and_a_zero_disk_by_none() {
    for (fill, requests) in [(9, 1), (0, 0)] {
        let server = server_filled_with(fill);
        let disk = server.disk(true, 1 << 20);
        disk.truncate(0).unwrap();
        disk.truncate(SIZE as u64).unwrap();
        disk.truncate(0).unwrap();
        disk.flush().unwrap();
        let state = server.state();
        assert_eq!(state.zeros, requests);
        assert!(state.durable.iter().all(|b| *b == 0));
    }
}

#[cfg(not(feature = "shuttle"))]
#[test]
fn a_write_behind_the_end_is_refused_and_one_across_it_is_short() {
    let disk = server_filled_with(0).disk(false, 1 << 20);
    assert!(matches!(
        disk.write(SIZE as u64, b"x"),
        Err(DiskError::NoSpace { .. })
    ));
    assert_eq!(disk.write(SIZE as u64 - 3, b"12345").unwrap(), 3);
    assert!(matches!(
        disk.truncate(SIZE as u64 + 1),
        Err(DiskError::NoSpace { .. })
    ));
}

#[cfg(not(feature = "shuttle"))]
#[test]
fn readers_beside_writers_never_see_an_older_block() {
    let disk = server_filled_with(0).disk(false, 1 << 20);
    let latest: Vec<AtomicU64> = (0..16).map(|_| AtomicU64::new(0)).collect();
    const BLOCK: u64 = 8192;
    std::thread::scope(|scope| {
        for writer in 0..2u64 {
            let (disk, latest) = (&disk, &latest);
            scope.spawn(move || {
                for round in 1..400u64 {
                    for block in (writer..16).step_by(2) {
                        disk.write(block * BLOCK, &round.to_le_bytes().repeat(BLOCK as usize / 8))
                            .unwrap();
                        latest[block as usize].store(round, Ordering::SeqCst);
                    }
                }
            });
        }
        for _ in 0..3 {
            scope.spawn(|| {
                let mut seen = Vec::new();
                for n in 0..4000u64 {
                    let block = n % 16;
                    let before = latest[block as usize].load(Ordering::SeqCst);
                    let read = disk.read(block * BLOCK, BLOCK as usize, &mut seen).unwrap();
                    let round = u64::from_le_bytes(read[..8].try_into().unwrap());
                    assert!(round >= before, "read {round} after {before} was acknowledged");
                }
            });
        }
    });
    disk.close().unwrap();
}
