"""The wire: one process through which every packet of every host passes.

Each host's only cable ends here. The wire reads a frame from the ring of the host that sent it, asks
the link model what becomes of it (labkit/link.py), records it (labkit/pcapng.py), and puts it on the
cable of the host it is for: now, later, twice or never.

The frames come through a packet socket with a memory-mapped ring (packet(7), PACKET_RX_RING with
TPACKET_V2): the kernel stamps each frame with the time at which the host sent it, and reading one
costs no system call.
"""

from __future__ import annotations

import contextlib
import heapq
import mmap
import os
import pickle
import select
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, permutations

from labkit.link import Direction, Link
from labkit.pcapng import Writer

# <linux/if_packet.h>
_SOL_PACKET = 263
_PACKET_RX_RING, _PACKET_STATISTICS, _PACKET_VERSION = 5, 6, 10
_PACKET_QDISC_BYPASS, _PACKET_IGNORE_OUTGOING = 20, 23
_TPACKET_V2 = 1
_ETH_P_IP = 0x0800
_ETHERNET = 14  # bytes of link header before the IP header

_SLOTS = 4096  # frames that may wait for the wire, per host
_BATCH = 128  # frames taken from one host before the next one's turn
_QUIET_MS = 30  # the network counts as silent after two round trips plus this
_LINGER_MS = 1500  # and is cut off after this


