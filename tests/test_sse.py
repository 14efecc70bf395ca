"""Server-sent events: the format at every split, the broker, the client against hostile servers, foreign peers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
import time
import tracemalloc
from collections import deque
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.http1 import Client
from clients.sse import EventSource, Refused
from labkit import catalog
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.http1 import ClientConnection, Data, EndOfMessage, Response
from protocols.sse import MAX_EVENT, MAX_LINE, Comment, Decoder, Event, Retry, comment, encode
from servers import http1, site, sse
from servers.eventlog import LogError
from tests.conftest import TICK, need_package, need_tool

# -- The core -----------------------------------------------------------------------------------------


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


def decode(parts: list[bytes], **options) -> list[Event | Comment | Retry]:
    decoder = Decoder(**options)
    return [item for part in parts for item in decoder.receive_data(part)]


WIRE = (
    "\ufeffdata: first\r\nid: 1\r\n\r\n"
    ": a comment\n:\n"
    "event: price\rdata: 12,50 €\rdata:\r\r"
    "retry: 2500\ndata:  two  spaces \ndata\nid\n\n"
    "data: \U0001f600 and \ufeff\u2028\x0b\x0c\x85 are no line ends\r\n\r"
    "id: 7\nid: 8\0\nunknown: x\nDATA: no\n data: no\ndata : no\n\n"
    "data: of 7\n\n"
    "data: unfinished\n"
).encode()
ITEMS = [
    Event("first", id="1"),
    Comment(" a comment"),
    Comment(""),
    Event("12,50 €\n", "price", "1"),
    Retry(2500),
    Event(" two  spaces \n", id=""),
    Event("\U0001f600 and \ufeff\u2028\x0b\x0c\x85 are no line ends"),
    Event("of 7", id="7"),
]


def test_items_survive_every_split():
    for size in range(1, len(WIRE) + 1):
        assert decode(pieces(WIRE, size)) == ITEMS, size
    for cut in range(len(WIRE) + 1):
        assert decode([WIRE[:cut], b"", WIRE[cut:]]) == ITEMS, cut


# The name says what the rule is; WHATWG HTML §9.2.6 where nothing else is said.
CASES = {
    "an event": (b"data: hello\n\n", [Event("hello")]),
    "no space after the colon": (b"data:hello\n\n", [Event("hello")]),
    "one space is removed, not two": (b"data:  hello\n\n", [Event(" hello")]),
    "a tab is no space": (b"data:\thello\n\n", [Event("\thello")]),
    "spaces at the end are data": (b"data: hello \n\n", [Event("hello ")]),
    "a colon in the value": (b"data: a:b: c\n\n", [Event("a:b: c")]),
    "three lines": (b"data: YHOO\ndata: +2\ndata: 10\n\n", [Event("YHOO\n+2\n10")]),
    "a field without colon has an empty value": (b"data\n\n", [Event("")]),
    "two of them": (b"data\ndata\n\n", [Event("\n")]),
    "the end of the stream dispatches nothing": (b"data\n\ndata:\n", [Event("")]),
    "the standard's four blocks": (
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
        [Comment(" test stream"), Event("first event", id="1"), Event("second event"), Event(" third event")],
    ),
    "blank lines alone": (b"\n\n\r\r\n\n", []),
    "no data, no event": (b"event: x\nid: 1\n\n", []),
    "and its type is forgotten": (b"event: x\n\ndata: a\n\n", [Event("a")]),
    "but its id is not": (b"id: 1\n\ndata: a\n\n", [Event("a", id="1")]),
    "a type lasts for one event": (b"event: x\ndata: a\n\ndata: b\n\n", [Event("a", "x"), Event("b")]),
    "an empty type is message": (b"event: x\nevent:\ndata: a\n\n", [Event("a")]),
    "the last type counts": (b"event: x\nevent: y\ndata: a\n\n", [Event("a", "y")]),
    "a type may have spaces": (b"event:  x y \ndata: a\n\n", [Event("a", " x y ")]),
    "an id lasts": (b"id: 1\ndata: a\n\ndata: b\n\n", [Event("a", id="1"), Event("b", id="1")]),
    "an empty id forgets": (b"id: 1\ndata: a\n\nid:\ndata: b\n\n", [Event("a", id="1"), Event("b")]),
    "so does one without colon": (b"id: 1\ndata: a\n\nid\ndata: b\n\n", [Event("a", id="1"), Event("b")]),
    "an id with NUL is ignored": (b"id: 1\nid: 2\0\ndata: a\n\n", [Event("a", id="1")]),
    "an id may be anything else": (b"id: \xe2\x82\xac: x \ndata: a\n\n", [Event("a", id="€: x ")]),
    "data may have a NUL": (b"data: a\0b\n\n", [Event("a\0b")]),
    "a retry time": (b"retry: 0\nretry: 007\nretry:1234\n", [Retry(0), Retry(7), Retry(1234)]),
    "retry is digits only": (
        "retry: -1\nretry: +1\nretry: 1.5\nretry:  1\nretry: 1 \nretry: 1_000\nretry: ١٢\nretry: ²\nretry\n".encode(),
        [],
    ),
    "a retry time beyond all bounds": (b"retry: " + b"9" * 5000 + b"\n", [Retry(9_999_999_999)]),
    "zeros in front are none": (b"retry: " + b"0" * 5000 + b"25\n", [Retry(25)]),
    "names are compared as they are": (b"Data: a\nEVENT: x\ndata: b\n\n", [Event("b")]),
    "a space before the colon is of the name": (b"data : a\n\n", []),
    "comments": (b":a\n: b\n::\n", [Comment("a"), Comment(" b"), Comment(":")]),
    "a comment within an event": (b"data: a\n:c\ndata: b\n\n", [Comment("c"), Event("a\nb")]),
    "CR": (b"data: a\rdata: b\r\r", [Event("a\nb")]),
    "CR LF": (b"data: a\r\ndata: b\r\n\r\n", [Event("a\nb")]),
    "all in one": (b"data: a\rdata: b\ndata: c\r\n\rdata: d\n\r\ndata: e\r\n\n",
                   [Event("a\nb\nc"), Event("d"), Event("e")]),
    "LF CR is two": (b"data: a\n\rdata: b\n\r", [Event("a"), Event("b")]),
    "one BOM": (b"\xef\xbb\xbfdata: a\n\n", [Event("a")]),
    "the second is text": (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", [Event("b")]),
    "and so is one further on": (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [Event("a")]),
    "a BOM and nothing": (b"\xef\xbb\xbf\n\xef\xbb\xbfdata: a\n\n", []),
    "half a BOM": (b"\xef\xbbdata: a\n\ndata: b\n\n", [Event("b")]),
    "what is no UTF-8 is replaced": (b"data: \xff\xe2\x82 \xc3(\xed\xa0\x80\n\n", [Event("�� �(���")]),
    "a character that a line end cuts": (b"data: \xe2\x82\n\n", [Event("�")]),
    "no other line end": ("data: a\u2028b\u2029c\vd\fe\x1cf\x1dg\x1eh\x85i\n\n".encode(),
                          [Event("a\u2028b\u2029c\vd\fe\x1cf\x1dg\x1eh\x85i")]),
}  # fmt: skip


def test_the_format():
    for name, (wire, items) in CASES.items():
        for size in (1, 2, 3, len(wire)):
            assert decode(pieces(wire, size)) == items, name


def test_an_event_is_given_with_the_byte_that_ends_it():
    """Also with a CR, which the next byte might make a CR LF; that comes with the next event, perhaps in an hour."""
    for end in (b"\n", b"\r", b"\r\n"):
        wire = b"data: now" + end + end
        complete = len(wire) if end != b"\r\n" else len(wire) - 1
        decoder = Decoder()
        for i in range(complete - 1):
            assert list(decoder.receive_data(wire[i : i + 1])) == []
        assert list(decoder.receive_data(wire[complete - 1 : complete])) == [Event("now")]
        assert list(decoder.receive_data(wire[complete:] + b"data: next" + end + end)) == [Event("next")]


def test_the_last_event_id_is_that_of_the_last_block_that_ended():
    decoder = Decoder("0")
    assert decoder.last_event_id == "0"
    assert list(decoder.receive_data(b"data: a\nid: 1\n")) == []
    assert decoder.last_event_id == "0"  # Should the stream break here, the event is still to come.
    assert list(decoder.receive_data(b"\n")) == [Event("a", id="1")]
    assert decoder.last_event_id == "1"
    assert list(decoder.receive_data(b"id: 2\n\n")) == []  # No event, and yet a place (§9.2.6, dispatch, step 1).
    assert decoder.last_event_id == "2"
    assert list(decoder.receive_data(b"id\n\n")) == []
    assert decoder.last_event_id == ""


def test_the_decoder_of_the_next_connection_knows_the_id():
    assert decode([b"data: a\n\n"], last_event_id="7") == [Event("a", id="7")]


def test_items_are_given_when_asked_for_and_none_is_lost():
    """Whoever stops in the middle of one read gets the rest with the next."""
    decoder = Decoder()
    assert next(decoder.receive_data(b"data: a\n\ndata: b\n\ndata: c")) == Event("a")
    assert list(decoder.receive_data(b"\n\n")) == [Event("b"), Event("c")]


@pytest.mark.parametrize(
    ("limit", "good", "bad", "items", "reason"),
    [
        ({"max_line": 12}, b"data: 123456\n\n:ok\n", b"data: 1234567", [Event("123456"), Comment("ok")], "a line of"),
        ({"max_line": 12}, b"data: 123456\n\n", b"data: 1234567\n", [Event("123456")], "a line of more than 12 bytes"),
        ({"max_event": 20}, b"data: 4567\ndata: 4567\n\n" * 3 + b"data: 4567\n", b"data: 4567\ndata\n",
         [Event("4567\n4567")] * 3, "an event of more than 20 bytes"),
    ],
)  # fmt: skip
def test_what_is_too_long_is_refused_after_the_good_ones(limit, good, bad, items, reason):
    for size in range(1, 40):
        decoder, got = Decoder(**limit), []
        with pytest.raises(RemoteProtocolError, match=reason):  # noqa: PT012 - any of these reads may be the one
            for part in pieces(good + bad, size):
                for item in decoder.receive_data(part):
                    got.append(item)
        assert got == items
        with pytest.raises(RemoteProtocolError):  # And it stays refused.
            list(decoder.receive_data(b"\n\ndata: 1\n\n"))


def test_comments_and_fields_without_end_take_no_memory():
    decoder = Decoder(max_event=100)
    for _ in range(1000):
        assert list(decoder.receive_data(b":" + b"x" * 90 + b"\nevent: x\nid: 1\nignored: " + b"y" * 90 + b"\n")) == [
            Comment("x" * 90)
        ]
    assert len(decoder._line) + len(decoder._lines) + decoder._size == 0


def test_the_limits_are_generous():
    assert decode([b"data: " + b"x" * (MAX_LINE - 6) + b"\n\n"]) == [Event("x" * (MAX_LINE - 6))]
    assert MAX_EVENT >= 1 << 24


def test_no_input_takes_more_than_linear_time():
    """Twice the bytes, about twice the time: one huge line, and many events, byte by byte and whole."""
    line = lambda n: b"data: " + b"x" * n + b"\n\n"  # noqa: E731
    events = lambda n: b"data: x\r\n\r\n" * (n // 11)  # noqa: E731
    for make, size in ((line, 1), (events, 1), (line, 4096), (events, 1 << 20)):
        times = []
        for n in (10_000, 80_000):
            wire = pieces(make(n), size)
            start = time.process_time()
            decode(wire)
            times.append(time.process_time() - start)
        assert times[1] < 8 * 4 * times[0] + 0.05  # Quadratic would be 64 times.


def test_what_is_sent():
    assert encode("hello") == b"data: hello\n\n"
    assert encode("") == b"data: \n\n"
    assert encode("a\nb\r\nc\rd\n") == b"data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"
    assert encode("€", event="price", id="7", retry=0) == "id: 7\nevent: price\nretry: 0\ndata: €\n\n".encode()
    assert encode(None, id="") == b"id: \n\n"
    assert encode(None, id="7", retry=3000) == b"id: 7\nretry: 3000\n\n"
    assert comment() == b":\n"
    assert comment(" still here\r\nyes") == b": still here\n:yes\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"event": "a\nb"}, "a line end in an event type"),
        ({"event": "a\rb"}, "a line end in an event type"),
        ({"id": "1\n"}, "a line end in an id"),
        ({"id": "1\r\ndata: forged"}, "a line end in an id"),
        ({"id": "\0"}, "NUL in an id"),
        ({"retry": -1}, "a retry time of -1 ms"),
        ({"event": "\ud800"}, "no text"),
    ],
)
def test_what_cannot_be_sent_is_refused(arguments, reason):
    with pytest.raises(LocalProtocolError, match=reason):
        encode("data", **arguments)


def test_data_that_is_no_text_is_refused():
    with pytest.raises(LocalProtocolError, match="no text"):
        encode("\udfff")
    with pytest.raises(LocalProtocolError, match="no text"):
        comment("\udfff")


text = st.text(st.characters(exclude_categories=["Cs"]))
one_line = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"))
an_id = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"))


@given(st.lists(st.tuples(text, one_line, st.none() | an_id)), st.lists(st.integers(1, 9), min_size=1))
def test_whatever_is_encoded_is_decoded(events, sizes):
    wire, wanted, last = b"", [], ""
    for data, event, id in events:
        wire += encode(data, event=event, id=id) + comment()
        last = last if id is None else id
        wanted += [Event(re.sub("\r\n?", "\n", data), event or "message", last), Comment("")]
    parts = []
    while wire:
        size = sizes[len(parts) % len(sizes)]
        parts.append(wire[:size])
        wire = wire[size:]
    assert decode(parts) == wanted


bits = st.sampled_from([b"data", b"id", b"event", b"retry", b":", b" ", b"\r", b"\n", b"\0", b"\xef\xbb\xbf",
                        b"\xe2\x82", b"7", b"\xff", b"x"])  # fmt: skip


@given(st.lists(bits).map(b"".join) | st.binary(max_size=300), st.integers(1, 40))
def test_garbage_is_read_the_same_however_it_is_cut(garbage, size):
    assert decode(pieces(garbage, size)) == decode([garbage]) == list(by_the_book(garbage))


def by_the_book(stream: bytes):
    """The standard's algorithm, word by word and slowly: decode all, cut into lines, look at each."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    *lines, _ = re.split("\r\n|\r|\n", text)
    data, kind, buffer = "", "", ""
    for line in lines:
        if line == "":
            if data:
                yield Event(data.removesuffix("\n"), kind or "message", buffer)
            data, kind = "", ""
        elif line.startswith(":"):
            yield Comment(line[1:])
        else:
            field, _, value = line.partition(":")
            value = value[1:] if value.startswith(" ") else value
            if field == "data":
                data += value + "\n"
            elif field == "event":
                kind = value
            elif field == "id":
                buffer = buffer if "\0" in value else value
            elif field == "retry" and value != "" and all(c in "0123456789" for c in value):
                yield Retry(min(int(value), 9_999_999_999))


