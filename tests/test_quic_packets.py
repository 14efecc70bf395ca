"""QUIC's packets by hand: the RFCs' own examples, every truncation, garbage, and what aioquic makes of the same."""

from __future__ import annotations

import hashlib

import pytest
from aioquic.buffer import Buffer, BufferReadError, encode_uint_var
from aioquic.quic import packet as peer
from aioquic.quic.crypto import CryptoPair
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.quic_frames import Crypto, encode
from protocols.quic_numbers import ErrorCode
from protocols.quic_opened import AES_128_GCM_SHA256, CHACHA20_POLY1305_SHA256, Connection, Keys, Onlooker, initial_keys
from protocols.quic_packets import (
    MAX_VARINT,
    VERSION_1,
    Packet,
    PacketType,
    decode_packet_number,
    decode_varint,
    encode_packet_number,
    encode_varint,
    invariant,
    long_header,
    parse,
    short_header,
    split,
    version_negotiation,
)

few = settings(max_examples=50, deadline=None)
numbers = st.integers(0, MAX_VARINT) | st.integers(0, 62).map(lambda bits: (1 << bits) - 1)
ids = st.binary(max_size=20)


# -- Variable-length integers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "number"),
    [
        ("c2197c5eff14e88c", 151_288_809_941_952_652), ("9d7f3e7d", 494_878_333), ("7bbd", 15_293), ("25", 37),
        ("4025", 37),
    ],
)  # fmt: skip
def test_the_examples_of_rfc_9000_a_1(data, number):
    assert decode_varint(bytes.fromhex(data)) == (number, len(data) // 2)
    assert decode_varint(bytes.fromhex(f"ff{data}ff"), 1) == (number, 1 + len(data) // 2)


@pytest.mark.parametrize(
    ("number", "size"),
    [(0, 1), (63, 1), (64, 2), (16383, 2), (16384, 4), (2**30 - 1, 4), (2**30, 8), (2**62 - 1, 8)],
)
def test_no_number_takes_more_bytes_than_it_must(number, size):
    data = encode_varint(number)
    assert len(data) == size
    assert decode_varint(data) == (number, size)
    for cut in range(size):
        with pytest.raises(RemoteProtocolError) as caught:
            decode_varint(data[:cut])
        assert caught.value.code == ErrorCode.FRAME_ENCODING_ERROR


@pytest.mark.parametrize("number", [-1, 2**62, 2**64])
def test_what_does_not_fit_is_our_own_mistake(number):
    with pytest.raises(LocalProtocolError):
        encode_varint(number)


@few
@given(numbers)
def test_a_peer_writes_the_same_numbers(number):
    assert encode_varint(number) == encode_uint_var(number)


@few
@given(st.binary(max_size=9))
def test_a_peer_reads_the_same_numbers(data):
    try:
        expected = Buffer(data=data).pull_uint_var()
    except BufferReadError:
        with pytest.raises(RemoteProtocolError):
            decode_varint(data)
    else:
        assert decode_varint(data)[0] == expected


# -- Packet numbers ----------------------------------------------------------------------------------


def test_the_examples_of_rfc_9000_a_2_and_a_3():
    assert encode_packet_number(0xAC5C02, 0xABE8B3).hex() == "5c02"
    assert encode_packet_number(0xACE8FE, 0xABE8B3).hex() == "ace8fe"
    assert decode_packet_number(0xA82F30EA, 0x9B32, 16) == 0xA82F9B32


@few
@given(numbers, st.integers(1, 2**31 - 1), st.integers(0, 2**31))
def test_a_number_is_found_again_as_long_as_its_receiver_is_not_further_than_its_sender_knew(acked, ahead, seen):
    number = acked + ahead
    if number > MAX_VARINT:
        return
    data = encode_packet_number(number, acked)
    largest = min(acked + seen, number - 1)  # The receiver has what was acknowledged, and perhaps more.
    assert decode_packet_number(largest, int.from_bytes(data, "big"), 8 * len(data)) == number


@few
@given(st.integers(-1, MAX_VARINT - 1), st.sampled_from([8, 16, 24, 32]), st.binary(min_size=4, max_size=4))
def test_a_peer_finds_the_same_number(largest, bits, data):
    truncated = int.from_bytes(data[: bits // 8], "big")
    assert decode_packet_number(largest, truncated, bits) == peer.decode_packet_number(truncated, bits, largest + 1)


@pytest.mark.parametrize(("number", "acked"), [(5, 5), (2**32, 0), (2**62, 2**62 - 2)])
def test_a_number_that_cannot_be_told_is_not_sent(number, acked):
    with pytest.raises(LocalProtocolError):
        encode_packet_number(number, acked)


# -- RFC 9001, Appendix A ----------------------------------------------------------------------------

FIRST_ID = bytes.fromhex("8394c8f03e515708")
CLIENT_PAYLOAD = bytes.fromhex(
    "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c00000413011302010000c0000000"
    "10000e00000b6578616d706c652e636f6dff01000100000a00080006001d0017001800100007000504616c706e0005000501000000000033"
    "00260024001d00209370b2c9caa47fbabaf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b0003020304000d0010000e040305"
    "0306030203080408050806002d00020101001c00024001003900320408ffffffffffffffff05048000ffff07048000ffff08011001048000"
    "75300901100f088394c8f03e51570806048000ffff"
).ljust(1162, b"\0")
SERVER_PAYLOAD = bytes.fromhex(
    "02000000000600405a020000560303eefce7f7b37ba1d1632e96677825ddf73988cfc79825df566dc5430b9a045a1200130100002e0033"
    "0024001d00209d3c940d89690b84d08a60993c144eca684d1081287c834d5311bcf32bb9da1a002b00020304"
)
SERVER_PACKET = bytes.fromhex(
    "cf000000010008f067a5502a4262b5004075c0d95a482cd0991cd25b0aac406a5816b6394100f37a1c69797554780bb38cc5a99f5ede4cf7"
    "3c3ec2493a1839b3dbcba3f6ea46c5b7684df3548e7ddeb9c3bf9c73cc3f3bded74b562bfb19fb84022f8ef4cdd93795d77d06edbb7aaf2f"
    "58891850abbdca3d20398c276456cbc42158407dd074ee"
)
RETRY_PACKET = bytes.fromhex("ff000000010008f067a5502a4262b5746f6b656e04a265ba2eff4d829058fb3f0f2496ba")


def client_packet() -> bytes:
    header = long_header(PacketType.INITIAL, FIRST_ID, b"", bytes([0, 0, 0, 2]), len(CLIENT_PAYLOAD))
    assert header.hex() == "c300000001088394c8f03e5157080000449e00000002"
    return initial_keys(FIRST_ID)[True].seal(header, 2, CLIENT_PAYLOAD)


def test_a_2_the_clients_initial():
    packet = client_packet()
    assert len(packet) == 1200
    assert packet[:34].hex() == "c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11d242"
    assert packet[-16:].hex() == "e221af44860018ab0856972e194cd934"  # of all that is in it
    [read] = split(packet, 0)
    assert read == Packet(PacketType.INITIAL, FIRST_ID, number_at=18, data=packet)
    assert initial_keys(FIRST_ID)[True].open(read) == (2, CLIENT_PAYLOAD)


def test_a_3_the_servers_initial():
    server_id, keys = bytes.fromhex("f067a5502a4262b5"), initial_keys(FIRST_ID)[False]
    header = long_header(PacketType.INITIAL, b"", server_id, bytes([0, 1]), len(SERVER_PAYLOAD))
    assert header.hex() == "c1000000010008f067a5502a4262b50040750001"
    assert keys.seal(header, 1, SERVER_PAYLOAD) == SERVER_PACKET
    [read] = split(SERVER_PACKET, 0)
    assert (read.type, read.destination, read.source) == (PacketType.INITIAL, b"", server_id)
    assert keys.open(read) == (1, SERVER_PAYLOAD)


def test_an_onlooker_needs_no_secret_for_both_hellos():
    """And this client's own ID is empty: its server's packets say nothing of whom they are for."""
    onlooker = Onlooker()
    hello = onlooker.receive_datagram("client", "server", client_packet())
    answer = onlooker.receive_datagram("server", "client", SERVER_PACKET)
    assert [(sight.number, sight.from_client) for sight in (hello, answer)] == [(1, True), (1, False)]
    assert [[message.type for message in sight.packets[0].messages] for sight in (hello, answer)] == [[1], [2]]
    assert onlooker.receive_datagram("server", "another", SERVER_PACKET) is None


def test_a_hello_in_pieces_that_come_in_any_order():
    """As browsers send theirs: so nobody on the way learns to look in one place."""
    hello, keys, onlooker = CLIENT_PAYLOAD[4:245], initial_keys(FIRST_ID)[True], Onlooker()
    found = []
    for number, cuts in enumerate([((200, 241), (0, 50)), ((120, 200),), ((30, 130), (0, 50))]):
        payload = b"".join(encode(Crypto(start, hello[start:end])) for start, end in cuts).ljust(1150, b"\0")
        header = long_header(PacketType.INITIAL, FIRST_ID, b"", bytes([number]), len(payload))
        [seen] = onlooker.receive_datagram("client", "server", keys.seal(header, number, payload)).packets
        found.append([message.body for message in seen.messages])
    assert found == [[], [], [hello[4:]]]


def test_a_4_retry():
    [read] = split(RETRY_PACKET, 0)
    assert read == Packet(PacketType.RETRY, b"", bytes.fromhex("f067a5502a4262b5"), b"token", data=RETRY_PACKET)


def test_a_5_a_short_packet_with_chacha20():
    secret = bytes.fromhex("9ac312a7f877468ebe69422748ad00a15443f18203a07d6060f688f30f21632b")
    keys = Keys(secret, CHACHA20_POLY1305_SHA256)
    packet = keys.seal(bytes.fromhex("4200bff4"), 654360564, b"\x01")
    assert packet.hex() == "4cfe4189655e5cd55c41f69080575d7999c25a5bfb"
    assert keys.open(parse(packet, 0), largest=654360563) == (654360564, b"\x01")


def test_one_changed_bit_anywhere_and_nothing_opens():
    keys = initial_keys(FIRST_ID)[False]
    for i in range(len(SERVER_PACKET)):
        changed = SERVER_PACKET[:i] + bytes([SERVER_PACKET[i] ^ 4]) + SERVER_PACKET[i + 1 :]
        for packet in split(changed, 0):
            if packet.number_at:
                with pytest.raises(RemoteProtocolError):
                    keys.open(packet)


def test_key_phases():
    keys = Keys(hashlib.sha256(b"secret").digest(), AES_128_GCM_SHA256)
    later = keys.next
    packet = parse(later.seal(short_header(b"12345678", b"\x09", key_phase=True), 9, b"\x01\0\0\0"), 8)
    assert later.open(packet) == (9, b"\x01\0\0\0")
    with pytest.raises(RemoteProtocolError, match="phase"):
        keys.open(packet)
    with pytest.raises(RemoteProtocolError, match="other keys"):
        keys.next.next.next.open(packet)
    theirs = CryptoPair()
    theirs.recv.setup(cipher_suite=AES_128_GCM_SHA256, secret=hashlib.sha256(b"secret").digest(), version=VERSION_1)
    theirs.send.setup(cipher_suite=AES_128_GCM_SHA256, secret=bytes(32), version=VERSION_1)
    assert theirs.decrypt_packet(packet.data, 9, 0)[1:] == (b"\x01\0\0\0", 9)
    assert theirs.key_phase == 1


# -- Headers -----------------------------------------------------------------------------------------


def test_several_packets_in_a_datagram():
    short = b"\x41" + b"12345678" + bytes(30)
    assert [packet.type for packet in split(SERVER_PACKET * 2 + short, 8)] == [
        PacketType.INITIAL, PacketType.INITIAL, PacketType.ONE_RTT,
    ]  # fmt: skip
    assert b"".join(packet.data for packet in split(SERVER_PACKET * 2 + short, 8)) == SERVER_PACKET * 2 + short
    assert len(split(SERVER_PACKET + bytes(50), 8)) == 1  # Zeros behind it are no packet: their fixed bit is 0.


@pytest.mark.parametrize("whole", [SERVER_PACKET, client_packet()[:60] + bytes(1140)], ids=["server", "client"])
def test_every_truncation_is_dropped(whole):
    for cut in range(len(whole)):
        assert split(whole[:cut], 8) == []
        with pytest.raises(RemoteProtocolError) as caught:
            parse(whole[:cut], 8)
        assert isinstance(caught.value.code, int)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "a byte at least"),
        (b"\x80" + SERVER_PACKET[1:], "fixed bit"),
        (b"\x00" * 40, "fixed bit"),
        (b"\x40" * 28, "short packet of 28"),  # 8 of its ID, and then 4 + 16 are needed
        (b"\xc0\0\0\0\1\x15" + bytes(60), "more than 20"),
        (b"\xc0\0\0\0\2\0\0" + bytes(60), "version 0x00000002"),
        (b"\xc0\0\0\0\1\x30" + bytes(20), "ends within its header"),
        (b"\xf0\0\0\0\1\0\0" + bytes(16), "without a token"),
        (b"\xc0\0\0\0\0\0\0", "four bytes each"),
        (b"\xc0\0\0\0\0\0\0\0\0\0\1\0", "four bytes each"),
        (b"\xe0\0\0\0\1\0\0\x13" + bytes(30), "nothing to sample"),
        (b"\xe0\0\0\0\1\0\0\x20" + bytes(30), "a length of 32, and 30"),
    ],
)
def test_what_is_dropped(data, why):
    with pytest.raises(RemoteProtocolError, match=why):
        parse(data, 8)


def test_version_negotiation_repeats_ids_of_any_length():
    data = version_negotiation(b"d" * 200, b"s" * 255, (VERSION_1, 0x1A2A3A4A))
    assert parse(data, 0).versions == (VERSION_1, 0x1A2A3A4A)
    assert invariant(data)[:4] == (True, 0, b"d" * 200, b"s" * 255)
    theirs = peer.encode_quic_version_negotiation(
        source_cid=b"12345678", destination_cid=b"abc", supported_versions=[VERSION_1, 7]
    )
    assert parse(theirs, 0)[:5] == (PacketType.VERSION_NEGOTIATION, b"abc", b"12345678", b"", (1, 7))


long_types = st.sampled_from([PacketType.INITIAL, PacketType.ZERO_RTT, PacketType.HANDSHAKE])


@few
@given(long_types, ids, ids, st.binary(max_size=100), st.integers(1, 4), st.binary(max_size=99))
def test_a_peer_reads_our_headers_as_we_do(kind, destination, source, token, size, behind):
    header = long_header(kind, destination, source, bytes(size), 20, token)
    datagram = header + bytes(20 + 16) + behind
    ours = parse(datagram, 8)
    theirs = peer.pull_quic_header(Buffer(data=datagram), host_cid_length=8)
    assert ours.type.name == theirs.packet_type.name
    assert (ours.destination, ours.source, ours.token) == (destination, source, theirs.token)
    assert ours.token == (token if kind == PacketType.INITIAL else b"")
    assert len(ours.data) == theirs.packet_length == len(datagram) - len(behind)
    assert ours.number_at == len(header) - size


beginnings = st.sampled_from([b"", b"\xc0\0\0\0\1", b"\xf0\0\0\0\1", b"\x80\0\0\0\0", b"\x40"])


@few
@given(st.tuples(beginnings, st.binary(max_size=60)).map(b"".join))
def test_garbage_is_dropped_and_nothing_else(garbage):
    for one in split(garbage, 8):
        assert one.data in garbage
    try:
        parse(garbage, 8)
    except RemoteProtocolError:
        pass
    Connection(FIRST_ID, {}).receive_datagram(True, garbage)
    assert Onlooker().receive_datagram("a", "b", garbage) is None
