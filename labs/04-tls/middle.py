"""A man in the middle. He has no key; he forwards what client and server say, record by record, and may change it.

What he can do with that is little, and that is the point: experiments `tampered`, `cut-off`, `downgrade`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

Address = tuple[str, int]
Change = Callable[[str, bytes], bytes | None]
"""Who sent it ("client", "server") and the record, with its header → what to forward; None: a FIN instead."""


@contextlib.asynccontextmanager
async def between(here: Address, server: Address, change: Change) -> AsyncIterator[None]:
    """Wait for clients at an address, and stand between each of them and the server."""
    under_way: set[asyncio.Task[None]] = set()

    async def meet(from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        if task := asyncio.current_task():
            under_way.add(task)
        from_server, to_server = await asyncio.open_connection(*server)
        await asyncio.gather(
            forward("client", from_client, to_server, change), forward("server", from_server, to_client, change)
        )
        for writer in (to_client, to_server):
            writer.close()

    listening = await asyncio.start_server(meet, *here)
    try:
        yield
    finally:
        listening.close()
        if under_way:
            await asyncio.wait(under_way, timeout=5)


async def forward(sender: str, source: asyncio.StreamReader, target: asyncio.StreamWriter, change: Change) -> None:
    buffer, is_over = b"", False
    with contextlib.suppress(ConnectionError):
        while not is_over and (data := await source.read(65536)):
            buffer, forwarded = buffer + data, b""  # What comes together goes on together.
            while not is_over and len(buffer) >= (size := 5 + int.from_bytes(buffer[3:5], "big")):
                changed, buffer = change(sender, buffer[:size]), buffer[size:]
                is_over = changed is None
                forwarded += changed or b""
            target.write(forwarded)
            await target.drain()
    with contextlib.suppress(OSError):
        target.write_eof()  # A FIN, as anybody can send one.
