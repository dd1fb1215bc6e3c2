//! `--vm`: every disk of a VM, as files of one directory.
//!
//! Connections and memory are for the whole mount. They are divided when the number of disks is known, each
//! disk getting its equal share: the disks have pools, caches and journals of their own, so that one whose
//! server is away takes nothing from the others.

use serde::{Deserialize, Serialize};

use super::account::LoginPlaces;
use super::backup::way;
use super::choice::{Choice, elsewhere, flag_elsewhere};
use super::cli::MountArgs;
use super::config_file::Section;
use super::{DiskSettings, EngineSource, Source, Wanted, usage};
use crate::engine::Account;
use crate::failure::Failure;

/// The name of the file of a disk that is alone.
const USUAL_FILE_NAME: &str = "disk";

/// The disk, or the disks, that a mount shows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Shown {
    /// One disk.
    Disk(Source),
    /// The disks of a VM.
    OfVm(Box<VmSource>),
}

/// A VM of an engine, as the user names it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct VmSource {
    /// The engine and the user.
    pub(crate) account: Account,
    /// The places from which the login came.
    pub(crate) login: LoginPlaces,
    /// Its name or id.
    pub(crate) vm: String,
    /// The snapshot whose disks are shown, by id or description.
    pub(crate) snapshot: Option<String>,
    /// The disks are shown as a backup has them that is begun for that.
    #[serde(default)]
    pub(crate) backup: Option<InBackup>,
    /// Connect through the engine's proxy.
    pub(crate) proxy: bool,
}

/// A backup whose disks are shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InBackup {
    /// The checkpoint from which changes are to be told.
    pub(crate) since: Option<String>,
    /// Without a snapshot.
    pub(crate) live: bool,
    /// The guest's file systems must have been frozen.
    pub(crate) require_consistency: bool,
}

/// The point in time that the disks of a VM are shown at; neither means the VM as it is, which is down.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Frozen {
    pub(super) snapshot: Option<String>,
    pub(super) backup: Option<InBackup>,
}

/// A disk that was found through its VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// The name of the VM.
    pub(crate) vm: String,
    /// The name of the disk, which a disk snapshot does not have.
    pub(crate) disk: String,
}

impl DiskSettings<Box<VmSource>> {
    /// The settings for disk number `n` of `count`, with its share of connections and memory.
    pub(crate) fn of_disk(&self, member: Member, wanted: Wanted, n: usize, count: usize) -> DiskSettings {
        let source = &self.source;
        let count = count.max(1);
        let more = usize::from(n < self.connections % count);
        let engine = EngineSource {
            account: source.account.clone(),
            login: source.login.clone(),
            wanted,
            proxy: source.proxy,
            keep_on_failure: false,
            of_vm: Some(member),
        };
        DiskSettings {
            connections: (self.connections / count + more).max(1),
            budgets: self.budgets.share(count),
            ..self.with(Source::Engine(Box::new(engine)))
        }
    }
}

/// Refuses what means nothing beside the choice of a VM, or without it. Returns the point in time that is
/// named.
pub(super) fn check(choice: &Choice, args: &MountArgs, section: &Section) -> Result<Frozen, Failure> {
    if !matches!(choice, Choice::Vm(_)) {
        check_without_vm(args)?;
        return Ok(Frozen::default());
    }
    let frozen = frozen(args, section)?;
    if args.read_write && frozen.snapshot.is_some() {
        return Err(usage(
            "--read-write beside --snapshot: a snapshot never changes; leave one out",
        ));
    }
    if args.read_write && frozen.backup.is_some() {
        return Err(usage(
            "--read-write beside --backup: what a backup has never changes; leave one out",
        ));
    }
    if args.read_write && args.disk.read_only {
        return Err(usage("--read-write beside --read-only: leave one out"));
    }
    let disk = &args.disk;
    let for_new_disks = disk.size.is_some()
        || disk.storage_domain.is_some()
        || disk.format.is_some()
        || disk.disk_id.is_some()
        || disk.preallocated
        || disk.keep_on_failure;
    if for_new_disks {
        return Err(usage(
            "--size, --storage-domain, --format, --preallocated, --disk-id and --keep-on-failure are for \
             --create, and --vm shows disks that are there",
        ));
    }
    if args.file_name != USUAL_FILE_NAME {
        return Err(usage(
            "--file-name is for one disk: with --vm each file has the name of its disk",
        ));
    }
    if args.verify.as_ref().is_some_and(|image| !image.is_empty()) {
        return Err(usage(
            "--verify=IMAGE is for one disk: with --vm, --verify alone compares each disk with what is read \
             back from it",
        ));
    }
    Ok(frozen)
}

