//! `--vm`: every disk of a VM, as files of one directory.
//!
//! Connections and memory are for the whole mount. They are divided when the number of disks is known, each
//! disk getting its equal share: the disks have pools, caches and journals of their own, so that one whose
//! server is away takes nothing from the others.

use serde::{Deserialize, Serialize};

use super::account::LoginPlaces;
use super::choice::{Choice, elsewhere};
use super::cli::MountArgs;
use super::config_file::Section;
use super::{DiskSettings, EngineSource, Source, Wanted, usage};
use crate::engine::Account;
use crate::failure::Failure;

/// The name of the file of a disk that is alone.
const USUAL_FILE_NAME: &str = "disk";

/// What a mount shows.
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
    /// Connect through the engine's proxy.
    pub(crate) proxy: bool,
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

/// Refuses what means nothing beside the choice of a VM, or without it. Returns the snapshot of the VM that
/// is named.
pub(super) fn check(choice: &Choice, args: &MountArgs, section: &Section) -> Result<Option<String>, Failure> {
    if !matches!(choice, Choice::Vm(_)) {
        let alone = [
            (args.snapshot.is_some(), "--snapshot"),
            (args.read_write, "--read-write"),
        ];
        return match alone.iter().find(|(given, _)| *given) {
            Some((_, "--snapshot")) => Err(usage(
                "--snapshot is for --vm: name the VM, or a snapshot of one disk with --disk-snapshot",
            )),
            Some((_, option)) => Err(usage(format!(
                "{option} is for --vm: a single disk may be written unless --read-only is given"
            ))),
            None => Ok(None),
        };
    }
    let snapshot = args.snapshot.clone().or_else(|| elsewhere("snapshot", section));
    if args.read_write && snapshot.is_some() {
        return Err(usage(
            "--read-write beside --snapshot: a snapshot never changes; leave one out",
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
    Ok(snapshot)
}
