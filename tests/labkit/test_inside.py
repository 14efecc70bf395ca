"""What a segment carries, in the ladder's words."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certs.channel import Channel
from certs.contexts import client_context, server_context
from labkit.inside import Reader
from protocols.http2_frames import PREFACE, Flag, Frame, FrameType, encode
from protocols.tls_opened import key_log


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
        "preface", "SETTINGS", "HEADERS 1 GET", "HEADERS 3 GET",
    ]  # fmt: skip
    data = encode(Frame(FrameType.DATA, 0, 1, b"x" * 100))
    assert reader.words(False, 1, data * 2) == ["2×DATA 1"]
    assert reader.words(False, 1 + 2 * len(data), encode(Frame(0x77))) == ["frame 0x77"]


@pytest.fixture
def talk(tmp_path):
    """Both ends of a TLS 1.3 connection in memory, as flights: (from the client?, bytes), and its key log."""
    log = tmp_path / "keys"
    server = Channel(server_context("server", key_log=log), server_side=True)
    client = Channel(client_context(key_log=log), server_side=False, server_hostname="server.lab")
    flights: list[tuple[bool, bytes]] = []

    def go() -> None:
        for _ in range(3):
            for is_client, one, other in ((True, client, server), (False, server, client)):
                while one.next_event():
                    pass
                if data := one.data_to_send():
                    flights.append((is_client, data))
                    other.receive_data(data)

    def say(end: Channel, data: bytes) -> None:
        end.send_data(data)
        go()

    go()
    return client, server, say, flights, log


def read(flights, secrets):
    reader, at = Reader(secrets), {True: 1, False: 1}
    found = []
    for from_client, data in flights:
        found.append((">" if from_client else "<", *reader.words(from_client, at[from_client], data)))
        at[from_client] += len(data)
    return found


def test_tls_1_3_is_opened_with_its_key_log(talk):
    client, server, say, flights, log = talk
    say(client, b"GET /secret HTTP/1.1\r\n\r\n")
    say(server, b"HTTP/1.1 200 OK\r\n\r\n")
    client.close()
    flights.append((True, client.data_to_send()))
    assert read(flights, key_log(log.read_text())) == [
        (">", "ClientHello"),
        ("<", "ServerHello", "EncryptedExtensions", "Certificate", "CertificateVerify", "Finished"),
        (">", "Finished"),
        ("<", "2×NewSessionTicket"),
        (">", "GET /secret"),
        ("<", "HTTP/1.1 200"),
        (">", "alert close_notify"),
    ]
    assert {word for _, *words in read(flights, {}) for word in words} == {
        "ClientHello", "ServerHello", "encrypted", "4×encrypted", "2×encrypted",
    }  # fmt: skip


def test_a_changed_record_is_where_it_ends(talk):
    client, _, _, flights, log = talk
    client.send_data(b"GET / HTTP/1.1\r\n\r\n")
    data = bytearray(client.data_to_send())
    data[-1] ^= 1
    flights.append((True, bytes(data)))
    assert read(flights, key_log(log.read_text()))[-1] == (">", "encrypted")


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
