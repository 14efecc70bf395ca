"""RFC 9110's rules as tables, and garbage that must not raise."""

from __future__ import annotations

import email
import locale

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocols.semantics import (
    IDEMPOTENT,
    MAX_RANGES,
    SAFE,
    byte_ranges,
    choose_coding,
    content_range,
    http_date,
    multipart,
    parse_date,
    precondition,
    ranges,
)

NOW = 1_795_000_000  # November 2026
EXAMPLE = 784_111_777  # Sun, 06 Nov 1994 08:49:37 GMT, the date of RFC 9110 §5.6.7
EARLIER, LATER = "Sun, 06 Nov 1994 08:49:36 GMT", "Sun, 06 Nov 1994 08:49:38 GMT"
SAME = "Sun, 06 Nov 1994 08:49:37 GMT"


# -- Dates (§5.6.7) ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", EXAMPLE),
        ("Sunday, 06-Nov-94 08:49:37 GMT", EXAMPLE),
        ("Sun Nov  6 08:49:37 1994", EXAMPLE),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Thu Jan  1 00:00:00 1970", 0),
        ("Wed, 31 Dec 1969 23:59:59 GMT", -1),
        ("Thu, 29 Feb 2024 00:00:00 GMT", 1_709_164_800),
        ("Sat, 31 Dec 2016 23:59:60 GMT", 1_483_228_800),  # a leap second, on the wire in earnest
        ("Fri, 31 Dec 9999 23:59:59 GMT", 253_402_300_799),
        ("Mon, 06 Nov 1994 08:49:37 GMT", EXAMPLE),  # It was a Sunday; nothing depends on it.
    ],
)
def test_three_forms_of_a_date(text, seconds):
    assert parse_date(text, NOW) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "784111777",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 UTC",
        "Sun, 06 Nov 1994 08:49:37 +0000",
        "Sun, 06 Nov 1994 08:49:37 GMT ",
        "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",  # a list (§13.1.4)
        "sun, 06 nov 1994 08:49:37 gmt",  # case-sensitive
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun, 06 Foo 1994 08:49:37 GMT",
        "Foo, 06 Nov 1994 08:49:37 GMT",
        "Sun, 31 Feb 1994 08:49:37 GMT",
        "Wed, 29 Feb 2023 00:00:00 GMT",
        "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 06 Nov 1994 08:60:37 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, ٠٦ Nov 1994 08:49:37 GMT",  # digits, but not ours
        "Sunday, 06-Nov-1994 08:49:37 GMT",
        "Sun, 06-Nov-94 08:49:37 GMT",
        "Sun Nov 6 08:49:37 1994",
        "Sun Nov  6 08:49:37 1994 GMT",
    ],
)
def test_what_is_no_date(text):
    assert parse_date(text, NOW) is None


@pytest.mark.parametrize(("digits", "year"), [(76, 2076), (77, 1977), (94, 1994), (0, 2000), (26, 2026), (27, 2027)])
def test_two_digits_of_a_year_are_at_most_fifty_years_ahead(digits, year):
    seconds = parse_date(f"Sunday, 06-Nov-{digits:02} 08:49:37 GMT", NOW)
    assert http_date(seconds)[12:16] == str(year)


@settings(max_examples=60, deadline=None)
@given(st.integers(-62_135_596_800, 253_402_300_799))
def test_dates_survive_the_round_trip(seconds):
    assert parse_date(http_date(seconds), NOW) == seconds
    assert len(http_date(seconds)) == 29


def test_a_date_is_as_the_standard_library_has_it_and_cuts_fractions():
    assert http_date(EXAMPLE) == email.utils.formatdate(EXAMPLE, usegmt=True) == SAME
    assert http_date(EXAMPLE + 0.9999999) == SAME
    assert http_date(-0.5) == "Wed, 31 Dec 1969 23:59:59 GMT"


def test_a_date_does_not_speak_the_language_of_the_machine(monkeypatch):
    for name in ("de_DE.UTF-8", "fr_FR.UTF-8"):
        try:
            locale.setlocale(locale.LC_TIME, name)
        except locale.Error:
            continue
        try:
            assert http_date(EXAMPLE) == SAME
        finally:
            locale.setlocale(locale.LC_TIME, "C")


# -- Preconditions (§13) -----------------------------------------------------------------------------

