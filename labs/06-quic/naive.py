"""A server that does what it is asked as soon as it is asked: aioquic's own, and twenty lines for the requests.

Nothing in it is wrong for data that comes once. What comes as 0-RTT may come twice.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aioquic.asyncio import QuicConnectionProtocol
from aioquic.asyncio.server import QuicServer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent, StreamDataReceived
from aioquic.tls import SessionTicket

from certs import FOLDER


class Naive(QuicConnectionProtocol):
    done: Counter[str]  # how often each request was carried out, by all connections together

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived):
            line = event.data.partition(b"\n")[0].decode()
            verb, _, argument = line.partition(" ")
            self.done[line] += 1
            answer = bytes(int(argument)) if verb == "bytes" else b"%d\n" % self.done[line]
            self._quic.send_stream_data(event.stream_id, answer, end_stream=True)


@asynccontextmanager
async def serve(host: str, port: int, done: Counter[str]) -> AsyncIterator[None]:
    """`bytes N` and `count NAME`, each stream's request in one piece. *done* counts them."""
    configuration = QuicConfiguration(
        is_client=False,
        alpn_protocols=["lab"],
        secrets_log_file=open(log, "a") if (log := os.environ.get("SSLKEYLOGFILE")) else None,  # noqa: SIM115
    )
    configuration.load_cert_chain(FOLDER / "server.pem", FOLDER / "server.key")
    tickets: dict[bytes, SessionTicket] = {}
    kind = type("Counting", (Naive,), {"done": done})
    _, server = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: QuicServer(
            configuration=configuration,
            create_protocol=kind,
            session_ticket_fetcher=tickets.get,
            session_ticket_handler=lambda ticket: tickets.__setitem__(ticket.ticket, ticket),
        ),
        local_addr=(host, port),
    )
    try:
        yield
    finally:
        server.close()