# -- The server ---------------------------------------------------------------------------------------


class Stream:
    """A client by hand: one request, and the events in its answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.http, self.decoder = ClientConnection(max_body=1 << 40), Decoder()
        self.head: Response | None = None
        self.text, self.ended = b"", False
        self.items: deque[Event | Comment | Retry] = deque()

    async def more(self) -> None:
        """Read once; take what is in it."""
        while (event := self.http.next_event()) is None:
            async with asyncio.timeout(100 * TICK):
                self.http.receive_data(await self.reader.read(65536))
        match event:
            case Response():
                self.head = event
            case Data(data):
                self.text += data
                self.items += self.decoder.receive_data(data)
            case EndOfMessage():
                self.ended = True

    async def answer(self) -> tuple[int, bytes]:
        """The status and the body of an answer that ends."""
        while not self.ended:
            await self.more()
        return self.head.status, self.text

    async def next(self, kind: type = Event) -> Event | Comment | Retry:
        while True:
            while self.items:
                if isinstance(item := self.items.popleft(), kind):
                    return item
            assert not self.ended, "the stream has ended"
            await self.more()

    async def events(self, count: int) -> list[str]:
        return [(await self.next()).data for _ in range(count)]

    async def rest(self) -> list[str]:
        """The data of all events until the end."""
        while not self.ended:
            await self.more()
        return [item.data for item in self.items if isinstance(item, Event)]


@contextlib.asynccontextmanager
async def asked(address, target="/events", have="", method="GET", body=b"", close=True, slow=False):
    with contextlib.ExitStack() as on_error:
        sock = on_error.enter_context(socket.socket())
        if slow:  # Neither the kernel nor the reader shall hold what is not read.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(address)
        on_error.pop_all()
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024 if slow else 65536)
    stream = Stream(reader, writer)
    fields = [("Host", "sse.lab"), *([("Last-Event-ID", have)] if have else []), *([("Connection", "close")] * close)]
    writer.write(stream.http.send_request(method, target, fields, body or None))
    try:
        yield stream
    finally:
        writer.transport.abort()


async def listening(broker: sse.Broker, count: int) -> None:
    """Until so many clients listen."""
    async with asyncio.timeout(100 * TICK):
        while broker.clients != count:  # noqa: ASYNC110 - nothing rings when a client is there
            await asyncio.sleep(TICK / 20)


async def test_a_stream_names_a_place_and_then_gives_the_events():
    async with sse.serve(first=1, retry_ms=1234) as broker, asked(broker.address) as stream:
        assert await stream.next(Retry) == Retry(1234)
        assert stream.head.status == 200
        assert stream.head.fields["content-type"] == "text/event-stream"
        assert stream.head.fields["cache-control"] == "no-store"
        assert stream.head.fields["x-accel-buffering"] == "no"
        assert stream.decoder.last_event_id == "0"  # Who has seen nothing yet can come back all the same.
        assert broker.publish("one") == 1
        assert broker.publish("two\nlines", "pair") == 2
        assert await stream.next() == Event("one", id="1")
        assert await stream.next() == Event("two\nlines", "pair", "2")


async def test_what_was_missed_comes_before_what_is_new():
    async with sse.serve(first=1) as broker:
        for data in ("a", "b", "c"):
            broker.publish(data)
        async with asked(broker.address, have="1") as stream:
            await stream.next(Retry)
            broker.publish("d")
            assert await stream.events(3) == ["b", "c", "d"]


async def test_every_place_that_is_remembered_can_be_come_back_to():
    async with sse.serve(first=1, history=10) as broker:
        for number in range(1, 13):
            broker.publish(str(number))
        broker.finish()
        for have in range(2, 12):
            async with asked(broker.address, have=str(have)) as stream:
                assert await stream.rest() == [str(number) for number in range(have + 1, 13)]


@pytest.mark.parametrize("have", ["1", "13", "99", "x", "-1", "1.5", pytest.param("9" * 5000, id="huge"), "٣"])
async def test_who_comes_too_late_is_told_so_and_gets_all_there_is(have):
    async with sse.serve(first=1, history=10) as broker:
        for number in range(1, 13):
            broker.publish(str(number))
        have = have.encode().decode("latin-1")
        async with asked(broker.address, have=have) as stream:
            gap = await stream.next()
            assert (gap.type, gap.id) == ("gap", "2")
            assert await stream.events(10) == [str(number) for number in range(3, 13)]


async def test_what_is_remembered_is_bounded_by_bytes_too():
    async with sse.serve(first=1, history_bytes=10_000) as broker:
        for number in range(1, 6):
            broker.publish(str(number) * 3000)
        broker.publish("\n" * 500)
        broker.finish()
        async with asked(broker.address, have="1") as stream:
            gap = await stream.next()
            assert (gap.type, gap.id) == ("gap", "3")
            assert await stream.rest() == ["4" * 3000, "5" * 3000, "\n" * 500]
    broker = sse.Broker(first=1)
    tracemalloc.start()
    for _ in range(500):
        broker.publish("x" * 65_000)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 17 << 20


async def test_a_gap_is_told_once_also_when_there_is_nothing_else_to_tell():
    async with sse.serve(first=5) as broker:
        async with asked(broker.address, have="2") as stream:
            gap = await stream.next()
            assert (gap.type, gap.id) == ("gap", "4")
        async with asked(broker.address, have=gap.id) as stream:
            await stream.next(Retry)
            broker.publish("five")
            assert await stream.next() == Event("five", id="5")


async def test_without_a_log_the_numbers_begin_at_the_clock_so_a_new_life_knows_no_old_place():
    async with sse.serve() as broker:
        first = broker.publish("x")
        assert abs(first / 1000 - time.time()) < 60


async def test_silence_is_broken_by_heartbeats():
    async with sse.serve(heartbeat_seconds=TICK / 5) as broker, asked(broker.address) as stream:
        for _ in range(3):
            assert await stream.next(Comment) == Comment("")


async def test_a_client_that_has_vanished_is_found_by_the_heartbeat():
    """Nothing else is written to it, and so nothing else would fail."""
    async with sse.serve(heartbeat_seconds=TICK / 2) as broker:
        async with asked(broker.address):
            await listening(broker, 1)
        await listening(broker, 0)


async def test_a_slow_client_is_sent_away_and_comes_back_without_loss():
    """It stops to read. The fast one gets all that comes, and publishing waits for neither."""
    data = "x" * 10_000
    async with sse.serve(first=1, history=10_000, queue=20) as broker:
        async with asked(broker.address, slow=True) as slow, asked(broker.address) as fast:
            await listening(broker, 2)
            published = 0
            while broker.clients == 2:
                for _ in range(10):
                    published = broker.publish(f"{published + 1} {data}")
                assert published < 5000, "the slow one is still there"
                assert broker.longest_queue <= 20
                assert [text.split()[0] for text in await fast.events(10)] == [
                    str(number) for number in range(published - 9, published + 1)
                ]
            got = [text.split()[0] for text in await slow.rest()]  # What was on its way, and a proper end.
            assert 0 < len(got) < published - 10
        broker.finish()
        async with asked(broker.address, have=got[-1]) as again:
            got += [text.split()[0] for text in await again.rest()]
        assert got == [str(number) for number in range(1, published + 1)]


async def test_a_slow_client_that_takes_nothing_for_too_long_is_given_up():
    async with sse.serve(queue=20, body_seconds=4 * TICK) as broker:
        async with asked(broker.address, slow=True) as slow:
            await listening(broker, 1)
            while broker.clients:
                broker.publish("x" * 10_000)
                await asyncio.sleep(0)
            await asyncio.sleep(10 * TICK)
            with pytest.raises((ConnectionError, RemoteProtocolError)):  # The end of its answer is missing.
                await slow.rest()


async def test_a_thousand_slow_clients_take_no_memory_and_no_time():
    """On the broker's own streams, each stopped after its first piece, as backpressure stops them."""
    broker = sse.Broker(first=1, history=100, queue=10)
    streams = [broker._stream("") for _ in range(1000)]
    for stream in streams:
        await anext(stream)
    data = "x" * 1000
    tracemalloc.start()
    slowest = 0.0
    for _ in range(1000):
        start = time.perf_counter()
        broker.publish(data)
        slowest = max(slowest, time.perf_counter() - start)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2_000_000  # 100 events of 1 kB, and a little for each client; a queue without bound holds a GB
    assert slowest < 10 * TICK
    assert broker.clients == 0  # All were sent away
    for stream in streams:
        with pytest.raises(StopAsyncIteration):  # … in peace.
            await anext(stream)


