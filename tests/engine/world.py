"""The references between the parts of the stand-in, and the options that they read."""

from dataclasses import dataclass, field


@dataclass
class Options:
    dir: str
    engine_version: str = "4.5.5-1.el8"
    inactivity_timeout: int = 60
    inactivity_cap: int = 0
    ticket_validity: int = 300
    ticket_refresh: int = 240
    unlock_delay: float = 0.0
    keep_success: float = 900.0
    keep_failure: float = 1800.0
    nbd_shared: int = 8
    block_chunk: int = 1 << 30
    block_extent: int = 128 << 20
    proxy_url: str = "same"
    download_autofinish: bool = True
    level: str = "4.7"

    @property
    def version(self):
        """[major, minor, build, revision]"""
        head, _, tail = self.engine_version.partition("-")
        numbers = [int(number) for number in head.split(".")]
        return [*(numbers + [0, 0, 0])[:3], int(tail.partition(".")[0] or 0)]

    @property
    def disks_list_snapshots(self):
        """Tells whether a disk lists its own snapshots, and not only its storage domain, as from 4.4.4 on."""
        return self.version[:3] >= [4, 4, 4]

    @property
    def cuts_transfers(self):
        """Tells whether finalize of a backup ends its transfers, and is not refused, as before 4.5.1."""
        return self.version[:3] < [4, 5, 1]

    @property
    def drops_ended_transfers(self):
        """Tells whether a transfer is gone as soon as it has ended, as before 4.4.7."""
        return self.version[:3] < [4, 4, 7]


@dataclass
class World:
    options: Options
    journal: object
    switches: object
    daemon: object
    endpoints: object
    directory: object
    jobs: object
    coordinator: object
    sso: object
    disks: object = field(default=None)
    transfers: object = field(default=None)
    vms: object = field(default=None)
    attachments: object = field(default=None)
    snapshots: object = field(default=None)
    backups: object = field(default=None)
    checkpoints: object = field(default=None)
    ovf: object = field(default=None)
    guest: object = field(default=None)
    events: object = field(default=None)
    imports: object = field(default=None)
    tickets: list = field(default_factory=list)  # every ticket that was ever given out
