"""What was on the wire, opened with the key log of this run: who sent which packet, and what was in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple, TypeVar

from labkit.lab import Network, Seen
from protocols.quic_frames import Frame
from protocols.quic_opened import Onlooker
from protocols.quic_packets import Packet, PacketType
from protocols.tls_opened import Secrets, key_log

F = TypeVar("F", bound=Frame)


class Opened(NamedTuple):
    """One packet of QUIC. Several may be in a datagram."""

    datagram: Seen
    connection: int  # from 1
    packet: Packet
    number: int  # -1: it has none, or there is no key for it
    key_phase: bool
    frames: list[Frame]
    is_reset: bool = False  # stateless

    @property
    def type(self) -> PacketType:
        return self.packet.type

    def all(self, kind: type[F]) -> list[F]:
        return [frame for frame in self.frames if isinstance(frame, kind)]


def secrets() -> Secrets:
    """The key log of this run."""
    path = os.environ.get("SSLKEYLOGFILE", "")
    return key_log(Path(path).read_text()) if path else {}


def opened(net: Network, source: str | None = None) -> list[Opened]:
    """All packets of QUIC so far, in the order of the capture; *source*: those that this host has sent."""
    onlooker = Onlooker(secrets())
    found = []
    for p in net.packets():
        if p.protocol != "udp":
            continue
        sight = onlooker.receive_datagram((p.source, p.source_port), (p.target, p.target_port), p.payload)
        if sight is None or source not in (p.source, None):
            continue
        if sight.is_reset:
            empty = Packet(PacketType.ONE_RTT, b"", data=p.payload)
            found.append(Opened(p, sight.number, empty, -1, False, [], True))
        for one in sight.packets:
            found.append(Opened(p, sight.number, one.packet, one.number, one.key_phase, one.frames or []))
    return found
