//! `rhv-mount recover`: ends the transfers that killed mounts left. Nothing is deleted unless `--cancel` asks
//! for it, and then only a disk that was made for that mount. A mount that may be in use is left alone: see
//! [`Note::owner`].

use std::path::Path;

use super::left_behind::{Cost, Left, asked_for, clear_place, cost, left};
use crate::engine::{Direction, Engine, Interrupt, Phase, Transfer, address};
use crate::failure::{Exit, Failure};
use crate::fuse::unmount;
use crate::logging::plain;
use crate::mount::control;
use crate::mount::mount_table::{is_dead, is_mounted};
use crate::mount::mountpoint::canonical;
use crate::mount::record::Place;
use crate::output::{report, tell};
use crate::process::runtime_directory;
use crate::settings::cli::RecoverArgs;
use crate::settings::config_file::{ConfigError, Section, engine_account, trust, variable};
use crate::transfer::head;
use crate::transfer::note::{Note, Owner};
use crate::transfer::note_file::NoteFile;

/// Ends the transfers that `args` names. The exit code is that of the first failure.
pub(super) fn recover(args: &RecoverArgs) -> Result<u8, Failure> {
    let mountpoint = args
        .mountpoint
        .as_deref()
        .map(|path| canonical(path).unwrap_or_else(|_| path.to_owned()));
    let left = NoteFile::all(mountpoint.as_deref());
    if left.is_empty() {
        match &args.mountpoint {
            Some(path) => report(format_args!(
                "nothing is left behind of a mount on {}",
                path.display()
            )),
            None => report("nothing is left behind"),
        }
        return Ok(Exit::Done as u8);
    }
    let (mut code, mut refused) = (Exit::Done as u8, Vec::new());
    for mut file in left {
        let account = (file.note.engine_url.clone(), file.note.username.clone());
        if refused.contains(&account) {
            let shown = file.note.mountpoint.display();
            tell(format_args!("{shown}: not tried, since the login was refused"));
            continue;
        }
        if let Err(failure) = end(&mut file, args) {
            if failure.exit == Exit::Login {
                // Another attempt for each note could lock the account.
                refused.push(account);
            }
            tell(&failure);
            code = if code == 0 { failure.exit as u8 } else { code };
        }
    }
    Ok(code)
}

fn end(file: &mut NoteFile, args: &RecoverArgs) -> Result<(), Failure> {
    if !claim(file, args)? {
        return Ok(());
    }
    let note = &file.note;
    let shown = note.mountpoint.display();
    let disk = plain(&format!("disk {} ({})", note.disk_id, note.disk_name));
    let destructive = match cost(note, args.cancel) {
        Cost::Nothing => false,
        Cost::DiskOfOurs => true,
        Cost::DiskThatWasThere => {
            return Err(Failure::text(
                Exit::Usage,
                format!(
                    "{disk} was there before it was mounted on {shown}, and cancelling its upload would \
                     delete it: use --finalize"
                ),
            ));
        }
    };
    let engine = login(note, args)?;
    remove_dead_mount(note)?;
    match find(&engine, note)? {
        Found::Open(transfer, sure) => {
            report(format_args!(
                "{shown}: transfer {} ({}, {}) of {disk} on host {}",
                transfer.id,
                transfer.direction,
                transfer.phase,
                transfer.host.as_deref().unwrap_or("unknown")
            ));
            if !(sure || args.finalize) {
                return Err(Failure::text(
                    Exit::Transfer,
                    format!(
                        "{shown}: the mount was killed before it knew its transfer, so this one{} may be \
                         somebody else's: if it is not, end it with --finalize",
                        match note.is_proven(&transfer) {
                            true => ", which has the mark of its request,",
                            false => ", which does not have the mark of its request,",
                        }
                    ),
                ));
            }
            end_transfer(&engine, note, &transfer, &disk, destructive, args.finalize)?;
        }
        Found::Ended(phase) => ended(&engine, file, &disk, phase, destructive)?,
    }
    file.remove();
    engine.logout();
    Ok(())
}

