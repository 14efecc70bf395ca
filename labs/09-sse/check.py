"""The check of the sse lab: the rules of the format one by one, at every place where a read may cut the stream."""

from __future__ import annotations

import re
import socket
import time
import traceback
from types import ModuleType
from typing import Any, NamedTuple

from labkit.check import Check, CheckFailed, Conn, step

PARSING = "WHATWG HTML §9.2.5"
INTERPRETING = "WHATWG HTML §9.2.6"
PROCESSOR_SECONDS = 0.5  # for 50,000 small reads; a parser that looks at every byte once needs a tenth of it

AFTER = """
You have written what is behind every EventSource, and behind every text that a language model sends word by word. The
same few mistakes are made again and again: cutting at every line end that Unicode knows, so that a U+2028 in somebody's
text breaks an event; waiting for the byte after a CR; decoding each read by itself, so that now and then a letter
becomes two question marks; and counting an event as received before its blank line.

What yours still lacks is in protocols/sse.py: a limit for lines that never end and for events that never do. What a
client does with the id and the retry time is in clients/sse.py: connect again, say what it has, wait longer each time
it failed. And a server has to remember what it sent for long enough: servers/sse.py. Browsers do all of the client's
part by themselves, as long as a server names its events and a proxy lets them through.
"""

Seen = dict[str, Any]  # what a parser made of a stream


# -- What runs in the learner's own process ------------------------------------------------------------


def feed(parser: Any, data: bytes) -> list[Any]:
    return list(parser.receive_data(data) or ())


def parse_role(exercise: ModuleType, *jobs: str) -> list[Seen]:
    """For each "last event ID!hex,hex,…" feed these reads to a new parser: its events, and what it knows then."""
    return [parse_one(exercise, *job.split("!")) for job in jobs]


def parse_one(exercise: ModuleType, last_event_id: str, reads: str) -> Seen:
    events: list[list[str]] = []
    counts = []
    try:
        parser = exercise.Parser(last_event_id)
        for read in reads.split(","):
            new = feed(parser, bytes.fromhex(read))
            events += [[event.data, event.type, event.id] for event in new]
            counts.append(len(new))
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == exercise.__file__]
        return {"raised": f"{traceback.format_exception_only(error)[-1].strip()} (line {lines[-1] if lines else '?'})"}
    return {"events": events, "counts": counts, "id": parser.last_event_id, "retry": parser.retry}


def many_reads_role(exercise: ModuleType, size: str, count: str) -> Seen:
    """One line in so many small reads; stop when it takes too much of the processor."""
    parser, piece = exercise.Parser(""), b"x" * int(size)
    events = feed(parser, b"data: ")
    start = time.process_time()
    for i in range(int(count)):
        events += feed(parser, piece)
        if i % 500 == 0 and time.process_time() - start > PROCESSOR_SECONDS:
            return {"reads": i, "length": 0}
    events += feed(parser, b"\n\n")
    return {"reads": int(count), "length": sum(len(event.data) for event in events)}


def follow_role(exercise: ModuleType, host: str, port: str, count: str) -> list[str]:
    """A little EventSource around the parser: it connects again when the stream ends, and says what it has."""
    events: list[str] = []
    last = ""
    while len(events) < int(count):
        with socket.create_connection((host, int(port)), 3) as sock:
            parser = exercise.Parser(last)
            have = f"Last-Event-ID: {last}\r\n" if last else ""
            sock.sendall(f"GET /events HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n{have}\r\n".encode())
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += sock.recv(1)
            while data := sock.recv(65536):
                events += [event.data for event in feed(parser, data)]
            events += [event.data for event in feed(parser, b"")]
            last = parser.last_event_id
    return events


# -- How it is asked -----------------------------------------------------------------------------------


def cut(stream: bytes, size: int) -> list[bytes]:
    return [stream[i : i + size] for i in range(0, len(stream), size)]


class Case(NamedTuple):
    """A stream, the events in it (data, then type and id where they are not the usual), and the rule it shows."""

    stream: str | bytes
    events: list[tuple[str, ...]]
    rule: str
    last_event_id: str | None = None  # what the parser has to know at the end, where it matters
    retry: int | None = None
    begins_with: str = ""  # the last event ID of the connection before


