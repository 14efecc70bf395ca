"""What all tests share: the clock's unit, tools that may be missing, and a watch for leaks.

A test that leaves a process, a thread, a task or a socket behind fails, and not the innocent one
that runs after it.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import inspect
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

TICK = 0.05 * float(os.environ.get("TICK", "1"))  # seconds; every duration in a test is a multiple of it
"""`TICK=4 make test` gives a slow or busy machine four times as long for everything."""

ON_CI = os.environ.get("CI") == "true"
_GRACE = 40 * TICK  # what a process or a thread that was told to end may take to do so


def cannot(reason: str) -> None:
    """Skip this test, by name of what is missing. On CI nothing may be missing, so there it fails."""
    if ON_CI:
        pytest.fail(f"{reason} (and on CI nothing may skip)")
    pytest.skip(reason)


def need_tool(*names: str) -> str:
    """Skip unless all these programs are installed; return the path of the first."""
    for name in names:
        if shutil.which(name) is None:
            cannot(f"{name} is not installed")
    return str(shutil.which(names[0]))


def need_package(name: str) -> Path:
    """Skip unless this npm package is there (`make peers`); return the folder in which Node finds it."""
    need_tool("node")
    peers = Path(__file__).parent / "peers"
    if not (peers / "node_modules" / name).is_dir():
        cannot(f"the npm package {name} is not installed; make peers")
    return peers


def need_wire() -> None:
    """Skip where no ordinary user can have namespaces; say why."""
    from labkit.run import why_no_wire

    if why := why_no_wire():
        cannot(f"no wire: {why}")


def on_port(port: int, *values: object) -> object:
    """A set of parameters whose test uses a fixed port of this machine: one at a time may."""
    return pytest.param(*values, marks=pytest.mark.exclusive(f"port {port}"))


@pytest.fixture(autouse=True)
def one_at_a_time(request: pytest.FixtureRequest) -> Iterator[None]:
    """Of the tests that are exclusive("something") one runs at a time, whichever worker has it."""
    marker = request.node.get_closest_marker("exclusive")
    if marker is None:
        yield
        return
    name = marker.args[0].replace(" ", "-")
    with open(Path(tempfile.gettempdir()) / f"networking-lab-{os.getuid()}-{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# --- The watch for leaks ------------------------------------------------------------------------


def children() -> set[int]:
    """The process ids of all children of this process, whichever thread started them."""
    found: set[int] = set()
    for task in Path("/proc/self/task").glob("*/children"):
        try:
            found.update(map(int, task.read_text().split()))
        except OSError:
            pass  # The thread has just ended.
    return found


def _describe(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return f"{pid} ({command or 'a zombie: nobody waited for it'})"
    except OSError:
        return str(pid)


def _left_over(now: Callable[[], set], before: set) -> set:
    """What is there now and was not before, once the grace is over. Usually at once: nothing."""
    end = time.monotonic() + _GRACE
    while (left := now() - before) and time.monotonic() < end:
        time.sleep(0.002)
    return left


def _threads() -> set[threading.Thread]:
    # Not counted: the workers of to_thread(), which end with the event loop, after this watch has looked;
    # and gRPC's one thread that polls for all channels of the process, and ends with the process.
    return {one for one in threading.enumerate() if not one.name.startswith("asyncio_") and "_poll" not in one.name}


@pytest.fixture(autouse=True, scope="module")
def what_stays_is_not_looked_at_again() -> None:
    """What earlier modules keep (recorded packets, code) would make each collection below ten times as slow."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Fail the test that leaves a child process or a thread behind, or drops a socket unclosed."""
    processes, threads = children(), _threads()
    yield
    gc.collect()  # An unclosed socket warns when it is collected, and a warning is an error here.
    if left := _left_over(_threads, threads):
        pytest.fail(f"leaked threads: {', '.join(thread.name for thread in left)}")
    if pids := _left_over(children, processes):
        pytest.fail(f"leaked processes: {', '.join(map(_describe, pids))}")


@pytest.fixture
async def no_task_leaks() -> AsyncIterator[None]:
    """Fail the test that leaves a task running on its event loop. Every async test has this."""
    yield
    end = time.monotonic() + _GRACE
    while (left := asyncio.all_tasks() - {asyncio.current_task()}) and time.monotonic() < end:  # noqa: ASYNC110
        await asyncio.sleep(0.002)
    if left:
        pytest.fail(f"leaked tasks: {', '.join(map(repr, left))}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("exclusive"):
            item.add_marker(pytest.mark.timeout(180))  # Waiting for one's turn counts.
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.fixturenames.insert(0, "no_task_leaks")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What passed only when it was tried again is said: it may be the machine, and it may be a fault that hides."""
    passed = terminalreporter.stats.get("passed", [])
    if again := [(one.nodeid, text) for one in passed for key, text in one.user_properties if key == "again"]:
        terminalreporter.section("tried again")
        for name, text in again:
            terminalreporter.write_line(f"{name}: {text}")


def pytest_configure() -> None:
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # where Debian hides nginx and other servers from ordinary users
    # Programs in the background of a script inherit that SIGINT is ignored; then no Ctrl-C could be tested.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The tests start hundreds of interpreters, and each would compile all that it imports.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # How long an example takes says more about the machine than about the code.
    hypothesis.settings.register_profile("lab", hypothesis.settings.default, deadline=None)
    hypothesis.settings.load_profile("lab")
