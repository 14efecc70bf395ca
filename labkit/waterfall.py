"""Draws what came when: one row per stream, one bar for what it did, several panels over one axis of time.

    figure = Figure("One lost packet", "six streams", (Panel("HTTP/2 over TCP", rows), Panel("HTTP/3 over QUIC", rows)))
    svg(figure)     text, for a page
    png(figure)     the same shapes as pixels, for those who want to look at once

With more than 30 rows there is no room for words beside each.

Waiting is pale and thin, what arrives is a full blue bar, a stall is orange with a dark edge, and what is late is so,
too, at half the height: they differ in brightness and in shape, so that nobody has to tell colours apart. A lost packet
is a cross, and has a dashed line through all rows if nobody can say whose it was.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

Span = tuple[float, float]  # from, to: milliseconds


@dataclass(frozen=True)
class Row:
    """What one stream did; all times in ms on the figure's axis."""

    label: str
    waiting: tuple[Span, ...] = ()  # asked, and nothing has come yet
    receiving: tuple[Span, ...] = ()
    stalls: tuple[Span, ...] = ()  # more should have come by then
    late: tuple[Span, ...] = ()  # something was lost, or lay behind what was: until it could be read
    lost: tuple[float, ...] = ()  # when a packet of this stream was lost
    note: str = ""  # at the end of the row


@dataclass(frozen=True)
class Panel:
    """Rows that belong together: one protocol, one run."""

    title: str
    rows: tuple[Row, ...]
    lost: tuple[float, ...] = ()  # when a packet was lost that is everybody's, or nobody knows whose


@dataclass(frozen=True)
class Figure:
    title: str
    subtitle: str
    panels: tuple[Panel, ...]


def row(label: str, asked: float, arrivals: Sequence[float], usual: float, note: str = "") -> Row:
    """The row of a stream from the times at which something came of it.

    asked    when its request left
    usual    ms from one byte to the next. A gap of more than twice that is a stall, from when the next byte was due
    """
    if not arrivals:
        return Row(label, waiting=((asked, asked),), note=note)
    receiving, stalls = [], []
    start = last = arrivals[0]
    for time in arrivals[1:]:
        if time - last > 2 * usual:
            receiving.append((start, last + usual))
            stalls.append((last + usual, time))
            start = time
        last = time
    receiving.append((start, last))
    return Row(label, ((asked, arrivals[0]),), tuple(receiving), tuple(stalls), note=note)


# -- Shapes: all that both kinds of picture have to know ------------------------------------------------


class Box(NamedTuple):
    x: float
    y: float
    width: float
    height: float
    fill: str
    edge: str = ""


class Line(NamedTuple):
    x1: float
    y1: float
    x2: float
    y2: float
    colour: str
    width: float = 1
    dashed: bool = False


class Text(NamedTuple):
    x: float
    y: float  # of the line that letters stand on
    words: str
    size: float = 13
    colour: str = "#333333"
    anchor: str = "start"  # or middle, or end: which part of it is at x
    bold: bool = False


Shape = Box | Line | Text

WIDTH, MARGIN = 960, 28
ROW, BAR, THIN = 20, 12, 3  # heights of a row, of a bar in it, of one that waits
DENSE, MANY = 9, 30  # the height of a row without words, where there are more than so many
LEAST = 1.5  # how wide a bar is at least
INK, GREY, PALE, GRID, PAPER = "#222222", "#666666", "#a8a8a8", "#e6e6e6", "#ffffff"
# Okabe and Ito's blue and orange: they stay apart in all common kinds of colour blindness, and on a grey printer.
BLUE, ORANGE, EDGE = "#0072b2", "#e69f00", "#8a5a00"


def wide(words: str, size: float) -> float:
    """Room enough for these words in any font that may be used."""
    return 0.58 * size * len(words)


def steps(end: float) -> list[float]:
    """Round numbers from 0 to the first that is not below *end*, five to ten of them."""
    rough = (end or 1) / 8
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    return [i * step for i in range(math.ceil(end / step - 1e-9) + 1)]


