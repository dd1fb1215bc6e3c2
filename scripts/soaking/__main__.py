"""Runs a soak: one mount, its load and its faults, and the verdict. See the head of scripts/soak."""

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmark"))

from gauges import Gauges, figures
from load import SIZE, Load
from measure import Failed, run
from service import Service
from storage import MIB, Source, workplace


def arguments():
    parser = argparse.ArgumentParser(prog="soak", description="a mixed load with faults on a real mount")
    parser.add_argument("minutes", nargs="?", type=float, default=60, metavar="MINUTES")
    parser.add_argument("--seed", type=int, help="seed of the load and the faults")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--calm", action="store_true", help="run the load without faults, for comparison")
    parser.add_argument("--program", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--proxy", type=Path, required=True, help=argparse.SUPPRESS)
    return parser.parse_args()


def say(*words):
    print("soak:", *words, flush=True)


def settles(pid, wanted, seconds=60):
    """Returns threads and descriptors once they are down to `wanted`, or after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        seen = figures(pid)[1:]
        if all(one <= other for one, other in zip(seen, wanted)) or time.monotonic() > end:
            return seen
        time.sleep(0.5)


def soak(args, place, service):
    """Runs the soak; returns a message for each failure."""
    seed = args.seed if args.seed is not None else random.randrange(1 << 30)
    # Copies keep another build from changing the programs that run here.
    shutil.copy2(args.program, service.program)
    shutil.copy2(args.proxy, service.proxy_program)
    image = Source(place / "image.raw", SIZE, 384 * MIB)
    service.start(image, seed, args.calm)
    say(f"seed {seed}, {args.minutes:g} minutes, disk of {SIZE >> 20} MiB, pid {service.pid}, in {place}")
    load = Load(place, service.file, image.path, seed)
    shutil.copyfile(image.path, load.expected)
    # A whole round makes the mount start every thread and connection that it will ever need.
    load.whole()
    time.sleep(1)
    before = figures(service.pid)[1:]
    gauges = Gauges(service, load)
    try:
        if not args.calm:
            service.restart_now_and_then(random.Random(seed), load.fail)
        gauges.start()
        load.run(time.monotonic() + 60 * args.minutes)
        gauges.stop()
        load.check()
    except Failed as e:
        # Operations may hang in the mount until it is killed, so its end proves nothing.
        table(gauges, [*load.rows(), ("daemon restarts", service.restarts.value)])
        keep_log(place)
        return [str(e)]
    finally:
        load.end()
        service.stop_restarts()
    wrong = gauges.wrong()
    after = settles(service.pid, before)
    if any(one > other for one, other in zip(after, before)):
        wrong.append(f"threads and descriptors: {before} before, {after} after")
    code, words = service.umount()
    if code:
        wrong.append(f"umount: exit code {code}: {words.strip()}")
    proxy = service.end_proxy()
    service.disk.stop()
    try:
        run(["qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", load.expected, service.disk.image])
    except Failed as e:
        wrong.append(f"the image on the server's side differs from the written one: {e}")
    rows = [("threads and descriptors before, after", f"{before}, {after}")]
    rows += [("umount, exit code", code), *load.rows()]
    rows += [(f"proxy: {name.replace('_', ' ')}", n) for name, n in proxy.items()]
    table(gauges, [*rows, ("daemon restarts", service.restarts.value)])
    if wrong:
        keep_log(place)
    return wrong


def table(gauges, rows):
    print()
    for name, value in [*gauges.table(), *rows]:
        print(f"| {name} | {value} |")
    print(flush=True)


def keep_log(place):
    keep = Path(tempfile.gettempdir()) / f"{place.name}.log"
    shutil.copyfile(place / "log", keep)
    say(f"the mount's log is kept in {keep}")


def interrupted(number, _frame):
    raise SystemExit(128 + number)


def main():
    args = arguments()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    place = workplace(6 * SIZE)
    place.chmod(0o755)
    service = Service(place, SIZE, args.connections)
    try:
        wrong = soak(args, place, service)
    except (Failed, OSError, subprocess.SubprocessError) as e:
        wrong = [str(e)]
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if service.close():
            shutil.rmtree(place)
        else:
            say(f"something could not be ended or unmounted; see {place}")
    for words in wrong:
        say("WRONG:", words)
    say("failed" if wrong else "all is well: every byte is right, nothing grew, nothing is left")
    sys.exit(1 if wrong else 0)


main()
