"""The HTTP/1.1 server on real sockets: what it answers, what it survives, and how it ends. Most clients are by hand."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import h11
import pytest

from protocols.http1 import ClientConnection, Data, EndOfMessage, Response
from servers import http1, site
from tests.conftest import TICK, need_tool
from tests.http1_cases import ENDLESS_REQUESTS, REQUESTS

PATIENCE = 200 * TICK  # what may happen at once gets this long on a busy machine
HELLO = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class Peer:
    """A client by hand: it sends what it likes, and reads answers by the rules."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.conn = ClientConnection()

    def send(self, data: bytes, *methods: str) -> None:
        """Send bytes that hold requests with these methods."""
        self.writer.write(data)
        self.conn._methods.extend((method, False) for method in methods or ["GET"])

    async def answer(self) -> tuple[Response, bytes]:
        """The next response and its body."""
        head, body = None, b""
        while True:
            event = self.conn.next_event()
            if event is None:
                self.conn.receive_data(await self.reader.read(65536))
            elif isinstance(event, Response):
                head = event
                if event.status < 200:
                    return event, b""
            elif isinstance(event, Data):
                body += event.data
            elif isinstance(event, EndOfMessage):
                return head, body
            else:
                raise EOFError

    def reset(self) -> None:
        """Vanish: RST."""
        linger_0 = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_0)
        self.writer.transport.abort()

    async def end(self) -> bytes:
        """All that comes until the server's FIN; ConnectionResetError when that is an RST."""
        return await self.reader.read()


@contextlib.asynccontextmanager
async def peer_of(server, patience=PATIENCE):
    async with asyncio.timeout(patience):
        reader, writer = await asyncio.open_connection(*server.address, limit=1 << 24)
        try:
            yield Peer(reader, writer)
        finally:
            writer.transport.abort()


async def talk(server, data: bytes) -> bytes:
    """Send, end, and return all that comes."""
    async with peer_of(server) as peer:
        peer.writer.write(data)
        peer.writer.write_eof()
        return await peer.end()


def url_of(server) -> str:
    return f"http://{server.address[0]}:{server.address[1]}"


