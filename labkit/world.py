"""The world of one run, from inside: its guard, its process 1 (the wire), its experiment.

`labkit/sandbox.py` starts the guard and listens. See there for who ends when.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from labkit import kernel, pcapng
from labkit.link import Link
from labkit.wire import Port, Wire

Event = dict[str, Any]

PIECE = 60_000  # bytes of an event in one message
_CLIENT_PORTS = "49152 56999"  # Dissectors take a port for a protocol: below and above are some that are registered.
_LINGER_SECONDS = 1.5  # for the last packets of an experiment that is done
_HURRY_SECONDS = 0.3  # the same after Ctrl-C


class CannotRun(Exception):
    """The run is not possible here; the text says why and what to do. Exit code 2."""


@dataclass(frozen=True)
class World:
    """What to build. Hosts get the addresses 10.0.<number>.1, .2, … and the names <host>.lab."""

    hosts: tuple[str, ...] = ("client", "server")
    number: int = 0
    links: Mapping[tuple[str, str], Link] = field(default_factory=dict)
    seed: int = 1
    capture: Path | None = None
    append: bool = False  # add a section to the capture instead of replacing it
    comment: str = ""
    vantage: str | None = "client"
    seconds: float | None = None  # after which the experiment counts as hung and is killed

    def __post_init__(self) -> None:
        if not 1 <= len(set(self.hosts)) == len(self.hosts) <= 254 or not 0 <= self.number <= 255:
            raise ValueError("a world has 1 to 254 hosts of different names, and a number from 0 to 255")
        for pair in self.links:
            if not set(pair) <= set(self.hosts) or pair[0] == pair[1]:
                raise ValueError(f"there is no link {pair}: the hosts are {', '.join(self.hosts)}")

    def address(self, host: str) -> str:
        return f"10.0.{self.number}.{self.hosts.index(host) + 1}"


@dataclass
class Inside:
    """What the experiment process holds: a way into each host, and orders to the wire."""

    world: World
    networks: Mapping[str, int]  # host name → descriptor of its network namespace
    control: socket.socket
    emit: Callable[[Event], None]
    key_log: str | None = None


def cannot_write(world: World, reason: str) -> CannotRun:
    return CannotRun(f"The capture {world.capture} cannot be written: {reason}. Make room or choose another folder.")


def emitter(emitting: socket.socket) -> Callable[[Event], None]:
    """How the world's processes tell the runner something: JSON in pieces.

    A message between processes arrives whole or not at all, and so must an event of several: the
    experiment's threads and processes may all emit, and be killed in the middle of it.
    """

    def emit(event: Event) -> None:
        text = json.dumps(event, allow_nan=False).encode()
        name = os.urandom(8)
        for at in range(0, len(text), PIECE):
            last = at + PIECE >= len(text)
            emitting.send(name + bytes([last]) + text[at : at + PIECE])

    return emit


def guard(
    world: World,
    main: Callable[[Inside], None],
    runner: int,
    lifeline: socket.socket,
    emitting: socket.socket,
    record: int | None,
) -> NoReturn:
    """The guard process: enter the new namespaces, start process 1, wait for it."""
    emit = emitter(emitting)
    try:
        kernel.die_with_parent(runner)
        os.setsid()  # Ctrl-C is for the runner alone, which decides what it means.
        _forget_signal_handlers()
        try:
            kernel.become_root_of_new_world()
        except OSError as error:
            why = " because " + likely if (likely := kernel.why_refused(error)) else ""
            emit({"cannot": f"No network of namespaces can be built here: {_text(error)}{why}."})
            os._exit(2)
        kernel.die_with_parent(runner)  # Again: a change of credentials may clear it (prctl(2)).
        me = os.getpid()
        living, life = os.pipe()
        init = os.fork()
        if init == 0:
            os.close(life)
            kernel.die_with_parent(me)
            if select.select([living], [], [], 0)[0]:  # The guard died before the call.
                os._exit(1)
            _process_one(world, main, lifeline, emit, record)
        os.waitpid(init, 0)
    except BaseException:
        emit({"cannot": "The guard broke. This is a bug in labkit:\n" + traceback.format_exc()})
    finally:
        os._exit(0)


def _forget_signal_handlers() -> None:
    """Take back what the runner (pytest, asyncio, …) wants to be done at signals."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Forget also the one that came while it was blocked.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _process_one(
    world: World,
    main: Callable[[Inside], None],
    lifeline: socket.socket,
    emit: Callable[[Event], None],
    record: int | None,
) -> NoReturn:
    """Process 1 of the world: build the hosts, start the experiment, be the wire."""
    try:
        _forward(world, main, lifeline, emit, record)
    except CannotRun as error:
        emit({"cannot": str(error)})
    except pcapng.CannotWrite as error:
        emit({"cannot": str(cannot_write(world, str(error)))})
    except BaseException:
        emit({"cannot": "The wire broke. This is a bug in labkit:\n" + traceback.format_exc()})
    finally:
        os._exit(0)


