"""A little world of hosts that lives as long as one run: namespaces, processes, and their end.

    runner ── guard ── wire (process 1 of the world) ── experiment ── whatever it starts

The guard exists because a PID namespace begins with the *next* child. The wire is process 1, so when
it ends the kernel kills everything in the world; it ends when the experiment does, when the runner
closes its lifeline (also by dying), and it is killed when the guard dies. So nothing outlives a run,
whichever of these processes is killed, and there is nothing to clean up: no device, no namespace
with a name, no temporary file.
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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labkit import kernel
from labkit.link import Link
from labkit.pcapng import Writer
from labkit.wire import Port, Wire

Event = dict[str, Any]

_STOP_SECONDS = 3.0  # what a world gets to finish its capture before it is killed


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


def run(world: World, main: Callable[[Inside], None], on_event: Callable[[Event], None]) -> None:
    """Build *world*, run *main* in its experiment process, pass on the events it emits.

    Returns when nothing of the world is left. Raises CannotRun where the machine forbids it, the
    capture cannot be written, or a process of the world was killed. KeyboardInterrupt passes
    through, after the capture is complete.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    lifeline_read, lifeline = os.pipe()
    events, events_write = os.pipe()
    guard = os.fork()
    if guard == 0:
        os.close(lifeline)
        os.close(events)
        _guard(world, main, lifeline_read, events_write)
    os.close(lifeline_read)
    os.close(events_write)
    finished = False
    try:
        for event in _events(events):
            if "cannot" in event:
                raise CannotRun(event["cannot"])
            if "finished" in event:
                finished = True
            else:
                on_event(event)
    finally:
        os.close(lifeline)
        _wait(guard)
        os.close(events)
    if not finished:
        raise CannotRun("A process of the run was killed from outside before it was done. Run it again.")


def _events(fd: int) -> list[Event] | Any:
    with os.fdopen(os.dup(fd), encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)


def _wait(pid: int) -> None:
    """Wait for the guard, and with it for the world; kill it when it takes too long."""
    end = time.monotonic() + _STOP_SECONDS
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return
        time.sleep(0.002)


def _emitter(fd: int) -> Callable[[Event], None]:
    def emit(event: Event) -> None:
        os.write(fd, (json.dumps(event) + "\n").encode())

    return emit


def _guard(world: World, main: Callable[[Inside], None], lifeline: int, events: int) -> None:
    """The guard process: enter the new namespaces, start process 1, wait for it. Never returns."""
    emit = _emitter(events)
    try:
        kernel.die_with_parent(os.getppid())
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # The runner decides what Ctrl-C means.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            kernel.become_root_of_new_world()
        except OSError as error:
            emit({"cannot": f"This machine lets no ordinary user build a network of namespaces ({error}). "
                            "`make doctor` says what to do."})  # fmt: skip
            os._exit(2)
        me = os.getpid()
        init = os.fork()
        if init == 0:
            _process_one(world, main, me, lifeline, emit)
        os.close(lifeline)
        os.waitpid(init, 0)
    finally:
        os._exit(0)


def _process_one(
    world: World, main: Callable[[Inside], None], guard: int, lifeline: int, emit: Callable[[Event], None]
) -> None:
    """Process 1 of the world: build the hosts, start the experiment, be the wire. Never returns."""
    try:
        kernel.die_with_parent(guard)
        _forward(world, main, lifeline, emit)
    except CannotRun as error:
        emit({"cannot": str(error)})
    except BaseException:
        emit({"cannot": "The wire broke. This is a bug in labkit:\n" + traceback.format_exc()})
    finally:
        os._exit(0)


def _forward(world: World, main: Callable[[Inside], None], lifeline: int, emit: Callable[[Event], None]) -> None:
    recorder = _open_recorder(world)
    try:
        ports, networks = _build_hosts(world)
    except OSError as error:
        raise CannotRun(f"The hosts cannot be built here: {error}. `make doctor` says what to do.") from None
    key_log = _private_files(world)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    wake, woken = socket.socketpair()
    woken.setblocking(False)
    experiment = os.fork()
    if experiment == 0:
        for descriptor in (lifeline, ours.fileno(), wake.fileno(), woken.fileno()):
            os.close(descriptor)
        _experiment(main, Inside(world, networks, theirs, emit, key_log), emit)
    theirs.close()
    addresses = {socket.inet_aton(world.address(name)): name for name in world.hosts}
    wire = Wire(ports, addresses, world.links, world.seed, recorder, world.vantage, key_log)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken.fileno())
    try:
        running = True
        while running:
            for descriptor in wire.step((lifeline, ours.fileno(), wake.fileno()), 1.0):
                if descriptor == lifeline:  # The runner is gone, or wants us to stop.
                    os.kill(experiment, signal.SIGKILL)
                    wire.linger()
                    return
                if descriptor == ours.fileno():
                    wire.obey(ours)
                if descriptor == wake.fileno():
                    wake.recv(4096)
            running = _still_running(experiment, emit)
        wire.linger()
    except OSError as error:
        raise CannotRun(_discard(world, error)) from None
    if lost := wire.lost():
        emit({"lost": lost})


