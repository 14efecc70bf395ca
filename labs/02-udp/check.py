"""The check of the udp lab: scripted datagrams first, then whole files over a wire that loses, doubles and reorders."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator
from struct import Struct
from types import ModuleType
from typing import Any

from labkit.check import Check, Program, step
from labkit.lab import Host, Link, Seen
from labkit.sandbox import CannotRun

PIECE, LAST, ACK = 0, 1, 2
PAYLOAD = 1000
DATA_HEADER, ACK_FORMAT = Struct("!BH"), Struct("!BHQ")
INITIAL, MINIMUM, MAXIMUM = 0.25, 0.05, 2.0
LINGER = 0.5
PATIENCE = 1.0  # seconds that a program gets for something that it should do at once; four times INITIAL
ON_A_CLOCK = 3.0  # seconds for what takes none; only a program that hangs needs them
TURNS = 100_000  # of the loop in which nothing comes, nothing goes and no time is to pass: some 1 s of processor
DONE_TOO_EARLY = "Your Sender was `done` before its last packet was acknowledged."
BAD_WIRE = Link(delay_ms=5, loss=0.08, duplicate=0.08, reorder=0.1, reorder_ms=5)

AFTER = """
You have written what every reliable transport has at its heart: numbers, acknowledgements, a timer that learns, and
a window. TCP does the same with bytes instead of packets: its SACK (RFC 2018) is your bitmap, its TIME-WAIT your
LINGER, and its timeout is RFC 6298's. QUIC (RFC 9000, 9002) does it over UDP, as you did, with numbers that are never
used twice, so an ACK always tells which copy it is for, and Karn's rule is not needed.

What they have and you have not: congestion control, without which your window of 32 takes from everybody else on a
shared network (RFC 8085 §3.1 forbids that); fast retransmit, which repeats a packet once three later ones were
acknowledged and does not wait for the timer (RFC 9002 §6.1.1); a receiver that says how much it can take; a handshake
that agrees on the first number; and keys: now anyone who guesses a port can put bytes into your file.

Now plot it: python -m labs.02-udp.goodput
"""


# --- What runs in the learner's process: the sockets and the clock ------------------------------


def file_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def drive(end: Any, sock: socket.socket, peer: tuple[str, int] | None, seconds: float) -> bytes:
    """Carry datagrams between a Sender or Receiver and its socket, until it is done or an empty datagram says stop."""
    got, over, stop, idle = bytearray(), False, time.monotonic() + seconds, 0
    while True:
        for datagram in end.datagrams_to_send(time.monotonic()):
            idle = 0
            if peer is not None:
                sock.sendto(datagram, peer)
        if over or end.done or time.monotonic() > stop:
            return bytes(got)
        timer = end.timer()
        wait = max(0.0, (stop if timer is None else min(timer, stop)) - time.monotonic())
        idle = 0 if wait else idle + 1
        if idle > TURNS:
            raise RuntimeError(f"timer() is {timer}, which is past, but datagrams_to_send() has nothing: it would spin")
        while not over and select.select([sock], [], [], wait)[0]:
            idle = 0
            datagram, peer = sock.recvfrom(65535)
            over = datagram == b""
            if not over:
                got += end.receive_datagram(datagram, time.monotonic()) or b""
            wait = 0.0  # Take what else is there, then let it answer.


def send(exercise: ModuleType, address: str, port: str, size: str, first: str, window: str) -> dict[str, Any]:
    """The learner's Sender, on a socket of its own."""
    sender = exercise.Sender(file_of(int(size)), int(first), int(window))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        start = time.monotonic()
        drive(sender, sock, (address, int(port)), 10)
        return {"done": bool(sender.done), "seconds": time.monotonic() - start}


