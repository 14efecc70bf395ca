"""HTTP/2: the frames, the rules that h2 leaves to its user, and the server on real sockets."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tracemalloc

import hpack
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hyperframe.frame import Frame as Hyperframe
from hypothesis import example, given
from hypothesis import strategies as st

import certs
from certs.contexts import client_context
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.http2 import Data, Pause, Request, Reset, ServerConnection
from protocols.http2_frames import (
    PREFACE,
    SETTINGS_ACK,
    Decoder,
    ErrorCode,
    Flag,
    Frame,
    FrameType,
    content,
    encode,
    goaway,
    pad,
    parse_goaway,
    parse_settings,
    rst_stream,
    settings,
    window_update,
)
from protocols.http2_messages import priority
from servers import http2, site
from servers.http2_talk import Talk
from servers.tls import lab_context
from tests.conftest import TICK, need_tool
from tests.http2_cases import ANSWER, CASES, GET, GOAWAY, RST, block, data, headers, integer, wire

GREETING = PREFACE + wire(settings({}), SETTINGS_ACK)
PATIENCE = 200 * TICK  # what may happen at once gets this long on a busy machine

# -- Frames ------------------------------------------------------------------------------------------

FRAMES = [
    Frame(FrameType.PING, 0, 0, b"\1\2\3\4\5\6\7\x08"),
    Frame(FrameType.DATA, Flag.END_STREAM, 1, b""),
    Frame(FrameType.HEADERS, Flag.END_STREAM | Flag.END_HEADERS, 2**31 - 1, b"\x82" * 300),
    settings({3: 100, 4: 65535}),
    window_update(0, 1000),
    rst_stream(5, ErrorCode.CANCEL),
    goaway(2**31 - 1, ErrorCode.NO_ERROR, b"see you"),
    Frame(0xFE, 0xFF, 7, b"nobody knows"),
]


def test_the_bytes_of_a_frame():
    assert encode(FRAMES[0]).hex(" ") == "00 00 08 06 00 00 00 00 00 01 02 03 04 05 06 07 08"
    assert encode(FRAMES[3]).hex(" ") == "00 00 0c 04 00 00 00 00 00 00 03 00 00 00 64 00 04 00 00 ff ff"
    assert str(FRAMES[2]) == "HEADERS stream 2147483647, 300 bytes, END_STREAM END_HEADERS"


@pytest.mark.parametrize("frame", FRAMES[:-1], ids=str)
def test_another_hand_reads_our_frames_and_writes_the_same(frame):
    wire = encode(frame)
    theirs, length = Hyperframe.parse_frame_header(memoryview(wire[:9]))
    theirs.parse_body(memoryview(wire[9:]))
    assert (length, theirs.stream_id, theirs.type) == (len(frame.payload), frame.stream, frame.type)
    assert theirs.serialize() == wire


def test_frames_at_every_split():
    wire = b"".join(map(encode, FRAMES))
    for cut in range(len(wire) + 1):
        decoder, got = Decoder(), []
        for part in (wire[:cut], wire[cut:]):
            decoder.receive_data(part)
            got += decoder.frames()
        assert got == FRAMES
        assert decoder.unread == 0


@given(st.lists(st.builds(Frame, st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**31 - 1), st.binary())))
def test_any_frame_comes_out_as_it_went_in(frames):
    decoder, got = Decoder(), []
    for byte in b"".join(map(encode, frames)):
        decoder.receive_data(bytes([byte]))
        got += decoder.frames()
    assert got == frames


def test_a_frame_that_is_too_long_is_refused_before_its_payload_is_here():
    decoder = Decoder()
    decoder.receive_data(encode(FRAMES[0]) + b"\0\x40\x01")
    assert decoder.next_frame() == FRAMES[0]
    assert decoder.next_frame() is None
    decoder.receive_data(b"\0\0\0\0\0\1")
    with pytest.raises(RemoteProtocolError) as error:
        decoder.next_frame()
    assert error.value.code == ErrorCode.FRAME_SIZE_ERROR


def test_the_reserved_bit_is_not_looked_at():
    decoder = Decoder()
    decoder.receive_data(encode(Frame(0, 0, 0x80000003, b"")))
    assert decoder.next_frame() == Frame(0, 0, 3, b"")


def test_payloads():
    assert parse_settings(settings({3: 100, 4: 65535}).payload) == [(3, 100), (4, 65535)]
    assert parse_goaway(goaway(3, 11, b"calm").payload) == (3, 11, b"calm")
    headers = Frame(FrameType.HEADERS, Flag.PRIORITY, 1, bytes(5) + b"block")
    assert content(headers) == content(pad(headers, 255)) == b"block"
    for broken in (b"", b"\1", b"\5abc"):
        with pytest.raises(RemoteProtocolError):
            content(Frame(FrameType.DATA, Flag.PADDED, 1, broken))
    with pytest.raises(RemoteProtocolError):
        content(pad(headers._replace(payload=b"1234"), 3))


# -- The core: at every split, with garbage -----------------------------------------------------------


def serve_in_memory(pieces) -> list[str]:
    """What a server that answers at once makes of bytes in these pieces: all events, and how it ends."""
    conn, seen, sent = ServerConnection(), [], Decoder(1 << 24)
    try:
        for now, piece in enumerate(pieces):
            conn.receive_data(piece)
            while event := conn.next_event(now / 1e6):
                seen.append(str(event))
                if isinstance(event, Request) and event.head:
                    conn.send_head(event.stream, 200, [("x", "y")])
                    conn.send_data(event.stream, b"hello", 0, end=True)
                elif isinstance(event, Data):
                    conn.acknowledge(event.stream, event.size)
                sent.receive_data(conn.data_to_send(0))
                list(sent.frames())
    except RemoteProtocolError as error:
        conn.close(error.code, str(error))
        seen.append(str(ErrorCode(error.code)))
        sent.receive_data(conn.data_to_send(0))
        assert list(sent.frames())[-1].type == FrameType.GOAWAY
    assert sent.unread == 0
    return seen


def test_every_case_at_every_split():
    """However the bytes are cut, the same comes of them: byte by byte, and in two."""
    for name, (sent, _) in CASES.items():
        stream = GREETING + (b"".join(sent) if isinstance(sent, tuple) else sent)
        whole = serve_in_memory([stream])
        if len(stream) < 2000:
            assert serve_in_memory([stream[i : i + 1] for i in range(len(stream))]) == whole, name
        if len(stream) < 90:
            for cut in range(len(PREFACE), len(stream)):
                assert serve_in_memory([stream[:cut], stream[cut:]]) == whole, (name, cut)


ANY_FRAME = st.builds(
    Frame,
    st.sampled_from([*FrameType, 0x20]),
    st.sampled_from([0, 1, 4, 5, 8, 0x2D, 0xFF]),
    st.sampled_from([0, 1, 1, 2, 3, 5, 2**31 - 1]),
    st.one_of(
        st.binary(max_size=12),
        st.sampled_from(
            [b"\x82\x86\x84\x41\1a", b"\0\0\0\1", bytes(4), b"\0\4\0\0\0\5", b"\x7f\xff\xff\xff", bytes(8)]
        ),
    ),
)


@given(st.lists(ANY_FRAME, max_size=30), st.binary(max_size=20))
@example([Frame(0, 0, 1, b"")], b"")
def test_garbage_is_refused_and_nothing_else(frames, rest):
    serve_in_memory([GREETING, wire(*frames), rest])


@given(st.binary(max_size=200))
def test_noise_is_refused_and_nothing_else(noise):
    serve_in_memory([noise])
    serve_in_memory([GREETING + noise])


# -- The server, and a client by hand ----------------------------------------------------------------


class Peer:
    """A client that sends what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.frames, self.hpack = Decoder(1 << 24), hpack.Decoder()
        self.got, self.whole = {}, set()

    def send(self, *frames) -> None:
        self.writer.write(wire(*frames))

    async def next(self) -> Frame | None:
        """The next frame; None: FIN. ConnectionResetError when that is an RST."""
        while (frame := self.frames.next_frame()) is None:
            data = await self.reader.read(1 << 16)
            if not data:
                assert self.frames.unread == 0
                return None
            self.frames.receive_data(data)
        return frame

    async def until(self, wanted) -> list[Frame]:
        """All frames, to the first that is wanted; or to the end."""
        got = []
        while frame := await self.next():
            got.append(frame)
            if wanted(frame):
                break
        return got

    async def ping(self) -> list[Frame]:
        """All frames until the server has seen what we have sent so far."""
        self.send(Frame(FrameType.PING, 0, 0, b"all seen"))
        return await self.until(lambda frame: frame.type == FrameType.PING and frame.payload == b"all seen")

    async def answer(self, stream: int) -> tuple[dict[str, str], bytes]:
        """The fields and the body of the answer. What comes for others in between is kept for them."""
        while stream not in self.whole and (frame := await self.next()):
            fields, body = self.got.setdefault(frame.stream, ({}, bytearray()))
            if frame.type == FrameType.HEADERS:
                fields.update(self.hpack.decode(frame.payload))
            elif frame.type == FrameType.DATA:
                body += frame.payload
            elif frame.type == FrameType.RST_STREAM and frame.stream == stream:
                raise ConnectionAbortedError(ErrorCode(int.from_bytes(frame.payload, "big")).name)
            if ends(frame, frame.stream):
                self.whole.add(frame.stream)
        fields, body = self.got[stream]
        return fields, bytes(body)


