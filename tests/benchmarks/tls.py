"""How fast our TLS is, beside what others wrote, in one run: `python -m tests.benchmarks.tls` (or all: `make bench`).

The client of the handshakes is the same small loop for all, and so is the certificate, with an ECDSA key. Measured in
turns, the best of each, as in http1.py. The client needs one of the processors, and about as long as the server.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import certs
from certs.contexts import TLS_1_2, TLS_1_3
from tests.benchmarks.http1 import memory, row, running
from tests.benchmarks.http1 import nginx as plain_nginx

ROUNDS = 10
HANDSHAKES = 25  # in a round: the shorter, the likelier is one that nothing disturbs
GET = b"GET / HTTP/1.0\r\n\r\n"
SERVER, KEY = certs.FOLDER / "server.pem", certs.FOLDER / "server.key"

OURS = "from servers.tls import lab_context\nfrom servers import http1\ncontext = lab_context('server')\n"
SERVE = (
    "async def main():\n    async with http1.serve(port={port}{more}):\n        await asyncio.Event().wait()\n"
    "asyncio.run(main())\n"
)
ASYNCIO = """
from servers import http1
from servers.http1_talk import Talk, Limits
from servers.tls import lab_context
context = lab_context('server')
async def main():
    limits = Limits(10, 30, 60, 2, 16384, 1 << 30)
    server = http1.Server(http1.site.respond, limits)
    await asyncio.get_running_loop().create_server(lambda: Talk(server), "127.0.0.1", {port}, ssl=context)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def program(folder: Path, text: str) -> list[str]:
    (folder / "server.py").write_text("import asyncio\n" + text)
    return [sys.executable, str(folder / "server.py")]


def ours(folder: Path, port: int) -> list[str]:
    return program(folder, OURS + SERVE.format(port=port, more=", ssl=context"))


def plain(folder: Path, port: int) -> list[str]:
    return program(folder, "from servers import http1\n" + SERVE.format(port=port, more=""))


def with_asyncio(folder: Path, port: int) -> list[str]:
    """Our HTTP/1.1 in the TLS that asyncio has built in."""
    return program(folder, ASYNCIO.format(port=port))


def with_openssl(folder: Path, port: int) -> list[str]:
    chain = ["-cert", SERVER, "-key", KEY, "-cert_chain", certs.FOLDER / "intermediate.pem"]
    return ["openssl", "s_server", "-accept", str(port), *map(str, chain), "-www", "-quiet"]


def nginx(folder: Path, port: int) -> list[str]:
    command = plain_nginx(folder, port)
    conf = folder / "nginx.conf"
    secure = f"ssl_certificate {SERVER}; ssl_certificate_key {KEY}; ssl_protocols TLSv1.2 TLSv1.3; listen"
    conf.write_text(conf.read_text().replace("listen", secure).replace(f":{port};", f":{port} ssl;"))
    return command


def handshake(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None, say: bytes = b"") -> ssl.SSLSession:
    """One connection, to its end on both sides. The session of it, if something was said: tickets come with data."""
    with socket.create_connection(("127.0.0.1", port)) as tcp:
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(tcp, server_hostname="localhost", session=session) as connection:
            assert connection.session_reused == (session is not None)
            if say:
                connection.sendall(say)
                connection.recv(65536)
            found = connection.session
            assert found
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                while connection.recv(65536):
                    pass
            return found


def handshakes_per_second(port: int, version: ssl.TLSVersion, resumed: bool) -> float:
    context = ssl.create_default_context(cafile=str(certs.FOLDER / "root.pem"))
    context.minimum_version = context.maximum_version = version
    session = handshake(port, context, None, GET) if resumed else None
    began = time.perf_counter()
    for _ in range(HANDSHAKES):
        handshake(port, context, session)
    return HANDSHAKES / (time.perf_counter() - began)


def handshakes() -> None:
    servers = {"servers/tls.py": ours, "openssl s_server": with_openssl, "asyncio's TLS": with_asyncio, "nginx": nginx}
    with contextlib.ExitStack() as stack:
        ports = {name: stack.enter_context(running(make))[0] for name, make in servers.items()}
        for version, name in ((TLS_1_3, "TLS 1.3"), (TLS_1_2, "TLS 1.2")):
            for resumed in (False, True):
                print(f"\n{name}, {'resumed' if resumed else 'full'} handshakes, one after the other, best of {ROUNDS}")
                best = dict.fromkeys(servers, 0.0)
                for _ in range(ROUNDS):
                    for server, port in ports.items():
                        best[server] = max(best[server], handshakes_per_second(port, version, resumed))
                mine, *_ = best.values()
                for server, rate in best.items():
                    row(server, rate, "per second", "" if rate == mine else f"ours: {mine / rate:.2f}")


def requests_per_second(url: str) -> float:
    out = subprocess.run(["wrk", "-t1", "-c32", "-d1", url], capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in out, out
    assert "Socket errors" not in out, out
    return float(re.search(r"Requests/sec: *([0-9.]+)", out)[1])  # type: ignore[index]


def requests() -> None:
    print("\nRequests per second on hello over HTTPS (wrk, one thread, 32 connections), the best of many")
    servers = {"servers/tls.py": ours, "asyncio's TLS": with_asyncio, "nginx, one worker": nginx}
    best = dict.fromkeys([*servers, "servers/http1.py, without TLS"], 0.0)
    with contextlib.ExitStack() as stack:
        urls = {name: f"https://127.0.0.1:{stack.enter_context(running(make))[0]}/" for name, make in servers.items()}
        urls["servers/http1.py, without TLS"] = f"http://127.0.0.1:{stack.enter_context(running(plain))[0]}/"
        for _ in range(ROUNDS // 2):
            for name, url in urls.items():
                best[name] = max(best[name], requests_per_second(url))
    mine, *_ = best.values()
    for name, rate in best.items():
        row(name, rate, "requests/s", "" if rate == mine else f"ours: {mine / rate:.2f}")


def streaming() -> None:
    size = 500_000_000
    print("\nA body of 500 MB to a reader that counts it, the best of many")
    for name, make in {"servers/tls.py": ours, "asyncio's TLS": with_asyncio}.items():
        with running(make) as (port, _):
            best = 0.0
            for _ in range(3):
                out = subprocess.run(
                    ["curl", "-sk", "-o", "/dev/null", "-w", "%{speed_download}", f"https://127.0.0.1:{port}/bytes/{size}"],
                    capture_output=True, text=True, check=True,
                ).stdout  # fmt: skip
                best = max(best, float(out) / 1e6)
            row(name, best, "MB/s")


def idle() -> None:
    count = 500
    print(f"\nMemory of {count} idle connections, each of which has had an answer")
    context = ssl.create_default_context(cafile=str(certs.FOLDER / "root.pem"))
    for name, make in {"servers/tls.py": ours, "asyncio's TLS": with_asyncio}.items():
        with running(make) as (port, pid), contextlib.ExitStack() as stack:
            before = memory(pid)
            for _ in range(count):
                tcp = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                client = stack.enter_context(context.wrap_socket(tcp, server_hostname="localhost"))
                client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                assert client.recv(1000).startswith(b"HTTP/1.1 200")
            row(name, (memory(pid) - before) * 1e6 / count, "bytes each")


def main() -> None:
    if missing := [tool for tool in ("openssl", "nginx", "wrk", "curl") if not shutil.which(tool)]:
        print(f"\nTLS is not measured: {' and '.join(missing)} not installed.")
        return
    certs.ensure()
    handshakes()
    requests()
    streaming()
    idle()


if __name__ == "__main__":
    main()
