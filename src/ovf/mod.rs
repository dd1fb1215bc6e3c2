//! The configuration of a VM as the engine writes it: OVF in its own flavour, in which a disk's `diskId` is
//! the id of a volume, and its `fileRef` DISK/VOLUME (OvfOvirtWriter).
//!
//! ```text
//! markup    elements, attributes and their places
//! rewrite   the same configuration for disks with other ids, or fewer of them
//! ```
//!
//! Sizes are whole GiB there, rounded up, so none is taken from it.

mod markup;
mod rewrite;

pub(crate) use self::markup::MarkupError;
use self::markup::{Element, parse};

/// The type of an item that is a disk.
const DISK_ITEM: &str = "17";

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Configuration {
    text: String,
    elements: Vec<Element>,
    /// The id and the name of the VM.
    pub(crate) vm_id: Option<String>,
    pub(crate) vm_name: Option<String>,
    /// Names and ids of the cluster that the VM was in.
    pub(crate) clusters: Vec<String>,
    pub(crate) disks: Vec<Described>,
}

/// A disk in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Described {
    pub(crate) id: String,
    pub(crate) name: String,
    /// The ids of its volumes.
    volumes: Vec<String>,
    /// As the API calls it: `virtio_scsi`, `virtio` and others.
    pub(crate) interface: String,
    pub(crate) bootable: bool,
    pub(crate) read_only: bool,
    pub(crate) pass_discard: bool,
    pub(crate) is_plugged: bool,
    /// All of its volumes are raw.
    pub(crate) raw: bool,
    /// All of its volumes are preallocated.
    pub(crate) preallocated: bool,
    /// The engine knows what changes in it.
    pub(crate) incremental: bool,
    /// Its storage is zeroed when it is removed.
    pub(crate) wipe_after_delete: bool,
    /// The id of its storage domain.
    pub(crate) storage_domain: Option<String>,
}

impl Configuration {
    pub(crate) fn read(text: String) -> Result<Configuration, MarkupError> {
        let elements = parse(&text)?;
        let mut found = Configuration {
            text,
            elements,
            vm_id: None,
            vm_name: None,
            clusters: Vec::new(),
            disks: Vec::new(),
        };
        found.read_vm();
        found.read_disks();
        Ok(found)
    }

    /// The disk with this id.
    pub(crate) fn disk(&self, id: &str) -> Option<&Described> {
        self.disks.iter().find(|disk| disk.id.eq_ignore_ascii_case(id))
    }

    fn read_vm(&mut self) {
        let system = self
            .elements
            .iter()
            .position(|one| matches!(one.name.as_str(), "Content" | "VirtualSystem"));
        let Some(system) = system else { return };
        self.vm_name = self.inside(system, "Name");
        self.clusters = ["ClusterId", "ClusterName"]
            .iter()
            .filter_map(|name| self.inside(system, name))
            .collect();
        let of_system = self.elements.iter().find(|one| {
            let kind = one.attribute("type").unwrap_or(&one.name);
            kind.contains("OperatingSystemSection")
        });
        self.vm_id = of_system.and_then(|one| one.attribute("id")).map(str::to_owned);
    }

