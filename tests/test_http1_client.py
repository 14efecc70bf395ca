"""Our HTTP/1.1 client against servers by hand (every odd answer), ours, Python's and nginx."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gzip
import hashlib
import http.server
import json
import logging
import os
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import tracemalloc
import zlib
from pathlib import Path

import pytest

from clients.http1 import Answer, Client, Request, main, pipeline, redirected
from clients.http1_connection import PACKED, TURN, UNPACKED, split, unzip
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.http1 import ClientConnection, Data, EndOfMessage, Response
from servers.http1 import serve
from tests.conftest import TICK, need_tool

PATIENCE = 200 * TICK  # what may happen at once gets this long on a busy machine
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextlib.asynccontextmanager
async def server_that(behave, **options: object):
    """A server by hand; its URL. *behave* is called for each connection, whose end it is when it returns."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    tasks: set[asyncio.Task] = set()
    ending, last = False, asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if ending:
            writer.transport.abort()
            last.set()
            return
        tasks.add(asyncio.current_task())
        writer.transport.set_write_buffer_limits(0)  # drain() waits until all is sent.
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                await behave(reader, writer)
                await writer.drain()
                if writer.can_write_eof():
                    writer.write_eof()
        finally:
            writer.transport.abort()

    async with await asyncio.start_server(handle, sock=listening, **options):
        try:
            yield "{}://127.0.0.1:{}".format("https" if options else "http", listening.getsockname()[1])
        finally:
            # asyncio loses a connection that it accepts in the moment of its end. Behind one more there is none.
            ending = True
            async with asyncio.timeout(PATIENCE):
                _, writer = await asyncio.open_connection(*listening.getsockname(), **TRUSTING if options else {})
                await last.wait()
                writer.transport.abort()
                if tasks:
                    await asyncio.wait(tasks)


TRUSTING = {"ssl": ssl._create_unverified_context()}


async def silent(reader, writer):
    while await reader.read(65536):
        pass


