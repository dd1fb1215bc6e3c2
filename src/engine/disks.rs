//! Disks: finds one by id or name, and waits until it is unlocked.

use std::time::Duration;

use serde_json::Value;

use super::address::{query, quoted};
use super::json::{list, number, text};
use super::{Engine, Error, Patience};
use crate::logging::plain;
use crate::output::inform;

/// Upper bound on the wait for a lock that may end soon: the engine releases it seconds after the disk is
/// `ok`.
pub(crate) const MAX_LOCK_WAIT: Duration = Duration::from_secs(30);

/// A lock that is gone so soon is not told of.
pub(super) const QUIET_LOCK_WAIT: Duration = Duration::from_millis(300);

/// A disk as the engine describes it.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) id: String,
    /// The alias; several disks may have the same one.
    pub(crate) name: String,
    /// `ok`, `locked` or `illegal`.
    pub(crate) status: String,
    /// The size in bytes as a guest sees it.
    pub(crate) size: u64,
    /// Its volumes are raw; else they are qcow2, which the engine calls cow.
    pub(crate) raw: bool,
    /// The id of its storage domain.
    pub(crate) storage_domain: Option<String>,
    /// A VM has it. The engine says that of a disk that is asked for by its id, and not in lists.
    pub(crate) attached: bool,
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
            raw: text(value, "format").is_some_and(|format| format == "raw"),
            size: number(value, "provisioned_size").unwrap_or_default(),
            storage_domain: list(domains, "storage_domain")
                .first()
                .and_then(|d| text(d, "id")),
            attached: value.get("vms").is_some_and(|vms| !list(vms, "vm").is_empty()),
        })
    }

    /// True while a transfer or another operation of the engine has the disk.
    pub(crate) fn is_locked(&self) -> bool {
        self.status == "locked"
    }

    /// The disk for messages.
    pub(super) fn shown(&self) -> String {
        format!(
            "{} ({}, {} bytes, {})",
            self.id, self.name, self.size, self.status
        )
    }
}

/// Returns the words of a message about a missing object that name some of those that exist.
pub(super) fn there_are(mut names: Vec<String>) -> String {
    const MAX_NAMES_SHOWN: usize = 10;
    names.sort();
    names.dedup();
    let more = names.len().saturating_sub(MAX_NAMES_SHOWN);
    names.truncate(MAX_NAMES_SHOWN);
    match (names.is_empty(), more) {
        (true, _) => "there are none that this user may see".to_owned(),
        (false, 0) => format!("there are {}", names.join(", ")),
        (false, more) => format!("there are {} and {more} more", names.join(", ")),
    }
}

/// Returns true if `text` has the form of a UUID.
pub(crate) fn is_uuid(text: &str) -> bool {
    let group = |(n, part): (usize, &str)| {
        part.len() == [8, 4, 4, 4, 12][n] && part.bytes().all(|b| b.is_ascii_hexdigit())
    };
    text.split('-').count() == 5 && text.split('-').enumerate().all(group)
}

impl Engine {
    /// Returns the disk with this id.
    pub(crate) fn disk(&self, id: &str) -> Result<Option<Disk>, Error> {
        let found = self.get("disk", &format!("/disks/{id}"))?;
        self.object("disk", id, found, Disk::of)
    }

    /// Returns the one disk with this id or name. The error lists the candidates.
    pub(crate) fn find_disk(&self, wanted: &str) -> Result<Disk, Error> {
        let by_id = match is_uuid(wanted) {
            true => self.disk(wanted)?,
            false => None,
        };
        if let Some(disk) = by_id {
            return Ok(disk);
        }
        let mut same = self.disks_named(wanted)?;
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

    /// Returns the disks with this name, of which there may be several.
    pub(crate) fn disks_named(&self, name: &str) -> Result<Vec<Disk>, Error> {
        let mut found = self.disks(&format!("name={}", quoted(name)))?;
        // The engine's search has wildcards and may ignore case.
        found.retain(|disk| disk.name == name);
        Ok(found)
    }

    /// The message for a name that no disk has, with the names of some disks.
    fn no_such_disk(&self, wanted: &str) -> String {
        let names: Vec<String> = self
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
        format!("no disk {wanted} on {}: {}", self.url(), there_are(names))
    }

    fn disks(&self, search: &str) -> Result<Vec<Disk>, Error> {
        let what = "search for the disk";
        let found = self.listed(what, "disk", self.get(what, &query("/disks", search))?)?;
        Ok(list(&found, "disk").iter().filter_map(Disk::of).collect())
    }

    /// Waits until `disk` is unlocked, for no longer than `limit`, and tells who has it, and how long it is
    /// waited for, unless that is over at once. The caller may know the `holder`; else the engine is asked.
    /// An illegal disk is an error.
    pub(crate) fn wait_for_disk(
        &self,
        mut disk: Disk,
        holder: Option<&str>,
        limit: Duration,
    ) -> Result<Disk, Error> {
        let mut patience = Patience::new(limit, self.interrupt());
        let mut told = false;
        loop {
            match disk.status.as_str() {
                "locked" => {}
                "illegal" => {
                    return Err(Error::Unfit(format!(
                        "disk {} is illegal: an earlier transfer or copy of it failed; restore it or make a \
                         new one",
                        disk.shown()
                    )));
                }
                _ => return Ok(disk),
            }
            if !told && patience.waited() >= QUIET_LOCK_WAIT {
                told = true;
                inform(format_args!(
                    "disk {} is locked: {}; waiting for it, for {} s at most",
                    plain(&disk.shown()),
                    self.holder(&disk.id, holder),
                    limit.as_secs()
                ));
            }
            if !patience.pause()? {
                return Err(Error::Unfit(format!(
                    "disk {} is locked: {}, and it is not free after {} s; try again when that has ended",
                    disk.shown(),
                    self.holder(&disk.id, holder),
                    limit.as_secs()
                )));
            }
            disk = self
                .disk(&disk.id)?
                .ok_or_else(|| Error::Unfit(format!("disk {} was removed while it was locked", disk.id)))?;
        }
    }

    /// Says who has a locked disk: `known`, else the transfer that the engine names.
    fn holder(&self, disk: &str, known: Option<&str>) -> String {
        if let Some(known) = known {
            return known.to_owned();
        }
        match self.open_transfers(disk).map(|mut open| open.pop()) {
            Ok(Some(transfer)) => format!(
                "transfer {} ({}, {}, on host {}) has it",
                transfer.id,
                transfer.direction,
                transfer.phase,
                transfer.host.as_deref().unwrap_or("unknown")
            ),
            Ok(None) => "no transfer has it, so another operation of the engine does".to_owned(),
            Err(e) => format!("by whom is not known ({e})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
