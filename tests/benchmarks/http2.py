"""How fast our HTTP/2 is, beside Hypercorn, which stands on h2 as ours does; and whether a flood makes others wait.

`make bench`, or alone: `python -m tests.benchmarks.http2`. Every peer is measured beside ours, round by round.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import certs
from protocols.http2_frames import PREFACE, SETTINGS_ACK, Decoder, Flag, Frame, FrameType, encode, rst_stream, settings
from tests.benchmarks.http1 import memory, row, running

ROUNDS = 3
HEAD = Flag.END_STREAM | Flag.END_HEADERS
GET = b"\x82\x86\x84\x41\x01a"  # GET http / from a, by HPACK's static table
APPLICATION = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    fields = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"16")]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": b"Hello, network!\\n"})
"""


def ours(folder: Path, port: int, context: str = "None") -> list[str]:
    """On the standard event loop, without the log."""
    (folder / "ours.py").write_text(
        "import asyncio\nfrom servers import http2\nfrom servers.tls import lab_context\n"
        f"async def main():\n    async with http2.serve(port={port}, ssl={context}):\n"
        "        await asyncio.Event().wait()\nasyncio.run(main())\n"
    )
    return [sys.executable, str(folder / "ours.py")]


def ours_tls(folder: Path, port: int) -> list[str]:
    return ours(folder, port, 'lab_context(alpn=["h2"])')


def hypercorn(folder: Path, port: int) -> list[str]:
    """With a limit of requests per connection that is not met; its default is 1,000."""
    (folder / "application.py").write_text(APPLICATION)
    (folder / "settings.toml").write_text("keep_alive_max_requests = 1000000000\n")
    return [
        sys.executable, "-m", "hypercorn", "--config", str(folder / "settings.toml"), "--bind", f"127.0.0.1:{port}",
        f"{folder}/application:app",
    ]  # fmt: skip


def hypercorn_tls(folder: Path, port: int) -> list[str]:
    key, chain = certs.FOLDER / "server.key", certs.FOLDER / "server.pem"
    return [*hypercorn(folder, port), "--keyfile", str(key), "--certfile", str(chain)]


PEERS = {
    "http": {"servers/http2.py": ours, "Hypercorn": hypercorn},
    "https": {"servers/http2.py": ours_tls, "Hypercorn": hypercorn_tls},
}


def requests_per_second(url: str, *options: str) -> float:
    """By h2load, if all went well."""
    out = subprocess.run(["h2load", *options, url], capture_output=True, text=True, check=True).stdout
    assert " 0 failed, 0 errored" in out, out
    return float(re.search(r"([0-9.]+) req/s", out)[1])  # type: ignore[index]


def serving() -> None:
    for scheme, servers in PEERS.items():
        print(f"\nRequests per second on hello, {scheme} (h2load, 32 streams at a time), the best of {ROUNDS} in turns")
        with contextlib.ExitStack() as stack:
            ports = {name: stack.enter_context(running(make))[0] for name, make in servers.items()}
            for connections in ("1", "8"):
                best = dict.fromkeys(servers, 0.0)
                for _ in range(ROUNDS):
                    for name, port in ports.items():
                        url, options = f"{scheme}://127.0.0.1:{port}/", ("-n4000", f"-c{connections}", "-m32")
                        best[name] = max(best[name], requests_per_second(url, *options))
                mine = best["servers/http2.py"]
                for name, rate in best.items():
                    what = f"{name}, {connections} connection{'s' * (connections != '1')}"
                    row(what, rate, "requests/s", "" if rate == mine else f"ours: {mine / rate:.2f}")


def streaming() -> None:
    print(f"\n100 MB, the best of {3 * ROUNDS} in turns")
    with running(ours) as (port, _):
        best = {1: 0.0, 32: 0.0}
        for _ in range(3 * ROUNDS):
            for streams in best:
                url = f"http://127.0.0.1:{port}/bytes/{100_000_000 // streams}"
                rate = requests_per_second(url, f"-n{streams}", "-c1", f"-m{streams}")
                best[streams] = max(best[streams], rate * 100 / streams)
        row("over one stream", best[1], "MB/s")
        row("over 32 streams", best[32], "MB/s", f"{best[32] / best[1]:.2f} of one")


async def latency(port: int) -> float:
    """The worst of 50 answers, one after the other, in ms."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(PREFACE + encode(settings({})) + encode(SETTINGS_ACK))
    frames, times = Decoder(1 << 24), []
    for stream in range(1, 100, 2):
        began = time.perf_counter()
        writer.write(encode(Frame(FrameType.HEADERS, HEAD, stream, GET)))
        while not any(frame.type == FrameType.DATA for frame in frames.frames()):
            frames.receive_data(await reader.read(65536))
        times.append(time.perf_counter() - began)
        await asyncio.sleep(0.005)
    writer.close()
    return max(times) * 1e3


def resets(stream: int) -> bytes:
    return encode(Frame(FrameType.HEADERS, HEAD, stream, GET)) + encode(rst_stream(stream, 8))


async def flood(port: int, frames: bytes) -> None:
    """One that comes again whenever it is thrown out."""
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(PREFACE + encode(settings({})) + encode(SETTINGS_ACK))
        writer.write(frames)
        with contextlib.suppress(ConnectionError):
            while await reader.read(1 << 16):
                pass
        writer.close()


FLOODS = {
    "rapid reset": resets,
    "PING": lambda stream: encode(Frame(FrameType.PING, 0, 0, bytes(8))),
    "empty CONTINUATION": lambda stream: encode(Frame(FrameType.CONTINUATION if stream > 1 else 1, 0, 1, b"")),
}


async def beside_floods() -> None:
    print(
        "\nThe worst of 50 answers, and the server's memory, while somebody floods it, and comes again when thrown out"
    )
    with running(ours) as (port, pid):
        alone = min([await latency(port) for _ in range(ROUNDS)])
        row("nobody else", alone, "ms", f"{memory(pid):.1f} MB")
        for name, make in FLOODS.items():
            frames = b"".join(
                make(stream) for stream in range(1, 20001, 2)
            )  # Before: this, too, would take others' time.
            task = asyncio.create_task(flood(port, frames))
            worst = min([await latency(port) for _ in range(ROUNDS)])
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            row(name, worst, "ms", f"{memory(pid):.1f} MB")


def main() -> None:
    certs.ensure()
    if not shutil.which("h2load"):
        print("\nHTTP/2 is not measured: h2load is not installed.")
        return
    serving()
    streaming()
    asyncio.run(beside_floods())


if __name__ == "__main__":
    main()
