//! The name of the subcommand among the words of a command line.
//!
//! Options may stand before it, as in `rhv-mount -c prod status`. The name is moved to the front, which is
//! where clap looks for one.
//!
//! The first word is a name, or else a MOUNTPOINT, and a mountpoint that does not exist is made: a misspelt
//! name would become a file with a disk in it. So a word without a slash is refused where it is nearly a name
//! and nothing says that it is meant: a path of this name, which is then the mountpoint, or the form that
//! mount(8) uses, where it is a disk. `./WORD` is always a path.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use clap::{Arg, Command};
use strsim::osa_distance;

use super::usage;
use crate::failure::Failure;
use crate::settings::mount_options::is_subcommand;

/// A word is nearly a name when no more than one letter in this many is wrong, missing or in excess.
const LETTERS_FOR_A_MISTAKE: usize = 3;

/// Puts the name of the subcommand before the options. A first word that can only be a misspelt name is
/// refused.
pub(super) fn name_first(mut args: Vec<OsString>, command: &Command) -> Result<Vec<OsString>, Failure> {
    let words = words(&args, command);
    let Some(&first) = words.first() else {
        return Ok(args);
    };
    if is_subcommand(command, &args[first]) {
        let name = args.remove(first);
        args.insert(1, name);
        return Ok(args);
    }
    let Some(word) = args[first].to_str().filter(|word| !word.contains('/')) else {
        return Ok(args);
    };
    let may_be_meant = match words.len() {
        1 => Path::new(word).symlink_metadata().is_ok(),
        // mount(8) and fstab say SOURCE MOUNTPOINT -o LIST, and a disk has any name.
        2 => args
            .iter()
            .take_while(|arg| *arg != "--")
            .any(|arg| arg.as_bytes().starts_with(b"-o")),
        _ => false,
    };
    refuse_a_slip(word, may_be_meant, command)?;
    Ok(args)
}

/// Refuses a first word that is nearly a name where nothing says that it is meant.
fn refuse_a_slip(word: &str, may_be_meant: bool, command: &Command) -> Result<(), Failure> {
    match nearest(word, command) {
        Some(_) if may_be_meant => Ok(()),
        Some(name) => Err(usage(format!(
            "`{word}` is no subcommand; did you mean `{name}`? Else a mountpoint with this name is written \
             ./{word}, and a disk --disk {word}"
        ))),
        None => Ok(()),
    }
}

/// Returns the name of a subcommand that differs little from `word`.
fn nearest<'a>(word: &str, command: &'a Command) -> Option<&'a str> {
    let word = word.to_lowercase();
    let there = command.get_subcommands().filter(|one| !one.is_hide_set());
    let names = there.flat_map(Command::get_name_and_visible_aliases);
    let distances = names
        .chain(["help"])
        .map(|name| (osa_distance(&word, name), name));
    let near = distances.filter(|(distance, name)| *distance <= name.len() / LETTERS_FOR_A_MISTAKE);
    near.min().map(|(_, name)| name)
}

/// Returns the places of the words that are neither options nor values of options, up to a `--`.
fn words(args: &[OsString], command: &Command) -> Vec<usize> {
    let mut found = Vec::new();
    let mut is_value = false;
    for (at, arg) in args.iter().enumerate().skip(1) {
        let text = arg.to_string_lossy();
        if text == "--" {
            break;
        }
        if is_value {
            is_value = false;
        } else if text.starts_with('-') && text != "-" {
            is_value = takes_the_next_word(&text, command);
        } else {
            found.push(at);
        }
    }
    found
}

/// True for an option whose value may be the word after it. One whose value is its own choice has that behind
/// `=`, as `--stats=json`, and leaves the next word alone.
fn takes_a_word(arg: &Arg) -> bool {
    arg.get_action().takes_values() && !arg.is_require_equals_set()
}

/// True when the value of `option` is the word after it.
fn takes_the_next_word(option: &str, command: &Command) -> bool {
    let takes_a_value = |is_meant: &dyn Fn(&Arg) -> bool| {
        let meant = arguments(command).find(|arg| is_meant(arg));
        meant.is_some_and(takes_a_word)
    };
    match option.strip_prefix("--") {
        Some(long) => takes_a_value(&|arg| arg.get_long() == Some(long)),
        None => {
            // Among letters, the first one that takes a value takes the rest as its value.
            let mut letters = option.chars();
            let found = letters.find(|letter| takes_a_value(&|arg| arg.get_short() == Some(*letter)));
            found.is_some() && letters.as_str().is_empty()
        }
    }
}

