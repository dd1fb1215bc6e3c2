//! Chunks of the disk for sequential readers: the read cache, and the fetches under way.
//!
//! A chunk may only be kept while it equals the bytes that the server would answer. So:
//! - an accepted write [taints](Chunks::taint) the chunks that it touches: a kept chunk is dropped, and a
//!   chunk that is being fetched will neither be kept nor be shared with further readers;
//! - a fetch is announced with [`Chunks::begin`] *before* it checks whether a pending write touches the chunk
//!   (and then calls [`Chunks::spoil`]), while a write enters the pending table before it taints. So one of
//!   the two always sees the other.
//!
//! A reader takes its snapshot of the pending writes first and then looks for chunks: a write that its
//! snapshot lacks was either on the server before the fetch began, or has tainted it.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;

use lru::LruCache;

use crate::sync::{Condvar, Mutex, MutexGuard};

/// Size of a chunk in bytes: the kernel's largest read, and small enough that an unused chunk isn't much
/// waste.
pub(crate) const CHUNK_BYTES: u64 = 1 << 20;

/// Upper bound on the buffers kept for the next fetches: about those of the requests under way.
const MAX_SPARE_BUFFERS: usize = 32;

/// One fetch, on which its readers wait.
#[derive(Debug, Default)]
pub(crate) struct Fetch {
    /// `None` until the fetch has ended, then the bytes, or `None` when it failed.
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

/// The state of a chunk.
#[derive(Debug)]
pub(crate) enum Found {
    /// It is kept.
    Kept(Arc<Vec<u8>>),
    /// It is being fetched.
    Coming(Arc<Fetch>),
    /// It is neither kept nor being fetched to be shared.
    Missing,
}

#[derive(Debug)]
struct State {
    kept: LruCache<u64, Arc<Vec<u8>>>,
    coming: HashMap<u64, UnderWay>,
    /// Used buffers: fresh pages cost more than copying bytes into them.
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

/// The kept chunks and those under way, behind a lock of their own.
#[derive(Debug)]
pub(crate) struct Chunks {
    state: Mutex<State>,
    /// Upper bound on the number of kept chunks.
    capacity: usize,
    /// Number of chunks fetched with one request.
    run: u64,
}

impl Chunks {
    /// Keeps at most `bytes` bytes, but at least two chunks; one request fetches at most `run` chunks.
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

    /// Returns how many chunks one request fetches at most.
    pub(crate) fn run(&self) -> u64 {
        self.run
    }

    /// Returns how many chunks can be kept.
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

    /// Notes that a sequential reader has reached the end of chunk `index`: it makes room before chunks that
    /// are still to be read, even if those came earlier.
    pub(crate) fn consumed(&self, index: u64) {
        self.lock().kept.demote(&index);
    }

    /// Announces a fetch of each chunk in `indexes` that is neither kept nor announced already. Returns them
    /// in runs, each for one request, which never cross a multiple of [`Chunks::run`]. Every one of them has
    /// to [end](Chunks::end).
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

    /// Returns a buffer of `len` bytes with arbitrary content.
    pub(crate) fn buffer(&self, len: usize) -> Vec<u8> {
        let spare = self.lock().spare.pop();
        let mut buffer = spare.unwrap_or_default();
        buffer.resize(len, 0);
        buffer
    }

    /// Keeps the fetch of chunk `index` from being shared or kept, since a pending write touches the chunk.
    pub(crate) fn spoil(&self, index: u64) {
        if let Some(under_way) = self.lock().coming.get_mut(&index) {
            under_way.tainted = true;
        }
    }

    /// Ends the fetch of chunk `index`; `bytes` is `None` when it failed.
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

    /// Notes that the bytes of `range` have changed.
    pub(crate) fn taint(&self, range: &Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (first, last) = (range.start / CHUNK_BYTES, (range.end - 1) / CHUNK_BYTES);
        let mut state = self.lock();
        if !state.kept.is_empty() {
            // A long range has more chunks than are kept.
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
            "a reader after the write doesn't share it"
        );
        chunks.end(1, Some(Arc::new(vec![2])));
        assert_eq!(
            fetch.wait().unwrap()[..],
            [2],
            "a reader before the write may have the bytes"
        );
        assert!(matches!(chunks.find(1), Found::Missing), "and they are not kept");
    }

    #[test]
    fn chunks_read_to_their_end_make_room_before_those_not_read_yet() {
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
