"""A signal ends the stand-in, whatever its main thread is doing just then."""

import os
import subprocess
import sys
import time
import unittest

ENGINE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Raises SIGTERM in itself before the given line that the wait runs, or from another thread after a while, if
# there are not as many lines.
PROGRAM = """
import os, signal, sys, threading, time
sys.path.insert(0, sys.argv[1])
from ending import Ending

left = int(sys.argv[2])

def trace(frame, event, argument):
    global left
    left -= event == "line"
    if event == "line" and left == 0:
        sys.settrace(None)
        signal.raise_signal(signal.SIGTERM)
    return trace

def raise_later():
    time.sleep(0.3)
    if left > 0:
        os.kill(os.getpid(), signal.SIGTERM)

ending = Ending()
threading.Thread(target=raise_later, daemon=True).start()
sys.settrace(trace)
ending.wait()
"""
LINES = 20


class AnySignal(unittest.TestCase):
    def test_ends_the_wait_before_whichever_line_it_comes(self):
        command = [sys.executable, "-B", "-c", PROGRAM, ENGINE]
        running = [subprocess.Popen([*command, str(line)]) for line in range(1, LINES)]
        locked, deadline = [], time.monotonic() + 60
        for line, one in enumerate(running, 1):
            try:
                status = one.wait(timeout=max(0, deadline - time.monotonic()))
                self.assertEqual(status, 0, f"line {line}")
            except subprocess.TimeoutExpired:
                locked.append(line)
                one.kill()
                one.wait()
        self.assertEqual(locked, [])
