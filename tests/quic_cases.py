"""What one end must make of packets, by the sentences of RFC 9000, 9001 and 9221: well protected, and hostile.

Each case is what a client sends, where (which kind of packet, at which moment of the handshake), and what must come of
it. The other end is real: its keys protect the packets, so each of them is believed until its frames are looked at.

    code       the connection ends with CONNECTION_CLOSE, and this code (§20.1), which the client gets to read
    NOTHING    no harm is done: the connection goes on

The server's limits are those of LIMITS. A case whose rule is a MAY or a SHOULD says so: there, this is our choice.
"""

from __future__ import annotations

from typing import NamedTuple

from aioquic.quic.packet import QuicPacketType as In

from protocols.quic_frames import (
    Ack,
    ConnectionClose,
    Crypto,
    DataBlocked,
    Datagram,
    HandshakeDone,
    MaxData,
    MaxStreamData,
    MaxStreams,
    NewConnectionId,
    NewToken,
    Padding,
    PathChallenge,
    PathResponse,
    Ping,
    ResetStream,
    RetireConnectionId,
    StopSending,
    Stream,
    StreamDataBlocked,
    StreamsBlocked,
    encode,
)
from protocols.quic_numbers import ErrorCode, TransportParameter
from protocols.quic_packets import encode_varint
from protocols.tls_numbers import Alert

LIMITS = {"stream_window": 4096, "connection_window": 8192, "max_streams": 4, "max_uni_streams": 4}
NOTHING = None
MOST = 2**62 - 1  # of a variable-length integer

FLOW, STREAMS, STATE = ErrorCode.FLOW_CONTROL_ERROR, ErrorCode.STREAM_LIMIT_ERROR, ErrorCode.STREAM_STATE_ERROR
SIZE, FRAME, VIOLATION = ErrorCode.FINAL_SIZE_ERROR, ErrorCode.FRAME_ENCODING_ERROR, ErrorCode.PROTOCOL_VIOLATION
IDS, PARAMETER = ErrorCode.CONNECTION_ID_LIMIT_ERROR, ErrorCode.TRANSPORT_PARAMETER_ERROR
CRYPTO, INTERNAL = ErrorCode.CRYPTO_BUFFER_EXCEEDED, ErrorCode.INTERNAL_ERROR


def tls(alert: Alert) -> int:
    return ErrorCode.CRYPTO_ERROR + alert


class Case(NamedTuple):
    wanted: int | None
    frames: tuple  # Frame, or bytes of which nobody else would make a frame; None: the next packet begins
    where: In = In.ONE_RTT
    reserved: int = 0  # bits of the first byte


def numbers(*values: int) -> bytes:
    return b"".join(map(encode_varint, values))


def new_id(sequence: int, retire_prior_to: int = 0, connection_id: bytes = b"", token: bytes = bytes(16)):
    return NewConnectionId(sequence, retire_prior_to, connection_id or bytes([sequence % 256]) * 8, token)


def one(wanted: int | None, *frames, where: In = In.ONE_RTT, reserved: int = 0) -> Case:
    return Case(wanted, frames, where, reserved)


