"""Head of line, made visible: many live feeds over one connection, and who of them waits for a packet that is lost.

Each feed is a stream on which the server sends 1000 bytes every 40 ms, and the feeds take turns, so that hardly any
packet has pieces of two. Six of them need 150 kB/s, far less than the link carries or a congestion window lets out
that has been warmed up: so the rate explains 40 ms between two pieces of a feed, and nothing else does. What a piece
is late beyond that it has waited for a packet that was lost: a stall. (A download that fills the link shows the same,
mixed with slow start, queues, and whose turn it was.)

The same code asks over HTTP/2 and over HTTP/3, and follows any stream that has a body: only the transport differs.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import parse_qsl

from labkit.lab import Drop, Network
from labkit.waterfall import Figure, Panel, Row, row
from servers import site

FEEDS = 6
PIECE = bytes(1000)
PERIOD = 0.04  # seconds between two pieces of a feed
PIECES = 16


# -- The server's side -----------------------------------------------------------------------------------


async def pieces(number: int, count: int = PIECES, period: float = PERIOD) -> AsyncIterator[bytes]:
    """The body of a feed. They begin one after the other, so that each packet is one feed's."""
    clock = asyncio.get_running_loop()
    start = clock.time() + period * (number % FEEDS) / FEEDS
    for i in range(count):
        await asyncio.sleep(start + i * period - clock.time())
        yield PIECE


def respond(request: site.Request) -> site.Response | Awaitable[site.Response]:
    """The site, and /feed/0, /feed/1?n=50&ms=20 …: for the servers of HTTP, as their `respond`."""
    path, _, query = request.target.partition("?")
    if found := re.fullmatch(r"/feed/([0-9]{1,2})", path):
        wanted = dict(parse_qsl(query))
        body = pieces(int(found[1]), int(wanted.get("n", PIECES)), float(wanted.get("ms", 1000 * PERIOD)) / 1000)
        return site.Response(200, [("content-type", "application/octet-stream")], body)
    return site.respond(request)


async def answer(stream: Any) -> None:
    """The same over a stream of bare QUIC, after a line with the feed's path: for servers/quic.py, as its `handler`."""
    target = (await stream.read_line()).decode("latin-1")
    response = respond(site.Request("GET", target, {}, stream))
    assert isinstance(response, site.Response)
    assert not isinstance(response.body, bytes)
    async for piece in response.body:
        await stream.write(piece)
    stream.finish()


def use_reno(connections: Sequence[asyncio.Transport]) -> None:
    """TCP with Reno's congestion control, which is aioquic's, too: the kernel's default differs by machine."""
    for transport in connections:
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")


# -- The client's side -----------------------------------------------------------------------------------


