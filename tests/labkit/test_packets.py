"""Decoding of headers: against packets written by hand, and against any bytes at all."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from labkit.packets import ACK, SYN, Address, decode, readdressed
from tests.labkit.test_link import ip, tcp, udp

SYN_WITH_OPTIONS = bytes.fromhex(
    "4500003c 00004000 40060000 0a000001 0a000002"  # IPv4, don't fragment
    "9c401b59 00000064 00000000 a002fa f0 00000000"  # 40000 → 7001, seq 100, SYN, window 64240
    "020405b4 0402080a 00000001 00000000 01030307"  # MSS, SACK permitted, time stamps, NOP, window scale 7
)
ACK_WITH_SACK = bytes.fromhex(
    "4500003e 00004000 40060000 0a000002 0a000001"
    "1b599c40 00000001 00000065 a0100080 00000000"
    "01010512 00000100 00000200 00000300 00000400"  # two NOPs, two SACK blocks
    "6869"
)


def test_a_syn() -> None:
    packet = decode(SYN_WITH_OPTIONS)
    assert packet is not None
    assert (packet.protocol, packet.source, packet.destination) == ("tcp", "10.0.0.1", "10.0.0.2")
    assert (packet.source_port, packet.destination_port, packet.seq, packet.window) == (40000, 7001, 100, 64240)
    assert packet.flag_names == "SYN"
    assert packet.is_flag(SYN)
    assert not packet.is_flag(ACK)
    assert (packet.scale, packet.sack, packet.payload, packet.length) == (7, (), b"", 60)


def test_sack_blocks() -> None:
    packet = decode(ACK_WITH_SACK)
    assert packet is not None
    assert (packet.sack, packet.payload) == (((0x100, 0x200), (0x300, 0x400)), b"hi")


def test_payloads_and_fragments() -> None:
    segment, datagram = decode(tcp(b"hello")), decode(udp(b"hi", to=53))
    first, later = decode(ip(bytes(16), 17, more=True)), decode(ip(b"rest", 17, offset=1480))
    ping = decode(ip(bytes([8, 0]) + bytes(6), 1))
    assert segment is not None
    assert segment.payload == b"hello"
    assert datagram is not None
    assert (datagram.payload, datagram.destination_port) == (b"hi", 53)
    assert first is not None
    assert first.more_fragments
    assert later is not None
    assert (later.fragment_offset, later.payload, later.destination_port) == (1480, b"rest", 0)
    assert ping is not None
    assert ping.icmp == (8, 0)


def test_padding_behind_the_packet_is_not_payload() -> None:
    packet = decode(udp(b"hi") + bytes(20))
    assert packet is not None
    assert packet.payload == b"hi"


def test_every_beginning_of_a_packet_is_not_a_packet() -> None:
    for whole in (SYN_WITH_OPTIONS, ACK_WITH_SACK, udp(b"data")):
        assert all(decode(whole[:size]) is None for size in range(len(whole)))


@given(st.binary(max_size=120))
def test_any_bytes_decode_or_do_not(data: bytes) -> None:
    for start in (b"", b"\x45\x00\x00\x50"):
        decode(start + data)


@given(st.binary(max_size=60), st.sampled_from([1, 6, 17, 99]), st.booleans())
def test_any_body_decodes(body: bytes, protocol: int, more: bool) -> None:
    packet = decode(ip(body, protocol, more=more))
    assert packet is not None
    assert packet.length == 20 + len(body)


def summed(data: bytes) -> int:
    """The Internet checksum (RFC 1071): 0 over what has the right one."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def is_sound(packet: bytes) -> bool:
    """Are all checksums of a TCP or UDP packet right, computed anew?"""
    body = packet[20:]
    pseudo = packet[12:20] + struct.pack("!BBH", 0, packet[9], len(body))
    return summed(packet[:20]) == 0 and summed(pseudo + body) == 0


def with_checksums(packet: bytes) -> bytes:
    """The same packet (IPv4 without options) with the right checksums."""
    at = 20 + {6: 16, 17: 6}[packet[9]]
    sound = bytearray(packet)
    sound[10:12] = sound[at : at + 2] = bytes(2)
    sound[10:12] = struct.pack("!H", summed(bytes(sound[:20])))
    pseudo = bytes(sound[12:20]) + struct.pack("!BBH", 0, sound[9], len(sound) - 20)
    # RFC 768: UDP writes a sum of zero as its other form, for zero says that there is none.
    sound[at : at + 2] = struct.pack("!H", summed(pseudo + bytes(sound[20:])) or (0xFFFF if packet[9] == 17 else 0))
    return bytes(sound)


addresses = st.tuples(st.binary(min_size=4, max_size=4), st.integers(1, 65535))


@given(st.sampled_from([tcp, udp]), st.binary(max_size=64), st.none() | addresses, st.none() | addresses)
def test_a_packet_with_other_addresses_is_sound_and_otherwise_the_same(
    made, payload: bytes, source: Address | None, destination: Address | None
) -> None:
    before = with_checksums(made(payload))
    assert is_sound(before)
    after = readdressed(before, source=source, destination=destination)
    assert is_sound(after)
    was, now = decode(before), decode(after)
    assert was is not None
    assert now is not None
    assert now.payload == was.payload
    assert len(after) == len(before)
    here, there = source or (before[12:16], was.source_port), destination or (before[16:20], was.destination_port)
    assert (after[12:16], now.source_port, after[16:20], now.destination_port) == (*here, *there)
    assert readdressed(after, source=(before[12:16], was.source_port),
                       destination=(before[16:20], was.destination_port)) == before  # fmt: skip


def test_a_sum_that_comes_out_as_zero_is_not_written_as_none() -> None:
    ports = {readdressed(with_checksums(udp(b"x")), source=(b"\n\0\0\1", port))[26:28] for port in range(1, 65536)}
    assert b"\0\0" not in ports
    assert b"\xff\xff" in ports


def test_what_has_no_checksum_keeps_none_and_what_is_damaged_stays_damaged() -> None:
    other = (b"\n\0\0\xfe", 61001)
    bare, damaged = udp(b"hi"), bytearray(with_checksums(udp(b"hi")))
    assert readdressed(bare, source=other)[26:28] == bytes(2)
    damaged[-1] ^= 1
    assert not is_sound(readdressed(bytes(damaged), source=other))


def test_of_a_fragment_only_the_address_changes() -> None:
    first, later = ip(udp(bytes(20))[20:], 17, more=True), ip(b"1234rest", 17, offset=1480)
    other = (b"\n\0\0\xfe", 61001)
    assert readdressed(later, source=other)[20:] == b"1234rest"
    assert readdressed(later, source=other)[12:16] == other[0]
    assert readdressed(first, source=other)[20:22] == struct.pack("!H", 61001)
    for size in (20, 24, 26):  # Too short for a checksum: no port is written either.
        assert readdressed(first[:size], source=other)[20:] == first[20:size]
