"""The road between two ends: sockets of the check's that pass datagrams on, later, twice, out of order, or never."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from labkit.check import Check
from labkit.learner import load

transfer: Any = sys.modules.get("labs_quic_transfer") or load(
    Path(__file__).with_name("transfer.py"), "labs_quic_transfer"
)

DELAY = 0.004  # seconds each way
MOST_HELD = 0.05  # seconds after which what is held goes on, whatever has come behind it


class Fate(NamedTuple):
    """What becomes of a datagram: how many of it arrive, and how many later ones overtake it."""

    copies: int = 1
    behind: int = 0

    def __str__(self) -> str:
        if not self.copies:
            return "lost"
        return "twice" if self.copies > 1 else f"overtaken by {self.behind}" if self.behind else "passed on"


FINE = Fate()


class Lane:
    """One direction of it. Datagrams are counted from 0, as the packets in them are numbered."""

    def __init__(self, name: str, fate: Callable[[int], Fate], arriving: socket.socket, leaving: socket.socket) -> None:
        self.name, self._fate = name, fate
        self.arriving, self.leaving = arriving, leaving
        self.target: tuple[str, int] | None = None  # of the end that listens, known when it has spoken
        self.source: tuple[str, int] | None = None
        self.done = False  # The end that speaks here says so.
        self.fates: list[tuple[int, Fate]] = []  # of those that had one of their own
        self.count = 0
        self._early: list[bytes] = []
        self._held: list[tuple[int, bytes]] = []  # the count at which it goes on, and the datagram

    def readable(self) -> None:
        while True:
            try:
                datagram, self.source = self.arriving.recvfrom(65535)
            except BlockingIOError:
                return
            if datagram in (transfer.HERE, transfer.DONE):
                self.done = datagram == transfer.DONE
                continue
            fate, number = self._fate(self.count), self.count
            self.count += 1
            if fate != FINE:
                self.fates.append((number, fate))
            if fate.behind:
                self._held.append((number + fate.behind, datagram))
                asyncio.get_running_loop().call_later(MOST_HELD, self._release, 1 << 62)
            else:
                for _ in range(fate.copies):
                    self._pass_on(datagram)
            self._release(number)

    def _release(self, number: int) -> None:
        for one in [one for one in self._held if one[0] <= number]:
            self._held.remove(one)
            self._pass_on(one[1])

    def _pass_on(self, datagram: bytes) -> None:
        asyncio.get_running_loop().call_later(DELAY, self.leave, datagram)

    def leave(self, datagram: bytes) -> None:
        if self.target is None:
            self._early.append(datagram)  # Nobody is there yet: both ends have only been started.
        elif self.leaving.fileno() >= 0:
            self.leaving.sendto(datagram, self.target)

    def open(self, target: tuple[str, int]) -> None:
        self.target = target
        early, self._early = self._early, []
        for datagram in early:
            self.leave(datagram)


async def travel(
    c: Check, there: Callable[[int], Fate], back: Callable[[int], Fate], pieces: tuple[int, int], seconds: float
) -> tuple[list[dict[str, Any]], list[Lane]]:
    """Two ends of the learner's, and the road between them. Returns what each end says, and both lanes."""
    sides = (c.net.client, c.net.server)
    sockets = []
    for host in reversed(sides):  # Each end speaks to a socket on the other's host, so all crosses the wire.
        sock = host.socket(socket.SOCK_DGRAM, timeout=0)
        sock.bind((host.address, 0))
        sockets.append(sock)
    lanes = [Lane("client → server", there, sockets[0], sockets[1]), Lane("server → client", back, *reversed(sockets))]
    loop = asyncio.get_running_loop()
    try:
        programs = []
        for host, sock, mine, theirs in zip(sides, sockets, pieces, reversed(pieces), strict=True):
            programs.append(c.start("end_role", *sock.getsockname(), mine, theirs, host=host.name))
        for lane in lanes:
            loop.add_reader(lane.arriving, lane.readable)
        end = loop.time() + seconds
        while not all(lane.done for lane in lanes) and loop.time() < end:
            for lane, other in (lanes, lanes[::-1]):
                if lane.target is None and other.source is not None:
                    lane.open(other.source)
            if any(program.ended for program in programs):
                break
            await asyncio.sleep(0.002)
        for lane in lanes:
            if lane.target:
                lane.leaving.sendto(transfer.ENOUGH, lane.target)
        return [await program.result(3) for program in programs], lanes
    finally:
        for sock in sockets:
            loop.remove_reader(sock)
            sock.close()
