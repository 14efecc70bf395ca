"""The last steps of this lab's check: the server of talk.py around the four pieces, and aioquic as its client."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic import events
from aioquic.quic.connection import QuicConnection

from certs.quic import quic_client
from labkit.check import Check, CheckFailed, step
from labkit.learner import load


def sibling(name: str) -> Any:
    return sys.modules.get(f"labs_http3_{name}") or load(Path(__file__).with_name(f"{name}.py"), f"labs_http3_{name}")


asking, talk = sibling("asking"), sibling("talk")
wire, varint, CODES, PATIENCE = asking.wire, asking.varint, asking.CODES, asking.PATIENCE
DATA, HEADERS, SETTINGS, PUSH_PROMISE, GOAWAY = 0, 1, 4, 5, 7
NO_ERROR, GREASE = 0x100, 0x1F * 5 + 0x21
FIELDS = bytes.fromhex("0000d1d7c1500a") + b"server.lab"  # QPACK, static table only: GET, https, /, :authority
SAYS = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/"), (b":authority", b"server.lab")]
HELLO = b"\x00" + wire(SETTINGS)  # a control stream


class Client(QuicConnectionProtocol):
    """aioquic's QUIC; its HTTP/3, too, or whatever bytes a step puts on streams."""

    def __init__(self, c: Check, by_hand: bool) -> None:
        quic = QuicConnection(configuration=quic_client("server.lab", alpn=["h3"]))
        super().__init__(quic)
        self.c = c
        self.packets = self.goodbye = ""  # display filters: what has HTTP/3 in it, and CONNECTION_CLOSE
        self.h3 = None if by_hand else H3Connection(quic)  # Before the server's first bytes come.
        self.came: dict[int, bytes] = {}  # the body of an answer, by stream
        self.heads: dict[int, list[tuple[bytes, bytes]]] = {}
        self.whole: set[int] = set()
        self.resets: dict[int, int] = {}
        self.stops: dict[int, int] = {}
        self.ended: events.ConnectionTerminated | None = None
        self.pong = False
        self.more = asyncio.Event()

    def datagram_received(self, data: bytes | str, addr: Any) -> None:
        super().datagram_received(data, addr)
        if self.ended is None and self._quic._close_event:  # Its event comes when it is sure that nothing more will.
            self.ended = self._quic._close_event
            self.more.set()

    def quic_event_received(self, event: events.QuicEvent) -> None:
        if isinstance(event, events.PingAcknowledged):
            self.pong = True
        elif isinstance(event, events.StreamReset):
            self.resets[event.stream_id] = event.error_code
        elif isinstance(event, events.StopSendingReceived):
            self.stops[event.stream_id] = event.error_code
        for one in self.h3.handle_event(event) if self.h3 else ():
            if isinstance(one, HeadersReceived):
                self.heads[one.stream_id] = one.headers
            elif isinstance(one, DataReceived):
                self.came[one.stream_id] = self.came.get(one.stream_id, b"") + one.data
            if isinstance(one, HeadersReceived | DataReceived) and one.stream_ended:
                self.whole.add(one.stream_id)
        self.more.set()

    def put(self, stream: int, data: bytes, end: bool = False, told: str = "") -> None:
        """Bytes by hand, in a packet of their own."""
        if told:
            self.c.did(f"> stream {stream}: {told}")
        self._quic.send_stream_data(stream, data, end)
        self.transmit()

    def request(self, path: str, *fields: tuple[bytes, bytes], method: str = "GET", ends: bool = True) -> int:
        """A request as aioquic makes it."""
        assert self.h3
        stream = self._quic.get_next_available_stream_id()
        self.h3.send_headers(stream, [*asked(path, method), *fields], end_stream=ends)
        self.transmit()
        self.c.did(f"> {method} {path} on stream {stream}")
        return stream

    async def until(self, done: Callable[[], bool], what: str) -> None:
        """Wait until it is so; the connection must not end meanwhile."""
        try:
            async with asyncio.timeout(PATIENCE / 2):
                while not done():
                    if self.ended:
                        self.c.did(f"! CONNECTION_CLOSE with {name_of(self.ended.error_code)}")
                        self.c.fail(f"Your server closed the connection, and nothing was wrong. Wanted: {what}.",
                                    got=name_of(self.ended.error_code), filter=self.goodbye)  # fmt: skip
                    await self.news()
        except TimeoutError:
            what = f"Nothing more came of your server. Wanted: {what}."
            raise CheckFailed(what, filter=self.packets) from None

    async def heard(self) -> None:
        """Wait until the server has read all that was put, or has ended the connection."""
        self._quic.send_ping(1)
        self.transmit()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE / 2):
                while not (self.ended or self.pong):
                    await self.news()

    async def news(self) -> None:
        self.more.clear()
        await self.more.wait()

    async def body(self, stream: int) -> bytes:
        await self.until(lambda: stream in self.whole or stream in self.resets, f"an answer on stream {stream}")
        if stream in self.resets:
            code = name_of(self.resets[stream])
            self.c.fail(f"Your server reset stream {stream}, and nothing was wrong.", got=code, filter=self.packets)
        self.c.did(f"< {len(self.came.get(stream, b'')):,} bytes on stream {stream}")
        return self.came.get(stream, b"")


