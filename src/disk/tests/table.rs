//! The write-behind table with its journal against a server that forgets, step by step and without threads:
//! every order of answers, flushes and losses can be tried, also those that threads hardly ever take.
//!
//! Its server is no [`Remote`](crate::remote::Remote): the steps themselves say which slot carries an answer,
//! and when a connection that broke is found out.

use proptest::prelude::*;

use self::Step::*;
use super::super::write::payload::Payload;
use super::super::write::table::{Flight, Pick, Table};
use std::ops::Range;

use crate::sync::Instant;

const CELL: u64 = 8 << 10;
const BYTES: usize = 6 * CELL as usize;
const SLOTS: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    Write(u64, usize, u8),
    Zero(u64, u64),
    /// An fsync begins.
    Mark,
    /// A request is sent.
    Start,
    /// One of the sent requests is answered on the connection of this slot.
    Land(usize, usize),
    Flush(usize),
    /// The connection of this slot is lost.
    Lose(usize),
    /// The server restarts and forgets; the next use of each connection finds that it is lost.
    Restart,
    /// The storage reports a loss.
    LoseAll,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let offset = 0..BYTES as u64 - 10_000;
    let len = prop_oneof![1..300usize, 1..10_000usize, 4000..4200usize];
    let step = prop_oneof![
        4 => (offset.clone(), len.clone(), 1..=255u8).prop_map(|(o, l, b)| Write(o, l, b)),
        1 => (offset, len).prop_map(|(o, l)| Zero(o, l as u64)),
        1 => Just(Step::Mark),
        4 => Just(Start),
        4 => (0..4usize, 0..SLOTS).prop_map(|(n, slot)| Land(n, slot)),
        2 => (0..SLOTS).prop_map(Flush),
        2 => (0..SLOTS).prop_map(Lose),
        1 => Just(Restart),
        1 => Just(LoseAll),
    ];
    prop::collection::vec(step, 1..100)
}

struct Server {
    visible: Vec<u8>,
    durable: Vec<u8>,
    /// For each byte, the slot that has written and not flushed it.
    owner: Vec<Option<usize>>,
    losses: usize,
    /// Connections that are lost and not found out yet.
    broken: [bool; SLOTS],
}

impl Server {
    fn perform(&mut self, flight: &Flight, slot: usize) {
        let range = flight.start as usize..(flight.start + flight.payload.len()) as usize;
        match &*flight.payload {
            Payload::Data(bytes) => self.visible[range.clone()].copy_from_slice(bytes),
            Payload::Zero(_) => self.visible[range.clone()].fill(0),
        }
        self.owner[range].fill(Some(slot));
    }

    fn settle(&mut self, keep: bool, whose: impl Fn(usize) -> bool) {
        for at in 0..BYTES {
            if self.owner[at].is_some_and(&whose) {
                match keep {
                    true => self.durable[at] = self.visible[at],
                    false => self.visible[at] = self.durable[at],
                }
                self.owner[at] = None;
            }
        }
    }
}

/// The values that each byte has had since an fsync began; after the fsync, one of them is durable.
struct Mark {
    seq: u64,
    values: Vec<[u64; 4]>,
}

impl Mark {
    fn note(&mut self, range: Range<usize>, image: &[u8]) {
        for at in range {
            self.values[at][image[at] as usize / 64] |= 1 << (image[at] % 64);
        }
    }

    fn allows(&self, image: &[u8]) -> bool {
        let had = |(values, byte): (&[u64; 4], &u8)| values[*byte as usize / 64] & 1 << (byte % 64) != 0;
        self.values.iter().zip(image).all(had)
    }
}

struct Rig {
    table: Table,
    server: Server,
    mark: Option<Mark>,
    /// The requests that are under way, and the number of losses before each was sent.
    flying: Vec<(Vec<Flight>, usize)>,
}

impl Rig {
    fn start(&mut self) -> bool {
        let Pick::Go(run) = self.table.pick(Instant::now(), true, 2 * CELL) else {
            return false;
        };
        self.flying.push((run, self.server.losses));
        true
    }

    fn land(&mut self, n: usize, slot: usize) {
        if self.server.broken[slot] {
            self.lose(slot);
        }
        let (run, losses) = self.flying.swap_remove(n % self.flying.len());
        for flight in run {
            // A request that was under way when the storage lost writes is lost with them.
            if losses == self.server.losses {
                self.server.perform(&flight, slot);
            }
            self.table.landed(flight, Some(slot), None);
        }
    }

    fn flush(&mut self, slot: usize) {
        if self.server.broken[slot] {
            return self.lose(slot);
        }
        self.server.settle(true, |owner| owner == slot);
        self.table.flushed(slot);
    }

    fn lose(&mut self, slot: usize) {
        self.server.settle(false, |owner| owner == slot);
        self.server.broken[slot] = false;
        self.table.lost(slot);
    }

