//! The requests that the server received, one record each, and how many of them ran at once.
//!
//! A record is added when the request's header has been read and completed when the request is answered, both
//! under the server's lock, so a test always sees a consistent list.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    Options,
    Get,
    Put,
    Zero,
    Flush,
    Extents,
    Checksum,
    /// A zero or flush of which only the head was received.
    Patch,
    Other,
}

#[derive(Clone, Debug)]
pub struct Record {
    pub connection: u64,
    pub verb: Verb,
    pub range: Range<u64>,
    /// It is a change that asks for a flush.
    pub flush: bool,
    /// None while the request runs, and for ever when the connection was cut before the answer.
    pub status: Option<u16>,
    /// The most requests with its verb that ran at once while it ran, itself included.
    pub at_once: usize,
}

impl Record {
    pub fn length(&self) -> u64 {
        self.range.end - self.range.start
    }
}

pub struct Ledger {
    records: Vec<Record>,
    /// The record of the request that runs on a connection.
    running: BTreeMap<u64, usize>,
    most_at_once: BTreeMap<Verb, usize>,
    most_requests: usize,
    most_writes: usize,
    opened: u64,
    alive: BTreeSet<u64>,
    idle_drops: usize,
}

impl Ledger {
    pub fn new() -> Ledger {
        Ledger {
            records: Vec::new(),
            running: BTreeMap::new(),
            most_at_once: BTreeMap::new(),
            most_requests: 0,
            most_writes: 0,
            opened: 0,
            alive: BTreeSet::new(),
            idle_drops: 0,
        }
    }

    pub fn opened(&mut self) -> u64 {
        self.opened += 1;
        self.alive.insert(self.opened);
        self.opened
    }

    pub fn closed(&mut self, connection: u64) {
        self.alive.remove(&connection);
        self.running.remove(&connection);
    }

    pub fn idle_drop(&mut self) {
        self.idle_drops += 1;
    }

    /// Notes that the request of this record flushes when it is done.
    pub fn flushes(&mut self, record: usize) {
        self.records[record].flush = true;
    }

    /// Returns the record's index, for `finish`.
    pub fn begin(&mut self, connection: u64, verb: Verb, range: Range<u64>) -> usize {
        let record = self.records.len();
        self.records.push(Record {
            connection,
            verb,
            range,
            flush: false,
            status: None,
            at_once: 0,
        });
        self.running.insert(connection, record);
        let same: Vec<usize> = self.running_with(|other| other == verb).collect();
        for record in &same {
            let most = &mut self.records[*record].at_once;
            *most = same.len().max(*most);
        }
        let most = self.most_at_once.entry(verb).or_default();
        *most = same.len().max(*most);
        let writes = self.running_with(|other| matches!(other, Verb::Put | Verb::Zero));
        self.most_writes = self.most_writes.max(writes.count());
        self.most_requests = self.most_requests.max(self.running.len());
        record
    }

    /// Returns the records of the requests that run, with these verbs.
    fn running_with(&self, wanted: impl Fn(Verb) -> bool) -> impl Iterator<Item = usize> {
        let running = self.running.values().copied();
        running.filter(move |record| wanted(self.records[*record].verb))
    }

    pub fn finish(&mut self, record: usize, status: u16) {
        self.records[record].status = Some(status);
        self.running.remove(&self.records[record].connection);
    }

    pub fn records(&self) -> &[Record] {
        &self.records
    }

    pub fn most_at_once(&self, verb: Verb) -> usize {
        self.most_at_once.get(&verb).copied().unwrap_or(0)
    }

    /// Returns the largest number of PUTs and zero requests that ran at once.
    pub fn most_writes(&self) -> usize {
        self.most_writes
    }

    pub fn most_requests(&self) -> usize {
        self.most_requests
    }

    pub fn connections_opened(&self) -> u64 {
        self.opened
    }

    pub fn connections_alive(&self) -> Vec<u64> {
        self.alive.iter().copied().collect()
    }

    pub fn running(&self) -> Vec<u64> {
        self.running.keys().copied().collect()
    }

    pub fn idle_drops(&self) -> usize {
        self.idle_drops
    }
}