def asked(path: str, method: str = "GET") -> list[tuple[bytes, bytes]]:
    return [(b":method", method.encode()), (b":scheme", b"https"), (b":authority", b"server.lab"),
            (b":path", path.encode())]  # fmt: skip


def name_of(code: int) -> str:
    return CODES.get(code) or str(talk.name_of(code))


@contextlib.asynccontextmanager
async def connected(c: Check, *, by_hand: bool = False) -> AsyncIterator[Client]:
    """A client, from the client host. *by_hand*: nothing is on its streams but what a step puts there."""
    if not any(program.output().startswith("listening") for program in c.programs):
        server = c.start("server_role", c.net.server.address, c.net.port)
        while not (server.output() or server.ended):  # noqa: ASYNC110  it is another process
            await asyncio.sleep(0.005)
    sock = c.net.client.socket(socket.SOCK_DGRAM, timeout=0)
    sock.bind((c.net.client.address, 0))
    transport, client = await asyncio.get_running_loop().create_datagram_endpoint(lambda: Client(c, by_hand), sock=sock)
    mine = f"udp.port == {sock.getsockname()[1]}"
    client.packets, client.goodbye = f"{mine} && http3", f"{mine} && quic.frame_type == 0x1d"
    try:
        client.connect((c.net.server.address, c.net.port))
        try:
            async with asyncio.timeout(PATIENCE / 2):
                await client.wait_connected()
        except (TimeoutError, ConnectionError):
            c.fail("No QUIC connection to the server around your pieces: does it still run?")
        yield client
    finally:
        client.close(NO_ERROR)
        transport.close()


@step(
    "On a socket: another author's client gets its answers",
    rfc="RFC 9114 §4.1, §6.2, §7; the QPACK in it is RFC 9204",
    symptom="A server around your pieces (talk.py) was asked by aioquic, over QUIC, and the answer was wrong.",
    where="Each stream's bytes go through a FrameDecoder of yours, the client's other streams through OneWay and "
    "Control. If fields are wrong: do all bytes of QPACK's streams come out of OneWay, once, and in order?",
    code="The steps above have all that is needed.\nRun the server (make http3-exercise), and ask it with gtlsclient, "
    "or with make http3-client ARGS=https://localhost:7007/hello",
    seconds=PATIENCE,
)
async def foreign_client(c: Check) -> None:
    async with connected(c) as client:
        assert client.h3
        fields = [(b"user-agent", b"aioquic"), (b"x-lab", b"http3"), (b"cookie", b"a=b; c=d")]
        for number in range(4):  # The second time QPACK's encoder puts fields into the table; then it refers to them.
            got = await client.body(client.request(f"/hello/{number}", *fields))
            wanted = talk.report([*asked(f"/hello/{number}"), *fields], 0, ())
            c.equal(got, wanted, "Your pieces made another request of it than aioquic sent.", filter=client.packets)
        stream = client.request("/", method="POST", ends=False)
        c.did("> 8 DATA frames of 5,000 bytes, and trailers")
        for _ in range(8):
            client.h3.send_data(stream, bytes(5000), end_stream=False)
        client.h3.send_headers(stream, [(b"x-sum", b"0")], end_stream=True)
        client.transmit()
        got = await client.body(stream)
        wanted = talk.report(asked("/", "POST"), 40000, [(b"x-sum", b"0")])
        c.equal(got, wanted, "Of an upload with trailers, something else came out.", filter=client.packets)
        got = await client.body(client.request("/bytes/50000"))
        c.equal(got, talk.some_bytes(50000), "A body of 50,000 bytes did not come as it should.", filter=client.packets)


