"""The wire: one process through which every packet of every host passes.

Each host's only cable ends here. The wire reads a frame from the ring of the host that sent it, asks
the link model what becomes of it (labkit/link.py), records it (labkit/pcapng.py), and puts it on the
cable of the host it is for: now, later, twice or never.

The frames come through a packet socket with a memory-mapped ring (packet(7), PACKET_RX_RING with
TPACKET_V2): the kernel stamps each frame with the time at which the host sent it, and reading one
costs no system call.
"""

from __future__ import annotations

import heapq
import mmap
import pickle
import select
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, permutations

from labkit.link import MS, Direction, Link, Nat, Rebind, Verdict
from labkit.pcapng import Writer

# <linux/if_packet.h>
_SOL_PACKET = 263
_PACKET_RX_RING, _PACKET_STATISTICS, _PACKET_VERSION = 5, 6, 10
_PACKET_QDISC_BYPASS, _PACKET_IGNORE_OUTGOING = 20, 23
_TPACKET_V2 = 1
_TP_STATUS_USER, _TP_STATUS_KERNEL = 1, bytes(4)  # whose a slot of the ring is
_ETH_P_IP = 0x0800
_ETHERNET = 14  # bytes of link header before the IP header

_SLOTS = 4096  # frames that may wait for the wire, per host
_BATCH = 128  # frames taken from one host before the next one's turn
_IN_FLIGHT = 200_000  # frames on all cables: a flood over a long delay must not own our memory
_LONGEST_ORDER = 1 << 18  # bytes: more than a message between processes can have
_HOLD_MS = 50  # a record waits so long, or twice: the TLS secrets that open a packet may be logged after it was sent
_QUIET_MS = 30  # the network counts as silent after two round trips plus this

_frame_header = struct.Struct("=IIIHHII").unpack_from  # struct tpacket2_hdr


