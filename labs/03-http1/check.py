"""The check of this lab: a chunked decoder, first alone with its bytes, then on a socket with clients that upload."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import random
import socket
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from labkit.check import Check, step

BY_HAND = "server_role"
PATIENCE = 10  # seconds for a step: they take a hundredth of that, but not on a machine that is very busy
MANY = 1 << 30  # A limit that is not the point of a step.
PIECES = (b"", b"\r", b"\n", b"\r\n", b"0", b"f", b";", b'"', b" ", b"\xff", b"0\r\n\r\n")  # what garbage is made of
HEAD = b"PUT / HTTP/1.1\r\nHost: lab\r\nTransfer-Encoding: chunked\r\n\r\n"
REFUSAL = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 10\r\n\r\nbad chunk\n"
CHUNKED = "RFC 9112 §7.1: chunk = chunk-size [ chunk-ext ] CRLF chunk-data CRLF"
SMUGGLING = "RFC 9112 §11.2: request smuggling lives on differences between two recipients' parsing"

AFTER = """
You have written the decoder on which request smuggling turns. In 2025 h11 was found not to look at the two bytes behind
a chunk's data (CVE-2025-43859), and Go's net/http to take a bare LF for the end of a size line (CVE-2025-22871). Alone
that is harmless; with a proxy in front that reads the same bytes otherwise it is an attack.

What production decoders have beside yours: a limit on all extensions together (1-byte chunks with 4 KB of extension
each make you read four thousand times the body: CVE-2023-39326 in Go), a deadline between two reads, and a rule for
what a trailer may say: a Content-Length that comes in a trailer must never become a header field (RFC 9110 §6.5.1).
In this lab the same rules, for whole messages, are in protocols/http1.py, and the deadlines in servers/http1_talk.py.
"""


# -- What runs in the learner's own process ------------------------------------------------------------


def decode_role(exercise: ModuleType, inputs: str, limits: str) -> list[dict[str, Any]]:
    """Feed each input, a list of reads as hex, to a decoder of its own; what came of it."""
    return [feed(exercise, map(bytes.fromhex, reads), json.loads(limits)) for reads in json.loads(inputs)]


def feed(exercise: ModuleType, reads: Iterable[bytes], limits: dict[str, int]) -> dict[str, Any]:
    """The result of each call as hex, and `done` after it; what was raised; trailers and rest at the end."""
    calls: list[tuple[str, bool]] = []
    raised = ""
    decoder = exercise.ChunkedDecoder(**limits)
    try:
        for data in reads:
            given = decoder.receive_data(data)
            if not isinstance(given, bytes | bytearray):
                raise TypeError(f"receive_data() returned {given!r}, and it must return bytes")
            calls.append((given.hex(), bool(decoder.done)))
        trailers = [(bytes(name).hex(), bytes(value).hex()) for name, value in decoder.trailers]
    except exercise.BadChunk:
        raised, trailers = "BadChunk", []
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == exercise.__file__]
        place = f" (line {lines[-1]} of your file)" if lines else ""
        raised, trailers = f"{type(error).__name__}: {error}{place}", []
    return {"calls": calls, "raised": raised, "trailers": trailers, "rest": bytes(decoder.rest).hex()}


def cost_role(exercise: ModuleType) -> dict[str, float]:
    """Times that take more work than they should, for decoders that look at the same bytes again and again."""
    large = b"400000\r\n" + bytes(1 << 22)
    behind_others = b"1\r\nx\r\n" * 100 + large
    in_one_read = seconds(exercise, [behind_others]) / seconds(exercise, [large])
    a_quarter, all_of_it = ([b"%c" % byte for byte in b"1\r\nx\r\n" * count] for count in (30, 120))
    byte_by_byte = seconds(exercise, all_of_it) / seconds(exercise, a_quarter)
    return {"in one read": in_one_read, "byte by byte": byte_by_byte}


def seconds(exercise: ModuleType, reads: list[bytes]) -> float:
    """The processor time that a decoder takes for these reads; the best of some tries, unless one is long."""
    best, end = float("inf"), time.thread_time() + 0.1
    for _ in range(5):
        decoder, start = exercise.ChunkedDecoder(max_body=MANY), time.thread_time()
        for data in reads:
            decoder.receive_data(data)
        best = min(best, time.thread_time() - start)
        if time.thread_time() > end:
            break
    return best


def server_role(exercise: ModuleType, host: str, port: str) -> None:
    """A small server around the learner's decoder: it answers an upload with its size and its SHA-256."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve_uploads(exercise, reader, writer)
        except exercise.BadChunk as error:
            print(f"! 400: {error}", flush=True)
            with contextlib.suppress(ConnectionError, TimeoutError):
                await refuse(reader, writer)
        except (ConnectionError, EOFError):
            pass  # The client has gone in the middle of a request.
        except Exception as error:
            own = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == exercise.__file__]
            lines = [*traceback.format_list(own), *traceback.format_exception_only(error)]
            print("Traceback (most recent call last):\n", *lines, sep="", end="", file=sys.stderr)
        finally:
            writer.close()

    async def serve() -> None:
        async with await asyncio.start_server(handle, host, int(port)) as server:
            await server.serve_forever()

    asyncio.run(serve())


