"""A VM's configuration as OVF, in the two flavours that the engine writes and reads.

In the flavour `ovf` a disk's `diskId` is the id of its volume, and its `fileRef` is DISK/VOLUME; in the
flavour `ova` they are DISK and VOLUME. Sizes are whole GiB, rounded up. A snapshot's configuration names the
volumes that it froze.
"""

import xml.etree.ElementTree as etree
from dataclasses import dataclass

from wire import Refused

OVF = "http://schemas.dmtf.org/ovf/envelope/1/"
RASD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
XSI = "http://www.w3.org/2001/XMLSchema-instance"
GIB = 1 << 30
INTERFACES = {
    "virtio_scsi": "VirtIO_SCSI",
    "virtio": "VirtIO",
    "ide": "IDE",
    "sata": "SATA",
    "spapr_vscsi": "SPAPR_VSCSI",
}
FORMATS = {
    "raw": ("http://www.vmware.com/specifications/vmdk.html#sparse", "RAW"),
    "cow": ("http://www.gnome.org/~markmc/qcow-spec.html", "COW"),
}
for prefix, address in (("ovf", OVF), ("rasd", RASD), ("xsi", XSI)):
    etree.register_namespace(prefix, address)


@dataclass
class Configuration:
    """An import reads these."""

    vm_id: str | None
    name: str
    description: str
    disks: list  # of (disk id, attachment)


class Ovf:
    def __init__(self, world):
        self._world = world

    def write(self, vm, snapshot_id=None, as_ova=False):
        """Returns the configuration of a VM as it is, or with the volumes that a snapshot froze."""
        root = etree.Element(_o("Envelope"), {_o("version"): "4.4.0.0"})
        references = etree.SubElement(root, "References")
        section = _section(root, "DiskSection", as_ova)
        etree.SubElement(section, "Info").text = "List of Virtual Disks"
        system = self._system(root, vm, as_ova)
        hardware = _section(system, "VirtualHardwareSection", as_ova)
        for attachment in self._world.attachments.of_vm(vm):
            volume = _volume(attachment.disk, snapshot_id)
            if volume:
                names = _names(attachment.disk, volume, as_ova)
                self._file(references, names, volume)
                section.append(self._disk(vm, attachment, volume, names))
                hardware.append(self._item(attachment, volume, names))
        return etree.tostring(root, encoding="unicode", xml_declaration=True)

    def read(self, text, kind):
        """Reads a configuration; `kind` is `ovf` or `ova`."""
        try:
            root = etree.fromstring(text)
        except etree.ParseError as error:
            raise Refused(400, f"Cannot import VM: The configuration can't be read: {error}.") from None
        disks = []
        for disk in root.iter("Disk"):
            place = disk.get(_o("fileRef"), "").split("/")[0]
            spec = {
                "bootable": disk.get(_o("boot"), "false"),
                "read_only": disk.get(_o("read-only"), "false"),
                "pass_discard": disk.get(_o("pass-discard"), "false"),
                "interface": _interface(disk.get(_o("disk-interface"))),
            }
            disks.append((disk.get(_o("diskId")) if kind == "ova" else place, spec))
        system = next((one for one in root if one.tag in ("Content", "VirtualSystem")), None)
        if system is None or system.findtext("Name") is None:
            raise Refused(400, "Cannot import VM: The configuration has no VM.")
        vm_id = system.get(_o("id")) if kind == "ova" else _id_of(system)
        return Configuration(vm_id, system.findtext("Name"), system.findtext("Description") or "", disks)

    # parts

    def _system(self, root, vm, as_ova):
        if as_ova:
            system = etree.SubElement(root, "VirtualSystem", {_o("id"): vm.id})
        else:
            kind = {_o("id"): "out", _x("type"): "ovf:VirtualSystem_Type"}
            system = etree.SubElement(root, "Content", kind)
        etree.SubElement(system, "Name").text = vm.name
        etree.SubElement(system, "Description").text = vm.description
        etree.SubElement(system, "ClusterName").text = self._world.directory.cluster.name
        if not as_ova:
            facts = {_o("id"): vm.id, _o("required"): "false"}
            facts[_x("type")] = "ovf:OperatingSystemSection_Type"
            etree.SubElement(
                etree.SubElement(system, "Section", facts), "Info"
            ).text = "Guest Operating System"
        return system

    def _file(self, references, names, volume):
        _, place = names
        facts = {"href": place, "id": volume.image_id, "size": str(volume.size)}
        etree.SubElement(references, "File", {_o(name): value for name, value in facts.items()})

    def _disk(self, vm, attachment, volume, names):
        disk = attachment.disk
        address, volume_format = FORMATS[volume.format]
        below = disk.parent_of(volume)
        facts = {
            "diskId": names[0],
            "fileRef": names[1],
            "parentRef": f"{disk.id}/{below.image_id}" if below else "",
            "size": str(-(-volume.size // GIB)),
            "format": address,
            "volume-format": volume_format,
            "volume-type": "Sparse" if volume.sparse else "Preallocated",
            "disk-interface": INTERFACES[attachment.interface],
            "boot": _word(self._world.attachments.is_bootable(vm, attachment)),
            "read-only": _word(attachment.read_only),
            "shareable": _word(disk.shareable),
            "wipe-after-delete": _word(disk.wipe_after_delete),
            "pass-discard": _word(attachment.pass_discard),
            "incremental-backup": _word(disk.backup == "incremental"),
            "disk-alias": disk.name,
            "disk-description": disk.description or "",
        }
        return etree.Element("Disk", {_o(name): value for name, value in facts.items()})

    def _item(self, attachment, volume, names):
        item = etree.Element("Item")
        for name, text in (
            ("Caption", attachment.disk.name),
            ("InstanceId", volume.image_id),
            ("ResourceType", "17"),
            ("HostResource", names[1]),
            ("StorageId", volume.domain.id),
        ):
            etree.SubElement(item, f"{{{RASD}}}{name}").text = text
        etree.SubElement(item, "IsPlugged").text = _word(attachment.active)
        return item


def _o(name):
    return f"{{{OVF}}}{name}"


def _x(name):
    return f"{{{XSI}}}{name}"


def _section(parent, name, as_ova):
    if as_ova:
        return etree.SubElement(parent, name)
    return etree.SubElement(parent, "Section", {_x("type"): f"ovf:{name}_Type"})


def _volume(disk, snapshot_id):
    if disk.is_lun:
        return None
    if snapshot_id is None:
        return disk
    return next((one for one in disk.snapshots if one.vm_snapshot == snapshot_id), None)


def _names(disk, volume, as_ova):
    """Returns diskId and fileRef."""
    if as_ova:
        return disk.id, volume.image_id
    return volume.image_id, f"{disk.id}/{volume.image_id}"


def _interface(word):
    return next((name for name, written in INTERFACES.items() if written == word), "virtio_scsi")


def _id_of(system):
    """Returns the VM's id, which stands at the section of the operating system."""
    for section in system.iter("Section"):
        if section.get(_x("type")) == "ovf:OperatingSystemSection_Type":
            return section.get(_o("id"))
    return None


def _word(value):
    return "true" if value else "false"
