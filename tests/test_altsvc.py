"""RFC 7838: the field's grammar as tables, what is kept and how long, and the client that moves from TCP to QUIC."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.altsvc import (
    BROKEN,
    DAY,
    ENDLESS,
    LONGEST,
    MAX_ALTERNATIVES,
    MAX_ORIGINS,
    Alternative,
    Cache,
    decode_protocol,
    encode_protocol,
    field,
    parse,
)

H3, H2 = Alternative(b"h3", "", 443), Alternative(b"h2", "", 443)

# -- The grammar (§3) --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ('h3=":443"', [H3]),
        ('h2=":8000"', [Alternative(b"h2", "", 8000)]),  # the examples of the RFC
        ('h2="new.example.org:80"', [Alternative(b"h2", "new.example.org", 80)]),
        ('h2="alt.example.com:8000", h2=":443"', [Alternative(b"h2", "alt.example.com", 8000), H2]),
        ('h2=":443"; ma=3600', [H2._replace(max_age=3600)]),
        ('h2=":443"; ma=2592000; persist=1', [H2._replace(max_age=2592000, persist=True)]),
        ('w%3Dx%3Ay#z=":1"', [Alternative(b"w=x:y#z", "", 1)]),
        ('x%25y=":1"', [Alternative(b"x%y", "", 1)]),
        # Lists.
        ('h3=":443",h2=":443"', [H3, H2]),
        (', ,h3=":443" \t, ,,', [H3]),
        ('h3=":443";foo="a,b;c\\"=,"; ma=5, h2=":443"', [H3._replace(max_age=5), H2]),
        (", ".join(['h3=":443"'] * 100), [H3] * MAX_ALTERNATIVES),
        # Hosts and ports.
        ('h3="[::1]:443"', [Alternative(b"h3", "[::1]", 443)]),
        ('h3="Example.COM:443"', [Alternative(b"h3", "example.com", 443)]),
        ('h3="\\:4\\43"', [H3]),  # a quoted pair is what it quotes
        ('h3=":00443"', [H3]),
        ('h3=":65535"', [H3._replace(port=65535)]),
        # Parameters.
        ('h3=":443"; ma="60"', [H3._replace(max_age=60)]),
        ('h3=":443" ;\tMA=60', [H3._replace(max_age=60)]),
        ('h3=":443"; ma=60;', [H3._replace(max_age=60)]),  # seen in documentation, so it will be seen on the wire
        ('h3=":443"; ma=0', [H3._replace(max_age=0)]),
        ('h3=":443"; ma=' + "9" * 5000, [H3._replace(max_age=ENDLESS)]),
        ('h3=":443"; v="46,43"; unknown=x', [H3]),
        ('h3=":443"; persist="1"', [H3._replace(persist=True)]),
        ('h3=":443"; persist=2', [H3]),  # MUST be ignored
        ('h3=":443"; persist=true', [H3]),
        # "clear".
        ("clear", []),
        (' clear , h3=":443"', []),
        ('h3=":443", clear', []),
        ('h3=":443"; x="clear"', [H3]),
        ('h3=":443", "clear"', [H3]),
        ('h3=":443", clear; ma=5', [H3]),
        # What is broken is left out; if nothing is left, it is as if there were no field.
        ("Clear", None),
        ("", None),
        (" , ", None),
        ("h3", None),
        ("h3=:443", None),
        ('h3 =":443"', None),
        ('h3= ":443"', None),
        ('=":443"', None),
        ('h3=""', None),
        ('h3="443"', None),
        ('h3="example.com"', None),
        ('h3=":"', None),
        ('h3=":0"', None),
        ('h3=":65536"', None),
        ('h3=":443443443443"', None),
        ('h3=":-1"', None),
        ('h3=":٤٤٣"', None),
        ('h3="user@example.com:443"', None),
        ('h3="https://example.com:443"', None),
        ('h3="a b:443"', None),
        ('h3="a:b:443"', None),
        ('h3="[::g]:443"', None),
        ('h3=":443"; ma=soon', None),
        ('h3=":443"; ma=-5', None),
        ('h3=":443"; ma=1.5', None),
        ('h3=":443"; ma=""', None),
        ('h3=":443"; ma', None),
        ('h3=":443"; ma =5', None),
        ('h3=":443" ma=5', None),
        ('h3=":443', None),
        ('h3=":443\\"', None),
        ('h%33=":443"', None),  # 3 is a character of tokens: MUST NOT be encoded, so this is not another way to say h3
        ('w%3dx=":443"', None),  # in upper case only
        ('h%=":443"', None),
        ('h%ZZ=":443"', None),
        ('h3=:443, h2=":443"', [H2]),
        ('h2=":443", h3=":443', [H2]),
        ('h2=":443", h3=":443, quic=":443"', [H2]),
        ('h3=":443"x, h2=":443"', [H2]),
    ],
)  # fmt: skip
def test_field(value, found):
    assert parse(value) == found


def test_a_field_that_we_write_is_read_as_it_was():
    told = [Alternative(b"h3", "", 7007, 60), Alternative(b"w=x:y#z", "[::1]", 1, 5, True)]
    assert field(*told) == 'h3=":7007"; ma=60, w%3Dx%3Ay#z="[::1]:1"; ma=5; persist=1'
    assert parse(field(*told)) == told
    assert parse(field()) == []


@given(st.binary(min_size=1, max_size=20))
def test_every_name_has_one_way_to_be_written(name):
    assert decode_protocol(encode_protocol(name)) == name


@given(st.text(st.sampled_from('h3=":443"; ma=5,\\clear%2 \x00é'), max_size=60) | st.text())
def test_garbage_raises_nothing(value):
    assert parse(value) is None or all(0 < one.port < 65536 and one.protocol for one in parse(value))


def test_a_long_field_takes_no_long_time():
    """Quadratic, this would take minutes."""
    for text in ('"', 'h3=":1",', "h3=", '\\"', "%", ";", '";', 'h3=":1";a=b;', ",", "clear"):
        parse(text * 20_000)


# -- What is kept (§2.2, §2.4, §3.1, §6) -------------------------------------------------------------

HERE, THERE = ("https", "a.example", 443), ("https", "b.example", 443)


def test_it_is_good_until_it_is_old():
    cache = Cache()
    cache.learn(HERE, 'h3=":443"; ma=60', 1000.0)
    assert cache.find(HERE, (b"h3",), 1059.9) == H3._replace(max_age=60)
    assert cache.find(HERE, (b"h3",), 1060.0) is None
    assert cache.find(THERE, (b"h3",), 1000.0) is None
    cache.learn(HERE, 'h3=":443"', 2000.0)
    assert cache.find(HERE, (b"h3",), 2000.0 + DAY - 1) == H3


def test_the_age_of_the_answer_counts():
    """The example of §3.1: 60 seconds, 30 of them in a cache. The rest of them has gone before it came."""
    cache = Cache()
    cache.learn(HERE, 'h2=":8000"; ma=60', 0.0, age=30)
    assert cache.find(HERE, (b"h2",), 29.0)
    assert cache.find(HERE, (b"h2",), 31.0) is None
    cache.learn(HERE, 'h2=":8000"; ma=60', 0.0, age=60)
    assert cache.find(HERE, (b"h2",), 0.0) is None


def test_the_first_that_we_speak():
    cache = Cache()
    cache.learn(HERE, 'quic=":1", h2=":2", h3=":3", h3=":4"', 0.0)
    assert cache.find(HERE, (b"h3",), 0.0).port == 3
    assert cache.find(HERE, (b"h3", b"h2"), 0.0).port == 2
    assert cache.find(HERE, (), 0.0) is None


def test_what_is_new_replaces_what_was():
    cache = Cache()
    cache.learn(HERE, 'h3=":1", h2=":1"', 0.0)
    cache.learn(HERE, 'h2=":2"', 0.0)
    assert cache.find(HERE, (b"h3",), 0.0) is None
    cache.learn(HERE, "nonsense", 0.0)
    assert cache.find(HERE, (b"h2",), 0.0).port == 2
    cache.learn(HERE, "clear", 0.0)
    assert cache.find(HERE, (b"h2",), 0.0) is None


def test_what_has_failed_is_left_alone_twice_as_long_each_time():
    cache, now = Cache(), 0.0
    cache.learn(HERE, 'h3=":443"; ma=999999999', now)
    one = cache.find(HERE, (b"h3",), now)
    for seconds in (BROKEN, 2 * BROKEN, 4 * BROKEN, 8 * BROKEN):
        assert cache.failed(HERE, one, now) == seconds
        assert cache.find(HERE, (b"h3",), now + seconds - 1) is None
        now += seconds
        assert cache.find(HERE, (b"h3",), now) == one
    for _ in range(100):
        longest = cache.failed(HERE, one, now)
    assert longest == LONGEST
    cache.learn(HERE, 'h3=":443"; ma=5', now)  # The answer over TCP says it again: that makes it no better.
    assert cache.find(HERE, (b"h3",), now) is None
    cache.works(HERE, one)
    assert cache.find(HERE, (b"h3",), now) is not None
    assert cache.failed(HERE, one, now) == BROKEN


def test_another_is_taken_instead():
    cache = Cache()
    cache.learn(HERE, 'h3=":1", h3=":2"', 0.0)
    cache.failed(HERE, cache.find(HERE, (b"h3",), 0.0), 0.0)
    assert cache.find(HERE, (b"h3",), 0.0).port == 2
    cache.forget(HERE, Alternative(b"h3", "", 2))
    assert cache.find(HERE, (b"h3",), 0.0) is None
    assert cache.find(HERE, (b"h3",), BROKEN).port == 1


def test_on_another_network():
    cache = Cache()
    cache.learn(HERE, 'h3=":1", h3=":2"; persist=1', 0.0)
    cache.learn(THERE, 'h3=":1"', 0.0)
    cache.failed(HERE, Alternative(b"h3", "", 2), 0.0)
    cache.network_changed()
    assert cache.find(HERE, (b"h3",), 0.0).port == 2
    assert cache.find(THERE, (b"h3",), 0.0) is None


def test_not_everything_is_remembered():
    cache = Cache()
    for i in range(MAX_ORIGINS + 1):
        cache.learn(("https", f"{i}.example", 443), 'h3=":1"', 0.0)
        cache.failed(("https", f"{i}.example", 443), H3, 0.0)
    assert cache.find(("https", "0.example", 443), (b"h3",), 0.0) is None
    assert cache.find(("https", "1.example", 443), (b"h3",), 0.0)
    assert len(cache._known) == len(cache._failures) == MAX_ORIGINS
