"""Asks a capture through tshark, so that the dissector of the field is the judge, not we."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from labkit.sandbox import CannotRun

MINIMUM = (4, 0)  # The oldest version this lab has been tested with.
NO_GUESS = ("--disable-protocol", "rx")
"""For tshark and Wireshark: they have these ports down for AFS, and take one in 25 packets from a new port for it."""
_SECONDS = 60


@functools.cache
def tshark() -> str:
    """The path of a tshark that is new enough. CannotRun, saying what to do, where there is none."""
    path = shutil.which("tshark")
    if path is None:
        raise CannotRun("tshark is not installed. On Debian or Ubuntu: sudo apt install tshark; "
                        "on macOS: brew install wireshark.")  # fmt: skip
    found = version(path)
    if found < MINIMUM:
        have, want = ".".join(map(str, found)), ".".join(map(str, MINIMUM))
        raise CannotRun(f"{path} is version {have}; the lab needs {want} or newer.")
    return path


def version(path: str) -> tuple[int, ...]:
    """The version of a tshark, (0,) when it does not say."""
    try:
        text = subprocess.run(
            [path, "--version"], capture_output=True, text=True, errors="replace", timeout=_SECONDS
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return (0,)
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text.splitlines()[0] if text else "")
    return tuple(int(part) for part in match.groups() if part) if match else (0,)


@dataclass(frozen=True)
class Frame:
    """A packet as tshark sums it up."""

    number: int
    info: str


def fields(capture: Path, display_filter: str, *names: str) -> list[list[str]]:
    """One row per packet that matches, one text per field. CannotRun where tshark refuses."""
    if not capture.is_file():
        raise CannotRun(f"There is no capture {capture}.")
    command = [
        tshark(),
        "-n",
        *NO_GUESS,
        "-r",
        str(capture),
        "-Y",
        display_filter,
        "-T",
        "fields",
        "-E",
        "occurrence=f",
    ]
    for name in names:
        command += ["-e", name]
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_SECONDS, env=environment
        )
    except subprocess.TimeoutExpired:
        raise CannotRun(f"tshark did not finish with {capture} within {_SECONDS} s.") from None
    cut_short = "cut short in the middle of a packet" in done.stderr
    if done.returncode != 0 and not cut_short:
        said = [line for line in done.stderr.splitlines() if line and not line.startswith("Running as user")]
        raise CannotRun(f"tshark cannot read {capture} with {display_filter!r}: {' '.join(said)[:300]}")
    return [line.split("\t") for line in done.stdout.splitlines()]


def frames(capture: Path, display_filter: str) -> list[Frame]:
    """The packets that match a display filter."""
    rows = fields(capture, display_filter, "frame.number", "_ws.col.Info")
    return [Frame(int(row[0]), row[1] if len(row) > 1 else "") for row in rows]