def _still_running(experiment: int, emit: Callable[[Event], None]) -> bool:
    """Reap what has ended: process 1 inherits every orphan. False when the experiment is done."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            if ended[0] == experiment:
                if os.WIFEXITED(ended[1]):
                    emit({"finished": True})
                return False
    return True


def _experiment(main: Callable[[Inside], None], inside: Inside, emit: Callable[[Event], None]) -> None:
    """The experiment process. Never returns."""
    try:
        kernel.die_with_parent(1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if inside.key_log:
            os.environ["SSLKEYLOGFILE"] = inside.key_log
        main(inside)
    except BaseException:
        emit({"crashed": traceback.format_exc()})
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(0)


def _open_recorder(world: World) -> Writer | None:
    if world.capture is None:
        return None
    how = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_APPEND if world.append else os.O_TRUNC)
    try:
        fd = os.open(world.capture, how, 0o644)
        os.lseek(fd, 0, os.SEEK_END)
        return Writer(fd, world.hosts, world.comment)
    except OSError as error:
        raise CannotRun(_discard(world, error)) from None


def _discard(world: World, error: OSError) -> str:
    """Remove the capture that could not be written; say so."""
    if world.capture is not None and not isinstance(error, PermissionError):
        with contextlib.suppress(OSError):
            os.unlink(world.capture)
    return f"The capture {world.capture} cannot be written: {error.strerror}. Make room or choose another folder."


def _build_hosts(world: World) -> tuple[dict[str, Port], dict[str, int]]:
    """A network namespace for each host, with one cable that ends at the wire."""
    ports, networks = {}, {}
    here = kernel.new_network()  # where the wire's ends of the cables are
    for i, host in enumerate(world.hosts):
        mtu = min((link.mtu for (source, _), link in world.links.items() if source == host), default=1500)
        networks[host] = kernel.new_network()
        kernel.bring_up("lo")
        kernel.enter_network(here)
        kernel.create_cable(f"wire{i}", "eth0", networks[host])
        kernel.bring_up(f"wire{i}", mtu=9000)
        ports[host] = Port(f"wire{i}", mtu)
        kernel.enter_network(networks[host])
        kernel.bring_up("eth0", world.address(host), mtu)
        kernel.enter_network(here)
    return ports, networks


def _private_files(world: World) -> str | None:
    """Mount what only this world sees: its /proc, its /etc/hosts, and a place for the TLS key log."""
    with contextlib.suppress(OSError):
        kernel.mount("proc", "/proc", "proc")
    place = next((p for p in ("/mnt", "/media", "/srv", "/opt") if os.path.isdir(p)), None)
    if place is None:
        return None
    try:
        kernel.mount("tmpfs", place, "tmpfs")
        lines = ["127.0.0.1 localhost", *(f"{world.address(h)} {h}.lab {h}" for h in world.hosts)]
        Path(place, "hosts").write_text("\n".join(lines) + "\n")
        kernel.mount(f"{place}/hosts", "/etc/hosts", "none", kernel.MS_BIND)
    except OSError:
        return None  # Names do not resolve then; addresses do.
    return f"{place}/keylog"


def why_not() -> str:
    """Why no world can be built on this machine, in one sentence; "" when one can."""
    if not sys.platform.startswith("linux"):
        return f"network namespaces are a Linux thing, and this is {sys.platform}"
    try:
        run(World(), lambda inside: None, lambda event: None)
    except CannotRun as error:
        return str(error)
    return ""


def wait_readable(fd: int, seconds: float) -> bool:
    """True when *fd* becomes readable within the time."""
    return bool(select.select([fd], [], [], seconds)[0])
