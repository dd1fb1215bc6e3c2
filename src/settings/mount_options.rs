//! `-o` as mount(8) and fstab write it: a list of options, separated by commas, each with our name for it.
//!
//! The list becomes long options before clap sees the command line, so each option is defined, checked and
//! documented once, in `cli`. Any long option may stand in a list, with `_` or `-` between its words; the few
//! that may not are in [`NOT_IN_A_LIST`]. Of two options with one name the later one counts, as with
//! mount(8), which puts what its user types behind what fstab says.
//!
//! The other options that people write for mount(8), fstab and libfuse have one of four fates:
//!
//! ```text
//! ours        ro, and each long option        becomes that option
//! kernel's    noexec, max_read=, context= ..  goes to mount(2), as `--kernel-option`
//! ignored     _netdev, relatime, intr ...     it asks for nothing that a mount of ours could do otherwise
//! refused     auto_unmount, remount ...       it asks for what is not to be had; the reason is told
//! ```

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::Command;

use crate::failure::{Exit, Failure};

/// Options without a value, or (with `=`) with one, that ask for nothing: see [`is_ignored`].
const IGNORED: [&str; 4] = [
    // These are for mount(8), systemd and the order of a boot, which have heeded them.
    "defaults auto noauto user user= nouser users owner noowner group nogroup _netdev nofail comment \
     comment= helper= uhelper= silent loud",
    // No mount of ours has devices or setuid programs, whether or not it is asked for them.
    "suid nosuid dev nodev rw exec async",
    // The kernel keeps no access times for FUSE; the directory never changes, and holds no links.
    "atime diratime nodiratime relatime norelatime strictatime nostrictatime lazytime nolazytime dirsync \
     iversion noiversion nomand symfollow nosymfollow acl noacl user_xattr nouser_xattr",
    // These are for libfuse: caches, threads and sizes, which are chosen here for one file that nobody else
    // changes.
    // The kernel checks permissions whenever others may come in.
    "default_permissions kernel_cache auto_cache noauto_cache ac_attr_timeout= attr_timeout= \
     entry_timeout= negative_timeout= direct_io hard_remove use_ino readdir_ino noforget remember= intr \
     intr_signal= big_writes large_read async_read sync_read async_dio no_async_dio atomic_o_trunc \
     no_remote_lock no_remote_posix_lock no_remote_flock splice_read no_splice_read splice_write \
     no_splice_write splice_move no_splice_move writeback_cache no_writeback_cache clone_fd max_threads= \
     max_idle_threads= max_write= max_readahead= max_background= congestion_threshold=",
];

/// Options that take back an earlier one of a list.
const TAKES_BACK: [(&str, &str); 4] = [
    ("rw", "--read-only"),
    ("exec", "--kernel-option=noexec"),
    ("async", "--kernel-option=sync"),
    ("atime", "--kernel-option=noatime"),
];

/// Options of mount(8) and libfuse that are not to be had, with the reason.
const REFUSED: [(&str, &str); 5] = [
    (
        REMOUNT,
        "the options of a mount cannot be changed; unmount it and mount it again",
    ),
    (
        "auto_unmount",
        "a mount whose process was killed stays, so that programs get an error and do not write into the \
         directory under it; `rhv-mount umount` removes it",
    ),
    (
        "drop_privileges",
        "rhv-mount mounts by itself, and then keeps three of root's capabilities in one thread",
    ),
    (
        "setuid",
        "rhv-mount stays the user who calls it; mount as that user, or say who owns the file with uid=N",
    ),
    ("debug", "say log_level=debug, and log_file=PATH"),
];

/// Asks for other options of a mount that is there.
const REMOUNT: &str = "remount";

/// Our type is `fuse.rhv-mount`.
const SUBTYPE: &str = "rhv-mount";

/// Long options that no list has: fstab is no place for a secret, and the others are not for users.
const NOT_IN_A_LIST: [&str; 3] = ["transfer-url", "kernel-option", "settings-fd"];

/// The fate of an option in a list.
enum Fate {
    /// The long option.
    Ours(String),
    Ignored,
    Refused(String),
    Unknown,
}

