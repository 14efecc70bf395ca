"""The core of HTTP/1.1: every hostile message however it is cut, both ends joined in memory, h11 as the other end."""

from __future__ import annotations

import re
import time
from itertools import chain, cycle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.http1 import (
    ClientConnection,
    ConnectionClosed,
    Data,
    EndOfMessage,
    Request,
    Response,
    ServerConnection,
)
from tests.conftest import TICK
from tests.fuzz_http1 import ask, fuzz, pieces, serve
from tests.http1_cases import (
    ENDLESS_REQUESTS,
    ENDLESS_RESPONSES,
    GOOD,
    GROUPS,
    HELLO,
    REFUSED,
    REQUESTS,
    RESPONSES,
    Answer,
    Case,
    Endless,
    Message,
    answer,
    chunked,
    get,
    host,
    post,
)

HOST = [("Host", "lab.test")]

# --- The table ----------------------------------------------------------------------------------------------------


def outcome(case: Case, parts, want):
    """What becomes of *parts* by the rules of the case; of the fields only those that *want* tells."""
    if case in RESPONSES:
        got, conn = ask(parts, asked=case.asked, fin=case.fin, **case.limits)
    else:
        got, conn = serve(parts, fin=case.fin, **case.limits)
    for i, (one, other) in enumerate(zip(got, want, strict=False)):
        if isinstance(one, Message | Answer) and isinstance(other, Message | Answer):
            got[i] = one._replace(fields={name: one.fields.get(name) for name in other.fields})
            if isinstance(other, Answer) and other.reason is None:
                got[i] = got[i]._replace(reason=None)
    if case.rest and conn.trailing_data != case.rest:
        got.append(conn.trailing_data)
    return got