def statuses(wire: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", wire)]  # A body may end without a line end.


# -- Requests and answers ----------------------------------------------------------------------------


async def test_requests_follow_each_other_on_one_connection():
    async with http1.serve() as server, peer_of(server) as peer:
        for _ in range(3):
            peer.send(HELLO)
            head, body = await peer.answer()
            assert (head.status, body) == (200, b"Hello, network!\n")
            assert "date" in head.fields
        assert len(server.talks) == 1


async def test_pipelined_requests_are_answered_in_their_order():
    """Also when the first takes time: the second waits, which is the head-of-line blocking of HTTP/1.1."""
    async with http1.serve() as server, peer_of(server) as peer:
        slow = HELLO.replace(b"/ ", b"/slow?seconds=0.2 ")
        peer.send(slow + HELLO + HELLO.replace(b"/ ", b"/status/404 "), "GET", "GET", "GET")
        assert [(await peer.answer())[1] for _ in range(3)] == [
            b"That took 0.2 s.\n",
            b"Hello, network!\n",
            b"Not Found\n",
        ]


async def test_a_thousand_pipelined_requests_leave_room_for_others():
    async with http1.serve() as server, peer_of(server) as flood, peer_of(server) as other:
        flood.send(HELLO * 1000, *["GET"] * 1000)
        other.send(HELLO)
        assert (await other.answer())[0].status == 200
        for _ in range(1000):
            assert (await flood.answer())[0].status == 200


async def test_what_is_good_is_answered_before_what_is_bad():
    async with http1.serve() as server:
        wire = await talk(
            server, HELLO + b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi" + b"GET\r\n\r\n" + HELLO
        )
    assert statuses(wire) == [200, 200, 400]
    assert b"\r\n\r\nhiHTTP/1.1 400" in wire
    assert b"connection: close" in wire.rpartition(b"400 Bad Request")[2]


async def test_head_has_the_fields_of_get_and_no_body():
    async with http1.serve() as server, peer_of(server) as peer:
        for path in (b"/", b"/bytes/1000000", b"/events?n=3"):
            peer.send(b"HEAD %b HTTP/1.1\r\nHost: a\r\n\r\n" % path, "HEAD")
            head, body = await peer.answer()
            assert (head.status, body) == (200, b"")
        peer.send(HELLO)
        assert (await peer.answer())[1] == b"Hello, network!\n"


async def test_the_client_may_end_its_side_and_still_gets_its_answer():
    async with http1.serve() as server:
        assert statuses(await talk(server, HELLO)) == [200]
        assert statuses(await talk(server, HELLO.replace(b"/ ", b"/slow?seconds=0.1 "))) == [200]


async def test_http_1_0():
    """It has no chunks, so the end of the connection ends the body; it keeps the connection only if asked to."""
    async with http1.serve() as server:
        wire = await talk(server, b"GET /events?n=2&interval=0 HTTP/1.0\r\n\r\n")
        assert b"connection: close" in wire
        assert b"chunked" not in wire
        assert wire.endswith(b"data: event 1\n\n")
        async with peer_of(server) as peer:
            for _ in range(2):
                peer.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
                head, _ = await peer.answer()
                assert head.fields["connection"] == "keep-alive"


async def test_a_body_is_streamed_both_ways():
    data = os.urandom(3_000_000)
    async with http1.serve() as server, peer_of(server) as peer:
        peer.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "POST")
        for i in range(0, len(data), 100_000):
            piece = data[i : i + 100_000]
            peer.writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        peer.writer.write(b"0\r\n\r\n")
        head, body = await peer.answer()
        assert head.fields["transfer-encoding"] == "chunked"
        assert hashlib.sha256(body).digest() == hashlib.sha256(data).digest()


async def test_100_continue_is_sent_when_the_body_is_wanted():
    ask = b"POST %b HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    async with http1.serve() as server:
        for path, answer in ((b"/", b"hello"), (b"/upload", b'{"bytes": 5')):
            async with peer_of(server) as peer:
                peer.send(ask % path, "POST")
                assert (await peer.answer())[0].status == 100
                peer.writer.write(b"hello")
                head, body = await peer.answer()
                assert head.status == 200
                assert body.startswith(answer)
                peer.send(HELLO)
                assert (await peer.answer())[0].status == 200
        async with peer_of(server) as peer:  # Nobody wants it: the answer comes at once, and the connection ends.
            peer.send(ask % b"/nothing", "POST")
            head, _ = await peer.answer()
            assert (head.status, head.fields["connection"]) == (404, "close")
            assert await peer.end() == b""
        async with peer_of(server) as peer:  # It did not wait: no 100 is needed.
            peer.send(ask % b"/" + b"hello", "POST")
            assert (await peer.answer())[0].status == 200


async def test_a_body_that_nobody_wants_is_skipped_for_the_request_behind_it():
    async with http1.serve() as server, peer_of(server) as peer:
        peer.send(b"POST /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n", "POST")
        assert (await peer.answer())[0].status == 404
        peer.send(bytes(200000) + HELLO)
        assert (await peer.answer())[0].status == 200


async def test_an_endless_body_that_nobody_wants_is_not_read_for_ever():
    async with http1.serve(linger_seconds=TICK) as server, peer_of(server) as peer:
        peer.send(b"POST /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n", "POST")
        assert (await peer.answer())[0].status == 404
        with contextlib.suppress(ConnectionError):  # before the patience of peer_of() ends
            while True:
                peer.writer.write(bytes(65536))
                await peer.writer.drain()


