"""A stand-in for the oVirt engine: its REST API over HTTPS on loopback, for tests and demonstrations.

    python3 main.py --imageio DIR --dir DIR [OPTIONS]

It reproduces the engine's known behaviour, quirks included: numbers are strings, a missing object is a 404
without a body, actions answer 200 for anything, and a cancelled upload removes its disk. Disks are real
files, snapshots real layers, checkpoints real bitmaps; transfers are real tickets on a real ovirt-imageio
daemon (started by scripts/imageio in the directory of --imageio), with their own qemu-nbd where the engine
would start one. No VM runs, but its guest writes (see guest).

When it is ready it prints one line of JSON: url, port, api, cafile, control, log, dir, pid. It runs in the
foreground until SIGTERM or SIGINT. Then it ends its qemu-nbd and qemu-storage-daemon processes and removes
its tickets and sockets; disks and log stay.

--dir contains the disks (`images/DOMAIN/DISK/IMAGE`), the log (`engine.log`, see journal), the control socket
(`control`, see control), the sockets of qemu-nbd (`nbd/`), and the CA of the API (`api-ca.pem`). Without
--users the users are admin@internal and admin@ovirt@internalsso, with the password `secret`.

Faults are switches, set at the start (--switch '{"switch": "slow", "value": 2}') or on the control socket,
with the limits `times`, `after` and `match` (see switches). The value in brackets is the default of a switch
without a value.

    requests (subject "METHOD /path?query"; without `match` they skip the login: only below /ovirt-engine/api)
    slow                [1.0] seconds before the request is handled
    answer_slow         [1.0] seconds between the request's effect and its answer
    cut_before          the connection is closed instead of performing the request
    cut_after           the request is performed, the connection is closed instead of answering
    unavailable         [503] that status, with an HTML body
    html_error          [500] that status, with an HTML body
    front_end           [{"status": 404}] that status, with the members `type` and `body` if given
    garbage             200 and truncated JSON
    huge                [67108864] 200 and a JSON document of that many bytes
    redirect            ["https://127.0.0.1:1"] 302 to that address and the same path
    fault               [{"status": 409, "detail": "[...]"}] a JSON fault with these values

    sessions (subject of login_refused: the user)
    login_refused       ["access_denied"] 400 with that error code
    sso_oauth_shape     errors of the login have the shape error/error_description
    token_expired       401, and the session of that request ends
    token_requests      [1] a session lives for that many requests
    expire_sessions     (act) every session ends now

    disks (subject "DISK-ID DISK-NAME")
    disk_illegal        a new disk becomes illegal
    disk_slow           [1.0] seconds that a new disk stays locked

    transfers (subject "TRANSFER-ID DISK-ID DISK-NAME")
    transfer_locked     409 "disks are locked" for a new transfer
    transfer_unlisted   an open transfer is not in the list yet, while it has its disk
    transfer_fault      ["refused"] 400 "no host"; "failed": the same after the start, the disk removed
    stay_initializing   ["forever"] or seconds
    paused_before_data  a new transfer is paused_system, without a ticket
    ticket_lost         the daemon loses the ticket at once, as when it restarts just then; the engine looks
                        at the transfer a minute later
    unknown_phase       ["warming_up"] the phase shown instead of the real one
    url_missing         ["transfer_url"] or "proxy_url" or "both": absent from the representation
    url_host            ["dead"] (refuses to connect), "silent" (never connects) or HOST:PORT in transfer_url
    extend_stopped      the ticket is not renewed
    extend_fails        the renewal fails; at the second failure in a row the system stops the transfer
    resume_fails        a resumed transfer is paused_system again
    resume_slow         [1.0] seconds in resuming
    finalize_slow       [1.0] seconds in finalizing_success
    finalize_pause      finalize ends in paused_system, the disk illegal and kept
    finalize_failure    verification fails: illegal, finished_failure, an upload's disk is removed
    finalize_vanish     ["ok"] or "illegal" or "removed": the transfer is a 404, the disk has that status
    pause_now           (act) transferring transfers become paused_system
    cancel_now          (act) transferring transfers become cancelled_system
    ticket_expire       (act) the ticket has expired; the engine soon prolongs that of an active transfer
    ticket_remove       (act) the daemon loses the ticket, and the engine does not know yet

    backups (subject "BACKUP-ID VM-ID VM-NAME DESCRIPTION"; of disk_dropped "VM-ID VM-NAME DISK-ID DISK-NAME",
    of the three about bitmaps and extents as of a transfer)
    backup_stuck        ["forever"] or seconds in the phase initializing, or in the next one with after=1
    backup_fails        the backup fails before it is ready
    backup_vanishes     ["failed"] it does so and is a 404; "succeeded": it is a 404 as soon as it has ended
    redefine_fails      a live incremental backup: 400 "[]", 10791, and the chain of checkpoints is gone
    freeze_fails        the guest is not frozen: with require_consistency, a live backup fails
    scratch_fails       there is no room for the scratch disks of a live backup
    disk_dropped        a disk is silently left out
    finalize_conflict   409 "active transfers" to finalize
    finalize_lag        [1.0] seconds that a finalized hybrid backup stays ready
    merge_slow          [1.0] seconds in finalizing
    snapshot_left       the snapshot of a hybrid backup stays: succeeded, and 10813
    checkpoint_stays    (subject: its id) a deleted checkpoint stays, 10798; invalid if the VM is down
    bitmap_missing      ["cancelled_system"] or "paused_system": a transfer with a bitmap does not start
    dirty_missing       404 to the extents that are dirty
    extents_without_zero    the extents that are dirty have no member `zero`
    attach_fails        (subject "VM-ID VM-NAME DISK-ID DISK-NAME") an imported VM lacks the disk: 175
    engine_restart      (act) the engine starts anew, and fails the backups whose ids clients chose: 10814

The answer to a POST is lost with cut_after, also that of a backup. The answer to POST /imagetransfers counts
for unknown_phase, url_missing and url_host as a GET does. An engine version below 4.4.7 (--engine-version)
forgets a transfer as soon as it has ended, and a backup that has failed; below 4.4.4 a disk does not list its
snapshots, only its storage domain does. Below 4.5.1 finalize of a backup cuts its transfers, and up to 4.5.6
the deletion of a checkpoint destroys the images of a VM that is paused.
"""