async def test_old_events_are_sent_together_but_not_all_at_once():
    broker = sse.Broker(first=1)
    for _ in range(100):
        broker.publish("x" * 4000)
    broker.finish()
    sizes = [len(piece) async for piece in broker._stream("0")]
    assert sum(sizes) > 400_000
    assert max(sizes) < sse.REPLAY + 4100
    assert len(sizes) < 10


async def test_a_stream_that_begins_when_all_is_over_ends_at_once():
    """Or the server would wait for it, and it for an event that nobody publishes any more."""
    broker = sse.Broker(first=1)
    broker.publish("last")
    broker.stop()
    async with asyncio.timeout(100 * TICK):
        assert b"".join([piece async for piece in broker._stream("0")]).endswith(b"id: 1\ndata: last\n\n")


async def test_polling_and_long_polling():
    async with sse.serve(first=1) as broker:
        async with asked(broker.address, "/poll") as poll:
            assert await poll.answer() == (200, b"id: 0\n\n")
        async with asked(broker.address, "/poll?since=0") as poll:
            assert await poll.answer() == (204, b"")
        async with asked(broker.address, "/long-poll?since=0") as poll:
            await listening(broker, 1)
            broker.publish("one")
            assert await poll.answer() == (200, b"id: 1\ndata: one\n\n")
        async with asked(broker.address, "/long-poll", have="0") as poll:
            assert await poll.answer() == (200, b"id: 1\ndata: one\n\n")
        for _ in range(200):
            broker.publish("x")
        async with asked(broker.address, "/poll?since=1") as poll:  # Not all at once: the rest next time.
            status, text = await poll.answer()
            assert (status, text.count(b"data: "), text[:7], text.rpartition(b"id: ")[2][:4]) == (
                200,
                100,
                b"id: 2\nd",
                b"101\n",
            )


async def test_a_long_poll_ends_with_nothing_after_a_while(monkeypatch):
    monkeypatch.setattr(sse, "LONG_POLL_SECONDS", 2 * TICK)
    async with sse.serve(first=1) as broker, asked(broker.address, "/long-poll?since=0") as poll:
        assert await poll.answer() == (204, b"")


async def test_204_says_that_there_is_no_more_but_not_before_all_is_told():
    async with sse.serve(first=1) as broker:
        async with asked(broker.address) as stream:
            await listening(broker, 1)
            broker.publish("last")
            async with asked(broker.address, "/long-poll?since=1") as poll:
                await listening(broker, 2)
                broker.finish()
                assert await stream.rest() == ["last"]
                assert await poll.answer() == (204, b"")
        async with asked(broker.address, have="0") as stream:
            assert await stream.rest() == ["last"]
            assert stream.head.status == 200
        for have in ("1", ""):
            async with asked(broker.address, have=have) as stream:
                assert await stream.answer() == (204, b"")


async def test_publishing_by_post():
    full = 65_536 - len(b"id: 3\ndata: \n\n")
    async with sse.serve(first=1) as broker, asked(broker.address) as stream:
        await listening(broker, 1)
        posts = [
            ("/", "hello, 日本\nagain".encode(), 201),
            ("/?event=price", b"", 201),
            ("/?event=a%0Ab", b"x", 400),
            ("/", b"\xff", 400),
            ("/", b"x" * full, 201),
            ("/", b"x" * (full + 1), 413),
            ("/", b"x" * 70_000, 413),
            ("/", b"\n" * 10_000, 413),  # 70 kB, as it is sent
            ("/events", b"x", 405),
            ("/other", b"x", 404),
        ]
        for target, body, status in posts:
            async with asked(broker.address, target, method="POST", body=body) as post:
                assert (await post.answer())[0] == status, (target, body[:10])
        assert await stream.next() == Event("hello, 日本\nagain", id="1")
        assert await stream.next() == Event("", "price", "2")
        assert await stream.next() == Event("x" * full, id="3")
        with pytest.raises(sse.TooLong):
            broker.publish("€" * 25_000)  # Bytes count, not characters.
        assert broker.publish("next") == 4


async def test_the_page_and_what_else_may_be_asked():
    async with sse.serve() as broker:
        async with asked(broker.address, "/") as page:
            status, text = await page.answer()
            assert status == 200
            assert b"new EventSource" in text
        for method, target, status in (("HEAD", "/events", 200), ("HEAD", "/", 200), ("DELETE", "/events", 405)):
            async with asked(broker.address, target, method=method) as other:
                await other.more()
                assert other.head.status == status
        assert broker.clients == 0  # HEAD listens to nothing.