async def serve_uploads(exercise: ModuleType, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request after the other; what the decoder leaves in `rest` is the beginning of the next."""
    received = b""
    while True:
        while b"\r\n\r\n" not in received:
            if not (data := await reader.read(65536)):
                return
            received += data
        head, _, received = received.partition(b"\r\n\r\n")
        fields = head.lower().split(b"\r\n")
        if b"transfer-encoding: chunked" not in fields:
            writer.write(response("Upload something: echo hello | curl -T - http://127.0.0.1:7003/\n"))
            continue
        if b"expect: 100-continue" in fields:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        decoder, size, digest = exercise.ChunkedDecoder(), 0, hashlib.sha256()
        while True:
            body = decoder.receive_data(received)
            size += len(body)
            digest.update(body)
            if decoder.done:
                break
            if not (received := await reader.read(65536)):
                raise EOFError
        received = bytes(decoder.rest)
        writer.write(response(report(size, digest.hexdigest(), len(decoder.trailers))))
        await writer.drain()


def response(text: str) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text.encode())


def report(size: int, digest: str, trailers: int) -> str:
    return f"{size} bytes, sha256 {digest[:16]}, {trailers} trailers\n"


def answer(body: bytes, trailers: int = 0) -> bytes:
    """What server_role answers to an upload that was decoded well."""
    return response(report(len(body), hashlib.sha256(body).hexdigest(), trailers))


async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer 400 and end, so that a client that is still sending can read it (the lingering close of lab 01)."""
    writer.write(REFUSAL)
    writer.write_eof()
    async with asyncio.timeout(0.5):
        while await reader.read(65536):
            pass


# -- How the steps ask and judge -----------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What a decoder made of some reads: `calls` are the results of receive_data(), with `done` after each."""

    reads: Sequence[bytes]
    calls: list[tuple[bytes, bool]]
    raised: str
    trailers: list[tuple[bytes, bytes]]
    rest: bytes
    reproduce: str  # the shell line that sends the same; the server at its other end has the limits of your defaults

    @property
    def body(self) -> bytes:
        return b"".join(given for given, _ in self.calls)

    @property
    def done(self) -> bool:
        return bool(self.calls) and self.calls[-1][1]

    @property
    def verdict(self) -> object:
        """What must not depend on where the stream was cut."""
        return self.raised or (self.body, self.done, self.trailers)


async def decode(c: Check, inputs: Sequence[Sequence[bytes]], **limits: int) -> list[Outcome]:
    """Feed each input (a list of reads) to a decoder of its own, in the learner's process."""
    as_hex = json.dumps([[data.hex() for data in reads] for reads in inputs])
    found = await c.start("decode_role", as_hex, json.dumps({"max_body": MANY, **limits}), host="client").result(
        PATIENCE - 1
    )
    outcomes = []
    for reads, one in zip(inputs, found, strict=True):
        calls = [(bytes.fromhex(given), done) for given, done in one["calls"]]
        trailers = [(bytes.fromhex(name), bytes.fromhex(value)) for name, value in one["trailers"]]
        line = "" if limits else by_hand(reads)
        outcomes.append(Outcome(reads, calls, one["raised"], trailers, bytes.fromhex(one["rest"]), line))
    return outcomes


def whole(*wires: bytes) -> list[list[bytes]]:
    """Each in one read."""
    return [[wire] for wire in wires]


def cut(wire: bytes, size: int) -> list[bytes]:
    """Reads of so many bytes."""
    return [wire[i : i + size] for i in range(0, len(wire), size)]


def accepted(
    c: Check, found: Outcome, body: bytes, trailers: Sequence[tuple[bytes, bytes]] = (), note: str = ""
) -> None:
    """The decoder must have taken these bytes for a whole body, and this one."""
    what = told(c, found)
    details = {"reproduce": found.reproduce}
    if found.raised == "BadChunk":
        c.fail(f"Your decoder refused {what}, but that is a valid body{note}.", **details)
    if found.body != body:
        c.fail(f"The body that came out of {what} is wrong{note}.", got=found.body, wanted=body, **details)
    if not found.done:
        c.fail(f"All of {what} is there, the empty line too, and `done` is False{note}.", **details)
    if any(done for _, done in found.calls[:-1]):
        c.fail(f"`done` was True before the last byte of {what} had come{note}.", **details)
    if found.trailers != list(trailers):
        c.fail(f"The trailers of {what} are wrong{note}.", got=f"{found.trailers}", wanted=f"{list(trailers)}",
               **details)  # fmt: skip
    if found.rest:
        c.fail(f"Nothing followed {what}, and `rest` is {found.rest!r}{note}.", **details)


def refused(c: Check, found: Outcome, why: str) -> None:
    """The decoder must have raised BadChunk."""
    what = told(c, found)
    if found.raised == "BadChunk":
        return
    took = "took it for a whole body" if found.done else f"waits for more, and gave {shown(found.body)} as its body"
    c.fail(f"{what} must be refused: {why}. Your decoder {took}.", reproduce=found.reproduce)


def told(c: Check, found: Outcome) -> str:
    """Tell what was fed and what came of it; return the input in words. Fails where something else was raised."""
    wire = b"".join(found.reads)
    sizes = [str(len(data)) for data in found.reads]
    how = f", in reads of {' + '.join(sizes[:4])}{' + …' * (len(sizes) > 4)} B"
    if len(found.reads) in (1, len(wire)):
        how = "" if len(found.reads) == 1 else ", byte by byte"
    c.did(f"> {shown(wire)}{how}")
    c.did("! " + found.raised if found.raised else
          f"= body {shown(found.body)}, {'done' if found.done else 'not done'}"
          + (f", {len(found.trailers)} trailers" if found.trailers else "")
          + (f", rest {shown(found.rest)}" if found.rest else ""))  # fmt: skip
    if found.raised not in ("", "BadChunk"):
        c.fail(f"{shown(wire)}{how}: your decoder raised {found.raised}. Whoever uses it catches BadChunk, and nothing "
               "else.", reproduce=found.reproduce)  # fmt: skip
    return shown(wire) + how


def shown(data: bytes) -> str:
    r"""Bytes as text: '5\r\nhello\r\n'; of long ones the beginning and the end."""
    if len(data) <= 64:
        return repr(data)[1:]
    return f"{repr(data[:24])[1:-1]} … {repr(data[-16:])[2:]} ({len(data):,} B)"


def by_hand(reads: Sequence[bytes]) -> str:
    """The shell line that sends these bytes as a request's body to `make http1-exercise`, in the same pieces."""
    if sum(map(len, reads)) > 200:
        return ""
    first, *others = (for_printf(data) for data in (HEAD + reads[0], *reads[1:]))
    if len(others) < 4:
        later = "".join(f"sleep .2; printf {text}; " for text in others)
    else:
        later = f'for piece in {" ".join(others)}; do sleep .2; printf "$piece"; done; '
    return f"(printf {first}; {later}sleep 1) | nc -w2 127.0.0.1 7003"


def for_printf(data: bytes) -> str:
    """Bytes as an argument of the shell's printf. A minus at the beginning would be an option."""
    names = {13: r"\r", 10: r"\n", 37: "%%", 92: r"\\", 39: r"\047"}
    text = "".join(names.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}") for byte in data)
    return "'" + (r"\055" + text[1:] if text.startswith("-") else text) + "'"


# -- The decoder alone: no network yet -----------------------------------------------------------------


@step(
    "A whole body in one read",
    rfc=CHUNKED,
    symptom="What comes out is not what was in the chunks, or your decoder does not notice the end.",
    where="There may be many chunks in one read. Sizes are hexadecimal: 1A is 26. The last chunk has the size 0, with "
    "as many zeros as its sender likes, and behind it comes one more empty line.",
    code="while size := self._size(self._line()):\n    body += self._take(size)\n    ...                  # CRLF\n"
    "self._line()             # the empty one\nself.done = True",
    seconds=PATIENCE,
)
async def one_read(c: Check) -> None:
    alphabet = bytes(range(97, 123))
    cases = {
        b"5\r\nhello\r\n0\r\n\r\n": b"hello",
        b"5\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\n\r\n": b"hello world",
        b"1A\r\n" + alphabet + b"\r\n1a\r\n" + alphabet + b"\r\n0\r\n\r\n": alphabet * 2,
        b"0\r\n\r\n": b"",
        b"005\r\nhello\r\n000\r\n\r\n": b"hello",
        b"0000000000005\r\nhello\r\n0000000000000\r\n\r\n": b"hello",
    }
    for (wire, body), found in zip(cases.items(), await decode(c, whole(*cases)), strict=True):
        accepted(c, found, body, note=": zeros before a size change nothing" if wire[:2] == b"00" else "")


@step(
    "The same body, however the stream is cut",
    rfc="RFC 9293 §2.2: TCP is a byte stream, and keeps no boundaries. RFC 9112 §2.1: a message is parsed from octets",
    symptom="Your decoder loses bytes, invents some, or never ends, when a chunk or a size is cut in two.",
    where="A size can be cut between its digits, a CRLF between CR and LF. What is not whole must still be there at "
    "the next call, and so must the place where you were: in a size, in the data, or behind it?",
    code="self._buffer += data\n"
    "...\n"
    'end = self._buffer.find(b"\\n")\n'
    "if end < 0:\n"
    "    return None         # the line is not whole; what is here of it stays for the next call",
    seconds=PATIENCE,
)
async def every_split(c: Check) -> None:
    wire = b"1a\r\nabcdefghijklmnopqrstuvwxyz\r\n6\r\n012345\r\n0\r\n\r\n"
    body = b"abcdefghijklmnopqrstuvwxyz012345"
    inputs = [[wire[:i], wire[i:]] for i in range(1, len(wire))] + [cut(wire, size) for size in (1, 2, 3, 5, 7)]
    for found in await decode(c, inputs):
        accepted(c, found, body)


@step(
    "Data is bytes, whatever they look like",
    rfc="RFC 9112 §7.1: chunk-data = 1*OCTET ; a sequence of chunk-size octets",
    symptom="A chunk holds something that looks like the end of a line, or of the body, and your decoder believes it.",
    where="Only the size says where the data ends. Do you search for CRLF in it, or strip() it?",
    code="piece = self._buffer[:size]\ndel self._buffer[:size]\nsize -= len(piece)",
    seconds=PATIENCE,
)
async def data_is_bytes(c: Check) -> None:
    bodies = [
        b"two\r\nlines",
        b"\r\n\r\n",
        b" spaces \r\n",
        b"0\r\n\r\n",
        b"5\r\nhello\r\n0\r\n\r\n",
        bytes(range(256)),
    ]
    wires = [b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) for body in bodies]
    found = await decode(c, whole(*wires) + [cut(wire, 1) for wire in wires])
    for one, body in zip(found, bodies * 2, strict=True):
        accepted(c, one, body)