/// Turns `-o ro,uid=3` into `--read-only --uid=3`, with the long options that `command` defines.
pub(super) fn expand(args: Vec<OsString>, command: &Command) -> Result<Vec<OsString>, Failure> {
    // A subcommand has a `-o` of its own, as in `status -o json`.
    if args.get(1).is_some_and(|arg| is_subcommand(command, arg)) {
        return Ok(args);
    }
    // These are the arguments, each with the key of one that comes from a list.
    let mut out: Vec<(Option<String>, OsString)> = Vec::with_capacity(args.len());
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy();
        let list = match text.strip_prefix("-o") {
            _ if arg == "--" => {
                out.push((None, arg));
                out.extend(args.map(|arg| (None, arg)));
                break;
            }
            Some("") => args.next().ok_or_else(|| usage("-o takes a list of options"))?,
            // The arguments of a program are bytes.
            Some(_) => OsStr::from_bytes(&arg.as_bytes()["-o".len()..]).to_owned(),
            None => {
                out.push((None, arg));
                continue;
            }
        };
        let list = list
            .to_str()
            .ok_or_else(|| usage(format!("-o {}: it is not valid UTF-8", list.to_string_lossy())))?;
        for option in split(list) {
            match fate(option, command) {
                Fate::Ours(long) => {
                    let key = Some(key(&long).to_owned());
                    out.retain(|(listed, _)| listed.is_none() || *listed != key);
                    out.push((key, long.into()));
                }
                Fate::Ignored => {
                    let taken_back = TAKES_BACK.iter().find(|(by, _)| *by == option);
                    out.retain(|(listed, arg)| {
                        listed.is_none() || taken_back.is_none_or(|(_, it)| arg != it)
                    });
                }
                Fate::Refused(why) => return Err(usage(format!("-o {option}: {why}"))),
                Fate::Unknown => {
                    return Err(usage(format!(
                        "-o {option}: unknown option; see rhv-mount --help"
                    )));
                }
            }
        }
    }
    Ok(out.into_iter().map(|(_, arg)| arg).collect())
}

/// Returns `list` without the options that mean nothing here or are refused, for a caller who says that it
/// may hold some. A remount is not left out: it would become a mount.
pub(super) fn known(list: &str, command: &Command) -> String {
    let keep = |option: &&str| match fate(option, command) {
        Fate::Ours(_) | Fate::Ignored => true,
        Fate::Refused(_) => *option == REMOUNT,
        // One of ours in a wrong form is refused later: without it the mount would be another one.
        Fate::Unknown => is_named_like_ours(option, command),
    };
    split(list).into_iter().filter(keep).collect::<Vec<_>>().join(",")
}

/// True where the name of `option` is that of one of ours.
fn is_named_like_ours(option: &str, command: &Command) -> bool {
    let name = option.split('=').next().unwrap_or(option).replace('_', "-");
    name == "ro" || command.get_arguments().any(|arg| arg.get_long() == Some(&name))
}

/// Splits a list at the commas outside of quotes, as mount(8) does: a security context may hold commas.
fn split(list: &str) -> Vec<&str> {
    let mut quoted = false;
    let at_comma = move |c: char| {
        quoted ^= c == '"';
        c == ',' && !quoted
    };
    list.split(at_comma).filter(|option| !option.is_empty()).collect()
}

/// The part of a long option of which there can be one only.
fn key(long: &str) -> &str {
    let name = long.strip_prefix("--kernel-option=").unwrap_or(long);
    let end = name
        .find('=')
        .map_or(long.len(), |at| long.len() - name.len() + at);
    &long[..end]
}

/// True when `arg` is the name of a subcommand, or another name for one.
pub(super) fn is_subcommand(command: &Command, arg: &OsStr) -> bool {
    let mut subcommands = command.get_subcommands();
    arg == "help"
        || subcommands.any(|one| arg == one.get_name() || one.get_all_aliases().any(|name| arg == name))
}