class Port:
    """The wire's end of one host's cable."""

    def __init__(self, interface: str, mtu: int) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V2)
        self.socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        self.socket.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        self._slot, self._slots = (2048, _SLOTS) if mtu <= 1500 else (16384, _SLOTS // 8)
        block = self._slot * 64
        ring = struct.pack("IIII", block, self._slots * self._slot // block, self._slot, self._slots)
        self.socket.setsockopt(_SOL_PACKET, _PACKET_RX_RING, ring)
        self._ring = mmap.mmap(self.socket.fileno(), self._slots * self._slot)
        self._next = 0
        self.socket.bind((interface, _ETH_P_IP))

    def read(self) -> list[tuple[int, bytes]]:
        """The frames that wait, at most a batch, each with the time (ns since 1970) it was sent."""
        frames = []
        ring, slot, last = self._ring, self._slot, self._slots - 1
        i = self._next
        for _ in range(_BATCH):
            at = i * slot
            status, _, size, start, _, seconds, nanoseconds = _frame_header(ring, at)
            if not status & _TP_STATUS_USER:
                break
            start += at
            frames.append((seconds * 1_000_000_000 + nanoseconds, ring[start : start + size]))
            ring[at : at + 4] = _TP_STATUS_KERNEL
            i = i + 1 if i < last else 0
        self._next = i
        return frames

    def close(self) -> None:
        self._ring.close()
        self.socket.close()

    def lost(self) -> int:
        """Frames that found the ring full since the last call: the wire was too slow for them."""
        _, drops = struct.unpack("II", self.socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        return int(drops)


@dataclass(slots=True)
class Route:
    """The way from one host to another: what befalls a packet, who gets it, which of them is on record."""

    direction: Direction
    send: Callable[[bytes], int]
    source: int  # the vantage points' numbers in the capture
    target: int
    record_sent: bool
    record_received: bool


@dataclass
class Wire:
    """Forwards between *ports* (host name → port), as *links* say.

    *vantage* is the host whose view is recorded: what it sends when it is sent, what it receives when
    it arrives. Packets that never touch it are recorded where they were sent. One copy of each, for a
    dissector takes a second copy for a retransmission. None records every host's own view.

    A host behind a NAT sees its own address; what the others see is in their views, and in the comments.
    """

    ports: Mapping[str, Port]
    addresses: Mapping[bytes, str]
    links: Mapping[tuple[str, str], Link]
    seed: int
    recorder: Writer | None = None
    vantage: str | None = None

    _heap: list[tuple[int, int, Route, bytes, str]] = field(default_factory=list)
    _order: count[int] = field(default_factory=count)
    _directions: dict[tuple[str, str], Direction] = field(default_factory=dict)
    _last_stamp: int = 0
    _last_packet: int = 0
    _flush_at: int = 0
    _nats: dict[int, Nat] = field(default_factory=dict)  # host's number → what is in front of it

    def __post_init__(self) -> None:
        names = list(self.ports)
        self._routes: list[dict[bytes, Route]] = [{} for _ in names]
        address_of = {name: address for address, name in self.addresses.items()}
        for (i, source), (j, target) in permutations(enumerate(names), 2):
            direction = Direction(self.links.get((source, target), Link()), f"{self.seed}:{source}>{target}")
            self._directions[source, target] = direction
            self._routes[i][address_of[target]] = Route(
                direction, self.ports[target].socket.send, i, j,
                self.vantage != target, self.vantage in (target, None),
            )  # fmt: skip

    # -- the loop --------------------------------------------------------------------------------

    def step(self, extra: Sequence[int], limit: float) -> list[int]:
        """Forward all that is due; where there was nothing, wait at most *limit* seconds for something.

        Returns those of *extra*, other descriptors, that are readable. CannotWrite where the recorder
        cannot write.
        """
        if self.forward():
            return select.select(list(extra), [], [], 0)[0]
        now = time.monotonic_ns()
        if self.recorder is not None and self.recorder.waiting:
            self._flush_at = self._flush_at or now + _HOLD_MS * MS
            if self._flush_at <= now:
                self.recorder.flush_older()
                self._flush_at = now + _HOLD_MS * MS if self.recorder.waiting else 0
        due = [at for at in (self._flush_at, self._heap[0][0] if self._heap else 0) if at]
        limit = min([limit, *(max(0, at - now) / 1e9 for at in due)])
        cables = [port.socket.fileno() for port in self.ports.values()]
        ready, _, _ = select.select([*cables, *extra], [], [], limit)
        return [fd for fd in ready if fd not in cables]

    def forward(self) -> bool:
        """Take in what was sent, hand out what is due; False when there was nothing."""
        busy = False
        for i, port in enumerate(self.ports.values()):
            if frames := port.read():
                busy = True
                self._take(i, frames)
        while self._heap and self._heap[0][0] <= time.monotonic_ns():
            _, _, route, frame, note = heapq.heappop(self._heap)
            self._deliver(route, frame, note)
            busy = True
        return busy

    def _take(self, source: int, frames: list[tuple[int, bytes]]) -> None:
        """Decide on the frames that a host has sent."""
        now = self._last_packet = time.monotonic_ns()
        ahead = time.time_ns() - now  # from the monotonic clock to the one that stamps
        routes, nat = self._routes[source], self._nats.get(source)
        for stamp, frame in frames:
            route = routes.get(frame[30:34])  # the destination in the IP header
            if route is None:
                self._record(source, stamp, frame, "dropped: no host has this address")
                continue
            own, renamed = frame, ""
            if nat:
                packet, renamed = nat.leaving(frame[_ETHERNET:])
                frame = frame[:_ETHERNET] + packet
            direction = route.direction
            if direction.perfect and len(frame) <= direction.link.mtu + _ETHERNET:
                if route.record_sent:
                    self._record(source, stamp, own, renamed)
                self._deliver(route, frame, renamed)
                continue
            verdict = direction.offer(min(stamp - ahead, now), frame[_ETHERNET:])
            if verdict.arrivals and len(self._heap) >= _IN_FLIGHT:
                verdict = Verdict((), f"dropped: {_IN_FLIGHT} packets are on the cables")
            note = ", ".join(filter(None, (verdict.note, renamed)))
            if route.record_sent:
                self._record(source, stamp, own, note)
            elif not verdict.arrivals:  # It never came to whose view this is: so as it would have seen it.
                self._record(source, stamp, self._behind_nat(route, frame)[0] or frame, note)
            for arrival in verdict.arrivals:
                heapq.heappush(self._heap, (arrival, next(self._order), route, frame, note))

    def _deliver(self, route: Route, frame: bytes, note: str = "") -> None:
        if route.target in self._nats:
            inside, renamed = self._behind_nat(route, frame)
            if not inside:
                if not route.record_sent:
                    self._record(route.source, time.time_ns(), frame, renamed)
                return
            frame, note = inside, ", ".join(filter(None, (note, renamed)))
        if route.record_received:
            self._record(route.target, time.time_ns(), frame, note)
        try:
            route.send(frame)
        except OSError:  # ENOBUFS, ENETDOWN: as a cable loses what nobody takes.
            pass

    def _behind_nat(self, route: Route, frame: bytes) -> tuple[bytes, str]:
        """A frame as its host gets it, and a note; b"" when its NAT, if it has one, knows nobody whom it is for."""
        nat = self._nats.get(route.target)
        if nat is None:
            return frame, ""
        packet, note = nat.arriving(frame[_ETHERNET:])
        return frame[:_ETHERNET] + packet if packet else b"", note

    # -- the record ------------------------------------------------------------------------------

    def _record(self, vantage: int, stamp: int, frame: bytes, note: str = "") -> None:
        if self.recorder is not None:
            # Time never runs backwards in the file, though batches from several hosts overlap by microseconds.
            if stamp < self._last_stamp:
                stamp = self._last_stamp
            self._last_stamp = stamp
            self.recorder.add(vantage, stamp, frame[_ETHERNET:], f"wire: {note}" if note else "")

    def flush(self) -> None:
        """Write to the disk what is recorded so far."""
        self._flush_at = 0
        if self.recorder is not None:
            self.recorder.flush()

    # -- control ---------------------------------------------------------------------------------

    def obey(self, control: socket.socket) -> bool:
        """Carry out one order of the experiment: other links, or none: "all that was sent is recorded"; or a Rebind.

        False when there will be no more.
        """
        try:
            order = pickle.loads(control.recv(_LONGEST_ORDER))
            if isinstance(order, Rebind):
                self._rebind(order)
            else:
                for pair, link in order.items():
                    self._directions[pair].change(link)
            for _ in range(2 * _SLOTS // _BATCH):  # Not for ever: somebody may be sending all the time.
                if not self.forward():
                    break
            self.flush()
            control.send(b"done")
        except (EOFError, ConnectionError):
            return False
        return True

    def _rebind(self, order: Rebind) -> None:
        """Put a NAT in front of a host, or let the one that is there forget."""
        target = list(self.ports).index(order.host)
        inside = next(address for address, name in self.addresses.items() if name == order.host)
        nat = self._nats.setdefault(target, Nat(inside, inside))
        outside = nat.outside
        if order.address:  # Counted down from the top of the network, where no host is.
            outside = inside[:3] + bytes([254 if outside == inside else outside[3] - 1])
        nat.rebind(outside)
        for i, routes in enumerate(self._routes):
            if i != target:
                routes[outside] = routes[inside]

    def linger(self, seconds: float) -> None:
        """Forward until the network is silent, so that the last FIN and its ACK are on record."""
        delay = max((d.link.delay_ms + d.link.jitter_ms for d in self._directions.values()), default=0)
        quiet = int((4 * delay + _QUIET_MS) * MS)
        started = time.monotonic_ns()
        while (now := time.monotonic_ns()) < started + seconds * 1000 * MS:
            if not self._heap and now - max(self._last_packet, started) > quiet:
                break
            self.step((), 0.005)
        self.flush()

    def lost(self) -> int:
        return sum(port.lost() for port in self.ports.values())
