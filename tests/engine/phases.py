"""The phase machine: the step that the engine takes with a transfer at each poll (see coordinator).

    initializing -> transferring -> finalizing_success -> finished_success
    cancelled_user -> finalizing_cleanup -> finished_cleanup -> finished_failure
    cancelled_system -> finalizing_failure -> finished_failure
    paused_user, paused_system -> resuming -> transferring

A method is named after the phase that it handles. If an action has changed the phase meanwhile, the method's
own change is dropped, and the next poll goes on from the new phase. Once the outcome is decided
(`succeeded`), the next poll ends the transfer, whatever actions come: it frees the disk's lock and sets the
last phase.

While a transfer is transferring, its ticket is renewed and its idle time watched; in a pause, neither. A
resumed transfer keeps its ticket: a lost one is not replaced, and the next poll pauses the transfer again.

An upload that fails, for any reason, removes the disk, even one that existed before.
"""

import time

import images
from daemon import DaemonError
from exports import BitmapError
from session import Session, SessionError

ENDED = ("finished_success", "finished_failure")

# Seconds until the engine looks at a transfer whose ticket was lost at its start: longer than a test takes.
LONG = 60


class Machine:
    def __init__(self, world, transfers):
        self._world = world
        self._transfers = transfers

    def step(self, transfer):
        if transfer.succeeded is not None:
            return self._end(transfer)
        handler = getattr(self, f"_{transfer.phase}", None)
        if handler:
            handler(transfer)
        return False

    def start_session(self, transfer):
        transfer.session = Session(self._world, transfer)
        transfer.expires = time.monotonic() + self._world.options.ticket_validity
        if self._world.switches.take("ticket_lost", transfer.subject):
            self._world.daemon.remove(transfer.session.ticket)
            transfer.next_look = time.monotonic() + LONG
        self._transfers.set_phase(transfer, "transferring", expected="initializing")

    def end_with_failure(self, transfer):
        if transfer.direction == "upload":
            self._world.disks.remove(transfer.volume)
        else:
            self._world.disks.set_status(transfer.volume, "ok")
        self._finish(transfer, "finished_failure")

    # before and while data moves

    def _initializing(self, transfer):
        if time.monotonic() < transfer.start_at:
            return
        try:
            self.start_session(transfer)
        except BitmapError as error:
            self._world.journal.event("session_failed", transfer=transfer.id, reason=str(error))
            self._transfers.set_phase(transfer, error.phase, expected="initializing")
        except SessionError as error:
            self._world.journal.event("session_failed", transfer=transfer.id, reason=str(error))
            self._transfers.set_phase(transfer, "paused_system", expected="initializing")

    def _resuming(self, transfer):
        if time.monotonic() < transfer.next_look:
            return
        if transfer.session is None or self._world.switches.take("resume_fails", transfer.subject):
            self._transfers.set_phase(transfer, "paused_system", expected="resuming")
            return
        self._renew(transfer)
        self._transfers.set_phase(transfer, "transferring", expected="resuming")

    def _transferring(self, transfer):
        if time.monotonic() < transfer.next_look:
            return
        self._renew(transfer)
        try:
            ticket = transfer.session.show()
        except DaemonError as error:
            self._world.journal.event("ticket_lost", transfer=transfer.id, reason=str(error))
            self._stop_by_system(transfer)
            return
        was_active, transfer.active = transfer.active, ticket["active"]
        transfer.transferred = ticket.get("transferred") or 0
        if self._is_read_whole(transfer) and not was_active:
            self._transfers.set_phase(transfer, "finalizing_success", expected="transferring")
        if 0 < transfer.inactivity_timeout < ticket["idle_time"] and not transfer.active:
            self._time_out(transfer)

    def _is_read_whole(self, transfer):
        """Tells whether every byte of a download was read and no request runs: the engine then finalizes by
        itself.
        """
        watched = transfer.direction == "download" and self._world.options.download_autofinish
        return watched and transfer.transferred == transfer.size and not transfer.active

    def _renew(self, transfer):
        options, switches, now = self._world.options, self._world.switches, time.monotonic()
        if now < transfer.expires - options.ticket_refresh or switches.take(
            "extend_stopped", transfer.subject
        ):
            return
        try:
            if switches.take("extend_fails", transfer.subject):
                raise DaemonError("refused by a switch")
            transfer.session.extend()
            transfer.expires, transfer.renewals_failed = now + options.ticket_validity, 0
        except DaemonError as error:
            self._world.journal.event("ticket_not_extended", transfer=transfer.id, reason=str(error))
            transfer.renewals_failed += 1
            if transfer.renewals_failed > 1:
                transfer.renewals_failed = 0
                self._stop_by_system(transfer)

    def _time_out(self, transfer):
        self._world.journal.event("inactive", transfer=transfer.id, policy=transfer.policy)
        if transfer.policy == "legacy":
            self._stop_by_system(transfer)
        else:
            phase = "paused_system" if transfer.policy == "pause" else "cancelled_system"
            self._transfers.set_phase(transfer, phase, expected="transferring")

    def _stop_by_system(self, transfer):
        """Stops the transfer, regardless of its policy: an upload can be resumed, a download is lost."""
        phase = "paused_system" if transfer.direction == "upload" else "cancelled_system"
        self._transfers.set_phase(transfer, phase, expected="transferring")

    # finalizing

    def _finalizing_success(self, transfer):
        switches = self._world.switches
        if transfer.finalize_at is None:
            transfer.finalize_at = time.monotonic() + (switches.take("finalize_slow", transfer.subject) or 0)
        if time.monotonic() < transfer.finalize_at or not self._stop_session(transfer):
            return
        vanish = switches.take("finalize_vanish", transfer.subject)
        if vanish:
            self._vanish(transfer, vanish)
        elif switches.take("finalize_pause", transfer.subject):
            self._set_status(transfer, "illegal")
            self._transfers.set_phase(transfer, "paused_system", expected="finalizing_success")
            transfer.finalize_at = None
        elif self._is_trusted(transfer):
            self._set_status(transfer, "ok")
            transfer.release_at = time.monotonic() + self._world.options.unlock_delay
            transfer.succeeded = True
        else:
            self._set_status(transfer, "illegal")
            self._transfers.set_phase(transfer, "finalizing_failure", expected="finalizing_success")

    def _is_trusted(self, transfer):
        if self._world.switches.take("finalize_failure", transfer.subject):
            reason = "refused by a switch"
        elif transfer.direction == "download":
            reason = None
        else:
            below = transfer.volume.parent_of(transfer.volume)
            reason = images.problem(transfer.volume.path, transfer.volume.format, below and below.path)
        if reason:
            self._world.journal.event("verification_failed", transfer=transfer.id, reason=reason)
        return reason is None

    def _vanish(self, transfer, outcome):
        """Ends as an engine before 4.4.7 does: the entity goes first, so that only the disk shows the
        outcome.
        """
        if outcome == "removed":
            self._world.disks.remove(transfer.volume)
        else:
            self._set_status(transfer, outcome)
        self._transfers.forget(transfer)
        transfer.succeeded = outcome == "ok"

    # giving up

    def _cancelled_user(self, transfer):
        self._transfers.set_phase(transfer, "finalizing_cleanup", expected="cancelled_user")

    def _cancelled_system(self, transfer):
        self._transfers.set_phase(transfer, "finalizing_failure", expected="cancelled_system")

    def _finalizing_cleanup(self, transfer):
        if self._clean_up(transfer):
            self._transfers.set_phase(transfer, "finished_cleanup", expected="finalizing_cleanup")

    def _finished_cleanup(self, transfer):
        transfer.succeeded = False

    def _finalizing_failure(self, transfer):
        if self._clean_up(transfer):
            transfer.succeeded = False

    def _clean_up(self, transfer):
        if not self._stop_session(transfer):
            return False
        self._set_status(transfer, "illegal" if transfer.direction == "upload" else "ok")
        return True

    def _set_status(self, transfer, status):
        """Sets the disk's status, which a transfer of a backup leaves alone."""
        if not transfer.backup:
            self._world.disks.set_status(transfer.volume, status)

    # the end

    def _stop_session(self, transfer):
        if transfer.session is None:
            return True
        try:
            transfer.session.stop()
        except DaemonError as error:
            self._world.journal.event("ticket_not_removed", transfer=transfer.id, reason=str(error))
            return False
        transfer.session = None
        return True

    def _end(self, transfer):
        if time.monotonic() < transfer.release_at:
            return False
        if transfer.succeeded or self._transfers.is_gone(transfer):
            self._finish(transfer, "finished_success" if transfer.succeeded else "finished_failure")
        else:
            self.end_with_failure(transfer)
        return True

    def _finish(self, transfer, phase):
        with self._world.disks.lock:
            transfer.volume.holders.pop(transfer.id, None)
        if not transfer.backup:
            self._world.journal.event("lock_released", transfer=transfer.id, disk=transfer.disk_id)
        if self._world.options.drops_ended_transfers:
            self._transfers.forget(transfer)
        self._transfers.set_phase(transfer, phase)
        transfer.job.finish(phase == "finished_success")
