//! Random operations and random faults against a model in memory: what must hold whatever happens.
//!
//! The model is the last acknowledged state. A write or zero that failed leaves its bytes unknown, and from
//! then on the mount is broken for good. The invariants:
//! - a read that succeeds returns the model's bytes, also on a broken mount (unknown bytes aside);
//! - a read fails only where the server was told to fail it;
//! - a close that succeeds leaves the model visible on the server, as long as that has forgotten nothing;
//! - an fsync that succeeds leaves the model durable and nothing unflushed, and none succeeds on a broken mount;
//! - umount exits 0 and leaves the model durable, or the mount is broken and it exits 7.
//!
//! Faults that go by, of connections, of the storage and of a server that restarts without what was not flushed, are not
//! noticed at all: nothing fails. Where one lost connection is a loss for good (`--retry-time 0`), where an answer comes
//! too late, and where the server refuses for good, no success may be a lie.
//!
//! `PROPTEST_CASES` and `PROPTEST_RNG_SEED` widen the search; without them every run is the same.

use crate::rig::{MIB, Rig, assert_same, close, fallocate, pattern, punch_hole, read_at, settings};
use crate::server::{Action, Fault, Image, Server, Verb};
use crate::support::run::run;
use libc::EIO;
use nix::fcntl::FallocateFlags;
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use std::cell::Cell;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::process::Command;
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
    /// Close, with its result, and open again.
    Close,
    /// Write through a shared mapping, and msync it.
    Map(Range<u64>, u64),
    Arm(Verb, Action),
    /// Cut all connections when nothing is unflushed on them.
    CutClean,
    /// Cut all connections, whatever they carried.
    Cut,
    /// The server has forgotten what was not flushed.
    Restart,
}

/// What may go wrong, and what of it may be noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    /// Nothing goes wrong.
    Fair,
    /// All of it goes by. What falls silent on the way may be noticed, as in [`Weather::Late`].
    Passing,
    /// Answers that come too late, among what goes by: a block with two versions under way is an error.
    Late,
    /// A lost connection is a loss.
    NoRetry,
}

impl Weather {
    fn options(self) -> &'static [&'static str] {
        match self {
            Weather::Fair => &[],
            Weather::Passing => &["--timeout", "5", "--retry-time", "30"],
            Weather::Late => &["--timeout", "1", "--retry-time", "5"],
            Weather::NoRetry => &["--timeout", "5", "--retry-time", "0"],
        }
    }

    fn may_be_noticed(self) -> bool {
        self != Weather::Fair
    }
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
        1 => Just(Step::Close),
        1 => (range(), any::<u64>()).prop_map(|(range, seed)| Step::Map(range, seed)),
        1 => Just(Step::CutClean),
    ]
}

fn verb() -> impl Strategy<Value = Verb> {
    prop_oneof![4 => Just(Verb::Get), 2 => Just(Verb::Put), 1 => Just(Verb::Zero), 1 => Just(Verb::Flush)]
}

fn passing_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        Just(Action::Status(
            500,
            "Server failed to perform the request, check logs"
        )),
        Just(Action::EarlyStatus(503, "not now")),
        Just(Action::CloseBeforeBody),
        Just(Action::CloseMidBody),
        Just(Action::CloseBeforeReply),
        Just(Action::Stall(Duration::from_millis(300))),
    ]
}

fn passing_fault() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (verb(), passing_action()).prop_map(|(verb, action)| Step::Arm(verb, action)),
        1 => Just(Step::Cut),
        2 => Just(Step::Restart),
    ]
}

fn late_fault() -> impl Strategy<Value = Step> {
    let late = Action::Stall(Duration::from_millis(2500));
    prop_oneof![
        2 => verb().prop_map(move |verb| Step::Arm(verb, late.clone())),
        1 => passing_fault(),
    ]
}

/// Without [`Step::Restart`]: who has no journal reads what the server has forgotten until the loss is noticed.
fn lasting_fault() -> impl Strategy<Value = Step> {
    let action = prop_oneof![
        5 => passing_action(),
        1 => Just(Action::EarlyStatus(403, "Transfer was canceled")),
        1 => Just(Action::ShortLength),
        1 => Just(Action::WrongContentRange),
        1 => Just(Action::Garbage),
    ];
    prop_oneof![
        8 => (verb(), action).prop_map(|(verb, action)| Step::Arm(verb, action)),
        1 => Just(Step::Cut),
    ]
}

struct Run {
    rig: Rig,
    file: File,
    model: Image,
    unknown: Vec<Range<u64>>,
    weather: Weather,
    broken: bool,
    read_faults: bool,
    /// Since the last fsync.
    forgotten: bool,
    hit: usize,
}

impl Run {
    fn new(weather: Weather) -> Run {
        let mut settings = settings(SIZE);
        settings.put_delay = Duration::from_millis(1);
        let server = Server::start(settings);
        server.preset(0, &pattern(9, SIZE as usize));
        let rig = Rig::over(server, weather.options());
        let (file, model) = (rig.read_write(), rig.server.visible());
        Run {
            rig,
            file,
            model,
            unknown: Vec::new(),
            weather,
            broken: false,
            read_faults: false,
            forgotten: false,
            hit: 0,
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
            Step::Close => self.close(),
            Step::Map(range, seed) => {
                let bytes = pattern(*seed, (range.end - range.start) as usize);
                let result = self.write_mapped(range, &bytes);
                self.changed(result, range, |model| model.write(range.start, &bytes));
            }
            Step::Arm(verb, action) => {
                if *verb == Verb::Get {
                    self.read_faults = true;
                    // A read of which four attempts fail has failed.
                    self.rig.server.disarm_verb(Verb::Get);
                }
                self.rig.server.arm(Fault::next(*verb, action.clone()));
            }
            Step::CutClean => {
                if self.file.sync_all().is_ok() && self.rig.server.unflushed().is_empty() {
                    self.rig.server.cut(&self.rig.server.connections_alive());
                } else {
                    self.noticed("an fsync failed");
                }
            }
            Step::Cut => {
                self.rig.server.cut(&self.rig.server.connections_alive());
                self.hit += 1;
            }
            Step::Restart => {
                self.rig.server.restart();
                self.forgotten = true;
                self.hit += 1;
            }
        }
    }