def _forward(
    world: World,
    main: Callable[[Inside], None],
    lifeline: socket.socket,
    emit: Callable[[Event], None],
    record: int | None,
) -> None:
    try:
        ports, networks = _build_hosts(world)
        key_log = _private_files(world)
    except OSError as error:
        raise CannotRun(f"The hosts cannot be built here: {_text(error)}. `make doctor` says what to do.") from None
    recorder = pcapng.Writer(record, world.hosts, world.comment, key_log) if record is not None else None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    experiment = os.fork()
    if experiment == 0:
        for end in (lifeline, ours):
            end.close()
        for port in ports.values():
            port.close()
        if record is not None:
            os.close(record)
        _experiment(main, Inside(world, networks, theirs, emit, key_log))
    theirs.close()
    warnings.simplefilter("ignore", ResourceWarning)  # This process ends by vanishing, with all that it has open.
    kernel.precise_timers()
    addresses = {socket.inet_aton(world.address(name)): name for name in world.hosts}
    wire = Wire(ports, addresses, world.links, world.seed, recorder, world.vantage)
    ended = os.pidfd_open(experiment)
    orders = [ours.fileno()]
    deadline = time.monotonic() + world.seconds if world.seconds is not None else float("inf")
    hung = False
    while True:
        ready = wire.step([lifeline.fileno(), ended, *orders], min(1.0, max(0, deadline - time.monotonic())))
        if lifeline.fileno() in ready:  # The runner is gone, or wants us to stop.
            os.kill(experiment, signal.SIGKILL)
            wire.linger(_HURRY_SECONDS)
            return
        if ours.fileno() in ready and not wire.obey(ours):
            orders.clear()
        if ended in ready:
            break
        if not hung and time.monotonic() > deadline:
            hung = True
            emit({"failed": f"it hung, and was stopped after {world.seconds:g} s"})
            os.kill(experiment, signal.SIGKILL)
        _reap_all_but(experiment)
    _, status = os.waitpid(experiment, 0)
    wire.linger(_LINGER_SECONDS)
    if lost := wire.lost():
        emit({"lost": lost})
    if hung or os.WIFEXITED(status):
        emit({"finished": True})


def _reap_all_but(experiment: int) -> None:
    """Process 1 inherits every orphan of its world, and must wait for those that have ended."""
    ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    while ended is not None and ended.si_pid != experiment:
        os.waitpid(ended.si_pid, 0)
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)


def _experiment(main: Callable[[Inside], None], inside: Inside) -> NoReturn:
    """The experiment process."""
    try:
        kernel.die_with_parent(1)
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        if inside.key_log:
            os.environ["SSLKEYLOGFILE"] = inside.key_log
        main(inside)
    except BaseException:
        inside.emit({"crashed": traceback.format_exc()})
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(0)


def _build_hosts(world: World) -> tuple[dict[str, Port], dict[str, int]]:
    """A network namespace for each host, with one cable that ends at the wire."""
    ports, networks = {}, {}
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)  # where the wire's ends of the cables are
    for i, host in enumerate(world.hosts):
        to = {other: world.links.get((host, other), Link()).mtu for other in world.hosts if other != host}
        taken = [world.links.get((other, host), Link()).mtu for other in to]
        mtu = max([*to.values(), *taken], default=1500)  # An interface takes in no more than it may send.
        networks[host] = kernel.new_network()
        kernel.bring_up("lo")
        with contextlib.suppress(OSError):  # Some containers forbid it; then, once in a while, a capture is misread.
            Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(_CLIENT_PORTS)
        kernel.enter_network(here)
        kernel.create_cable(f"wire{i}", "eth0", networks[host])
        kernel.bring_up(f"wire{i}", mtu=9000)
        ports[host] = Port(f"wire{i}", mtu)
        kernel.enter_network(networks[host])
        kernel.bring_up("eth0", world.address(host), mtu)
        for other, limit in to.items():
            if limit < mtu:
                kernel.limit_route("eth0", world.address(other), limit)
        kernel.enter_network(here)
    return ports, networks


def _private_files(world: World) -> str:
    """Mount what only this world sees: its /proc, its /etc/hosts, and a place for the TLS key log."""
    with contextlib.suppress(OSError):  # Many containers forbid it; then `ps` shows others' processes too.
        kernel.mount("proc", "/proc", "proc")
    # Hide nothing that is in use: an empty folder, or shared memory, which is a tmpfs anyway.
    places = [place for place in ("/mnt", "/media", "/srv", "/opt") if os.path.isdir(place) and not os.listdir(place)]
    place = Path([*places, "/dev/shm"][0])
    kernel.mount("tmpfs", str(place), "tmpfs")
    lines = ["127.0.0.1 localhost", *(f"{world.address(h)} {h}.lab {h}" for h in world.hosts)]
    (place / "hosts").write_text("\n".join(lines) + "\n")
    kernel.mount(f"{place}/hosts", "/etc/hosts", "none", kernel.MS_BIND)
    return f"{place}/keylog"


def _text(error: OSError) -> str:
    return str(error.strerror or error)