/// Refuses the options that are for the disks of a VM.
fn check_without_vm(args: &MountArgs) -> Result<(), Failure> {
    if args.snapshot.is_some() {
        return Err(usage(
            "--snapshot is for --vm: name the VM, or a snapshot of one disk with --disk-snapshot",
        ));
    }
    if args.backup {
        return Err(usage(
            "--backup is for --vm: the engine backs a whole VM up, so name that",
        ));
    }
    if let Some(option) = of_a_backup(args) {
        return Err(usage(format!("{option} is for --vm with --backup: give both")));
    }
    match args.read_write {
        true => Err(usage(
            "--read-write is for --vm: a single disk may be written unless --read-only is given",
        )),
        false => Ok(()),
    }
}

/// The option that only means something in a backup, where one is given.
fn of_a_backup(args: &MountArgs) -> Option<&'static str> {
    let given = [
        (args.since.is_some(), "--since"),
        (args.live, "--live"),
        (args.require_consistency, "--require-consistency"),
    ];
    given.iter().find(|(given, _)| *given).map(|(_, option)| *option)
}

/// Returns the point in time that is named: on the command line, else in the section, else in the
/// environment.
fn frozen(args: &MountArgs, section: &Section) -> Result<Frozen, Failure> {
    let on_the_command_line = args.backup || args.snapshot.is_some();
    let (snapshot, backup) = match on_the_command_line {
        true => (args.snapshot.clone(), args.backup),
        false => (elsewhere("snapshot", section), flag_elsewhere("backup", section)?),
    };
    if backup && snapshot.is_some() {
        return Err(usage(
            "--backup beside --snapshot: each is a point in time of its own; leave one out",
        ));
    }
    if !backup {
        return match of_a_backup(args) {
            Some(option) => Err(usage(format!(
                "{option} is for --backup: it says how a backup is begun; add --backup, or leave it out"
            ))),
            None => Ok(Frozen {
                snapshot,
                backup: None,
            }),
        };
    }
    let (live, require_consistency) = way(args.live, args.require_consistency, section)?;
    Ok(Frozen {
        snapshot: None,
        backup: Some(InBackup {
            since: args.since.clone().or_else(|| elsewhere("since", section)),
            live,
            require_consistency,
        }),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::settings::cli::tests::mount;

    /// The point in time that is chosen by these options, beside this section.
    fn chosen(options: &str, section: &str) -> Result<Frozen, String> {
        let args = mount(&format!("rhv-mount --vm web {options} /mnt"));
        let text = format!("[a]\nusername = x\n{section}\n");
        let section = Section::of_text(text, Path::new("ovirt-img.conf"), "a").unwrap();
        check(&Choice::Vm("web".into()), &args, &section).map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_backup_is_asked_for_by_an_option_or_the_section_and_the_command_line_wins() {
        let of = |options, section| chosen(options, section).unwrap().backup;
        assert_eq!(of("--backup", ""), Some(InBackup::default()));
        assert_eq!(of("", "backup = yes"), Some(InBackup::default()));
        assert_eq!(of("", "backup = no"), None);
        assert_eq!(of("--snapshot a", "backup = yes"), None);
        let with_snapshot = chosen("--backup", "snapshot = nightly").unwrap();
        assert_eq!(
            (with_snapshot.snapshot, with_snapshot.backup.is_some()),
            (None, true)
        );
        let since = of("--backup --since c1", "since = c2").unwrap();
        assert_eq!((since.since.as_deref(), since.live), (Some("c1"), false));
        let strict = of("-o backup,since=c1,require_consistency", "").unwrap();
        assert!(strict.live && strict.require_consistency && strict.since.is_some());
        assert_eq!(of("--backup", "since = c2").unwrap().since.as_deref(), Some("c2"));
        assert_eq!(
            of("", "since = c2"),
            None,
            "it belongs to the backups of that section"
        );
    }

    #[test]
    fn what_contradicts_a_backup_or_needs_one_is_refused() {
        for (options, section, word) in [
            ("--backup --snapshot a", "", "--backup beside --snapshot"),
            ("", "backup = yes\nsnapshot = a", "--backup beside --snapshot"),
            ("--backup --read-write", "", "--read-write beside --backup"),
            ("--since c1", "", "--since is for --backup"),
            ("--live", "backup = no", "--live is for --backup"),
            ("--require-consistency --snapshot a", "", "is for --backup"),
        ] {
            let refused = chosen(options, section).unwrap_err();
            assert!(refused.contains(word), "{options} {section}: {refused}");
        }
    }
}
