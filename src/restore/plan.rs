//! The plan, made with the engine before anything else is: which disks, where, in which format and with
//! which ids, and which VM in which cluster.
//!
//! A VM or a disk that exists is never touched. A VM with the id or the name of the one that was backed up is
//! a reason to refuse, with the two ways out: another name, or the disks alone. A disk whose id is taken is
//! made with a new id.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::local::Local;
use crate::amounts;
use crate::backup::KeptDisk;
use crate::disk::{HEAD_BYTES, Head, detect};
use crate::engine::{Cluster, Engine, Error, Format, ListedDomain, ListedVm, NewDisk, is_uuid};
use crate::failure::{Exit, Failure};
use crate::images::{self, Backing, Source};
use crate::logging::plain;
use crate::output::{inform, report};
use crate::ovf::{Configuration, Described};
use crate::process::rights;
use crate::settings::restore::RestoreSettings;

/// See the head of this file.
pub(super) struct Plan {
    /// When the backup was begun, in UTC.
    pub(super) time: String,
    /// The VM that was backed up.
    pub(super) vm_name: String,
    pub(super) vm_shown: String,
    pub(super) disks: Vec<Planned>,
    pub(super) vm: Option<PlannedVm>,
}

/// A disk that is made.
pub(super) struct Planned {
    pub(super) kept: KeptDisk,
    /// The file from which it is read, with those below it.
    pub(super) file: PathBuf,
    /// Its id is that of the old disk, or none.
    pub(super) new: NewDisk,
    /// The configuration says this of it.
    pub(super) described: Option<Described>,
}

/// The VM that is made.
pub(super) struct PlannedVm {
    pub(super) configuration: Configuration,
    pub(super) cluster: Cluster,
    /// Its name where that, and its id, are new.
    pub(super) new_name: Option<String>,
    /// The name that it gets.
    pub(super) name: String,
    /// The id that it gets, unless that is new.
    pub(super) id: Option<String>,
}

impl Plan {
    pub(super) fn of(engine: &Engine, settings: &RestoreSettings, local: Local) -> Result<Plan, Failure> {
        let vm_shown = local.vm_shown();
        let described: Vec<Option<Described>> = local
            .disks
            .iter()
            .map(|disk| local.configuration.as_ref()?.disk(&disk.id).cloned())
            .collect();
        let vm = match local.configuration {
            Some(configuration) if !settings.disks_only => {
                let old = (local.point.vm_id.as_str(), local.point.vm_name.as_str());
                Some(PlannedVm::of(engine, settings, configuration, old)?)
            }
            _ => None,
        };
        let mut domains = Domains::of(engine, settings)?;
        let mut disks = Vec::with_capacity(local.disks.len());
        for (kept, described) in local.disks.into_iter().zip(described) {
            let domain = domains.for_disk(&kept, described.as_ref())?;
            if let Some(vm) = &vm {
                vm.check_domain(&domain)?;
            }
            disks.push(Planned::of(engine, settings, kept, described, &domain)?);
        }
        if let Some(vm) = &vm {
            vm.tell_others(&disks);
        }
        Ok(Plan {
            time: local.point.time,
            vm_name: local.point.vm_name,
            vm_shown,
            disks,
            vm,
        })
    }

    /// Says what would be made.
    pub(super) fn tell_all(&self) {
        for disk in &self.disks {
            report(plain(&format!(
                "disk {} ({}): {} of {} as {}, {} on {}, from {}{}",
                disk.kept.id,
                disk.kept.name,
                amounts::size(disk.kept.size),
                disk.kept.time,
                match &disk.new.id {
                    Some(_) => "the same id",
                    None => "a new id",
                },
                disk.shape(),
                disk.new.storage_domain,
                disk.kept.files[0].name,
                match disk.kept.files.len() {
                    1 => String::new(),
                    n => format!(" with {} below it", amounts::count(n - 1, "file")),
                }
            )));
        }
        match &self.vm {
            Some(vm) => report(plain(&format!(
                "VM {} ({}) in cluster {}; nothing was made",
                vm.name,
                vm.id.as_deref().unwrap_or("a new id"),
                vm.cluster.name
            ))),
            None => report("no VM; nothing was made"),
        }
    }
}

