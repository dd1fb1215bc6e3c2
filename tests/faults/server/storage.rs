//! The disk behind the server, with a write cache per connection.
//!
//! There are two images: `visible` is what every reader sees, `durable` is what a power cut would leave. A
//! write or zero changes `visible` immediately and marks its bytes as unflushed by its connection; only a
//! flush of that same connection copies them to `durable`. Bytes of a closed connection stay unflushed for
//! ever. When another connection overwrites bytes that a live one has not flushed, the older bytes become
//! durable first (a cache may evict at any time), so a difference always shows a client's broken promise,
//! never an artefact of the server.
//!
//! A restart loses unflushed bytes: `visible` becomes equal to `durable` again.
//!
//! Writes are also registered while in flight (from the request's header to just before its answer). Two at
//! once in the same 4096-byte block are a violation, because imageio's file backend would lose one of them. A
//! request whose connection the test has cut does not count, because its client cannot know how far it got.

use super::image::Image;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

const BLOCK: u64 = 4096;

pub struct Storage {
    visible: Image,
    durable: Image,
    /// Maps the start of a range to (end, connection); the ranges never overlap.
    unflushed: BTreeMap<u64, (u64, u64)>,
    closed: BTreeSet<u64>,
    cut: BTreeSet<u64>,
    in_flight: BTreeMap<u64, Range<u64>>,
    violations: Vec<String>,
}

impl Storage {
    pub fn new(size: u64) -> Storage {
        Storage {
            visible: Image::new(size),
            durable: Image::new(size),
            unflushed: BTreeMap::new(),
            closed: BTreeSet::new(),
            cut: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            violations: Vec::new(),
        }
    }

    pub fn visible(&self) -> &Image {
        &self.visible
    }

    pub fn durable(&self) -> &Image {
        &self.durable
    }

    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Sets the contents of the disk before any client connects; they are visible and durable.
    pub fn preset(&mut self, offset: u64, bytes: &[u8]) {
        self.visible.write(offset, bytes);
        self.durable.write(offset, bytes);
    }

    pub fn write(&mut self, connection: u64, offset: u64, bytes: &[u8]) {
        let range = offset..offset + bytes.len() as u64;
        self.claim(connection, range);
        self.visible.write(offset, bytes);
    }

    pub fn zero(&mut self, connection: u64, range: Range<u64>) {
        self.claim(connection, range.clone());
        self.visible.zero(range);
    }

    pub fn flush(&mut self, connection: u64) {
        let visible = &self.visible;
        let durable = &mut self.durable;
        self.unflushed.retain(|start, (end, owner)| {
            if *owner == connection {
                durable.copy_from(visible, *start..*end);
            }
            *owner != connection
        });
    }

    /// Drops the write cache, as a restarted server does. No client may be connected.
    pub fn restart(&mut self) {
        for (start, (end, _)) in std::mem::take(&mut self.unflushed) {
            self.visible.copy_from(&self.durable, start..end);
        }
    }

    /// Forgets the request that `connection` has in flight, because the test cuts the connection. One that
    /// has been received and not begun by then is not registered either.
    pub fn cut(&mut self, connection: u64) {
        self.cut.insert(connection);
        self.in_flight.remove(&connection);
    }

    pub fn closed(&mut self, connection: u64) {
        self.closed.insert(connection);
        self.in_flight.remove(&connection);
    }

    /// Returns the connection and the range of all bytes that a power cut would lose now.
    pub fn unflushed(&self) -> Vec<(u64, Range<u64>)> {
        self.unflushed
            .iter()
            .map(|(start, (end, owner))| (*owner, *start..*end))
            .collect()
    }

    pub fn begin(&mut self, connection: u64, range: Range<u64>) {
        if self.cut.contains(&connection) {
            return;
        }
        for (other, busy) in &self.in_flight {
            if blocks(busy).start < blocks(&range).end && blocks(&range).start < blocks(busy).end {
                self.violations.push(format!(
                    "connection {connection} writes {range:?} while {busy:?} of connection {other} \
                     is in flight"
                ));
            }
        }
        self.in_flight.insert(connection, range);
    }

    pub fn end(&mut self, connection: u64) {
        self.in_flight.remove(&connection);
    }

    pub fn violation(&mut self, text: String) {
        self.violations.push(text);
    }

    /// Marks `range` as unflushed by `connection`. Unflushed bytes of other connections there become durable.
    fn claim(&mut self, connection: u64, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let overlapping: Vec<(u64, u64, u64)> = self
            .unflushed
            .range(..range.end)
            .rev()
            .map(|(start, (end, owner))| (*start, *end, *owner))
            .take_while(|(_, end, _)| *end > range.start)
            .collect();
        for (start, end, owner) in overlapping {
            self.unflushed.remove(&start);
            if start < range.start {
                self.unflushed.insert(start, (range.start, owner));
            }
            if end > range.end {
                self.unflushed.insert(range.end, (end, owner));
            }
            if owner != connection && !self.closed.contains(&owner) {
                self.durable
                    .copy_from(&self.visible, start.max(range.start)..end.min(range.end));
            }
        }
        self.unflushed.insert(range.start, (range.end, connection));
    }
}

fn blocks(range: &Range<u64>) -> Range<u64> {
    range.start / BLOCK..range.end.div_ceil(BLOCK)
}
