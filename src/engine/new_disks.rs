//! New disks: makes one and waits until it is usable, and removes it again.
//!
//! The id of a new disk is chosen here, so that the disk is found again after a creation without an answer.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tracing::info;

use super::disks::{Disk, MAX_LOCK_WAIT};
use super::effect::Effect;
use super::json::text;
use super::{Engine, Error, Patience};

/// Upper bound on the wait until a new disk is unlocked. Preallocation has a second more for each
/// [`PREALLOCATED_BYTES`]: some storage writes all of the disk's zeros, and the engine tells no progress.
const MAX_CREATION_WAIT: Duration = Duration::from_secs(600);
const PREALLOCATED_BYTES: u64 = 10 << 20;

/// The pause between a creation without an answer and the search for its disk.
const LOST_PAUSE: Duration = Duration::from_secs(1);

/// Upper bound on the creation requests for one disk. One is repeated if it was not answered and made no
/// disk.
const MAX_CREATION_ATTEMPTS: u32 = 3;

/// The format of a disk on its storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub(crate) enum Format {
    Raw,
    /// The engine calls this format cow.
    Qcow2,
}

/// The description of a disk to make.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NewDisk {
    /// The alias.
    pub(crate) name: String,
    /// The size in bytes as a guest sees it.
    pub(crate) size: u64,
    /// The name of the storage domain.
    pub(crate) storage_domain: String,
    pub(crate) format: Format,
    /// Allocate all space at once.
    pub(crate) preallocated: bool,
    /// The UUID for the disk; a random one by default.
    pub(crate) id: Option<String>,
    /// The engine is to know what changes in it, for incremental backups; of a qcow2 disk only.
    #[serde(default)]
    pub(crate) incremental: bool,
    /// Its storage is to be zeroed when it is removed; else the default of the storage domain counts.
    #[serde(default)]
    pub(crate) wipe_after_delete: bool,
}

/// Returns how long the engine may take to make a disk.
fn creation_wait(new: &NewDisk) -> Duration {
    let written = if new.preallocated { new.size } else { 0 };
    MAX_CREATION_WAIT + Duration::from_secs(written / PREALLOCATED_BYTES)
}

/// Returns the size in bytes of a qcow2 image of `size` bytes with every cluster allocated: an upper bound on
/// the fully allocated size that `qemu-img measure` computes for clusters of 64 KiB.
pub(super) fn full_qcow2_size(size: u64) -> u64 {
    const CLUSTER_BYTES: u64 = 64 << 10;
    // A cluster of 8-byte entries maps 8192 data clusters; one of 2-byte counts covers 32768 clusters.
    let data = size.div_ceil(CLUSTER_BYTES);
    let maps = data.div_ceil(8192);
    let top = (maps * 8).div_ceil(CLUSTER_BYTES).max(1);
    let counts = (data + maps + top).div_ceil(32768) + 1;
    (1 + data + maps + top + counts + 1).saturating_mul(CLUSTER_BYTES)
}

/// The error of a creation that has made nothing, unless an attempt at it went `unanswered`.
fn unmade(error: Error, unanswered: bool) -> Error {
    match (error, unanswered) {
        (interrupted @ Error::Interrupted, true) => interrupted,
        (other, true) => Error::Unclear(other.to_string()),
        (other, false) => other.nothing_made(),
    }
}

impl Engine {
    /// Checks before a creation that the storage domain exists and the id is free. Returns the id for the
    /// disk.
    pub(crate) fn prepare_disk(&self, new: &NewDisk) -> Result<String, Error> {
        self.check_storage_domain(&new.storage_domain)?;
        match &new.id {
            Some(id) => match self.disk(id)? {
                Some(disk) => Err(Error::Unfit(format!(
                    "there is a disk {} already, which is left alone",
                    disk.shown()
                ))),
                None => Ok(id.clone()),
            },
            None => super::random_id().map_err(|e| Error::Failed(format!("no random id: {e}"))),
        }
    }

