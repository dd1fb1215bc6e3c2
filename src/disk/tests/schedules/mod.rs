//! The disk under many schedules: writers, readers, fsyncs and keep-alives beside a server that fails and
//! recovers.
//!
//! Each writer has bytes of its own and writes them repeatedly, with a number that grows. Every other time it
//! writes only the middle, so that newer bytes replace all of the older ones or a part. So at any time a byte
//! of the disk, or of the durable image, must lie between the last number acknowledged for it before the test
//! looked and the last number written after it had looked.

mod heads;
mod waits;

use std::ops::Range;
use std::sync::atomic::AtomicU8;

use shuttle::rand::{Rng, thread_rng};

use super::*;
use crate::pool::Keeper;
use crate::remote::memory::{Fault, Request};
use crate::sync::schedules::explore;
use crate::sync::thread;

/// The value of each byte before its first write.
const UNTOUCHED: u8 = 200;

/// A retry time that exceeds the time in any schedule.
const ENDLESS: Duration = Duration::from_secs(1 << 20);

/// Opens a disk on two connections, of which one or both may write.
fn open(server: &Arc<MemoryServer>, journal_size: u64, extents: bool) -> Disk {
    let writers = thread_rng().gen_range(1..=2);
    let pool = Pool::open(server.clone(), server.dial().unwrap(), 2, writers, ENDLESS);
    let options = DiskOptions {
        read_only: false,
        cache_size: 4 << 20,
        journal_size,
        write_behind: u64::MAX,
        request_size: 8 << 10,
        zero_detect: false,
        extents,
        spare_connection: false,
        head: HeadRule::Refuse,
        announce: |_| {},
    };
    let disk = Disk::open(pool, SIZE as u64, options).unwrap();
    disk.begins_with(server.state().durable[..HEAD_BYTES].try_into().unwrap());
    disk
}

/// The bytes of one writer. Its numbers are std's atomics, which the scheduler does not see.
struct Own {
    range: Range<usize>,
    middle: Range<usize>,
    /// Set when number [`Own::ZEROS`] is written as zeros.
    zeroes: bool,
    written: AtomicU8,
    acknowledged: AtomicU8,
}

impl Own {
    const ZEROS: u8 = 2;

    /// Returns the bytes of two writers, which share a block.
    fn two() -> [Own; 2] {
        [(0..5000, 1000..1500, false), (5000..9000, 6000..6500, true)].map(|(range, middle, zeroes)| Own {
            range,
            middle,
            zeroes,
            written: AtomicU8::new(0),
            acknowledged: AtomicU8::new(0),
        })
    }

    fn write(&self, disk: &Disk) -> Result<(), DiskError> {
        let number = self.written.load(Ordering::SeqCst) + 1;
        self.written.store(number, Ordering::SeqCst);
        let range = if Self::is_whole(number) {
            &self.range
        } else {
            &self.middle
        };
        match self.zeroes && number == Self::ZEROS {
            true => disk.zero(range.start as u64, range.len() as u64, false)?,
            false => drop(disk.write(range.start as u64, &vec![number; range.len()])?),
        }
        self.acknowledged.store(number, Ordering::SeqCst);
        Ok(())
    }

    fn is_whole(number: u8) -> bool {
        number % 2 == 0
    }

    fn acknowledged(&self) -> u8 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Checks `bytes`, all of this writer's, which were looked at after number `before` was acknowledged.
    fn check(&self, before: u8, bytes: &[u8], what: &str) {
        let number = |byte: &u8| match byte {
            0 if self.zeroes => Self::ZEROS,
            &UNTOUCHED => 0,
            other => *other,
        };
        let bytes: Vec<u8> = bytes.iter().map(number).collect();
        let after = self.written.load(Ordering::SeqCst);
        let (from, to) = (
            self.middle.start - self.range.start,
            self.middle.end - self.range.start,
        );
        let whole = |number: u8| number - u8::from(!Self::is_whole(number));
        for (part, before, after) in [
            (&bytes[from..to], before, after),
            (&bytes[..from], whole(before), whole(after)),
            (&bytes[to..], whole(before), whole(after)),
        ] {
            let (min, max) = (part.iter().min().unwrap(), part.iter().max().unwrap());
            assert!(
                before <= *min && *max <= after,
                "{what} {min}-{max}, after {before} was acknowledged and {after} written"
            );
        }
    }