ACK_0 = Ack((range(0, 1),))
CASES = {
    # RFC 9000 §2, §3: streams
    "2.1 a lower stream is opened by a higher one": one(NOTHING, Stream(12, 0, b"x"), Stream(4, 0, b"x")),
    "2.2 the same data twice": one(NOTHING, Stream(0, 0, b"abc"), Stream(0, 0, b"abc")),
    "2.2 data that overlap": one(NOTHING, Stream(0, 0, b"abc"), Stream(0, 1, b"bcd")),
    "2.2 data in the wrong order": one(NOTHING, Stream(0, 3, b"def", True), Stream(0, 0, b"abc")),
    "3.2 STREAM behind RESET_STREAM": one(NOTHING, Stream(0, 0, b"abc"), ResetStream(0, 0, 3), Stream(0, 0, b"abc")),
    "3.2 RESET_STREAM opens a stream": one(NOTHING, ResetStream(0, 7, 0)),
    "3.5 STOP_SENDING for a stream that has ended": one(NOTHING, Stream(0, 0, b"", True), StopSending(0, 1)),
    # §4.1: flow control
    "4.1 all that the stream's window takes": one(NOTHING, Stream(0, 0, bytes(900)), Stream(0, 4095, b"x")),
    "4.1 a byte beyond the stream's window": one(FLOW, Stream(0, 4096, b"x")),
    "4.1 a byte across the stream's window": one(FLOW, Stream(0, 4095, b"xy")),
    "4.1 the end beyond the stream's window": one(FLOW, Stream(0, 4097, b"", True)),
    "4.1 all that the connection's window takes": one(NOTHING, Stream(0, 4095, b"x"), Stream(4, 4095, b"x")),
    "4.1 a byte beyond the connection's window": one(
        FLOW, Stream(0, 4095, b"x"), Stream(4, 4095, b"x"), Stream(8, 0, b"x")
    ),
    "4.1 the connection's window, spent by resets": one(
        FLOW,
        ResetStream(0, 0, 4096),
        ResetStream(4, 0, 4096),
        Stream(8, 4095, b"x"),
        Stream(12, 4095, b"x"),
        ResetStream(2, 0, 4096),
        ResetStream(6, 0, 4096),
        ResetStream(10, 0, 1),
    ),
    "4.1 a unidirectional stream beyond its window": one(FLOW, Stream(2, 4096, b"x")),
    # §4.5: final size
    "4.5 data behind the end": one(SIZE, Stream(0, 0, b"abc", True), Stream(0, 3, b"d")),
    "4.5 data across the end": one(SIZE, Stream(0, 0, b"abc", True), Stream(0, 2, b"cd")),
    "4.5 another end": one(SIZE, Stream(0, 0, b"abc", True), Stream(0, 0, b"ab", True)),
    "4.5 an end before what has come": one(SIZE, Stream(0, 10, b"x"), Stream(0, 0, b"abc", True)),
    "4.5 RESET_STREAM with less than has come": one(SIZE, Stream(0, 0, b"abc"), ResetStream(0, 0, 2)),
    "4.5 RESET_STREAM with another end": one(SIZE, Stream(0, 5, b"", True), ResetStream(0, 0, 6)),
    "4.5 RESET_STREAM twice, with two ends": one(
        SIZE, Stream(0, 9, b"x"), ResetStream(0, 0, 10), ResetStream(0, 0, 11)
    ),
    "4.5 RESET_STREAM twice": one(NOTHING, Stream(0, 0, b"abc"), ResetStream(0, 0, 3), ResetStream(0, 0, 3)),
    "4.5 the end twice": one(NOTHING, Stream(0, 0, b"abc", True), Stream(0, 3, b"", True)),
    # §4.6: how many streams
    "4.6 the last stream that may be opened": one(NOTHING, Stream(12, 0, b"x")),
    "4.6 one stream too many": one(STREAMS, Stream(16, 0, b"x")),
    "4.6 the last unidirectional stream": one(NOTHING, Stream(14, 0, b"x")),
    "4.6 one unidirectional stream too many": one(STREAMS, Stream(18, 0, b"x")),
    "4.6 RESET_STREAM of one too many": one(STREAMS, ResetStream(16, 0, 0)),
    "4.6 STOP_SENDING of one too many": one(STREAMS, StopSending(16, 0)),
    "4.6 MAX_STREAM_DATA of one too many": one(STREAMS, MaxStreamData(16, 1)),
    "4.6 STREAM_DATA_BLOCKED of one too many": one(STREAMS, StreamDataBlocked(16, 1)),
    "4.6 the largest stream there is": one(STREAMS, Stream(MOST - 3, 0, b"x")),
    # §5.1: connection IDs
    "5.1.1 as many IDs as we have asked for": one(NOTHING, *map(new_id, range(1, 8))),
    "5.1.1 one ID too many": one(IDS, *map(new_id, range(1, 9))),
    "5.1.2 IDs retired faster than we can say so (SHOULD)": one(
        IDS, *[one for n in range(1, 60) for one in (new_id(n, n), None)]
    ),
    "5.1.2 the ID in use is retired": one(NOTHING, new_id(1), new_id(2, 2), None, new_id(2, 2)),
    "5.1.2 an ID that comes when it is retired already": one(NOTHING, new_id(3, 3), None, new_id(1)),
    # §8.2, §9: paths
    "8.2.2 PATH_CHALLENGE": one(NOTHING, PathChallenge(b"12345678")),
    "8.2.2 a thousand PATH_CHALLENGEs": one(NOTHING, *[PathChallenge(b"12345678")] * 100, None, Ping()),
    "19.18 PATH_RESPONSE that nobody waits for (MAY)": one(NOTHING, PathResponse(b"12345678")),
    # §12: packets and frames
    "12.4 a packet without a frame": one(VIOLATION),
    "12.4 nothing but PADDING": one(NOTHING, Padding(20)),
    "12.4 a type that nobody knows": one(FRAME, numbers(0x21)),
    "12.4 a type of eight bytes that nobody knows": one(FRAME, numbers(0x1234567890)),
    "12.4 a type that is cut off": one(FRAME, b"\x80"),
    "12.4 the first frame good, the second not": one(FRAME, Ping(), numbers(0x1F)),
    "12.3 reserved bits": one(VIOLATION, Ping(), reserved=0x18),
    # §12.5: which frames in which packets
    "12.5 STREAM in Initial": one(VIOLATION, Stream(0, 0, b"x"), where=In.INITIAL),
    "12.5 MAX_DATA in Initial": one(VIOLATION, MaxData(1), where=In.INITIAL),
    "12.5 HANDSHAKE_DONE in Initial": one(VIOLATION, HandshakeDone(), where=In.INITIAL),
    "12.5 the application's CONNECTION_CLOSE in Initial": one(
        VIOLATION, ConnectionClose(0, "", None), where=In.INITIAL
    ),
    "12.5 PATH_CHALLENGE in Initial": one(VIOLATION, PathChallenge(bytes(8)), where=In.INITIAL),
    "12.5 PING in Initial": one(NOTHING, Ping(), where=In.INITIAL),
    "12.5 STREAM in Handshake": one(VIOLATION, Stream(0, 0, b"x"), where=In.HANDSHAKE),
    "12.5 NEW_CONNECTION_ID in Handshake": one(VIOLATION, new_id(1), where=In.HANDSHAKE),
    "12.5 DATAGRAM in Handshake": one(VIOLATION, Datagram(b"x"), where=In.HANDSHAKE),
    "12.5 PING in Handshake": one(NOTHING, Ping(), where=In.HANDSHAKE),
    "12.5 STREAM in 0-RTT": one(NOTHING, Stream(0, 0, b"x"), where=In.ZERO_RTT),
    "12.5 ACK in 0-RTT": one(VIOLATION, ACK_0, where=In.ZERO_RTT),
    "12.5 CRYPTO in 0-RTT": one(VIOLATION, Crypto(0, b"x"), where=In.ZERO_RTT),
    "12.5 HANDSHAKE_DONE in 0-RTT": one(VIOLATION, HandshakeDone(), where=In.ZERO_RTT),
    "12.5 NEW_TOKEN in 0-RTT": one(VIOLATION, NewToken(b"x"), where=In.ZERO_RTT),
    "12.5 PATH_RESPONSE in 0-RTT (MAY)": one(VIOLATION, PathResponse(bytes(8)), where=In.ZERO_RTT),
    "12.5 RETIRE_CONNECTION_ID in 0-RTT (MAY)": one(VIOLATION, RetireConnectionId(0), where=In.ZERO_RTT),
    "4.1 a byte beyond the window in 0-RTT": one(FLOW, Stream(0, 4096, b"x"), where=In.ZERO_RTT),
    "4.6 one stream too many in 0-RTT": one(STREAMS, Stream(16, 0, b"x"), where=In.ZERO_RTT),
    # §13, §19.3: acknowledgements
    "13.1 ACK of what was never sent (SHOULD)": one(VIOLATION, Ack((range(0, 100000),))),
    "13.1 ACK of the largest number there is (SHOULD)": one(VIOLATION, Ack((range(MOST, MOST + 1),))),
    "13.1 ACK of what was never sent in Initial (SHOULD)": one(VIOLATION, Ack((range(90, 91),)), where=In.INITIAL),
    "19.3 ACK twice": one(NOTHING, ACK_0, ACK_0),
    "19.3 ACK with counts of ECN": one(NOTHING, ACK_0._replace(ecn=(1, 2, 3))),
    "19.3.1 a first range below packet 0": one(FRAME, numbers(2, 0, 0, 0, 1)),
    "19.3.1 a second range below packet 0": one(FRAME, numbers(2, 3, 0, 1, 0, 5, 0)),
    "19.3.1 more ranges than are there": one(FRAME, numbers(2, 3, 0, 9, 0)),
    # §19: frames, one by one
    "19.4 RESET_STREAM of a stream that only we send on": one(STATE, ResetStream(3, 0, 0)),
    "19.4 RESET_STREAM of a stream that we have not opened": one(STATE, ResetStream(1, 0, 0)),
    "19.4 RESET_STREAM, cut off": one(FRAME, numbers(4, 0, 0)),
    "19.5 STOP_SENDING of a stream that only they send on": one(STATE, StopSending(2, 0)),
    "19.5 STOP_SENDING of a stream that we have not opened": one(STATE, StopSending(1, 0)),
    "19.6 CRYPTO beyond 2^62-1": one(FRAME, numbers(6, MOST, 1) + b"x"),
    "19.6 CRYPTO longer than its packet": one(FRAME, numbers(6, 0, 9) + b"x"),
    "7.5 CRYPTO far ahead": one(CRYPTO, Crypto(70000, b"x")),
    "7.5 CRYPTO far ahead in Initial": one(CRYPTO, Crypto(70000, b"x"), where=In.INITIAL),
    "7.5 CRYPTO full of holes": one(
        CRYPTO, *[Crypto(2000 + 2 * n, b"x") if n % 200 else None for n in range(1, 700)], where=In.INITIAL
    ),
    "19.7 NEW_TOKEN from a client": one(VIOLATION, NewToken(b"x")),
    "19.8 STREAM on a stream that only we send on": one(STATE, Stream(3, 0, b"x")),
    "19.8 STREAM on a stream that we have not opened": one(STATE, Stream(1, 0, b"x")),
    "19.8 STREAM beyond 2^62-1": one(FRAME, numbers(0x0E, 0, MOST, 1) + b"x"),
    "19.8 STREAM longer than its packet": one(FRAME, numbers(0x0A, 0, 9) + b"x"),
    "19.8 STREAM to the end of its packet": one(NOTHING, numbers(0x08, 0) + b"abc"),
    "19.8 STREAM with nothing in it": one(NOTHING, numbers(0x08, 0)),
    "19.9 MAX_DATA that takes back": one(NOTHING, MaxData(0)),
    "19.9 MAX_DATA without end": one(NOTHING, MaxData(MOST)),
    "19.10 MAX_STREAM_DATA for a stream that only they send on": one(STATE, MaxStreamData(2, 1)),
    "19.10 MAX_STREAM_DATA for a stream that we have not opened": one(STATE, MaxStreamData(1, 1)),
    "19.11 MAX_STREAMS of 2^60": one(NOTHING, MaxStreams(2**60)),
    "19.11 MAX_STREAMS beyond 2^60": one(FRAME, MaxStreams(2**60 + 1)),
    "19.11 MAX_STREAMS beyond 2^60, unidirectional": one(FRAME, MaxStreams(2**60 + 1, True)),
    "19.11 MAX_STREAMS that takes back": one(NOTHING, MaxStreams(0)),
    "19.12 DATA_BLOCKED": one(NOTHING, DataBlocked(MOST)),
    "19.13 STREAM_DATA_BLOCKED for a stream that only we send on": one(STATE, StreamDataBlocked(3, 1)),
    "19.14 STREAMS_BLOCKED": one(NOTHING, StreamsBlocked(4)),
    "19.14 STREAMS_BLOCKED beyond 2^60": one(FRAME, StreamsBlocked(2**60 + 1)),
    "19.15 the same ID twice": one(NOTHING, new_id(1), new_id(1)),
    "19.15 an ID of no bytes": one(FRAME, numbers(0x18, 1, 0) + b"\0" + bytes(16)),
    "19.15 an ID of 21 bytes": one(FRAME, numbers(0x18, 1, 0) + b"\x15" + bytes(21 + 16)),
    "19.15 retired before it is issued": one(FRAME, new_id(1, 2)),
    "19.15 two IDs of one number (MAY)": one(VIOLATION, new_id(1), new_id(1, 0, b"another!")),
    "19.15 one ID with two numbers (MAY)": one(VIOLATION, new_id(1, 0, b"the same"), new_id(2, 0, b"the same")),
    "19.15 a token that is cut off": one(FRAME, numbers(0x18, 1, 0) + b"\x08" + bytes(8 + 15)),
    "19.16 retires an ID that nobody has issued": one(VIOLATION, RetireConnectionId(1000)),
    "19.16 retires the ID that the packet goes to (MAY)": one(VIOLATION, RetireConnectionId(0)),
    "19.16 retires all others": one(NOTHING, *map(RetireConnectionId, range(1, 8))),
    "19.16 retires what is not on its way yet": one(VIOLATION, *map(RetireConnectionId, range(1, 9))),
    "19.17 PATH_CHALLENGE, cut off": one(FRAME, numbers(0x1A) + bytes(7)),
    "19.19 a reason that is longer than the packet": one(FRAME, numbers(0x1C, 0, 0, 100) + b"bye"),
    "19.20 HANDSHAKE_DONE from a client": one(VIOLATION, HandshakeDone()),
    # RFC 9001
    "9001-6 TLS's KeyUpdate": one(tls(Alert.UNEXPECTED_MESSAGE), Crypto(0, b"\x18\0\0\1\0")),
    "9001-4.8 a second ClientHello": one(tls(Alert.UNEXPECTED_MESSAGE), Crypto(0, b"\1\0\0\1\0")),
    "9001-4.8 a handshake message of no sense": one(
        tls(Alert.UNEXPECTED_MESSAGE), Crypto(0, b"\xfe\0\0\1\0"), where=In.HANDSHAKE
    ),
    # RFC 9221
    "9221-3 DATAGRAM": one(NOTHING, Datagram(bytes(1000))),
    "9221-4 DATAGRAM longer than its packet": one(FRAME, numbers(0x31, 100) + b"x"),
    # Floods: nobody says what must be done, §21 says that something should be
    "21.7 a stream full of holes (SHOULD)": one(
        INTERNAL, *[Stream(0, 2 * n, b"x") if n % 200 else None for n in range(1, 700)]
    ),
    "9221-5 a few small DATAGRAMs": one(NOTHING, *([*[Datagram(b"x")] * 60, None] * 40)),
    "21.9 DATAGRAMs of nothing, thousands in a packet (MAY)": one(INTERNAL, *[Datagram(b"")] * 5000),
    "21.9 a flood of PING (MAY)": one(INTERNAL, *([*[Ping()] * 1000, None] * 6)),
    "21.9 a flood of windows that do not grow (MAY)": one(INTERNAL, *([*[MaxData(1)] * 300, None] * 20)),
    "21.9 a flood of empty STREAM frames (MAY)": one(INTERNAL, *([*[Stream(0, 0, b"")] * 300, None] * 20)),
    "21.9 a flood of ACKs that say nothing new (MAY)": one(INTERNAL, *([*[ACK_0] * 200, None] * 30)),
}


