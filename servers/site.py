r"""One site for all versions of HTTP: what is answered does not depend on how the question travelled.

servers/http1.py, and the servers for HTTP/2 and HTTP/3, call respond() and put its answer on their wire. So the same
request can be compared over every version.

    /                      hello; POST / echoes the body, a large one while it still arrives
    /bytes/N               N bytes, of which number i is i % 251; ranges
    /text                  this file, plain or gzip; conditional requests, ranges
    /tiles?n=100           a picture of n images, /tile/0 … , each a request of its own
    /events?n=10&interval=1   an event stream: n events, so many seconds apart
    /upload                PUT or POST: how many bytes came, and their SHA-256
    /slow?seconds=1        an answer that takes its time
    /redirect?n=1&to=/&status=302   n redirects, and the last one leads there
    /headers               what arrived, as JSON
    /status/204            an answer with this status

Try:   curl -i http://127.0.0.1:7003/bytes/1000 -H 'Range: bytes=0-4,-5'      both parts, in one answer
       curl -i http://127.0.0.1:7003/text -H 'If-None-Match: *'               304, and no body
       curl -iX OPTIONS --request-target '*' http://127.0.0.1:7003/
Left out on purpose: files (nothing in a path leads to one), cookies, TRACE and CONNECT, state of any kind.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import itertools
import json
import math
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from string import Template
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote

from protocols import semantics, sse


class Request(NamedTuple):
    """What any version of HTTP makes of the bytes that it received."""

    method: str
    target: str  # "/path?query", or "*"
    fields: Mapping[str, str]  # lower-case name: value
    body: AsyncIterator[bytes]  # nobody has to read it


class Response(NamedTuple):
    """The answer, also to HEAD: who sends it leaves the body out. Only a body in pieces tells its content-length."""

    status: int
    fields: Sequence[tuple[str, str]]
    body: bytes | AsyncIterator[bytes]


class Refusal(Exception):
    """A request that cannot be served: the status, and why."""


def plain(status: int, text: str, *fields: tuple[str, str]) -> Response:
    """A sentence."""
    return Response(status, (("content-type", "text/plain; charset=utf-8"), *fields), f"{text}\n".encode())


def number(query: dict[str, str], name: str, default: float, *, least: float = 0, most: float) -> float:
    """A number from the query; bounded, so that nobody can ask for a wait or a flood without end."""
    text = query.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) or not least <= float(text) <= most:
        raise Refusal(400, f"{name} is a number from {least:g} to {most:g}.")
    return float(text)


# -- Bytes that are known: conditions and ranges -----------------------------------------------------

PERIOD = 251  # A prime: whatever is lost or comes twice, in pieces of any usual size, shifts the pattern.
PATTERN = bytes(range(PERIOD)) * 1044  # 256 KiB, nearly


def cut_pattern(start: int, end: int) -> Iterator[bytes]:
    """The bytes from *start* to *end*, in pieces. A whole PATTERN is not copied: a slice of all of it is itself."""
    while start < end:
        at = start % len(PATTERN)
        piece = PATTERN[at : at + end - start]
        start += len(piece)
        yield piece


def represent(
    request: Request,
    kind: str,
    length: int,
    cut: Callable[[int, int], Iterable[bytes]],
    etag: str,
    modified: int | None = None,
    coding: str = "",
) -> Response:
    """Answer with *length* bytes, or with the parts that are wanted, or with why not: 200, 206, 304, 412, 416.

    kind      their media type
    cut       gives the bytes from a start to an end, in pieces
    coding    the choice that was made by Accept-Encoding, "identity" or "gzip"; "" for none
    """
    now = time.time()
    validators = [("etag", etag), *([("vary", "accept-encoding")] if coding else [])]
    fields = [("content-type", kind), *([("content-encoding", coding)] if coding == "gzip" else [])]
    if modified is not None:
        fields.append(("last-modified", semantics.http_date(modified)))
    match semantics.precondition(request.method, request.fields, etag, modified, now):
        case 304:
            return Response(304, validators, b"")
        case 412:
            return plain(412, "It is not what you say it is.")
    spans = semantics.ranges(request.method, request.fields, length, etag, modified, now)
    if spans == []:
        return plain(416, f"There are {length} bytes.", ("content-range", f"bytes */{length}"))
    if spans is not None and len(spans) > 1 and coding == "gzip":
        spans = None  # Packed parts between marks that are not packed: nobody would know what to unpack.
    if spans is None:
        return whole(200, [*validators, *fields, ("accept-ranges", "bytes")], length, cut(0, length))
    if "if-range" in request.fields:
        fields = []  # The client has these already (RFC 9110 §15.3.7).
    if len(spans) == 1:
        fields.append(("content-range", semantics.content_range(spans[0], length)))
        marks = [b"", b""]
    else:
        boundary = secrets.token_hex(16)
        fields[:1] = [("content-type", f"multipart/byteranges; boundary={boundary}")]
        marks = semantics.multipart(spans, length, kind, boundary)
    parts = [itertools.chain([mark], cut(*span)) for mark, span in zip(marks, spans, strict=False)]
    size = sum(map(len, marks)) + sum(end - start for start, end in spans)
    return whole(206, [*validators, *fields], size, itertools.chain(*parts, [marks[-1]]))


def whole(status: int, fields: list[tuple[str, str]], length: int, pieces: Iterable[bytes]) -> Response:
    """In one piece if that is small, else piece by piece, as the wire takes them."""

    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    if length <= len(PATTERN):
        return Response(status, fields, b"".join(pieces))
    return Response(status, [*fields, ("content-length", str(length))], body())


# -- Resources: (request, last part of the path, query) -> response ----------------------------------

HELLO = plain(200, "Hello, network!")
TEXT = Path(__file__).read_bytes()
TAG = hashlib.sha256(TEXT).hexdigest()[:16]
CODED = {  # Other bytes, another tag: RFC 9110 §8.8.3.3.
    "identity": (TEXT, f'"{TAG}"'),
    "gzip": (gzip.compress(TEXT, mtime=0), f'"{TAG}-gzip"'),
}
MODIFIED = int(min(Path(__file__).stat().st_mtime, time.time()))  # never later than Date: RFC 9110 §8.8.2.1
PAGE = Template(Path(__file__).with_name("tiles.html").read_text(encoding="utf-8"))
PICTURE = Path(__file__).with_name("lighthouse.svg").read_text(encoding="utf-8")
STATUSES = ("200", "202", "204", "304", "400", "403", "404", "409", "410", "418", "429", "500", "502", "503", "504")
UNCACHED = ("cache-control", "no-store")

SMALL = 65536  # bytes of a body that are held in memory

Query = dict[str, str]


def hello(request: Request, _: str, query: Query) -> Response:
    return HELLO


async def echo(request: Request, _: str, query: Query) -> Response:
    """A small body is read to its end before it is answered: if it proves to be broken, that can be answered instead.

    A large one goes back while it arrives. A client that sends all of it before it reads any will wait for ever.
    """
    fields = [("content-type", request.fields.get("content-type", "application/octet-stream"))]
    start, size = [], 0
    async for piece in request.body:
        start.append(piece)
        size += len(piece)
        if size > SMALL:
            break
    else:
        return Response(200, fields, b"".join(start))

    async def body() -> AsyncIterator[bytes]:
        yield b"".join(start)
        async for piece in request.body:
            yield piece

    if "content-length" in request.fields:
        fields.append(("content-length", request.fields["content-length"]))
    return Response(200, fields, body())


def some_bytes(request: Request, digits: str, query: Query) -> Response:
    if not re.fullmatch(r"[0-9]{1,15}", digits):
        raise Refusal(404, "/bytes/N, where N has 1 to 15 digits.")
    return represent(request, "application/octet-stream", int(digits), cut_pattern, f'"{int(digits)}"')


def text(request: Request, _: str, query: Query) -> Response:
    coding = semantics.choose_coding(request.fields.get("accept-encoding"), ["gzip"])
    if coding is None:
        raise Refusal(406, "There is gzip, and there is identity.")
    data, etag = CODED[coding]
    kind = "text/plain; charset=utf-8"
    return represent(request, kind, len(data), lambda start, end: [data[start:end]], etag, MODIFIED, coding)


def grid(query: Query) -> tuple[int, int, int]:
    """How many tiles, in how many columns and rows: as near to a square as it can be without a gap."""
    n = int(number(query, "n", 100, least=1, most=1000))
    columns = next(columns for columns in range(math.isqrt(n - 1) + 1, n + 1) if n % columns == 0)
    return n, columns, n // columns


def tiles(request: Request, _: str, query: Query) -> Response:
    n, columns, rows = grid(query)
    images = "".join(f'<img src="/tile/{i}?n={n}" alt="">' for i in range(n))
    page = PAGE.safe_substitute(
        n=n, columns=columns, rows=rows, width=900 // columns, height=600 // rows, images=images
    )
    return Response(200, [("content-type", "text/html; charset=utf-8"), UNCACHED], page.encode())


def tile(request: Request, digits: str, query: Query) -> Response:
    """The whole drawing, seen through the window that this tile is."""
    n, columns, rows = grid(query)
    if not re.fullmatch(r"[0-9]{1,4}", digits) or int(digits) >= n:
        raise Refusal(404, f"There are {n} tiles, from 0.")
    (row, column), width, height = divmod(int(digits), columns), 600 / columns, 400 / rows
    window = f'viewBox="{column * width:g} {row * height:g} {width:g} {height:g}"'
    svg = PICTURE.replace('viewBox="0 0 600 400"', window)
    return Response(200, [("content-type", "image/svg+xml"), UNCACHED], svg.encode())


def events(request: Request, _: str, query: Query) -> Response:
    n, interval = int(number(query, "n", 10, most=1000)), number(query, "interval", 1, most=60)

    async def body() -> AsyncIterator[bytes]:
        for i in range(n):
            if i:
                await asyncio.sleep(interval)
            yield sse.encode(f"event {i}", id=str(i))

    return Response(200, [("content-type", "text/event-stream"), UNCACHED], body())


async def upload(request: Request, _: str, query: Query) -> Response:
    if "content-range" in request.fields:
        raise Refusal(400, "A part would be taken for the whole (RFC 9110 §14.5).")
    length, digest = 0, hashlib.sha256()
    async for piece in request.body:
        length += len(piece)
        digest.update(piece)
    return as_json({"bytes": length, "sha256": digest.hexdigest()})


async def slow(request: Request, _: str, query: Query) -> Response:
    seconds = number(query, "seconds", 1, most=30)
    await asyncio.sleep(seconds)
    return plain(200, f"That took {seconds:g} s.", UNCACHED)


def redirect(request: Request, _: str, query: Query) -> Response:
    """Only to a path of our own: //evil.example and /\\evil.example are other hosts to a browser (CWE-601)."""
    n, status, to = int(number(query, "n", 1, most=100)), query.get("status", "302"), query.get("to", "/")
    if not re.fullmatch(r"/(?![/\\])[!-\[\]-~]*", to) or status not in ("301", "302", "303", "307", "308"):
        raise Refusal(400, "to is a path of this site, status one of 301, 302, 303, 307, 308.")
    location = to if n <= 1 else f"/redirect?n={n - 1}&to={quote(to, safe='/')}&status={status}"
    return plain(int(status), location, ("location", location))