impl Planned {
    fn of(
        engine: &Engine,
        settings: &RestoreSettings,
        kept: KeptDisk,
        described: Option<Described>,
        domain: &ListedDomain,
    ) -> Result<Planned, Failure> {
        let there = match is_uuid(&kept.id) {
            true => engine.disk(&kept.id)?,
            false => None,
        };
        let id = match there {
            Some(there) => {
                inform(plain(&format!(
                    "disk {} ({}) exists, and is left alone: its copy gets a new id",
                    there.id, there.name
                )));
                None
            }
            None => Some(kept.id.clone()).filter(|id| is_uuid(id)),
        };
        let file = settings.dir.join(&kept.files[0].name);
        let of_configuration = |of: fn(&Described) -> bool| described.as_ref().is_some_and(of);
        let mut raw = of_configuration(|disk| disk.raw);
        let mut preallocated = of_configuration(|disk| disk.preallocated);
        if raw && begins_like_an_image(&file, &kept)? {
            inform(plain(&format!(
                "disk {} ({}) was raw, and begins like an image of another format, as which the engine would \
                 take it: it is made as qcow2",
                kept.id, kept.name
            )));
            (raw, preallocated) = (false, false);
        }
        let is_block = matches!(domain.storage_type.as_deref(), Some("iscsi" | "fcp"));
        if raw && is_block && !preallocated {
            inform(plain(&format!(
                "disk {} ({}) was raw and thin, which storage domain {} does not have: it is preallocated",
                kept.id, kept.name, domain.name
            )));
            preallocated = true;
        }
        let new = NewDisk {
            name: kept.name.clone(),
            size: kept.size,
            storage_domain: domain.name.clone(),
            format: if raw { Format::Raw } else { Format::Qcow2 },
            preallocated,
            id,
            incremental: !raw && described.as_ref().is_none_or(|disk| disk.incremental || disk.raw),
            wipe_after_delete: of_configuration(|disk| disk.wipe_after_delete),
        };
        Ok(Planned {
            kept,
            file,
            new,
            described,
        })
    }

    /// Its format and allocation, for people.
    fn shape(&self) -> &'static str {
        match (self.new.format, self.new.preallocated) {
            (Format::Raw, true) => "raw, preallocated",
            (Format::Raw, false) => "raw",
            (Format::Qcow2, true) => "qcow2, preallocated",
            (Format::Qcow2, false) => "qcow2",
        }
    }
}

/// Opens the file of a disk, and those below it.
pub(super) fn open(file: &Path, kept: &KeptDisk) -> Result<Source, Failure> {
    let path = file.to_owned();
    let source = rights::with(move || Source::open_with(&path, Some(images::Format::Qcow2), Backing::Beside));
    let source = source.map_err(|e| Failure::text(Exit::DataLoss, e))?;
    match source.size() == kept.size {
        true => Ok(source),
        false => Err(Failure::text(
            Exit::DataLoss,
            format!(
                "the disk in {} has {} bytes, and had {}",
                file.display(),
                source.size(),
                kept.size
            ),
        )),
    }
}

/// The engine would take a raw disk for an image of another format, and remove it.
fn begins_like_an_image(file: &Path, kept: &KeptDisk) -> Result<bool, Failure> {
    let source = open(file, kept)?;
    let mut head: Head = [0; HEAD_BYTES];
    let count = source.size().min(HEAD_BYTES as u64) as usize;
    let read = source.read_at(&mut head[..count], 0);
    read.map_err(|e| Failure::text(Exit::DataLoss, e))?;
    Ok(detect(&head).is_some())
}

/// The storage domains of the disks.
struct Domains<'a> {
    engine: &'a Engine,
    /// The one of all disks.
    given: Option<ListedDomain>,
    /// Those that the configuration names, by their ids.
    known: BTreeMap<String, Option<ListedDomain>>,
}

