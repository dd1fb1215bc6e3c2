//! The command lines of mount(8) and umount(8), which run the program for a file system's type (see EXTERNAL
//! HELPERS there):
//!
//! ```text
//! /sbin/mount.rhv-mount SOURCE DIR [-sfnv] [-N NAMESPACE] [-o LIST] [-t TYPE]     also mount.fuse.rhv-mount
//! /sbin/umount.fuse.rhv-mount DIR [-flnrv] [-N NAMESPACE] [-t TYPE]               also umount.rhv-mount
//! ```
//!
//! Each of them is a link to this program, which goes by the name under which it is called: whatever begins
//! with `mount.` or `umount.`. A mount is then what `rhv-mount SOURCE DIR -o LIST` would be, and the exit
//! code is one of those that mount(8) knows ([`exit_code`]).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::failure::{Exit, Failure};
use crate::settings::cli::{Action, MountArgs, hide_tickets, known_mount_options};
use crate::settings::source;

/// Exit code of mount(8): incorrect invocation or permissions.
const INCORRECT_INVOCATION: u8 = 1;

/// Exit code of mount(8): mount failure.
const FAILURE: u8 = 32;

/// A call of this program by mount(8) or umount(8).
#[derive(Debug)]
pub(crate) enum Call {
    /// Mount.
    Mount(Box<MountArgs>),
    /// A mount was asked for and everything but that was to be done (`-f`).
    Fake,
    /// Unmount, and wait for the outcome.
    Umount {
        mountpoint: PathBuf,
        /// Leave the tree although somebody uses the mount.
        lazy: bool,
        /// Fail the requests that are under way.
        force: bool,
    },
}

impl Call {
    /// Reads the command line, the program's name first. Returns nothing where that name is no helper's.
    pub(crate) fn parse(args: &[OsString]) -> Option<Result<Call, Failure>> {
        let (program, args) = args.split_first()?;
        let name = Path::new(program).file_name()?.as_bytes();
        if name.starts_with(b"mount.") {
            Some(mount(args))
        } else if name.starts_with(b"umount.") {
            Some(umount(args))
        } else {
            None
        }
    }
}

/// Translates an exit code of ours into one that mount(8) and umount(8) know.
pub(crate) fn exit_code(code: u8) -> u8 {
    match code {
        0 => 0,
        code if code == Exit::Usage as u8 => INCORRECT_INVOCATION,
        _ => FAILURE,
    }
}

fn mount(args: &[OsString]) -> Result<Call, Failure> {
    let words = Words::read(args, b"sfnvrw", b"otN")?;
    let [source, directory] = &words.operands[..] else {
        return Err(usage("a mount helper takes SOURCE DIR [-sfnv] [-o OPTIONS]"));
    };
    hide_tickets(args);
    let source = source::name(source)?;
    // It stands where an option or a subcommand could stand, too.
    let directory = absolute(directory)?;
    let mut args: Vec<OsString> = vec!["rhv-mount".into()];
    for list in words
        .values
        .iter()
        .filter_map(|(letter, list)| (*letter == b'o').then_some(list))
    {
        let list = match (words.has(b's'), list.to_str()) {
            (true, Some(text)) => known_mount_options(text).into(),
            _ => list.clone(),
        };
        args.extend(["-o".into(), list]);
    }
    if words.has(b'r') {
        args.extend(["-o", "ro"].map(OsString::from));
    }
    args.push(directory.into());
    match Action::parse(args)? {
        Action::Mount(_) if words.has(b'f') => Ok(Call::Fake),
        Action::Mount(mut args) => {
            args.source = Some(source);
            args.for_mount8 = true;
            Ok(Call::Mount(args))
        }
        _ => Err(usage("a mount helper only mounts")),
    }
}

fn umount(args: &[OsString]) -> Result<Call, Failure> {
    let words = Words::read(args, b"flnrv", b"tN")?;
    match &words.operands[..] {
        [directory] => Ok(Call::Umount {
            mountpoint: directory.into(),
            lazy: words.has(b'l'),
            force: words.has(b'f'),
        }),
        _ => Err(usage("an unmount helper takes DIR [-flnrv]")),
    }
}

fn absolute(path: &OsStr) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| usage(format!("{}: {e}", path.to_string_lossy())))
}

fn usage(text: impl std::fmt::Display) -> Failure {
    Failure::text(Exit::Usage, text)
}

/// A command line, as getopt(3) reads it.
#[derive(Debug, Default)]
struct Words {
    operands: Vec<OsString>,
    /// The options without a value.
    flags: Vec<u8>,
    /// The options with a value.
    values: Vec<(u8, OsString)>,
}

impl Words {
    fn has(&self, flag: u8) -> bool {
        self.flags.contains(&flag)
    }

