//! Random operations and random faults, compared with a model in memory.
//!
//! The model is the last acknowledged state. A failed write or zero leaves its bytes unknown, and the mount
//! is broken for good afterwards. These invariants must hold:
//! - a read that succeeds returns the model's bytes, also on a broken mount (unknown bytes aside);
//! - a read fails only where the server was told to fail it;
//! - a close that succeeds leaves the model visible on the server, unless the server has restarted and lost
//!   bytes since the last fsync;
//! - an fsync that succeeds leaves the model durable and nothing unflushed, and none succeeds on a broken
//!   mount;
//! - umount exits 0 and leaves the model durable, or the mount is broken and it exits 7.
//!
//! Passing faults (of connections, of the storage, and restarts of the server that lose unflushed bytes) are
//! not noticed at all: no operation fails. No success may be a lie where one lost connection is a final loss
//! (`--retry-time 0`), where an answer comes too late, or where the server refuses for good.
//!
//! `PROPTEST_CASES` and `PROPTEST_RNG_SEED` widen the search; without them every run is the same.

mod run;
mod steps;

use crate::rig::MIB;
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestError, TestRunner};
use run::Run;
use std::cell::Cell;
use std::ops::Range;
use steps::{Step, Weather, lasting_fault, late_fault, passing_fault, quiet_step};

const SIZE: u64 = 8 * MIB;

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

/// Runs `cases` cases of `length` steps each, about one in nine of which is a fault, and prints the number of
/// cases, operations and faults.
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
    // The reason comes last: logs are cut in the middle.
    match done {
        Ok(()) => {}
        Err(TestError::Fail(reason, steps)) => {
            steps.iter().for_each(|step| println!("{step:?}"));
            panic!("{weather:?}: after these steps: {reason}");
        }
        Err(TestError::Abort(reason)) => panic!("{weather:?}: {reason}"),
    }
    assert_eq!(weather == Weather::Fair, hit.get() == 0, "faults met");
}

#[test]
fn without_faults_every_byte_is_the_last_one_written() {
    search(Weather::Fair, 20, 1..120, None);
}

#[test]
fn passing_faults_are_survived_or_reported() {
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
