//! Local images, as bytes to be hashed.

use super::bytes::{Bytes, Run};
use crate::failure::{Exit, Failure};
use crate::images::{ImageError, Source};

fn unreadable(error: ImageError) -> Failure {
    Failure::text(Exit::Other, error)
}

impl Bytes for Source {
    fn size(&self) -> u64 {
        Source::size(self)
    }

    fn run_at(&self, offset: u64) -> Result<Run, Failure> {
        let extent = self.extent_at(offset).map_err(unreadable)?;
        Ok(Run {
            length: extent.length,
            zero: extent.zero,
        })
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Failure> {
        Source::read_at(self, buf, offset).map_err(unreadable)
    }
}
