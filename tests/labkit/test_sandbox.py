"""The world of a run: whoever is killed, whatever is missing, nothing of it is left."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from labkit import kernel, pcapng
from labkit.link import Link
from labkit.sandbox import CannotRun, Inside, World, run, why_not
from tests.conftest import TICK, children, need_tool, need_wire

ROOT = Path(__file__).resolve().parents[2]
LONG = 600 * TICK  # seconds: far longer than anything here takes


@pytest.fixture(autouse=True)
def wire() -> None:
    need_wire()


def nothing(inside: Inside) -> None:
    pass


def ignore(event: dict) -> None:
    pass


def chatter(inside: Inside) -> None:
    """Send a datagram every millisecond until killed; say when it has begun."""
    kernel.enter_network(inside.networks["client"])
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for i in range(1_000_000):
        client.sendto(i.to_bytes(4, "big"), ("10.0.0.2", 7001))
        if i == 20:
            inside.emit({"begun": True})
        time.sleep(0.001)


def numbers(capture: Path) -> list[int]:
    """The numbers of the datagrams that `chatter` sent, as recorded."""
    packets = [record.decoded() for record in pcapng.read(capture)]
    return [int.from_bytes(packet.payload, "big") for packet in packets if packet and packet.protocol == "udp"]


# --- A run, and what comes of it -----------------------------------------------------------------


def test_events_come_in_order_and_then_the_end() -> None:
    events: list[dict] = []
    run(World(), lambda inside: [inside.emit({"i": i}) for i in range(500)], events.append)
    assert events == [{"i": i} for i in range(500)]
    assert not children()


def test_large_events_of_many_threads_and_processes_do_not_mix() -> None:
    def main(inside: Inside) -> None:
        def say(letter: str) -> None:
            for _ in range(5):
                inside.emit({letter: letter * 300_000})

        pids = []
        for letter in "ab":
            pids.append(os.fork())
            if pids[-1] == 0:
                say(letter)
                os._exit(0)
        threads = [threading.Thread(target=say, args=(letter,)) for letter in "cd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for pid in pids:
            os.waitpid(pid, 0)

    events: list[dict] = []
    run(World(), main, events.append)
    assert sorted(next(iter(event)) for event in events) == sorted("abcd" * 5)
    assert all(value == letter * 300_000 for event in events for letter, value in event.items())


def test_a_number_that_is_none_is_refused() -> None:
    events: list[dict] = []
    run(World(), lambda inside: inside.emit({"value": float("nan")}), events.append)
    assert "ValueError" in events[0]["crashed"]


def test_a_crash_is_told_with_its_traceback() -> None:
    def main(inside: Inside) -> None:
        raise RuntimeError("boom")

    events: list[dict] = []
    run(World(), main, events.append)
    assert "RuntimeError: boom" in events[0]["crashed"]


def test_a_hung_experiment_is_stopped() -> None:
    events: list[dict] = []
    run(World(seconds=2 * TICK), lambda inside: time.sleep(LONG), events.append)
    assert events == [{"failed": f"it hung, and was stopped after {2 * TICK:g} s"}]


def test_what_the_experiment_prints_is_printed_once(capfd: pytest.CaptureFixture[str]) -> None:
    print("before", end=" ")
    run(World(), lambda inside: print("inside", end=" "), ignore)
    print("after")
    assert capfd.readouterr().out.split() == ["before", "inside", "after"]


def test_what_the_listener_raises_ends_the_run() -> None:
    def listener(event: dict) -> None:
        raise LookupError("enough")

    def main(inside: Inside) -> None:
        while True:
            inside.emit({"text": "x" * 10_000})  # also when nobody reads any more

    start = time.monotonic()
    with pytest.raises(LookupError, match="enough"):
        run(World(), main, listener)
    assert time.monotonic() - start < 60 * TICK


def descriptors() -> list[str]:
    """What the open descriptors of this process are, standard input and output aside."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # The one that lists the folder is closed by now.
            found += [os.readlink(f"/proc/self/fd/{fd}")] if int(fd) > 2 else []
    return found