async def hold(c: Check, *cases: Case, byte_by_byte: bool = True) -> None:
    """Each stream is read as it should, in one read and byte by byte."""
    sizes = (1 << 20, 1) if byte_by_byte else (1 << 20,)
    ways = [(case, cut(as_bytes(case), size)) for case in cases for size in sizes]
    found = await parse(c, *((case.begins_with, reads) for case, reads in ways))
    for (case, reads), seen in zip(ways, found, strict=True):
        how = ", byte by byte" if len(reads) > 1 else ""
        c.did(f"> {shown(as_bytes(case))}{how}")
        if "raised" in seen:
            c.fail(f"Your parser raised {seen['raised']}. {case.rule}")
        c.did(f"< {listed(seen['events'])}")
        wanted = [[*event, *("message", "")[len(event) - 1 :]] for event in case.events]
        if seen["events"] != wanted:
            why = case.rule + (" (In one read it was right.)" if how else "")
            c.fail(why, got=listed(seen["events"]), wanted=listed(wanted))
        if case.last_event_id is not None:
            c.equal(seen["id"], case.last_event_id, f"The parser's last_event_id is wrong. {case.rule}")
        if case.retry is not None:
            c.equal(seen["retry"], case.retry, f"The parser's retry is wrong. {case.rule}")


async def parse(c: Check, *jobs: tuple[str, list[bytes]]) -> list[Seen]:
    """What a new parser, with that last event ID, makes of each list of reads."""
    texts = [f"{last}!{','.join(read.hex() for read in reads)}" for last, reads in jobs]
    found: list[Seen] = await c.start("parse_role", *texts, host="client").result(5)
    return found


def as_bytes(case: Case) -> bytes:
    return case.stream.encode() if isinstance(case.stream, str) else case.stream


def shown(data: bytes) -> str:
    """Bytes as text, for the story."""
    text = repr(data)[1:]
    return text if len(text) <= 100 else f"{text[:60]}…{text[-30:]} ({len(data)} B)"


def listed(events: list[list[str]]) -> str:
    """Events as they are shown: data, then the type and the id where they say anything."""
    words = []
    for data, kind, id in events:
        more = ([f"type {kind!r}"] if kind != "message" else []) + ([f"id {id!r}"] if id else [])
        words.append(f"{data if len(data) < 40 else data[:20] + '…'!r}" + (f" ({', '.join(more)})" if more else ""))
    return "; ".join(words) or "(no event)"


# -- The steps -----------------------------------------------------------------------------------------


@step(
    "An event is what a blank line ends",
    rfc=f"{INTERPRETING}: a blank line dispatches the event; each data line appends its value and a line feed",
    symptom="One read is not one event: it may hold several, or a half.",
    where="Keep the lines of an event until its blank line. Several data lines are one text with line feeds between "
    "them (and none at its end); a field without a value is a field with an empty one.",
    code='if not line:                       # the blank line\n    yield Event("\\n".join(self._data), …)\n'
    '    self._data = []\nelif name == "data":\n    self._data.append(value)',
)
async def blank_line(c: Check) -> None:
    await hold(
        c,
        Case("data: hello\n\n", [("hello",)], "One event of one line came out wrongly."),
        Case("data: one\n\ndata: two\n\n", [("one",), ("two",)], "Two events arrived; not two came out."),
        Case("data: YHOO\ndata: +2\ndata: 10\n\n", [("YHOO\n+2\n10",)],
             "Three data lines are one event, with a line feed between the lines."),
        Case("data: a\n\n\n\ndata: b\n\n", [("a",), ("b",)], "A blank line without data before it is no event."),
        Case("data\n\ndata:\ndata\n\n", [("",), ("\n",)],
             "A data line without a value is still a data line, and makes an event."),
        byte_by_byte=False,
    )  # fmt: skip


@step(
    "However the stream is cut",
    rfc=f"RFC 9293 §2.2 (TCP keeps no boundaries); {INTERPRETING}: at the end of the file, pending data is discarded",
    symptom="The same bytes give other events when they arrive in other pieces.",
    where="What is left behind the last line end is the beginning of the next line, and has to be there at the next "
    'call. And when the stream ends, b"", what has no blank line yet is dropped: it may be half of a number.',
    code="*lines, rest = LINE_END.split(data)\nlines[0] = self._line + lines[0]     # where there is one\n"
    "self._line = rest",
)
async def every_split(c: Check) -> None:
    stream = b"data: 73857293\n\nid: 5\ndata: first\ndata: second\n\n: x\n\ndata: not who"
    wanted = [["73857293", "message", ""], ["first\nsecond", "message", "5"]]
    sizes = [len(stream), *range(1, 24)]
    found = await parse(c, *(("", [*cut(stream, size), b""]) for size in sizes))
    for size, seen in zip(sizes, found, strict=True):
        if "raised" in seen:
            c.fail(f"Your parser raised {seen['raised']}, with a stream that comes in reads of {size} B.")
        c.did(f"> {len(stream)} B, then the end, in reads of {size} B: {sum(seen['counts'])} events")
        if seen["counts"][-1]:
            c.fail("The stream ended within an event, and your parser dispatched it: it may be half of what it should "
                   "have been.", got=listed(seen["events"]), wanted=listed(wanted))  # fmt: skip
        if seen["events"] != wanted:
            c.fail(f"In reads of {size} B the stream gave other events than it holds.", got=listed(seen["events"]),
                   wanted=listed(wanted))  # fmt: skip