async def head_of(reader: asyncio.StreamReader) -> str:
    """The head of the next request; IncompleteReadError when the client ends instead, and so does the server."""
    return (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")


def that_answers(*answers: bytes):
    """One answer per request, all connections together; then, and after an empty one, it closes."""
    left = list(answers)

    async def behave(reader, writer):
        while left:
            head = await head_of(reader)
            if length := re.search(r"(?i)content-length: (\d+)", head):
                await reader.readexactly(int(length[1]))
            answer = left.pop(0)
            if not answer:
                return
            writer.write(answer)

    return behave


@contextlib.asynccontextmanager
async def client(**options):
    async with asyncio.timeout(PATIENCE), Client(**{"timeout": PATIENCE, **options}) as it:
        yield it


async def drop(piece_of):
    """All pieces of an answer; how many bytes they are."""
    return sum([len(piece) async for piece in piece_of])


# -- Answers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "wire", "status", "body"),
    [
        ("GET", OK, 200, b"ok"),
        ("GET", b"HTTP/1.1 200 OK\r\ncontent-LENGTH:2\r\n\r\nok", 200, b"ok"),
        ("GET", b"HTTP/1.1 200\x20\r\nContent-Length: 2\r\n\r\nok", 200, b"ok"),
        ("GET", b"HTTP/1.1 200 OK\r\n\r\nuntil close", 200, b"until close"),
        ("GET", b"HTTP/1.0 200 OK\r\n\r\nuntil close", 200, b"until close"),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\nA: b\r\n\r\n", 200, b"ok"),
        ("GET", b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\nContent-Length: 2\r\n\r\nok", 200, b"ok"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, b""),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200, b""),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, b""),
        ("GET", b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200, b"ok"),  # nobody has asked for it, and that is allowed
        ("GET", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 3 + OK, 200, b"ok"),
        ("GET", b"HTTP/1.1 299 Odd\r\nContent-Length: 2\r\n\r\nok", 299, b"ok"),
        ("GET", b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", 404, b"no"),
        ("GET", b"HTTP/1.1 301 Moved\r\nContent-Length: 2\r\n\r\nok", 301, b"ok"),  # It does not say where to.
        ("POST", OK, 200, b"ok"),
        ("BREW", OK, 200, b"ok"),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
async def test_proper_answers(method, wire, status, body, at_once):
    async def behave(reader, writer):
        await head_of(reader)
        for i in range(0, len(wire), len(wire) if at_once else 1):
            writer.write(wire[i : i + len(wire) if at_once else i + 1])
            await asyncio.sleep(0)

    async with server_that(behave) as url, client() as us:
        answer = await us.request(method, url)
        assert (answer.status, answer.body) == (status, body)
        assert isinstance(answer, Answer)


@pytest.mark.parametrize(
    ("wire", "words"),
    [
        (b"", "closed the connection without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-", "the connection ended in the middle"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", "the connection ended in the middle"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "the connection ended in the middle"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", "chunk"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\nok", "Transfer-Encoding and"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok", "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", ""),
        (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", ""),
        (b"HTTP/2.0 200 OK\r\n\r\n", ""),
        (b"ICY 200 OK\r\n\r\n", ""),
        (b"+OK POP3 ready\r\n", ""),
        (b"\x15\x03\x01\x00\x02\x02\x46", ""),  # a TLS alert
        (b"HTTP/1.1 200 OK\r\n" + b"x" * 100_000, ""),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 10_000, ""),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", ""),
        (b"HTTP/1.1 102 Processing\r\n\r\n" * 1000, "20 interim answers"),
        (b"HTTP/1.1 302 Found\r\nLocation: ftp://127.0.0.1/\r\nContent-Length: 0\r\n\r\n", "no URL of HTTP"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://a:b@127.0.0.1/\r\nContent-Length: 0\r\n\r\n", "no URL of HTTP"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://[::1/\r\nContent-Length: 0\r\n\r\n", "no URL of HTTP"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://a..b/\r\nContent-Length: 0\r\n\r\n", "no URL of HTTP"),
        (b"HTTP/1.1 302 F\r\nLocation: //" + b"a" * 70 + b".x/\r\nContent-Length: 0\r\n\r\n", "no URL of HTTP"),
        (b"HTTP/1.1 302 Found\r\nLocation: //a,b/\r\nContent-Length: 0\r\n\r\n", "no URL of HTTP"),
        (b"HTTP/1.1 302 Found\r\nLocation: //[fe80::1%25eth0]/\r\nContent-Length: 0\r\n\r\n", "no URL of HTTP"),
        (b"HTTP/1.1 302 Found\r\nLocation: javascript:alert(1)\r\nContent-Length: 0\r\n\r\n", "no URL of HTTP"),
    ],
)
async def test_what_is_no_answer(wire, words):
    async with server_that(that_answers(wire)) as url, client() as us:
        with pytest.raises(RemoteProtocolError, match=re.escape(words) or None):
            await us.request("GET", url)
        assert us._kept == [] or status_of(wire) == 302


def status_of(wire: bytes) -> int:
    return int(wire[9:12]) if wire[9:12].isdigit() else 0


@pytest.mark.parametrize(
    ("url", "authority", "target"),
    [
        ("http://a.lab", "a.lab", "/"),
        ("http://a.lab:80/x", "a.lab", "/x"),
        ("http://A.lab:443?q", "a.lab:443", "/?q"),
        ("https://a.lab:443/?", "a.lab", "/"),
        ("https://a.lab:80//x", "a.lab:80", "//x"),
        ("http://[::1]:8080/;p#f", "[::1]:8080", "/;p"),
    ],
)
def test_urls(url, authority, target):
    origin, rest = split(url)
    assert (origin.authority, rest) == (authority, target)


async def test_what_is_sent():
    heads = []

    async def behave(reader, writer):
        while True:
            heads.append((await head_of(reader)).split("\r\n")[:-2])
            writer.write(OK)

    async with server_that(behave) as url, client() as us:
        host = url.removeprefix("http://")
        await us.request("GET", url)
        await us.request("GET", f"{url}/a/../b?q=%20#fragment", fields=[("X", "1"), ("X", "2")])
        await us.request("GET", f"{url}?q", fields=[("host", "other.lab")])
        await us.request("POST", url)
        await us.request("DELETE", f"HTTP{url[4:]}/x")
        await us.request("GET", url, gzip=True, expect=True)
        await us.request("POST", url, body=b"", expect=True)
    assert heads == [
        ["GET / HTTP/1.1", f"Host: {host}"],
        ["GET /a/../b?q=%20 HTTP/1.1", f"Host: {host}", "X: 1", "X: 2"],
        ["GET /?q HTTP/1.1", "host: other.lab"],
        ["POST / HTTP/1.1", f"Host: {host}", "content-length: 0"],
        ["DELETE /x HTTP/1.1", f"Host: {host}"],
        ["GET / HTTP/1.1", f"Host: {host}", "Accept-Encoding: gzip"],  # no Expect: there is no body to wait with
        ["POST / HTTP/1.1", f"Host: {host}", "content-length: 0"],
    ]


@pytest.mark.parametrize(
    ("url", "fields"),
    [
        ("127.0.0.1:7003", []),
        ("ftp://127.0.0.1/", []),
        ("http:///x", []),
        ("http://a b/", []),
        ("http://127.0.0.1:99999/", []),
        ("http://127.0.0.1:0/", []),
        ("http://127.0.0.1:x/", []),
        ("http://[::1/", []),
        ("http://user:password@127.0.0.1/", []),
        ("http://127.0.0.1/\r\nX: y", []),
        ("http://127.0.0.1/ä", []),
        ("{}/<>", []),
        ("{}", [("A", "b\r\nX: y")]),
        ("{}", [("A b", "c")]),
        ("{}", [("Content-Length", "x")]),
        ("{}", [("Host", "a"), ("Host", "b")]),
    ],
)
async def test_what_cannot_be_sent_is_not(url, fields):
    asked = []

    async def behave(reader, writer):
        asked.append(await reader.read())

    async with server_that(behave) as base, client() as us:
        with pytest.raises(LocalProtocolError):
            await us.request("GET", url.format(base), fields=fields)
    assert not any(asked)


LONG = ("Content-Length", "1" * 5000)  # int() takes no more than 4300 digits


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ([("Transfer-Encoding", "chunked")], None),
        ([("Content-Length", "3")], None),
        ([LONG], None),
        ([("Content-Length", "3")], b"x"),
        ([LONG], b"x"),
        ([("Transfer-Encoding", "chunked")], b"x"),
        ([("A", "b\r\nX: y")], None),
    ],
)
async def test_what_cannot_be_sent_leaves_the_connection_as_it_was(fields, body):
    server = Counting()
    async with server_that(server) as url, client() as us:
        await us.request("GET", url)
        with pytest.raises(LocalProtocolError):
            await us.request("GET", url, fields=fields, body=body)
        for _ in range(2):
            assert (await us.request("GET", url)).body == b"ok"
    assert server.connections == 1


@pytest.mark.parametrize(
    "fields", [[("Content-Length", "3")], [LONG], [("Transfer-Encoding", "chunked")], [("A ", "b")]]
)
def test_what_the_core_refuses_to_send_changes_nothing(fields):
    http = ClientConnection()
    with pytest.raises(LocalProtocolError):
        http.send_request("POST", "/", [("Host", "a.lab"), ("Connection", "close"), *fields], b"x")
    assert http.is_idle
    assert http.keep_alive
    assert http.send_request("GET", "/", [("Host", "a.lab")]) == b"GET / HTTP/1.1\r\nHost: a.lab\r\n\r\n"


def test_the_core_is_idle_when_all_is_sent_and_answered():
    http = ClientConnection()
    assert http.is_idle
    http.send_request("POST", "/", [("Host", "a.lab"), ("Content-Length", "1")])
    http.receive_data(OK)  # before all is sent
    assert [type(http.next_event()) for _ in range(3)] == [Response, Data, EndOfMessage]
    assert not http.is_idle
    http.send_data(b"x")
    http.end()
    assert http.is_idle
    http.send_request("GET", "/", [("Host", "a.lab")])
    assert not http.is_idle


async def test_a_closed_client_asks_nothing():
    async with server_that(that_answers(OK)) as url, client() as us:
        await us.__aexit__()
        with pytest.raises(LocalProtocolError, match="closed"):
            await us.request("GET", url)


async def test_a_request_that_outlives_the_client_keeps_nothing():
    asked, go = asyncio.Event(), asyncio.Event()

    async def behave(reader, writer):
        await head_of(reader)
        asked.set()
        await go.wait()
        writer.write(OK)
        await silent(reader, writer)

    async with server_that(behave) as url, client() as us:
        task = asyncio.create_task(us.request("GET", url))
        await asked.wait()
        await us.__aexit__()
        go.set()
        assert (await task).body == b"ok"
        assert us._kept == []


# -- The pool ----------------------------------------------------------------------------------------


class Counting:
    """A server that counts its connections, and how many there were at a time."""

    def __init__(self, *answers: bytes, wait: float = 0) -> None:
        self.answers, self.wait = answers, wait
        self.connections = self.now = self.most = 0
        self.ended = asyncio.Event()

    async def __call__(self, reader, writer):
        self.connections += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            for answer in self.answers or [OK] * 1000:
                await head_of(reader)
                if self.wait:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self.wait):
                            await reader.read(1)
                            return
                writer.write(answer)
        finally:
            self.now -= 1
            self.ended.set()


async def test_a_connection_is_used_again():
    server = Counting()
    async with server_that(server) as url, client() as us:
        for _ in range(5):
            assert (await us.request("GET", url)).body == b"ok"
        await us.request("POST", url, body=b"")
    assert server.connections == 1


async def test_a_connection_is_used_for_its_origin_only():
    one, two = Counting(), Counting(*[OK[:-2] + b"22"] * 9)
    async with server_that(one) as first, server_that(two) as second, client() as us:
        for url, body in ((first, b"ok"), (second, b"22")) * 2:
            assert (await us.request("GET", url)).body == body
        assert (await us.request("GET", second.replace("127.0.0.1", "localhost"))).body == b"22"
    assert (one.connections, two.connections) == (1, 2)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",  # nobody's answer, or the next one's?
        OK + b"\r\n",
    ],
)
async def test_a_connection_that_is_not_used_again(answer):
    server = Counting(answer, answer)
    async with server_that(server) as url, client() as us:
        for _ in range(3):
            assert (await us.request("GET", url)).body == b"ok"
    assert server.connections == 3


