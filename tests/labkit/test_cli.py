"""The command line as a person meets it: exit codes, one clear sentence, nothing half-written."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.clone import fresh_clone
from tests.conftest import TICK, cannot, need_tool, need_wire


def uses_port_7001(test):
    """One at a time may (tests/test_sheets.py uses it, too), and only while nobody else on this machine does."""
    return pytest.mark.exclusive("port 7001")(pytest.mark.usefixtures("free_port_7001")(test))


@pytest.fixture
def free_port_7001():
    end = time.monotonic() + 600 * TICK
    while not is_free(7001):
        assert time.monotonic() < end, "somebody listens on port 7001: is the lab's server running?"
        time.sleep(TICK)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return fresh_clone(tmp_path_factory.mktemp("clone"))


def labkit(clone: Path, *words: str, seconds: float = 50, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "labkit", *words], cwd=clone, capture_output=True, text=True, timeout=seconds,
        env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def assert_one_clear_sentence(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    said = [line for line in done.stderr.splitlines() if line]
    assert len(said) == 1, done.stderr
    assert said[0].startswith("labkit: ")
    for word in words:
        assert word in said[0]


def on_a_terminal(clone: Path, *words: str, when: bytes, typed: bytes, **environment: str) -> tuple[int, str]:
    """Run labkit on a terminal, type something once it has said *when*; its exit code, and all that it said."""
    main, side = pty.openpty()
    process = subprocess.Popen([sys.executable, "-m", "labkit", *words], cwd=clone, stdin=side, stdout=side,
                               stderr=side, start_new_session=True,
                               env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1", **environment})  # fmt: skip
    os.close(side)
    said, stopping = b"", False
    try:
        while True:
            while stopping and not select.select([main], [], [], 20 * TICK)[0]:
                # input() of CPython loses a signal that comes just before it waits. A person presses Ctrl-C again.
                os.killpg(process.pid, signal.SIGINT)
            if not (piece := os.read(main, 4096)):
                break
            said += piece
            if typed and when in said:
                if typed == b"\x03":
                    os.killpg(process.pid, signal.SIGINT)
                    stopping = True
                else:
                    os.write(main, typed)
                typed = b""
    except OSError:  # EIO: the other side is closed.
        pass
    finally:
        process.wait(20)
        os.close(main)
    return process.returncode, said.decode().replace("\r\n", "\n")


def test_unknown_lab(clone):
    assert_one_clear_sentence(labkit(clone, "run", "tpc"), "no lab 'tpc'", "tcp")


def test_unknown_experiment(clone):
    assert_one_clear_sentence(labkit(clone, "run", "tcp", "--exp", "nagel"), "no experiment 'nagel'", "handshake")


def test_unknown_vantage(clone):
    assert_one_clear_sentence(
        labkit(clone, "run", "tcp", "--vantage", "moon"), "no host 'moon'", "client, server, and all"
    )


def test_every_vantage_shows_each_packet_at_both_ends(clone):
    need_wire()
    (alone,) = json.loads(labkit(clone, "run", "tcp", "--exp", "farewell", "--json").stdout)
    (both,) = json.loads(labkit(clone, "run", "tcp", "--exp", "farewell", "--json", "--vantage", "all").stdout)
    assert alone["packets"] == 7
    assert both["packets"] == 14


def test_quiz_without_a_capture(clone):
    shutil.rmtree(clone / "captures", ignore_errors=True)
    assert_one_clear_sentence(labkit(clone, "quiz", "tcp"), "make tcp")


def test_wireshark_without_a_capture(clone):
    shutil.rmtree(clone / "captures", ignore_errors=True)
    assert_one_clear_sentence(labkit(clone, "wireshark", "tcp"), "make tcp")


def test_quiz_with_a_capture_of_something_else(clone):
    need_tool("tshark")
    (clone / "captures").mkdir(exist_ok=True)
    (clone / "captures/tcp.pcapng").write_bytes(b"no capture at all")
    assert_one_clear_sentence(labkit(clone, "quiz", "tcp"), "tshark cannot read")


@pytest.mark.alone
def test_run_tells_packets_values_answer_and_what_next(clone):
    need_wire()
    done = labkit(clone, "run", "tcp", "--exp", "handshake")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "├─ SYN seq 0 ─" in done.stdout
    assert "▶  +50.0 ms" in done.stdout
    assert re.search(r"✓ .*: .* ms   \(", done.stdout), "a measured value with its bounds"
    assert "\n  Question: " in done.stdout
    assert "\n  Answer: " in done.stdout
    assert "captures/tcp-handshake.pcapng" in done.stdout
    assert "make tcp-check" in done.stdout
    assert "\x1b[" not in done.stdout, "no colour in a pipe"


def test_run_in_an_ascii_world(clone):
    need_wire()
    done = labkit(clone, "run", "tcp", "--exp", "farewell", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert "|- SYN seq 0 -" in done.stdout


def test_json_for_machines(clone):
    need_wire()
    (row,) = json.loads(labkit(clone, "run", "tcp", "--exp", "farewell", "--json").stdout)
    assert row["state"] == "passed"
    assert row["packets"] > 3
    for command in ("list", "doctor", "progress"):
        assert json.loads(labkit(clone, command, "--json").stdout)


def test_the_wire_is_not_to_be_had(clone):
    """What needs a link is skipped by name; alone it cannot run, and that is not a pass."""
    done = labkit(clone, "run", "tcp", "--exp", "handshake", LABKIT_NO_WIRE="1")
    assert done.returncode == 2
    assert "skipped handshake: it needs the wire" in done.stdout


def test_predict_on_a_terminal(clone):
    need_wire()
    main, side = pty.openpty()
    command = [sys.executable, "-m", "labkit", "run", "tcp", "--exp", "farewell"]
    process = subprocess.Popen(command, cwd=clone, stdin=side, stdout=side, stderr=side, close_fds=True)
    os.close(side)
    said = b""
    answered = False
    try:
        while True:
            try:
                piece = os.read(main, 4096)
            except OSError:  # EIO: the other side is closed.
                break
            if not piece:
                break
            said += piece
            if not answered and b"Your answer:" in said:
                os.write(main, b"9\n2\n")
                answered = True
    finally:
        process.wait(20)
        os.close(main)
    text = said.decode()
    assert "The number in front of it" in text
    assert "You predicted" in text or "You said" in text
    assert "\x1b[" in text, "colour on a terminal"


def test_ctrl_c_before_anything_is_recorded(clone):
    (clone / "captures").mkdir(exist_ok=True)
    (clone / "captures/tcp.pcapng").write_bytes(b"as it was")
    code, said = on_a_terminal(clone, "run", "tcp", when=b"Your answer:", typed=b"\x03")
    assert code == 130
    assert "Stopped. Nothing was recorded; earlier captures are untouched." in said
    assert (clone / "captures/tcp.pcapng").read_bytes() == b"as it was"


def test_names_are_not_cut_at_the_edge_of_the_terminal(clone):
    code, said = on_a_terminal(clone, "run", "tcp", "--exp", "nagel", when=b"", typed=b"")
    assert code == 2
    assert max(map(len, said.splitlines())) <= 80
    assert "has no experiment 'nagel'" in " ".join(said.split())


def test_ctrl_c_in_the_middle_leaves_a_good_capture(clone):
    need_wire()
    need_tool("capinfos")
    (clone / "captures").mkdir(exist_ok=True)
    capture = clone / "captures/tcp.pcapng"
    capture.unlink(missing_ok=True)
    process = subprocess.Popen([sys.executable, "-m", "labkit", "run", "tcp"], cwd=clone, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, start_new_session=True)  # fmt: skip
    end = time.monotonic() + 10
    while not (capture.exists() and capture.stat().st_size > 1000):
        assert time.monotonic() < end
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Stopped. What was recorded until now is complete." in said
    assert "Traceback" not in said
    assert subprocess.run(["capinfos", capture], capture_output=True).returncode == 0


def record_little(clone: Path) -> None:
    """A capture of the lab, of its first experiment only."""
    labkit(clone, "run", "tcp", "--exp", "handshake")
    shutil.copy(clone / "captures/tcp-handshake.pcapng", clone / "captures/tcp.pcapng")


def test_one_experiment_alone_does_not_overwrite_the_others(clone):
    need_wire()
    need_tool("tshark")
    (clone / "captures").mkdir(exist_ok=True)
    (clone / "captures/tcp.pcapng").write_bytes(b"as it was")
    labkit(clone, "run", "tcp", "--exp", "handshake")
    assert (clone / "captures/tcp.pcapng").read_bytes() == b"as it was"
    record_little(clone)
    answers = subprocess.run([sys.executable, "-m", "labkit", "quiz", "tcp"], cwd=clone, input="skip\n" * 50, text=True,
                             capture_output=True, timeout=50)  # fmt: skip
    assert "Run `make tcp` again, to its end" in answers.stderr


def test_tshark_is_missing(clone, tmp_path):
    need_wire()
    record_little(clone)
    assert_one_clear_sentence(labkit(clone, "quiz", "tcp", PATH=str(tmp_path)), "tshark is not installed")
    done = labkit(clone, "check", "tcp", PATH=str(tmp_path))
    assert done.returncode == 1, "the check works without it"
    assert "No frame to cite: tshark is not installed" in done.stdout or "Filter:" not in done.stdout


def test_tshark_is_too_old(clone, tmp_path):
    need_wire()
    fake = tmp_path / "tshark"
    fake.write_text("#!/bin/sh\necho 'TShark (Wireshark) 2.6.10 (Git v2.6.10)'\n")
    fake.chmod(0o755)
    record_little(clone)
    path = f"{tmp_path}:/usr/bin:/bin"
    assert_one_clear_sentence(labkit(clone, "quiz", "tcp", PATH=path), "2.6.10", "4.0")


@uses_port_7001
@pytest.mark.parametrize("command", ["serve"])
def test_the_port_is_taken(clone, command):
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 7001))
        taken.listen()
        done = labkit(clone, command, "tcp", seconds=10)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "7001" in done.stderr


@uses_port_7001
def test_an_exercise_started_with_an_ampersand_can_be_stopped(clone):
    """In a script, & starts a program with SIGINT ignored."""
    command = f"trap '' INT; exec {sys.executable} -m labkit exercise tcp --file labs/01-tcp/solution.py"
    process = subprocess.Popen(["bash", "-c", command], cwd=clone, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               text=True)  # fmt: skip
    end = time.monotonic() + 10
    try:
        while not listens(7001):
            assert time.monotonic() < end
            time.sleep(TICK / 5)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 0
    assert not said
    while listens(7001):  # What it started ends with it.
        assert time.monotonic() < end
        time.sleep(TICK / 5)


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@uses_port_7001
def test_nobody_listens(clone):
    done = labkit(clone, "connect", "tcp", seconds=20)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_folder_that_cannot_be_written(clone):
    need_wire()
    shutil.rmtree(clone / "captures", ignore_errors=True)
    (clone / "captures").write_text("a file where the folder should be")
    try:
        assert_one_clear_sentence(labkit(clone, "run", "tcp", "--exp", "handshake"), "captures")
    finally:
        (clone / "captures").unlink()


def test_a_pipe_that_closes_early(clone):
    need_wire()
    done = subprocess.run(f"{sys.executable} -m labkit run tcp --exp handshake | head -1", shell=True, cwd=clone,
                          capture_output=True, text=True, timeout=30)  # fmt: skip
    assert "Traceback" not in done.stderr


def test_progress_survives_a_broken_file_and_resets_per_lab(clone):
    need_wire()
    notes = clone / ".progress.json"
    notes.write_text("{broken")
    labkit(clone, "run", "tcp", "--exp", "farewell")
    assert json.loads(notes.read_text())["tcp"]["run"] == {"farewell": "passed"}
    assert (clone / ".progress.json.broken").read_text() == "{broken"
    labkit(clone, "reset", "udp")
    assert "tcp" in json.loads(notes.read_text())
    labkit(clone, "reset", "tcp")
    assert json.loads(notes.read_text()) == {}


def test_hints_climb_the_ladder(clone):
    labkit(clone, "reset", "tcp")
    assert "Try first" in labkit(clone, "hint", "tcp").stdout
    assert labkit(clone, "check", "tcp").returncode == 1
    assert "Hint 1 of 3" in labkit(clone, "hint", "tcp").stdout
    assert "Where to look" in labkit(clone, "hint", "tcp").stdout
    assert "The code" in labkit(clone, "hint", "tcp").stdout
    assert labkit(clone, "check", "tcp", "--file", "labs/01-tcp/solution.py").returncode == 0
    assert "Hint 3 of 3" in labkit(clone, "hint", "tcp").stdout, "the solution's pass is not the learner's"


@pytest.mark.timeout(180)  # Five runs, and tshark a dozen times.
def test_quiz_from_a_pipe(clone):
    """Four of the questions; that a capture answers each of them is for tests/test_labs.py to say."""
    need_wire()
    need_tool("tshark")
    questions = clone / "labs/01-tcp/questions.toml"
    whole = questions.read_text()
    questions.write_text("[[question]]".join(whole.split("[[question]]")[:5]))
    captures = []
    for experiment in dict.fromkeys(re.findall(r'^experiment = "(.+)"', questions.read_text(), re.M)):
        labkit(clone, "run", "tcp", "--exp", experiment)
        captures.append((clone / f"captures/tcp-{experiment}.pcapng").read_bytes())
    (clone / "captures/tcp.pcapng").write_bytes(b"".join(captures))
    answers = [row["answer"] for row in json.loads(labkit(clone, "quiz", "tcp", "--json").stdout)]
    command = [sys.executable, "-m", "labkit", "quiz", "tcp"]
    done = subprocess.run(
        command, cwd=clone, input="\n".join(answers) + "\n", capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(answers)} of {len(answers)} right" in done.stdout
    wrong = "\n\nnonsense\nnonsense\nnonsense\nquit\n"
    done = subprocess.run(command, cwd=clone, input=wrong, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"In your capture it is {answers[0]}" in done.stdout
    assert "0 of 1 right" in done.stdout
    questions.write_text(whole)


@pytest.mark.alone
def test_the_first_packet_is_on_screen_soon(clone):
    """Two seconds, the promise for `make tcp` once it is set up; seen: a third of that."""
    need_wire()
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "labkit", "run", "tcp"], cwd=clone, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, text=True)  # fmt: skip
    for line in process.stdout:
        if "├─ SYN" in line:
            break
    took = time.monotonic() - start
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert took < 40 * TICK


def test_watching_checks_again_when_the_file_is_saved(clone):
    need_wire()
    exercise = clone / "labs/01-tcp/exercise.py"
    starter = exercise.read_text()
    process = subprocess.Popen([sys.executable, "-m", "labkit", "check", "tcp", "--watch"], cwd=clone, text=True,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)  # fmt: skip

    def verdict() -> str:
        said = ""
        while "Watching" not in (line := process.stdout.readline()):
            assert line, said
            said += line
        return said

    try:
        assert "Stuck?" in verdict()
        exercise.write_text((clone / "labs/01-tcp/solution.py").read_text())
        assert "All passed" in verdict()
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=10)
        assert process.returncode == 0
    finally:
        exercise.write_text(starter)
        labkit(clone, "reset", "tcp")


@uses_port_7001
@pytest.mark.parametrize("tool", ["dumpcap", "tcpdump"])
def test_live_capture_by_a_foreign_tool(tool, tmp_path):
    from labkit import live

    need_tool(tool, "capinfos")
    if not live._tool_may_capture(tool):
        cannot(f"{tool} may not capture as this user")
    ready = threading.Event()
    talk = threading.Thread(target=lambda: ready.wait(10) and speak(7001))
    talk.start()
    count = live._foreign(tool, 7001, tmp_path / "live.pcapng", lambda _: ready.set(), 40 * TICK)
    talk.join()
    assert count >= 6
    assert subprocess.run(["capinfos", tmp_path / "live.pcapng"], capture_output=True).returncode == 0


def speak(port: int) -> None:
    """One connection on loopback with five bytes in it."""
    with socket.create_server(("127.0.0.1", port)) as server, socket.create_connection(("127.0.0.1", port)) as client:
        peer, _ = server.accept()
        client.sendall(b"hello")
        assert peer.recv(5) == b"hello"
        peer.close()


@uses_port_7001
def test_live_capture_on_loopback(clone):
    from labkit import live

    if not live.ways():
        assert_one_clear_sentence(labkit(clone, "capture", "tcp", "--seconds", "1"), "may not capture")
        return
    process = subprocess.Popen([sys.executable, "-m", "labkit", "capture", "tcp", "--seconds", "20"], cwd=clone,
                               stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert "Recording port 7001" in process.stdout.readline()
    speak(7001)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    assert int(said.split()[0]) >= 6


def test_two_runs_of_a_lab_do_not_mix(clone):
    need_wire()
    first = subprocess.Popen([sys.executable, "-m", "labkit", "run", "tcp"], cwd=clone, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, text=True)  # fmt: skip
    while "[1/" not in first.stdout.readline():
        pass
    assert_one_clear_sentence(labkit(clone, "run", "tcp"), "Another `make tcp` is running")
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=10)


HOSTILE = (
    "[]", "7", '{"tcp": 3}', '{"tcp": {"check": 3}}', '{"tcp": {"check": {"passed": "x"}}}',
    '{"tcp": {"run": {"a": 1}}}', '{"tcp": {"what": {"a": 1}}}', "[" * 100_000, "\udcff", "",
)  # fmt: skip


@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_progress_is_put_aside(clone, hostile):
    notes = clone / ".progress.json"
    notes.write_bytes(hostile.encode(errors="surrogateescape"))
    for command in (["list"], ["hint", "tcp"]):
        done = labkit(clone, *command)
        assert done.returncode == 0, done.stderr
    assert notes.with_name(".progress.json.broken").exists()
    notes.with_name(".progress.json.broken").unlink()


@pytest.mark.parametrize("redirect", ["<&-", ">&-", "2>&-", ">/dev/full", "<&- >&- 2>&-"])
def test_closed_and_full_streams_are_no_traceback(clone, redirect):
    need_wire()
    script = f"{sys.executable} -m labkit run tcp --exp farewell {redirect}"
    done = subprocess.run(["bash", "-c", script], cwd=clone, capture_output=True, text=True, timeout=30)
    assert "Traceback" not in done.stderr
    assert done.returncode == (2 if "full" in redirect else 0)


def test_where_nobody_waits_for_children(clone):
    """SIGCHLD ignored by whoever started us: the kernel reaps our children behind our back."""
    need_wire()
    script = f"trap '' CHLD; {sys.executable} -m labkit run tcp --exp farewell"
    done = subprocess.run(["bash", "-c", script], cwd=clone, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
