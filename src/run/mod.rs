//! The program: which action, in which process, with which exit code.
//!
//! `handover` moves the settings into a process without secrets in its argv; `serve` is the life of one
//! mount; `umount` and `status` talk to it over `control`, and find it through `record`. `privacy` keeps others of
//! the same user out of the process.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod recover;
mod umount;

use std::process::ExitCode;

use crate::engine;
use crate::failure::{Exit, Failure};
use crate::logging;
use crate::process::handover::{self, Role};
use crate::process::privacy;
use crate::settings::Settings;
use crate::settings::cli::Action;

/// Runs the command line of this process. Errors are one line on stderr.
pub fn main() -> ExitCode {
    if let Err(e) = privacy::close() {
        eprintln!("rhv-mount: {e}");
    }
    match act() {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("rhv-mount: {failure}");
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
        Action::Continue(fd) => {
            let (role, settings) = handover::receive::<Settings>(fd)?;
            match role {
                Role::Launcher => handover::launch(&settings),
                Role::Foreground => mount(settings, role),
                Role::Background => {
                    handover::detach()?;
                    mount(settings, role)
                }
            }
        }
        Action::Umount(path) => umount::umount(&path),
        Action::Status(path, output) => umount::status(path.as_deref(), output),
        Action::Recover(args) => recover::recover(&args),
        Action::Ca(url) => {
            let certificate = engine::certificate(&url)?;
            print!("{}", certificate.pem);
            for fingerprint in &certificate.fingerprints {
                eprintln!("SHA-256 fingerprint: {fingerprint}");
            }
            eprintln!(
                "Compare it with the engine's own before you trust it (there: openssl x509 -noout -fingerprint -sha256 -in /etc/pki/ovirt-engine/ca.pem)"
            );
            Ok(Exit::Done as u8)
        }
        Action::Print(text) => {
            print!("{text}");
            Ok(Exit::Done as u8)
        }
    }
}

fn mount(settings: Settings, role: Role) -> Result<u8, Failure> {
    logging::start_log(&settings.log_level, settings.log_file.as_deref()).map_err(|e| {
        let path = settings.log_file.as_deref().unwrap_or("stderr".as_ref());
        Failure::text(Exit::Usage, format!("cannot log to {}: {e}", path.display()))
    })?;
    crate::mount::serve(settings, role)
}
