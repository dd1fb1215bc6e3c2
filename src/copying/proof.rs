//! `--verify`: the bytes that a copy moves are hashed as they pass, and compared with the disk on its
//! storage.
//!
//! The copying threads give each byte to the [`Proof`], the holes included. A block whose parts were too far
//! apart to be held is read again by the next thread that looks. An upload is compared between the last flush
//! and the end of its disk, as with a mount, so that a disk which differs does not end as a good one; a
//! download before its image gets its name.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::CopyError;
use super::outcome::Proven;
use crate::block_hash::{Hasher, Method, Watch};
use crate::failure::Failure;
use crate::open_disk::{self, Expected, OpenDisk};
use crate::output::inform;

/// The pause between two looks whether the bytes have come that all others wait for.
const GAP_PAUSE: Duration = Duration::from_millis(10);

/// See the head of this file.
#[derive(Clone)]
pub(super) struct Proof {
    hasher: Arc<Hasher>,
    watch: Arc<Watch>,
    proven: Proven,
}

impl Proof {
    /// Begins the proof of a disk of `size` bytes.
    pub(super) fn begin(size: u64) -> Proof {
        let Method {
            algorithm,
            block_size,
        } = Method::default();
        Proof {
            hasher: Arc::new(Hasher::new(algorithm, block_size, size)),
            watch: Arc::default(),
            proven: Proven::default(),
        }
    }

    /// Size in bytes of the blocks of its hash.
    pub(super) fn block_size(&self) -> u64 {
        Method::default().block_size
    }

    /// Takes bytes that are copied.
    pub(super) fn data(&self, offset: u64, bytes: &[u8]) {
        self.hasher.data(offset, bytes);
    }

    /// Takes zeros that are copied, or left out of the copy as a hole.
    pub(super) fn zero(&self, offset: u64, length: u64) {
        self.hasher.zero(offset, length);
    }

    /// Has `read` read the blocks again that could not be held, and waits while more than enough was copied
    /// before bytes that another thread is at. Parts are taken in order, so that one never waits for this.
    pub(super) fn keep_up(
        &self,
        stop: &AtomicBool,
        read: impl Fn(&mut [u8], u64) -> Result<(), CopyError>,
    ) -> Result<(), CopyError> {
        loop {
            while let Some(range) = self.hasher.take_given_up() {
                self.read_again(range, &read)?;
            }
            if !self.hasher.is_far_ahead() || stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            std::thread::sleep(GAP_PAUSE);
        }
    }

    /// Has `read` read what is missing now that all is copied.
    pub(super) fn complete(
        &self,
        read: impl Fn(&mut [u8], u64) -> Result<(), CopyError>,
    ) -> Result<(), CopyError> {
        while let Some(range) = self.hasher.missing() {
            self.read_again(range, &read)?;
        }
        Ok(())
    }

    fn read_again(
        &self,
        range: Range<u64>,
        read: impl Fn(&mut [u8], u64) -> Result<(), CopyError>,
    ) -> Result<(), CopyError> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        read(&mut bytes, range.start)?;
        self.hasher.data(range.start, &bytes);
        Ok(())
    }

    /// Stops a comparison that goes on.
    pub(super) fn stop(&self) {
        self.watch.stop();
    }

    /// The place of the hash that both sides are found to have.
    pub(super) fn proven(&self) -> Proven {
        self.proven.clone()
    }

    /// Compares the disk with what was copied, which messages call `name`.
    pub(super) fn compare(&self, disk: &Arc<OpenDisk>, name: &str) -> Result<(), Failure> {
        let proven = disk.verify(
            Expected::Hashed(&self.hasher, name),
            self.hasher.method(),
            &self.watch,
        )?;
        inform(proven.told(name));
        let _ = self.proven.set(proven.checksum);
        Ok(())
    }

    /// The same for the end of the disk.
    pub(super) fn at_the_end(self, name: String) -> open_disk::Proof {
        open_disk::Proof {
            watch: self.watch.clone(),
            prove: Box::new(move |disk| self.compare(disk, &name)),
        }
    }
}