TAG = '"abc"'
IF_MATCH = [
    (TAG, None),
    ("*", None),
    ('"x", "abc"', None),
    (' "x" ,\t"abc" , ', None),
    (',,"abc",,', None),
    ('"a,b", "abc"', None),
    ('W/"abc"', 412),  # strong comparison, §13.1.1
    ('"ABC"', 412),
    ('"ab"', 412),
    ('"a,"abc""', 412),
    ("abc", 412),
    ("", 412),
    ('*, "abc"', 412),  # neither * nor a list of tags, §13.1.1
    ('"abc" "x"', 412),
    ('"abc", oops', 412),
    ('"abc', 412),
    ('w/"abc"', 412),
]


@pytest.mark.parametrize(("value", "status"), IF_MATCH)
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_if_match(method, value, status):
    assert precondition(method, {"if-match": value}, TAG, EXAMPLE, NOW) == status


@pytest.mark.parametrize(
    ("value", "etag", "matches"),
    [
        (TAG, TAG, True),
        ("*", TAG, True),
        ("*", "", True),  # There is a representation, if no tag.
        ('W/"abc"', TAG, True),  # weak comparison, §13.1.2
        (TAG, 'W/"abc"', True),
        ('W/"abc"', 'W/"abc"', True),
        ('"x", W/"y", "abc"', TAG, True),
        ('"a,b"', '"a,b"', True),
        ('"é"', '"é"', True),
        ('""', '""', True),
        ('"x"', TAG, False),
        ("", TAG, False),
        ('""', "", False),
        ("abc", TAG, False),
        ('"abc", oops', TAG, False),  # Then send it: that is never wrong.
        ('*, "abc"', TAG, False),
        ('"W/"abc""', TAG, False),
        ('W/ "abc"', TAG, False),
    ],
)
def test_if_none_match(value, etag, matches):
    for method, status in (("GET", 304), ("HEAD", 304), ("PUT", 412), ("DELETE", 412)):
        wanted = status if matches else None
        assert precondition(method, {"if-none-match": value}, etag, None, NOW) == wanted


def test_a_weak_tag_matches_nothing_strongly():
    assert precondition("PUT", {"if-match": 'W/"abc"'}, 'W/"abc"', None, NOW) == 412
    assert precondition("PUT", {"if-match": TAG}, 'W/"abc"', None, NOW) == 412
    assert precondition("PUT", {"if-match": "*"}, 'W/"abc"', None, NOW) is None


@pytest.mark.parametrize(
    ("method", "fields", "status"),
    [
        ("GET", {"if-modified-since": EARLIER}, None),
        ("GET", {"if-modified-since": SAME}, 304),
        ("HEAD", {"if-modified-since": SAME}, 304),
        ("GET", {"if-modified-since": LATER}, 304),
        ("GET", {"if-modified-since": "Sunday, 06-Nov-94 08:49:37 GMT"}, 304),
        ("GET", {"if-modified-since": "Sun Nov  6 08:49:37 1994"}, 304),
        ("GET", {"if-modified-since": "the other day"}, None),
        ("GET", {"if-modified-since": f"{SAME}, {SAME}"}, None),
        ("POST", {"if-modified-since": SAME}, None),
        ("GET", {"if-unmodified-since": EARLIER}, 412),
        ("PUT", {"if-unmodified-since": EARLIER}, 412),
        ("PUT", {"if-unmodified-since": SAME}, None),
        ("PUT", {"if-unmodified-since": LATER}, None),
        ("PUT", {"if-unmodified-since": "soon"}, None),
        # the order of §13.2.2: tags are asked before dates, and then the dates not at all
        ("GET", {"if-none-match": '"x"', "if-modified-since": LATER}, None),
        ("GET", {"if-none-match": TAG, "if-modified-since": EARLIER}, 304),
        ("GET", {"if-none-match": "", "if-modified-since": LATER}, None),
        ("PUT", {"if-match": TAG, "if-unmodified-since": EARLIER}, None),
        ("PUT", {"if-match": '"x"', "if-unmodified-since": LATER}, 412),
        # and what prevents a lost update before what saves a transfer
        ("GET", {"if-match": '"x"', "if-none-match": TAG}, 412),
        ("GET", {"if-match": TAG, "if-none-match": TAG}, 304),
        ("GET", {"if-match": TAG, "if-modified-since": SAME}, 304),
        ("GET", {"if-unmodified-since": EARLIER, "if-none-match": TAG}, 412),
        ("GET", {"if-unmodified-since": SAME, "if-modified-since": SAME}, 304),
        ("PUT", {"if-match": TAG, "if-none-match": TAG}, 412),
        ("GET", {}, None),
    ],
)
def test_dates_and_the_order_of_preconditions(method, fields, status):
    assert precondition(method, fields, TAG, EXAMPLE, NOW) == status