def shapes(figure: Figure) -> tuple[float, list[Shape]]:
    """The height of the picture, and what is in it, the undermost first."""
    rows = [one for panel in figure.panels for one in panel.rows]
    pitch, bar, said = (DENSE, 6, []) if len(rows) > MANY else (ROW, BAR, rows)
    left = MARGIN + max((wide(one.label, 13) for one in said), default=0) + 12
    right = WIDTH - MARGIN - max((wide(one.note, 13) for one in said), default=24) - 12
    ticks = steps(max((time for panel in figure.panels for time in times(panel)), default=1))

    def x(time: float) -> float:
        return left + (right - left) * time / ticks[-1]

    drawn: list[Shape] = [
        Text(MARGIN, 40, figure.title, 22, INK, bold=True),
        Text(MARGIN, 62, figure.subtitle, 13, GREY),
        *legend(MARGIN, 88, figure),
    ]
    y = 112.0
    for panel in figure.panels:
        top = y + (36 if panel.lost else 26)
        bottom = top + pitch * len(panel.rows)
        drawn.append(Text(MARGIN, y + 15, panel.title, 15, INK, bold=True))
        drawn += [Line(x(tick), top, x(tick), bottom, GRID) for tick in ticks]
        for i, one in enumerate(panel.rows):
            middle = top + pitch * (i + 0.5)
            drawn += bars(one, middle, bar, x)
            if said:
                drawn.append(Text(left - 10, middle + 4.5, one.label, anchor="end"))
                drawn.append(Text(right + 10, middle + 4.5, one.note))
        for time in panel.lost:
            drawn += [Line(x(time), top, x(time), bottom, INK, 1, dashed=True), *cross(x(time), top - 7)]
        y = bottom + 10
    drawn.append(Line(left, y - 4, right, y - 4, PALE))
    drawn += [Text(x(tick), y + 14, f"{tick:g}", 13, GREY, "middle") for tick in ticks[:-1]]
    drawn.append(Text(right, y + 14, f"{ticks[-1]:g} ms", 13, GREY, "middle"))
    return y + 34, drawn


def times(panel: Panel) -> Iterator[float]:
    yield from panel.lost
    for one in panel.rows:
        yield from one.lost
        for span in (*one.waiting, *one.receiving, *one.stalls, *one.late):
            yield span[1]


def bars(one: Row, y: float, height: float, x: Callable[[float], float]) -> Iterator[Shape]:
    """One row's bars, centred on *y*. What took no time is still seen."""
    for start, end in one.waiting:
        yield Box(x(start), y - THIN / 2, max(LEAST, x(end) - x(start)), THIN, PALE)
    for spans, high, fill, edge in (
        (one.receiving, height, BLUE, ""),
        (one.stalls, height, ORANGE, EDGE),
        (one.late, height / 2, ORANGE, EDGE),
    ):
        for start, end in spans:
            yield Box(x(start), y - high / 2, max(LEAST, x(end) - x(start)), high, fill, edge)
    for time in one.lost:
        yield from cross(x(time), y)


def cross(x: float, y: float, arm: float = 4) -> Iterator[Shape]:
    """White beneath, so that it is seen on every bar."""
    for colour, width in ((PAPER, 4.5), (INK, 2)):
        for slope in (-arm, arm):
            yield Line(x - arm, y - slope, x + arm, y + slope, colour, width)