async def test_connection_close_in_our_request():
    server = Counting()
    async with server_that(server) as url, client() as us:
        for _ in range(2):
            await us.request("GET", url, fields=[("Connection", "close")])
    assert server.connections == 2


async def test_at_most_so_many_to_one_host_and_the_others_wait():
    server = Counting(wait=TICK / 5)
    async with server_that(server) as url, client(max_per_host=3) as us:
        answers = await asyncio.gather(*[us.request("GET", url) for _ in range(12)])
        assert {answer.body for answer in answers} == {b"ok"}
        assert len(us._kept) == 3
    assert (server.most, server.connections) == (3, 3)


async def test_at_most_so_many_in_all_and_the_oldest_idle_one_makes_room():
    servers = [Counting(wait=TICK / 5) for _ in range(3)]
    async with contextlib.AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(server_that(server)) for server in servers]
        us = await stack.enter_async_context(client(max_connections=4))
        await asyncio.gather(*[us.request("GET", url) for url in urls * 5])
        assert len(us._kept) <= 4
        assert us._busy == 0
        for url in urls:
            await us.request("GET", url)
        assert len(us._kept) <= 4
    assert sum(server.most for server in servers) < 3 * 5
    assert not us._kept


async def test_whoever_waits_too_long_for_a_turn_is_late():
    async with server_that(Counting(wait=20 * TICK)) as url, client(max_per_host=1) as us:
        first = asyncio.create_task(us.request("GET", url))
        await asyncio.sleep(0)
        us._timeout = 2 * TICK
        with pytest.raises(TimeoutError):
            await us.request("GET", url)
        first.cancel()
        await asyncio.wait([first])
        us._timeout = PATIENCE
        assert us._busy == 0


async def test_an_idle_connection_ends_after_a_while():
    server = Counting()
    async with server_that(server) as url, client(idle_seconds=2 * TICK) as us:
        await us.request("GET", url)
        await server.ended.wait()
        assert us._kept == []
        assert (await us.request("GET", url)).body == b"ok"
    assert server.connections == 2


