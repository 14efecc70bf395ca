"""How fast our HTTP/3 is, beside Hypercorn, which stands on aioquic as ours does, and Caddy, which is compiled.

`make bench ARGS=http3`, or alone: `python -m tests.benchmarks.http3`. Every peer is measured beside ours, round by
round, by one client, gtlsclient, which is compiled, too: what is measured is the server.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import certs
from tests.benchmarks.http1 import free_port, row

ROUNDS = 3
REQUESTS = 1000
SIZE = 20_000_000
APPLICATION = """
PIECE = bytes(262044)  # as many as the site gives at a time

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    size = int(scope["path"].removeprefix("/bytes/")) if scope["path"] != "/" else 16
    fields = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(size).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    if size == 16:
        await send({"type": "http.response.body", "body": b"Hello, network!\\n"})
        return
    while size:
        piece = PIECE[:size]
        size -= len(piece)
        await send({"type": "http.response.body", "body": piece, "more_body": size > 0})
"""
CADDY = """{
    admin off
    auto_https off
    servers {
        protocols h1 h2 h3
    }
}
https://localhost:%d {
    bind 127.0.0.1
    tls %s %s
    root * %s
    header Content-Type "text/plain; charset=utf-8"
    respond / "Hello, network!
"
    file_server
}
"""


def ours(folder: Path, port: int) -> list[str]:
    """On the standard event loop, without the log."""
    (folder / "ours.py").write_text(
        "import asyncio\nfrom servers import http3\n"
        f"async def main():\n    async with http3.serve(port={port}):\n"
        "        await asyncio.Event().wait()\nasyncio.run(main())\n"
    )
    return [sys.executable, str(folder / "ours.py")]


def hypercorn(folder: Path, port: int) -> list[str]:
    """With a limit of requests per connection that is not met; its default is 1,000."""
    (folder / "application.py").write_text(APPLICATION)
    (folder / "settings.toml").write_text("keep_alive_max_requests = 1000000000\n")
    key, chain = certs.FOLDER / "server.key", certs.FOLDER / "server.pem"
    return [
        sys.executable, "-m", "hypercorn", "--config", str(folder / "settings.toml"), "--bind", f"127.0.0.1:{port}",
        "--quic-bind", f"127.0.0.1:{port}", "--keyfile", str(key), "--certfile", str(chain),
        f"{folder}/application:app",
    ]  # fmt: skip


def caddy(folder: Path, port: int) -> list[str]:
    key, chain = certs.FOLDER / "server.key", certs.FOLDER / "server.pem"
    (folder / "bytes").mkdir()
    (folder / "bytes" / str(SIZE)).write_bytes(bytes(SIZE))
    (folder / "Caddyfile").write_text(CADDY % (port, chain, key, folder))
    return ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


SERVERS = {"servers/http3.py": ours, "Hypercorn": hypercorn, "Caddy": caddy}


def seconds(port: int, path: str, requests: int = 1) -> float:
    """How long gtlsclient takes for so many requests on one connection; all must be answered with 200."""
    began = time.perf_counter()
    out = subprocess.run(
        ["gtlsclient", "--exit-on-all-streams-close", "--no-quic-dump", "--no-http-dump", f"-n{requests}",
         "--max-data=64M", "--max-stream-data-bidi-local=32M", "--max-window=64M", "--max-stream-window=32M",
         "127.0.0.1", str(port), f"https://localhost:{port}{path}"],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    took = time.perf_counter() - began
    answered = len(re.findall(r":status: 200", out.stdout + out.stderr))
    assert answered == requests, f"{answered} of {requests} answered; {out.stderr[-500:]}"
    return took


@contextlib.contextmanager
def running(make: Callable[[Path, int], list[str]]) -> Iterator[int]:
    """A server in a process of its own, once it answers: its port."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/sbin:/usr/bin:/bin", "HOME": folder}
        null = subprocess.DEVNULL
        program = subprocess.Popen(make(Path(folder), port), env=environment, stdout=null, stderr=null)
        try:
            for _ in range(20):
                time.sleep(0.3)
                with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
                    seconds(port, "/")
                    break
            yield port
        finally:
            program.terminate()
            program.wait()


def main() -> None:
    certs.ensure()
    if not shutil.which("gtlsclient"):
        print("\nHTTP/3 is not measured: gtlsclient (ngtcp2-client) is not installed.")
        return
    servers = {name: make for name, make in SERVERS.items() if make is not caddy or shutil.which("caddy")}
    with contextlib.ExitStack() as stack:
        ports = {name: stack.enter_context(running(make)) for name, make in servers.items()}
        for what, unit, path, requests, amount in (
            (f"\nHTTP/3: {REQUESTS} requests for hello on one connection", "requests/s", "/", REQUESTS, REQUESTS),
            (f"\nHTTP/3: {SIZE // 1_000_000} MB over one stream", "MB/s", f"/bytes/{SIZE}", 1, SIZE / 1e6),
        ):
            print(f"{what} (gtlsclient), the best of {ROUNDS} in turns")
            best = dict.fromkeys(ports, 0.0)
            for _ in range(ROUNDS):
                for name, port in ports.items():
                    best[name] = max(best[name], amount / seconds(port, path, requests))
            mine, *_ = best.values()
            for name, rate in best.items():
                row(name, rate, unit, "" if rate == mine else f"ours: {mine / rate:.2f}")


if __name__ == "__main__":
    main()
