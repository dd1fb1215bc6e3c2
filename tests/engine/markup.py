"""The engine's XML, which its own SDK speaks. The rest of the stand-in has the same values as dictionaries.

An object is an element, with `id` and `href` as attributes; a list is an element that repeats the name of its
members; dates are ISO 8601. Which name the root element has follows from the request's path.
"""

import datetime
import xml.etree.ElementTree as etree

from wire import Date, Refused

# the last part of a path -> one of its members
MEMBERS = {
    "backups": "backup",
    "checkpoints": "checkpoint",
    "clusters": "cluster",
    "datacenters": "data_center",
    "diskattachments": "disk_attachment",
    "disks": "disk",
    "disksnapshots": "disk_snapshot",
    "events": "event",
    "hosts": "host",
    "imagetransfers": "image_transfer",
    "jobs": "job",
    "snapshots": "snapshot",
    "storagedomains": "storage_domain",
    "vms": "vm",
}
ATTRIBUTES = ("id", "href")


def read(body):
    """Returns the object that is the root element, without its name."""
    if not body.strip():
        return {}
    try:
        return _value(etree.fromstring(body))
    except etree.ParseError as error:
        raise Refused(400, f"The request's body is not valid XML: {error}") from None


def write(root, value):
    element = etree.Element(root)
    _fill(element, value)
    return etree.tostring(element, encoding="UTF-8", xml_declaration=True)


def root_of(method, parts, status):
    """Returns the name of the answer's root element; `parts` are those of the path."""
    if status >= 400:
        return "fault"
    if not parts:
        return "api"
    last = parts[-1]
    if last in MEMBERS and method == "GET":
        return f"{MEMBERS[last]}s"
    if last in MEMBERS:
        return MEMBERS[last]
    of_member = MEMBERS.get(parts[-2]) if len(parts) > 1 else None
    return of_member if of_member and method in ("GET", "PUT") else "action"


def _value(element):
    if not len(element) and not element.attrib:
        return element.text or ""
    value = dict(element.attrib)
    for child in element:
        name = child.tag
        if element.tag == f"{name}s":
            value.setdefault(name, []).append(_value(child))
        else:
            value[name] = _value(child)
    return value


def _fill(element, value):
    if isinstance(value, Date):
        moment = datetime.datetime.fromtimestamp(value / 1000, datetime.timezone.utc)
        element.text = moment.isoformat(timespec="milliseconds")
    elif isinstance(value, dict):
        for name, member in value.items():
            if name in ATTRIBUTES:
                element.set(name, member)
            else:
                for one in member if isinstance(member, list) else [member]:
                    _fill(etree.SubElement(element, name), one)
    else:
        element.text = str(value)
