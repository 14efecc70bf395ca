"""QUIC's frames by hand: every kind there and back, at every truncation, garbage, the rules, and aioquic's own."""

from __future__ import annotations

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.packet import pull_ack_frame, pull_quic_transport_parameters, push_ack_frame
from aioquic.quic.rangeset import RangeSet
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.quic_frames import (
    Ack,
    ConnectionClose,
    Crypto,
    DataBlocked,
    Datagram,
    ErrorCode,
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
    TransportParameter,
    belongs,
    encode,
    encode_parameters,
    is_ack_eliciting,
    parse,
    parse_parameters,
)
from protocols.quic_numbers import PacketType
from protocols.quic_packets import MAX_VARINT, encode_varint

few = settings(max_examples=50, deadline=None)
numbers = st.integers(0, MAX_VARINT)

EXAMPLES = {  # the bytes, as RFC 9000 §19 draws them, what they mean, and where they may be (§12.4, Table 3)
    "000000": (Padding(3), "PADDING 3", "IH01"),
    "01": (Ping(), "PING", "IH01"),
    "0209 01 00 02": (Ack((range(7, 10),), 1), "ACK 7-9", "IH_1"),
    "0309 01 01 00 01 02 4001 02 03": (
        Ack((range(9, 10), range(4, 7)), 1, (1, 2, 3)), "ACK 4-6,9", "IH_1"),
    "0404 11 09": (ResetStream(4, 0x11, 9), "RESET_STREAM 4 0x11", "__01"),
    "0504 11": (StopSending(4, 0x11), "STOP_SENDING 4 0x11", "__01"),
    "0640ff 02 6869": (Crypto(255, b"hi"), "CRYPTO +2 B", "IH_1"),
    "0702 6869": (NewToken(b"hi"), "NEW_TOKEN", "___1"),
    "0800 6869": (Stream(0, 0, b"hi"), "STREAM 0 +2 B", "__01"),
    "0f04 03 02 6869": (Stream(4, 3, b"hi", True), "STREAM 4 +2 B FIN", "__01"),
    "0d04 03": (Stream(4, 3, b"", True), "STREAM 4 +0 B FIN", "__01"),
    "1040ff": (MaxData(255), "MAX_DATA 255", "__01"),
    "110440ff": (MaxStreamData(4, 255), "MAX_STREAM_DATA 4 255", "__01"),
    "1209": (MaxStreams(9), "MAX_STREAMS 9", "__01"),
    "1309": (MaxStreams(9, True), "MAX_STREAMS uni 9", "__01"),
    "1409": (DataBlocked(9), "DATA_BLOCKED 9", "__01"),
    "150409": (StreamDataBlocked(4, 9), "STREAM_DATA_BLOCKED 4 9", "__01"),
    "1609": (StreamsBlocked(9), "STREAMS_BLOCKED 9", "__01"),
    "1709": (StreamsBlocked(9, True), "STREAMS_BLOCKED uni 9", "__01"),
    "1802 01 04 01020304" + "aa" * 16: (
        NewConnectionId(2, 1, b"\1\2\3\4", b"\xaa" * 16), "NEW_CONNECTION_ID 2", "__01"),
    "1902": (RetireConnectionId(2), "RETIRE_CONNECTION_ID 2", "___1"),  # Table 3 has it in 0-RTT, §12.5 not
    "1a" + "01" * 8: (PathChallenge(b"\1" * 8), "PATH_CHALLENGE", "__01"),
    "1b" + "01" * 8: (PathResponse(b"\1" * 8), "PATH_RESPONSE", "___1"),
    "1c03 08 02 6869": (ConnectionClose(3, "hi", 8), "CONNECTION_CLOSE FLOW_CONTROL_ERROR", "IH01"),
    "1c4130 06 00": (ConnectionClose(0x130, "", 6), "CONNECTION_CLOSE CRYPTO_ERROR 48", "IH01"),
    "1d4100 00": (ConnectionClose(0x100, "", None), "CONNECTION_CLOSE app 0x100", "__01"),
    "1e": (HandshakeDone(), "HANDSHAKE_DONE", "___1"),
    "30 6869": (Datagram(b"hi"), "DATAGRAM 2 B", "__01"),
    "3102 6869": (Datagram(b"hi"), "DATAGRAM 2 B", "__01"),
}  # fmt: skip
TO_THE_END = {0x08, 0x0C, 0x0D, 0x30}  # their frames have no length, so that a truncated one is a shorter one