async def test_the_end_of_the_server_is_a_proper_end_of_the_stream():
    async with sse.serve(first=1) as broker:

        async def listen() -> list[str]:
            async with asked(broker.address) as stream:
                return await stream.rest()  # That needs a chunk of size 0: without it, it would not be the end.

        listener = asyncio.create_task(listen())
        await listening(broker, 1)
        broker.publish("last")
        start = time.monotonic()
    assert time.monotonic() - start < 20 * TICK
    assert await listener == ["last"]


# -- The log ------------------------------------------------------------------------------------------


def published(path, *data: str) -> sse.Broker:
    """A server's life: it reads the log, publishes, and dies."""
    broker = sse.Broker(log_file=path, history=10, first=1)
    for text in data:
        broker.publish(text, "t" if text == "typed" else "")
    broker.close()
    return broker


def remembered(path) -> list[Event]:
    broker = published(path)
    return [item for item in decode(broker._history.since("0")) if isinstance(item, Event)]


def test_what_was_published_is_there_in_the_next_life(tmp_path):
    path = tmp_path / "log"
    published(path, "one", "two\nlines", "", "typed", "日本 ")
    assert remembered(path) == [
        Event("one", id="1"), Event("two\nlines", id="2"), Event("", id="3"), Event("typed", "t", "4"),
        Event("日本 ", id="5"),
    ]  # fmt: skip
    assert b"".join(published(path)._history.since("0")) == path.read_bytes()  # To the byte.
    assert published(path, "six")._history.next == 7
    published(path, *map(str, range(7, 20)))
    assert [event.id for event in remembered(path)] == ["9", *map(str, range(10, 20))]  # 9 is the gap's.


def test_what_a_crash_has_torn_is_no_event(tmp_path):
    path = tmp_path / "log"
    published(path, "one", "two")
    whole = path.read_bytes()
    first = whole.index(b"\n\n") + 2
    for cut in (0, *range(first, len(whole) + 1)):
        path.write_bytes(whole[:cut])
        events = [event.data for event in remembered(path)]
        assert events == ["one", "two"][: (cut >= first) + (cut == len(whole))]
        assert path.read_bytes() == whole[: first * (cut >= first) if cut < len(whole) else cut]
        published(path, "next")  # And whoever goes on does not go on within the torn one.
        assert remembered(path)[-1] == Event("next", id=str(len(events) + 1))


GOOD = b"id: 5\ndata: a\n\n"


@pytest.mark.parametrize(
    "text",
    [
        b"notes\n\nof mine", b"\n", b"id: x\ndata: a\n\n", b"id: 1\ndata: a\n\nid: 3\ndata: b\n\n", b"i", b"id: 7\n",
        b"id: 7\nname: my only copy\n", b"id: 5 my notes without an end", b"id: 5\ndata: my only copy\n",
        GOOD.replace(b"\n", b"\r\n"), b"id: 5\ndata: \xff\n\n", b"id: -4\ndata: a\n\n", b"id: 1_0\ndata: a\n\n",
        GOOD + b"Dear diary\nthis is long\n", GOOD + b"\n", GOOD + b": a comment of mine\n", GOOD + b"id: 7\nda",
        GOOD + b"id: 6\nname: my only copy\n", GOOD + b"id: 6\ndata: b\r\n", GOOD + b"id: 6\ndata: b\nevent: x",
        GOOD + bytes(4096), GOOD + b"\n" + GOOD, b"data: x\n" * (MAX_EVENT // 8 + 200_000),
    ],
)  # fmt: skip
def test_a_file_that_is_no_log_is_refused_and_left_alone(text, tmp_path):
    path = tmp_path / "notes"
    path.write_bytes(text)
    with pytest.raises(LogError, match="no log of events"):
        sse.Broker(log_file=path)
    assert path.read_bytes() == text
    with pytest.raises(LogError, match="cannot be written"):
        sse.Broker(log_file=tmp_path)
    with pytest.raises(LogError, match="cannot be read or cut: Invalid argument"):
        sse.Broker(log_file=Path("/dev/null"))


@pytest.mark.parametrize("torn", ["typed\na", "\nevent: x", "日本"])
def test_wherever_an_event_is_torn_the_log_goes_on(torn, tmp_path):
    path = tmp_path / "log"
    wire = encode(torn, event="x €", id="6")
    for cut in range(len(wire)):
        path.write_bytes(GOOD + wire[:cut])
        sse.Broker(log_file=path).close()
        assert path.read_bytes() == GOOD


def test_a_log_of_many_lines_is_read_quickly(tmp_path):
    """A million lines, seven bytes each: the whole events are cut out, nobody decodes their lines."""
    path = tmp_path / "log"
    path.write_bytes(b"".join(b"id: %d\n%b\n" % (i, b"data: \n" * 65_536) for i in range(15)))
    start = time.process_time()
    sse.Broker(log_file=path).close()
    assert time.process_time() - start < 40 * TICK  # Measured: 0.1 s; by the decoder, line by line, 7 s.


def test_two_servers_do_not_write_to_one_log(tmp_path):
    broker = sse.Broker(log_file=tmp_path / "log")
    with pytest.raises(LogError, match="Another server"):
        sse.Broker(log_file=tmp_path / "log")
    broker.close()
    sse.Broker(log_file=tmp_path / "log").close()


async def test_an_event_that_the_log_does_not_take_is_not_published(tmp_path):
    path = tmp_path / "log"
    async with sse.serve(log_file=path, first=1) as broker, asked(broker.address) as stream:
        await listening(broker, 1)
        broker.publish("one")
        file = broker._log._file

        class Full:
            """A disk on which there is room for three more bytes."""

            def __getattr__(self, name):
                return getattr(file, name)

            def write(self, data):
                return file.write(data[:3])

        broker._log._file = Full()
        async with asked(broker.address, "/", method="POST", body=b"two") as post:
            assert (await post.answer())[0] == 507
        broker._log._file = file
        broker.publish("three")
        assert await stream.events(2) == ["one", "three"]
        assert path.read_bytes() == b"id: 1\ndata: one\n\nid: 2\ndata: three\n\n"


# -- The client, against servers by hand --------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"  # A body until the end of the connection.
NO_MORE = b"HTTP/1.1 204 No Content\r\n\r\n"
STAY = object()  # Leave the connection open, until the other side ends it.


class Asked(NamedTuple):
    """A request that came, and when."""

    line: str
    fields: dict[str, str]
    body: bytes
    time: float


class Script:
    """A server that answers its connections with what is written, one after the other, and the last one for ever."""

    def __init__(self, connections) -> None:
        self.connections, self.requests = connections, []
        self.url = ""
        self._writers: list[asyncio.StreamWriter] = []

    async def handle(self, reader, writer) -> None:
        self._writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *lines = head.split("\r\n")[:-2]
            fields: dict[str, str] = {}
            for name, _, value in (text.partition(": ") for text in lines):
                assert name.lower() not in fields, "sent twice"
                fields[name.lower()] = value
            body = await reader.readexactly(int(fields.get("content-length", "0")))
            self.requests.append(Asked(line, fields, body, time.monotonic()))
            script = self.connections[min(len(self.requests), len(self.connections)) - 1]
            for step in script if isinstance(script, list | tuple) else [script]:
                if step is STAY:
                    await reader.read()
                elif isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, float | int):
                    await asyncio.sleep(step)
                else:
                    writer.write(step)
                    await writer.drain()
        writer.close()

    async def wait(self, requests: int) -> None:
        async with asyncio.timeout(100 * TICK):
            while len(self.requests) < requests:  # noqa: ASYNC110
                await asyncio.sleep(TICK / 20)