impl<'a> Domains<'a> {
    fn of(engine: &'a Engine, settings: &RestoreSettings) -> Result<Domains<'a>, Failure> {
        let given = settings.storage_domain.as_deref();
        Ok(Domains {
            engine,
            given: given.map(|wanted| engine.domain_for_disks(wanted)).transpose()?,
            known: BTreeMap::new(),
        })
    }

    /// Returns the domain that the user names, else the one on which the disk was, where that is there.
    fn for_disk(&mut self, kept: &KeptDisk, described: Option<&Described>) -> Result<ListedDomain, Failure> {
        if let Some(given) = &self.given {
            return Ok(given.clone());
        }
        let id = described.and_then(|disk| disk.storage_domain.clone());
        let id = id.filter(|id| is_uuid(id)).unwrap_or_default();
        if !id.is_empty() && !self.known.contains_key(&id) {
            let usable = match self.engine.domain_with_id(&id)? {
                Some(domain) => Some(self.engine.domain_for_disks(&domain.id)?),
                None => None,
            };
            self.known.insert(id.clone(), usable);
        }
        if let Some(Some(domain)) = self.known.get(&id) {
            return Ok(domain.clone());
        }
        let was = match id.as_str() {
            "" => "the backup does not tell on which storage domain it was".to_owned(),
            id => format!("storage domain {id}, on which it was, is not there"),
        };
        Err(usage(&format!(
            "where is disk {} ({}) to be made? {was}; name one with --storage-domain: {}",
            kept.id,
            kept.name,
            self.engine.domains_shown()
        )))
    }
}

impl PlannedVm {
    /// `old` are the id and the name of the VM that was backed up.
    fn of(
        engine: &Engine,
        settings: &RestoreSettings,
        configuration: Configuration,
        old: (&str, &str),
    ) -> Result<PlannedVm, Failure> {
        let id = configuration.vm_id.clone().unwrap_or_else(|| old.0.to_owned());
        let its_name = configuration.vm_name.clone().unwrap_or_else(|| old.1.to_owned());
        match &settings.name {
            Some(name) => {
                if let Some(there) = engine.vms_named(name)?.first() {
                    return Err(refused(&format!(
                        "VM {name} ({}) exists, and is left alone: take another --name",
                        there.id
                    )));
                }
            }
            None => refuse_one_that_exists(engine, &id, &its_name)?,
        }
        let cluster = match &settings.cluster {
            Some(wanted) => engine.cluster(wanted)?,
            None => old_cluster(engine, &configuration)?,
        };
        Ok(PlannedVm {
            cluster,
            name: settings.name.clone().unwrap_or(its_name),
            id: Some(id).filter(|_| settings.name.is_none()),
            new_name: settings.name.clone(),
            configuration,
        })
    }

    /// Refuses a storage domain from which the VM could not have a disk: a VM has those of its data center.
    fn check_domain(&self, domain: &ListedDomain) -> Result<(), Failure> {
        let (cluster, theirs) = (&self.cluster, &domain.data_center_ids);
        match &cluster.data_center {
            Some(center) if !theirs.is_empty() && !theirs.contains(center) => Err(usage(&format!(
                "cluster {} and storage domain {} are in different data centers, so that the VM could not \
                 have the disks: choose others with --cluster and --storage-domain",
                cluster.name, domain.name
            ))),
            _ => Ok(()),
        }
    }

    /// Says what the new VM will not have, or have twice.
    fn tell_others(&self, disks: &[Planned]) {
        for one in &self.configuration.disks {
            if !disks
                .iter()
                .any(|disk| disk.kept.id.eq_ignore_ascii_case(&one.id))
            {
                inform(plain(&format!(
                    "VM {} is made without disk {} ({}), which is not restored",
                    self.name, one.id, one.name
                )));
            }
        }
        if self.new_name.is_some() {
            inform(plain(&format!(
                "the network interfaces of VM {} may have the MAC addresses of the VM that was backed up: \
                 look at them before both run in one network",
                self.name
            )));
        }
    }
}

fn refuse_one_that_exists(engine: &Engine, id: &str, name: &str) -> Result<(), Failure> {
    let with_id = match is_uuid(id) {
        true => engine.vm_with_id(id)?,
        false => None,
    };
    let there: Option<ListedVm> = match with_id {
        Some(there) => Some(there),
        None => engine.vms_named(name)?.into_iter().next(),
    };
    let Some(there) = there else { return Ok(()) };
    Err(refused(&format!(
        "VM {} ({}, {}) exists, and is left alone: restore it under another name with --name NEW, or its \
         disks with --disks-only",
        there.name,
        there.id,
        there.status.as_deref().unwrap_or("of unknown status")
    )))
}

/// Returns the cluster that the VM was in, where that is there.
fn old_cluster(engine: &Engine, configuration: &Configuration) -> Result<Cluster, Failure> {
    for wanted in &configuration.clusters {
        if let Some(cluster) = engine.known_cluster(wanted)? {
            return Ok(cluster);
        }
    }
    let was = match configuration.clusters.last() {
        Some(was) => format!("cluster {was}, in which it was, is not there"),
        None => "the backup does not tell in which one it was".to_owned(),
    };
    Err(usage(&format!(
        "in which cluster is the VM to be made? {was}; name one with --cluster: {}",
        engine.clusters_shown()
    )))
}

fn usage(text: &str) -> Failure {
    Failure::text(Exit::Usage, plain(text))
}

fn refused(text: &str) -> Failure {
    Error::Unfit(plain(text)).into()
}
