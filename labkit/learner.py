"""Runs a learner's program in a process of its own, within limits, and reports its end.

    python -m labkit.learner CHECK_FILE ROLE EXERCISE_FILE [ARGUMENT …]

imports the exercise and calls `ROLE(exercise, *arguments)` of the check file. What it returns is
written as JSON to the descriptor named by LABKIT_RESULT. The program may do what it likes: it has
bounded memory, processor time, files and processes, and (on the wire) a PID namespace of its own, so
that all it ever started ends with it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import resource
import sys
import traceback
from pathlib import Path
from types import ModuleType

from labkit import kernel

MEMORY = 1 << 30  # bytes of address space
PROCESSOR_SECONDS = 20
PROCESSES = 64
FILE_SIZE = 64 << 20  # bytes a program may write to one file


def load(path: Path, name: str) -> ModuleType:
    """Import a Python file that is not in a package."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _limit() -> None:
    limits = {
        resource.RLIMIT_AS: MEMORY,
        resource.RLIMIT_CPU: PROCESSOR_SECONDS,
        resource.RLIMIT_NPROC: PROCESSES,
        resource.RLIMIT_FSIZE: FILE_SIZE,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in limits.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (most, most))
    kernel.forbid_privileges()


def _work(check_file: str, role: str, exercise_file: str, arguments: list[str]) -> int:
    try:
        check = load(Path(check_file), "check")
        exercise = load(Path(exercise_file), "exercise")
        result = getattr(check, role)(exercise, *arguments)
        if descriptor := os.environ.get("LABKIT_RESULT"):
            os.write(int(descriptor), json.dumps(result).encode())
    except SystemExit as error:
        print(f"the program called sys.exit({error.code!r})", file=sys.stderr)
        return 3
    except BaseException as error:
        # Only the learner's own lines: the harness around them is not theirs to debug.
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == exercise_file]
        if isinstance(error, SyntaxError):
            frames = []
        lines = ["Traceback (most recent call last):\n", *traceback.format_list(frames)] if frames else []
        print("".join([*lines, *traceback.format_exception_only(error)]).rstrip(), file=sys.stderr)
        return 3
    return 0


def main() -> None:
    check_file, role, exercise_file, *arguments = sys.argv[1:]
    with contextlib.suppress(OSError):
        kernel.unshare(kernel.NEW_PID)  # Only in a world of our own; elsewhere a process group must do.
    me = os.getpid()
    child = os.fork()
    if child == 0:
        kernel.die_with_parent(me)
        _limit()
        status = 3
        try:
            status = _work(check_file, role, exercise_file, arguments)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    if os.WIFSIGNALED(ended):
        print(f"the program was killed by signal {os.WTERMSIG(ended)}", file=sys.stderr, flush=True)
        os._exit(4)
    os._exit(os.waitstatus_to_exitcode(ended))


if __name__ == "__main__":
    main()