@step(
    "On a socket: grease, crumbs, and what was given up",
    rfc="RFC 9114 §9: what is unknown is ignored; §6.2.3: STOP_SENDING; §4.1.1: a cancelled request costs no other",
    symptom="Frames and streams that mean nothing were among the others, a request came in crumbs, one was given up, "
    "one never came. None of that is an error of the connection, and your server closed it, or lost something.",
    where="The last lines that were told say what came. Steps of A, B and D have each of these moves alone.",
    code="The steps above have all that is needed.",
    seconds=PATIENCE,
)
async def grease_on_the_wire(c: Check) -> None:
    async with connected(c) as client:
        head = varint(HEADERS, 4) + varint(len(FIELDS), 2) + FIELDS
        client.put(14, varint(GREASE)[:1], told="half of a type")
        client.put(14, varint(GREASE)[1:] + b"grease", told="its other half: 0xbc, a type that means nothing")
        await client.until(lambda: 14 in client.stops, "STOP_SENDING for a stream that nobody reads")
        c.did(f"< STOP_SENDING for stream 14, {name_of(client.stops[14])}")
        client.put(18, b"\x40", True, told="half of a type, and the end")
        crumbs = wire(GREASE, b"gr") + head + wire(DATA, b"abc") + wire(GREASE) + wire(DATA, b"de")
        c.did(f"> stream 0: a request of {len(crumbs)} bytes, grease in it, each byte in a packet of its own")
        for at in range(len(crumbs)):
            client.put(0, crumbs[at : at + 1], at == len(crumbs) - 1)
        c.equal(
            await client.body(0),
            talk.report(SAYS, 5, ()),
            "A request that came in crumbs is another one.",
            filter=client.packets,
        )
        client.put(4, head + wire(DATA, b"abc", 1000), told="a head, 3 of 1000 bytes of DATA, and RESET_STREAM")
        client._quic.reset_stream(4, 0x10C)
        client.put(8, wire(GREASE, b"grease"), True, told="an unknown frame, and the end")
        await client.until(lambda: 8 in client.resets, "RESET_STREAM, for there was no request on stream 8")
        code = client.resets[8]
        if code != 0x10D:
            c.fail("A stream ended without a request, and was reset with another code.", got=name_of(code),
                   wanted="REQUEST_INCOMPLETE", filter=client.packets)  # fmt: skip
        c.did("< RESET_STREAM on stream 8 with REQUEST_INCOMPLETE")
        client.put(12, head + wire(GREASE, b"grease"), True, told="a request; the others must not have hurt it")
        c.equal(
            await client.body(12),
            talk.report(SAYS, 0, ()),
            "A request behind others that failed is another one.",
            filter=client.packets,
        )


@step(
    "On a socket: each error with its code",
    rfc="RFC 9114 §8: CONNECTION_CLOSE with one of the codes of §8.1",
    symptom="A client broke a rule of the connection, and learnt something else about it than what it was; or nothing.",
    where="The server of talk.py puts the code of your Http3Error into CONNECTION_CLOSE, and its peer's log has only "
    "this to go by.",
    code="raise Http3Error(FRAME_UNEXPECTED)",
    seconds=2 * PATIENCE,
)
async def errors_on_the_wire(c: Check) -> None:
    head = wire(HEADERS, FIELDS)
    cases: list[tuple[int, str, list[tuple[int, bytes, bool]]]] = [
        (0x106, "a stream ended within DATA", [(2, HELLO, False), (0, head + wire(DATA, b"abc", 4), True)]),
        (0x105, "DATA came before HEADERS", [(2, HELLO, False), (0, wire(DATA, b"abc"), False)]),
        (0x105, "a frame of HTTP/2's type PING came", [(2, HELLO + wire(6, bytes(8)), False)]),
        (0x103, "there was a second control stream", [(2, HELLO, False), (14, HELLO, False)]),
        (0x104, "the control stream ended", [(2, HELLO, True)]),
        (0x10A, "the control stream began with grease", [(2, b"\x00" + wire(GREASE) + wire(SETTINGS), False)]),
        (0x109, "a setting came twice", [(2, b"\x00" + wire(SETTINGS, b"\6\1\6\1"), False)]),
        (0x108, "GOAWAY rose", [(2, HELLO + wire(GOAWAY, b"\4") + wire(GOAWAY, b"\x08"), False)]),
        (0x107, "HEADERS said they had a gigabyte", [(2, HELLO, False), (0, wire(HEADERS, b"", 1 << 30), False)]),
    ]  # fmt: skip
    for code, why, puts in cases:
        async with connected(c, by_hand=True) as client:
            for stream, data, end in puts:
                client.put(stream, data, end, told=f"{asking.in_hex(data)}{', the end' if end else ''}")
            await client.heard()
            got = name_of(client.ended.error_code) if client.ended else "the connection goes on"
            c.did(f"< {'CONNECTION_CLOSE with ' * bool(client.ended)}{got}")
            if not client.ended or client.ended.error_code != code:
                c.fail(f"Wanted: CONNECTION_CLOSE with {CODES[code]}, because {why}.", got=got, wanted=CODES[code],
                       filter=client.goodbye if client.ended else client.packets)  # fmt: skip