@step(
    "Data is given as it comes, not when its chunk is whole",
    rfc="RFC 9112 §7.1: a chunk may be of any size; who waits for its end must keep all of it (CWE-770)",
    symptom="A chunk of a gigabyte would sit in your memory until its last byte is there. A chunk is not a message: a "
    "proxy may cut and join chunks as it likes.",
    where="Give what is here, and remember how much of the chunk is still to come.",
    code="piece = self._buffer[:size]       # perhaps less than the chunk\n"
    "del self._buffer[: len(piece)]\n"
    "size -= len(piece)                # so much is still to come",
    seconds=PATIENCE,
)
async def as_it_comes(c: Check) -> None:
    reads = [b"100000\r\n" + bytes(1000), *[bytes(10_000)] * 3]
    (found,) = await decode(c, [reads])
    told(c, found)
    came = 0
    for number, (data, (given, done)) in enumerate(zip(reads, found.calls, strict=False), 1):
        came += len(given)
        wanted = sum(map(len, reads[:number])) - 8
        if done:
            c.fail(f"`done` is True, and of the chunk of 1,048,576 bytes only {wanted:,} have come.")
        if came != wanted:
            c.fail(f"{wanted:,} bytes of a chunk of 1,048,576 have come, and your decoder has given {came:,} of them: "
                   f"the last call, with {len(data):,} bytes, returned {len(given):,}.")  # fmt: skip
    if found.raised:
        c.fail("Your decoder refused the first bytes of a chunk of 1,048,576 bytes, and a gigabyte is allowed.")