/// The arguments of the program and of all its subcommands.
fn arguments(command: &Command) -> impl Iterator<Item = &Arg> {
    let of_subcommands = command.get_subcommands().flat_map(Command::get_arguments);
    command.get_arguments().chain(of_subcommands)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::cli::definition;

    fn moved(line: &str) -> String {
        let args = line.split(' ').map(OsString::from).collect();
        let args = name_first(args, &definition()).unwrap_or_else(|e| panic!("{line}: {e}"));
        args.join(" ".as_ref()).into_string().unwrap()
    }

    fn refusal(line: &str) -> String {
        let args = line.split(' ').map(OsString::from).collect();
        let refused = name_first(args, &definition()).expect_err(line);
        refused.to_string()
    }

    #[test]
    fn a_name_is_found_behind_options_and_not_among_their_values() {
        for (line, expected) in [
            ("rhv-mount -c prod status", "rhv-mount status -c prod"),
            (
                "rhv-mount -cprod status -o json",
                "rhv-mount status -cprod -o json",
            ),
            ("rhv-mount -o json status", "rhv-mount status -o json"),
            (
                "rhv-mount --insecure --config=a recover /m",
                "rhv-mount recover --insecure --config=a /m",
            ),
            ("rhv-mount --cancel recover /m", "rhv-mount recover --cancel /m"),
            ("rhv-mount -fc status umount /m", "rhv-mount umount -fc status /m"),
        ] {
            assert_eq!(moved(line), expected);
        }
        for line in [
            "rhv-mount -c status /mnt",
            "rhv-mount --disk status /mnt",
            "rhv-mount -fo status /mnt",
            "rhv-mount /mnt -- status",
            "rhv-mount -- status",
            "rhv-mount /mnt umount",
            "rhv-mount ./status",
            "rhv-mount",
        ] {
            assert_eq!(moved(line), line);
        }
    }

    #[test]
    fn a_misspelt_name_is_no_mountpoint() {
        for (word, name) in [
            ("statu", "status"),
            ("STATUS", "status"),
            ("stauts", "status"),
            ("unmout", "unmount"),
            ("umont", "umount"),
            ("mount", "umount"),
            ("recovr", "recover"),
            ("lst", "list"),
            ("uplaod", "upload"),
            ("hlep", "help"),
        ] {
            for line in [
                format!("rhv-mount {word}"),
                format!("rhv-mount -c prod {word} /mnt"),
            ] {
                let text = refusal(&line);
                let meant = format!("did you mean `{name}`");
                assert!(
                    text.contains(&meant) && text.contains(&format!("./{word}")),
                    "{text}"
                );
            }
            moved(&format!("rhv-mount ./{word}"));
        }
    }

    #[test]
    fn a_disk_of_mount8_may_be_named_nearly_like_a_subcommand() {
        for line in ["rhv-mount backups /mnt -o rw", "rhv-mount -oro,nofail state /mnt"] {
            assert_eq!(moved(line), line);
        }
        refusal("rhv-mount backups -o rw");
        refusal("rhv-mount backups /mnt -- cat -o x");
    }

    #[test]
    fn names_that_people_give_to_mountpoints_are_left_alone() {
        for word in [
            "disk", "disk.raw", "mnt", "web01", "vm", "a", "cd", "data", "image", "root", "-",
        ] {
            moved(&format!("rhv-mount {word}"));
        }
    }

    #[test]
    fn an_option_whose_value_is_a_choice_leaves_the_next_word_alone() {
        moved("rhv-mount --stats ./mnt");
        let command = definition();
        for option in ["--stats", "--verify"] {
            assert!(!takes_the_next_word(option, &command), "{option}");
        }
        assert!(takes_the_next_word("--disk", &command));
    }

    /// The place of a name must not depend on the subcommand, which is not known before it is found.
    #[test]
    fn an_option_takes_a_value_everywhere_or_nowhere() {
        let command = definition();
        for arg in arguments(&command) {
            let takes = takes_a_word(arg);
            let alike = |other: &&Arg| {
                let short = other.get_short().is_some() && other.get_short() == arg.get_short();
                short || other.get_long().is_some() && other.get_long() == arg.get_long()
            };
            let mut same = arguments(&command).filter(alike);
            assert!(same.all(|other| takes_a_word(other) == takes), "{arg}");
        }
    }
}