@dataclass
class Feed:
    """What came of a feed, and when (seconds, on the clock of the capture)."""

    period: float = PERIOD
    asked: float = field(default_factory=time.time)
    arrivals: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    async def follow(self, body: AsyncIterator[bytes]) -> Feed:
        """Take it to its end."""
        async for piece in body:
            self.arrivals.append(time.time())
            self.sizes.append(len(piece))
        return self

    @property
    def longest(self) -> float:
        """The longest stall in ms: how much later than due something came after what came before it."""
        gaps = (b - a for a, b in zip(self.arrivals, self.arrivals[1:], strict=False))
        return 1000 * max(0.0, max(gaps, default=0.0) - self.period)

    @property
    def delays(self) -> list[float]:
        """How late each piece was, in ms, compared with the one that was quickest. A stall delays all that it holds."""
        whole: list[float] = []  # when each piece was here to its end: several may come at once
        size = 0
        for time_, more in zip(self.arrivals, self.sizes, strict=True):
            size += more
            whole += [time_ - i * self.period for i in range(len(whole), size // len(PIECE))]
        return [1000 * (at - min(whole)) for at in whole]


LATE = 25  # ms; less than that is this machine, busy with something else


def late(feeds: Sequence[Feed]) -> int:
    """How many pieces were late."""
    return sum(delay > LATE for feed in feeds for delay in feed.delays)


class AnyClient(Protocol):
    """clients/http2.Client, clients/http3.Client."""

    def stream(self, method: str, url: str) -> contextlib.AbstractAsyncContextManager[Any]: ...


async def follow_all(client: AnyClient, origin: str, count: int = PIECES, period: float = PERIOD) -> list[Feed]:
    """All feeds at once, over one connection of this client."""

    async def one(number: int) -> Feed:
        feed = Feed(period)
        async with client.stream("GET", f"{origin}/feed/{number}?n={count}&ms={1000 * period:g}") as answer:
            return await feed.follow(answer.body)

    return await asyncio.gather(*(one(number) for number in range(FEEDS)))


async def follow_streams(connection: Any, count: int = PIECES, period: float = PERIOD) -> list[Feed]:
    """All feeds at once, each on a stream of a QUIC connection (clients/quic.py)."""

    async def one(number: int) -> Feed:
        feed = Feed(period)
        stream = await connection.open_stream()
        await stream.finish(f"/feed/{number}?n={count}&ms={1000 * period:g}\n".encode())
        return await feed.follow(body(stream))

    async def body(stream: Any) -> AsyncIterator[bytes]:
        while piece := await stream.read():
            yield piece

    return await asyncio.gather(*(one(number) for number in range(FEEDS)))


# -- The wire --------------------------------------------------------------------------------------------


def a_piece(nth: int, protocol: str, port: int) -> Drop:
    """The nth packet from the server that is large enough to have a piece of a feed in it, counted from now on."""
    return Drop(nth, protocol, from_port=port, larger_than=len(PIECE))


def lost(net: Network, protocol: str, since: float) -> tuple[float, ...]:
    """When the server's packets that the wire dropped were sent, from then on."""
    dropped = [p for p in net.packets() if p.dropped and p.source == "server" and p.protocol == protocol]
    return tuple(p.time for p in dropped if p.time >= since)


def held(net: Network, since: float) -> list[float]:
    """How long each segment of TCP lay in the client's kernel, whole, because an earlier one was missing: in ms.

    This is what the order of the stream costs, and nothing else: not what the sender's window has kept back.
    """
    times: list[float] = []
    waiting: list[tuple[int, int, float]] = []  # first byte, the one behind the last, when it came
    first = due = None
    for p in net.packets():
        if p.time < since or p.protocol != "tcp" or p.source != "server" or not p.payload:
            continue
        if first is None or due is None:
            first, due = p.seq, 0
        if p.dropped:
            continue
        start = (p.seq - first) % (1 << 32)
        waiting.append((start, start + len(p.payload), p.time))
        for one in sorted(waiting):
            if one[0] > due:
                break
            if one[1] > due:
                times.append(1000 * (p.time - one[2]))
                due = one[1]
            waiting.remove(one)
    return times


# -- What is shown ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lane:
    """All feeds of one run over one transport."""

    title: str
    feeds: list[Feed]
    lost: tuple[float, ...] = ()

    @property
    def stalled(self) -> list[Feed]:
        """Those that waited for longer than a piece takes to come round again."""
        return [feed for feed in self.feeds if feed.longest > 1000 * feed.period]

    def panel(self) -> Panel:
        zero = min(feed.asked for feed in self.feeds)

        def ms(seconds: float) -> float:
            return 1000 * (seconds - zero)

        def bar(number: int, feed: Feed) -> Row:
            note = f"stalled {feed.longest:.0f} ms" if feed in self.stalled else "no stall"
            return row(f"feed {number}", ms(feed.asked), [ms(at) for at in feed.arrivals], 1000 * feed.period, note)

        bars = tuple(bar(number, feed) for number, feed in enumerate(self.feeds))
        return Panel(self.title, bars, tuple(map(ms, self.lost)))


def figure(title: str, subtitle: str, *lanes: Lane) -> Figure:
    return Figure(title, subtitle, tuple(lane.panel() for lane in lanes))


def table(*lanes: Lane) -> list[str]:
    """The longest stall of each feed, one line per feed, one column per lane."""
    lines = ["longest stall " + "".join(f"{lane.title:>26}" for lane in lanes)]
    for number, feeds in enumerate(zip(*(lane.feeds for lane in lanes), strict=True)):
        lines.append(f"{f'feed {number}':13} " + "".join(f"{feed.longest:>23.0f} ms" for feed in feeds))
    return lines