@step(
    "Two decoders at a time",
    rfc="Python's tutorial, §9.3.5: what is written in the class body is shared by all instances",
    symptom="Bytes of one connection came out of another: the worst thing that can happen to a server.",
    where="What is written in the class body, and not in __init__, exists once, for all decoders. The same is true of "
    "a mutable default of an argument.",
    code="def __init__(self, ...):\n    self._buffer = bytearray()\n    self.trailers = []",
    seconds=PATIENCE,
)
async def two_at_a_time(c: Check) -> None:
    c.did("> one decoder got '5\\r' and later '\\nhello\\r\\n0\\r\\n\\r\\n'")
    c.did("> meanwhile another got '3\\r\\nabc\\r\\n0\\r\\n\\r\\n'")
    first, second = await c.start("interleave_role", host="client").result(PATIENCE - 1)
    for body, found in ((b"abc", second), (b"hello", first)):
        if bytes.fromhex(found["body"]) != body or found["raised"]:
            said = found["raised"] or f"the body is {bytes.fromhex(found['body'])!r}"
            c.fail(f"Two decoders disturb each other: the one that was sent {body.decode()} is wrong, {said}.")


def interleave_role(exercise: ModuleType) -> list[dict[str, Any]]:
    decoders = [exercise.ChunkedDecoder(), exercise.ChunkedDecoder()]
    found: list[dict[str, Any]] = [{"body": "", "raised": ""} for _ in decoders]
    for number, data in ((0, b"5\r"), (1, b"3\r\nabc\r\n0\r\n\r\n"), (0, b"\nhello\r\n0\r\n\r\n")):
        try:
            found[number]["body"] += bytes(decoders[number].receive_data(data)).hex()
        except exercise.BadChunk:
            found[number]["raised"] = "it raised BadChunk"
    return found


@step(
    "Extensions are ignored",
    rfc="RFC 9112 §7.1.1: a recipient MUST ignore unrecognized chunk extensions",
    symptom="A size line has something behind the size, and your decoder stumbles over it.",
    where="The size ends at the first “;”, or at a blank before it. What is behind it may be quoted, with another “;” "
    "or an “=” in it. The line ends at CRLF, whatever was quoted: a quoted string cannot hold one.",
    code='SIZE = re.compile(rb"([0-9A-Fa-f]+)(?:[ \\t]*;[\\t -~\\x80-\\xff]*)?")\nmatch = SIZE.fullmatch(line)',
    seconds=PATIENCE,
)
async def extensions(c: Check) -> None:
    extended = (b";name", b";a=b", b";a=b;c=d", b' ; a = "b"', b';a=";;="', b';a="\\"q\\" 0x10"', b";" + b"x" * 500)
    wires = [b"5%s\r\nhello\r\n0%s\r\n\r\n" % (one, one) for one in extended]
    trick = b'5;a="\r\nhello\r\n0\r\n\r\n"\r\nabcde\r\n0\r\n\r\n'
    *good, quoted = await decode(c, [*whole(*wires), cut(wires[4], 1), [trick]])
    for found in good:
        blank = found.reads[0].startswith(b"5 ")
        accepted(c, found, b"hello", note=": RFC 9112 §7.1.1 allows bad whitespace (BWS), a blank before the “;”"
                 if blank else ": whatever stands behind the “;” is ignored")  # fmt: skip
    told(c, quoted)
    if quoted.raised != "BadChunk" and quoted.body != b"hello":
        c.fail("Your decoder looks for the closing quote behind the end of the line. To everybody else the line ends "
               "at CRLF, and what you took for an extension is the body.", got=quoted.body, wanted=b"hello",
               reproduce=quoted.reproduce)  # fmt: skip