    fn note(&mut self, range: Range<usize>, image: &[u8]) {
        if let Some(mark) = &mut self.mark {
            mark.note(range, image);
        }
    }

    fn step(&mut self, step: Step, image: &mut [u8]) {
        match step {
            Write(offset, len, byte) => {
                let data: Vec<u8> = (0..len).map(|i| byte.wrapping_add(i as u8)).collect();
                self.table.write(offset, &data);
                let range = offset as usize..offset as usize + len;
                image[range.clone()].copy_from_slice(&data);
                self.note(range, image);
            }
            Zero(offset, len) => {
                self.table.zero(offset..offset + len);
                let range = offset as usize..(offset + len) as usize;
                image[range.clone()].fill(0);
                self.note(range, image);
            }
            Step::Mark => {
                let mut mark = Mark {
                    seq: self.table.last_seq(),
                    values: vec![[0; 4]; BYTES],
                };
                mark.note(0..BYTES, image);
                self.mark = Some(mark);
            }
            Start => drop(self.start()),
            Land(n, slot) if !self.flying.is_empty() => self.land(n, slot),
            Land(..) => {}
            Flush(slot) => self.flush(slot),
            Lose(slot) => self.lose(slot),
            Restart => {
                self.server.settle(false, |_| true);
                self.server.broken = [true; SLOTS];
            }
            LoseAll => {
                self.server.losses += 1;
                self.server.settle(false, |_| true);
                self.table.lost_all();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_acknowledged_is_forgotten_and_nothing_old_comes_back(steps in steps()) {
        let server = Server {
            visible: vec![9; BYTES],
            durable: vec![9; BYTES],
            owner: vec![None; BYTES],
            losses: 0,
            broken: [false; SLOTS],
        };
        let mut rig = Rig { table: Table::new(CELL, SLOTS, 1 << 20), server, mark: None, flying: Vec::new() };
        let mut image = vec![9; BYTES];
        for step in steps {
            rig.step(step, &mut image);
            let mut seen = rig.server.visible.clone();
            rig.table.overlay(0, &mut seen);
            prop_assert!(seen == image, "a read differs from the last write");
            if rig.table.is_durable(rig.table.last_seq()) {
                prop_assert!(rig.server.durable == image, "it is not durable, as the table says");
            }
            if rig.mark.as_ref().is_some_and(|mark| rig.table.is_durable(mark.seq)) {
                let mark = rig.mark.take().expect("just seen");
                prop_assert!(mark.allows(&rig.server.durable), "an fsync has not covered what was before it");
            }
        }
        while !rig.table.is_durable(rig.table.last_seq()) {
            while !rig.flying.is_empty() || rig.start() {
                rig.land(0, 1);
            }
            (0..SLOTS).for_each(|slot| rig.flush(slot));
        }
        prop_assert!(rig.server.durable == image, "the last bytes are not durable");
        prop_assert_eq!(rig.table.cost(), 0);
    }
}

/// A flush still waits for number 1 after the bytes of that write were replaced before they were durable.
#[test]
fn bytes_that_are_replaced_before_they_are_durable_are_still_waited_for() {
    let go = |table: &mut Table| match table.pick(Instant::now(), true, CELL) {
        Pick::Go(run) => run,
        other => panic!("{other:?}"),
    };
    let land = |table: &mut Table, run: Vec<Flight>, slot| {
        run.into_iter()
            .for_each(|flight| table.landed(flight, Some(slot), None));
    };

    let mut queued = Table::new(CELL, SLOTS, 1 << 20);
    queued.write(0, &[1; 4096]);
    queued.write(0, &[2; 8000]);
    assert_eq!(queued.oldest(), Some(1), "in the queue");
    queued.zero(0..9000);
    assert_eq!(queued.oldest(), Some(1), "in the queue, by zeros");

    let mut answered = Table::new(CELL, SLOTS, 1 << 20);
    answered.write(0, &[1; 4096]);
    let run = go(&mut answered);
    land(&mut answered, run, 0);
    answered.write(0, &[2; 4096]);
    let run = go(&mut answered);
    land(&mut answered, run, 1);
    answered.lost(0);
    assert!(!answered.is_durable(1), "in the journal");
    answered.flushed(1);
    assert!(answered.is_durable(2));

    let mut flying = Table::new(CELL, SLOTS, 1 << 20);
    flying.write(0, &[1; 4096]);
    let run = go(&mut flying);
    land(&mut flying, run, 0);
    flying.write(0, &[2; 4096]);
    let run = go(&mut flying);
    flying.lost(0);
    assert!(!flying.is_durable(1), "by bytes in flight");
    land(&mut flying, run, 1);
    assert!(!flying.is_durable(1), "which were answered");
    flying.flushed(1);
    assert!(flying.is_durable(2));
}
