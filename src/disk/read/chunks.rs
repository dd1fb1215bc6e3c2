//! Chunks of the disk kept for sequential readers: the read cache and the prefetches under way.
//!
//! A chunk is only worth keeping while it equals what the server will answer. So:
//! - an accepted write [taints](Chunks::taint) the chunks it touches: a kept one is dropped, one
//!   that is being fetched will not be kept and nobody may join its fetch any more;
//! - a fetch is announced with [`Chunks::begin`] *before* it looks whether a pending write touches the
//!   chunk ([`Chunks::spoil`] if so), while a write enters the pending table before it taints. So one of
//!   the two always sees the other.
//!
//! A reader takes its snapshot of the pending writes first and then comes here: whatever write it did
//! not see in the snapshot was either on the server before the fetch began, or tainted it.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;

use lru::LruCache;

use crate::sync::{Condvar, Mutex, MutexGuard};

/// Bytes of a chunk: the kernel's largest read, small enough that one isn't much waste.
pub(crate) const CHUNK_BYTES: u64 = 1 << 20;

/// Buffers kept for the next fetches: those of the requests under way.
const MAX_SPARE_BUFFERS: usize = 32;

/// One fetch; its readers wait here.
#[derive(Debug, Default)]
pub(crate) struct Fetch {
    outcome: Mutex<Option<Option<Arc<Vec<u8>>>>>,
    done: Condvar,
}

impl Fetch {
    /// Waits for the bytes; `None` when the fetch failed.
    pub(crate) fn wait(&self) -> Option<Arc<Vec<u8>>> {
        let mut outcome = self.outcome.lock();
        loop {
            match &*outcome {
                Some(bytes) => return bytes.clone(),
                None => self.done.wait(&mut outcome),
            }
        }
    }
}

#[derive(Debug)]
struct UnderWay {
    fetch: Arc<Fetch>,
    tainted: bool,
}

/// What there is of a chunk.
#[derive(Debug)]
pub(crate) enum Found {
    /// The bytes.
    Kept(Arc<Vec<u8>>),
    /// Somebody is fetching it.
    Coming(Arc<Fetch>),
    /// Nothing.
    Missing,
}

#[derive(Debug)]
struct State {
    kept: LruCache<u64, Arc<Vec<u8>>>,
    coming: HashMap<u64, UnderWay>,
    /// Memory that was used before: fresh pages cost more than the bytes that go into them.
    spare: Vec<Vec<u8>>,
}