@contextlib.asynccontextmanager
async def scripted(*connections):
    script = Script(connections)
    async with await asyncio.start_server(script.handle, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        script.url = f"http://{host}:{port}/events"
        yield script
        for writer in script._writers:
            writer.transport.abort()


def source_of(script, **options) -> EventSource:
    return EventSource(script.url, **{"retry_ms": 1000 * TICK / 5, "min_wait": 0, "jitter": 0, **options})


async def all_events(script, **options) -> list[Event]:
    async with asyncio.timeout(200 * TICK), source_of(script, **options) as source:
        return [event async for event in source]


async def test_the_client_asks_properly_and_gives_events_in_their_order():
    async with scripted((OK + b"data: a\n\ndata: b\nid: 7\n", 0.01, b"event: t\n", 0.01, b"\n"), NO_MORE) as script:
        assert await all_events(script) == [Event("a"), Event("b", "t", "7")]
        first, second = script.requests
        assert first.line == "GET /events HTTP/1.1"
        assert first.fields["accept"] == "text/event-stream"
        assert first.fields["cache-control"] == "no-store"
        assert "last-event-id" not in first.fields
        assert second.fields["last-event-id"] == "7"


async def test_every_byte_in_a_segment_of_its_own():
    wire = "\ufeff: c\r\nid: é\rdata: €\r\ndata: \U0001f600\n\r\n".encode()
    script = [OK]
    for byte in wire:
        script += [bytes([byte]), 0.0]
    comments = []
    async with scripted(script, NO_MORE) as server:
        assert await all_events(server, on_comment=comments.append) == [Event("€\n\U0001f600", id="é")]
        assert comments == [" c"]
        assert server.requests[1].fields["last-event-id"].encode("latin-1").decode() == "é"


async def test_an_event_that_breaks_off_is_not_given_and_its_id_not_sent():
    async with scripted(
        (OK + b"id: 1\ndata: a\n\nid: 2\ndata: b\n",), (OK + b"id: 2\ndata: b\n\n",), NO_MORE
    ) as script:
        assert [event.data for event in await all_events(script)] == ["a", "b"]
        assert [asked.fields.get("last-event-id") for asked in script.requests] == [None, "1", "2"]


async def test_an_id_lasts_over_connections_until_it_is_reset():
    async with scripted(
        (OK + b"id: 1\ndata: a\n\n",), (OK + b"data: b\n\n",), (OK + b"id\ndata: c\n\n",), NO_MORE
    ) as script:
        assert [event.id for event in await all_events(script)] == ["1", "1", ""]
        assert [asked.fields.get("last-event-id") for asked in script.requests] == [None, "1", "1", None]


@pytest.mark.parametrize("id", ["\x01", " 7", "7 ", "a\x7f"])
async def test_an_id_that_no_header_can_carry_is_not_sent(id):
    async with scripted((OK + b"id: " + id.encode() + b"\ndata: a\n\n",), NO_MORE) as script:
        assert await all_events(script) == [Event("a", id=id)]
        assert "last-event-id" not in script.requests[1].fields


async def test_where_to_begin_can_be_given():
    async with scripted((OK + b"data: a\n\n",), NO_MORE) as script:
        headers = {"last-event-id": "no", "X-Other": "yes", "accept": "text/event-stream;q=1"}
        assert await all_events(script, last_event_id="41", headers=headers) == [Event("a", id="41")]
        for asked in script.requests:
            assert asked.fields["last-event-id"] == "41"
            assert asked.fields["x-other"] == "yes"
            assert asked.fields["accept"] == "text/event-stream;q=1"


async def test_method_and_body_also_when_it_comes_back():
    async with scripted((OK + b"data: a\n\n",), NO_MORE) as script:
        await all_events(script, method="POST", body=b'{"q": 1}', headers=[("Content-Type", "application/json")])
        assert [(asked.line.split()[0], asked.body) for asked in script.requests] == [("POST", b'{"q": 1}')] * 2
        assert script.requests[1].fields["content-type"] == "application/json"
    async with scripted(NO_MORE) as script:
        await all_events(script, method="REPORT", body=b"q")
        assert script.requests[0].line == "REPORT /events HTTP/1.1"
        assert script.requests[0].fields["content-type"].startswith("text/plain")


async def test_the_time_to_wait_is_the_servers():
    async with scripted((OK + b"retry: 150\n",), (OK + b"retry: x\n\n",), NO_MORE) as script:
        await all_events(script, retry_ms=10_000)
        times = [asked.time for asked in script.requests]
        assert all(0.14 < later - earlier < 0.15 + 20 * TICK for earlier, later in pairwise(times))


async def test_a_server_that_ends_each_stream_at_once_does_not_set_the_pace(monkeypatch):
    at_once = (OK + b"retry: 0\ndata: a\n\n",)
    async with scripted(at_once, at_once, (OK + b"retry: 0\n",), NO_MORE) as script:
        async with EventSource(script.url, jitter=0) as source:
            assert [event.data async for event in source] == ["a", "a"]
        assert all(later.time - earlier.time > 0.095 for earlier, later in pairwise(script.requests))
    monkeypatch.setattr("clients.sse.BRIEF", TICK)
    async with scripted((OK + b"retry: 0\n\n", 2 * TICK), NO_MORE) as script:  # A stream that has lasted is no storm.
        async with EventSource(script.url, jitter=0, min_wait=60) as source, asyncio.timeout(100 * TICK):
            assert [event async for event in source] == []


async def test_jitter_waits_longer_and_never_shorter():
    async with scripted(OK, OK, OK, OK, OK, NO_MORE) as script:
        await all_events(script, retry_ms=40, jitter=1)
        times = [asked.time for asked in script.requests]
        assert all(later - earlier >= 0.039 for earlier, later in pairwise(times))


REFUSE = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"


async def test_failing_attempts_are_further_and_further_apart_but_not_without_end():
    async with scripted(REFUSE, REFUSE, REFUSE, REFUSE, NO_MORE) as script:
        errors = []
        await all_events(script, retry_ms=0, retry_statuses={503}, on_error=errors.append, max_wait=0.25)
        waits = [later.time - earlier.time for earlier, later in pairwise(script.requests)]
        assert [str(error) for error in errors] == ["status 503"] * 4
        for wait, least in zip(waits, (0.1, 0.2, 0.25, 0.25), strict=True):  # Also where the server says "retry: 0".
            assert least * 0.95 <= wait < least + 20 * TICK


async def test_an_attempt_that_succeeds_forgives_those_that_failed():
    async with scripted(REFUSE, REFUSE, OK, REFUSE, REFUSE, NO_MORE) as script:
        await all_events(script, attempts=3, retry_statuses=range(500, 600), max_wait=0.1)
        assert len(script.requests) == 6


async def test_nobody_there_and_then_somebody():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host, port = free.getsockname()
    errors = []
    async with EventSource(f"http://{host}:{port}/events", retry_ms=20, max_wait=0.1, on_error=errors.append) as source:
        waiting = asyncio.ensure_future(anext(source))
        async with asyncio.timeout(100 * TICK):
            while len(errors) < 3:  # noqa: ASYNC110
                await asyncio.sleep(TICK / 5)
        assert all(isinstance(error, ConnectionRefusedError) for error in errors)
        async with sse.serve(host, port, first=1, heartbeat_seconds=10) as broker:
            await listening(broker, 1)
            broker.publish("at last")
            assert (await waiting).data == "at last"
            source.close()
            assert await anext(source, None) is None
    async with EventSource(f"http://{host}:{port}/events", retry_ms=0, attempts=2) as source:
        with pytest.raises(ConnectionRefusedError):
            await anext(source)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 500 No\r\ncontent-type: text/event-stream\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nno",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno",
        b"HTTP/1.1 201 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 205 Reset\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nlocation: ftp://a/\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 304 Same\r\n\r\n",
        b"HTTP/1.1 401 Who\r\ncontent-length: 0\r\n\r\n",
    ],
)
async def test_what_is_no_event_stream_ends_it(answer):
    """WHATWG HTML §9.2.3: fail the connection, and do not connect again."""
    async with scripted(answer) as script, source_of(script) as source:
        with pytest.raises(Refused) as refused:
            await anext(source)
        assert refused.value.code == int(answer.split()[1])
        with pytest.raises(StopAsyncIteration):
            await anext(source)
        assert len(script.requests) == 1


@pytest.mark.parametrize(
    "kind", [b"text/event-stream; charset=utf-8", b"TEXT/Event-Stream", b"text/event-stream;charset=x"]
)
async def test_what_is_an_event_stream(kind):
    async with scripted((b"HTTP/1.1 200 OK\r\ncontent-type: " + kind + b"\r\n\r\ndata: a\n\n",), NO_MORE) as script:
        assert await all_events(script) == [Event("a")]


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200", b"SSH-2.0\r\n\r\n", OK[:-2] + b"content-length: 10\r\ntransfer-encoding: chunked\r\n\r\n",
     OK[:-2] + b"transfer-encoding: chunked\r\n\r\n5\r\ndata:\r\n", OK[:-2] + b"content-length: 99\r\n\r\ndata: a\n"],
)  # fmt: skip
async def test_what_is_broken_is_tried_again(answer):
    """To the standard all of these are network errors; the answer may be better the next time."""
    errors = []
    async with scripted(answer, (OK + b"data: a\n\n",), NO_MORE) as script:
        assert await all_events(script, on_error=errors.append) == [Event("a")]
        assert len(errors) == 2


async def test_a_line_without_end_is_refused():
    async with scripted((OK + b"data: " + b"x" * 200, STAY)) as script, source_of(script, max_line=100) as source:
        with pytest.raises(RemoteProtocolError, match="a line of more than 100 bytes"):
            await anext(source)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_and_where_the_next_attempt_begins(status):
    async with scripted((OK + b"id: 1\ndata: a\n\n",), NO_MORE) as target:
        redirect = f"HTTP/1.1 {status} Go\r\nlocation: {target.url}/there\r\ncontent-length: 0\r\n\r\n".encode()
        async with scripted(redirect) as script:
            headers = {"Authorization": "secret", "X-Other": "yes"}
            assert await all_events(script, headers=headers) == [Event("a", id="1")]
            assert len(script.requests) == (1 if status in (301, 308) else 2)
            assert len(target.requests) == 2
            assert target.requests[1].fields["last-event-id"] == "1"
            assert target.requests[0].line == "GET /events/there HTTP/1.1"
            assert target.requests[0].fields["x-other"] == "yes"
            assert "authorization" not in target.requests[0].fields  # Another port is another origin.
            assert script.requests[0].fields["authorization"] == "secret"


