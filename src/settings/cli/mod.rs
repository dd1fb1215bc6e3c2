//! The command line, a contract with scripts outside the project.
//!
//! `options` defines it; help, manual and completions are made from that. Before clap sees the arguments, the
//! name of the subcommand comes to the front (`words`) and `-o` lists become long options (`mount_options`).

mod backup;
mod checksum;
mod forms;
mod groups;
mod help;
mod options;
mod outcome;
mod populate;
mod restore;
mod words;

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};

pub(crate) use self::backup::BackupArgs;
pub(crate) use self::checksum::ChecksumArgs;
pub(crate) use self::forms::{ImageFormat, LogTarget, Output, Progress};
pub(crate) use self::groups::{ChosenDisksArgs, ConnectionArgs, DiskArgs, EngineArgs, OutputArgs};
use self::options::{Cli, Command};
pub(crate) use self::options::{
    DownloadArgs, ListArgs, Listed, MountArgs, RecoverArgs, StatusArgs, UploadArgs,
};
pub(crate) use self::outcome::OutcomeArgs;
pub(crate) use self::populate::PopulateArgs;
pub(crate) use self::restore::RestoreArgs;
use super::{mount_options, source};
use crate::failure::{Exit, Failure};
use crate::secret::hide;

/// Returns the names of all long options, as `-o` lists have them: with `_` between their words.
pub(crate) fn long_options() -> HashSet<String> {
    let program = Cli::command();
    let all = std::iter::once(&program).chain(program.get_subcommands());
    let options = all.flat_map(|command| command.get_arguments());
    let names = options.filter_map(|option| option.get_long());
    names.map(|name| name.replace('-', "_")).collect()
}

/// The action that the user asked for.
#[derive(Debug)]
pub(crate) enum Action {
    /// Mount a disk.
    Mount(Box<MountArgs>),
    /// Continue with the settings in this file descriptor.
    Continue(i32),
    /// End a mount.
    Umount(PathBuf),
    /// Show one mount or all.
    Status(Box<StatusArgs>),
    /// End the transfers that killed mounts left behind.
    Recover(Box<RecoverArgs>),
    /// Copy an image into a disk.
    Upload(Box<UploadArgs>),
    /// Copy a disk into an image.
    Download(Box<DownloadArgs>),
    /// Copy a disk into the volume of a claim.
    Populate(Box<PopulateArgs>),
    /// Back a VM up.
    Backup(Box<BackupArgs>),
    /// Make disks, and a VM, from a backup.
    Restore(Box<RestoreArgs>),
    /// List what the engine has.
    List(Box<ListArgs>),
    /// Compute the checksum of an image or a disk.
    Checksum(Box<ChecksumArgs>),
    /// Print the CA of this engine.
    Ca(String),
    /// Print this to stdout: help or version.
    Print(String),
}

impl Action {
    /// Reads the command line, the program's name first.
    pub(crate) fn parse(args: Vec<OsString>) -> Result<Action, Failure> {
        hide_tickets(&args);
        let definition = definition();
        let args = words::name_first(args, &definition)?;
        let see = help_on(&args, &definition);
        let args = expand_mount_options(args)?;
        let matches = help::add_to(definition).try_get_matches_from(args);
        let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
            Ok(cli) => cli,
            Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
                return Ok(Action::Print(e.render().to_string()));
            }
            Err(e) => return Err(usage(format!("{}; see {see}", one_line(&e.render().to_string())))),
        };
        Ok(match (cli.command, cli.settings_fd, cli.mount) {
            (Some(Command::Umount { mountpoint, .. }), _, _) => Action::Umount(mountpoint),
            (Some(Command::Status(args)), _, _) => Action::Status(Box::new(args)),
            (Some(Command::Recover(args)), _, _) => Action::Recover(Box::new(args)),
            (Some(Command::Upload(args)), _, _) => Action::Upload(Box::new(args)),
            (Some(Command::Download(args)), _, _) => Action::Download(Box::new(args)),
            (Some(Command::Populate(args)), _, _) => Action::Populate(args),
            (Some(Command::Backup(args)), _, _) => Action::Backup(args),
            (Some(Command::Restore(args)), _, _) => Action::Restore(args),
            (Some(Command::List(args)), _, _) => Action::List(Box::new(args)),
            (Some(Command::Checksum(args)), _, _) => Action::Checksum(args),
            (Some(Command::Ca { url, .. }), _, _) => Action::Ca(url),
            (None, Some(fd), _) => Action::Continue(fd),
            // In `-fo ro` clap has taken the list, and nobody would read it.
            (None, None, Some(mount)) if !mount._mount_options.is_empty() => {
                return Err(usage("-o stands for itself: not -fo ro, but -f -o ro"));
            }
            (None, None, Some(mount)) => {
                let (source, mountpoint) = source::tell_apart(&mount.places)?;
                Action::Mount(Box::new(MountArgs {
                    source,
                    mountpoint,
                    disk: cli.disk,
                    connection: cli.connection,
                    output: cli.output,
                    engine: cli.engine,
                    ..mount
                }))
            }
            (None, None, None) => return Err(usage("no MOUNTPOINT; see rhv-mount --help")),
        })
    }
}