    fn read(&self, disk: &Disk) {
        let (before, mut buf) = (self.acknowledged(), Vec::new());
        let seen = disk.read(self.range.start as u64, self.range.len(), &mut buf);
        self.check(before, &seen.unwrap(), "read");
    }
}

fn flush(disk: &Disk, server: &MemoryServer, all: &[Own]) -> Result<(), DiskError> {
    let before: Vec<u8> = all.iter().map(Own::acknowledged).collect();
    disk.flush()?;
    let state = server.state();
    for (own, before) in all.iter().zip(before) {
        own.check(before, &state.durable[own.range.clone()], "durable");
    }
    Ok(())
}

/// Closes the disk and checks that everything is there, and that no stray can change that.
fn finish(disk: Disk, server: &MemoryServer, all: &[Own]) {
    server.state().faults.clear();
    for own in all {
        own.read(&disk);
    }
    disk.close().unwrap();
    let mut state = server.state();
    state.let_strays_in(true);
    for own in all {
        let last = own.acknowledged();
        for image in [&state.durable, &state.visible] {
            own.check(last, &image[own.range.clone()], "in the end");
        }
    }
}

/// Makes one of the next requests fail, or breaks all connections; either ends by itself.
fn trouble(server: &MemoryServer) {
    const FAULTS: [(Request, Fault); 16] = [
        (Request::Change, Fault::Lost),
        (Request::Change, Fault::Unreachable),
        (Request::Change, Fault::LostHalf),
        (Request::Change, Fault::LostAfter),
        (Request::Change, Fault::LostLater),
        (Request::Change, Fault::Failed),
        (Request::Change, Fault::FailedHalf),
        (Request::Change, Fault::FailedLater),
        (Request::Change, Fault::Denied),
        (Request::Flush, Fault::Lost),
        (Request::Flush, Fault::Unreachable),
        (Request::Flush, Fault::LostAfter),
        (Request::Flush, Fault::Failed),
        (Request::Flush, Fault::Denied),
        (Request::Read, Fault::Lost),
        (Request::Read, Fault::Failed),
    ];
    match thread_rng().gen_range(0..20) {
        n if n < FAULTS.len() => server.state().faults.push(FAULTS[n]),
        _ => server.state().restart(),
    }
}

/// Returns a journal's size: of one that is flushed after every request, or of one that never has to be.
fn journal() -> u64 {
    [1, 1 << 20][thread_rng().gen_range(0..2)]
}

#[test]
fn through_any_loss_a_read_is_the_last_write_and_a_flush_keeps_its_promise() {
    explore("journal", 30_000, || {
        let server = server_filled_with(UNTOUCHED);
        server.state().renewals = u64::MAX;
        let (disk, all) = (open(&server, journal(), false), Own::two());
        thread::scope(|scope| {
            for own in &all {
                scope.spawn(|| {
                    for _ in 0..2 {
                        own.write(&disk).unwrap();
                        own.read(&disk);
                    }
                });
            }
            scope.spawn(|| flush(&disk, &server, &all).unwrap());
            scope.spawn(|| {
                trouble(&server);
                trouble(&server);
            });
        });
        flush(&disk, &server, &all).unwrap();
        finish(disk, &server, &all);
    });
}

#[test]
fn keep_alive_beside_a_lost_connection_and_a_flush_loses_nothing() {
    explore("keep-alive", 20_000, || {
        let server = server_filled_with(UNTOUCHED);
        server.state().renewals = u64::MAX;
        let (disk, all) = (open(&server, 1 << 20, false), Own::two());
        let keeper = Keeper::start(&disk.pool, Duration::from_secs(1)).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                for own in [&all[0], &all[1], &all[0]] {
                    own.write(&disk).unwrap();
                }
                disk.drain().unwrap();
                all[0].read(&disk);
            });
            scope.spawn(|| flush(&disk, &server, &all).unwrap());
            scope.spawn(|| {
                disk.pool.touch(Duration::ZERO);
                disk.pool.touch(Duration::ZERO);
            });
            scope.spawn(|| trouble(&server));
        });
        flush(&disk, &server, &all).unwrap();
        drop(keeper);
        finish(disk, &server, &all);
    });
}

