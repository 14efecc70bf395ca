"""A million mutated messages through the cores of HTTP/1.1: `make fuzz`, or `python -m tests.fuzz_http1 COUNT SEED`.

Each message is one of the cases, bent: bytes changed, put in, taken out, two messages spliced. It is read whole, and
again in pieces. Both must end alike, in nothing worse than RemoteProtocolError, and never hold more than the limits
allow.
"""

from __future__ import annotations

import random
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from protocols.errors import RemoteProtocolError
from protocols.http1 import (
    ClientConnection,
    ConnectionClosed,
    Data,
    EndOfMessage,
    Request,
    Response,
    ServerConnection,
)
from tests.http1_cases import REQUESTS, RESPONSES, Answer, Message

Outcome = list[Any]  # Messages or Answers, in order; at the end the status that refuses the rest, or REFUSED


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


def bounded(conn: ServerConnection | ClientConnection, part: bytes) -> None:
    """What waits to be read is never more than the longest head, or line of a chunk, and the last read."""
    assert len(conn.trailing_data) <= max(conn._max_line + conn._max_fields_size + 6, 1024) + len(part)


def serve(parts: Iterable[bytes], *, fin: bool = False, **limits: int) -> tuple[Outcome, ServerConnection]:
    """What a server makes of these reads, when it answers each request as soon as it has all of it."""
    conn, out = ServerConnection(**limits), []
    part, head, body = b"", None, b""
    try:
        for part in chain(filter(None, parts), [b""] * fin):
            conn.receive_data(part)
            while (event := conn.next_event()) is not None and not isinstance(event, ConnectionClosed):
                if isinstance(event, Request):
                    head, body = event, b""
                elif isinstance(event, Data):
                    assert event.data
                    body += event.data
                else:
                    assert isinstance(event, EndOfMessage)
                    assert head is not None
                    trailers, alive = dict(event.trailers), conn.keep_alive
                    out.append(Message(head.method, head.target, body, trailers, alive, dict(head.fields)))
                    conn.send_response(200 if head.method != "CONNECT" else 405, [], b"")
            if event is None:
                bounded(conn, part)
    except RemoteProtocolError as error:
        bounded(conn, part)
        out.append(error.code)
    return out, conn


