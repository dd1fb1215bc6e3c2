"""Commands that go on after their request was answered, in steps.

The engine looks at each running command again and again, first after `poll` seconds, then with a delay that doubles up
to `poll_max`, and every look may take the command one step further. Nothing wakes a command early: an action that a
user asks for is seen at the next look. Each command has a thread of its own, so that one that waits for storage holds
up no other.
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
