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
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator

from labkit import pcapng
from labkit.world import PIECE, CannotRun, Event, Inside, World, cannot_write, guard

__all__ = ["CannotRun", "Event", "Inside", "World", "run", "why_not"]

_STOP_SECONDS = 3.0  # what a world gets to finish its capture before it is killed
_LOCK_SECONDS = 1.0  # a run that was killed may need a moment to let go of its capture


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
    pid = 0
    try:
        runner = os.getpid()
        pid = fork()
        if pid == 0:
            lifeline.close()
            events.close()
            guard(world, main, runner, held, emitting, record)
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
        try:
            if pid:
                _wait(pid)
        finally:
            _close_capture(world, record)
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


def fork() -> int:
    """os.fork() for a process that may have threads and unwritten output."""
    for stream in (sys.stdout, sys.stderr):  # Else both processes would print what waits.
        with contextlib.suppress(Exception):
            stream.flush()
    # Ctrl-C must not raise KeyboardInterrupt in the child, which would run on in the runner's own code.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    with warnings.catch_warnings():  # Forking with threads: the child uses no lock that they could hold.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _open_capture(world: World) -> int | None:
    """Open the capture out here, where its folder's rights are those of the user."""
    if world.capture is None:
        return None
    try:
        fd = os.open(world.capture, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise cannot_write(world, str(error.strerror)) from None
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


def _close_capture(world: World, fd: int | None) -> None:
    if fd is None or world.capture is None:
        return
    if os.fstat(fd).st_size == 0:
        world.capture.unlink(missing_ok=True)  # Nothing was recorded: leave no empty file.
    fcntl.flock(fd, fcntl.LOCK_UN)  # A world that another thread is just starting has a copy of it.
    os.close(fd)


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


def _wait(guard: int) -> None:
    """Wait for the guard, and with it for the world; kill it when it takes too long, or at a second Ctrl-C."""
    end = time.monotonic() + _STOP_SECONDS
    try:
        while os.waitpid(guard, os.WNOHANG) == (0, 0):
            if time.monotonic() > end:
                raise TimeoutError
            time.sleep(0.002)
    except ChildProcessError:  # Somebody else has waited for it, or SIGCHLD is ignored: it is gone.
        return
    except BaseException as error:
        os.kill(guard, signal.SIGKILL)
        os.waitpid(guard, 0)
        if not isinstance(error, TimeoutError):
            raise


def _received(events: socket.socket) -> Iterator[Event]:
    pieces: dict[bytes, bytes] = {}
    while message := events.recv(PIECE + 9):
        name, last, piece = message[:8], message[8], message[9:]
        pieces[name] = pieces.get(name, b"") + piece
        if last:
            yield json.loads(pieces.pop(name))
