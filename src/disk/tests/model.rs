//! Random operations and random faults against a model. Whatever happens, a read returns the last
//! acknowledged write; after a flush that succeeded, the durable image equals the file; after a failure
//! nothing succeeds again.
//!
//! With a journal, faults that end by themselves are not noticed at all. The figures (cases, operations,
//! faults) are printed: `cargo test --lib model -- --nocapture`; `PROPTEST_CASES` widens the search.

use std::fmt;

use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};

use super::*;
use crate::remote::memory::{Fault, Request};

#[derive(Debug, Clone)]
enum Step {
    Write(u64, usize, u8),
    Zero(u64, u64),
    Punch(u64, u64),
    Truncate(u64),
    Read(u64, usize),
    Seek(u64),
    Drain,
    Flush,
    Fail(Request, Fault),
    /// The daemon restarts: all connections break, and unflushed writes are forgotten.
    Restart,
    /// Strays are performed now.
    Strays,
}

/// The faults that may happen.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Faults {
    None,
    /// Only faults that end by themselves.
    Survivable,
    Any,
}

fn fault(faults: Faults) -> impl Strategy<Value = (Request, Fault)> {
    let kind = prop_oneof![1 => Just(Request::Read), 3 => Just(Request::Change), 2 => Just(Request::Flush)];
    let ends = prop_oneof![
        Just(Fault::Lost),
        Just(Fault::Unreachable),
        Just(Fault::LostHalf),
        Just(Fault::LostAfter),
        Just(Fault::LostLater),
        Just(Fault::Failed),
        Just(Fault::FailedHalf),
        Just(Fault::FailedLater),
        Just(Fault::Denied),
    ];
    let stays = prop_oneof![Just(Fault::Late), Just(Fault::LateLater), Just(Fault::Nonsense)];
    let fault = match faults {
        Faults::Any => prop_oneof![4 => ends, 1 => stays].boxed(),
        _ => ends.boxed(),
    };
    (kind, fault)
}

fn steps(faults: Faults) -> impl Strategy<Value = Vec<Step>> {
    let offset = 0..SIZE as u64;
    let len = prop_oneof![1..100usize, 1..9000usize, 1..SIZE / 2];
    let trouble = match faults {
        Faults::None => Just(Step::Drain).boxed(),
        _ => prop_oneof![
            3 => fault(faults).prop_map(|(kind, fault)| Step::Fail(kind, fault)),
            1 => Just(Step::Restart),
            1 => Just(Step::Strays),
        ]
        .boxed(),
    };
    let step = prop_oneof![
        6 => (offset.clone(), len.clone(), 0..=255u8).prop_map(|(o, l, b)| Step::Write(o, l, b)),
        2 => (offset.clone(), len.clone()).prop_map(|(o, l)| Step::Zero(o, l as u64)),
        2 => (offset.clone(), len.clone()).prop_map(|(o, l)| Step::Punch(o, l as u64)),
        1 => (0..=SIZE as u64).prop_map(Step::Truncate),
        4 => (offset.clone(), len).prop_map(|(o, l)| Step::Read(o, l)),
        1 => offset.prop_map(Step::Seek),
        1 => Just(Step::Drain),
        2 => Just(Step::Flush),
        4 => trouble,
    ];
    prop::collection::vec(step, 1..60)
}

/// The file as it must be, and the failures so far.
struct Model {
    image: Vec<u8>,
    len: usize,
    failed: bool,
    /// Set once a fault was injected.
    troubled: bool,
}

impl Model {
    /// Takes over a change that was acknowledged, or notes its sticky failure.
    fn change(&mut self, done: Result<(), DiskError>, apply: impl FnOnce(&mut Model)) {
        match done {
            Ok(()) => {
                assert!(!self.failed, "a change after a failure was acknowledged");
                apply(self);
            }
            Err(DiskError::Failed(_)) => self.failed = true,
            Err(DiskError::NoSpace { .. }) => {}
            Err(e) => panic!("{e}"),
        }
    }

    fn step(&mut self, disk: &Disk, server: &MemoryServer, step: Step) {
        match step {
            Step::Write(offset, len, byte) => {
                let (at, data) = (offset as usize, vec![byte; len]);
                let fits = len.min(SIZE - at);
                self.change(disk.write(offset, &data).map(|n| assert_eq!(n, fits)), |model| {
                    model.image[at..at + fits].fill(byte);
                    model.len = model.len.max(at + fits);
                });
            }
            Step::Zero(offset, len) => {
                let (at, end) = (offset as usize, offset as usize + len as usize);
                self.change(disk.zero(offset, len, true), |model| {
                    assert!(end <= SIZE);
                    model.image[at..end].fill(0);
                    model.len = model.len.max(end);
                });
            }
            Step::Punch(offset, len) => {
                let (at, end) = (offset as usize, SIZE.min((offset + len) as usize));
                self.change(disk.zero(offset, len, false), |model| {
                    model.image[at..end].fill(0)
                });
            }
            Step::Truncate(len) => {
                let len = len as usize;
                self.change(disk.truncate(len as u64), |model| {
                    model.image[len..].fill(0);
                    model.len = len;
                });
            }
            Step::Read(offset, len) => self.read(disk, offset, len),
            Step::Seek(offset) => {
                if let Ok(data) = disk.next_data(offset) {
                    let skipped = offset as usize..data as usize;
                    assert!(self.image[skipped].iter().all(|b| *b == 0), "data skipped");
                }
                let hole = disk.next_hole(offset).ok();
                if let Some(hole) = hole.filter(|hole| (*hole as usize) < self.len) {
                    assert_eq!(self.image[hole as usize], 0, "data in a hole");
                }
            }
            Step::Drain => self.failed |= disk.drain().is_err(),
            Step::Flush => match disk.flush() {
                Ok(()) => {
                    assert!(!self.failed, "a flush after a failure succeeded");
                    assert!(server.state().durable == self.image, "not durable after a flush");
                }
                Err(_) => self.failed = true,
            },
            Step::Fail(kind, fault) => {
                self.troubled = true;
                server.state().faults.push((kind, fault));
            }
            Step::Restart => {
                self.troubled = true;
                server.state().restart();
            }
            Step::Strays => server.state().let_strays_in(true),
        }
        assert_eq!(disk.len(), self.len as u64);
    }