def test_dates_are_ignored_where_the_resource_has_none():
    for name in ("if-modified-since", "if-unmodified-since"):
        for value in (EARLIER, LATER):
            assert precondition("GET", {name: value}, TAG, None, NOW) is None


# -- Ranges (§14) ------------------------------------------------------------------------------------

IGNORED, UNSATISFIABLE = None, []


@pytest.mark.parametrize(
    ("field", "length", "spans"),
    [
        # the examples of §14.1.2
        ("bytes=0-499", 10000, [(0, 500)]),
        ("bytes=500-999", 10000, [(500, 1000)]),
        ("bytes=-500", 10000, [(9500, 10000)]),
        ("bytes=9500-", 10000, [(9500, 10000)]),
        ("bytes=0-0,-1", 10000, [(0, 1), (9999, 10000)]),
        ("bytes= 0-999, 4500-5499, -1000", 10000, [(0, 1000), (4500, 5500), (9000, 10000)]),
        ("bytes=500-600,601-999", 10000, [(500, 601), (601, 1000)]),
        ("bytes=500-700,601-999", 10000, [(500, 701), (601, 1000)]),
        # to the end, and beyond it
        ("bytes=0-", 10, [(0, 10)]),
        ("bytes=9-", 10, [(9, 10)]),
        ("bytes=9-9", 10, [(9, 10)]),
        ("bytes=5-10", 10, [(5, 10)]),
        ("bytes=5-999999999999999999999999999", 10, [(5, 10)]),
        (f"bytes=5-{'9' * 5000}", 10, [(5, 10)]),  # more digits than int() takes
        (f"bytes={'0' * 5000}5-", 10, [(5, 10)]),
        ("bytes=-10", 10, [(0, 10)]),
        ("bytes=-11", 10, [(0, 10)]),
        (f"bytes=-{'9' * 5000}", 10, [(0, 10)]),
        ("BYTES=0-1", 10, [(0, 2)]),  # §14.1: not case-sensitive
        ("bytes=,, 1-2 ,,", 10, [(1, 3)]),
        ("bytes=3-4,1-2", 10, [(3, 5), (1, 3)]),  # in the order asked for, §15.3.7.2
        ("bytes=1-2,99-", 10, [(1, 3)]),
        ("bytes=0-1,0-1", 10, [(0, 2), (0, 2)]),
        # there are no such bytes
        ("bytes=10-", 10, UNSATISFIABLE),
        ("bytes=10-20", 10, UNSATISFIABLE),
        ("bytes=-0", 10, UNSATISFIABLE),
        (f"bytes={'9' * 5000}-", 10, UNSATISFIABLE),
        ("bytes=10-,20-,-0", 10, UNSATISFIABLE),
        # another unit, or not of the syntax
        ("items=0-1", 10, IGNORED),
        ("bytes", 10, IGNORED),
        ("", 10, IGNORED),
        ("bytes=", 10, IGNORED),
        ("bytes=-", 10, IGNORED),
        ("bytes=,", 10, IGNORED),
        ("bytes 0-1", 10, IGNORED),
        ("bytes =0-1", 10, IGNORED),
        (" bytes=0-1", 10, IGNORED),
        ("bytes=5-4", 10, IGNORED),  # §14.1.1: invalid, and with it all the others
        ("bytes=20-15", 10, IGNORED),
        ("bytes=0-1,5-4", 10, IGNORED),
        ("bytes=--1", 10, IGNORED),
        ("bytes=1--2", 10, IGNORED),
        ("bytes=+1-2", 10, IGNORED),
        ("bytes=0x1-2", 10, IGNORED),
        ("bytes=1_0-", 100, IGNORED),
        ("bytes=0 - 1", 10, IGNORED),
        ("bytes=0-1;2-3", 10, IGNORED),
        ("bytes=a-b", 10, IGNORED),
        ("bytes=٠-١", 10, IGNORED),
        ("bytes=0-1\n", 10, IGNORED),
        ("bytes=0-1, bytes=2-3", 10, IGNORED),  # two fields, joined
        # nothing to cut
        ("bytes=0-", 0, IGNORED),
        ("bytes=-1", 0, IGNORED),
        # floods
        ("bytes=0-,0-", 10, IGNORED),
        ("bytes=0-7,2-9", 10, IGNORED),
        (f"bytes={','.join(f'{i}-{i}' for i in range(MAX_RANGES + 1))}", 100, IGNORED),
    ],
)
def test_byte_ranges(field, length, spans):
    assert byte_ranges(field, length) == spans


