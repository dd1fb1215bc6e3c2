//! Memory for writes: what a flush or an answer frees serves the next ones.
//!
//! Pages that are given back and asked for again come zeroed by the kernel, one fault each: without this, 0.12 processor
//! seconds for each GiB of a fast upload with a journal. So buffers of a whole cell are kept, but never more than what the table holds and what is
//! kept add up to the limits that the user knows: of the write-behind and of the journal.

/// Bytes kept while nothing is under way; what the writes after the next fsync need at once.
const MAX_IDLE_BYTES: usize = 64 << 20;

/// Empty buffers of a cell.
#[derive(Debug)]
pub(crate) struct Buffers {
    cell: usize,
    /// Bytes of memory that these and what the table holds may take.
    limit: usize,
    spare: Vec<Vec<u8>>,
}

impl Buffers {
    /// Buffers of `cell` bytes.
    pub(crate) fn new(cell: usize, limit: usize) -> Self {
        Buffers {
            cell,
            limit,
            spare: Vec::new(),
        }
    }

    /// Bytes of memory kept.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        self.spare.iter().map(Vec::capacity).sum()
    }

    /// An empty buffer with room for a cell.
    pub(crate) fn whole(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_else(|| Vec::with_capacity(self.cell))
    }

    /// Keeps `bytes` for [`Self::whole`], if they have room for a cell.
    pub(crate) fn recycle(&mut self, mut bytes: Vec<u8>) {
        if bytes.capacity() >= self.cell {
            bytes.clear();
            self.spare.push(bytes);
        }
    }

    /// Gives back what is too much beside the `held` bytes of the table.
    pub(crate) fn trim(&mut self, held: usize) {
        let room = match held {
            0 => self.limit.min(MAX_IDLE_BYTES),
            held => self.limit.saturating_sub(held),
        };
        self.spare.truncate(room / self.cell);
    }
}
