"""HTTP/3: frames and streams, the server's end without I/O, and the server on real sockets."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from aioquic.asyncio import QuicConnectionProtocol
from aioquic.asyncio import connect as aioquic_connect
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicErrorCode
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import example, given
from hypothesis import strategies as st

import certs
from certs.contexts import client_context
from clients import http1 as client_1
from clients import http2 as client_2
from clients import http3 as client_3
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.http2 import Data, Pause, Request, Reset, Trailers
from protocols.http2_messages import Priority
from protocols.http3 import ServerConnection
from protocols.http3_frames import (
    LAST_REQUEST,
    Decoder,
    ErrorCode,
    Frame,
    FrameType,
    SettingCode,
    encode,
    grease,
    is_grease,
    numbered,
    parse_numbered,
    parse_priority_update,
    parse_settings,
    priority_update,
    settings,
)
from protocols.http3_qpack import FieldDecoder, FieldEncoder, Nameless, TooLarge, count_lines
from servers import http3, site
from servers.tls import lab_context
from tests.conftest import TICK, need_tool
from tests.http3_cases import (
    ANSWER,
    CASES,
    CLOSE,
    CONTROL,
    DECODER,
    ENCODER,
    GET,
    GREASE,
    GREETING,
    NEXT,
    POST,
    RST,
    TABLE,
    Ends,
    On,
    Stops,
    ask,
    begins,
    control,
    data,
    headers,
    insert,
    one_way,
    section,
    wire,
    without,
)

# -- Frames ------------------------------------------------------------------------------------------

FRAMES = [
    settings({SettingCode.QPACK_MAX_TABLE_CAPACITY: 4096, grease(3): 7}),
    Frame(FrameType.HEADERS, b"\xd1" * 300),
    Frame(FrameType.DATA),
    Frame(FrameType.DATA, b"hello"),
    numbered(FrameType.GOAWAY, LAST_REQUEST),
    Frame(grease(1 << 50), b"nobody knows"),
    priority_update(8, b"u=1, i"),
]


def joined(frames) -> list[Frame]:
    """Frames of which the decoder gave pieces, whole again."""
    whole: list[Frame] = []
    for frame in frames:
        if frame.at:
            last = whole.pop()
            assert (last.type, len(last.payload), last.left) == (frame.type, frame.at, len(frame.payload) + frame.left)
            frame = Frame(frame.type, last.payload + frame.payload, 0, frame.left)
        whole.append(frame)
    assert not any(frame.left for frame in whole)
    return whole


def test_the_bytes_of_a_frame():
    assert encode(FRAMES[0]).hex(" ") == "04 06 01 50 00 40 7e 07"
    assert encode(FRAMES[4]).hex(" ") == "07 08 ff ff ff ff ff ff ff fc"
    assert encode(FRAMES[6]).hex(" ") == "80 0f 07 00 07 08 75 3d 31 2c 20 69"
    assert str(FRAMES[1]) == "HEADERS, 300 bytes"
    assert str(FRAMES[5]).startswith("reserved type 0x")
    assert str(Frame(0, b"abc", 5, 2)) == "DATA, bytes 5 to 8 of 10"


def test_frames_at_every_split():
    stream = b"".join(map(encode, FRAMES))
    for cut in range(len(stream) + 1):
        decoder, got = Decoder(), []
        for part in (stream[:cut], stream[cut:]):
            decoder.receive_data(part)
            got += decoder.frames()
        assert joined(got) == FRAMES
        assert decoder.is_between


@given(st.lists(st.builds(lambda *of: Frame(*of), st.integers(0, 2**62 - 1), st.binary(max_size=40))))
def test_any_frame_comes_out_as_it_went_in(frames):
    decoder, got = Decoder(), []
    for byte in b"".join(map(encode, frames)):
        decoder.receive_data(bytes([byte]))
        got += decoder.frames()
    assert joined(got) == frames


def test_only_what_is_wanted_whole_waits():
    """The body of a request comes in pieces, since its frame may be as long as it likes; so does what nobody knows."""
    decoder = Decoder()
    decoder.receive_data(b"\0" + b"\xff" * 8 + b"abc")
    assert list(decoder.frames()) == [Frame(FrameType.DATA, b"abc", 0, 2**62 - 4)]
    decoder.receive_data(b"de")
    assert list(decoder.frames()) == [Frame(FrameType.DATA, b"de", 3, 2**62 - 6)]
    decoder = Decoder(max_size=10)
    decoder.receive_data(b"\1\x0aabc")
    assert decoder.next_frame() is None
    assert not decoder.is_between
    decoder.receive_data(b"defghij\1\x0b")
    assert decoder.next_frame() == Frame(FrameType.HEADERS, b"abcdefghij")
    assert decoder.next_frame() == Frame(FrameType.HEADERS, b"", 0, 11)  # too long: nobody waits for it


def test_the_type_of_a_stream_at_every_split():
    for number, size in ((0, 1), (0x40, 2), (1 << 60, 8)):
        kind = encode(Frame(number))[:size]
        for cut in range(size):
            decoder = Decoder()
            decoder.receive_data(kind[:cut])
            assert decoder.next_number() is None
            decoder.receive_data(kind[cut:] + b"rest")
            assert decoder.next_number() == number
            assert decoder.rest() == b"rest"


def test_payloads():
    assert parse_settings(settings({6: 100, grease(0): 0}).payload) == {6: 100, 0x21: 0}
    assert parse_numbered(numbered(FrameType.GOAWAY, 2**62 - 1)) == 2**62 - 1
    assert parse_priority_update(priority_update(400, b"u=2")) == (400, b"u=2")
    assert [grease(0), grease(1)] == [0x21, 0x40]
    assert is_grease(grease(12345))
    assert not is_grease(2)
    for broken in (b"", b"\x40", b"\0\0"):
        with pytest.raises(RemoteProtocolError):
            parse_numbered(Frame(FrameType.GOAWAY, broken))


# -- QPACK -------------------------------------------------------------------------------------------


def test_a_bomb_is_not_unpacked():
    """One entry of 4 kB, named by a byte each: 60 kB would become 250 MB."""
    decoder = FieldDecoder(32768)
    decoder.feed(TABLE + insert("a", "x" * 4000))
    bomb = b"\x02\0" + b"\x80" * 60000
    assert count_lines(bomb) == 60000
    with pytest.raises(TooLarge):
        decoder.section(0, bomb)
    assert decoder.section(4, b"\x02\0\x80") == ((b"a", b"x" * 4000),)  # The table is as it was.


def test_lines_are_counted_as_they_are_unpacked():
    decoder, encoder = FieldDecoder(1 << 20), FieldEncoder()
    encoder.offered(4096, 16)
    for fields in (GET, [("x" * n, "y" * n) for n in (1, 6, 7, 8, 126, 127, 128, 300)], GET * 3, []):
        raw = tuple((name.encode(), value.encode()) for name, value in fields)
        for stream in (0, 4):  # The second time, from the table.
            packed = encoder.section(stream, raw)
            decoder.feed(encoder.out)
            encoder.out = b""
            assert count_lines(packed) == len(raw)
            assert decoder.section(stream, packed) == raw
            encoder.feed(decoder.out)
            decoder.out = b""
        assert count_lines(section(fields)) == len(raw)


@given(st.binary(max_size=100))
def test_lines_of_garbage(garbage):
    with contextlib.suppress(Nameless):
        assert 0 <= count_lines(garbage) <= max(0, len(garbage) - 2)


# -- The server's end, in memory ---------------------------------------------------------------------


class Quic:
    """What the core asks of QUIC, and what it did with it."""

    def __init__(self, window=1 << 20) -> None:
        self.next_stream, self.sent, self.finished = 3, {}, set()
        self.resets, self.stops, self.consumed = {}, {}, {}
        self.windows, self.places = {}, {}
        self.default = window
        self.closed = None
        self.order = []

    def get_next_available_stream_id(self, is_unidirectional=False):
        assert is_unidirectional
        return self.next_stream

    def send_stream_data(self, stream_id, data, end_stream=False):
        """As aioquic, which has no mercy."""
        if stream_id == self.next_stream:
            self.next_stream += 4
        assert stream_id not in self.finished
        self.sent[stream_id] = self.sent.get(stream_id, b"") + bytes(data)
        self.order.append((stream_id, len(data)))
        self.windows[stream_id] = self.window(stream_id) - len(data)
        if end_stream:
            self.finished.add(stream_id)

    def reset_stream(self, stream_id, error_code):
        self.resets[stream_id] = error_code

    def stop_stream(self, stream_id, error_code):
        self.stops[stream_id] = error_code

    def consume(self, stream, count):
        self.consumed[stream] = self.consumed.get(stream, 0) + count

    def window(self, stream):
        return self.windows.get(stream, self.default)

    def allowance(self):
        return self.default

    def set_place(self, stream, place):
        self.places[stream] = place

    def close(self, error_code, frame_type=None, reason_phrase=""):
        self.closed = error_code

    def answer(self, stream=0):
        """Status and body of an answer: its fields need no table before our SETTINGS have come."""
        decoder, frames = FieldDecoder(1 << 20), Decoder(1 << 20)
        decoder.feed(self.sent.get(7, b"\2")[1:])
        frames.receive_data(self.sent.get(stream, b""))
        got = joined(frames.frames())
        heads = [frame.payload for frame in got if frame.type == FrameType.HEADERS]
        body = b"".join(frame.payload for frame in got if frame.type == FrameType.DATA)
        return (int(dict(decoder.section(stream, heads[-1]))[b":status"]), body) if heads else None


def serve_in_memory(steps, at_once=True):
    """What a server that answers makes of these steps: all events, what QUIC was asked, and how it ended."""
    quic, seen, came, now = Quic(), [], {}, 0.0
    conn = ServerConnection(quic)
    heads = {}

    def answer(stream, head):
        if "x-wait" in head.fields:
            return
        conn.send_head(stream, 200, [("x", "y")])
        conn.send_data(stream, b"hello", now, end=True)

    def proceed():
        while event := conn.next_event(now):
            if isinstance(event, Pause):
                continue
            seen.append(event)
            if isinstance(event, Request) and event.head is None:
                conn.send_head(event.stream, event.status, [])
                conn.send_data(event.stream, event.reason.encode(), now, end=True)
            elif isinstance(event, Request):
                heads[event.stream] = event.head
                if event.whole:
                    answer(event.stream, event.head)
            elif isinstance(event, Data):
                conn.acknowledge(event.stream, event.size)
                if event.whole:
                    answer(event.stream, heads[event.stream])
            elif isinstance(event, Trailers):
                answer(event.stream, heads[event.stream])
        conn.send(now)

    try:
        for step in steps:
            now += 1e-6
            if isinstance(step, Ends):
                proceed()
                seen += filter(None, [conn.receive_reset(step.stream, step.code, now)])
            elif isinstance(step, Stops):
                proceed()
                seen += filter(None, [conn.receive_stop(step.stream, step.code, now)])
            else:
                size = len(step.data) if at_once else 1
                pieces = [step.data[at : at + size] for at in range(0, len(step.data), size or 1)] or [b""]
                for i, piece in enumerate(pieces):
                    came[step.stream] = came.get(step.stream, 0) + len(piece)
                    conn.receive_data(step.stream, piece, step.end and i == len(pieces) - 1, now)
                    if not at_once:
                        proceed()
        proceed()
    except RemoteProtocolError as error:
        conn.close(error.code, str(error))
    return seen, quic, came


def outcome(quic, stream=0):
    """What has come of it: the worst first."""
    if quic.closed is not None:
        return CLOSE(quic.closed)
    if quic.resets:
        return RST(*quic.resets.copy().popitem())
    if found := quic.answer(stream):
        return ANSWER(found[0])
    return None


def steps_of(name):
    return (CASES[name][0]) if name.startswith("bare") else [*GREETING, *CASES[name][0]]


@pytest.mark.parametrize("at_once", [True, False], ids=["whole", "byte by byte"])
def test_every_rule(at_once):
    """What was used up is given back to the last byte, so that nobody runs out of windows."""
    wrong = {}
    for name, (steps, wanted) in CASES.items():
        if not at_once and sum(len(step.data) for step in steps if isinstance(step, On)) > 2000:
            continue
        _, quic, came = serve_in_memory(steps_of(name), at_once)
        if (found := outcome(quic)) != wanted:
            wrong[name] = (wanted, found)
        if quic.closed is None and "blocked" not in name and "within" not in name:
            wanting = {stream: size - quic.consumed.get(stream, 0) for stream, size in came.items()}
            if any(wanting.values()):
                wrong[f"{name}: not given back"] = ("nothing", wanting)
    assert not wrong, "\n".join(f"{name}: wanted {wanted}, got {found}" for name, (wanted, found) in wrong.items())


# -- The server, and a client by hand ----------------------------------------------------------------

PATIENCE = 400 * TICK  # what may happen at once gets this long on a busy machine


class Peer(QuicConnectionProtocol):
    """A client that sends what it likes, on aioquic's transport and nothing of its HTTP/3."""

    def __init__(self, *arguments, **more) -> None:
        super().__init__(*arguments, **more)
        self.frames, self.whole, self.resets, self.stops = {}, set(), {}, {}
        self.encoder = FieldDecoder(1 << 20)  # reads what the server's encoder wrote
        self.control, self.interim = [], {}
        self.ended = self.completed = None
        self.more = asyncio.Event()

    def quic_event_received(self, event) -> None:
        if isinstance(event, events.StreamDataReceived):
            stream = event.stream_id
            if stream == 7:
                self.encoder.feed(self.of(stream, event.data).rest())
            else:
                self.of(stream, event.data)
            if event.end_stream:
                self.whole.add(stream)
        elif isinstance(event, events.StreamReset):
            self.resets[event.stream_id] = event.error_code
        elif isinstance(event, events.StopSendingReceived):
            self.stops[event.stream_id] = event.error_code
        elif isinstance(event, events.ConnectionTerminated):
            self.ended = event
        elif isinstance(event, events.HandshakeCompleted):
            self.completed = event
        self.more.set()

    def of(self, stream, data) -> Decoder:
        if stream not in self.frames:
            self.frames[stream] = Decoder(1 << 24)
            self.frames[stream].receive_data(data)
            if stream & 2:
                self.frames[stream].next_number()
        else:
            self.frames[stream].receive_data(data)
        return self.frames[stream]

    def do(self, *steps) -> None:
        """What the cases are made of."""
        for step in steps:
            if step.stream % 4 == 0:  # aioquic opens its streams in order. That of which nothing is sent is lost.
                for stream in range(self._quic._local_next_stream_id_bidi, step.stream, 4):
                    self._quic._get_or_create_stream_for_send(stream)
            if isinstance(step, Ends):
                self._quic.reset_stream(step.stream, step.code)
            elif isinstance(step, Stops):
                if not step.stream & 2:
                    self._quic._get_or_create_stream_for_send(step.stream)
                self._quic.stop_stream(step.stream, step.code)
            else:
                self._quic.send_stream_data(step.stream, step.data, step.end)
        self.transmit()

    async def until(self, done):
        while not (found := done()):
            self.more.clear()
            await self.more.wait()
        return found

    async def answer(self, stream=0):
        """The fields and the body of the answer."""
        await self.until(lambda: stream in self.whole or stream in self.resets or self.ended)
        if stream in self.resets:
            raise ConnectionAbortedError(ErrorCode(self.resets[stream]).name)
        assert not self.ended, self.ended
        got = joined(self.frames[stream].frames())
        heads = [self.fields(stream, frame.payload) for frame in got if frame.type == FrameType.HEADERS]
        self.interim[stream] = heads[:-1]
        return heads[-1], b"".join(frame.payload for frame in got if frame.type == FrameType.DATA)

    def fields(self, stream, packed):
        return {name.decode(): value.decode() for name, value in self.encoder.section(stream, packed)}

    async def get(self, path, *more, method="GET", body=None, stream=None, end=True):
        stream = self._quic.get_next_available_stream_id() if stream is None else stream
        self.do(get(stream, path, *more, method=method, body=body, end=end))
        return await self.answer(stream)

    async def ends(self):
        """With which error of HTTP/3 the server ends the connection."""
        await self.until(lambda: self.ended)
        return self.ended.error_code


