"""Head of line, made visible: many live feeds over one connection, and who of them waits for a packet that is lost.

Each feed is a stream on which the server sends 1000 bytes every 40 ms, and the feeds take turns, so that hardly any
packet has pieces of two. Six of them need 150 kB/s, far less than the link carries or a congestion window lets out
that has been warmed up: so the rate explains 40 ms between two pieces of a feed. What a piece is late beyond that is a
stall: it has waited for a packet that was lost, or the machine has stood still. Readers cannot tell these two, so what
the labs assert is read from the packets (`Part`). (A download that fills the link shows the same, mixed with slow
start, queues, and whose turn it was.)

The same code asks over HTTP/2 and over HTTP/3, and follows any stream that has a body: only the transport differs.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import socket
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qsl

from labkit.lab import Drop, Network, Seen
from labkit.learner import load
from labkit.waterfall import Figure, Panel, Row, row
from protocols import http2_frames, tls, tls_opened
from protocols.quic_frames import Stream
from protocols.tls_opened import Secrets
from servers import site

onwire = load(Path(__file__).with_name("onwire.py"), "labs_quic_onwire")

T = TypeVar("T")

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
    """How many pieces were late, as their readers saw it."""
    return sum(delay > LATE for feed in feeds for delay in feed.delays)


async def with_a_clock(work: Awaitable[T]) -> tuple[T, float]:
    """What it gives; and for how long this machine stood still meanwhile, in ms: readers take that for a stall, too."""
    task = asyncio.ensure_future(work)
    longest = 0.0
    while not task.done():
        before = time.perf_counter()
        await asyncio.wait([task], timeout=0.01)
        longest = max(longest, 1000 * (time.perf_counter() - before) - 10)
    return task.result(), longest


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


@dataclass(frozen=True)
class Part:
    """Some bytes of a stream, on the wire: when they were here, and when they could be read.

    That is when all is here, too, that comes before them in the same order: over TCP that of the whole connection, over
    QUIC that of their stream. It is read from the packets, so no busy machine can change it. How long a reader waits
    has other causes, too: the sender's window, and programs that stand still.
    """

    stream: int
    size: int
    came: float
    read: float
    due: float  # when it came, or, if that was not the first time that it was sent, when it left then and was lost
    is_lost: bool  # when it was first sent

    @property
    def held(self) -> float:
        """How long it was here, and nobody could have it: ms."""
        return 1000 * (self.read - self.came)

    @property
    def is_late(self) -> bool:
        return self.is_lost or self.held > 0


@dataclass
class Order:
    """Bytes that can be read in their order only: from where to where, and when they came. None: they were lost."""

    came: list[tuple[int, int, float | None]] = field(default_factory=list)
    lost: list[tuple[int, int, float]] = field(default_factory=list)  # the same, and when they left

    def seen(self, start: int, end: int, p: Seen) -> None:
        self.came.append((start, end, None if p.dropped else p.time))
        if p.dropped:
            self.lost.append((start, end, p.time))

    def part(self, stream: int, start: int, end: int) -> Part | None:
        """None: not all that it needs has come."""
        came, read = self._whole(start, end), self._whole(0, end)
        if came is None or read is None:
            return None
        is_lost = any(now is None and a < end and b > start for a, b, now in self.came)
        due = min((left for a, b, left in self.lost if a < end and b > start), default=came)
        return Part(stream, end - start, came, read, due, is_lost)

    def _whole(self, start: int, end: int) -> float | None:
        """When the last of these bytes came that was missing."""
        waiting: list[tuple[int, int]] = []
        for a, b, now in self.came:
            if now is None or b <= start:
                continue
            waiting.append((a, b))
            for one in sorted(waiting):
                if one[0] > start:
                    break
                start = max(start, one[1])
                waiting.remove(one)
            if start >= end:
                return now
        return None


def parts_of_quic(packets: Sequence[Any], since: float) -> list[Part]:
    """What the server has sent from then on, on the last connection: on streams that the client has opened, each byte
    once. The packets are opened ones (onwire.py).
    """
    orders: dict[int, Order] = {}
    spans: list[tuple[int, int, int]] = []
    sent: dict[int, int] = {}
    for one in sorted(packets, key=lambda one: one.number):  # A lost one is on record when it was sent.
        if one.datagram.time < since or one.connection != packets[-1].connection:
            continue
        for piece in one.all(Stream):
            start, end = piece.offset, piece.offset + len(piece.data)
            if piece.stream % 4 == 0 and piece.data:
                orders.setdefault(piece.stream, Order()).seen(start, end, one.datagram)
                if start >= sent.get(piece.stream, 0):
                    spans.append((piece.stream, start, end))
                    sent[piece.stream] = end
    parts = (orders[stream].part(stream, start, end) for stream, start, end in spans)
    return [part for part in parts if part]


def parts_of_tcp(packets: Sequence[Seen], secrets: Secrets, since: float) -> list[Part]:
    """The same of HTTP/2, on the last connection. A part is a record of TLS: nobody can open less of it."""
    segments = [p for p in packets if p.protocol == "tcp" and p.payload and "server" in (p.source, p.target)]
    ends = {segments[-1].source_port, segments[-1].target_port}
    told, first, order = {"client": b"", "server": b""}, {}, Order()
    spans = []
    for p in segments:
        if {p.source_port, p.target_port} == ends:
            start = (p.seq - first.setdefault(p.source, p.seq)) % (1 << 32)
            spans.append((start, p))
            if p.source == "server":
                order.seen(start, start + len(p.payload), p)
    for start, p in sorted(spans, key=lambda one: one[0]):
        if start <= len(told[p.source]):  # More is missing only where the wire itself was too slow.
            told[p.source] += p.payload[len(told[p.source]) - start :]
    parts = (order.part(*record) for record in records_of(told, secrets))
    return [part for part in parts if part and part.read >= since]


def records_of(told: dict[str, bytes], secrets: Secrets) -> Iterator[tuple[int, int, int]]:
    """Of each record of the server's with data of HTTP/2: a stream, and from where to where it is on the connection."""
    onlooker, frames, end = tls.Onlooker(), http2_frames.Decoder(), 0
    hello = onlooker.receive_data(True, told["client"])[0].messages[0]
    keys = None
    for seen in onlooker.receive_data(False, told["server"]):
        start, end = end, end + 5 + len(seen.record.data)
        for message in seen.messages:
            chosen = tls.server_hello(message.body).cipher
            keys = tls_opened.Opened("SERVER", tls.client_hello(hello.body).random, chosen, secrets)
        if seen.is_encrypted and keys:
            record, _ = keys.open(seen.record)
            if record.type == tls.ContentType.APPLICATION_DATA:
                frames.receive_data(record.data)
                for stream in {f.stream for f in frames.frames() if f.type == http2_frames.FrameType.DATA}:
                    yield stream, start, end