@contextlib.asynccontextmanager
async def peer_of(server, greeting=GREETING, patience=PATIENCE, **options):
    async with asyncio.timeout(patience):
        if "sock" in options:
            await asyncio.get_running_loop().sock_connect(options["sock"], server.address)
        reader, writer = await asyncio.open_connection(*([] if "sock" in options else server.address), **options)
        try:
            writer.write(greeting)
            yield Peer(reader, writer)
        finally:
            writer.transport.abort()


def respond(request):
    """The site, and what waits until it is cancelled."""
    return asyncio.Event().wait() if "x-wait" in request.fields else site.respond(request)


def outcome(frames, peer):
    """What has come of it: the worst first."""
    for frame in frames:
        if frame.type == FrameType.GOAWAY:
            return GOAWAY(parse_goaway(frame.payload)[1])
    for frame in frames:
        if frame.type == FrameType.RST_STREAM:
            return RST(frame.stream, int.from_bytes(frame.payload, "big"))
    for frame in frames:
        if frame.type == FrameType.HEADERS and frame.stream == 1:
            return ANSWER(int(dict(peer.hpack.decode(frame.payload))[":status"]))
    return None


def ends(frame, stream=1):
    return frame.stream == stream and frame.type <= 1 and frame.flags & Flag.END_STREAM


def client_tls():
    return {"ssl": client_context(alpn=["h2"]), "server_hostname": "localhost"}


@pytest.mark.parametrize("over", ["h2c", "TLS"])
async def test_every_rule(over):
    """Every case, on a connection of its own; in each the GOAWAY is followed by FIN, and no RST overtakes it."""
    wrong = {}
    ours, theirs = (lab_context(alpn=["h2"]), client_tls()) if over == "TLS" else (None, {})
    async with http2.serve(respond=respond, ssl=ours) as server:
        for name, (sent, wanted) in CASES.items():
            async with peer_of(server, **theirs) as peer:
                if isinstance(sent, tuple):
                    peer.send(sent[0])
                    await peer.until(lambda frame: ends(frame) or frame.type == FrameType.RST_STREAM)
                    sent = sent[1]
                peer.send(sent)
                got = await peer.ping()
                if isinstance(wanted, ANSWER) and not outcome(got, peer):
                    got += await peer.until(ends)
                if isinstance(wanted, GOAWAY):
                    assert await peer.next() is None, name
                if (found := outcome(got, peer)) != wanted:
                    wrong[name] = (wanted, found)
    assert not wrong, "\n".join(f"{name}: wanted {wanted}, got {found}" for name, (wanted, found) in wrong.items())


async def test_nothing_comes_behind_goaway():
    """Also no WINDOW_UPDATE for what was not read."""
    async with http2.serve(respond=respond) as server, peer_of(server) as peer:
        peer.send(get(1, "/", ("x-wait", ""), method="POST", flags=Flag.END_HEADERS))
        for _ in range(12):
            peer.send(data(1, bytes(16384), flags=0))
            await peer.ping()
        peer.send(window_update(0, 0))
        await ends_with(peer, ErrorCode.PROTOCOL_ERROR)


def test_what_is_wrong_with_fields_is_said_in_the_same_words_each_time():
    for name, (sent, wanted) in CASES.items():
        if wanted == GOAWAY(ErrorCode.COMPRESSION_ERROR):
            conn = ServerConnection()
            conn.receive_data(GREETING + sent)
            with pytest.raises(RemoteProtocolError) as error:
                conn.next_event(0)
            assert "0x" not in str(error.value), name  # where something is in memory


# -- Streams -----------------------------------------------------------------------------------------


def get(stream, path="/", *more, flags=Flag.END_STREAM | Flag.END_HEADERS, method="GET") -> Frame:
    pairs = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "a")]
    return headers(stream, pairs, flags, more)


def body_of(frames, stream) -> int:
    return sum(len(frame.payload) for frame in frames if frame.type == FrameType.DATA and frame.stream == stream)


async def test_who_asks_now_and_then_is_not_idle():
    """Answers that wait for nothing are work, too."""
    async with http2.serve(idle_seconds=12 * TICK) as server, peer_of(server) as peer:
        for stream in range(1, 21, 2):
            peer.send(get(stream))
            assert (await peer.answer(stream))[1] == b"Hello, network!\n"
            await asyncio.sleep(2 * TICK)


async def test_streams_overtake_each_other():
    async with http2.serve() as server, peer_of(server) as peer:
        peer.send(get(1, "/slow?seconds=0.3"), get(3), get(5, "/status/404"))
        assert (await peer.answer(3))[1] == b"Hello, network!\n"
        assert (await peer.answer(5))[0][":status"] == "404"
        assert (await peer.answer(1))[1] == b"That took 0.3 s.\n"


async def test_head_204_and_304_have_no_body():
    async with http2.serve() as server, peer_of(server) as peer:
        cases = [("HEAD", "/"), ("HEAD", "/bytes/1000000"), ("GET", "/status/204"), ("GET", "/status/304")]
        for stream, (method, path) in enumerate(cases):
            peer.send(get(2 * stream + 1, path, method=method))
            fields, body = await peer.answer(2 * stream + 1)
            assert body == b""
            assert fields.get("content-length") == {"/": "16", "/bytes/1000000": "1000000"}.get(path)