def get(stream=0, path="/", *more, method="GET", body=None, end=True) -> On:
    pairs = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path), *more]
    return On(stream, wire(headers(pairs), *([data(body)] if body is not None else [])), end)


def quic_settings(**more) -> QuicConfiguration:
    return QuicConfiguration(
        is_client=True, alpn_protocols=["h3"], server_name="localhost", cafile=str(certs.FOLDER / "root.pem"), **more
    )


@contextlib.asynccontextmanager
async def peer_of(server, *steps, patience=PATIENCE, wait_connected=True, session_ticket_handler=None, **more):
    """A connection, after a good beginning or after these steps."""
    async with asyncio.timeout(patience):
        async with aioquic_connect(
            *server.address,
            configuration=more.pop("configuration", None) or quic_settings(**more),
            create_protocol=Peer,
            wait_connected=wait_connected,
            session_ticket_handler=session_ticket_handler,
        ) as peer:
            peer.do(*(steps or GREETING))
            yield peer


def respond(request):
    """The site, and what waits until it is cancelled."""
    return asyncio.Event().wait() if "x-wait" in request.fields else site.respond(request)


async def test_rules_over_quic():
    """Some of the cases, and all in which a stream ends abruptly: each on a connection of its own, as datagrams."""
    wrong = {}
    async with http3.serve(respond=respond, max_connections=1000) as server:

        async def one(name):
            wanted = CASES[name][1]
            async with peer_of(server) as peer:
                if any(isinstance(step, Stops) and step.stream in (3, 7, 11) for step in CASES[name][0]):
                    await peer.until(lambda: {3, 7, 11} <= peer.frames.keys())
                for step in CASES[name][0]:
                    await peer.ping() if isinstance(step, Ends | Stops) else None
                    peer.do(step)
                if isinstance(wanted, CLOSE):
                    found = CLOSE(await peer.ends())
                elif isinstance(wanted, RST):
                    await peer.until(lambda: peer.resets or peer.ended)
                    found = peer.resets and RST(*peer.resets.popitem())
                elif isinstance(wanted, ANSWER):
                    status = int((await peer.answer())[0][":status"])
                    found = ANSWER(200 if status == 204 else status)
                else:
                    await peer.ping()
                    await peer.ping()
                    found = peer.ended or peer.resets or None
            if found != wanted:
                wrong[name] = (wanted, found)

        names = [name for name in CASES if not name.startswith("bare")]
        abrupt = [name for name in names if any(isinstance(step, Ends | Stops) for step in CASES[name][0])]
        chosen = [*dict.fromkeys([*names[::20], *abrupt])]
        for at in range(0, len(chosen), 12):
            await asyncio.gather(*map(one, chosen[at : at + 12]))
    assert not wrong, "\n".join(f"{name}: wanted {wanted}, got {found}" for name, (wanted, found) in wrong.items())