def cuts(wire: bytes):
    """Every place to cut; of a long one the ends and a dozen between."""
    return (
        range(1, len(wire))
        if len(wire) < 800
        else [*range(1, len(wire), len(wire) // 12), *range(len(wire) - 9, len(wire))]
    )


def by_bytes(wire: bytes) -> list[bytes]:
    return pieces(wire, 1 if len(wire) < 800 else 97)


def test_the_table_is_what_it_says():
    assert len(REQUESTS) >= 160
    assert len(RESPONSES) >= 60
    for cases in (REQUESTS, RESPONSES, ENDLESS_REQUESTS, ENDLESS_RESPONSES):
        assert len({case.name for case in cases}) == len(cases)
        for case in cases:
            assert re.match(r"RFC (9112|9110|3986|6585) §\d+(\.\d+)*: \S", case.rule), case.name
    statuses = {case.want[-1] for case in REQUESTS if case.want and isinstance(case.want[-1], int)}
    assert statuses == {400, 413, 414, 417, 431, 501, 505}


@pytest.mark.parametrize("group", [*GROUPS, "responses"])
def test_whole_cut_anywhere_and_byte_by_byte(group):
    wrong = []
    for case in RESPONSES if group == "responses" else GROUPS[group]:
        wire, want = case.wire, list(case.want)
        ways = [[wire], by_bytes(wire), *([wire[:cut], wire[cut:]] for cut in cuts(wire))]
        bad = [(way, got) for way in ways if (got := outcome(case, way, want)) != want]
        wrong += (
            [f"{case.name}: {len(bad)} of {len(ways)}, {bad[0][0]} gave {bad[0][1]}, not {want}, {case.rule}"]
            if bad
            else []
        )
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("group", GROUPS)
def test_behind_a_good_request_and_before_another(group):
    """What is good is answered first, and what comes behind changes nothing."""
    wrong = []
    for case in GROUPS[group]:
        wire, want = GOOD + case.wire, [Message(), *case.want]
        if not case.fin:
            wire += GOOD
            want += [Message()] if isinstance(want[-1], Message) and want[-1].keep_alive else []
        for way in ([wire], by_bytes(wire)):
            if (got := outcome(case, way, want)) != want:
                wrong.append(f"{case.name}: {way} gave {got}, not {want}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("group", GROUPS)
def test_a_refusal_is_final_and_says_why(group):
    for case in GROUPS[group]:
        if not case.want or isinstance(case.want[-1], Message):
            continue
        got, conn = serve([case.wire], fin=case.fin, **case.limits)
        assert not conn.keep_alive, case.name
        reasons = set()
        for more in (GOOD, b"\r\n\r\n", b"0\r\n\r\n", b""):
            conn.receive_data(more)
            with pytest.raises(RemoteProtocolError) as caught:
                conn.next_event()
            assert caught.value.code == got[-1], case.name
            reasons.add(str(caught.value))
        assert len(reasons) == 1, case.name
        assert len(reasons.pop().split()) >= 3, case.name


@pytest.mark.parametrize(
    ("wire", "words"),
    [
        (b"GET /\r\n", "method, one space, target"),
        (get(line=b"GET / HTTP/2.0"), "HTTP/2.0"),
        (get(line=b"GET /#a HTTP/1.1"), "fragment"),
        (get(line=b"GET /a\\b HTTP/1.1"), "percent-encoded"),
        (get(line=b"GET a HTTP/1.1"), "begins with /"),
        (get(line=b"GET * HTTP/1.1"), "OPTIONS"),
        (get(line=b"CONNECT / HTTP/1.1"), "host:port"),
        (get(line=b"M" * 33 + b" / HTTP/1.1"), "method"),
        (b"GET / HTTP/1.1\r\n\r\n", "no Host"),
        (get(b"Host: b"), "sent twice"),
        (get(b" X: y"), "begins with whitespace"),
        (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", "begins with whitespace"),
        (get(b"X : y"), "between a field's name and its colon"),
        (get(b"X"), "without a colon"),
        (get(b"X(: y"), "name"),
        (get(b"X: \x07"), "control character in the value of X"),
        (get(b"X: \0"), "NUL|control"),
        (get(b"X: a\nb"), "LF alone"),
        (get(b"X: a\rb"), "CR without its LF"),
        (post(b"Content-Length: 5, 5"), "sent twice"),
        (post(b"Content-Length: 5", b"Transfer-Encoding: chunked"), "smuggling"),
        (post(b"Transfer-Encoding: gzip"), "where is the end"),
        (chunked(b"5\r\nhellooo"), "no CRLF"),
        (chunked(b"0\r\nHost: b\r\n\r\n"), "host in the trailers"),
        (get(b"Expect: tea"), "expectation"),
    ],
)
def test_the_reason_tells_what_is_wrong(wire, words):
    _, conn = serve([wire])
    with pytest.raises(RemoteProtocolError, match=words):
        conn.next_event()


def without_end(case: Endless, size: int, fed: list[int]):
    """The start, then reads of *size* bytes for ever; the length of each goes to *fed*."""
    yield case.start
    stream, at = case.more * (size // len(case.more) + 2), 0
    while len(fed) * size < case.limit + 3 * size:
        fed.append(size)
        yield stream[at : at + size]
        at = (at + size) % len(case.more)


@pytest.mark.parametrize("size", [1, 64, 4096])
@pytest.mark.parametrize("side", [serve, ask])
def test_what_has_no_end_is_refused_when_the_limit_is_passed(side, size):
    wrong = []
    for case in ENDLESS_REQUESTS if side is serve else ENDLESS_RESPONSES:
        if size == 1 and case.limit > 1100:
            continue
        fed = []
        got, conn = side(without_end(case, size, fed), **case.limits)
        if got != [case.want] or sum(fed) > case.limit + 2 + size:
            wrong.append(f"{case.name}: {got} after {sum(fed)} bytes, not {case.want} at {case.limit}")
        assert len(conn._buffer) <= len(case.start) + case.limit + 2 + size, case.name
    assert not wrong, "\n".join(wrong)


ALNUM = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
TCHAR = ALNUM + b"!#$%&'*+-.^_`|~"  # RFC 9110 §5.6.2
PCHAR = ALNUM + b"-._~!$&'()*+,;=:@"  # RFC 3986 §3.3, apart from percent-encoding


@pytest.mark.parametrize(
    ("before", "after", "good"),
    [
        (b"G", b"T / HTTP/1.1\r\nHost: a\r\n\r\n", TCHAR),
        (b"GET /a", b"b HTTP/1.1\r\nHost: a\r\n\r\n", PCHAR + b"/?"),
        (b"GET /?a", b"b HTTP/1.1\r\nHost: a\r\n\r\n", PCHAR + b"/?"),
        (b"GET http://a/", b" HTTP/1.1\r\nHost: a\r\n\r\n", PCHAR + b"/?"),
        (b"GET http://a", b"b/ HTTP/1.1\r\nHost: a\r\n\r\n", ALNUM + b"-._~!$&'()*+;=/?"),
        (b"GET / HTTP/", b".1\r\nHost: a\r\n\r\n", b"1"),
        (b"GET / HTTP/1.", b"\r\nHost: a\r\n\r\n", b"0123456789"),
        (b"GET / HTTP/1.1\r\nHost: a", b"b\r\n\r\n", ALNUM + b"-._~!$&'()*+;="),
        (b"GET / HTTP/1.1\r\nHost: a:8", b"\r\n\r\n", b"0123456789 \t"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX", b"Y: z\r\n\r\n", TCHAR + b":"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX", b": z\r\n\r\n", TCHAR + b":"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: y", b"z\r\n\r\n", bytes([9, *range(32, 127), *range(128, 256)])),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0", b"\r\n\r\n", b"0123456789 \t"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0;a", b"b\r\n\r\n", TCHAR + b"=;"),
        (
            b'GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0;a="',
            b'b"\r\n\r\n',
            bytes({9, *range(32, 127), *range(128, 256)} - {34}),
        ),
        (b"HTTP/1.1 20", b" OK\r\nContent-Length: 0\r\n\r\n", b"0123456789"),
        (
            b"HTTP/1.1 200 O",
            b"K\r\nContent-Length: 0\r\n\r\n",
            bytes([9, *range(32, 127), *range(128, 256)]),
        ),
    ],
)
def test_every_byte_where_some_are_allowed(before, after, good):
    side = ask if before.startswith(b"HTTP") else serve
    outcomes = {byte: side([before + bytes([byte]) + after])[0][-1:] for byte in range(256)}
    allowed = [byte for byte, end in outcomes.items() if not (end and isinstance(end[0], int))]
    assert allowed == sorted(good)


@pytest.mark.parametrize(
    ("wire", "limit", "exact", "status"),
    [
        (get(line=b"GET /" + b"a" * 86 + b" HTTP/1.1"), "max_line", 100, 414),
        (get(b"X: y"), "max_fields", 2, 431),
        (get(b"X: y"), "max_fields_size", len(b"Host: lab.test\r\nX: y\r\n"), 431),
        (chunked(b"0\r\n" + b"X: y\r\n" * 3 + b"\r\n"), "max_fields", 3, 431),
        (chunked(b"0\r\nX: " + b"y" * 95 + b"\r\n\r\n"), "max_fields_size", 100, 431),
        (chunked(HELLO), "max_body", 5, 413),
        (post(b"Content-Length: 5", body=b"hello"), "max_body", 5, 413),
        (answer(b"Content-Length: 0", line=b"HTTP/1.1 200 " + b"a" * 87), "max_line", 100, REFUSED),
        (answer(b"Content-Length: 0", b"X: y"), "max_fields", 2, REFUSED),
        (answer(b"Content-Length: 0", b"X: y", b" y", b" y"), "max_fields", 4, REFUSED),
        (answer(b"Content-Length: 5", body=b"hello"), "max_body", 5, REFUSED),
        (answer(body=b"hello"), "max_body", 5, REFUSED),
    ],
)
def test_every_limit_is_exact(wire, limit, exact, status):
    side, more = (ask, {"fin": True}) if wire.startswith(b"HTTP") else (serve, {})
    for way in ([wire], pieces(wire, 1), *([wire[:cut], wire[cut:]] for cut in cuts(wire))):
        (message,), _ = side(way, **more, **{limit: exact})
        assert isinstance(message, Message | Answer)
        assert side(way, **more, **{limit: exact - 1})[0] == [status]


def test_a_long_first_line_is_no_field():
    wire = get(line=b"GET /" + b"a" * 86 + b" HTTP/1.1")
    for way in ([wire], pieces(wire, 1)):
        assert isinstance(serve(way, max_line=100, max_fields_size=50)[0][0], Message)


def test_a_refusal_does_not_wait_for_more():
    """Not for the rest of the head when the first line is bad, nor for a body that will be too large."""
    for wire, status in [
        (b"GET / HTTP/2.0\r\n", 505),
        (b"GET /\r\n", 400),
        (b"\x16\x03\x01\x02\0", 400),
        (b"GET / HTTP/1.1\r\nHost: lab.test\n", 400),
        (b"GET / HTTP/1.1\r\nX: a\0", 400),
        (post(b"Content-Length: 99999999999"), 413),
        (chunked(b"ffffffff\r\n"), 413),
        (chunked(b"x"), 400),
        (chunked(b"5\rx"), 400),
        (chunked(b"5;\0"), 400),
        (chunked(b"5\r\nhellox"), 400),
    ]:
        assert serve([wire])[0] == [status], wire


def asked(request: bytes = GOOD) -> ServerConnection:
    """A server that has read this request and has to answer it."""
    conn = ServerConnection()
    conn.receive_data(request)
    assert isinstance(conn.next_event(), Request)
    assert conn.next_event() == EndOfMessage({})
    return conn


# --- One message after the other ----------------------------------------------------------------------------------


def test_a_body_is_given_as_it_arrives():
    conn = ServerConnection()
    conn.receive_data(post(b"Content-Length: 10", body=b"hel"))
    assert isinstance(conn.next_event(), Request)
    assert conn.next_event() == Data(b"hel")
    assert conn.next_event() is None
    conn.receive_data(b"lo")
    assert conn.next_event() == Data(b"lo")
    conn.receive_data(b"world")
    assert [conn.next_event(), conn.next_event()] == [Data(b"world"), EndOfMessage({})]

    conn = ServerConnection()
    conn.receive_data(chunked(b"a\r\nhel"))
    assert isinstance(conn.next_event(), Request)
    assert conn.next_event() == Data(b"hel")
    assert conn.next_event() is None


def test_a_pipelined_request_waits_until_the_one_before_it_is_answered():
    conn = ServerConnection()
    conn.receive_data(get(line=b"GET /1 HTTP/1.1") + get(line=b"GET /2 HTTP/1.1") + b"nonsense\r\n\r\n")
    for target in ("/1", "/2"):
        event = conn.next_event()
        assert isinstance(event, Request)
        assert event.target == target
        assert conn.next_event() == EndOfMessage({})
        with pytest.raises(LocalProtocolError, match="answer the request"):
            conn.next_event()
        assert conn.send_response(200, [], b"").endswith(b"content-length: 0\r\n\r\n")
    with pytest.raises(RemoteProtocolError):
        conn.next_event()
    assert not conn.keep_alive
    out = conn.send_response(400, [], b"bad")
    assert b"connection: close\r\n" in out.lower()


def test_an_empty_line_before_each_of_many_requests():
    got, conn = serve([(b"\r\n" + GOOD) * 250])
    assert len(got) == 250
    assert conn.keep_alive


def test_an_answer_as_soon_as_the_head_is_here():
    conn = ServerConnection()
    conn.receive_data(get(line=b"GET /1 HTTP/1.1") + get(line=b"GET /2 HTTP/1.1"))
    for target in ("/1", "/2"):
        event = conn.next_event()
        assert isinstance(event, Request)
        assert event.target == target
        assert conn.is_whole
        conn.send_response(200, [], b"")  # Without a body there is no need to ask for the end first.
    assert conn.next_event() is None


def test_an_early_answer_and_then_the_rest_of_the_request():
    conn = ServerConnection()
    conn.receive_data(post(b"Content-Length: 5", body=b"he"))
    assert isinstance(conn.next_event(), Request)
    conn.send_response(403, [], b"no")
    assert not conn.may_answer
    conn.receive_data(b"llo" + GOOD)
    assert [conn.next_event(), conn.next_event()] == [Data(b"hello"), EndOfMessage({})]
    assert isinstance(conn.next_event(), Request)
    assert conn.may_answer


def test_what_is_wrong_behind_an_early_answer_gets_no_second_one():
    """A client would take it for the answer to its next request."""
    conn = ServerConnection()
    conn.receive_data(chunked(b"5\r\nhello"))
    assert isinstance(conn.next_event(), Request)
    conn.send_response(200, [], b"")
    conn.receive_data(b"XX")
    assert conn.next_event() == Data(b"hello")
    with pytest.raises(RemoteProtocolError):
        conn.next_event()
    assert not conn.may_answer
    with pytest.raises(LocalProtocolError):
        conn.send_response(400, [], b"")


def test_a_refusal_is_answered_once():
    for wire in (b"nonsense\r\n\r\n", post(b"Content-Length: x"), chunked(b"x")):
        _, conn = serve([wire])
        assert conn.may_answer
        out = conn.send_response(400, [], b"because")
        assert out.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert ask([out])[0][0][:2] == (400, b"because")
        assert not conn.may_answer
        with pytest.raises(LocalProtocolError):
            conn.send_response(400, [], b"")
        with pytest.raises(RemoteProtocolError):
            conn.next_event()
        assert not conn.may_answer


def test_the_end_between_two_messages_is_no_error():
    conn = ServerConnection()
    conn.receive_data(GOOD)
    conn.receive_data(b"")
    assert isinstance(conn.next_event(), Request)
    assert conn.next_event() == EndOfMessage({})
    conn.send_response(200, [], b"")  # A half-closed client still listens.
    assert conn.next_event() == ConnectionClosed()
    client = ClientConnection()
    client.receive_data(b"")
    assert client.next_event() == ConnectionClosed()


def test_after_close_nothing_is_read_from_either_end():
    conn = asked(GOOD + GOOD)
    out = conn.send_response(200, [("Connection", "close")], b"")
    assert out.lower().count(b"connection:") == 1
    assert not conn.keep_alive
    assert conn.next_event() == ConnectionClosed()

    client = ClientConnection()
    client.send_request("GET", "/", [*HOST, ("Connection", "close")])
    assert not client.keep_alive
    with pytest.raises(LocalProtocolError):
        client.send_request("GET", "/", HOST)


@pytest.mark.parametrize("fields", ["close", "keep-alive", None])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_the_response_says_whether_the_connection_persists(version, fields):
    extra = [b"Connection: " + fields.encode()] if fields else []
    conn = asked(get(*extra, line=b"GET / HTTP/" + version))
    out = conn.send_response(200, [], b"hi")
    persists = fields == "keep-alive" or (fields is None and version == b"1.1")
    assert conn.keep_alive == persists
    assert ask([out])[0][0].keep_alive == persists
    if version == b"1.0":  # A client of 1.0 has to be told, one of 1.1 knows (RFC 9112 §9.3).
        assert ask([out.replace(b"HTTP/1.1", b"HTTP/1.0")])[0][0].keep_alive == persists


# --- What has no body, and what ends where ------------------------------------------------------------------------


def served(request: bytes, status: int, pairs=(), body: bytes | None = b"", send=()) -> tuple[bytes, ServerConnection]:
    conn = asked(request)
    out = conn.send_response(status, pairs, body)
    if body is None:
        out += b"".join(map(conn.send_data, send)) + conn.end()
    return out, conn


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", 200), ("HEAD", 404), ("GET", 204), ("GET", 304), ("HEAD", 304)]
)
def test_a_response_that_has_no_body_gets_none(method, status, stream):
    request = get(line=method.encode() + b" / HTTP/1.1")
    out, conn = served(request, status, [], None if stream else b"secret", [b"sec", b"ret"])
    assert out.endswith(b"\r\n\r\n")
    assert b"sec" not in out
    (got,), _ = ask([out], asked=(method,))
    assert (got.status, got.body, got.keep_alive) == (status, b"", True)
    assert conn.next_event() is None  # It may go on.
    if status == 204:
        assert b"content-length" not in out.lower()
        assert b"transfer-encoding" not in out.lower()
    if method == "HEAD" and status == 200 and not stream:
        assert b"content-length: 6\r\n" in out.lower()


def test_how_the_end_of_a_response_is_told():
    out, _ = served(GOOD, 200, [], b"hello")
    assert out.endswith(b"content-length: 5\r\n\r\nhello")
    out, _ = served(GOOD, 200, [("Content-Length", "5")], None, [b"hel", b"lo"])
    assert out.endswith(b"\r\n\r\nhello")
    assert b"transfer-encoding" not in out.lower()
    out, _ = served(GOOD, 200, [], None, [b"hel", b"", b"lo"])
    assert out.endswith(b"transfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n")
    out, conn = served(get(line=b"GET / HTTP/1.0"), 200, [], None, [b"hel", b"lo"])
    assert out.endswith(b"\r\n\r\nhello")
    assert b"chunked" not in out
    assert b"content-length" not in out.lower()
    out, conn = served(get(b"Connection: keep-alive", line=b"GET / HTTP/1.0"), 200, [], None, [b"hello"])
    assert not conn.keep_alive  # The end can only be told by closing.
    assert b"connection: close\r\n" in out.lower()


def test_trailers_travel_with_chunks():
    conn = asked()
    out = conn.send_response(200, [("Trailer", "X-Sum")]) + conn.send_data(b"hello") + conn.end([("X-Sum", "5d41")])
    assert ask([out])[0][0].trailers == {"x-sum": "5d41"}


def test_upgrade_hands_over_what_is_no_http():
    client, server = ClientConnection(), ServerConnection()
    server.receive_data(client.send_request("GET", "/", [*HOST, ("Connection", "upgrade"), ("Upgrade", "lab")]))
    event = server.next_event()
    assert isinstance(event, Request)
    assert event.fields["upgrade"] == "lab"
    assert server.next_event() == EndOfMessage({})
    head = server.send_response(101, [("Connection", "upgrade"), ("Upgrade", "lab")])
    server.receive_data(b"\0from the client")
    assert server.trailing_data == b"\0from the client"
    client.receive_data(head + b"\0from the ")
    event = client.next_event()
    assert isinstance(event, Response)
    assert event.status == 101
    client.receive_data(b"server")
    assert client.trailing_data == b"\0from the server"
    for conn in (client, server):
        with pytest.raises(LocalProtocolError):
            conn.next_event()
        with pytest.raises(LocalProtocolError):
            conn.end()


def test_no_switch_in_the_middle_of_a_request():
    """RFC 9110 §7.8: the client cannot change the protocol in the middle of a message."""
    conn = ServerConnection()
    conn.receive_data(post(b"Content-Length: 5", b"Connection: upgrade", b"Upgrade: lab", body=b"hel"))
    assert isinstance(conn.next_event(), Request)
    with pytest.raises(LocalProtocolError):
        conn.send_response(101, [("Connection", "upgrade"), ("Upgrade", "lab")])
    conn.receive_data(b"lo")
    assert conn.next_event() == Data(b"hello")
    assert conn.next_event() == EndOfMessage({})
    assert conn.send_response(101, [("Connection", "upgrade"), ("Upgrade", "lab")]).startswith(b"HTTP/1.1 101 ")


def test_an_upgrade_that_is_refused_leaves_http():
    client, server = ClientConnection(), ServerConnection()
    server.receive_data(client.send_request("GET", "/", [*HOST, ("Connection", "upgrade"), ("Upgrade", "lab")]))
    server.next_event()
    server.next_event()
    client.receive_data(server.send_response(200, [], b"no"))
    assert [type(client.next_event()) for _ in range(3)] == [Response, Data, EndOfMessage]
    assert client.keep_alive
    assert server.keep_alive


def test_connect_makes_a_tunnel():
    client, server = ClientConnection(), ServerConnection()
    server.receive_data(client.send_request("CONNECT", "lab.test:443", HOST) + b"\x16\x03hello")
    event = server.next_event()
    assert isinstance(event, Request)
    assert event.target == "lab.test:443"
    assert server.next_event() == EndOfMessage({})
    out = server.send_response(200, [])
    assert out == b"HTTP/1.1 200 OK\r\n\r\n"
    assert server.trailing_data == b"\x16\x03hello"
    client.receive_data(out + b"\x16\x03world")
    assert isinstance(client.next_event(), Response)
    assert client.trailing_data == b"\x16\x03world"


def test_100_continue():
    client, server = ClientConnection(), ServerConnection()
    head = client.send_request("PUT", "/", [*HOST, ("Content-Length", "5"), ("Expect", "100-Continue")])
    server.receive_data(head)
    event = server.next_event()
    assert isinstance(event, Request)
    assert event.expects_continue
    assert server.next_event() is None
    client.receive_data(server.send_continue())
    event = client.next_event()
    assert isinstance(event, Response)
    assert event.status == 100
    server.receive_data(client.send_data(b"hello") + client.end())
    assert [server.next_event(), server.next_event()] == [Data(b"hello"), EndOfMessage({})]
    client.receive_data(server.send_response(201, [], b""))
    event = client.next_event()
    assert isinstance(event, Response)
    assert event.status == 201
    assert client.next_event() == EndOfMessage({})

    server = ServerConnection()  # HTTP/1.0 has no interim responses (RFC 9110 §15.2).
    server.receive_data(get(b"Expect: 100-continue", b"Content-Length: 5", line=b"PUT / HTTP/1.0"))
    event = server.next_event()
    assert isinstance(event, Request)
    assert not event.expects_continue
    with pytest.raises(LocalProtocolError):
        server.send_continue()


# --- Our own mistakes ---------------------------------------------------------------------------------------------

BAD_PAIRS = {
    "CR in a value": ("X", "a\rb"),
    "LF in a value": ("X", "a\nb"),
    "CRLF in a value: response splitting": ("X", "a\r\nSet-Cookie: b=c"),
    "an obs-fold": ("X", "a\r\n b"),
    "a CRLF at the end": ("X", "a\r\n"),
    "NUL in a value": ("X", "a\0b"),
    "a bell in a value": ("X", "a\x07b"),
    "a DEL in a value": ("X", "a\x7fb"),
    "what Latin-1 lacks": ("X", "a\u20acb"),
    "a character that ends in the byte LF": ("X", "a\u010ab"),
    "a space in a name": ("X Y", "a"),
    "a space behind a name": ("X ", "a"),
    "a colon in a name": ("X: a\r\nY", "b"),
    "CRLF in a name": ("X\r\nY", "a"),
    "NUL in a name": ("X\0", "a"),
    "an accent in a name": ("Caf\xe9", "a"),
    "an empty name": ("", "a"),
}


@pytest.mark.parametrize("pair", [pytest.param(pair, id=name) for name, pair in BAD_PAIRS.items()])
def test_a_field_that_cannot_be_sent(pair):
    conn = asked()
    for send in (
        lambda: conn.send_response(200, [pair], b""),
        lambda: conn.send_response(200, [("A", "b"), pair, ("C", "d")]),
        lambda: conn.send_response(100, [pair]),
        lambda: ClientConnection().send_request("GET", "/", [*HOST, pair]),
        lambda: ClientConnection().send_request("GET", "/", [pair, *HOST], b"body"),
    ):
        with pytest.raises(LocalProtocolError):
            send()
    conn.send_response(200, [])
    with pytest.raises(LocalProtocolError):
        conn.end([pair])


@pytest.mark.parametrize(
    "target",
    ["", "a b", "/\r\n", "/\n", "/\0", "/\x7f", "/caf\xe9", "/\u20ac", "/a#b", "x", "*", "/%zz", "lab.test:80"],
)
def test_a_target_that_cannot_be_sent(target):
    with pytest.raises(LocalProtocolError):
        ClientConnection().send_request("GET", target, HOST)


@pytest.mark.parametrize("method", ["", "G T", "GET\r\n", "GET\n", "G\0T", "G\xc9T", "GET:", "(", "M" * 33])
def test_a_method_that_cannot_be_sent(method):
    with pytest.raises(LocalProtocolError):
        ClientConnection().send_request(method, "/", HOST)


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [*HOST, *HOST],
        [("Host", "")],
        [("Host", "a b")],
        [("Host", "user@lab.test")],
        [*HOST, ("Content-Length", "x")],
        [*HOST, ("Content-Length", "-5")],
        [*HOST, ("Content-Length", "5"), ("Content-Length", "5")],
        [*HOST, ("Content-Length", "5"), ("content-length", "6")],
        [*HOST, ("Content-Length", "5"), ("Transfer-Encoding", "chunked")],
        [*HOST, ("Transfer-Encoding", "gzip")],
        [*HOST, ("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")],
    ],
)
def test_a_request_that_nobody_may_send(pairs):
    conn = ClientConnection()
    with pytest.raises(LocalProtocolError):
        conn.send_request("POST", "/", pairs)
    out = conn.send_request("GET", "/", HOST)  # Nothing was sent: the connection is as it was.
    assert serve([out])[0][0].method == "GET"


@pytest.mark.parametrize(
    ("status", "pairs"),
    [
        (200, [("Content-Length", "x")]),
        (200, [("Content-Length", "-5")]),
        (200, [("Content-Length", "5"), ("Content-Length", "6")]),
        (200, [("Transfer-Encoding", "chunked")]),
        (204, [("Content-Length", "5")]),
        (100, [("Content-Length", "5")]),
        (101, [("Content-Length", "5")]),
        (99, []),
        (600, []),
        (1000, []),
        (-200, []),
    ],
)
def test_a_response_that_nobody_may_send(status, pairs):
    conn = asked()
    with pytest.raises(LocalProtocolError):
        conn.send_response(status, pairs)
    assert conn.may_answer
    assert ask([conn.send_response(500, [], b"oh")])[0][0].body == b"oh"  # Nothing was sent: another answer can be.


def test_a_body_that_is_not_what_content_length_says():
    server, client = asked(), ClientConnection()
    server.send_response(200, [("Content-Length", "5")])
    client.send_request("PUT", "/", [*HOST, ("Content-Length", "5")])
    for conn in (server, client):
        with pytest.raises(LocalProtocolError, match="1 bytes more"):
            conn.send_data(b"hello!")
        assert conn.send_data(b"hel") == b"hel"
        with pytest.raises(LocalProtocolError, match="1 bytes more"):
            conn.send_data(b"lo!")
        with pytest.raises(LocalProtocolError, match="2 bytes less"):
            conn.end()
        assert conn.send_data(b"lo") == b"lo"
        assert conn.end() == b""
    for length in ("4", "6"):
        with pytest.raises(LocalProtocolError):
            ClientConnection().send_request("PUT", "/", [*HOST, ("Content-Length", length)], b"hello")
        with pytest.raises(LocalProtocolError):
            asked().send_response(200, [("Content-Length", length)], b"hello")


def test_a_response_before_any_request_ends_the_connection():
    """For a client that is too slow (408), or one too many (503)."""
    for part in (b"", b"GET / HT"):
        conn = ServerConnection()
        if part:
            conn.receive_data(part)
            assert conn.next_event() is None
        assert conn.may_answer
        with pytest.raises(LocalProtocolError):  # There is nobody to go on.
            conn.send_continue()
        assert conn.keep_alive
        out = conn.send_response(408, [], b"too slow")
        assert ask([out])[0][0][:4] == (408, b"too slow", {}, False)
        assert not conn.may_answer
        conn.receive_data(GOOD)
        assert conn.next_event() == ConnectionClosed()
        with pytest.raises(LocalProtocolError):
            conn.send_response(408, [], b"")


def test_what_comes_at_the_wrong_time():
    server = ServerConnection()
    for send in (lambda: server.send_data(b"x"), server.end):
        with pytest.raises(LocalProtocolError):  # There is no request yet.
            send()
    server.receive_data(GOOD)
    server.next_event()
    server.next_event()
    for send in (lambda: server.send_data(b"x"), server.end):
        with pytest.raises(LocalProtocolError):  # There is no head yet.
            send()
    server.send_response(200, [])
    for send in (
        lambda: server.send_response(200, [], b""),
        server.send_continue,
        lambda: server.send_response(103, []),
    ):
        with pytest.raises(LocalProtocolError):  # The response has begun.
            send()
    server.send_data(b"x")
    server.end()
    for send in (
        lambda: server.send_response(200, [], b""),
        server.send_continue,
        lambda: server.send_data(b"x"),
        server.end,
    ):
        with pytest.raises(LocalProtocolError):  # It is over.
            send()

    client = ClientConnection()
    for send in (lambda: client.send_data(b"x"), client.end):
        with pytest.raises(LocalProtocolError):  # There is no head yet.
            send()
    client.send_request("PUT", "/", [*HOST, ("Transfer-Encoding", "chunked")])
    with pytest.raises(LocalProtocolError):  # The one before is not over.
        client.send_request("GET", "/", HOST)
    client.end()
    client.send_request("GET", "/", HOST)
    with pytest.raises(LocalProtocolError):  # A GET without a length has no body.
        client.send_data(b"x")


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding", "Host", "Connection", "Set-Cookie"])
def test_a_trailer_that_is_no_trailer(name):
    conn = ClientConnection()
    conn.send_request("PUT", "/", [*HOST, ("Transfer-Encoding", "chunked")])
    with pytest.raises(LocalProtocolError):
        conn.end([(name, "5")])
    assert conn.end([("X-Sum", "5")]) == b"0\r\nX-Sum: 5\r\n\r\n"


# --- Both ends joined ---------------------------------------------------------------------------------------------

TOKENS = st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=12)
VALUES = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]) | st.just("\t"), max_size=30).map(
    lambda text: text.strip(" \t")
)
FRAMING = {"host", "content-length", "transfer-encoding", "connection", "expect", "upgrade"}
FIELDS = st.lists(st.tuples(TOKENS.filter(lambda name: name.lower() not in FRAMING), VALUES), max_size=6)
TARGETS = st.text("abz09/-._~!$&'()*+,;=:@?", max_size=30).map("/".__add__) | st.sampled_from(
    ["/%00", "/%C3%A9?%20", "http://lab.test/a?b", "https://[::1]:7003/", "http://lab.test"]
)
BODIES = st.lists(st.binary(max_size=40), max_size=4)
SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=5)
HOW = st.sampled_from(["whole", "length", "chunked"])
REQUEST = st.tuples(TOKENS.filter(lambda name: name != "CONNECT"), TARGETS, FIELDS, BODIES, HOW, FIELDS)
RESPONSE = st.tuples(st.sampled_from([200, 201, 204, 304, 404, 500, 599]), FIELDS, BODIES, HOW, FIELDS)


