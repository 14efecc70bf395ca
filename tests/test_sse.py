"""Server-sent events: the format at every split, the broker, the client against hostile servers, foreign peers."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.sse import MAX_EVENT, MAX_LINE, Comment, Decoder, Event, Retry, comment, encode

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
        ({"max_event": 20}, b"data: 4567\ndata: 4567\n\ndata: 4567\n", b"data: 4567\ndata\n", [Event("4567\n4567")],
         "an event of more than 20 bytes"),
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
        for n in (20_000, 160_000):
            wire = pieces(make(n), size)
            start = time.perf_counter()
            decode(wire)
            times.append(time.perf_counter() - start)
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