def test_the_experiment_has_no_descriptor_of_the_machinery(tmp_path: Path) -> None:
    """It could keep the world alive, or write into the capture."""

    def main(inside: Inside) -> None:
        started = subprocess.run(["ls", "/proc/self/fd"], capture_output=True, text=True).stdout.split()
        inside.emit({"links": descriptors(), "started": started})

    events: list[dict] = []
    before = descriptors()
    run(World(capture=tmp_path / "x.pcapng"), main, events.append)
    new = [link for link in events[0]["links"] if link not in before]
    assert not [link for link in new if link.endswith("x.pcapng")]
    assert sum(link.startswith("socket:") for link in new) == 2  # orders to the wire, and events
    assert events[0]["started"] == ["0", "1", "2", "3"]  # 3 is the folder that ls reads.


def test_the_world_is_its_own() -> None:
    def main(inside: Inside) -> None:
        kernel.enter_network(inside.networks["client"])
        inside.emit({
            "interfaces": sorted(name for _, name in socket.if_nameindex()),
            "processes": sum(name.isdigit() for name in os.listdir("/proc")),
            "names": socket.gethostbyname("server.lab"),
            "input": os.read(0, 10).decode(),
        })  # fmt: skip

    events: list[dict] = []
    run(World(number=7), main, events.append)
    assert events == [{"interfaces": ["eth0", "lo"], "processes": 2, "names": "10.0.7.2", "input": ""}]


def test_orphans_are_waited_for() -> None:
    """Process 1 inherits them: each would stay a zombie, and in the end there is no room for a new process."""

    def main(inside: Inside) -> None:
        for _ in range(20):
            subprocess.run(["sh", "-c", "sleep 0.01 &"], check=True)
        time.sleep(2 * TICK)
        os.sched_yield()
        end = time.monotonic() + LONG
        while (left := sum(name.isdigit() for name in os.listdir("/proc"))) > 2 and time.monotonic() < end:
            time.sleep(TICK)
        inside.emit({"left": left})

    events: list[dict] = []
    run(World(), main, events.append)
    assert events == [{"left": 2}]


@pytest.mark.parametrize(
    "arguments",
    [{"hosts": ()}, {"hosts": ("a", "a")}, {"number": 256}, {"links": {("client", "nobody"): Link()}}],
    ids=str,
)
def test_a_world_that_cannot_be_is_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match=r"hosts|link"):
        World(**arguments)


# --- Where and from what it runs ------------------------------------------------------------------


def test_an_ordinary_user_can_run_it() -> None:
    if os.getuid() != 0:
        assert why_not() == ""  # We are one.
        return
    told, tell = os.pipe()
    user = os.fork()
    if user == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, which setuid() took away: /proc/self is ours again.
        os.write(tell, (why_not() or "it runs").encode())
        os._exit(0)
    os.close(tell)
    assert os.read(told, 1000) == b"it runs"
    os.close(told)
    os.waitpid(user, 0)


def test_two_worlds_at_once_from_threads(tmp_path: Path) -> None:
    captures = [tmp_path / f"{i}.pcapng" for i in range(4)]
    done: list[int] = []

    def main(inside: Inside) -> None:
        kernel.enter_network(inside.networks["client"])
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for i in range(50):
            client.sendto(i.to_bytes(4, "big"), ("10.0.0.2", 7001))

    def one(i: int) -> None:
        run(World(capture=captures[i]), main, ignore)
        done.append(i)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [0, 1, 2, 3]
    assert [numbers(capture) for capture in captures] == [list(range(50))] * 4


def test_a_stopped_world_ends_while_another_goes_on() -> None:
    """The second was started while the first ran, and holds copies of all its descriptors."""
    running, finish = threading.Event(), threading.Event()

    def long(event: dict) -> None:
        running.set()
        finish.wait(LONG)
        raise LookupError

    def first() -> None:
        with contextlib.suppress(LookupError):
            run(World(), chatter, long)

    thread = threading.Thread(target=first)
    thread.start()
    assert running.wait(LONG)
    second = threading.Thread(target=lambda: run(World(seconds=40 * TICK), lambda i: time.sleep(LONG), ignore))
    second.start()
    start = time.monotonic()
    finish.set()
    thread.join()
    assert time.monotonic() - start < 30 * TICK
    second.join()


