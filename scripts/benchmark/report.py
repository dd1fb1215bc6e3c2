"""Writes the results as Markdown tables, and the chart of upload and download."""

import datetime
import inspect
import os
import platform
import subprocess
from html import escape

import curve
import tables
from bench import Row

MIB, GIB = 1 << 20, 1 << 30
HEAD = """# Benchmark

Results of `scripts/bench`{where}.
Every row moved real bytes to or from a real ovirt-imageio daemon on the same machine, and the bytes were
compared on the other side after each run; the rows of one setting took turns.

- The image has {disk} MiB, of which {data} MiB are random data and the rest holes. There were {rounds} rounds
  (at most 2 in the tables of connections, of small requests, and in the last three), and 4 connections unless
  a row says otherwise. Rates are MiB of *data* per second, the median of the rounds; the spread is the
  slowest and the fastest round.
- The clock of rhv-mount runs from its start to the end of its unmount, with the tool and the final flush;
  that of ovirt_imageio's client (which `ovirt-img` runs) excludes the start of Python.
- *ratio* is relative to the first row of the setting. *CPU* is the client side's processor seconds per GiB
  of data (rhv-mount and the tool; the client and its qemu-nbd). *memory* is the peak resident size of the
  process that holds the connections.
- *bare loop* reads the image and moves its data extents in requests as large as rhv-mount's, with nothing in
  between (examples/ceiling.rs). With *{copies} copies*, threads beside it copy as many bytes that many times
  from memory to memory, which takes about as much processor time as rhv-mount and `qemu-img` do: it shows the
  cost of that time alone.

Daemon, storage, tool and client share the processors, so a client that needs less of them leaves more to the
server.
"""


def write(directory, scale, results):
    directory.mkdir(parents=True, exist_ok=True)
    text = [head(scale)]
    if {"upload", "download"} & set(results):
        text.append("![rates of upload and download](benchmark.svg)\n")
        (directory / "benchmark.svg").write_text(chart(results))
    for name, rows in results.items():
        text.append(table(tables.TABLES[name].__doc__, rows))
        if name == "growth" and (drawn := curve.chart(rows)):
            text.append("![time and memory over the number of extents](growth.svg)\n")
            (directory / "growth.svg").write_text(drawn)
    (directory / "benchmark.md").write_text("\n".join(text))


def head(scale):
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    day = datetime.date.today().isoformat()
    machine = f"{os.cpu_count()} processors, {memory:.0f} GiB, Linux {platform.release()}"
    return HEAD.format(
        where=f" on {day}: {machine}, {version('qemu-img --version')}",
        disk=scale.disk // MIB,
        data=scale.data // MIB,
        rounds=scale.rounds,
        copies=tables.COPIES,
    )


def version(command):
    return subprocess.run(command.split(), capture_output=True, text=True).stdout.split(" (")[0].strip()


def table(doc, rows):
    """Returns a table with the first line of `doc` as its title, and the rest as the text below."""
    title, _, note = inspect.cleandoc(doc).partition("\n\n")
    lines = [f"## {title}\n"]
    if note:
        lines.append(f"{note}\n")
    if rows and not isinstance(rows[0], Row):
        return "\n".join([*lines, *plain(rows)]) + "\n"
    more = list(rows[0].more()) if rows else []
    titles = ["rate", "spread", "ratio", "CPU s/GiB", "memory", *more]
    lines += [f"| setting | contender | {' | '.join(titles)} |", "|---|---" + "|--:" * len(titles) + "|"]
    base, last = None, None
    for row in rows:
        if row.baseline:
            base = row.rate()
        low, high = row.spread()
        unit = "/s" if row.operations else " MiB/s"
        cpu = "" if row.operations or not row.bytes else f"{row.cpu() * GIB / row.bytes:.2f}"
        memory = f"{row.rss() / MIB:.0f} MiB" if row.rss() else ""
        setting = "" if row.setting == last else row.setting
        last = row.setting
        lines.append(
            f"| {setting} | {row.contender} | {row.rate():.0f}{unit} | {low:.0f}-{high:.0f} "
            f"| {' | '.join([f'{row.rate() / base:.2f}', cpu, memory, *row.more().values()])} |"
        )
    return "\n".join(lines) + "\n"


def plain(rows):
    """Returns the lines of a table whose rows are not rates, and bring their own columns."""
    titles = list(rows[0].cells())
    lines = [f"| {' | '.join(titles)} |", "|---" + "|--:" * (len(titles) - 1) + "|"]
    return lines + [f"| {' | '.join(row.cells().values())} |" for row in rows]


BAR, GAP, LEFT, WIDTH = 15, 14, 250, 860
COLOURS = {"rhv-mount": "#1a6fb5", "ovirt_imageio": "#c8792b", "bare": "#bbbbbb", "nbd": "#8a6db0"}


def chart(results):
    """Returns an SVG of horizontal bars: a group for each setting, a bar for each contender."""
    parts, y = [], 30
    most = max(row.rate() for name in ("upload", "download") for row in results.get(name, []))
    scale = (WIDTH - LEFT - 90) / most
    for name in ("upload", "download"):
        if name not in results:
            continue
        parts.append(text(10, y, name.capitalize() + ", MiB/s", "bold"))
        y += 10
        last = None
        for row in results[name]:
            if row.setting != last:
                last = row.setting
                y += GAP
                parts.append(text(10, y + 4, row.setting, "normal"))
                y += 10
            colour = next(c for key, c in COLOURS.items() if row.contender.startswith(key))
            length = row.rate() * scale
            low, high = (value * scale for value in row.spread())
            parts.append(text(LEFT - 6, y + 11, row.contender, "normal", "end"))
            size = f'width="{length:.1f}" height="{BAR - 3}"'
            parts.append(f'<rect x="{LEFT}" y="{y}" {size} fill="{colour}"/>')
            middle = y + (BAR - 3) / 2
            ends = f'x1="{LEFT + low:.1f}" x2="{LEFT + high:.1f}" y1="{middle}" y2="{middle}"'
            parts.append(f'<line {ends} stroke="#222" stroke-width="1"/>')
            parts.append(text(LEFT + max(length, high) + 6, y + 11, f"{row.rate():.0f}", "normal"))
            y += BAR
        y += 3 * GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}" '
        f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def text(x, y, words, weight, anchor="start"):
    style = f'font-weight="{weight}" text-anchor="{anchor}" fill="#222"'
    return f'<text x="{x:.0f}" y="{y:.0f}" {style}>{escape(words)}</text>'
