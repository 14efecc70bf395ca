"""How fast and how true the wire is on this machine, and how long a learner waits: `make bench`.

Every row is measured in this run. A machine is fast or slow, and busy or idle, so what can be
compared with other machines is the last column: the ratio to a plain cable in the same run.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labkit import kernel, pcapng
from labkit.catalog import ROOT, labs
from labkit.link import Link
from labkit.sandbox import CannotRun, Inside, World, run
from tests.benchmarks import http1, http2, http3, quic, tls

MB = 1_000_000
ROUNDS = 5  # the best of so many: what disturbs a run only ever makes it slower
BYTES = 30 * MB


def throughput(listening: socket.socket, client: socket.socket, address: tuple[str, int]) -> float:
    """MB/s of TCP from *client* to *listening*, both in this process, in threads of their own."""
    client.connect(address)
    server, _ = listening.accept()

    def receive() -> None:
        buffer = bytearray(1 << 18)
        while server.recv_into(buffer):
            pass

    receiver = threading.Thread(target=receive)
    start = time.perf_counter()
    receiver.start()
    chunk = bytes(1 << 16)
    for _ in range(BYTES // len(chunk)):
        client.sendall(chunk)
    client.shutdown(socket.SHUT_WR)
    receiver.join()
    seconds = time.perf_counter() - start
    for each in (client, server, listening):
        each.close()
    return BYTES / seconds / MB


def listen(inside: Inside, host: str, address: str) -> socket.socket:
    kernel.enter_network(inside.networks[host])
    return socket.create_server((address, 0))


def transfer(inside: Inside) -> None:
    """Through the wire: client to server."""
    listening = listen(inside, "server", inside.world.address("server"))
    kernel.enter_network(inside.networks["client"])
    speed = throughput(listening, socket.socket(), listening.getsockname())
    inside.emit({"MB/s": speed, "peak": peak_memory()})


def plain(inside: Inside) -> None:
    """The same bytes without a wire: over loopback, and over a cable from host to host."""
    kernel.enter_network(inside.networks["client"])
    loopback = socket.create_server(("127.0.0.1", 0))
    inside.emit({"loopback": throughput(loopback, socket.socket(), loopback.getsockname())})
    kernel.create_cable("direct", "direct", inside.networks["server"])
    kernel.bring_up("direct", "192.168.0.1")
    kernel.enter_network(inside.networks["server"])
    kernel.bring_up("direct", "192.168.0.2")
    listening = listen(inside, "server", "192.168.0.2")
    kernel.enter_network(inside.networks["client"])
    inside.emit({"cable": throughput(listening, socket.socket(), listening.getsockname())})


def echo_ms(inside: Inside) -> None:
    """Round trips of one small datagram, in ms: over the wire, and over loopback."""
    for name, host in (("wire", "server"), ("loopback", "client")):
        kernel.enter_network(inside.networks[host])
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((inside.world.address(host), 0))
        kernel.enter_network(inside.networks["client"])
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.connect(server.getsockname())
        times = []
        for _ in range(200):
            start = time.perf_counter()
            client.send(b"ping")
            _, peer = server.recvfrom(100)
            server.sendto(b"pong", peer)
            client.recv(100)
            times.append(1000 * (time.perf_counter() - start))
        inside.emit({name: times})
        client.close()
        server.close()


def one_way_ms(inside: Inside) -> None:
    """The time that each of 100 datagrams, 5 ms apart, takes to the server, in ms."""
    kernel.enter_network(inside.networks["server"])
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((inside.world.address("server"), 0))
    kernel.enter_network(inside.networks["client"])
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.connect(server.getsockname())
    arrived: list[float] = []

    def receive() -> None:
        for _ in range(100):
            server.recv(100)
            arrived.append(time.perf_counter())

    receiver = threading.Thread(target=receive)
    receiver.start()
    sent = []
    for _ in range(100):
        sent.append(time.perf_counter())
        client.send(b"ping")
        time.sleep(0.005)
    receiver.join()
    inside.emit({"ms": [1000 * (b - a) for a, b in zip(sent, arrived, strict=True)]})
    client.close()
    server.close()


def peak_memory() -> float:
    """The most memory that the wire, process 1 of this world, has had so far, in MB."""
    lines = Path("/proc/1/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


def in_world(main: Callable[[Inside], None], **world: Any) -> dict[str, Any]:
    """Run *main* in a world; all that it emitted, and how long the world took."""
    found: dict[str, Any] = {}
    start = time.perf_counter()
    run(World(**world), main, found.update)
    return found | {"seconds": time.perf_counter() - start}


def best(main: Callable[[Inside], None], key: str, **world: Any) -> dict[str, Any]:
    return max((in_world(main, **world) for _ in range(ROUNDS)), key=lambda found: found[key])


def until_it_says(words: str, *command: str) -> float:
    """Seconds from the start of `python -m labkit …` to the first line with these words; its end is not waited for."""
    start = time.perf_counter()
    argv, null = [sys.executable, "-m", "labkit", *command], subprocess.DEVNULL
    with subprocess.Popen(argv, stdin=null, stdout=subprocess.PIPE, stderr=null, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        seconds = next(time.perf_counter() - start for line in process.stdout if words in line)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
    return seconds


def row(what: str, value: float, unit: str, ratio: str = "") -> None:
    print(f"  {what:<52}{value:>10.4g} {unit:<8}{ratio}", flush=True)


def main() -> int:
    started = time.perf_counter()
    try:
        cable = best(plain, "cable")
    except CannotRun as error:
        print(error)
        return 2
    print(f"TCP, {BYTES // MB} MB from one host to another, the best of {ROUNDS}" + " " * 22 + "of the cable")
    row("loopback, no wire", cable["loopback"], "MB/s", f"{cable['loopback'] / cable['cable']:.2f}")
    row("a veth cable without a wire, MTU 1500", cable["cable"], "MB/s", "1.00")
    fastest = best(transfer, "MB/s")
    row("through the wire", fastest["MB/s"], "MB/s", f"{fastest['MB/s'] / cable['cable']:.2f}")
    with tempfile.TemporaryDirectory() as folder:
        capture = Path(folder, "bench.pcapng")
        recorded = best(transfer, "MB/s", capture=capture)
        packets = sum(1 for _ in pcapng.read(capture))
        what = f"through the wire, recording {packets / 1000:.0f} k packets"
        row(what, recorded["MB/s"], "MB/s", f"{recorded['MB/s'] / cable['cable']:.2f}")
    delayed = in_world(transfer, links=dict.fromkeys(BOTH, Link(delay_ms=1)))
    row("through the wire, 1 ms each way", delayed["MB/s"], "MB/s", f"{delayed['MB/s'] / cable['cable']:.2f}")

    print("\nTime, the median")
    echo = in_world(echo_ms)
    row("a round trip on loopback", statistics.median(echo["loopback"]), "ms")
    row("a round trip over the wire", statistics.median(echo["wire"]), "ms")
    for delay in (1, 25):
        took = in_world(one_way_ms, links=dict.fromkeys(BOTH, Link(delay_ms=delay)))["ms"]
        row(
            f"error of a delay of {delay} ms",
            statistics.median(took) - delay,
            "ms",
            f"worst {max(took) - delay:.2f} ms",
        )

    print("\nA run that does nothing")
    idle = [in_world(lambda inside: inside.emit({"peak": peak_memory()})) for _ in range(10)]
    row("builds its world, and is gone, in", 1000 * statistics.median(one["seconds"] for one in idle), "ms")
    row("memory of the wire", statistics.median(one["peak"] for one in idle), "MB")
    row("memory of the wire after recording", recorded["peak"], "MB")
    print("\nWhat a learner waits for")
    for lab in labs():
        row(f"make {lab.slug}: the first packet on screen", until_it_says("├─", "run", lab.slug), "s")
        row(f"make {lab.slug}-check: the starter's verdict", until_it_says("Stuck?", "check", lab.slug), "s")
        solution = str(lab.folder / "solution.py")
        took = until_it_says("All passed", "check", lab.slug, "--file", solution)
        row(f"make {lab.slug}-check: the solution's verdict", took, "s")
    http1.main()
    tls.main()
    http2.main()
    quic.main()
    http3.main()
    print(f"\n{os.cpu_count()} processors, Linux {os.uname().release}, {time.perf_counter() - started:.0f} s")
    return 0


BOTH = (("client", "server"), ("server", "client"))

if __name__ == "__main__":
    sys.exit(main())