class Port:
    """The wire's end of one host's cable."""

    def __init__(self, interface: str, mtu: int) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V2)
        self.socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        self.socket.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        self._slot = 2048 if mtu <= 1500 else 16384
        block = self._slot * 64
        ring = struct.pack("IIII", block, _SLOTS * self._slot // block, self._slot, _SLOTS)
        self.socket.setsockopt(_SOL_PACKET, _PACKET_RX_RING, ring)
        self._bytes = memoryview(mmap.mmap(self.socket.fileno(), _SLOTS * self._slot))
        self._words = self._bytes.cast("I")
        self._next = 0
        self.socket.bind((interface, _ETH_P_IP))

    def read(self) -> list[tuple[int, bytes]]:
        """The frames that wait, at most a batch, each with the time (ns since 1970) it was sent."""
        frames = []
        words, data, slot = self._words, self._bytes, self._slot
        i = self._next
        for _ in range(_BATCH):
            at = i * slot
            word = at >> 2  # struct tpacket2_hdr: status, len, snaplen, mac:16 net:16, sec, nsec
            if not words[word] & 1:  # TP_STATUS_USER: the slot is ours
                break
            start = at + (words[word + 3] & 0xFFFF)
            stamp = words[word + 4] * 1_000_000_000 + words[word + 5]
            frames.append((stamp, bytes(data[start : start + words[word + 2]])))
            words[word] = 0  # back to the kernel
            i = i + 1 if i + 1 < _SLOTS else 0
        self._next = i
        return frames

    def lost(self) -> int:
        """Frames that found the ring full since the last call: the wire was too slow for them."""
        _, drops = struct.unpack("II", self.socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        return int(drops)


@dataclass
class Wire:
    """Forwards between *ports* (host name → port) until `stop_at`, as `directions` say.

    *vantage* is the host whose view is recorded: what it sends when it is sent, what it receives when
    it arrives. Packets that never touch it are recorded where they were sent. One copy of each, for a
    dissector takes a second copy for a retransmission. None records every host's own view.
    """

    ports: Mapping[str, Port]
    addresses: Mapping[bytes, str]
    links: Mapping[tuple[str, str], Link]
    seed: int
    recorder: Writer | None = None
    vantage: str | None = None
    key_log: str | None = None

    _names: Sequence[str] = ()
    _heap: list[tuple[int, int, str, str, bytes, str]] = field(default_factory=list)
    _order: count[int] = field(default_factory=count)
    _directions: dict[tuple[str, str], Direction] = field(default_factory=dict)
    _last_stamp: int = 0
    _last_packet: int = 0
    _key_log_read: int = 0

    def __post_init__(self) -> None:
        self._names = list(self.ports)
        self._index = {name: i for i, name in enumerate(self._names)}
        for pair in permutations(self._names, 2):
            link = self.links.get(pair, Link())
            self._directions[pair] = Direction(link, f"{self.seed}:{pair[0]}>{pair[1]}")

    # -- the loop --------------------------------------------------------------------------------

    def step(self, extra: Sequence[int], limit: float) -> list[int]:
        """Wait at most *limit* seconds for frames or for *extra* descriptors; forward all that is due.

        Returns those of *extra* that are readable. OSError where the recorder cannot write.
        """
        now = time.monotonic_ns()
        if self._heap:
            limit = min(limit, max(0, self._heap[0][0] - now) / 1e9)
        sockets = [port.socket for port in self.ports.values()]
        ready, _, _ = select.select([*sockets, *extra], [], [], limit)
        self.forward()
        return [fd for fd in ready if isinstance(fd, int)]

    def forward(self) -> None:
        for name, port in self.ports.items():
            if frames := port.read():
                self._take(name, frames)
        while self._heap and self._heap[0][0] <= time.monotonic_ns():
            _, _, source, target, frame, note = heapq.heappop(self._heap)
            self._deliver(source, target, frame, note)
        if self.recorder is not None:
            self.recorder.flush()

    def _take(self, source: str, frames: list[tuple[int, bytes]]) -> None:
        """Decide on the frames that host *source* has sent."""
        now = self._last_packet = time.monotonic_ns()
        ahead = time.time_ns() - now  # from the monotonic clock to the one that stamps
        addresses, directions = self.addresses, self._directions
        self._add_secrets()
        for stamp, frame in frames:
            target = addresses.get(frame[30:34])  # the destination in the IP header
            if target is None or target == source:
                self._record(source, stamp, frame, "dropped: no host has this address")
                continue
            direction = directions[source, target]
            if direction.link.is_perfect:
                self._record_sent(source, target, stamp, frame, "", False)
                self._deliver(source, target, frame, "")
                continue
            sent = min(stamp - ahead, now)
            verdict = direction.offer(sent, frame[_ETHERNET:])
            self._record_sent(source, target, stamp, frame, verdict.note, not verdict.arrivals)
            for arrival in verdict.arrivals:
                heapq.heappush(self._heap, (arrival, next(self._order), source, target, frame, verdict.note))

    def _deliver(self, source: str, target: str, frame: bytes, note: str) -> None:
        if self.vantage in (target, None):
            self._record(target, time.time_ns(), frame, note)
        with contextlib.suppress(OSError):  # ENOBUFS, ENETDOWN: as a cable loses what nobody takes.
            self.ports[target].socket.send(frame)

    # -- the record ------------------------------------------------------------------------------

    def _record_sent(self, source: str, target: str, stamp: int, frame: bytes, note: str, dropped: bool) -> None:
        if dropped or self.vantage != target:
            self._record(source, stamp, frame, note)

    def _record(self, host: str, stamp: int, frame: bytes, note: str) -> None:
        if self.recorder is None:
            return
        # Time never runs backwards in the file, though batches from several hosts overlap by microseconds.
        self._last_stamp = max(stamp, self._last_stamp)
        self.recorder.add(self._index[host], self._last_stamp, frame[_ETHERNET:], f"wire: {note}" if note else "")

    def _add_secrets(self) -> None:
        """Copy new lines of the key log into the capture, ahead of the packets they open."""
        if self.recorder is None or self.key_log is None or not os.path.exists(self.key_log):
            return
        if (size := os.stat(self.key_log).st_size) > self._key_log_read:
            with open(self.key_log, "rb") as file:
                file.seek(self._key_log_read)
                lines = file.read(size - self._key_log_read)
            whole = lines[: lines.rfind(b"\n") + 1]
            if whole:
                self.recorder.add_secrets(whole)
                self._key_log_read += len(whole)

    # -- control ---------------------------------------------------------------------------------

    def obey(self, control: socket.socket) -> None:
        """Carry out one order of the experiment: another link, or "all that was sent is recorded"."""
        try:
            order = pickle.loads(control.recv(65536))
        except (EOFError, ConnectionError):
            return
        for pair, link in order.items():
            self._directions[pair].change(link)
        self.forward()
        control.send(b"done")

    def linger(self) -> None:
        """Forward until the network is silent, so that the last FIN and its ACK are on record."""
        delay = max((d.link.delay_ms + d.link.jitter_ms for d in self._directions.values()), default=0)
        quiet = int((4 * delay + _QUIET_MS) * 1e6)
        end = time.monotonic_ns() + _LINGER_MS * 1_000_000
        started = time.monotonic_ns()
        while (now := time.monotonic_ns()) < end:
            silent_since = max(self._last_packet, started)
            if not self._heap and now - silent_since > quiet:
                break
            self.step((), 0.005)
        if self.recorder is not None:
            self.recorder.flush()

    def lost(self) -> int:
        return sum(port.lost() for port in self.ports.values())
