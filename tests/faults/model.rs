//! Random operations and random faults against a model in memory: what must hold whatever happens.
//!
//! The model is the last acknowledged state. A write or zero that failed leaves its bytes unknown, and from
//! then on the mount is broken for good. The invariants:
//! - a read that succeeds returns the model's bytes, also on a broken mount (unknown bytes aside);
//! - a read fails only where the server was told to fail it;
//! - an fsync that succeeds leaves the model durable and nothing unflushed, and none succeeds on a broken mount;
//! - umount exits 0 and leaves the model durable, or the mount is broken and it exits 7.
//!
//! `PROPTEST_CASES` and `PROPTEST_RNG_SEED` widen the search; without them every run is the same.

use crate::rig::{MIB, Rig, assert_same, fallocate, pattern, punch_hole, read_at, settings};
use crate::server::{Action, Fault, Image, Server, Verb};
use libc::EIO;
use nix::fcntl::FallocateFlags;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::Duration;

const SIZE: u64 = 8 * MIB;

#[derive(Clone, Debug)]
enum Step {
    Write(Range<u64>, u64),
    WriteZeros(Range<u64>),
    Punch(Range<u64>),
    ZeroRange(Range<u64>),
    Read(Range<u64>),
    /// Cut the file here and let it grow to the whole disk again.
    TruncateAndGrow(u64),
    Fsync,
    Reopen,
    Arm(Verb, Action),
    CutClean,
}

fn range() -> impl Strategy<Value = Range<u64>> {
    let length = prop_oneof![3 => 1..10_000_u64, 2 => 1..300_000_u64, 1 => 1..3 * MIB];
    let unaligned = (0..SIZE, length.clone()).prop_map(|(start, length)| start..(start + length).min(SIZE));
    let aligned = (0..SIZE / 4096, length)
        .prop_map(|(block, length)| block * 4096..(block * 4096 + length.next_multiple_of(4096)).min(SIZE));
    prop_oneof![unaligned, aligned]
}

fn quiet_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (range(), any::<u64>()).prop_map(|(range, seed)| Step::Write(range, seed)),
        2 => range().prop_map(Step::WriteZeros),
        2 => range().prop_map(Step::Punch),
        1 => range().prop_map(Step::ZeroRange),
        6 => range().prop_map(Step::Read),
        1 => (0..SIZE).prop_map(Step::TruncateAndGrow),
        1 => Just(Step::TruncateAndGrow(0)),
        2 => Just(Step::Fsync),
        1 => Just(Step::Reopen),
        1 => Just(Step::CutClean),
    ]
}

fn fault() -> impl Strategy<Value = Step> {
    let verb = prop_oneof![4 => Just(Verb::Get), 2 => Just(Verb::Put), 1 => Just(Verb::Zero), 1 => Just(Verb::Flush)];
    let action = prop_oneof![
        Just(Action::Status(
            500,
            "Server failed to perform the request, check logs"
        )),
        Just(Action::EarlyStatus(403, "Transfer was canceled")),
        Just(Action::CloseBeforeBody),
        Just(Action::CloseMidBody),
        Just(Action::CloseBeforeReply),
        Just(Action::Stall(Duration::from_millis(300))),
        Just(Action::ShortLength),
        Just(Action::WrongContentRange),
        Just(Action::Garbage),
    ];
    (verb, action).prop_map(|(verb, action)| Step::Arm(verb, action))
}

struct Run {
    rig: Rig,
    file: File,
    model: Image,
    unknown: Vec<Range<u64>>,
    broken: bool,
    read_faults: bool,
}

