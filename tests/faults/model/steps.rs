//! The steps of a case, which are operations on the file and faults, and its weather: the kinds of faults
//! that it may have.

use super::SIZE;
use crate::rig::MIB;
use crate::server::{Action, Verb};
use proptest::prelude::*;
use std::ops::Range;
use std::time::Duration;

#[derive(Clone, Debug)]
pub enum Step {
    Write(Range<u64>, u64),
    WriteZeros(Range<u64>),
    Punch(Range<u64>),
    ZeroRange(Range<u64>),
    Read(Range<u64>),
    /// Truncate the file here and grow it to the whole disk again.
    TruncateAndGrow(u64),
    Fsync,
    /// Close the file, check the result, and open it again.
    Close,
    /// Write through a shared mapping and msync it.
    Map(Range<u64>, u64),
    Arm(Verb, Action),
    /// Fsync, then cut all connections, on which nothing is unflushed.
    CutClean,
    /// Cut all connections, also with unflushed bytes on them.
    Cut,
    /// Restart the server, which loses all unflushed bytes.
    Restart,
}

/// The faults that may happen, and whether an operation may fail because of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// There are no faults.
    Fair,
    /// All faults pass. A connection that falls silent on the way may be noticed, as in [`Weather::Late`].
    Passing,
    /// Some answers come too late, among passing faults; a block with two versions in flight is an error
    /// then.
    Late,
    /// Nothing is retried, so a lost connection is a loss.
    NoRetry,
}

impl Weather {
    pub fn options(self) -> &'static [&'static str] {
        match self {
            Weather::Fair => &[],
            Weather::Passing => &["--timeout", "5", "--retry-time", "30"],
            Weather::Late => &["--timeout", "1", "--retry-time", "5"],
            Weather::NoRetry => &["--timeout", "5", "--retry-time", "0"],
        }
    }

    pub fn may_be_noticed(self) -> bool {
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

pub fn quiet_step() -> impl Strategy<Value = Step> {
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

pub fn passing_fault() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (verb(), passing_action()).prop_map(|(verb, action)| Step::Arm(verb, action)),
        1 => Just(Step::Cut),
        2 => Just(Step::Restart),
    ]
}

pub fn late_fault() -> impl Strategy<Value = Step> {
    let late = Action::Stall(Duration::from_millis(2500));
    prop_oneof![
        2 => verb().prop_map(move |verb| Step::Arm(verb, late.clone())),
        1 => passing_fault(),
    ]
}

/// Faults for [`Weather::NoRetry`], without [`Step::Restart`]: a mount without a journal cannot know that a
/// restarted server has lost bytes, and reads return the server's older bytes until the loss is noticed.
pub fn lasting_fault() -> impl Strategy<Value = Step> {
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