KINDS = [*FrameType, 2, 0x21]
PAYLOADS = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([section(GET), section([("x", "y")]), b"\x02\0\x80", bytes(4), b"\x7f\xff", b"\6\1", b"\0\0"]),
)
ANY_STEP = st.one_of(
    st.builds(
        lambda stream, kind, payload, end: On(stream, wire(Frame(kind, payload)), end),
        st.sampled_from([0, 0, 4, CONTROL, CONTROL, NEXT]),
        st.sampled_from(KINDS),
        PAYLOADS,
        st.booleans(),
    ),
    st.builds(On, st.sampled_from([0, 4, CONTROL, ENCODER, DECODER, NEXT]), st.binary(max_size=12), st.booleans()),
    st.builds(Ends, st.sampled_from([0, 4, NEXT, 18])),
    st.builds(Stops, st.sampled_from([0, 4, 8])),
)


@given(st.lists(ANY_STEP, max_size=30), st.booleans())
@example([On(0, wire(headers(), data()), True)], True)
@example([On(ENCODER, b"\x3f\xe1\x1f", False)], False)
def test_garbage_is_refused_and_nothing_else(steps, at_once):
    over, possible = set(), []  # QUIC lets nothing through behind the end of a stream.
    for step in steps:
        if step.stream not in over:
            possible.append(step)
        if isinstance(step, Ends) or (isinstance(step, On) and step.end):
            over.add(step.stream)
    serve_in_memory([*GREETING, *possible], at_once)