impl Run {
    fn new() -> Run {
        let mut settings = settings(SIZE);
        settings.put_delay = Duration::from_millis(1);
        let server = Server::start(settings);
        server.preset(0, &pattern(9, SIZE as usize));
        let rig = Rig::over(server, &[]);
        let (file, model) = (rig.read_write(), rig.server.visible());
        Run {
            rig,
            file,
            model,
            unknown: Vec::new(),
            broken: false,
            read_faults: false,
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Write(range, seed) => {
                let bytes = pattern(*seed, (range.end - range.start) as usize);
                let result = self.file.write_all_at(&bytes, range.start);
                self.changed(result, range, |model| model.write(range.start, &bytes));
            }
            Step::WriteZeros(range) => {
                let result = self
                    .file
                    .write_all_at(&vec![0; (range.end - range.start) as usize], range.start);
                self.changed(result, range, |model| model.zero(range.clone()));
            }
            Step::Punch(range) => {
                let result = punch_hole(&self.file, range.clone());
                self.changed(result, range, |model| model.zero(range.clone()));
            }
            Step::ZeroRange(range) => {
                let result = fallocate(&self.file, FallocateFlags::FALLOC_FL_ZERO_RANGE, range.clone());
                self.changed(result, range, |model| model.zero(range.clone()));
            }
            Step::TruncateAndGrow(end) => {
                let result = self.file.set_len(*end).and_then(|()| self.file.set_len(SIZE));
                self.changed(result, &(*end..SIZE), |model| model.zero(*end..SIZE));
            }
            Step::Read(range) => self.read(range),
            Step::Fsync => self.fsync(),
            Step::Reopen => self.file = self.rig.read_write(),
            Step::Arm(verb, action) => {
                self.read_faults |= *verb == Verb::Get;
                self.rig.server.arm(Fault::next(*verb, action.clone()));
            }
            Step::CutClean => {
                if self.file.sync_all().is_ok() && self.rig.server.unflushed().is_empty() {
                    self.rig.server.cut(&self.rig.server.connections_alive());
                } else {
                    self.broken = true;
                }
            }
        }
    }

    fn changed(&mut self, result: io::Result<()>, range: &Range<u64>, apply: impl FnOnce(&mut Image)) {
        match result {
            Ok(()) => apply(&mut self.model),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(EIO), "a change of {range:?}: {error}");
                self.broken = true;
                self.unknown.push(range.clone());
            }
        }
    }

    fn read(&self, range: &Range<u64>) {
        match read_at(&self.file, range.clone()) {
            Err(error) => assert!(
                self.read_faults || self.broken,
                "a read of {range:?} failed: {error}"
            ),
            Ok(bytes) => {
                let known = |at: &u64| !self.unknown.iter().any(|unknown| unknown.contains(at));
                let expected = self.model.read(range.clone());
                let wrong = range.clone().filter(known).find(|at| {
                    let index = (at - range.start) as usize;
                    bytes[index] != expected[index]
                });
                assert_eq!(
                    wrong, None,
                    "a read of {range:?} is not the last acknowledged write there"
                );
            }
        }
    }

    fn fsync(&mut self) {
        match self.file.sync_all() {
            Ok(()) => {
                assert!(!self.broken, "an fsync succeeded after a failure");
                assert_eq!(self.rig.server.unflushed(), [], "after a successful fsync");
                assert_same(
                    "durable after a successful fsync",
                    &self.rig.server.durable(),
                    &self.model,
                );
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(EIO), "{error}");
                self.broken = true;
            }
        }
    }

    fn end(self) {
        drop(self.file);
        let (ran, server) = self.rig.umount();
        match ran.code {
            Some(0) => {
                assert!(!self.broken, "umount exits 0 after a failure: {ran}");
                assert_same("durable after umount", &server.durable(), &self.model);
                assert_eq!(server.unflushed(), [], "after umount");
            }
            code => assert!(code == Some(7) && server.faults_fired() > 0, "{ran}"),
        }
        assert_eq!(server.violations(), Vec::<String>::new());
    }
}

fn check(steps: &[Step]) {
    let mut run = Run::new();
    for step in steps {
        run.step(step);
    }
    run.end();
}

fn config(cases: u32) -> ProptestConfig {
    let wanted = ProptestConfig::default();
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let seeded = wanted.rng_seed != RngSeed::Random;
    ProptestConfig {
        cases: if asked { wanted.cases } else { cases },
        rng_seed: if seeded || asked {
            wanted.rng_seed
        } else {
            RngSeed::Fixed(2)
        },
        failure_persistence: None,
        max_shrink_iters: 60,
        ..wanted
    }
}

proptest! {
    #![proptest_config(config(20))]

    #[test]
    fn without_faults_every_byte_is_the_last_one_written(steps in prop::collection::vec(quiet_step(), 1..120)) {
        check(&steps);
    }

    #[test]
    fn with_faults_no_success_is_a_lie(
        steps in prop::collection::vec(prop_oneof![8 => quiet_step(), 1 => fault()], 20..120)
    ) {
        check(&steps);
    }
}