/// The subcommands that ask no engine; no help shows its options with them.
const WITHOUT_ENGINE: [&str; 3] = ["ca", "status", "umount"];

/// The options and subcommands, as parser, help, manual and completions have them.
pub(crate) fn definition() -> clap::Command {
    let hide = |arg: clap::Arg| match arg.get_help_heading() == Some("Engine") {
        true => arg.hide(true),
        false => arg,
    };
    let command = WITHOUT_ENGINE.iter().fold(Cli::command(), |command, name| {
        command.mut_subcommand(name, |one| one.mut_args(hide))
    });
    let without = |names: &'static [&'static str]| {
        move |arg: clap::Arg| match names.contains(&arg.get_id().as_str()) {
            true => arg.hide(true),
            false => arg,
        }
    };
    command
        .mut_subcommand("upload", |one| one.mut_args(without(&NOT_FOR_AN_UPLOAD)))
        .mut_subcommand("download", |one| one.mut_args(without(&NOT_FOR_A_DOWNLOAD)))
        .mut_subcommand("populate", |one| one.mut_args(without(&NOT_FOR_A_POPULATION)))
        .mut_subcommand("backup", |one| one.mut_args(without(&NOT_FOR_A_BACKUP)))
}

/// The options about the disk that an upload refuses.
const NOT_FOR_AN_UPLOAD: [&str; 2] = ["disk_snapshot", "read_only"];

/// The options about the disk that a download refuses, or that say what it does anyway.
const NOT_FOR_A_DOWNLOAD: [&str; 11] = [
    "create",
    "size",
    "storage_domain",
    "format",
    "preallocated",
    "disk_id",
    "keep_on_failure",
    "read_only",
    "no_zero_detect",
    "cache_size",
    "journal_size",
];

/// The options of the data path that mean nothing to a population, which only reads.
const NOT_FOR_A_POPULATION: [&str; 3] = ["no_zero_detect", "cache_size", "journal_size"];

/// The options about the memory of a disk that is written.
const NOT_FOR_A_BACKUP: [&str; 3] = ["no_zero_detect", "cache_size", "journal_size"];

fn usage(text: impl std::fmt::Display) -> Failure {
    Failure::text(Exit::Usage, text)
}

/// Returns the first paragraph of clap's message, which says what is wrong, as one line.
fn one_line(message: &str) -> String {
    let first = message.split("\n\n").next().unwrap_or(message);
    let line = first.split_whitespace().collect::<Vec<_>>().join(" ");
    line.trim_start_matches("error: ").to_owned()
}

/// The command that helps with `args`.
fn help_on(args: &[OsString], definition: &clap::Command) -> String {
    let name = args
        .get(1)
        .filter(|name| mount_options::is_subcommand(definition, name));
    match name.and_then(|name| name.to_str()) {
        Some(name) if name != "help" => format!("rhv-mount {name} --help"),
        _ => "rhv-mount --help".to_owned(),
    }
}

/// Keeps a transfer URL that stands in the wrong place out of error messages.
pub(super) fn hide_tickets(args: &[OsString]) {
    for arg in args {
        if let Some((_, ticket)) = arg.to_string_lossy().split_once("/images/") {
            hide(ticket.trim_matches('/'));
        }
    }
}

/// Turns `-o ro,uid=3` into `--read-only --uid=3` before clap sees it.
pub(crate) fn expand_mount_options(args: Vec<OsString>) -> Result<Vec<OsString>, Failure> {
    mount_options::expand(args, &definition())
}