@pytest.mark.parametrize(
    ("status", "method", "then"),
    [(307, "POST", "POST"), (308, "REPORT", "REPORT"), (302, "POST", "GET"), (301, "POST", "GET"),
     (303, "REPORT", "GET"), (301, "REPORT", "REPORT")],
)  # fmt: skip
async def test_redirects_and_the_method(status, method, then):
    redirect = f"HTTP/1.1 {status} Go\r\nlocation: /there?x\r\ncontent-length: 0\r\n\r\n".encode()
    async with scripted(redirect, NO_MORE) as script:
        await all_events(script, method=method, body=b"body")
        assert script.requests[1].line == f"{then} /there?x HTTP/1.1"
        assert script.requests[1].body == (b"" if then == "GET" else b"body")


async def test_redirects_are_bounded():
    redirect = b"HTTP/1.1 307 Go\r\nlocation: /events\r\ncontent-length: 0\r\n\r\n"
    async with scripted(redirect) as script, source_of(script, max_redirects=4) as source:
        with pytest.raises(Refused, match="more than 4 redirects"):
            await anext(source)
        assert len(script.requests) == 5


async def test_a_permanent_redirect_behind_a_temporary_one_is_not_for_ever():
    go = "HTTP/1.1 {} Go\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n"
    answers = [go.format(301, "/a"), go.format(302, "/b"), go.format(308, "/c")]
    async with scripted(*(answer.encode() for answer in answers), OK, NO_MORE) as script:
        await all_events(script)
        assert [asked.line.split()[1] for asked in script.requests] == ["/events", "/a", "/b", "/c", "/a"]


async def test_silence_ends_the_connection_and_every_byte_buys_time():
    errors = []
    slow = [step for byte in b":x\ndata: a\n\n" for step in (TICK, bytes([byte]))]
    async with scripted([OK, *slow, STAY], NO_MORE) as script:
        assert await all_events(script, read_timeout=10 * TICK, on_error=errors.append) == [Event("a")]
        assert [type(error) for error in errors] == [TimeoutError]
        assert script.requests[1].time - script.requests[0].time > 22 * TICK


async def test_a_server_that_says_nothing_at_all_is_given_up():
    errors = []
    async with scripted(STAY, NO_MORE) as script:
        await all_events(script, connect_timeout=4 * TICK, on_error=errors.append)
        assert {type(error) for error in errors} == {TimeoutError}


async def test_restart_makes_a_new_connection_at_once():
    async with scripted((OK + b"id: 1\ndata: a\n\n", STAY), (OK + b"data: b\n\n", STAY), NO_MORE) as script:
        errors = []
        async with source_of(script, retry_ms=60_000, on_error=errors.append) as source:
            assert (await anext(source)).data == "a"
            waiting = asyncio.ensure_future(anext(source))
            await asyncio.sleep(TICK)
            source.restart()
            async with asyncio.timeout(40 * TICK):
                assert (await waiting).data == "b"
                source.restart()  # Also when nobody waits for an event just now.
                with pytest.raises(StopAsyncIteration):
                    await anext(source)
            assert [asked.fields.get("last-event-id") for asked in script.requests] == [None, "1", "1"]
            assert errors == []


async def test_restart_cuts_the_waiting_short():
    async with scripted(OK, NO_MORE) as script, source_of(script, retry_ms=60_000) as source:
        waiting = asyncio.ensure_future(anext(source, None))
        await script.wait(1)
        await asyncio.sleep(2 * TICK)
        source.restart()
        async with asyncio.timeout(40 * TICK):
            assert await waiting is None


async def test_close_ends_the_loop_wherever_it_is():
    for script_of_one in ((OK, STAY), (OK,), (STAY,)):
        async with scripted(script_of_one) as script, source_of(script, retry_ms=60_000) as source:
            waiting = asyncio.ensure_future(anext(source, None))
            await script.wait(1)
            await asyncio.sleep(TICK)
            source.close()
            async with asyncio.timeout(40 * TICK):
                assert await waiting is None


async def test_leaving_the_block_ends_the_connection():
    async with scripted((OK + b"data: a\n\n", STAY)) as script:
        async with source_of(script) as source:
            async for event in source:
                assert event.data == "a"
                break
        async with asyncio.timeout(40 * TICK):
            while not all(writer.is_closing() for writer in script._writers):  # noqa: ASYNC110
                await asyncio.sleep(TICK / 10)


async def test_a_wait_that_is_cancelled_costs_the_connection_and_no_event():
    async with scripted((OK + b"id: 1\ndata: a\n\n", STAY), (OK + b"id: 2\ndata: b\n\n", STAY)) as script:
        async with source_of(script) as source:
            assert (await anext(source)).data == "a"
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(TICK):
                    await anext(source)
            assert (await anext(source)).data == "b"


async def test_what_a_hook_raises_ends_the_loop():
    async with scripted((OK + b":c\ndata: a\n\n", STAY)) as script:

        def on_comment(text: str) -> None:
            raise KeyError(text)

        async with source_of(script, on_comment=on_comment) as source:
            with pytest.raises(KeyError, match="c"):
                await anext(source)


async def test_what_is_no_url_of_http_is_not_asked():
    for url in ("ftp://a/", "http://", "http://a:99999/", "events"):
        async with EventSource(url) as source:
            with pytest.raises(LocalProtocolError):
                await anext(source)


async def test_a_reader_that_is_slow_slows_the_server():
    """What nobody asks for is not read: a megabyte and a half on loopback, and not fifty."""
    taken = 0

    async def feed(reader, writer):
        nonlocal taken
        writer.transport.set_write_buffer_limits(0)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK + b"data: a\n\n")
        with contextlib.suppress(ConnectionError):
            while taken < 50_000_000:
                writer.write(b"data: " + b"x" * 10_000 + b"\n\n")
                await writer.drain()
                taken += 10_000
        writer.close()

    async with await asyncio.start_server(feed, "127.0.0.1", 0) as server:
        async with EventSource("http://{}:{}/".format(*server.sockets[0].getsockname())) as source:
            await anext(source)
            await asyncio.sleep(10 * TICK)
            assert taken < 30_000_000


# -- Restarts -----------------------------------------------------------------------------------------

NURSERY = """
import asyncio, os, sys
from pathlib import Path
from servers import sse

async def live(port):
    async with sse.serve(port=port, retry_ms=10, log_file=Path(sys.argv[1]), first=1) as broker:
        os.write(1, f"{os.getpid()} {broker.address[1]}\\n".encode())
        for number in range(1_000_000):
            broker.publish(f"{os.getpid()}/{number}")
            await asyncio.sleep(0.002)

for line in sys.stdin:  # One life after the other, without the time that a new interpreter takes.
    if (child := os.fork()) == 0:
        asyncio.run(live(int(line)))
    os.waitpid(child, 0)
"""


async def test_killed_and_restarted_twenty_times_no_event_is_lost_and_none_comes_twice(tmp_path):
    path = tmp_path / "log"
    nursery = await asyncio.create_subprocess_exec(
        sys.executable, "-c", NURSERY, str(path), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        cwd=catalog.ROOT,
    )  # fmt: skip

    async def born(port: int) -> tuple[int, int]:
        nursery.stdin.write(f"{port}\n".encode())
        async with asyncio.timeout(200 * TICK):
            pid, port = map(int, (await nursery.stdout.readline()).split())
        return pid, port

    pid, port = await born(0)
    got, errors = [], []
    async with EventSource(f"http://127.0.0.1:{port}/events", last_event_id="0", jitter=0, min_wait=0, max_wait=0.05,
                           on_error=errors.append) as source:  # fmt: skip
        for _ in range(20):
            async with asyncio.timeout(200 * TICK):
                while not got or not got[-1].data.startswith(f"{pid}/"):  # until it has seen this life
                    got.append(await anext(source))
            os.kill(pid, signal.SIGKILL)
            pid, port = await born(port)
        os.kill(pid, signal.SIGKILL)
        nursery.stdin.close()
        await nursery.wait()
    numbers = [int(event.id) for event in got]
    assert numbers == list(range(1, len(got) + 1))
    assert len({event.data for event in got}) == len(got)
    with path.open("rb") as file:
        logged = [item for item in Decoder().receive_data(file.read()) if isinstance(item, Event)]
    assert [(event.id, event.data) for event in logged[: len(got)]] == [(event.id, event.data) for event in got]
    assert len(errors) >= 19
    assert len({event.data.split("/")[0] for event in got}) == 20


@contextlib.asynccontextmanager
async def program(*arguments):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *arguments, cwd=catalog.ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def said(process) -> str:
    async with asyncio.timeout(200 * TICK):
        return (await process.stdout.read()).decode()


async def test_what_the_other_side_says_is_logged_in_one_line_and_moves_no_cursor(caplog):
    caplog.set_level("INFO", "servers.sse")
    caplog.set_level("INFO", "clients.sse")
    evil = "\x1b[2J\x9b2J\x07" + "\u2028" + "x" * 5000
    async with sse.serve(first=1) as broker:
        async with asked(broker.address, "/events?since=%1b%5b2J%0d%0a%3d%20listening" + "x" * 500) as stream:
            await stream.next(Retry)
        async with asked(broker.address, have="\x9b2J") as stream:
            await stream.next(Retry)
    reasons = []
    wire = f": {evil}\nid: {evil}\nevent: {evil}\ndata: {evil}\n\n".encode()
    for kind in (b"text/\x9b2J", b"text/html;" * 500):
        no_stream = b"HTTP/1.1 200 OK\r\ncontent-type: " + kind + b"\r\ncontent-length: 0\r\n\r\n"
        async with scripted((OK + wire,), no_stream) as script, source_of(script) as source:
            await anext(source)
            with pytest.raises(Refused) as refused:
                await anext(source)
            reasons.append(str(refused.value))  # What main() shows.
    lines = [*caplog.messages, *reasons]
    assert [line for line in lines if "\\x9b2J" in line], "nothing was logged at all"
    assert [line for line in lines if not line.isprintable() or len(line) > 400] == []
    assert not [line for line in lines if line.startswith("= listening")]


