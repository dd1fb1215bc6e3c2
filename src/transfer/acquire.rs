//! How a transfer of our own comes to be: login, disk, host, transfer, ticket. What was made on the way is taken back
//! when a later step fails, and noted before it is made, for `recover` (see `state`).

use std::path::Path;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;
use tracing::{debug, info};

use super::Held;
use super::note::{State, StateFile, start_of, this_boot, this_machine};
use crate::engine::{self, Direction, Engine, Interrupt, Order, Subject, Transfer, this_hardware};
use crate::failure::{Exit, Failure};
use crate::logging::plain;
use crate::settings::{EngineSource, Wanted};

impl Held {
    /// Logs in, finds or makes the disk, and starts the transfer. What was made is taken back when that fails.
    pub(crate) fn acquire(
        source: &EngineSource,
        read_only: bool,
        mountpoint: &Path,
        interrupt: &Interrupt,
    ) -> Result<Held, Failure> {
        let engine = Engine::login(&source.access, interrupt)?;
        let mut subject = Prepared::of(&engine, source)?;
        let direction = match read_only {
            true => Direction::Download,
            false => Direction::Upload,
        };
        let mut file = StateFile::create(State {
            mountpoint: mountpoint.to_owned(),
            pid: std::process::id(),
            started: start_of(std::process::id()),
            engine_url: engine.url().to_owned(),
            username: source.access.username.clone(),
            trust: source.access.trust.clone(),
            direction,
            disk_id: subject.id.clone(),
            disk_name: subject.name.clone(),
            snapshot: matches!(source.wanted, Wanted::Snapshot(_)),
            created: matches!(source.wanted, Wanted::New(_)),
            asked: false,
            transfer: None,
            host: None,
            renewing: false,
            machine: this_machine(),
            boot: this_boot(),
        })?;
        match start(&engine, source, &mut subject, &mut file) {
            Ok((order, transfer)) => Ok(Held {
                what: plain(&format!("disk {} ({})", subject.id, subject.name)),
                keep: source.keep_on_failure,
                phase: Mutex::new(transfer.phase.to_string()),
                file: Mutex::new(file),
                ended: AtomicBool::new(false),
                used: AtomicBool::new(false),
                watched: AtomicBool::new(true),
                // A signal that came too late for the start must not spoil the end.
                engine: engine.uninterrupted(),
                transfer: Mutex::new(transfer),
                order,
                renewing: Mutex::default(),
                giving_up: Interrupt::default(),
            }),
            Err(failure) => Err(take_back(&engine, source, &mut file, failure)),
        }
    }
}

/// The disk, checked, and for a new one its id: nothing is made yet.
struct Prepared {
    id: String,
    name: String,
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
                    storage_domain,
                }
            }
            Wanted::Snapshot(id) => Prepared {
                id: id.clone(),
                name: "disk snapshot".to_owned(),
                storage_domain: None,
            },
            Wanted::New(new) => Prepared {
                id: engine.prepare_disk(new)?,
                name: new.name.clone(),
                storage_domain: Some(new.storage_domain.clone()),
            },
        })
    }
}

fn start(
    engine: &Engine,
    source: &EngineSource,
    subject: &mut Prepared,
    file: &mut StateFile,
) -> Result<(Order, Transfer), Failure> {
    if let Wanted::New(new) = &source.wanted {
        let disk = engine.create_disk(new, &subject.id).inspect_err(|e| {
            // Nothing was made: a disk with that id is somebody else's, whatever the state says.
            if matches!(e, engine::Error::Refused(_)) {
                file.state.created = false;
            }
        })?;
        subject.id.clone_from(&disk.id);
        file.state.disk_id = disk.id;
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
        direction: file.state.direction,
        host,
    };
    file.state.asked = true;
    file.update()?;
    let transfer = engine.start_transfer(&order).inspect_err(|e| {
        // An answer, and it was no.
        if matches!(e, engine::Error::Fault { .. } | engine::Error::Unfit(_)) && !e.is_passing() {
            file.state.asked = false;
        }
    })?;
    file.state.transfer = Some(transfer.id.clone());
    file.state.host.clone_from(&transfer.host);
    file.update()?;
    info!(id = transfer.id, disk = subject.id, "transfer started");
    let transfer = wait_for_url(engine, engine.wait_for_transferring(transfer)?)?;
    file.state.host.clone_from(&transfer.host);
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

/// The URLs may come a moment after the phase.
pub(crate) fn wait_for_url(engine: &Engine, mut transfer: Transfer) -> Result<Transfer, engine::Error> {
    for _ in 0..20 {
        if transfer.transfer_url.is_some() || transfer.proxy_url.is_some() {
            break;
        }
        engine.nap()?;
        transfer = engine.transfer(&transfer.id)?.unwrap_or(transfer);
    }
    Ok(transfer)
}

/// Nothing was written: frees the disk, or removes it where it was made here. Where it is not known what the engine
/// has done, the note stays, for `recover`.
fn take_back(engine: &Engine, source: &EngineSource, file: &mut StateFile, failure: Failure) -> Failure {
    let engine = engine.uninterrupted();
    match try_to_take_back(&engine, source, file) {
        Ok(()) => {
            file.remove();
            engine.logout();
            failure
        }
        Err(e) => {
            let state = &file.state;
            let how = if state.created && !source.keep_on_failure {
                "recover --cancel"
            } else {
                "recover"
            };
            Failure::text(
                failure.exit,
                format!(
                    "{failure}; and what was begun is not taken back: {e}; `rhv-mount {how} {}` does it",
                    state.mountpoint.display()
                ),
            )
        }
    }
}

fn try_to_take_back(
    engine: &Engine,
    source: &EngineSource,
    file: &mut StateFile,
) -> Result<(), engine::Error> {
    let state = &mut file.state;
    let remove = state.created && !source.keep_on_failure;
    if state.transfer.is_none() && state.asked {
        state.transfer = engine
            .transfer_of(&state.disk_id)?
            .filter(|t| t.direction == state.direction)
            .map(|t| t.id);
        if state.transfer.is_none() {
            return Err(engine::Error::Failed(
                "it is not known whether a transfer was started".to_owned(),
            ));
        }
    }
    let disk = (!state.snapshot).then_some(state.disk_id.as_str());
    match (&state.transfer, remove) {
        (Some(id), true) => engine.discard(id, &state.disk_id),
        (Some(id), false) => engine.finalize(id, disk, &Interrupt::default()),
        (None, true) => match engine.disk(&state.disk_id)? {
            Some(disk) => engine.remove_disk(&disk.id),
            None => Err(engine::Error::Failed(format!(
                "disk {} may appear yet",
                state.disk_id
            ))),
        },
        (None, false) => Ok(()),
    }
}