ENTRY = TransportParameter
PARAMETERS = {  # what a client's transport parameters are changed to, and what comes of it (RFC 9000 §7.4, §18.2)
    "as they are": (NOTHING, {}),
    "one that nobody knows": (NOTHING, {31 * 1000 + 27: b"whatever"}),
    "max_udp_payload_size below 1200": (PARAMETER, {ENTRY.MAX_UDP_PAYLOAD_SIZE: 1199}),
    "ack_delay_exponent above 20": (PARAMETER, {ENTRY.ACK_DELAY_EXPONENT: 21}),
    "max_ack_delay of 2^14": (PARAMETER, {ENTRY.MAX_ACK_DELAY: 2**14}),
    "active_connection_id_limit of 1": (PARAMETER, {ENTRY.ACTIVE_CONNECTION_ID_LIMIT: 1}),
    "initial_max_streams_bidi beyond 2^60": (PARAMETER, {ENTRY.INITIAL_MAX_STREAMS_BIDI: 2**60 + 1}),
    "initial_max_streams_uni beyond 2^60": (PARAMETER, {ENTRY.INITIAL_MAX_STREAMS_UNI: 2**60 + 1}),
    "another source connection ID": (PARAMETER, {ENTRY.INITIAL_SOURCE_CONNECTION_ID: b"not mine"}),
    "no source connection ID": (PARAMETER, {ENTRY.INITIAL_SOURCE_CONNECTION_ID: None}),
    "a server's original destination ID": (PARAMETER, {ENTRY.ORIGINAL_DESTINATION_CONNECTION_ID: b"12345678"}),
    "a server's stateless_reset_token": (PARAMETER, {ENTRY.STATELESS_RESET_TOKEN: bytes(16)}),
    "a server's retry_source_connection_id": (PARAMETER, {ENTRY.RETRY_SOURCE_CONNECTION_ID: b"12345678"}),
    "a server's preferred_address": (PARAMETER, {ENTRY.PREFERRED_ADDRESS: bytes(24) + b"\x08" + bytes(24)}),
    "a number that is longer than it says": (PARAMETER, {ENTRY.INITIAL_MAX_DATA: b"\x01\x02\x03"}),
    "a number that is cut off": (PARAMETER, {ENTRY.INITIAL_MAX_DATA: b"\xc0"}),
    "version_information of another version": (
        ErrorCode.VERSION_NEGOTIATION_ERROR, {ENTRY.VERSION_INFORMATION: bytes.fromhex("6b3343cf 6b3343cf 00000001")},
    ),
    "version_information without the chosen one": (
        PARAMETER, {ENTRY.VERSION_INFORMATION: bytes.fromhex("00000001 6b3343cf")},
    ),
}  # fmt: skip


def payloads(case: Case) -> list[bytes]:
    """The payload of each of its packets."""
    packets = [b""]
    for frame in case.frames:
        if frame is None:
            packets.append(b"")
        else:
            packets[-1] += frame if isinstance(frame, bytes) else encode(frame)
    return packets[:-1] if case.frames and case.frames[-1] is None else packets
