"""Tests the stand-in itself: python3 selftest.py PROJECT [UNITTEST-ARGUMENTS]

PROJECT is the tree whose scripts/imageio starts a daemon (in a temporary directory) and whose environment
contains ovirt-imageio. The arguments select tests, such as test_api or test_switches.Runs; without them all
tests run.
"""

import os
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(HERE, "selftest"))

import rig  # noqa: E402

if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    rig.start(os.path.abspath(sys.argv[1]), HERE)
    try:
        names = sys.argv[2:] or ["discover", "-s", os.path.join(HERE, "selftest")]
        done = unittest.main(module=None, argv=[sys.argv[0], *names], verbosity=2, exit=False)
    finally:
        rig.stop()
    sys.exit(not done.result.wasSuccessful())
