//! How a transfer of our own comes to be: login, disk, host, transfer, ticket. Each thing is noted before it
//! is made, for `recover` (see `note`), and taken back when a later step fails.

use std::path::Path;
use std::sync::OnceLock;

use tracing::{debug, info};

use super::OwnTransfer;
use super::end::Stake;
use super::life::Life;
use super::note::{Note, NoteFile};
use crate::engine::{self, Direction, Engine, Format, Interrupt, Order, Subject, Transfer, this_hardware};
use crate::failure::{Exit, Failure};
use crate::logging::plain;
use crate::settings::{EngineSource, Wanted};

/// Logs in, finds or makes the disk, and starts the transfer. What was made is taken back when that
/// fails. `mountpoint` is the path under which `recover` finds what is left.
pub(super) fn acquire(
    source: &EngineSource,
    read_only: bool,
    mountpoint: &Path,
    interrupt: &Interrupt,
) -> Result<OwnTransfer, Failure> {
    let engine = Engine::login(&source.account, interrupt)?;
    let mut subject = Prepared::of(&engine, source)?;
    let direction = match read_only {
        true => Direction::Download,
        false => Direction::Upload,
    };
    let mut file = NoteFile::create(Note {
        disk_id: subject.id.clone(),
        disk_name: subject.name.clone(),
        snapshot: matches!(source.wanted, Wanted::Snapshot(_)),
        created: matches!(source.wanted, Wanted::New(_)),
        ..Note::of(mountpoint, &source.account, direction)
    })?;
    let started = start(&engine, source, &mut subject, &mut file, interrupt);
    let (order, transfer) = match started {
        Ok(started) => started,
        Err(failure) => return Err(take_back(&engine, source, &mut file, failure)),
    };
    Ok(OwnTransfer {
        // A signal that came too late for the start must not spoil the end.
        engine: engine.uninterrupted(),
        order,
        shown: plain(&format!("disk {} ({})", subject.id, subject.name)),
        disk: (subject.id, subject.name),
        raw: subject.raw,
        head: OnceLock::new(),
        stake: match (&source.wanted, direction) {
            (_, Direction::Download) => Stake::Download,
            (Wanted::New(_), Direction::Upload) if source.keep_on_failure => Stake::MadeAndKept,
            (Wanted::New(_), Direction::Upload) => Stake::Made,
            (_, Direction::Upload) => Stake::ThereBefore,
        },
        giving_up: Interrupt::default(),
        life: Life::new(transfer, file),
    })
}

/// The disk, checked, and for a new one its id: nothing is made yet.
struct Prepared {
    id: String,
    name: String,
    /// The disk's format is raw.
    raw: bool,
    storage_domain: Option<String>,
}

impl Prepared {
    fn of(engine: &Engine, source: &EngineSource) -> Result<Prepared, Failure> {
        Ok(match &source.wanted {
            Wanted::Existing(wanted) => {
                let disk = engine.wait_for_disk(engine.find_disk(wanted)?)?;
                let storage_domain = this_hardware()
                    .and(disk.storage_domain.as_deref())
                    .and_then(|id| engine.storage_domain_name(id));
                Prepared {
                    id: disk.id,
                    name: disk.name,
                    raw: disk.raw,
                    storage_domain,
                }
            }
            Wanted::Snapshot(id) => Prepared {
                id: id.clone(),
                name: "disk snapshot".to_owned(),
                raw: false,
                storage_domain: None,
            },
            Wanted::New(new) => Prepared {
                id: engine.prepare_disk(new)?,
                name: new.name.clone(),
                raw: new.format == Format::Raw,
                storage_domain: Some(new.storage_domain.clone()),
            },
        })
    }
}

