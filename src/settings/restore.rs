//! The settings of `restore`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::account::{LoginPlaces, engine_account, trust, variable};
use super::chosen_disks::ChosenDisks;
use super::cli::{Output, RestoreArgs};
use super::config_file::Section;
use super::{DiskSettings, OutputSettings, Task, VmSource, absolute, usage};
use crate::failure::Failure;

/// The variable that names the storage domain of all disks.
const DOMAIN: &str = "RHV_MOUNT_STORAGE_DOMAIN";

/// See the head of this file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RestoreSettings {
    /// The directory of the backups: an absolute path.
    #[serde(with = "crate::path_bytes")]
    pub(crate) dir: PathBuf,
    /// Connections and memory are for all disks together.
    pub(crate) disk: DiskSettings<Box<VmSource>>,
    /// The point in time, as the user names it; the newest, where that is not said.
    pub(crate) point: Option<String>,
    /// The name or id of the VM that was backed up.
    pub(crate) vm: Option<String>,
    /// The name of the new VM, which gets a new id then.
    pub(crate) name: Option<String>,
    /// The name or id of its cluster.
    pub(crate) cluster: Option<String>,
    /// The name or id of the storage domain of all disks.
    pub(crate) storage_domain: Option<String>,
    /// No VM is made.
    pub(crate) disks_only: bool,
    pub(crate) disks: ChosenDisks,
    /// Only tell what would be done.
    pub(crate) dry_run: bool,
    /// A disk whose copy has failed stays.
    pub(crate) keep_on_failure: bool,
    /// How what was made is printed.
    pub(crate) form: Output,
    pub(crate) output: OutputSettings,
}

impl RestoreSettings {
    /// Checks the options, adds the configuration file and the environment, and asks for a password where it
    /// must.
    pub(crate) fn gather(args: RestoreArgs) -> Result<RestoreSettings, Failure> {
        let section = Section::read(&args.run.engine)?;
        let trusted = trust(args.run.engine.cafile.clone(), args.run.engine.insecure, &section)?;
        let disks = ChosenDisks::gather(args.disks)?;
        if args.name.as_deref() == Some("") {
            return Err(usage("--name is empty: it is the name of the new VM"));
        }
        let source = Box::new(VmSource {
            account: engine_account(&args.run.engine, &section, trusted.clone())?,
            login: LoginPlaces::of(&args.run.engine, &section),
            vm: args.vm.clone().unwrap_or_default(),
            snapshot: None,
            backup: None,
            proxy: args.run.connection.proxy,
        });
        // That of the section is for new disks, and these have one of their own.
        let storage_domain = args.storage_domain.or_else(|| variable(DOMAIN));
        Ok(RestoreSettings {
            dir: absolute(&args.dir)?,
            disk: DiskSettings::gather(args.run.connection, source, trusted, Task::Restore, false)?,
            point: args.point,
            vm: args.vm,
            name: args.name,
            cluster: args.cluster,
            storage_domain,
            disks_only: args.disks_only,
            disks,
            dry_run: args.dry_run,
            keep_on_failure: args.keep_on_failure,
            form: args.form,
            output: OutputSettings::gather(args.run.output, &section)?,
        })
    }
}