#[test]
fn an_fsync_beside_the_close_has_its_promise_kept_or_is_refused() {
    explore("close", 16_000, || {
        let server = server_filled_with(UNTOUCHED);
        let (disk, all) = (open(&server, 1 << 20, false), Own::two());
        let refused = |done: Result<(), DiskError>| match done {
            Ok(()) | Err(DiskError::Closing) => {}
            Err(e) => panic!("{e}"),
        };
        thread::scope(|scope| {
            scope.spawn(|| refused((0..2).try_for_each(|_| all[0].write(&disk))));
            scope.spawn(|| refused(all[1].write(&disk)));
            scope.spawn(|| refused(flush(&disk, &server, &all)));
            scope.spawn(|| {
                disk.close().unwrap();
                let state = server.state();
                for own in &all {
                    // A write that is acknowledged after the close has begun would be lost.
                    own.check(
                        own.acknowledged(),
                        &state.durable[own.range.clone()],
                        "after the close",
                    );
                }
            });
            scope.spawn(|| server.state().restart());
        });
        assert_eq!(disk.failure(), None);
        refused(disk.flush());
    });
}

#[test]
fn readers_of_chunks_beside_a_writer_never_see_an_older_block() {
    explore("readers", 16_000, || {
        let server = server_filled_with(UNTOUCHED);
        let (disk, all) = (open(&server, 1 << 20, false), Own::two());
        thread::scope(|scope| {
            scope.spawn(|| {
                for own in [&all[1], &all[0], &all[1]] {
                    own.write(&disk).unwrap();
                }
                flush(&disk, &server, &all).unwrap();
            });
            for _ in 0..2 {
                scope.spawn(|| {
                    for own in [&all[0], &all[1], &all[0]] {
                        own.read(&disk);
                    }
                });
            }
        });
        finish(disk, &server, &all);
    });
}

#[test]
fn a_write_while_the_holes_are_learnt_is_no_hole() {
    explore("holes", 16_000, || {
        let server = server_filled_with(0);
        let (disk, mut all) = (open(&server, 1 << 20, true), Own::two());
        // The disk is zero already.
        all[1].zeroes = false;
        thread::scope(|scope| {
            scope.spawn(|| {
                all[0].write(&disk).unwrap();
                assert!(disk.next_data(0).unwrap() <= all[0].middle.start as u64);
            });
            scope.spawn(|| {
                all[1].write(&disk).unwrap();
                flush(&disk, &server, &all).unwrap();
                all[1].read(&disk);
            });
            scope.spawn(|| all[0].read(&disk));
        });
        finish(disk, &server, &all);
    });
}

#[test]
fn after_a_failure_for_good_nothing_succeeds_and_nobody_waits() {
    explore("failure", 16_000, || {
        const FAULTS: [(Request, Fault); 6] = [
            (Request::Change, Fault::Nonsense),
            (Request::Flush, Fault::Nonsense),
            (Request::Change, Fault::Late),
            (Request::Change, Fault::LateLater),
            (Request::Change, Fault::Lost),
            (Request::Flush, Fault::Failed),
        ];
        let server = server_filled_with(UNTOUCHED);
        let journal = [0, journal()][thread_rng().gen_range(0..2)];
        let (disk, all) = (open(&server, journal, false), Own::two());
        server
            .state()
            .faults
            .push(FAULTS[thread_rng().gen_range(0..FAULTS.len())]);
        let told = |done: &dyn Fn() -> Result<(), DiskError>| {
            let failed = disk.failure().is_some();
            match done() {
                Ok(()) => assert!(!failed, "succeeded after a failure"),
                Err(DiskError::Failed(_)) => assert!(disk.failure().is_some()),
                Err(e) => panic!("{e}"),
            }
        };
        thread::scope(|scope| {
            for own in &all {
                scope.spawn(|| {
                    told(&|| own.write(&disk));
                    told(&|| own.write(&disk));
                });
            }
            scope.spawn(|| told(&|| flush(&disk, &server, &all)));
            scope.spawn(|| told(&|| disk.drain()));
        });
        told(&|| flush(&disk, &server, &all));
        told(&|| disk.close());
    });
}
