"""How fast our QUIC is, beside aioquic's own server (the same library beneath); and 100,000 random datagrams.

`make bench`, or alone: `python -m tests.benchmarks.quic`. The client is aioquic's, in a process of its own, for both.
What a server costs is told in seconds of its processor, too: a client in Python is no faster than its server.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import certs
from servers import site
from tests.benchmarks.http1 import memory, row

ROUNDS = 3
BYTES = 5_000_000
SERVERS = {
    "servers/quic.py": """
from servers import quic
async def start():
    server = await stack.enter_async_context(quic.serve(path_mtu=True))
    return server.address[1]
""",
    "servers/quic.py, datagrams of 1200 bytes": """
from servers import quic
async def start():
    server = await stack.enter_async_context(quic.serve(path_mtu=False))
    return server.address[1]
""",
    "aioquic's own server": """
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.quic.events import StreamDataReceived
from certs.quic import quic_server
from servers.site import cut_pattern
class Protocol(QuicConnectionProtocol):
    def quic_event_received(self, event):
        if isinstance(event, StreamDataReceived) and event.end_stream:
            data = b"".join(cut_pattern(0, int(event.data.split()[1])))
            self._quic.send_stream_data(event.stream_id, data, True)
async def start():
    tickets = {}
    server = await serve("127.0.0.1", 0, configuration=quic_server(alpn=["lab"]), create_protocol=Protocol,
        session_ticket_fetcher=tickets.pop, session_ticket_handler=lambda one: tickets.update({one.ticket: one}))
    return server._transport.get_extra_info("sockname")[1]
""",
}
FRAME = """
import asyncio, contextlib
stack = contextlib.AsyncExitStack()
{}
async def main():
    async with stack:
        print(await start(), flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""
CLIENT = """
import asyncio, sys, time
from aioquic.asyncio.client import connect
from certs.quic import quic_client
def configuration(**options):
    made = quic_client("localhost", alpn=["lab"], **options)
    made.max_data = made.max_stream_data = 1 << 26
    return made
async def ask(connection, line):
    reader, writer = await connection.create_stream()
    writer.write(line)
    writer.write_eof()
    return await reader.read()
async def stream(port, size):
    async with connect("127.0.0.1", port, configuration=configuration()) as connection:
        await ask(connection, b"bytes 1000\\n")
        began = time.perf_counter()
        assert len(await ask(connection, b"bytes %d\\n" % size)) == size
        return size / 1e6 / (time.perf_counter() - began)
async def requests(port, count):
    async def some():
        for _ in range(count // 32):
            assert len(await ask(connection, b"bytes 16\\n")) == 16
    async with connect("127.0.0.1", port, configuration=configuration()) as connection:
        began = time.perf_counter()
        await asyncio.gather(*[some() for _ in range(32)])
        return count // 32 * 32 / (time.perf_counter() - began)
async def handshakes(port, count, resume=False):
    tickets, began = [None], time.perf_counter()
    for _ in range(count):
        ticket = tickets.pop() if resume and tickets else None
        async with connect(
            "127.0.0.1", port, configuration=configuration(ticket=ticket), session_ticket_handler=tickets.append
        ) as connection:
            await ask(connection, b"bytes 16\\n")
    return count / (time.perf_counter() - began)
async def resumed(port, count):
    return await handshakes(port, count, True)
print(asyncio.run(globals()[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]))))
"""
WHAT = {  # how many, and of what
    "stream": (BYTES, "MB/s over one stream"),
    "requests": (3200, "requests/s, 32 at a time"),
    "handshakes": (40, "handshakes/s, with a request"),
    "resumed": (40, "resumed handshakes/s"),
}
ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"}


@contextlib.contextmanager
def running(code: str) -> Iterator[tuple[int, int]]:
    """A server in a process of its own: its port, and its process id."""
    command = [sys.executable, "-c", FRAME.format(code)]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), process.pid
        finally:
            process.kill()


def seconds(pid: int) -> float:
    """Of the processor, that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def client(*arguments: str | int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "client.py"
        program.write_text(CLIENT)
        command = [sys.executable, str(program), *map(str, arguments)]
        return float(subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout)


def beside() -> None:
    for what, (count, unit) in WHAT.items():
        print(f"\n{unit} (aioquic's client), the best of {ROUNDS} in turns; and the server's processor")
        with contextlib.ExitStack() as stack:
            servers = {name: stack.enter_context(running(code)) for name, code in SERVERS.items()}
            best: dict[str, float] = dict.fromkeys(servers, 0.0)
            least: dict[str, float] = dict.fromkeys(servers, 1e9)
            for _ in range(ROUNDS):
                for name, (port, pid) in servers.items():
                    before = seconds(pid)
                    best[name] = max(best[name], client(what, port, count))
                    least[name] = min(least[name], seconds(pid) - before)
        mine, used = best["servers/quic.py"], least["servers/quic.py"]
        for name, rate in best.items():
            per = least[name] / count * (1e8 if what == "stream" else 1e3)
            unit_of = "s per 100 MB" if what == "stream" else "ms each"
            ratio = "" if name == "servers/quic.py" else f"  ours: {mine / rate:.2f}, {least[name] / used:.2f}"
            row(name, rate, "", f"{per:6.2f} {unit_of}{ratio}")


async def garbage(count: int = 100_000) -> None:
    """Random datagrams, half of them nearly right, beside a transfer: is it whole, and what has the server kept?"""
    from clients import quic as clients

    lots = random.Random(1)
    with running(SERVERS["servers/quic.py"]) as (port, pid):
        async with clients.connect("127.0.0.1", port, name="localhost", timeout=None) as connection:

            async def transfer() -> float:
                began = time.perf_counter()
                stream = await connection.open_stream()
                await stream.finish(b"bytes %d\n" % BYTES)
                assert await stream.read_all(BYTES) == b"".join(site.cut_pattern(0, BYTES)), "the transfer is not whole"
                return time.perf_counter() - began

            alone = await transfer()
            before = memory(pid)
            known = connection.quic._peer_cid.cid
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sent, transfers, done = 0, 0, False

            async def send() -> None:
                nonlocal sent, done
                while sent < count:
                    for _ in range(20):
                        data = lots.randbytes(lots.choice((1, 20, 43, 300, 1200, 1472)))
                        if sent % 4 == 0:
                            data = bytes([0xC0 | data[0] & 0x3F]) + b"\0\0\0\1\x08" + data
                        elif sent % 4 == 1:
                            data = bytes([0x40 | data[0] & 0x3F]) + known + data
                        with contextlib.suppress(OSError):
                            sock.sendto(data, ("127.0.0.1", port))
                            sent += 1
                    await asyncio.sleep(0)
                done = True

            sending = asyncio.create_task(send())
            while not done:
                await transfer()
                transfers += 1
            await sending
            sock.close()
            await transfer()
            row(f"{count:,} datagrams; transfers of 5 MB meanwhile, all whole", transfers)
            row("the server's memory before, and after", before, "MB", f"{memory(pid):.1f} MB")
            row("a transfer alone before that", alone, "s")


def main() -> None:
    certs.ensure()
    beside()
    print("\nGarbage, and a running transfer")
    asyncio.run(garbage())


if __name__ == "__main__":
    main()
