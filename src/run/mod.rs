//! The program: which action, in which process, with which exit code.
//!
//! A mount takes one process, in the background two: the first reads the command line and executes itself
//! again without secrets in its argv (`process::handover`), then serves the mount or starts the one that
//! does. Every other action is done by the process that was asked: `umount` and `status` talk to mounts over
//! their control sockets (`mount::control`), `upload` and `download` take a second process for the same
//! reason as a mount (`copying`), `recover` works from the notes that killed mounts left
//! (`transfer::note`), `ca` asks the engine for its certificate. Before all of that, `completion` answers a
//! shell that asks.
//!
//! mount(8) and umount(8) call this program by other names, and get exit codes of their own
//! (`settings::mount_helper`).

mod backup;
mod ca;
mod checksum;
mod claim;
pub(crate) mod completion;
mod copy;
mod end_left;
mod forget;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod left_backup;
mod left_behind;
mod list;
mod recover;
mod remains;
mod restore;
mod sessions;
mod status;
mod table;
mod umount;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::SIGUSR1;

use self::umount::Manner;
use crate::failure::{Exit, Failure};
use crate::fuse::system;
use crate::logging;
use crate::mount::mount_table::is_mounted;
use crate::mount::umount_table::Line;
use crate::output::{self, tell};
use crate::process::handover::{self, Role};
use crate::process::privacy;
use crate::settings::cli::{Action, MountArgs, Progress};
use crate::settings::mount_helper::{self, Call};
use crate::settings::populator;
use crate::settings::{OutputSettings, Run, Settings};

/// Runs the command line of this process. An error is one line on stderr.
pub fn main() -> ExitCode {
    if let Err(e) = privacy::close() {
        tell(e);
    }
    // A mount answers it with statistics; a process that is none yet, or no more, must not die of it.
    let _ = signal_hook::flag::register(SIGUSR1, Arc::new(AtomicBool::new(false)));
    let args = populator::in_our_words(std::env::args_os().collect());
    ExitCode::from(match Call::parse(&args) {
        Some(call) => mount_helper::exit_code(code(call.and_then(answer))),
        None => code(act(args)),
    })
}

/// Tells a failure, and returns the exit code.
fn code(result: Result<u8, Failure>) -> u8 {
    result.unwrap_or_else(|failure| {
        tell(&failure);
        failure.exit as u8
    })
}

fn act(args: Vec<OsString>) -> Result<u8, Failure> {
    if completion::answer()? {
        return Ok(Exit::Done as u8);
    }
    match Action::parse(args)? {
        Action::Mount(args) => mount(*args),
        Action::Continue(fd) => {
            let (role, settings) = match handover::receive::<Run>(fd)? {
                (role, Run::Mount(settings)) => (role, settings),
                (_, Run::Copy(settings)) => return copy::go_on(*settings),
                (_, Run::Checksum(settings)) => return checksum::go_on(&settings),
                (_, Run::Backup(settings)) => return backup::go_on(*settings),
                (_, Run::Restore(settings)) => return restore::go_on(*settings),
            };
            // The launcher reads the code of the background process, and mount(8) that of the launcher.
            let for_mount8 = settings.for_mount8 && role != Role::Background;
            match go_on(role, *settings) {
                result if for_mount8 => Ok(mount_helper::exit_code(code(result))),
                result => result,
            }
        }
        Action::Umount(path) => umount::umount(&path, Manner::InOrder),
        Action::Status(args) => status::status(&args),
        Action::Recover(args) => recover::recover(&args),
        Action::Upload(args) => copy::upload(*args),
        Action::Download(args) => copy::download(*args),
        Action::Populate(args) => copy::populate(*args),
        Action::Backup(args) => backup::backup(*args),
        Action::Restore(args) => restore::restore(*args),
        Action::List(args) => list::list(&args),
        Action::Checksum(args) => checksum::checksum(*args),
        Action::Ca(url) => ca::print(&url),
        Action::Print(text) => {
            output::print(&text)?;
            Ok(Exit::Done as u8)
        }
    }
}

/// Does what mount(8) or umount(8) asks for.
fn answer(call: Call) -> Result<u8, Failure> {
    match call {
        Call::Mount(args) => mount(*args),
        Call::Fake => Ok(Exit::Done as u8),
        Call::Umount {
            mountpoint,
            lazy,
            force,
        } => {
            let manner = match (lazy, force) {
                (true, _) => Manner::Lazy,
                (false, true) => Manner::Force,
                (false, false) => Manner::InOrder,
            };
            let result = umount::umount(&mountpoint, manner);
            if !matches!(result, Ok(0)) && !is_mounted(&mountpoint) {
                drop(Line::left(&mountpoint));
            }
            result
        }
    }
}

/// Becomes the process that mounts; returns only if that fails.
fn mount(args: MountArgs) -> Result<u8, Failure> {
    choose_output(args.output.progress, args.output.quiet);
    system::check()?;
    let settings = Settings::gather(args)?;
    let role = match settings.foreground || !settings.command.is_empty() {
        true => Role::Foreground,
        false => Role::Launcher,
    };
    Err(handover::become_clean(role, &Run::Mount(Box::new(settings))))
}

/// Has this process write to stderr as the options say, before it has written anything there.
fn choose_output(progress: Progress, quiet: bool) {
    if quiet {
        output::be_quiet();
    }
    if progress == Progress::Json {
        output::tell_in_objects();
    }
}

fn go_on(role: Role, settings: Settings) -> Result<u8, Failure> {
    choose_output(settings.output.progress, settings.output.quiet);
    match role {
        Role::Launcher => handover::launch(&Run::Mount(Box::new(settings))),
        Role::Between => handover::start_apart(&Run::Mount(Box::new(settings))),
        Role::Foreground => serve(settings, role),
        Role::Background => {
            handover::detach()?;
            // The manager may end all processes once the launcher has heard the code.
            let code = code(serve(settings, role));
            handover::tell_ended(code);
            Ok(code)
        }
    }
}

fn serve(settings: Settings, role: Role) -> Result<u8, Failure> {
    start_log(&settings.output, &settings.mountpoint)?;
    crate::mount::serve(settings, role)
}

/// Begins the log of a run on `place`.
fn start_log(output: &OutputSettings, place: &Path) -> Result<(), Failure> {
    logging::start_log(&output.log_level, &output.log, place)
        .map_err(|e| Failure::text(Exit::Usage, format!("cannot log to {}: {e}", output.log)))
}