def ask(
    parts: Iterable[bytes], *, asked: Sequence[str] = ("GET",), fin: bool = False, **limits: int
) -> tuple[Outcome, ClientConnection]:
    """What a client that has sent requests with these methods makes of these reads."""
    conn, out, waiting, parts = ClientConnection(**limits), [], deque(asked), iter(parts)
    for method in asked:
        if method == "UPGRADE":
            conn.send_request("GET", "/", [("Host", "lab.test"), ("Connection", "upgrade"), ("Upgrade", "lab")])
        else:
            conn.send_request(method, "lab.test:443" if method == "CONNECT" else "/", [("Host", "lab.test")])
    part, head, body = b"", None, b""
    try:
        for part in chain(filter(None, parts), [b""] * fin):
            conn.receive_data(part)
            while (event := conn.next_event()) is not None and not isinstance(event, ConnectionClosed):
                if isinstance(event, Response):
                    head, body = event, b""
                    tunnel = event.status == 101 or (waiting[0] == "CONNECT" and event.status // 100 == 2)
                    if tunnel or event.status < 200:
                        out.append(Answer(event.status, b"", {}, conn.keep_alive, dict(event.fields), event.reason))
                    if tunnel:
                        for part in parts:
                            conn.receive_data(part)
                        return out, conn
                elif isinstance(event, Data):
                    assert event.data
                    body += event.data
                else:
                    assert isinstance(event, EndOfMessage)
                    assert head is not None
                    waiting.popleft()
                    trailers, fields = dict(event.trailers), dict(head.fields)
                    out.append(Answer(head.status, body, trailers, conn.keep_alive, fields, head.reason))
            if event is None:
                bounded(conn, part)
    except RemoteProtocolError as error:
        bounded(conn, part)
        out.append(error.code)
    return out, conn


# --- Mutation -----------------------------------------------------------------------------------------------------

LIMITS = {"max_line": 200, "max_fields": 12, "max_fields_size": 400, "max_body": 300}
TOO_LONG = {414, 431, 501}
READ = 64  # bytes at most in one read
WORDS = [
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"=", b'"', b"\\", b"0", b"5", b"f", b"%", b"\xff"),
    *(b"0\r\n", b"\r\n\r\n", b"\r\n ", b"chunked", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(b"HTTP/1.1", b"HTTP/1.0", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"Connection: close\r\n"),
]
SEEDS = [[case.wire for case in cases if len(case.wire) < 600] for cases in (REQUESTS, RESPONSES)]


def mutate(rng: random.Random, wires: list[bytes]) -> bytes:
    """One message out of *wires*, bent in one to four places."""
    wire = bytearray(rng.choice(wires))
    for _ in range(rng.randint(1, 4)):
        at, to = sorted((rng.randint(0, len(wire)), rng.randint(0, len(wire))))
        match rng.randrange(7):
            case 0:  # a byte changed
                wire[at : at + 1] = bytes([rng.randrange(256)])
            case 1:  # a bit changed
                wire[at : at + 1] = bytes(byte ^ 1 << rng.randrange(8) for byte in wire[at : at + 1])
            case 2:  # something put in
                wire[at:at] = rng.choice(WORDS)
            case 3:  # something put in the place of something short
                wire[at : at + rng.randrange(4)] = rng.choice(WORDS)
            case 4:  # a few bytes, or many, taken out
                del wire[at : rng.choice((at + 1, at + 3, to))]
            case 5:  # a part repeated
                wire[at:at] = wire[at:to] * rng.randint(1, 3)
            case 6:  # another message from here on
                wire[at:] = rng.choice(wires)[rng.randint(0, 40) :]
    return bytes(wire[:2000])


def check(rng: random.Random) -> None:
    """One message to the server's core, one to the client's, whole and in pieces; AssertionError tells which."""
    fin = rng.random() < 0.3
    asked = rng.choice([("GET",), ("GET", "GET"), ("HEAD", "GET"), ("CONNECT",), ("UPGRADE",), ()])
    for side, more in ((serve, {}), (ask, {"asked": asked})):
        wire = mutate(rng, SEEDS[side is ask])
        cuts = sorted(rng.randint(0, len(wire)) for _ in range(rng.choice((1, 2, 8))))
        parts = [part for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True) for part in pieces(wire[a:b], READ)]
        try:
            whole, _ = side([wire], fin=fin, **more, **LIMITS)
            cut, _ = side(parts, fin=fin, **more, **LIMITS)
            if (
                whole
                and cut
                and isinstance(whole[-1], int)
                and isinstance(cut[-1], int)
                and TOO_LONG & {whole[-1], cut[-1]}
            ):
                cut[-1] = whole[-1]  # Too long and wrong as well: which of the two is met first depends on the cuts.
            assert whole == cut, f"whole: {whole}, in pieces: {cut}"
        except Exception as error:
            raise AssertionError(f"{side.__name__}({parts}, fin={fin}, {more}): {error!r}") from error


def fuzz(count: int, seed: int) -> float:
    """Check *count* messages; return the seconds it took."""
    rng, start = random.Random(seed), time.perf_counter()
    for _ in range(count // 2):
        check(rng)
    return time.perf_counter() - start


if __name__ == "__main__":
    count, seed = map(int, (*sys.argv[1:], *("1000000", "1")[len(sys.argv) - 1 :]))
    print(f"{count} mutated messages, seed {seed} ...", flush=True)
    print(f"nothing but RemoteProtocolError, in {fuzz(count, seed):.0f} s")
