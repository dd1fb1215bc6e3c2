//! New disks: make one and wait for it, remove one that we made.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tracing::info;

use super::disks::{Disk, MAX_LOCK_WAIT};
use super::json::text;
use super::wire::Effect;
use super::{Engine, Error, Patience};

/// A new disk is locked until it is made; preallocated ones take their time.
const MAX_CREATION_WAIT: Duration = Duration::from_secs(600);

/// Pause before a disk is looked for whose creation was not answered.
const LOST_PAUSE: Duration = Duration::from_secs(1);

/// Upper bound on the requests for one disk: each but the last is repeated when it was not answered and made no disk.
const MAX_CREATION_ATTEMPTS: u32 = 3;

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

impl Engine {
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
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
