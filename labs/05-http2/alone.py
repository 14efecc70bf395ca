"""The lab's server in a process of its own, so that its memory is its own: /memory tells how much that is, in bytes.

python -m labs.05-http2.alone 127.0.0.1 7005
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable
from pathlib import Path

from certs.contexts import server_context
from servers import http2, site


def respond(request: site.Request) -> site.Response | Awaitable[site.Response]:
    if request.target != "/memory":
        return site.respond(request)
    resident = int(Path("/proc/self/statm").read_text().split()[1])  # pages
    return site.plain(200, str(resident * os.sysconf("SC_PAGE_SIZE")))


async def main(host: str, port: int) -> None:
    async with http2.serve(host, port, respond=respond, ssl=server_context(alpn=("h2",)), drain_seconds=0):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
