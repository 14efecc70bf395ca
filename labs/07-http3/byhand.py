"""A client's end of one HTTP/3 connection, by hand: streams and frames, and nothing that the experiment does not want.

QUIC is aioquic's; what goes into its streams is made here, so that a packet can carry just what is to be lost, and so
that whatever the server says can be seen. The socket blocks: it is read while somebody waits for something.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import pylsqpack
from aioquic.quic import events
from aioquic.quic.connection import QuicConnection
from aioquic.tls import SessionTicket

from certs.quic import quic_client
from labkit.lab import Network
from protocols import http3_frames as http3
from protocols.http3_frames import ErrorCode, Frame, FrameType, SettingCode, StreamType
from protocols.quic_packets import encode_varint

Pairs = Iterable[tuple[str, str]]


@dataclass
class Answer:
    """What has come on a request's stream so far."""

    status: int = 0
    fields: dict[str, str] = field(default_factory=dict)
    interim: list[int] = field(default_factory=list)
    trailers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    frames: list[int] = field(default_factory=list)  # their types, in order
    began: float = 0  # when the first of it came, by time.perf_counter(); 0: nothing has
    ended: float = 0
    reset: int | None = None  # the error code with which the server gave it up


class Talk:
    """A connection. It is made, and nothing is sent on it yet but our control stream.

    settings     what ours say
    ticket       of an earlier connection: what is sent before `greet()` is early data (0-RTT)
    """

    def __init__(
        self, net: Network, settings: Mapping[int, int] | None = None, *, ticket: SessionTicket | None = None
    ) -> None:
        self.tickets: list[SessionTicket] = []
        configuration = quic_client("server.lab", alpn=("h3",), ticket=ticket)
        self.quic = QuicConnection(configuration=configuration, session_ticket_handler=self.tickets.append)
        self.server = (net.server.address, net.port)
        self.socket = net.client.socket(socket.SOCK_DGRAM)
        self.socket.connect(self.server)
        self.encoder, self.decoder = pylsqpack.Encoder(), pylsqpack.Decoder(4096, 16)
        self.answers: dict[int, Answer] = {}
        self.kinds: dict[int, int] = {}  # the server's streams in one direction, and what they are for
        self.settings: dict[int, int] = {}  # the server's
        self.control: list[Frame] = []  # what came on its control stream
        self.goaways: list[int] = []
        self.receipts = b""  # of the server's decoder, for sections that we have written by hand
        self.is_by_hand = False
        self.packed = (0, 0)  # bytes that QPACK made of the last request: instructions for the table, and the fields
        self.early: bool | None = None  # Did the server take what came early? None: not known yet
        self._decoders: dict[int, http3.Decoder] = {}
        self._blocked: dict[int, Callable[[], None]] = {}
        self.quic.connect(self.server, time.time())
        mine = settings or {SettingCode.QPACK_MAX_TABLE_CAPACITY: 4096, SettingCode.QPACK_BLOCKED_STREAMS: 16}
        self.control_stream = self.open(StreamType.CONTROL, http3.encode(http3.settings(mine)))
        self.encoder_stream = self.open(StreamType.QPACK_ENCODER)
        self.decoder_stream = self.open(StreamType.QPACK_DECODER)

    @property
    def ended(self) -> events.ConnectionTerminated | None:
        """How it has ended, as soon as that is said: the event comes when nothing more can (RFC 9000 §10.2)."""
        return self.quic._close_event

    # Out.

    def open(self, kind: int, data: bytes = b"") -> int:
        """A stream on which only we send, and what it begins with."""
        stream = self.quic.get_next_available_stream_id(is_unidirectional=True)
        self.quic.send_stream_data(stream, encode_varint(kind) + data)
        return stream

    def request(
        self, path: str, fields: Pairs = (), method: str = "GET", body: bytes = b"", *, more: bool = False
    ) -> int:
        """Write a request to its stream; it leaves with the next flush(). Return the stream's number."""
        pseudo = [(":method", method), (":scheme", "https"), (":authority", "server.lab"), (":path", path)]
        raw = [(name.encode(), value.encode()) for name, value in (*pseudo, *fields)]
        out, section = self.encoder.encode(self.quic.get_next_available_stream_id(), raw)
        self.packed = len(out), len(section)
        self.quic.send_stream_data(self.encoder_stream, out)
        return self._send(section, body, more)

    def by_hand(self, section: bytes) -> int:
        """A request whose fields are packed already. From then on none can be made by request()."""
        self.is_by_hand = True
        return self._send(section, b"", False)

    def _send(self, section: bytes, body: bytes, more: bool) -> int:
        stream = self.quic.get_next_available_stream_id()
        frames = [Frame(FrameType.HEADERS, section), *([Frame(FrameType.DATA, body)] if body else [])]
        self.quic.send_stream_data(stream, b"".join(map(http3.encode, frames)), end_stream=not more)
        self.answers[stream] = Answer()
        return stream

    def flush(self) -> None:
        """Whatever may leave, leaves."""
        for data, _ in self.quic.datagrams_to_send(time.time()):
            with contextlib.suppress(ConnectionRefusedError):
                self.socket.send(data)

    # In.

    def until(self, *streams: int) -> list[Answer]:
        """Read until these are answered, or given up; return their answers."""
        answers = [self.answers[stream] for stream in streams]
        self.wait(lambda: all(answer.ended or answer.reset is not None for answer in answers))
        return answers

    def ask(self, *paths: str, fields: Pairs = (), method: str = "GET") -> list[Answer]:
        """So many requests at once, and all of their answers."""
        return self.until(*[self.request(path, fields, method) for path in paths])

    def greet(self) -> None:
        """Finish the handshake, and wait for the server's SETTINGS."""
        self.wait(lambda: bool(self.settings) and self.early is not None)

    def wait(self, done: Callable[[], bool], seconds: float = 10) -> bool:
        """Turn the wheel until it is done; False: it was not, in so many seconds. ConnectionError: it is over."""
        end = time.time() + seconds
        self.flush()
        while not done():
            if self.ended:
                raise ConnectionError(f"the connection is over: {self.ended}")
            if time.time() >= end:
                return False
            self.turn(end)
        return True

    def turn(self, end: float) -> None:
        """One datagram, or one timer; what follows from it; what is to be sent then."""
        timer = self.quic.get_timer()
        late = min(end, timer) if timer is not None else end
        if select.select([self.socket], [], [], max(0, late - time.time()))[0]:
            with contextlib.suppress(ConnectionRefusedError):
                self.quic.receive_datagram(self.socket.recv(65536), self.server, time.time())
        elif timer is not None and time.time() >= timer:
            self.quic.handle_timer(time.time())
        while (event := self.quic.next_event()) is not None:
            self.take(event)
        self.flush()

    def settle(self, seconds: float = 0.1) -> None:
        """Take whatever comes in so many seconds."""
        with contextlib.suppress(ConnectionError):
            self.wait(lambda: False, seconds)

    def take(self, event: events.QuicEvent) -> None:
        match event:
            case events.StreamDataReceived(data=data, end_stream=end, stream_id=stream):
                self._read(stream, data, end)
            case events.StreamReset(error_code=code, stream_id=stream) if stream in self.answers:
                self.answers[stream].reset = code
            case events.HandshakeCompleted(early_data_accepted=early):
                self.early = early

    def _read(self, stream: int, data: bytes, end: bool) -> None:
        decoder = self._decoders.setdefault(stream, http3.Decoder())
        decoder.receive_data(data)
        if stream in self.answers:
            self.answers[stream].began = self.answers[stream].began or time.perf_counter()
            self._read_answer(stream, self.answers[stream], end)
            return
        if stream not in self.kinds and (kind := decoder.next_number()) is not None:
            self.kinds[stream] = kind
        match self.kinds.get(stream):
            case StreamType.CONTROL:
                for frame in decoder.frames():
                    self._obey(frame)
            case StreamType.QPACK_ENCODER:
                for free in self.decoder.feed_encoder(decoder.rest()):
                    self._blocked.pop(free)()
            case StreamType.QPACK_DECODER:
                self.receipts += decoder.rest()
                if not self.is_by_hand:
                    self.encoder.feed_decoder(self.receipts)
                    self.receipts = b""

    def _obey(self, frame: Frame) -> None:
        self.control.append(frame)
        if frame.type == FrameType.SETTINGS:
            self.settings = http3.parse_settings(frame.payload)
        elif frame.type == FrameType.GOAWAY:
            self.goaways.append(http3.parse_numbered(frame))

    def _read_answer(self, stream: int, answer: Answer, end: bool) -> None:
        for frame in self._decoders[stream].frames():
            if not frame.at:
                answer.frames.append(frame.type)
            if frame.type == FrameType.DATA:
                answer.body += frame.payload
            elif frame.type == FrameType.HEADERS:
                try:
                    out, raw = self.decoder.feed_header(stream, frame.payload)
                except pylsqpack.StreamBlocked:

                    def resume() -> None:
                        self._take_fields(answer, *self.decoder.resume_header(stream))
                        self._read_answer(stream, answer, end)

                    self._blocked[stream] = resume
                    return
                self._take_fields(answer, out, raw)
        if end:
            answer.ended = time.perf_counter()

    def _take_fields(self, answer: Answer, out: bytes, raw: Iterable[tuple[bytes, bytes]]) -> None:
        fields = {name.decode(): value.decode("latin-1") for name, value in raw}
        self.quic.send_stream_data(self.decoder_stream, out)
        if ":status" not in fields:
            answer.trailers = fields
        elif fields[":status"].startswith("1"):
            answer.interim.append(int(fields[":status"]))
        else:
            answer.fields, answer.status = fields, int(fields[":status"])

    def obey_settings(self) -> None:
        """From now on use the table that the server offers (RFC 9204 §3.2.3)."""
        table = self.settings.get(SettingCode.QPACK_MAX_TABLE_CAPACITY, 0)
        blocked = self.settings.get(SettingCode.QPACK_BLOCKED_STREAMS, 0)
        self.quic.send_stream_data(self.encoder_stream, self.encoder.apply_settings(min(table, 4096), blocked))

    def close(self) -> None:
        """CONNECTION_CLOSE: H3_NO_ERROR."""
        self.quic.close(error_code=ErrorCode.NO_ERROR)
        self.flush()
        self.socket.close()


