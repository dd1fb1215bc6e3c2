//! Learns once, when the disk is opened, what the server knows to be zero.
//!
//! One thread asks, beside the first reads and writes, and where the server allows it on a connection of its own: an fsync
//! would wait for one of the pool's. Whatever is pending when it starts, or changes before the answer
//! is here, counts as data: the answer may be older than the change. Who needs the map ([`known`]) waits for it; zeros
//! that are written in the first moment wait a little ([`known_soon`]), since on a new disk they then need no request.
//! The thread always leaves a map behind, if only an empty one.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::DiskOptions;
use super::write::WriteBehind;
use super::zeros::map::ZeroMap;
use crate::pool::Pool;
use crate::sync::Instant;
use crate::sync::thread::{self, JoinHandle};

/// The largest unit that a backend rounds a disk's size up to, bytes: a qcow2 cluster.
const MAX_ROUNDING_BYTES: u64 = 2 << 20;

/// Zeros that are written sooner than this after the disk was opened wait for the map until then.
const MAX_FIRST_WAIT: Duration = Duration::from_secs(1);

/// The extents of a disk, on their way or here.
#[derive(Debug)]
pub(super) struct Extents {
    writes: Arc<WriteBehind>,
    asked: Instant,
}

impl Extents {
    /// Asks for the extents of a disk of `size` bytes, where the server can tell.
    pub(super) fn ask(
        pool: &Arc<Pool>,
        writes: &Arc<WriteBehind>,
        size: u64,
        options: &DiskOptions,
    ) -> std::io::Result<(Extents, Option<JoinHandle<()>>)> {
        let extents = Extents {
            writes: writes.clone(),
            asked: Instant::now(),
        };
        if !options.extents {
            writes.learn_zeros(ZeroMap::default());
            return Ok((extents, None));
        }
        writes.expect_zeros();
        let (pool, writes, own_connection) = (pool.clone(), writes.clone(), options.spare_connection);
        let builder = thread::Builder::new().name("extents".into());
        let thread = builder.spawn(move || {
            let mut learning = Learning {
                writes,
                map: ZeroMap::default(),
            };
            learning.map = load(&pool, size, own_connection);
        })?;
        Ok((extents, Some(thread)))
    }

    /// Waits until the map is here; at most as long as the request for it may take, or until the disk closes.
    pub(super) fn known(&self) {
        self.writes.await_zeros(None);
    }

    /// Waits until the map is here, or [`MAX_FIRST_WAIT`] is over.
    pub(super) fn known_soon(&self) {
        self.writes.await_zeros(Some(self.asked + MAX_FIRST_WAIT));
    }
}

/// Whoever waits for the map gets one also when its thread panics.
struct Learning {
    writes: Arc<WriteBehind>,
    map: ZeroMap,
}

impl Drop for Learning {
    fn drop(&mut self) {
        self.writes.learn_zeros(std::mem::take(&mut self.map));
    }
}

fn load(pool: &Pool, size: u64, own_connection: bool) -> ZeroMap {
    let (mut map, mut reach) = (ZeroMap::default(), 0);
    let asked = pool.extents(own_connection, &mut |extent| {
        if extent.start == 0 {
            map = ZeroMap::default();
        }
        reach = extent.start + extent.length;
        if extent.zero {
            map.insert(extent.start..reach);
        }
    });
    // The backend may round the size up to its block; more than that isn't this disk.
    if reach > size.next_multiple_of(MAX_ROUNDING_BYTES) {
        warn!("the extents reach to {reach}, beyond the disk: all counts as data");
        return ZeroMap::default();
    }
    if let Err(e) = asked {
        warn!("holes are not known, all counts as data: {e}");
        return ZeroMap::default();
    }
    map.remove(size..u64::MAX);
    map
}