def cut(wire: bytes, sizes):
    parts, at = [], 0
    for size in cycle(sizes):
        if at >= len(wire):
            return parts
        parts.append(wire[at : at + size])
        at += size
    return parts


def combined(pairs):
    """The mapping that RFC 9110 §5.3 makes of them."""
    fields = {}
    for name, value in pairs:
        fields[name.lower()] = f"{fields[name.lower()]}, {value}" if name.lower() in fields else value
    return fields


def trailing(pairs):
    """Those that may be trailers."""
    return [(name, value) for name, value in pairs if name.lower() not in {"te", "trailer", "range"}]


def send(head, conn, pairs, body, how, trailers):
    """The bytes of one message, by one of the three ways to send it; *head* sends the head."""
    if how == "whole":
        return head(pairs, b"".join(body))
    if how == "length":
        out = head([*pairs, ("Content-Length", str(sum(map(len, body))))], None)
    elif isinstance(conn, ClientConnection):
        out = head([*pairs, ("Transfer-Encoding", "chunked")], None)
    else:
        out = head(pairs, None)
    return out + b"".join(map(conn.send_data, body)) + conn.end(trailing(trailers) if how == "chunked" else ())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(REQUEST, RESPONSE), min_size=1, max_size=3), SIZES)
def test_whatever_a_client_sends_a_server_receives_and_back(exchanges, sizes):
    client, server = ClientConnection(), ServerConnection()
    wire, asked, answers = b"", [], []
    for (method, target, pairs, body, how, trailers), _ in exchanges:
        wire += send(
            lambda pairs, body, method=method, target=target: client.send_request(
                method, target, [*HOST, *pairs], body
            ),
            client,
            pairs,
            body,
            how,
            trailers,
        )
    for part in cut(wire, sizes):
        server.receive_data(part)
        while event := server.next_event():
            if isinstance(event, Request):
                asked.append([event, b"", None])
            elif isinstance(event, Data):
                asked[-1][1] += event.data
            else:
                asked[-1][2] = event.trailers
                status, pairs, body, how, trailers = exchanges[len(asked) - 1][1]
                if status == 204 and how == "length":
                    how = "whole"
                if (status in (204, 304) or asked[-1][0].method == "HEAD") and how == "chunked":
                    trailers = []
                answers.append(
                    send(
                        lambda pairs, body, status=status: server.send_response(status, pairs, body),
                        server,
                        pairs,
                        body,
                        how,
                        trailers,
                    )
                )
    assert len(asked) == len(exchanges)
    for (event, got, end), ((method, target, pairs, body, how, trailers), _) in zip(asked, exchanges, strict=True):
        assert (event.method, event.target, got) == (method, target, b"".join(body))
        assert list(event.pairs[: 1 + len(pairs)]) == [*HOST, *pairs]
        assert combined(pairs).items() <= event.fields.items()
        assert end == (combined(trailing(trailers)) if how == "chunked" else {})
    heard = []
    for part in cut(b"".join(answers), sizes[::-1]):
        client.receive_data(part)
        while event := client.next_event():
            if isinstance(event, Response):
                heard.append([event, b"", None])
            elif isinstance(event, Data):
                heard[-1][1] += event.data
            else:
                heard[-1][2] = event.trailers
    assert len(heard) == len(exchanges)
    for (event, got, _), (request, (status, pairs, body, *_)) in zip(heard, exchanges, strict=True):
        empty = status in (204, 304) or request[0] == "HEAD"
        assert (event.status, got) == (status, b"" if empty else b"".join(body))
        assert combined(pairs).items() <= event.fields.items()
    assert client.keep_alive
    assert server.keep_alive
    assert client.trailing_data == server.trailing_data == b""


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=300) | st.text("GET /HTP1.0:\r\n 5;=,\0xhosetncdgl-", max_size=200).map(str.encode),
    SIZES,
    st.booleans(),
)
def test_garbage_is_refused_and_breaks_nothing(garbage, sizes, fin):
    for side in (serve, ask):
        whole, _ = side([garbage], fin=fin, max_line=100, max_fields_size=200)
        parts, conn = side(cut(garbage, sizes), fin=fin, max_line=100, max_fields_size=200)
        assert [*whole[:-1], bool(whole)] == [*parts[:-1], bool(parts)]
        assert len(conn._buffer) <= 310 + max(sizes)


