"""Our HTTP/2 client against servers by hand (frame by frame, most of them wrong), nghttpd, nginx and ours."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import hpack
import hypothesis.strategies
import pytest

from certs import FOLDER
from certs.channel import TlsError
from certs.contexts import client_context, server_context
from clients.http2 import TRIES, Client, main
from clients.http2_connection import WireLog
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.http2_client import ClientConnection, Data
from protocols.http2_frames import (
    MAX_WINDOW,
    PREFACE,
    SETTINGS_ACK,
    Decoder,
    ErrorCode,
    Flag,
    Frame,
    FrameType,
    encode,
    goaway,
    pad,
    parse_goaway,
    parse_settings,
    rst_stream,
    settings,
    window_update,
)
from servers import http1
from servers.http2 import serve
from tests.conftest import TICK, need_tool
from tests.http2_client_cases import ANSWER, CASES, END, ENDS, Case, data, fields, head, ping, priority

SETTINGS = settings({})
PATIENCE = 600 * TICK  # what may happen at once gets this long on a busy machine


class Peer:
    """The server's end of one connection, frame by frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer, self._decoder = reader, writer, Decoder(1 << 24)

    async def begin(self, first: Frame | bytes | None = SETTINGS) -> None:
        """The client's preface comes, ours goes."""
        assert await self._reader.readexactly(len(PREFACE)) == PREFACE
        if first is not None:
            self.send(first)

    def send(self, *frames: Frame | bytes) -> None:
        self.writer.write(b"".join(frame if isinstance(frame, bytes) else encode(frame) for frame in frames))

    async def frame(self) -> Frame | None:
        """The client's next one; None: it has closed the connection."""
        while (frame := self._decoder.next_frame()) is None:
            more = await self._reader.read(1 << 18)
            if not more:
                return None
            self._decoder.receive_data(more)
        return frame

    async def until(self, kind: FrameType, flags: int = 0) -> Frame:
        """The next one of a type; those before it do not matter."""
        while (frame := await self.frame()) is not None:
            if frame.type == kind and frame.flags & flags == flags:
                return frame
        raise ConnectionResetError(f"the client has closed before {kind.name}")

    async def request(self) -> int:
        """The stream of the next request."""
        return (await self.until(FrameType.HEADERS)).stream

    async def rest(self) -> list[Frame]:
        """All that comes until the client closes the connection."""
        found = []
        while frame := await self.frame():
            found.append(frame)
        return found


TRUSTING = ssl._create_unverified_context()
Behave = Callable[[Peer], Awaitable[None]]