def flood(make, now=0.0, most=20000) -> int:
    """How often a client may do this at one moment, before it is told that it is too much."""
    conn = ServerConnection(Quic(window=1 << 40), now=now)
    for step in GREETING:
        conn.receive_data(step.stream, step.data, False, now)
    for i in range(most):
        try:
            take(conn, make(i), now)
        except RemoteProtocolError as error:
            return i if error.code == ErrorCode.EXCESSIVE_LOAD else -1
    return most


def take(conn, steps, now) -> None:
    """A server that answers nothing but what is too large."""
    for step in steps:
        if isinstance(step, Ends):
            conn.receive_reset(step.stream, step.code, now)
        elif isinstance(step, Stops):
            conn.receive_stop(step.stream, step.code, now)
        else:
            conn.receive_data(step.stream, step.data, step.end, now)
        while event := conn.next_event(now):
            if isinstance(event, Request) and event.head is None:
                conn.send_head(event.stream, event.status, (), end=True)
                conn.send(now)


FLOODS = {  # what, and how often it may be done at once
    "streams opened and reset (CVE-2023-44487)": (lambda i: [begins(headers(), stream=4 * i), Ends(4 * i)], 150),
    "streams opened and stopped": (lambda i: [begins(headers(POST), stream=4 * i), Stops(4 * i), Ends(4 * i)], 150),
    "streams reset without a byte": (lambda i: [Ends(4 * i)], 1500),
    "malformed requests": (lambda i: [ask(headers(without(":path")), stream=4 * i)], 150),
    "fields that are too large": (lambda i: [ask(headers([("x", "y")] * 1100), stream=4 * i)], 150),
    "unknown frames": (lambda i: [begins(GREASE)], 1500),
    "an unknown frame without an end": (lambda i: [On(0, bytes(1200) if i else b"\x21" + b"\xff" * 8)], 1500),
    "empty DATA": (lambda i: [begins(*([] if i else [headers(POST)]), data())], 1500),
    "DATA, a byte each": (lambda i: [begins(*([] if i else [headers(POST)]), *[data(b"a")] * 10)], 1000),
    "unknown frames on the control stream": (lambda i: [control(GREASE)], 1500),
    "PRIORITY_UPDATE": (lambda i: [control(priority_update(4 * (i % 50), b"u=%d" % (i % 8)))], 1500),
    "GOAWAY": (lambda i: [control(numbered(FrameType.GOAWAY, 0))], 1500),
    "unknown streams": (lambda i: [one_way(grease(i), b"", NEXT + 4 * i, end=True)], 1500),
    "streams that end before their type": (lambda i: [On(NEXT + 4 * i, b"", True)], 1500),
    "streams that end within their type": (lambda i: [On(NEXT + 4 * i, b"\x40", True)], 1500),
    "streams that are reset before their type": (lambda i: [Ends(NEXT + 4 * i)], 1500),
    "STOP_SENDING for streams that never begin": (lambda i: [Stops(4 * i)], 1500),
    "copies of an entry of QPACK's table": (
        lambda i: [On(ENCODER, b"\0" * 100 if i else TABLE + insert("a", "x" * 2000))],
        300,
    ),
    "QPACK's cancellations": (lambda i: [On(DECODER, b"\x44" * 100)], 300),
}


@pytest.mark.parametrize("name", FLOODS)
def test_floods_end(name):
    make, most = FLOODS[name]
    assert 20 < flood(make) < most


def test_who_works_may_ask_for_ever():
    """A thousand requests a second, each cancelled when a part of the answer is here, or with its own new field."""
    quic = Quic(window=1 << 40)
    conn, now = ServerConnection(quic), 0.0
    for step in [*GREETING, On(ENCODER, TABLE)]:
        conn.receive_data(step.stream, step.data, False, now)
    for i in range(1500):
        now += 0.001
        conn.receive_data(ENCODER, insert(f"x-{i}", "y" * 20), False, now)
        conn.receive_data(4 * i, wire(headers()), True, now)
        while event := conn.next_event(now):
            if isinstance(event, Request):
                conn.send_head(event.stream, 200, [])
                conn.send_data(event.stream, bytes(100_000), now, end=True)
        conn.send(now, 5000)
        if i % 12 == 0:
            assert isinstance(conn.receive_stop(4 * i, ErrorCode.REQUEST_CANCELLED, now), Reset)
        conn.send(now, 1 << 20)


def test_memory_is_bounded_however_patient_somebody_is():
    """What would be a flood at once, slowly: nothing of it is kept."""
    makes = [make for name, (make, _) in FLOODS.items() if "stream" in name or "request" in name or "PRIO" in name]
    conn, now = ServerConnection(Quic(window=1 << 40)), 0.0
    for step in GREETING:
        conn.receive_data(step.stream, step.data, False, now)

    def go(numbers):
        nonlocal now
        for i in numbers:
            now += 5.0
            for at, make in enumerate(makes):
                take(conn, make(len(makes) * i + at), now)
        conn._quic.__init__(1 << 40)

    def size():
        return sum(len(value) for value in vars(conn).values() if isinstance(value, dict | set | list))

    go(range(400))
    before = size()
    go(range(400, 1200))
    assert size() <= before + 16


# -- Whose turn it is --------------------------------------------------------------------------------


def turns(*answers, updates=()):
    """The order in which the streams get their turns: (stream, priority field, size)."""
    quic, now = Quic(), 0.0
    conn = ServerConnection(quic)
    for step in GREETING:
        conn.receive_data(step.stream, step.data, False, now)
    for stream, field, size in answers:
        conn.receive_data(stream, wire(headers(GET, ("priority", field))), True, now)
        assert isinstance(conn.next_event(now), Request)
        conn.send_head(stream, 200, [])
        conn.send_data(stream, bytes(size), now, end=True)
    for stream, field in updates:
        conn.receive_data(CONTROL, wire(priority_update(stream, field)), False, now)
        assert conn.next_event(now) is None
    start = len(quic.order)
    while conn.streams:
        conn.send(now, 1 << 20)
    return [stream for stream, _ in quic.order[start:] if stream % 4 == 0]


