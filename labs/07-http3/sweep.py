"""Head of line, swept: 0, 1, 2, 3 and 5 % of the packets lost, over TCP and over QUIC, stream by stream.

Run:   .venv/bin/python -m labs.07-http3.sweep                   (about a minute)
       .venv/bin/python -m labs.07-http3.sweep --seconds 30 --rounds 9

Two things are measured. Six live feeds (labs/06-quic/racing.py) over HTTP/2 and over HTTP/3, at the same time on the
same link: how late each piece is. And the page of tiles over HTTP/1.1, HTTP/2 and HTTP/3, one after the other: how long
all of it takes, and how long a tile is waited for. Prints tables, and draws captures/http3-sweep-N.svg and .png for a
loss of N %.

Two columns are read from the packets: how much of what came lay there, whole, behind a gap. That is what the order
costs; what else is late was itself lost, or the sender's congestion window has kept it back. Both ends use Reno.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from labkit import catalog, sandbox
from labkit.lab import Link, Network, on_the_wire
from labkit.run import captures_folder, why_no_wire
from labkit.sandbox import CannotRun, Event, Inside, World
from labkit.waterfall import write

LOSSES = (0, 1, 2, 3, 5)  # %
DELAY = 20  # ms each way
PERIOD = 0.1  # seconds between two pieces of a feed


async def sweep(net: Network, folder: Path, losses: Sequence[float], seconds: float, rounds: int) -> None:
    """All the runs; emits {"feeds": …} and {"pages": …}."""
    lab = catalog.lab("http3").module("experiments")
    racing = lab.racing
    for loss in losses:
        lossy = Link(delay_ms=DELAY, loss=loss)
        net.set_link(Link(delay_ms=DELAY))
        tcp, quic, still = await lab.both_lanes(net, round(seconds / PERIOD), PERIOD, lossy)
        row = [len(tcp.lost), len(quic.lost)]
        for lane in (tcp, quic):
            delays = sorted(delay for feed in lane.feeds for delay in feed.delays)
            row += [100 * racing.late(lane.feeds) / len(delays), delays[round(0.95 * len(delays)) - 1]]
        for lane in (tcp, quic):
            behind = sum(part.size for part in lane.parts if part.held > racing.LATE)
            row.append(100 * behind / sum(part.size for part in lane.parts))
        net.emit({"feeds": row, "loss": loss})
        about = (
            f"1000 bytes on each stream every {1000 * PERIOD:g} ms; round trip {2 * DELAY} ms. Both at the same time."
        )
        title = f"Six feeds, {loss:.0%} of the packets lost".replace("%", " %")
        write(racing.figure(title, about, tcp, quic, still=still), folder / f"http3-sweep-{round(100 * loss)}.svg")
    async with lab.serving_all(net):
        for loss in losses:
            net.set_link(Link(delay_ms=DELAY, loss=loss))
            row = []
            for _, make, _ in lab.VERSIONS:
                pages = [await net.client.run(lab.load_page(make(), lab.origin(net))) for _ in range(rounds)]
                row.append(statistics.median(page.took for page in pages))
                row.append(statistics.median(came[-1] - asked for page in pages for asked, came in page.tiles))
            net.emit({"pages": row, "loss": loss})
        net.set_link(Link())


def measure(losses: Sequence[float], seconds: float, rounds: int) -> list[Event]:
    """CannotRun where there is no wire."""
    if why := why_no_wire():
        raise CannotRun(f"This needs the wire ({why}).")
    folder, found = captures_folder(), []
    capture = folder / "http3-sweep.pcapng"

    def main(inside: Inside) -> None:
        asyncio.run(sweep(on_the_wire(inside, catalog.lab("http3").port, 1), folder, losses, seconds, rounds))

    def take(event: Event) -> None:
        if "crashed" in event:
            raise CannotRun(event["crashed"])
        found.append(event)

    limit = len(losses) * (2 * seconds + 6 * rounds + 10)
    world = World(links={("client", "server"): Link(delay_ms=DELAY)}, capture=capture, seconds=limit)
    sandbox.run(world, main, take)
    return found


def table(head: Sequence[str], rows: Sequence[tuple[float, list[float]]]) -> list[str]:
    lines = ["lost   " + "".join(f"{word:>13}" for word in head)]
    for loss, values in rows:
        lines.append(f"{100 * loss:>3.0f} %  " + "".join(f"{value:>13.0f}" for value in values))
    return lines


FEEDS = ("TCP lost", "QUIC lost", "TCP late %", "TCP p95 ms", "QUIC late %", "QUIC p95 ms", "TCP held %", "QUIC held %")
PAGES = ("h1 page ms", "h1 tile ms", "h2 page ms", "h2 tile ms", "h3 page ms", "h3 tile ms")


def main() -> None:
    parser = argparse.ArgumentParser(prog="sweep", description="Head of line at 0, 1, 2, 3 and 5 % loss.")
    parser.add_argument("--loss", type=float, nargs="+", default=LOSSES, help="in %% of the packets")
    parser.add_argument("--seconds", type=float, default=5, help="of feeds, for each loss")
    parser.add_argument("--rounds", type=int, default=3, help="of the page, for each loss and version")
    options = parser.parse_args()
    if not all(0 <= loss < 100 for loss in options.loss):
        parser.error("--loss: from 0 to less than 100 %")
    if options.rounds < 1 or not 1 <= options.seconds <= 60:
        parser.error("--rounds: 1 or more; --seconds: from 1 to 60")
    try:
        found = measure([loss / 100 for loss in options.loss], options.seconds, options.rounds)
    except (CannotRun, OSError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    print(f"Six feeds, both versions at a time, {options.seconds:g} s for each loss. Late: by more than 25 ms.")
    print("p95: 95 % of the pieces were no later. Held: what lay there for as long, behind a gap.\n")
    print("\n".join(table(FEEDS, [(event["loss"], event["feeds"]) for event in found if "feeds" in event])))
    print(f"\nThe page of 36 tiles, and the wait for one of its tiles: medians of {options.rounds} pages.\n")
    print("\n".join(table(PAGES, [(event["loss"], event["pages"]) for event in found if "pages" in event])))
    drawn = ", ".join(f"captures/http3-sweep-{loss:.0f}.svg" for loss in options.loss)
    print(f"\nDrawn, also as .png: {drawn}")


if __name__ == "__main__":
    main()
