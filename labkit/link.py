"""What a link does to packets: a pure model of delay, loss and queues. No sockets, no clock.

The wire asks `Direction.offer(now, packet)` for every packet and gets a verdict. Chance comes from
a seed and is drawn in the same order for every packet, so the same seed and the same traffic give
the same fate, packet by packet. Where there is a NAT in front of a host, the wire asks that, too.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field, replace
from socket import inet_ntoa
from struct import unpack_from
from typing import NamedTuple

from labkit.packets import SYN, Packet, decode, readdressed

MS = 1_000_000  # nanoseconds


@dataclass(frozen=True)
class Drop:
    """Packets that the wire drops by name. All that is given must match.

    `nth` counts the matching packets of this direction from 1 (retransmissions are packets too);
    None drops every one that matches. Sizes are bytes of payload.
    """

    nth: int | tuple[int, ...] | None = None
    protocol: str | None = None
    to_port: int | None = None
    from_port: int | None = None
    data: bool = False  # only packets that carry payload
    flags: int = 0  # only packets with all these TCP flags
    larger_than: int | None = None
    fragment: bool = False  # only second and later fragments

    def __post_init__(self) -> None:
        counts = self.nth if isinstance(self.nth, tuple) else () if self.nth is None else (self.nth,)
        if not all(count >= 1 for count in counts):
            raise ValueError(f"packets are counted from 1, not {self.nth}")
        if self.protocol not in (None, "tcp", "udp", "icmp"):
            raise ValueError(f"protocol is tcp, udp or icmp, not {self.protocol!r}")
        if not all(port is None or 0 < port < 65536 for port in (self.to_port, self.from_port)):
            raise ValueError("a port is from 1 to 65535")
        if self.fragment and (self.to_port or self.from_port or self.flags):
            raise ValueError("second and later fragments have no ports and no flags: only the first has")

    @classmethod
    def segment(cls, nth: int | tuple[int, ...], to_port: int) -> Drop:
        """The nth TCP segment with data to a port."""
        return cls(nth, "tcp", to_port, data=True)

    @classmethod
    def datagrams(cls, larger_than: int) -> Drop:
        """Every UDP datagram with more than so many bytes of payload."""
        return cls(None, "udp", larger_than=larger_than)

    def __str__(self) -> str:
        """In words: "the 3rd data segment to port 7001", "every datagram over 1200 B"."""
        which = (self.nth,) if isinstance(self.nth, int) else self.nth
        return f"{'the ' + _and([_ordinal(n) for n in which]) if which else 'every'} {self.kind}"

    @property
    def kind(self) -> str:
        words = {"tcp": "segment", "udp": "datagram"}.get(self.protocol or "", "packet")
        if self.flags & SYN:
            words = "SYN"
        if self.fragment:
            words = "fragment after the first"
        words = f"data {words}" if self.data else words
        words += f" over {self.larger_than} B" if self.larger_than is not None else ""
        words += f" to port {self.to_port}" if self.to_port else ""
        return words + (f" from port {self.from_port}" if self.from_port else "")

    def matches(self, packet: Packet) -> bool:
        size = len(packet.payload)
        return (
            (self.protocol is None or packet.protocol == self.protocol)
            and (self.to_port is None or packet.destination_port == self.to_port)
            and (self.from_port is None or packet.source_port == self.from_port)
            and (not self.data or size > 0)
            and packet.flags & self.flags == self.flags
            and (self.larger_than is None or size > self.larger_than)
            and (not self.fragment or packet.fragment_offset > 0)
        )

    def hits(self, count: int) -> bool:
        return self.nth is None or count == self.nth or (isinstance(self.nth, tuple) and count in self.nth)


@dataclass(frozen=True)
class Link:
    """One direction between two hosts. All zero: a perfect cable.

    delay_ms   one way; jitter_ms adds a uniform 0…jitter_ms and keeps the order
    loss, duplicate, reorder   probabilities from 0 to 1
    reorder_ms how late a reordered packet is: what follows within that time overtakes it
    rate_mbit  megabits per second, None: no limit; queue: packets that may wait for it, then tail drop
    mtu        bytes of IP packet that the sender takes for the largest; a larger one is dropped
    drop       packets dropped by name; cut: nothing passes
    """

    delay_ms: float = 0
    jitter_ms: float = 0
    loss: float = 0
    duplicate: float = 0
    reorder: float = 0
    reorder_ms: float = 5
    rate_mbit: float | None = None
    queue: int = 100
    mtu: int = 1500
    drop: tuple[Drop, ...] = ()
    cut: bool = False

    def __post_init__(self) -> None:
        for name in ("loss", "duplicate", "reorder"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability from 0 to 1, not {getattr(self, name)}")
        for name in ("delay_ms", "jitter_ms", "reorder_ms"):
            if not 0 <= getattr(self, name) <= 3_600_000:
                raise ValueError(f"{name} is from 0 to an hour, not {getattr(self, name)}")
        if self.rate_mbit is not None and not 0 < self.rate_mbit <= 1e6:
            raise ValueError(f"rate_mbit is more than 0 and at most 1e6, not {self.rate_mbit}")
        if not all(isinstance(rule, Drop) for rule in self.drop):
            raise ValueError("drop is a tuple of Drop")
        if self.queue < 1 or not 68 <= self.mtu <= 9000:
            raise ValueError("queue is at least 1 packet, mtu 68 (RFC 791) to 9000 bytes")

    @property
    def is_perfect(self) -> bool:
        """True when whatever fits it passes at once."""
        return self == replace(Link(), mtu=self.mtu, queue=self.queue, reorder_ms=self.reorder_ms)

    def __str__(self) -> str:
        words = []
        if self.delay_ms:
            words.append(f"{self.delay_ms:g} ms")
        if self.jitter_ms:
            words.append(f"+0…{self.jitter_ms:g} ms jitter")
        for name in ("loss", "duplicate", "reorder"):
            if value := getattr(self, name):
                words.append(f"{value:.3g} {name}" if value < 0.001 else f"{value:.1%} {name}".replace(".0%", " %"))
        if self.rate_mbit:
            words.append(f"{self.rate_mbit:g} Mbit/s, queue {self.queue}")
        if self.mtu != 1500:
            words.append(f"MTU {self.mtu}")
        words += [f"drops {rule}" for rule in self.drop]
        if self.cut:
            words.append("cut")
        return ", ".join(words) or "perfect"


@dataclass(frozen=True, slots=True)
class Verdict:
    """When (ns) each copy arrives; empty: dropped. `note` says in words what was done, if anything."""

    arrivals: tuple[int, ...]
    note: str = ""


@dataclass
class Direction:
    """The state of one link direction: its queue, its chance, its counters for named drops."""

    link: Link
    seed: str
    perfect: bool = False  # what fits passes at once: the wire need not ask
    _random: random.Random = field(init=False)
    _waiting: deque[int] = field(default_factory=deque)  # when each queued packet has left
    _last_arrival: int = 0
    _counts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._counts = [0] * len(self.link.drop)
        self.perfect = self.link.is_perfect

    def change(self, link: Link) -> None:
        """Take other properties from now on; chance goes on where it was, new names count from 0."""
        if link.drop != self.link.drop:
            self._counts = [0] * len(link.drop)
        self.link, self.perfect = link, link.is_perfect

    def offer(self, now: int, data: bytes) -> Verdict:
        """What becomes of the IP packet *data* that the sender put on the link at *now* (ns)."""
        link = self.link
        # Always four draws, so that a packet's fate does not depend on what befell the others.
        lost, doubled, late, wobble = (self._random.random() for _ in range(4))
        if name := self._named(data):
            return Verdict((), f"dropped: {name}")
        if link.cut:
            return Verdict((), "dropped: the cable is cut")
        if len(data) > link.mtu:
            return Verdict((), f"dropped: larger than the link's MTU of {link.mtu} bytes")
        if lost < link.loss:
            return Verdict((), f"dropped: {link.loss:.1%} loss".replace(".0%", " %"))
        notes = []
        left = now
        if link.rate_mbit:
            while self._waiting and self._waiting[0] <= now:
                self._waiting.popleft()
            if len(self._waiting) >= link.queue:
                return Verdict((), f"dropped: queue of {link.queue} packets is full")
            start = self._waiting[-1] if self._waiting else now
            left = max(now, start) + int(len(data) * 8000 / link.rate_mbit)
            if self._waiting:
                notes.append(f"queued behind {len(self._waiting)}")
            self._waiting.append(left)
        arrival = left + int((link.delay_ms + wobble * link.jitter_ms) * MS)
        arrival = max(arrival, self._last_arrival)  # A cable keeps the order.
        if late < link.reorder:
            arrival += int(link.reorder_ms * MS)
            notes.append(f"reordered: {link.reorder_ms:g} ms late")
        else:
            self._last_arrival = arrival
        if arrival > now:
            notes.append(f"delayed {(arrival - now) / MS:.1f} ms")
        if doubled < link.duplicate:
            notes.append("duplicated")
            return Verdict((arrival, arrival), ", ".join(notes))
        return Verdict((arrival,), ", ".join(notes))

    def _named(self, data: bytes) -> str:
        """The named drop that hits this packet, in words, or "". Every rule counts every match."""
        if not self.link.drop or (packet := decode(data)) is None:
            return ""
        found = ""
        for i, rule in enumerate(self.link.drop):
            if rule.matches(packet):
                self._counts[i] += 1
                if not found and rule.hits(self._counts[i]):
                    found = f"the {_ordinal(self._counts[i])} {rule.kind}"
        return found


class Rebind(NamedTuple):
    """An order to the wire: the NAT in front of a host forgets all it knew."""

    host: str
    address: bool  # It also gets another address outside.


_TCP, _UDP = 6, 17
_OUTSIDE = 61001  # the first port that a NAT gives: no host of ours takes one from up there by itself


@dataclass
class Nat:
    """A home router: what the host behind it sends, leaves from the router's address and from a port of its choice.

    It remembers which port it gave to whom, and hands on what comes back to that port, from wherever (RFC 4787 §4.1,
    §5: endpoint-independent). It forgets when it is restarted, or when a flow was silent for a while; then whatever
    the host sends next gets another port, and what still comes for the old one is for nobody. Nobody is told.
    """

    inside: bytes  # the host's address
    outside: bytes  # the address that others see
    _ports: dict[tuple[int, int], int] = field(default_factory=dict)  # protocol and port inside → port outside
    _owners: dict[tuple[int, int], int] = field(default_factory=dict)  # protocol and port outside → port inside
    _next: int = _OUTSIDE

    def rebind(self, outside: bytes) -> None:
        """Forget it all. The ports that were given are not given again soon."""
        self.outside = outside
        self._ports.clear()
        self._owners.clear()

    def leaving(self, data: bytes) -> tuple[bytes, str]:
        """The packet as others see it, and a note. (A fragment without ports only gets the address.)"""
        kind, port, _ = _flow(data)
        seen = self._ports.get((kind, port), 0)
        if not seen and kind in (_TCP, _UDP) and port:
            seen = self._ports[kind, port] = self._next
            self._owners[kind, seen] = port
            self._next = self._next + 1 if self._next < 65535 else _OUTSIDE
        return readdressed(data, source=(self.outside, seen)), f"the NAT sends it from {self._named(seen)}"

    def arriving(self, data: bytes) -> tuple[bytes, str]:
        """The packet as the host gets it, and a note; b"" when it is for nobody (any more)."""
        kind, _, port = _flow(data)
        owner = self._owners.get((kind, port), 0)
        if data[16:20] != self.outside or (port and not owner):
            return b"", f"dropped: the NAT knows nobody at {inet_ntoa(data[16:20])} port {port}"
        return readdressed(data, destination=(self.inside, owner)), f"it came to the NAT for {self._named(port)}"

    def _named(self, port: int) -> str:
        return inet_ntoa(self.outside) + (f" port {port}" if port else "")


def _flow(data: bytes) -> tuple[int, int, int]:
    """Protocol, source port and destination port of an IPv4 packet; ports are 0 where there are none."""
    header = (data[0] & 15) * 4
    if data[9] not in (_TCP, _UDP) or unpack_from("!H", data, 6)[0] & 0x1FFF or len(data) < header + 4:
        return data[9], 0, 0
    source, destination = unpack_from("!HH", data, header)
    return data[9], source, destination


def _ordinal(n: int) -> str:
    ending = "th" if 10 <= n % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"


def _and(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
