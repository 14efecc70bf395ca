"""HTTP/2: the frames, the rules that h2 leaves to its user, and the server on real sockets."""

from __future__ import annotations

import asyncio
import contextlib

import hpack
import pytest
from hyperframe.frame import Frame as Hyperframe
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import RemoteProtocolError
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
from servers import http2, site
from tests.conftest import TICK
from tests.http2_cases import ANSWER, CASES, GOAWAY, RST, wire

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


# -- The server, and a client by hand ----------------------------------------------------------------


class Peer:
    """A client that sends what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.frames, self.hpack = Decoder(1 << 24), hpack.Decoder()

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
        """The fields and the body of the answer; others may come between, and are lost."""
        fields, body = {}, b""
        while frame := await self.next():
            if frame.type == FrameType.HEADERS:
                found = dict(self.hpack.decode(frame.payload))
            if frame.stream != stream:
                continue
            if frame.type == FrameType.HEADERS:
                fields |= found
            elif frame.type == FrameType.DATA:
                body += frame.payload
            elif frame.type == FrameType.RST_STREAM:
                raise ConnectionAbortedError(ErrorCode(int.from_bytes(frame.payload, "big")).name)
            if frame.type in (FrameType.DATA, FrameType.HEADERS) and frame.flags & Flag.END_STREAM:
                return fields, body
        raise EOFError


GREETING = PREFACE + wire(settings({}), SETTINGS_ACK)


@contextlib.asynccontextmanager
async def peer_of(server, greeting=GREETING, patience=PATIENCE, **options):
    async with asyncio.timeout(patience):
        reader, writer = await asyncio.open_connection(*server.address, **options)
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


@pytest.mark.parametrize("over", ["h2c"])
async def test_every_rule(over):
    """Every case, on a connection of its own; in each the GOAWAY is followed by FIN, and no RST overtakes it."""
    wrong = {}
    async with http2.serve(respond=respond) as server:
        for name, (sent, wanted) in CASES.items():
            async with peer_of(server) as peer:
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
