"""The calls that Python lacks: each does what it says, and says what it could not do."""

from __future__ import annotations

import errno
import os
import signal
import socket

import pytest

from labkit import kernel
from labkit.sandbox import Inside, World, run
from tests.conftest import need_wire


def in_client(work) -> list[dict]:
    """What *work* emits, run on the client host of a world."""
    need_wire()
    events: list[dict] = []

    def main(inside: Inside) -> None:
        kernel.enter_network(inside.networks["client"])
        work(inside)

    run(World(), main, events.append)
    return events


def test_a_cable_between_two_hosts() -> None:
    def work(inside: Inside) -> None:
        kernel.create_cable("left", "right", inside.networks["server"])
        kernel.bring_up("left", "192.168.1.1", mtu=4000)
        kernel.enter_network(inside.networks["server"])
        kernel.bring_up("right", "192.168.1.2", mtu=4000)
        server = socket.create_server(("192.168.1.2", 7001))
        kernel.enter_network(inside.networks["client"])
        client = socket.create_connection(("192.168.1.2", 7001), timeout=5)
        inside.emit({"mss": client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)})
        client.close()
        server.close()

    assert in_client(work) == [{"mss": 4000 - 40 - 12}]


def test_what_the_kernel_refuses_is_told_with_its_reason() -> None:
    def work(inside: Inside) -> None:
        for action in (
            lambda: kernel.create_cable("eth0", "other", inside.networks["server"]),
            lambda: kernel.mount("none", "/nowhere", "tmpfs"),
            lambda: kernel.limit_route("eth0", "192.168.7.7", 1),
        ):
            try:
                action()
            except OSError as error:
                inside.emit({"told": error.strerror})

    told = [event["told"] for event in in_client(work)]
    assert told[:2] == ["create a veth pair: File exists", "mount /nowhere: No such file or directory"]


def test_a_child_dies_with_its_parent() -> None:
    """The parent is killed without a last word; its child holds the only other end of a pipe."""
    held, hold = os.pipe()
    parent = os.fork()
    if parent == 0:
        me = os.getpid()
        if os.fork() == 0:
            kernel.die_with_parent(me)
            os.write(hold, b"ready")
        signal.pause()
    os.close(hold)
    assert os.read(held, 5) == b"ready"
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert os.read(held, 5) == b""
    os.close(held)


def test_a_child_of_a_dead_parent_does_not_start() -> None:
    child = os.fork()
    if child == 0:
        kernel.die_with_parent(1 << 22)  # Not the parent: it has died and another has taken over.
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 1


@pytest.mark.parametrize(
    ("error", "files", "reason"),
    [
        (
            OSError(errno.ENOSPC, "new user namespace: No space left on device"),
            {},
            "the limit user.max_user_namespaces is reached",
        ),
        (
            OSError(errno.ENOSPC, "new network namespace: No space left on device"),
            {},
            "the limit user.max_net_namespaces is reached",
        ),
        (
            OSError(errno.EPERM, "new user namespace: Operation not permitted"),
            {"/proc/sys/kernel/unprivileged_userns_clone": "0\n"},
            "the setting kernel.unprivileged_userns_clone is 0",
        ),
        (
            OSError(errno.EACCES, "mount /: Permission denied"),
            {"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"},
            "AppArmor forbids it (the setting kernel.apparmor_restrict_unprivileged_userns is 1)",
        ),
        (
            OSError(errno.EPERM, "new user namespace: Operation not permitted"),
            {"/proc/self/status": "Name:\tx\nSeccomp:\t2\n"},
            "a seccomp filter forbids it, as that of a container does (Docker: --security-opt seccomp=unconfined)",
        ),
        (OSError(errno.EPERM, "new user namespace: Operation not permitted"), {}, ""),
    ],
)
def test_why_a_machine_refuses(monkeypatch: pytest.MonkeyPatch, error: OSError, files: dict, reason: str) -> None:
    monkeypatch.setattr(kernel, "_text", lambda path: files.get(path, ""))
    assert kernel.why_refused(error) == reason