def receive(exercise: ModuleType, address: str, port: str, first: str, window: str) -> dict[str, Any]:
    """The learner's Receiver, on a socket of its own."""
    receiver = exercise.Receiver(int(first), int(window))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, int(port)))
        data = drive(receiver, sock, None, 15)
    return {"done": bool(receiver.done), "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


class Clock:
    """The learner's Sender on a clock of ours: a second takes no time, and no timer is ever late."""

    def __init__(self, exercise: ModuleType, window: int = 1) -> None:
        self.now, self.number = 1000.0, 0
        self.sender = exercise.Sender(bytes(100 * PAYLOAD), 0, window)
        self.sender.datagrams_to_send(self.now)

    def acknowledged_after(self, rtt: float) -> None:
        self.now += rtt
        self.number += 1
        self.sender.receive_datagram(ACK_FORMAT.pack(ACK, self.number, 0), self.now)
        self.sender.datagrams_to_send(self.now)

    def timeout(self) -> float:
        """Seconds until the timer of the packet that was sent now is due."""
        timer = self.sender.timer()
        return -1.0 if timer is None else float(timer - self.now)

    def expire(self) -> int:
        """Let the timer run out; return how many datagrams are sent then."""
        self.now += max(0.0, self.timeout())
        return len(self.sender.datagrams_to_send(self.now))


def learned_timeouts(exercise: ModuleType) -> list[list[float]]:
    """The timeout after each of twelve round trips of 300 ms, of as many of 300 ± 200 ms, and of 1 ms."""
    found = []
    for trips in ([0.3] * 12, [0.1, 0.5] * 6, [0.001] * 12):
        clock, timeouts = Clock(exercise), []
        for rtt in trips:
            clock.acknowledged_after(rtt)
            timeouts.append(clock.timeout())
        found.append(timeouts)
    return found


def sizes(exercise: ModuleType) -> dict[str, list[str]]:
    """What is sent of an empty file and of two that fill their last packet; each packet is acknowledged at once."""
    found: dict[str, list[str]] = {"done too early": []}
    for size in (0, PAYLOAD, 30 * PAYLOAD):
        sender, said = exercise.Sender(file_of(size), 0, 1), list[str]()
        while not sender.done and len(said) < 40:
            said += [words(datagram) for datagram in sender.datagrams_to_send(1000.0)] or ["nothing"]
            if sender.done:
                found["done too early"].append(said[-1])
            sender.receive_datagram(ack(len(said)), 1000.0)
        found[str(size)] = said
    return found


def echo(exercise: ModuleType) -> int:
    """How many datagrams a copy of an ACK makes a Sender send, when the next packet has just left."""
    clock = Clock(exercise)
    clock.acknowledged_after(0.02)
    clock.sender.receive_datagram(ack(clock.number), clock.now)
    return len(clock.sender.datagrams_to_send(clock.now))


def hole_in_front(exercise: ModuleType) -> list[str]:
    """What a Sender with a window of 8 sends when 1 to 7 have arrived and 0 has not."""
    clock = Clock(exercise, window=8)
    clock.sender.receive_datagram(ack(0, 0b111_1111), clock.now + 0.02)
    return [words(datagram) for datagram in clock.sender.datagrams_to_send(clock.now + 0.02)]


def far_in_the_bitmap(exercise: ModuleType) -> list[str]:
    """What a Sender with a window of 32 sends when its timer expires, and only packet 21 has arrived."""
    clock = Clock(exercise, window=32)
    clock.now += 0.02
    clock.sender.receive_datagram(ack(0, 1 << 20), clock.now)
    sent = list(clock.sender.datagrams_to_send(clock.now))
    clock.now += max(0.0, clock.timeout())
    return [words(datagram) for datagram in (*sent, *clock.sender.datagrams_to_send(clock.now))]


def early_on_a_clock(exercise: ModuleType) -> dict[str, Any]:
    """Receivers on a clock of ours: a packet far ahead; three at once; LAST before a hole, and data after LAST."""
    far, end, now = exercise.Receiver(0, 32), exercise.Receiver(0, 4), 1000.0
    far.receive_datagram(data(21, b"far"), now)
    bitmap = [words(datagram) for datagram in far.datagrams_to_send(now)]
    for number in (0, 1, 2):
        far.receive_datagram(data(number, b"?"), now)
    acks = len(far.datagrams_to_send(now))

    got = end.receive_datagram(data(2, b"c", last=True), now) or b""
    end.datagrams_to_send(now)
    now += 2 * LINGER
    end.datagrams_to_send(now)
    early = bool(end.done)
    for number in (0, 1, 3):
        got += end.receive_datagram(data(number, b"ab?d"[number : number + 1]), now) or b""
        end.datagrams_to_send(now)
    return {"bitmap": bitmap, "acks": acks, "early": early, "file": got.decode("latin-1")}


def first_timer(exercise: ModuleType) -> float | None:
    """How long after its packet has left a Sender's timer is due; None when it has no timer."""
    clock = Clock(exercise)
    return None if clock.sender.timer() is None else clock.timeout()


def backing_off(exercise: ModuleType) -> dict[str, Any]:
    """The waits while nothing is answered; then the timeout after a late ACK for one of the copies."""
    clock, waits, copies = Clock(exercise), [], []
    for _ in range(5):
        waits.append(clock.timeout())
        copies.append(clock.expire())
    other = Clock(exercise)
    other.expire()
    other.expire()
    other.acknowledged_after(0.01)  # The third copy left 10 ms ago; this may well be for the first.
    after_late_ack = other.timeout()
    other.acknowledged_after(0.1)
    together = Clock(exercise, window=8)
    together.expire()
    return {
        "waits": waits,
        "copies": copies,
        "after_late_ack": after_late_ack,
        "after_sample": other.timeout(),
        "after_lost_window": together.timeout(),
    }


def lingering(exercise: ModuleType) -> dict[str, Any]:
    """A Receiver that has everything, on a clock of ours: a copy comes late; then there is silence."""
    receiver, now = exercise.Receiver(0, 1), 1000.0
    for pause in (0.0, 0.8 * LINGER):  # the last packet, and a copy of it
        now += pause
        receiver.receive_datagram(DATA_HEADER.pack(LAST, 0), now)
        receiver.datagrams_to_send(now)
    receiver.datagrams_to_send(now + 0.8 * LINGER)
    early, timer = bool(receiver.done), receiver.timer()
    receiver.datagrams_to_send(now + LINGER)
    return {"early": early, "timer": None if timer is None else round(timer - now, 3), "done": bool(receiver.done)}


# --- What the checker plays: the other end ------------------------------------------------------


def data(number: int, payload: bytes, last: bool = False) -> bytes:
    return DATA_HEADER.pack(LAST if last else PIECE, number) + payload


def ack(number: int, bitmap: int = 0) -> bytes:
    return ACK_FORMAT.pack(ACK, number, bitmap)


def words(datagram: bytes) -> str:
    """A datagram as the story tells it."""
    if len(datagram) == ACK_FORMAT.size and datagram[0] == ACK:
        _, number, bitmap = ACK_FORMAT.unpack(datagram)
        return f"ACK: all before {number}" + "".join(
            f", {(number + 1 + i) % 65536}" for i in range(64) if bitmap >> i & 1
        )
    if len(datagram) >= DATA_HEADER.size and datagram[0] in (PIECE, LAST):
        kind, number = DATA_HEADER.unpack_from(datagram)
        return f"{'LAST' if kind == LAST else 'PIECE'} {number}, {len(datagram) - DATA_HEADER.size} B"
    return f"{datagram[:16]!r} ({len(datagram)} B)"


class Peer:
    """A UDP socket of the checker's that plays the other end for the learner's program."""

    def __init__(self, c: Check, host: Host, port: int = 0) -> None:
        self._c = c
        self.socket = host.socket(socket.SOCK_DGRAM, timeout=0)
        self.socket.bind((host.address, port))
        self.program: Program | None = None
        self._silent = True
        self._had: set[bytes] = set()  # what came and was wanted
        self.target: tuple[str, int] = (c.net.server.address, c.net.port)

    def send(self, *datagrams: bytes) -> None:
        for datagram in datagrams:
            self._c.did(f"> {words(datagram)}")
            self.socket.sendto(datagram, self.target)

    async def next(self, seconds: float = PATIENCE) -> bytes:
        """The next datagram of the learner's program, b"" when none comes in time or its program has ended."""
        start = time.monotonic()
        if self._silent:  # It has only been started, and a busy machine may take its time for that.
            seconds *= 3
        while True:
            over = self._ended() or time.monotonic() > start + seconds  # Look once more: it may have come just now.
            with contextlib.suppress(BlockingIOError):
                datagram, self.target = self.socket.recvfrom(65535)
                self._silent = False
                self._c.did(f"< {words(datagram)}")
                return datagram
            if over:
                break
            await asyncio.sleep(0.002)
        self._c.did(f"< nothing for {time.monotonic() - start:.2g} s")
        return b""

    def _ended(self) -> bool:
        return self.program is not None and self.program.ended

    async def fresh(self, count: int, had: list[int] | None = None) -> list[int]:
        """The next so many new numbers of data packets, or fewer. Copies do not count: a busy machine may be late."""
        found: list[int] = []
        end = time.monotonic() + PATIENCE
        while len(found) < count and (datagram := await self.next(end - time.monotonic())):
            found += [n for n in numbers(self._c, [datagram]) if n not in found and n not in (had or [])]
        return found

    async def burst(self, quiet: float = 0.15, seconds: float = PATIENCE) -> list[bytes]:
        """All that comes until nothing comes for a while, or the time is over."""
        found: list[bytes] = []
        end = time.monotonic() + seconds
        while datagram := await self.next(min(quiet if found else seconds, end - time.monotonic())):
            found.append(datagram)
        return found

    async def expect(self, wanted: bytes, what: str, seconds: float = PATIENCE) -> None:
        """The next datagram must be this one; copies of packets before it are the matter of other steps."""
        end = time.monotonic() + seconds
        while (got := await self.next(end - time.monotonic())) != wanted and got in self._had:
            self._c.story.pop()
        if got == wanted:
            self._had |= {got} if got[0] != ACK else set()
            return
        if got:
            if got[1:] == wanted[1:] and got[0] + wanted[0] == PIECE + LAST:
                names = ("PIECE", "LAST")
                what += f" As {names[wanted[0]]} (kind {wanted[0]}); yours is {names[got[0]]} (kind {got[0]})."
            self._c.fail(what, got=got, wanted=wanted, filter=self.filter)
        silent = "Your program ended" if self._ended() else "Nothing came"
        self._c.fail(f"{what} {silent}.", got="nothing", wanted=words(wanted), filter=self.filter)

    @property
    def filter(self) -> str:
        return f"udp && udp.port == {self.socket.getsockname()[1]}"


@contextlib.contextmanager
def sending(c: Check, size: int, first: int, window: int) -> Iterator[tuple[Peer, Program]]:
    """The learner's Sender on the client host; the checker plays its receiver."""
    peer = Peer(c, c.net.server)
    address, port = peer.socket.getsockname()
    program = peer.program = c.start("send", address, port, size, first, window, host="client")
    c.did(f"= your Sender: {size} bytes, first number {first}, window {window}")
    with contextlib.closing(peer.socket):
        yield peer, program
    c.stop(program)


@contextlib.asynccontextmanager
async def receiving(c: Check, first: int, window: int) -> Any:
    """The learner's Receiver on the server host; the checker plays its sender."""
    program = await start_receiver(c, first, window)
    peer = Peer(c, c.net.client)
    peer.program = program
    with contextlib.closing(peer.socket):
        yield peer, program
    c.stop(program)


async def start_receiver(c: Check, first: int, window: int) -> Program:
    program = c.start("receive", c.net.server.address, c.net.port, first, window)
    c.did(f"= your Receiver: first number {first}, window {window}")
    end = time.monotonic() + 3 * PATIENCE  # A busy machine may be slow to start it.
    while f":{c.net.port:04X} " not in c.net.server.statistics("udp"):  # until its socket is there
        if program.ended or time.monotonic() > end:
            c.fail("Your Receiver could not be made.")
        await asyncio.sleep(0.005)
    return program


async def written(peer: Peer, program: Program) -> dict[str, Any]:
    """Stop the learner's receiver; return what it has written."""
    peer.socket.sendto(b"", peer.target)
    result: dict[str, Any] = await program.result(PATIENCE)
    return result


def same_file(c: Check, result: dict[str, Any], wanted: bytes, why: str) -> None:
    """What the learner's receiver wrote must be this file."""
    got = f"{result['size']} bytes, sha256 {result['sha256'][:16]}…"
    if (result["size"], result["sha256"]) != (len(wanted), hashlib.sha256(wanted).hexdigest()):
        c.fail(why, got=got, wanted=f"{len(wanted)} bytes, sha256 {hashlib.sha256(wanted).hexdigest()[:16]}…")


async def whole_file(c: Check, link: Link, packets: int, first: int, window: int) -> tuple[float, list[Seen]]:
    """A file from the learner's Sender to the learner's Receiver. Returns the seconds, and the packets of the wire."""
    if not c.net.on_wire:
        raise CannotRun("This step needs the wire, which this machine cannot build.")
    size = packets * PAYLOAD - 1
    before = len(c.net.packets())
    receiver = await start_receiver(c, first, window)
    c.net.set_link(link)
    c.did(f"= the wire: {link}")
    c.did(f"= your Sender: {size} bytes in {packets} packets, first number {first}, window {window}")
    sender = c.start("send", c.net.server.address, c.net.port, size, first, window, host="client")
    result = await sender.result(11)
    seen = [p for p in c.net.packets()[before:] if p.protocol == "udp"]
    c.net.set_link(Link())
    peer = Peer(c, c.net.client)
    with contextlib.closing(peer.socket):
        got = await written(peer, receiver)
    if not result["done"]:
        c.fail("Your Sender was not done after 10 s.", filter=f"udp.port == {c.net.port}")
    c.did(f"= done after {result['seconds']:.2f} s: {size / 1000 / result['seconds']:.0f} kB/s")
    same_file(c, got, file_of(size), "Your Sender was done, but the file did not arrive whole.")
    c.stop(receiver)
    return float(result["seconds"]), seen


def copies(seen: list[Seen]) -> Counter[bytes]:
    """How often each data packet was sent."""
    return Counter(p.payload[:3] for p in seen if p.source == "client" and p.payload[:1] in (b"\0", b"\1"))


def numbers(c: Check, datagrams: list[bytes]) -> list[int]:
    """The numbers of data packets; anything else fails the step."""
    for datagram in datagrams:
        if len(datagram) < DATA_HEADER.size or datagram[0] not in (PIECE, LAST):
            c.fail("Your Sender sent something that is no data packet.", got=datagram)
    return [DATA_HEADER.unpack_from(d)[1] for d in datagrams]


# --- The steps: stop-and-wait -------------------------------------------------------------------


@step(
    "a file of three packets, sent one by one",
    rfc="RFC 8085 §3.2: a datagram fits into one packet; §3.3: numbers make a datagram known",
    symptom="The check waits for a packet, and yours is another or none. Look at what datagrams_to_send() returns: at "
    "its first call, when nothing was received yet, and at the one after each ACK.",
    where="datagrams_to_send() returns new packets while fewer than `window` are not acknowledged. receive_datagram() "
    "takes an ACK: all packets before its number have arrived. `done` follows from the last one.",
    code="""
packet = DATA_HEADER.pack(LAST if it_is_the_last else PIECE, (first + i) % 65536) + data[i * 1000 : (i + 1) * 1000]
_, number, bitmap = ACK_FORMAT.unpack(datagram)""",
)
async def sends(c: Check) -> None:
    content = file_of(2500)
    with sending(c, 2500, 7, 1) as (peer, program):
        await peer.expect(data(7, content[:1000]), "Your Sender did not begin with the first packet.")
        peer.send(ack(8))
        await peer.expect(data(8, content[1000:2000]), "After the ACK of packet 7, packet 8 was wanted.")
        peer.send(ack(9))
        await peer.expect(data(9, content[2000:], last=True), "After the ACK of packet 8, packet 9 was wanted.")
        early = await peer.next(0.05)  # Nothing is due yet, unless the machine is slow: then it is a copy.
        if not early and program.ended:
            c.fail(DONE_TOO_EARLY, filter=peer.filter)
        peer.send(ack(10))
        result = await program.result(PATIENCE)
        c.equal(result["done"], True, "All is acknowledged, but your Sender is not `done`.")
    c.did("= files of 0, 1000 and 30000 bytes, on a clock of the check's")
    found = await c.start("sizes").result(ON_A_CLOCK)
    c.equal(found.pop("done too early"), [], DONE_TOO_EARLY)
    for size, said in found.items():
        pieces = max(1, int(size) // PAYLOAD)  # An empty file is one empty LAST piece.
        kinds = ["PIECE"] * (pieces - 1) + ["LAST"]
        wanted = [f"{kind} {i}, {min(int(size), PAYLOAD)} B" for i, kind in enumerate(kinds)]
        what = f"A file of {size} bytes is {pieces} packet{'s' * (pieces > 1)}, and the last of them is LAST."
        c.equal("; ".join(said[-3:]), "; ".join(wanted[-3:]), what)


@step(
    "each packet is acknowledged, and the file written",
    rfc="RFC 9293 §3.4: an acknowledgement names the next number that is expected",
    symptom="A packet came, and no ACK goes out, or one with another number. Look at what receive_datagram() leaves "
    "behind for the next call of datagrams_to_send().",
    where="receive_datagram() returns the payload and notes that an ACK is due; datagrams_to_send() returns that ACK.",
    code="""
self._acks += 1                                            # in receive_datagram
acks = [ACK_FORMAT.pack(ACK, self._next, 0)] * self._acks  # in datagrams_to_send""",
)
async def receives(c: Check) -> None:
    async with receiving(c, 7, 1) as (peer, program):
        for number, payload in ((7, b"a" * 1000), (8, b"b" * 1000), (9, b"the end")):
            peer.send(data(number, payload, last=number == 9))
            await peer.expect(ack(number + 1), f"No ACK for packet {number}, or another one.")
        same_file(c, await written(peer, program), b"a" * 1000 + b"b" * 1000 + b"the end", "The file is another one.")


@step(
    "what is not acknowledged is sent again",
    rfc="RFC 6298 §5.4: when the timer expires, retransmit the earliest that was not acknowledged",
    symptom="A packet is lost, and your Sender waits for its ACK for ever. Nobody calls it while nothing comes, "
    "unless timer() says when.",
    where="timer() returns when the oldest packet on the way is overdue: the time it was sent, plus the timeout, "
    "which is INITIAL before anything is known. From then on datagrams_to_send(now) returns the packet again.",
    code="""
overdue = [i for i, sent in self._sent.items() if sent + self._rto <= now]
def timer(self): return min(self._sent.values()) + self._rto if self._sent else None""",
)
async def repeats(c: Check) -> None:
    with sending(c, 500, 0, 1) as (peer, program):
        wanted = data(0, file_of(500), last=True)
        await peer.expect(wanted, "Your Sender did not send its only packet.")
        c.did("= it is lost")
        await peer.expect(wanted, "The packet was lost, and your Sender did not send it again.")
        peer.send(ack(1))
        c.equal(
            (await program.result(PATIENCE))["done"], True, "The copy is acknowledged, but your Sender is not `done`."
        )
    due = await c.start("first_timer").result(ON_A_CLOCK)
    c.did(f"= on a clock of the check's: a packet leaves, and timer() is {due or 0:+g} s from then")
    if due is None or due <= 0:
        c.fail("timer() is past when the packet has just left: your program would spin. It is a moment, as `now` is.",
               got=f"{due or 0:g} s from now", wanted=f"{INITIAL:g} s from now")  # fmt: skip


@step(
    "a packet that comes twice is written once",
    rfc="RFC 8085 §3.3: an application must be ready for duplicates",
    symptom="Your file has a piece twice, or the sender never hears that its copy arrived. Both are decided where "
    "your Receiver sees that it has had a number.",
    where="A copy is not new data. But it may be here because your ACK was lost: so acknowledge it again.",
    code="""
ahead = (number - self._next) % 65536
if ahead >= 65536 - 64:      # one that we have had
    self._acks += 1
    return b\"\"""",
)
async def copies_are_dropped(c: Check) -> None:
    async with receiving(c, 0, 1) as (peer, program):
        peer.send(data(0, b"once"))
        await peer.expect(ack(1), "No ACK for packet 0, or another one.")
        peer.send(data(0, b"once"))
        await peer.expect(
            ack(1), "A copy of packet 0 must be acknowledged like the first: your ACK may have been lost."
        )
        peer.send(data(1, b", the end", last=True))
        await peer.expect(ack(2), "No ACK for packet 1, or another one.")
        wanted = b"once, the end"
        same_file(c, await written(peer, program), wanted, "A packet came twice, and it is in the file twice.")


@step(
    "garbage changes nothing",
    rfc="RFC 8085 §6: whoever knows the port can send anything",
    symptom="A datagram that is too short, of an unknown kind or with a wrong number upsets your program. Look at "
    "what it believes before it has looked.",
    where="Look at the length before you unpack. Compare the kind. A number neither in the window nor just before it "
    "is no packet of this transfer. An ACK for what you never sent is a lie.",
    code="""
if len(datagram) != ACK_FORMAT.size or datagram[0] != ACK: return
before = self._base + (number - self._first - self._base) % 65536
if before > self._next: return""",
)
async def garbage(c: Check) -> None:
    async with receiving(c, 0, 1) as (peer, program):
        peer.send(b"\0", b"\0\0", b"\7\0\0what?", ack(0), data(30000, b"far away"))
        peer.send(data(0, b"good", last=True))
        wanted = "Five datagrams of garbage, then packet 0: one ACK was wanted, for packet 0."
        await peer.expect(ack(1), wanted)
        same_file(c, await written(peer, program), b"good", "Garbage got into the file, or the good packet did not.")
    with sending(c, 1500, 0, 1) as (peer, program):
        await peer.expect(data(0, file_of(1500)[:1000]), "Your Sender did not begin with the first packet.")
        peer.send(b"\2", b"\2\0\1", b"\7" * 11, data(0, b"a mirror"), ack(2), ack(30000))
        what = "A datagram that was no ACK for packet 0 made your Sender go on, or stop."
        for datagram in await peer.burst(INITIAL / 2, INITIAL / 2):
            if datagram != data(0, file_of(1500)[:1000]):
                c.fail(what, got=datagram, filter=peer.filter)
        if program.ended:
            c.fail(what, got="your program ended", wanted="nothing", filter=peer.filter)
        peer.send(ack(1))
        await peer.expect(data(1, file_of(1500)[1000:], last=True), "After the ACK of packet 0, packet 1 was wanted.")


@step(
    "the last ACK is lost",
    rfc="RFC 9293 §3.3.2: TIME-WAIT is there to acknowledge a FIN that comes again",
    symptom="Your Receiver has everything and goes home. But its last ACK was lost, and the sender asks for ever. "
    "Look at when `done` becomes true.",
    where="`done` needs LINGER seconds of silence after the last packet, and timer() tells when they are over. Until "
    "then each copy is acknowledged, and the silence begins anew.",
    code="""
def datagrams_to_send(self, now):
    self.done = self._complete and now >= self._heard + LINGER
def timer(self):
    return self._heard + LINGER if self._complete else None""",
)
async def last_ack_is_lost(c: Check) -> None:
    async with receiving(c, 0, 1) as (peer, program):
        packet = data(0, b"all there is", last=True)
        peer.send(packet)
        await peer.expect(ack(1), "No ACK for the last packet, or another one.")
        c.did("= this ACK is lost; 0.1 s later:")
        await asyncio.sleep(0.1)
        peer.send(packet)
        await peer.expect(ack(1), "The last ACK was lost, and nobody answers the sender's copy any more.", seconds=0.5)
        same_file(c, await written(peer, program), b"all there is", "The file is another one.")
    found = await c.start("lingering").result(ON_A_CLOCK)
    c.did(f"= on a clock of the check's: the last packet, a copy {0.8 * LINGER:g} s later, then silence")
    early = (
        f"Only {0.8 * LINGER:g} s after a late copy your Receiver is `done`: the silence begins anew with each copy."
    )
    c.equal(found["early"], False, early)
    c.equal(found["timer"], LINGER, "timer() must tell when LINGER seconds of silence are over.")
    c.equal(found["done"], True, "After LINGER seconds of silence your Receiver must be `done`.")


# --- The steps: a timeout that learns -----------------------------------------------------------


@step(
    "nothing is sent twice without need",
    rfc="RFC 8085 §3.1.1; RFC 6298 §2: the timeout follows the round trip that is measured",
    symptom="No packet is lost, and still your Sender repeats many: its timeout is shorter than the round trip. Look "
    "at where the timeout comes from.",
    where="A fixed timeout is wrong on all paths but one. Start with INITIAL, never go below MINIMUM, and measure.",
    code="self._rto = min(max(self._srtt + max(0.01, 4 * self._rttvar), MINIMUM), MAXIMUM)",
    seconds=15,
)
async def no_needless_copies(c: Check) -> None:
    what = "An ACK came twice, and the copy made your Sender send: then each copy makes a copy (RFC 1123 §4.2.3.1)."
    c.equal(await c.start("echo").result(ON_A_CLOCK), 0, what)
    _, seen = await whole_file(c, Link(delay_ms=15), 12, 0, 1)
    sent = copies(seen)
    needless = sum(sent.values()) - len(sent)
    if needless > 4:  # A busy machine may be late once or twice.
        c.fail(
            f"No packet was lost, and {needless} copies of {len(sent)} packets were sent.",
            filter=f"udp.dstport == {c.net.port}",
        )


@step(
    "the timeout follows the round trips",
    rfc="RFC 6298 §2: SRTT, RTTVAR, RTO = SRTT + max(G, 4 × RTTVAR)",
    symptom="Your Sender is run on a clock of the check's, with round trips of 300 ms; of 100 and 500 ms; of 1 ms. "
    "Its timeout does not fit one of them: look at what it does with each sample.",
    where="Remember when each packet was sent; at its ACK you have a sample. The first sets SRTT, and RTTVAR to half "
    "of it; the others move RTTVAR by a quarter, and then SRTT by an eighth.",
    code="""
self._rttvar = 3/4 * self._rttvar + 1/4 * abs(self._srtt - rtt)
self._srtt = 7/8 * self._srtt + 1/8 * rtt
self._rto = min(max(self._srtt + max(0.01, 4 * self._rttvar), MINIMUM), MAXIMUM)""",
)
async def timeout_learns(c: Check) -> None:
    found = await c.start("learned_timeouts").result(ON_A_CLOCK)
    steady, unsteady, short = (timeouts[-1] for timeouts in found)
    c.did(f"= round trips of 300 ms, twelve times: your timeout is {steady:.3f} s")
    c.did(f"= round trips of 100 and 500 ms in turn: {unsteady:.3f} s")
    c.did(f"= round trips of 1 ms: {short:.3f} s")

    def fits(name: str, seconds: float, least: float, most: float) -> None:
        if not least - 0.001 <= seconds <= most:
            wanted = f"{least:g} to {most:g} s"
            c.fail(f"The timeout does not fit {name}.", got=f"{seconds:.3f} s", wanted=wanted)

    fits("twelve round trips of 300 ms", steady, 0.3, 0.5)
    fits("round trips of 100 and 500 ms in turn", unsteady, 0.6, 1.8)
    fits("round trips of 1 ms: at least MINIMUM, but not much more", short, MINIMUM, 0.1)
    # SRTT + 4 × RTTVAR: 0.1 + 4 × 0.05; 0.15 + 4 × 0.1375; 0.14375 + 4 × 0.115625. By its old SRTT, RTTVAR first.
    for samples, seconds, wanted in zip(
        ("100", "100, 500", "100, 500, 100"), found[1], (0.3, 0.7, 0.606), strict=False
    ):
        if not abs(seconds - wanted) < 0.005:
            c.fail(f"After round trips of {samples} ms the formulas of RFC 6298 §2 give another timeout.",
                   got=f"{seconds:.3f} s", wanted=f"{wanted:.3f} s")  # fmt: skip


@step(
    "no answer: wait twice as long, each time",
    rfc="RFC 6298 §5.5: RTO ← RTO × 2, up to a maximum (§2.5)",
    symptom="Nobody answers, and your Sender goes on at the same pace. If the network is full, that keeps it full. "
    "Look at what else has to happen where it repeats a packet.",
    where="When the timer has expired, double the timeout, up to MAXIMUM.",
    code="self._rto = min(2 * self._rto, MAXIMUM)",
)
async def backs_off(c: Check) -> None:
    found = await c.start("backing_off").result(ON_A_CLOCK)
    c.did("= nothing is answered; the waits before each copy: " + ", ".join(f"{w:g} s" for w in found["waits"]))
    c.equal(found["copies"], [1] * 5, "Each time the timer expires, one copy is to be sent.")
    if any(abs(a - b) > 0.02 for a, b in zip(found["waits"], (0.25, 0.5, 1, 2, 2), strict=True)):
        got = ", ".join(f"{w:g}" for w in found["waits"])
        c.fail("The waits do not double up to MAXIMUM.", got=f"{got} s", wanted="0.25, 0.5, 1, 2, 2 s")


@step(
    "an ACK for a packet that was sent twice says nothing about time",
    rfc="RFC 6298 §3: Karn's algorithm",
    symptom="A packet was sent three times. 10 ms after the third copy an ACK comes, and your Sender believes that "
    "the round trip takes 10 ms. Look at which ACKs it takes a sample from.",
    where="The ACK may be for the first copy. Take no sample from a packet that was sent more than once; keep the "
    "timeout as backed off until a packet that was sent once is acknowledged.",
    code="if i not in self._again: self._measure(now - self._sent[i])",
)
async def karn(c: Check) -> None:
    found = await c.start("backing_off").result(ON_A_CLOCK)
    c.did("= no answer twice; 10 ms after the third copy an ACK comes")
    c.did(f"= the next packet's timeout is {found['after_late_ack']:g} s")
    if found["after_late_ack"] < 0.95:
        c.fail(
            "Your Sender took a sample from a packet that it had sent more than once.",
            got=f"a timeout of {found['after_late_ack']:g} s",
            wanted="1 s: as backed off, until a packet that was sent once is acknowledged",
        )
    if not abs(found["after_sample"] - 0.3) < 0.005:
        c.fail("A packet that was sent once is acknowledged after 100 ms: a first sample, and it ends the backing off.",
               got=f"a timeout of {found['after_sample']:g} s", wanted="0.3 s: 0.1 + 4 × 0.05")  # fmt: skip


@step(
    "stop-and-wait, on a wire that loses, doubles and reorders",
    rfc="RFC 8085 §3.3: loss, duplication and reordering are the application's to handle",
    symptom="One packet at a time works on a good wire; this one drops, doubles and delays your packets and your "
    "ACKs. Find the last packet before it went wrong, and what the wire did to it.",
    where="An old ACK can come late: its number is behind what you know already. A late copy too. The "
    "check's capture has a comment on each packet that the wire dropped, doubled or delayed.",
    code="if before > self._next: return   # an old ACK that was overtaken: modulo 65536 it is far ahead",
    seconds=15,
)
async def bad_wire(c: Check) -> None:
    await whole_file(c, BAD_WIRE, 12, 0, 1)


# --- The steps: a window ------------------------------------------------------------------------


@step(
    "a window of packets on the way, and it slides",
    rfc="RFC 9293 §3.8.6: the window is what may be sent without an acknowledgement",
    symptom="With a window of 8, your Sender sends fewer or more than 8 packets before the first ACK; or it waits "
    "until all 8 are acknowledged. Look at what limits a new packet: it is not how many were sent so far.",
    where="New packets go out while their index is less than the first unacknowledged one plus the window.",
    code="new = range(self._next, min(self._base + self._window, len(self._packets)))",
)
async def window_slides(c: Check) -> None:
    with sending(c, 20 * PAYLOAD, 0, 8) as (peer, _):
        flight = list(dict.fromkeys(numbers(c, await peer.burst())))
        c.equal(
            flight, list(range(8)), "The window is 8: packets 0 to 7 were wanted before any ACK.", filter=peer.filter
        )
        peer.send(ack(3))
        got = await peer.fresh(3, flight)
        c.equal(got, [8, 9, 10], "Packets 0 to 2 are acknowledged: 8, 9 and 10 were wanted now.", filter=peer.filter)
    sent = [one for one in await c.start("hole_in_front").result(ON_A_CLOCK) if not one.startswith("PIECE 0,")]
    what = "Packets 1 to 7 of a window of 8 have arrived, 0 has not: the window begins at 0, and nothing new may go."
    c.equal(sent, [], what)
    wait = (await c.start("backing_off").result(ON_A_CLOCK))["after_lost_window"]
    if wait > 2.02 * INITIAL:
        c.fail("8 packets are lost together, and your timeout is doubled for each of them: once is enough.",
               got=f"{wait:g} s", wanted=f"{2 * INITIAL:g} s")  # fmt: skip


@step(
    "early packets are kept, and only what came is acknowledged",
    rfc="RFC 2018 §4: a selective acknowledgement names what has arrived beyond a gap",
    symptom="Packets come in the order 2, 7, 8, 1, 0. While 0 is missing, the ACK's number must stay 0; the bitmap "
    "says what is there, as far as the window goes; and the file is written when 0 comes. Look at what becomes of an "
    "early packet.",
    where="Keep what is ahead of the next number, but within the window, in a dict by number. Bit i of the bitmap is "
    "for number + 1 + i. When the gap is filled, everything that follows it is in order.",
    code="""
self._early[number] = datagram
while self._next in self._early: ...
bitmap = sum(1 << (number - self._next - 1) % 65536 for number in self._early)""",
)
async def early_packets(c: Check) -> None:
    async with receiving(c, 0, 8) as (peer, program):
        for number, wanted in (
            (2, ack(0, 0b10)),
            (7, ack(0, 0b100_0010)),  # the last that a window of 8 allows
            (8, None),  # beyond it: not the sender says how much you keep in memory
            (1, ack(0, 0b100_0011)),
            (0, ack(3, 0b1000)),
        ):
            peer.send(data(number, b"%d" % number * 1000))
            if wanted is not None:
                await peer.expect(wanted, f"After packet {number} another ACK was wanted: “{words(wanted)}”.")
        content = b"0" * 1000 + b"1" * 1000 + b"2" * 1000
        same_file(
            c, await written(peer, program), content, "The packets came in another order, and so they are in the file."
        )
    c.did("= Receivers on a clock of the check's: 21 first; three packets at once; LAST before a hole")
    found = await c.start("early_on_a_clock").result(ON_A_CLOCK)
    c.equal(found["bitmap"], [words(ack(0, 1 << 20))], "The window is 32, and packet 21 came first: bit 20 says so.")
    c.equal(found["acks"], 3, "Three packets came between two calls of datagrams_to_send(): an ACK for each.")
    c.equal(found["early"], False, "LAST came, but packets before it are missing, and your Receiver is `done`.")
    c.equal(found["file"], "abc", "Packets came in the order 2 (LAST), 0, 1, 3; the file ends with LAST.")


@step(
    "only what is missing is sent again",
    rfc="RFC 2018 §5: what is selectively acknowledged is not retransmitted",
    symptom="7 of 8 packets are acknowledged by the bitmap, and your Sender repeats more than the one that is "
    "missing. Look at how it knows which packets are still on the way.",
    where="Each packet on the way has its own time. An ACK's bitmap takes packets out of that list, too.",
    code="arrived = [*range(self._base, before), *(before + 1 + i for i in range(64) if bitmap >> i & 1)]",
)
async def selective(c: Check) -> None:
    with sending(c, 8 * PAYLOAD, 0, 8) as (peer, program):
        flight = await peer.fresh(8)
        c.equal(flight, list(range(8)), "Packets 0 to 7 were wanted before any ACK.", filter=peer.filter)
        peer.send(ack(0, 0b111_1111))
        again = numbers(c, await peer.burst(quiet=0.05))
        if set(again) != {0}:
            what = "Only packet 0 is missing; your Sender repeated others that are acknowledged."
            c.fail(what if again else "Packet 0 is missing, and was not sent again.", got=f"{again}", wanted="[0]",
                   filter=peer.filter)  # fmt: skip
        peer.send(ack(8))
        c.equal((await program.result(PATIENCE))["done"], True, "All is acknowledged, but your Sender is not `done`.")
    again = await c.start("far_in_the_bitmap").result(ON_A_CLOCK)
    c.equal([one for one in again if one.startswith("PIECE 21,")], [], "The window is 32, and bit 20 says: 21 is here.")


@step(
    "after number 65535 comes number 0",
    rfc="RFC 1982; RFC 9293 §3.4: all arithmetic on sequence numbers is modulo their size",
    symptom="The first number is 65534. The fourth packet has the number 1, and it is not an old one. Look for each "
    "place where two numbers are compared, or one is added to.",
    where="Compare numbers by their distance, never by <.",
    code="ahead = (number - self._next) % 65536",
)
async def numbers_wrap(c: Check) -> None:
    with sending(c, 4 * PAYLOAD, 65534, 4) as (peer, program):
        got = await peer.fresh(4)
        c.equal(got, [65534, 65535, 0, 1], "Four packets, and the first number is 65534.", filter=peer.filter)
        peer.send(ack(65535, 0b11), ack(2))
        c.equal((await program.result(PATIENCE))["done"], True, "All is acknowledged, but your Sender is not `done`.")
    async with receiving(c, 65534, 4) as (peer, program):
        for number, wanted in (
            (1, ack(65534, 0b100)),
            (65534, ack(65535, 0b10)),
            (65535, ack(0, 0b1)),
            (65535, ack(0, 0b1)),  # a copy
            (0, ack(2)),
        ):
            peer.send(data(number, b"%d" % number, last=number == 1))
            await peer.expect(wanted, f"After packet {number} another ACK was wanted: “{words(wanted)}”.")
        same_file(c, await written(peer, program), b"655346553501", "The file is not in the order of the numbers.")


@step(
    "a whole file with a window, on the same bad wire",
    rfc="RFC 8085 §3.3",
    symptom="150 packets, 32 on the way at a time; the wire loses, doubles and reorders some, and some of your ACKs. "
    "What worked for one lost packet must work for several in one window.",
    where="The check's capture has it all, with a comment on each packet that the wire dropped, doubled or delayed.",
    code="The solution: labs/02-udp/solution.py. You have written nearly all of it.",
    seconds=15,
)
async def bad_wire_and_window(c: Check) -> None:
    _, seen = await whole_file(c, BAD_WIRE, 150, 65500, 32)
    sent = copies(seen)
    if sum(sent.values()) > 2 * len(sent):
        c.fail(
            f"The file arrived, but for {len(sent)} packets {sum(sent.values())} were sent.",
            filter=f"udp.dstport == {c.net.port}",
        )


@step(
    "goodput: a window per round trip",
    rfc="RFC 9293 §3.8.6; RFC 7323 §1.1: window / RTT is the most there can be",
    symptom="The round trip is 50 ms and the window 32, but the file takes as long as with a smaller one. Look for "
    "what your Sender waits for while there is room in the window.",
    where="Send all that the window allows in one call of datagrams_to_send(), and make room as soon as an ACK comes.",
    code="new = range(self._next, min(self._base + self._window, len(self._packets)))",
    seconds=15,
)
async def goodput(c: Check) -> None:
    packets, window, rtt = 160, 32, 0.05
    seconds, _ = await whole_file(c, Link(delay_ms=25), packets, 0, window)
    if seconds > packets * rtt / 5:
        c.fail(
            f"{packets} packets took {seconds:.2f} s. One per round trip would take {packets * rtt:.0f} s, "
            f"{window} per round trip {packets * rtt / window:.2f} s."
        )
