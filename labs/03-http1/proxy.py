r"""A proxy and a backend that read the same request in two ways. Wrong on purpose: learn from it, do not copy it.

A request with both Content-Length and Transfer-Encoding has two ends. The proxy believes the first, the backend the
second, and what lies between the two ends is, for the backend, the beginning of the next request: somebody else's.
Each alone passes every test that its author thought of. (RFC 9112 §6.3, §11.2; experiment `desync`)

Run:   .venv/bin/python -m labs.03-http1.proxy                  the proxy on 7103, before its naive backend on 7203
       .venv/bin/python -m labs.03-http1.proxy --backend 7003   before the lab's own server: `make http1-server`
Try:   curl http://127.0.0.1:7103/hello
       (printf 'POST / HTTP/1.1\r\nHost: lab\r\nContent-Length: 35\r\nTransfer-Encoding: chunked\r\n\r\n'
        printf '0\r\n\r\nGET /poison HTTP/1.1\r\nIgnore: ') | timeout 1 nc 127.0.0.1 7103
       curl http://127.0.0.1:7103/hello               which answer do you get?
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

Address = tuple[str, int]


async def read_head(reader: asyncio.StreamReader) -> tuple[bytes, dict[bytes, bytes]]:
    """A head, and its fields as a dict. Wrong: of two fields with one name the last wins, and nothing is checked."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")[1:-2]
    return head, {name: value.strip() for name, _, value in (line.partition(b":") for line in lines)}


async def read_by_length(reader: asyncio.StreamReader, fields: dict[bytes, bytes]) -> bytes:
    """The body that Content-Length announces. Wrong: Transfer-Encoding would overrule it."""
    return await reader.readexactly(int(fields.get(b"content-length", b"0")))


async def read_chunks(reader: asyncio.StreamReader) -> bytes:
    """A chunked body. That is not wrong, only careless; what is wrong is that Content-Length was not looked at."""
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return body


@contextlib.asynccontextmanager
async def proxy(host: str, port: int, backend: Address) -> AsyncIterator[asyncio.Server]:
    """Forward requests of all clients over one connection to the backend, as proxies do to save handshakes."""
    turn = asyncio.Lock()  # One request at a time is under way.
    shared: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def forward(head: bytes, body: bytes) -> bytes:
        async with turn:
            if not shared:
                shared.append(await asyncio.open_connection(*backend))
            reader, writer = shared[0]
            writer.write(head + body)
            answer, fields = await read_head(reader)
            answer += await read_by_length(reader, fields)
            if fields.get(b"connection") == b"close":
                shared.pop()[1].close()
            return answer

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), contextlib.closing(writer):
            while True:
                head, fields = await read_head(reader)
                writer.write(await forward(head, await read_by_length(reader, fields)))

    server = await asyncio.start_server(handle, host, port)
    try:
        yield server
    finally:
        server.close()
        for _, writer in shared:
            writer.close()


@contextlib.asynccontextmanager
async def backend(host: str, port: int) -> AsyncIterator[asyncio.Server]:
    """Answer each request with what was asked for."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), contextlib.closing(writer):
            while True:
                head, fields = await read_head(reader)
                chunked = fields.get(b"transfer-encoding") == b"chunked"
                await (read_chunks(reader) if chunked else read_by_length(reader, fields))
                asked = b"you asked for " + b" ".join(head.split(b" ")[:2]) + b"\n"
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(asked), asked))

    server = await asyncio.start_server(handle, host, port)
    try:
        yield server
    finally:
        server.close()


async def main() -> None:
    options = argparse.ArgumentParser(description="A naive proxy, and a naive backend behind it.")
    options.add_argument("--backend", type=int, default=7203, metavar="PORT", help="of another backend on this machine")
    port = options.parse_args().backend
    async with contextlib.AsyncExitStack() as stack:
        if port == 7203:
            await stack.enter_async_context(backend("127.0.0.1", 7203))
        await stack.enter_async_context(proxy("127.0.0.1", 7103, ("127.0.0.1", port)))
        print(f"= the naive proxy listens on 127.0.0.1:7103, before the backend on 127.0.0.1:{port}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        try:
            asyncio.run(main())
        except OSError as error:  # It says which address it was.
            print(f"Cannot listen: {error.strerror}. Is another proxy running?", file=sys.stderr)
            sys.exit(2)
