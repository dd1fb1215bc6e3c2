//! Whether the server takes writes to a part of the image, found out before a program writes.
//!
//! imageio does. Apache CloudStack's image server has a backend that takes a whole image only, and tells so
//! by its refusal of the first write. It offers `flush`, and neither `zero` nor `extents`, which each imageio
//! that flushes has, so only such servers are tried: with the first bytes of the image, which are read and
//! written again. Nobody else writes meanwhile, since an upload has its disk alone; and a write that gets no
//! answer ends the start, since it could still be performed over what is written later.

use crate::failure::{Exit, Failure};
use crate::imageio::{Client, Image};
use crate::remote::{Remote, RemoteError};

/// Bytes that are written again: a block of any storage.
const TRIED_BYTES: u64 = 4096;

/// Fails if the server of `image` refuses a write that is not the whole image. Called once, on the first
/// connection of a disk that is to be written.
pub(super) fn try_out(image: &Image, first: &mut Client) -> Result<(), Failure> {
    let can = image.capabilities();
    let length = image.size().min(TRIED_BYTES);
    // A write of the whole image would be taken.
    let doubtful = can.write && can.flush && !can.zero && !can.extents && length < image.size();
    if !doubtful {
        return Ok(());
    }
    let mut bytes = vec![0; length as usize];
    if first.read(0, &mut [&mut bytes]).is_err() {
        // Whatever it is, the first read of a program meets it with all its patience.
        return Ok(());
    }
    match first.write(0, &[&bytes]) {
        Ok(()) => Ok(first.flush()?),
        Err(error @ (RemoteError::Garbled(_) | RemoteError::Protocol(_))) => Err(Failure::text(
            Exit::Transfer,
            format!(
                "the server {} does not take writes to a part of the image ({error}): mount it with \
                 --read-only, or send the whole image by a tool of that server's platform",
                image.host()
            ),
        )),
        Err(error) => Err(error.into()),
    }
}
