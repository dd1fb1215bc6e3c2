//! `rhv-mount recover`: ends the transfers that killed mounts left. Nothing is deleted unless `--cancel` asks for it,
//! and then only a disk that was made for that mount.

use crate::engine::{Direction, Engine, Interrupt, Phase, Transfer, address};
use crate::failure::{Exit, Failure};
use crate::fuse::unmount;
use crate::logging::plain;
use crate::mount::mount_table::{is_dead, is_mounted};
use crate::mount::mountpoint::{canonical, remove_placeholder};
use crate::mount::record::Place;
use crate::process::runtime_directory;
use crate::settings::cli::RecoverArgs;
use crate::settings::config_file::{ConfigError, Section, engine_access, trust, variable};
use crate::transfer::note::{Note, NoteFile};

/// Ends what `args` names; the first failure's exit code is ours.
pub(super) fn recover(args: &RecoverArgs) -> Result<u8, Failure> {
    let mountpoint = args
        .mountpoint
        .as_deref()
        .map(|path| canonical(path).unwrap_or_else(|_| path.to_owned()));
    let left = NoteFile::all(mountpoint.as_deref());
    if left.is_empty() {
        match &args.mountpoint {
            Some(path) => println!("nothing is left behind of a mount on {}", path.display()),
            None => println!("nothing is left behind"),
        }
        return Ok(Exit::Done as u8);
    }
    let mut code = Exit::Done as u8;
    for file in left {
        if let Err(failure) = end(&file, args) {
            eprintln!("rhv-mount: {failure}");
            code = if code == 0 { failure.exit as u8 } else { code };
        }
    }
    Ok(code)
}

fn end(file: &NoteFile, args: &RecoverArgs) -> Result<(), Failure> {
    let state = &file.note;
    let shown = state.mountpoint.display();
    if state.is_alive() {
        return Err(Failure::text(
            Exit::Mount,
            format!(
                "{shown} is served by process {}; end it with `rhv-mount umount {shown}`",
                state.pid
            ),
        ));
    }
    if state.is_foreign() {
        return Err(Failure::text(
            Exit::Mount,
            format!(
                "{shown} was mounted on {}: only there it is known whether it is still in use",
                state.machine
            ),
        ));
    }
    let disk = plain(&format!("disk {} ({})", state.disk_id, state.disk_name));
    let destructive = args.cancel && state.direction == Direction::Upload;
    if destructive && !state.created {
        return Err(Failure::text(
            Exit::Usage,
            format!(
                "{disk} was there before it was mounted on {shown}, and cancelling its upload would delete it: use --finalize"
            ),
        ));
    }
    let engine = login(state, args)?;
    remove_dead_mount(state)?;
    match find(&engine, state)? {
        Found::Open(transfer, sure) => {
            println!(
                "{shown}: transfer {} ({}, {}) of {disk} on host {}",
                transfer.id,
                transfer.direction,
                transfer.phase,
                transfer.host.as_deref().unwrap_or("unknown")
            );
            if !(sure || args.finalize) {
                return Err(Failure::text(
                    Exit::Transfer,
                    format!(
                        "{shown}: the mount was killed before it knew its transfer, so this one may be somebody else's: \
                         if it is not, end it with --finalize"
                    ),
                ));
            }
            end_transfer(&engine, state, &transfer, &disk, destructive)?;
        }
        Found::Ended(phase) => ended(&engine, file, &disk, phase, destructive)?,
    }
    file.remove();
    engine.logout();
    Ok(())
}

fn end_transfer(
    engine: &Engine,
    state: &Note,
    transfer: &Transfer,
    disk: &str,
    destructive: bool,
) -> Result<(), Failure> {
    let shown = state.mountpoint.display();
    if destructive {
        engine.discard(&transfer.id, &state.disk_id)?;
        println!("{shown}: cancelled; {disk} was made for this mount and is removed");
        return Ok(());
    }
    let id = (!state.snapshot).then_some(state.disk_id.as_str());
    engine.finalize(&transfer.id, id, &Interrupt::default())?;
    println!("{shown}: finalized; {disk} is free{}", doubt(state));
    Ok(())
}

/// What is not known of the bytes of a mount that was killed.
fn doubt(state: &Note) -> &'static str {
    match state.direction {
        Direction::Upload => {
            ". What was written after the last fsync may be missing: write the image again unless you know better"
        }
        Direction::Download => "",
    }
}

