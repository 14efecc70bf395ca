"""Your books on a road, told packet by packet: what went, what came back, what you took for lost, and why.

Run:   .venv/bin/python -m labs.06-quic.journey                          your exercise.py, on the road of the check
       .venv/bin/python -m labs.06-quic.journey --lost 3 4 5 --late 20:9 --twice 7
       .venv/bin/python -m labs.06-quic.journey --file labs/06-quic/solution.py --pieces 60

A client sends pieces of 1000 bytes to a server, over UDP on loopback, with a round trip of 8 ms; both are made of your
code. Packets are named by their numbers: --late 20:9 holds packet 20 until nine others have passed. The last packets of
all have nobody behind them: lose one, and see what it costs to have no PTO but one that is fixed (transfer.py: PROBE).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labkit.check import Check, CheckFailed
from labkit.lab import on_loopback
from labkit.learner import load

FOLDER = Path(__file__).parent
check: Any = load(FOLDER / "check.py", "labs_quic_check")
asking, road, steps_road = check.asking, check.sibling("road"), check.sibling("steps_road")
Said = tuple[float, str, str]  # when, in ms; one of > < = !; what


def travel(exercise: Path, fates: dict[int, Any], pieces: int) -> list[dict[str, Any]]:
    """What both ends say of a journey. CheckFailed where one of them has broken down."""

    async def both() -> list[dict[str, Any]]:
        c = Check(on_loopback(("client", "server"), 0, lambda _: None), FOLDER / "check.py", exercise)
        try:
            ends, _ = await road.travel(c, lambda n: fates.get(n, road.FINE), lambda _: road.FINE, (pieces, 0), 10)
            return list(ends)
        finally:
            for program in c.programs:
                program.stop()

    return asyncio.run(both())


def story(end: dict[str, Any]) -> Iterator[Said]:
    """What the client did and learned, in the order in which it happened."""
    carried, gone = dict(end["carried"]), dict[int, int]()  # gone: pieces that went, and in which packet at first
    largest, given_up = -1, set[int]()
    for name, given, said in end["notes"]:
        arguments, value = asking.unpacked(given), said.get("value")
        now = 1000 * arguments[-1] if name in ("send", "receive_ack", "lost") else 0.0
        if "value" not in said:
            yield now, "!", f"{name}() failed: {said.get('raised') or said}"
        elif name == "send" and arguments[0] in carried:
            number = arguments[0]
            piece = carried[number]
            again = f", again: {gone[piece]} had it first" if piece in gone else ""
            gone.setdefault(piece, number)
            yield now, ">", f"packet {number}: piece {piece}{again}"
        elif name == "receive_ack":
            largest = max(largest, arguments[0][0][1])
            yield now, "<", f"ACK {asking.ranges_in_words(arguments[0])[1:-1]}"
            arrived = {n for n in given_up if any(first <= n <= last for first, last in arguments[0])}
            for number in sorted(arrived):
                yield now, "!", f"packet {number} is in it: it was only late"
            given_up -= arrived
        elif name == "lost":
            for number in value:
                given_up.add(number)
                far = f"{largest} has arrived, {largest - number} later"
                yield now, "=", f"packet {number} is lost: {far if largest - number >= 3 else far + ', and time is up'}"


def folded(said: Iterator[Said]) -> Iterator[Said]:
    """Packets that went one after the other, with nothing in between and nothing to tell, in one line."""
    waiting: list[Said] = []
    for one in said:
        if one[1] == ">" and "again" not in one[2]:
            waiting.append(one)
            continue
        yield from together(waiting)
        waiting = []
        yield one
    yield from together(waiting)


def together(waiting: list[Said]) -> list[Said]:
    if len(waiting) < 2:
        return waiting
    first, last = (one[2].removeprefix("packet ").replace("piece ", "") for one in (waiting[0], waiting[-1]))
    packets, pieces = zip(first.split(": "), last.split(": "), strict=True)
    return [(waiting[0][0], ">", f"packets {packets[0]}-{packets[1]}: pieces {pieces[0]}-{pieces[1]}")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--file", type=Path, default=FOLDER / "exercise.py", help="another file than exercise.py")
    parser.add_argument("--pieces", type=int, default=40, help="of 1000 bytes")
    parser.add_argument("--lost", type=int, nargs="*", help="packets that do not arrive")
    parser.add_argument("--late", nargs="*", default=[], metavar="N:M", help="packets that M others overtake")
    parser.add_argument("--twice", type=int, nargs="*", default=[], help="packets that arrive twice")
    options = parser.parse_args()
    fates = dict(steps_road.NAMED) if options.lost is None and not options.late and not options.twice else {}
    fates |= {number: road.Fate(copies=0) for number in options.lost or []}
    fates |= {number: road.Fate(copies=2) for number in options.twice}
    try:
        fates |= {int(n): road.Fate(behind=int(m)) for n, _, m in (one.partition(":") for one in options.late)}
    except ValueError:
        parser.error("--late wants two numbers: 9:2 is packet 9, overtaken by two others")
    if fates and min(fates) < 0:
        parser.error("packets are numbered from 0")
    if not options.file.is_file():
        print(f"There is no file {options.file}.", file=sys.stderr)
        return 2
    print("  on the road: " + (", ".join(f"{n} {fate}" for n, fate in sorted(fates.items())) or "nothing happens"))
    try:
        client, server = travel(options.file.resolve(), fates, options.pieces)
    except CheckFailed as error:
        print(f"  {error.what}", file=sys.stderr)
        return 1
    for now, mark, text in folded(story(client)):
        print(f"  {now:7.1f} ms  {mark} {text}")
    counts = {"packet": client["packets"], "taken for lost": len(client["lost"]), "probe": client["probes"],
              "ACK": server["packets"]}  # fmt: skip
    told = ", ".join(f"{count} {name}{'s' * (count != 1 and ' ' not in name)}" for name, count in counts.items())
    print(f"  {server['came']:,} bytes of {1000 * options.pieces:,} have arrived: {told}")
    if never := [str(n) for n in sorted(fates) if n >= client["packets"]]:
        print(f"  ! There was no packet {', '.join(never)}: the last was {client['packets'] - 1}.")
    if not server["whole"]:
        print("  They are not all, or not those that were sent: `make quic-check` says which call was wrong.")
    return 0 if server["whole"] else 1


if __name__ == "__main__":
    sys.exit(main())