def headers(request: Request, _: str, query: Query) -> Response:
    return as_json({"method": request.method, "target": request.target, "fields": dict(request.fields)})


def status(request: Request, code: str, query: Query) -> Response:
    if code not in STATUSES:
        raise Refusal(404, f"One of {', '.join(STATUSES)}: the others say nothing without fields of their own.")
    return Response(int(code), [], b"") if code in ("204", "304") else plain(int(code), HTTPStatus(int(code)).phrase)


def as_json(value: object) -> Response:
    return Response(200, [("content-type", "application/json"), UNCACHED], json.dumps(value).encode() + b"\n")


# -- The way to them ---------------------------------------------------------------------------------

Handler = Callable[[Request, str, Query], Response | Awaitable[Response]]
ROUTES: dict[str, dict[str, Handler]] = {
    "/": {"GET": hello, "POST": echo},
    "/bytes/*": {"GET": some_bytes},
    "/text": {"GET": text},
    "/tiles": {"GET": tiles},
    "/tile/*": {"GET": tile},
    "/events": {"GET": events},
    "/upload": {"PUT": upload, "POST": upload},
    "/slow": {"GET": slow, "POST": slow},
    "/redirect": {"GET": redirect, "POST": redirect, "PUT": redirect},
    "/headers": {"GET": headers},
    "/status/*": {"GET": status},
}
KNOWN = {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"}  # CONNECT is a question to a proxy.


def allow(methods: Iterable[str]) -> tuple[str, str]:
    """The field that 405 must have (RFC 9110 §15.5.6). Who has GET has HEAD (§9.3.2), and OPTIONS is for all."""
    names = {*methods, "OPTIONS"}
    return "allow", ", ".join(sorted(names | {"HEAD"} if "GET" in names else names))


def respond(request: Request) -> Response | Awaitable[Response]:
    """Answer any request: at once, or with something to wait for.

    The path is looked up, part by part decoded, in a table: `..` is just no name in it.
    """
    method, target = request.method, request.target
    if target == "/" and method == "GET":
        return HELLO  # What benchmarks ask for, the short way.
    if method not in KNOWN:
        return plain(501, "This method is not known here.")  # RFC 9110 §9.1
    if method not in semantics.SAFE and request.fields.get("early-data") == "1":
        # RFC 8470 §5.1: a gateway has got it as early data. Over whichever version it came to us, it may be a replay.
        return plain(425, "Too early for what changes something: this may be a replay.")
    if target == "*":
        return Response(204, [allow(set().union(*ROUTES.values()))], b"")
    path, _, query = target.partition("?")
    start, _, last = path.rpartition("/")
    methods = ROUTES.get(unquote(path)) or ROUTES.get(unquote(start) + "/*")
    if methods is None:
        return plain(404, "There is nothing here. /text tells what there is.")
    if method == "OPTIONS":
        return Response(204, [allow(methods)], b"")
    handler = methods.get("GET" if method == "HEAD" else method)
    if handler is None:
        return plain(405, "Not with this method.", allow(methods))
    try:
        response = handler(request, unquote(last), dict(parse_qsl(query)))
        return response if isinstance(response, Response) else _later(response)
    except Refusal as refusal:
        return plain(*refusal.args)


async def _later(coming: Awaitable[Response]) -> Response:
    try:
        return await coming
    except Refusal as refusal:
        return plain(*refusal.args)


async def answer(request: Request) -> Response:
    """respond(), and wait for it if need be."""
    response = respond(request)
    return response if isinstance(response, Response) else await response