@step(
    "Trailer fields come before the end",
    rfc="RFC 9112 §7.1.2: trailer-section = *( field-line CRLF )",
    symptom="The sender put fields behind the last chunk: a digest, a signature, the status of a gRPC call.",
    where="After the last chunk there are lines until the empty one, each a field: name, colon, value. Blanks around "
    "the value do not belong to it; a colon in the value does.",
    code='while line := self._line():\n    name, _, value = line.partition(b":")\n'
    '    self.trailers.append((name, value.strip(b" \\t")))\nself.done = True',
    seconds=PATIENCE,
)
async def trailer_fields(c: Check) -> None:
    wire = b"5\r\nhello\r\n0\r\nDigest: 5a3c\r\nEmpty:\r\nX-Time: \t12:30 \r\nX-Time:a b\r\n\r\n"
    trailers = [(b"Digest", b"5a3c"), (b"Empty", b""), (b"X-Time", b"12:30"), (b"X-Time", b"a b")]
    cuts = [[wire], *([wire[:i], wire[i:]] for i in range(10, len(wire))), cut(wire, 1)]
    unusual = {b"a\tb": "a tab between two words", b"J\xfcrg \x80\xff": "bytes from 0x80 to 0xFF (obs-text)"}
    wires = [b"5\r\nhello\r\n0\r\nA: %s\r\n\r\n" % value for value in unusual]
    found = await decode(c, cuts + whole(*wires))
    for one in found[: len(cuts)]:
        accepted(c, one, b"hello", trailers)
    for one, (value, what) in zip(found[len(cuts) :], unusual.items(), strict=True):
        accepted(c, one, b"hello", [(b"A", value)], f": RFC 9110 §5.5 allows {what} in a value")


@step(
    "Behind the data there is CRLF, and nothing else",
    rfc=CHUNKED + ". " + SMUGGLING,
    symptom="The two bytes behind a chunk's data are something else than CRLF, and your decoder skips them unseen.",
    where="A sender that announced 5 bytes and sent 7 has lost count, or hopes that you have. Look at the two bytes, "
    "and at the first of them as soon as it is here.",
    code='if self._buffer[:2] != b"\\r\\n":\n    raise BadChunk(...)',
    seconds=PATIENCE,
)
async def after_the_data(c: Check) -> None:
    why = "5 bytes were announced, and no CRLF stands behind them"
    wires = (
        b"5\r\nhelloXX0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello, world\r\n0\r\n\r\n",
        b"5\r\nhello\r0\r\n\r\n",
        b"5\r\nhello\r\r\n0\r\n\r\n",
        b"5\r\nhello\n\r0\r\n\r\n",
        b"5\r\nhelloX",
    )
    for found in await decode(c, [*whole(*wires), cut(wires[0], 1)]):
        refused(c, found, why)


@step(
    "A size is hexadecimal digits, and nothing else",
    rfc="RFC 9112 §7.1: chunk-size = 1*HEXDIG. " + SMUGGLING,
    symptom="int(text, 16) is made for people: it takes signs, blanks, underscores, 0x. Others read 0x5 as 0: the end.",
    where="Check the characters before you convert. And there must be at least one. Blanks may stand before a “;”, "
    "nowhere else.",
    code='match = re.fullmatch(rb"([0-9A-Fa-f]+)(?:[ \\t]*;[\\t -~\\x80-\\xff]*)?", line)\n'
    "if match is None:\n    raise BadChunk(...)",
    seconds=PATIENCE,
)
async def sizes(c: Check) -> None:
    wrong = {
        b"": "the line is empty, and an empty line is no size",
        b"+5": "a sign is no digit",
        b"0x5": "x is no digit: to those who read digits until something else comes it is 0, the end",
        b"0_5": "_ is no digit, although Python's int() takes it",
        b" 5": "a blank is no digit",
        b"5 ": "a blank may stand before a “;” and nowhere else",
        b"\t5": "a tab is no digit",
        b"5\x0b": "a vertical tab is no digit, although strip() takes it off",
        b"5g": "g is no digit",
        b"five": "the size is no number",
        b"5 5": "a blank is no digit",
        b"5,5": "a comma does not begin an extension",
        b";a=b": "there is no size before the extension",
        b"\xd9\xa5": "only 0-9, A-F and a-f are digits here (this is an Arabic 5, in UTF-8)",
        b"\r\n5": "an empty line stands before it",
    }
    wires = [b"%s\r\nhello\r\n0\r\n\r\n" % size for size in wrong]
    for found, why in zip(await decode(c, whole(*wires)), wrong.values(), strict=True):
        refused(c, found, why)
    (negative,) = await decode(c, whole(b"-5\r\nhello\r\n0\r\n\r\n"))  # Alone, for it might run for ever.
    refused(c, negative, "a sign is no digit, and a size below zero runs backwards")