@pytest.mark.parametrize("data", EXAMPLES)
def test_each_kind(data):
    wire, (frame, words, _) = bytes.fromhex(data), EXAMPLES[data]
    assert parse(wire) == [frame]
    assert type(parse(wire)[0]) is type(frame)
    assert str(frame) == words
    assert parse(encode(frame)) == [frame]
    if wire[0] not in TO_THE_END:
        assert parse(wire + b"\x01") == [frame, Ping()]
        if frame != Padding(3) and b"\x40\x01" not in wire:
            assert encode(frame) == wire


@pytest.mark.parametrize("data", EXAMPLES)
def test_every_truncation_is_malformed(data):
    wire = bytes.fromhex(data)
    for cut in range(1, len(wire)):
        if wire[0] not in TO_THE_END | {0x00}:
            with pytest.raises(RemoteProtocolError) as caught:
                parse(b"\x01" + wire[:cut])
            assert caught.value.code == ErrorCode.FRAME_ENCODING_ERROR


@pytest.mark.parametrize("data", EXAMPLES)
def test_which_frame_may_be_in_which_packet(data):
    frame, _, where = EXAMPLES[data]
    packets = (PacketType.INITIAL, PacketType.HANDSHAKE, PacketType.ZERO_RTT, PacketType.ONE_RTT)
    assert "".join(mark for mark, packet in zip("IH01", packets, strict=True) if belongs(frame, packet)) == (
        where.replace("_", "")
    )


def test_what_asks_for_an_acknowledgement():
    silent = {type(frame) for frame, _, _ in EXAMPLES.values() if not is_ack_eliciting(frame)}
    assert silent == {Ack, Padding, ConnectionClose}


@pytest.mark.parametrize(
    ("data", "why", "code"),
    [
        ("", "without a frame", ErrorCode.PROTOCOL_VIOLATION),
        ("4001", "type 0x1 in 2 bytes", ErrorCode.PROTOCOL_VIOLATION),
        ("1f", "type 0x1f", ErrorCode.FRAME_ENCODING_ERROR),
        ("7f77", "type 0x3f77", ErrorCode.FRAME_ENCODING_ERROR),
        ("0201 00 00 02", "below 0", ErrorCode.FRAME_ENCODING_ERROR),
        ("0205 00 01 05 00 00", "below 0", ErrorCode.FRAME_ENCODING_ERROR),
        ("0700", "empty token", ErrorCode.FRAME_ENCODING_ERROR),
        ("12d000000000000001", "1152921504606846977 streams", ErrorCode.FRAME_ENCODING_ERROR),
        ("0e00 ffffffffffffffff 01 61", r"beyond 2\^62-1", ErrorCode.FRAME_ENCODING_ERROR),
        ("06 ffffffffffffffff 01 61", r"beyond 2\^62-1", ErrorCode.FRAME_ENCODING_ERROR),
        ("1801 00 00" + "00" * 16, "ID of 0 bytes", ErrorCode.FRAME_ENCODING_ERROR),
        ("1801 00 15" + "00" * 37, "ID of 21 bytes", ErrorCode.FRAME_ENCODING_ERROR),
        ("1801 02 01" + "00" * 17, "itself among them", ErrorCode.FRAME_ENCODING_ERROR),
        ("1c00 00 09 61", "a field of 9 bytes", ErrorCode.FRAME_ENCODING_ERROR),
        ("3144ff 61", "a field of 1279 bytes", ErrorCode.FRAME_ENCODING_ERROR),
    ],
)
def test_what_closes_a_connection(data, why, code):
    with pytest.raises(RemoteProtocolError, match=why) as caught:
        parse(bytes.fromhex(data))
    assert caught.value.code == code


# -- Ranges ------------------------------------------------------------------------------------------