def measure_one_loss(net: Network, tcp: Lane, quic: Lane, over_tcp: str, over_quic: str) -> None:
    """Who had to wait for the one packet, on the wire; and how long the readers waited, which is no less."""
    net.exactly(f"streams that had to wait for it, {over_tcp}", len(tcp.waiting), FEEDS)
    net.measure(f"streams that had to wait for it, {over_quic}", len(quic.waiting), at_least=1, at_most=3)
    hit = {part.stream for part in quic.parts if part.is_lost}
    net.expect(f"over {over_quic} these are the ones that lost something", quic.waiting == hit)
    # A round trip and more; less if the server stood still, and its timer sent the lost one again (RFC 8985 §7).
    net.measure(f"the longest that a piece lay behind the gap, {over_tcp}", tcp.held, "ms", at_least=50)
    others = max((part.held for part in quic.parts if part.stream not in hit), default=0)
    net.exactly(f"the same on the other streams, {over_quic}", others, 0, "ms")
    net.measure(f"the shortest stall for a reader, {over_tcp}", min(feed.longest for feed in tcp.feeds), "ms",
                at_least=50)  # fmt: skip
    net.measure(f"the longest stall for a reader, {over_quic}", max(feed.longest for feed in quic.feeds), "ms",
                at_least=50)  # fmt: skip


