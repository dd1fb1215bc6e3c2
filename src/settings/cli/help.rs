//! The two helps: `-h` is a page with what people do every day, `--help` has everything in groups.

use clap::{Arg, ArgAction, Command};

use crate::failure::Exit;

/// The end of `-h`. Each line with the program's name is a command that works.
const EVERY_DAY: &str = "\
Examples, where -c names a section of ~/.config/ovirt-img.conf:
  rhv-mount -c prod --disk web01 /mnt     the disk web01 is the file /mnt/disk
  rhv-mount umount /mnt                   unmount; 0 says that every byte is on the storage
  rhv-mount -c prod upload web01.raw --disk web01    copy an image into it, without a mount
  rhv-mount status                        what is mounted, and how it goes
  rhv-mount recover                       end what a killed rhv-mount left behind
  rhv-mount --help                        all options; `man rhv-mount` has them too";

/// Gives `command` both helps. Its options are in the long one only, also the two that clap would add to the
/// short one by itself: its room is for the subcommands.
pub(super) fn add_to(command: Command) -> Command {
    let flag = |name, short, action| Arg::new(name).short(short).long(name).action(action);
    command
        .disable_help_flag(true)
        .disable_version_flag(true)
        .arg(flag("help", 'h', ArgAction::Help).global(true).help("Print help"))
        .arg(flag("version", 'V', ArgAction::Version).help("Print version"))
        .mut_args(|arg| arg.hide_short_help(true))
        .after_help(EVERY_DAY)
        .after_long_help(exit_status())
}

fn exit_status() -> String {
    let lines = Exit::MEANINGS.map(|(exit, meaning)| format!("  {}      {meaning}\n", exit as u8));
    format!("Exit status:\n{}  other  COMMAND's own", lines.concat())
}