@step(
    "A line is a name, a colon, a value",
    rfc=f"{INTERPRETING}: one space after the colon is removed; names are compared literally; others are ignored",
    symptom="A field is read that is none, or a value is not what was sent.",
    where="The first colon separates; the value may have more. One space behind it belongs to the format, all other "
    "space is the author's. A line without colon is a name. Unknown names are ignored, a comment's empty one, too.",
    code='name, _, value = line.partition(":")\nvalue = value.removeprefix(" ")',
)
async def fields(c: Check) -> None:
    space = "One space after the colon belongs to the format; every other space, also at the end, is data."
    names = "Names are compared as they are: `Data`, ` data` and `data ` are unknown, and what is unknown is ignored."
    await hold(
        c,
        Case("data:test\n\ndata: test\n\n", [("test",), ("test",)], "The space after the colon may be missing."),
        Case("data:  a \n\ndata:\tb\n\n", [(" a ",), ("\tb",)], space),
        Case("data: 12:30: now\n\n", [("12:30: now",)], "Only the first colon ends the name."),
        Case("Data: a\n data: b\ndata : c\nfoo: d\nfoo\ndata: e\n\n", [("e",)], names),
        Case(":\n: data: x\n:x\ndata: a\n: b\n\n", [("a",)], "A line that begins with a colon is a comment."),
    )


@step(
    "A type is for one event",
    rfc=f"{INTERPRETING}: the event type buffer is set to the empty string at each dispatch",
    symptom="An event has the type of the one before it.",
    where='A blank line forgets the type, also when there is no data and so no event. An empty type is "message".',
    code='yield Event(…, self._type or "message", …)\nself._type = ""',
)
async def types(c: Check) -> None:
    await hold(
        c,
        Case("event: add\ndata: 1\n\n", [("1", "add")], "The event has a type of its own."),
        Case("event: add\ndata: 1\n\ndata: 2\n\n", [("1", "add"), ("2",)],
             "The type of one event is not that of the next."),
        Case("event: add\n\ndata: 2\n\n", [("2",)],
             "A blank line forgets the type, even if there was no data and so no event."),
        Case("event: a\nevent:\ndata: 1\n\n", [("1",)], 'An empty type is "message"; the last one counts.'),
    )  # fmt: skip


@step(
    "Three line ends, and no fourth",
    rfc=f"{PARSING}: end-of-line = ( cr lf / cr / lf ), and any other character may stand in a line",
    symptom="An event is torn at a character that ends no line, or lines are not told apart that should be.",
    where="str.splitlines() and str.split() know some ten line ends, among them U+2028, which JSON may hold. Look for "
    "CR LF, CR and LF yourself.",
    code='LINE_END = re.compile(rb"\\r\\n|\\r|\\n")      # CR LF first, or it would be two',
)
async def line_ends(c: Check) -> None:
    lines = ("data: a", "data: b", "", "data: c", "", ": end", "")
    text = "a\u2028b\u2029c\vd\fe\x1cf\x1dg\x1eh\x85i"
    await hold(
        c,
        Case("\r\n".join(lines), [("a\nb",), ("c",)], "A line may end with CR LF."),
        Case("\r".join(lines), [("a\nb",), ("c",)], "A line may end with CR alone."),
        Case("data: a\rdata: b\ndata: c\r\n\rdata: d\n\r\ndata: e\n\r:end\n", [("a\nb\nc",), ("d",), ("e",)],
             "One stream may use all three line ends."),
        Case(f"data: {text}\n\n", [(text,)],
             "Only CR LF, CR and LF end a line. U+2028, U+0085, \\v, \\f and their like are text."),
        byte_by_byte=False,
    )  # fmt: skip