def test_the_urgent_come_first_and_the_incremental_in_turns():
    assert turns((0, "u=5", 40000), (4, "u=1", 20000), (8, "", 16384)) == [4, 4, 8, 0, 0, 0]
    assert turns((0, "u=3, i", 40000), (4, "u=3, i", 40000)) == [0, 4, 0, 4, 0, 4]
    assert turns((0, "u=3", 40000), (4, "u=3", 20000)) == [0, 0, 0, 4, 4]
    assert turns((0, "u=1", 40000), (4, "u=5", 20000), updates=[(4, b"u=0")]) == [4, 4, 0, 0, 0]
    assert turns((0, "u=x", 1000), (4, "u=9", 1000), (8, "u=2", 1000)) == [8, 0, 4]


def test_quic_is_told_the_same_order():
    """For what it has been given, and cannot send yet; and also when the client changes its mind (RFC 9218 §7)."""
    quic = Quic()
    conn = ServerConnection(quic)
    for step in [*GREETING, get(0, "/", ("priority", "u=1")), get(4, "/", ("priority", "i")), get(8, "/")]:
        conn.receive_data(step.stream, step.data, step.end, 0)
    while event := conn.next_event(0):
        conn.send_head(event.stream, 200, [])
        conn.send_data(event.stream, b"hello", 0, end=True)
    conn.send(0)
    assert not conn.streams
    assert sorted(quic.places, key=quic.places.get) == [0, 8, 4]
    conn.receive_data(CONTROL, wire(priority_update(4, b"u=0")), False, 0)
    assert conn.next_event(0) is None
    assert sorted(quic.places, key=quic.places.get) == [4, 0, 8]


def test_an_update_that_comes_before_its_request_counts_more_than_the_field():
    conn = ServerConnection(Quic())
    for step in [*GREETING, control(priority_update(4, b"u=0")), ask(headers(GET, ("priority", "u=6, i")), stream=4)]:
        conn.receive_data(step.stream, step.data, step.end, 0)
    assert isinstance(conn.next_event(0), Request)
    assert conn.streams[4].priority == Priority(0, False)


def test_the_core_refuses_what_makes_no_sense():
    conn = ServerConnection(Quic())
    with pytest.raises(LocalProtocolError):
        conn.send_head(0, 200, [])
    for step in [*GREETING, ask(headers())]:
        conn.receive_data(step.stream, step.data, step.end, 0)
    assert isinstance(conn.next_event(0), Request)
    for wrong in (
        lambda: conn.send_data(0, b"a", 0),
        lambda: conn.send_head(0, 101, []),
        lambda: conn.send_head(0, 200, [("connection", "close")]),
    ):
        with pytest.raises(LocalProtocolError):
            wrong()
    conn.send_head(0, 200, [("x", "y")])
    conn.send_data(0, b"", 0, end=True, trailers=[("x-sum", "42")])
    conn.send(0)
    assert conn.is_sent(0)
    assert not conn.streams


async def test_urgent_tiles_overtake_what_began_before():
    """A large answer that is not urgent is on its way; tiles that are, asked for later, are here before it."""
    async with http3.serve() as server, peer_of(server, configuration=quic_settings(max_stream_data=1 << 24)) as peer:
        peer.do(get(0, "/bytes/3000000", ("priority", "u=6")))
        await peer.until(lambda: peer.frames.get(0, Decoder()).unread > 100_000)
        peer.do(*[get(4 * i, f"/tile/{i}", ("priority", "u=1")) for i in range(1, 21)])
        await peer.until(lambda: {4 * i for i in range(1, 21)} <= peer.whole)
        assert 0 not in peer.whole
        assert peer.frames[0].unread < 1_500_000
        assert len((await peer.answer(0))[1]) == 3_000_000


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "in pieces"])
async def test_tiles_come_one_after_the_other(whole):
    """All are asked for at once; but for what is lost and mended, only a few are under way at any time (it was 36)."""
    numbers, most = set(range(0, 4 * 36, 4)), 0

    def respond(request):
        return site.Response(200, [], bytes(20000)) if whole else site.respond(request)

    settings = quic_settings(max_stream_data=1 << 20)
    async with http3.serve(respond=respond) as server, peer_of(server, configuration=settings) as peer:
        peer.do(*[get(number, "/bytes/20000") for number in sorted(numbers)])

        def look():
            nonlocal most
            most = max(most, len(numbers & set(peer.frames) - peer.whole))
            return peer.whole >= numbers

        await peer.until(look)
    assert most <= 12


# -- The site ----------------------------------------------------------------------------------------

SITE = [  # method, path, fields, status, and what the answer must have
    ("GET", "/", [], 200, {"content-length": "16"}, b"Hello, network!\n"),
    ("HEAD", "/", [], 200, {"content-length": "16"}, b""),
    ("HEAD", "/bytes/1000000", [], 200, {"content-length": "1000000"}, b""),
    ("GET", "/bytes/1000000", [], 200, {"content-length": "1000000"}, b"".join(site.cut_pattern(0, 1_000_000))),
    ("GET", "/bytes/1000", [("range", "bytes=3-5")], 206, {"content-range": "bytes 3-5/1000"}, b"\3\4\5"),
    ("GET", "/bytes/1000", [("range", "bytes=1000-")], 416, {"content-range": "bytes */1000"}, None),
    ("GET", "/bytes/1000", [("if-none-match", '"1000"')], 304, {"etag": '"1000"'}, b""),
    ("GET", "/bytes/1000", [("if-match", '"5"')], 412, {}, None),
    ("GET", "/text", [("accept-encoding", "gzip")], 200, {"content-encoding": "gzip", "vary": "accept-encoding"}, None),
    ("GET", "/nothing", [], 404, {}, None),
    ("DELETE", "/", [], 405, {"allow": "GET, HEAD, OPTIONS, POST"}, None),
    ("BREW", "/", [], 501, {}, None),
    ("GET", "/status/204", [], 204, {}, b""),
    ("OPTIONS", "*", [], 204, {}, b""),
    ("GET", "/redirect", [], 302, {"location": "/"}, None),
    ("POST", "/", [("content-type", "text/x-what")], 200, {"content-type": "text/x-what"}, b"some words"),
    ("PUT", "/upload", [], 200, {}, None),
    ("POST", "/", [("content-length", str(1 << 40))], 413, {}, None),
    ("GET", "/", [("x", "y" * 40000)], 431, {}, None),
]


async def test_the_site_is_what_it_is_over_other_versions():
    async with http3.serve() as server, peer_of(server) as peer:
        for method, path, more, status, fields, body in SITE:
            has_body = method in ("POST", "PUT") and status == 200
            got, content = await peer.get(
                path, *more, method=method, body=b"some words" if has_body else None, end=status != 413
            )
            assert got[":status"] == str(status), (method, path)
            assert fields.items() <= got.items(), (method, path)
            assert "date" in got
            assert body is None or content == body, (method, path)
        fields = json.loads((await peer.get("/headers", ("cookie", "a=1"), ("cookie", "b=2")))[1])["fields"]
        assert fields == {"host": "localhost", "cookie": "a=1; b=2"}