@step(
    "A trailer field is a field, or an error",
    rfc="RFC 9112 §5.1: no whitespace between name and colon; §5.2: no line folding. RFC 9110 §5.5: no CR, LF, NUL",
    symptom="A line in the trailer section is no field, and your decoder took it.",
    where="A name is a token: letters, digits and a few signs, at least one of them, then the colon at once.",
    code='FIELD = re.compile(rb"([!#$%&\'*+.^_`|~0-9A-Za-z-]+):([\\t -~\\x80-\\xff]*)")',
    seconds=PATIENCE,
)
async def bad_trailers(c: Check) -> None:
    wrong = {
        b"Digest : x": "a blank stands before the colon; some recipients drop such a field, some take it",
        b"A: b\r\n folded": "a line begins with a blank: folded lines are obsolete, and read in two ways",
        b"no field": "there is no colon",
        b": x": "there is no name",
        b"A: b\0c": "NUL ends the text for some recipients",
        b"A: b\x0b": "a vertical tab is no blank and no part of a value, although strip() takes it off",
        b"A:\x0cb": "a form feed is no blank and no part of a value, although strip() takes it off",
        b"A b: c": "a blank is no part of a name",
        b"GET / HTTP/1.1": "there is no colon: it is a request that lost the empty line before it",
    }
    wires = [b"5\r\nhello\r\n0\r\n%s\r\n\r\n" % line for line in wrong]
    for found, why in zip(await decode(c, whole(*wires)), wrong.values(), strict=True):
        refused(c, found, why)


@step(
    "A line ends with CRLF, never with LF or CR alone",
    rfc="RFC 9112 §7.1 has CRLF everywhere; what §2.2 forgives in a head it does not forgive here. "
    "CVE-2025-22871 was a bare LF in a size line",
    symptom="A bare LF ended a line for you. The proxy in front of you saw no end there.",
    where="Find the LF, and look what stands before it. rstrip() and splitlines() forgive too much. Inside a line "
    "there is neither CR nor LF.",
    code='end = self._buffer.find(b"\\n")\nline = bytes(self._buffer[: end + 1])\n'
    'if not line.endswith(b"\\r\\n"):\n    raise BadChunk(...)',
    seconds=PATIENCE,
)
async def bare_lf(c: Check) -> None:
    good = b"5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n"
    places = ("the size line", "the data", "the last chunk's size", "the trailer field", "the empty line")
    wires = {b"5\nhello\r\n0\r\n\r\n": "the size line"}
    for number, place in enumerate(places):
        before, after = good.split(b"\r\n")[: number + 1], good.split(b"\r\n")[number + 1 :]
        wires[b"\r\n".join(before) + b"\n" + b"\r\n".join(after)] = place
    lone = {
        b"5;x\ny\r\nhello\r\n0\r\n\r\n": "a bare LF stands in the size line",
        b"5;x\ry\r\nhello\r\n0\r\n\r\n": "a bare CR stands in the size line",
        b"5\r\r\nhello\r\n0\r\n\r\n": "a bare CR stands in the size line",
        b"5\r\nhello\r\n0\r\nA: b\rC: d\r\n\r\n": "a bare CR stands in the trailer field",
    }
    found = await decode(c, whole(*wires, *lone) + [cut(wire, 1) for wire in wires])
    reasons = [f"a bare LF ends {place}" for place in wires.values()]
    for one, why in zip(found, [*reasons, *lone.values(), *reasons], strict=True):
        refused(c, one, why)


@step(
    "A line has a limit, also one that never ends",
    rfc="RFC 9112 §7.1.1: a server ought to limit the total length of chunk extensions. CWE-770",
    symptom="A peer sends a size line that never ends, and your buffer grows as long as it likes.",
    where="You may not wait for the CRLF to measure the line: it may never come. As many bytes as allowed, and CRLF, "
    "may be in the buffer; when more are, and no line end is among them, that is it. And the limit is the same "
    "when the line comes in one read.",
    code='end = self._buffer.find(b"\\n", 0, self._max_line + 2)\n'
    "if end < 0 and len(self._buffer) >= self._max_line + 2:\n    raise BadChunk(...)",
    seconds=PATIENCE,
)
async def limit_line(c: Check) -> None:
    limit = 200
    line, field = b"5;" + b"x" * (limit - 2), b"A:" + b"x" * (limit - 2)
    good = line + b"\r\nhello\r\n0\r\n" + field + b"\r\n\r\n"
    inputs, reasons = [[good], cut(good, 1)], []
    for what, start in (("size", line + b"x"), ("trailer", b"5\r\nhello\r\n0\r\n" + field + b"x")):
        long, endless = start + b"\r\nhello\r\n0\r\n\r\n", start + b"x" * 2 * limit
        inputs += [[long], cut(long, 1), [endless], cut(endless, 50)]
        reasons += [f"the {what} line has {limit + 1} bytes"] * 2 + [f"the {what} line has no end"] * 2
    found = await decode(c, inputs, max_line=limit)
    for one in found[:2]:
        accepted(c, one, b"hello", [(b"A", b"x" * (limit - 2))], f": lines of exactly max_line={limit} bytes")
    for one, why in zip(found[2:], reasons, strict=True):
        refused(c, one, f"max_line is {limit}, and {why}")


