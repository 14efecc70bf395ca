"""Our HTTP/3 client: its core against two hundred servers in memory, then over UDP against others."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import hypothesis
import pytest
from aioquic.asyncio import QuicConnectionProtocol
from aioquic.asyncio.server import QuicServer
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic import events
from hypothesis import strategies as st

import certs
from certs.quic import quic_server
from clients.http3 import Client, main
from clients.http3_connection import Silent
from clients.quic import QuicError
from protocols import http2
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.http2_client import Data, End, Reset, Response
from protocols.http3 import ServerConnection
from protocols.http3_client import (
    CONTROL,
    DECODER,
    ENCODER,
    Abort,
    ClientConnection,
    Close,
    Consumed,
    GoAway,
    Stop,
    Write,
)
from protocols.http3_frames import Decoder, ErrorCode, Frame, FrameType, SettingCode, numbered, parse_settings, settings
from protocols.tls_numbers import Alert
from servers.http3 import serve
from servers.site import respond
from tests.conftest import TICK, need_tool
from tests.http3_client_cases import (
    ANSWER,
    BEGIN,
    CASES,
    INSERT,
    REFERS,
    SIZE,
    Case,
    Halt,
    On,
    Rst,
    S,
    control,
    data,
    fields,
    head,
    integer,
    on,
    opened,
)

GET = [(":method", "GET"), (":scheme", "https"), (":authority", "a.example"), (":path", "/")]


# -- The core, in memory -----------------------------------------------------------------------------


class Talk:
    """A client's core, and what a server does to it, step by step."""

    def __init__(self, **options) -> None:
        self.core = ClientConnection(**options)
        self.events, self.orders, self.given, self.error = [], self.core.orders(), {}, None
        self.has_more = True  # when the answer was found to be malformed

    def ask(self, method: str = "GET", end: bool = True) -> int:
        stream = self.core.send_request([(":method", method), *GET[1:]], end)
        self.orders += self.core.orders()
        return stream

    def step(self, step, size: int = 1 << 20) -> None:
        """*size*: in pieces of so many bytes."""
        match step:
            case On(stream, bytes_, end):
                pieces = [bytes_[i : i + size] for i in range(0, len(bytes_), size)] or [b""]
                for number, piece in enumerate(pieces, 1):
                    self.given[stream] = self.given.get(stream, 0) + len(piece)
                    is_end = end and number == len(pieces)
                    self.core.receive_data(stream, piece, is_end, 0.0)
                    self.take()
                    if stream == 0 and not self.found(Reset):
                        self.has_more = not is_end
                    elif stream == 0 and len(self.found(Reset)) == 1 and is_end and not self.found(Stop):
                        self.has_more = False
            case Rst(stream, code):
                self.core.receive_reset(stream, code)
            case Halt(stream, code):
                self.core.receive_stop(stream, code)
        self.take()

    def take(self) -> None:
        try:
            while (event := self.core.next_event()) is not None:
                self.events.append(event)
                if isinstance(event, Data):  # Somebody reads it at once.
                    self.core.consumed(event.stream, len(event.data))
        except RemoteProtocolError as error:
            self.error = error
        self.orders += self.core.orders()

    def found(self, kind: type, stream: int | None = None) -> list:
        return [one for one in self.events + self.orders if isinstance(one, kind) and stream in (None, one[0])]

    def body(self, stream: int = 0) -> bytes:
        return b"".join(event.data for event in self.found(Data, stream))

    def consumed(self) -> dict[int, int]:
        sums: dict[int, int] = {}
        for order in self.found(Consumed):
            sums[order.stream] = sums.get(order.stream, 0) + order.size
        return sums


