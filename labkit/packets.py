"""What the workbench reads out of a packet: IPv4, TCP, UDP and ICMP headers, no more.

Enough to draw a ladder, to name a packet that the wire shall drop, and for an experiment to count
what it caused. Everything above that is the dissector's work (see labkit/evidence.py).
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from struct import unpack_from

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