def in_ranges(numbers: set[int]) -> tuple[range, ...]:
    """The highest first, and none that touch."""
    found: list[range] = []
    for number in sorted(numbers, reverse=True):
        if found and found[-1].start == number + 1:
            found[-1] = range(number, found[-1].stop)
        else:
            found.append(range(number, number + 1))
    return tuple(found)


@few
@given(st.sets(st.integers(0, 300), min_size=1), st.integers(0, 2**20))
def test_a_peer_reads_and_writes_the_same_ranges(arrived, delay):
    ranges = in_ranges(arrived)
    ours = encode(Ack(ranges, delay))
    buffer = Buffer(data=ours[1:])
    theirs, their_delay = pull_ack_frame(buffer)
    assert (set(n for r in theirs for n in r), their_delay, buffer.eof()) == (arrived, delay, True)
    buffer = Buffer(capacity=4000)
    push_ack_frame(buffer, RangeSet(reversed(ranges)), delay, capacity=4000)
    assert b"\x02" + buffer.data == ours
    assert parse(ours) == [Ack(ranges, delay)]


def test_ranges_that_touch_are_our_own_mistake():
    for ranges in ((range(5, 9), range(0, 5)), (range(0, 2), range(5, 9))):
        with pytest.raises(LocalProtocolError):
            encode(Ack(ranges))


def test_a_long_list_of_ranges_is_told_in_short():
    assert str(Ack(in_ranges({0, 2, 4, 6, 7}))) == "ACK …,2,4,6-7"


# -- Anything ----------------------------------------------------------------------------------------

small = st.binary(max_size=20)
frames = st.one_of(
    st.builds(Stream, numbers, st.integers(0, 2**61), small, st.booleans()),
    st.builds(Crypto, st.integers(0, 2**61), small),
    st.builds(ResetStream, numbers, numbers, numbers),
    st.builds(MaxStreams, st.integers(0, 2**60), st.booleans()),
    st.builds(ConnectionClose, numbers, st.text(max_size=20), st.none() | numbers),
    st.builds(Datagram, small),
    st.builds(NewToken, st.binary(min_size=1, max_size=20)),
    st.builds(PathChallenge, st.binary(min_size=8, max_size=8)),
    st.sets(st.integers(0, MAX_VARINT), min_size=1, max_size=20).map(lambda found: Ack(in_ranges(found))),
)


@few
@given(st.lists(frames, min_size=1, max_size=8))
def test_whatever_is_encoded_is_parsed(some):
    assert parse(b"".join(map(encode, some))) == some


@few
@given(st.binary(max_size=100) | st.lists(frames).map(lambda some: b"".join(map(encode, some))[:-1]))
def test_garbage_raises_the_documented_error_and_no_other(garbage):
    try:
        found = parse(garbage)
    except RemoteProtocolError as error:
        found, code = [], error.code
    else:
        code = ErrorCode.FRAME_ENCODING_ERROR
    assert code in (ErrorCode.FRAME_ENCODING_ERROR, ErrorCode.PROTOCOL_VIOLATION)
    assert all(str(frame) for frame in found)


# -- Transport parameters ----------------------------------------------------------------------------


def test_parameters_there_and_back_and_to_a_peer():
    values = {
        TransportParameter.INITIAL_MAX_DATA: 65536,
        TransportParameter.INITIAL_SOURCE_CONNECTION_ID: b"abc",
        0x3A: b"",
    }
    data = encode_parameters(values)
    assert parse_parameters(data) == {4: encode_varint(65536), 15: b"abc", 0x3A: b""}
    theirs = pull_quic_transport_parameters(Buffer(data=data))
    assert (theirs.initial_max_data, theirs.initial_source_connection_id) == (65536, b"abc")
    for cut in set(range(1, len(data))) - {6, 11}:  # Where one ends.
        with pytest.raises(RemoteProtocolError) as caught:
            parse_parameters(data[:cut])
        assert caught.value.code == ErrorCode.TRANSPORT_PARAMETER_ERROR
    with pytest.raises(RemoteProtocolError, match="twice"):
        parse_parameters(data + data)