def test_as_many_ranges_as_allowed():
    field = f"bytes={','.join(f'{i}-{i}' for i in range(MAX_RANGES))}"
    assert byte_ranges(field, 100) == [(i, i + 1) for i in range(MAX_RANGES)]


def test_the_range_flood_is_answered_with_the_whole_and_no_more():
    """CVE-2011-3192: each of 1,300 overlapping ranges was a copy of its own in memory."""
    assert byte_ranges("bytes=0-," + ",".join(f"5-{i}" for i in range(5, 1300)), 10_000) is IGNORED


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("0123456789-, "), max_size=40).map("bytes={}".format), st.integers(0, 10_000))
@example("bytes=" + "-" * 5000, 10)
def test_what_is_sent_is_never_longer_than_the_whole(field, length):
    spans = byte_ranges(field, length)
    if spans:
        assert all(0 <= start < end <= length for start, end in spans)
        assert sum(end - start for start, end in spans) <= length
        assert len(spans) <= MAX_RANGES


@pytest.mark.parametrize(
    ("condition", "etag", "modified", "part"),
    [
        (TAG, TAG, None, True),
        ('"x"', TAG, None, False),
        ('W/"abc"', 'W/"abc"', None, False),  # parts of weak equals do not fit together
        (TAG, 'W/"abc"', None, False),
        (TAG, "", None, False),
        (f"{TAG}, {TAG}", TAG, None, False),  # not a list
        ("*", TAG, None, False),
        (SAME, TAG, EXAMPLE, True),
        ("Sunday, 06-Nov-94 08:49:37 GMT", TAG, EXAMPLE, True),
        (EARLIER, TAG, EXAMPLE, False),
        (LATER, TAG, EXAMPLE, False),  # exactly the same, unlike If-Unmodified-Since
        (SAME, TAG, None, False),
        ("", TAG, EXAMPLE, False),
        ("", "", None, False),
        ("soon", TAG, None, False),
    ],
)
def test_if_range(condition, etag, modified, part):
    fields = {"range": "bytes=0-1", "if-range": condition}
    assert ranges("GET", fields, 10, etag, modified, NOW) == ([(0, 2)] if part else None)


def test_ranges_are_for_get_alone():
    fields = {"range": "bytes=0-1"}
    assert ranges("GET", fields, 10, TAG, None, NOW) == [(0, 2)]
    for method in ("HEAD", "POST", "PUT", "get", ""):
        assert ranges(method, fields, 10, TAG, None, NOW) is None
    assert ranges("GET", {}, 10, TAG, None, NOW) is None
    assert ranges("GET", {"if-range": TAG}, 10, TAG, None, NOW) is None
    assert ranges("GET", {"range": "bytes=10-"}, 10, TAG, None, NOW) == []


def test_content_range():
    assert content_range((0, 500), 1234) == "bytes 0-499/1234"
    assert content_range((734, 1234), 1234) == "bytes 734-1233/1234"


def test_multipart_is_what_the_standard_library_understands():
    data = bytes(range(256)) * 4
    spans = [(0, 1), (250, 260), (1000, 1024)]
    marks = multipart(spans, len(data), "application/octet-stream", "frontier")
    assert len(marks) == len(spans) + 1
    body = b"".join(mark + data[slice(*span)] for mark, span in zip(marks, [*spans, (0, 0)], strict=True))
    parsed = email.message_from_bytes(b"Content-Type: multipart/byteranges; boundary=frontier\r\n" + body)
    assert not parsed.defects
    parts = parsed.get_payload()
    assert [part["content-range"] for part in parts] == ["bytes 0-0/1024", "bytes 250-259/1024", "bytes 1000-1023/1024"]
    assert [part.get_content_type() for part in parts] == ["application/octet-stream"] * 3
    for part, (start, end) in zip(parts, spans, strict=True):
        assert part.get_payload(decode=True) == data[start:end]


