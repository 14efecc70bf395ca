"""Goodput against 1/RTT, measured and drawn: what stop-and-wait costs, and what a window gives.

Run:   python -m labs.02-udp.goodput        prints a table, draws captures/udp-goodput.svg (about 8 s)

Files go from the client to the server through protocols/reliable.py on the lab's wire, at several round trips and
windows. Both axes are logarithmic: goodput = window / RTT is then a straight line for each window, one above the other.
Where the points leave their line, something else than the round trip has become the limit: here, Python.
"""

from __future__ import annotations

import asyncio
import math
import sys
from pathlib import Path

from labkit import catalog, sandbox
from labkit.lab import Link, on_the_wire
from labkit.run import captures_folder, why_no_wire
from labkit.sandbox import CannotRun, Event, Inside, World
from protocols.reliable import PAYLOAD

ROUND_TRIPS = (5, 10, 20, 40, 80)  # ms
WINDOWS = (1, 4, 16, 64)  # packets
COLOURS = {1: "#b3452c", 4: "#c58a1b", 16: "#2f7d6b", 64: "#2b5f9e"}
LAPS = 10  # windows per file

Points = dict[tuple[int, int], float]  # (window, RTT in ms) → kB/s


def measure() -> Points:
    """Run all the transfers. CannotRun where there is no wire."""
    if why := why_no_wire():
        raise CannotRun(f"This needs the wire ({why}).")
    lab = catalog.lab("udp")
    transfer = lab.module("experiments").transfer
    points: Points = {}

    def main(inside: Inside) -> None:
        net = on_the_wire(inside, lab.port, 1)

        async def transfers() -> None:
            for window in WINDOWS:
                for rtt in ROUND_TRIPS:
                    net.set_link(Link(delay_ms=rtt / 2))
                    packets = window * LAPS
                    seconds, _ = await transfer(net, packets, window)
                    net.emit({"window": window, "rtt": rtt, "goodput": packets * PAYLOAD / seconds / 1000})

        asyncio.run(transfers())

    def take(event: Event) -> None:
        if "goodput" in event:
            points[event["window"], event["rtt"]] = event["goodput"]

    sandbox.run(World(links={("client", "server"): Link(delay_ms=1)}), main, take)
    if len(points) < len(WINDOWS) * len(ROUND_TRIPS):
        raise CannotRun("A transfer was not done. Is the machine very busy? Run it again.")
    return points


def table(points: Points) -> str:
    lines = ["goodput in kB/s, and in brackets what part of window / RTT that is", ""]
    lines.append("window " + "".join(f"{f'RTT {rtt} ms':>18}" for rtt in ROUND_TRIPS))
    for window in WINDOWS:
        cells = []
        for rtt in ROUND_TRIPS:
            got = points[window, rtt]
            cells.append(f"{got:>10.0f} ({got * rtt / window / PAYLOAD:4.0%})")
        lines.append(f"{window:>6} " + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


# --- The drawing --------------------------------------------------------------------------------

LEFT, RIGHT, TOP, BOTTOM = 96, 750, 110, 500  # of the plot, in SVG units
X_RANGE, Y_RANGE = (10, 250), (8, 20000)  # round trips per second, kB/s


def scaled(value: float, low: float, high: float, start: float, end: float) -> float:
    return start + (end - start) * math.log(value / low) / math.log(high / low)


def x(per_second: float) -> float:
    return scaled(per_second, *X_RANGE, LEFT, RIGHT)


def y(goodput: float) -> float:
    return scaled(goodput, *Y_RANGE, BOTTOM, TOP)


def text(at_x: float, at_y: float, words: str, **attributes: str) -> str:
    extra = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{at_x:.1f}" y="{at_y:.1f}"{extra}>{words}</text>'


def line(x1: float, y1: float, x2: float, y2: float, **attributes: str) -> str:
    extra = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{extra}/>'


def svg(points: Points) -> str:
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 590" font-family="Helvetica, Arial, sans-serif"'
        ' font-size="14" fill="#333">',
        '<rect width="960" height="590" fill="#fff"/>',
        text(LEFT, 36, "Goodput is window / RTT", font_size="22", font_weight="bold", fill="#111"),
        text(LEFT, 82, "A dot below its line: the work for each packet took time, too.", fill="#666"),
        text(
            LEFT,
            60,
            f"Files over UDP, {PAYLOAD} bytes per packet. Lines: window / RTT. Dots: measured on this machine.",
            fill="#666",
        ),
    ]
    for goodput in (10, 100, 1000, 10000):
        name = f"{goodput} kB/s" if goodput < 1000 else f"{goodput // 1000} MB/s"
        parts.append(line(LEFT, y(goodput), RIGHT, y(goodput), stroke="#e3e3e3"))
        parts.append(text(LEFT - 10, y(goodput) + 5, name, text_anchor="end"))
    for rtt in ROUND_TRIPS:
        at = x(1000 / rtt)
        parts.append(line(at, TOP, at, BOTTOM, stroke="#f0f0f0"))
        parts.append(text(at, BOTTOM + 24, f"{1000 / rtt:g}", text_anchor="middle"))
        parts.append(text(at, BOTTOM + 44, f"{rtt} ms", text_anchor="middle", fill="#888"))
    parts.append(line(LEFT, BOTTOM, RIGHT, BOTTOM, stroke="#999"))
    parts.append(text(LEFT - 10, BOTTOM + 24, "1/RTT", text_anchor="end"))
    parts.append(text(LEFT - 10, BOTTOM + 44, "RTT", text_anchor="end", fill="#888"))
    parts.append(text((LEFT + RIGHT) / 2, BOTTOM + 72, "round trips per second", text_anchor="middle"))
    for window in WINDOWS:
        colour = COLOURS[window]
        ends = [window * PAYLOAD / 1000 * per_second for per_second in (1000 / ROUND_TRIPS[-1], 1000 / ROUND_TRIPS[0])]
        parts.append(line(x(1000 / ROUND_TRIPS[-1]), y(ends[0]), x(1000 / ROUND_TRIPS[0]), y(ends[1]), stroke=colour,
                          stroke_width="1.5", stroke_opacity="0.6"))  # fmt: skip
        for rtt in ROUND_TRIPS:
            parts.append(
                f'<circle cx="{x(1000 / rtt):.1f}" cy="{y(points[window, rtt]):.1f}" r="5.5" fill="{colour}"/>'
            )
        name = "window 1: stop-and-wait" if window == 1 else f"window {window}"
        parts.append(text(x(1000 / ROUND_TRIPS[0]) + 14, y(ends[1]) + 5, name, fill=colour, font_weight="bold"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    try:
        points = measure()
        path: Path = captures_folder() / "udp-goodput.svg"
        path.write_text(svg(points), encoding="utf-8")
    except (CannotRun, OSError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    print(table(points))
    print(f"\nDrawn: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


if __name__ == "__main__":
    main()