    /// Reads `args`; `flags` and `valued` are the letters of the options.
    fn read(args: &[OsString], flags: &[u8], valued: &[u8]) -> Result<Words, Failure> {
        let mut words = Words::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let bytes = arg.as_bytes();
            if arg == "--" {
                words.operands.extend(args.by_ref().cloned());
            } else if bytes.len() < 2 || bytes[0] != b'-' {
                words.operands.push(arg.clone());
            } else {
                words.read_options(&bytes[1..], &mut args, flags, valued)?;
            }
        }
        // Mounting there by setns(2) would not do: the process that serves the mount has to live there, too.
        if let Some((_, namespace)) = words.values.iter().find(|(letter, _)| *letter == b'N') {
            return Err(usage(format!(
                "-N {0}: run it in that mount namespace, as `nsenter --mount={0} mount ...` does",
                namespace.to_string_lossy()
            )));
        }
        Ok(words)
    }

    /// Reads the letters behind a dash, and the value of the last one.
    fn read_options<'a>(
        &mut self,
        letters: &[u8],
        rest: &mut impl Iterator<Item = &'a OsString>,
        flags: &[u8],
        valued: &[u8],
    ) -> Result<(), Failure> {
        for (n, letter) in letters.iter().enumerate() {
            let shown = char::from(*letter);
            if flags.contains(letter) {
                self.flags.push(*letter);
            } else if valued.contains(letter) {
                let value = match &letters[n + 1..] {
                    [] => rest.next().cloned(),
                    value => Some(OsStr::from_bytes(value).to_owned()),
                };
                let value = value.ok_or_else(|| usage(format!("-{shown} takes a value")))?;
                self.values.push((*letter, value));
                return Ok(());
            } else {
                return Err(usage(format!(
                    "-{shown}: mount(8) gives its helpers no such option"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Call, Failure> {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        Call::parse(&words).unwrap_or_else(|| panic!("{line}: no helper"))
    }

    fn mounted(line: &str) -> MountArgs {
        match parse(line) {
            Ok(Call::Mount(args)) => *args,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn a_helper_is_known_by_its_name() {
        for name in [
            "rhv-mount",
            "/usr/bin/rhv-mount",
            "mount",
            "/sbin/umount",
            "amount.x",
            "",
        ] {
            assert!(
                Call::parse(&[name.into(), "x".into(), "/mnt".into()]).is_none(),
                "{name}"
            );
        }
        for name in ["/sbin/mount.rhv-mount", "mount.fuse.rhv-mount"] {
            assert_eq!(
                mounted(&format!("{name} web01 /mnt")).mountpoint,
                Path::new("/mnt")
            );
        }
    }

    #[test]
    fn mount_calls_it_with_source_and_options() {
        let args = mounted("mount.rhv-mount web01 /mnt -n -v -o ro,_netdev,config=prod -t fuse.rhv-mount");
        assert_eq!(
            (args.source.as_deref(), args.disk.read_only),
            (Some("web01"), true)
        );
        assert!(args.for_mount8);
        assert_eq!(args.engine.config.as_deref(), Some("prod"));
        let args = mounted("mount.rhv-mount -rouid=7 status -- -n");
        assert_eq!(
            (args.source.as_deref(), args.uid, args.disk.read_only),
            (Some("status"), Some(7), true)
        );
        assert!(args.mountpoint.is_absolute() && args.mountpoint.ends_with("-n"));
    }

    #[test]
    fn unknown_options_are_refused_but_of_a_sloppy_list() {
        assert!(parse("mount.rhv-mount web01 /mnt -o frobnicate").is_err());
        assert_eq!(
            mounted("mount.rhv-mount web01 /mnt -s -o frobnicate,uid=7").uid,
            Some(7)
        );
        for line in [
            "mount.rhv-mount web01 /mnt -s -o remount",
            "mount.rhv-mount web01",
            "mount.rhv-mount web01 /mnt /more",
            "mount.rhv-mount web01 /mnt -x",
            "mount.rhv-mount web01 /mnt -N /proc/1/ns/mnt",
            "mount.rhv-mount web01 /mnt -o",
            "umount.fuse.rhv-mount",
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(
                (error.exit, exit_code(error.exit as u8)),
                (Exit::Usage, 1),
                "{line}: {error}"
            );
        }
    }

    #[test]
    fn a_fake_mount_is_checked_and_not_made() {
        assert!(matches!(parse("mount.rhv-mount -fv web01 /mnt"), Ok(Call::Fake)));
        assert!(parse("mount.rhv-mount -f web01 /mnt -o frobnicate").is_err());
    }

    #[test]
    fn umount_says_how_it_is_to_leave_the_tree() {
        for (line, expected) in [
            ("umount.fuse.rhv-mount /mnt", (false, false)),
            ("umount.rhv-mount /mnt -n -v -r -t fuse.rhv-mount", (false, false)),
            ("umount.fuse.rhv-mount -l /mnt", (true, false)),
            ("umount.fuse.rhv-mount /mnt -f", (false, true)),
        ] {
            match parse(line) {
                Ok(Call::Umount {
                    mountpoint,
                    lazy,
                    force,
                }) => {
                    assert_eq!(
                        (mountpoint.as_path(), (lazy, force)),
                        (Path::new("/mnt"), expected)
                    );
                }
                other => panic!("{line}: {other:?}"),
            }
        }
    }
}
