//! The disks.

use serde::Serialize;
use serde_json::Value;

use super::{Collection, Named};
use crate::engine::json::{list, number, reference, text};
use crate::engine::{Engine, Error};

pub(super) const DISKS: Collection<ListedDisk> = Collection {
    many: "disks",
    one: "disk",
    path: "/disks",
    key: "disk",
    parameter: "",
    has_pages: false,
    of: ListedDisk::of,
};

/// A disk in a list. Sizes are in bytes.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ListedDisk {
    /// The alias; several disks may have the same one.
    pub(crate) name: String,
    pub(crate) id: String,
    /// The size that a guest sees. A LUN has none here.
    pub(crate) size: Option<u64>,
    /// The space that it takes on its storage.
    pub(crate) actual_size: Option<u64>,
    /// `raw` or `qcow2`, as `--format` takes it.
    pub(crate) format: Option<String>,
    /// `ok`, `locked` or `illegal`.
    pub(crate) status: Option<String>,
    /// The name of its storage domain; the first one, where a template's disk has several.
    pub(crate) storage_domain: Option<String>,
    pub(crate) storage_domain_id: Option<String>,
    /// `data`, `iso`, `ovf_store` or another use that the engine makes of it.
    pub(crate) content_type: Option<String>,
    /// `image`, `lun` or `managed_block_storage`; transfers are possible for images.
    pub(crate) storage_type: Option<String>,
    /// The id of the volume that is written to.
    #[serde(skip)]
    pub(super) active_volume: Option<String>,
    /// The ids of the VMs that it is attached to. Only the disk alone tells them, and no list.
    #[serde(skip)]
    pub(super) vms: Vec<String>,
}

impl Named for ListedDisk {
    fn id(&self) -> &str {
        &self.id
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl ListedDisk {
    pub(super) fn of(value: &Value) -> Option<ListedDisk> {
        let part = |key: &str| value.get(key).unwrap_or(&Value::Null);
        let first_domain = list(part("storage_domains"), "storage_domain").first();
        Some(ListedDisk {
            name: text(value, "alias")
                .or_else(|| text(value, "name"))
                .unwrap_or_default(),
            id: text(value, "id")?,
            size: number(value, "provisioned_size"),
            actual_size: number(value, "actual_size"),
            format: text(value, "format").map(format_of),
            status: text(value, "status"),
            storage_domain: None,
            storage_domain_id: first_domain.and_then(|one| text(one, "id")),
            content_type: text(value, "content_type"),
            storage_type: text(value, "storage_type"),
            active_volume: text(value, "image_id"),
            vms: list(part("vms"), "vm")
                .iter()
                .filter_map(|vm| text(vm, "id"))
                .collect(),
        })
    }
}

/// The name of a format for users: the engine calls qcow2 `cow`.
pub(super) fn format_of(name: String) -> String {
    match name.as_str() {
        "cow" => "qcow2".to_owned(),
        _ => name,
    }
}

impl Engine {
    /// Lists the disks, or those for a name.
    pub(crate) fn list_disks(&self, wanted: Option<&str>) -> Result<Vec<ListedDisk>, Error> {
        let mut disks = self.objects(&DISKS, wanted)?.objects;
        self.name_domains(disks.iter_mut())?;
        Ok(disks)
    }

    /// Adds the names of the disks' storage domains.
    pub(super) fn name_domains<'a>(
        &self,
        disks: impl Iterator<Item = &'a mut ListedDisk>,
    ) -> Result<(), Error> {
        let mut stored = disks.filter(|disk| disk.storage_domain_id.is_some()).peekable();
        if stored.peek().is_none() {
            return Ok(());
        }
        let names = self.domain_names()?;
        for disk in stored {
            let id = disk.storage_domain_id.as_ref();
            disk.storage_domain = id.and_then(|id| names.get(id).cloned());
        }
        Ok(())
    }

    /// Lists the disks that are attached to a VM, each with its attachment.
    pub(super) fn attached_disks(&self, vm: &str) -> Result<Vec<(ListedDisk, Value)>, Error> {
        let attached = self.attachments(vm)?.into_iter();
        let of_one = |(attachment, disk): (Value, Value)| {
            let mut disk = ListedDisk::of(&disk)?;
            disk.vms = vec![vm.to_owned()];
            Some((disk, attachment))
        };
        let mut disks: Vec<(ListedDisk, Value)> = attached.filter_map(of_one).collect();
        disks.sort_by(|(a, _), (b, _)| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        Ok(disks)
    }
}

/// Returns the ids of the disks in `attachments`, which a VM holds when they were followed.
pub(super) fn attached_ids(vm: &Value) -> Option<Vec<String>> {
    let attachments = vm.get("disk_attachments")?;
    let ids = list(attachments, "disk_attachment")
        .iter()
        .filter_map(|attachment| reference(attachment, "disk").or_else(|| text(attachment, "id")));
    Some(ids.collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_disk_is_listed_with_numbers_and_with_the_words_of_our_options() {
        let disk = ListedDisk::of(&json!({
            "id": "d", "alias": "web", "name": "old", "format": "cow", "provisioned_size": "1073741824",
            "actual_size": "200704", "status": "ok", "image_id": "v",
            "storage_domains": {"storage_domain": [{"id": "s"}, {"id": "t"}]}, "vms": {"vm": [{"id": "m"}]}
        }));
        let disk = disk.unwrap();
        assert_eq!(
            (disk.name.as_str(), disk.format.as_deref()),
            ("web", Some("qcow2"))
        );
        assert_eq!((disk.size, disk.actual_size), (Some(1 << 30), Some(200_704)));
        assert_eq!(disk.storage_domain_id.as_deref(), Some("s"));
        assert_eq!(
            (disk.active_volume.as_deref(), disk.vms),
            (Some("v"), vec!["m".to_owned()])
        );
        let lun = ListedDisk::of(&json!({"id": "l", "alias": "lun", "storage_type": "lun"})).unwrap();
        assert_eq!((lun.size, lun.format, lun.status), (None, None, None));
        assert!(ListedDisk::of(&json!({"alias": "no id"})).is_none());
    }

    #[test]
    fn a_vm_whose_attachments_were_not_followed_has_an_unknown_number_of_disks() {
        assert_eq!(attached_ids(&json!({"id": "m"})), None);
        assert_eq!(attached_ids(&json!({"disk_attachments": {}})), Some(vec![]));
        let two = json!({"disk_attachments": {"disk_attachment": [{"id": "a"}, {"disk": {"id": "b"}}]}});
        assert_eq!(attached_ids(&two), Some(vec!["a".to_owned(), "b".to_owned()]));
    }
}