    fn read_disks(&mut self) {
        let mut disks: Vec<Described> = Vec::new();
        for element in self.elements.iter().filter(|one| one.name == "Disk") {
            let Some((id, volume)) = element.attribute("fileRef").and_then(reference) else {
                continue;
            };
            let is = |name: &str| element.attribute(name) == Some("true");
            let format = element.attribute("volume-format");
            let kind = element.attribute("volume-type");
            let one = Described {
                id: id.to_owned(),
                name: element.attribute("disk-alias").unwrap_or_default().to_owned(),
                volumes: vec![volume.to_owned()],
                interface: element
                    .attribute("disk-interface")
                    .unwrap_or("virtio_scsi")
                    .to_lowercase(),
                bootable: is("boot"),
                read_only: is("read-only"),
                pass_discard: is("pass-discard"),
                is_plugged: true,
                raw: format.is_some_and(|format| format.eq_ignore_ascii_case("raw")),
                preallocated: kind.is_some_and(|kind| kind.eq_ignore_ascii_case("preallocated")),
                incremental: is("incremental-backup"),
                wipe_after_delete: is("wipe-after-delete"),
                storage_domain: None,
            };
            // The volumes of a disk with snapshots are told one by one.
            match disks.iter_mut().find(|known| known.id == one.id) {
                Some(known) => {
                    known.volumes.extend(one.volumes);
                    known.raw &= one.raw;
                    known.preallocated &= one.preallocated;
                    known.bootable |= one.bootable;
                    known.incremental |= one.incremental;
                    known.wipe_after_delete |= one.wipe_after_delete;
                }
                None => disks.push(one),
            }
        }
        for n in 0..self.elements.len() {
            let Some(id) = self.disk_of_item(n) else { continue };
            let storage_domain = self.inside(n, "StorageId");
            let is_plugged = self.inside(n, "IsPlugged").as_deref() != Some("false");
            if let Some(disk) = disks.iter_mut().find(|disk| disk.id == id) {
                disk.is_plugged &= is_plugged;
                disk.storage_domain = storage_domain.or(disk.storage_domain.take());
            }
        }
        self.disks = disks;
    }

    /// Returns the id of the disk that element `n` is the item of.
    fn disk_of_item(&self, n: usize) -> Option<String> {
        if self.elements[n].name != "Item" || self.inside(n, "ResourceType")?.as_str() != DISK_ITEM {
            return None;
        }
        let place = self.inside(n, "HostResource")?;
        Some(
            reference(&place)
                .map_or(place.as_str(), |(disk, _)| disk)
                .to_owned(),
        )
    }

    /// Returns the text of the first element `name` in element `n`, unless it is empty. An element stands
    /// before those in it.
    fn inside(&self, n: usize, name: &str) -> Option<String> {
        let end = self.elements[n].place.end;
        let inner = self.elements[n + 1..].iter();
        let mut inner = inner.take_while(|one| one.place.start < end);
        let found = inner.find(|one| one.parent == Some(n) && one.name == name);
        let text = found.map(|one| one.text.trim().to_owned());
        text.filter(|text| !text.is_empty())
    }
}

