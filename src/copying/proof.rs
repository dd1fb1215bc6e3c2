//! `--verify`: the bytes that a copy moves are hashed as they pass, and compared with the disk on its
//! storage.
//!
//! The copying threads give each byte to the [`Proof`], the holes included. Blocks whose parts were too far
//! apart to be held are read again at the end. An upload is compared between the last flush and the end of
//! its disk, as with a mount, so that a disk which differs does not end as a good one; a download before its
//! image gets its name.

use std::sync::Arc;

use super::CopyError;
use super::outcome::Proven;
use crate::block_hash::{Hasher, Method, Watch};
use crate::failure::Failure;
use crate::open_disk::{self, Expected, OpenDisk};
use crate::output::inform;

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

    /// Takes bytes that are copied.
    pub(super) fn data(&self, offset: u64, bytes: &[u8]) {
        self.hasher.data(offset, bytes);
    }

    /// Takes zeros that are copied, or left out of the copy as a hole.
    pub(super) fn zero(&self, offset: u64, length: u64) {
        self.hasher.zero(offset, length);
    }

    /// Has `read` read the blocks again that could not be held.
    pub(super) fn complete(
        &self,
        read: impl Fn(&mut [u8], u64) -> Result<(), CopyError>,
    ) -> Result<(), CopyError> {
        let mut bytes = Vec::new();
        while let Some(range) = self.hasher.missing() {
            bytes.resize((range.end - range.start) as usize, 0);
            read(&mut bytes, range.start)?;
            self.hasher.data(range.start, &bytes);
        }
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