fn start(
    engine: &Engine,
    source: &EngineSource,
    subject: &mut Prepared,
    file: &mut NoteFile,
    interrupt: &Interrupt,
) -> Result<(Order, Transfer), Failure> {
    if let Wanted::New(new) = &source.wanted {
        let disk = engine.create_disk(new, &subject.id).inspect_err(|e| {
            // Nothing was made: a disk with that id is somebody else's, whatever the state says.
            if matches!(e, engine::Error::Refused(_)) {
                file.note.created = false;
            }
        })?;
        subject.id.clone_from(&disk.id);
        file.note.disk_id = disk.id;
    }
    let host = this_hardware()
        .zip(subject.storage_domain.as_deref())
        .and_then(|(hardware, domain)| {
            engine
                .find_host(&hardware, domain)
                .inspect_err(|e| debug!("this host is not found in the engine: {e}"))
                .ok()
                .flatten()
        });
    let order = Order {
        subject: match source.wanted {
            Wanted::Snapshot(_) => Subject::Snapshot(subject.id.clone()),
            _ => Subject::Disk(subject.id.clone()),
        },
        direction: file.note.direction,
        host,
    };
    file.note.asked = true;
    file.update()?;
    let transfer = engine.start_transfer(&order).inspect_err(|e| {
        // An answer, and it was no.
        if matches!(e, engine::Error::Fault { .. } | engine::Error::Unfit(_)) && !e.is_passing() {
            file.note.asked = false;
        }
    })?;
    file.note.transfer = Some(transfer.id.clone());
    file.note.host.clone_from(&transfer.host);
    file.update()?;
    info!(id = transfer.id, disk = subject.id, "transfer started");
    let transfer = engine.wait_for_urls(engine.wait_for_transferring(transfer)?, interrupt)?;
    file.note.host.clone_from(&transfer.host);
    file.update()?;
    if transfer.transfer_url.is_none() && transfer.proxy_url.is_none() {
        return Err(Failure::text(
            Exit::Transfer,
            format!(
                "transfer {} has no URL: the engine made no ticket for it; engine.log says why",
                transfer.id
            ),
        ));
    }
    Ok((order, transfer))
}

/// Nothing was written: frees the disk, or removes it where it was made here. Where it is not known what the
/// engine has done, the note stays, for `recover`.
fn take_back(engine: &Engine, source: &EngineSource, file: &mut NoteFile, failure: Failure) -> Failure {
    let engine = engine.uninterrupted();
    match try_to_take_back(&engine, source, file) {
        Ok(()) => {
            file.remove();
            engine.logout();
            failure
        }
        Err(e) => {
            let note = &file.note;
            let how = if note.created && !source.keep_on_failure {
                "recover --cancel"
            } else {
                "recover"
            };
            Failure::text(
                failure.exit,
                format!(
                    "{failure}; and what was begun is not taken back: {e}; `rhv-mount {how} {}` does it",
                    note.mountpoint.display()
                ),
            )
        }
    }
}

fn try_to_take_back(
    engine: &Engine,
    source: &EngineSource,
    file: &mut NoteFile,
) -> Result<(), engine::Error> {
    let note = &mut file.note;
    let remove = note.created && !source.keep_on_failure;
    if note.transfer.is_none() && note.asked {
        note.transfer = engine
            .transfer_of(&note.disk_id)?
            .filter(|t| t.direction == note.direction)
            .map(|t| t.id);
        if note.transfer.is_none() {
            return Err(engine::Error::Failed(
                "it is not known whether a transfer was started".to_owned(),
            ));
        }
    }
    let disk = (!note.snapshot).then_some(note.disk_id.as_str());
    match (&note.transfer, remove) {
        (Some(id), true) => engine.discard(id, &note.disk_id),
        (Some(id), false) => engine.finalize(id, disk, &Interrupt::default()),
        (None, true) => match engine.disk(&note.disk_id)? {
            Some(disk) => engine.remove_disk(&disk.id),
            None => Err(engine::Error::Failed(format!(
                "disk {} may appear yet",
                note.disk_id
            ))),
        },
        (None, false) => Ok(()),
    }
}
