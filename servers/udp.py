r"""UDP has no connection: whoever wrote the datagram's source address gets the answer, asked or not.

Run:   make udp-server
Try:   (printf '?hello'; sleep 1) | nc -u -w1 127.0.0.1 7002     answers "!HELLO"
       (printf 'hello'; sleep 1) | nc -u -w1 127.0.0.1 7002      hears nothing: see rule 2

A source address is easily forged (RFC 2827), and then the answer hits somebody who did not ask. So:
  1. An answer is never larger than its request: no amplifier (RFC 8085 §6).
  2. An answer is not a request ("?" asks, "!" answers), and what is not a request gets no answer, not even
     an error. Else one forged datagram sets two servers to answering each other for ever (CVE-1999-0103).
  3. Each address gets so many answers per second, for it may be a victim's.
  4. While the kernel takes no more (and asyncio holds 64 KiB), answers are dropped. UDP may lose; memory may not grow.

Left out on purpose: proving the client's address with a cookie (RFC 7873 for DNS, Retry in QUIC).
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

PORT = 7002
Address = tuple[str, int]


class Server(asyncio.DatagramProtocol):
    """Answers `?text` with `!TEXT`. `counts` says what became of the datagrams, by reason."""

    def __init__(self, max_request: int, answers_per_second: int, max_addresses: int, log: Callable[[str], None]):
        self.max_request = max_request  # bytes; larger ones would need fragments
        self.answers_per_second = answers_per_second  # to one IP address
        self.max_addresses = max_addresses  # Else a flood from forged addresses owns our memory.
        self.counts: Counter[str] = Counter()
        self.address: Address = ("", 0)
        self._log = log
        self._answered: Counter[str] = Counter()  # by address, in this second
        self._second = 0
        self._blocked = False

    def datagram_received(self, data: bytes, peer: Address) -> None:
        answer, verdict = self._answer(data, peer[0])
        self.counts[verdict] += 1
        self._log(f"< {peer[0]}:{peer[1]} {shown(data)}")
        if answer is None:
            self._log(f"! no answer: {verdict}")
            return
        self._transport.sendto(answer, peer)
        self._log(f"> {peer[0]}:{peer[1]} {shown(answer)}")

    def _answer(self, data: bytes, address: str) -> tuple[bytes | None, str]:
        """The answer to a datagram, or None; and what became of it, in words."""
        if not data.startswith(b"?"):
            return None, "not a request"
        if len(data) > self.max_request:
            return None, "too large"
        if self._blocked:
            return None, "the network is full"
        if not self._may_answer(address):
            return None, "too many"
        return b"!" + data[1:].upper(), "answered"  # bytes.upper() changes ASCII only, so never the size.

    def _may_answer(self, address: str) -> bool:
        if (second := int(asyncio.get_running_loop().time())) != self._second:
            self._second = second
            self._answered.clear()
        if address not in self._answered and len(self._answered) >= self.max_addresses:
            return False
        self._answered[address] += 1
        return self._answered[address] <= self.answers_per_second

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False

    def error_received(self, exc: Exception) -> None:
        self._log(f"! {exc}")  # An answer that could not be sent. The others go on.


@asynccontextmanager
async def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    max_request: int = 1200,
    answers_per_second: int = 1000,
    max_addresses: int = 1000,
    log: Callable[[str], None] = lambda line: None,
) -> AsyncIterator[Server]:
    """Serve until the block ends. Yields the server: `address` is where it listens. OSError when it cannot."""
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Server(max_request, answers_per_second, max_addresses, log), local_addr=(host, port)
    )
    try:
        server.address = transport.get_extra_info("sockname")[:2]
        yield server
    finally:
        transport.close()
        await asyncio.sleep(0)  # The loop closes the socket in its next turn.


def shown(data: bytes, most: int = 60) -> str:
    """A datagram as the log shows it: control characters escaped, long ones cut."""
    return f"{data[:most]!r}{'…' if len(data) > most else ''} ({len(data)} bytes)"


async def main() -> None:
    arguments = argparse.ArgumentParser(prog="servers.udp", description="Upper-case, one datagram at a time.")
    arguments.add_argument("--host", default="127.0.0.1")
    arguments.add_argument("--port", type=int, default=PORT)
    chosen = arguments.parse_args()
    if not 0 <= chosen.port <= 65535:
        arguments.exit(2, f"Port {chosen.port} does not exist: 0 to 65535.\n")
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        async with serve(chosen.host, chosen.port, log=lambda line: print(line, flush=True)) as server:
            print(f"= listening on {server.address[0]}:{server.address[1]}", flush=True)
            await stop.wait()
            print(f"= stopped; {dict(server.counts)}", flush=True)
    except OSError as error:
        print(f"Cannot listen on {chosen.host}:{chosen.port}: {error.strerror}.", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    asyncio.run(main())