/// Decides about one option of a list.
fn fate(option: &str, command: &Command) -> Fate {
    let (name, value) = match option.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (option, None),
    };
    if is_ignored(name, value.is_some()) {
        return Fate::Ignored;
    }
    if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
        return Fate::Refused((*why).to_owned());
    }
    match (name, value) {
        ("ro", None) => return Fate::Ours("--read-only".to_owned()),
        ("noatime" | "noexec" | "sync" | "allow_root", None)
        | ("context" | "fscontext" | "defcontext" | "rootcontext", Some(_)) => {
            return Fate::Ours(format!("--kernel-option={option}"));
        }
        ("max_read", Some(bytes)) => {
            return match bytes.parse::<u32>() {
                Ok(_) => Fate::Ours(format!("--kernel-option={option}")),
                Err(_) => Fate::Refused("it takes a number of bytes".to_owned()),
            };
        }
        ("subtype", Some(SUBTYPE)) => return Fate::Ignored,
        ("subtype", _) => {
            return Fate::Refused(format!(
                "the type is fuse.{SUBTYPE}, by which `rhv-mount umount` and `status` know a mount"
            ));
        }
        _ => {}
    }
    let name = name.replace('_', "-");
    let defined = command
        .get_arguments()
        .filter(|arg| !NOT_IN_A_LIST.contains(&arg.get_long().unwrap_or_default()))
        .find(|arg| arg.get_long() == Some(&name));
    let Some(arg) = defined else {
        return Fate::Unknown;
    };
    let takes_value = arg.get_action().takes_values();
    let may_go_without = arg.get_num_args().is_some_and(|values| values.min_values() == 0);
    match value {
        None if !takes_value || may_go_without => Fate::Ours(format!("--{name}")),
        Some(value) if takes_value => Fate::Ours(format!("--{name}={value}")),
        _ => Fate::Unknown,
    }
}

/// True for an option in [`IGNORED`], or for other programs: `x-systemd.automount`, `X-mount.mkdir`.
fn is_ignored(name: &str, has_value: bool) -> bool {
    let name = name.replace('-', "_");
    let is_it = |ignored: &str| match ignored.strip_suffix('=') {
        Some(ignored) => has_value && ignored == name,
        None => !has_value && ignored == name,
    };
    let mut ignored = IGNORED.iter().flat_map(|words| words.split_ascii_whitespace());
    name.starts_with("x_") || name.starts_with("X_") || ignored.any(is_it)
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
        assert!(args.disk.read_only && args.allow_other);
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
    fn what_people_write_for_mount_and_libfuse_asks_for_nothing_goes_to_the_kernel_or_is_refused() {
        for option in IGNORED.iter().flat_map(|words| words.split_ascii_whitespace()) {
            let value = if option.ends_with('=') { "7" } else { "" };
            let args = mount(&format!("rhv-mount /mnt -o {option}{value}"));
            assert!(args.kernel_option.is_empty() && !args.disk.read_only, "{option}");
        }
        mount("rhv-mount /mnt -o x-systemd.mount-timeout=9,X-mount.mkdir=755,subtype=rhv-mount");
        let args = mount(r#"rhv-mount /mnt -o sync,max_read=65536,context="a:b:c:s0:c1,c2",fsname=a"#);
        let (kernel, source) = (args.kernel_option, args.fsname);
        assert_eq!(kernel, ["sync", "max_read=65536", r#"context="a:b:c:s0:c1,c2""#]);
        assert_eq!(source.as_deref(), Some("a"));
        for (option, _) in REFUSED {
            let error = parse(&format!("rhv-mount /mnt -o {option}")).unwrap_err();
            assert!(!error.to_string().contains("unknown"), "{error}");
        }
        for option in ["subtype=x", "max_read=x", "max_read=99999999999"] {
            let error = parse(&format!("rhv-mount /mnt -o {option}")).unwrap_err();
            assert!(!error.to_string().contains("unknown"), "{error}");
        }
    }

    #[test]
    fn of_two_options_with_one_name_the_later_one_counts() {
        let args = mount("rhv-mount /mnt -o ro,uid=1,noexec,noatime,sync -o uid=2,rw,exec,ro,uid=3,async");
        assert_eq!((args.uid, args.disk.read_only), (Some(3), true));
        assert_eq!(args.kernel_option, ["noatime"]);
        assert!(!mount("rhv-mount /mnt -o ro,rw").disk.read_only);
        assert!(
            mount("rhv-mount --read-only /mnt -o rw").disk.read_only,
            "it was not in a list"
        );
    }

    #[test]
    fn a_sloppy_list_is_left_with_what_is_known() {
        let list = "ro,frobnicate,auto_unmount,_netdev,uid=7,remount,read_only=yes";
        let known = crate::settings::cli::known_mount_options(list);
        assert_eq!(known, "ro,_netdev,uid=7,remount,read_only=yes");
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