def test_mutated_messages_break_nothing():
    """A short run of `make fuzz`."""
    fuzz(6000, seed=20)


# --- h11 as the other end -----------------------------------------------------------------------------------------


def h11_events(conn, wire, sizes=(1000,)):
    """What h11 makes of these bytes: head, body and trailers of each message, up to the first that it refuses."""
    import h11

    out = []
    try:
        for part in cut(wire, sizes):
            conn.receive_data(part)
            while (event := conn.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if isinstance(event, h11.Data):
                    out[-1][1] += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    out[-1][2] = list(event.headers)
                elif isinstance(event, h11.Request | h11.Response):
                    out.append([event, b"", None])
    except h11.RemoteProtocolError:
        pass
    return out


def lower(pairs):
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs]


@settings(max_examples=40, deadline=None)
@given(REQUEST, SIZES)
def test_h11_reads_our_requests(request_, sizes):
    h11 = pytest.importorskip("h11")
    method, target, pairs, body, how, trailers = request_
    conn = ClientConnection()
    wire = send(
        lambda pairs, body: conn.send_request(method, target, [*HOST, *pairs], body), conn, pairs, body, how, trailers
    )
    ((event, got, end),) = h11_events(h11.Connection(h11.SERVER), wire, sizes)
    assert (event.method, event.target, got) == (method.encode(), target.encode(), b"".join(body))
    assert [*event.headers][: 1 + len(pairs)] == lower([*HOST, *pairs])
    assert end == (lower(trailing(trailers)) if how == "chunked" else [])


