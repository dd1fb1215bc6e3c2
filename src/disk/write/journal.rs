//! The journal: writes that the server has answered and no flush has covered, kept so that they can be sent
//! again.
//!
//! An answer to a write is no promise: the bytes may be in a cache of the server, or of the machine below it,
//! and be lost with the connection that carried them. So they stay here, tagged with that connection's slot,
//! until a flush on it was answered. When the connection is lost, or the storage reports a loss, they return
//! to the write-behind table (`table`) and are sent again like any other write.
//!
//! Only the newest answered bytes of each offset are here: an answer replaces older ones, whichever
//! connection carried them. So nothing that is sent again can be older than the bytes that it overwrites.
//! Bytes that are newer than the journal are in the table, which never lets older ones overtake them. An
//! answer takes over the number of the bytes that it replaces, which may not be durable either: a flush then
//! waits for the answer instead.
//!
//! The buffers are the table's own, shared and never copied. A buffer that newer bytes have covered in part
//! stays until its last piece goes, and counts as memory until then.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::overlay::Placed;
use super::payload::Payload;

/// Consecutive answered bytes that are not known to be durable.
#[derive(Debug)]
struct Entry {
    len: u64,
    held: Arc<Held>,
    /// Offset of the first byte in the payload.
    skip: u64,
}

/// The change that was answered; the entries of its remaining pieces share it.
#[derive(Debug)]
struct Held {
    payload: Arc<Payload>,
    slot: usize,
    /// Number of its oldest write.
    seq: u64,
}

/// A change to be sent again: its offset, its content, and the number of its oldest write.
pub(crate) type Again = (u64, Payload, u64);

/// The answered changes that are not known to be durable. It is plain data under the table's lock.
#[derive(Debug)]
pub(crate) struct Journal {
    /// Disjoint pieces by their first byte.
    entries: BTreeMap<u64, Entry>,
    /// Memory in bytes, by slot.
    cost: Vec<usize>,
}

impl Journal {
    /// Creates an empty journal for connections in `slots` slots.
    pub(crate) fn new(slots: usize) -> Self {
        Journal {
            entries: BTreeMap::new(),
            cost: vec![0; slots],
        }
    }

    /// Returns the memory held for `slot`, in bytes.
    pub(crate) fn cost(&self, slot: usize) -> usize {
        self.cost[slot]
    }

    /// Returns the memory held for all slots, in bytes.
    pub(crate) fn total(&self) -> usize {
        self.cost.iter().sum()
    }

    /// Returns the bytes of data in it.
    pub(crate) fn content(&self) -> u64 {
        let entries = self.entries.values();
        let data = entries.filter(|entry| matches!(*entry.held.payload, Payload::Data(_)));
        data.map(|entry| entry.len).sum()
    }

    /// Notes that connection `slot` has answered `payload` at `start`, whose oldest write has the number
    /// `seq`. Returns the buffers that are free now.
    pub(crate) fn note(
        &mut self,
        start: u64,
        mut payload: Arc<Payload>,
        seq: u64,
        slot: usize,
    ) -> Vec<Vec<u8>> {
        let len = payload.len();
        let (freed, replaced) = self.carve(&(start..start + len));
        let seq = replaced.map_or(seq, |replaced| replaced.min(seq));
        match Arc::get_mut(&mut payload) {
            Some(Payload::Data(bytes)) if bytes.len() < bytes.capacity() / 4 * 3 => bytes.shrink_to_fit(),
            _ => {}
        }
        self.cost[slot] += payload.cost();
        let held = Arc::new(Held { payload, slot, seq });
        self.entries.insert(start, Entry { len, held, skip: 0 });
        freed
    }

    /// Forgets the changes that connection `slot` has answered, since they are durable. Returns the buffers
    /// that are free now.
    pub(crate) fn flushed(&mut self, slot: usize) -> Vec<Vec<u8>> {
        let gone = self.remove(Some(slot)).into_iter();
        gone.filter_map(|(_, entry)| self.release(entry.held)).collect()
    }

    /// Takes out the changes that connection `slot` has answered, or with `None` all changes.
    pub(crate) fn take(&mut self, slot: Option<usize>) -> Vec<Again> {
        let gone = self.remove(slot);
        let again = |(start, Entry { len, held, skip }): (u64, Entry)| {
            let seq = held.seq;
            if len < held.payload.len() {
                let part = held.payload.part(skip..skip + len);
                self.release(held);
                return (start, part, seq);
            }
            self.cost[held.slot] -= held.payload.cost();
            let payload = Arc::into_inner(held)
                .map(|held| held.payload)
                .expect("it is whole");
            let payload = Arc::try_unwrap(payload).unwrap_or_else(|shared| shared.part(0..len));
            (start, payload, seq)
        };
        gone.into_iter().map(again).collect()
    }

    /// Removes the entries of connection `slot`, or with `None` all of them.
    fn remove(&mut self, slot: Option<usize>) -> Vec<(u64, Entry)> {
        let of_slot = |entry: &Entry| slot.is_none_or(|slot| entry.held.slot == slot);
        let found = self.entries.iter().filter(|(_, entry)| of_slot(entry));
        let starts: Vec<u64> = found.map(|(start, _)| *start).collect();
        let removed = starts.into_iter();
        removed
            .filter_map(|start| self.entries.remove_entry(&start))
            .collect()
    }