import argparse
import json
import os
import shutil
import threading

import certificates
from api import PREFIX, Api
from attachments import Attachments
from backups import Backups
from checkpoints import Checkpoints
from control import Control
from coordinator import Coordinator
from daemon import Daemon
from directory import Directory, Domain
from disks import Disks
from ending import Ending
from endpoints import Endpoints
from events import Events
from guest import Guest
from imports import Imports
from jobs import Jobs
from journal import Journal
from ovf import Ovf
from server import Server
from snapshots import Snapshots
from sso import Sso
from switches import Switches
from transfers import Transfers
from vms import Vms
from world import Options, World

USERS = {"admin@internal": "secret", "admin@ovirt@internalsso": "secret"}
DOMAINS = ["data=nfs", "san=iscsi", "lost=nfs,detached"]
MAX_DIR_LENGTH = 75  # leaves room for the names of unix sockets, whose paths are limited to 107 bytes


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--imageio", required=True, metavar="DIR", help="the directory of a daemon started by scripts/imageio"
    )
    add("--dir", required=True, help="the stand-in's directory; created if needed")
    add("--port", type=int, default=0, help="0: any free port")
    add("--cert", help="the API's certificate (default: the daemon's)")
    add("--key", help="its key")
    add("--ca", help="the CA that the pki-resource returns (default: the daemon's)")
    add("--own-ca", action="store_true", help="create a CA and a certificate for the API alone")
    add("--users", metavar="FILE", help="JSON: {user: password}")
    add("--control", metavar="SOCKET", help="default: DIR/control")
    add("--log", metavar="FILE", help="default: DIR/engine.log")
    add(
        "--poll", type=float, default=0.05, help="seconds before the first poll of a command (real engine: 1)"
    )
    add("--poll-max", type=float, default=0.0, help="upper bound on the doubling delay (real engine: 10)")
    add(
        "--session-idle",
        type=float,
        default=1800,
        help="seconds without a request after which a session ends",
    )
    add(
        "--domain",
        action="append",
        metavar="NAME=TYPE[,detached][,maintenance]",
        help=f"default: {' '.join(DOMAINS)}",
    )
    add("--hardware-id", default="", help="hw_id of the only host")
    add("--disk", action="append", default=[], metavar="JSON", help="an existing disk, see control")
    add("--switch", action="append", default=[], metavar="JSON", help="a fault switch")
    add(
        "--level",
        default=Options.level,
        help="compatibility level of the cluster; below 4.7: no hybrid backup",
    )
    add("--engine-version", default=Options.engine_version)
    add("--inactivity-timeout", type=int, default=60, help="seconds, for a transfer that gives none")
    add("--inactivity-cap", type=int, default=0, help="upper bound on any inactivity timeout; 0: no bound")
    add("--ticket-validity", type=int, default=300, help="seconds a ticket lives without activity or renewal")
    add("--ticket-refresh", type=int, default=240, help="renew a ticket when fewer seconds are left")
    add("--unlock-delay", type=float, default=0.0, help="seconds between the disk's ok and its free lock")
    add("--keep-success", type=float, default=900, help="seconds a successful transfer stays visible")
    add("--keep-failure", type=float, default=1800, help="seconds a failed transfer stays visible")
    add("--nbd-shared", type=int, default=8, help="connections that a qemu-nbd accepts")
    add("--block-chunk", type=int, default=1 << 30, help="size of a thin block disk without initial_size")
    add("--block-extent", type=int, default=128 << 20, help="unit to which its size is rounded up")
    add("--proxy-url", default="same", help="same, none, dead, silent, HOST:PORT or an URL")
    add(
        "--no-download-autofinish",
        dest="download_autofinish",
        action="store_false",
        help="do not finalize a download whose every byte was read",
    )
    return parser.parse_args()


