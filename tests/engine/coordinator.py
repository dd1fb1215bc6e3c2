"""Commands that go on in steps after their request was answered.

The engine polls each running command, first after `poll` seconds, then with a delay that doubles up to
`poll_max`. Each poll may take the command one step further. Nothing wakes a command early: a user's action
takes effect at the next poll. Each command has its own thread, so that one that waits for storage delays no
other.
"""

import threading
import traceback


class Coordinator:
    def __init__(self, poll, poll_max, journal):
        self._poll = poll
        self._poll_max = max(poll, poll_max)
        self._journal = journal
        self._stopping = threading.Event()
        self._threads = []

    def run(self, name, step):
        """Calls `step` until it returns True."""
        thread = threading.Thread(target=self._loop, args=(name, step), name=name, daemon=True)
        self._threads = [one for one in self._threads if one.is_alive()] + [thread]
        thread.start()

    def stop(self):
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout=15)

    def _loop(self, name, step):
        delay = self._poll
        while not self._stopping.wait(delay):
            try:
                if step():
                    return
            except Exception:
                self._journal.event("error", command=name, traceback=traceback.format_exc())
            delay = min(delay * 2, self._poll_max)