async def test_100_continue_is_sent_when_the_body_is_wanted():
    async with http2.serve() as server, peer_of(server) as peer:
        expect = [("expect", "100-continue"), ("content-length", "5")]
        peer.send(get(1, "/", *expect, method="POST", flags=Flag.END_HEADERS))
        got = await peer.until(lambda frame: frame.type == FrameType.HEADERS)
        assert dict(peer.hpack.decode(got[-1].payload)) == {":status": "100"}
        peer.send(data(1, b"hello"))
        assert (await peer.answer(1))[1] == b"hello"
        peer.send(get(3, "/status/404", *expect, method="POST", flags=Flag.END_HEADERS))
        got = await peer.until(lambda frame: frame.type == FrameType.RST_STREAM)
        assert got[-1] == rst_stream(3, ErrorCode.NO_ERROR)  # §8.1: answered, and nobody needs the rest
        assert dict(peer.hpack.decode(got[0].payload))[":status"] == "405"


async def test_a_body_goes_both_ways_at_once():
    """A large echo: what comes back makes room for more to be sent, on both windows of both sides."""
    size, sent, got = 3_000_000, 0, 0
    async with http2.serve(stream_window=100_000, connection_window=150_000) as server, peer_of(server) as peer:
        peer.send(get(1, "/", method="POST", flags=Flag.END_HEADERS))
        window = {0: 65535, 1: 65535}
        while got < size:
            while sent < size and (room := min(*window.values(), 16384, size - sent)) > 0:
                peer.send(data(1, bytes(room), flags=Flag.END_STREAM if sent + room == size else 0))
                sent, window = sent + room, {stream: left - room for stream, left in window.items()}
            frame = await peer.next()
            if frame.type == FrameType.DATA:
                got += len(frame.payload)
                peer.send(window_update(0, len(frame.payload)), window_update(1, len(frame.payload)))
            elif frame.type == FrameType.WINDOW_UPDATE:
                window[frame.stream] += int.from_bytes(frame.payload, "big")
            elif frame.type == FrameType.SETTINGS and not frame.flags:
                window[1] += dict(parse_settings(frame.payload))[4] - 65535
            else:
                assert frame.type in (FrameType.SETTINGS, FrameType.HEADERS), str(frame)


async def test_who_does_not_read_holds_up_only_that_stream():
    """A stream blocks at exactly its window. Its sibling goes on, until the window of both is spent."""
    async with http2.serve() as server:
        async with peer_of(server, GREETING + encode(window_update(0, 100_000))) as peer:
            peer.send(get(1, "/bytes/1000000"))
            got = await peer.ping()
            while body_of(got, 1) < 65535:
                got.append(await peer.next())
            peer.send(get(3, "/bytes/1000000"))
            while body_of(got, 3) < 65535:
                got.append(await peer.next())
            peer.send(get(5, "/bytes/1000000"))
            while body_of(got, 5) < 165_535 - 2 * 65535:
                got.append(await peer.next())
            peer.send(get(7), window_update(1, 1000))
            got += await peer.ping() + await peer.ping()
            assert [body_of(got, stream) for stream in (1, 3, 5, 7)] == [65535, 65535, 34465, 0]
            peer.send(window_update(0, 16))
            got += await peer.until(lambda frame: frame.type == FrameType.DATA)
            assert body_of(got, 1) + body_of(got, 7) == 65535 + 16


def answers(*streams, size, greeting=b""):
    """A connection with answers of that size, which wait for their turn."""
    conn = ServerConnection()
    conn.receive_data(GREETING + greeting + wire(*map(get, streams)))
    while event := conn.next_event(0):
        if isinstance(event, Request):
            conn.send_head(event.stream, 200, [])
            conn.send_data(event.stream, bytes(size), 0, end=True)
    return conn


OPEN = wire(settings({4: 2**31 - 1}), window_update(0, 2**31 - 1 - 65535))


def test_to_wait_for_ones_turn_is_not_to_be_stalled():
    conn = answers(1, 3, size=100_000, greeting=OPEN)
    conn.data_to_send(100, room=1000)
    assert conn.stalled(before=50) == []
    conn = answers(1, 3, 5, size=65535)
    conn.data_to_send(100)
    assert conn.stalled(before=50) == []  # The connection's window is spent, and not for long.
    assert conn.stalled(before=150) == [3, 5]
    conn.receive_data(wire(settings({4: 0}), window_update(0, 65535 + 1000)))
    assert conn.next_event(150) is None
    assert conn.stalled(before=150) == [3, 5]


def test_a_spent_window_of_the_connection_is_one_look_and_not_one_per_stream():
    class Counting(dict):
        looks = 0

        def __getitem__(self, key):
            self.looks += 1
            return super().__getitem__(key)

    conn = answers(*range(1, 200, 2), size=65535)
    assert len(conn.data_to_send(0)) > 65535
    conn._h2.streams = Counting(conn._h2.streams)
    assert conn.data_to_send(0) == b""
    assert conn._h2.streams.looks == 0


async def test_who_has_said_fin_opens_no_window_any_more():
    async with http2.serve() as server, peer_of(server) as peer:
        peer.send(window_update(0, 1000), get(1, "/bytes/1000000"), get(3, "/slow?seconds=0.1"))
        peer.writer.write_eof()
        got = await peer.until(lambda frame: False)
        assert rst_stream(1, ErrorCode.CANCEL) in got
        assert body_of(got, 1) == 65535
        assert [frame.stream for frame in got if ends(frame, frame.stream)] == [3]


async def test_a_window_may_become_negative():
    """§6.9.2: the client makes the window smaller than what is under way; nothing comes until it is above 0 again."""
    async with http2.serve() as server, peer_of(server) as peer:
        peer.send(settings({4: 1000}), get(1, "/bytes/5000"))
        got = await peer.ping()
        while body_of(got, 1) < 1000:
            got.append(await peer.next())
        peer.send(settings({4: 0}), window_update(1, 1000))
        assert body_of(await peer.ping() + await peer.ping(), 1) == 0
        peer.send(window_update(1, 1))
        frame = (await peer.until(lambda frame: frame.type == FrameType.DATA))[-1]
        assert len(frame.payload) == 1


def test_an_end_without_data_needs_no_window():
    """§6.9: also when SETTINGS have made it negative."""
    conn, sent = ServerConnection(), Decoder()
    conn.receive_data(GREETING + wire(get(1)))
    assert isinstance(conn.next_event(0), Request)
    conn.send_head(1, 200, [])
    conn.send_data(1, b"hello", 0)
    conn.data_to_send(0)
    conn.receive_data(wire(settings({4: 0})))
    assert conn.next_event(0) is None
    conn.send_data(1, b"", 0, end=True)
    sent.receive_data(conn.data_to_send(0))
    assert list(sent.frames())[-1] == data(1)


async def test_frames_are_as_large_as_the_client_takes():
    async with http2.serve() as server, peer_of(server) as peer:
        peer.send(settings({4: 1_000_000, 5: 100_000}), window_update(0, 1_000_000), get(1, "/bytes/200000"))
        sizes = [len(frame.payload) for frame in await peer.until(ends) if frame.type == FrameType.DATA]
        assert max(sizes) == 100_000


