"""TCP, seen from outside: each experiment causes one phenomenon and measures it."""

from __future__ import annotations

import time

from labkit.lab import SYN, Link, Network, experiment


@experiment(
    title="One round trip before the first byte",
    link=Link(delay_ms=50),
    question="The cable takes 50 ms each way. How long does connect() take?",
    choices=("50 ms", "100 ms", "150 ms"),
    answer="100 ms",
)
async def handshake(net: Network) -> None:
    """connect() returns when the SYN-ACK is back: one round trip. The server's accept() returns half a
    round trip later, when the third packet arrives, and the client may send right behind it. So a
    new connection costs one round trip before the first byte leaves. (RFC 9293 §3.5)
    """
    listening = net.server.listen(net.port)
    start = time.perf_counter()
    client = net.client.connect(net.server, net.port)
    net.measure("connect() took", 1000 * (time.perf_counter() - start), "ms", at_least=100, at_most=145)
    server, _ = listening.accept()
    client.close()
    server.close()
    listening.close()
    net.exactly("packets with SYN", sum(p.flags & SYN > 0 for p in net.packets()), 2)
