"""The wait for SIGTERM or SIGINT, which ends the stand-in.

Python runs a signal's handler in the main thread, between any two steps of what that thread is doing. A
handler that sets the Event which the main thread waits for therefore waits for itself for ever, if it comes
while the wait holds the Event's lock. So the handlers here do nothing. The interpreter writes the number of
each signal into a pipe, from whichever thread the kernel hands the signal to, and the main thread reads it.
"""

import os
import signal


class Ending:
    """Takes over the signals; it is made in the main thread, before there are others."""

    def __init__(self):
        self._reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)

    def wait(self):
        """Returns after a signal, also if it came before the call."""
        os.read(self._reader, 1)
