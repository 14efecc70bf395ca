"""A client's end of a QUIC connection, by hand: aioquic keeps the books, and nothing is sent or read unless told.

clients/quic.py does all that a client should do by itself. An experiment is about just that: when a datagram leaves,
from which port, and what is in it.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aioquic.quic import events
from aioquic.tls import SessionTicket

from certs.quic import quic_client
from clients.quic_core import ClientConnection
from labkit.lab import Host, Network
from protocols.quic_packets import VERSION_1


@dataclass
class Answer:
    """What has come on a stream so far."""

    body: bytearray = field(default_factory=bytearray)
    first: float = 0  # when the first of it came
    ended: float = 0  # when the last of it came; 0: it has not
    reset: int | None = None  # the error code of a RESET_STREAM
    asked: float = 0


class Talk:
    """A connection to the lab's server. It begins when something is sent, with `flush` or by waiting.

    ticket, token   from an earlier connection: for 0-RTT, and against Retry
    versions        that the client can speak, the one it begins with first
    idle            seconds without a packet after which it ends
    host            that it is on, if not the client
    """

    def __init__(
        self,
        net: Network,
        *,
        ticket: SessionTicket | None = None,
        token: bytes = b"",
        versions: Sequence[int] = (VERSION_1,),
        idle: float = 30,
        host: Host | None = None,
    ) -> None:
        self.tickets: list[SessionTicket] = []
        self.tokens: list[bytes] = []
        configuration = quic_client("server.lab", alpn=["lab"], ticket=ticket, token=token, idle_seconds=idle)
        configuration.supported_versions = list(versions)
        self.connection = ClientConnection(
            configuration=configuration,
            session_ticket_handler=self.tickets.append,
            token_handler=self.tokens.append,
            path_mtu=False,  # It would send datagrams that nobody has asked for.
        )
        self.host, self.server = host or net.client, (net.server.address, net.port)
        self.socket = self.host.socket(socket.SOCK_DGRAM)
        self.answers: dict[int, Answer] = {}
        self.datagrams: list[bytes] = []
        self.pongs = 0
        self.sent = 0  # datagrams
        self.is_ready = False
        self.was_early: bool | None = None  # Has the server taken what was sent as 0-RTT?
        self.connection.connect(self.server, time.monotonic())

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    @property
    def ended(self) -> events.ConnectionTerminated | None:
        """How the connection has ended; None: it has not."""
        return self.connection.ended

    # -- What a client does ------------------------------------------------------------------------

    def request(self, line: str, data: bytes = b"", *, end: bool = True) -> int:
        """Put a request on a stream of its own; the stream's number. It is not sent yet."""
        stream = self.connection.get_next_available_stream_id()
        self.connection.send_stream_data(stream, line.encode() + b"\n" + data, end)
        self.answers[stream] = Answer(asked=time.perf_counter())
        return stream

    def ask(self, *lines: str) -> list[Answer]:
        """Send so many requests together, and read until all are answered."""
        return self.until_answered(*(self.request(line) for line in lines))

    def until_answered(self, *streams: int) -> list[Answer]:
        answers = [self.answers[stream] for stream in streams]
        self.until(lambda: all(answer.ended or answer.reset is not None for answer in answers))
        return answers

    def ping(self) -> None:
        """Wait until the server has acknowledged a PING, and with it all that was sent before."""
        self.connection.send_ping(self.pongs)
        wanted = self.pongs + 1
        self.until(lambda: self.pongs >= wanted)

    def migrate(self) -> None:
        """Go on from another port, and under another connection ID, as RFC 9000 §9.5 asks."""
        self.flush()
        self.socket.close()
        self.socket = self.host.socket(socket.SOCK_DGRAM)
        self.connection.change_connection_id()

    def close(self, code: int = 0, reason: str = "") -> None:
        self.connection.close(error_code=code, reason_phrase=reason)
        self.leave()

    def leave(self) -> None:
        """Send what is to be sent, and be gone without a word."""
        self.flush()
        self.socket.close()

    # -- The network -------------------------------------------------------------------------------

    def until(self, done: Callable[[], bool], seconds: float = 10) -> None:
        """Send and receive until it is done. ConnectionError where the connection ends before."""
        end = time.monotonic() + seconds
        while not done():
            if self.ended:
                raise ConnectionError(f"the connection has ended: {self.ended.reason_phrase}")
            if time.monotonic() > end:
                raise TimeoutError(f"not done after {seconds:g} s")
            self.step(end - time.monotonic())

    def to_the_end(self, seconds: float = 10) -> None:
        """Send and receive until the connection is over, for whatever reason."""
        end = time.monotonic() + seconds
        while not self.ended and time.monotonic() < end:
            self.step(end - time.monotonic())

    def settle(self, seconds: float) -> None:
        """Send and receive for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self.ended:
            self.step(left)

    def step(self, limit: float) -> None:
        """Send what is to be sent, wait for a datagram or for the next timer, take in what has come."""
        self.flush()
        timer = self.connection.get_timer()
        wait = limit if timer is None else min(limit, timer - time.monotonic())
        if select.select([self.socket], [], [], max(0, wait))[0]:
            data, address = self.socket.recvfrom(65535)
            self.connection.receive_datagram(data, address, time.monotonic())
        elif timer is not None and time.monotonic() >= timer:
            self.connection.handle_timer(time.monotonic())
        while event := self.connection.next_event():
            self._take(event)
        self.flush()

    def flush(self) -> None:
        for data, address in self.connection.datagrams_to_send(time.monotonic()):
            self.socket.sendto(data, address)
            self.sent += 1

    def _take(self, event: events.QuicEvent) -> None:
        match event:
            case events.StreamDataReceived(data, end_stream, stream):
                answer = self.answers.setdefault(stream, Answer())
                answer.first = answer.first or time.perf_counter()
                answer.body += data
                self.connection.consume(stream, len(data))
                answer.ended = time.perf_counter() if end_stream else 0
            case events.StreamReset(code, stream):
                self.answers.setdefault(stream, Answer()).reset = code
            case events.HandshakeCompleted():
                self.is_ready, self.was_early = True, event.early_data_accepted
            case events.DatagramFrameReceived(data):
                self.datagrams.append(data)
            case events.PingAcknowledged():
                self.pongs += 1