async def test_streams_overtake_each_other():
    async with http3.serve() as server, peer_of(server) as peer:
        peer.do(get(0, "/slow?seconds=0.3"), get(4), get(8, "/status/404"))
        assert (await peer.answer(4))[1] == b"Hello, network!\n"
        assert (await peer.answer(8))[0][":status"] == "404"
        assert 0 not in peer.whole
        assert (await peer.answer(0))[1] == b"That took 0.3 s.\n"


async def test_events_arrive_one_by_one():
    async with http3.serve() as server, peer_of(server) as peer:
        peer.do(get(0, "/events?n=3&interval=0.1"))
        times = []
        while 0 not in peer.whole:
            peer.more.clear()
            await peer.more.wait()
            times.append(time.monotonic())
        assert times[-1] - times[0] > 0.15
        assert (await peer.answer(0))[1].count(b"data: event") == 3


async def test_100_continue_is_sent_when_the_body_is_wanted():
    async with http3.serve() as server, peer_of(server) as peer:
        expect = [("expect", "100-continue"), ("content-length", "5")]
        peer.do(get(0, "/upload", *expect, method="POST", end=False))
        await peer.until(lambda: 0 in peer.frames)
        frame = peer.frames[0].next_frame()
        assert peer.fields(0, frame.payload) == {":status": "100"}
        peer.do(On(0, wire(data(b"hello")), True))
        _, body = await peer.answer(0)
        assert json.loads(body) == {"bytes": 5, "sha256": hashlib.sha256(b"hello").hexdigest()}
        peer.do(get(4, "/status/404", *expect, method="POST", end=False))
        assert (await peer.answer(4))[0][":status"] == "405"
        await peer.until(lambda: 4 in peer.stops)
        assert peer.stops[4] == ErrorCode.NO_ERROR  # RFC 9114 §4.1: answered, and nobody needs the rest
        assert not peer.interim[4]


async def test_a_body_goes_both_ways_at_once_and_trailers_end_it():
    """A large echo, with windows that are much smaller: what comes back makes room for more to be sent."""
    size = 1_000_000
    body = os.urandom(size)
    async with http3.serve(stream_window=50_000, connection_window=80_000) as server, peer_of(server) as peer:
        peer.do(get(0, "/", method="POST", end=False))
        for at in range(0, size, 100_000):
            peer.do(On(0, wire(data(body[at : at + 100_000]))))
        peer.do(On(0, wire(headers([("x-sum", "42")])), True))
        assert (await peer.answer(0))[1] == body


async def test_a_mistake_of_ours_costs_one_stream():
    async def half(request):
        async def body():
            yield b"half of it"
            raise ZeroDivisionError

        return site.Response(200, [("content-length", "20")], body())

    def fails(request):
        return {"/half": half, "/bad": lambda _: 1 / 0}.get(request.target, site.respond)(request)

    async with http3.serve(respond=fails) as server, peer_of(server) as peer:
        assert (await peer.get("/bad"))[0][":status"] == "500"
        with pytest.raises(ConnectionAbortedError, match="INTERNAL_ERROR"):
            await peer.get("/half")
        assert (await peer.get("/"))[0][":status"] == "200"


# -- Time, and those who are slow --------------------------------------------------------------------


async def test_a_head_that_does_not_come_is_given_up():
    """Slowloris; and a head that waits for an insert that never comes."""
    async with http3.serve(head_seconds=4 * TICK) as server, peer_of(server) as peer:
        peer.do(On(0, wire(headers())[:-1]), CASES["RFC 9204 §2.1.2 blocked"][0][0]._replace(stream=4), get(8, "/"))
        await peer.until(lambda: {0, 4} <= peer.resets.keys())
        assert peer.resets == {0: ErrorCode.REQUEST_REJECTED, 4: ErrorCode.REQUEST_REJECTED}
        assert (await peer.answer(8))[0][":status"] == "200"


