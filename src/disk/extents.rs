//! Learns once, when the disk is opened, which ranges the server knows to be zero.
//!
//! A thread asks beside the first reads and writes, if possible on a connection of its own: an fsync would
//! wait for one of the pool's. Ranges that are pending when it starts, or change before the answer arrives,
//! count as data, since the answer may be older than the change. Callers that need the map wait for it
//! ([`Extents::known`]). Zeros that are written, and large reads, right after opening wait for a moment
//! ([`Extents::known_soon`]), since on a new disk the former then cost no request, and the latter fetch no
//! hole; a truncate, which may zero the
//! whole disk, waits for longer ([`Extents::known_in_time`]). The thread always leaves a map behind, even if
//! it is empty.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::write::WriteBehind;
use super::zeros::map::ZeroMap;
use super::{DiskError, DiskOptions, caller};
use crate::pool::Pool;
use crate::sync::Instant;
use crate::sync::thread::{self, JoinHandle};

/// Upper bound on the unit to which a backend rounds up a disk's size, in bytes: a qcow2 cluster.
const MAX_ROUNDING_BYTES: u64 = 2 << 20;

/// Time after opening until which the first written zeros and the first large reads wait for the map.
pub(super) const MAX_MAP_WAIT: Duration = Duration::from_secs(1);

/// Time after opening until which a truncate, and a discard of a long range, wait for the map. What takes
/// longer is a list of millions of extents; zeroing that disk as a whole is then no worse.
const MAX_MAP_WAIT_TO_ZERO: Duration = Duration::from_secs(60);

/// The extents of a disk: requested, or known.
#[derive(Debug)]
pub(super) struct Extents {
    writes: Arc<WriteBehind>,
    asked: Instant,
}

impl Extents {
    /// Asks for the extents of a disk of `size` bytes, if the server can list them; returns the thread that
    /// asks.
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

    /// Waits until the map is known, or its request has failed, or the disk closes.
    pub(super) fn known(&self) {
        self.writes.await_zeros(None);
    }

    /// Waits until the map is known, until [`MAX_MAP_WAIT_TO_ZERO`] after opening. Fails where the caller has
    /// gone by then: without the map the whole range would be zeroed, and for nobody.
    pub(super) fn known_in_time(&self) -> Result<(), DiskError> {
        self.writes.await_zeros(Some(self.asked + MAX_MAP_WAIT_TO_ZERO));
        match caller::is_gone() {
            true => Err(DiskError::Abandoned),
            false => Ok(()),
        }
    }

    /// Waits until the map is known, until [`MAX_MAP_WAIT`] after opening.
    pub(super) fn known_soon(&self) {
        self.writes.await_zeros(Some(self.asked + MAX_MAP_WAIT));
    }
}

/// Publishes the map when it is dropped, so that waiters get one even if the thread panics.
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
            (map, reach) = (ZeroMap::default(), 0);
        }
        let end = extent.start + extent.length;
        reach = end.max(reach);
        match extent.zero {
            true => map.insert(extent.start..end),
            false => map.remove(extent.start..end),
        }
    });
    // The backend may round the size up to its block; larger extents belong to another disk.
    if reach > size.next_multiple_of(MAX_ROUNDING_BYTES) {
        warn!("the extents reach to {reach}, beyond the disk: everything counts as data");
        return ZeroMap::default();
    }
    if let Err(e) = asked {
        warn!("holes are not known, everything counts as data: {e}");
        return ZeroMap::default();
    }
    map.remove(size..u64::MAX);
    map
}