async def test_the_programs_talk_and_end_well(tmp_path):
    async with program("servers.sse", "--port", "0", "--tick", "0.02", "--log", str(tmp_path / "log")) as server:
        async with asyncio.timeout(200 * TICK):
            line = (await server.stdout.readline()).decode()
        port = line.split("port ")[1].split(";")[0]
        async with (
            program("clients.sse", f"http://127.0.0.1:{port}/events", "--events", "2") as client,
            program("clients.sse", f"http://127.0.0.1:{port}/nothing") as wrong,
            program("clients.sse", "nonsense") as nonsense,
            program("servers.sse", "--port", port) as second,
            program("servers.sse", "--port", "0", "--log", str(tmp_path / "log")) as same_log,
            program("clients.sse", "http://127.0.0.1:1/events") as nobody,
        ):
            out = await said(client)
            assert out.startswith(f"> GET http://127.0.0.1:{port}/events\n= the stream begins\n")
            assert len(re.findall(r"^< '\d+' 'message' '\d\d:\d\d:\d\d'$", out, re.M)) == 2
            assert await client.wait() == 0
            assert "! no event stream: status 404" in await said(wrong)
            assert await wrong.wait() == 1
            assert "\nNot sent: 'nonsense' is not" in await said(nonsense)
            assert await nonsense.wait() == 2
            assert "Is another `make sse-server` running?" in await said(second)
            assert await second.wait() == 2
            assert "Another server writes to" in await said(same_log)
            assert await same_log.wait() == 2
            assert "Connection refused. Is `make sse-server` running?" in await said(nobody)
            assert await nobody.wait() == 2
        server.send_signal(signal.SIGTERM)
        assert (await said(server)).endswith("= finishing what is in flight; Ctrl-C again ends at once\n= stopped\n")
        assert await server.wait() == 0


# -- Foreign peers --------------------------------------------------------------------------------------


async def test_curl_shows_events_as_they_come():
    need_tool("curl")
    async with sse.serve(first=1) as broker:
        url = "http://{}:{}/events".format(*broker.address)
        curl = await asyncio.create_subprocess_exec("curl", "-sN", url, stdout=asyncio.subprocess.PIPE)
        await listening(broker, 1)
        broker.publish("now")
        async with asyncio.timeout(100 * TICK):
            assert await curl.stdout.readuntil(b"data: now\n\n") == b"retry: 2000\n\nid: 0\n\nid: 1\ndata: now\n\n"
            broker.finish()
            assert await curl.wait() == 0  # A proper end: else curl says 18, a part is missing.


NODE = """
import { EventSource } from "eventsource";
const source = new EventSource(process.argv[1]);
for (const type of ["message", "odd"])
  source.addEventListener(type, event => console.log(JSON.stringify([event.type, event.lastEventId, event.data])));
source.onerror = event => { if (event.code === 204) { console.log("204"); process.exit(0) } };
"""


async def test_nodes_eventsource_comes_back_and_stops(tmp_path):
    peers = need_package("eventsource")
    log = tmp_path / "log"
    async with sse.serve(first=1, retry_ms=20, log_file=log) as broker:
        host, port = broker.address
        node = await asyncio.create_subprocess_exec(
            "node", "--input-type=module", "-e", NODE, f"http://{host}:{port}/events", cwd=peers,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        await listening(broker, 1)
        broker.publish("one")
        broker.publish("two €\n\u2028", "odd")
        lines = [json.loads(await node.stdout.readline()) for _ in range(2)]
    async with sse.serve(host, port, retry_ms=20, log_file=log) as broker:
        broker.publish("three")
        lines.append(json.loads(await node.stdout.readline()))
        broker.finish()
        async with asyncio.timeout(100 * TICK):
            assert await node.stdout.readline() == b"204\n"
            await node.wait()
    assert lines == [["message", "1", "one"], ["odd", "2", "two €\n\u2028"], ["message", "3", "three"]]


NGINX = """
daemon off; pid {tmp}/pid; error_log {tmp}/error.log; worker_processes 1; {user}
events {{ worker_connections 100; }}
http {{
  access_log off;
  client_body_temp_path {tmp}/a; proxy_temp_path {tmp}/b; fastcgi_temp_path {tmp}/c; uwsgi_temp_path {tmp}/d;
  scgi_temp_path {tmp}/e;
  server {{
    listen 127.0.0.1:{port};
    location /asked/ {{ proxy_pass http://127.0.0.1:{backend}/; }}
    location /deaf/ {{ proxy_pass http://127.0.0.1:{backend}/; proxy_ignore_headers X-Accel-Buffering; }}
    location /chunks/ {{ proxy_pass http://127.0.0.1:{backend}/; proxy_ignore_headers X-Accel-Buffering;
                         proxy_http_version 1.1; }}
  }}
}}
"""


async def until_it_listens(address) -> None:
    async with asyncio.timeout(100 * TICK):
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                _, writer = await asyncio.open_connection(*address)
                writer.close()
                return
            await asyncio.sleep(TICK / 10)


async def test_nginx_buffers_unless_it_is_asked_not_to(tmp_path):
    need_tool("nginx")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with sse.serve(first=1, heartbeat_seconds=60) as broker:
        user = "user root;" if os.getuid() == 0 else ""
        (tmp_path / "conf").write_text(NGINX.format(tmp=tmp_path, port=port, backend=broker.address[1], user=user))
        nginx = await asyncio.create_subprocess_exec("nginx", "-p", tmp_path, "-c", tmp_path / "conf", "-e", "stderr",
                                                     stderr=asyncio.subprocess.DEVNULL)  # fmt: skip
        try:
            at = ("127.0.0.1", port)
            await until_it_listens(at)
            async with (
                asked(at, "/asked/events", close=False) as stream,
                asked(at, "/deaf/events", close=False) as deaf,
                asked(at, "/chunks/events", close=False) as chunks,
            ):
                await listening(broker, 3)
                broker.publish("at once")
                assert (await stream.next()).data == "at once"
                assert (await chunks.next()).data == "at once"  # It passes on whole chunks, but must speak HTTP/1.1.
                waiting = asyncio.ensure_future(deaf.next())
                await asyncio.sleep(4 * TICK)
                assert not waiting.done(), "nginx has not buffered"
                broker.publish("x" * 65_000)  # More than its buffers.
                assert (await waiting).data == "at once"
        finally:
            nginx.terminate()
            await nginx.wait()


PAGE = """
<!doctype html><script>
const tell = (...words) => fetch("%s", { method: "POST", mode: "no-cors", body: JSON.stringify(words) });
const source = new EventSource("/events");
source.onmessage = event => tell("event", event.lastEventId, event.data);
source.onerror = () => tell("error", source.readyState);
source.addEventListener("six", async event => {
  const more = Array.from({ length: 5 }, () => new EventSource("/events"));
  await new Promise(done => setTimeout(done, 200));
  const seventh = fetch("/", { method: "HEAD" }).then(() => tell("seventh"));
  await Promise.race([seventh, new Promise(done => setTimeout(done, 300))]);
  tell("closing one");
  more[0].close();
  await seventh;
  more.forEach(one => one.close());
  tell("done");
});
</script>
"""


async def test_chromium_comes_back_resumes_stops_and_opens_no_seventh_connection(tmp_path):
    need_tool("chromium")
    told: asyncio.Queue[list] = asyncio.Queue()

    async def note(request: site.Request) -> site.Response:
        told.put_nowait(json.loads(b"".join([piece async for piece in request.body])))
        return site.Response(204, [], b"")

    async def next_told(kind: str) -> list:
        async with asyncio.timeout(400 * TICK):
            while (words := await told.get())[0] != kind:
                pass
        return words[1:]

    async with http1.serve(respond=note) as notes:
        page = (PAGE % "http://{}:{}/".format(*notes.address)).encode()
        log = tmp_path / "log"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sse, "PAGE", page)
            async with sse.serve(first=1, retry_ms=20, log_file=log) as broker:
                host, port = broker.address
                browser = await asyncio.create_subprocess_exec(
                    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                    "--disable-background-networking", "--disable-component-update", "--disable-sync",
                    "--remote-debugging-port=0", f"--user-data-dir={tmp_path}/profile", f"http://{host}:{port}/",
                    stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
                )  # fmt: skip
                try:
                    async with asyncio.timeout(400 * TICK):
                        while not broker.clients:  # noqa: ASYNC110
                            await asyncio.sleep(TICK)
                    broker.publish("one\u2028€")
                    assert await next_told("event") == ["1", "one\u2028€"]
                    broker.disconnect()
                    broker.publish("while it was away")
                    assert await next_told("error") == [0]  # CONNECTING
                    assert await next_told("event") == ["2", "while it was away"]
                    broker.publish("", "six")
                    order = [words async for words in until_done(told)]
                    assert [words for words in order if words[0] in ("seventh", "closing one")] == [
                        ["closing one"], ["seventh"]
                    ]  # fmt: skip
                except BaseException:
                    os.killpg(browser.pid, signal.SIGKILL)
                    await browser.wait()
                    raise
            try:
                async with sse.serve(host, port, retry_ms=20, log_file=log) as broker:  # Another life.
                    broker.publish("after a restart")
                    assert await next_told("event") == ["4", "after a restart"]
                    broker.finish()
                    while await next_told("error") != [2]:  # CLOSED, by 204
                        pass
            finally:
                os.killpg(browser.pid, signal.SIGKILL)
                await browser.wait()