    /// Makes the disk `id` (from [`Engine::prepare_disk`]) and waits until it is usable. The engine may
    /// assign another id; `made` hears it once the disk is ours without a doubt. After [`Error::Refused`] and
    /// [`Error::NotSent`] nothing was made.
    pub(crate) fn create_disk(
        &self,
        new: &NewDisk,
        id: &str,
        made: &mut dyn FnMut(&str),
    ) -> Result<Disk, Error> {
        let id = id.to_owned();
        let what = format!("creation of disk {}", new.name);
        let mut body = json!({
            "id": id,
            "name": new.name,
            "format": if new.format == Format::Raw { "raw" } else { "cow" },
            "provisioned_size": new.size.to_string(),
            // It is always sent: its default depends on the type of the storage.
            "sparse": (!new.preallocated).to_string(),
            "content_type": "data",
            "storage_domains": {"storage_domain": [{"name": new.storage_domain}]},
        });
        if new.format == Format::Qcow2 && !new.preallocated {
            // Thin qcow2 on block storage must have room for all bytes to come; other storage ignores this
            // size.
            body["initial_size"] = full_qcow2_size(new.size).to_string().into();
        }
        if new.format == Format::Qcow2 && (new.preallocated || new.incremental) {
            // Preallocated qcow2 exists for incremental backup only.
            body["backup"] = "incremental".into();
        }
        if new.wipe_after_delete {
            body["wipe_after_delete"] = true.to_string().into();
        }
        let limit = creation_wait(new);
        let mut patience = Patience::new(limit, self.interrupt());
        let mut lookups = Patience::even(LOST_PAUSE, MAX_CREATION_ATTEMPTS, self.interrupt());
        let mut unanswered = false;
        // A disk with a random id is ours, wherever it shows. An id that was asked for may be chosen by
        // another run at the same time, and then only an answer tells whose the disk is.
        let is_there = || Ok::<_, Error>(new.id.is_none() && self.disk(&id)?.is_some());
        let given = loop {
            match self.post(&what, Effect::Creation, "/disks", &body) {
                Ok(answer) => break answer.and_then(|disk| text(&disk, "id")),
                // The disk may have been made nevertheless.
                Err(lost) if lost.is_passing() => {
                    unanswered |= lost.may_have_made();
                    info!("{lost}");
                    lookups.pause().map_err(|e| unmade(e, unanswered))?;
                    if unanswered && is_there()? {
                        break None;
                    }
                    if lookups.is_over() || (unanswered && new.id.is_some()) {
                        return Err(unmade(lost, unanswered));
                    }
                }
                // An earlier request may have been slow and made the disk meanwhile.
                Err(Error::Fault { status: 409, .. }) if unanswered && is_there()? => break None,
                Err(e) if unanswered => return Err(unmade(e, true)),
                Err(e @ Error::Fault { status: 409, .. })
                    if new.format == Format::Raw && !new.preallocated =>
                {
                    return Err(Error::Refused(format!(
                        "{e}; if the storage domain is iSCSI or FCP, add --preallocated or --format qcow2"
                    )));
                }
                Err(e @ Error::Fault { .. }) => return Err(Error::Refused(e.to_string())),
                Err(e) => return Err(unmade(e, false)),
            }
        };
        let id = given.unwrap_or(id);
        made(&id);
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
                        "{what}: the engine accepted it, and there is no such disk; engine.log says why \
                         (correlation id {})",
                        self.correlation()
                    )));
                }
                Some(_) | None => {}
            }
            if !patience.pause()? {
                return Err(self.too_long(&what, limit, "it is still locked"));
            }
        }
    }

    /// Removes a disk of this run that no transfer holds, and waits until it is gone. A missing disk is a
    /// success.
    pub(crate) fn remove_disk(&self, id: &str) -> Result<(), Error> {
        let interrupt = super::Interrupt::default();
        let mut patience = Patience::new(MAX_LOCK_WAIT, &interrupt);
        loop {
            let state = match self.disk(id) {
                Ok(None) => return Ok(()),
                Ok(Some(disk)) if disk.status == "locked" => disk.status,
                Ok(Some(disk)) => match self.delete("removal of the disk", &format!("/disks/{id}")) {
                    Ok(_) => disk.status,
                    Err(Error::Fault {
                        status: 409, message, ..
                    }) => message,
                    Err(e) if e.is_passing() => e.to_string(),
                    Err(e) => return Err(e),
                },
                Err(e) if e.is_passing() => e.to_string(),
                Err(e) => return Err(e),
            };
            if !patience.pause()? {
                return Err(self.too_long(&format!("removal of disk {id}"), MAX_LOCK_WAIT, &state));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The measured sizes are the "fully allocated size" of `qemu-img measure --size 1G -O qcow2`, and of 1T.
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
    fn a_disk_whose_space_is_written_may_take_as_long_as_that_takes() {
        let new = |preallocated| NewDisk {
            name: "data".to_owned(),
            size: 100 << 30,
            storage_domain: "nfs".to_owned(),
            format: Format::Raw,
            preallocated,
            id: None,
            incremental: false,
            wipe_after_delete: false,
        };
        assert_eq!(creation_wait(&new(false)), MAX_CREATION_WAIT);
        assert_eq!(creation_wait(&new(true)).as_secs(), 600 + 10 * 1024);
    }

    #[test]
    fn the_largest_size_does_not_become_a_small_one() {
        assert_eq!(full_qcow2_size(u64::MAX), u64::MAX);
    }
}
