"""The REST resources below /vms: which request leads to which part."""

from wire import Answer

DONE = {"status": "complete"}


def with_content(request):
    """Returns the query, in which `all_content` may also be asked for by a header."""
    if request.headers.get("All-Content", "").lower() != "true":
        return request.query
    return {**request.query, "all_content": "true"}


def routes(world):
    """Returns rows for the table of api: method, path, function."""
    vms, attachments, snapshots = world.vms, world.attachments, world.snapshots
    imports = world.imports
    backups, checkpoints, events = world.backups, world.checkpoints, world.events

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
        vms.delete(vm, keeps_disks=request.query.get("detach_only") == "true")
        return DONE

    def start_backup(request, vm):
        status = 202 if request.query.get("async") == "true" else 201
        return Answer.json(status, backups.create(vms.get(vm), request.json(), request.query))

    def finalize_backup(request, vm, backup):
        backups.finalize(backup)
        return DONE

    def delete_checkpoint(request, vm, checkpoint):
        checkpoints.delete(vms.get(vm), checkpoint)
        return DONE

    one, two = "/vms/([^/]+)", "/([^/]+)"
    return (
        ("GET", "/vms", lambda request: vms.list(with_content(request))),
        ("POST", "/vms", lambda request: Answer.json(201, imports.create(request.json()))),
        ("GET", one, lambda request, vm: vms.show(vm, with_content(request))),
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
            lambda request, vm, snapshot: snapshots.show(vms.get(vm), snapshot, True),
        ),
        ("DELETE", f"{one}/snapshots{two}", remove_snapshot),
        (
            "GET",
            f"{one}/snapshots{two}/disks",
            lambda request, vm, snapshot: snapshots.list_disks(vms.get(vm), snapshot),
        ),
        ("GET", f"{one}/backups", lambda request, vm: backups.list(vms.get(vm))),
        ("POST", f"{one}/backups", start_backup),
        ("GET", f"{one}/backups{two}", lambda request, vm, backup: backups.show(backup)),
        ("GET", f"{one}/backups{two}/disks", lambda request, vm, backup: backups.list_disks(backup)),
        ("POST", f"{one}/backups{two}/finalize", finalize_backup),
        ("GET", f"{one}/checkpoints", lambda request, vm: checkpoints.list(vms.get(vm))),
        ("GET", f"{one}/checkpoints{two}", lambda request, vm, point: checkpoints.show(vms.get(vm), point)),
        (
            "GET",
            f"{one}/checkpoints{two}/disks",
            lambda request, vm, checkpoint: checkpoints.list_disks(vms.get(vm), checkpoint),
        ),
        ("DELETE", f"{one}/checkpoints{two}", delete_checkpoint),
        ("GET", "/events", lambda request: events.list(request.query)),
        ("GET", "/events/([^/]+)", lambda request, event: events.show(event)),
    )