# -- What is shown ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lane:
    """All feeds of one run over one transport."""

    title: str
    feeds: list[Feed]
    parts: list[Part] = field(default_factory=list)
    lost: tuple[float, ...] = ()  # when packets with something of a feed were sent that were lost

    @property
    def waiting(self) -> set[int]:
        """The streams that had to wait for what was lost: those of which it was, and those who had to stand behind."""
        return {part.stream for part in self.parts if part.is_late}

    @property
    def late(self) -> float:
        """How many pieces had to, for each packet lost: those that could be read as soon as it had come again.

        The median, for what is sent again may be lost, too, and then it is many. By their bytes: a packet may have
        some of two.
        """
        released = Counter[float]()
        for part in self.parts:
            if part.is_late:
                released[part.read] += part.size
        return statistics.median(released.values()) / len(PIECE) if released else 0

    @property
    def held(self) -> float:
        """The longest time that something was here and could not be read, in ms."""
        return max((part.held for part in self.parts), default=0)

    @property
    def stalled(self) -> list[Feed]:
        """Those whose reader waited for longer than a piece takes to come round again."""
        return [feed for feed in self.feeds if feed.longest > 1000 * feed.period]

    def late_of(self, number: int) -> list[Part]:
        """The parts of a feed that had to wait. Feeds are asked for in their order, so their streams have it, too."""
        streams = sorted({part.stream for part in self.parts})
        if len(streams) != len(self.feeds):
            return []
        return [part for part in self.parts if part.stream == streams[number] and part.is_late]

    def panel(self) -> Panel:
        """What is late is drawn as the packets say it, stalls as the readers saw them."""
        zero = min(feed.asked for feed in self.feeds)

        def ms(seconds: float) -> float:
            return 1000 * (seconds - zero)

        def bar(number: int, feed: Feed) -> Row:
            late = self.late_of(number)
            count = math.ceil(sum(part.size for part in late) / (len(PIECE) + 100))  # and what is around them
            notes = [f"{count} late"] * bool(late) + [f"stalled {feed.longest:.0f} ms"] * (feed in self.stalled)
            note = ", ".join(notes) or "in time"
            drawn = row(f"feed {number}", ms(feed.asked), [ms(at) for at in feed.arrivals], 1000 * feed.period, note)
            return replace(drawn, late=tuple((ms(part.due), ms(part.read)) for part in late))

        bars = tuple(bar(number, feed) for number, feed in enumerate(self.feeds))
        return Panel(self.title, bars, tuple(map(ms, self.lost)))


def lanes(net: Network, titles: Sequence[str], feeds: Sequence[list[Feed]], since: float) -> tuple[Lane, Lane]:
    """Over TCP and over QUIC: what the readers saw, and what was on the wire from then on."""
    packets = net.packets()
    view = "client" if any(p.at == "client" and not p.dropped for p in packets) else "server"  # VANTAGE=all has both.
    packets = [p for p in packets if p.at == view or p.dropped]
    opened = [one for one in onwire.opened(net, "server") if one.datagram.at == view or one.datagram.dropped]
    on_tcp = [p for p in packets if p.protocol == "tcp" and p.source == "server" and len(p.payload) > 100]
    on_udp = [one.datagram for one in opened if any(len(frame.data) > 100 for frame in one.all(Stream))]
    lost = [tuple(p.time for p in of if p.dropped and p.time >= since) for of in (on_tcp, on_udp)]
    return (
        Lane(titles[0], feeds[0], parts_of_tcp(packets, onwire.secrets(), since), lost[0]),
        Lane(titles[1], feeds[1], parts_of_quic(opened, since), lost[1]),
    )


def figure(title: str, subtitle: str, *lanes: Lane, still: float = 0) -> Figure:
    if still > LATE:
        subtitle += f" The machine stood still once, for {still:.0f} ms."
    return Figure(title, subtitle, tuple(lane.panel() for lane in lanes))


def table(*lanes: Lane, still: float = 0) -> list[str]:
    """The longest stall of each feed, one line per feed, one column per lane; and whether it was the machine's."""
    lines = ["longest stall " + "".join(f"{lane.title:>26}" for lane in lanes)]
    for number, feeds in enumerate(zip(*(lane.feeds for lane in lanes), strict=True)):
        lines.append(f"{f'feed {number}':13} " + "".join(f"{feed.longest:>23.0f} ms" for feed in feeds))
    return lines + stood(still)


def stood(still: float) -> list[str]:
    """The line that says so, if it did."""
    words = f"This machine stood still for {still:.0f} ms. To a reader that is a stall, too, over both."
    return [words] if still > LATE else []
