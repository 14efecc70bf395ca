r"""A datagram may be lost, late, doubled or a stranger's: a client needs a timer, a retry, and to know its answer.

Run:   make udp-client                      or: make udp-client ARGS='hello world'
Try:   it against a server we did not write: socat -u UDP-LISTEN:7002,fork EXEC:/bin/false
       (no answer ever comes: the client tries 4 times, and waits twice as long each time)

The client sends `?<number> text` and takes only `!<number> …` for an answer. The number is random, new for each
request, the same in each retry: so an answer that comes late, or that somebody forges blindly, is not taken for
another's (RFC 5452 §4). A retry means that the server may do it twice, so only what may be repeated is asked so.

Left out on purpose: measuring the round trip over many requests (RFC 6298; see protocols/reliable.py).
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass

PORT = 7002
FIRST_TIMEOUT = 1.0  # seconds: what to wait when nothing is known of the path (RFC 8085 §3.1.1, RFC 6298 §2.1)
TRIES = 4


@dataclass(frozen=True)
class Answer:
    text: str
    tries: int  # how many requests were sent for it
    ignored: int  # datagrams that were not the answer
    seconds: float  # from the first request on


class NoAnswer(Exception):
    """All tries are used up."""


class NobodyListens(NoAnswer):
    """The host says so, or a router says that it cannot be reached (ICMP)."""


class _Inbox(asyncio.DatagramProtocol):
    """Hands what arrives, or the error that ICMP told, to whoever awaits `wait`."""

    def __init__(self, wanted: bytes) -> None:
        self._wanted = wanted
        self.ignored = 0
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, peer: object) -> None:
        if not data.startswith(self._wanted) or self.answer.done():
            self.ignored += 1
        else:
            self.answer.set_result(data[len(self._wanted) :])

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


async def ask(
    text: str,
    host: str = "127.0.0.1",
    port: int = PORT,
    *,
    timeout: float = FIRST_TIMEOUT,
    tries: int = TRIES,
    log: Callable[[str], None] = lambda line: None,
) -> Answer:
    """Ask for *text* in upper case. *timeout* is for the first try; each further one waits twice as long.

    Raises NoAnswer when none came, OSError when the name is unknown, ValueError when fragments would be needed.
    """
    number = f"{secrets.randbits(32):010d} ".encode()
    request = b"?" + number + text.encode()
    if len(request) > 1200:
        raise ValueError(f"{len(request)} bytes: at most 1200 pass everywhere in one packet (RFC 8085 §3.2)")
    loop = asyncio.get_running_loop()
    start = loop.time()
    # A connected socket: the kernel drops what comes from elsewhere, and tells of a closed port.
    transport, inbox = await loop.create_datagram_endpoint(lambda: _Inbox(b"!" + number), remote_addr=(host, port))
    try:
        for attempt in range(1, tries + 1):
            transport.sendto(request)
            log(f"> {request!r}")
            try:
                # shield: a timeout ends our waiting, not the future that the next try waits for.
                data = await asyncio.wait_for(asyncio.shield(inbox.answer), timeout)
            except TimeoutError:
                log(f"= nothing after {timeout:g} s")
                timeout *= 2  # Back off: a full network is not helped by more (RFC 8085 §3.1.1).
                continue
            log(f"< {data!r}")
            return Answer(data.decode(errors="replace"), attempt, inbox.ignored, loop.time() - start)
        raise NoAnswer(f"no answer from {host}:{port} to {tries} requests")
    except OSError as error:
        raise NobodyListens(f"{host}:{port}: {error.strerror}") from None  # ECONNREFUSED: ICMP port unreachable
    finally:
        transport.close()
        inbox.answer.cancel()
        await asyncio.sleep(0)  # The loop closes the socket in its next turn.


def main() -> int:
    """0: answered; 1: no answer; 2: could not ask; 130: interrupted."""
    arguments = argparse.ArgumentParser(prog="clients.udp", description="Ask the lab's UDP server.")
    arguments.add_argument("text", nargs="*", default=["hello"])
    arguments.add_argument("--host", default="127.0.0.1")
    arguments.add_argument("--port", type=int, default=PORT)
    chosen = arguments.parse_args()
    if not 1 <= chosen.port <= 65535:
        arguments.exit(2, f"Nothing can be sent to port {chosen.port}: 1 to 65535.\n")
    try:
        answer = asyncio.run(ask(" ".join(chosen.text), chosen.host, chosen.port, log=print))
    except (NobodyListens, ValueError) as error:
        print(f"! {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"! {chosen.host}:{chosen.port}: {error.strerror}", file=sys.stderr)
        return 2
    except NoAnswer as error:
        print(f"! {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    # With !r: a server that we do not know must not write escape sequences to our terminal.
    print(f"= {answer.text!r} ({answer.tries} sent, {1000 * answer.seconds:.1f} ms)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
