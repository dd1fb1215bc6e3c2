"""Draws the chart of the table `growth`: time and memory over the number of extents, as an SVG."""

import math
from html import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, GAP = 860, 260, 70, 190, 40, 60
MIB = 1 << 20
TIMES = {"first_byte": ("first byte", "#1a6fb5"), "holes": ("holes known", "#6aa84f")}
TIMES["server"] = ("server alone", "#c8792b")


def chart(rows):
    """Returns an SVG of two panels with a logarithmic axis of extents, or None for fewer than two rows."""
    rows = [row for row in rows if row.fragments]
    if len(rows) < 2:
        return None
    xs = [math.log10(row.fragments) for row in rows]
    times = {key: [row.median(key) for row in rows] for key in TIMES}
    low = math.floor(math.log10(min(map(min, times.values()))))
    high = math.ceil(math.log10(max(map(max, times.values()))))
    panel = Panel(TOP, "Time, s", xs, low, max(high, low + 1))
    for decade in range(panel.low, panel.high + 1):
        panel.grid(decade, f"{10.0**decade:g}")
    for key, values in times.items():
        name, colour = TIMES[key]
        panel.curve([math.log10(value) for value in values], name, colour)
    parts = panel.parts

    memory = [row.rss() / MIB for row in rows]
    step = 10 ** math.floor(math.log10(max(memory)))
    panel = Panel(TOP + HEIGHT + GAP, "Memory of rhv-mount, MiB", xs, 0, math.ceil(max(memory) / step) * step)
    for value in range(0, panel.high + 1, step):
        panel.grid(value, str(value))
    panel.curve(memory, "peak", TIMES["first_byte"][1])
    parts += panel.parts

    bottom = TOP + 2 * HEIGHT + GAP
    for x, row in zip(xs, rows, strict=True):
        parts.append(text(panel.x(x), bottom + 18, f"{row.fragments:,}", "middle"))
    parts.append(text(LEFT, bottom + 38, "extents of data", "start"))
    height = bottom + 50
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="11">'
        '<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


class Panel:
    """Axes for values between `low` and `high` over the `xs`, with the parts of the SVG drawn so far."""

    def __init__(self, top, title, xs, low, high):
        self.top, self.xs, self.low, self.high = top, xs, low, high
        self.labels = []
        self.parts = [text(10, top - 14, title, "start", "bold")]

    def x(self, value):
        return LEFT + (value - self.xs[0]) / (self.xs[-1] - self.xs[0]) * (WIDTH - LEFT - RIGHT)

    def y(self, value):
        return self.top + HEIGHT - (value - self.low) / (self.high - self.low) * HEIGHT

    def grid(self, value, label):
        y = self.y(value)
        ends = f'x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"'
        self.parts.append(f'<line {ends} stroke="#ddd" stroke-width="1"/>')
        self.parts.append(text(LEFT - 8, y + 4, label, "end"))

    def curve(self, values, name, colour):
        points = [(self.x(x), self.y(value)) for x, value in zip(self.xs, values, strict=True)]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y in points:
            self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
        # Names of curves that end close together move apart.
        y = points[-1][1] + 4
        while any(abs(y - other) < 13 for other in self.labels):
            y += 1
        self.labels.append(y)
        self.parts.append(text(WIDTH - RIGHT + 10, y, name, "start", "normal", colour))


def text(x, y, words, anchor, weight="normal", colour="#222"):
    style = f'font-weight="{weight}" text-anchor="{anchor}" fill="{colour}"'
    return f'<text x="{x:.0f}" y="{y:.0f}" {style}>{escape(words)}</text>'
