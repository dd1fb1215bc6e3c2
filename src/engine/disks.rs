//! Disks: find one by id or name, make one, wait for it, remove one that we made.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::info;

use super::address::{query, quoted};
use super::json::{list, number, text};
use super::wire::Effect;
use super::{Engine, Error, Patience};

/// A new disk is locked until it is made; preallocated ones take their time.
const MAX_CREATION_WAIT: Duration = Duration::from_secs(600);

/// Longest wait for a lock that may be about to go (the engine frees it seconds after the disk is `ok`).
const MAX_LOCK_WAIT: Duration = Duration::from_secs(30);

/// Pause before a disk is looked for whose creation was not answered.
const LOST_PAUSE: Duration = Duration::from_secs(1);

/// Upper bound on the requests for one disk: each but the last is repeated when it was not answered and made no disk.
const MAX_CREATION_ATTEMPTS: u32 = 3;

/// What the engine says of a disk.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    /// UUID.
    pub(crate) id: String,
    /// The alias; several disks may have the same.
    pub(crate) name: String,
    /// `ok`, `locked` or `illegal`.
    pub(crate) status: String,
    /// Bytes that a guest sees.
    pub(crate) size: u64,
    /// The id of its storage domain.
    pub(crate) storage_domain: Option<String>,
}

impl Disk {
    pub(super) fn of(value: &Value) -> Option<Disk> {
        let domains = value.get("storage_domains").unwrap_or(&Value::Null);
        Some(Disk {
            id: text(value, "id")?,
            name: text(value, "alias")
                .or_else(|| text(value, "name"))
                .unwrap_or_default(),
            status: text(value, "status").unwrap_or_else(|| "ok".to_owned()),
            size: number(value, "provisioned_size").unwrap_or_default(),
            storage_domain: list(domains, "storage_domain")
                .first()
                .and_then(|d| text(d, "id")),
        })
    }

    pub(super) fn shown(&self) -> String {
        format!(
            "{} ({}, {} bytes, {})",
            self.id, self.name, self.size, self.status
        )
    }
}

/// Format of a disk on its storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub(crate) enum Format {
    /// The guest's bytes as they are.
    Raw,
    /// qcow2, which the engine calls cow.
    Qcow2,
}

/// A disk to be made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NewDisk {
    /// The alias.
    pub(crate) name: String,
    /// Bytes that a guest sees.
    pub(crate) size: u64,
    /// Name of the storage domain.
    pub(crate) storage_domain: String,
    /// Format on the storage.
    pub(crate) format: Format,
    /// All space at once.
    pub(crate) preallocated: bool,
    /// UUID that it shall have; one of our own otherwise.
    pub(crate) id: Option<String>,
}

/// Bytes of a qcow2 image of `size` bytes with every cluster allocated: what `qemu-img measure` calls fully
/// allocated, with clusters of 64 KiB.
pub(super) fn full_qcow2_size(size: u64) -> u64 {
    const CLUSTER_BYTES: u64 = 64 << 10;
    // A cluster of 8-byte entries maps 8192 data clusters; one of 2-byte counts covers 32768 clusters.
    let data = size.div_ceil(CLUSTER_BYTES);
    let maps = data.div_ceil(8192);
    let top = (maps * 8).div_ceil(CLUSTER_BYTES).max(1);
    let counts = (data + maps + top).div_ceil(32768) + 1;
    (1 + data + maps + top + counts + 1).saturating_mul(CLUSTER_BYTES)
}

/// Has `text` the form of an id?
pub(crate) fn is_uuid(text: &str) -> bool {
    let group = |(n, part): (usize, &str)| {
        part.len() == [8, 4, 4, 4, 12][n] && part.bytes().all(|b| b.is_ascii_hexdigit())
    };
    text.split('-').count() == 5 && text.split('-').enumerate().all(group)
}

impl Engine {
    /// The disk with this id.
    pub(crate) fn disk(&self, id: &str) -> Result<Option<Disk>, Error> {
        Ok(self
            .get("disk", &format!("/disks/{id}"))?
            .as_ref()
            .and_then(Disk::of))
    }

    /// The one disk with this id or name; what exists is in the error otherwise.
    pub(crate) fn find_disk(&self, wanted: &str) -> Result<Disk, Error> {
        if is_uuid(wanted)
            && let Some(disk) = self.disk(wanted)?
        {
            return Ok(disk);
        }
        let found = self.disks(&format!("name={}", quoted(wanted)))?;
        // The search knows wildcards and may ignore case.
        let mut same: Vec<Disk> = found.into_iter().filter(|disk| disk.name == wanted).collect();
        match (same.pop(), same.len()) {
            (Some(disk), 0) => Ok(disk),
            (Some(disk), _) => {
                same.push(disk);
                let all: Vec<String> = same.iter().map(Disk::shown).collect();
                Err(Error::Unfit(format!(
                    "{} disks are named {wanted}: {}; take --disk with one of these ids",
                    all.len(),
                    all.join(", ")
                )))
            }
            (None, _) => Err(Error::Unfit(self.no_such_disk(wanted))),
        }
    }

