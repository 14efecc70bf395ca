"""One end of a QUIC connection: aioquic keeps the books, and here is what it leaves to its user or does otherwise.

aioquic's QuicConnection does the handshake, packets, acknowledgements, loss and congestion, without any I/O: datagrams
and the time go in, datagrams and events come out. What is here, for both ends:

- windows open as the application consumes, and not by doubling for ever (RFC 9000 §4.1): consume(), and buffered() for
  the other direction;
- what comes before the handshake is complete may be a replay (RFC 9001 §9.2): is_early;
- what was lost is sent again first, then who is most urgent: set_place(). aioquic serves all streams in turn, and then
  all of them end late (RFC 9000 §2.3, §13.3);
- stateless resets can be told, because their tokens follow from a key (RFC 9000 §10.3); a closing end answers again,
  less and less often (§10.2.1);
- more is refused: acknowledgements of what was never sent, IDs that nobody issued, holes without end;
- datagrams grow to what the path takes (§14.3), and keys are renewed before they are worn (RFC 9001 §6.6).
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
from collections.abc import Callable
from functools import partial
from typing import NoReturn

from aioquic._buffer import Buffer
from aioquic.buffer import UINT_VAR_MAX
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    END_STATES,
    Limit,
    NetworkAddress,
    QuicConnection,
    QuicConnectionError,
    QuicConnectionState,
    QuicNetworkPath,
    QuicReceiveContext,
)
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicPacketType, pull_quic_transport_parameters
from aioquic.quic.packet_builder import QuicDeliveryState, QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream, StreamFinishedError
from aioquic.tls import CipherSuite, Direction, Epoch, HandshakeType, SessionTicket

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.quic_frames import parse_parameters

MAX_CRYPTO = 1 << 14, 1 << 16  # bytes of a handshake that wait to be whole: a server's, and a client's, who gets the
# certificates. aioquic would keep half a megabyte, and one small packet is enough for that
MAX_HOLES = 500  # in what has come of a stream: each is remembered, and looked through (§21.7)
MAX_DATAGRAMS = (
    64  # DATAGRAM frames that wait to be sent: their sender does not wait for us, so they are dropped (§5.2)
)
KEY_LIFE = 1 << 22  # packets under one key; AES-GCM's limit is 2^23 (RFC 9001 §6.6)
BLACK_HOLE = 3  # times that nothing comes back, until datagrams become small again
RESET_TOKEN = 16  # bytes (§10.3)
MAX_ISSUED = 64  # connection IDs of the peer that are remembered, to see whether it contradicts itself
PATIENCE = 2000  # frames that bring nothing new, in a row; as many a second as PATIENCE_BACK are forgiven (§21.9)
PATIENCE_BACK = 200
PRICE_OF_KEYS = 20  # and an update of keys by the peer costs as much as so many frames
LARGEST = (16384, 8952, 4096, 1472, 1452)  # UDP payloads to try: loopback, jumbo frames, Ethernet with IPv4 and IPv6


log = logging.getLogger("protocols.quic")

FrameHandler = Callable[[QuicReceiveContext, int, Buffer], None]


def reset_token(key: bytes, connection_id: bytes) -> bytes:
    """The stateless reset token of a connection ID: who has lost all state can still make it (RFC 9000 §10.3.2)."""
    return hmac.digest(key, connection_id, hashlib.sha256)[:RESET_TOKEN]


class Connection(QuicConnection):
    """One connection. See aioquic for receive_datagram(), datagrams_to_send(), next_event(), get_timer(), …

    stream_window, connection_window   bytes that may come before anybody has consumed them
    max_streams, max_uni_streams       that the peer may have open at once, in both directions and in one
    reset_key          for the tokens of stateless resets; None: nobody will ever send one in our name
    address_is_valid   a token has proved the client's address: no limit of three times what came (§8.1)
    accept_early       asked once, when a client brings early data: may it? It may be a replay
    new_token          a token for the client's next connection (§8.1.3)
    path_mtu           try whether the path takes larger datagrams than the configuration says. Whoever sends them must
                       not let them be fragmented (IP_MTU_DISCOVER), and tell by too_large() which the kernel refuses
    """

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        stream_window: int = 1 << 18,
        connection_window: int = 1 << 20,
        max_streams: int = 100,
        max_uni_streams: int = 100,
        reset_key: bytes | None = None,
        address_is_valid: bool = False,
        accept_early: Callable[[], bool] | None = None,
        new_token: bytes = b"",
        path_mtu: bool = False,
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
        session_ticket_fetcher: Callable[[bytes], SessionTicket | None] | None = None,
        session_ticket_handler: Callable[[SessionTicket], None] | None = None,
        token_handler: Callable[[bytes], None] | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
            session_ticket_fetcher=session_ticket_fetcher,
            session_ticket_handler=session_ticket_handler,
            token_handler=token_handler,
        )
        self._stream_window, self._connection_window = stream_window, connection_window
        self._local_max_data = Limit(QuicFrameType.MAX_DATA, "max_data", connection_window)
        self._local_max_stream_data_bidi_local = stream_window
        self._local_max_stream_data_bidi_remote = stream_window
        self._local_max_stream_data_uni = stream_window
        self._local_max_streams_bidi = Limit(QuicFrameType.MAX_STREAMS_BIDI, "max_streams_bidi", max_streams)
        self._local_max_streams_uni = Limit(QuicFrameType.MAX_STREAMS_UNI, "max_streams_uni", max_uni_streams)
        self._unread: dict[int, int] = {}  # bytes by stream, given out and not consumed
        self._consumed = 0  # bytes of all streams
        self._places: dict[int, tuple[int, ...]] = {}  # by stream: see set_place()
        self._reset_key = reset_key
        if reset_key is not None:
            self._host_cids[0].stateless_reset_token = reset_token(reset_key, self.host_cid)
        self._address_is_valid = address_is_valid
        self._accept_early = accept_early
        self._new_token = new_token
        self._farewell: list[tuple[bytes, NetworkAddress]] = []  # how we have closed
        self._came_late = 0  # datagrams since then
        self._answered = 0  # which of them we have answered last
        self._phase_began = 0  # the first packet under these keys
        self._wants_new_keys = False
        self._issued: dict[int, tuple[bytes, bytes]] = {}  # the peer's connection IDs and tokens, by number
        self._patience, self._patience_at = float(PATIENCE), 0.0
        self._datagrams_came = 0  # DATAGRAM frames in this packet
        handlers = self._QuicConnection__frame_handlers  # type: ignore[attr-defined]
        for kind, (handler, epochs) in handlers.items():
            if kind in (QuicFrameType.PATH_RESPONSE, QuicFrameType.RETIRE_CONNECTION_ID):
                epochs = frozenset([Epoch.ONE_RTT])  # There is nothing yet to respond to, or to retire (§12.5).
            if kind != QuicFrameType.PADDING:
                handlers[kind] = partial(self._count, handler), epochs
        self._path_mtu, self._largest = path_mtu, 65527  # bytes that the peer takes, at most (§18.2)
        self._sizes = list(LARGEST) if path_mtu else []  # still to try
        self._trying = False
        self._way: NetworkAddress | None = None  # for which they were found
        self.was_reset = False
        """Has a stateless reset ended it?"""

    # What the application asks.

    @property
    def has_begun(self) -> bool:
        """Has anything come that is no garbage?"""
        return self._state is not QuicConnectionState.FIRSTFLIGHT

    @property
    def is_early(self) -> bool:
        """The handshake is not complete: what a server gets now may be the copy of an old first flight."""
        return not self._handshake_complete

    @property
    def ended(self) -> events.ConnectionTerminated | None:
        """How it has ended, as soon as that is known. aioquic's event comes after three timeouts more (§10.2)."""
        return self._close_event

    def consume(self, stream: int, count: int) -> None:
        """So many bytes of what came in events of this stream are used up: the peer may send as many more."""
        left = self._unread.get(stream, 0) - count
        if left < 0:
            raise LocalProtocolError(f"stream {stream}: more is consumed than came")
        self._consumed += count
        self._unread[stream] = left
        if not left:
            del self._unread[stream]

    def buffered(self, stream: int) -> int:
        """Bytes written to this stream, and not acknowledged. None when it is finished."""
        if (found := self._streams.get(stream)) is None:
            return 0
        sender = found.sender
        return sender._buffer_stop - sender._buffer_start if sender._reset_error_code is None else 0

    def unsent(self) -> int:
        """Bytes written to all streams, and not even sent once."""
        senders = [stream.sender for stream in self._streams.values()]
        return sum(one._buffer_stop - one.highest_offset for one in senders if one._reset_error_code is None)

    def unacknowledged(self) -> int:
        """Bytes of all streams that the peer is not known to have: so much is held in memory."""
        return sum(self.buffered(stream) for stream in self._streams)

    def is_stopped(self, stream: int) -> bool:
        """Nothing can be written: the peer has stopped it, if we know that or not yet, or we have reset it (§3.5)."""
        found = self._streams.get(stream)
        return found is not None and found.sender._reset_error_code is not None

    def window(self, stream: int) -> int:
        """How many bytes more could be written to this stream and leave, as far as its own limit goes (§4.1)."""
        found = self._streams.get(stream)
        return found.max_stream_data_remote - found.sender._buffer_stop if found else 0

    def allowance(self) -> int:
        """The same, of all streams together."""
        return self._remote_max_data - self._remote_max_data_used - self.unsent()

    @property
    def probes(self) -> int:
        """Probes in a row that were not answered; each is sent twice as late as the one before (RFC 9002 §6.2)."""
        return self._loss._pto_count

    def set_place(self, stream: int, place: tuple[int, ...]) -> None:
        """Whose turn it is to be sent: the least tuple is first, and equal ones share, packet by packet.

        A stream has () until it gets another place, which is before all others.
        """
        if stream in self._streams:
            self._places[stream] = place

    @property
    def is_delivered(self) -> bool:
        """Has the peer acknowledged all that was written, and every end of a stream? (servers/quic.py waits for it.)"""
        for stream in self._streams.values():
            sender = stream.sender
            is_ending = sender._buffer_fin is not None or sender._reset_error_code is not None
            if not sender.is_finished and (is_ending or sender._buffer_start < sender._buffer_stop):
                return False
        return True

    def next_event(self) -> events.QuicEvent | None:
        event = super().next_event()
        if isinstance(event, events.StreamDataReceived):
            if event.data:
                self._unread[event.stream_id] = self._unread.get(event.stream_id, 0) + len(event.data)
        elif isinstance(event, events.StreamReset) and (stream := self._streams.get(event.stream_id)):
            # What never came, or came behind a hole, nobody will consume; the peer has counted it (§4.5).
            self._consumed += stream.receiver.highest_offset - stream.receiver.starting_offset()
        return event

    def send_datagram_frame(self, data: bytes) -> None:
        """LocalProtocolError if it is too large for the peer or the path. Dropped when too many wait already."""
        most = self._remote_max_datagram_frame_size or 0
        if len(data) + 9 > min(most, self._max_datagram_size - 40):
            raise LocalProtocolError(f"a DATAGRAM of {len(data)} bytes is more than the peer or the path takes")
        if len(self._datagrams_pending) < MAX_DATAGRAMS:
            super().send_datagram_frame(data)

    def request_key_update(self) -> None:
        """Take new keys, as soon as the peer is known to have the ones in use (RFC 9001 §6.1)."""
        self._wants_new_keys = True

    def vanish(self) -> None:
        """Forget the connection, without a word."""
        if self._state is not QuicConnectionState.TERMINATED:
            if self._close_event is None:
                self._close_event = events.ConnectionTerminated(QuicErrorCode.NO_ERROR, None, "forgotten")
            self._close_end()

    def is_stateless_reset(self, datagram: bytes) -> bool:
        """Does it end with the token of the connection ID that we send to (§10.3.1)?"""
        token = self._peer_cid.stateless_reset_token
        return bool(token) and len(datagram) >= 21 and hmac.compare_digest(datagram[-RESET_TOKEN:], token)

    # Datagrams.

    def receive_datagram(self, data: bytes, addr: NetworkAddress, now: float) -> None:
        """As aioquic's. Whatever is in it, no exception comes of it: a mistake of ours closes the connection."""
        if self._state in END_STATES:
            if self._farewell and self._network_paths[0].addr == addr:
                self._network_paths[0].bytes_received += len(data)
                self._came_late += 1
            return
        if self.is_stateless_reset(data):
            self.was_reset = True
            self._close_event = events.ConnectionTerminated(QuicErrorCode.NO_ERROR, None, "stateless reset")
            self._close_begin(is_initiator=False, now=now)
            return
        if not (self._is_client or self._handshake_confirmed) and self._network_paths:
            # Nobody may move yet (§9). What comes from elsewhere is heard, and answered where the first packet came
            # from: that address, and no other, is proved by whoever has read our handshake there (§8.1).
            first = self._network_paths[0]
            if first.addr != addr:
                first.bytes_received -= len(data)  # It counts for none.
                addr = first.addr
        keys = self._cryptos.get(Epoch.ONE_RTT)
        phase = keys and keys.recv.key_phase
        try:
            super().receive_datagram(data, addr, now)
        except Exception:
            log.exception("A datagram that nobody has foreseen")
            self.close(QuicErrorCode.INTERNAL_ERROR, QuicFrameType.PADDING)
        if keys and keys.recv.key_phase != phase:
            self._peer_has_new_keys()
        if self._address_is_valid and self._network_paths:
            self._network_paths[0].is_validated = True
            self._address_is_valid = False
        if self._path_mtu and self._network_paths and self._network_paths[0].addr != self._way:
            self._begin_again()

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        if not self._network_paths:
            return []
        path = self._network_paths[0]
        if self._state is QuicConnectionState.CLOSING:
            return self._say_it_again()
        is_last = self._close_pending
        self._renew_keys()
        datagrams = super().datagrams_to_send(now)
        may_try = self._state is QuicConnectionState.CONNECTED and not (self._trying or is_last)
        if self._sizes and may_try and self._handshake_confirmed and path.is_validated:
            datagrams += self._try_larger(now)
        if is_last:
            if not path.is_validated and path.bytes_sent > 3 * path.bytes_received:
                datagrams = []  # aioquic says goodbye whatever it costs; §8.1 has no exception for that.
            self._farewell = datagrams
        return datagrams

    def _say_it_again(self) -> list[tuple[bytes, NetworkAddress]]:
        """Our CONNECTION_CLOSE, to whom goes on sending: for the 1st, 2nd, 4th, 8th … datagram (§10.2.1)."""
        late, path = self._came_late, self._network_paths[0]
        size = sum(len(data) for data, _ in self._farewell)
        is_too_much = not path.is_validated and path.bytes_sent + size > 3 * path.bytes_received
        if late == self._answered or late & (late - 1) or is_too_much:
            return []
        self._answered = late
        path.bytes_sent += size
        return self._farewell

    # Whose turn it is to be sent.

    def _write_application(self, builder: QuicPacketBuilder, network_path: QuicNetworkPath, now: float) -> None:
        if len(self._places) > len(self._streams):
            self._places = {number: place for number, place in self._places.items() if number in self._streams}
        self._put_in_order()
        super()._write_application(builder, network_path, now)

    def _put_in_order(self) -> None:
        """aioquic fills a packet in the order of this list, then puts whom it has served at the end: equals share."""
        self._streams_queue.sort(key=self._place_of)

    def _place_of(self, stream: QuicStream) -> tuple[bool, tuple[int, ...]]:
        """First who only has something to repeat, or an end to say: whoever waits for it has waited longest."""
        sender = stream.sender
        has_new = not sender.buffer_is_empty and sender.highest_offset <= sender.next_offset < sender._buffer_stop
        return has_new, self._places.get(stream.stream_id or 0, ())

    # Flow control (RFC 9000 §4.1): half a window at a time, so that not every byte costs a frame.

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        self._put_in_order()  # This is called for each packet.
        most, window = self._local_max_data, self._connection_window
        if self._consumed + window - most.value >= window // 2:
            most.value = self._consumed + window
        for limit in (most, self._local_max_streams_bidi, self._local_max_streams_uni):
            is_worth_it = limit is most or limit.sent - limit.used < limit.value - limit.sent
            if limit.value != limit.sent and is_worth_it:
                buf = builder.start_frame(limit.frame_type, 9, self._on_connection_limit_delivery, (limit,))
                buf.push_uint_var(limit.value)
                limit.sent = limit.value
                if self._quic_logger is not None and builder.quic_logger_frames is not None:
                    builder.quic_logger_frames.append(
                        self._quic_logger.encode_connection_limit_frame(limit.frame_type, limit.value)
                    )
        if self._new_token:
            token = self._new_token
            buf = builder.start_frame(QuicFrameType.NEW_TOKEN, 9 + len(token), self._on_new_token, (token,))
            buf.push_uint_var(len(token))
            buf.push_bytes(token)
            self._new_token = b""
            if self._quic_logger is not None and builder.quic_logger_frames is not None:
                builder.quic_logger_frames.append(self._quic_logger.encode_new_token_frame(token))

    def _on_new_token(self, delivery: QuicDeliveryState, token: bytes) -> None:
        if delivery is not QuicDeliveryState.ACKED:
            self._new_token = token

    def _write_stream_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream) -> None:
        receiver, window = stream.receiver, self._stream_window
        if receiver.is_finished or receiver._final_size is not None or stream.stream_id is None:
            return
        may_reach = receiver._buffer_start - self._unread.get(stream.stream_id, 0) + window
        if may_reach - stream.max_stream_data_local >= window // 2:
            stream.max_stream_data_local = may_reach
        if stream.max_stream_data_local_sent != stream.max_stream_data_local:
            buf = builder.start_frame(QuicFrameType.MAX_STREAM_DATA, 17, self._on_max_stream_data_delivery, (stream,))
            buf.push_uint_var(stream.stream_id)
            buf.push_uint_var(stream.max_stream_data_local)
            stream.max_stream_data_local_sent = stream.max_stream_data_local
            if self._quic_logger is not None and builder.quic_logger_frames is not None:
                builder.quic_logger_frames.append(
                    self._quic_logger.encode_max_stream_data_frame(stream.max_stream_data_local, stream.stream_id)
                )

    # Frames that bring no work done have a price, for theirs is ours, too (§21.9).

    def _payload_received(
        self, context: QuicReceiveContext, plain: bytes, crypto_frame_required: bool = False
    ) -> tuple[bool, bool]:
        forgiven = (context.time - self._patience_at) * PATIENCE_BACK
        self._patience, self._patience_at = min(PATIENCE, self._patience + forgiven), context.time
        self._datagrams_came = 0
        return super()._payload_received(context, plain, crypto_frame_required)

    def _count(self, handler: FrameHandler, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        """New bytes, datagrams, and news of what we have sent are work done; resets, and all else, are not."""
        sent = self._spaces[Epoch.ONE_RTT].sent_packets
        before = self._local_max_data.used, len(sent), len(self._events)
        with contextlib.suppress(StreamFinishedError):  # A frame of a stream that is over is all right, and no news.
            handler(context, frame_type, buf)
        is_news = before != (self._local_max_data.used, len(sent), len(self._events))
        if frame_type in (QuicFrameType.DATAGRAM, QuicFrameType.DATAGRAM_WITH_LENGTH):
            self._datagrams_came += 1
            is_news = self._datagrams_came <= MAX_DATAGRAMS  # A packet with more of them is made of crumbs.
        if frame_type in (QuicFrameType.RESET_STREAM, QuicFrameType.STOP_SENDING):
            self._patience -= 2  # A stream that is opened and reset brings nothing.
        elif not is_news:
            self._patience -= 1
        elif self._patience < PATIENCE:
            self._patience += 1
        if self._patience < 0:
            refuse(QuicErrorCode.INTERNAL_ERROR, frame_type, "many frames, and nothing new in them")

    # Frames: what aioquic lets pass.

    def _handle_ack_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        if peek(buf) >= self._packet_number:
            # An acknowledgement of what comes later would open the congestion window too far (§13.1, §21.4).
            refuse(QuicErrorCode.PROTOCOL_VIOLATION, frame_type, "acknowledges what was never sent")
        super()._handle_ack_frame(context, frame_type, buf)

    def _handle_crypto_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        receiver = self._crypto_streams[context.epoch].receiver
        start = buf.tell()
        offset = buf.pull_uint_var()
        end = offset + buf.pull_uint_var()
        first = self.tls._receive_buffer or buf.data_slice(buf.tell(), min(buf.tell() + 1, buf.capacity))
        buf.seek(start)
        is_next = context.epoch is Epoch.ONE_RTT and offset == receiver.starting_offset() < end
        if self._is_client and is_next and first[:1] == bytes([HandshakeType.CERTIFICATE_REQUEST]):
            refuse(QuicErrorCode.PROTOCOL_VIOLATION, frame_type, "CertificateRequest, too late (RFC 9001 §4.4)")
        waiting = end - receiver.starting_offset() + len(self.tls._receive_buffer)
        most = MAX_CRYPTO[self._is_client]
        if (end <= UINT_VAR_MAX and waiting > most) or len(receiver._ranges) > MAX_HOLES:
            refuse(QuicErrorCode.CRYPTO_BUFFER_EXCEEDED, frame_type, f"more than {most} bytes wait to be whole")
        super()._handle_crypto_frame(context, frame_type, buf)

    def _handle_stream_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        stream = self._streams.get(peek(buf))
        if stream is not None and len(stream.receiver._ranges) > MAX_HOLES:
            refuse(QuicErrorCode.INTERNAL_ERROR, frame_type, f"a stream with more than {MAX_HOLES} holes")
        super()._handle_stream_frame(context, frame_type, buf)

    def _handle_new_connection_id_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        if not self._peer_cid.cid:
            refuse(QuicErrorCode.PROTOCOL_VIOLATION, frame_type, "an ID, from a peer that does without (§19.15)")
        start = buf.tell()
        number, retire_prior_to = buf.pull_uint_var(), buf.pull_uint_var()
        new = buf.pull_bytes(buf.pull_uint8()), buf.pull_bytes(RESET_TOKEN)
        buf.seek(start)
        if retire_prior_to > number:
            refuse(QuicErrorCode.FRAME_ENCODING_ERROR, frame_type, "retired before it is issued (§19.15)")
        if self._issued.get(number, new) != new or any(
            old != number and known[0] == new[0] for old, known in self._issued.items()
        ):
            refuse(QuicErrorCode.PROTOCOL_VIOLATION, frame_type, "one ID with two numbers, or two with one (§19.15)")
        is_new = number not in self._issued
        self._issued[number] = new
        if len(self._issued) > MAX_ISSUED:
            del self._issued[min(self._issued)]
        if is_new and number < self._peer_retire_prior_to:
            self._retire_connection_ids.append(number)  # It is late. aioquic would not say so.
        try:
            super()._handle_new_connection_id_frame(context, frame_type, buf)
        except IndexError:
            refuse(QuicErrorCode.PROTOCOL_VIOLATION, frame_type, "all connection IDs are retired (§5.1.2)")

    def _handle_retire_connection_id_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        number = peek(buf)
        if any(one.sequence_number == number and not one.was_sent for one in self._host_cids):
            refuse(QuicErrorCode.PROTOCOL_VIOLATION, frame_type, "retires what was not issued yet (§19.16)")
        super()._handle_retire_connection_id_frame(context, frame_type, buf)

    def _handle_new_token_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        if self._is_client and peek(buf) == 0:
            refuse(QuicErrorCode.FRAME_ENCODING_ERROR, frame_type, "an empty token (§19.7)")
        super()._handle_new_token_frame(context, frame_type, buf)

    # Connection IDs, early data, keys, and the size of datagrams.

    def _replenish_connection_ids(self) -> None:
        super()._replenish_connection_ids()
        for one in self._host_cids:
            if self._reset_key is not None and not one.was_sent:
                one.stateless_reset_token = reset_token(self._reset_key, one.cid)

    def _update_traffic_key(self, direction: Direction, epoch: Epoch, cipher: CipherSuite, secret: bytes) -> None:
        if epoch is Epoch.ZERO_RTT and not self._is_client and self._accept_early and not self._accept_early():
            self.tls.early_data_accepted = False  # The session is resumed all the same.
            return
        super()._update_traffic_key(direction, epoch, cipher, secret)

    def _confirm_handshake(self) -> None:
        super()._confirm_handshake()
        for epoch in self._crypto_buffers:  # TLS has nothing more to say, and each of them has 16 KiB.
            self._crypto_buffers[epoch] = Buffer(capacity=0)

    def _renew_keys(self) -> None:
        if self._packet_number - self._phase_began > KEY_LIFE:
            self._wants_new_keys = True
        if self._wants_new_keys and self._handshake_confirmed:
            if self._spaces[Epoch.ONE_RTT].largest_acked_packet >= self._phase_began:
                self._wants_new_keys, self._phase_began = False, self._packet_number
                super().request_key_update()

    def _peer_has_new_keys(self) -> None:
        """So have we: our own next update waits until they are known to be in use (RFC 9001 §6.1)."""
        self._phase_began = self._packet_number
        self._patience -= PRICE_OF_KEYS
        if self._patience < 0:
            self.close(QuicErrorCode.KEY_UPDATE_ERROR, QuicFrameType.PADDING, "new keys, again and again")

    def _parse_transport_parameters(self, data: bytes, from_session_ticket: bool = False) -> None:
        try:
            parse_parameters(data)
        except RemoteProtocolError as error:  # aioquic would take the last of two (§7.4).
            refuse(QuicErrorCode.TRANSPORT_PARAMETER_ERROR, QuicFrameType.CRYPTO, str(error))
        super()._parse_transport_parameters(data, from_session_ticket)
        if self._remote_max_idle_timeout == 0:
            self._remote_max_idle_timeout = None  # None, and not at once (§18.2)
        self._largest = pull_quic_transport_parameters(Buffer(data=data)).max_udp_payload_size or self._largest
        self._sizes = [size for size in self._sizes if self._max_datagram_size < size <= self._largest]

    def _begin_again(self) -> None:
        """The peer has moved, and what its new path takes is not known."""
        if self._way is not None:
            self._set_size(self._configuration.max_datagram_size)
            self._sizes = [size for size in LARGEST if self._max_datagram_size < size <= self._largest]
            self._trying = False
        self._way = self._network_paths[0].addr

    def _try_larger(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """A packet that has nothing in it but its size (§14.4, RFC 8899). If it is lost, that is no congestion."""
        size, self._trying = self._sizes.pop(0), True
        builder = QuicPacketBuilder(
            host_cid=self.host_cid,
            is_client=self._is_client,
            max_datagram_size=size,
            packet_number=self._packet_number,
            peer_cid=self._peer_cid.cid,
            quic_logger=self._quic_logger,
            spin_bit=self._spin_bit,
            version=self._version or 0,
        )
        builder.start_packet(QuicPacketType.ONE_RTT, self._cryptos[Epoch.ONE_RTT])
        buf = builder.start_frame(QuicFrameType.PING, 1, self._on_try, (size,))
        buf.push_bytes(bytes(builder.remaining_buffer_space))
        assert builder._packet is not None
        builder._packet.in_flight = False
        return self._flush_builder(
            builder=builder, network_path=self._network_paths[0], peer_cid=self._peer_cid.cid, now=now
        )

    def _on_try(self, delivery: QuicDeliveryState, size: int) -> None:
        self._trying = False
        if delivery is QuicDeliveryState.ACKED and size > self._max_datagram_size:
            self._sizes.clear()
            self._set_size(size)

    def _set_size(self, size: int) -> None:
        self._max_datagram_size = size
        self._loss._cc._max_datagram_size = size  # type: ignore[attr-defined]
        self._loss._pacer._max_datagram_size = size

    def too_large(self, size: int) -> None:
        """The kernel did not send a datagram of this size: the first link takes less."""
        self._sizes = [one for one in self._sizes if one < size]
        self._trying = False
        if size <= self._max_datagram_size:
            self._set_size(self._configuration.max_datagram_size)

    def handle_timer(self, now: float) -> None:
        """As aioquic's. When nothing is heard any more, the path may have become narrower (RFC 8899 §4.3)."""
        super().handle_timer(now)
        if self._loss._pto_count >= BLACK_HOLE and self._max_datagram_size > self._configuration.max_datagram_size:
            self._set_size(self._configuration.max_datagram_size)


def peek(buf: Buffer) -> int:
    """The number that comes next, which stays where it is."""
    start = buf.tell()
    number = buf.pull_uint_var()
    buf.seek(start)
    return number


def refuse(code: QuicErrorCode, frame_type: int, reason: str) -> NoReturn:
    """Close the connection."""
    raise QuicConnectionError(code, frame_type, reason)