def build_world(arguments, directory):
    names = Options.__dataclass_fields__.keys() - {"dir"}
    options = Options(directory, **{name: getattr(arguments, name) for name in names})
    journal = Journal(arguments.log or os.path.join(directory, "engine.log"))
    switches = Switches(journal)
    users = USERS
    if arguments.users:
        with open(arguments.users, encoding="utf-8") as file:
            users = json.load(file)
    domains = [Domain.parse(text) for text in arguments.domain or DOMAINS]
    daemon = Daemon(os.path.abspath(arguments.imageio))
    world = World(
        options=options,
        journal=journal,
        switches=switches,
        daemon=daemon,
        endpoints=Endpoints(daemon),
        directory=Directory(domains, arguments.hardware_id),
        jobs=Jobs(),
        coordinator=Coordinator(arguments.poll, arguments.poll_max, journal),
        sso=Sso(users, arguments.session_idle, switches, journal),
    )
    world.disks = Disks(world)
    world.transfers = Transfers(world)
    world.attachments = Attachments(world)
    world.snapshots = Snapshots(world)
    world.vms = Vms(world)
    world.guest = Guest(world)
    world.events = Events(world)
    world.ovf = Ovf(world)
    world.imports = Imports(world)
    world.checkpoints = Checkpoints(world)
    world.backups = Backups(world)
    return world


def certificate_of(arguments, directory):
    """Returns the paths of the API's CA, certificate and key. The CA is a copy: a restarted daemon may have a
    new one.
    """
    if arguments.own_ca:
        return certificates.make(directory)
    daemon = os.path.abspath(arguments.imageio)
    ca = os.path.join(directory, "api-ca.pem")
    shutil.copyfile(arguments.ca or os.path.join(daemon, "ca.pem"), ca)
    cert = arguments.cert or os.path.join(daemon, "server.pem")
    return ca, cert, arguments.key or os.path.join(daemon, "server.key")


def main():
    arguments = parse_arguments()
    directory = os.path.abspath(arguments.dir)
    if len(directory) > MAX_DIR_LENGTH:
        raise SystemExit(f"{directory}: too long a path for unix sockets")
    os.makedirs(directory, exist_ok=True)
    ending = Ending()

    ca, cert, key = certificate_of(arguments, directory)
    world = build_world(arguments, directory)
    control = Control(arguments.control or os.path.join(directory, "control"), world)
    for order in arguments.switch:
        control.switch(json.loads(order))
    for spec in arguments.disk:
        world.disks.add_existing(json.loads(spec))
    server = Server(arguments.port, cert, key, world, Api(world, ca))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    url = f"https://127.0.0.1:{server.server_port}"
    ready = {
        "url": url,
        "port": server.server_port,
        "api": url + PREFIX,
        "cafile": ca,
        "control": control.path,
    }
    print(json.dumps({**ready, "log": world.journal.path, "dir": directory, "pid": os.getpid()}), flush=True)
    ending.wait()

    server.shutdown()
    server.server_close()
    control.stop()
    world.coordinator.stop()
    world.backups.stop()
    world.transfers.stop()
    world.endpoints.close()
    world.journal.event("stopped")
    world.journal.close()


if __name__ == "__main__":
    main()