/// Makes this process the owner of the note, unless the mount may be in use. False when there is nothing left
/// to end.
fn claim(file: &mut NoteFile, args: &RecoverArgs) -> Result<bool, Failure> {
    let owner = file.claim().map_err(|e| {
        let text = format!("the note of a mount, {}, cannot be used: {e}", file.shown());
        Failure::text(Exit::Other, text)
    })?;
    let Note {
        mountpoint,
        pid,
        machine,
        transfer,
        ..
    } = &file.note;
    let shown = mountpoint.display();
    let why = match owner {
        None => {
            report(format_args!(
                "{shown}: another `rhv-mount recover` has ended it meanwhile"
            ));
            return Ok(false);
        }
        Some(Owner::Gone | Owner::Unknown) if serves(mountpoint, transfer.as_deref()) => {
            format!("{shown} is served by a process that answers; end it with `rhv-mount umount {shown}`")
        }
        Some(Owner::Gone) => return Ok(true),
        Some(Owner::Unknown) if args.finalize || args.cancel => return Ok(true),
        Some(Owner::AtWork) => {
            format!("{shown} is served by process {pid}; end it with `rhv-mount umount {shown}`")
        }
        Some(Owner::Elsewhere) => format!(
            "{shown} is served by process {pid} of another container or machine (its name was {machine}), or \
             is being recovered there; end it there with `rhv-mount umount {shown}`"
        ),
        Some(Owner::Busy) => format!(
            "{shown} is being recovered by another `rhv-mount recover`, or process {pid}, which served it, \
             is not gone yet; try again later"
        ),
        Some(Owner::Foreign) => {
            format!("{shown} was mounted on {machine}: only there it is known whether it is still in use")
        }
        Some(Owner::Unknown) => format!(
            "it is not known whether {shown} is served by process {pid} of another container, or of another \
             machine with the name {machine}: nothing on the file system of {} tells; if it is not, end it \
             with --finalize, or remove a disk that was made for it with --cancel",
            file.shown()
        ),
    };
    Err(Failure::text(Exit::Mount, why))
}

/// True when the process that listens at the mountpoint's place has `transfer`. A lock says the same, unless
/// somebody has replaced the file that it is on.
fn serves(mountpoint: &Path, transfer: Option<&str>) -> bool {
    let place = runtime_directory::directory().map(|directory| Place::of(&directory, mountpoint));
    let status = place.and_then(|place| control::ask_status(&place));
    status.is_ok_and(|status| transfer.is_some() && status.disk.transfer.as_deref() == transfer)
}

fn end_transfer(
    engine: &Engine,
    note: &Note,
    transfer: &Transfer,
    disk: &str,
    destructive: bool,
    at_all_costs: bool,
) -> Result<(), Failure> {
    let shown = note.mountpoint.display();
    if destructive {
        engine.discard(&transfer.id, &note.disk_id)?;
        report(format_args!(
            "{shown}: cancelled; {disk} was made for this mount and is removed"
        ));
        return Ok(());
    }
    if let Some(danger) = head::in_the_way(engine, note, transfer, at_all_costs)? {
        return Err(Failure::text(
            Exit::DataLoss,
            format!(
                "{shown}: transfer {} of {disk} is not finalized: {}",
                transfer.id,
                head::way_out(&danger, &note.mountpoint)
            ),
        ));
    }
    let id = (!note.snapshot).then_some(note.disk_id.as_str());
    engine.finalize(&transfer.id, id, &Interrupt::default())?;
    report(format_args!("{shown}: finalized; {disk} is free{}", doubt(note)));
    Ok(())
}

/// Returns what is not known about the bytes of a mount that was killed.
fn doubt(note: &Note) -> &'static str {
    match note.direction {
        Direction::Upload => {
            ". Bytes written after the last fsync may be missing: write the image again if you are not sure"
        }
        Direction::Download => "",
    }
}

/// Removes what a killed mount left in the tree, and its record.
fn remove_dead_mount(note: &Note) -> Result<(), Failure> {
    if is_mounted(&note.mountpoint) && is_dead(&note.mountpoint) {
        unmount(&note.mountpoint, true)?;
        report(format_args!(
            "{}: the dead mount is removed",
            note.mountpoint.display()
        ));
    }
    if let Ok(directory) = runtime_directory::directory() {
        clear_place(&Place::of(&directory, &note.mountpoint), note);
    }
    Ok(())
}

/// The note of a transfer in the engine.
enum Found {
    /// It holds its disk; false where it may be somebody else's.
    Open(Transfer, bool),
    /// It has ended in this phase, or the engine has forgotten it.
    Ended(Option<Phase>),
}