@step(
    "CR LF in two reads, and CR at the end of one",
    rfc=f"{PARSING}: buffering with other line ends than these can cause delays in event dispatch",
    symptom="Either one line end becomes two because a read came between CR and LF, or an event waits for the next.",
    where="A CR ends the line at once. If the next byte is LF it belongs to it, and ends nothing: remember, from one "
    "call to the next, that the last byte was a CR.",
    code='if self._after_cr and data:\n    data = data.removeprefix(b"\\n")\n    self._after_cr = False\n'
    'if not data:\n    return\nself._after_cr = data.endswith(b"\\r")',
)
async def cr_at_the_end(c: Check) -> None:
    stream = b"data: a\r\ndata: b\r\n\r\ndata: c\r\n\r\n"
    cuts = [("", [stream[:i], stream[i:]]) for i in range(1, len(stream))]
    *found, last = await parse(c, *cuts, ("", [b"data: now\r\r", b"data: later\r\r"]))
    for i, seen in enumerate(found, 1):
        if [event[0] for event in seen.get("events", ())] != ["a\nb", "c"]:
            c.did(f"> {shown(stream[:i])}")
            c.did(f"> {shown(stream[i:])}")
            where = "between CR and LF" if stream[i - 1 : i + 1] == b"\r\n" else "there"
            got = listed(seen["events"]) if "events" in seen else seen["raised"]
            c.fail(f"CR LF is one line end, also when a read ends {where}.", got=got, wanted="'a\\nb'; 'c'")
    c.did(r"> 'data: now\r\r'")
    first = last.get("counts", [0])[0]
    c.did(f"< {first} events")
    if first != 1:
        c.fail("The event is whole with its second CR. Your parser waits for the next byte, which may come in an hour.",
               got=f"{first} events after the first read", wanted="1 event")  # fmt: skip


@step(
    "Always UTF-8, and one byte order mark",
    rfc=f"{INTERPRETING}: the UTF-8 decode algorithm, which strips one leading byte order mark, and never fails",
    symptom="A letter that is not ASCII turns into question marks now and then, or your parser raises.",
    where="A character has up to four bytes, and a read may end between them: cut the lines as bytes, and decode a "
    "line when it is whole. What is no UTF-8 becomes U+FFFD. At the very start, and only there, U+FEFF is dropped.",
    code='line.decode("utf-8", "replace")\nif self._at_start:\n'
    '    line, self._at_start = line.removeprefix(b"\\xef\\xbb\\xbf"), False',
)
async def utf_8(c: Check) -> None:
    text = "12,50 €, 日本, \U0001f600"
    await hold(
        c,
        Case(f"data: {text}\n\n", [(text,)], "Each read was decoded by itself, and a character was cut in two."),
        Case(b"data: \xff|\xe2\x82\n\n", [("\ufffd|\ufffd",)], "What is no UTF-8 is replaced by U+FFFD."),
        Case("\ufeffdata: a\n\n", [("a",)],
             "A byte order mark at the very start of the stream is no part of the first line."),
        Case("data: a\n\n\ufeffdata: b\n\ndata: \ufeffc\n\n", [("a",), ("\ufeffc",)],
             "Only the first three bytes of the stream are a byte order mark. Further on, U+FEFF is a character."),
    )  # fmt: skip


@step(
    "An id lasts until the next one",
    rfc=f"{INTERPRETING}: the last event ID buffer does not get reset; an id with U+0000 is ignored",
    symptom="After a lost connection the client asks for the wrong place.",
    where="An event without an id has that of the one before, and last_event_id is the same. An empty id forgets it; "
    "an id with a NUL is no id. A block with an id and no data is no event, and sets last_event_id all the same.",
    code='elif name == "id" and "\\0" not in value:\n    self._id = value\n…\n'
    "self.last_event_id = self._id      # at the blank line, with data or without",
)
async def ids(c: Check) -> None:
    one = ("a", "message", "1")
    await hold(
        c,
        Case("id: 1\ndata: a\n\ndata: b\n\n", [one, ("b", "message", "1")],
             "An event without an id has the id of the one before.", "1"),
        Case("id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n", [one, ("b", "message", "1")],
             "An id with a NUL in it is ignored.", "1"),
        Case("id: 1\ndata: a\n\nid\ndata: b\n\n", [one, ("b",)],
             "An empty id is an id: the client shall forget the one it has.", ""),
        Case("id: 9\n\n", [], "A block without data is no event, but its id counts: the server names a place.", "9"),
        Case("data: a\n\n", [("a", "message", "7")],
             'Parser("7") goes on where the connection before was, at id 7.', "7", begins_with="7"),
    )  # fmt: skip


