//! How a transfer of our own comes to be: login, disk, host, transfer, ticket. Each thing is noted before it
//! is made, for `recover` (see `note`), and taken back when a later step fails.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use tracing::{debug, info};

use super::end::Stake;
use super::life::Life;
use super::note::Note;
use super::note_file::NoteFile;
use super::take_back::take_back;
use super::{OwnTransfer, holder};
use crate::engine::{
    self, Direction, Disk, Engine, Format, Interrupt, MAX_LOCK_WAIT, Mark, Order, Subject, Transfer,
    UNATTENDED_LOCK_WAIT, is_uuid, this_hardware,
};
use crate::failure::{Exit, Failure};
use crate::logging::plain;
use crate::output::tell;
use crate::settings::{DiskSettings, EngineSource, Wanted};

/// The failure of a start for which the engine has begun no transfer, as far as it has shown.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotBegun(String);

/// Logs in, finds or makes the disk, and starts the transfer. What was made is taken back when that
/// fails. `mountpoint` is the path under which `recover` finds what is left. A failure before there was a
/// transfer is [`NotBegun`].
pub(super) fn acquire(
    source: &EngineSource,
    settings: &DiskSettings,
    mountpoint: &Path,
    interrupt: &Interrupt,
) -> Result<OwnTransfer, Failure> {
    let mut has_begun = false;
    begin(source, settings, mountpoint, interrupt, &mut has_begun).map_err(|failure| match has_begun {
        true => failure,
        false => Failure::new(failure.exit, NotBegun(failure.to_string())),
    })
}