@settings(max_examples=40, deadline=None)
@given(RESPONSE, st.sampled_from(["GET", "HEAD"]), SIZES)
def test_h11_reads_our_responses(response, method, sizes):
    h11 = pytest.importorskip("h11")
    status, pairs, body, how, trailers = response
    if status == 204 and how == "length":
        how = "whole"
    peer = h11.Connection(h11.CLIENT)
    server = ServerConnection()
    server.receive_data(
        peer.send(h11.Request(method=method, target="/", headers=[("Host", "lab.test")]))
        + peer.send(h11.EndOfMessage())
    )
    assert isinstance(server.next_event(), Request)
    assert server.next_event() == EndOfMessage({})
    wire = send(lambda pairs, body: server.send_response(status, pairs, body), server, pairs, body, how, trailers)
    ((event, got, end),) = h11_events(peer, wire, sizes)
    empty = method == "HEAD" or status in (204, 304)
    assert (event.status_code, got) == (status, b"" if empty else b"".join(body))
    assert [*event.headers][: len(pairs)] == lower(pairs)
    assert end == (lower(trailing(trailers)) if how == "chunked" and not empty else [])


@settings(max_examples=40, deadline=None)
@given(REQUEST, SIZES)
def test_we_read_the_requests_of_h11(request_, sizes):
    h11 = pytest.importorskip("h11")
    method, target, pairs, body, how, trailers = request_
    framing = [("Content-Length", str(sum(map(len, body))))] if how != "chunked" else [("Transfer-Encoding", "chunked")]
    peer = h11.Connection(h11.CLIENT)
    pairs = [*HOST, *framing, *pairs]
    wire = peer.send(h11.Request(method=method, target=target, headers=[(n, v.encode("latin-1")) for n, v in pairs]))
    wire += b"".join(peer.send(h11.Data(data)) for data in body)
    ends = trailing(trailers) if how == "chunked" else []
    wire += peer.send(h11.EndOfMessage(headers=[(name, value.encode("latin-1")) for name, value in ends]))
    (got,), _ = serve(cut(wire, sizes))
    assert got[:4] == (method, target, b"".join(body), combined(ends))
    fields = combined(pairs)
    if target.startswith("http"):
        fields["host"] = got.fields["host"]
    assert got.fields == fields