@pytest.mark.parametrize(
    "last_words", [b"", b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nevil"]
)
async def test_a_server_that_ends_an_idle_connection_or_says_something_on_it(last_words):
    """What comes while nothing is asked must not answer the next question, not even a POST's."""
    said = asyncio.Event()

    async def behave(reader, writer):
        await head_of(reader)
        writer.write(OK)
        await asyncio.sleep(TICK / 5)
        writer.write(last_words)
        if last_words:
            await reader.read()
        said.set()

    async with server_that(behave) as url, client() as us:
        await us.request("GET", url)
        while us._kept:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(TICK / 10)
        await said.wait()
        assert (await us.request("POST", url, body=b"")).body == b"ok"


@pytest.mark.parametrize("last_words", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"])
async def test_what_comes_in_the_moment_before_the_next_request(last_words):
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with client() as us:
            for _ in range(2):
                asked = asyncio.create_task(us.request("POST", url))
                peer, _ = await loop.sock_accept(listening)
                with peer:
                    assert await loop.sock_recv(peer, 1000)
                    peer.sendall(OK)
                    assert (await asked).body == b"ok"
                    peer.sendall(last_words)


def closes_when_asked_again(times: int, first_words: bytes = b""):
    """Serves one request per connection and keeps it, but ends it on the next; so for the first connections."""
    heads = []

    async def behave(reader, writer):
        number = len(heads)
        heads.append(await head_of(reader))
        writer.write(OK)
        heads.append(await head_of(reader))
        if number >= times:
            writer.write(OK)
            await reader.read()
        writer.write(first_words)

    behave.heads = heads
    return behave


async def test_an_idempotent_request_is_sent_again_on_a_new_connection():
    for method, body in (("GET", None), ("PUT", b"x"), ("DELETE", None)):
        behave = closes_when_asked_again(1)
        async with server_that(behave) as url, client() as us:
            await us.request("GET", url)
            assert (await us.request(method, url, body=body)).body == b"ok"
        assert len(behave.heads) == 3


async def pieces_of(*pieces: bytes):
    for piece in pieces:
        yield piece


@pytest.mark.parametrize(("method", "streamed"), [("POST", False), ("PATCH", False), ("PUT", True)])
async def test_what_may_not_or_cannot_be_sent_again_is_not(method, streamed):
    behave = closes_when_asked_again(1)
    async with server_that(behave) as url, client() as us:
        await us.request("GET", url)
        with pytest.raises(RemoteProtocolError, match="without an answer"):
            await us.request(method, url, body=pieces_of(b"x") if streamed else b"x")
    assert len(behave.heads) == 2


async def test_after_the_first_byte_of_an_answer_nothing_is_sent_again():
    behave = closes_when_asked_again(1, b"H")
    async with server_that(behave) as url, client() as us:
        await us.request("GET", url)
        with pytest.raises(RemoteProtocolError, match="in the middle"):
            await us.request("GET", url)
    assert len(behave.heads) == 2


async def test_a_new_connection_that_ends_is_not_tried_again():
    async with server_that(that_answers(b"", OK)) as url, client() as us:
        with pytest.raises(RemoteProtocolError, match="without an answer"):
            await us.request("GET", url)
        assert (await us.request("GET", url)).body == b"ok"


async def test_a_reset_of_a_connection_that_was_idle_is_survived():
    heads = []

    async def behave(reader, writer):
        heads.append(await head_of(reader))
        writer.write(OK)
        heads.append(await head_of(reader))
        if len(heads) == 2:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        else:
            writer.write(OK)

    async with server_that(behave) as url, client() as us:
        await us.request("GET", url)
        assert (await us.request("GET", url)).body == b"ok"
    assert len(heads) == 3


# -- Streams -----------------------------------------------------------------------------------------


async def test_a_stream_arrives_piece_by_piece():
    more = asyncio.Event()

    async def behave(reader, writer):
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await more.wait()
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")
        await head_of(reader)
        writer.write(OK)

    async with server_that(behave) as url, client() as us:
        async with us.stream("GET", url) as answer:
            assert (answer.status, answer.fields["transfer-encoding"]) == (200, "chunked")
            assert await anext(answer.body) == b"one"
            more.set()
            assert b"".join([piece async for piece in answer.body]) == b"two"
        assert (await us.request("GET", url)).body == b"ok"  # on the same connection


async def test_a_slow_reader_is_not_sent_what_it_does_not_take():
    sent = 0

    async def behave(reader, writer):
        nonlocal sent
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(bytes(65536))
            sent += 65536
            await writer.drain()

    async with server_that(behave) as url, client() as us, us.stream("GET", url) as answer:
        await anext(answer.body)
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(2 * TICK)
        assert sent < 16 << 20
        await anext(answer.body)


async def test_what_is_left_of_a_stream_is_given_up():
    server = Counting(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(1000), OK)
    async with server_that(server) as url, client() as us:
        async with us.stream("GET", url) as answer:
            assert answer.status == 200
        assert us._kept == []
        async with us.stream("GET", url) as answer:
            assert await anext(answer.body)
        assert us._kept == []
        await server.ended.wait()


async def test_what_is_left_of_a_stream_and_here_already_is_read():
    server = Counting()
    async with server_that(server) as url, client() as us:
        async with us.stream("GET", url):
            pass
        assert len(us._kept) == 1
        assert (await us.request("GET", url)).body == b"ok"
    assert server.connections == 1


async def test_an_error_in_the_block_leaves_nothing_behind():
    async with server_that(Counting(b"HTTP/1.1 200 OK\r\n\r\nabc" + bytes(100_000))) as url, client() as us:
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
            async with us.stream("GET", url) as answer:
                async for _ in answer.body:
                    raise ZeroDivisionError
        assert (us._kept, us._busy) == ([], 0)


async def test_a_cancelled_request_leaves_nothing_behind():
    async with server_that(silent) as url, client() as us:
        for body in (None, b"x", pieces_of(b"x")):
            task = asyncio.create_task(us.request("PUT", url, body=body))
            await asyncio.sleep(TICK)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert (us._kept, us._busy) == ([], 0)


# -- Uploads -----------------------------------------------------------------------------------------


async def test_an_upload_of_unknown_length_is_chunked_and_a_known_one_is_not():
    async with serve() as server, client() as us:
        url = "http://{}:{}/".format(*server.address)
        answer = await us.request("POST", url + "headers", body=pieces_of(b"a"))
        assert answer.status == 405
        for fields in ([], [("Content-Length", "8")]):
            answer = await us.request("PUT", url + "upload", body=pieces_of(b"one", b"", b"two", b"go"), fields=fields)
            assert json.loads(answer.body) == {"bytes": 8, "sha256": hashlib.sha256(b"onetwogo").hexdigest()}
        assert len(us._kept) == 1


@pytest.mark.parametrize("length", ["5", "7"])
async def test_a_body_that_is_not_as_long_as_it_says_is_our_error_and_does_not_pass(length):
    ended = asyncio.Event()
    got = bytearray()

    async def behave(reader, writer):
        with contextlib.suppress(ConnectionError):
            got.extend(await reader.read())
        ended.set()

    async with server_that(behave) as url, client() as us:
        with pytest.raises(LocalProtocolError, match=r"1 bytes (less|more) than Content-Length"):
            await us.request("PUT", url, body=pieces_of(b"one", b"two"), fields=[("Content-Length", length)])
        await ended.wait()
    assert not got.endswith(b"onetwo") or length == "7"


async def test_an_error_in_the_callers_body_is_the_callers_and_the_server_sees_no_end():
    got = asyncio.get_running_loop().create_future()

    async def behave(reader, writer):
        data = b""
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(65536):
                data += piece
        got.set_result(data)

    async def body():
        yield b"half"
        await asyncio.sleep(TICK / 5)
        raise ZeroDivisionError

    async with server_that(behave) as url, client() as us:
        with pytest.raises(ZeroDivisionError):
            await us.request("POST", url, body=body())
        assert (await got).endswith(b"4\r\nhalf\r\n")
        assert us._kept == []


class Endless:
    """A body without end, that knows how much of it was taken, and whether it was closed."""

    def __init__(self) -> None:
        self.taken = 0
        self.closed = False

    async def pieces(self):
        try:
            while True:
                yield bytes(65536)
                self.taken += 65536
                await asyncio.sleep(0)
        finally:
            self.closed = True


async def test_an_error_in_the_callers_body_makes_no_answer_whole():
    """The connection ends because of it, and this answer ends with the connection."""

    async def behave(reader, writer):
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await silent(reader, writer)

    async def body():
        yield b"half"
        await begun.wait()
        raise ZeroDivisionError

    begun = asyncio.Event()
    async with server_that(behave) as url, client() as us, us.stream("POST", url, body=body()) as answer:
        assert await anext(answer.body) == b"half"
        begun.set()
        with pytest.raises(ZeroDivisionError):
            await anext(answer.body)


@pytest.mark.parametrize("end", [b"Connection: close\r\n", b""])
async def test_an_early_error_stops_the_upload_and_is_the_answer(end):
    async def behave(reader, writer):
        await head_of(reader)
        await reader.readexactly(1_000_000)
        writer.write(b"HTTP/1.1 413 Content Too Large\r\n" + end + b"Content-Length: 8\r\n\r\ntoo long")
        await writer.drain()
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass

    body = Endless()
    async with server_that(behave) as url, client() as us:
        answer = await us.request("POST", url, body=body.pieces())
        assert (answer.status, answer.body) == (413, b"too long")
        assert body.closed
        assert us._kept == []


async def test_an_early_error_stops_the_upload_before_its_text_is_here():
    async def behave(reader, writer):
        await head_of(reader)
        writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\n")
        with contextlib.suppress(TimeoutError):
            while True:  # until nothing comes any more
                async with asyncio.timeout(4 * TICK):
                    assert await reader.read(1 << 20)
        writer.write(b"no")

    async with server_that(behave) as url, client() as us:
        assert (await us.request("POST", url, body=Endless().pieces())).body == b"no"


async def test_our_server_refuses_what_is_too_large_and_our_client_hears_it():
    body = Endless()
    async with serve(max_body=1 << 20) as server, client() as us:
        answer = await us.request("PUT", "http://{}:{}/upload".format(*server.address), body=body.pieces())
        assert answer.status == 413
        assert body.closed


async def test_an_upload_is_no_faster_than_the_server():
    async def behave(reader, writer):
        await head_of(reader)
        await done.wait()

    done = asyncio.Event()
    body = Endless()
    async with server_that(behave) as url, client(timeout=4 * TICK) as us:
        with pytest.raises(TimeoutError):
            await us.request("POST", url, body=body.pieces())
        done.set()
    assert body.closed
    assert body.taken < 16 << 20


async def test_an_upload_and_its_answer_at_the_same_time():
    more = asyncio.Event()

    async def body():
        yield bytes(100_000)  # Less is echoed in one piece.
        await more.wait()
        yield b"more"

    async with serve() as server, client() as us:
        async with us.stream("POST", "http://{}:{}/".format(*server.address), body=body()) as answer:
            size = 0
            async for piece in answer.body:
                size += len(piece)
                if size == 100_000:
                    more.set()
        assert size == 100_004
        assert len(us._kept) == 1


async def test_a_large_body_in_memory_and_a_server_that_answers_first():
    """write() without reading would wait for ever, and so would the server."""

    async def behave(reader, writer):
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 12000000\r\n\r\n" + bytes(12_000_000))
        await writer.drain()
        await reader.readexactly(12_000_000)

    async with server_that(behave) as url, client() as us:
        answer = await us.request("POST", url, body=bytes(12_000_000))
        assert len(answer.body) == 12_000_000
        assert us._kept == []  # Not all is sent yet.


# -- Expect: 100-continue ----------------------------------------------------------------------------


async def test_the_body_waits_for_100():
    before = b""

    async def behave(reader, writer):
        nonlocal before
        assert "Expect: 100-continue" in await head_of(reader)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * TICK):
                before = await reader.read(1)
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await reader.readexactly(5) == b"hello"
        writer.write(OK)
        await reader.read()

    async with server_that(behave) as url, client(expect_seconds=PATIENCE) as us:
        assert (await us.request("PUT", url, body=b"hello", expect=True)).body == b"ok"
        assert before == b""
        assert len(us._kept) == 1


async def test_the_body_does_not_wait_for_ever():
    async def behave(reader, writer):
        await head_of(reader)
        assert await reader.readexactly(5) == b"hello"
        writer.write(OK)
        await reader.read()

    async with server_that(behave) as url, client(expect_seconds=2 * TICK) as us:
        assert (await us.request("PUT", url, body=b"hello", expect=True)).body == b"ok"
        assert len(us._kept) == 1


@pytest.mark.parametrize("status", [413, 417, 401, 200])
async def test_a_final_answer_instead_of_100_spares_the_body(status):
    got = asyncio.get_running_loop().create_future()

    async def behave(reader, writer):
        await head_of(reader)
        writer.write(b"HTTP/1.1 %d Whatever\r\nContent-Length: 2\r\n\r\n" % status)
        if status == 200:
            await asyncio.sleep(4 * TICK)
        writer.write(b"no")
        got.set_result(await reader.read())

    async with server_that(behave) as url, client(expect_seconds=2 * TICK) as us:
        answer = await us.request("PUT", url, body=b"hello", expect=True)
        assert (answer.status, answer.body) == (status, b"no")
        assert us._kept == []  # The server may still wait for the body.
        assert await got == b""


async def test_expect_with_our_server():
    async with serve() as server, client(expect_seconds=PATIENCE) as us:
        url = "http://{}:{}/upload".format(*server.address)
        for body in (b"hello", pieces_of(b"hel", b"lo")):
            assert json.loads((await us.request("PUT", url, body=body, expect=True)).body)["bytes"] == 5


# -- Redirects ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "method", "then"),
    [
        (301, "GET", "GET"),
        (302, "HEAD", "HEAD"),
        (301, "POST", "GET"),
        (302, "POST", "GET"),
        (303, "POST", "GET"),
        (303, "PUT", "GET"),
        (303, "HEAD", "HEAD"),
        (307, "POST", "POST"),
        (308, "POST", "POST"),
        (308, "DELETE", "DELETE"),
        (302, "PUT", "PUT"),
        (300, "GET", None),
        (304, "GET", None),
        (305, "GET", None),
        (200, "GET", None),
    ],
)
def test_the_method_after_a_redirect(status, method, then):
    request = Request(method, "http://a.lab/x", [("Content-Type", "t/t"), ("A", "b")], b"body", True)
    after = redirected(request, Response(status, "", {"location": "/y"}, []))
    if then is None:
        assert after is None
    elif then == method:
        assert after == request._replace(url="http://a.lab/y")
    else:
        assert after == Request("GET", "http://a.lab/y", [("A", "b")])


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/y", "http://a.lab/y"),
        ("y?q", "http://a.lab/d/y?q"),
        ("../y", "http://a.lab/y"),
        ("?q", "http://a.lab/d/x?q"),
        ("//b.lab/y", "http://b.lab/y"),
        ("https://b.lab", "https://b.lab"),
        ("HTTP://B.lab/", "http://B.lab/"),
        ("/a b", "http://a.lab/a%20b"),
        ("/%C3%A4", "http://a.lab/%C3%A4"),
        ("/\xc3\xa4", "http://a.lab/%C3%A4"),  # UTF-8 as it came, a character per byte
        ("/y?x[]=1", "http://a.lab/y?x%5B%5D=1"),
        ("//[::1]:81/[/]?[#[", "http://[::1]:81/%5B/%5D?%5B#["),
        ("/a%zz%4", "http://a.lab/a%25zz%254"),
        ('/"<>\\^`{|}\x7f\t', "http://a.lab/%22%3C%3E%5C%5E%60%7B%7C%7D%7F%09"),
        ("", "http://a.lab/d/x"),
    ],
)
def test_where_a_redirect_leads(location, url):
    request = Request("GET", "http://a.lab/d/x", [])
    assert redirected(request, Response(302, "", {"location": location}, [])).url == url


