//! `-- COMMAND`: the child process that works on the mounted file.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};

use crate::failure::{Exit, Failure};
use crate::process::rights;
use crate::process::{allocator, limits, notify, privacy};

/// The environment variable that holds the file's path for COMMAND.
const FILE_VARIABLE: &str = "RHV_MOUNT_FILE";

/// Starts `command` with every `{}` replaced by `file`. The codes for a command that can't be started are
/// those of `env` and the shells: 127 not found, 126 not executable.
pub(crate) fn start(command: &[OsString], file: &Path) -> Result<Child, (u8, Failure)> {
    let args: Vec<OsString> = command.iter().map(|arg| fill(arg, file.as_os_str())).collect();
    let (program, args) = args.split_first().expect("the caller has a command");
    let mut command = Command::new(program);
    command.args(args).env(FILE_VARIABLE, file);
    allocator::as_before(&mut command);
    notify::keep_from(&mut command);
    // Root's command may be in a directory that only another user can look into.
    rights::with(move || limits::as_before(|| privacy::as_before(|| command.spawn()))).map_err(|e| {
        let (code, hint) = match e.kind() {
            io::ErrorKind::NotFound => (127, "; is it installed, and in PATH?"),
            _ => (126, ""),
        };
        let what = format!("cannot run {}: {e}{hint}", program.to_string_lossy());
        (code, Failure::text(Exit::Other, what))
    })
}

/// Returns the exit code that a shell has for this status: 128 and the signal's number for a killed process.
pub(crate) fn code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => 128 + signal as u8,
        (None, None) => Exit::Other as u8,
    }
}

fn fill(arg: &OsStr, file: &OsStr) -> OsString {
    let mut out = Vec::with_capacity(arg.len());
    let mut rest = arg.as_bytes();
    while let Some(at) = rest.windows(2).position(|pair| pair == b"{}") {
        out.extend(&rest[..at]);
        out.extend(file.as_bytes());
        rest = &rest[at + 2..];
    }
    out.extend(rest);
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_braces_becomes_the_path() {
        let fill = |arg: &str| fill(arg.as_ref(), "/m/{}/d".as_ref()).into_string().unwrap();
        assert_eq!(fill("{}"), "/m/{}/d");
        assert_eq!(fill("cat x > {} && ls {}"), "cat x > /m/{}/d && ls /m/{}/d");
        assert_eq!(fill("{x} {"), "{x} {");
    }
}