def legend(x: float, y: float, figure: Figure) -> Iterator[Shape]:
    """What the bars mean; stalls, late and lost packets only if there are some."""
    rows = [one for panel in figure.panels for one in panel.rows]
    keys: list[tuple[str, bool, Callable[[float], Iterable[Shape]]]] = [
        ("waiting", True, lambda x: [Box(x, y - THIN / 2, 26, THIN, PALE)]),
        ("receiving", True, lambda x: [Box(x, y - BAR / 2, 26, BAR, BLUE)]),
        ("stalled", any(one.stalls for one in rows), lambda x: [Box(x, y - BAR / 2, 26, BAR, ORANGE, EDGE)]),
        ("late", any(one.late for one in rows), lambda x: [Box(x, y - BAR / 4, 26, BAR / 2, ORANGE, EDGE)]),
        (
            "packet lost",
            any(one.lost for one in rows) or any(one.lost for one in figure.panels),
            lambda x: cross(x + 13, y),
        ),
    ]
    for words, is_there, key in keys:
        if is_there:
            yield from key(x)
            yield Text(x + 34, y + 4.5, words)
            x += 34 + wide(words, 13) + 24


# -- The two kinds of picture -----------------------------------------------------------------------------


DASHED, BOLD = ' stroke-dasharray="4 3"', ' font-weight="bold"'


def svg(figure: Figure) -> str:
    """The picture as text (SVG 1.1)."""
    height, drawn = shapes(figure)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" '
        'font-family="Helvetica, Arial, sans-serif" role="img">',
        f"<title>{escape(figure.title)}</title>",
        f'<rect width="{WIDTH}" height="{height:g}" fill="{PAPER}"/>',
        *map(element, drawn),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def element(shape: Shape) -> str:
    match shape:
        case Box(x, y, width, height, fill, edge):
            border = f' stroke="{edge}"' if edge else ""
            return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:g}" fill="{fill}"{border}/>'
        case Line(x1, y1, x2, y2, colour, width, dashed):
            ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
            return f'<line {ends} stroke="{colour}" stroke-width="{width:g}"{DASHED if dashed else ""}/>'
        case Text(x, y, words, size, colour, anchor, bold):
            font = f'font-size="{size:g}" fill="{colour}" text-anchor="{anchor}"{BOLD if bold else ""}'
            return f'<text x="{x:.1f}" y="{y:.1f}" {font}>{escape(words)}</text>'


SHARP = 2  # pixels for each unit: letters are easy to read on any screen
ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}  # Pillow's names: left, middle or right, on the baseline


def png(figure: Figure) -> bytes:
    """The picture as pixels."""
    height, drawn = shapes(figure)
    image = Image.new("RGB", (SHARP * WIDTH, SHARP * round(height)), PAPER)
    draw = ImageDraw.Draw(image)
    for shape in drawn:
        paint(draw, shape)
    written = io.BytesIO()
    image.save(written, "png")
    return written.getvalue()


def paint(draw: ImageDraw.ImageDraw, shape: Shape) -> None:
    match shape:
        case Box(x, y, width, height, fill, edge):
            corners = (SHARP * x, SHARP * y, SHARP * (x + width) - 1, SHARP * (y + height) - 1)
            draw.rectangle(corners, fill, edge or None, SHARP)
        case Line(x1, y1, x2, y2, colour, width, dashed):
            for start, end in dashes(y1, y2) if dashed else [(y1, y2)]:
                ends = (SHARP * x1, SHARP * start, SHARP * x2, SHARP * end)
                draw.line(ends, colour, max(1, round(SHARP * width)))
        case Text(x, y, words, size, colour, anchor, bold):
            weight = 0.6 if bold else 0
            at = (SHARP * x, SHARP * y)
            draw.text(at, words, colour, font(SHARP * size), ANCHORS[anchor], stroke_width=weight)


def dashes(start: float, end: float) -> list[Span]:
    """Of an upright line: 4 drawn, 3 not, as in the SVG."""
    count = math.ceil((end - start) / 7)
    return [(start + 7 * i, min(start + 7 * i + 4, end)) for i in range(count)]


@cache
def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The one that Pillow brings along: so the picture is the same on every machine."""
    return ImageFont.load_default(size)


def write(figure: Figure, path: Path) -> None:
    """Both pictures, beside each other: path.svg and path.png."""
    path.with_suffix(".svg").write_text(svg(figure), encoding="utf-8")
    path.with_suffix(".png").write_bytes(png(figure))
