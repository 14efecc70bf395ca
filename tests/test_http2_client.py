"""Our HTTP/2 client against servers by hand (frame by frame, most of them wrong), nghttpd, nginx and ours."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from certs.contexts import client_context, server_context
from clients.http2 import Answer, Client
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.http2_frames import (
    PREFACE,
    SETTINGS_ACK,
    Decoder,
    ErrorCode,
    Flag,
    Frame,
    FrameType,
    encode,
    goaway,
    parse_goaway,
    parse_settings,
    rst_stream,
    settings,
    window_update,
)
from tests.conftest import TICK, need_tool
from tests.http2_client_cases import ANSWER, CASES, END, ENDS, Case, block, data, fields, head, ping

PATIENCE = 200 * TICK  # what may happen at once gets this long on a busy machine


class Peer:
    """The server's end of one connection, frame by frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer, self._decoder = reader, writer, Decoder(1 << 24)

    async def begin(self, first: Frame | bytes | None = settings({})) -> None:
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


Behave = Callable[[Peer], Awaitable[None]]


@contextlib.asynccontextmanager
async def server_that(behave: Behave, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server by hand; its URL. *behave* is called for each connection. What it asserts fails the test."""
    tasks: list[asyncio.Task[None]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
        yield f"{'https' if tls else 'http'}://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
        async with asyncio.timeout(PATIENCE):
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


@pytest.mark.parametrize("tls", [False, True], ids=["h2c", "tls"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
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