async def until_done(told):
    async with asyncio.timeout(400 * TICK):
        while (words := await told.get()) != ["done"]:
            yield words


# -- The contract: what a suite for SSE clients asks of any of them, in any language -----------------------


class Service:
    """Makes clients as it is told to by HTTP, and reports what they see; `python -m tests.test_sse 8000` runs it.

    POST / {streamUrl, callbackUrl, initialDelayMs, readTimeoutMs, lastEventId, headers, method, body} makes one, POST
    to its Location {"command": "restart"} tells it something, DELETE ends it. It reports to callbackUrl/1, /2, …
    """

    CAPABILITIES = ("comments", "headers", "last-event-id", "post", "report", "read-timeout", "restart", "bom",
                    "cr-only", "retry", "event-type-listeners")  # fmt: skip

    def __init__(self) -> None:
        self.sources: dict[str, EventSource] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def respond(self, request: site.Request) -> site.Response:
        text = b"".join([piece async for piece in request.body])
        path = request.target
        if path == "/" and request.method == "GET":
            return site.as_json({"name": "clients.sse", "capabilities": self.CAPABILITIES})
        if path == "/" and request.method == "POST":
            path = f"/streams/{len(self.tasks) + 1}"
            self.tasks[path] = asyncio.create_task(self.run(path, json.loads(text)))
            return site.plain(201, path, ("location", f"http://{request.fields['host']}{path}"))
        if path not in self.sources:
            return site.plain(404, "no such stream")
        if request.method == "DELETE":
            self.sources.pop(path).close()
        elif json.loads(text)["command"] == "restart":
            self.sources[path].restart()
        return site.plain(200, "done")

    async def run(self, path: str, config: dict) -> None:
        messages: asyncio.Queue[dict | None] = asyncio.Queue()
        body, headers = config.get("body"), config.get("headers") or {}
        async with (
            Client() as client,
            EventSource(
                config["streamUrl"],
                method=config.get("method") or "GET",
                headers=headers,
                body=None if body is None else body.encode(),
                last_event_id=config.get("lastEventId") or "",
                retry_ms=config.get("initialDelayMs") or 1000,
                read_timeout=(config.get("readTimeoutMs") or 300_000) / 1000,
                on_comment=lambda text: messages.put_nowait({"kind": "comment", "comment": text}),
                on_error=lambda error: messages.put_nowait({"kind": "error", "comment": str(error) or repr(error)}),
            ) as source,
        ):
            self.sources[path] = source

            async def report() -> None:
                number = 0
                while (message := await messages.get()) is not None:
                    number += 1
                    url = f"{config['callbackUrl']}/{number}"
                    fields = [("Content-Type", "application/json")]
                    await client.request("POST", url, fields=fields, body=json.dumps(message).encode())

            reporting = asyncio.create_task(report())
            try:
                async for event in source:
                    fields = {"type": event.type, "data": event.data, "id": event.id}
                    messages.put_nowait({"kind": "event", "event": fields})
                if path in self.sources:  # Nobody has closed it but the server, by 204: to an EventSource an error.
                    messages.put_nowait({"kind": "error", "comment": "204: there is no more"})
            except RemoteProtocolError as error:
                messages.put_nowait({"kind": "error", "comment": str(error)})
            finally:
                messages.put_nowait(None)
                await reporting


class Contract:
    """The other side: makes streams at the service, and hears what they report."""

    def __init__(self, service: str, callbacks: str) -> None:
        self.service, self.callbacks, self.heard = service, callbacks, asyncio.Queue[tuple[str, dict]]()

    async def respond(self, request: site.Request) -> site.Response:
        self.heard.put_nowait((request.target, json.loads(b"".join([piece async for piece in request.body]))))
        return site.Response(204, [], b"")

    async def next(self) -> dict:
        async with asyncio.timeout(100 * TICK):
            return (await self.heard.get())[1]


@contextlib.asynccontextmanager
async def contract():
    service, harness = Service(), Contract("", "")
    async with (
        Client() as client,
        http1.serve(respond=harness.respond) as callbacks,
        http1.serve(respond=service.respond) as at,
    ):
        harness.callbacks = "http://{}:{}/callback".format(*callbacks.address)
        harness.service = "http://{}:{}/".format(*at.address)

        async def command(method: str, url: str, message: dict | None = None):
            body = json.dumps(message).encode() if message is not None else None
            answer = await client.request(method, url, body=body)
            assert answer.status < 300, answer
            return answer

        harness.command = command
        yield harness
        for path in list(service.sources):
            service.sources.pop(path).close()
        await asyncio.gather(*service.tasks.values())


def an_event(data: str, type: str = "message", id: str = "") -> dict:
    return {"kind": "event", "event": {"type": type, "data": data, "id": id}}


CHUNKED = OK[:-2] + b"transfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def test_the_contract_as_a_suite_for_clients_asks_for_it():
    """Each scenario: what the stream's connections answer, what the client is told to be, what it shall report."""
    bye, ended = (chunk(b"data: bye\n\n"), STAY), "the server has ended the stream"
    begins = [CHUNKED, chunk(b"id: 7\ndata: a\n\n")]
    scenarios = [
        ("BOM", [[CHUNKED, chunk("\ufeffdata: é\n\n".encode()), *bye]], {}, [an_event("é"), an_event("bye")]),
        ("CR only", [[CHUNKED, chunk(b"data: a\rdata: b\r\r"), STAY]], {}, [an_event("a\nb")]),
        ("CR LF cut in two",
         [[CHUNKED, chunk(b"data: a\r"), 0.01, chunk(b"\ndata: b\r\n\r"), 0.01, chunk(b"\n"), *bye]], {},
         [an_event("a\nb"), an_event("bye")]),
        ("a character cut in two", [[CHUNKED, chunk(b"data: \xe2"), 0.01, chunk(b"\x82\xac\n\n"), STAY]], {},
         [an_event("€")]),
        ("comments", [[CHUNKED, chunk(b":one\n: two\ndata: a\n\n"), STAY]], {},
         [{"kind": "comment", "comment": "one"}, {"kind": "comment", "comment": " two"}, an_event("a")]),
        ("a type", [[CHUNKED, chunk(b"event: put\nid: 7\ndata: {}\n\n"), STAY]], {}, [an_event("{}", "put", "7")]),
        ("back with its id", [[*begins, b"0\r\n\r\n"], [CHUNKED, *bye]], {},
         [an_event("a", id="7"), {"kind": "error", "comment": ended}, an_event("bye", id="7")]),
        ("a large event", [[CHUNKED, chunk(b"data: " + b"x" * 2_000_000 + b"\n\n"), STAY]], {},
         [an_event("x" * 2_000_000)]),
        ("no more", [NO_MORE], {}, [{"kind": "error", "comment": "204: there is no more"}]),
        ("no stream", [b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"], {},
         [{"kind": "error", "comment": "no event stream: status 500, content-type missing"}]),
        ("silence", [[*begins, STAY], [CHUNKED, *bye]], {"readTimeoutMs": 3000 * TICK},
         [an_event("a", id="7"), {"kind": "error", "comment": "TimeoutError()"}, an_event("bye", id="7")]),
    ]  # fmt: skip
    async with contract() as harness:
        assert "read-timeout" in json.loads((await harness.command("GET", harness.service)).body)["capabilities"]
        for name, connections, config, messages in scenarios:
            async with scripted(*connections) as script:
                asked = {"streamUrl": script.url, "callbackUrl": harness.callbacks, "initialDelayMs": 10, **config}
                stream = (await harness.command("POST", harness.service, asked)).fields["location"]
                assert [await harness.next() for _ in messages] == messages, name
                await harness.command("DELETE", stream)


async def test_the_contract_for_requests_and_commands():
    async with contract() as harness, scripted([CHUNKED, chunk(b"id: 2\ndata: a\n\n"), STAY], NO_MORE) as script:
        config = {
            "streamUrl": script.url, "callbackUrl": harness.callbacks, "initialDelayMs": 10, "lastEventId": "1",
            "headers": {"x-custom": "yes", "content-type": "application/json"}, "method": "REPORT", "body": "{}",
        }  # fmt: skip
        stream = (await harness.command("POST", harness.service, config)).fields["location"]
        assert await harness.next() == an_event("a", id="2")
        await harness.command("POST", stream, {"command": "listen", "listen": {"type": "x"}})
        await harness.command("POST", stream, {"command": "restart"})
        assert (await harness.next())["kind"] == "error"
        for asked, have in zip(script.requests, ("1", "2"), strict=True):
            assert (asked.line, asked.body) == ("REPORT /events HTTP/1.1", b"{}")
            assert [asked.fields[name] for name in ("x-custom", "content-type", "last-event-id")] == [
                "yes", "application/json", have
            ]  # fmt: skip


async def main() -> None:
    async with http1.serve(port=int(sys.argv[1]), respond=Service().respond) as service:
        print("listening on {} port {}".format(*service.address), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
