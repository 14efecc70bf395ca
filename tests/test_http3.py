"""HTTP/3: frames and streams, the server's end without I/O, and the server on real sockets."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from aioquic.asyncio import QuicConnectionProtocol
from aioquic.asyncio import connect as aioquic_connect
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from hypothesis import given
from hypothesis import strategies as st

import certs
from protocols.errors import RemoteProtocolError
from protocols.http2 import Data, Pause, Request, Trailers
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
from protocols.http3_qpack import FieldDecoder, FieldEncoder, TooLarge, count_lines
from servers import http3, site
from tests.conftest import TICK
from tests.http3_cases import (
    ANSWER,
    CASES,
    CLOSE,
    GET,
    GREETING,
    RST,
    TABLE,
    Ends,
    On,
    Stops,
    data,
    headers,
    insert,
    section,
    wire,
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
    assert 0 <= count_lines(garbage) <= max(0, len(garbage) - 2)


# -- The server's end, in memory ---------------------------------------------------------------------


class Quic:
    """What the core asks of QUIC, and what it did with it."""

    def __init__(self, window=1 << 20) -> None:
        self.next_stream, self.sent, self.finished = 3, {}, set()
        self.resets, self.stops, self.consumed = {}, {}, {}
        self.windows = {}
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
    for name, (_, wanted) in CASES.items():
        _, quic, came = serve_in_memory(steps_of(name), at_once)
        if (found := outcome(quic)) != wanted:
            wrong[name] = (wanted, found)
        if quic.closed is None and "blocked" not in name and "within" not in name:
            wanting = {stream: size - quic.consumed.get(stream, 0) for stream, size in came.items()}
            if any(wanting.values()):
                wrong[f"{name}: not given back"] = ("nothing", wanting)
    assert not wrong, "\n".join(f"{name}: wanted {wanted}, got {found}" for name, (wanted, found) in wrong.items())


# -- The server, and a client by hand ----------------------------------------------------------------

PATIENCE = 200 * TICK  # what may happen at once gets this long on a busy machine


class Peer(QuicConnectionProtocol):
    """A client that sends what it likes, on aioquic's transport and nothing of its HTTP/3."""

    def __init__(self, *arguments, **more) -> None:
        super().__init__(*arguments, **more)
        self.frames, self.whole, self.resets, self.stops = {}, set(), {}, {}
        self.encoder = FieldDecoder(1 << 20)  # reads what the server's encoder wrote
        self.control, self.interim = [], {}
        self.ended = None
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

    async def get(self, path, *more, method="GET", body=None, stream=None, chunks=None):
        stream = self._quic.get_next_available_stream_id() if stream is None else stream
        self.do(get(stream, path, *more, method=method, body=body))
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
    """A fourth of the cases, and all in which a stream ends abruptly: each on a connection of its own, as datagrams."""
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
        await asyncio.gather(*map(one, {*names[::4], *abrupt}))
    assert not wrong, "\n".join(f"{name}: wanted {wanted}, got {found}" for name, (wanted, found) in wrong.items())