impl State {
    fn recycle(&mut self, chunk: Arc<Vec<u8>>) {
        if self.spare.len() >= MAX_SPARE_BUFFERS.min(self.kept.cap().get() / 3) {
            return;
        }
        if let Some(buffer) = Arc::into_inner(chunk) {
            self.spare.push(buffer);
        }
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Chunks {
    state: Mutex<State>,
    capacity: usize,
    run: u64,
}

impl Chunks {
    /// Keeps at most `bytes` bytes, at least two chunks, and fetches `run` of them with one request.
    pub(crate) fn new(bytes: u64, run: u64) -> Self {
        let capacity = NonZeroUsize::new((bytes / CHUNK_BYTES) as usize).map_or(2, |n| n.get().max(2));
        let kept = LruCache::new(NonZeroUsize::new(capacity).expect("at least 2"));
        Chunks {
            state: Mutex::new(State {
                kept,
                coming: HashMap::new(),
                spare: Vec::new(),
            }),
            capacity,
            run,
        }
    }

    /// Chunks fetched with one request.
    pub(crate) fn run(&self) -> u64 {
        self.run
    }

    /// Number of chunks that can be kept.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Looks for chunk `index`.
    pub(crate) fn find(&self, index: u64) -> Found {
        let mut state = self.lock();
        if let Some(bytes) = state.kept.get(&index) {
            return Found::Kept(bytes.clone());
        }
        match state.coming.get(&index) {
            Some(under_way) if !under_way.tainted => Found::Coming(under_way.fetch.clone()),
            _ => Found::Missing,
        }
    }

    /// A sequential reader has got to the end of chunk `index`: it makes room before those that are still to be read,
    /// although they came earlier.
    pub(crate) fn consumed(&self, index: u64) {
        self.lock().kept.demote(&index);
    }

    /// Announces a fetch of each of `indexes` that is neither kept nor announced already; gives them in runs for one
    /// request each. Every one of them has to [end](Chunks::end).
    pub(crate) fn begin(&self, indexes: Range<u64>) -> Vec<Range<u64>> {
        let mut state = self.lock();
        let mut runs: Vec<Range<u64>> = Vec::new();
        for index in indexes {
            if state.kept.contains(&index) || state.coming.contains_key(&index) {
                continue;
            }
            let under_way = UnderWay {
                fetch: Arc::default(),
                tainted: false,
            };
            state.coming.insert(index, under_way);
            match runs.last_mut() {
                Some(run) if run.end == index && index % self.run != 0 => run.end += 1,
                _ => runs.push(index..index + 1),
            }
        }
        runs
    }

    /// A buffer of `len` bytes with anything in it.
    pub(crate) fn buffer(&self, len: usize) -> Vec<u8> {
        let spare = self.lock().spare.pop();
        let mut buffer = spare.unwrap_or_default();
        buffer.resize(len, 0);
        buffer
    }

    /// The fetch of chunk `index` can't be shared or kept: a pending write touches it.
    pub(crate) fn spoil(&self, index: u64) {
        if let Some(under_way) = self.lock().coming.get_mut(&index) {
            under_way.tainted = true;
        }
    }

    /// The fetch of chunk `index` has ended; `None` when it failed.
    pub(crate) fn end(&self, index: u64, bytes: Option<Arc<Vec<u8>>>) {
        let mut state = self.lock();
        let Some(under_way) = state.coming.remove(&index) else {
            return;
        };
        let replaced = match &bytes {
            Some(bytes) if !under_way.tainted => state.kept.push(index, bytes.clone()),
            _ => None,
        };
        if let Some((_, old)) = replaced {
            state.recycle(old);
        }
        drop(state);
        *under_way.fetch.outcome.lock() = Some(bytes);
        under_way.fetch.done.notify_all();
    }

    /// The bytes of `range` have changed.
    pub(crate) fn taint(&self, range: &Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (first, last) = (range.start / CHUNK_BYTES, (range.end - 1) / CHUNK_BYTES);
        let mut state = self.lock();
        if !state.kept.is_empty() {
            // A long range names more chunks than are kept.
            match (last - first) as usize > self.capacity {
                true => state.kept.clear(),
                false => (first..=last).for_each(|index| {
                    state.kept.pop(&index);
                }),
            }
        }
        for (index, under_way) in &mut state.coming {
            under_way.tainted |= (first..=last).contains(index);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    fn one(index: u64) -> Vec<Range<u64>> {
        vec![Range {
            start: index,
            end: index + 1,
        }]
    }

    #[test]
    fn a_write_drops_a_kept_chunk_and_spoils_one_under_way() {
        let chunks = Chunks::new(8 * CHUNK_BYTES, 4);
        assert_eq!(chunks.begin(0..1), one(0));
        chunks.end(0, Some(Arc::new(vec![1])));
        assert!(matches!(chunks.find(0), Found::Kept(_)));
        assert_eq!(chunks.begin(0..2), one(1));
        assert_eq!(chunks.begin(1..2), [], "one fetch at a time");
        let Found::Coming(fetch) = chunks.find(1) else {
            panic!("it was announced")
        };
        chunks.taint(&(CHUNK_BYTES - 1..CHUNK_BYTES + 1));
        assert!(matches!(chunks.find(0), Found::Missing));
        assert!(
            matches!(chunks.find(1), Found::Missing),
            "who comes after the write doesn't join"
        );
        chunks.end(1, Some(Arc::new(vec![2])));
        assert_eq!(
            fetch.wait().unwrap()[..],
            [2],
            "who came before it may have the bytes"
        );
        assert!(matches!(chunks.find(1), Found::Missing), "and they are not kept");
    }

    #[test]
    fn what_was_read_to_its_end_makes_room_before_what_was_not_read_yet() {
        let chunks = Chunks::new(3 * CHUNK_BYTES, 4);
        chunks.begin(0..4);
        (0..3).for_each(|index| chunks.end(index, Some(Arc::default())));
        assert!(matches!(chunks.find(0), Found::Kept(_)));
        chunks.consumed(0);
        chunks.end(3, Some(Arc::default()));
        let kept: Vec<u64> = (0..4)
            .filter(|&index| matches!(chunks.find(index), Found::Kept(_)))
            .collect();
        assert_eq!(kept, [1, 2, 3]);
    }

    #[test]
    fn a_run_is_one_request_and_never_crosses_its_place() {
        let chunks = Chunks::new(64 * CHUNK_BYTES, 4);
        assert_eq!(chunks.begin(5..6), one(5));
        assert_eq!(chunks.begin(2..13), [2..4, 4..5, 6..8, 8..12, 12..13]);
    }

    #[test]
    fn the_cache_is_bounded() {
        let chunks = Chunks::new(3 * CHUNK_BYTES, 4);
        for index in 0..10 {
            assert_eq!(chunks.begin(index..index + 1).len(), 1);
            chunks.end(index, Some(Arc::new(vec![0])));
        }
        let kept = (0..10)
            .filter(|&i| matches!(chunks.find(i), Found::Kept(_)))
            .count();
        assert_eq!(kept, 3);
    }
}
