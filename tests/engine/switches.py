"""Fault switches: the faults that the stand-in commits on purpose, when, and how often.

A switch has a name, a value, and three limits:

    times   number of times it takes effect; unlimited if absent
    after   number of occasions that pass unharmed first
    match   a regular expression that must be found in the subject

The subject describes the occasion: "METHOD /path?query" for a request, "TRANSFER-ID DISK-ID DISK-NAME" for a
transfer, "DISK-ID DISK-NAME" for a disk. A switch may have several settings at a time; the oldest that fits
takes effect. Setting a switch to null or false without `match` clears all of its settings.

The code at the one place of a fault calls `take`, which counts. The switches of `ACTS` have no state: each
acts once, at the moment it is set (see control).
"""

import re
import threading
from dataclasses import dataclass

# switch -> its value if an order gives none
DEFAULTS = {
    # requests
    "slow": 1.0,
    "answer_slow": 1.0,
    "cut_before": True,
    "cut_after": True,
    "unavailable": 503,
    "html_error": 500,
    "front_end": {"status": 404},
    "garbage": True,
    "huge": 64 << 20,
    "redirect": "https://127.0.0.1:1",
    "fault": {"status": 409, "detail": "[Cannot do that: related operation is currently in progress.]"},
    # sessions
    "login_refused": "access_denied",
    "sso_oauth_shape": True,
    "token_expired": True,
    "token_requests": 1,
    # disks
    "disk_illegal": True,
    "disk_slow": 1.0,
    # transfers
    "transfer_locked": True,
    "transfer_unlisted": True,
    "transfer_fault": "refused",
    "stay_initializing": "forever",
    "paused_before_data": True,
    "ticket_lost": True,
    "unknown_phase": "warming_up",
    "resume_fails": True,
    "resume_slow": 1.0,
    "extend_stopped": True,
    "extend_fails": True,
    "url_missing": "transfer_url",
    "url_host": "dead",
    "finalize_slow": 1.0,
    "finalize_pause": True,
    "finalize_failure": True,
    "finalize_vanish": "ok",
}

# the same, of backups
OF_BACKUPS = {
    "backup_stuck": "forever",
    "backup_fails": True,
    "backup_vanishes": "failed",
    "redefine_fails": True,
    "freeze_fails": True,
    "scratch_fails": True,
    "disk_dropped": True,
    "finalize_conflict": True,
    "finalize_lag": 1.0,
    "merge_slow": 1.0,
    "snapshot_left": True,
    "checkpoint_stays": True,
    "bitmap_missing": "cancelled_system",
    "dirty_missing": True,
    "extents_without_zero": True,
    "attach_fails": True,
}

ACTS_ON_BACKUPS = ("engine_restart",)
ACTS = ("pause_now", "cancel_now", "ticket_remove", "ticket_expire", "expire_sessions")


class UnknownSwitch(ValueError):
    pass


@dataclass
class Setting:
    value: object
    times: int | None
    after: int
    match: str | None

    def fits(self, subject):
        return self.match is None or re.search(self.match, subject) is not None


class Switches:
    def __init__(self, journal):
        self._journal = journal
        self._settings = {}
        self._lock = threading.Lock()

    def set(self, name, value=True, times=None, after=0, match=None):
        if name not in DEFAULTS and name not in OF_BACKUPS:
            of_backups = ", ".join([*OF_BACKUPS, *ACTS_ON_BACKUPS])
            others = ", ".join([*DEFAULTS, *ACTS])
            raise UnknownSwitch(f"no switch {name!r}; of backups: {of_backups}; else there are: {others}")
        with self._lock:
            if value in (None, False) and match is None:
                self._settings.pop(name, None)
            elif value in (None, False):
                kept = [setting for setting in self._settings.get(name, []) if setting.match != match]
                self._settings[name] = kept
            else:
                value = {**DEFAULTS, **OF_BACKUPS}[name] if value is True else value
                self._settings.setdefault(name, []).append(Setting(value, times, after, match))
        self._journal.event("switch", switch=name, value=value, times=times, after=after, match=match)

    def clear(self):
        with self._lock:
            self._settings.clear()
        self._journal.event("switches_cleared")

    def take(self, name, subject="", only_matched=False):
        """Returns the switch's value if it takes effect now, and uses up one of its times; else returns
        None.
        """
        with self._lock:
            for setting in self._settings.get(name, []):
                if not setting.fits(subject) or (only_matched and setting.match is None):
                    continue
                if setting.after > 0:
                    setting.after -= 1
                    continue
                if setting.times is None:
                    return setting.value
                if setting.times > 0:
                    setting.times -= 1
                    return setting.value
        return None

    def dump(self):
        with self._lock:
            return {
                name: [vars(setting).copy() for setting in settings if setting.times != 0]
                for name, settings in self._settings.items()
            }