    fn read(&self, disk: &Disk, offset: u64, len: usize) {
        if disk.options.journal_size == 0 && self.troubled {
            // The unflushed writes of a lost connection are gone, and the loss may not have been noticed yet.
            return;
        }
        let mut buf = Vec::new();
        let Ok(seen) = disk.read(offset, len, &mut buf) else {
            return;
        };
        let end = (offset as usize + len).min(self.len);
        assert!(
            *seen == self.image[(offset as usize).min(end)..end],
            "not the last write"
        );
    }
}

/// Counts over all cases.
#[derive(Default)]
struct Figures {
    cases: AtomicU64,
    operations: AtomicU64,
    faults: AtomicU64,
    failed: AtomicU64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (cases, operations) = (of(&self.cases), of(&self.operations));
        let (faults, failed) = (of(&self.faults), of(&self.failed));
        write!(
            f,
            "{cases} cases, {operations} operations, {faults} faults, {failed} cases that failed for good"
        )
    }
}

fn run(steps: Vec<Step>, zero_detect: bool, journal: u64, survives: bool, figures: &Figures) {
    let server = server_filled_with(9);
    server.state().renewals = if survives { u64::MAX } else { 0 };
    let disk = server.disk(zero_detect, journal);
    let mut model = Model {
        image: vec![9; SIZE],
        len: SIZE,
        failed: false,
        troubled: false,
    };
    figures.cases.fetch_add(1, Ordering::Relaxed);
    for step in steps {
        if !matches!(step, Step::Fail(..)) {
            figures.operations.fetch_add(1, Ordering::Relaxed);
        }
        model.step(&disk, &server, step);
    }
    {
        let mut state = server.state();
        state.faults.clear();
        state.let_strays_in(true);
        figures.faults.fetch_add(state.fired, Ordering::Relaxed);
    }
    if journal > 0 {
        // Acknowledged bytes are readable to the end, unless the ticket has ended for good.
        model.read(&disk, 0, SIZE);
    }
    let failed = model.failed || disk.failure().is_some();
    figures.failed.fetch_add(u64::from(failed), Ordering::Relaxed);
    assert!(!(survives && failed), "failed: {:?}", disk.failure());
    match disk.close() {
        Ok(()) => {
            assert!(!failed);
            let mut state = server.state();
            assert!(state.durable == model.image);
            state.let_strays_in(true);
            assert!(
                state.visible == model.image,
                "a late request has put old bytes over newer ones"
            );
        }
        Err(e) => assert!(!survives && disk.failure().is_some(), "{e}"),
    }
}

fn check(name: &str, faults: Faults, journal: impl Strategy<Value = u64>) {
    let config = match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default(),
        None => ProptestConfig::with_cases(200),
    };
    let config = ProptestConfig {
        failure_persistence: None,
        ..config
    };
    let figures = Figures::default();
    let strategy = (steps(faults), any::<bool>(), journal);
    let survives = faults != Faults::Any;
    TestRunner::new(config)
        .run(&strategy, |(steps, zero_detect, journal)| {
            run(steps, zero_detect, journal, survives, &figures);
            Ok::<_, TestCaseError>(())
        })
        .unwrap_or_else(|e| panic!("{e}"));
    println!("model, {name}: {figures}");
}

/// Sizes of the journal: from one that is flushed after every request to one that never has to be.
fn journal() -> impl Strategy<Value = u64> {
    prop_oneof![Just(1u64), Just(256 << 10), Just(64 << 20)]
}

#[test]
fn the_disk_is_what_was_written_to_it() {
    check("no faults", Faults::None, prop_oneof![Just(0), journal()]);
}

#[test]
fn faults_that_end_by_themselves_are_not_noticed() {
    check("faults that end", Faults::Survivable, journal());
}

#[test]
fn faults_of_any_kind_are_survived_or_told_for_good() {
    check("faults of any kind", Faults::Any, journal());
}

#[test]
fn without_a_journal_faults_are_survived_or_told_for_good() {
    check("no journal", Faults::Any, Just(0));
}