async def test_a_body_that_nobody_reads_holds_up_no_other():
    """The window of its stream is spent, and that of the connection is wide enough for others."""
    async with http2.serve(respond=respond) as server, peer_of(server) as peer:
        peer.send(get(1, "/", ("x-wait", ""), method="POST", flags=Flag.END_HEADERS))
        peer.send(*[data(1, bytes(16384), flags=0)] * 16)
        peer.send(get(3, "/upload", method="POST", flags=Flag.END_HEADERS))
        for _ in range(100):
            peer.send(data(3, bytes(16384), flags=0))
            got = await peer.ping()
            assert window_update(1, 1)[:3] not in [frame[:3] for frame in got]
        peer.send(data(3))
        assert b"1638400" in (await peer.answer(3))[1]


async def test_trailers_of_a_request_end_its_body():
    async with http2.serve() as server, peer_of(server) as peer:
        peer.send(get(1, "/", method="POST", flags=Flag.END_HEADERS), data(1, b"hello", flags=0))
        peer.send(headers(1, [("checksum", "1234")]))
        assert (await peer.answer(1))[1] == b"hello"


def test_trailers_of_a_response_come_behind_its_body():
    conn = ServerConnection()
    conn.receive_data(GREETING + encode(get(1)))
    assert isinstance(conn.next_event(0), Request)
    conn.send_head(1, 200, [])
    conn.send_data(1, b"hello", 0)
    sent = Decoder()
    sent.receive_data(conn.data_to_send(0))
    assert conn.is_sent(1)
    conn.send_data(1, b" there", 0, end=True, trailers=[("grpc-status", "0")])
    sent.receive_data(conn.data_to_send(0))
    *_, head, first, second, trailers = sent.frames()
    assert (first.payload, second.payload) == (b"hello", b" there")
    assert trailers.flags == Flag.END_STREAM | Flag.END_HEADERS
    decoder = hpack.Decoder()
    decoder.decode(head.payload)
    assert decoder.decode(trailers.payload) == [("grpc-status", "0")]
    with pytest.raises(LocalProtocolError):
        conn.send_data(1, b"more", 0)


@pytest.mark.parametrize("by", ["field", "frame"])
async def test_the_urgent_come_first_and_the_incremental_in_turns(by):
    """RFC 9218: by the field `priority`, or by a PRIORITY_UPDATE that comes before its stream or after."""
    wanted = {1: "u=7", 3: "u=5, i", 5: "u=5, i", 7: "u=1", 9: "u=1"}
    conn = ServerConnection()
    conn.receive_data(GREETING + wire(window_update(0, 1_000_000)))
    if by == "field":
        conn.receive_data(wire(*[get(stream, "/", ("priority", value)) for stream, value in wanted.items()]))
    else:
        update = [Frame(0x10, 0, 0, stream.to_bytes(4, "big") + value.encode()) for stream, value in wanted.items()]
        conn.receive_data(wire(*update[:2], *map(get, wanted), *update[2:]))
    while event := conn.next_event(0):
        conn.send_head(event.stream, 200, [])
        conn.send_data(event.stream, bytes(40_000), 0, end=True)
    sent = Decoder()
    sent.receive_data(conn.data_to_send(0, room=1_000_000))
    order = [frame.stream for frame in sent.frames() if frame.type == FrameType.DATA]
    assert order == [7, 7, 7, 9, 9, 9, 3, 5, 3, 5, 3, 5, 1, 1, 1]


@pytest.mark.parametrize(
    ("value", "urgency", "incremental"),
    [
        ("", 3, False),
        ("u=0", 0, False),
        ("i", 3, True),
        ("u=7,i=?0", 7, False),
        ("i=?1;x=y, u=2;a", 2, True),
        ("u=8", 3, False),
        ("u=-1, i=1", 3, False),
        ("u=1, u=5", 5, False),
        ("U=1", 3, False),
    ],
)
def test_priority_fields(value, urgency, incremental):
    assert priority(value) == (urgency, incremental)


async def test_rst_stream_ends_the_work():
    """The task is cancelled, the generator closed; also when both come in one read, and work has just begun."""
    closed = []

    async def endless():
        try:
            while True:
                yield b"tick"
                await asyncio.sleep(TICK)
        finally:
            closed.append("generator")

    async def later():
        try:
            await asyncio.Event().wait()
        finally:
            closed.append("task")

    def answer(request):
        return later() if request.target == "/later" else site.Response(200, [], endless())

    async with http2.serve(respond=answer) as server, peer_of(server) as peer:
        peer.send(get(1), get(3, "/later"))
        await peer.until(lambda frame: frame.type == FrameType.DATA)
        peer.send(rst_stream(1, 8), rst_stream(3, 8), get(5), rst_stream(5, 8), get(7, "/later"), rst_stream(7, 8))
        await peer.ping()
        while server.tasks:
            await peer.ping()
        assert sorted(closed) == ["generator", "task", "task"] or sorted(closed) == ["generator"] * 2 + ["task"] * 2


async def test_a_mistake_of_ours_ends_its_stream_alone(caplog):
    async def half():
        yield b"half"
        raise ZeroDivisionError

    def answer(request):
        return site.Response(200, [], half()) if request.target == "/half" else 1 / 0

    async with http2.serve(respond=answer) as server, peer_of(server) as peer:
        peer.send(get(1), get(3, "/half"))
        assert (await peer.answer(1))[0][":status"] == "500"
        with pytest.raises(ConnectionAbortedError, match="INTERNAL_ERROR"):
            await peer.answer(3)
        await peer.ping()
    assert "ZeroDivisionError" in caplog.text


def test_hpack_stays_right_whatever_becomes_of_its_tables():
    """What is remembered must not outlive a change: by new fields, by the client's SETTINGS, by an entry too large."""
    conn, frames, decoder, encoder = ServerConnection(), Decoder(), hpack.Decoder(), hpack.Encoder()
    conn.receive_data(GREETING)
    chance = random.Random(7)
    for number in range(200):
        stream = 2 * number + 1
        if chance.random() < 0.1:
            size = chance.choice((0, 60, 100, 300, 4096))
            conn.receive_data(encode(settings({1: size})))
            decoder.max_allowed_table_size = max(size, decoder.header_table_size)
        if chance.random() < 0.1:
            encoder.header_table_size = chance.choice((0, 60, 150, 4096))
        asked = [
            (f"x-{chance.randrange(4)}", str(chance.randrange(3)) * chance.choice((1, 1, 1, 20, 20, 20, 5000)))
            for _ in range(3)
        ]
        asked = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a"), *asked]
        conn.receive_data(encode(Frame(1, 5, stream, encoder.encode(asked))))
        event = conn.next_event(number)
        assert conn.next_event(number) is None
        assert [*map(tuple, event.head.pairs)] == asked[4:]
        answer = [
            (f"y-{chance.randrange(4)}", str(chance.randrange(3)) * chance.choice((1, 1, 1, 20, 20, 20, 5000)))
            for _ in range(3)
        ]
        conn.send_head(stream, 200, answer, end=True)
        frames.receive_data(conn.data_to_send(number))
        block = b"".join(frame.payload for frame in frames.frames() if frame.type in (1, 9))
        assert [tuple(pair) for pair in decoder.decode(block)] == [(":status", "200"), *answer]


def test_the_same_bytes_mean_something_else_when_the_table_has_changed():
    conn = ServerConnection()
    conn.receive_data(GREETING)
    newest, seen = block(GET) + b"\xbe", []
    for stream, value in enumerate((b"1", None, None, b"2", None)):
        section = newest if value is None else block(GET) + b"\x40\1x\1" + value
        conn.receive_data(encode(Frame(1, 5, 2 * stream + 1, section)))
        seen.append(conn.next_event(0).head.fields["x"])
    assert seen == ["1", "1", "1", "2", "2"]


