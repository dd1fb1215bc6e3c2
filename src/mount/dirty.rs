//! `--since`: what has changed in a disk since a checkpoint, as the text of a JSON file beside the disks.
//!
//! The bytes of a disk's file are the guest's everywhere. A program that has those of the checkpoint reads
//! only the ranges that are told here, and may write those that are zero without reading them. Where nothing
//! tells what has changed (a disk that the engine backs up as a whole, a server without a record of changes),
//! all of the disk is told, by its allocation. So the list may have more than has changed, and never less.
//!
//! A disk may have changed in millions of places. There is room for a number of ranges, which the disks of a
//! mount share ([`Changes`]): beyond it, what lies between two of them counts as changed, the shorter
//! stretches first, and zeros count as data. The text is not kept: each range is a line of the same length,
//! so the lines of any offset are written when they are read.

use std::cell::RefCell;
use std::ops::Range;

use crate::copying::Changes;
use crate::disk::Disk;
use crate::fuse::Text;
use crate::open_disk::OpenDisk;
use crate::remote::{DirtyAnswer, DirtyExtent};

/// The first and the last line.
const HEAD: &str = "[\n";
const TAIL: &str = "]\n";

/// The parts of a line between its values.
const KEYS: [&str; 4] = ["{\"start\": ", ", \"length\": ", ", \"zero\": ", "}"];

/// The length of a line in bytes: numbers are padded to the 20 digits that the largest has.
const LINE_BYTES: u64 = 80;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Dirty {
    /// In ascending order, apart from each other, each with whether it reads as zeros.
    ranges: Vec<(Range<u64>, bool)>,
    /// Some ranges have grown into one, for want of room.
    pub(super) coarse: bool,
}

impl Dirty {
    /// Asks for the changes in one of `count` disks, which the engine knows where `known` is set; it may
    /// block for minutes. Beside the list, an error says why all of the disk is in it although they are
    /// known.
    pub(super) fn of(open: &OpenDisk, known: bool, count: usize) -> (Dirty, Result<(), String>) {
        let begin = || Changes::of_one_in(count, open.disk().capacity());
        let whole = || Dirty::from(&of_whole(open.disk(), begin()));
        if !known {
            return (whole(), Ok(()));
        }
        match told(open, begin) {
            Ok(changes) => (Dirty::from(&changes), Ok(())),
            Err(why) => (whole(), Err(why)),
        }
    }

    fn from(changes: &Changes) -> Dirty {
        Dirty {
            ranges: changes.in_order(),
            coarse: changes.is_coarse(),
        }
    }

    /// Bytes in all ranges.
    pub(super) fn bytes(&self) -> u64 {
        self.ranges.iter().map(|(range, _)| range.end - range.start).sum()
    }

    fn line(&self, n: usize) -> String {
        let (range, zero) = &self.ranges[n];
        let end = if n + 1 == self.ranges.len() { ' ' } else { ',' };
        let [start, length, is_zero, last] = KEYS;
        format!(
            "{start}{:>20}{length}{:>20}{is_zero}{zero:>5}{last}{end}\n",
            range.start,
            range.end - range.start
        )
    }
}

/// Asks the server for the changes; an error says why it does not tell them.
fn told(open: &OpenDisk, begin: impl Fn() -> Changes) -> Result<Changes, String> {
    let changes = RefCell::new(begin());
    let answer = open.dirty_extents(&mut || drop(changes.replace(begin())), &mut |extent| {
        changes.borrow_mut().add(&extent);
    });
    match answer {
        Ok(DirtyAnswer::Told) => Ok(changes.into_inner().end()),
        Ok(DirtyAnswer::NotOffered(why)) => Err(why),
        Err(failure) => Err(failure.to_string()),
    }
}

/// All of a disk, of which what is known to be zero reads as zeros. Waits for its extents.
fn of_whole(disk: &Disk, mut changes: Changes) -> Changes {
    let size = disk.capacity();
    let mut add = |range: Range<u64>, zero| {
        let dirty = true;
        changes.add(&DirtyExtent { range, dirty, zero });
    };
    let mut at = 0;
    while let Some(data) = disk.next_stretch(at, size) {
        if at < data.start {
            add(at..data.start, true);
        }
        at = data.end;
        add(data, false);
    }
    if at < size {
        add(at..size, true);
    }
    changes.end()
}

impl Text for Dirty {
    fn len(&self) -> u64 {
        (HEAD.len() + TAIL.len()) as u64 + self.ranges.len() as u64 * LINE_BYTES
    }

    fn read(&self, offset: u64, size: usize) -> Vec<u8> {
        let end = offset.saturating_add(size as u64).min(self.len());
        if offset >= end {
            return Vec::new();
        }
        let head = HEAD.len() as u64;
        let first = offset.saturating_sub(head) / LINE_BYTES;
        let (mut text, begin) = match first {
            0 => (HEAD.to_owned(), 0),
            first => (String::new(), head + first * LINE_BYTES),
        };
        let wanted = (end - begin) as usize;
        for n in first as usize..self.ranges.len() {
            if text.len() >= wanted {
                break;
            }
            text += &self.line(n);
        }
        text += TAIL;
        text.as_bytes()[(offset - begin) as usize..wanted].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn dirty(ranges: &[(u64, u64, bool)]) -> Dirty {
        let ranges = ranges.iter().map(|(start, end, zero)| (*start..*end, *zero));
        Dirty {
            ranges: ranges.collect(),
            coarse: false,
        }
    }

    #[test]
    fn what_is_changed_and_zero_is_told_as_such_and_what_is_clean_is_not_told() {
        let mut changes = Changes::of_one_in(2, 4 << 20);
        for (range, dirty, zero) in [
            (0..1 << 20, false, false),
            (1 << 20..2 << 20, true, true),
            (2 << 20..3 << 20, false, true),
            (3 << 20..4 << 20, true, false),
        ] {
            changes.add(&DirtyExtent { range, dirty, zero });
        }
        let dirty = Dirty::from(&changes.end());
        let value: Value = serde_json::from_slice(&dirty.read(0, 4096)).unwrap();
        let expected = json!([
            {"start": 1 << 20, "length": 1 << 20, "zero": true},
            {"start": 3 << 20, "length": 1 << 20, "zero": false},
        ]);
        assert_eq!(value, expected);
        assert_eq!((dirty.bytes(), dirty.coarse), (2 << 20, false));
    }

    #[test]
    fn the_text_is_json_and_any_part_of_it_is_the_same_as_in_the_whole() {
        for ranges in [
            &[][..],
            &[(0, 65536, false)],
            &[(0, 1, false), (4096, 8192, true), (u64::MAX - 1, u64::MAX, false)],
        ] {
            let dirty = dirty(ranges);
            let whole = dirty.read(0, usize::MAX);
            assert_eq!(whole.len() as u64, dirty.len());
            let value: Value = serde_json::from_slice(&whole).unwrap();
            let one = |(start, end, zero): &(u64, u64, bool)| {
                let length = end - start;
                json!({"start": start, "length": length, "zero": zero})
            };
            let expected: Vec<Value> = ranges.iter().map(one).collect();
            assert_eq!(value, Value::Array(expected));
            for offset in 0..=whole.len() + 2 {
                for size in [0, 1, 2, 79, 80, 81, 500] {
                    let from = offset.min(whole.len());
                    let to = (offset + size).min(whole.len());
                    let part = dirty.read(offset as u64, size);
                    assert_eq!(part, whole[from..to], "{size} at {offset}");
                }
            }
        }
    }
}