/// Reads DISK/VOLUME.
fn reference(text: &str) -> Option<(&str, &str)> {
    let (disk, volume) = text.split_once('/')?;
    (!disk.is_empty() && !volume.is_empty()).then_some((disk, volume))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const ROOT: &str = "00000000-0000-0000-0000-00000000000a";
    pub(crate) const DATA: &str = "00000000-0000-0000-0000-00000000000b";
    pub(crate) const ROOT_VOLUME: &str = "11111111-0000-0000-0000-00000000000a";
    pub(crate) const BASE_VOLUME: &str = "11111111-0000-0000-0000-0000000000ba";
    pub(crate) const DATA_VOLUME: &str = "11111111-0000-0000-0000-00000000000b";

    /// A VM with two disks, one of which has a snapshot, in the form of engine 4.5.
    pub(crate) fn ovf() -> String {
        let disk = |disk: &str, volume: &str, parent: &str, rest: &str| {
            format!(
                "<Disk ovf:diskId=\"{volume}\" ovf:size=\"1\" ovf:fileRef=\"{disk}/{volume}\" \
                 ovf:parentRef=\"{parent}\" {rest}></Disk>"
            )
        };
        let item = |disk: &str, volume: &str, plugged: &str| {
            format!(
                "<Item><rasd:Caption>a &amp; b</rasd:Caption><rasd:InstanceId>{volume}</rasd:InstanceId>\
                 <rasd:ResourceType>17</rasd:ResourceType><rasd:HostResource>{disk}/{volume}\
                 </rasd:HostResource><rasd:StorageId>domain</rasd:StorageId><Type>disk</Type>\
                 <IsPlugged>{plugged}</IsPlugged></Item>"
            )
        };
        let file = |disk: &str, volume: &str| {
            format!("<File ovf:href=\"{disk}/{volume}\" ovf:id=\"{volume}\" ovf:size=\"1\"/>")
        };
        let cow = "ovf:volume-format=\"COW\" ovf:volume-type=\"Sparse\" ovf:disk-interface=\"VirtIO_SCSI\" \
                   ovf:boot=\"true\" ovf:disk-alias=\"root\" ovf:incremental-backup=\"true\"";
        let raw = "ovf:volume-format=\"RAW\" ovf:volume-type=\"Preallocated\" ovf:disk-interface=\"VirtIO\" \
                   ovf:boot=\"false\" ovf:read-only=\"true\" ovf:wipe-after-delete=\"true\" \
                   ovf:disk-alias=\"data\"";
        let base = "ovf:volume-format=\"RAW\" ovf:volume-type=\"Sparse\" ovf:disk-interface=\"VirtIO_SCSI\" \
                    ovf:boot=\"true\" ovf:disk-alias=\"root\"";
        [
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ovf:Envelope ovf:version=\"4.5.0.0\">",
            "<References>",
            &file(ROOT, BASE_VOLUME),
            &file(ROOT, ROOT_VOLUME),
            &file(DATA, DATA_VOLUME),
            "<Nic ovf:id=\"n\"/></References><Section xsi:type=\"ovf:DiskSection_Type\"><Info>Disks</Info>",
            &disk(ROOT, BASE_VOLUME, "", base),
            &disk(ROOT, ROOT_VOLUME, &format!("{ROOT}/{BASE_VOLUME}"), cow),
            &disk(DATA, DATA_VOLUME, "", raw),
            "</Section><Content ovf:id=\"out\" xsi:type=\"ovf:VirtualSystem_Type\">",
            "<Name>web &lt;1&gt;</Name><Description/><ClusterName>Default</ClusterName>",
            "<Section ovf:id=\"vm-id\" xsi:type=\"ovf:OperatingSystemSection_Type\"><Info/></Section>",
            "<Section xsi:type=\"ovf:VirtualHardwareSection_Type\"><Item><rasd:ResourceType>10",
            "</rasd:ResourceType><rasd:MACAddress>56:6f:00:00:00:01</rasd:MACAddress></Item>",
            &item(ROOT, ROOT_VOLUME, "true"),
            &item(DATA, DATA_VOLUME, "false"),
            "</Section></Content></ovf:Envelope>",
        ]
        .concat()
    }

    #[test]
    fn a_configuration_tells_the_vm_its_cluster_and_its_disks() {
        let read = Configuration::read(ovf()).unwrap();
        assert_eq!(read.vm_id.as_deref(), Some("vm-id"));
        assert_eq!(read.vm_name.as_deref(), Some("web <1>"));
        assert_eq!(read.clusters, ["Default"]);
        let (root, data) = (read.disk(ROOT).unwrap(), read.disk(DATA).unwrap());
        assert_eq!(read.disks.len(), 2);
        assert_eq!(
            (root.raw, root.preallocated, root.incremental),
            (false, false, true)
        );
        assert_eq!((root.bootable, root.interface.as_str()), (true, "virtio_scsi"));
        assert_eq!((data.raw, data.preallocated, data.read_only), (true, true, true));
        assert_eq!((root.wipe_after_delete, data.wipe_after_delete), (false, true));
        assert_eq!((data.interface.as_str(), data.is_plugged), ("virtio", false));
        assert_eq!(data.storage_domain.as_deref(), Some("domain"));
        assert_eq!(root.volumes, [BASE_VOLUME, ROOT_VOLUME]);
    }
}