@contextlib.asynccontextmanager
async def server_that(behave: Behave, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server by hand; its URL. *behave* is called for each connection. What it asserts fails the test."""
    tasks: list[asyncio.Task[None]] = []

    ending, last = False, asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if ending:
            writer.transport.abort()
            last.set()
            return
        tasks.append(asyncio.current_task())
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                await behave(Peer(reader, writer))
                await writer.drain()
        except Exception as error:
            wrong.append(error)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    wrong: list[Exception] = []
    listening = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    async with listening:
        try:
            yield f"{'https' if tls else 'http'}://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
        finally:
            # asyncio loses a connection that it accepts in the moment of its end. Behind one more there is none.
            ending = True
            async with asyncio.timeout(PATIENCE):
                end = listening.sockets[0].getsockname()
                _, writer = await asyncio.open_connection(*end, ssl=TRUSTING if tls else None)
                await last.wait()
                writer.transport.abort()
                if tasks:
                    await asyncio.wait(tasks)
            if wrong:
                raise wrong[0]


@contextlib.asynccontextmanager
async def client(**options):
    async with asyncio.timeout(PATIENCE), Client(**{"timeout": PATIENCE, **options}) as it:
        yield it


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's, and the client's."""
    return server_context(alpn=["h2"]), client_context(alpn=["h2"])


# -- Every rule --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "tls"),
    [
        *[pytest.param(case, False, id=f"{case.name}, h2c") for case in CASES],
        *[pytest.param(case, True, id=f"{case.name}, TLS") for case in CASES[::3]],
    ],
)
async def test_rule(case: Case, tls: bool, contexts):
    """What the client does about it, on the wire and for its caller; and what becomes of the connection."""
    kind, code = case.outcome
    seen: list[Frame] = []
    connections = 0

    async def behave(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await peer.begin(case.first)
        if kind != "goaway" or case.first == settings({}):
            assert await peer.request() == 1
        peer.send(*case.frames)
        if kind in ("goaway", "late"):
            seen.extend(await peer.rest())
            return
        peer.send(ping(b"all well"))
        while (frame := await peer.frame()) and frame != ping(b"all well", Flag.ACK):
            seen.append(frame)
        assert frame, "the client has closed the connection"
        stream = await peer.request()
        peer.send(head(stream=stream), data(b"again", stream=stream))
        seen.extend(await peer.rest())

    server, ours = contexts if tls else (None, None)
    async with server_that(behave, server) as url, client(ssl=ours) as us:
        if kind in ("ok", "late"):
            answer = await us.request(case.method, url)
            assert (answer.status, answer.body) == (case.status, case.body)
        else:
            with pytest.raises(RemoteProtocolError) as caught:
                await us.request(case.method, url)
            assert caught.value.code == code
        if kind not in ("goaway", "late"):
            again = await us.request("GET", url)
            assert again.body == b"again"
    assert connections == 1
    ends = [parse_goaway(frame.payload)[:2] for frame in seen if frame.type == FrameType.GOAWAY]
    resets = [frame for frame in seen if frame.type == FrameType.RST_STREAM]
    assert ends == [(0, code if kind in ("goaway", "late") else 0)]
    assert resets == ([rst_stream(1, code)] if kind == "reset" else [])


async def test_what_the_client_says_first():
    """§3.4: the preface, then SETTINGS: no push; and the acknowledgement of ours."""

    async def behave(peer: Peer) -> None:
        await peer.begin()
        first = await peer.frame()
        assert (first.type, first.flags, first.stream) == (FrameType.SETTINGS, 0, 0)
        assert dict(parse_settings(first.payload))[2] == 0
        assert dict(parse_settings(first.payload))[4] == 100_000
        frame = await peer.until(FrameType.HEADERS)
        assert (frame.stream, frame.flags) == (1, ENDS | END)
        peer.send(*ANSWER, settings({3: 7}), settings({}))
        acknowledged = [frame for frame in await peer.rest() if frame.type == FrameType.SETTINGS]
        assert acknowledged == [SETTINGS_ACK] * 3  # one for each

    async with server_that(behave) as url, client(window=100_000) as us:
        assert (await us.request("GET", url)).body == b"ok"


# -- Many at once ------------------------------------------------------------------------------------


async def test_a_hundred_at_once_on_one_connection_and_their_answers_in_any_order():
    async def behave(peer: Peer) -> None:
        await peer.begin()
        streams = [await peer.request() for _ in range(100)]
        assert streams == list(range(1, 201, 2))
        for stream in reversed(streams):
            peer.send(head(stream=stream))
        for stream in streams:
            peer.send(data(b"%d" % stream, stream=stream))
        await peer.rest()

    async with server_that(behave) as url, client() as us:
        answers = await asyncio.gather(*(us.request("GET", url) for _ in range(100)))
        assert [answer.body for answer in answers] == [b"%d" % stream for stream in range(1, 201, 2)]


def answer_on(stream: int, body: bytes = b"ok") -> list[Frame]:
    return [head(stream=stream), data(body, stream=stream)]


async def what_comes(peer: Peer, probe: bytes = b"any more") -> list[Frame]:
    """All that the client sends before it has answered ten PINGs: what does not come by then will not come."""
    found = []
    for _ in range(10):
        peer.send(ping(probe))
        while (frame := await peer.frame()) != ping(probe, Flag.ACK):
            assert frame, "the client has closed the connection"
            found.append(frame)
    return found


def streams_of(frames: list[Frame], kind: FrameType = FrameType.HEADERS) -> list[int]:
    return [frame.stream for frame in frames if frame.type == kind]


async def test_no_more_streams_than_the_server_allows():
    """§5.1.2: when one ends, one more begins; and the limit can change."""

    async def behave(peer: Peer) -> None:
        await peer.begin(settings({3: 2}))
        peer.send(*answer_on(await peer.request()))
        assert [await peer.request(), await peer.request()] == [3, 5]
        assert streams_of(await what_comes(peer)) == []
        peer.send(*answer_on(3))
        assert await peer.request() == 7
        assert streams_of(await what_comes(peer)) == []
        peer.send(settings({3: 0}), *answer_on(5), *answer_on(7))
        assert streams_of(await what_comes(peer)) == []
        peer.send(settings({3: 4}))
        assert streams_of(await what_comes(peer)) == [9, 11, 13, 15]
        peer.send(settings({3: 100}))
        assert streams_of(await what_comes(peer)) == [17, 19, 21]
        for stream in range(9, 23, 2):
            peer.send(*answer_on(stream))
        await peer.rest()

    async with server_that(behave) as url, client() as us:
        await us.request("GET", url)
        answers = await asyncio.gather(*(us.request("GET", url) for _ in range(10)))
        assert {answer.body for answer in answers} == {b"ok"}


async def test_who_waits_for_a_stream_can_give_up():
    async def behave(peer: Peer) -> None:
        await peer.begin(settings({3: 1}))
        peer.send(*answer_on(await peer.request()))
        assert await peer.request() == 3
        await given_up.wait()
        peer.send(*answer_on(3))
        peer.send(*answer_on(await peer.request()))
        await peer.rest()

    given_up = asyncio.Event()
    async with server_that(behave) as url, client() as us:
        await us.request("GET", url)
        tasks = [asyncio.create_task(us.request("GET", url)) for _ in range(3)]
        await asyncio.sleep(TICK)
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        given_up.set()
        assert [(await tasks[i]).body for i in (0, 2)] == [b"ok", b"ok"]


async def test_requests_at_once_open_one_connection():
    connections = 0

    async def behave(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await peer.begin()
        for _ in range(20):
            peer.send(*answer_on(await peer.request()))
        await peer.rest()

    async with server_that(behave) as url, client() as us:
        await asyncio.gather(*(us.request("GET", url) for _ in range(20)))
    assert connections == 1


# -- Windows -----------------------------------------------------------------------------------------


async def test_a_body_that_nobody_reads_holds_up_only_its_own_stream():
    """Its window is filled, and no more is asked for; meanwhile another stream gets 20 MB through the connection."""

    async def behave(peer: Peer) -> None:
        await peer.begin()
        stalled = await peer.request()
        peer.send(head(stream=stalled), *[data(b"x" * 10_000, 0, stalled)] * 10)
        busy, window, sent = await peer.request(), 100_000, 0
        peer.send(head(stream=busy))
        while sent < 20_000_000:
            while window >= 10_000:
                peer.send(data(b"y" * 10_000, 0, busy))
                window, sent = window - 10_000, sent + 10_000
            await peer.writer.drain()
            frame = await peer.until(FrameType.WINDOW_UPDATE)
            assert frame.stream in (0, busy)
            window += int.from_bytes(frame.payload, "big") if frame.stream else 0
        peer.send(data(b"", stream=busy))
        goes_on.set()
        while (await peer.until(FrameType.WINDOW_UPDATE)).stream != stalled:
            pass
        peer.send(data(b"end", stream=stalled))
        await peer.rest()

    goes_on = asyncio.Event()
    async with server_that(behave) as url, client(window=100_000) as us, us.stream("GET", url) as stalled:
        async with us.stream("GET", url) as busy:
            assert sum([len(piece) async for piece in busy.body]) == 20_000_000
        await goes_on.wait()
        assert sum([len(piece) async for piece in stalled.body]) == 100_003


async def test_more_than_the_window_is_an_error():
    """§6.9.1: of the server, which is told so; 100,000 bytes were allowed, and nobody has read one."""

    async def behave(peer: Peer) -> None:
        await peer.begin()
        await peer.request()
        peer.send(head(), *[data(b"x" * 10_000, 0)] * 10)
        await what_comes(peer)
        peer.send(data(b"x", 0))
        assert await peer.until(FrameType.RST_STREAM) == rst_stream(1, ErrorCode.FLOW_CONTROL_ERROR)
        refused.set()
        await peer.rest()

    refused = asyncio.Event()
    async with server_that(behave) as url, client(window=100_000) as us, us.stream("GET", url) as answer:
        await refused.wait()
        with pytest.raises(RemoteProtocolError) as caught:
            assert sum([len(piece) async for piece in answer.body]) == 100_000
        assert caught.value.code == ErrorCode.FLOW_CONTROL_ERROR


async def test_padding_is_given_back():
    """§6.9.1: it fills the window, and nobody will ever read it."""

    async def behave(peer: Peer) -> None:
        await peer.begin()
        await peer.request()
        peer.send(head())
        window = 65_535
        for _ in range(2000):  # 512,000 bytes of padding
            while window < 256:
                frame = await peer.until(FrameType.WINDOW_UPDATE)
                window += int.from_bytes(frame.payload, "big") if frame.stream else 0
            peer.send(Frame(FrameType.DATA, Flag.PADDED, 1, b"\xfe" + b"x" + bytes(254)))
            window -= 256
        peer.send(data(b""))
        await peer.rest()

    async with server_that(behave) as url, client(window=65_535) as us:
        assert (await us.request("GET", url)).body == b"x" * 2000


async def body_of(peer: Peer, size: int) -> bytes:
    """So many bytes of DATA, whatever comes between."""
    found = b""
    while len(found) < size:
        frame = await peer.until(FrameType.DATA)
        assert len(frame.payload) <= 16384
        found += frame.payload
    assert len(found) == size
    return found


async def test_an_upload_waits_for_the_windows():
    """§6.9: the stream's, and the connection's; each byte of them is used, and none more is sent."""
    body = bytes(range(256)) * 1000  # 256,000 bytes

    async def behave(peer: Peer) -> None:
        await peer.begin(settings({4: 10, 5: 1 << 20}))
        peer.send(*answer_on(await peer.request()))
        stream = await peer.request()
        assert await body_of(peer, 10) == body[:10]
        assert streams_of(await what_comes(peer), FrameType.DATA) == []
        peer.send(window_update(stream, 90))
        await body_of(peer, 90)
        peer.send(settings({4: 0}))  # §6.9.2: the stream's is -10 now
        await peer.until(FrameType.SETTINGS, Flag.ACK)
        peer.send(window_update(stream, 10))  # 0
        assert streams_of(await what_comes(peer), FrameType.DATA) == []
        peer.send(window_update(stream, 1))
        await body_of(peer, 1)
        peer.send(settings({4: 1 << 20}))
        await body_of(peer, 65_535 - 101)  # the connection's, which SETTINGS do not change
        assert streams_of(await what_comes(peer), FrameType.DATA) == []
        peer.send(window_update(0, MAX_WINDOW))
        rest = await body_of(peer, len(body) - 65_535)
        assert rest == body[65_535:]
        peer.send(*answer_on(stream))
        await peer.rest()

    async with server_that(behave) as url, client() as us:
        await us.request("GET", url)
        assert (await us.request("POST", url, body=body)).body == b"ok"


async def test_uploads_share_the_window():
    """No upload waits for another one's end: frame by frame, each in turn."""

    async def behave(peer: Peer) -> None:
        await peer.begin(settings({4: 1 << 20}))
        peer.send(*answer_on(await peer.request()))
        first = [(await peer.until(FrameType.DATA)).stream for _ in range(4)]
        assert set(first[1:]) == {3, 5, 7}
        peer.send(window_update(0, 1 << 20))
        for _ in range(3):
            last = await peer.until(FrameType.DATA, END)
            peer.send(*answer_on(last.stream))
        await peer.rest()

    async with server_that(behave) as url, client() as us:
        await us.request("GET", url)
        answers = await asyncio.gather(*(us.request("PUT", url, body=b"x" * 150_000) for _ in range(3)))
        assert {answer.body for answer in answers} == {b"ok"}


async def test_a_body_is_made_no_faster_than_it_is_sent():
    made = 0

    async def pieces():
        nonlocal made
        for _ in range(100):
            made += 1
            yield b"x" * 10_000

    async def behave(peer: Peer) -> None:
        await peer.begin()
        await peer.request()
        await body_of(peer, 65_535)
        await what_comes(peer)
        assert made == 7
        peer.send(window_update(0, MAX_WINDOW - 65_535), window_update(1, MAX_WINDOW - 65_535))
        await body_of(peer, 1_000_000 - 65_535)
        last = await peer.until(FrameType.DATA)
        assert (last.payload, last.flags) == (b"", END)
        peer.send(*ANSWER)
        await peer.rest()

    async with server_that(behave) as url, client() as us:
        assert (await us.request("POST", url, body=pieces())).body == b"ok"
    assert made == 100


async def test_an_upload_that_nobody_takes():
    """The windows are open, and the server does not read: what TCP does not take is not made."""
    made = 0

    async def endless():
        nonlocal made
        while True:
            made += 1
            yield bytes(65536)

    async def behave(peer: Peer) -> None:
        peer.writer.write(encode(settings({4: MAX_WINDOW})) + encode(window_update(0, MAX_WINDOW - 65_535)))
        await given_up.wait()

    given_up = asyncio.Event()
    async with server_that(behave) as url, client(timeout=10 * TICK) as us:
        with pytest.raises(TimeoutError):
            await us.request("PUT", url, body=endless())
        given_up.set()
        assert made < 1000  # 64 MB; the kernel's buffers for one connection are smaller than that


async def test_how_a_request_ends():
    """With its fields, if there is no body; with the last DATA, if its length is known; else with an empty one."""

    async def pieces():
        yield b"ab"
        yield b""
        yield b"c"

    async def nothing():
        for piece in ():
            yield piece

    async def behave(peer: Peer) -> None:
        await peer.begin()
        found = []
        for stream in (1, 3, 5, 7, 9, 11, 13):
            frames = []
            while not frames or not frames[-1].flags & END:
                frame = await peer.frame()
                if frame.stream == stream:
                    frames.append(frame)
            found.append(
                [(frame.type.real, frame.payload if frame.type == FrameType.DATA else b"") for frame in frames]
            )
            peer.send(*answer_on(stream))
        assert found == [[(1, b"")], [(1, b"")], [(1, b""), (0, b"abc")], [(1, b""), (0, b"ab"), (0, b"c"), (0, b"")],
                         [(1, b""), (0, b"ab"), (0, b"c")], [(1, b""), (0, b"")], [(1, b""), (0, b"")]]  # fmt: skip
        await peer.rest()

    async with server_that(behave) as url, client() as us:
        await us.request("GET", url)
        await us.request("POST", url)
        await us.request("POST", url, body=b"abc")
        await us.request("POST", url, body=pieces())
        await us.request("POST", url, body=pieces(), fields=[("Content-Length", "3")])
        await us.request("POST", url, body=nothing())
        await us.request("POST", url, body=nothing(), fields=[("Content-Length", "0")])


# -- Requests that go otherwise ----------------------------------------------------------------------


async def test_expect():
    """The body is sent after 100; and not at all after a refusal."""

    async def behave(peer: Peer) -> None:
        await peer.begin()
        assert await peer.request() == 1
        assert streams_of(await what_comes(peer), FrameType.DATA) == []
        peer.send(head(status="100"))
        await body_of(peer, 4)
        peer.send(*ANSWER)
        assert await peer.request() == 3
        peer.send(head(status="417", stream=3, flags=ENDS | END))
        assert (await peer.until(FrameType.RST_STREAM)) == rst_stream(3, ErrorCode.CANCEL)
        assert streams_of(await peer.rest(), FrameType.DATA) == []

    async with server_that(behave) as url, client(expect_seconds=PATIENCE) as us:
        answers = [await us.request("POST", url, body=b"body", expect=True) for _ in range(2)]
        assert [answer.status for answer in answers] == [200, 417]
        assert [[status for status, _ in answer.interim] for answer in answers] == [[100], []]


async def test_not_every_server_knows_100():
    async def behave(peer: Peer) -> None:
        await peer.begin()
        await peer.request()
        await body_of(peer, 4)
        peer.send(*ANSWER)
        await peer.rest()

    async with server_that(behave) as url, client(expect_seconds=TICK) as us:
        assert (await us.request("POST", url, body=b"body", expect=True)).body == b"ok"


async def test_an_answer_that_comes_before_the_end_of_the_upload():
    """It is whole, and the rest of the upload is not sent: RST_STREAM says so; and so may the server (§8.1)."""

    async def behave(peer: Peer) -> None:
        await peer.begin()
        first, second = await peer.request(), await peer.request()
        await body_of(peer, 65_535)
        peer.send(head(status="413", stream=first), data(b"no", stream=first))
        assert await peer.until(FrameType.RST_STREAM) == rst_stream(first, ErrorCode.CANCEL)
        peer.send(*answer_on(second), rst_stream(second, ErrorCode.NO_ERROR))
        assert [frame for frame in await peer.rest() if frame.type == FrameType.RST_STREAM] == []

    async with server_that(behave) as url, client() as us:
        answers = await asyncio.gather(*(us.request("POST", url, body=bytes(1_000_000)) for _ in range(2)))
        assert [(answer.status, answer.body) for answer in answers] == [(413, b"no"), (200, b"ok")]


@pytest.mark.parametrize("late", [data(), head(), fields(("a", "b"))])
async def test_half_closed(late):
    """§5.1: the answer has ended, the request has not: what comes on the stream is an error of the stream."""

    async def behave(peer: Peer) -> None:
        await peer.begin()
        await peer.request()
        await body_of(peer, 65_535)
        peer.send(*ANSWER, late)
        assert await peer.until(FrameType.RST_STREAM) == rst_stream(1, ErrorCode.STREAM_CLOSED)
        peer.send(*answer_on(await peer.request()))
        await peer.rest()

    async with server_that(behave) as url, client() as us:
        assert (await us.request("POST", url, body=bytes(1_000_000))).body == b"ok"
        assert (await us.request("GET", url)).body == b"ok"


async def test_a_body_that_fails():
    """Half a body must not pass for a whole one; the caller gets his own error."""

    async def fails():
        yield b"half"
        raise KeyError("mine")

    async def lies():
        yield b"abc"

    async def behave(peer: Peer) -> None:
        await peer.begin()
        for stream in (1, 3, 5):
            assert await peer.request() == stream
            assert await peer.until(FrameType.RST_STREAM) == rst_stream(stream, ErrorCode.CANCEL)
        peer.send(*answer_on(await peer.request()))
        await peer.rest()

    async with server_that(behave) as url, client() as us:
        with pytest.raises(KeyError, match="mine"):
            await us.request("POST", url, body=fails())
        for length in ("2", "4"):
            with pytest.raises(LocalProtocolError, match="Content-Length"):
                await us.request("POST", url, body=lies(), fields=[("Content-Length", length)])
        assert (await us.request("GET", url)).body == b"ok"


async def test_who_goes_says_so():
    """A request that is given up: RST_STREAM, CANCEL. What was on its way is ignored, but for window and table."""
    indexed = b"\x40\x01a\x01b"  # HPACK: "a: b", to be remembered as number 62

    async def behave(peer: Peer) -> None:
        await peer.begin()
        await peer.request()
        peer.send(head(stream=1))
        asked.set()
        assert await peer.until(FrameType.RST_STREAM) == rst_stream(1, ErrorCode.CANCEL)
        late = Frame(FrameType.HEADERS, ENDS, 1, indexed)
        peer.send(window_update(1, 1), late, *[data(b"x" * 10_000, 0)] * 900, data(), rst_stream(1, 0))
        found = await what_comes(peer)
        assert streams_of(found) == [3]
        assert streams_of(found, FrameType.WINDOW_UPDATE) == [0]
        peer.send(Frame(FrameType.HEADERS, ENDS | END, 3, b"\x88\xbe"))  # 200, and number 62
        await peer.rest()

    asked = asyncio.Event()
    async with server_that(behave) as url, client() as us:
        task = asyncio.create_task(us.request("GET", url))
        await asked.wait()
        task.cancel()
        await asyncio.wait([task])
        assert (await us.request("GET", url)).fields == {"a": "b"}


async def test_the_end_of_the_block_is_the_end_of_the_stream():
    async def behave(peer: Peer) -> None:
        await peer.begin()
        await peer.request()
        peer.send(head(), data(b"x", 0))
        assert await peer.until(FrameType.RST_STREAM) == rst_stream(1, ErrorCode.CANCEL)
        await peer.rest()

    async with server_that(behave) as url, client() as us:
        async with us.stream("GET", url) as answer:
            async for piece in answer.body:
                assert piece == b"x"
                break


async def test_hpack_goes_on_after_a_malformed_answer():
    """§4.3: the table belongs to the connection, whatever becomes of the stream."""

    async def behave(peer: Peer) -> None:
        await peer.begin()
        await peer.request()
        peer.send(Frame(FrameType.HEADERS, ENDS | END, 1, b"\x40\x01a\x01b"))  # no status
        stream = await peer.request()
        peer.send(Frame(FrameType.HEADERS, ENDS | END, stream, b"\x88\xbe"))
        await peer.rest()

    async with server_that(behave) as url, client() as us:
        with pytest.raises(RemoteProtocolError, match="status"):
            await us.request("GET", url)
        assert (await us.request("GET", url)).fields == {"a": "b"}


async def test_trailers_and_early_hints():
    async def behave(peer: Peer) -> None:
        await peer.begin()
        await peer.request()
        peer.send(head(("link", "</style.css>"), status="103"), head(), data(b"ok", 0))
        peer.send(fields(("checksum", "1"), ("checksum", "2")))
        await peer.rest()

    async with server_that(behave) as url, client() as us, us.stream("GET", url) as answer:
        assert answer.interim == [(103, [("link", "</style.css>")])]
        assert [piece async for piece in answer.body] == [b"ok"]
        assert answer.trailers == [("checksum", "1"), ("checksum", "2")]


# -- Again -------------------------------------------------------------------------------------------


async def test_a_refused_stream_is_asked_again():
    """§8.7: REFUSED_STREAM says that nothing was done: even POST may be repeated; but not for ever."""

    async def behave(peer: Peer) -> None:
        await peer.begin()
        peer.send(rst_stream(await peer.request(), ErrorCode.REFUSED_STREAM))
        peer.send(*answer_on(await peer.request()))
        for _ in range(TRIES):
            peer.send(rst_stream(await peer.request(), ErrorCode.REFUSED_STREAM))
        await peer.rest()

    async with server_that(behave) as url, client() as us:
        assert (await us.request("POST", url, body=b"x")).body == b"ok"
        with pytest.raises(RemoteProtocolError, match="REFUSED_STREAM") as caught:
            await us.request("POST", url, body=b"x")
        assert caught.value.code == ErrorCode.REFUSED_STREAM


async def test_goaway():
    """§6.8: up to the last stream all is finished; what is above is asked again, on another connection."""
    connections = 0

    async def behave(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await peer.begin()
        if connections == 1:
            assert [await peer.request() for _ in range(3)] == [1, 3, 5]
            peer.send(goaway(3, 0, b"a restart"))
            await gone.wait()
            peer.send(*answer_on(3, b"old"), *answer_on(1, b"old"))
            rest = await peer.rest()
            assert streams_of(rest) == []
            assert parse_goaway(rest[-1].payload) == (0, 0, b"")
        else:
            peer.send(*answer_on(await peer.request(), b"new"))
            gone.set()
            peer.send(*answer_on(await peer.request(), b"new"))
            await peer.rest()

    gone = asyncio.Event()
    async with server_that(behave) as url, client() as us:
        answers = await asyncio.gather(*(us.request("POST", url, body=b"") for _ in range(3)))
        assert [answer.body for answer in answers] == [b"old", b"old", b"new"]
        assert (await us.request("GET", url)).body == b"new"
    assert connections == 2


async def test_goaway_in_two_steps():
    """First for all numbers, then for the last one: so a server ends without losing a request."""
    connections = 0

    async def behave(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await peer.begin()
        stream = await peer.request()
        if connections == 1:
            peer.send(goaway(MAX_WINDOW, 0))
            await what_comes(peer)
            peer.send(goaway(stream, 0), *answer_on(stream))
        else:
            peer.send(*answer_on(stream))
        await peer.rest()

    async with server_that(behave) as url, client() as us:
        assert (await us.request("GET", url)).body == b"ok"
        assert (await us.request("GET", url)).body == b"ok"
    assert connections == 2


async def test_goaway_for_an_error_is_told():
    async def behave(peer: Peer) -> None:
        await peer.begin()
        await peer.request()
        peer.send(goaway(0, ErrorCode.ENHANCE_YOUR_CALM, b"too many"))
        await peer.rest()

    async with server_that(behave) as url, client() as us:
        with pytest.raises(RemoteProtocolError, match="ENHANCE_YOUR_CALM b'too many'") as caught:
            await us.request("GET", url)
        assert caught.value.code == ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize(("method", "answered"), [("GET", True), ("PUT", True), ("POST", False)])
async def test_a_connection_that_was_closed_while_it_was_idle(method, answered):
    """RFC 9110 §9.2.2: what may be done twice is asked again, once. Nobody knows whether POST was done."""
    connections = 0

    async def behave(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await peer.begin()
        peer.send(*answer_on(await peer.request()))
        await peer.request()
        if connections > 1:
            await peer.rest()

    async with server_that(behave) as url, client() as us:
        await us.request("GET", url)
        if answered:
            assert (await us.request(method, url, body=None)).body == b"ok"
        else:
            with pytest.raises(RemoteProtocolError, match="closed the connection"):
                await us.request(method, url, body=b"")
    assert connections == 1 + answered


async def test_a_server_that_always_hangs_up():
    """One more try, and no more."""
    connections = 0

    async def behave(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await peer.begin()
        if connections == 1:
            peer.send(*answer_on(await peer.request()))
        await peer.request()

    async with server_that(behave) as url, client() as us:
        await us.request("GET", url)
        with pytest.raises(RemoteProtocolError, match="closed the connection"):
            await us.request("GET", url)
    assert connections == 2


async def test_a_client_that_is_closed():
    async def behave(peer: Peer) -> None:
        await peer.begin()
        await peer.request()
        await peer.rest()

    async with server_that(behave) as url:
        async with client() as us:
            asked = asyncio.create_task(us.request("GET", url))
            await asyncio.sleep(0)  # It is about to connect.
        with pytest.raises((RemoteProtocolError, LocalProtocolError)):
            await asked
        with pytest.raises(LocalProtocolError, match="closed"):
            await us.request("GET", url)


async def test_a_connection_that_ends_in_the_middle():
    async def behave(peer: Peer) -> None:
        await peer.begin()
        await peer.request()
        peer.send(head(), data(b"half", 0))

    async with server_that(behave) as url, client() as us, us.stream("GET", url) as answer:
        with pytest.raises(RemoteProtocolError, match="ended in the middle"):
            assert [piece async for piece in answer.body] == [b"half"]


async def test_nobody_answers():
    """In time, TimeoutError. The server is told; and since it has said nothing at all, it is asked elsewhere then."""
    connections = 0

    async def behave(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await peer.begin()
        peer.send(*answer_on(await peer.request()))
        if connections == 1:
            rest = await peer.rest()
            assert len(streams_of(rest)) >= 1
            assert streams_of(rest, FrameType.RST_STREAM) == streams_of(rest)
        while connections > 1:
            peer.send(*answer_on(await peer.request()))

    async with server_that(behave) as url, client() as us:
        await us.request("GET", url)
        us._timeout = 4 * TICK
        while connections == 1:  # The time may be up before it is asked, on a busy machine.
            with contextlib.suppress(TimeoutError):
                await us.request("GET", url)
        us._timeout = PATIENCE
        assert (await us.request("GET", url)).body == b"ok"
    assert connections >= 2


async def test_idle_connections_are_closed():
    async def behave(peer: Peer) -> None:
        await peer.begin()
        peer.send(*answer_on(await peer.request()))
        last = (await peer.rest())[-1]
        assert parse_goaway(last.payload) == (0, 0, b"")
        ended.set()

    ended = asyncio.Event()
    async with server_that(behave) as url, client(idle_seconds=TICK) as us:
        await us.request("GET", url)
        await ended.wait()


# -- Floods ------------------------------------------------------------------------------------------

FLOODS = {
    "SETTINGS": settings({4: 1}),
    "PING": ping(),
    "PING, answers": ping(flags=Flag.ACK),
    "empty DATA": data(b"", 0),
    "DATA of padding": pad(data(b"", 0), 255),
    "WINDOW_UPDATE": window_update(0, 1),
    "WINDOW_UPDATE of the stream": window_update(1, 1),
    "PRIORITY": priority(1, 0),
    "unknown frames": Frame(0xFA),
    "DATA on a stream that is reset": data(b"x" * 9, 0, 3),
    "fields on a stream that is reset": head(stream=3),
    "GOAWAY": goaway(MAX_WINDOW, 0),
}


@pytest.mark.parametrize("name", FLOODS)
async def test_flood(name):
    """Frames that are allowed, and nothing but work: CVE-2019-9511 … -9518. The end comes after some thousand."""

    async def behave(peer: Peer) -> None:
        await peer.begin()
        assert [await peer.request(), await peer.request()] == [1, 3]
        peer.send(rst_stream(3, 8), head())
        peer.send(*[FLOODS[name]] * 3000)
        last = (await peer.rest())[-1]
        assert parse_goaway(last.payload)[1] == ErrorCode.ENHANCE_YOUR_CALM

    async with server_that(behave) as url, client() as us:
        answers = await asyncio.gather(us.request("GET", url), us.request("GET", url), return_exceptions=True)
        assert [answer.code for answer in answers] == [ErrorCode.ENHANCE_YOUR_CALM, ErrorCode.CANCEL]


async def test_pings_now_and_then_are_no_flood():
    """A server that pings a hundred times for each byte of a slow body."""

    async def behave(peer: Peer) -> None:
        await peer.begin()
        await peer.request()
        peer.send(head())
        for i in range(9):
            peer.send(*[ping(b"%08d" % i)] * 100, data(b"x", 0))
            await peer.until(FrameType.PING, Flag.ACK)
        peer.send(data(b""))
        await peer.rest()

    async with server_that(behave) as url, client() as us:
        assert (await us.request("GET", url)).body == b"x" * 9


# -- What is asked -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "url", "fields", "body", "words"),
    [
        ("GE T", "/", [], None, "first line"),
        ("CONNECT", "/", [], None, "target|CONNECT"),
        ("GET", "ftp://x/", [], None, "not like"),
        ("GET", "/", [("a b", "c")], None, "a b"),
        ("GET", "/", [("a", "b\nc")], None, "field"),
        ("GET", "/", [("a", "\u20ac")], None, "field"),
        ("GET", "/", [(":path", "/x")], None, "no field"),
        ("GET", "/", [("Connection", "close")], None, "connection"),
        ("POST", "/", [("Transfer-Encoding", "chunked")], b"x", "transfer-encoding"),
        ("GET", "/", [("TE", "gzip")], None, "TE"),
        ("GET", "/", [("Host", "a b")], None, "Host"),
        ("GET", "/", [("Content-Length", "3")], None, "there is none"),
        ("POST", "/", [("Content-Length", "3")], b"x", "not the length"),
        ("POST", "/", [("Content-Length", "x")], b"x", "number"),
        ("GET", "/", [("a", "x" * 1000)], None, "no more than 900 bytes"),
    ],
)
async def test_what_cannot_be_asked(method, url, fields, body, words):
    """Nothing of it is sent, and the connection is as good as before."""

    async def behave(peer: Peer) -> None:
        await peer.begin(settings({6: 900}))
        peer.send(*answer_on(await peer.request()))
        assert await peer.request() == 3
        peer.send(*answer_on(3))
        await peer.rest()

    async with server_that(behave) as base, client() as us:
        await us.request("GET", base)
        with pytest.raises(LocalProtocolError, match=words):
            await us.request(method, url if ":" in url else base, fields=fields, body=body)
        assert (await us.request("GET", base)).body == b"ok"


async def test_the_fields_of_a_request():
    """§8.3.1: the pseudo-header fields come first; Host has become :authority; names are in lower case."""

    async def behave(peer: Peer) -> None:
        await peer.begin()
        for _ in range(2):
            frame = await peer.until(FrameType.HEADERS)
            found.append(decoder.decode(frame.payload))
            peer.send(*answer_on(frame.stream))
        await peer.rest()

    found, decoder = [], hpack.Decoder()
    async with server_that(behave) as url, client() as us:
        await us.request("GET", url + "a?b=c", fields=[("Host", "server.lab"), ("X-Y", " z "), ("Priority", "u=1, i")])
        await us.request("POST", url, fields=[("te", "trailers")], body=b"")
        assert found[0] == [
            (":method", "GET"), (":scheme", "http"), (":authority", "server.lab"), (":path", "/a?b=c"),
            ("x-y", "z"), ("priority", "u=1, i"),
        ]  # fmt: skip
        assert found[1][2:] == [
            (":authority", url.split("/")[2]), (":path", "/"), ("te", "trailers"), ("content-length", "0")
        ]  # fmt: skip


async def test_secrets_are_in_no_table():
    """RFC 7541 §7.1.3: who can make us send guesses beside them could see from the sizes which guess was right."""

    async def behave(peer: Peer) -> None:
        await peer.begin()
        decoder = hpack.Decoder()
        for _ in range(2):
            frame = await peer.until(FrameType.HEADERS)
            found = {field[0]: field.indexable for field in decoder.decode(frame.payload)}
            assert (found["authorization"], found["cookie"], found["x"]) == (False, False, True)
            peer.send(*answer_on(frame.stream))
        await peer.rest()

    async with server_that(behave) as url, client() as us:
        for _ in range(2):
            await us.request("GET", url, fields=[("Authorization", "Basic Og=="), ("Cookie", "a=b"), ("X", "y")])


async def test_more_fields_than_a_frame_can_hold():
    """§4.3: they go on in CONTINUATION, and nothing of another stream comes between."""

    async def behave(peer: Peer) -> None:
        await peer.begin()
        first, packed = await peer.until(FrameType.HEADERS), b""
        frame = first
        while True:
            assert frame.stream == 1
            packed += frame.payload
            if frame.flags & ENDS:
                break
            frame = await peer.frame()
            assert frame.type == FrameType.CONTINUATION
        assert first.flags == END
        assert dict(hpack.Decoder(1 << 17).decode(packed))["a"] == "~" * 15_000
        peer.send(*ANSWER)
        peer.send(*answer_on(await peer.request()))
        await peer.rest()

    async with server_that(behave) as url, client() as us:
        answers = await asyncio.gather(us.request("GET", url, fields=[("a", "~" * 15_000)]), us.request("GET", url))
        assert [answer.body for answer in answers] == [b"ok", b"ok"]


async def test_a_server_without_room_for_a_table():
    """RFC 7541 §4.2: the next block says that the table is smaller now, and no block uses what is not there."""

    async def behave(peer: Peer) -> None:
        await peer.begin()
        decoder = hpack.Decoder()
        for _ in range(4):
            frame = await peer.until(FrameType.HEADERS)
            assert ("x", "y") in decoder.decode(frame.payload)
            decoder.max_allowed_table_size = 0  # It raises when a block goes on as if there was one.
            peer.send(settings({1: 0}), *answer_on(frame.stream))
        await peer.rest()

    async with server_that(behave) as url, client() as us:
        for _ in range(4):
            await us.request("GET", url, fields=[("x", "y")])


# -- The core, byte by byte --------------------------------------------------------------------------


def events_of(case: Case, step: int) -> tuple[list, list[Frame], str]:
    """What the core makes of a case whose bytes arrive so many at a time: events, what it sends, its error."""
    core, decoder = ClientConnection(), Decoder()
    core.send_request([(":method", case.method), (":scheme", "http"), (":authority", "x"), (":path", "/")], True)
    raw = b"".join(one if isinstance(one, bytes) else encode(one) for one in [case.first or b"", *case.frames])
    events, words = [], ""
    try:
        for at in range(0, len(raw), step):
            core.receive_data(raw[at : at + step], 0)
            while event := core.next_event():
                events.append(event)
    except RemoteProtocolError as error:
        words = re.sub("0x[0-9a-f]+", "", str(error))  # an address
    decoder.receive_data(core.data_to_send().removeprefix(PREFACE))
    sent = [one._replace(payload=one.payload[:8]) for one in decoder.frames()]  # without the words
    return events, sent, words


@pytest.mark.parametrize("step", [1, 2, 10])
def test_every_split(step):
    for case in CASES:
        if sum(len(frame) if isinstance(frame, bytes) else len(frame.payload) for frame in case.frames) < 5000:
            assert events_of(case, step) == events_of(case, 1 << 30), case.name


FRAMES = hypothesis.strategies.builds(
    Frame,
    hypothesis.strategies.integers(0, 11),
    hypothesis.strategies.sampled_from([0, 1, 4, 5, 8, 13, 32, 255]),
    hypothesis.strategies.sampled_from([0, 1, 1, 1, 3, 5, 2]),
    hypothesis.strategies.one_of(
        hypothesis.strategies.binary(max_size=20),
        hypothesis.strategies.sampled_from(
            [head().payload, b"\x88", b"\0\0\0\x01", bytes(8), bytes(6), b"\0\4\0\0\0\0"]
        ),
    ),
)


@hypothesis.given(hypothesis.strategies.lists(FRAMES, max_size=20))
def test_garbage(frames):
    """Whatever comes, it is an event or RemoteProtocolError, with one GOAWAY."""
    core = ClientConnection(observe=WireLog())
    fields = [(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", "/")]
    first, second = core.send_request(fields, True), core.send_request(fields, False)
    core.data_to_send()
    core.receive_data(b"".join(map(encode, [SETTINGS, *frames])), 0)
    with contextlib.suppress(RemoteProtocolError):
        while event := core.next_event():
            if isinstance(event, Data):
                core.consumed(event.stream, len(event.data))
            if core.window(second) > 0:
                core.send_data(second, b"x")
    core.reset(first)
    core.close()
    decoder = Decoder(1 << 20)
    decoder.receive_data(core.data_to_send())
    assert [frame.type for frame in decoder.frames()].count(FrameType.GOAWAY) == 1


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_ends_after_a_thousand_frames(name):
    core = ClientConnection()
    fields = [(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", "/")]
    assert [core.send_request(fields, True), core.send_request(fields, True)] == [1, 3]
    core.receive_data(b"".join(map(encode, [SETTINGS, rst_stream(3, 8), head(), *[FLOODS[name]] * 2000])), 1000)
    with contextlib.suppress(RemoteProtocolError):
        while core.next_event():
            pass
    left = core.unread // len(encode(FLOODS[name]))
    assert left in (range(1795, 1805) if name == "SETTINGS" else range(995, 1005))  # SETTINGS cost five times as much.


# -- Servers that others wrote, and ours -------------------------------------------------------------


@contextlib.asynccontextmanager
async def listening(*command: str, port: int):
    """A program, as soon as it listens."""
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                except ConnectionRefusedError:
                    assert process.returncode is None
                    await asyncio.sleep(TICK / 5)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.mark.parametrize("tls", [False, True], ids=["h2c", "tls"])
async def test_nghttpd(tls, tmp_path, contexts):
    """Twenty streams at once where it allows two; trailers, an upload; 100 MB in pieces no larger than the window."""
    need_tool("nghttpd")
    (tmp_path / "file").write_bytes(b"a file " * 10_000)
    with (tmp_path / "large").open("wb") as large:
        large.truncate(100_000_000)
    port = free_port()
    keys = [str(FOLDER / "server.key"), str(FOLDER / "server.pem")] if tls else ["--no-tls"]
    options = ["-m", "2", "--trailer", "checksum: 1", "-d", str(tmp_path), str(port)]
    url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    async with listening("nghttpd", *options, *keys, port=port), client(ssl=contexts[1]) as us:
        answers = await asyncio.gather(*(us.request("GET", f"{url}/file") for _ in range(20)))
        assert {answer.body for answer in answers} == {b"a file " * 10_000}
        assert answers[0].trailers == [("checksum", "1")]
        assert (await us.request("HEAD", f"{url}/file")).fields["content-length"] == "70000"
        assert (await us.request("GET", f"{url}/none")).status == 404
        assert (await us.request("POST", f"{url}/file", body=bytes(1_000_000))).status == 200
        if not tls:
            async with us.stream("GET", f"{url}/large") as answer:
                sizes = [len(piece) async for piece in answer.body]
            assert sum(sizes) == 100_000_000
            assert max(sizes) <= 1 << 18
    assert len(us._connections) == 1


NGINX = """
daemon off; master_process off; pid {path}/pid; error_log {path}/error.log;
events {{ }}
http {{
  access_log off; client_max_body_size 100k; gzip on; gzip_types *; gzip_min_length 1; keepalive_requests 5;
  client_body_temp_path {path}/1; proxy_temp_path {path}/2; fastcgi_temp_path {path}/3; uwsgi_temp_path {path}/4;
  scgi_temp_path {path}/5; http2_max_concurrent_streams 3;
  server {{
    listen 127.0.0.1:{port} ssl http2; root {path};
    ssl_certificate {keys}/server.pem; ssl_certificate_key {keys}/server.key;
    location = /moved {{ return 301 /file; }}
  }}
}}
"""


async def test_nginx(tmp_path, contexts):
    """It ends each connection after five requests, with GOAWAY, and refuses a large upload before its end."""
    need_tool("nginx")
    port = free_port()
    (tmp_path / "file").write_bytes(b"a file " * 10_000)
    (tmp_path / "conf").write_text(NGINX.format(path=tmp_path, port=port, keys=FOLDER))
    command = ["nginx", "-p", str(tmp_path), "-c", str(tmp_path / "conf"), "-e", str(tmp_path / "error.log")]
    url = f"https://127.0.0.1:{port}"
    async with listening(*command, port=port), client(ssl=contexts[1]) as us:
        answers = await asyncio.gather(*(us.request("GET", f"{url}/file") for _ in range(20)))
        assert {answer.body for answer in answers} == {b"a file " * 10_000}
        packed = await us.request("GET", f"{url}/file", gzip=True)
        assert (packed.fields["content-encoding"], packed.body) == ("gzip", b"a file " * 10_000)
        moved = await us.request("GET", f"{url}/moved")
        assert (moved.status, moved.url) == (200, f"{url}/file")
        assert (await us.request("POST", f"{url}/file", body=bytes(1_000_000))).status == 413
        assert (await us.request("GET", f"{url}/file", fields=[("Range", "bytes=0-5")])).body == b"a file"


@pytest.mark.parametrize("tls", [False, True], ids=["h2c", "tls"])
async def test_our_server(tls, contexts):
    server, ours = contexts if tls else (None, None)
    async with serve(ssl=server) as ready, client(ssl=ours) as us:
        url = "{}://{}:{}".format("https" if tls else "http", *ready.address)
        answers = await asyncio.gather(*(us.request("GET", f"{url}/bytes/{n * 1000}") for n in range(100)))
        assert [len(answer.body) for answer in answers] == [n * 1000 for n in range(100)]
        body = bytes(range(256)) * (20_000_000 // 256)
        uploaded = json.loads((await us.request("PUT", f"{url}/upload", body=body, expect=True)).body)
        assert uploaded == {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        assert (await us.request("GET", f"{url}/redirect?n=3")).status == 200
        assert (await us.request("GET", f"{url}/text", gzip=True)).body == (await us.request("GET", f"{url}/text")).body
        assert [(await us.request("GET", f"{url}/status/{code}")).status for code in (204, 304, 404)] == [204, 304, 404]
        with pytest.raises(RemoteProtocolError, match="redirects"):
            await us.request("GET", f"{url}/redirect?n=11")
    assert len(us._connections) == 1


async def test_a_stalled_reader_takes_no_memory(contexts):
    """A gigabyte is offered on each of ten streams, and nobody reads: ten windows come, and the others go on."""
    async with serve() as ready, client(window=100_000) as us, contextlib.AsyncExitStack() as stack:
        url = "http://{}:{}".format(*ready.address)
        for _ in range(10):
            await stack.enter_async_context(us.stream("GET", f"{url}/bytes/1000000000"))
        (connection,) = us._connections
        while sum(waiting := [len(exchange.unread) for exchange in connection._exchanges.values()]) < 1_000_000:  # noqa: ASYNC110
            await asyncio.sleep(TICK / 5)
        assert len((await us.request("GET", f"{url}/bytes/5000000")).body) == 5_000_000
        assert waiting == [len(exchange.unread) for exchange in connection._exchanges.values()] == [100_000] * 10


async def test_limits_of_answers():
    async with serve() as ready, client(max_answer=1000, max_redirects=0) as us:
        url = "http://{}:{}".format(*ready.address)
        assert (await us.request("GET", f"{url}/redirect")).status == 302
        assert len((await us.request("GET", f"{url}/bytes/1000")).body) == 1000
        with pytest.raises(RemoteProtocolError, match="more than 1000 bytes"):
            await us.request("GET", f"{url}/bytes/1001")
        assert (await us.request("GET", url)).status == 200


# -- TLS ---------------------------------------------------------------------------------------------


async def test_a_server_without_http2(contexts):
    """§3.2: TLS without ALPN is not HTTP/2; and our servers say so in the handshake."""

    async def behave(peer: Peer) -> None:
        assert await peer.frame() is None

    silent = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    silent.load_cert_chain(FOLDER / "server.pem", FOLDER / "server.key")
    async with server_that(behave, silent) as url, client(ssl=contexts[1]) as us:
        with pytest.raises(RemoteProtocolError, match="does not speak HTTP/2: ALPN chose nothing"):
            await us.request("GET", url)
    async with http1.serve(ssl=server_context(alpn=["http/1.1"])) as ready, client(ssl=contexts[1]) as us:
        with pytest.raises(TlsError) as caught:
            await us.request("GET", "https://{}:{}".format(*ready.address))
        assert caught.value.alert == 120  # no_application_protocol, RFC 7301 §3.2
    async with http1.serve() as ready, client() as us:
        with pytest.raises(RemoteProtocolError, match="perhaps this is no HTTP/2"):
            await us.request("GET", "http://{}:{}".format(*ready.address))


async def test_any_context_will_do():
    """Not only those of certs/, and also without ALPN: the client adds that."""
    trusting = ssl.create_default_context(cafile=FOLDER / "root.pem")
    async with serve(ssl=server_context(alpn=["h2"])) as ready, client(ssl=trusting) as us:
        assert (await us.request("GET", "https://localhost:{1}".format(*ready.address))).status == 200


async def test_a_server_that_is_not_trusted():
    async with serve(ssl=server_context("self-signed", alpn=["h2"])) as ready, client(ssl=client_context()) as us:
        with pytest.raises(ssl.SSLCertVerificationError):
            await us.request("GET", "https://{}:{}".format(*ready.address))


# -- The program -------------------------------------------------------------------------------------


def program(*arguments: str):
    command = [sys.executable, "-m", "clients.http2", *arguments]
    return asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


async def test_the_program_shows_what_is_on_the_wire():
    async def behave(peer: Peer) -> None:
        await peer.begin(None)
        assert [await peer.request(), await peer.request()] == [1, 3]
        peer.send(settings({3: 100}))
        await peer.until(FrameType.SETTINGS, Flag.ACK)
        for stream in (1, 3):
            peer.send(Frame(FrameType.HEADERS, ENDS, stream, b"\x88\x40\x01a\x01b" if stream == 1 else b"\x88\xbe"))
            peer.send(data(b"hello", stream=stream))
        assert parse_goaway((await peer.rest())[-1].payload) == (0, 0, b"")

    async with server_that(behave) as url:
        process = await program("--n", "2", "-H", "X: some words", url)
        out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    port = url.split(":")[2].rstrip("/")
    assert out.decode().splitlines() == [
        f"= connected to 127.0.0.1 port {port}",
        "> SETTINGS stream 0, 30 bytes: HEADER_TABLE_SIZE 4096, ENABLE_PUSH 0, INITIAL_WINDOW_SIZE 262144, "
        "MAX_FRAME_SIZE 16384, MAX_HEADER_LIST_SIZE 65536",
        "> WINDOW_UPDATE stream 0, 4 bytes: +16711681",
        "> HEADERS stream 1, 27 bytes, END_STREAM END_HEADERS: 63 bytes of fields in 27",
        ">     :method: GET",
        ">     :scheme: http",
        f">     :authority: 127.0.0.1:{port}",
        ">     :path: /",
        ">     x: some words",
        "> HEADERS stream 3, 5 bytes, END_STREAM END_HEADERS: 63 bytes of fields in 5",
        ">     :method: GET",
        ">     :scheme: http",
        f">     :authority: 127.0.0.1:{port}",
        ">     :path: /",
        ">     x: some words",
        "< SETTINGS stream 0, 6 bytes: MAX_CONCURRENT_STREAMS 100",
        "> SETTINGS stream 0, 0 bytes, ACK",
        "< HEADERS stream 1, 6 bytes, END_HEADERS: 12 bytes of fields in 6",
        "<     :status: 200",
        "<     a: b",
        "< DATA stream 1, 5 bytes, END_STREAM: b'hello'",
        "< HEADERS stream 3, 2 bytes, END_HEADERS: 12 bytes of fields in 2",
        "<     :status: 200",
        "<     a: b",
        "< DATA stream 3, 5 bytes, END_STREAM: b'hello'",
        "> GOAWAY stream 0, 8 bytes: last stream 0, NO_ERROR",
        "= closed",
    ]


@pytest.mark.parametrize(
    ("frames", "arguments", "code", "words"),
    [
        (ANSWER, ["{}"], 0, "< DATA stream 1, 2 bytes, END_STREAM: b'ok'"),
        ([head(status="404", flags=ENDS | END)], ["{}"], 1, "<     :status: 404"),
        ([rst_stream(1, ErrorCode.INTERNAL_ERROR)], ["{}"], 1, "! the server has reset the stream: INTERNAL_ERROR"),
        ([goaway(0, 0, b"\x1b]0;mine\x07")], ["{}"], 1, "goes away"),
        ([head(("x", "\x9d")), data(b"\x1b[31m")], ["{}"], 0, r"<     x: \x9d"),
        ([head(("\x1b", "\x07"))], ["{}"], 1, r"<     \x1b: \x07"),
        ([ping(b"\xff" * 7)], ["{}"], 1, "FRAME_SIZE_ERROR"),
        ([], ["--timeout", str(2 * TICK), "{}"], 1, "No answer from {}: nothing for 0.1 s."),
        ([], ["http://127.0.0.1:1/"], 2, "Connection refused. Is `make http2-server` running?"),
        ([], ["-X", "GE T", "{}"], 2, "Not sent: "),
        ([], ["ftp://x/"], 2, "Not sent: 'ftp://x/' is not like http://host:port/path."),
        ([], ["--n", "0", "{}"], 2, "0 is not"),
    ],
)
async def test_exit_codes(frames, arguments, code, words, monkeypatch, caplog, capsys):
    async def behave(peer: Peer) -> None:
        await peer.begin()
        await peer.request()
        peer.send(*frames)
        await peer.rest()

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(logging, "raiseExceptions", True)  # main() changes it
    async with server_that(behave) as url:
        monkeypatch.setattr(sys, "argv", ["clients.http2", *(argument.format(url) for argument in arguments)])
        try:
            assert await asyncio.to_thread(main) == code
        except SystemExit:  # argparse's way of saying 2
            assert code == 2
    said = caplog.text + "".join(capsys.readouterr())
    assert words.format(url) in said.replace(f"{2 * TICK:g} s", "0.1 s")
    assert not re.search(r"[\x1b\x9b\x9d\x07]", said)