@settings(max_examples=40, deadline=None)
@given(RESPONSE, st.sampled_from(["GET", "HEAD"]), st.booleans(), SIZES)
def test_we_read_the_responses_of_h11(response, method, old, sizes):
    h11 = pytest.importorskip("h11")
    status, pairs, body, how, trailers = response
    client, peer = ClientConnection(), h11.Connection(h11.SERVER)
    wire = client.send_request(method, "/", HOST)
    peer.receive_data(wire.replace(b"HTTP/1.1", b"HTTP/1.0") if old else wire)
    assert isinstance(peer.next_event(), h11.Request)
    assert isinstance(peer.next_event(), h11.EndOfMessage)
    empty = method == "HEAD" or status in (204, 304)
    framing = [("Content-Length", str(sum(map(len, body))))] if how != "chunked" and status != 204 else []
    wire = peer.send(
        h11.Response(status_code=status, headers=[(n, v.encode("latin-1")) for n, v in [*framing, *pairs]])
    )
    if not empty:
        wire += b"".join(peer.send(h11.Data(data)) for data in body)
    chunks = how == "chunked" and not empty and not old
    ends = trailing(trailers) if chunks else []
    wire += peer.send(h11.EndOfMessage(headers=[(name, value.encode("latin-1")) for name, value in ends]))
    for part in chain(cut(wire, sizes), [b""]):
        client.receive_data(part)
    got = []
    while not isinstance(event := client.next_event(), ConnectionClosed):
        got.append(event)
    assert isinstance(got[0], Response)
    assert got[0].status == status
    assert b"".join(event.data for event in got[1:-1]) == (b"" if empty else b"".join(body))
    assert got[-1] == EndOfMessage(combined(ends))