async def test_who_takes_requests_back_before_a_byte_of_them_came_may_ask_again():
    """More of them than may be open at once; each has a priority. Their packets are lost, but not the resets."""
    async with http3.serve(respond=respond, max_streams=10) as server, peer_of(server) as peer:
        quic = peer._quic
        for stream in range(0, 120, 4):
            await peer.until(lambda stream=stream: quic._remote_max_streams_bidi > stream // 4)
            peer.do(control(priority_update(stream, b"u=1")), Ends(stream))
            await peer.ping()
        assert (await peer.get("/", stream=120))[0][":status"] == "200"
        assert peer.resets == dict.fromkeys(range(0, 120, 4), ErrorCode.REQUEST_INCOMPLETE)
        assert not peer.ended


async def test_a_body_that_does_not_come_is_answered_with_408():
    async with http3.serve(body_seconds=4 * TICK) as server, peer_of(server) as peer:
        peer.do(get(0, "/upload", method="POST", end=False))
        assert (await peer.answer(0))[0][":status"] == "408"


async def test_who_does_not_read_holds_up_only_that_stream():
    """A stream blocks at its window, and is given up; others go on. What it held is held no more."""
    settings = quic_settings(max_stream_data=100_000)
    async with http3.serve(body_seconds=6 * TICK) as server, peer_of(server, configuration=settings) as peer:
        peer._quic._write_stream_limits = lambda **_: None  # It opens no window any more.
        peer.do(get(0, "/bytes/10000000"))
        await peer.until(lambda: peer.frames.get(0, Decoder()).unread or 0 in peer.resets)
        assert (await peer.get("/bytes/50000", stream=4))[1] == b"".join(site.cut_pattern(0, 50_000))
        (talk,) = server.talks
        assert talk.link.connection.unacknowledged() < 300_000
        await peer.until(lambda: 0 in peer.resets)
        assert peer.resets[0] == ErrorCode.REQUEST_CANCELLED
        assert not talk.conn.streams


async def test_who_asks_for_nothing_is_sent_away():
    async with http3.serve(idle_seconds=4 * TICK) as server, peer_of(server) as peer:
        assert await peer.ends() == ErrorCode.NO_ERROR
        goaways = [frame for frame in peer.frames[3].frames() if frame.type == FrameType.GOAWAY]
        assert list(map(parse_numbered, goaways)) == [LAST_REQUEST, 0]


async def test_who_asks_now_and_then_is_not_idle():
    async with http3.serve(idle_seconds=12 * TICK) as server, peer_of(server) as peer:
        for _ in range(10):
            assert (await peer.get("/"))[1] == b"Hello, network!\n"
            await asyncio.sleep(2 * TICK)


async def test_the_end_lets_what_is_in_flight_finish():
    """GOAWAY for all numbers, then with the last; what came too late is rejected, and can be sent again elsewhere."""
    serving = http3.serve()
    server = await serving.__aenter__()
    async with peer_of(server) as peer:
        peer.do(get(0, "/slow?seconds=0.5"), get(4, "/bytes/1000000"))
        await peer.until(lambda: 4 in peer.frames)
        ending = asyncio.create_task(serving.__aexit__(None, None, None))

        def goaways():
            peer.control += [frame for frame in peer.frames[3].frames() if frame.type == FrameType.GOAWAY]
            return list(map(parse_numbered, peer.control))

        await peer.until(lambda: len(goaways()) == 2)
        assert goaways() == [LAST_REQUEST, 8]
        peer.do(get(8))
        with pytest.raises(ConnectionAbortedError, match="REQUEST_REJECTED"):
            await peer.answer(8)
        assert len((await peer.answer(4))[1]) == 1_000_000
        assert (await peer.answer(0))[1] == b"That took 0.5 s.\n"
        assert await peer.ends() == ErrorCode.NO_ERROR
        await ending


async def test_who_floods_is_thrown_out_and_others_are_served():
    """Rapid reset: streams and windows of QUIC do not stop it, and its price does."""
    async with http3.serve(respond=respond) as server, peer_of(server) as peer, peer_of(server) as flooding:

        async def flood():
            stream = 0
            while not flooding.ended:
                for _ in range(10):
                    flooding.do(get(stream, "/", ("x-wait", "1")))
                    flooding.do(Stops(stream), Ends(stream))
                    stream += 4
                await asyncio.sleep(TICK / 10)
            return flooding.ended.error_code

        task = asyncio.create_task(flood())
        for _ in range(20):
            assert (await peer.get("/"))[1] == b"Hello, network!\n"
        assert await task in (ErrorCode.EXCESSIVE_LOAD, QuicErrorCode.INTERNAL_ERROR)  # QUIC has its own patience.
        assert (await peer.get("/"))[1] == b"Hello, network!\n"
        assert not any(talk.works for talk in server.talks)


# -- Early data (RFC 8470) ---------------------------------------------------------------------------


async def test_what_is_not_safe_is_too_early():
    tickets = []
    async with http3.serve() as server:
        async with peer_of(server, session_ticket_handler=tickets.append) as peer:
            await peer.get("/")
            await peer.until(lambda: tickets)
        settings = quic_settings(session_ticket=tickets[0])
        steps = [*GREETING, get(0), get(4, "/upload", method="POST", body=b"once")]
        async with peer_of(server, *steps, configuration=settings, wait_connected=False) as peer:
            assert (await peer.answer(0))[0][":status"] == "200"
            assert (await peer.answer(4))[0][":status"] == "425"
            await peer.until(lambda: peer.completed)
            assert peer.completed.early_data_accepted
            assert (await peer.get("/upload", method="POST", body=b"again", stream=8))[0][":status"] == "200"


@pytest.mark.parametrize("version", ["1.1", "2", "3"])
async def test_what_a_gateway_got_early_is_too_early_over_each_version(version):
    """RFC 8470 §5.1: Early-Data says so, whatever the gateway speaks with us."""
    early = [("early-data", "1")]
    async with http3.serve(ssl=lab_context(alpn=["h2", "http/1.1"])) as server:
        url = f"https://127.0.0.1:{server.address[1]}"
        tls = client_context(alpn=["http/1.1" if version == "1.1" else "h2"])
        one = {"1.1": client_1.Client, "2": client_2.Client}[version](ssl=tls) if version != "3" else client_3.Client()
        async with one as client:
            for path, body in (("/upload", b"once"), ("/upload", bytes(300_000)), ("/", b"")):
                assert (await client.request("POST", url + path, fields=early, body=body)).status == 425
            assert (await client.request("GET", f"{url}/text", fields=early)).status == 200
            assert (await client.request("POST", f"{url}/upload", fields=[("early-data", "0")], body=b"")).status == 200


# -- Peers that no one here wrote --------------------------------------------------------------------


async def run(*argv, stdin=b"", **options) -> bytes:
    """What a program says, on both its outputs, if it ends well."""
    program = await asyncio.create_subprocess_exec(
        *map(str, argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
    )
    try:
        out, _ = await asyncio.wait_for(program.communicate(stdin), 2 * PATIENCE)
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
    assert program.returncode == 0, out[-2000:].decode(errors="replace")
    return out


async def test_gtlsclient_of_ngtcp2(tmp_path):
    """Downloads, an upload, losses in both directions, a key update, another address, and 0-RTT the next time."""
    client = need_tool("gtlsclient")
    body = b"".join(site.cut_pattern(0, 300_000))
    (tmp_path / "body").write_bytes(body)
    async with http3.serve() as server:
        host, port = server.address
        url = f"https://localhost:{port}"
        common = [client, "--exit-on-all-streams-close", "--no-quic-dump", "--no-http-dump"]
        kept = [f"--session-file={tmp_path}/session", f"--tp-file={tmp_path}/parameters"]
        losses = ["--tx-loss=0.03", "--rx-loss=0.03", "--key-update=5ms"]
        loads = [f"--download={tmp_path}", f"{url}/bytes/300000", f"{url}/bytes/1000"]
        await run(*common, *losses, host, port, *loads)
        await run(*common, "--change-local-addr=5ms", host, port, *loads)
        assert (tmp_path / "300000").read_bytes() == body
        assert (tmp_path / "1000").read_bytes() == body[:1000]
        out = await run(*common, *kept, "-n20", host, port, f"{url}/", f"{url}/status/404")
        assert (out.count(b":status: 200"), out.count(b":status: 404")) == (10, 10)
        early = [client, "--exit-on-all-streams-close", "--no-quic-dump", *kept, f"--data={tmp_path}/body"]
        out = await run(*early, "--http-method=POST", host, port, f"{url}/upload")
        assert b":status: 425" in out
        out = await run(*early, "--http-method=POST", "--disable-early-data", host, port, f"{url}/upload")
        assert b":status: 200" in out


@pytest.mark.parametrize("stack", ["qh3", "aioquic"])
async def test_clients_of_other_stacks(stack):
    """qh3 is aioquic's cousin, with its cryptography and QPACK in Rust; both have an HTTP/3 of their own."""
    client = pytest.importorskip(f"{stack}.asyncio.client")
    h3, configuration = importlib.import_module(f"{stack}.h3.connection"), f"{stack}.quic.configuration"
    protocol = importlib.import_module(f"{stack}.asyncio.protocol")

    class Asks(protocol.QuicConnectionProtocol):
        def __init__(self, *arguments, **more):
            super().__init__(*arguments, **more)
            self.http, self.heads, self.bodies, self.whole = h3.H3Connection(self._quic), {}, {}, asyncio.Queue()

        def quic_event_received(self, event):
            for one in self.http.handle_event(event):
                if type(one).__name__ == "HeadersReceived":
                    self.heads[one.stream_id] = dict(one.headers)
                elif type(one).__name__ == "DataReceived":
                    self.bodies[one.stream_id] = self.bodies.get(one.stream_id, b"") + one.data
                if getattr(one, "stream_ended", False):
                    self.whole.put_nowait(one.stream_id)

        async def ask(self, method, path, body=b""):
            stream = self._quic.get_next_available_stream_id()
            head = {":method": method, ":scheme": "https", ":authority": "localhost", ":path": path}
            self.http.send_headers(stream, [(name.encode(), value.encode()) for name, value in head.items()], not body)
            if body:
                self.http.send_data(stream, body, True)
            self.transmit()
            assert await self.whole.get() == stream
            return int(self.heads[stream][b":status"]), self.bodies.get(stream, b"")

    ours = importlib.import_module(configuration).QuicConfiguration(
        is_client=True, alpn_protocols=["h3"], server_name="localhost", cafile=str(certs.FOLDER / "root.pem")
    )
    async with asyncio.timeout(PATIENCE), http3.serve() as server:
        async with client.connect(*server.address, configuration=ours, create_protocol=Asks) as asks:
            for _ in range(3):
                assert await asks.ask("GET", "/") == (200, b"Hello, network!\n")
            assert await asks.ask("GET", "/bytes/400000") == (200, b"".join(site.cut_pattern(0, 400_000)))
            status, told = await asks.ask("POST", "/upload", bytes(200_000))
            assert (status, json.loads(told)["bytes"]) == (200, 200_000)
            if stack == "qh3":  # aioquic misses the body that an answer to HEAD does not have (RFC 9114 §4.1.2).
                assert (await asks.ask("HEAD", "/text"))[1] == b""


async def test_curl_is_told_where_else_to_ask():
    """h1 and h2 on TCP, and h3 on the same number; whoever asks over TCP hears of it, in answers of every kind."""
    curl = need_tool("curl")
    async with http3.serve(ssl=lab_context(alpn=["h2", "http/1.1"])) as server, peer_of(server) as peer:
        port = server.address[1]
        for version, more in (("2", "--http2"), ("1.1", "--http1.1")):
            for path in ("/", "/slow?seconds=0", "/bytes/1000000", "/nothing"):
                out = await run(
                    curl, "-si", more, "--cacert", certs.FOLDER / "root.pem", f"https://localhost:{port}{path}"
                )
                assert out.startswith(f"HTTP/{version} ".encode())
                assert f'alt-svc: h3=":{port}"; ma=86400\r\n'.encode() in out
        assert "alt-svc" not in (await peer.get("/"))[0]


PROBE = b"""<!doctype html><body><p>waiting</p>%s<script>
const by = name => performance.getEntriesByName(location.origin + name)[0]?.nextHopProtocol;
(async () => {
    const seen = [performance.getEntriesByType("navigation")[0].nextHopProtocol];
    for (let i = 0; i < 100 && seen.at(-1) != "h3"; i++) {
        const path = "/slow?seconds=0.05&i=" + i;  // in real time, for the browser's is virtual
        await (await fetch(path, {cache: "no-store"})).text();
        await new Promise(done => setTimeout(done, 20));
        seen.push(by(path));
    }
    if (document.readyState != "complete") await new Promise(done => addEventListener("load", done));
    const tiles = performance.getEntriesByType("resource").filter(one => one.name.includes("/tile/"));
    const over = tiles.map(one => one.nextHopProtocol);
    document.querySelector("p").textContent = `seen: ${seen.join(" ")}. tiles: ${over.join(" ")}.`;
})();
</script>""" % b"".join(b'<img src="/tile/%d?n=24" alt="">' % i for i in range(24))


@pytest.mark.parametrize("told", ["by Alt-Svc", "at once"])
async def test_chromium_moves_to_http_3(tmp_path, told):
    """`nextHopProtocol` goes from h2 to h3 before our eyes, or is h3 from the beginning, for a page and its tiles.

    A browser trusts an alternative service only with a certificate of a root that it came with. That *some* origin of
    this host is forced to QUIC makes an exception for the host, and forces nothing on our port.
    """
    browser = need_tool("chromium")
    leaf = x509.load_pem_x509_certificate((certs.FOLDER / "server.pem").read_bytes())
    key = leaf.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    pin = base64.b64encode(hashlib.sha256(key).digest()).decode()

    def probe(request):
        if request.target == "/probe":
            return site.Response(200, [("content-type", "text/html")], PROBE)
        return site.respond(request)

    async with http3.serve(ssl=lab_context(alpn=["h2", "http/1.1"]), respond=probe) as server:
        port = server.address[1]

        async def browse(path):
            out = await run(
                browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync", "--dump-dom",
                f"--user-data-dir={tmp_path}/profile", f"--ignore-certificate-errors-spki-list={pin}",
                "--host-resolver-rules=MAP localhost 127.0.0.1", "--virtual-time-budget=30000",
                f"--origin-to-force-quic-on=localhost:{port if told == 'at once' else 1}",
                f"https://localhost:{port}{path}",
            )  # fmt: skip
            return out.decode()

        page = await browse("/probe")
        assert "seen" in page, page[-500:]
        seen, tiles = map(str.split, re.search(r"seen: ([^.]*)\. tiles: ([^.]*)\.", page).groups())
        assert seen[0] == ("h3" if told == "at once" else "h2")
        assert seen[-1] == "h3"
        assert len(tiles) == 24
        assert told != "at once" or set(tiles) == {"h3"}


# -- The program -------------------------------------------------------------------------------------


async def test_the_program_serves_tells_what_it_does_and_ends_well():
    client = need_tool("gtlsclient")
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "servers.http3", "--port", "0", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    lines = []

    async def until(words):
        while True:
            lines.append((await asyncio.wait_for(program.stdout.readline(), PATIENCE)).decode())
            assert lines[-1], "".join(lines)
            if words in lines[-1]:
                return lines[-1]

    port = re.search(r"port (\d+)", await until("listening"))[1]
    await run(client, "--exit-on-all-streams-close", "-q", "127.0.0.1", port, f"https://localhost:{port}/")
    await until("ended")
    told = "".join(lines)
    for line in ("stream 2 SETTINGS", "stream 0 HEADERS", "stream 0 is GET /", "stream 0 DATA, 16 bytes", "h3"):
        assert line in told
    program.send_signal(signal.SIGINT)
    await until("stopped")
    assert await program.wait() == 0
