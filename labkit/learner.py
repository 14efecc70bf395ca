"""Runs a learner's program in a process of its own, within limits, and reports its end.

The checker forks it off (`start`), which takes a hundredth of the time that a new interpreter would
need; by hand it is

    python -m labkit.learner CHECK_FILE ROLE EXERCISE_FILE [ARGUMENT …]

Either way the exercise is imported and `ROLE(exercise, *arguments)` of the check file is called. The
program may do what it likes: it has bounded memory, processor time, files and processes, none of the
checker's descriptors, and (on the wire) a PID namespace of its own, so that all it ever started ends
with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import importlib.util
import json
import os
import re
import resource
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType, ModuleType
from typing import NoReturn

from labkit import kernel
from labkit.sandbox import fork

MEMORY = 1 << 30  # bytes of address space
PROCESSOR_SECONDS = 20
PROCESSES = 64
LEAST_PID_MAX = 301  # The kernel takes no less.
FILE_SIZE = 64 << 20  # bytes a program may write to one file
WHERE = signal.SIGUSR1  # makes a program print the lines at which it is


def load(path: Path, name: str) -> ModuleType:
    """Import a Python file that is not in a package."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def start(check_file: Path, role: str, exercise_file: Path, arguments: list[str], output: int, result: int) -> int:
    """Fork a process that runs the role; return its id. It leads a session, so killpg() reaches all of it.

    *output* and *result* are descriptors: what it prints, and what the role returns, as JSON.
    """
    checker = os.getpid()
    pid = fork()
    if pid == 0:
        try:
            kernel.die_with_parent(checker)
            _become_a_stranger(output, result)
            _run(str(check_file), role, str(exercise_file), arguments, _RESULT)
        finally:
            os._exit(3)
    return pid


_RESULT = 3  # the descriptor, in the learner's process


def kill(pid: int) -> None:
    """Kill a learner's process and all that it ever started, also what has left its session."""
    with contextlib.suppress(ProcessLookupError):
        while found := _descendants(pid):  # What they started meanwhile is found the next time.
            for one in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
            if all(_is_zombie(one) for one in found):
                break
        os.killpg(pid, signal.SIGKILL)


def end(pid: int) -> None:
    """End a learner's process that is in our own session (run by hand) and all that it has started, quietly."""
    below = _descendants(pid)
    for one in (pid, *below):
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    """The processes below *pid*, which adopts their orphans (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *_descendants(child)]
    return found


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _become_a_stranger(output: int, result: int) -> None:
    """Right after a fork: drop all that belongs to the checker, its descriptors, signals and event loop."""
    gc.freeze()  # Objects of the checker must never be collected here: they would close our descriptors.
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(WHERE, signal.SIG_IGN)  # The program's own process shows it, not the one that waits for it.
    asyncio.events._set_running_loop(None)
    nothing = os.open(os.devnull, os.O_RDONLY)
    output, result = (fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (output, result))
    for source, target in ((nothing, 0), (output, 1), (output, 2), (result, _RESULT)):
        os.dup2(source, target)
    os.closerange(_RESULT + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    sys.stdin = open(0, closefd=False)
    sys.stdout = open(1, "w", buffering=1, errors="replace", closefd=False)
    sys.stderr = open(2, "w", buffering=1, errors="replace", closefd=False)


def _run(check_file: str, role: str, exercise_file: str, arguments: list[str], result: int | None) -> NoReturn:
    """Run the role in a child of this process, and in a PID namespace where that may be had."""
    with contextlib.suppress(OSError):
        kernel.unshare(kernel.NEW_PID)  # Only in a world of our own; elsewhere a process group must do.
    me = os.getpid()
    kernel.adopt_orphans()
    child = fork()
    if child == 0:
        status = 3
        try:
            kernel.die_with_parent(me)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(WHERE, lambda _, frame: _show_where(frame, exercise_file))
            _limit()
            status = _work(check_file, role, exercise_file, arguments, result)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    for orphan in _descendants(me):
        with contextlib.suppress(ProcessLookupError):
            os.kill(orphan, signal.SIGKILL)
    if os.WIFSIGNALED(ended):
        print(f"the program was killed by {signal.Signals(os.WTERMSIG(ended)).name}", file=sys.stderr, flush=True)
        os._exit(4)
    os._exit(os.waitstatus_to_exitcode(ended))


def _show_where(frame: FrameType | None, exercise_file: str) -> None:
    """Print the exercise's own lines at which this process is, or at which its tasks wait."""
    stacks = [traceback.extract_stack(frame)]
    with contextlib.suppress(RuntimeError):  # No event loop is running.
        for task in asyncio.all_tasks():
            lines = [(one, one.f_lineno) for one in task.get_stack()]
            stacks.append(traceback.StackSummary.extract(iter(lines)))
    for stack in stacks:
        if own := [line for line in stack if line.filename == exercise_file]:
            print("It is here now:\n" + "".join(traceback.format_list(own)).rstrip(), file=sys.stderr, flush=True)


def _limit() -> None:
    limits = {
        resource.RLIMIT_AS: MEMORY + _address_space(),
        resource.RLIMIT_CPU: PROCESSOR_SECONDS,
        resource.RLIMIT_NPROC: PROCESSES + _running(),
        resource.RLIMIT_FSIZE: FILE_SIZE,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in limits.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (most, most))
    if os.getpid() == 1 and _kernel() >= (6, 14):
        # In a PID namespace of its own, which since that version counts by itself: for root, RLIMIT_NPROC is no limit.
        with contextlib.suppress(OSError):
            Path("/proc/sys/kernel/pid_max").write_text(str(LEAST_PID_MAX))
    kernel.forbid_privileges()


def _kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", os.uname().release)[:2])


def _running() -> int:
    """How many processes and threads this user has already: the limit is on all of them together."""
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.stat().st_uid == os.getuid():
                count += len(os.listdir(process / "task"))
    return count


def _address_space() -> int:
    """Bytes of address space that this process has already, much of it shared with the checker; 0 if unknown."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _work(check_file: str, role: str, exercise_file: str, arguments: list[str], result: int | None) -> int:
    try:
        check = load(Path(check_file), "check")
        exercise = load(Path(exercise_file), "exercise")
        returned = getattr(check, role)(exercise, *arguments)
        if result is not None:
            os.write(result, json.dumps(returned).encode())
    except SystemExit as error:
        print(f"the program called sys.exit({error.code!r})", file=sys.stderr)
        return 3
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and result is None:
            return 0  # By hand, Ctrl-C is the way to end it.
        # Only the learner's own lines: the harness around them is not theirs to debug.
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == exercise_file]
        lines = ["Traceback (most recent call last):\n", *traceback.format_list(frames)] if frames else []
        print("".join([*lines, *traceback.format_exception_only(error)]).rstrip(), file=sys.stderr)
        return 3
    return 0


def main() -> None:
    check_file, role, exercise_file, *arguments = sys.argv[1:]
    kernel.die_with_parent(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # It is the program that Ctrl-C is for; we wait for its end.
    _run(check_file, role, exercise_file, arguments, None)


if __name__ == "__main__":
    main()
