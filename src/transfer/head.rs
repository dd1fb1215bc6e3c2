//! The head of a raw disk whose upload is to be finalized without the mount that wrote it: the engine removes
//! a raw disk that begins like an image of another format (see `disk::head`).

use std::path::Path;
use std::time::Duration;

use tracing::info;

use super::note::Note;
use crate::disk::{HEAD_BYTES, ImageFormat, detect};
use crate::engine::{Direction, Engine, Interrupt, Phase, Transfer};
use crate::failure::{Exit, Failure};
use crate::imageio::{Endpoint, Image, TransferUrl};
use crate::remote::Remote;
use crate::trust::Trust;

/// Longest silence of the server, which has 512 bytes to send.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Returns the image format for which the engine would remove the disk, if it were asked to finalize the
/// upload. Where the disk can't be read, not even after a resume, which prolongs the ticket, the note tells
/// what was there when it was mounted: the mount lets nobody write another such head.
pub(crate) fn in_the_way(
    engine: &Engine,
    note: &Note,
    transfer: &Transfer,
) -> Result<Option<String>, Failure> {
    if note.snapshot || note.direction == Direction::Download {
        return Ok(None);
    }
    if !engine.disk(&note.disk_id)?.is_some_and(|disk| disk.raw) {
        return Ok(None);
    }
    let mut seen = look(transfer, &note.trust);
    if let (Err(e), Phase::Paused(_)) = (&seen, &transfer.phase) {
        info!(
            "resuming transfer {}, to read the head of its disk: {e}",
            transfer.id
        );
        let resumed = engine.wait_for_transferring(transfer.clone());
        let resumed = resumed.and_then(|transfer| engine.wait_for_urls(transfer, &Interrupt::default()));
        if let Ok(resumed) = resumed {
            seen = look(&resumed, &note.trust);
        }
    }
    Ok(match seen {
        Ok(format) => format.map(|format| format.to_string()),
        Err(e) => {
            info!("the head of the disk can't be read: {e}");
            note.head.clone()
        }
    })
}

/// Reads the head of the disk that `transfer` has open, straight from the host or through the engine's proxy,
/// and returns the format as which it is detected, if not as raw.
fn look(transfer: &Transfer, trust: &Trust) -> Result<Option<ImageFormat>, Failure> {
    let urls = [&transfer.transfer_url, &transfer.proxy_url];
    let mut failure = Failure::text(Exit::Transfer, format!("transfer {} has no URL", transfer.id));
    for url in urls.into_iter().flatten() {
        match read(url, trust) {
            Ok(head) => return Ok(detect(&head)),
            Err(e) => failure = e,
        }
    }
    Err(failure)
}

fn read(url: &str, trust: &Trust) -> Result<[u8; HEAD_BYTES], Failure> {
    let (image, mut client) = Image::open(&Endpoint {
        url: TransferUrl::parse(url)?,
        trust: trust.clone(),
        unix_socket: true,
        timeout: TIMEOUT,
    })?;
    let mut head = [0; HEAD_BYTES];
    let n = image.size().min(HEAD_BYTES as u64) as usize;
    client.read(0, &mut [&mut head[..n]])?;
    Ok(head)
}

/// Says what a finalize would do.
pub(super) fn danger(format: &str) -> String {
    format!(
        "the disk is raw and begins like a {format} image: the engine, which detects the format, would \
         remove the disk"
    )
}

/// Warns before anything is written.
pub(super) fn warning(disk: &str, format: &str) -> String {
    format!(
        "warning: {disk}: {}. Unless its first 512 bytes are others when it is unmounted, the transfer is \
         left paused and the disk locked. To keep them, save them now (`dd bs=512 count=1`), put zeros in \
         their place, and write them back from within a virtual machine",
        danger(format)
    )
}

/// Says what a finalize would do, and what can be done instead.
pub(crate) fn way_out(format: &str, mountpoint: &Path) -> String {
    format!(
        "{}. It is kept, locked. Write other bytes over its first 512 through the transfer (its URL, as the \
         engine shows it, is good for --transfer-url) and run `rhv-mount recover --finalize {}`; or let the \
         engine's administrator unlock the disk (unlock_entity.sh)",
        danger(format),
        mountpoint.display()
    )
}