/// Finds the transfer by its id, or, where the mount was killed before it had one, by its disk.
fn find(engine: &Engine, note: &Note) -> Result<Found, Failure> {
    if let Some(id) = &note.transfer {
        return Ok(match engine.transfer(id)? {
            Some(transfer) if transfer.is_open() => Found::Open(transfer, true),
            Some(transfer) => Found::Ended(Some(transfer.phase)),
            None => Found::Ended(None),
        });
    }
    let open = engine.open_transfers(&note.disk_id)?;
    Ok(match asked_for(note, open) {
        Some(transfer) => Found::Open(transfer, note.created),
        None => Found::Ended(None),
    })
}

/// The transfer has ended without us; what the disk is now decides.
fn ended(
    engine: &Engine,
    file: &NoteFile,
    disk: &str,
    phase: Option<Phase>,
    destructive: bool,
) -> Result<(), Failure> {
    let note = &file.note;
    let shown = note.mountpoint.display();
    if note.snapshot {
        report(format_args!("{shown}: no transfer is open"));
        return Ok(());
    }
    let found = engine.disk(&note.disk_id)?;
    match left(
        note,
        phase.as_ref(),
        found.as_ref().map(|disk| disk.status.as_str()),
        destructive,
    ) {
        Left::Locked => Err(Failure::text(
            Exit::Transfer,
            format!(
                "{shown}: no transfer is open, and {disk} is locked by something else; try again when it is \
                 free"
            ),
        )),
        Left::ToRemove => {
            engine.remove_disk(&note.disk_id)?;
            report(format_args!(
                "{shown}: no transfer is open; {disk} was made for this mount and is removed"
            ));
            Ok(())
        }
        Left::EndedWell => {
            report(format_args!(
                "{shown}: the transfer has ended well; {disk} is kept, remove it in the engine if you don't \
                 want it"
            ));
            Ok(())
        }
        Left::Free => {
            report(format_args!(
                "{shown}: no transfer is open; {disk} is ok{}",
                doubt(note)
            ));
            Ok(())
        }
        Left::GoneAsAsked => {
            report(format_args!(
                "{shown}: no transfer is open, and {disk}, which was made for this mount, is not there"
            ));
            Ok(())
        }
        Left::Bad(other) => {
            // There is nothing left to end.
            file.remove();
            Err(Failure::text(
                Exit::Transfer,
                format!(
                    "{shown}: the transfer has ended badly, {disk} is {other}: restore it, or remove it in \
                     the engine"
                ),
            ))
        }
        Left::Gone => {
            // There is nothing left to end.
            file.remove();
            Err(Failure::text(
                Exit::Transfer,
                format!(
                    "{shown}: no transfer is open, and {disk} is gone from the engine {}",
                    engine.url()
                ),
            ))
        }
    }
}

/// The mount's own engine, user and trust, where nothing else is said.
fn login(note: &Note, args: &RecoverArgs) -> Result<Engine, Failure> {
    let section = Section::read(&args.engine)?;
    let mut given = args.engine.clone();
    // A password is for the engine that it was given with.
    let named = given
        .engine_url
        .clone()
        .or_else(|| section.get("engine_url").map(str::to_owned));
    if let Some(url) = named.or_else(|| variable("OVIRT_URL")) {
        check_engine(note, &url)?;
    }
    given.engine_url = Some(note.engine_url.clone());
    given.username.get_or_insert_with(|| note.username.clone());
    let said = given.cafile.is_some() || given.insecure || given.config.is_some();
    let trust = match said {
        true => trust(given.cafile.clone(), given.insecure, &section)?,
        false => note.trust.clone(),
    };
    let account = engine_account(&given, &section, trust).map_err(|e| match e {
        missing @ ConfigError::Missing { .. } => Failure::text(
            Exit::Usage,
            format!(
                "transfer {} is to be ended, and {missing}",
                note.transfer.as_deref().unwrap_or("(unknown)")
            ),
        ),
        other => other.into(),
    })?;
    Ok(Engine::login(&account, &Interrupt::default())?)
}

/// Refuses the URL of another engine: the transfer is not there, and a password is for the engine that it was
/// given with.
fn check_engine(note: &Note, url: &str) -> Result<(), Failure> {
    match address(url)? == note.engine_url {
        true => Ok(()),
        false => Err(Failure::text(
            Exit::Usage,
            format!(
                "the transfer of {} belongs to the engine {}, not to {url}: name that one with --engine-url",
                note.mountpoint.display(),
                note.engine_url
            ),
        )),
    }
}
