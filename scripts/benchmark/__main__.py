"""Runs the benchmark's tables and writes the results. See scripts/bench for its usage, and
docs/benchmark.md.
"""

import argparse
import json
import sys
from pathlib import Path

import memory
import report
import tables
from bench import Bench, Scale, remove
from measure import Failed, say
from storage import MIB, Daemon, workplace


def arguments():
    parser = argparse.ArgumentParser(
        prog="bench", description="compares rhv-mount with other ways to move an RHV disk"
    )
    parser.add_argument(
        "--quick", action="store_true", help="check that it runs: small image, one round, few rows"
    )
    parser.add_argument("--tables", default=",".join(tables.TABLES), help="some of: %(default)s")
    parser.add_argument("--rounds", type=int, help="runs of each row (5; --quick: 1)")
    parser.add_argument("--data", type=int, help="MiB of data in the image (1331; --quick: 64)")
    parser.add_argument("--disk", type=int, help="MiB of the image (4096; --quick: 256)")
    parser.add_argument(
        "--only", default="", help="only settings whose name contains this: 'unix socket, qcow2'"
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="directory for benchmark.md and benchmark.svg"
    )
    return parser.parse_args()


def main():
    args = arguments()
    scale = Scale(
        data=(args.data or (64 if args.quick else 1331)) * MIB,
        disk=(args.disk or (256 if args.quick else 4096)) * MIB,
        rounds=args.rounds or (1 if args.quick else 5),
        many=not args.quick,
    )
    wanted = args.tables.split(",")
    if unknown := set(wanted) - set(tables.TABLES):
        sys.exit(f"bench: no such table: {', '.join(unknown)}; there are {', '.join(tables.TABLES)}")
    images, ready = 5 * scale.data + (1 << 30), 2 * scale.data + (5 << 29)
    place = workplace(images)
    held = None
    bench = Bench(place, scale, Daemon, args.only)
    place.chmod(0o755)
    results = {}
    try:
        if scale.many and memory.available() > images + ready:
            held = memory.make_ready(ready)
        for name in wanted:
            say(f"table {name}")
            results[name] = tables.TABLES[name](bench)
            report.write(args.output, scale, results)
    except Failed as e:
        sys.exit(f"bench: {e}")
    finally:
        bench.close()
        remove(place)
        if held:
            held.close()
    raw = {
        name: [vars(row) | {"samples": [s.as_dict() for s in row.samples]} for row in rows]
        for name, rows in results.items()
    }
    (args.output / "benchmark.json").write_text(json.dumps(raw, indent=1))
    say(f"written: {args.output}/benchmark.md")


main()