@step(
    "The body has a limit, over all its chunks",
    rfc="RFC 9112 §7.1: recipients must prevent integer overflows. CWE-770: allocation without limits",
    symptom="A peer sends more than you allow, in one chunk or in many, and you take it.",
    where="Count over all chunks. A size says what is to come, so refuse it before the data: who announces a terabyte "
    "need not send it. Exactly the limit is allowed.",
    code="if size > self._allowed:\n    raise BadChunk(...)\nself._allowed -= size",
    seconds=PATIENCE,
)
async def limit_body(c: Check) -> None:
    limit = 1000
    half = b"1f4\r\n" + b"x" * 500 + b"\r\n"
    good = [half + half + b"0\r\n\r\n", b"3e8\r\n" + b"x" * 1000 + b"\r\n0\r\n\r\n"]
    wrong = {
        b"3e9\r\n": "a chunk of 1,001 bytes is announced",
        b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n": "there are 1,001 bytes in one chunk",
        half + half + b"1\r\n": "1,000 bytes have come, and one more is announced",
        b"100000005\r\nhello\r\n0\r\n\r\n": "4,294,967,301 are announced; who counts in 32 bits reads 5",
        b"10000000000000005\r\nhello\r\n0\r\n\r\n": "2⁶⁴ + 5 are announced; who counts in 64 bits reads 5",
        b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n": "2⁶⁴ - 1 are announced; who counts in 64 bits reads -1",
        b"1\r\nx\r\n" * 1001 + b"0\r\n\r\n": "there are 1,001 bytes in as many chunks",
    }
    found = await decode(c, whole(*good, *wrong), max_body=limit)
    for one in found[:2]:
        accepted(c, one, b"x" * 1000, note=f": exactly max_body={limit} bytes")
    for one, why in zip(found[2:], wrong.values(), strict=True):
        refused(c, one, f"max_body is {limit}, and {why}")


@step(
    "Trailer fields have a limit",
    rfc="RFC 9110 §5.4: a recipient has to limit fields. RFC 9112 §7.1.2",
    symptom="A peer sends trailer fields without end, each of them short, and you keep them all.",
    where="Count them. Exactly as many as allowed are fine.",
    code="if len(self.trailers) == self._max_trailers:\n    raise BadChunk(...)",
    seconds=PATIENCE,
)
async def limit_trailers(c: Check) -> None:
    fields = b"5\r\nhello\r\n0\r\n" + b"A: b\r\n" * 10
    wires = (fields + b"\r\n", fields + b"A: b\r\n\r\n", fields + b"A: b\r\n" * 100)
    good, more, endless = await decode(c, whole(*wires), max_trailers=10)
    accepted(c, good, b"hello", [(b"A", b"b")] * 10, ": exactly max_trailers=10 fields")
    refused(c, more, "max_trailers is 10, and there are 11")
    refused(c, endless, "max_trailers is 10, and 110 have come without an end")


@step(
    "Twice the bytes take twice the time",
    rfc="CWE-407: inefficient algorithmic complexity",
    symptom="A peer can make you copy or read the same bytes again and again: it pays a byte, you pay a megabyte.",
    where="buffer = buffer[n:] copies all that is left, for each chunk. And who begins anew at the first byte with "
    "every call does the work of all calls before.",
    code="self._buffer = bytearray()\n...\ndel self._buffer[:size]    # at the front of a bytearray no byte is moved",
    seconds=PATIENCE,
)
async def linear(c: Check) -> None:
    cost = await c.start("cost_role", host="client").result(PATIENCE - 1)
    c.did(f"= 4 MB behind 100 chunks of one byte, in one read: {cost['in one read']:.1f} times the time of 4 MB alone")
    c.did(f"= 120 chunks byte by byte: {cost['byte by byte']:.1f} times the time of 30 chunks")
    if cost["in one read"] > 12:
        c.fail(f"100 chunks of one byte before a large one make it take {cost['in one read']:.0f} times as long: for "
               "each chunk you copy all that is behind it.")  # fmt: skip
    if cost["byte by byte"] > 9:
        c.fail(f"Byte by byte, 120 chunks take {cost['byte by byte']:.0f} times as long as 30: with each call you read "
               "again what you had read before.")  # fmt: skip


@step(
    "Whatever comes: the same at every cut, and nothing but BadChunk",
    rfc=SMUGGLING,
    symptom="Garbage got another exception out of your decoder, or another result when it was cut differently.",
    where="Which calls can raise what? decode() raises UnicodeDecodeError, int() ValueError, bytearray(size) "
    "MemoryError. And a decision that is made with what happens to be in the buffer is made differently tomorrow.",
    code="Decide only on whole lines, and on the two bytes behind the data.",
    seconds=PATIENCE,
)
async def garbage(c: Check) -> None:
    wires = [b"\xff\r\n", b"5;\xe9\r\nhello\r\n0\r\n\r\n", b'5;a="\xe9"\r\nhello\r\n0\r\n\r\n', b"0\r\n\xe9: x\r\n\r\n",
             b"0\r\nA: \xff\r\n\r\n", b"\r\n\r\n", b"\0", b"0\r\n:\r\n\r\n", b"G" * 5000]  # fmt: skip
    chance = random.Random(9112)
    good = b'3;a="b"\r\nabc\r\n00a\r\n0123456789\r\n0\r\nDigest: x\r\n\r\nGET / HTTP/1.1\r\n'
    for _ in range(200):
        wire = bytearray(good)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(wire))
            wire[at : at + chance.choice((0, 0, 1, 1, 2))] = chance.choice(PIECES)
        wires.append(bytes(wire))
    cuts = [chance.randint(2, 9) for _ in wires]
    found = await decode(c, whole(*wires) + [cut(wire, 1) for wire in wires] + [*map(cut, wires, cuts)])
    for number, one in enumerate(found):
        first = found[number % len(wires)]
        if one.raised not in ("", "BadChunk"):
            told(c, one)  # It fails.
        if one.verdict != first.verdict:
            told(c, first)
            what = told(c, one)
            c.fail(f"Your decoder gives another result for {what} than for the same bytes in one read.",
                   reproduce=one.reproduce)  # fmt: skip
    c.did(f"= {len(wires)} broken bodies, each cut in three ways: nothing but BadChunk, and always the same")


