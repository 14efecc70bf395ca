"""One QUIC connection of a client: a socket, aioquic's books, a timer, and streams that are read and written.

aioquic does no I/O. Whatever happens (datagrams have come, the clock has rung, somebody writes), the rest is one turn:
hear what it means, send what is to be sent, set the clock. Nobody else may wait in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import Literal

from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnectionState
from aioquic.tls import SessionTicket
from cryptography import x509

from clients.quic_core import ClientConnection
from clients.quic_ended import Ended, QuicError
from clients.quic_stream import Stream
from clients.quic_ticket import Ticket
from protocols.errors import LocalProtocolError
from protocols.quic_numbers import ErrorCode
from protocols.tls_numbers import readable

BATCH = 64  # datagrams that are read in one turn; then others have theirs, and the server its ACK
STREAMS = 100  # that may be full at a time and hold up no other: so many windows has the connection
HOLD = 0.005  # seconds that our hello waits for early data. A packet later, the server's answer may overtake it
MAX_STRAY = 100  # of the server's streams, or of its datagrams, that nobody has asked for: more are refused, or dropped

REASON = 200  # letters of the server's reason to close that are told
RECEIVE_BUFFER = 1 << 21  # bytes that the kernel keeps for us; it may be allowed less
MTU_DISCOVER, IPV6_MTU_DISCOVER, PROBE = 10, 23, 3  # Linux: never fragment, and leave the size to us

OnEvent = Callable[[events.QuicEvent], None]
Watch = Callable[[bool, bytes], None]
"""Is shown every datagram: True for those that we send."""


class Connection:
    """What `clients.quic.connect()` gives. Other protocols ride on it: see there.

    alpn     the protocol above, once the handshake is done
    early    was data sent with the first flight (0-RTT), and did the server take it? None: not tried, or not known yet
    ended    how it has ended; None: it has not
    is_handshaken, is_resumed   have both agreed, and did a ticket do instead of a certificate?
    token    that the server gave last: proves our address next time (RFC 9000 §8.1.3)
    """

    def __init__(
        self,
        configuration: QuicConfiguration,
        family: int,
        address: tuple[object, ...],
        window: int,
        on_event: OnEvent | None,
        watch: Watch | None,
    ) -> None:
        self.quic = ClientConnection(
            configuration=configuration, stream_window=window, connection_window=STREAMS * window,
            session_ticket_handler=self._on_ticket, token_handler=self._on_token, path_mtu=True,
        )  # fmt: skip
        self.alpn: str | None = None
        self.early: bool | None = None
        self.ended: Ended | None = None
        self._session: SessionTicket | None = None
        self.token = b""
        self._family, self._address = family, address
        self._on_event, self._watch = on_event, watch
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._soon: asyncio.Handle | None = None
        self._changed = asyncio.Event()
        self._streams: dict[int, Stream] = {}
        self._strays: deque[Stream] = deque()
        self._datagrams: deque[bytes] = deque(maxlen=MAX_STRAY)
        self._pings: dict[int, asyncio.Future[None]] = {}
        self._ping = 0
        self._buffer = bytearray(1 << 16)
        self._has_sent_early = False
        self._gone: OSError | None = None
        self._host = ""
        self.is_handshaken = self.is_resumed = False
        self._socket = self._open()

    # The socket and the clock.

    def start(self, early: bool) -> None:
        """Send the first flight; if there may be early data, as soon as there is some."""
        self.quic.connect(self._address, self._loop.time())
        if early and self.quic.may_send_early:
            self._timer = self._loop.call_later(HOLD, self._ring)
        else:
            self._turn()

    def _open(self) -> socket.socket:
        """Connected, so the kernel drops what strangers send, and tells if nobody is there (ICMP)."""
        sock = socket.socket(self._family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            if sys.platform == "linux":  # No fragments: what is too large is to be lost (RFC 9000 §14).
                v6 = self._family == socket.AF_INET6
                level, option = (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER) if v6 else (socket.IPPROTO_IP, MTU_DISCOVER)
                sock.setsockopt(level, option, PROBE)
            if self._host:
                sock.bind((self._host, 0))
            sock.connect(self._address)
        except BaseException:
            sock.close()
            raise
        self._loop.add_reader(sock, self._readable)
        return sock

    def _shut(self) -> None:
        self._loop.remove_reader(self._socket)
        self._socket.close()

    @property
    def local_address(self) -> tuple[str, int]:
        host, port, *_ = self._socket.getsockname()
        return host, port

    def _readable(self) -> None:
        now = self._loop.time()
        for _ in range(BATCH):
            try:
                size = self._socket.recv_into(self._buffer)
            except BlockingIOError:
                break
            except OSError as error:
                self._unreachable(error)
                break
            self._receive(bytes(memoryview(self._buffer)[:size]), now)
        self._turn()

    def _receive(self, data: bytes, now: float) -> None:
        self.quic.receive_datagram(data, self._address, now)
        if self._watch:
            self._watch(False, data)

    def _unreachable(self, error: OSError) -> None:
        """ICMP says that nobody is there. Anybody could forge that, so once we know better it is not believed."""
        if not self.quic.has_heard and self.ended is None:
            self._gone = error
            self._end(Ended("gone", "us", reason=error.strerror or str(error)))

    def _flush_soon(self) -> None:
        """Whatever is written in this turn of the loop goes out together."""
        if self._soon is None and self.ended is None:
            self._soon = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        if self._soon:
            self._soon.cancel()
            self._soon = None
        if self.ended:
            return
        try:
            self._hear()
        except Exception:  # of who rides on it: nobody knows what it has done with the event.
            self.quic.close(ErrorCode.INTERNAL_ERROR, 0)
            raise
        finally:
            self._say()

    def _say(self) -> None:
        """Send what there is to be sent, and wait for what comes next."""
        for data, _ in self.quic.datagrams_to_send(self._loop.time()):
            self._send(data)
        self._look_for_end()
        if self.ended is None:
            self._set_clock()
        self._tell_all()

    def _send(self, data: bytes) -> None:
        if self._watch:
            self._watch(True, data)
        try:
            self._socket.send(data)
        except BlockingIOError:
            pass  # The network is full: one more datagram lost.
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                self.quic.too_large(len(data))
            else:
                self._unreachable(error)

    def _set_clock(self) -> None:
        when = self.quic.get_timer()
        if self._timer and self._timer.when() != when:
            self._timer.cancel()
            self._timer = None
        if self._timer is None and when is not None:
            self._timer = self._loop.call_at(when, self._ring)

    def _ring(self) -> None:
        assert self._timer is not None
        now = max(self._loop.time(), self._timer.when())  # The loop may ring a little early.
        self._timer = None
        self.quic.handle_timer(now)
        self._turn()

    # What happens.

    def _hear(self) -> None:
        while event := self.quic.next_event():
            match event:
                case events.StreamDataReceived(stream_id=number):
                    stream = self._streams.get(number) or self._stray(number)
                    if stream:
                        stream.arrived(event.data, event.end_stream)
                case events.StreamReset(stream_id=number):
                    if stream := self._streams.get(number) or self._stray(number):
                        stream.was_reset(event.error_code)
                case events.StopSendingReceived(stream_id=number):
                    if stream := self._streams.get(number):
                        stream.was_stopped(event.error_code)
                case events.HandshakeCompleted():
                    self._handshaken(event)
                case events.PingAcknowledged(uid=uid):
                    if (waiter := self._pings.pop(uid, None)) and not waiter.done():
                        waiter.set_result(None)
                case events.DatagramFrameReceived() if self._on_event is None:
                    self._datagrams.append(event.data)  # The oldest is dropped: nobody has promised anything.
            if self._on_event:
                self._on_event(event)

    def _handshaken(self, event: events.HandshakeCompleted) -> None:
        self.is_handshaken, self.alpn, self.is_resumed = True, event.alpn_protocol, event.session_resumed
        if self._has_sent_early:
            self.early = event.early_data_accepted
            if not self.early:
                self.quic.resend_early(self._loop.time())

    @property
    def chain(self) -> list[x509.Certificate]:
        """The server's certificates, as it sent them; none when a session was resumed."""
        return self.quic.chain

    @property
    def ticket(self) -> Ticket | None:
        """The newest that the server gave, with its token: for the next connection. It comes behind the handshake."""
        if self._session is None:
            return None
        return Ticket(self.alpn or "", self._session, self.token, str(self._address[0]))

    def _on_ticket(self, session: SessionTicket) -> None:
        self._session = session

    def _on_token(self, token: bytes) -> None:
        self.token = token

    def _look_for_end(self) -> None:
        event, state = self.quic.ended, self.quic._state
        if event is None or self.ended:
            return
        if self.quic.was_reset:
            self._end(Ended("reset", "server", reason="the server has forgotten the connection (a stateless reset)"))
        elif state in (QuicConnectionState.DRAINING, QuicConnectionState.CLOSING):
            by: Literal["us", "server"] = "server" if state == QuicConnectionState.DRAINING else "us"
            is_application = event.frame_type is None
            self._end(Ended("closed", by, event.error_code, is_application, readable(event.reason_phrase[:REASON])))
        elif self.quic.server_versions and not self.quic.has_heard:
            versions = " ".join(f"{version:#010x}" for version in self.quic.server_versions)
            self._end(Ended("version", "server", reason=f"the server speaks none of our versions, but {versions}"))
        else:
            self._end(Ended("idle", "us", reason=f"nothing was heard for {self.quic._idle_timeout():.3g} s"))

    def _end(self, ended: Ended) -> None:
        """It is over. The socket is closed at once, which RFC 9000 §10.2 allows who has one per connection."""
        self.ended = ended
        self._shut()
        if self._timer:
            self._timer.cancel()
        if self.quic.get_timer() is not None:
            self.quic.handle_timer(float("inf"))  # aioquic would wait for late packets. It writes the qlog now.
            self._hear()  # Its last event.
        for waiter in self._pings.values():
            if not waiter.done():
                waiter.set_exception(QuicError(ended))
        self._pings.clear()
        for stream in self._streams.values():
            stream.news.set()
        self._tell_all()

    def _tell_all(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def until(self, is_true: Callable[[], bool]) -> None:
        """Wait for something of this connection. QuicError: it has ended before."""
        while not is_true():
            self.check()
            await self.change()

    async def change(self) -> None:
        """Wait for the next turn: windows, acknowledgements, streams may be others then."""
        await self._changed.wait()

    def check(self) -> None:
        """QuicError, if it has ended; OSError, if there was nobody."""
        if self.ended:
            if self._gone:
                raise self._gone
            raise QuicError(self.ended)

    # Streams, for those who read and write them.

    async def handshaken(self) -> None:
        """Wait until both sides have agreed."""
        await self.until(lambda: self.is_handshaken)

    async def open_stream(self, uni: bool = False) -> Stream:
        """A stream of ours, as soon as the server allows one more (RFC 9000 §4.6)."""
        self.check()
        await self.until(lambda: self.room(uni) > 0)
        number = self.quic.get_next_available_stream_id(is_unidirectional=uni)
        self.quic.send_stream_data(number, b"")  # Nothing is sent yet, but now the number is taken.
        stream = self._streams[number] = Stream(self, number)
        return stream

    async def accept_stream(self) -> Stream:
        """The next that the server has opened."""
        await self.until(lambda: bool(self._strays))
        return self._strays.popleft()

    def _stray(self, number: int) -> Stream | None:
        """A stream that the server has opened: somebody may accept it, or the rider of this connection has it."""
        if self._on_event or number % 2 == 0:
            return None
        stream = self._streams[number] = Stream(self, number)
        if len(self._strays) < MAX_STRAY:
            self._strays.append(stream)
        else:  # A server that opens them without end would have our memory.
            stream.close()
        return stream

    def forget(self, stream: Stream) -> None:
        """There is no more to come on it, nor to be sent."""
        self._streams.pop(stream.number, None)

    # What another protocol needs.

    def room(self, uni: bool = False) -> int:
        """How many more streams the server allows now."""
        most = self.quic._remote_max_streams_uni if uni else self.quic._remote_max_streams_bidi
        return most - self.quic.get_next_available_stream_id(is_unidirectional=uni) // 4

    def send(self, number: int, data: bytes, fin: bool = False) -> None:
        """On this stream; a new one is opened by that. It is sent at the end of this turn, as windows allow.

        LocalProtocolError: the stream is not ours to write on (any more).
        """
        self._check_early()
        try:
            self.quic.send_stream_data(number, data, fin)
        except (ValueError, RuntimeError) as error:
            raise LocalProtocolError(str(error)) from None
        self._flush_soon()

    def consumed(self, number: int, count: int) -> None:
        """So many bytes of this stream are no longer in our memory: the server may send as many more."""
        self.quic.consume(number, count)
        self._flush_soon()

    def buffered(self, number: int) -> int:
        """Bytes of this stream that were written, and that the server has not acknowledged."""
        return self.quic.buffered(number)

    def reset(self, number: int, code: int) -> None:
        """We send no more on this stream (RESET_STREAM)."""
        self.quic.reset_stream(number, code)
        self._flush_soon()

    def stop(self, number: int, code: int) -> None:
        """We want no more of this stream (STOP_SENDING)."""
        with contextlib.suppress(ValueError):  # It has ended, and aioquic has forgotten it.
            self.quic.stop_stream(number, code)
        self._flush_soon()

    def _check_early(self) -> None:
        self.check()
        if not self.is_handshaken and self.quic.may_send_early:
            self._has_sent_early = True

    # Datagrams, and what is asked of the connection itself.

    def send_datagram(self, data: bytes) -> None:
        """It may be lost, and nobody will tell. LocalProtocolError: it is too large, or the server takes none."""
        self._check_early()
        self.quic.send_datagram_frame(data)
        self._flush_soon()

    async def receive_datagram(self) -> bytes:
        """The next that the server has sent. Who does not take them loses the oldest."""
        await self.until(lambda: bool(self._datagrams))
        return self._datagrams.popleft()

    async def ping(self) -> None:
        """Ask for a sign of life, and wait for it."""
        self.check()
        self._ping += 1
        waiter = self._pings[self._ping] = self._loop.create_future()
        self.quic.send_ping(self._ping)
        self._flush_soon()
        await waiter

    def rebind(self, host: str = "") -> None:
        """Go on from another port (and another address, if *host* is given), and tell nobody: what a NAT does to us.

        The server does not know either. So we say something at once; if we were silent it would send to the old port.
        """
        self.check()
        old, self._host = self._socket, host or self._host
        self._socket = self._open()
        self._loop.remove_reader(old)
        old.close()
        if host:
            self.quic.path_changed()
        self.quic.send_ping(0)
        self._flush_soon()

    async def migrate(self, host: str = "") -> None:
        """The same on purpose: with a new connection ID, too, so that nobody on both ways can tell it is us (§9.5)."""
        await self.until(lambda: self.quic.is_confirmed)  # §9: not before
        if self.quic.server_parameters and self.quic.server_parameters.disable_active_migration:
            raise LocalProtocolError("the server does not want us to migrate (RFC 9000 §18.2)")
        if not self.quic._peer_cid.cid:
            raise LocalProtocolError("the server tells its clients apart by their addresses (RFC 9000 §9)")
        await self.until(lambda: bool(self.quic._peer_cid_available))
        self.quic.change_connection_id()
        self.rebind(host)
        await self.ping()

    async def update_keys(self) -> None:
        """New keys in both directions, and wait until the server has used them: not twice before (RFC 9001 §6.1)."""
        await self.until(lambda: self.quic.is_confirmed)
        self.quic.request_key_update()
        await self.ping()
        await self.until(lambda: not self.quic._wants_new_keys)
        await self.ping()

    def close(self, code: int = 0, reason: str = "") -> None:
        """CONNECTION_CLOSE, at once: what the server has not acknowledged may never reach it."""
        if self.ended is None:
            self.quic.close(code, reason_phrase=reason)
            self._turn()
