//! Memory for writes: buffers that a flush or an answer frees serve the next writes.
//!
//! Pages that are returned to the kernel and allocated again are zeroed by it, with a page fault for each:
//! without this, a fast upload with a journal costs 0.12 processor seconds more for each GiB. So buffers of a
//! whole cell are kept. The memory of the table and of the kept buffers together stays within the limits that
//! the user knows: those of the write-behind and of the journal.

/// Upper bound on the buffers kept while no write is under way, in bytes: about as much as the writes after
/// the next fsync need at once.
const MAX_IDLE_BYTES: usize = 64 << 20;

/// Buffers with room for a cell each, of which nobody needs the bytes.
#[derive(Debug)]
pub(crate) struct Buffers {
    cell: usize,
    /// Upper bound on the memory of these buffers and of the table together, in bytes.
    limit: usize,
    spare: Vec<Vec<u8>>,
}

impl Buffers {
    /// Keeps no buffer yet; `cell` is the size of a cell and `limit` bounds the memory, both in bytes.
    pub(crate) fn new(cell: usize, limit: usize) -> Self {
        Buffers {
            cell,
            limit,
            spare: Vec::new(),
        }
    }

    /// Returns the memory of the kept buffers in bytes.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        self.spare.iter().map(Vec::capacity).sum()
    }

    /// Returns an empty buffer with room for a cell.
    pub(crate) fn whole(&mut self) -> Vec<u8> {
        let mut bytes = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(self.cell));
        bytes.clear();
        bytes
    }

    /// Returns a buffer as long as a cell, to be filled; its bytes are those of an earlier write, or zeros.
    pub(crate) fn filled(&mut self) -> Vec<u8> {
        let Some(mut bytes) = self.spare.pop() else {
            return vec![0; self.cell];
        };
        bytes.resize(self.cell, 0);
        bytes
    }

    /// Keeps `bytes` for [`Self::whole`] if it has room for a cell.
    pub(crate) fn recycle(&mut self, bytes: Vec<u8>) {
        if bytes.capacity() >= self.cell {
            self.spare.push(bytes);
        }
    }

    /// Frees the buffers that exceed the limit beside the `held` bytes of the table.
    pub(crate) fn trim(&mut self, held: usize) {
        let room = match held {
            0 => self.limit.min(MAX_IDLE_BYTES),
            held => self.limit.saturating_sub(held),
        };
        self.spare.truncate(room / self.cell);
    }
}
