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
use std::sync::{Arc, Condvar, Mutex};

use lru::LruCache;

/// Bytes of a chunk: a whole number of kernel reads, small enough that one isn't much waste.
pub(super) const CHUNK: u64 = 1 << 20;

/// One fetch; its readers wait here.
#[derive(Debug, Default)]
pub(super) struct Fetch {
    outcome: Mutex<Option<Option<Arc<Vec<u8>>>>>,
    done: Condvar,
}

impl Fetch {
    /// Waits for the bytes; `None` when the fetch failed.
    pub(super) fn wait(&self) -> Option<Arc<Vec<u8>>> {
        let mut outcome = self.outcome.lock().unwrap_or_else(|e| e.into_inner());
        loop {
            match &*outcome {
                Some(bytes) => return bytes.clone(),
                None => outcome = self.done.wait(outcome).unwrap_or_else(|e| e.into_inner()),
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
pub(super) enum Found {
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
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Chunks {
    state: Mutex<State>,
    capacity: usize,
}

impl Chunks {
    /// Keeps at most `bytes` bytes, at least two chunks.
    pub(super) fn new(bytes: u64) -> Self {
        let capacity = NonZeroUsize::new((bytes / CHUNK) as usize).map_or(2, |n| n.get().max(2));
        let kept = LruCache::new(NonZeroUsize::new(capacity).expect("at least 2"));
        Chunks {
            state: Mutex::new(State {
                kept,
                coming: HashMap::new(),
            }),
            capacity,
        }
    }

    /// Number of chunks that can be kept.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Looks for chunk `index`.
    pub(super) fn find(&self, index: u64) -> Found {
        let mut state = self.lock();
        if let Some(bytes) = state.kept.get(&index) {
            return Found::Kept(bytes.clone());
        }
        match state.coming.get(&index) {
            Some(under_way) if !under_way.tainted => Found::Coming(under_way.fetch.clone()),
            _ => Found::Missing,
        }
    }

    /// Announces a fetch of chunk `index`, unless it is kept or announced already.
    pub(super) fn begin(&self, index: u64) -> Option<Arc<Fetch>> {
        let mut state = self.lock();
        if state.kept.contains(&index) || state.coming.contains_key(&index) {
            return None;
        }
        let fetch = Arc::new(Fetch::default());
        state.coming.insert(
            index,
            UnderWay {
                fetch: fetch.clone(),
                tainted: false,
            },
        );
        Some(fetch)
    }

    /// The fetch of chunk `index` can't be shared or kept: a pending write touches it.
    pub(super) fn spoil(&self, index: u64) {
        if let Some(under_way) = self.lock().coming.get_mut(&index) {
            under_way.tainted = true;
        }
    }

    /// The fetch of chunk `index` has ended; `None` when it failed.
    pub(super) fn end(&self, index: u64, bytes: Option<Arc<Vec<u8>>>) {
        let mut state = self.lock();
        let Some(under_way) = state.coming.remove(&index) else {
            return;
        };
        if let (Some(bytes), false) = (&bytes, under_way.tainted) {
            state.kept.put(index, bytes.clone());
        }
        drop(state);
        *under_way.fetch.outcome.lock().unwrap_or_else(|e| e.into_inner()) = Some(bytes);
        under_way.fetch.done.notify_all();
    }

    /// The bytes of `range` have changed.
    pub(super) fn taint(&self, range: &Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (first, last) = (range.start / CHUNK, (range.end - 1) / CHUNK);
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

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_drops_a_kept_chunk_and_spoils_one_under_way() {
        let chunks = Chunks::new(8 * CHUNK);
        chunks.begin(0).unwrap();
        chunks.end(0, Some(Arc::new(vec![1])));
        assert!(matches!(chunks.find(0), Found::Kept(_)));
        let fetch = chunks.begin(1).unwrap();
        assert!(chunks.begin(1).is_none(), "one fetch at a time");
        assert!(matches!(chunks.find(1), Found::Coming(_)));
        chunks.taint(&(CHUNK - 1..CHUNK + 1));
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
    fn the_cache_is_bounded() {
        let chunks = Chunks::new(3 * CHUNK);
        for index in 0..10 {
            chunks.begin(index).unwrap();
            chunks.end(index, Some(Arc::new(vec![0])));
        }
        let kept = (0..10)
            .filter(|&i| matches!(chunks.find(i), Found::Kept(_)))
            .count();
        assert_eq!(kept, 3);
    }
}
