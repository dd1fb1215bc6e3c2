//! The settings of `backup`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::account::{LoginPlaces, engine_account, trust};
use super::choice::elsewhere;
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
    /// Names and ids of the disks that take part; all, where it is empty.
    pub(crate) include: Vec<String>,
    /// Names and ids of those that do not.
    pub(crate) exclude: Vec<String>,
    /// How many backups of each disk are kept; all, where that is not said.
    pub(crate) keep: Option<usize>,
    /// Only tell what would be done.
    pub(crate) dry_run: bool,
    pub(crate) output: OutputSettings,
}

impl BackupSettings {
    /// Checks the options, adds the configuration file and the environment, and asks for a password where it
    /// must.
    pub(crate) fn gather(args: BackupArgs) -> Result<BackupSettings, Failure> {
        let section = Section::read(&args.engine)?;
        let trusted = trust(args.engine.cafile.clone(), args.engine.insecure, &section)?;
        let vm = args.vm.or_else(|| elsewhere("vm", &section));
        let vm = vm.ok_or_else(|| usage("which VM? name it with --vm"))?;
        if let Some(both) = args.include.iter().find(|name| args.exclude.contains(name)) {
            return Err(usage(format!("--include and --exclude both name {both}")));
        }
        let source = Box::new(VmSource {
            account: engine_account(&args.engine, &section, trusted.clone())?,
            login: LoginPlaces::of(&args.engine, &section),
            vm,
            snapshot: None,
            proxy: args.connection.proxy,
        });
        Ok(BackupSettings {
            dir: absolute(&args.dir)?,
            disk: DiskSettings::gather(args.connection, source, trusted, Task::Backup, true)?,
            full: args.full,
            // The engine's other way does not tell whether the file systems were frozen.
            live: args.live || args.require_consistency,
            require_consistency: args.require_consistency,
            include: args.include,
            exclude: args.exclude,
            keep: args.keep.map(|keep| keep as usize),
            dry_run: args.dry_run,
            output: OutputSettings::gather(args.output, &section)?,
        })
    }
}