    fn changed(&mut self, result: io::Result<()>, range: &Range<u64>, apply: impl FnOnce(&mut Image)) {
        match result {
            Ok(()) => apply(&mut self.model),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(EIO), "a change of {range:?}: {error}");
                self.noticed(&format!("a change of {range:?} failed"));
                self.unknown.push(range.clone());
            }
        }
    }

    fn noticed(&mut self, what: &str) {
        assert!(self.weather.may_be_noticed(), "{what}\n{}", self.story());
        self.broken = true;
    }

    /// What the mount's log says of failures and repetitions.
    fn story(&self) -> String {
        let log = self.rig.mount.log();
        let lines = log
            .lines()
            .filter(|line| line.contains(" INFO ") || line.contains(" WARN "));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// In a program of its own: mapping memory is unsafe, and this crate has no unsafe code.
    fn write_mapped(&self, range: &Range<u64>, bytes: &[u8]) -> io::Result<()> {
        const PROGRAM: &str = "
import mmap, sys
file, offset, data = open(sys.argv[1], 'r+b'), int(sys.argv[2]), open(sys.argv[3], 'rb').read()
try:
    memory = mmap.mmap(file.fileno(), 0)
    memory[offset:offset + len(data)] = data
    memory.flush()
except OSError as error:
    sys.exit(error.errno)
";
        let data = self.rig.mount.dir().join("to-map");
        fs::write(&data, bytes)?;
        let mut command = Command::new("python3");
        command.args(["-c", PROGRAM]).arg(self.rig.mount.file());
        let ran = run(command.arg(range.start.to_string()).arg(data), 120);
        match ran.code {
            Some(0) => Ok(()),
            // A page that can't be read is a signal.
            None if ran.signal == Some(libc::SIGBUS) => Err(io::Error::from_raw_os_error(EIO)),
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => panic!("{ran}"),
        }
    }

    fn close(&mut self) {
        let other = self.rig.read_write();
        match close(std::mem::replace(&mut self.file, other)) {
            Ok(()) if self.forgotten => {}
            Ok(()) => {
                assert!(!self.broken, "a close succeeded after a failure");
                assert_same(
                    "visible after a successful close",
                    &self.rig.server.visible(),
                    &self.model,
                );
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(EIO), "{error}");
                self.noticed("a close failed");
            }
        }
    }

    fn read(&self, range: &Range<u64>) {
        match read_at(&self.file, range.clone()) {
            Err(error) => assert!(
                self.weather.may_be_noticed() && (self.read_faults || self.broken),
                "a read of {range:?} failed: {error}\n{}",
                self.story()
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
                self.forgotten = false;
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
                self.noticed("an fsync failed");
            }
        }
    }

    /// Gives the number of faults that the server has met.
    fn end(self) -> usize {
        drop(self.file);
        let (ran, server) = self.rig.umount();
        let hit = self.hit + server.faults_fired();
        match ran.code {
            Some(0) => {
                assert!(!self.broken, "umount exits 0 after a failure: {ran}");
                assert_same("durable after umount", &server.durable(), &self.model);
                assert_eq!(server.unflushed(), [], "after umount");
            }
            code => assert!(
                code == Some(7) && self.weather.may_be_noticed() && hit > 0,
                "{ran}"
            ),
        }
        // A request that came too late is still in flight on the server when it is made again.
        if !matches!(self.weather, Weather::Late | Weather::Passing) {
            assert_eq!(server.violations(), Vec::<String>::new());
        }
        hit
    }
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
        max_shrink_iters: 8,
        ..wanted
    }
}

/// Runs `cases` of `length` steps each, of which about one in nine is a fault, and prints how many there were.
fn search(weather: Weather, cases: u32, length: Range<usize>, fault: Option<BoxedStrategy<Step>>) {
    let step = match fault {
        None => quiet_step().boxed(),
        Some(fault) => prop_oneof![8 => quiet_step(), 1 => fault].boxed(),
    };
    let (cases_done, operations, hit) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let done = TestRunner::new(config(cases)).run(&prop::collection::vec(step, length), |steps| {
        let mut run = Run::new(weather);
        for step in &steps {
            run.step(step);
        }
        hit.set(hit.get() + run.end());
        operations.set(operations.get() + steps.len());
        cases_done.set(cases_done.get() + 1);
        Ok(())
    });
    println!(
        "{weather:?}: {} cases, {} operations, {} faults met",
        cases_done.get(),
        operations.get(),
        hit.get()
    );
    if let Err(error) = done {
        panic!("{weather:?}: {error}");
    }
    assert_eq!(weather == Weather::Fair, hit.get() == 0, "faults met");
}

#[test]
fn without_faults_every_byte_is_the_last_one_written() {
    search(Weather::Fair, 20, 1..120, None);
}

#[test]
fn faults_that_go_by_are_survived_or_told() {
    search(Weather::Passing, 20, 20..120, Some(passing_fault().boxed()));
}

#[test]
fn with_answers_that_come_too_late_no_success_is_a_lie() {
    search(Weather::Late, 8, 10..40, Some(late_fault().boxed()));
}

#[test]
fn with_faults_and_without_a_retry_no_success_is_a_lie() {
    search(Weather::NoRetry, 20, 20..120, Some(lasting_fault().boxed()));
}