STRICTER = {  # What we accept and h11 does not.
    "one empty line before",
    "an empty line between two",
    "extension with bad whitespace",
    "CL of 5000 zeros and a 5",
}


def test_what_we_accept_h11_reads_the_same():
    h11 = pytest.importorskip("h11")
    refused = set()
    for case in REQUESTS:
        if case.want and isinstance(want := case.want[0], Message):
            got = h11_events(h11.Connection(h11.SERVER), case.wire)
            if not got or got[0][2] is None:
                refused.add(case.name)
                continue
            event, body, trailers = got[0]
            assert (event.method.decode(), event.target.decode(), body) == want[:3], case.name
            assert combined((name.decode(), value.decode("latin-1")) for name, value in trailers) == want.trailers
    assert refused <= STRICTER


# --- No input takes more than its share of time -------------------------------------------------------------------


def seconds(work, *args, **more):
    start = time.perf_counter()
    work(*args, **more)
    return time.perf_counter() - start


@pytest.mark.parametrize("end", [b"b", b"", b"\x7f"])
def test_spaces_take_linear_time(end):
    """60,000 of them take milliseconds; with a search that begins anew at each of them, many seconds."""
    fields = [b"X: a \t", b"Y: a" + b" " * 60_000 + end, b"Content-Length: 0"]
    assert seconds(serve, [get(*fields)], max_fields_size=1 << 17) < 20 * TICK
    assert seconds(ask, [answer(*fields)], max_fields_size=1 << 17) < 20 * TICK
    assert seconds(ask, [answer(b"X: a", b" b", *fields)], max_fields_size=1 << 17) < 20 * TICK
    assert seconds(ask, [answer(*fields, b" b")], max_fields_size=1 << 17) < 20 * TICK


def test_zeros_take_no_longer_than_other_bytes_of_a_chunk_line():
    other = seconds(serve, [chunked(b"5;"), *[b"a"] * 1000])
    assert seconds(serve, [chunked(b""), *[b"0"] * 1000]) < 10 * other


def test_a_host_is_judged_in_linear_time():
    for value in (b"a." * 8000, b"%41" * 8000, b"[" + b":" * 16000 + b"]", b"1" * 16000, b"lab.test:" + b"9" * 16000):
        assert seconds(serve, [host(value)]) < 10 * TICK