def test_a_table_that_was_made_small_and_large_again_is_said_to_be_so_once():
    conn, frames, decoder = ServerConnection(), Decoder(), hpack.Decoder()
    conn.receive_data(GREETING)
    for number, (size, answer) in enumerate([(0, "a"), (4096, ""), (None, "a"), (None, "c"), (None, "c"), (None, "c")]):
        pairs = [(name, name) for name in answer]
        conn.receive_data(b"" if size is None else encode(settings({1: size})))
        conn.receive_data(encode(get(2 * number + 1)))
        assert isinstance(conn.next_event(0), Request)
        conn.send_head(2 * number + 1, 200, pairs, end=True)
        frames.receive_data(conn.data_to_send(0))
        (section,) = [frame.payload for frame in frames.frames() if frame.type == FrameType.HEADERS]
        assert [tuple(pair) for pair in decoder.decode(section)] == [(":status", "200"), *pairs]


def test_a_client_cannot_make_us_remember_more_than_we_want():
    """It may offer a table of 4 GiB for our fields, tell 65,536 settings that nobody knows, open stream by stream."""
    conn = ServerConnection()
    conn.receive_data(GREETING + encode(settings({1: 2**32 - 1})))
    for start in range(256, 20000, 2000):
        conn.receive_data(encode(settings(dict.fromkeys(range(start, start + 2000), 1))))
    for stream in range(1, 2600, 2):
        conn.receive_data(encode(get(stream)))
        assert isinstance(conn.next_event(stream), Request)
        assert conn.next_event(stream) is None
        conn.send_head(stream, 200, [(f"x-{stream}", "y" * 100)], end=True)
    books = conn._h2
    assert sum(len(name) + len(value) + 32 for name, value in books.encoder.header_table.dynamic_entries) <= 4096
    assert len(books.remote_settings) < 20
    assert len(books.streams) + len(books._closed_streams) < 1200


async def test_a_body_whose_stream_was_reset_gives_its_window_back():
    async with http2.serve(respond=respond, connection_window=1 << 19) as server, peer_of(server) as peer:
        for stream in range(1, 81, 2):
            peer.send(get(stream, "/", ("x-wait", ""), method="POST", flags=Flag.END_HEADERS))
            peer.send(*[data(stream, bytes(16000), flags=0)] * 4, rst_stream(stream, 8))
            assert FrameType.GOAWAY not in [frame.type for frame in await peer.ping()]


async def test_a_slow_body_may_take_its_time_and_a_slow_head_may_not():
    async with http2.serve(head_seconds=16 * TICK, linger_seconds=10) as server, peer_of(server) as peer:
        peer.send(get(1, method="POST", flags=Flag.END_HEADERS))
        for byte in encode(data(1, b"hello there")):
            peer.writer.write(bytes([byte]))
            await asyncio.sleep(TICK)
        assert (await peer.answer(1))[1] == b"hello there"
        for byte in encode(get(3))[:24]:
            peer.writer.write(bytes([byte]))
            await asyncio.sleep(TICK)
        await ends_with(peer, ErrorCode.ENHANCE_YOUR_CALM, "in time")


# -- Limits and time ---------------------------------------------------------------------------------


async def ends_with(peer, code, words="") -> list[Frame]:
    """All frames to the end of the connection: GOAWAY with this code and a text, then FIN."""
    got = await peer.until(lambda frame: False)
    _, found, text = parse_goaway(got[-1].payload)
    assert (got[-1].type, found) == (FrameType.GOAWAY, code), got[-1]
    assert words in text.decode()
    return got


@pytest.mark.parametrize(
    ("greeting", "limits", "code", "words"),
    [
        (b"", {"head_seconds": 2 * TICK}, ErrorCode.ENHANCE_YOUR_CALM, "preface"),
        (PREFACE[:9], {"head_seconds": 2 * TICK}, ErrorCode.ENHANCE_YOUR_CALM, "preface"),
        (PREFACE, {"head_seconds": 2 * TICK}, ErrorCode.ENHANCE_YOUR_CALM, "in time"),
        (GREETING + b"\0\0", {"head_seconds": 2 * TICK}, ErrorCode.ENHANCE_YOUR_CALM, "in time"),
        (GREETING + wire(headers(flags=0)), {"head_seconds": 2 * TICK}, ErrorCode.ENHANCE_YOUR_CALM, "in time"),
        (PREFACE + wire(settings({})), {"settings_seconds": 2 * TICK}, ErrorCode.SETTINGS_TIMEOUT, "acknowledged"),
        (GREETING, {"idle_seconds": 2 * TICK}, ErrorCode.NO_ERROR, "nothing was asked"),
        (b"INVALID CONNECTION PREFACE\r\n\r\n", {}, ErrorCode.PROTOCOL_ERROR, "preface"),
        (b"\x16\x03\x01", {}, ErrorCode.PROTOCOL_ERROR, "preface"),
        (PREFACE + wire(headers()), {}, ErrorCode.PROTOCOL_ERROR, "first frame"),
        (PREFACE + wire(SETTINGS_ACK), {}, ErrorCode.PROTOCOL_ERROR, "first frame"),
    ],
)
async def test_who_does_not_begin_or_go_on_is_told_why(greeting, limits, code, words):
    async with http2.serve(**limits) as server, peer_of(server, greeting) as peer:
        await ends_with(peer, code, words)


async def test_too_many_connections_are_told_so():
    async with http2.serve(max_connections=1) as server, peer_of(server) as peer, peer_of(server) as other:
        await peer.ping()
        await ends_with(other, ErrorCode.ENHANCE_YOUR_CALM, "1 connections are served already")
        await peer.ping()


async def test_a_body_that_does_not_come_is_answered_with_408():
    async with http2.serve(body_seconds=2 * TICK) as server, peer_of(server) as peer:
        peer.send(get(1, "/upload", method="POST", flags=Flag.END_HEADERS))
        assert (await peer.answer(1))[0][":status"] == "408"
        peer.send(get(3))
        assert (await peer.answer(3))[0][":status"] == "200"


async def test_a_stream_that_is_not_read_ends_after_a_while():
    async with http2.serve(body_seconds=4 * TICK) as server, peer_of(server) as peer:
        peer.send(get(1, "/bytes/10000000"), get(3, "/bytes/100000"))
        got = await peer.until(lambda frame: frame.type == FrameType.RST_STREAM)
        assert got[-1].payload[-1] == ErrorCode.CANCEL
        await peer.until(lambda frame: frame.type == FrameType.RST_STREAM)
        while server.tasks:
            await peer.ping()


async def test_too_large_a_body():
    async with http2.serve(max_body=1000) as server, peer_of(server) as peer:
        post = {"method": "POST", "flags": Flag.END_HEADERS}
        peer.send(get(1, "/upload", ("content-length", "1001"), **post))
        assert (await peer.answer(1))[0][":status"] == "413"
        peer.send(get(3, "/upload", **post), data(3, bytes(600), flags=0), data(3, bytes(600), flags=0))
        assert (await peer.answer(3))[0][":status"] == "413"
        peer.send(get(5, "/upload", **post), data(5, bytes(1000)))
        assert (await peer.answer(5))[0][":status"] == "200"


