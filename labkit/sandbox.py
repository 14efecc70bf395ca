"""A little world of hosts that lives as long as one run: namespaces, processes, and their end.

    runner ── guard ── wire (process 1 of the world) ── experiment ── whatever it starts

The guard exists because a PID namespace begins with the *next* child. The wire is process 1, so when
it ends the kernel kills everything in the world. It ends when the experiment does, when the runner
shuts its lifeline, and it is killed when the guard dies, as the guard is when the runner dies. So
nothing outlives a run, whichever of these processes is killed, and there is nothing to clean up: no
device, no namespace with a name, no temporary file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from labkit import kernel, pcapng
from labkit.link import Link
from labkit.wire import Port, Wire

Event = dict[str, Any]

_LINGER_SECONDS = 1.5  # for the last packets of an experiment that is done
_HURRY_SECONDS = 0.3  # the same after Ctrl-C
_STOP_SECONDS = 3.0  # what a world gets to finish its capture before it is killed
_LOCK_SECONDS = 1.0  # a run that was killed may need a moment to let go of its capture
_PIECE = 60_000  # bytes of an event in one message


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


# --- The runner's side --------------------------------------------------------------------------


def run(world: World, main: Callable[[Inside], None], on_event: Callable[[Event], None]) -> None:
    """Build *world*, run *main* in its experiment process, pass on the events it emits.

    Returns when nothing of the world is left. Raises CannotRun where the machine forbids it, the
    capture cannot be written, or a process of the world was killed. KeyboardInterrupt passes
    through, after the capture is complete.
    """
    _fill_standard_descriptors()
    record = _open_capture(world)
    # Sockets, not pipes: shutdown() ends the conversation even while a world that another thread is
    # just starting holds copies of the descriptors.
    lifeline, held = socket.socketpair()
    events, emitting = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    finished = False
    guard = 0
    try:
        runner = os.getpid()
        guard = _fork()
        if guard == 0:
            lifeline.close()
            events.close()
            _guard(world, main, runner, held, emitting, record)
        held.close()
        emitting.close()
        for event in _received(events):
            if "cannot" in event:
                raise CannotRun(event["cannot"])
            if "finished" in event:
                finished = True
            else:
                on_event(event)
    finally:
        for end in (lifeline, events):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for end in (lifeline, held, events, emitting):
            end.close()
        if guard:
            _wait(guard)
        if record is not None:
            if os.fstat(record).st_size == 0 and world.capture is not None:
                world.capture.unlink(missing_ok=True)  # Nothing was recorded: leave no empty file.
            fcntl.flock(record, fcntl.LOCK_UN)  # A world that another thread is just starting has a copy.
            os.close(record)
    if not finished:
        raise CannotRun("A process of the run was killed from outside before it was done. Run it again.")


def why_not() -> str:
    """Why no world can be built on this machine, in one sentence; "" when one can."""
    if not sys.platform.startswith("linux"):
        return f"network namespaces are a Linux thing, and this is {sys.platform}"
    try:
        run(World(), lambda inside: None, lambda event: None)
    except CannotRun as error:
        return str(error)
    return ""


def _fill_standard_descriptors() -> None:
    """Where standard input or output is closed, open /dev/null for it: else our sockets would take its number."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def _fork() -> int:
    for stream in (sys.stdout, sys.stderr):  # Else both processes would print what waits.
        with contextlib.suppress(Exception):
            stream.flush()
    with warnings.catch_warnings():  # Forking with threads: the child uses no lock that they could hold.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _open_capture(world: World) -> int | None:
    """Open the capture out here, where its folder's rights are those of the user."""
    if world.capture is None:
        return None
    try:
        fd = os.open(world.capture, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _cannot_write(world, str(error.strerror)) from None
    try:
        _lock(fd)
        if world.append:
            pcapng.trim(fd)
        else:
            os.ftruncate(fd, 0)
    except BlockingIOError:
        os.close(fd)
        raise CannotRun(f"Another run is recording into {world.capture}. Wait for its end.") from None
    except (OSError, pcapng.BadCapture) as error:
        os.close(fd)
        raise CannotRun(f"Nothing can be added to {world.capture}: {error}.") from None
    return fd


def _lock(fd: int) -> None:
    """Have the capture for this run alone; BlockingIOError where another run has it."""
    end = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise
        time.sleep(0.01)


def _cannot_write(world: World, reason: str) -> CannotRun:
    return CannotRun(f"The capture {world.capture} cannot be written: {reason}. Make room or choose another folder.")


def _wait(guard: int) -> None:
    """Wait for the guard, and with it for the world; kill it when it takes too long, or at a second Ctrl-C."""
    end = time.monotonic() + _STOP_SECONDS
    with contextlib.suppress(ChildProcessError):  # Somebody else has waited for it, or SIGCHLD is ignored.
        try:
            while os.waitpid(guard, os.WNOHANG) == (0, 0):
                if time.monotonic() > end:
                    raise TimeoutError
                time.sleep(0.002)
        except BaseException as error:
            os.kill(guard, signal.SIGKILL)
            os.waitpid(guard, 0)
            if not isinstance(error, TimeoutError):
                raise


# --- Events: JSON in pieces -----------------------------------------------------------------------
# A message between processes arrives whole or not at all, and so does an event made of several: the
# experiment's threads and processes may all emit, and be killed in the middle of it.


def _emitter(emitting: socket.socket) -> Callable[[Event], None]:
    def emit(event: Event) -> None:
        text = json.dumps(event, allow_nan=False).encode()
        name = os.urandom(8)
        for at in range(0, len(text), _PIECE):
            last = at + _PIECE >= len(text)
            emitting.send(name + bytes([last]) + text[at : at + _PIECE])

    return emit


def _received(events: socket.socket) -> Iterator[Event]:
    pieces: dict[bytes, bytes] = {}
    while message := events.recv(_PIECE + 9):
        name, last, piece = message[:8], message[8], message[9:]
        pieces[name] = pieces.get(name, b"") + piece
        if last:
            yield json.loads(pieces.pop(name))


# --- The world's side -----------------------------------------------------------------------------


def _guard(
    world: World,
    main: Callable[[Inside], None],
    runner: int,
    lifeline: socket.socket,
    emitting: socket.socket,
    record: int | None,
) -> NoReturn:
    """The guard process: enter the new namespaces, start process 1, wait for it."""
    emit = _emitter(emitting)
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
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


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
        emit({"cannot": str(_cannot_write(world, str(error)))})
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
    here = kernel.new_network()  # where the wire's ends of the cables are
    for i, host in enumerate(world.hosts):
        to = {other: world.links.get((host, other), Link()).mtu for other in world.hosts if other != host}
        taken = [world.links.get((other, host), Link()).mtu for other in to]
        mtu = max([*to.values(), *taken], default=1500)  # An interface takes in no more than it may send.
        networks[host] = kernel.new_network()
        kernel.bring_up("lo")
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
