//! `-o` as mount(8) and fstab write it: a list of options, separated by commas, each with our name for it.
//!
//! The list becomes long options before clap sees the command line, so each option is defined, checked and
//! documented once, in `cli`. Any long option may stand in a list, with `_` or `-` between its words; the few
//! that may not are in [`NOT_IN_A_LIST`].

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::Command;

use crate::failure::{Exit, Failure};

/// Options of mount(8) and fstab that mean nothing to a FUSE mount.
const IGNORED: [&str; 17] = [
    "defaults",
    "rw",
    "auto",
    "noauto",
    "user",
    "users",
    "nouser",
    "_netdev",
    "nofail",
    "nosuid",
    "nodev",
    "async",
    "relatime",
    "nouser_xattr",
    "exec",
    "suid",
    "dev",
];

/// Long options that no list has: fstab is no place for a secret, and the others are not for users.
const NOT_IN_A_LIST: [&str; 3] = ["transfer-url", "kernel-option", "settings-fd"];

/// Turns `-o ro,uid=3` into `--read-only --uid=3`, with the long options that `command` defines.
pub(super) fn expand(args: Vec<OsString>, command: &Command) -> Result<Vec<OsString>, Failure> {
    // A subcommand has a `-o` of its own, as in `status -o json`.
    if args.get(1).is_some_and(|arg| is_subcommand(command, arg)) {
        return Ok(args);
    }
    let mut out = Vec::with_capacity(args.len());
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy();
        let list = match text.strip_prefix("-o") {
            _ if arg == "--" => {
                out.push(arg);
                out.extend(args);
                break;
            }
            Some("") => args.next().ok_or_else(|| usage("-o takes a list of options"))?,
            // The arguments of a program are bytes.
            Some(_) => OsStr::from_bytes(&arg.as_bytes()["-o".len()..]).to_owned(),
            None => {
                out.push(arg);
                continue;
            }
        };
        let list = list
            .to_str()
            .ok_or_else(|| usage(format!("-o {}: it is not valid UTF-8", list.to_string_lossy())))?;
        for option in list.split(',').filter(|o| !o.is_empty()) {
            out.extend(long_option(option, command)?);
        }
    }
    Ok(out)
}

fn is_subcommand(command: &Command, arg: &OsStr) -> bool {
    let mut subcommands = command.get_subcommands();
    arg == "help"
        || subcommands.any(|one| arg == one.get_name() || one.get_all_aliases().any(|name| arg == name))
}

/// The long option for one of a list; `None` for one that has no effect.
fn long_option(option: &str, command: &Command) -> Result<Option<OsString>, Failure> {
    let (name, value) = match option.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (option, None),
    };
    let name = name.replace('_', "-");
    if IGNORED.contains(&option) || name.starts_with("x-") || name == "comment" {
        return Ok(None);
    }
    let defined = command
        .get_arguments()
        .filter(|arg| !NOT_IN_A_LIST.contains(&arg.get_long().unwrap_or_default()))
        .find(|arg| arg.get_long() == Some(&name));
    let takes_value = defined.map(|arg| arg.get_action().takes_values());
    let needs_value = defined.is_none_or(|arg| arg.get_num_args().is_none_or(|n| n.min_values() > 0));
    let long = match (name.as_str(), value, takes_value) {
        ("ro", None, _) => "--read-only".to_owned(),
        ("noatime" | "noexec", None, _) => format!("--kernel-option={name}"),
        // The kernel checks permissions whenever others may come in.
        ("default-permissions", None, _) => return Ok(None),
        (_, None, Some(false)) => format!("--{name}"),
        (_, None, Some(true)) if !needs_value => format!("--{name}"),
        (_, Some(value), Some(true)) => format!("--{name}={value}"),
        _ => {
            return Err(usage(format!(
                "-o {option}: unknown option; see rhv-mount --help"
            )));
        }
    };
    Ok(Some(long.into()))
}

fn usage(text: impl std::fmt::Display) -> Failure {
    Failure::text(Exit::Usage, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::cli::Action;
    use crate::settings::cli::tests::{mount, parse};

    #[test]
    fn options_of_mount_and_fstab_become_ours() {
        let args = mount("rhv-mount /mnt -o ro,_netdev,x-systemd.automount,uid=7 -oallow_other,noatime");
        assert!(args.read_only && args.allow_other);
        assert_eq!(
            (args.uid, args.kernel_option),
            (Some(7), vec!["noatime".to_owned()])
        );
        let error = parse("rhv-mount /mnt -o frobnicate").unwrap_err();
        assert!(error.to_string().contains("frobnicate"));
    }

    #[test]
    fn no_list_of_options_is_dropped_or_changed() {
        for line in [
            "rhv-mount -fo ro /mnt",
            "rhv-mount -foro /mnt",
            "rhv-mount /mnt -fo ro",
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains("-f -o ro"), "{line}: {error}");
        }
        for list in [&b"-ocafile=/ca\xff"[..], b"-olog_file=\xff,ro"] {
            let args = [
                "rhv-mount".into(),
                "/mnt".into(),
                OsStr::from_bytes(list).to_owned(),
            ];
            let error = Action::parse(args.into()).unwrap_err().to_string();
            assert!(error.contains("UTF-8"), "{error}");
        }
    }

    #[test]
    fn every_long_option_may_stand_in_a_list_but_a_secret_and_what_is_our_own() {
        for (option, long) in [
            ("storage_domain=a", "--storage-domain=a"),
            ("insecure", "--insecure"),
            ("keep-on-failure", "--keep-on-failure"),
            ("stats", "--stats"),
            ("stats=json", "--stats=json"),
        ] {
            let args = ["rhv-mount", "-o", option].map(OsString::from);
            let expanded = crate::settings::cli::expand_mount_options(args.into()).unwrap();
            assert_eq!(expanded, ["rhv-mount", long]);
        }
        for option in [
            "transfer_url=x",
            "kernel_option=x",
            "settings_fd=3",
            "help",
            "insecure=1",
            "uid",
        ] {
            let error = parse(&format!("rhv-mount /mnt -o {option}")).unwrap_err();
            assert!(error.to_string().contains("unknown option"), "{option}: {error}");
        }
    }
}