# -- On a socket: a small server around the decoder, and clients that upload ---------------------------


@step(
    "On a socket: behind the end, the next request begins",
    rfc="RFC 9112 §9.3.2: a client may send its next request before the answer (pipelining)",
    symptom="Two requests came in one segment, and the second has no answer: you had its bytes, and lost them.",
    where="What is in your buffer when the empty line is read belongs to the next request. So does what is given to a "
    "decoder that is done.",
    code="if self.done:\n    self.rest += self._buffer\n    self._buffer.clear()",
    seconds=PATIENCE,
)
async def next_request(c: Check) -> None:
    late, *behind_crlf = await decode(
        c, [[b"0\r\n\r\n", b"GET / HT", b"TP/1.1"], [b"0\r\n\r\n\r\nGET"], [b"0\r\n\r\n", b"\r\nGET"]]
    )
    c.start("server_role", c.net.server.address, c.net.port)
    conn = await c.connect(seconds=10)
    first, second = HEAD + b"5\r\nhello\r\n0\r\n\r\n", HEAD + b"3\r\nbye\r\n0\r\nA: b\r\n\r\n"
    await conn.send(first)
    await conn.expect(answer(b"hello"), "the answer to an upload of 'hello'", 5)
    await conn.send(first + second + first)
    await conn.finish_sending()
    three = answer(b"hello") + answer(b"bye", 1) + answer(b"hello")
    await conn.expect(three, "answers to three uploads in one segment, each beginning where the one before it ends", 5)
    conn = await c.connect(seconds=10)
    await conn.send(first + second, pieces=13)
    await conn.finish_sending()
    await conn.expect(answer(b"hello") + answer(b"bye", 1), "answers to two uploads in pieces of 13 bytes", 5)
    told(c, late)
    c.equal(late.rest, b"GET / HTTP/1.1", "What is given to a decoder that is done belongs to `rest`, too.")
    for found in behind_crlf:
        told(c, found)
        c.equal(found.rest, b"\r\nGET", "All that is behind the end belongs to `rest`, a CRLF too: what it means is "
                "for the reader of the next message to say (RFC 9112 §2.2).")  # fmt: skip


@step(
    "On a socket: clients that nobody here has written",
    rfc="RFC 9112 §7.1: a recipient MUST be able to parse and decode the chunked transfer coding",
    symptom="A client of another author uploads 300 kB in chunks of its own sizes, and your decoder does not get it.",
    where="Python's http.client sends each chunk in a write of its own, so that reads begin and end anywhere in it.",
    code="The steps above have all that is needed. Does every call give what it has?",
    seconds=PATIENCE,
)
async def foreign_client(c: Check) -> None:
    chance = random.Random(7)
    pieces = [chance.randbytes(chance.choice((1, 15, 16, 4096, 20_000))) for _ in range(40)]
    body = b"".join(pieces)
    sock = c.net.client.connect(c.net.server, c.net.port)
    c.did(f"> {len(body):,} bytes in {len(pieces)} chunks, sent by http.client of Python's library")
    mine = f"tcp.port == {sock.getsockname()[1]} && tcp.srcport == {c.net.port} && tcp.len > 0"
    try:
        said = await asyncio.to_thread(upload, sock, pieces)
    except (OSError, http.client.HTTPException) as error:
        c.did(f"! {type(error).__name__}: {error}")
        c.fail(f"An upload of {len(body):,} bytes by Python's http.client was not answered.", filter=mine)
    finally:
        sock.close()
    c.did(f"< {said!r}")
    wanted = report(len(body), hashlib.sha256(body).hexdigest(), 0)
    c.equal(said, wanted, f"{len(body):,} bytes from Python's http.client came out as something else.", filter=mine)


def upload(sock: socket.socket, pieces: list[bytes]) -> str:
    """PUT the pieces, each as a chunk; return the body of the answer."""
    connection = http.client.HTTPConnection("server.lab")
    connection.sock = sock
    connection.request("PUT", "/", body=iter(pieces))  # Of unknown length, so it chooses chunks by itself.
    answered = connection.getresponse()
    text = answered.read().decode("latin-1")
    connection.close()
    return text if answered.status == 200 else f"{answered.status} {text}"


@step(
    "On a socket: a smuggled request is refused, not answered",
    rfc=SMUGGLING + "; §9.6: the refusal arrives, then the connection ends",
    symptom="Behind a chunk that is not what it says stood a request for /admin, and somebody answered it.",
    where="After BadChunk nobody knows where the next request begins, so nothing that follows is read as one.",
    code="raise BadChunk(...)     # and never `self.done = True` to get rid of the problem",
    seconds=PATIENCE,
)
async def smuggled(c: Check) -> None:
    hidden = b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: lab\r\n\r\n"
    for chunk in (b"5\r\nhelloXX", b"5\nhello\r\n", b"0x5\r\nhello\r\n", b"5;\nx\r\nhello\r\n"):
        conn = await c.connect(seconds=10)
        await conn.send(HEAD + chunk + hidden)
        await conn.expect(REFUSAL, f"400, because {shown(chunk)} is no chunk", 5)
        await conn.expect_end("a clean end (FIN) behind the refusal, and no answer to what was hidden in it", 5)