    fn no_such_disk(&self, wanted: &str) -> String {
        const MAX_NAMES_SHOWN: usize = 10;
        let mut names: Vec<String> = self
            .get("disks", "/disks?max=1000")
            .ok()
            .flatten()
            .map(|all| {
                list(&all, "disk")
                    .iter()
                    .filter_map(Disk::of)
                    .map(|d| d.name)
                    .collect()
            })
            .unwrap_or_default();
        names.sort();
        names.dedup();
        let more = names.len().saturating_sub(MAX_NAMES_SHOWN);
        names.truncate(MAX_NAMES_SHOWN);
        let there = match (names.is_empty(), more) {
            (true, _) => "there are none that you may see".to_owned(),
            (false, 0) => format!("there are {}", names.join(", ")),
            (false, more) => format!("there are {} and {more} more", names.join(", ")),
        };
        format!("no disk {wanted} on {}: {there}", self.url())
    }

    fn disks(&self, search: &str) -> Result<Vec<Disk>, Error> {
        let found = self
            .get("search for the disk", &query("/disks", search))?
            .unwrap_or_default();
        Ok(list(&found, "disk").iter().filter_map(Disk::of).collect())
    }

    /// Waits until `disk` may be used; an illegal one never may.
    pub(crate) fn wait_for_disk(&self, mut disk: Disk) -> Result<Disk, Error> {
        let mut patience = Patience::new(MAX_LOCK_WAIT, self.interrupt());
        loop {
            match disk.status.as_str() {
                "locked" => {}
                "illegal" => {
                    return Err(Error::Unfit(format!(
                        "disk {} is illegal: an earlier transfer or copy of it failed; restore it or make a new one",
                        disk.shown()
                    )));
                }
                _ => return Ok(disk),
            }
            if !patience.pause()? {
                let owner = match self.transfer_of(&disk.id)? {
                    Some(transfer) => format!(
                        "transfer {} ({}, {}) has it; end that one first, with `rhv-mount recover` where it was started by a rhv-mount that was killed",
                        transfer.id, transfer.direction, transfer.phase
                    ),
                    None => "another operation has it; try again when that is over".to_owned(),
                };
                return Err(Error::Unfit(format!("disk {} is locked: {owner}", disk.shown())));
            }
            disk = self
                .disk(&disk.id)?
                .ok_or_else(|| Error::Unfit(format!("disk {} was removed", disk.id)))?;
        }
    }

    /// The name of the storage domain with this id.
    pub(crate) fn storage_domain_name(&self, id: &str) -> Option<String> {
        let found = self
            .get("storage domain", &format!("/storagedomains/{id}"))
            .ok()
            .flatten();
        found.as_ref().and_then(|domain| text(domain, "name"))
    }

    /// Is there a storage domain with this name, and attached? What exists is in the error.
    fn check_storage_domain(&self, name: &str) -> Result<(), Error> {
        let path = format!(
            "{}&case_sensitive=true",
            query("/storagedomains", &format!("name={}", quoted(name)))
        );
        let found = self
            .get("search for the storage domain", &path)?
            .unwrap_or_default();
        let names = |value: &Value| -> Vec<String> {
            list(value, "storage_domain")
                .iter()
                .filter_map(|d| text(d, "name"))
                .collect()
        };
        if !names(&found).iter().any(|n| n == name) {
            let all = self
                .get("storage domains", "/storagedomains")?
                .unwrap_or_default();
            return Err(Error::Unfit(format!(
                "no storage domain {name} on {}: there are {}",
                self.url(),
                names(&all).join(", ")
            )));
        }
        match self.data_center(name)? {
            Some(_) => Ok(()),
            None => Err(Error::Unfit(format!(
                "storage domain {name} is not attached to a data center; attach it, or take another one"
            ))),
        }
    }

    /// What a new disk needs before anything is made: its storage domain, and an id that is free. Returns the id.
    pub(crate) fn prepare_disk(&self, new: &NewDisk) -> Result<String, Error> {
        self.check_storage_domain(&new.storage_domain)?;
        match &new.id {
            Some(id) => match self.disk(id)? {
                Some(disk) => Err(Error::Unfit(format!(
                    "--disk-id: there is a disk {} already; take --disk for it, or another id",
                    disk.shown()
                ))),
                None => Ok(id.clone()),
            },
            None => super::random_id().map_err(|e| Error::Failed(format!("no random id: {e}"))),
        }
    }