@step(
    "What breaks off comes again",
    rfc=f"{INTERPRETING}, dispatch: only a blank line sets the last event ID; §9.2.3: it is sent when connecting again",
    symptom="The connection broke within an event. After that, the event was missing.",
    where="The id line arrived, the rest of its event did not. Which id does your client send when it connects again? "
    "Keep what an id line says apart from last_event_id until the blank line.",
    code="# at the id line:\nself._id = value\n# at the blank line:\nself.last_event_id = self._id",
)
async def resumes(c: Check) -> None:
    listening = c.net.server.listen(0)
    c.did("= your parser in a little EventSource; the server breaks off after the id line of the third event")
    program = c.start("follow_role", *listening.getsockname(), 4, host="client")
    conn = await answered(c, listening, "")
    await conn.send(b"id: 1\ndata: one\n\nid: 2\ndata: two\n\nid: 3\n")
    await conn.finish_sending()
    conn = await answered(c, listening, "2")
    await conn.send(b"id: 3\ndata: three\n\n")
    await conn.send(b"id: 4\ndata: four\n\n")
    await conn.finish_sending()
    c.equal(await program.result(2), ["one", "two", "three", "four"], "Over two connections, not the same four events.")
    listening.close()


async def answered(c: Check, listening: socket.socket, have: str) -> Conn:
    """Accept the client, look at what it has, and begin the answer."""
    conn = await c.accept(listening)
    request = b""
    while b"\r\n\r\n" not in request:
        if not (data := await conn.read(1, 1)):
            raise CheckFailed("Your client did not ask for anything.")
        request += data
    match = re.search(rb"Last-Event-ID: (.*)\r\n", request)
    said = match[1].decode() if match else ""
    c.did(f"< GET /events, {'Last-Event-ID: ' + said if said else 'no Last-Event-ID'}")
    if said != have:
        more = " Event 3 was never whole, and the server will not send it again." if said == "3" else ""
        c.fail(f"After the stream broke off, the client sends {said or 'no id'} as its last event ID.{more}",
               got=said, wanted=have, filter=f"tcp.port == {listening.getsockname()[1]} && tcp.len > 0")  # fmt: skip
    await conn.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
    return conn


@step(
    "retry takes ASCII digits",
    rfc=f"{INTERPRETING}: if the field value consists of only ASCII digits; otherwise, ignore the field",
    symptom="A retry line that the standard ignores changes the waiting time, or ends your client.",
    where="int() takes '+5', '-5', ' 5 ', '1_000' and '١٢'; str.isdigit() says yes to '²', for which int() raises, and "
    "it raises for more than 4300 digits. Compare with what ASCII digits are, and bound the number.",
    code='elif name == "retry" and re.fullmatch("[0-9]+", value):\n    self.retry = int(value.lstrip("0")[:10] or "0")',
)
async def retry(c: Check) -> None:
    bad = ("-5", "+5", " 5", "5 ", "1_000", "0x10", "5s", "1.5", "1e3", "", "\u0661\u0662", "\u00b2")
    await hold(
        c,
        *(Case(f"retry: {value}\n", [], "retry sets the time as soon as its line is whole.", retry=wanted)
          for value, wanted in (("2500", 2500), ("0", 0), ("007", 7))),
        *(Case(f"retry: 7\nretry: {value}\n", [], f"{value!r} is not only ASCII digits, and so is ignored.", retry=7)
          for value in bad),
        Case("retry: " + "9" * 5000 + "\ndata: a\n\n", [("a",)],
             "A server may send anything. A retry time of 5000 digits is to be ignored or capped, and must not raise."),
    )  # fmt: skip


@step(
    "Every byte is looked at once",
    rfc="CWE-407: inefficient algorithmic complexity",
    symptom="The longer a line, the longer each read of it takes.",
    where="Do you copy or search the whole of an unfinished line at every read? A bytearray grows at its end without "
    "being copied, and only what is new can hold a line end.",
    code="*lines, rest = LINE_END.split(data)    # the new bytes only\n…\nself._line += rest    # a bytearray",
)
async def linear(c: Check) -> None:
    size, count = 4, 50_000
    c.did(f"= one line of {size * count:,} bytes, in reads of {size} B")
    seen = await c.start("many_reads_role", size, count, host="client").result(5)
    if seen["reads"] < count:
        c.fail(f"A line of {size * count:,} bytes came in reads of {size} B, and after {PROCESSOR_SECONDS:g} s of "
               f"processor time your parser had taken {seen['reads']:,} of {count:,}.")  # fmt: skip
    c.equal(seen["length"], size * count, "A long line, in small reads, did not come out whole.")
