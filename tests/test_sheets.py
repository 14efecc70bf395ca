"""Every command on a sheet is run, as it stands there, in a fresh copy of the project."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from labkit import catalog
from tests.clone import fresh_clone
from tests.conftest import need_tool, need_wire, on_port

LABS = catalog.labs()
RUNS_UNTIL_STOPPED = re.compile(r"^make \w+-(server|capture|exercise)\b")
TOOLS = ("tshark", "nc", "ncat", "socat", "curl", "openssl", "nghttp", "h2load", "capinfos", "editcap", "ss", "tcpdump")


@dataclass(frozen=True)
class Sheet:
    name: str
    path: Path
    port: int

    def blocks(self) -> list[list[str]]:
        """The commands of each ```sh block, comments and blank lines left out."""
        found = []
        for block in re.findall(r"^```sh\n(.*?)^```", self.path.read_text(encoding="utf-8"), re.M | re.S):
            lines = [re.sub(r"\s{2,}# .*$", "", line).rstrip() for line in block.replace("\\\n", " ").splitlines()]
            found.append([line for line in lines if line and not line.startswith("#")])
        return found


SHEETS = [Sheet(lab.slug, lab.folder / "README.md", lab.port) for lab in LABS]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    folder = fresh_clone(tmp_path_factory.mktemp("sheets"))
    (folder / "bin").mkdir()
    wireshark = folder / "bin/wireshark"  # No window on a test machine: that it would open the file is enough.
    wireshark.write_text('#!/bin/sh\nfor last; do :; done; test -s "$last"\n')  # The file is its last argument.
    wireshark.chmod(0o755)
    return folder


def run(clone: Path, line: str, seconds: float = 55) -> subprocess.CompletedProcess[str]:
    path = f"{clone}/bin:{os.environ['PATH']}"
    return subprocess.run(["bash", "-c", line], cwd=clone, capture_output=True, text=True, timeout=seconds,
                          stdin=subprocess.DEVNULL, env={**os.environ, "PATH": path, "CI": ""})  # fmt: skip


@contextlib.contextmanager
def background(clone: Path, line: str, port: int):
    """Run a command that lasts until Ctrl-C; it must then end by itself, with 0."""
    process = subprocess.Popen(
        ["bash", "-c", f"exec {line}"], cwd=clone, text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        wait_until_ready(process, port, line)
        yield
    except BaseException:  # A command beside it has failed: what runs must not be taken for the next test's server.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=10)
    # What make says of a Ctrl-C: 2, or that it died of it, although the program ended well.
    assert process.returncode in (0, 2, 130, -signal.SIGINT), f"{line}: {said}"
    assert "Traceback" not in said


def wait_until_ready(process: subprocess.Popen[str], port: int, line: str) -> None:
    """A server is ready when the port is taken, for TCP or for UDP; a capture says so in its first line."""
    if "-capture" in line:
        assert "Recording" in process.stdout.readline()
        return
    end = time.monotonic() + 10
    while time.monotonic() < end and process.poll() is None:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_INET, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind == socket.SOCK_STREAM)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    return
        time.sleep(0.02)
    pytest.fail(f"{line} is not ready: {process.stdout.read() if process.poll() is not None else 'it says nothing'}")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("sheet", [on_port(sheet.port, sheet) for sheet in SHEETS], ids=lambda sheet: sheet.name)
def test_every_command_on_the_sheet_runs(sheet, clone):
    need_wire()
    blocks = sheet.blocks()
    assert sum(map(len, blocks)) >= 5, "a sheet without commands teaches nothing"
    for tool in TOOLS:
        if any(re.search(rf"\b{tool}\b", line) for block in blocks for line in block):
            need_tool(tool)
    ran: set[str] = set()
    shutil.rmtree(clone / "captures", ignore_errors=True)
    for block in blocks:
        alone = True  # Beside a server that runs, the same line may be another matter.
        with contextlib.ExitStack() as running:
            for line in block:
                if RUNS_UNTIL_STOPPED.match(line):
                    running.enter_context(background(clone, line, sheet.port))
                    alone = False
                elif line not in ran or not alone:
                    ran.add(line)
                    done = run(clone, line)
                    if re.fullmatch(rf"make {sheet.name}( EXP=[\w-]+)?", line):
                        run_again_what_failed(clone, sheet, done)
                    else:
                        assert_ran(line, done)


@pytest.mark.parametrize("sheet", SHEETS, ids=lambda sheet: sheet.name)
def test_every_display_filter_on_the_sheet_compiles(sheet, tmp_path):
    """One with a field that this tshark does not know shows an error, and nothing else."""
    need_tool("tshark")
    filters = []
    for header, rows in re.findall(
        r"^(\|.*\bfilter \|.*)\n\|[-|]+\n((?:\|.*\n)+)", sheet.path.read_text("utf-8"), re.M
    ):
        column = [cell.strip() for cell in header.split("|")].index("filter")
        cells = [re.split(r"(?<!\\)\|", row)[column] for row in rows.splitlines()]
        filters += [one.replace(r"\|", "|") for cell in cells for one in re.findall(r"`(.+)`", cell)]
    assert len(filters) >= 3
    empty = tmp_path / "empty.pcap"
    empty.write_bytes(bytes.fromhex("d4c3b2a1020004000000000000000000ffff000065000000"))
    together = " || ".join(f"({one})" for one in filters)  # tshark starts slowly: only once.
    done = subprocess.run(["tshark", "-r", empty, "-Y", together], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def run_again_what_failed(clone: Path, sheet: Sheet, done: subprocess.CompletedProcess[str]) -> None:
    """Do what the lab says of a measure out of bounds: a busy machine can do that, run it again.

    That the bounds hold is asserted by tests/test_labs.py, where nothing else runs beside the experiment.
    """
    failed = re.search(r"^  Failed: (.+)$", done.stdout, re.M)
    for name in failed[1].split(", ") if failed else []:
        line = f"make {sheet.name} EXP={name}"
        for _ in range(3):
            if (done := run(clone, line)).returncode == 0:
                break
        assert_ran(line, done)
    if not failed:
        assert_ran(f"make {sheet.name}", done)


def assert_ran(line: str, done: subprocess.CompletedProcess[str]) -> None:
    said = done.stdout + done.stderr
    assert "Traceback" not in said, f"{line}: {said}"
    if re.fullmatch(r"make \w+-check", line):  # On the starter: a verdict, and it is a failure.
        assert re.search(r"make(\[\d+\])?: \*\*\*", said)
        assert "Stuck?" in said
    elif re.fullmatch(r"make \w+-quiz", line):  # Nobody answers here.
        assert "questions about your own packets" in said
    else:
        assert done.returncode == 0, f"{line}: {said}"
        if line.startswith("tshark"):
            assert done.stdout.strip(), f"{line} shows nothing"


def test_the_readme_names_targets_that_exist():
    text = (catalog.ROOT / "README.md").read_text(encoding="utf-8")
    for line in set(re.findall(r"\bmake ([a-z][\w-]*)", text)):
        done = subprocess.run(["make", "-n", line], cwd=catalog.ROOT, capture_output=True, text=True)
        assert done.returncode == 0, f"make {line}: {done.stderr}"
        assert "There is no target" not in done.stdout


def test_make_alone_lists_the_targets():
    done = subprocess.run(["make"], cwd=catalog.ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    for lab in LABS:
        assert lab.slug in done.stdout
    for target in ("doctor", "certs", "progress", "test lint bench", "clean", "wireshark-<lab>", "<lab>-hint"):
        assert target in done.stdout


def test_an_unknown_target_names_the_labs():
    done = subprocess.run(["make", "tpc"], cwd=catalog.ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "There is no target tpc. Labs: tcp" in done.stderr