    /// Makes the disk `id` (from [`Engine::prepare_disk`]) and waits until it is there. The engine has the last word on
    /// the id.
    pub(crate) fn create_disk(&self, new: &NewDisk, id: &str) -> Result<Disk, Error> {
        let mut id = id.to_owned();
        let what = format!("creation of disk {}", new.name);
        let mut body = json!({
            "id": id,
            "name": new.name,
            "format": if new.format == Format::Raw { "raw" } else { "cow" },
            "provisioned_size": new.size.to_string(),
            // Always: what is absent means different things on different storage.
            "sparse": (!new.preallocated).to_string(),
            "content_type": "data",
            "storage_domains": {"storage_domain": [{"name": new.storage_domain}]},
        });
        if new.format == Format::Qcow2 && !new.preallocated {
            // Only thin qcow2 on block storage minds: there it must hold what is about to be written.
            body["initial_size"] = full_qcow2_size(new.size).to_string().into();
        }
        if new.format == Format::Qcow2 && new.preallocated {
            // Preallocated qcow2 exists for incremental backup only.
            body["backup"] = "incremental".into();
        }
        let mut patience = Patience::new(MAX_CREATION_WAIT, self.interrupt());
        let mut lookups = Patience::even(LOST_PAUSE, MAX_CREATION_ATTEMPTS, self.interrupt());
        loop {
            match self.post(&what, Effect::Creation, "/disks", &body) {
                Ok(answer) => {
                    if let Some(given) = answer.and_then(|disk| text(&disk, "id")) {
                        id = given;
                    }
                    break;
                }
                // Perhaps it was made all the same: the id is ours.
                Err(lost) if lost.is_passing() => {
                    info!("{lost}");
                    lookups.pause()?;
                    if self.disk(&id)?.is_some() {
                        break;
                    }
                    if lookups.is_over() {
                        return Err(lost);
                    }
                }
                // The first one was only slow, perhaps.
                Err(Error::Fault { status: 409, .. })
                    if lookups.attempt() > 1 && self.disk(&id)?.is_some() =>
                {
                    break;
                }
                Err(e @ Error::Fault { status: 409, .. })
                    if new.format == Format::Raw && !new.preallocated =>
                {
                    return Err(Error::Refused(format!(
                        "{e}; where the storage domain is iSCSI or FCP, add --preallocated or --format qcow2"
                    )));
                }
                Err(e @ Error::Fault { .. }) => return Err(Error::Refused(e.to_string())),
                Err(e) => return Err(e),
            }
        }
        loop {
            match self.disk(&id)? {
                Some(disk) if disk.status == "ok" => {
                    info!(id, name = disk.name, "disk created");
                    return Ok(disk);
                }
                Some(disk) if disk.status == "illegal" => {
                    return Err(Error::Failed(format!(
                        "disk {} became illegal while it was made; the storage domain's own log says why",
                        disk.shown()
                    )));
                }
                None if patience.waited() > MAX_LOCK_WAIT => {
                    return Err(Error::Failed(format!(
                        "{what}: the engine accepted it, and there is no such disk; engine.log says why (correlation id {})",
                        self.correlation()
                    )));
                }
                Some(_) | None => {}
            }
            if !patience.pause()? {
                return Err(self.too_long(&what, MAX_CREATION_WAIT, "it is locked still"));
            }
        }
    }

    /// Removes a disk that we made and that nothing holds, unless it is gone already; waits until it is.
    pub(crate) fn remove_disk(&self, id: &str) -> Result<(), Error> {
        let interrupt = super::Interrupt::default();
        let mut patience = Patience::new(MAX_LOCK_WAIT, &interrupt);
        loop {
            let state = match self.disk(id)? {
                None => return Ok(()),
                Some(disk) if disk.status == "locked" => disk.status,
                Some(disk) => match self.delete("removal of the disk", &format!("/disks/{id}")) {
                    Ok(_) => disk.status,
                    Err(Error::Fault {
                        status: 409, message, ..
                    }) => message,
                    Err(e) => return Err(e),
                },
            };
            if !patience.pause()? {
                return Err(self.too_long(&format!("the removal of disk {id}"), MAX_LOCK_WAIT, &state));
            }
        }
    }

    pub(super) fn too_long(&self, what: &str, limit: Duration, state: &str) -> Error {
        Error::TooLong {
            what: what.to_owned(),
            seconds: limit.as_secs(),
            state: state.to_owned(),
            correlation: self.correlation().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_names() {
        assert!(is_uuid("bc922a10-62e5-4709-a1b2-0123456789ab"));
        for name in [
            "",
            "web01",
            "bc922a10-62e5-4709-a1b2",
            "bc922a10-62e5-4709-a1b2-0123456789ag",
        ] {
            assert!(!is_uuid(name), "{name}");
        }
    }

    /// `qemu-img measure --size 1G -O qcow2` and 1T: "fully allocated size".
    #[test]
    fn a_full_qcow2_image_fits_and_little_is_wasted() {
        for (size, measured) in [(1 << 30, 1_074_135_040_u64), (1 << 40, 1_099_679_662_080_u64)] {
            let ours = full_qcow2_size(size);
            assert!(
                ours >= measured && ours - measured < 256 << 10,
                "{size}: {ours} for {measured}"
            );
        }
    }

    #[test]
    fn the_largest_size_does_not_become_a_small_one() {
        assert_eq!(full_qcow2_size(u64::MAX), u64::MAX);
    }

    #[test]
    fn a_disk_is_read_from_the_engines_json() {
        let value = json!({"id": "d", "alias": "web", "status": "locked", "provisioned_size": "512",
            "storage_domains": {"storage_domain": [{"id": "s"}]}});
        let disk = Disk::of(&value).unwrap();
        assert_eq!(
            (disk.name.as_str(), disk.size, disk.storage_domain.as_deref()),
            ("web", 512, Some("s"))
        );
    }
}