# -- Accept-Encoding (§12.5.3) -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "coding"),
    [
        # the examples of the section
        ("compress, gzip", "gzip"),
        ("", "identity"),
        ("*", "gzip"),
        ("compress;q=0.5, gzip;q=1.0", "gzip"),
        ("gzip;q=1.0, identity; q=0.5, *;q=0", "gzip"),
        # no such field
        (None, "identity"),
        # weights
        ("gzip", "gzip"),
        ("gzip;q=0.001", "gzip"),  # listed beats not mentioned
        ("gzip;q=0.5, identity", "identity"),
        ("gzip;q=0.5, identity;q=0.5", "gzip"),
        ("gzip, *;q=0.5", "gzip"),
        ("gzip;q=0, *", "identity"),
        ("gzip;q=0.2, *;q=0.8", "identity"),
        ("br;q=1.0, gzip;q=0.8, *;q=0.1", "gzip"),
        ("gzip, deflate, br, zstd", "gzip"),
        ("deflate, gzip;q=1.0, *;q=0.5", "gzip"),
        # none of ours
        ("br", "identity"),
        ("identity", "identity"),
        ("gzip;q=0", "identity"),
        ("gzip; q=0.000", "identity"),
        # spellings
        ("GZIP", "gzip"),
        ("x-gzip", "gzip"),  # §8.4.1.3
        ("gzip ; Q=1", "gzip"),
        (" ,, gzip\t;q=0.9 , ", "gzip"),
        # all refused
        ("identity;q=0", None),
        ("*;q=0", None),
        ("identity;q=0, gzip;q=0", None),
        ("br, *;q=0", None),
        ("*;q=0, identity", "identity"),
        ("gzip, identity;q=0", "gzip"),
        # what is malformed counts for nothing
        ("gzip;q=2", "identity"),
        ("gzip;q=0.1234", "identity"),
        ("gzip;q=-1", "identity"),
        ("gzip;q=1e0", "identity"),
        ("gzip;q=", "identity"),
        ("gzip;level=9", "identity"),
        ("gz ip", "identity"),
        (";q=1", "identity"),
    ],
)
def test_the_choice_of_a_coding(field, coding):
    assert choose_coding(field, ["gzip"]) == coding


def test_of_two_equals_the_servers_favourite():
    assert choose_coding("gzip, br", ["br", "gzip"]) == "br"
    assert choose_coding("gzip, br", ["gzip", "br"]) == "gzip"
    assert choose_coding("*", ["br", "gzip"]) == "br"
    assert choose_coding("br;q=0.9, gzip", ["br", "gzip"]) == "gzip"
    assert choose_coding("gzip", []) == "identity"
    assert choose_coding("*;q=0", []) is None


# -- Garbage -----------------------------------------------------------------------------------------

NAMES = ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range", "range"]
VALUES = (
    st.text()
    | st.text(st.sampled_from('"W/, \t*\\abc-=0123456789;q.'), max_size=30)
    | st.sampled_from([TAG, "*", SAME, EARLIER, LATER, "bytes=0-1,-5"])
)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["GET", "HEAD", "PUT", "BREW"]),
    st.dictionaries(st.sampled_from(NAMES), VALUES),
    st.sampled_from([TAG, 'W/"abc"', ""]),
    st.none() | st.just(EXAMPLE),
)
def test_garbage_never_raises(method, fields, etag, modified):
    assert precondition(method, fields, etag, modified, NOW) in (None, 304, 412)
    assert precondition(method, fields, etag, modified, NOW) != 304 or method in ("GET", "HEAD")
    ranges(method, fields, 10, etag, modified, NOW)


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_garbage_is_no_date_and_no_reason_not_to_answer(text):
    parse_date(text, NOW)
    assert choose_coding(text, ["gzip"]) in ("gzip", "identity", None)


def test_what_may_be_sent_again():
    assert SAFE < IDEMPOTENT
    assert {"PUT", "DELETE"} <= IDEMPOTENT
    assert not {"POST", "PATCH", "CONNECT"} & IDEMPOTENT
