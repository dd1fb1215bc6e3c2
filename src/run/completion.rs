//! Completion of a command line, for bash, zsh and fish.
//!
//! A script in the shell calls this program with [`VARIABLE`] set to the shell's name and with the words so
//! far behind a `--`; `clap_complete` finds what fits from the same definition as the parser, and prints it.
//! With no words it prints that script. What only this machine knows is looked up: sections of the
//! configuration file, mountpoints, and what is left to recover.
//!
//! No process that serves a mount is asked, and no mount is looked into: a shell must not hang.

use clap::Command;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::CompleteEnv;

use crate::failure::{Exit, Failure};
use crate::mount::mount_table::mounted_by;
use crate::mount::record;
use crate::process::runtime_directory;
use crate::settings::cli::definition;
use crate::settings::config_file::sections;
use crate::shell;
use crate::transfer::note_file::NoteFile;

/// The environment variable by which a shell asks; its value is the shell's name.
const VARIABLE: &str = "RHV_MOUNT_COMPLETE";

/// The program as the scripts call it: by its name, wherever it is.
const PROGRAM: &str = "rhv-mount";

/// Answers a shell that asks. False when none does.
pub(super) fn answer() -> Result<bool, Failure> {
    let here = std::env::current_dir().ok();
    CompleteEnv::with_factory(definition_with_candidates)
        .var(VARIABLE)
        .completer(PROGRAM)
        .try_complete(std::env::args_os(), here.as_deref())
        .map_err(|e| Failure::text(Exit::Usage, format_args!("{VARIABLE}: {e}")))
}

/// Returns the script that a `shell` (bash, zsh or fish) reads to ask this program.
#[cfg(any(test, feature = "documents"))]
pub(crate) fn script(shell: &str) -> std::io::Result<String> {
    use std::io;

    let shells = clap_complete::env::Shells::builtins();
    let unknown = || io::Error::other(format!("no completions for {shell}"));
    let mut text = Vec::new();
    let shell = shells.completer(shell).ok_or_else(unknown)?;
    shell.write_registration(VARIABLE, PROGRAM, PROGRAM, PROGRAM, &mut text)?;
    String::from_utf8(text).map_err(io::Error::other)
}

fn definition_with_candidates() -> Command {
    let of_config = |command: Command| {
        command.mut_arg("config", |arg| {
            arg.add(ArgValueCandidates::new(|| candidates(sections())))
        })
    };
    let of_mounts = |command: Command| {
        command.mut_arg("mountpoint", |arg| {
            arg.add(ArgValueCandidates::new(|| candidates(mountpoints())))
        })
    };
    let of_remains = |command: Command| {
        command.mut_arg("which", |arg| {
            arg.add(ArgValueCandidates::new(|| candidates(left_behind())))
        })
    };
    of_config(definition())
        .mut_subcommand("umount", of_mounts)
        .mut_subcommand("status", of_mounts)
        .mut_subcommand("recover", |recover| of_config(of_remains(recover)))
}

/// Makes candidates of the names that need no quotes. The script for bash puts a word into the command line
/// as it is, and for root some of them are other users' words.
fn candidates(mut names: Vec<String>) -> Vec<CompletionCandidate> {
    names.retain(|name| shell::word(name) == *name);
    names.sort();
    names.dedup();
    names.into_iter().map(CompletionCandidate::new).collect()
}

/// The paths on which `umount` and `status` have something to say.
fn mountpoints() -> Vec<String> {
    let directories = runtime_directory::directories().into_iter();
    let places = directories.flat_map(|(user, dir)| record::places(&dir).into_iter().map(move |p| (user, p)));
    let paths = places.filter_map(|(user, place)| {
        let record = place.record();
        let mounted = record.filter(|record| mounted_by(&record.mountpoint) == Some(user.as_raw()));
        match mounted {
            Some(record) => Some(record.mountpoint),
            None => place.ending()?.mountpoint,
        }
    });
    paths
        .filter_map(|path| path.into_os_string().into_string().ok())
        .collect()
}

/// The mountpoints whose transfers `recover` may end.
fn left_behind() -> Vec<String> {
    let notes = NoteFile::all(None).into_iter();
    let paths = notes.map(|file| file.note.mountpoint);
    paths
        .filter_map(|path| path.into_os_string().into_string().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    /// Returns the offers for the last word of `line`.
    fn offered(line: &str) -> Vec<String> {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let last = words.len() - 1;
        let mut command = definition_with_candidates();
        let found = clap_complete::engine::complete(&mut command, words, last, None).unwrap();
        let values = found
            .iter()
            .map(|one| one.get_value().to_str().unwrap().to_owned());
        values.collect()
    }

    #[test]
    fn names_options_and_values_are_offered_wherever_they_may_stand() {
        for (line, expected) in [
            ("rhv-mount sta", &["status"][..]),
            ("rhv-mount -c prod rec", &["recover"]),
            ("rhv-mount --journal", &["--journal-size"]),
            ("rhv-mount /mnt --no-zero", &["--no-zero-detect"]),
            ("rhv-mount --format q", &["qcow2"]),
            ("rhv-mount status -o j", &["json"]),
            ("rhv-mount -c prod recover --can", &["--cancel"]),
        ] {
            assert_eq!(offered(line), expected, "{line}");
        }
    }

    #[test]
    fn every_shell_has_a_script_that_asks_this_program() {
        for shell in ["bash", "zsh", "fish"] {
            let script = script(shell).unwrap();
            assert!(
                script.contains(VARIABLE) && script.contains("rhv-mount"),
                "{script}"
            );
        }
    }
}
