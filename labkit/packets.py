"""What the workbench reads out of a packet: IPv4, TCP, UDP and ICMP headers, no more.

Enough to draw a ladder, to name a packet that the wire shall drop, and for an experiment to count
what it caused. Everything above that is the dissector's work (see labkit/evidence.py). And what a NAT
writes into one: other addresses and ports.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from struct import pack, unpack_from

# Flags in the order in which people say them (RFC 9293 §3.1).
_FLAGS = ((0x02, "SYN"), (0x01, "FIN"), (0x04, "RST"), (0x08, "PSH"), (0x10, "ACK"), (0x20, "URG"))
FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10


@dataclass(frozen=True, slots=True)
class Packet:
    """One IPv4 packet. Ports, seq, ack and window are 0 where the protocol has none.

    `payload` is what TCP or UDP carries (for a fragment: its piece). `window` is in bytes only once
    the scale of the SYN is applied (RFC 7323 §2); here it is the field as sent. `sack` are the
    blocks of RFC 2018, `scale` the window scale that a SYN offered, or None.
    """

    protocol: str  # "tcp", "udp", "icmp" or the protocol number
    source: str
    destination: str
    source_port: int = 0
    destination_port: int = 0
    flags: int = 0
    seq: int = 0
    ack: int = 0
    window: int = 0
    payload: bytes = b""
    sack: tuple[tuple[int, int], ...] = ()
    scale: int | None = None
    fragment_offset: int = 0  # bytes
    more_fragments: bool = False
    length: int = 0  # of the whole IP packet, bytes
    icmp: tuple[int, int] | None = None  # type, code

    @property
    def flag_names(self) -> str:
        return ",".join(name for bit, name in _FLAGS if self.flags & bit)

    def is_flag(self, bit: int) -> bool:
        return bool(self.flags & bit)


def decode(data: bytes) -> Packet | None:
    """Decode an IP packet (no link header). None where it is not whole, well-formed IPv4."""
    if len(data) < 20 or data[0] >> 4 != 4:
        return None
    header = (data[0] & 15) * 4
    length = int.from_bytes(data[2:4], "big")
    if not 20 <= header <= length <= len(data):
        return None
    fragment = int.from_bytes(data[6:8], "big")
    offset, more = (fragment & 0x1FFF) * 8, bool(fragment & 0x2000)
    source, destination = socket.inet_ntoa(data[12:16]), socket.inet_ntoa(data[16:20])
    number, body = data[9], data[header:length]
    name = {1: "icmp", 6: "tcp", 17: "udp"}.get(number, str(number))
    if offset:  # Only the first fragment has the ports.
        return Packet(name, source, destination, payload=body, fragment_offset=offset,
                      more_fragments=more, length=length)  # fmt: skip
    if number == 6 and len(body) >= 20:
        ports = unpack_from("!HHIIBBH", body)
        start = (ports[4] >> 4) * 4
        sack, scale = _tcp_options(body[20:start])
        return Packet(name, source, destination, ports[0], ports[1], ports[5], ports[2], ports[3],
                      ports[6], body[start:], sack, scale, 0, more, length)  # fmt: skip
    if number == 17 and len(body) >= 8:
        source_port, destination_port = unpack_from("!HH", body)
        return Packet(name, source, destination, source_port, destination_port, payload=body[8:],
                      more_fragments=more, length=length)  # fmt: skip
    icmp = (body[0], body[1]) if number == 1 and len(body) >= 8 else None
    return Packet(name, source, destination, payload=body, more_fragments=more, length=length,
                  icmp=icmp)  # fmt: skip


def _tcp_options(options: bytes) -> tuple[tuple[tuple[int, int], ...], int | None]:
    """The SACK blocks (kind 5, RFC 2018 §3) and the window scale (kind 3, RFC 7323 §2.2)."""
    sack: tuple[tuple[int, int], ...] = ()
    scale = None
    at = 0
    while at < len(options) and options[at] != 0:  # 0: end of option list
        if options[at] == 1:  # no-operation
            at += 1
            continue
        size = options[at + 1] if at + 1 < len(options) else 0
        if size < 2 or at + size > len(options):
            break
        if options[at] == 5:
            pairs = range(at + 2, at + size - 7, 8)
            sack = tuple((left, right) for i in pairs for left, right in [unpack_from("!II", options, i)])
        elif options[at] == 3 and size == 3:
            scale = options[at + 2]
        at += size
    return sack, scale


Address = tuple[bytes, int]  # of IPv4 in four bytes, and a port

_CHECKSUM_AT = {6: 16, 17: 6}  # bytes behind the IP header: of TCP (RFC 9293 §3.1), of UDP (RFC 768)


def readdressed(data: bytes, *, source: Address | None = None, destination: Address | None = None) -> bytes:
    """The IPv4 packet with another source or destination; only what has ports (TCP, UDP) gets another port.

    Its checksums are not computed anew but corrected by what has changed, as routers do it (RFC 1624 §3). So what was
    damaged stays damaged, and the first fragment of a datagram, which has the checksum of the whole, is enough.
    """
    changed = bytearray(data)
    header = (data[0] & 15) * 4
    for at, new in ((12, source), (16, destination)):
        if new is not None:
            changed[at : at + 4] = new[0]
    _correct(changed, 10, data[12:20], changed[12:20])
    at = _CHECKSUM_AT.get(data[9], 0)
    if (
        not at or unpack_from("!H", data, 6)[0] & 0x1FFF or len(data) < header + at + 2
    ):  # A later fragment has no ports.
        return bytes(changed)
    for where, new in ((header, source), (header + 2, destination)):
        if new is not None:
            changed[where : where + 2] = pack("!H", new[1])
    if data[9] == 6 or data[header + at : header + at + 2] != b"\0\0":  # UDP may have none (RFC 768).
        before = data[12:20] + data[header : header + 4]  # The addresses count, too: the pseudo header.
        _correct(changed, header + at, before, changed[12:20] + changed[header : header + 4])
        if data[9] == 17 and changed[header + at : header + at + 2] == b"\0\0":
            changed[header + at : header + at + 2] = b"\xff\xff"  # Zero would say: none.
    return bytes(changed)


def _correct(packet: bytearray, at: int, before: bytes, after: bytearray) -> None:
    """Set the checksum at *at* right, now that *after* stands where *before* stood: HC' = ~(~HC + ~m + m')."""
    (checksum,) = unpack_from("!H", packet, at)
    words = len(before) // 2
    total = 0xFFFF - checksum + words * 0xFFFF - sum(unpack_from(f"!{words}H", before))
    total += sum(unpack_from(f"!{words}H", after))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    packet[at : at + 2] = pack("!H", 0xFFFF - total)
