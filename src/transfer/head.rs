//! The head of a raw disk whose upload is to be finalized without the mount that wrote it: the engine removes
//! a raw disk that begins like an image of another format (see `disk::head`).

use std::fmt;
use std::path::Path;
use std::time::Duration;

use tracing::info;

use super::note::Note;
use crate::disk::{HEAD_BYTES, ImageFormat, detect};
use crate::engine::{self, Direction, Engine, Interrupt, Phase, Transfer};
use crate::failure::{Exit, Failure};
use crate::imageio::{Endpoint, Image, TransferUrl};
use crate::remote::Remote;
use crate::trust::Trust;

/// Longest silence of the server, which has 512 bytes to send.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The reason why the engine may remove the disk when it is asked to finalize the upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Danger {
    /// The disk begins like an image of this format.
    Like(String),
    /// Nobody could look at its first bytes.
    Unseen,
}

impl fmt::Display for Danger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Danger::Like(format) => write!(
                f,
                "the disk is raw and begins like a {format} image: the engine, which detects the format, would \
                 remove the disk"
            ),
            Danger::Unseen => f.write_str(
                "the disk is raw, and its first bytes could not be read: if they begin like an image of another \
                 format, the engine, which detects the format, would remove the disk",
            ),
        }
    }
}

/// Returns why the upload that a killed mount has left must not be finalized. Where the disk can't be read,
/// not even after a resume, which prolongs the ticket, the note tells what was there when it was mounted: the
/// mount lets nobody write another such head. A mount that was killed before it had looked has left nothing
/// that tells; with `at_all_costs` that is no reason.
pub(crate) fn in_the_way(
    engine: &Engine,
    note: &Note,
    transfer: &Transfer,
    at_all_costs: bool,
) -> Result<Option<Danger>, Failure> {
    if note.snapshot || note.direction == Direction::Download {
        return Ok(None);
    }
    if !engine.disk(&note.disk_id)?.is_some_and(|disk| disk.raw) {
        return Ok(None);
    }
    let trust = note.imageio_trust.as_ref().unwrap_or(&note.trust);
    let mut seen = look(transfer, trust);
    if let (Err(e), Phase::Paused(_)) = (&seen, &transfer.phase) {
        info!(
            "resuming transfer {}, to read the head of its disk: {e}",
            transfer.id
        );
        if let Ok(resumed) = resume(engine, transfer) {
            seen = look(&resumed, trust);
        }
    }
    Ok(match seen {
        Ok(format) => format.map(|format| Danger::Like(format.to_string())),
        Err(e) => {
            info!("the head of the disk can't be read: {e}");
            match &note.head {
                Some(format) => Some(Danger::Like(format.clone())),
                None => (!note.looked && !at_all_costs).then_some(Danger::Unseen),
            }
        }
    })
}

/// Resumes a transfer that is about to be ended, whoever has paused it.
fn resume(engine: &Engine, transfer: &Transfer) -> Result<Transfer, engine::Error> {
    engine.resume(&transfer.id)?;
    let seen = engine.transfer(&transfer.id)?.unwrap_or_else(|| transfer.clone());
    engine.wait_for_urls(engine.wait_for_transferring(seen)?, &Interrupt::default())
}

/// Reads the head of the disk that `transfer` has open, straight from the host or through the engine's proxy,
/// and returns the format as which it is detected, if not as raw.
pub(super) fn look(transfer: &Transfer, trust: &Trust) -> Result<Option<ImageFormat>, Failure> {
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
        // Nobody asks for its extents.
        connections: usize::MAX,
    })?;
    let mut head = [0; HEAD_BYTES];
    let n = image.size().min(HEAD_BYTES as u64) as usize;
    client.read(0, &mut [&mut head[..n]])?;
    Ok(head)
}

/// Warns before anything is written.
pub(super) fn warning(disk: &str, danger: &Danger) -> String {
    format!(
        "warning: {disk}: {danger}. Unless its first 512 bytes are others when it is unmounted, the transfer \
         is left paused and the disk locked. To keep them, save them now (`dd bs=512 count=1`), put zeros in \
         their place, and write them back from within a virtual machine"
    )
}

/// Says what a finalize would do, and what can be done instead.
pub(crate) fn way_out(danger: &Danger, mountpoint: &Path) -> String {
    let recover = format!("`rhv-mount recover --finalize {}`", mountpoint.display());
    match danger {
        Danger::Like(_) => format!(
            "{danger}. It is kept, locked. Resume the transfer in the engine, write other bytes over the disk's \
             first 512 through it (its URL, as the engine shows it, is good for --transfer-url), and run \
             {recover}; or let the engine's administrator unlock the disk (unlock_entity.sh)"
        ),
        Danger::Unseen => format!(
            "{danger}. It is kept, locked. {recover} looks again; where it can't look either, it finalizes the \
             upload all the same, since you say so"
        ),
    }
}