def test_many_runs_leak_no_descriptor() -> None:
    run(World(), nothing, ignore)
    before = os.listdir("/proc/self/fd")
    for i in range(40):
        with contextlib.suppress(LookupError, CannotRun):
            run(World(), [nothing, lambda inside: os.kill(os.getpid(), 9)][i % 2], ignore)
    assert os.listdir("/proc/self/fd") == before


SCRIPT = """
import sys, os
from pathlib import Path
from labkit.sandbox import *
from tests.labkit.test_sandbox import chatter, nothing
def told(event):
    print(sorted(event), flush=True)
capture = Path(sys.argv[2]) if len(sys.argv) > 2 else None
try:
    run(World(capture=capture), {"chatter": chatter, "nothing": nothing}[sys.argv[1]], told)
    print("done")
except KeyboardInterrupt:
    print("interrupted")
    sys.exit(130)
except CannotRun as error:
    print(error)
    sys.exit(2)
"""


def script(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", SCRIPT, *map(str, arguments)]


@pytest.mark.parametrize("closed", ["<&-", "<&- >&- 2>&-"])
def test_standard_input_and_output_may_be_closed(closed: str, tmp_path: Path) -> None:
    capture = tmp_path / "x.pcapng"
    quoted = f'"$0" "$@" {closed}'
    ended = subprocess.run(["sh", "-c", quoted, *script("nothing", capture)], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0 or ">&-" in closed, ended.stderr
    assert pcapng.count_sections(capture) == 1


@pytest.mark.parametrize("terminal", [True, False], ids=["in a terminal", "in a pipe"])
def test_ctrl_c_ends_it_at_once_with_a_whole_capture(terminal: bool, tmp_path: Path) -> None:
    need_tool("capinfos")
    capture = tmp_path / "x.pcapng"
    if terminal:
        ours, theirs = os.openpty()
    else:
        ours, theirs = os.pipe()
    process = subprocess.Popen(
        ["setsid", "-c", *script("chatter", capture)] if terminal else script("chatter", capture),
        cwd=ROOT, stdin=theirs if terminal else subprocess.DEVNULL, stdout=theirs, stderr=theirs,
        process_group=0 if not terminal else None,
    )  # fmt: skip
    os.close(theirs)
    output = b""
    while b"begun" not in output:
        output += os.read(ours, 1000)
    time.sleep(2 * TICK)
    start = time.monotonic()
    if terminal:
        os.write(ours, b"\x03")
    else:
        os.killpg(process.pid, signal.SIGINT)
    while b"interrupted" not in output:
        output += os.read(ours, 1000)
    assert process.wait(LONG) == 130
    assert time.monotonic() - start < 1 + 20 * TICK
    os.close(ours)
    assert b"Traceback" not in output
    sent = numbers(capture)
    assert sent == list(range(len(sent)))
    assert len(sent) > 20
    subprocess.run(["capinfos", capture], check=True, capture_output=True)


# --- Killed ---------------------------------------------------------------------------------------


def child_of(pid: int) -> int:
    """The child of a process, once it has one."""
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if found := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                return int(found[0])
        time.sleep(0.001)
    raise AssertionError(f"process {pid} has no child")


def traces() -> tuple[list[str], list[str], str]:
    """What a run could leave on this machine, processes aside."""
    interfaces = sorted(name for _, name in socket.if_nameindex())
    return interfaces, sorted(os.listdir(tempfile.gettempdir())), Path("/proc/self/mounts").read_text()


@pytest.mark.timeout(120)
def test_nothing_outlives_a_run_whoever_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty times: kill one process of the run at some moment. All of them hold one end of a pipe,
    which reports its end when the last of them is gone."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    before = traces()
    capture = tmp_path / "x.pcapng"
    chance = random.Random(1)

    def started(inside: Inside) -> None:
        hold = inside.world.comment
        sleeper = subprocess.Popen(["setsid", "sleep", "1000"], pass_fds=[int(hold)])  # a daemon of its own session
        del sleeper
        chatter(inside)

    for i in range(50):
        held, hold = os.pipe()
        runner = os.fork()
        if runner == 0:
            with contextlib.suppress(CannotRun):
                run(World(capture=capture, comment=str(hold)), started, ignore)
            os._exit(0)
        victim = runner
        for _ in range(i % 5):  # runner, guard, wire, experiment, something it started
            victim = child_of(victim)
        time.sleep(chance.uniform(0, 3 * TICK) if i % 10 >= 5 else chance.uniform(0, 0.003))
        os.close(hold)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        if i % 5 == 4:  # The experiment goes on without what it started: stop it by its lifeline.
            os.kill(runner, signal.SIGKILL)
        os.waitpid(runner, 0)
        assert select.select([held], [], [], LONG)[0], f"something outlived the kill no. {i}"
        assert os.read(held, 1) == b""
        os.close(held)
        if capture.exists():
            list(pcapng.read(capture))  # Cut off, perhaps, but not damaged.
    assert traces() == before
    assert {path.name for path in tmp_path.iterdir()} <= {"temporary", "x.pcapng"}


def test_a_killed_process_is_told(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="killed from outside"):
        run(World(), lambda inside: os.kill(os.getpid(), signal.SIGKILL), ignore)


# --- The capture that cannot be -------------------------------------------------------------------


def test_a_second_run_does_not_write_into_the_same_capture(tmp_path: Path) -> None:
    capture = tmp_path / "x.pcapng"
    refused: list[str] = []

    def listener(event: dict) -> None:
        with pytest.raises(CannotRun) as caught:
            run(World(capture=capture), nothing, ignore)
        refused.append(str(caught.value))

    run(World(capture=capture), lambda inside: inside.emit({}), listener)
    assert refused == [f"Another run is recording into {capture}. Wait for its end."]
    run(World(capture=capture, append=True), nothing, ignore)
    assert pcapng.count_sections(capture) == 2


def test_a_section_follows_one_that_was_cut_off(tmp_path: Path) -> None:
    capture = tmp_path / "x.pcapng"
    run(World(capture=capture), nothing, ignore)
    whole = capture.read_bytes()
    capture.write_bytes(whole + whole[:20])
    run(World(capture=capture, append=True), nothing, ignore)
    assert capture.read_bytes() == whole * 2


def test_nothing_is_added_to_a_file_of_another_kind(tmp_path: Path) -> None:
    foreign = tmp_path / "letter.txt"
    foreign.write_text("Dear reader, this is not a capture.")
    with pytest.raises(CannotRun, match="is not a pcapng file"):
        run(World(capture=foreign, append=True), nothing, ignore)
    assert foreign.read_text() == "Dear reader, this is not a capture."


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="cannot be written: No such file or directory"):
        run(World(capture=tmp_path / "nowhere" / "x.pcapng"), nothing, ignore)


def inside_namespaces(setup: str, *arguments: str | Path, options: str = "-Urm") -> subprocess.CompletedProcess[str]:
    """Run the script inside namespaces of our own, after a shell has set the scene: in a container, so to say."""
    need_tool("unshare", "mount")
    command = ["unshare", *options.split(), "sh", "-ec", f'{setup}; exec "$0" "$@"', *script(*arguments)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONG)
    assert "Traceback" not in ended.stderr + ended.stdout
    return ended


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    script_ = f"""
import sys; sys.argv = ["", "chatter"]
from pathlib import Path
from labkit.sandbox import *
from tests.labkit.test_sandbox import flood, nothing
capture = Path({str(disk / "x.pcapng")!r})
run(World(capture=capture), nothing, print)
first = capture.read_bytes()
for append in (True, False):
    try:
        run(World(capture=capture, append=append), flood, print)
    except CannotRun as error:
        print(error)
    print("gone" if not capture.exists() else "unchanged" if capture.read_bytes() == first else "damaged")
"""
    need_tool("unshare", "mount")
    ended = subprocess.run(
        ["unshare", "-Urm", "sh", "-ec", f'mount -t tmpfs -o size=400k none {disk}; exec "$0" "$@"',
         sys.executable, "-c", script_],
        cwd=ROOT, capture_output=True, text=True, timeout=LONG,
    )  # fmt: skip
    sentence = (
        f"The capture {disk}/x.pcapng cannot be written: No space left on device. Make room or choose another folder."
    )
    assert ended.stdout.splitlines() == [sentence, "unchanged", sentence, "gone"], ended.stderr


def flood(inside: Inside) -> None:
    kernel.enter_network(inside.networks["client"])
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    while True:
        client.sendto(bytes(1400), ("10.0.0.2", 7001))


def test_a_read_only_folder_is_told(tmp_path: Path) -> None:
    ended = inside_namespaces(
        f"mount --bind {tmp_path} {tmp_path}; mount -o remount,bind,ro {tmp_path}", "nothing", tmp_path / "x.pcapng"
    )
    assert ended.returncode == 2
    assert "x.pcapng cannot be written: Read-only file system. Make room or choose another folder." in ended.stdout


# --- Nested, and where it cannot be ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "setup"),
    [
        ("-Urm", ":"),
        ("-Urpfm --mount-proc", ":"),
        ("-Urpfmn --mount-proc", "mount --bind /dev/null /proc/uptime; mount --bind /proc/sys /proc/sys; "
                                 "mount -o remount,bind,ro /proc/sys"),
        ("-Urm", "mount -t tmpfs none /mnt; touch /mnt/used; mount -t tmpfs none /media; touch /media/used"),
    ],
    ids=["namespaces", "a container", "a container with a masked and read-only /proc", "folders in use"],
)  # fmt: skip
def test_it_works_nested(options: str, setup: str, tmp_path: Path) -> None:
    ended = inside_namespaces(setup, "nothing", tmp_path / "x.pcapng", options=options)
    assert (ended.stdout, ended.returncode) == ("done\n", 0), ended.stderr
    assert pcapng.count_sections(tmp_path / "x.pcapng") == 1