# -- QPACK, written out: each of these is an instruction of RFC 9204 §4.3, §4.5 -------------------------------

GET, HTTPS = 17, 23  # of the static table (appendix A): `:method: GET`, `:scheme: https`
AUTHORITY, PATH = 0, 1


def capacity(size: int) -> bytes:
    """Set Dynamic Table Capacity (§4.3.1)."""
    return integer(0x20, 5, size)


def insert(name: str, value: str) -> bytes:
    """Insert with Literal Name (§4.3.3)."""
    return integer(0x40, 5, len(name)) + name.encode() + integer(0, 7, len(value)) + value.encode()


def section(path: str, *, needs: int = 0) -> bytes:
    """The fields of a GET (§4.5): *needs* says how many inserts it refers to, and it refers to the last one of them."""
    required = needs + 1 if needs else 0  # §4.5.1.1: the number is sent modulo twice the entries there can be, plus one
    packed = bytes([required, 0, 0xC0 | GET, 0xC0 | HTTPS])
    for index, value in ((AUTHORITY, "server.lab"), (PATH, path)):
        packed += integer(0x50, 4, index) + integer(0, 7, len(value)) + value.encode()
    return packed + (integer(0x80, 6, 0) if needs else b"")


def integer(first: int, bits: int, number: int) -> bytes:
    """HPACK's integers (RFC 7541 §5.1): some bits of the first byte; if these are all 1, seven of each next."""
    most = (1 << bits) - 1
    if number < most:
        return bytes([first | number])
    out = bytearray([first | most])
    number -= most
    while number > 127:
        out.append(128 | number % 128)
        number //= 128
    return bytes(out) + bytes([number])
