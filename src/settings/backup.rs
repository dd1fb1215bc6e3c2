//! The settings of `backup`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::account::{LoginPlaces, engine_account, trust};
use super::choice::{elsewhere, flag_elsewhere};
use super::chosen_disks::ChosenDisks;
use super::cli::BackupArgs;
use super::config_file::Section;
use super::{DiskSettings, OutputSettings, Task, VmSource, absolute, usage};
use crate::failure::Failure;

/// See the head of this file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BackupSettings {
    /// The directory of the files: an absolute path.
    #[serde(with = "crate::path_bytes")]
    pub(crate) dir: PathBuf,
    /// Connections and memory are for all disks together.
    pub(crate) disk: DiskSettings<Box<VmSource>>,
    /// Whole, whatever DIR has.
    pub(crate) full: bool,
    /// Without a snapshot.
    pub(crate) live: bool,
    /// The guest's file systems must have been frozen.
    pub(crate) require_consistency: bool,
    pub(crate) disks: ChosenDisks,
    /// How many backups of each disk are kept; all, where that is not said.
    pub(crate) keep: Option<usize>,
    /// How many files a chain has at most; any number, where that is not said.
    pub(crate) longest: Option<usize>,
    /// Only tell what would be done.
    pub(crate) dry_run: bool,
    pub(crate) output: OutputSettings,
}

impl BackupSettings {
    /// Checks the options, adds the configuration file and the environment, and asks for a password where it
    /// must.
    pub(crate) fn gather(args: BackupArgs) -> Result<BackupSettings, Failure> {
        let section = Section::read(&args.run.engine)?;
        let trusted = trust(args.run.engine.cafile.clone(), args.run.engine.insecure, &section)?;
        let vm = args.vm.or_else(|| elsewhere("vm", &section));
        let vm = vm.ok_or_else(|| usage("which VM? name it with --vm"))?;
        let disks = ChosenDisks::gather(args.disks)?;
        let (live, require_consistency) = way(args.live, args.require_consistency, &section)?;
        let source = Box::new(VmSource {
            account: engine_account(&args.run.engine, &section, trusted.clone())?,
            login: LoginPlaces::of(&args.run.engine, &section),
            vm,
            snapshot: None,
            backup: None,
            proxy: args.run.connection.proxy,
        });
        Ok(BackupSettings {
            dir: absolute(&args.dir)?,
            disk: DiskSettings::gather(args.run.connection, source, trusted, Task::Backup, true)?,
            full: args.full,
            live,
            require_consistency,
            disks,
            keep: args.keep.map(|keep| keep as usize),
            // Else no chain would ever be older than what is kept.
            longest: args.full_every.or(args.keep).map(|most| most as usize),
            dry_run: args.dry_run,
            output: OutputSettings::gather(args.run.output, &section)?,
        })
    }
}

/// Returns whether a backup is to be made without a snapshot, and whether the guest's file systems must have
/// been frozen: as given, else as the section or the environment says.
pub(super) fn way(live: bool, require_consistency: bool, section: &Section) -> Result<(bool, bool), Failure> {
    let require_consistency = require_consistency || flag_elsewhere("require_consistency", section)?;
    let live = live || flag_elsewhere("live", section)?;
    // The engine's other way does not tell whether the file systems were frozen.
    Ok((live || require_consistency, require_consistency))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A nightly backup must not go on without what the section asks for.
    #[test]
    fn the_way_of_a_backup_is_that_of_an_option_or_of_the_section() {
        let of = |live, strict, section: &str| {
            let text = format!("[a]\nusername = x\n{section}\n");
            let section = Section::of_text(text, Path::new("ovirt-img.conf"), "a").unwrap();
            way(live, strict, &section).unwrap()
        };
        assert_eq!(of(false, false, ""), (false, false));
        assert_eq!(of(true, false, ""), (true, false));
        assert_eq!(of(false, true, ""), (true, true));
        assert_eq!(of(false, false, "live = yes"), (true, false));
        assert_eq!(of(false, false, "require_consistency = yes"), (true, true));
        assert_eq!(of(false, false, "require_consistency = no"), (false, false));
    }
}