@pytest.mark.parametrize(
    ("location", "trusted"),
    [
        ("/y", True),
        ("http://a.lab:80/y", True),
        ("http://A.LAB/y", True),
        ("http://b.lab/y", False),
        ("http://a.lab:81/y", False),
        ("https://a.lab/y", False),
        ("//b.a.lab/", False),
    ],
)
def test_other_origins_are_told_no_secrets(location, trusted):
    secrets = [("Authorization", "x"), ("cookie", "y"), ("Proxy-Authorization", "z"), ("Host", "a.lab")]
    request = Request("GET", "http://a.lab/", [("A", "b"), *secrets])
    after = redirected(request, Response(307, "", {"location": location}, []))
    assert after.fields == (request.fields if trusted else [("A", "b")])


@pytest.mark.parametrize("location", [bytes(range(32, 80)), bytes(range(80, 127)), bytes(range(128, 256))])
async def test_a_redirect_to_whatever_path_is_followed(location):
    wire = b"HTTP/1.1 302 Found\r\nLocation: /?%b\r\nContent-Length: 0\r\n\r\n" % location
    async with server_that(that_answers(wire, OK)) as url, client() as us:
        assert (await us.request("GET", url)).body == b"ok"


@pytest.mark.parametrize("host", ["a..b", "a" * 70])
async def test_a_name_that_is_none_cannot_be_connected_to(host):
    async with client() as us:
        with pytest.raises(OSError, match="is no name of a host"):
            await us.request("GET", f"http://{host}/")


