"""What a lab is written in: experiments, hosts, measures.

An experiment is an async function that gets a `Network` and causes one phenomenon on it:

    @experiment(
        title="Before the first byte",
        link=Link(delay_ms=50),
        question="The cable takes 50 ms each way. How long does connect() take?",
        choices=("50 ms", "100 ms", "150 ms"),
        answer="100 ms",
    )
    async def handshake(net: Network) -> None:
        '''Shown after the run: why it is so. (RFC 9293 §3.5)'''
        listening = net.server.listen(net.port)
        ...
        net.measure("connect() took", 1000 * seconds, "ms", at_least=100, at_most=149)

A measure asserts its bounds, so a number that an experiment prints is one that a test has proved.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import pickle
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket as Socket
from types import ModuleType
from typing import Any, TypeVar

from labkit import kernel, pcapng
from labkit.link import Drop, Link, Rebind
from labkit.packets import ACK, FIN, PSH, RST, SYN
from labkit.sandbox import CannotRun, Event, Inside, World

__all__ = [
    "ACK", "FIN", "PSH", "RST", "SYN", "CannotRun", "Drop", "Experiment", "ExperimentFailed", "Host", "Link",
    "Network", "Seen", "experiment", "experiments_of",
]  # fmt: skip

T = TypeVar("T")
Body = Callable[["Network"], Awaitable[None]]


class ExperimentFailed(AssertionError):
    """A measured value lies outside its bounds, or what should have been seen was not."""

    slow = False  # Nothing is wrong but that upper bounds are passed.


@dataclass(frozen=True)
class Experiment:
    """A phenomenon, how to cause it, and the question to ask before."""

    name: str
    title: str
    body: Body
    question: str
    choices: tuple[str, ...]
    answer: str
    why: str
    links: Mapping[tuple[str, str], Link]
    hosts: tuple[str, ...]
    needs_wire: bool
    seed: int
    seconds: float


def experiment(
    *,
    title: str,
    question: str,
    choices: tuple[str, ...],
    answer: str,
    link: Link | Mapping[tuple[str, str], Link] | None = None,
    back: Link | None = None,
    hosts: tuple[str, ...] = ("client", "server"),
    needs_wire: bool | None = None,
    seed: int = 1,
    seconds: float = 15,
) -> Callable[[Body], Experiment]:
    """Declare an experiment. Its docstring is the explanation that is shown after it.

    link    the properties of every direction, or of the named ones (source, destination)
    back    other properties for what goes back to the first host
    needs_wire   cannot be had on plain loopback; the default: when the link is not perfect
    seconds the time after which it counts as hung
    """
    if answer not in choices:
        raise ValueError(f"the answer {answer!r} is none of the choices")
    links: dict[tuple[str, str], Link] = {}
    if isinstance(link, Link):
        links = {(a, b): link for a in hosts for b in hosts if a != b}
    elif link:
        links = dict(link)
    if back is not None:
        links |= {(a, hosts[0]): back for a in hosts[1:]}
    needs = any(not one.is_perfect or one.mtu != 1500 for one in links.values()) if needs_wire is None else needs_wire

    def declare(body: Body) -> Experiment:
        if not body.__doc__:
            raise ValueError(f"{body.__name__} has no docstring to explain it")
        name = body.__name__.replace("_", "-")
        return Experiment(
            name, title, body, question, choices, answer, body.__doc__, links, hosts, needs, seed, seconds
        )

    return declare


def experiments_of(module: ModuleType) -> list[Experiment]:
    """The experiments of a lab, in the order in which its file declares them."""
    return [value for value in vars(module).values() if isinstance(value, Experiment)]


@dataclass(frozen=True)
class Seen:
    """A packet of the capture, as `Network.packets()` returns it.

    `at` is the vantage point that saw it (a host's name), `source` and `target` are hosts' names,
    `fate` says what the wire did to it ("" for nothing, "dropped: …", "delayed 25.0 ms", …).
    The rest is as in labkit.packets.Packet; the number is Wireshark's frame number.
    """

    number: int
    time: float
    at: str
    source: str
    target: str
    protocol: str
    source_port: int
    target_port: int
    flags: int
    seq: int
    ack: int
    window: int
    payload: bytes
    sack: tuple[tuple[int, int], ...]
    scale: int | None
    fragment_offset: int
    more_fragments: bool
    length: int
    icmp: tuple[int, int] | None
    fate: str

    @property
    def dropped(self) -> bool:
        return self.fate.startswith("dropped")


def seen(records: Iterator[pcapng.Record], names: Mapping[str, str]) -> list[Seen]:
    """Decode a capture's packets, with hosts' names for their addresses."""
    found = []
    for record in records:
        if (p := record.decoded()) is not None:
            fate = record.comment.removeprefix("wire: ")
            found.append(Seen(record.number, record.time, record.interface, names.get(p.source, p.source),
                              names.get(p.destination, p.destination), p.protocol, p.source_port,
                              p.destination_port, p.flags, p.seq, p.ack, p.window, p.payload, p.sack, p.scale,
                              p.fragment_offset, p.more_fragments, p.length, p.icmp, fate))  # fmt: skip
    return found


class Host:
    """A host of the network: its name, its address, and ways to run things on it.

    On the wire each host is a network namespace. On plain loopback all hosts are this machine.
    """

    def __init__(self, name: str, address: str, network: int | None = None, home: int | None = None) -> None:
        self.name, self.address = name, address
        self._network, self._home = network, home
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Within this block, sockets that this thread creates are the host's. Do not await in it."""
        if self._network is None or self._home is None:
            yield
            return
        kernel.enter_network(self._network)
        try:
            yield
        finally:
            kernel.enter_network(self._home)

    def socket(self, kind: int = socket.SOCK_STREAM, timeout: float | None = 10) -> Socket:
        """A new blocking IPv4 socket on this host."""
        with self.entered():
            made = Socket(socket.AF_INET, kind)
        made.settimeout(timeout)
        return made

    def listen(self, port: int, backlog: int = 128, **options: int) -> Socket:
        """A listening TCP socket on this host; *options* are socket options by name (SO_RCVBUF=4096)."""
        made = self.socket()
        for name, value in {"SO_REUSEADDR": 1, **options}.items():
            made.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        made.bind((self.address, port))
        made.listen(backlog)
        return made

    def connect(self, host: Host, port: int) -> Socket:
        """A TCP socket on this host, connected to *host*."""
        made = self.socket()
        try:
            made.connect((host.address, port))
        except BaseException:
            made.close()
            raise
        return made

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on this host's own event loop: whatever sockets it opens are this host's."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._serve_loop, args=(self._loop,), daemon=True, name=self.name).start()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    @contextlib.asynccontextmanager
    async def running(self, manager: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
        """Enter an async context manager on this host's event loop: a server runs there while you go on here."""
        entered = await self.run(entering(manager))
        try:
            yield entered
        finally:
            await self.run(leaving(manager))

    def _serve_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._network is not None:
            kernel.enter_network(self._network)
        asyncio.set_event_loop(loop)
        loop.run_forever()

    def stop(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def popen(self, *argv: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a program on this host."""
        with self.entered():
            return subprocess.Popen(argv, **options)

    def statistics(self, name: str) -> str:
        """The text of /proc/net/<name> as this host sees it ("udp", "tcp", "snmp")."""
        with self.entered():
            return Path(f"/proc/thread-self/net/{name}").read_text()


async def entering(manager: AbstractAsyncContextManager[T]) -> T:
    return await manager.__aenter__()


async def leaving(manager: AbstractAsyncContextManager[Any]) -> None:
    await manager.__aexit__(None, None, None)


@dataclass
class Network:
    """The hosts of an experiment, and the hand on the wire between them."""

    hosts: Mapping[str, Host]
    port: int
    emit: Callable[[Event], None]
    capture: Path | None = None
    section: int = 1
    links: dict[tuple[str, str], Link] = field(default_factory=dict)
    control: Socket | None = None
    failures: list[str] = field(default_factory=list)  # what was measured or expected and did not hold
    slow: int = 0  # how many of these are upper bounds: a machine that stands still looks like a slow network

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    @property
    def client(self) -> Host:
        return self.hosts["client"]

    @property
    def server(self) -> Host:
        return self.hosts["server"]

    @property
    def on_wire(self) -> bool:
        """True on the wire, False on plain loopback."""
        return self.control is not None

    def set_link(self, link: Link, source: str | None = None, target: str | None = None) -> None:
        """Give the link other properties from now on: of all directions, or of the named ones."""
        order = {
            (a, b): link
            for a in self.hosts
            for b in self.hosts
            if a != b and source in (a, None) and target in (b, None)
        }
        self.links |= order
        self._order(order)

    def cut(self) -> None:
        """Cut all cables: whatever is sent from now on is lost. `set_link` mends them."""
        self.set_link(Link(cut=True))

    def rebind(self, host: str = "client", *, address: bool = False) -> None:
        """Let the NAT in front of a host forget what it knew; the first time, put one there.

        From now on the others see what the host sends come from other ports, and (*address*) from another address, too.
        What they still send to the old ones is lost. Nobody is told. The capture shows the host's own view; each
        packet's `fate` names the port that others see, and so does a capture from their side (VANTAGE=server).
        """
        self._order(Rebind(host, address))

    def packets(self) -> list[Seen]:
        """All packets of this experiment that the wire has seen so far, in the order of the capture."""
        if self.capture is None or self.control is None:
            raise CannotRun("This needs the wire's own recording, which plain loopback does not have.")
        self._order({})
        names = {host.address: host.name for host in self.hosts.values()}
        records = (record for record in pcapng.read(self.capture) if record.section == self.section)
        return seen(records, names)

    def _order(self, order: dict[tuple[str, str], Link] | Rebind) -> None:
        if self.control is None:
            raise CannotRun("This needs the wire, which this machine cannot build.")
        self.control.send(pickle.dumps(order))
        self.control.recv(16)

    def measure(
        self, name: str, value: float, unit: str = "", *, at_least: float | None = None, at_most: float | None = None
    ) -> float:
        """Report a measured value and assert its bounds, of which one at least must be given.

        The experiment goes on after a value out of bounds, so that all of them are seen, and fails at its end.
        """
        if at_least is None and at_most is None:
            raise ValueError(f"{name}: a measure without bounds proves nothing")
        if math.isnan(value):
            raise ExperimentFailed(f"{name}: there is no value")
        self.emit({"measure": name, "value": value, "unit": unit, "at_least": at_least, "at_most": at_most})
        if (at_least is not None and value < at_least) or (at_most is not None and value > at_most):
            self.failures.append(f"{name}: {value:g} {unit}".rstrip() + f", expected {bounds(at_least, at_most, unit)}")
            self.slow += at_most is not None and value > at_most != at_least
        return value

    def exactly(self, name: str, value: float, expected: float, unit: str = "") -> float:
        """Report a measured value that must be exactly as expected (a count, a size)."""
        return self.measure(name, value, unit, at_least=expected, at_most=expected)

    def expect(self, text: str, holds: bool) -> None:
        """Report something that was seen, and assert that it was."""
        self.emit({"seen": text, "holds": bool(holds)})
        if not holds:
            self.failures.append(f"not seen: {text}")

    def note(self, text: str) -> None:
        """Tell what happens now."""
        self.emit({"note": text})


def bounds(at_least: float | None, at_most: float | None, unit: str) -> str:
    if at_least is not None and at_least == at_most:
        return f"exactly {at_least:.10g} {unit}".rstrip()
    low = f"at least {at_least:.10g}" if at_least is not None else ""
    high = f"at most {at_most:.10g}" if at_most is not None else ""
    return f"{' and '.join(filter(None, (low, high)))} {unit}".rstrip()


def on_the_wire(inside: Inside, port: int, section: int) -> Network:
    """The network as the experiment process of a world sees it."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    world = inside.world
    hosts = {name: Host(name, world.address(name), inside.networks[name], home) for name in world.hosts}
    return Network(hosts, port, inside.emit, world.capture, section, dict(world.links), inside.control)


def on_loopback(hosts: tuple[str, ...], port: int, emit: Callable[[Event], None]) -> Network:
    """The network where there is no wire: every host is this machine."""
    return Network({name: Host(name, "127.0.0.1") for name in hosts}, port, emit)


def perform(chosen: Experiment, net: Network) -> None:
    """Run one experiment to its end in this process; emit {"failed": …} where it did not hold."""

    async def bounded() -> None:
        async with asyncio.timeout(chosen.seconds):
            await chosen.body(net)
        if net.failures:
            error = ExperimentFailed("; ".join(net.failures))
            error.slow = len(net.failures) == net.slow
            raise error

    try:
        asyncio.run(bounded())
    except ExperimentFailed as error:
        net.emit({"failed": str(error), "slow": error.slow})
    except TimeoutError:
        net.emit({"failed": f"not done after {chosen.seconds:g} s"})
    except CannotRun as error:
        net.emit({"skipped": str(error)})
    except OSError as error:
        if error.errno != errno.EADDRINUSE or net.on_wire:
            raise
        net.emit({"skipped": f"port {net.port} of this machine is in use; is the lab's server running?"})
    finally:
        for host in net.hosts.values():
            host.stop()


def median_ms(action: Callable[[], object], times: int) -> float:
    """The median time, in ms, that *action* takes."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        taken.append(1000 * (time.perf_counter() - start))
    return sorted(taken)[times // 2]


def world_for(chosen: Experiment, number: int, capture: Path | None, append: bool, vantage: str | None) -> World:
    # An experiment that waits is stopped by `perform`; one that blocks its event loop, by the world, a little later.
    seconds = chosen.seconds + 3
    return World(chosen.hosts, number, chosen.links, chosen.seed, capture, append, chosen.name, vantage, seconds)