async def test_too_many_streams_are_refused_and_the_others_served():
    async with http2.serve(max_streams=3) as server, peer_of(server) as peer:
        peer.send(*[get(stream, "/slow?seconds=0.3") for stream in (1, 3, 5, 7)])
        assert rst_stream(7, ErrorCode.REFUSED_STREAM) in await peer.ping()
        for stream in (1, 3, 5):
            assert (await peer.answer(stream))[0][":status"] == "200"
        peer.send(get(9))
        assert (await peer.answer(9))[0][":status"] == "200"


async def test_http_1_1_on_the_same_port():
    async with http2.serve() as server:
        for cut in (1, 3, 10):
            async with peer_of(server, b"") as peer:
                request = b"PUT / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
                peer.writer.write(request[:cut])
                await asyncio.sleep(0)
                peer.writer.write(request[cut:])
                assert (await peer.reader.read()).startswith(b"HTTP/1.1 405 ")


async def test_a_client_that_has_said_all_still_gets_its_answers():
    async with http2.serve() as server, peer_of(server) as peer:
        peer.send(get(1), get(3, "/slow?seconds=0.1"))
        peer.writer.write_eof()
        got = await peer.until(lambda frame: False)
        assert [frame.stream for frame in got if ends(frame, frame.stream)] == [1, 3]


async def test_drain_finishes_what_is_under_way():
    """§6.8: GOAWAY for all numbers and a PING; a request that was on its way is served; GOAWAY with the last number."""
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(http2.serve(grace_seconds=100 * TICK, linger_seconds=2 * TICK))
        peer, idle = [await stack.enter_async_context(peer_of(server)) for _ in range(2)]
        peer.send(get(1, "/slow?seconds=0.3"))
        await peer.ping()
        await idle.ping()
        closing = asyncio.create_task(server.drain(10))
        got = await peer.until(lambda frame: frame.type == FrameType.PING)
        assert parse_goaway(got[-2].payload)[:2] == (2**31 - 1, ErrorCode.NO_ERROR)
        peer.send(get(3), got[-1]._replace(flags=Flag.ACK))
        got = await peer.until(lambda frame: frame.type == FrameType.GOAWAY)
        assert parse_goaway(got[-1].payload)[:2] == (3, ErrorCode.NO_ERROR)
        peer.send(get(5))
        got += await peer.until(lambda frame: False)
        assert [frame.stream for frame in got if ends(frame, frame.stream)] == [3, 1]
        assert rst_stream(5, ErrorCode.REFUSED_STREAM) in got
        ping = (await idle.until(lambda frame: frame.type == FrameType.PING))[-1]
        idle.send(ping._replace(flags=Flag.ACK))
        assert (await idle.until(lambda frame: False))[-1].type == FrameType.GOAWAY
        await closing


async def test_a_client_that_does_not_answer_is_not_waited_for_long():
    async with contextlib.AsyncExitStack() as stack:
        async with http2.serve(grace_seconds=2 * TICK, linger_seconds=2 * TICK) as server:
            peer = await stack.enter_async_context(peer_of(server))
            await peer.ping()
        got = await peer.until(lambda frame: False)
        assert [frame.type for frame in got] == [FrameType.GOAWAY, FrameType.PING, FrameType.GOAWAY]


def test_the_highest_number_is_the_last_one_said_once():
    conn, sent = answers(2**31 - 1, size=1), Decoder()
    for _ in range(3):
        conn.drain()
    sent.receive_data(conn.data_to_send(0))
    assert [frame.type for frame in sent.frames()].count(FrameType.GOAWAY) == 2
    assert conn.is_last


async def test_what_does_not_end_is_cut_when_the_drain_is_over():
    async with contextlib.AsyncExitStack() as stack:
        async with http2.serve(drain_seconds=2 * TICK, respond=respond) as server:
            peer = await stack.enter_async_context(peer_of(server))
            peer.send(get(1, "/", ("x-wait", "")), get(3, "/bytes/10000000"))
            await peer.ping()
        assert not server.tasks
        assert not server.talks


# -- Floods ------------------------------------------------------------------------------------------


def many(make, count=3000):
    return wire(*[make(2 * i + 1) for i in range(count)])


