"""The REST resources below /vms: which request leads to which part."""

from wire import Answer

DONE = {"status": "complete"}


def routes(world):
    """Returns rows for the table of api: method, path, function."""
    vms, attachments, snapshots = world.vms, world.attachments, world.snapshots

    def attach(request, vm):
        return Answer.json(201, attachments.add(vms.get(vm), request.json()))

    def detach(request, vm, disk):
        attachments.remove(vms.get(vm), disk)
        return DONE

    def make_snapshot(request, vm):
        return Answer.json(202, snapshots.create(vms.get(vm), request.json()))

    def remove_snapshot(request, vm, snapshot):
        snapshots.delete(vms.get(vm), snapshot)
        return DONE

    def remove_vm(request, vm):
        vms.delete(vm)
        return DONE

    one, two = "/vms/([^/]+)", "/([^/]+)"
    return (
        ("GET", "/vms", lambda request: vms.list(request.query)),
        ("GET", one, lambda request, vm: vms.show(vm, request.query)),
        ("DELETE", one, remove_vm),
        (
            "GET",
            f"{one}/diskattachments",
            lambda request, vm: attachments.list(vms.get(vm), request.query),
        ),
        ("POST", f"{one}/diskattachments", attach),
        (
            "GET",
            f"{one}/diskattachments{two}",
            lambda request, vm, disk: attachments.show(vms.get(vm), disk, request.query),
        ),
        (
            "PUT",
            f"{one}/diskattachments{two}",
            lambda request, vm, disk: attachments.update(vms.get(vm), disk, request.json()),
        ),
        ("DELETE", f"{one}/diskattachments{two}", detach),
        ("GET", f"{one}/snapshots", lambda request, vm: snapshots.list(vms.get(vm))),
        ("POST", f"{one}/snapshots", make_snapshot),
        (
            "GET",
            f"{one}/snapshots{two}",
            lambda request, vm, snapshot: snapshots.show(vms.get(vm), snapshot),
        ),
        ("DELETE", f"{one}/snapshots{two}", remove_snapshot),
        (
            "GET",
            f"{one}/snapshots{two}/disks",
            lambda request, vm, snapshot: snapshots.list_disks(vms.get(vm), snapshot),
        ),
    )
