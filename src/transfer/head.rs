//! The head of a raw disk whose upload is to be finalized by somebody who has not watched it: `recover`, or a
//! run that could not open the disk. The engine removes a raw disk that begins like an image of another
//! format (see `disk::head`), and a cancel removes it in any case. So the head is looked at over the transfer
//! itself, and where nobody can do that, the transfer is left as it is.

use std::fmt;
use std::time::Duration;

use tracing::{info, warn};

use super::cause::Cause;
use super::note::Note;
use crate::disk::{HEAD_BYTES, ImageFormat, detect};
use crate::engine::{self, Direction, Engine, Interrupt, Patience, Phase, Transfer};
use crate::failure::{Exit, Failure};
use crate::imageio::{Endpoint, Image, TransferUrl};
use crate::logging::plain;
use crate::remote::Remote;
use crate::trust::Trust;

/// Longest silence of the server, which has 512 bytes to send.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Longest wait for a transfer that is not ready: two looks of the engine, 10 s apart.
const READY_LIMIT: Duration = Duration::from_secs(25);

/// The reason why the engine may remove the disk when it is asked to finalize the upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Danger {
    /// The disk begins like an image of this format.
    Like(String),
    /// Nobody could look at its first bytes.
    Unseen,
}

impl Danger {
    /// The reason why the transfer is left then.
    pub(crate) fn cause(&self) -> Cause {
        match self {
            Danger::Like(_) => Cause::OtherHead,
            Danger::Unseen => Cause::HeadUnseen,
        }
    }
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

/// Returns why the upload `transfer`, which others than this process have had open or nobody, must not be
/// finalized. Where the disk can't be read, not even after a resume, which prolongs the ticket, the note
/// tells what was there when it was mounted: the mount lets nobody write another such head. A mount that was
/// gone before it had looked has left nothing that tells; with `at_all_costs` that is no reason.
pub(crate) fn in_the_way(
    engine: &Engine,
    note: &Note,
    transfer: &Transfer,
    at_all_costs: bool,
) -> Result<Option<Danger>, engine::Error> {
    if note.disk_to_check().is_none() || note.direction == Direction::Download {
        return Ok(None);
    }
    let may_wait = matches!(
        transfer.phase,
        Phase::Coming(_) | Phase::Transferring | Phase::Paused(_)
    );
    // Others end it already, whatever is asked for here.
    if !may_wait {
        return Ok(None);
    }
    if !engine.disk(&note.disk_id)?.is_some_and(|disk| disk.raw) {
        return Ok(None);
    }
    let trust = note.imageio_trust.as_ref().unwrap_or(&note.trust);
    let mut seen = look(transfer, trust);
    if let (Err(e), Phase::Paused(_) | Phase::Coming(_)) = (&seen, &transfer.phase) {
        info!(
            "the head of the disk of transfer {} is not to be read yet: {e}",
            transfer.id
        );
        if let Ok(ready) = make_ready(engine, transfer) {
            seen = look(&ready, trust);
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

/// Waits for a transfer that is about to be ended; one that is paused is resumed, whoever has paused it.
fn make_ready(engine: &Engine, transfer: &Transfer) -> Result<Transfer, engine::Error> {
    if matches!(transfer.phase, Phase::Paused(_)) {
        engine.resume(&transfer.id)?;
    }
    let interrupt = Interrupt::default();
    let mut patience = Patience::steady(READY_LIMIT, &interrupt);
    loop {
        let seen = engine.transfer(&transfer.id)?.unwrap_or_else(|| transfer.clone());
        match &seen.phase {
            Phase::Transferring => return engine.wait_for_urls(seen, &interrupt),
            Phase::Coming(_) if patience.pause()? => {}
            other => {
                let text = format!("transfer {} is {other}", transfer.id);
                return Err(engine::Error::Failed(text));
            }
        }
    }
}

/// Pauses an upload that is not finalized for its head, and says so.
pub(super) fn leave(engine: &Engine, note: &Note, id: &str, danger: &Danger) -> String {
    let paused = engine.pause(id);
    if let Err(e) = &paused {
        warn!("{e}");
    }
    plain(&format!(
        "transfer {id} of disk {} ({}) on host {} is left {} and not finalized: {}",
        note.disk_id,
        note.disk_name,
        note.host_shown(),
        if paused.is_ok() { "paused" } else { "open" },
        way_out(danger, note)
    ))
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
        connections: 1,
        read_only: true,
        extents: false,
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
pub(crate) fn way_out(danger: &Danger, note: &Note) -> String {
    let recover = format!("`{}`", note.recover_with("--finalize"));
    match danger {
        Danger::Like(_) => format!(
            "{danger}. It is kept, locked. Resume the transfer in the engine, write other bytes over the disk's \
             first 512 through it (its URL, as the engine shows it, is good for --transfer-url), and run \
             {recover}; or let the engine's administrator unlock the disk (unlock_entity.sh)"
        ),
        Danger::Unseen => format!(
            "{danger}. It is kept, locked. `{}` looks again, once the host can be reached, and frees it; \
             {recover} does so even where nobody can look, since you say that it begins like no image",
            note.recover_line()
        ),
    }
}
