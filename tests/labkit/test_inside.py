"""What a segment carries, in the ladder's words."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.inside import Reader
from protocols.http2_frames import PREFACE, Flag, Frame, FrameType, encode


def hello() -> bytes:
    """A real one."""
    out = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    connection = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="server.lab")
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return out.read()


ENCRYPTED = b"\x17\x03\x03\x00\x05hello"


def test_tls():
    reader, first = Reader(), hello()
    assert reader.words(True, 1, first) == ["ClientHello"]
    assert reader.words(False, 1, ENCRYPTED * 3 + ENCRYPTED[:4]) == ["3×encrypted"]
    assert reader.words(False, 1 + 3 * len(ENCRYPTED) + 4, ENCRYPTED[4:]) == ["encrypted"]
    assert reader.words(True, 1 + len(first), b"\x15\x03\x03\x00\x02\x02\x30") == ["alert unknown_ca"]


def test_a_message_in_two_segments_is_named_where_it_ends():
    reader, first = Reader(), hello()
    assert reader.words(True, 1, first[:100]) == []
    assert reader.words(True, 101, first[100:]) == ["ClientHello"]


def test_http1():
    reader = Reader()
    assert reader.words(True, 1, b"GET /text?a=1 HTTP/1.1\r\nHost: x\r\n\r\n") == ["GET /text?a=1"]
    assert reader.words(False, 1, b"HTTP/1.1 200 OK\r\n\r\nbody") == ["HTTP/1.1 200"]
    assert reader.words(False, 24, b"more of the body") == []


def test_http2_in_the_clear():
    reader = Reader()
    frames = [Frame(FrameType.SETTINGS), *(Frame(FrameType.HEADERS, Flag.END_HEADERS, n, b"\x82") for n in (1, 3))]
    assert reader.words(True, 1, PREFACE + b"".join(map(encode, frames))) == [
        "preface", "SETTINGS", "HEADERS 1", "HEADERS 3",
    ]  # fmt: skip
    data = encode(Frame(FrameType.DATA, 0, 1, b"x" * 100))
    assert reader.words(False, 1, data * 2) == ["2×DATA 1"]
    assert reader.words(False, 1 + 2 * len(data), encode(Frame(0x77))) == ["frame 0x77"]


def test_what_comes_again_or_after_a_gap_says_nothing():
    reader = Reader()
    request = b"GET / HTTP/1.1\r\n\r\n"
    assert reader.words(True, 1, request) == ["GET /"]
    assert reader.words(True, 1, request) == []
    assert reader.words(True, 100, request) == []
    assert reader.words(True, 1 + len(request), request) == ["GET /"]


def test_what_stops_being_tls_is_left_alone():
    reader = Reader()
    assert reader.words(True, 1, hello()) == ["ClientHello"]
    assert reader.words(False, 1, b"SSH-2.0-hm") == []
    assert reader.words(False, 11, ENCRYPTED) == []


@given(
    st.lists(st.tuples(st.booleans(), st.binary(max_size=40)), max_size=20),
    st.sampled_from([b"", b"\x16\x03", PREFACE]),
)
def test_garbage_is_never_a_problem(pieces, start):
    reader, at = Reader(), {True: 0, False: 0}
    for from_client, data in [(True, start), *pieces]:
        assert all(isinstance(word, str) for word in reader.words(from_client, at[from_client], data))
        at[from_client] += len(data)
