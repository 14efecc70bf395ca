"""Decoding of headers: against packets written by hand, and against any bytes at all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from labkit.packets import ACK, SYN, decode
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