fn begin(
    source: &EngineSource,
    settings: &DiskSettings,
    mountpoint: &Path,
    interrupt: &Interrupt,
    has_begun: &mut bool,
) -> Result<OwnTransfer, Failure> {
    let engine = Engine::login(&source.account, interrupt)?;
    let log_out = |_: &Failure| engine.uninterrupted().logout();
    // A download leaves nothing in the engine but its transfer.
    let unattended = settings.unattended && settings.read_only;
    let how = (settings.read_only, unattended);
    let mut subject = Prepared::of(&engine, source, how).inspect_err(log_out)?;
    let direction = match settings.read_only {
        true => Direction::Download,
        false => Direction::Upload,
    };
    let mark = match unattended {
        true => Mark::unattended(),
        false => Mark::random(),
    };
    let note = Note {
        disk_id: subject.id.clone(),
        disk_name: subject.name.clone(),
        snapshot: matches!(source.wanted, Wanted::Snapshot(_)),
        created: matches!(source.wanted, Wanted::New(_)),
        of_backup: match &source.wanted {
            Wanted::OfBackup { backup, .. } => Some(backup.clone()),
            _ => None,
        },
        id_given: matches!(&source.wanted, Wanted::New(new) if new.id.is_some()),
        mark: Some(mark),
        login: source.login.clone(),
        imageio_trust: Some(settings.trust.clone()),
        task: settings.task,
        vm: source.of_vm.as_ref().map(|member| member.vm.clone()),
        ..Note::of(mountpoint, &source.account, direction)
    };
    let mut file = NoteFile::create(note, unattended).inspect_err(log_out)?;
    let started = start(&engine, source, &mut subject, &mut file, mark, interrupt);
    let (order, transfer) = match started {
        Ok(started) => started,
        Err(failure) => {
            *has_begun = file.note.transfer.is_some();
            return Err(take_back(&engine, &mut file, subject.is_there, source, failure));
        }
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
        retry_time: settings.retry_time,
        giving_up: Interrupt::default(),
        is_to_end: AtomicBool::new(false),
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
    /// The engine has shown it.
    is_there: bool,
}

impl Prepared {
    fn of(
        engine: &Engine,
        source: &EngineSource,
        (read_only, unattended): (bool, bool),
    ) -> Result<Prepared, Failure> {
        Ok(match &source.wanted {
            Wanted::Existing(wanted) => {
                let disk = match &source.of_vm {
                    // The id came from the engine, and a disk that happens to have it as a name is another.
                    Some(member) => member_disk(engine, wanted, &member.disk)?,
                    None => engine.find_disk(wanted)?,
                };
                let holder = match disk.is_locked() {
                    true => holder::look(engine, &disk.id, &disk.name, read_only)?,
                    false => None,
                };
                // An earlier run of the same work may have been killed.
                let limit = match unattended {
                    true => UNATTENDED_LOCK_WAIT,
                    false => MAX_LOCK_WAIT,
                };
                let disk = engine.wait_for_disk(disk, holder.as_deref(), limit)?;
                let storage_domain = this_hardware()
                    .and(disk.storage_domain.as_deref())
                    .and_then(|id| engine.storage_domain_name(id));
                Prepared {
                    id: disk.id,
                    name: disk.name,
                    raw: disk.raw,
                    storage_domain,
                    is_there: true,
                }
            }
            Wanted::Snapshot(id) => {
                // A name or a description is nothing that the engine would look for.
                if !is_uuid(id) {
                    let meant = engine.disk_snapshot_meant(id).ok().flatten();
                    let meant = meant.unwrap_or_else(|| {
                        format!(
                            "{id} is not the id of a disk snapshot: `rhv-mount list snapshots` shows those \
                             that this user can see"
                        )
                    });
                    return Err(engine::Error::Unfit(plain(&meant)).into());
                }
                let member = source.of_vm.as_ref();
                let name = member.map_or_else(|| "disk snapshot".to_owned(), |member| member.disk.clone());
                holder::look(engine, id, &name, read_only)?;
                Prepared {
                    id: id.clone(),
                    name,
                    raw: false,
                    storage_domain: None,
                    is_there: true,
                }
            }
            // The engine locks the disks of some backups itself, and starts a transfer all the same.
            Wanted::OfBackup { disk, .. } => {
                let member = source.of_vm.as_ref();
                Prepared {
                    id: disk.clone(),
                    name: member.map_or_else(String::new, |member| member.disk.clone()),
                    raw: false,
                    storage_domain: None,
                    is_there: true,
                }
            }
            Wanted::New(new) => {
                let id = engine.prepare_disk(new)?;
                warn_of_namesakes(engine, &new.name);
                Prepared {
                    id,
                    name: new.name.clone(),
                    raw: new.format == Format::Raw,
                    storage_domain: Some(new.storage_domain.clone()),
                    is_there: false,
                }
            }
        })
    }
}

/// Returns the disk of a VM with this id, which may be gone since the VM was looked at.
fn member_disk(engine: &Engine, id: &str, name: &str) -> Result<Disk, engine::Error> {
    let gone = || engine::Error::Unfit(format!("disk {id} ({name}) of the VM was removed meanwhile"));
    engine.disk(id)?.ok_or_else(gone)
}

/// The engine permits several disks of one name. A script that runs twice may not want that, and then neither
/// disk can be selected by its name.
fn warn_of_namesakes(engine: &Engine, name: &str) {
    // The creation itself says what is wrong with the engine.
    let there = engine.disks_named(name).unwrap_or_default();
    if let Some(first) = there.first() {
        tell(plain(&format!(
            "WARNING: there is a disk {name} already ({}{}); the new one gets the same name, so that --disk \
             wants an id from now on",
            first.id,
            match there.len() {
                1 => String::new(),
                n => format!(", and {} more", n - 1),
            }
        )));
    }
}

fn start(
    engine: &Engine,
    source: &EngineSource,
    subject: &mut Prepared,
    file: &mut NoteFile,
    mark: Mark,
    interrupt: &Interrupt,
) -> Result<(Order, Transfer), Failure> {
    if let Wanted::New(new) = &source.wanted {
        let id = subject.id.clone();
        let mut made = |id: &str| {
            subject.is_there = true;
            id.clone_into(&mut subject.id);
            id.clone_into(&mut file.note.disk_id);
            file.note.id_given = false;
            // It only helps `recover`, which leaves alone what may be another's.
            let _ = file.update();
        };
        engine.create_disk(new, &id, &mut made).inspect_err(|e| {
            // Nothing was made: a disk with that id is somebody else's, whatever the state says.
            if matches!(e, engine::Error::Refused(_) | engine::Error::NotSent(_)) {
                file.note.created = false;
            }
        })?;
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
        mark,
        backup: file.note.of_backup.clone(),
    };
    file.note.asked = true;
    file.update()?;
    let transfer = engine.start_transfer(&order, false).map_err(|e| {
        // Only a request that was on its way, and got no answer, may have started one.
        file.note.asked = matches!(e, engine::Error::Unclear(_));
        explained(engine, &order, e)
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

/// Adds to the refusal of a disk snapshot what the word for it means, where that is another thing.
fn explained(engine: &Engine, order: &Order, error: engine::Error) -> engine::Error {
    let meant = match &order.subject {
        Subject::Snapshot(id) if error.is_refusal() => engine.disk_snapshot_meant(id).ok().flatten(),
        _ => None,
    };
    match meant {
        Some(meant) => engine::Error::Unfit(format!("{error}. {meant}")),
        None => error,
    }
}
