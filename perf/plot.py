"""Draws ratios as an SVG; needs no package."""

import math
from xml.sax.saxutils import escape

COLOURS = ("#2b6cb0", "#a0aec0")
LABELS, PANEL, GAP, BAR, ROW_GAP, TOP = 310, 350, 50, 14, 12, 110


def text(x, y, words, size=12, more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" {more}>{escape(words)}</text>'


def line(x1, y1, x2, y2, colour, width=1):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def ticks(low, high):
    """Round ratios from low to high, 1 among them."""
    steps = [factor * 10.0**power for power in range(-3, 4) for factor in (1, 2, 5)]
    first = max((s for s in steps if s <= low), default=steps[0])
    last = min((s for s in steps if s >= high), default=steps[-1])
    return [s for s in steps if first <= s <= last]


class Panel:
    """Bars from the ratio 1, on a logarithmic axis: twice and half are equally far from it."""

    def __init__(self, left, title, rows):
        everything = [value for row in rows for ratio in row.values() for value in (ratio["min"], ratio["max"])] + [0.8, 1.25]
        self.left, self.title, self.ticks = left, title, ticks(min(everything), max(everything))

    def x(self, value):
        low, high = math.log(self.ticks[0]), math.log(self.ticks[-1])
        return self.left + PANEL * (math.log(value) - low) / (high - low)

    def frame(self, bottom):
        yield text(self.left, TOP - 32, self.title, 13, 'font-weight="bold"')
        for tick in self.ticks:
            yield line(self.x(tick), TOP - 6, self.x(tick), bottom, "#4a5568" if tick == 1 else "#e2e8f0")
            yield text(self.x(tick), TOP - 12, f"{tick:g}", 11, 'text-anchor="middle" fill="#4a5568"')

    def bar(self, y, ratio, colour):
        one, end, middle = self.x(1), self.x(ratio["median"]), y + BAR / 2
        yield (f'<rect x="{min(one, end):.1f}" y="{y:.1f}" width="{max(1.0, abs(end - one)):.1f}" height="{BAR - 2}" fill="{colour}">'
               f'<title>{ratio["median"]:.2f} ({ratio["min"]:.2f}–{ratio["max"]:.2f})</title></rect>')
        yield line(self.x(ratio["min"]), middle - 1, self.x(ratio["max"]), middle - 1, "#1a202c", 1.5)
        right = max(one, self.x(ratio["max"])) + 5
        yield text(right, y + BAR - 4, f"{ratio['median']:.2f}", 11, 'fill="#1a202c" stroke="white" stroke-width="3" paint-order="stroke"')


def ratio_plot(title, subtitle, panel_titles, rows):
    """`rows` are (title, {against: ratio} for each panel); a ratio has min, median and max."""
    names = list(dict.fromkeys(name for _, *panels in rows for panel in panels for name in panel))
    panels = [Panel(LABELS + at * (PANEL + GAP), panel_title, [row[1 + at] for row in rows]) for at, panel_title in enumerate(panel_titles)]
    bottom = TOP + sum(BAR * len(row[1]) + ROW_GAP for row in rows)
    width = LABELS + len(panels) * (PANEL + GAP)
    parts = [text(16, 28, title, 18, 'font-weight="bold"'), text(16, 48, subtitle, 12, 'fill="#4a5568"')]
    for at, name in enumerate(names):
        parts.append(f'<rect x="{16 + 110 * at}" y="{TOP - 40}" width="12" height="12" fill="{COLOURS[at]}"/>')
        parts.append(text(33 + 110 * at, TOP - 30, "/ " + name))
    for panel in panels:
        parts += panel.frame(bottom)
    y = TOP + ROW_GAP / 2
    for row_title, *ratios in rows:
        height = BAR * len(ratios[0])
        parts.append(text(LABELS - 12, y + height / 2 + 3, row_title, 12, 'text-anchor="end"'))
        for panel, bars in zip(panels, ratios):
            for at, (name, ratio) in enumerate(bars.items()):
                parts += panel.bar(y + at * BAR, ratio, COLOURS[names.index(name)])
        y += height + ROW_GAP
    body = "\n".join(parts)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + 16}" width="{width}" height="{bottom + 16}" '
            f'font-family="system-ui, sans-serif">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n')
