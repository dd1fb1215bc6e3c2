"""Draws the text of a terminal as SVG.

Reads lines from stdin and writes the picture to stdout. A line that begins with `$ ` is what somebody typed,
and so is one that follows a typed line with a backslash at its end; all others are what was printed.
"""

import sys
from html import escape

FONT = 14  # height of a letter, in pixels
LINE = 20  # distance between lines, in pixels
ADVANCE = 8.43  # width of a letter of a monospaced font, 0.602 of its height, in pixels
EDGE = 16  # from the frame to the text, in pixels
BAR = 28  # height of the title bar, in pixels

TYPED, PRINTED, PROMPT = "#f5f5f5", "#b9c2cc", "#7ec699"
LIGHTS = ("#ff5f57", "#febc2e", "#28c840")


def rows(lines):
    """Yields each line with its colour, and whether it begins with a prompt."""
    typed = False
    for line in lines:
        begins = line.startswith("$ ")
        typed = begins or (typed and continued)
        continued = line.endswith("\\")
        yield line, TYPED if typed else PRINTED, begins


def text(x, y, colour, words):
    return f'<text x="{x:.1f}" y="{y}" fill="{colour}" xml:space="preserve">{escape(words)}</text>'


def picture(lines):
    width = round(2 * EDGE + ADVANCE * max(map(len, lines)))
    height = BAR + 2 * EDGE + LINE * len(lines)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="ui-monospace, Menlo, Consolas, monospace" '
        f'font-size="{FONT}">',
        f'<rect width="{width}" height="{height}" rx="8" fill="#1b1f24"/>',
    ]
    for n, colour in enumerate(LIGHTS):
        parts.append(f'<circle cx="{EDGE + 4 + 18 * n}" cy="{BAR // 2 + 2}" r="5" fill="{colour}"/>')
    for n, (line, colour, begins) in enumerate(rows(lines)):
        y = BAR + EDGE + LINE * n + FONT
        if begins:
            parts.append(text(EDGE, y, PROMPT, "$"))
            parts.append(text(EDGE + 2 * ADVANCE, y, colour, line[2:]))
        elif line:
            parts.append(text(EDGE, y, colour, line))
    return "\n".join([*parts, "</svg>"])


print(picture([line.rstrip().expandtabs() for line in sys.stdin]))