/// What is left of a mount that was killed: in the tree, and of its record.
fn remove_dead_mount(state: &Note) -> Result<(), Failure> {
    if is_mounted(&state.mountpoint) && is_dead(&state.mountpoint) {
        unmount(&state.mountpoint, true)?;
        println!("{}: the dead mount is removed", state.mountpoint.display());
    }
    if let Ok(directory) = runtime_directory::directory() {
        let place = Place::of(&directory, &state.mountpoint);
        if place.record().is_some_and(|r| r.pid == state.pid && r.created) {
            remove_placeholder(&state.mountpoint);
        }
        place.clear();
    }
    Ok(())
}

/// What the engine has of a transfer.
enum Found {
    /// It holds its disk; false when it may be somebody else's.
    Open(Transfer, bool),
    /// It has ended so, or the engine has forgotten it.
    Ended(Option<Phase>),
}

/// By its id, or, when the mount was killed before it had one, by its disk.
fn find(engine: &Engine, state: &Note) -> Result<Found, Failure> {
    if let Some(id) = &state.transfer {
        return Ok(match engine.transfer(id)? {
            Some(transfer) if transfer.is_open() => Found::Open(transfer, true),
            Some(transfer) => Found::Ended(Some(transfer.phase)),
            None => Found::Ended(None),
        });
    }
    let open = engine.transfer_of(&state.disk_id)?;
    let like_ours = |t: &Transfer| state.asked && t.direction == state.direction;
    Ok(match open.filter(like_ours) {
        Some(transfer) => Found::Open(transfer, state.created),
        None => Found::Ended(None),
    })
}

/// The transfer has ended without us; what the disk is now decides. A disk is removed only if it was made for this
/// mount and its transfer did not end well.
fn ended(
    engine: &Engine,
    file: &NoteFile,
    disk: &str,
    phase: Option<Phase>,
    destructive: bool,
) -> Result<(), Failure> {
    let state = &file.note;
    let shown = state.mountpoint.display();
    if state.snapshot {
        println!("{shown}: no transfer is open");
        return Ok(());
    }
    let found = engine.disk(&state.disk_id)?;
    let status = found.as_ref().map(|disk| disk.status.as_str());
    let failed = phase == Some(Phase::Failed) || (phase.is_none() && status == Some("illegal"));
    let never_started = state.transfer.is_none() || state.renewing;
    match status {
        Some("locked") => Err(Failure::text(
            Exit::Transfer,
            format!(
                "{shown}: no transfer is open, and {disk} is locked by something else; try again when it is free"
            ),
        )),
        Some(_) if destructive && (failed || never_started) => {
            engine.remove_disk(&state.disk_id)?;
            println!("{shown}: no transfer is open; {disk} was made for this mount and is removed");
            Ok(())
        }
        Some("ok") if destructive => {
            println!(
                "{shown}: the transfer has ended well; {disk} is kept, remove it in the engine if you don't want it"
            );
            Ok(())
        }
        Some("ok") => {
            println!("{shown}: no transfer is open; {disk} is ok{}", doubt(state));
            Ok(())
        }
        None if state.created => {
            println!("{shown}: no transfer is open, and {disk}, which was made for this mount, is not there");
            Ok(())
        }
        Some(other) => {
            // There is nothing left to end.
            file.remove();
            Err(Failure::text(
                Exit::Transfer,
                format!(
                    "{shown}: the transfer has ended badly, {disk} is {other}: restore it, or remove it in the engine"
                ),
            ))
        }
        None => {
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
fn login(state: &Note, args: &RecoverArgs) -> Result<Engine, Failure> {
    let section = Section::read(args.engine.config.as_deref())?;
    let mut given = args.engine.clone();
    // A password is for the engine that it was given with.
    let named = given
        .engine_url
        .clone()
        .or_else(|| section.get("engine_url").map(str::to_owned));
    if let Some(url) = named.or_else(|| variable("OVIRT_URL"))
        && address(&url)? != state.engine_url
    {
        return Err(Failure::text(
            Exit::Usage,
            format!(
                "the transfer of {} belongs to the engine {}, not to {url}: name that one with --engine-url",
                state.mountpoint.display(),
                state.engine_url
            ),
        ));
    }
    given.engine_url = Some(state.engine_url.clone());
    given.username.get_or_insert_with(|| state.username.clone());
    let said = given.cafile.is_some() || given.insecure || given.config.is_some();
    let trust = match said {
        true => trust(given.cafile.clone(), given.insecure, &section)?,
        false => state.trust.clone(),
    };
    let access = engine_access(&given, &section, trust).map_err(|e| match e {
        missing @ ConfigError::Missing { .. } => Failure::text(
            Exit::Usage,
            format!(
                "transfer {} is to be ended, and {missing}",
                state.transfer.as_deref().unwrap_or("(unknown)")
            ),
        ),
        other => other.into(),
    })?;
    Ok(Engine::login(&access, &Interrupt::default())?)
}