FLOODS = {
    "rapid reset, CVE-2023-44487": many(lambda i: wire(get(i), rst_stream(i, 8))),
    "rapid reset of what takes time": many(lambda i: wire(get(i, "/slow?seconds=30"), rst_stream(i, 8))),
    "made you reset, CVE-2025-8671: WINDOW_UPDATE of 0": many(
        lambda i: wire(get(i, "/slow?seconds=30"), window_update(i, 0))
    ),
    "made you reset: DATA on a closed stream": many(lambda i: wire(get(i), data(i, b"x"))),
    "made you reset: a malformed request": many(lambda i: get(i, "/", ("X", "y"))),
    "made you reset: too many streams": many(lambda i: get(i, "/slow?seconds=30")),
    "PING, CVE-2019-9512": many(lambda i: Frame(FrameType.PING, 0, 0, bytes(8))),
    "SETTINGS, CVE-2019-9515": many(lambda i: settings({4: i})),
    "SETTINGS that are unknown": many(lambda i: settings(dict.fromkeys(range(10 * i + 50, 10 * i + 550), 1)), 300),
    "PRIORITY": many(lambda i: Frame(FrameType.PRIORITY, 0, i, bytes(5))),
    "PRIORITY_UPDATE": many(lambda i: Frame(FrameType.PRIORITY_UPDATE, 0, 0, i.to_bytes(4, "big") + b"u=1")),
    "WINDOW_UPDATE": many(lambda i: window_update(0, 1)),
    "a window of a byte, CVE-2019-9511": wire(settings({4: 0}), get(1, "/bytes/100000")) + many(
        lambda i: window_update(1, 1)
    ),
    "empty DATA, CVE-2019-9518": wire(get(1, method="POST", flags=4)) + many(lambda i: data(1, flags=0)),
    "padding alone": wire(get(1, method="POST", flags=4)) + many(lambda i: Frame(0, 8, 1, bytes(1))),
    "CONTINUATION, CVE-2024-27983": wire(headers(flags=1)) + many(lambda i: Frame(9, 0, 1, b"")),
    "CONTINUATION, and much in it": wire(headers(flags=1)) + many(lambda i: Frame(9, 0, 1, bytes(16384)), 10),
    "unknown frames": many(lambda i: Frame(0x77, 0, 0, b"?")),
    "a bomb of HPACK, CVE-2016-6581": wire(Frame(1, 5, 1, b"\x40\1a" + integer(4000, 7) + bytes(4000)), *[
        Frame(1, 5, 3, b"\xbe" * 16000)
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_is_told_to_calm_down_and_others_are_served(name):
    async with http2.serve() as server, peer_of(server) as flood, peer_of(server) as other:
        flood.writer.write(FLOODS[name])
        other.send(get(1))
        assert (await other.answer(1))[0][":status"] == "200"
        await ends_with(flood, ErrorCode.ENHANCE_YOUR_CALM)
        other.send(get(3))
        assert (await other.answer(3))[0][":status"] == "200"
        while server.tasks:
            await other.ping()


async def test_what_good_clients_do_costs_nothing():
    """A thousand requests one after the other; a large body with two WINDOW_UPDATEs for each of its frames."""
    async with http2.serve() as server, peer_of(server) as peer:
        for stream in range(1, 2000, 2):
            peer.send(get(stream))
            await peer.answer(stream)
            peer.send(window_update(0, 16))
        peer.send(get(2001, "/bytes/20000000"))
        left = 20_000_000
        while left:
            frame = await peer.next()
            if frame.type == FrameType.DATA and frame.payload:
                left -= len(frame.payload)
                peer.send(window_update(0, len(frame.payload)), window_update(2001, len(frame.payload)))
        await peer.ping()


@pytest.mark.parametrize("step", [16384, 4096, 2048])
def test_both_windows_may_be_opened_for_every_few_bytes(step):
    conn = answers(1, size=8_000_000, greeting=OPEN)
    while data := conn.data_to_send(0):
        conn.receive_data(wire(window_update(0, step), window_update(1, step)) * (len(data) // step))
        while conn.next_event(0):
            pass
    assert conn.is_sent(1)


def test_a_browser_that_scrolls_may_cancel_what_has_begun():
    conn = ServerConnection()
    conn.receive_data(GREETING)
    for number in range(500):
        now, stream = number / 20, 2 * number + 1
        conn.receive_data(wire(get(stream)))
        assert isinstance(conn.next_event(now), Request)
        conn.send_head(stream, 200, [])
        conn.send_data(stream, bytes(100), now)
        conn.data_to_send(now)
        conn.receive_data(wire(rst_stream(stream, ErrorCode.CANCEL)))
        assert isinstance(conn.next_event(now), Reset)
        assert conn.next_event(now) is None


@pytest.mark.parametrize("block", [block(GET) + block([("x", "y" * 9000)]), block(GET) + b"\0\1x\0" * 800])
def test_a_request_with_many_fields_is_enough_for_a_turn(block):
    conn = ServerConnection()
    conn.receive_data(GREETING + wire(*[Frame(FrameType.HEADERS, 5, stream, block) for stream in range(1, 99, 2)]))
    events = [conn.next_event(0) for _ in range(20)]
    assert sum(isinstance(event, Pause) for event in events) >= 5


async def test_memory_stays_flat():
    """A hundred streams of a terabyte each, that nobody reads; and a hundred bodies that nobody wants."""
    async with http2.serve(respond=respond) as server:
        tracemalloc.start()
        try:
            async with peer_of(server) as reader, peer_of(server) as writer:
                reader.send(settings({4: 2**31 - 1}), window_update(0, 2**31 - 1 - 65535))
                reader.send(*[get(stream, "/bytes/1000000000000") for stream in range(1, 200, 2)])
                for stream in range(1, 200, 2):
                    writer.send(get(stream, "/", ("x-wait", ""), method="POST", flags=Flag.END_HEADERS))
                for stream in range(1, 33, 2):
                    writer.send(*[data(stream, bytes(16000), flags=0)] * 16)
                await writer.ping()
                for _ in range(100):
                    await asyncio.sleep(0)
                now, _ = tracemalloc.get_traced_memory()
                assert now < 16_000_000, f"{now:,} bytes"
        finally:
            tracemalloc.stop()


class Sink(asyncio.Transport):
    """A transport that keeps what is written, and whether reading is paused."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.is_paused = b"", False

    def write(self, data) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def get_write_buffer_size(self) -> int:
        return len(self.written)

    def is_closing(self) -> bool:
        return False


async def test_no_request_is_looked_at_while_answers_cannot_leave():
    """Also answers without a body, which no window holds back: HEAD."""
    async with http2.serve() as server:
        talk, sink = Talk(server), Sink()
        talk.connection_made(sink)
        talk.data_received(GREETING)
        talk.pause_writing()
        before = len(sink.written)
        talk.data_received(many(lambda i: get(i, method="HEAD"), 2000))
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(sink.written) == before
        assert sink.is_paused
        talk.resume_writing()
        for _ in range(2000):
            await asyncio.sleep(0)
        assert not sink.is_paused
        frames = Decoder()
        frames.receive_data(sink.written)
        assert sum(frame.type == FrameType.HEADERS for frame in frames.frames()) == 2000
        talk.connection_lost(None)


async def test_a_client_that_does_not_read_is_not_waited_for():
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    async with http2.serve(body_seconds=10 * TICK) as server, peer_of(server, sock=sock) as peer:
        peer.writer.transport.pause_reading()
        peer.send(settings({4: 2**31 - 1}), window_update(0, 2**31 - 1 - 65535))
        stream = 1
        with contextlib.suppress(ConnectionError):
            while True:
                peer.send(*[get(number, "/bytes/100000") for number in range(stream, stream + 20, 2)])
                stream += 20
                await peer.writer.drain()
                (talk,) = server.talks or [None]
                assert talk is None or talk.transport.get_write_buffer_size() < 300_000


class Clock:
    """A clock that stands still until it is set. Who wants to be called later is not."""

    def __init__(self) -> None:
        self.now = asyncio.get_running_loop().time()

    def time(self) -> float:
        return self.now

    def call_later(self, *_) -> asyncio.Handle:
        return asyncio.get_running_loop().call_soon(int)

    def __getattr__(self, name: str):
        return getattr(asyncio.get_running_loop(), name)


async def test_who_reads_slowly_is_waited_for_and_who_stops_is_not():
    """A slow reader's buffer is always full, for what has left is replaced: to look at its size alone says nothing."""
    async with http2.serve(body_seconds=30) as server:
        talk, sink, clock = Talk(server), Sink(), Clock()
        talk.clock = clock
        sink.write, sink.get_write_buffer_size = id, lambda: 100_000
        sink.abort = lambda: talk.connection_lost(None)
        talk.connection_made(sink)
        talk.data_received(GREETING + wire(settings({4: 2**31 - 1}), window_update(0, 2**30)))
        talk.data_received(wire(get(1, "/bytes/1000000000")))
        for _ in range(10):
            talk.pause_writing()
            clock.now += 20
            talk.ring()
            assert talk in server.talks
            talk.resume_writing()
            for _ in range(10):
                await asyncio.sleep(0)
        talk.pause_writing()
        talk.ring()
        clock.now += 30
        talk.ring()
        assert talk not in server.talks


async def test_a_download_that_is_slower_than_we_are_is_whole():
    """Also when the server is told to end meanwhile."""
    curl = need_tool("curl")
    asked = asyncio.Event()

    def respond(request):
        asked.set()
        return site.respond(request)

    async with http2.serve(idle_seconds=10 * TICK, grace_seconds=2 * TICK, respond=respond) as server:
        url = f"http://127.0.0.1:{server.address[1]}/bytes/20000000"
        download = asyncio.create_task(run(curl, "-sSf", "--http2-prior-knowledge", "--limit-rate", "20M", url))
        await asked.wait()
    assert len(await download) == 20_000_000


async def test_garbage_never_brings_the_server_down(caplog):
    """Good beginnings with some bytes changed, cut or said twice: an error or an answer, and never a traceback."""
    chance = random.Random(9113)
    streams = [b"".join(sent) if isinstance(sent, tuple) else sent for sent, _ in CASES.values()]
    streams = [stream for stream in streams if len(stream) < 1000]
    async with http2.serve(respond=respond) as server:
        for _ in range(150):
            noise = bytearray(b"".join(chance.choices(streams, k=3)))
            for _ in range(chance.randrange(6)):
                at = chance.randrange(len(noise))
                noise[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
            async with peer_of(server) as peer:
                peer.writer.write(noise)
                peer.writer.write_eof()
                with contextlib.suppress(ConnectionError):
                    await peer.reader.read(300)
        async with peer_of(server) as peer:
            peer.send(get(1))
            assert (await peer.answer(1))[1] == b"Hello, network!\n"
    assert "Traceback" not in caplog.text


# -- The command -------------------------------------------------------------------------------------


def start(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "servers.http2", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("how", [["--plain"], []], ids=["h2c", "TLS"])
def test_the_command_serves_logs_each_frame_and_ends_in_peace(how):
    curl = need_tool("curl")
    with start("--port", "0", *how) as program:
        port = int(re.search(r"port (\d+)", program.stdout.readline())[1])
        url = f"http://127.0.0.1:{port}/" if how else f"https://localhost:{port}/"
        flags = ["--http2-prior-knowledge"] if how else ["--cacert", str(certs.FOLDER / "root.pem")]
        answer = subprocess.run([curl, "-sSi", *flags, url], capture_output=True, text=True, check=True).stdout
        program.send_signal(signal.SIGTERM)
        out, err = program.communicate(timeout=PATIENCE)
    assert answer.startswith("HTTP/2 200")
    assert program.returncode == 0
    assert err == ""
    assert re.search(r"^< \d+ HEADERS stream 1, \d+ bytes, END_STREAM END_HEADERS$", out, re.MULTILINE), out
    assert re.search(r"^= \d+ stream 1 is GET /$", out, re.MULTILINE), out
    assert re.search(r"^> \d+ DATA stream 1, 16 bytes, END_STREAM$", out, re.MULTILINE), out
    assert out.endswith("= stopped\n")


def test_a_port_that_is_taken_is_one_clear_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with start("--plain", "--port", str(taken.getsockname()[1])) as program:
            _, err = program.communicate(timeout=PATIENCE)
    assert program.returncode == 2
    assert "Address already in use" in err
    assert err.count("\n") == 1


# -- Peers that we did not write ---------------------------------------------------------------------


async def run(*command: str, stdin: bytes = b"") -> bytes:
    program = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE):
        out, err = await program.communicate(stdin)
    assert program.returncode == 0, err
    return out


@pytest.mark.parametrize("over", ["h2c", "TLS"])
async def test_curl(over):
    curl, bytes_ = need_tool("curl"), os.urandom(300_000)
    async with http2.serve(ssl=lab_context(alpn=["h2", "http/1.1"]) if over == "TLS" else None) as server:
        if over == "TLS":
            base, url = (
                [curl, "-sSf", "--cacert", str(certs.FOLDER / "root.pem")],
                f"https://localhost:{server.address[1]}",
            )
            assert await run(*base, "--http1.1", "-w", " %{http_version}", url + "/") == b"Hello, network!\n 1.1"
        else:
            base, url = [curl, "-sSf", "--http2-prior-knowledge"], f"http://127.0.0.1:{server.address[1]}"
        assert await run(*base, "-w", " %{http_version}", url + "/") == b"Hello, network!\n 2"
        assert await run(*base, "--data-binary", "@-", url + "/", stdin=bytes_) == bytes_
        upload = await run(*base, "-T", "-", url + "/upload", stdin=bytes_)
        assert hashlib.sha256(bytes_).hexdigest().encode() in upload
        assert await run(*base, "-r", "3-6", url + "/bytes/1000") == bytes([3, 4, 5, 6])
        if over == "TLS":  # With prior knowledge, curl 7.88 fails at its second request, against nghttpd, too.
            assert b"Hello" in await run(*base, "-L", url + "/redirect?n=3")
        assert await run(*base, "-I", url + "/bytes/1000000")
        assert len(await run(*base, url + "/bytes/3000000")) == 3_000_000
        assert b"data: event 2" in await run(*base, "-N", url + "/events?n=3&interval=0")


async def test_nghttp():
    nghttp = need_tool("nghttp")
    async with http2.serve() as server:
        url = f"http://127.0.0.1:{server.address[1]}"
        out = (await run(nghttp, "-nv", "-H", "priority: u=1", url + "/tiles?n=4", url + "/slow?seconds=0.1")).decode()
        assert out.count(":status: 200") == 2
        assert "SETTINGS_NO_RFC7540_PRIORITIES" in out
        page = (await run(nghttp, "-nav", url + "/tiles?n=12")).decode()
        assert page.count(":status: 200") == 13  # the page, and what it needs


@pytest.mark.parametrize("over", ["h2c", "TLS"])
async def test_h2load(over):
    h2load = need_tool("h2load")
    async with http2.serve(ssl=lab_context(alpn=["h2"]) if over == "TLS" else None) as server:
        url = f"{'https' if over == 'TLS' else 'http'}://127.0.0.1:{server.address[1]}"
        out = (await run(h2load, "-n", "500", "-c", "4", "-m", "16", url + "/")).decode()
        assert "500 succeeded, 0 failed, 0 errored" in out
        out = (await run(h2load, "-n", "64", "-c", "2", "-m", "32", url + "/bytes/100000")).decode()
        assert "64 succeeded, 0 failed, 0 errored" in out


async def test_nghttpx_as_proxy_in_front():
    """HTTP/1.1 before it, HTTP/2 behind it: many clients share one connection to us."""
    nghttpx, curl = need_tool("nghttpx"), need_tool("curl")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with http2.serve() as server:
        proxy = await asyncio.create_subprocess_exec(
            nghttpx, f"-f127.0.0.1,{port};no-tls", f"-b127.0.0.1,{server.address[1]};;proto=h2", "--conf=/dev/null",
            "--workers=1", "--single-process", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            url, body = f"http://127.0.0.1:{port}", os.urandom(300_000)
            again = ["--retry", "50", "--retry-connrefused", "--retry-delay", "0", "--retry-max-time", "10"]
            assert await run(curl, "-sSf", *again, url + "/") == b"Hello, network!\n"
            upload = await run(curl, "-sSf", "-T", "-", url + "/upload", stdin=body)
            assert hashlib.sha256(body).hexdigest().encode() in upload
            pages = await asyncio.gather(*[run(curl, "-sSf", url + "/bytes/100000") for _ in range(4)])
            assert pages == [site.PATTERN[:100000]] * 4
            assert len(server.talks) == 1
        finally:
            proxy.terminate()
            await proxy.wait()


async def test_chromium_draws_the_page_of_tiles_over_http_2(tmp_path):
    """All over one connection, in which each tile is a stream."""
    browser = need_tool("chromium")
    context = lab_context(alpn=["h2", "http/1.1"])
    leaf = x509.load_pem_x509_certificate((certs.FOLDER / "server.pem").read_bytes())
    key = leaf.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    pin = base64.b64encode(hashlib.sha256(key).digest()).decode()
    asked = []
    talks = set()

    def respond(request):
        asked.append(request.target)
        talks.update(server.talks)
        return site.respond(request)

    async with http2.serve(ssl=context, respond=respond) as server:
        dom = await run(
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path}/profile", "--dump-dom",
            f"--ignore-certificate-errors-spki-list={pin}", "--virtual-time-budget=5000",
            f"https://localhost:{server.address[1]}/tiles?n=48",
        )  # fmt: skip
    assert dom.count(b"<img") == 48
    assert len([target for target in asked if target.startswith("/tile/")]) == 48
    assert len([talk for talk in talks if talk.conn.started]) == 1