async def test_redirects_are_followed_on_one_connection_and_counted():
    server = Counting(*[b"HTTP/1.1 302 Found\r\nLocation: ?x\r\nContent-Length: 4\r\n\r\ngone"] * 100)
    async with server_that(server) as url, client(max_redirects=5) as us:
        with pytest.raises(RemoteProtocolError, match="more than 5 redirects"):
            await us.request("GET", url)
    assert server.connections == 1
    async with serve() as site, client(max_redirects=5) as us:
        url = "http://{}:{}".format(*site.address)
        answer = await us.request("GET", f"{url}/redirect?n=5&to=/bytes/3")
        assert (answer.status, answer.body, answer.url) == (200, b"\0\1\2", f"{url}/bytes/3")
        answer = await us.request("POST", f"{url}/redirect?n=2&status=307", body=b"again")
        assert (answer.body, answer.url) == (b"again", f"{url}/")
    async with server_that(that_answers(*[b"HTTP/1.1 302 F\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"] * 2)) as url:
        async with client(max_redirects=0) as us:
            assert (await us.request("GET", url)).status == 302


async def test_a_body_that_is_gone_is_not_sent_to_the_next_place():
    async with serve() as site, client() as us:
        url = "http://{}:{}/redirect?to=/upload&status=".format(*site.address)
        assert (await us.request("PUT", url + "307", body=pieces_of(b"x"))).status == 307
        assert (await us.request("PUT", url + "307", body=b"x")).status == 200
        assert (await us.request("POST", url + "303", body=pieces_of(b"x"))).status == 405  # GET /upload


# -- gzip --------------------------------------------------------------------------------------------


def packed(data: bytes, coding: bytes = b"gzip") -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n%b" % (coding, len(data), data)


@pytest.mark.parametrize(
    ("wire", "body"),
    [
        (packed(gzip.compress(b"hello" * 1000, mtime=0)), b"hello" * 1000),
        (packed(gzip.compress(b"hello", mtime=0), b"X-GZIP"), b"hello"),
        (
            packed(gzip.compress(b"one", mtime=0) + gzip.compress(b"", mtime=0) + gzip.compress(b"two", mtime=0)),
            b"onetwo",
        ),
        (packed(gzip.compress(b"", mtime=0)), b""),
        (packed(b""), b""),
        (packed(gzip.compress(bytes(3_000_000), mtime=0)), bytes(3_000_000)),
        (packed(b"as it is", b"br"), b"as it is"),
        (OK, b"ok"),
    ],
)
async def test_packed_answers(wire, body):
    async with server_that(that_answers(wire, wire)) as url, client() as us:
        assert (await us.request("GET", url, gzip=True)).body == body
        assert (await us.request("GET", url)).body == wire.partition(b"\r\n\r\n")[2]  # Nobody has asked to unpack it.


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_a_packed_answer_in_pieces(size):
    data = os.urandom(1000) + bytes(100_000)
    wire = gzip.compress(data)

    async def behave(reader, writer):
        await head_of(reader)
        writer.write(packed(wire).removesuffix(wire))
        for i in range(0, len(wire), size):
            writer.write(wire[i : i + size])
            await asyncio.sleep(0)

    async with server_that(behave) as url, client() as us:
        assert (await us.request("GET", url, gzip=True)).body == data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"not gzip at all", "this is not gzip"),
        (gzip.compress(b"hello" * 100, mtime=0)[:-5], "ends in the middle"),
        (gzip.compress(b"hello", mtime=0) + b"garbage", "this is not gzip"),
        (gzip.compress(b"hello", mtime=0)[:-8] + bytes(8), "this is not gzip"),  # its checksum is wrong
        (zlib.compress(b"hello"), "this is not gzip"),
    ],
)
async def test_what_is_not_packed_as_it_says(data, words):
    async with server_that(that_answers(packed(data))) as url, client() as us:
        with pytest.raises(RemoteProtocolError, match=words):
            await us.request("GET", url, gzip=True)


async def test_a_bomb_does_not_go_off():
    """Eight kilobytes that are eight megabytes."""
    bomb = packed(gzip.compress(bytes(8 << 20)))
    async with server_that(that_answers(bomb, bomb)) as url, client(max_answer=1 << 20) as us:
        tracemalloc.start()
        with pytest.raises(RemoteProtocolError, match="more than 1048576 bytes"):
            await us.request("GET", url, gzip=True)
        async with us.stream("GET", url, gzip=True) as answer:
            for _ in range(100):
                assert 0 < len(await anext(answer.body)) <= UNPACKED
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 << 20