@pytest.mark.parametrize("kind", ["user", "mnt", "net", "pid"])
def test_an_exhausted_limit_is_named(kind: str) -> None:
    ended = inside_namespaces(f"echo 0 > /proc/sys/user/max_{kind}_namespaces", "nothing")
    assert ended.returncode == 2
    assert f"because the limit user.max_{kind}_namespaces is reached." in ended.stdout
    assert ended.stdout.count("\n") == 1


def forbid(call: int, error: int) -> None:
    """A seccomp filter (seccomp(2)) that lets one system call fail, as those of containers do."""

    def instruction(code: int, yes: int, no: int, value: int) -> bytes:
        return struct.pack("HBBI", code, yes, no, value)

    load, jump_equal, answer = 0x20, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
    program = instruction(load, 0, 0, 0) + instruction(jump_equal, 0, 1, call)
    program += instruction(answer, 0, 0, 0x0005_0000 | error) + instruction(answer, 0, 0, 0x7FFF_0000)
    code = ctypes.create_string_buffer(program)
    filter_ = struct.pack("HxxxxxxP", 4, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, ctypes.c_char_p(filter_), 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


CALLS = {"x86_64": {"unshare": 272, "mount": 165}, "aarch64": {"unshare": 97, "mount": 40}}


@pytest.mark.parametrize("call", ["unshare", "mount"])
def test_a_seccomp_filter_is_named(call: str) -> None:
    number = CALLS[platform.machine()][call]
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        forbid(number, 1)
        os.write(tell, json.dumps(why_not()).encode())
        os._exit(0)
    os.close(tell)
    os.waitpid(child, 0)
    reason = json.loads(os.read(told, 10_000))
    os.close(told)
    where = {"unshare": "new user namespace", "mount": "mount /"}[call]
    assert reason == (
        f"No network of namespaces can be built here: {where}: Operation not permitted because a seccomp filter "
        "forbids it, as that of a container does (Docker: --security-opt seccomp=unconfined)."
    )


def test_why_not_is_empty_where_it_works() -> None:
    assert why_not() == ""


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_another_system_is_named(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", system)
    assert why_not() == f"network namespaces are a Linux thing, and this is {system}"