async def test_a_refused_upload_reads_why():
    """The lingering close: with its upload under way, the client still reads the answer and no RST destroys it."""
    async with http1.serve(max_body=1000) as server, peer_of(server) as peer:
        peer.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n" + bytes(5_000_000), "POST")
        head, body = await peer.answer()
        assert head.status == 413
        assert b"1000 bytes" in body


# -- Limits and deadlines ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case", [case for case in REQUESTS if not case.limits and not case.rest], ids=lambda case: case.name
)
async def test_the_table_of_hostile_requests_on_the_wire(case, server):
    """What is refused is answered before the connection ends; what is good before it is answered first."""
    wire = await talk(server, case.wire)
    found = statuses(wire)
    wanted = [want for want in case.want if isinstance(want, int)]
    assert found[len(case.want) - len(wanted) :] == wanted
    if wanted:
        refusal = wire[wire.rindex(b"HTTP/1.1 %d" % wanted[0]) :]
        assert b"\r\nconnection: close\r\n" in refusal
        assert len(refusal.partition(b"\r\n\r\n")[2]) > 10  # and says why


@pytest.fixture
async def server():
    async with http1.serve(head_seconds=PATIENCE, linger_seconds=PATIENCE) as server:
        yield server


@pytest.mark.parametrize("case", [case for case in ENDLESS_REQUESTS if not case.limits], ids=lambda case: case.name)
async def test_what_has_no_end_is_refused(case, server):
    async with peer_of(server) as peer:
        peer.writer.write(case.start + case.more * (200_000 // len(case.more)))
        wire = await peer.reader.readuntil(b"\r\n")
        assert statuses(wire) == [case.want]


async def test_the_head_has_a_deadline_and_trickling_does_not_move_it():
    async with http1.serve(head_seconds=4 * TICK) as server, peer_of(server) as peer:
        began = time.monotonic()
        answer = asyncio.create_task(peer.end())
        while not answer.done():
            peer.writer.write(b"G")
            await asyncio.sleep(TICK)
        assert statuses(answer.result()) == [408]
        assert 3.9 * TICK < time.monotonic() - began < PATIENCE


async def test_the_body_has_a_deadline():
    async with http1.serve(body_seconds=2 * TICK) as server:
        for path in (b"/upload", b"/nothing"):
            async with peer_of(server) as peer:
                peer.writer.write(b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello" % path)
                assert statuses(await peer.end()) == ([408] if path == b"/upload" else [404])


async def test_an_idle_connection_ends_without_a_word():
    async with http1.serve(idle_seconds=2 * TICK) as server, peer_of(server) as fresh, peer_of(server) as used:
        used.send(HELLO)
        assert (await used.answer())[0].status == 200
        assert await used.end() == b""
        assert await fresh.end() == b""


async def test_no_more_connections_than_agreed():
    async with http1.serve(max_connections=2) as server, peer_of(server) as one, peer_of(server) as two:
        for peer in (one, two):
            peer.send(HELLO)
            assert (await peer.answer())[0].status == 200
        async with peer_of(server) as three:
            assert statuses(await three.end()) == [503]
        async with contextlib.AsyncExitStack() as stack:  # A flood is not even told so.
            many = [await stack.enter_async_context(peer_of(server)) for _ in range(8)]
            ends = await asyncio.gather(*(peer.end() for peer in many), return_exceptions=True)
            assert any(isinstance(end, ConnectionError) or end == b"" for end in ends)
        one.send(HELLO)
        assert (await one.answer())[0].status == 200


async def test_who_does_not_read_is_not_waited_for():
    async with http1.serve(body_seconds=3 * TICK) as server:
        reader, writer = await asyncio.open_connection(*server.address, limit=1024)
        writer.write(HELLO.replace(b"/ ", b"/bytes/100000000 "))
        async with asyncio.timeout(PATIENCE):
            while not server.talks:  # noqa: ASYNC110
                await asyncio.sleep(TICK)
            while server.talks:  # noqa: ASYNC110
                await asyncio.sleep(TICK)
        with contextlib.suppress(ConnectionError):
            assert len(await reader.read()) < 100_000_000
        writer.transport.abort()


async def test_who_sends_but_does_not_read_is_not_waited_for_either():
    """What arrives does not move the deadline for what has to leave."""
    async with http1.serve(body_seconds=4 * TICK) as server, peer_of(server) as peer:
        peer.writer.transport.pause_reading()
        peer.writer.write(HELLO.replace(b"/ ", b"/bytes/100000000 "))
        with contextlib.suppress(ConnectionError):
            while True:
                peer.writer.write(b"G")
                await peer.writer.drain()
                await asyncio.sleep(TICK)
        assert not server.talks


async def test_memory_stays_bounded_while_much_flows():
    """200 MB out to a slow reader and 200 MB in to a slow handler: what waits, waits at the sender."""
    got = 0

    async def slowly(request: site.Request) -> site.Response:
        nonlocal got
        async for piece in request.body:
            got += len(piece)
            if got % 7 == 0:
                await asyncio.sleep(0)
        return site.plain(200, str(got))

    def respond(request: site.Request):
        return slowly(request) if request.method == "POST" else site.respond(request)

    gc.collect()
    tracemalloc.start()
    try:
        async with http1.serve(respond=respond) as server:
            async with peer_of(server) as peer:
                peer.send(HELLO.replace(b"/ ", b"/bytes/50000000 "))
                left = 50_000_000
                while left > 0:
                    left -= len(await peer.reader.read(65536))
            async with peer_of(server) as peer:
                peer.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n", "POST")
                for _ in range(500):
                    peer.writer.write(bytes(100_000))
                    await peer.writer.drain()
                assert (await peer.answer())[1] == b"50000000\n"
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 20_000_000


async def test_a_client_that_asks_and_asks_and_never_reads():
    """Pipelined requests whose answers nobody takes: reading stops, so memory does not grow."""
    async with http1.serve() as server, peer_of(server) as peer:
        peer.writer.transport.pause_reading()
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 200_000_000:
                peer.writer.write(HELLO * 2000)
                sent += len(HELLO) * 2000
                async with asyncio.timeout(10 * TICK):
                    await peer.writer.drain()
        assert sent < 200_000_000, "the server went on reading"
        (talk,) = server.talks
        assert talk.conn.unread < 1_000_000
        assert talk.transport.get_write_buffer_size() < 1_000_000


async def test_a_client_that_goes_in_the_middle_stops_nobody_else():
    """What is sent to a client that is gone never waits for it: without a pause of its own, nobody else had a turn."""
    async with http1.serve() as server:
        for vanish in (Peer.reset, lambda peer: peer.writer.transport.abort()):
            async with peer_of(server) as peer:
                peer.writer.write(HELLO.replace(b"/ ", b"/bytes/999999999999999 "))
                await peer.reader.readexactly(1_000_000)
                vanish(peer)
            async with peer_of(server) as other:
                other.send(HELLO)
                assert (await other.answer())[0].status == 200
        while server.talks:  # noqa: ASYNC110
            await asyncio.sleep(0)


@pytest.mark.parametrize("size", [262_000, 1_000_000])
async def test_a_slow_reader_gets_all_of_it(size):
    """It takes a few times the deadlines, but it takes. The head comes in two segments, and had a deadline too."""
    limits = dict.fromkeys(("head_seconds", "body_seconds", "idle_seconds", "linger_seconds"), 4 * TICK)
    async with http1.serve(**limits) as server, asyncio.timeout(2 * PATIENCE):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, server.address)
            request = HELLO.replace(b"/ ", b"/bytes/%d " % size)
            await loop.sock_sendall(client, request[:10])
            while not server.talks:  # noqa: ASYNC110
                await asyncio.sleep(0)
            (talk,) = server.talks
            talk.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            await asyncio.sleep(TICK)
            await loop.sock_sendall(client, request[10:])
            got, began = b"", time.monotonic()
            while len(got.partition(b"\r\n\r\n")[2]) < size:
                data = await loop.sock_recv(client, size // 24)
                assert data, f"cut off after {len(got)} bytes"
                got += data
                await asyncio.sleep(TICK / 2)
            assert time.monotonic() - began > 8 * TICK


async def test_leading_zeros_of_a_length():
    wire = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"0" * 5000 + b"70000\r\n\r\n" + bytes(70_000)
    async with http1.serve() as server, peer_of(server) as peer:
        peer.send(wire, "POST")
        head, body = await peer.answer()
        assert (head.status, len(body)) == (200, 70_000)


async def test_a_refused_head_has_no_body():
    """RFC 9110 §9.3.2, also when it is refused before anything else of it was looked at."""
    async with http1.serve() as server:
        for wrong in (b"HEAD / HTTP/1.1\r\n\r\n", b"HEAD / HTTP/2.0\r\n\r\n", b"HEAD / HTTP/1.1\r\nHost : a\r\n\r\n"):
            wire = await talk(server, wrong)
            assert statuses(wire) in ([400], [505])
            assert wire.endswith(b"\r\n\r\n")


async def test_who_did_not_wait_for_100_keeps_its_connection():
    ask = b"POST /nothing HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    async with http1.serve() as server, peer_of(server) as peer:
        for length in (0, 5):
            peer.send(ask % length + b"hello"[:length], "POST")
            head, _ = await peer.answer()
            assert (head.status, head.fields.get("connection")) == (404, None)


# -- Mistakes and ends -------------------------------------------------------------------------------


async def test_a_mistake_of_the_site_is_a_500_and_the_server_goes_on(caplog):
    async def later(request):
        raise ZeroDivisionError("a mistake")

    def respond(request):
        if request.target == "/later":
            return later(request)
        if request.target == "/split":
            return site.Response(200, [("x", "1\r\nevil: 2")], b"")
        if request.target == "/now":
            raise ZeroDivisionError("a mistake")
        return site.respond(request)

    async with http1.serve(respond=respond) as server:
        for path in (b"/later", b"/now", b"/split"):
            wire = await talk(server, HELLO.replace(b"/ ", path + b" "))
            assert statuses(wire) == [500]
            assert b"\r\nconnection: close\r\n" in wire
            assert b"evil" not in wire
        assert statuses(await talk(server, HELLO)) == [200]
    assert "a mistake" in caplog.text


async def test_a_mistake_in_the_middle_of_a_body_leaves_it_without_an_end(caplog):
    async def body():
        yield b"half"
        raise ZeroDivisionError("a mistake")

    def respond(request):
        return site.Response(200, [], body())

    async with http1.serve(respond=respond) as server, peer_of(server) as peer:
        peer.writer.write(HELLO)
        wire = b""
        with contextlib.suppress(ConnectionResetError):
            while data := await peer.reader.read(1000):
                wire += data
    assert b"half" in wire
    assert not wire.endswith(b"0\r\n\r\n")


async def test_when_the_client_vanishes_the_work_for_it_ends():
    ended = asyncio.Event()

    async def body():
        try:
            yield b"first"
            await asyncio.sleep(3600)
        finally:
            ended.set()

    def respond(request):
        return site.Response(200, [("content-type", "text/event-stream")], body())

    async with http1.serve(respond=respond) as server, peer_of(server) as peer:
        peer.writer.write(HELLO)
        await peer.reader.readuntil(b"first")
        peer.reset()
        async with asyncio.timeout(PATIENCE):
            await ended.wait()


async def test_drain_ends_what_is_idle_and_finishes_what_is_not():
    async with contextlib.AsyncExitStack() as stack:
        running = contextlib.AsyncExitStack()
        server = await running.enter_async_context(http1.serve())
        idle, busy, half = [await stack.enter_async_context(peer_of(server)) for _ in range(3)]
        idle.send(HELLO)
        assert (await idle.answer())[0].status == 200
        busy.send(HELLO.replace(b"/ ", b"/slow?seconds=0.3 "))
        half.send(HELLO[:10])
        while {talk.phase for talk in server.talks} != {"idle", "work", "head"}:  # noqa: ASYNC110
            await asyncio.sleep(0)
        stopping = asyncio.create_task(running.aclose())
        assert await idle.end() == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*server.address)
        half.writer.write(HELLO[10:])
        head, _ = await half.answer()
        assert head.fields["connection"] == "close"
        head, body = await busy.answer()
        assert (body, head.fields["connection"]) == (b"That took 0.3 s.\n", "close")
        for peer in (idle, busy, half):
            peer.writer.close()
        await stopping
        assert not server.talks


async def test_drain_has_an_end():
    async with http1.serve(drain_seconds=2 * TICK) as server, peer_of(server) as peer:
        peer.writer.write(HELLO.replace(b"/ ", b"/slow?seconds=30 "))
        while not any(talk.phase == "work" for talk in server.talks):  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_slowloris_does_not_slow_the_others():
    """Three hundred connections that trickle a head: a good client's median is no more than a few times what it was."""

    async def median() -> float:
        async with peer_of(server) as peer:
            times = []
            for _ in range(200):
                began = time.perf_counter()
                peer.send(HELLO)
                await peer.answer()
                times.append(time.perf_counter() - began)
            return sorted(times)[100]

    async with http1.serve() as server, contextlib.AsyncExitStack() as stack:
        before = min([await median() for _ in range(3)])
        slow = [await stack.enter_async_context(peer_of(server)) for _ in range(300)]
        for peer in slow:
            peer.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
        after = min([await median() for _ in range(3)])
        for peer in slow:
            peer.writer.write(b"y")
        assert after < 4 * before


async def test_garbage_never_brings_the_server_down(caplog):
    dice = random.Random(3)
    async with http1.serve(head_seconds=PATIENCE) as server:
        for _ in range(200):
            seed = dice.choice(REQUESTS).wire
            data = bytearray(seed + HELLO)
            for _ in range(dice.randrange(1, 6)):
                data[dice.randrange(len(data))] = dice.randrange(256)
            wire = await talk(server, bytes(data))
            assert all(status in range(100, 600) for status in statuses(wire))
        assert statuses(await talk(server, HELLO)) == [200]
    assert "Traceback" not in caplog.text


# -- The command -------------------------------------------------------------------------------------


def start(*arguments: str, **more) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "servers.http1", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def test_the_command_serves_logs_and_ends_in_peace():
    with start("--port", "0") as program:
        port = int(re.search(r"port (\d+)", program.stdout.readline())[1])
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(HELLO)
            assert client.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
            client.sendall(b"GET\x1b[31m / HTTP/1.1\r\n\r\n")
            assert b"400" in client.recv(65536)
        program.send_signal(signal.SIGTERM)
        out, err = program.communicate(timeout=PATIENCE)
    assert program.returncode == 0
    assert err == ""
    assert re.search(r"^< \d+ GET /\n> \d+ 200\n! \d+ 400 .*\n(.*\n)*= stopped\n", out, re.MULTILINE), out
    assert "\x1b" not in out


def test_a_port_that_is_taken_is_one_clear_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with start("--port", str(taken.getsockname()[1])) as program:
            _, err = program.communicate(timeout=PATIENCE)
    assert program.returncode == 2
    assert "Address already in use" in err
    assert err.count("\n") == 1


def test_an_impossible_port_is_refused():
    with start("--port", "70000") as program:
        _, err = program.communicate(timeout=PATIENCE)
    assert program.returncode == 2
    assert "no port" in err


# -- Peers that we did not write ---------------------------------------------------------------------


async def run(*command: str, stdin: bytes = b"") -> bytes:
    program = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE):
        out, err = await program.communicate(stdin)
    assert program.returncode == 0, err
    return out


async def test_curl():
    curl = need_tool("curl")
    data = os.urandom(300_000)
    async with http1.serve() as server:
        url = f"{url_of(server)}"
        assert await run(curl, "-sf", url + "/") == b"Hello, network!\n"
        assert await run(curl, "-sf", "--data-binary", "@-", url + "/", stdin=data) == data
        assert (
            await run(curl, "-sf", "-H", "Expect: 100-continue", "--data-binary", "@-", url + "/", stdin=data) == data
        )
        upload = await run(curl, "-sf", "-T", "-", url + "/upload", stdin=data)
        assert hashlib.sha256(data).hexdigest().encode() in upload
        assert await run(curl, "-sf", "-r", "3-6", url + "/bytes/1000") == bytes([3, 4, 5, 6])
        assert b"Hello" in await run(curl, "-sfL", url + "/redirect?n=3")
        assert await run(curl, "-sf", "--compressed", url + "/text") == site.TEXT
        both = await run(curl, "-sv", "--stderr", "-", url + "/", url + "/")
        assert b"Re-using existing connection" in both


async def test_wrk():
    wrk = need_tool("wrk")
    async with http1.serve() as server:
        out = await run(wrk, "-t1", "-c8", "-d1", f"{url_of(server)}/")
    assert b"Socket errors" not in out
    assert b"Non-2xx" not in out


async def test_h11_as_client():
    async with http1.serve() as server, peer_of(server) as peer:
        conn = h11.Connection(h11.CLIENT)
        for _ in range(2):
            peer.writer.write(
                conn.send(
                    h11.Request(method="POST", target="/", headers=[("Host", "a"), ("Transfer-Encoding", "chunked")])
                )
            )
            peer.writer.write(conn.send(h11.Data(b"some words")) + conn.send(h11.EndOfMessage()))
            body = b""
            while not isinstance(event := conn.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    conn.receive_data(await peer.reader.read(65536))
                elif isinstance(event, h11.Data):
                    body += event.data
            assert body == b"some words"
            conn.start_next_cycle()


@contextlib.asynccontextmanager
async def nginx(folder: Path, server_block: str):
    """nginx with one server block, as this user, in the foreground. Yields its port."""
    program = need_tool("nginx")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    paths = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error;\n"
        f"events {{ }} http {{ access_log off; {paths} server {{ listen 127.0.0.1:{port}; {server_block} }} }}\n"
    )
    running = await asyncio.create_subprocess_exec(
        program, "-c", str(folder / "nginx.conf"), "-e", str(folder / "error")
    )
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(TICK / 5)
            writer.transport.abort()
        yield port
    finally:
        running.terminate()
        await running.wait()


async def test_nginx_as_proxy_in_front(tmp_path):
    curl = need_tool("curl")
    data = os.urandom(200_000)
    async with http1.serve() as server:
        block = f"location / {{ proxy_pass {url_of(server)}; proxy_http_version 1.1; proxy_set_header Connection ''; }}"
        async with nginx(tmp_path, block) as port:
            url = f"http://127.0.0.1:{port}"
            assert await run(curl, "-sf", url + "/") == b"Hello, network!\n"
            assert await run(curl, "-sf", "--data-binary", "@-", url + "/", stdin=data) == data
            assert len(await run(curl, "-sf", url + "/bytes/3000000")) == 3_000_000
            assert b"data: event 2" in await run(curl, "-sfN", url + "/events?n=3&interval=0")


async def test_chromium_draws_the_page_of_tiles(tmp_path):
    browser = need_tool("chromium")
    async with http1.serve() as server:
        picture = tmp_path / "page.png"
        dom = await run(
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path}/profile", "--dump-dom",
            f"--screenshot={picture}", "--virtual-time-budget=5000", f"{url_of(server)}/tiles?n=24",
        )  # fmt: skip
    assert dom.count(b"<img") == 24
