"""How fast our HTTP/1.1 is, beside what others wrote, in one run: `make bench ARGS=http1` (or all: `make bench`).

A time of a busy machine says nothing; two times taken in turns on the same busy machine, the best of each, say how
many times one is the other. So every peer is measured beside ours, round by round.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h11
import httptools

from protocols.http1 import EndOfMessage, ServerConnection

ROUNDS = 5
BROWSER = (  # what a browser sends, nine fields
    b"GET /tiles?n=100 HTTP/1.1\r\nHost: 127.0.0.1:7003\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 "
    b"Safari/537.36\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n"
    b"Accept-Language: en-GB,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nConnection: keep-alive\r\n"
    b"Cookie: a=b; session=0123456789abcdef\r\nUpgrade-Insecure-Requests: 1\r\nCache-Control: max-age=0\r\n\r\n"
)
HELLO = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def row(what: str, value: float | str, unit: str = "", ratio: str = "") -> None:
    number = value if isinstance(value, str) else f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"
    print(f"  {what:<58}{number:>12} {unit:<12}{ratio}", flush=True)


# -- The parser --------------------------------------------------------------------------------------


def ours() -> None:
    conn = ServerConnection()
    conn.receive_data(BROWSER)
    conn.next_event()
    assert isinstance(conn.next_event(), EndOfMessage)


class Callbacks:
    """The least that a user of httptools has to do: keep the fields, as they come."""

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_message_complete(self) -> None:
        self.whole = True


class Decoding(Callbacks):
    """What our parser does besides: text, and names in lower case."""

    def on_url(self, url: bytes) -> None:
        self.target = url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.decode("latin-1").lower(), value.decode("latin-1")))


def with_httptools(kind: type[Callbacks] = Callbacks) -> None:
    callbacks = kind()
    parser = httptools.HttpRequestParser(callbacks)
    parser.feed_data(BROWSER)
    parser.get_method()
    assert callbacks.whole


def with_httptools_decoding() -> None:
    with_httptools(Decoding)


def with_h11() -> None:
    conn = h11.Connection(h11.SERVER)
    conn.receive_data(BROWSER)
    conn.next_event()
    assert isinstance(conn.next_event(), h11.EndOfMessage)


def parsing() -> None:
    print("\nParsing a browser's request (nine fields, a fresh parser), the best of many")
    best: dict[Callable[[], None], float] = {}
    for _ in range(20 * ROUNDS):
        for parse, times in ((ours, 300), (with_httptools, 300), (with_httptools_decoding, 300), (with_h11, 60)):
            began = time.perf_counter()
            for _ in range(times):
                parse()
            best[parse] = min(best.get(parse, 1.0), (time.perf_counter() - began) / times)
    us = {parse: 1e6 * seconds for parse, seconds in best.items()}
    row("protocols/http1.py", us[ours], "µs")
    row("httptools (C)", us[with_httptools], "µs", f"ours takes {us[ours] / us[with_httptools]:.2f} times as long")
    same = us[with_httptools_decoding]
    row(
        "httptools, and text and lower case in its callbacks",
        same,
        "µs",
        f"ours takes {us[ours] / same:.2f} times as long",
    )
    row("h11", us[with_h11], "µs", f"ours is {us[with_h11] / us[ours]:.1f} times as fast")


# -- Servers -----------------------------------------------------------------------------------------

UVICORN = """
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [
        (b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"16")]})
    await send({"type": "http.response.body", "body": b"Hello, network!\\n"})
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def nginx(folder: Path, port: int) -> list[str]:
    """One worker that answers the same hello."""
    paths = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log {folder}/error;\n"
        f"events {{ worker_connections 16384; }} http {{ access_log off; {paths} keepalive_requests 1000000000;\n"
        f"server {{ listen 127.0.0.1:{port}; location / {{ default_type 'text/plain; charset=utf-8';\n"
        'return 200 "Hello, network!\\n"; } } }\n'
    )
    return ["nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "error")]


def http1(folder: Path, port: int) -> list[str]:
    """Ours, on the standard event loop, without the log."""
    (folder / "ours.py").write_text(
        "import asyncio, resource\nfrom servers import http1\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))\n"
        f"async def main():\n    async with http1.serve(port={port}):\n        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    return [sys.executable, str(folder / "ours.py")]


def uvicorn(folder: Path, port: int) -> list[str]:
    """With uvloop and httptools, which are C."""
    (folder / "app.py").write_text(UVICORN)
    options = "--loop uvloop --http httptools --no-access-log --log-level error --limit-concurrency 100000"
    return [sys.executable, "-m", "uvicorn", "--app-dir", str(folder), "--port", str(port), *options.split(), "app:app"]


SERVERS = {"servers/http1.py": http1, "nginx, one worker": nginx, "uvicorn[standard]": uvicorn}


@contextlib.contextmanager
def running(make: Callable[[Path, int], list[str]]) -> Iterator[tuple[int, int]]:
    """A server in a process of its own: its port and process id."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/sbin:/usr/bin:/bin"}
        program = subprocess.Popen(make(Path(folder), port), env=environment, stderr=subprocess.DEVNULL)
        try:
            for _ in range(500):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.02)
            yield port, program.pid
        finally:
            program.terminate()
            program.wait()


def requests_per_second(port: int) -> float:
    out = subprocess.run(
        ["wrk", "-t1", "-c32", "-d2", f"http://127.0.0.1:{port}/"], capture_output=True, text=True, check=True
    ).stdout
    assert "Non-2xx" not in out, out
    assert "Socket errors" not in out, out
    return float(re.search(r"Requests/sec: *([0-9.]+)", out)[1])  # type: ignore[index]


def serving() -> None:
    print("\nRequests per second on hello, keep-alive (wrk, one thread, 32 connections), the best of five in turns")
    best = dict.fromkeys(SERVERS, 0.0)
    with contextlib.ExitStack() as stack:
        ports = {name: stack.enter_context(running(make))[0] for name, make in SERVERS.items()}
        for _ in range(ROUNDS):
            for name, port in ports.items():
                best[name] = max(best[name], requests_per_second(port))
    mine, *_ = best.values()
    for name, rate in best.items():
        row(name, rate, "requests/s", "" if rate == mine else f"ours: {mine / rate:.2f}")


def streaming() -> None:
    size = 1_000_000_000
    print("\nA body of 1 GB, from memory to a reader that counts it, and back")
    with running(http1) as (port, pid):
        best = 0.0
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(HELLO.replace(b"/ ", b"/bytes/%d " % size))
                buffer, got, began = bytearray(1 << 20), 0, time.perf_counter()
                while got < size:
                    got += client.recv_into(buffer)
                best = max(best, got / (time.perf_counter() - began) / 1e6)
        row("GET /bytes/1000000000", best, "MB/s")
        with socket.create_connection(("127.0.0.1", port)) as client:
            began, piece = time.perf_counter(), bytes(1 << 20)
            client.sendall(b"PUT /upload HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(size // len(piece)):
                client.sendall(piece)
            client.sendall(bytes(size % len(piece)))
            client.recv(1000)
            row("PUT /upload (which also computes its SHA-256)", size / (time.perf_counter() - began) / 1e6, "MB/s")
        row("memory of the server after both", memory(pid), "MB")


def memory(pid: int) -> float:
    """Resident memory in MB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) / 1000  # type: ignore[index]


def idle() -> None:
    count = 10_000
    print(f"\nMemory of {count:,} idle keep-alive connections, each of which has had an answer")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < count + 100:
        row("not measured: this machine allows open files:", hard)
        return
    for name in ("servers/http1.py", "uvicorn[standard]"):
        with running(SERVERS[name]) as (port, pid), contextlib.ExitStack() as stack:
            before = memory(pid)
            for _ in range(count):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                client.sendall(HELLO)
                assert client.recv(1000).startswith(b"HTTP/1.1 200")
            row(name, (memory(pid) - before) * 1e6 / count, "bytes each")


async def latency(port: int) -> float:
    """The median time of an answer, in ms."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    times = []
    for _ in range(500):
        began = time.perf_counter()
        writer.write(HELLO)
        await reader.readuntil(b"network!\n")
        times.append(time.perf_counter() - began)
    writer.close()
    return sorted(times)[len(times) // 2] * 1e3


async def slowloris() -> None:
    count = 1000
    print(f"\nA good client's median latency, alone and beside {count:,} that trickle a head, a byte each every 0.1 s")
    with running(http1) as (port, _):
        alone = min([await latency(port) for _ in range(ROUNDS)])
        slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
        for _, writer in slow:
            writer.write(b"GET / HTTP/1.1\r\nX: ")

        async def trickle() -> None:
            while True:
                for i, (_, writer) in enumerate(slow):
                    writer.write(b"x")
                    if i % 100 == 99:
                        await asyncio.sleep(0.01)

        task = asyncio.create_task(trickle())
        beside = min([await latency(port) for _ in range(ROUNDS)])
        task.cancel()
        for _, writer in slow:
            writer.transport.abort()
    row("alone", alone, "ms")
    row(f"beside {count:,} slow ones", beside, "ms", f"{beside / alone:.2f} times as long")


def main() -> None:
    if missing := [tool for tool in ("nginx", "wrk") if not shutil.which(tool)]:
        print(f"\nHTTP/1.1 is not measured: {' and '.join(missing)} not installed.")
        return
    parsing()
    serving()
    streaming()
    idle()
    asyncio.run(slowloris())


if __name__ == "__main__":
    main()