@pytest.mark.parametrize("size", [1 << 20, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule(case: Case, size: int):
    """What the client does about it, for its caller and for the streams; and what becomes of the connection."""
    kind, code = case.outcome
    talk = Talk()
    assert talk.ask(case.method) == 0
    sent = len(talk.orders)
    if max(len(step.data) for step in [*case.steps, On(0, b"")] if isinstance(step, On)) > 3000:
        size = max(size, 97 if case.section != "10.5" else 9973)
    for step in [*(BEGIN if case.first is None else case.first), *case.steps]:
        talk.step(step, size)
    answers = [event for event in talk.found(Response) if event.status >= 200]
    if kind in ("close", "late"):
        assert talk.found(Close) == [Close(code, str(talk.error))]
        assert talk.error.code == code
        assert len(talk.error.args[0]) < 200
    else:
        assert talk.error is None
        assert not talk.found(Close)
    if kind in ("ok", "late"):
        assert ([event.status for event in answers], talk.body()) == ([case.status], case.body)
        assert len(talk.found(End)) == 1
        assert talk.found(Reset) == []
    if kind in ("reset", "theirs"):
        assert [event[:2] for event in talk.found(Reset)] == [(0, code)]
        assert talk.found(Reset)[0].by_server == (kind == "theirs")
        assert not talk.found(End)
        stop = [Stop(0, code)] if kind == "reset" and talk.has_more else []
        assert [order for order in talk.found(Stop) if order.stream == 0] == stop
        assert not talk.found(Abort)  # The request was sent whole.
    if kind == "wait":
        assert not talk.found(End)
        assert not talk.found(Reset)
    if kind in ("close", "late"):
        with pytest.raises(LocalProtocolError):
            talk.ask()
        return
    assert all(isinstance(order, Write | Stop | Consumed) for order in talk.orders[sent:])
    if not talk.core.goaway:  # The connection is as good as before.
        stream = talk.ask()
        talk.step(on(head(), data(b"again"), stream=stream), size)
        assert talk.body(stream) == b"again"
    if kind != "wait":  # All that came is given back to the windows, read or not, whatever became of it.
        assert {stream: size for stream, size in talk.consumed().items() if size} == {
            stream: size for stream, size in talk.given.items() if size
        }


def test_what_the_client_says_first():
    """§6.2.1: its control stream, SETTINGS; and QPACK's streams. No push is allowed: no MAX_PUSH_ID."""
    talk = Talk()
    streams: dict[int, bytes] = {}
    for stream, bytes_, end in talk.orders:
        streams[stream] = streams.get(stream, b"") + bytes_
        assert not end
    assert {stream: bytes_[0] for stream, bytes_ in streams.items()} == {2: S.CONTROL, 6: S.QPACK_ENCODER, 10: 3}
    decoder = Decoder()
    decoder.receive_data(streams[2][1:])
    (frame,) = decoder.frames()
    told = parse_settings(frame.payload)
    assert (frame.type, told[SettingCode.QPACK_MAX_TABLE_CAPACITY]) == (FrameType.SETTINGS, 4096)
    assert len(streams[6]) == len(streams[10]) == 1


def test_requests_and_what_is_sent():
    talk = Talk()
    assert [talk.ask(), talk.ask("POST", end=False)] == [0, 4]
    talk.core.send_data(4, b"some")
    talk.core.send_data(4, b"", True)
    talk.core.send_data(4, b"too late", True)
    *_, first, second, third, fourth = talk.orders + talk.core.orders()
    assert (first.stream, first.end, first.data[0]) == (0, True, FrameType.HEADERS)
    assert (second.stream, second.end) == (4, False)
    assert (third, fourth) == (Write(4, b"\0\4some"), Write(4, b"", True))


def test_the_server_may_take_less_than_we_want_to_send():
    talk = Talk()
    talk.step(opened(S.CONTROL, settings({6: 150}), stream=3))
    with pytest.raises(LocalProtocolError, match="150 bytes of fields"):
        talk.ask()
    assert talk.core.send_request(GET[:2], True) == 0  # It fits; and nothing was used up by the one that did not.


def test_qpack_remembers_what_was_sent():
    """§2.1 of RFC 9204: the second request is two bytes of prefix and one for each field, when the server allows it."""
    talk = Talk()
    pairs = [*GET, ("user-agent", "a client with a long name"), ("x-secret", "of which nobody knows")]
    talk.step(opened(S.CONTROL, settings({1: 1 << 20, 7: 100}), stream=3))
    sizes = []
    for _ in range(3):
        talk.core.send_request(pairs, True)
        writes = [order for order in talk.core.orders() if isinstance(order, Write)]
        sizes.append(len(writes[-1].data))
    assert sizes[0] > 40
    assert sizes[2] <= 2 + 2 + len(pairs)


def test_no_table_without_leave():
    """RFC 9204 §3.2.3: before SETTINGS, and where they allow none, nothing is put into the server's table."""
    for first in ([], [opened(S.CONTROL, settings({}), stream=3)]):
        talk = Talk()
        for step in first:
            talk.step(step)
        for _ in range(5):
            talk.ask()
        assert b"".join(
            order.data for order in talk.orders if order.stream == ENCODER and isinstance(order, Write)
        ) == (bytes([S.QPACK_ENCODER]))


def test_goaway():
    """§5.2: what is below goes on; what is not was never looked at; and nothing new is asked."""
    talk = Talk()
    for _ in range(3):
        talk.ask()
    talk.step(BEGIN[0])
    talk.step(control(numbered(FrameType.GOAWAY, 4)))
    assert talk.events == [GoAway(4)]
    assert not talk.core.is_usable
    assert [talk.core.is_open(stream) for stream in (0, 4, 8)] == [True, False, False]
    assert [order.stream for order in talk.found(Stop)] == [4, 8]
    talk.step(on(*ANSWER))
    assert talk.body() == b"ok"
    with pytest.raises(LocalProtocolError, match="no more requests"):
        talk.ask()


def test_giving_up():
    """§4.1.1: in both directions what is not done yet; QPACK is told; what still comes is dropped, and counted."""
    talk = Talk()
    for step in BEGIN:
        talk.step(step)
    talk.ask("POST", end=False)
    talk.step(on(head(), b"\0\x10half", end=False))
    talk.core.reset(0)
    talk.core.reset(0)
    orders = talk.core.orders()
    assert [order for order in orders if isinstance(order, Abort | Stop)] == [Abort(0, 0x10C), Stop(0, 0x10C)]
    assert [order for order in orders if isinstance(order, Write)] == [Write(DECODER, b"\x40")]
    talk.orders += orders
    talk.step(On(0, b"of a frame", True))
    talk.step(Rst(0, 0x10C))
    assert not talk.found(Reset)
    assert talk.consumed()[0] == talk.given[0]


def test_a_request_that_is_not_wanted_whole():
    """§4.1: the server may answer, and say that it needs no more. The answer counts."""
    talk = Talk()
    talk.ask("POST", end=False)
    assert talk.core.is_sending(0)
    talk.step(Halt(0, ErrorCode.NO_ERROR))
    assert not talk.core.is_sending(0)
    talk.core.send_data(0, b"more")
    talk.step(on(*ANSWER))
    assert talk.body() == b"ok"
    assert not talk.core.is_open(0)
    assert not [order for order in talk.orders if isinstance(order, Abort | Stop | Close)]
    assert [order for order in talk.found(Write, 0) if b"more" in order.data] == []


def test_only_who_refers_to_what_is_missing_waits():
    """RFC 9204 §2.1.2: and while it waits, what it has sent is not given back to its window."""
    talk = Talk()
    for step in BEGIN:
        talk.step(step)
    for _ in range(2):
        talk.ask()
    body = Frame(FrameType.DATA, b"x" * 5000)
    talk.step(on(Frame(FrameType.HEADERS, REFERS[:2] + b"\xd9\x80"), body, stream=0))
    assert talk.consumed().get(0, 0) < 100
    talk.step(on(*ANSWER, stream=4))
    assert [event.stream for event in talk.found(End)] == [4]
    talk.step(opened(S.QPACK_ENCODER, SIZE, INSERT, stream=7))
    assert talk.found(Response, 0)[0].fields == {"x-a": "yes"}
    assert talk.body() == b"x" * 5000
    assert talk.consumed()[0] == talk.given[0]
    assert Write(DECODER, b"\x80") in talk.orders  # §4.4.1: the section of stream 0 is read


def test_a_small_section_that_would_be_hundreds_of_megabytes():
    """One entry of 4 KB, and 60,000 bytes that each mean it: counted before it is unpacked."""
    talk = Talk()
    talk.ask()
    talk.step(opened(S.QPACK_ENCODER, SIZE, b"\x43x-a" + integer(4000, 7) + b"v" * 4000, stream=7))
    talk.step(on(head(), Frame(FrameType.HEADERS, b"\x02\0" + b"\x80" * 60_000), end=False))
    assert [(event.stream, event.code) for event in talk.found(Reset)] == [(0, ErrorCode.EXCESSIVE_LOAD)]


def test_patience_comes_back():
    """A thousand useless frames at once are too many; a hundred per second are not, however long it takes."""
    talk = Talk()
    talk.step(BEGIN[0])
    useless = control(*[Frame(0x1234)] * 100)
    for second in range(100):
        talk.core.receive_data(3, useless.data, False, float(second))
    assert talk.core.next_event() is None
    for _ in range(11):
        talk.core.receive_data(3, useless.data, False, 100.0)
    with pytest.raises(RemoteProtocolError, match="brings nothing"):
        talk.core.next_event()


def test_after_a_connection_error_nothing_counts():
    talk = Talk()
    talk.ask()
    talk.step(on(stream=1))
    before = list(talk.orders)
    for step in (on(*ANSWER), Rst(0, 1), Halt(0, 1), Halt(CONTROL, 1), on(data(), stream=1)):
        talk.step(step)
    talk.core.reset(0)
    talk.core.close()
    assert talk.orders + talk.core.orders() == before
    assert talk.events == []


def test_trailers_and_interim_answers():
    talk = Talk()
    talk.ask()
    talk.step(on(head(("link", "</a>"), status="103"), *ANSWER, fields(("digest", "abc"))))
    hint, answer, *_, end = talk.events
    assert (hint.status, hint.fields) == (103, {"link": "</a>"})
    assert (answer.status, answer.fields) == (200, {"content-length": "2"})
    assert end == End(0, [("digest", "abc")])


class Transport:
    """QUIC, as far as the server's core asks it: what is written waits for its turn on the way."""

    def __init__(self) -> None:
        self.way: dict[int, list[tuple[bytes, bool]]] = {}
        self._next = 3

    def get_next_available_stream_id(self, is_unidirectional: bool = False) -> int:
        self._next += 4
        return self._next - 4

    def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:
        self.way.setdefault(stream_id, []).append((bytes(data), end_stream))

    def consume(self, stream: int, count: int) -> None:
        pass

    def window(self, stream: int) -> int:
        return 1 << 20

    def allowance(self) -> int:
        return 1 << 20

    def set_place(self, stream: int, place: tuple[int, ...]) -> None:
        pass

    def reset_stream(self, *_: int) -> None:
        raise AssertionError("nobody has reason to")

    stop_stream = close = reset_stream


class Both:
    """Both cores, joined by a network that brings the streams in any order, in pieces of any size."""

    def __init__(self, seed: int) -> None:
        self.rng, self.us, self.quic = random.Random(seed), Talk(), Transport()
        self.server = ServerConnection(self.quic)
        self.forth: dict[int, list[tuple[bytes, bool]]] = {}
        self.heads, self.bodies = {}, {}
        self.blocked = {"server": 0, "client": 0}  # how often something had to wait for QPACK's table
        self._post()

    def _post(self) -> None:
        """What the client has written is on its way."""
        for order in self.us.found(Write):
            self.forth.setdefault(order.stream, []).append((order.data, order.end))
        self.us.orders = [order for order in self.us.orders if not isinstance(order, Write)]

    def ask(self, pairs: list[tuple[str, str]], body: bytes) -> int:
        stream = self.us.core.send_request([(":method", "POST"), *GET[1:], *pairs], False)
        self.us.core.send_data(stream, body, True)
        self.us.take()
        self._post()
        return stream

    def carry(self) -> bool:
        """A piece of something, one way or the other. False: nothing is on its way."""
        ways = [(way, to) for way, to in ((self.forth, self._to_server), (self.quic.way, self._to_client)) if way]
        if not ways:
            return False
        way, receive = self.rng.choice(ways)
        stream = self.rng.choice(list(way))
        data, end = way[stream].pop(0)
        cut = self.rng.randrange(1, len(data) + 1) if data else 0
        if cut < len(data):
            way[stream].insert(0, (data[cut:], end))
        elif not way[stream]:
            del way[stream]
        receive(stream, data[:cut], end and cut == len(data))
        return True

    def _to_client(self, stream: int, data: bytes, end: bool) -> None:
        self.us.step(On(stream, data, end))
        self._post()
        self.blocked["client"] += any(one.waits for one in self.us.core._requests.values())

    def _to_server(self, stream: int, data: bytes, end: bool) -> None:
        self.server.receive_data(stream, data, end, 0.0)
        while event := self.server.next_event(0.0):
            if isinstance(event, http2.Request):
                self.heads[event.stream], self.bodies[event.stream] = event.head, b""
            elif isinstance(event, http2.Data):
                self.bodies[event.stream] += event.data
                self.server.acknowledge(event.stream, event.size)
            if isinstance(event, http2.Request | http2.Data) and event.whole:
                back = [(name, value) for name, value in self.heads[event.stream].pairs if name.startswith("x-")]
                self.server.send_head(event.stream, 200, back)
                body = self.bodies[event.stream] * 3
                self.server.send_data(event.stream, body, 0.0, end=True, trailers=[("x-t", str(event.stream))])
        self.server.send(0.0)
        self.blocked["server"] += any(one.waits for one in self.server.streams.values())


@pytest.mark.parametrize("seed", range(5))
def test_with_the_servers_core(seed):
    """QPACK's tables fill up on both sides, sections wait for entries that are late, and all comes out right."""
    both, asked = Both(seed), {}
    for _ in range(30):
        pairs = [("x-common", "the same in each"), (f"x-{both.rng.randrange(5)}", "v" * both.rng.randrange(200))]
        body = both.rng.randbytes(both.rng.randrange(3000))
        asked[both.ask(pairs, body)] = pairs, body
        for _ in range(both.rng.randrange(40)):
            both.carry()
    while both.carry():
        pass
    us = both.us
    assert us.error is None
    for stream, (pairs, body) in asked.items():
        (response,) = us.found(Response, stream)
        assert (response.status, response.pairs) == (200, pairs)
        assert us.body(stream) == body * 3
        assert us.found(End, stream) == [End(stream, [("x-t", str(stream))])]
    assert {stream: size for stream, size in us.consumed().items() if size} == us.given
    assert all(both.blocked.values())


@hypothesis.given(
    st.lists(st.tuples(st.sampled_from([0, 1, 3, 4, 7, 11, 15, 19]), st.binary(max_size=40), st.booleans()))
)
def test_garbage_raises_nothing_else(steps):
    talk = Talk()
    talk.ask()
    ended = set()
    for stream, bytes_, end in steps:
        if stream not in ended:
            talk.step(On(stream, bytes_, end))
        if end:
            ended.add(stream)


@hypothesis.given(
    st.lists(
        st.tuples(st.sampled_from([FrameType.DATA, FrameType.HEADERS, 0x21, FrameType.GOAWAY]), st.binary(max_size=30)),
        max_size=20,
    )
)
def test_any_frames_raise_nothing_else(frames):
    talk = Talk()
    talk.ask()
    talk.step(BEGIN[0])
    talk.step(on(head(), *[Frame(kind, payload) for kind, payload in frames]), 3)


# -- Over UDP: servers by hand, on aioquic's QUIC ----------------------------------------------------

LONG = 600 * TICK  # what may happen at once gets this long on a busy machine


class Peer(QuicConnectionProtocol):
    """The server's end of one connection, frame by frame. *behave* is called once the client has made itself known."""

    behave: Callable[[Peer], Awaitable[None]]

    def __init__(self, *arguments, **more) -> None:
        super().__init__(*arguments, **more)
        self.heard: list[events.QuicEvent] = []
        self.early: set[int] = set()  # streams that began before the handshake was complete
        self.task: asyncio.Task | None = None
        self.is_complete = False
        self._news = asyncio.Event()
        self._asked = -4

    def quic_event_received(self, event: events.QuicEvent) -> None:
        self.heard.append(event)
        if isinstance(event, events.HandshakeCompleted):
            self.is_complete = True
        if isinstance(event, events.StreamDataReceived) and not self.is_complete:
            self.early.add(event.stream_id)
        if self.task is None and isinstance(event, events.ProtocolNegotiated):
            self.task = asyncio.create_task(self.behave(self))
        self._news.set()

    async def until(self, is_true: Callable[[], object]) -> None:
        while not is_true():
            if self.ended:
                raise ConnectionResetError(f"the client has closed: {self.ended}")
            self._news.clear()
            await self._news.wait()

    @property
    def ended(self) -> events.ConnectionTerminated | None:
        found = [event for event in self.heard if isinstance(event, events.ConnectionTerminated)]
        return found[0] if found else self._quic._close_event

    async def end(self) -> events.ConnectionTerminated:
        """Wait for the client's CONNECTION_CLOSE; its event comes only after three timeouts."""
        while self._quic._close_event is None:  # noqa: ASYNC110
            await asyncio.sleep(TICK / 10)
        return self._quic._close_event

    async def request(self) -> int:
        """The stream of the next request."""
        self._asked += 4
        await self.until(lambda: self.on(self._asked))
        return self._asked

    def on(self, stream: int, kind: type = events.StreamDataReceived) -> list:
        return [event for event in self.heard if isinstance(event, kind) and event.stream_id == stream]

    async def whole(self, stream: int) -> list[Frame]:
        """All frames of a stream, when it has ended."""
        await self.until(lambda: self.on(stream) and self.on(stream)[-1].end_stream)
        decoder = Decoder(1 << 24)
        decoder.receive_data(b"".join(event.data for event in self.on(stream)))
        return list(decoder.frames())

    def step(self, *steps) -> None:
        for step in steps:
            match step:
                case On(stream, bytes_, end):
                    self._quic.send_stream_data(stream, bytes_, end)
                case Rst(stream, code):
                    self._quic.reset_stream(stream, code)
                case Halt(stream, code):
                    self._quic.stop_stream(stream, code)
        self.transmit()

    def answer(self, stream: int, body: bytes = b"ok") -> None:
        self.step(on(head(), data(body), stream=stream))


Behave = Callable[[Peer], Awaitable[None]]


@contextlib.asynccontextmanager
async def server_that(behave: Behave, **settings) -> AsyncIterator[str]:
    """A server by hand; its URL. *behave* is called for each connection. What it asserts fails the test."""
    peers: list[Peer] = []
    tickets: dict = {}

    def made(*arguments, **more) -> Peer:
        peers.append(Peer(*arguments, **more))
        peers[-1].behave = behave
        return peers[-1]

    configuration = quic_server(alpn=["h3"])
    for name, value in settings.items():
        setattr(configuration, name, value)
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: QuicServer(
            configuration=configuration, create_protocol=made, session_ticket_fetcher=tickets.get,
            session_ticket_handler=lambda ticket: tickets.update({ticket.ticket: ticket}),
        ),
        local_addr=("127.0.0.1", 0),
    )  # fmt: skip
    wrong: list[BaseException] = []
    try:
        yield f"https://127.0.0.1:{transport.get_extra_info('sockname')[1]}/"
    finally:
        for peer in peers:
            if peer.task:
                if not peer.task.done():
                    await asyncio.wait([peer.task], timeout=10 * TICK)
                peer.task.cancel()
                await asyncio.wait([peer.task])
                error = None if peer.task.cancelled() else peer.task.exception()
                if error and not isinstance(error, ConnectionError):
                    wrong.append(error)
            if peer._timer:
                peer._timer.cancel()
        server.close()
        await asyncio.sleep(0)
    if wrong:
        raise wrong[0]


@contextlib.asynccontextmanager
async def client(**options):
    async with asyncio.timeout(LONG), Client(**{"timeout": LONG, "patience": LONG, **options}) as it:
        yield it


async def begin(peer: Peer) -> None:
    """SETTINGS, and the streams of QPACK."""
    peer.step(*BEGIN, opened(S.QPACK_ENCODER, stream=7), opened(S.QPACK_DECODER, stream=11))


def over_udp(case: Case) -> bool:
    """What aioquic's QUIC lets a server do, and what the order of streams does not change."""
    streams = {step.stream for step in [*(case.first or []), *case.steps]}
    if case.section == "10.5":  # It depends on the time that passes.
        return False
    if case.outcome.kind == "close":  # Of two streams the one with the good answer may come first.
        return len(streams) == 1 and streams <= {0, 3, 7, 11, 15}
    return streams <= {0, 3, 7, 11, 15} and case.outcome.kind in ("ok", "reset", "theirs")


@pytest.mark.parametrize("case", [case for case in CASES if over_udp(case)][::11], ids=lambda case: case.name)
async def test_rule_over_udp(case: Case):
    """Some of the cases again, on the wire: what the server sees, and what the caller gets."""
    kind, code = case.outcome
    seen = {}

    async def behave(peer: Peer) -> None:
        assert await peer.request() == 0
        peer.step(*(BEGIN if case.first is None else case.first), *case.steps)
        if kind == "close":
            seen["end"] = (await peer.end()).error_code
        elif not any(step.stream == 3 and isinstance(step, On) for step in case.steps):
            peer.answer(await peer.request(), b"again")

    async with server_that(behave) as url, client() as us:
        if kind == "ok":
            answer = await us.request(case.method, url)
            assert (answer.status, answer.body) == (case.status, case.body)
        else:
            with pytest.raises(RemoteProtocolError) as caught:
                await us.request(case.method, url)
            assert caught.value.code == code
        if kind != "close" and not any(step.stream == 3 and isinstance(step, On) for step in case.steps):
            assert (await us.request("GET", url)).body == b"again"
    assert seen.get("end") == (code if kind == "close" else None)


# -- Many at once ------------------------------------------------------------------------------------


async def test_a_hundred_at_once_on_one_connection_and_their_answers_in_any_order():
    connections = 0

    async def behave(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await begin(peer)
        streams = [await peer.request() for _ in range(100)]
        for stream in reversed(streams):
            peer.answer(stream, b"%d" % stream)

    async with server_that(behave) as url, client() as us:
        answers = await asyncio.gather(*(us.request("GET", url) for _ in range(100)))
        assert [answer.body for answer in answers] == [b"%d" % stream for stream in range(0, 400, 4)]
    assert connections == 1


async def test_no_more_streams_than_the_server_allows():
    """RFC 9000 §4.6: the next one waits until one has ended."""
    async with serve(max_streams=3) as server, client() as us:
        url = f"https://127.0.0.1:{server.address[1]}/"
        answers = await asyncio.gather(*(us.request("GET", url + "bytes/1000") for _ in range(20)))
        assert {len(answer.body) for answer in answers} == {1000}


async def test_a_body_that_nobody_reads_holds_up_only_its_own_stream():
    async with serve() as server, client(window=100_000) as us:
        url = f"https://127.0.0.1:{server.address[1]}/bytes/"
        async with us.stream("GET", url + "1000000") as stalled:
            answer = await us.request("GET", url + "3000000")
            assert len(answer.body) == 3_000_000
            assert sum([len(piece) async for piece in stalled.body]) == 1_000_000


async def test_what_nobody_reads_is_not_asked_for():
    """The window is filled once, and no further, however long it stays unread."""

    async def behave(peer: Peer) -> None:
        await begin(peer)
        stream = await peer.request()
        peer.step(on(head(), data(b"x" * 1_000_000), stream=stream))
        await filled.wait()
        sender = peer._quic._streams[stream].sender
        sent.append(sender._buffer_start)  # acknowledged
        go.set()

    filled, go, sent = asyncio.Event(), asyncio.Event(), []
    async with server_that(behave) as url, client(window=100_000) as us, us.stream("GET", url) as answer:
        await asyncio.sleep(4 * TICK)
        filled.set()
        await go.wait()
        assert 0 < sent[0] <= 101_000
        assert sum([len(piece) async for piece in answer.body]) == 1_000_000


async def test_who_leaves_tells_the_server():
    async def behave(peer: Peer) -> None:
        await begin(peer)
        stream = await peer.request()
        peer.step(on(head(), data(b"x" * 10), stream=stream, end=False))
        await peer.until(lambda: peer.on(stream, events.StopSendingReceived))
        assert peer.on(stream, events.StopSendingReceived)[0].error_code == ErrorCode.REQUEST_CANCELLED
        peer.answer(await peer.request())

    async with server_that(behave) as url, client() as us:
        async with us.stream("GET", url) as answer:
            assert await anext(answer.body) == b"x" * 10
        assert (await us.request("GET", url)).body == b"ok"


# -- Bodies of requests ------------------------------------------------------------------------------


async def pieces(*found: bytes) -> AsyncIterator[bytes]:
    for piece in found:
        yield piece


async def test_uploads():
    whole = hashlib.shake_128(b"x").digest(5_000_000)
    async with serve(max_body=10_000_000) as server, client() as us:
        url = f"https://127.0.0.1:{server.address[1]}/upload"
        for body in (whole, pieces(whole[:1000], b"", whole[1000:3_000_000], whole[3_000_000:])):
            answer = await us.request("POST", url, body=body)
            assert answer.status == 200
            assert hashlib.sha256(whole).hexdigest() in answer.body.decode()


async def test_a_body_is_framed_and_ended():
    async def behave(peer: Peer) -> None:
        await begin(peer)
        for want in ([b"one", b"two"], [b"abc"], []):
            frames = await peer.whole(await peer.request())
            assert [frame.payload for frame in frames[1:]] == want
            peer.answer(peer._asked)

    async with server_that(behave) as url, client() as us:
        for body in (pieces(b"one", b"two"), b"abc", b""):
            assert (await us.request("POST", url, body=body)).status == 200


async def test_no_more_is_sent_than_the_server_takes():
    """Its window is shut: our body is not read on, either."""
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 10_000
            yield bytes(10_000)

    async def behave(peer: Peer) -> None:
        peer._quic._write_stream_limits = lambda *_, **__: None  # aioquic would open the window further
        await begin(peer)
        await peer.request()
        await done.wait()

    done = asyncio.Event()
    async with server_that(behave, max_stream_data=100_000) as url, client(timeout=10 * TICK) as us:
        with pytest.raises(TimeoutError):
            await us.request("POST", url, body=endless())
        done.set()
    assert 200_000 < taken < 2_000_000


async def test_an_answer_may_come_before_the_body_is_sent():
    """§4.1: 413, and STOP_SENDING with NO_ERROR. The answer counts, and the body is not read on."""
    closed = False

    async def endless() -> AsyncIterator[bytes]:
        nonlocal closed
        try:
            while True:
                yield bytes(10_000)
        finally:
            closed = True

    async def behave(peer: Peer) -> None:
        await begin(peer)
        stream = await peer.request()
        peer.step(Halt(stream, ErrorCode.NO_ERROR), on(head(status="413"), data(b"no"), stream=stream))
        peer.answer(await peer.request())

    async with server_that(behave) as url, client() as us:
        answer = await us.request("POST", url, body=endless())
        assert (answer.status, answer.body, closed) == (413, b"no", True)
        assert (await us.request("GET", url)).body == b"ok"


async def test_a_body_that_raises_is_no_whole_body():
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ValueError("of the body")

    async def behave(peer: Peer) -> None:
        await begin(peer)
        stream = await peer.request()
        await peer.until(lambda: peer.on(stream, events.StreamReset))
        peer.answer(await peer.request())

    async with server_that(behave) as url, client() as us:
        with pytest.raises(ValueError, match="of the body"):
            await us.request("POST", url, body=broken())
        assert (await us.request("GET", url)).body == b"ok"


async def test_continue():
    """RFC 9110 §10.1.1: the body waits for 100, but not for ever."""

    async def behave(peer: Peer) -> None:
        await begin(peer)
        stream = await peer.request()
        peer.step(on(head(status="100"), stream=stream, end=False))
        assert (await peer.whole(stream))[1].payload == b"body"
        peer.answer(stream)
        stream = await peer.request()
        assert (await peer.whole(stream))[1].payload == b"body"
        peer.answer(stream)

    async with server_that(behave) as url, client(expect_seconds=TICK) as us:
        answer = await us.request("POST", url, body=b"body", expect=True)
        assert answer.interim == [(100, [])]
        assert (await us.request("POST", url, body=b"body", expect=True)).interim == []


async def test_hints_and_trailers():
    async def behave(peer: Peer) -> None:
        await begin(peer)
        peer.step(
            on(
                head(("link", "</a>"), status="103"),
                head(),
                data(),
                fields(("digest", "x")),
                stream=await peer.request(),
            )
        )

    async with server_that(behave) as url, client() as us, us.stream("GET", url) as answer:
        assert answer.interim == [(103, [("link", "</a>")])]
        assert [piece async for piece in answer.body] == [b"ok"]
        assert answer.trailers == [("digest", "x")]


# -- What may be asked again -------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("how", ["GOAWAY", "REQUEST_REJECTED"])
async def test_what_was_not_looked_at_is_asked_again(how, method):
    """§5.2, §4.1.1: whatever the method. After GOAWAY on another connection."""
    connections = 0

    async def behave(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await begin(peer)
        stream = await peer.request()
        if connections == 1 and how == "GOAWAY":
            peer.step(control(numbered(FrameType.GOAWAY, stream)))
        elif connections == 1:
            peer.step(Rst(stream, ErrorCode.REQUEST_REJECTED), Halt(stream, ErrorCode.REQUEST_REJECTED))
            peer.answer(await peer.request())
        else:
            peer.answer(stream)

    async with server_that(behave) as url, client() as us:
        assert (await us.request(method, url, body=b"x" if method == "POST" else None)).body == b"ok"
    assert connections == (2 if how == "GOAWAY" else 1)


async def test_goaway_lets_finish_what_was_taken():
    connections = 0

    async def behave(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await begin(peer)
        stream = await peer.request()
        if connections == 1:
            peer.step(control(numbered(FrameType.GOAWAY, stream + 4)), on(head(), stream=stream, end=False))
            await second.wait()
            peer.step(on(data(b"first"), stream=stream))
            assert (await peer.end()).error_code == ErrorCode.NO_ERROR  # Nothing is left to do on it.
        else:
            peer.answer(stream, b"second")
            second.set()

    second = asyncio.Event()
    async with server_that(behave) as url, client() as us, us.stream("GET", url) as first:
        assert (await us.request("GET", url)).body == b"second"
        assert [piece async for piece in first.body] == [b"first"]


async def test_what_was_reset_is_not_asked_again():
    """The server may have done it, and one that always says REQUEST_REJECTED is not asked for ever."""
    requests = 0

    async def behave(peer: Peer) -> None:
        nonlocal requests
        await begin(peer)
        peer.step(Rst(await peer.request(), ErrorCode.INTERNAL_ERROR))
        while True:
            peer.step(Rst(await peer.request(), ErrorCode.REQUEST_REJECTED))
            requests += 1

    async with server_that(behave) as url, client() as us:
        with pytest.raises(RemoteProtocolError, match="H3_INTERNAL_ERROR"):
            await us.request("GET", url)
        with pytest.raises(RemoteProtocolError, match="H3_REQUEST_REJECTED"):
            await us.request("GET", url)
    assert requests == 10


async def test_a_server_that_never_takes_anything_is_not_asked_for_ever():
    """GOAWAY for all, on each connection, before anything could be sent."""
    connections = 0

    async def behave(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        peer.step(BEGIN[0], control(numbered(FrameType.GOAWAY, 0)))
        await peer.end()

    async with server_that(behave) as url, client(timeout=60 * TICK) as us:
        with pytest.raises(RemoteProtocolError, match="takes no"):
            await us.request("GET", url)
    assert connections <= 11


async def test_the_server_closes_and_says_why():
    async def behave(peer: Peer) -> None:
        await begin(peer)
        await peer.request()
        peer._quic.close(ErrorCode.EXCESSIVE_LOAD, reason_phrase="enough")
        peer.transmit()

    async with server_that(behave) as url, client() as us:
        with pytest.raises(
            RemoteProtocolError, match="the server has closed the connection: H3_EXCESSIVE_LOAD: enough"
        ) as caught:
            await us.request("POST", url, body=b"x")
        assert caught.value.code == ErrorCode.EXCESSIVE_LOAD


async def test_quic_closes_and_says_why():
    """An error of the transport, and not of HTTP/3: all that is under way hears of it."""

    async def behave(peer: Peer) -> None:
        await begin(peer)
        for _ in range(2):
            await peer.request()
        peer._quic.close(1, frame_type=0, reason_phrase="a mistake")
        peer.transmit()

    async with server_that(behave) as url, client() as us:
        asked = [us.request("POST", url, body=b"x") for _ in range(2)]
        for error in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(error, RemoteProtocolError)
            assert "INTERNAL_ERROR (0x1): a mistake" in str(error)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_it_was_closed_while_it_was_idle(method):
    """§5.1: at any moment, even while the next request is on its way. What may run twice is asked once more."""
    connections = 0

    async def behave(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await begin(peer)
        peer.answer(await peer.request())
        await peer.request()
        peer._quic.close(ErrorCode.NO_ERROR)
        peer.transmit()

    body = b"x" if method == "POST" else None
    async with server_that(behave) as url, client() as us:
        await us.request("GET", url)
        if method == "POST":
            with pytest.raises(RemoteProtocolError, match="the server has closed the connection: H3_NO_ERROR"):
                await us.request(method, url, body=body)
        else:
            assert (await us.request(method, url)).body == b"ok"
    assert connections == (1 if method == "POST" else 2)


async def test_in_the_middle_of_an_answer():
    async def behave(peer: Peer) -> None:
        await begin(peer)
        peer.step(on(head(), data(), stream=await peer.request(), end=False))
        await got.wait()
        peer._quic.close(ErrorCode.INTERNAL_ERROR)
        peer.transmit()

    got = asyncio.Event()
    async with server_that(behave) as url, client() as us, us.stream("GET", url) as answer:
        assert await anext(answer.body) == b"ok"
        got.set()
        with pytest.raises(RemoteProtocolError, match="in the middle of the answer"):
            await anext(answer.body)


# -- Is anybody there? -------------------------------------------------------------------------------


def deaf() -> socket.socket:
    """A port where somebody listens, and never says anything: what a firewall makes of all UDP."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


async def test_nobody_answers():
    with deaf() as sock:
        url = f"https://127.0.0.1:{sock.getsockname()[1]}/"
        async with client(patience=4 * TICK) as us:
            with pytest.raises(Silent, match="nothing came back"):
                await us.request("GET", url)
    async with client() as us:  # ICMP says that nobody listens
        with pytest.raises(ConnectionRefusedError):
            await us.request("GET", url)


async def test_a_slow_server_is_there():
    """It acknowledges, and so it is waited for, far longer than patience."""

    async def behave(peer: Peer) -> None:
        await begin(peer)
        stream = await peer.request()
        await asyncio.sleep(36 * TICK)
        peer.answer(stream)

    async with server_that(behave) as url, client(patience=16 * TICK) as us:
        assert (await us.request("GET", url)).body == b"ok"


async def test_a_server_that_goes_silent_is_noticed():
    async def behave(peer: Peer) -> None:
        await begin(peer)
        await peer.request()
        peer._transport = None
        peer.transmit = lambda: None
        peer._quic.receive_datagram = lambda *_, **__: None

    async with server_that(behave) as url, client(patience=5 * TICK) as us:
        with pytest.raises(Silent):
            await us.request("GET", url)


async def test_in_time_or_not():
    async def behave(peer: Peer) -> None:
        await begin(peer)
        await peer.request()
        peer.answer(await peer.request())

    async with server_that(behave) as url:
        async with client(timeout=4 * TICK) as us:
            with pytest.raises(TimeoutError):
                await us.request("GET", url)


async def test_an_idle_connection_is_closed_and_another_opened():
    connections = 0

    async def behave(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await begin(peer)
        peer.answer(await peer.request())
        assert (await peer.end()).error_code == ErrorCode.NO_ERROR
        closed.set()

    closed = asyncio.Event()
    async with server_that(behave) as url, client(idle_seconds=TICK) as us:
        for _ in range(2):
            assert (await us.request("GET", url)).body == b"ok"
            await closed.wait()
            closed.clear()
    assert connections == 2


# -- 0-RTT -------------------------------------------------------------------------------------------


async def test_what_changes_nothing_goes_out_with_the_first_flight():
    """RFC 8470 §2.1: a GET may; a POST waits for the handshake, and both use the same connection."""
    early = []

    async def behave(peer: Peer) -> None:
        await begin(peer)
        for _ in range(2):
            peer.answer(await peer.request())
        early.append(peer.early & {0, 4})
        await peer.end()

    tickets = {}
    async with server_that(behave) as url:
        for _ in range(2):
            async with client(tickets=tickets) as us:
                answers = await asyncio.gather(us.request("GET", url), us.request("POST", url, body=b"x"))
                assert [answer.body for answer in answers] == [b"ok", b"ok"]
        await asyncio.sleep(0)
    assert early == [set(), {0}]


async def test_not_if_that_is_not_wanted():
    early = []

    async def behave(peer: Peer) -> None:
        await begin(peer)
        peer.answer(await peer.request())
        early.append(peer.early & {0})

    tickets = {}
    async with server_that(behave) as url:
        for _ in range(2):
            async with client(tickets=tickets, early=False) as us:
                assert (await us.request("GET", url)).body == b"ok"
    assert early == [set(), set()]


async def test_too_early():
    """RFC 8470 §5.2: 425 is asked again when the handshake is complete; only if it was early, and only once."""
    statuses = iter(["200", "425", "200", "425", "425"])
    seen = []

    async def behave(peer: Peer) -> None:
        await begin(peer)
        while True:
            stream = await peer.request()
            seen.append(stream in peer.early)
            peer.step(on(head(status=next(statuses)), data(), stream=stream))

    tickets = {}
    async with server_that(behave) as url:
        for status in (200, 200, 425):
            async with client(tickets=tickets) as us:
                assert (await us.request("GET", url)).status == status
    assert seen == [False, True, False, True, False]


async def test_early_data_that_the_server_does_not_take_is_sent_again():
    async with serve() as server:
        address, tickets = server.address, {}
        async with client(tickets=tickets) as us:
            await us.request("GET", f"https://127.0.0.1:{address[1]}/")
    assert tickets
    async with serve("127.0.0.1", address[1], early_data=False) as server, client(tickets=tickets) as us:
        assert (await us.request("GET", f"https://127.0.0.1:{address[1]}/")).status == 200


# -- With our server, and foreign ones ---------------------------------------------------------------


async def test_our_server():
    async with serve() as server, client() as us:
        url = f"https://127.0.0.1:{server.address[1]}"
        hello = await us.request("GET", url + "/")
        assert (hello.status, hello.fields["content-type"]) == (200, "text/plain; charset=utf-8")
        assert (await us.request("GET", url + "/text", gzip=True)).fields["content-encoding"] == "gzip"
        assert (await us.request("GET", url + "/redirect?n=3")).url.startswith(url)
        assert (await us.request("HEAD", url + "/bytes/1000")).body == b""
        assert (await us.request("GET", url + "/no such thing".replace(" ", "-"))).status == 404
        assert (
            await us.request("POST", url + "/", body=b"hallo", fields=[("content-type", "text/plain")])
        ).body == b"hallo"


async def test_a_drain_loses_nothing():
    """The server ends while requests are on their way: what it has taken it answers, and nothing is run twice."""
    seen = []

    def counting(request):
        seen.append(request)
        return respond(request)

    async with client() as us:
        async with serve(respond=counting, grace_seconds=0.1) as server:
            url = f"https://127.0.0.1:{server.address[1]}/bytes/100000"
            await us.request("GET", url)
            tasks = [asyncio.create_task(us.request("GET", url)) for _ in range(30)]
            while len(seen) < 5:  # noqa: ASYNC110
                await asyncio.sleep(0)
        done = await asyncio.gather(*tasks, return_exceptions=True)
    whole = [one for one in done if not isinstance(one, Exception) and len(one.body) == 100_000]
    assert len(whole) >= len(seen) - 1 >= 4


@pytest.mark.parametrize(
    ("certificate", "alert"),
    [
        ("wrong-name", Alert.BAD_CERTIFICATE),
        ("expired", Alert.CERTIFICATE_EXPIRED),
        ("unknown-ca", Alert.UNKNOWN_CA),
    ],
)
async def test_certificates(certificate, alert):
    async with serve(configuration=quic_server(certificate, alpn=["h3"])) as server, client() as us:
        with pytest.raises(QuicError) as caught:
            await us.request("GET", f"https://127.0.0.1:{server.address[1]}/")
        assert caught.value.ended.alert == alert


async def test_what_cannot_be_sent():
    async with client() as us:
        for url, wrong in (("http://127.0.0.1:1/", "https"), ("ftp://x/", "not like")):
            with pytest.raises(LocalProtocolError, match=wrong):
                await us.request("GET", url)
        for wrong in (("connection", "close"), (":path", "/"), ("a", "b\r\nc: d")):
            with pytest.raises(LocalProtocolError):
                await us.request("GET", "https://127.0.0.1:1/", fields=[wrong])


class Foreign(QuicConnectionProtocol):
    """aioquic's own HTTP/3 server."""

    _h3: H3Connection | None = None

    def quic_event_received(self, event: events.QuicEvent) -> None:
        self._h3 = self._h3 or H3Connection(self._quic)
        for found in self._h3.handle_event(event):
            if isinstance(found, HeadersReceived | DataReceived) and found.stream_ended:
                self._h3.send_headers(found.stream_id, [(b":status", b"200"), (b"server", b"aioquic")])
                self._h3.send_data(found.stream_id, b"from aioquic" * 10_000, False)
                self._h3.send_headers(found.stream_id, [(b"x-trailer", b"yes")], True)
        self.transmit()


async def test_aioquic():
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: QuicServer(configuration=quic_server(alpn=["h3"]), create_protocol=Foreign), local_addr=("127.0.0.1", 0)
    )
    try:
        async with client() as us:
            url = f"https://127.0.0.1:{transport.get_extra_info('sockname')[1]}/"
            answers = await asyncio.gather(*(us.request("GET", url) for _ in range(10)))
            posted = await us.request("POST", url, body=b"x" * 100_000)
        assert {answer.body for answer in [*answers, posted]} == {b"from aioquic" * 10_000}
        assert {answer.trailers[0] for answer in answers} == {("x-trailer", "yes")}
    finally:
        server.close()


@contextlib.asynccontextmanager
async def program(*command: str, folder: Path) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, cwd=folder
    )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def patiently(us: Client, url: str):
    """Ask as soon as the program listens."""
    while True:
        try:
            return await us.request("GET", url)
        except (ConnectionRefusedError, Silent):
            await asyncio.sleep(TICK)


def free_port() -> int:
    with deaf() as sock:
        return sock.getsockname()[1]


KEY, CHAIN = str(certs.FOLDER / "server.key"), str(certs.FOLDER / "server.pem")


async def test_ngtcp2(tmp_path):
    """gtlsserver: nghttp3's frames and QPACK; with Retry."""
    need_tool("gtlsserver")
    (tmp_path / "file").write_bytes(b"x" * 300_000)
    port = free_port()
    async with program("gtlsserver", "-q", "-V", "-d", ".", "127.0.0.1", str(port), KEY, CHAIN, folder=tmp_path):
        async with client() as us:
            answer = await patiently(us, f"https://127.0.0.1:{port}/file")
            assert (answer.status, answer.body) == (200, b"x" * 300_000)
            answers = await asyncio.gather(*(us.request("GET", answer.url) for _ in range(20)))
            assert {len(one.body) for one in answers} == {300_000}
            assert (await us.request("GET", f"https://127.0.0.1:{port}/none")).status == 404


async def test_caddy(tmp_path):
    need_tool("caddy")
    (tmp_path / "file").write_bytes(b"x" * 300_000)
    port = free_port()
    (tmp_path / "Caddyfile").write_text(
        f"{{\n admin off\n auto_https off\n storage file_system {tmp_path}\n}}\nhttps://localhost:{port} {{\n"
        f" tls {CHAIN} {KEY}\n file_server\n root * {tmp_path}\n}}\n"
    )
    async with program("caddy", "run", "--config", "Caddyfile", "--adapter", "caddyfile", folder=tmp_path):
        async with client() as us:
            answer = await patiently(us, f"https://localhost:{port}/file")
            assert (answer.status, answer.body) == (200, b"x" * 300_000)
            answers = await asyncio.gather(*(us.request("GET", answer.url) for _ in range(20)))
            assert {len(one.body) for one in answers} == {300_000}


async def test_hypercorn(tmp_path):
    port = free_port()
    (tmp_path / "app.py").write_text(
        "async def app(scope, receive, send):\n"
        "    if scope['type'] != 'http': return\n"
        "    body = b''\n"
        "    while True:\n"
        "        event = await receive()\n"
        "        body += event.get('body', b'')\n"
        "        if not event.get('more_body'): break\n"
        "    version = [(b'x-version', scope['http_version'].encode())]\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': version})\n"
        "    await send({'type': 'http.response.body', 'body': body or b'hello'})\n"
    )
    command = [sys.executable, "-m", "hypercorn", "--workers", "0", "app:app", "--quic-bind", f"127.0.0.1:{port}"]
    tcp = ["--bind", f"127.0.0.1:{free_port()}", "--keyfile", KEY, "--certfile", CHAIN]
    async with program(*command, *tcp, folder=tmp_path):
        async with client() as us:
            answer = await patiently(us, f"https://127.0.0.1:{port}/")
            assert (answer.body, answer.fields["x-version"]) == (b"hello", "3")
            assert (await us.request("POST", answer.url, body=b"x" * 50_000)).body == b"x" * 50_000


# -- At the command line -----------------------------------------------------------------------------


async def run(monkeypatch, caplog, capsys, *arguments: str) -> tuple[int, str]:
    """The exit code, and all that was said."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(logging, "raiseExceptions", True)  # main() changes it
    monkeypatch.setattr(sys, "argv", ["clients.http3", *arguments])
    try:
        code = await asyncio.to_thread(main)
    except SystemExit as end:  # argparse's way of saying 2
        code = end.code
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("clients.")]
    return code, "\n".join([*ours, *capsys.readouterr()])


async def test_the_wire_log(monkeypatch, caplog, capsys):
    async with serve() as server:
        url = f"https://127.0.0.1:{server.address[1]}/"
        code, said = await run(monkeypatch, caplog, capsys, "--n", "2", "--again", url)
    lines = [line for line in said.splitlines() if line]
    assert (code, lines[0], lines[-1]) == (0, "> stream 2: the control stream", "= closed")
    assert any(line.startswith("> stream 0: HEADERS, ") and "bytes of fields in" in line for line in lines)
    assert lines.count("<     :status: 200") == 4
    assert any(line.startswith("< stream 4: DATA, ") for line in lines)
    assert sum("early data" in line for line in lines) == 1


@pytest.mark.parametrize(
    ("steps", "arguments", "code", "words"),
    [
        ([on(*ANSWER)], ["{}"], 0, "= closed"),
        ([on(head(status="404"))], ["{}"], 1, "404"),
        ([on(data())], ["{}"], 1, "! DATA before the answer has begun (§4.1)"),
        ([Rst(0, ErrorCode.INTERNAL_ERROR)], ["{}"], 1, "! the server has reset the stream: H3_INTERNAL_ERROR"),
        ([], ["--timeout", f"{2 * TICK:g}", "{}"], 1, "No answer from {}: nothing for 0.1 s."),
        ([], ["http://127.0.0.1/"], 2, "Not sent: HTTP/3 is for https"),
        ([], ["https://127.0.0.1:1/"], 2, "Connection refused. Is `make http3-server` running?"),
        ([], ["--n", "0", "{}"], 2, "0 is not"),
        ([], ["--again", "--h2-first", "{}"], 2, "not allowed"),
        ([on(head(("a", "\x1b[2J")), data(b"\x1b[2J"))], ["{}"], 1, "malformed"),
        ([on(head(("a", "\xff")), data(b"\x1b[2J"))], ["{}"], 0, "= closed"),
    ],
)
async def test_exit_codes(steps, arguments, code, words, monkeypatch, caplog, capsys):
    async def behave(peer: Peer) -> None:
        await begin(peer)
        await peer.request()
        peer.step(*steps)

    async with server_that(behave) as url:
        found, said = await run(monkeypatch, caplog, capsys, *(argument.format(url) for argument in arguments))
    assert found == code
    assert words.format(url) in said.replace(f"{2 * TICK:g} s", "0.1 s")
    assert not any(ord(char) < 32 and char != "\n" for char in said)
