"""New VMs: empty ones, and those that a configuration describes.

An import attaches the disks that the configuration names, by their ids. As in the engine, a disk that can't
be attached (it is not there, locked, or another VM's) does not fail the request: only an event tells.
"""

from vms import Vm
from wire import Refused, boolean, identifier, incomplete, new_id


class Imports:
    def __init__(self, world):
        self._world = world

    def create(self, body):
        self._refuse_without_cluster(body)
        initialization = body.get("initialization") or {}
        configuration = initialization.get("configuration")
        if configuration:
            regenerates = boolean(initialization, "regenerate_ids", False)
            vm = self._import(body, configuration, regenerates)
        else:
            vm = self._empty(body)
        return self._world.vms.show(vm.id, {})

    def _refuse_without_cluster(self, body):
        cluster, known = body.get("cluster") or {}, self._world.directory.cluster
        if not {"id", "name"} & cluster.keys():
            raise incomplete("Vm [cluster.id|name]")
        if cluster.get("id", known.id) != known.id or cluster.get("name", known.name) != known.name:
            raise Refused(400, "Cannot add VM: The cluster does not exist.")

    def _empty(self, body):
        if not body.get("name") or not body.get("template"):
            raise incomplete("Vm [name|template.id|name]")
        vm = Vm(new_id(), body["name"], "down", body.get("description", ""))
        self._add(vm)
        return vm

    def _import(self, body, configuration, regenerates):
        kind = configuration.get("type")
        if kind not in ("ovf", "ova") or not configuration.get("data"):
            raise incomplete("Vm [initialization.configuration.type|data]")
        read = self._world.ovf.read(configuration["data"], kind)
        vm_id = new_id() if regenerates else identifier(read.vm_id)
        if vm_id is None:
            raise Refused(400, "Cannot import VM: The configuration has no valid id.")
        vm = Vm(vm_id, body.get("name") or read.name, "down", read.description)
        self._add(vm)
        self._attach(vm, read.disks)
        return vm

    def _add(self, vm):
        if self._world.vms.find(vm.name):
            raise Refused(409, "Cannot add VM. The VM name is already in use.")
        self._world.vms.create(vm)

    def _attach(self, vm, disks):
        failed = []
        for disk_id, spec in disks:
            disk = self._world.disks.find(disk_id)
            subject = f"{vm.id} {vm.name} {disk.subject if disk else disk_id}"
            try:
                if disk is None or disk.status != "ok" or self._world.switches.take("attach_fails", subject):
                    raise Refused(400, "The disk can't be attached.")
                self._world.attachments.attach(vm, disk, spec)
            except Refused:
                failed.append(disk.name if disk else disk_id)
        if failed:
            self._world.events.add("attach_failed", vm, disks=", ".join(failed))