    /// Returns the number of the oldest write.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.entries.values().map(|entry| entry.held.seq).min()
    }

    /// True when the journal has any byte of `range`.
    pub(crate) fn touches(&self, range: &Range<u64>) -> bool {
        let last = self.entries.range(..range.end).next_back();
        last.is_some_and(|(start, entry)| start + entry.len > range.start)
    }

    /// Returns the pieces that touch `range`, in ascending order.
    pub(crate) fn within(&self, range: Range<u64>) -> impl Iterator<Item = Placed<'_>> {
        let before = self.entries.range(..range.start).next_back();
        let first = before.map_or(range.start, |(start, _)| *start);
        let placed = |(&start, entry): (&u64, &'_ Entry)| (start, entry.len, entry.skip);
        self.entries.range(first..range.end.max(first)).map(move |found| {
            let (start, len, skip) = placed(found);
            Placed {
                start,
                len,
                payload: &found.1.held.payload,
                skip,
            }
        })
    }

    /// Removes `range`, which newer bytes replace. Returns the buffers that are free now, and the lowest
    /// number that was there.
    fn carve(&mut self, range: &Range<u64>) -> (Vec<Vec<u8>>, Option<u64>) {
        let first = self.entries.range(..range.start).next_back();
        let first = first.map_or(range.start, |(start, _)| *start);
        let touched: Vec<u64> = self
            .entries
            .range(first..range.end)
            .map(|(start, _)| *start)
            .collect();
        let (mut freed, mut oldest) = (Vec::new(), None);
        for start in touched {
            let end = start + self.entries[&start].len;
            if end <= range.start {
                continue;
            }
            let Entry { held, skip, .. } = self.entries.remove(&start).expect("just seen");
            oldest = Some(oldest.map_or(held.seq, |oldest: u64| oldest.min(held.seq)));
            for piece in [start..range.start, range.end..end] {
                if !piece.is_empty() {
                    let entry = Entry {
                        len: piece.end - piece.start,
                        held: held.clone(),
                        skip: skip + (piece.start - start),
                    };
                    self.entries.insert(piece.start, entry);
                }
            }
            freed.extend(self.release(held));
        }
        (freed, oldest)
    }

    /// Drops a piece of an answered change; with the last one, returns its buffer.
    fn release(&mut self, held: Arc<Held>) -> Option<Vec<u8>> {
        let Held { payload, slot, .. } = Arc::into_inner(held)?;
        self.cost[slot] -= payload.cost();
        match Arc::into_inner(payload) {
            Some(Payload::Data(bytes)) => Some(bytes),
            Some(Payload::Zero(_)) | None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(len: usize, fill: u8) -> Arc<Payload> {
        Arc::new(Payload::Data(vec![fill; len]))
    }

    fn read(journal: &Journal, range: Range<u64>) -> Vec<u8> {
        let mut buf = vec![0; (range.end - range.start) as usize];
        let mut gaps = vec![range.clone()];
        for placed in journal.within(range.clone()) {
            gaps = placed.fill(gaps, range.start, &mut buf);
        }
        buf
    }

    #[test]
    fn newer_answers_replace_older_ones_whichever_connection_carried_them() {
        let mut journal = Journal::new(2);
        journal.note(0, data(10, 1), 1, 0);
        journal.note(4, data(2, 2), 2, 1);
        assert_eq!(read(&journal, 0..10), [1, 1, 1, 1, 2, 2, 1, 1, 1, 1]);
        let mut again = journal.take(Some(0));
        again.sort_by_key(|(start, ..)| *start);
        let starts: Vec<_> = again
            .iter()
            .map(|(start, payload, seq)| (*start, payload.len(), *seq))
            .collect();
        assert_eq!(
            starts,
            [(0, 4, 1), (6, 4, 1)],
            "not the bytes that connection 1 has put over it"
        );
        assert_eq!(
            (journal.cost(0), journal.oldest()),
            (0, Some(1)),
            "a flush that waits for the replaced write waits for the newer one"
        );
    }

    #[test]
    fn a_flush_speaks_for_its_own_connection() {
        let mut journal = Journal::new(2);
        journal.note(0, data(10, 1), 1, 0);
        journal.note(10, data(10, 2), 2, 1);
        assert_eq!(journal.flushed(0).len(), 1, "its buffer is free");
        assert!(!journal.touches(&(0..10)) && journal.touches(&(19..20)));
        assert_eq!(journal.take(None).len(), 1);
        assert_eq!((journal.cost(0), journal.cost(1), journal.oldest()), (0, 0, None));
    }

    #[test]
    fn a_buffer_counts_until_its_last_piece_is_gone() {
        let mut journal = Journal::new(1);
        journal.note(0, data(1000, 1), 1, 0);
        let full = journal.cost(0);
        journal.note(0, Arc::new(Payload::Zero(400)), 2, 0);
        journal.note(600, Arc::new(Payload::Zero(400)), 3, 0);
        assert!(journal.cost(0) > full, "the middle holds all of it");
        assert_eq!(journal.note(400, Arc::new(Payload::Zero(200)), 4, 0).len(), 1);
        assert!(journal.cost(0) < full);
    }
}