@pytest.mark.parametrize("wire", [b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
async def test_an_answer_is_bounded(wire):
    async with server_that(that_answers(wire + bytes(11))) as url, client(max_answer=10) as us:
        with pytest.raises(RemoteProtocolError, match="an answer of more than 10 bytes"):
            await us.request("GET", url)


# -- Fairness ----------------------------------------------------------------------------------------


class Turns:
    """The most steps that are made before all others have their turn."""

    def __init__(self) -> None:
        self.most = self._now = 0

    def step(self) -> None:
        self._now += 1

    async def __aenter__(self):
        self._task = asyncio.create_task(self._count())
        return self

    async def __aexit__(self, *_):
        self._task.cancel()
        await asyncio.wait([self._task])
        self.most = max(self.most, self._now)

    async def _count(self):
        while True:
            self.most, self._now = max(self.most, self._now), 0
            await asyncio.sleep(0)


async def test_the_smallest_chunks_do_not_keep_us_busy():
    wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n"
    async with server_that(that_answers(wire)) as url, client() as us, Turns() as turns:
        async with us.stream("GET", url) as answer:
            async for _ in answer.body:
                turns.step()
    assert turns.most <= TURN


@pytest.mark.parametrize("content", [b"", b"x"])
async def test_the_smallest_gzip_files_do_not_keep_us_busy(content, monkeypatch):
    given = 0

    class Counted:
        """zlib's, and how many bytes it was given: it copies all that are behind the end of a file."""

        def __init__(self, **options):
            turns.step()
            self.inflate = inflate(**options)

        def decompress(self, packed, most):
            nonlocal given
            given += len(packed)
            return self.inflate.decompress(packed, most)

        def __getattr__(self, name):
            return getattr(self.inflate, name)

    inflate = zlib.decompressobj
    monkeypatch.setattr(zlib, "decompressobj", Counted)
    async with Turns() as turns:
        assert await drop(unzip(pieces_of(gzip.compress(content) * 5000))) == 5000 * len(content)
    assert turns.most <= TURN + 1  # one before the first step
    assert given < 5000 * PACKED


async def test_a_long_rest_of_tiny_chunks_is_given_up():
    wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n"
    async with server_that(that_answers(wire, OK)) as url, client() as us:
        async with us.stream("GET", url):
            pass
        assert us._kept == []
        assert (await us.request("GET", url)).body == b"ok"


# -- Deadlines ---------------------------------------------------------------------------------------


def drips(pause: float, wire: bytes):
    async def behave(reader, writer):
        await head_of(reader)
        for byte in wire:
            writer.write(bytes([byte]))
            await asyncio.sleep(pause)

    return behave


async def test_a_drip_is_too_slow_for_a_request_and_not_for_a_stream():
    wire = b"HTTP/1.1 200 OK\r\n\r\n" + b"." * 11
    async with server_that(drips(TICK / 2, wire)) as url, client(timeout=4 * TICK) as us:
        with pytest.raises(TimeoutError):
            await us.request("GET", url)
    async with server_that(drips(TICK, wire)) as url, client(timeout=20 * TICK) as us:
        async with us.stream("GET", url) as answer:
            assert await drop(answer.body) == 11


async def test_an_upgrade_is_not_for_us():
    wire = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    async with server_that(that_answers(wire)) as url, client() as us:
        with pytest.raises(RemoteProtocolError, match="101"):
            await us.request("GET", url, fields=[("Upgrade", "x"), ("Connection", "upgrade")])
        assert us._kept == []


@pytest.mark.parametrize("wire", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", OK[:-1]])
async def test_silence_is_waited_for_only_so_long(wire):
    async def behave(reader, writer):
        await head_of(reader)
        writer.write(wire)
        await reader.read()

    async with server_that(behave) as url, client(timeout=2 * TICK) as us:
        with pytest.raises(TimeoutError):
            await us.request("GET", url)
        with pytest.raises(TimeoutError):
            async with us.stream("GET", url) as answer:
                await drop(answer.body)
        assert (us._kept, us._busy) == ([], 0)


async def test_a_long_upload_that_goes_on_is_not_late():
    async def behave(reader, writer):
        head = await head_of(reader)
        assert "chunked" in head
        while b"0\r\n\r\n" not in await reader.read(65536):
            pass
        writer.write(OK)

    async def body():
        for _ in range(10):
            await asyncio.sleep(TICK)
            yield b"x"

    async with server_that(behave) as url, client(timeout=4 * TICK) as us:
        async with us.stream("POST", url, body=body()) as answer:
            assert await drop(answer.body) == 2


# -- Pipelining --------------------------------------------------------------------------------------


async def test_pipelined_answers_come_in_order():
    async with serve() as server:
        url = "http://{}:{}".format(*server.address)
        targets = [f"/slow?seconds={2 * TICK}", "/bytes/3", "/status/204", "/nowhere", "/bytes/300000"]
        answers = await pipeline([url + target for target in targets], timeout=PATIENCE)
        assert [answer.status for answer in answers] == [200, 200, 204, 404, 200]
        assert [len(answer.body) for answer in answers[1:]] == [3, 0, 50, 300_000]
        assert answers[1].url == f"{url}/bytes/3"


@pytest.mark.parametrize(
    ("wire", "words"),
    [
        (OK + OK, "without"),
        (OK + b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", "without"),
        (OK + b"HTTP/1.1 200 OK\r\n\r\nthe rest" + OK, "without"),
        (OK + b"nonsense\r\n\r\n", ""),
    ],
)
async def test_a_pipeline_that_breaks(wire, words):
    async with server_that(that_answers(wire)) as url:
        with pytest.raises(RemoteProtocolError, match=words or None):
            await pipeline([url] * 3, timeout=PATIENCE)


async def test_a_pipeline_has_one_origin():
    for urls in ([], ["http://127.0.0.1:1/", "http://127.0.0.1:2/"]):
        with pytest.raises(LocalProtocolError):
            await pipeline(urls)


# -- TLS ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(1))
        .not_valid_after(now + datetime.timedelta(1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(__import__("ipaddress").ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


async def test_https_verifies_and_the_context_passes_through(certificate):
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(certificate)
    ours = ssl.create_default_context(cafile=certificate)
    server = Counting()
    async with server_that(server, ssl=theirs) as url:
        async with client(ssl=ours) as us:
            for _ in range(2):
                assert (await us.request("GET", url)).body == b"ok"
        assert server.connections == 1
        async with client() as us:
            with pytest.raises(ssl.SSLCertVerificationError):
                await us.request("GET", url)
        assert [answer.body for answer in await pipeline([url] * 2, ssl=ours)] == [b"ok", b"ok"]


# -- Foreign servers ---------------------------------------------------------------------------------


async def test_pythons_own_server(tmp_path):
    (tmp_path / "file").write_bytes(bytes(range(256)) * 1000)

    class Handler(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(TICK,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}"
            async with client() as us:
                answer = await us.request("GET", url + "/file")
                assert answer.body == bytes(range(256)) * 1000
                date = answer.fields["last-modified"]
                assert (await us.request("GET", url + "/file", fields=[("If-Modified-Since", date)])).status == 304
                assert (await us.request("HEAD", url + "/file")).fields["content-length"] == "256000"
                assert (await us.request("GET", url + "/nothing")).status == 404
                assert (await us.request("POST", url + "/file", body=b"x")).status == 501
                assert (await us.request("GET", url)).status == 200
        finally:
            await asyncio.to_thread(server.shutdown)
            thread.join()


NGINX = """
daemon off; master_process off; pid {path}/pid; error_log {path}/error.log;
events {{ }}
http {{
  access_log off; client_max_body_size 10m; gzip on; gzip_types *; gzip_min_length 1; keepalive_requests 3;
  client_body_temp_path {path}/1; proxy_temp_path {path}/2; fastcgi_temp_path {path}/3; uwsgi_temp_path {path}/4;
  scgi_temp_path {path}/5;
  server {{
    listen 127.0.0.1:{port}; root {path}/www;
    location /proxy/ {{ proxy_pass {ours}/; proxy_http_version 1.1; proxy_request_buffering off; }}
    location = /moved {{ return 301 /file; }}
  }}
}}
"""


@contextlib.asynccontextmanager
async def nginx(path: Path, ours: str):
    need_tool("nginx")
    (path / "www").mkdir()
    (path / "www/file").write_bytes(b"a file " * 10_000)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (path / "conf").write_text(NGINX.format(path=path, port=port, ours=ours))
    command = ["nginx", "-p", str(path), "-c", str(path / "conf"), "-e", str(path / "error.log")]
    process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL)
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                except ConnectionRefusedError:
                    assert process.returncode is None, (path / "error.log").read_text()
                    await asyncio.sleep(TICK / 5)
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_nginx(tmp_path):
    async with serve() as server, nginx(tmp_path, "http://{}:{}".format(*server.address)) as url, client() as us:
        file = b"a file " * 10_000
        for _ in range(7):  # It ends the connection after three, and says so.
            assert (await us.request("GET", url + "/file")).body == file
        answer = await us.request("GET", url + "/file", gzip=True)
        assert (answer.fields["content-encoding"], answer.body) == ("gzip", file)
        answer = await us.request("GET", url + "/moved")
        assert (answer.status, answer.url) == (200, url + "/file")
        assert (await us.request("HEAD", url + "/file")).fields["content-length"] == str(len(file))
        assert (await us.request("GET", url + "/file", fields=[("Range", "bytes=0-5")])).body == b"a file"
        assert (await us.request("PUT", url + "/file", body=b"x")).status == 405
        # Early answers, and uploads through it to our server
        body = Endless()
        answer = await us.request("POST", url + "/proxy/upload", body=body.pieces())
        assert answer.status == 413
        assert body.closed
        answer = await us.request("PUT", url + "/proxy/upload", body=pieces_of(*[bytes(65536)] * 50), expect=True)
        assert json.loads(answer.body)["bytes"] == 50 * 65536
        assert [answer.status for answer in await pipeline([url + "/file", url + "/none"])] == [200, 404]


# -- The program -------------------------------------------------------------------------------------


def program(*arguments: str):
    command = [sys.executable, "-m", "clients.http1", *arguments]
    return asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


async def test_the_program_shows_what_is_on_the_wire():
    async with serve() as server:
        url = "http://{}:{}".format(*server.address)
        process = await program("-d", "some words", "-H", "Content-Type: text/x", f"{url}/")
        out, err = await process.communicate()
    lines = [line for line in out.decode().splitlines() if not line.startswith("< date")]
    host, port = server.address
    assert lines == [
        f"= connected to {host} port {port}",
        "> POST / HTTP/1.1",
        f"> Host: {host}:{port}",
        "> Content-Type: text/x",
        "> content-length: 10",
        "< HTTP/1.1 200 OK",
        "< content-type: text/x",
        "< content-length: 10",
        "< b'some words'",
        "= closed",
    ]
    assert (process.returncode, err) == (0, b"")


async def test_ctrl_c():
    asked = asyncio.Event()

    async def behave(reader, writer):
        await head_of(reader)
        asked.set()
        await reader.read()

    async with server_that(behave) as url:
        process = await program(url)
        await asked.wait()
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert (process.returncode, err) == (130, b"")


@pytest.mark.parametrize(
    ("server", "arguments", "code", "words"),
    [
        (that_answers(OK), ["{}"], 0, "< b'ok'"),
        (that_answers(packed(gzip.compress(b"ok"))), ["--gzip", "{}"], 0, "< Content-Encoding: gzip"),
        (that_answers(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"), ["{}"], 1, "< HTTP/1.1 404 No"),
        (that_answers(b"SSH-2.0-OpenSSH\r\n"), ["{}"], 1, "! "),
        (that_answers(b"HTTP/1.1 200 \x9b31m\r\nX: \x9d\r\n\r\n\x1b]0;mine\x07"), ["{}"], 0, r"< X: \x9d"),
        (that_answers(b""), ["{}"], 1, "! the server has closed the connection without an answer"),
        (silent, ["--timeout", str(2 * TICK), "{}"], 1, "No answer from {}: nothing for 0.1 s."),
        (silent, ["http://127.0.0.1:1/"], 2, "Connection refused. Is `make http1-server` running?"),
        (silent, ["-X", "GE T", "{}"], 2, "Not sent: "),
        (silent, ["ftp://x/"], 2, "Not sent: 'ftp://x/' is not like http://host:port/path."),
        (silent, ["http://a..b/"], 2, "No answer from http://a..b/: 'a..b' is no name of a host."),
        (silent, ["-H", "no colon", "{}"], 2, "'no colon' is not like 'Name: value'"),
    ],
)
async def test_exit_codes(server, arguments, code, words, monkeypatch, caplog, capsys):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(logging, "raiseExceptions", True)  # main() changes it
    async with server_that(server) as url:
        monkeypatch.setattr(sys, "argv", ["clients.http1", *(argument.format(url) for argument in arguments)])
        try:
            assert await asyncio.to_thread(main) == code
        except SystemExit:  # argparse's way of saying 2
            assert code == 2
    said = caplog.text + "".join(capsys.readouterr())
    assert words.format(url) in said.replace(f"{2 * TICK:g} s", "0.1 s")
    assert not re.search(r"[\x1b\x9b\x9d\x07]", said)
