//! The program: which action, in which process, with which exit code.
//!
//! A mount takes one process, in the background two: the first reads the command line and executes itself
//! again without secrets in its argv (`process::handover`), then serves the mount or starts the one that
//! does. Every other action is done by the process that was asked: `umount` and `status` talk to mounts over
//! their control sockets (`mount::control`), `recover` works from the notes that killed mounts left
//! (`transfer::note`), `ca` asks the engine for its certificate.

mod ca;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod left_behind;
mod list;
mod recover;
mod status;
mod table;
mod umount;

use std::process::ExitCode;

use crate::failure::{Exit, Failure};
use crate::output::{self, tell};
use crate::process::handover::{self, Role};
use crate::process::privacy;
use crate::settings::Settings;
use crate::settings::cli::Action;
use crate::{logging, mount};

/// Runs the command line of this process. An error is one line on stderr.
pub fn main() -> ExitCode {
    if let Err(e) = privacy::close() {
        tell(e);
    }
    match act() {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            tell(&failure);
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn act() -> Result<u8, Failure> {
    match Action::parse(std::env::args_os().collect())? {
        Action::Mount(args) => {
            let settings = Settings::gather(*args)?;
            let role = match settings.foreground || !settings.command.is_empty() {
                true => Role::Foreground,
                false => Role::Launcher,
            };
            Err(handover::become_clean(role, &settings))
        }
        Action::Continue(fd) => match handover::receive::<Settings>(fd)? {
            (Role::Launcher, settings) => handover::launch(&settings),
            (role @ Role::Foreground, settings) => serve(settings, role),
            (role @ Role::Background, settings) => {
                handover::detach()?;
                serve(settings, role)
            }
        },
        Action::Umount(path) => umount::umount(&path),
        Action::Status(path, output) => status::status(path.as_deref(), output),
        Action::Recover(args) => recover::recover(&args),
        Action::List(args) => list::list(&args),
        Action::Ca(url) => ca::print(&url),
        Action::Print(text) => {
            output::print(&text)?;
            Ok(Exit::Done as u8)
        }
    }
}

fn serve(settings: Settings, role: Role) -> Result<u8, Failure> {
    logging::start_log(&settings.log_level, settings.log_file.as_deref()).map_err(|e| {
        let path = settings.log_file.as_deref().unwrap_or("stderr".as_ref());
        Failure::text(Exit::Usage, format!("cannot log to {}: {e}", path.display()))
    })?;
    mount::serve(settings, role)
}