/// Leaves out of a list for `-o` what means nothing here.
pub(super) fn known_mount_options(list: &str) -> String {
    mount_options::known(list, &definition())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::settings) fn parse(line: &str) -> Result<Action, Failure> {
        Action::parse(line.split_whitespace().map(OsString::from).collect())
    }

    pub(in crate::settings) fn mount(line: &str) -> MountArgs {
        match parse(line) {
            Ok(Action::Mount(args)) => *args,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        help::add_to(definition()).debug_assert();
    }

    #[test]
    fn a_command_keeps_its_own_options() {
        let args = mount("rhv-mount --read-only /mnt -- cat -o ro {}");
        assert_eq!(args.command, ["cat", "-o", "ro", "{}"]);
    }

    /// A script at each boot names nothing.
    #[test]
    fn only_what_is_named_is_vouched_for() {
        for (words, vouches, finalizes) in [
            ("", false, false),
            ("--finalize", false, false),
            ("--cancel", false, false),
            ("/mnt/web01", false, false),
            ("--finalize /mnt/web01", true, true),
            ("--cancel /mnt/web01", true, false),
        ] {
            match parse(&format!("rhv-mount recover {words}")) {
                Ok(Action::Recover(args)) => {
                    let said = (args.vouches(), args.vouches_for_finalize());
                    assert_eq!(said, (vouches, finalizes), "{words}");
                }
                other => panic!("{words}: {other:?}"),
            }
        }
    }

    #[test]
    fn subcommands_are_told_from_mountpoints() {
        let Ok(Action::Status(args)) = parse("rhv-mount status -o json --follow") else {
            panic!("no status");
        };
        assert_eq!(
            (&args.mountpoint, args.output, args.follow),
            (&None, Output::Json, true)
        );
        assert!(matches!(parse("rhv-mount umount /mnt"), Ok(Action::Umount(_))));
        assert_eq!(mount("rhv-mount ./status").mountpoint, PathBuf::from("./status"));
    }

    #[test]
    fn options_stand_before_or_after_the_name_of_a_subcommand() {
        for line in [
            "rhv-mount -c prod recover --cancel",
            "rhv-mount --cancel recover -c prod",
        ] {
            match parse(line) {
                Ok(Action::Recover(args)) => {
                    assert!(
                        args.cancel && args.engine.config.as_deref() == Some("prod"),
                        "{line}"
                    );
                }
                other => panic!("{line}: {other:?}"),
            }
        }
        for line in [
            "rhv-mount -c prod status",
            "rhv-mount status -c prod",
            "rhv-mount -c prod umount /mnt",
            "rhv-mount --engine-url https://e ca https://e",
        ] {
            assert!(matches!(
                parse(line),
                Ok(Action::Status(..) | Action::Umount(_) | Action::Ca(_))
            ));
        }
        assert_eq!(
            mount("rhv-mount -f ./status -c prod").engine.config.as_deref(),
            Some("prod")
        );
    }

    #[test]
    fn an_option_of_a_mount_is_none_of_a_subcommand_which_names_its_own_help() {
        for line in ["rhv-mount --read-only status", "rhv-mount status --read-only"] {
            let failure = parse(line).unwrap_err();
            let text = failure.to_string();
            assert!(
                text.contains("--read-only") && text.contains("rhv-mount status --help"),
                "{text}"
            );
            assert_eq!(failure.exit, Exit::Usage);
        }
    }

    #[test]
    fn a_list_has_a_name_an_output_and_an_engine() {
        let Ok(Action::List(args)) = parse("rhv-mount list vms web* -o json -c prod") else {
            panic!("no list");
        };
        assert_eq!((args.what, args.output), (Listed::Vms, Output::Json));
        assert_eq!(
            (args.name.as_deref(), args.engine.config.as_deref()),
            (Some("web*"), Some("prod"))
        );
        let failure = parse("rhv-mount list hosts").unwrap_err();
        assert!(failure.to_string().contains("snapshots"), "{failure}");
        assert!(parse("rhv-mount list").is_err());
    }

    #[test]
    fn errors_are_one_line_and_quote_no_ticket() {
        for line in [
            "rhv-mount /mnt --connections 0",
            "rhv-mount /mnt --connections 1000000",
            "rhv-mount /mnt --connections 99999999999999999999999",
            "rhv-mount /mnt --cache-size big",
            "rhv-mount",
            "rhv-mount /mnt https://h/images/very-secret",
            "rhv-mount /mnt --transfer-url",
            "rhv-mount /mnt --transfer-url x --transfer-url-file y",
        ] {
            let failure = parse(line).unwrap_err();
            let text = failure.to_string();
            assert_eq!(failure.exit, Exit::Usage);
            assert!(
                !text.contains('\n') && !text.contains("very-secret"),
                "{line}: {text}"
            );
        }
    }
}
