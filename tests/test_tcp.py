"""Lab 01: our server and our client, each against the other, against foreign peers, and against malice."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from clients.tcp import ask
from labkit import catalog
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.frames import Decoder, encode
from servers.tcp import serve
from tests.conftest import TICK, need_tool

PATIENCE = 200 * TICK  # what may happen at once gets this long on a busy machine


class Peer:
    """A client by hand: it sends what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._decoder = Decoder()
        self._answers: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> bytes:
        """The next answer; EOFError when the server ends instead."""
        while not self._answers:
            data = await self.reader.read(65536)
            if not data:
                raise EOFError
            self._answers += self._decoder.receive_data(data)
        return self._answers.pop(0)

    async def end(self) -> bytes:
        """All that comes until the server's FIN; ConnectionResetError when that is an RST."""
        return await self.reader.read()


@contextlib.asynccontextmanager
async def peer_of(server):
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(*server.address)
        try:
            yield Peer(reader, writer)
        finally:
            writer.transport.abort()


# -- The server --------------------------------------------------------------------------------------


async def test_answers_while_the_client_waits():
    async with serve() as server, peer_of(server) as peer:
        for message in (b"hello", b"", b"x" * 65536):
            peer.send(encode(message))
            assert await peer.answer() == message.upper()


async def test_a_frame_byte_by_byte_and_several_in_one_segment():
    async with serve() as server, peer_of(server) as peer:
        peer.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in encode(b"slow"):
            peer.send(bytes([byte]))
            await asyncio.sleep(0)
        assert await peer.answer() == b"SLOW"
        peer.send(encode(b"one") + encode(b"two") + encode(b"three")[:5])
        assert [await peer.answer(), await peer.answer()] == [b"ONE", b"TWO"]
        peer.send(encode(b"three")[5:])
        assert await peer.answer() == b"THREE"


async def test_a_silent_client_holds_up_nobody():
    async with serve() as server, peer_of(server) as silent, peer_of(server) as other:
        silent.send(encode(b"half")[:5])
        other.send(encode(b"whole"))
        assert await other.answer() == b"WHOLE"
        silent.send(encode(b"half")[5:])
        assert await silent.answer() == b"HALF"


async def test_half_close_is_answered_and_then_ended():
    async with serve() as server, peer_of(server) as peer:
        peer.send(encode(b"one") + encode(b"two"))
        peer.writer.write_eof()
        assert await peer.end() == encode(b"ONE") + encode(b"TWO")


async def test_an_end_within_a_frame_is_told():
    async with serve() as server, peer_of(server) as peer:
        peer.send(encode(b"hello")[:6])
        peer.writer.write_eof()
        assert await peer.answer() == b"error: the stream ended 6 bytes into a frame"
        assert await peer.end() == b""


async def test_too_long_is_refused_and_the_answer_survives_a_client_that_still_sends():
    """Without the lingering close this is ConnectionResetError, and no answer."""
    async with serve(maximum=100) as server, peer_of(server) as peer:
        peer.send(encode(b"good") + b"\0\0\0\x65" + bytes(300_000))
        for _ in range(5):
            await asyncio.sleep(TICK / 5)
            peer.send(bytes(100_000))
        assert await peer.end() == encode(b"GOOD") + encode(b"error: frame of 101 bytes, the most is 100")


async def test_a_refused_client_that_never_ends_is_cut_off():
    async with serve(linger_seconds=2 * TICK) as server, peer_of(server) as peer:
        peer.send(b"\xff\xff\xff\xff")
        assert b"error: " in await peer.end()
        with pytest.raises(ConnectionError):  # noqa: PT012 - any of these sends may be the one that fails
            while True:
                peer.send(b"x")
                await peer.writer.drain()
                await asyncio.sleep(TICK / 5)


async def test_a_byte_now_and_then_does_not_buy_time():
    """Slowloris: the deadline is for a whole message, so a drip does not move it."""
    async with serve(idle_seconds=4 * TICK) as server, peer_of(server) as peer:
        answer = asyncio.ensure_future(peer.answer())
        peer.send(b"\0\0\1\0")
        for _ in range(40):
            peer.send(b"x")
            await asyncio.sleep(TICK / 2)
            if answer.done():
                break
        assert answer.done()  # Else it was the end of the dripping that ended the wait.
        assert (await answer).startswith(b"error: no whole message within")


async def test_each_whole_message_buys_time():
    async with serve(idle_seconds=6 * TICK) as server, peer_of(server) as peer:
        for _ in range(5):
            await asyncio.sleep(3 * TICK)
            peer.send(encode(b"here"))
            assert await peer.answer() == b"HERE"
        assert (await peer.answer()).startswith(b"error: no whole message within")
        assert await peer.end() == b""


async def test_who_reads_nothing_is_not_read_from_and_then_ended():
    loop = asyncio.get_running_loop()
    frame = encode(bytes(65536))
    async with serve(idle_seconds=20 * TICK, linger_seconds=2 * TICK) as server, asyncio.timeout(PATIENCE):
        with socket.create_connection(server.address) as sock:
            sock.setblocking(False)
            with pytest.raises(TimeoutError):  # noqa: PT012 - any of these sends may be the one that waits
                for _ in range(1000):  # 64 MB, if somebody took them
                    async with asyncio.timeout(4 * TICK):
                        await loop.sock_sendall(sock, frame)
            with pytest.raises(ConnectionError):  # noqa: PT012 - and any of these the one that fails
                while True:
                    await loop.sock_sendall(sock, frame)


@pytest.mark.alone
async def test_a_flood_of_empty_messages_stops_nobody(caplog):
    """A read holds 16,384 of them: no write, deadline and log line for each, and nobody else's turn meanwhile."""
    caplog.set_level(logging.INFO, "servers.tcp")
    async with serve() as server, peer_of(server) as other, peer_of(server) as flood:
        flood.send(bytes(16 << 20))  # and it never reads
        longest = 0.0
        for _ in range(10):
            await asyncio.sleep(TICK / 10)
            start = time.perf_counter()
            other.send(encode(b"still there?"))
            assert await other.answer() == b"STILL THERE?"
            longest = max(longest, time.perf_counter() - start)
        assert longest < 20 * TICK
    texts = [record.getMessage() for record in caplog.records]
    assert any("more" in text for text in texts)
    assert len(texts) < 4000  # 4 million messages
    assert "socket.send() raised exception." not in texts


async def test_a_flood_that_goes_away_is_the_end_of_it(caplog):
    async with serve() as server:
        sock = socket.create_connection(server.address)
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.send(bytes(65536))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await asyncio.sleep(TICK)
        sock.close()  # RST
        assert await ask([b"still there?"], *server.address, timeout=PATIENCE) == [b"STILL THERE?"]
    assert not caplog.records


async def test_places_are_given_back():
    async with serve(max_connections=3) as server:
        for _ in range(20):
            async with peer_of(server) as peer:
                peer.send(encode(b"in"))
                assert await peer.answer() == b"IN"
                peer.writer.write_eof()
                assert await peer.end() == b""


async def test_the_maximum_is_also_that_of_the_answers():
    message = b"x" * 100_000
    async with serve(maximum=100_000) as server:
        assert await ask([message], *server.address, maximum=100_000) == [message.upper()]


async def test_one_too_many_is_told_and_the_others_go_on():
    async with serve(max_connections=2) as server, peer_of(server) as one, peer_of(server) as two:
        for peer in (one, two):
            peer.send(encode(b"in"))
            assert await peer.answer() == b"IN"
        async with peer_of(server) as third:
            third.send(encode(b"and me?"))
            assert await third.answer() == b"error: 2 connections are served already"
            assert await third.end() == b""
        one.send(encode(b"still"))
        assert await one.answer() == b"STILL"
        two.writer.write_eof()
        assert await two.end() == b""
        async with peer_of(server) as fourth:  # There is a place again.
            fourth.send(encode(b"me"))
            assert await fourth.answer() == b"ME"


async def test_a_flood_of_connections_leaves_the_others_alone(caplog):
    async with serve(max_connections=2, linger_seconds=4 * TICK) as server, peer_of(server) as first:
        first.send(encode(b"in"))
        assert await first.answer() == b"IN"
        async with asyncio.timeout(PATIENCE):
            flood = [await asyncio.open_connection(*server.address) for _ in range(50)]
            first.send(encode(b"still"))
            assert await first.answer() == b"STILL"
            told = 0
            for reader, writer in flood:
                with contextlib.suppress(ConnectionError, TimeoutError):
                    async with asyncio.timeout(TICK):  # One of them is served, and hears nothing.
                        told += (await reader.read()).startswith(b"\0\0\0\x27error: ")
                writer.transport.abort()
            assert 1 <= told < 4
    assert not caplog.records


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"\xff" * 70_000])
async def test_garbage_gets_a_clear_error(garbage, caplog):
    async with serve() as server, peer_of(server) as peer:
        peer.send(garbage)
        assert re.match(rb"error: frame of \d+ bytes, the most is 65536$", await peer.answer())
        assert await peer.end() == b""
    assert not caplog.records


async def test_a_client_that_vanishes_is_no_surprise(caplog):
    async with serve() as server:
        for data in (b"", encode(b"half")[:6], encode(b"whole"), b"\xff\xff\xff\xff"):
            sock = socket.create_connection(server.address)
            sock.sendall(data)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()  # RST
        assert await ask([b"still there?"], *server.address, timeout=PATIENCE) == [b"STILL THERE?"]
    assert not caplog.records  # asyncio logs what nobody caught.


# -- Its end -----------------------------------------------------------------------------------------


async def test_drain_ends_the_idle_at_once_and_lets_the_others_finish():
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(serve())
        async with peer_of(server) as idle, peer_of(server) as busy:
            for peer in (idle, busy):
                peer.send(encode(b"in"))
                assert await peer.answer() == b"IN"
            busy.send(encode(b"in flight")[:7])
            idle.send(encode(b"wait"))
            assert await idle.answer() == b"WAIT"  # By now the server has read the other's piece, too.
            closing = asyncio.ensure_future(stack.aclose())
            assert await idle.end() == b""
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*server.address)
            busy.send(encode(b"in flight")[7:])
            assert await busy.end() == encode(b"IN FLIGHT")
            idle.writer.close()
            busy.writer.close()
            await closing


async def test_drain_does_not_wait_for_ever(caplog):
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(serve(linger_seconds=2 * TICK))
        async with peer_of(server) as peer:
            peer.send(encode(b"in") + encode(b"half")[:6])
            assert await peer.answer() == b"IN"
            await stack.aclose()
            assert await peer.end() == b""
    assert not caplog.records


async def test_drain_at_the_moment_of_a_deadline():
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(serve(idle_seconds=4 * TICK, linger_seconds=2 * TICK))
        async with peer_of(server) as peer:
            peer.send(encode(b"in") + encode(b"half")[:6])
            assert await peer.answer() == b"IN"
            (deadline,) = server._talks
            now = loop.create_future()
            loop.call_at(deadline.when() - TICK / 100, now.set_result, None)
            time.sleep(deadline.when() - loop.time() + TICK / 10)  # noqa: ASYNC251 - both are due in one turn
            await now
            assert deadline.expired()
            assert server._talks  # It has expired, and its task does not know yet.
            await stack.aclose()


@contextlib.contextmanager
def program(*arguments: str):
    """Our server in a process of its own; its port, once it listens."""
    command = [sys.executable, "-m", "servers.tcp", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            yield process, int(re.search(r"port (\d+)", line)[1])
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_and_exits_0(number):
    with program("--port", "0") as (process, port):
        client = [sys.executable, "-m", "clients.tcp", "--port", str(port), "hello"]
        done = subprocess.run(client, capture_output=True, text=True, timeout=PATIENCE)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[1:3] == ["> b'hello'", "< b'HELLO'"]
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (0, "")
        assert re.search(r"^= \d+ connected\n< \d+ b'hello'\n> \d+ b'HELLO'\n= \d+ closed$", out, re.MULTILINE)
        assert out.endswith("= finishing what is in flight; Ctrl-C again ends at once\n= stopped\n")


def test_a_second_ctrl_c_waits_for_nobody():
    with program("--port", "0") as (process, port), socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(encode(b"answered") + encode(b"half")[:6])
        assert client.recv(64) == encode(b"ANSWERED")
        process.send_signal(signal.SIGINT)
        while "finishing" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        out, err = process.communicate(timeout=PATIENCE)
        assert time.monotonic() - start < 4, "it has waited for the message to be completed"
        assert (process.returncode, err) == (130, "")
        assert out.endswith("= stopped in the middle\n")


def test_a_port_that_is_taken_is_one_clear_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "servers.tcp", "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2
    assert (
        done.stderr
        == f"Cannot listen on 127.0.0.1 port {port}: Address already in use. Is another `make tcp-server` running?\n"
    )


@pytest.mark.parametrize("name", ["servers.tcp", "clients.tcp"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "99999"], "99999 is no port"),
        (["--port", "-1"], "-1 is no port"),
        (["--host", "a..b"], "'a..b': that is no name of a host"),
        (["--host", b"\xff"], r"that is no name of a host"),
    ],
)
def test_a_bad_argument_is_one_clear_sentence(name, arguments, words):
    done = subprocess.run([sys.executable, "-m", name, *arguments], capture_output=True, timeout=PATIENCE)
    assert done.returncode == 2
    assert words in done.stderr.decode().splitlines()[-1]
    assert b"Traceback" not in done.stderr


# -- The client --------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def server_that(behave, **options: int):
    """A server by hand, with socket options by name."""
    listening = socket.create_server(("127.0.0.1", 0))
    for name, value in options.items():
        listening.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError):
                await behave(reader, writer)
        finally:
            writer.transport.abort()

    async with await asyncio.start_server(handle, sock=listening):
        yield listening.getsockname()


async def test_asks_all_over_one_connection():
    async with serve() as server:
        assert await ask([], *server.address) == []
        assert await ask([b"one", b"", b"two"], *server.address) == [b"ONE", b"", b"TWO"]


async def test_ten_megabytes_do_not_deadlock():
    """This server reads no more until its answers are taken: who writes all before reading waits for ever."""

    async def behave(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    messages = [b"x" * 65536] * 160
    async with server_that(behave, SO_RCVBUF=65536, SO_SNDBUF=65536) as address:
        assert await ask(messages, *address, timeout=PATIENCE) == messages


@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_answers_in_pieces(size):
    wire = encode(b"ONE") + encode(b"TWO")

    async def behave(reader, writer):
        await reader.readexactly(14)
        for i in range(0, len(wire), size):
            writer.write(wire[i : i + size])
            await asyncio.sleep(0)
        await writer.drain()
        writer.write_eof()
        await asyncio.sleep(TICK)

    async with server_that(behave) as address:
        assert await ask([b"one", b"two"], *address, timeout=PATIENCE) == [b"ONE", b"TWO"]


@pytest.mark.parametrize(
    ("wire", "error"),
    [
        (encode(b"ONE"), "the server ended after 1 of 2 answers"),
        (encode(b"ONE") + encode(b"TWO")[:5], "the stream ended 5 bytes into a frame"),
        (encode(b"ONE") * 3, "more than the 2 answers that were asked for"),
        (encode(b"ONE") + encode(b"error: no"), "error: no"),
        (b"HTTP/1.1 400 Bad Request", "frame of 1213486160 bytes, the most is 65536"),
    ],
)
async def test_what_a_server_can_do_wrong(wire, error):
    async def behave(reader, writer):
        await reader.readexactly(14)
        writer.write(wire)
        writer.write_eof()
        await reader.read()

    async with server_that(behave) as address:
        with pytest.raises(RemoteProtocolError, match=re.escape(error)):
            await ask([b"one", b"two"], *address, timeout=PATIENCE)


async def test_a_server_that_says_nothing_is_waited_for_only_so_long():
    async def behave(reader, writer):
        await reader.read()

    async with server_that(behave) as address:
        with pytest.raises(TimeoutError):
            await ask([b"anybody?"], *address, timeout=2 * TICK)


async def test_a_message_too_long_is_not_even_sent():
    with pytest.raises(LocalProtocolError):
        await ask([bytes(65537)], "127.0.0.1", 1)


async def test_a_refusal_is_the_clients_error():
    async with serve(maximum=10) as server:
        with pytest.raises(RemoteProtocolError, match="error: frame of 11 bytes, the most is 10"):
            await ask([b"x" * 11], *server.address)


def test_the_programs_exit_codes():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = str(closed.getsockname()[1])
    command = [sys.executable, "-m", "clients.tcp", "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2
    assert done.stderr == (f"No answer from 127.0.0.1 port {port}: Connection refused. Is `make tcp-server` running?\n")
    done = subprocess.run([*command, "x" * 70_000], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (2, "Not sent: message of 70000 bytes, the most is 65536.\n")


def ask_by_program(port: int, *arguments: str | bytes) -> list[str | bytes]:
    return [sys.executable, "-m", "clients.tcp", "--port", str(port), *arguments]


def test_a_message_need_not_be_utf_8():
    with program("--port", "0") as (_, port):
        done = subprocess.run(ask_by_program(port, b"\xff\xc3"), capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"< b'\xff\xc3'" in done.stdout


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (encode(b"error: \x1b]0;mine\x07\xff"), 1, r"! error: \x1b]0;mine\x07\xff"),
        (b"", 1, "! the server ended after 0 of 1 answers"),
        (None, 1, "not done within"),
    ],
)
async def test_what_the_client_says_of_a_bad_server(answer, code, words):
    async def behave(reader, writer):
        await reader.readexactly(9)
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
            writer.write_eof()
            await reader.read()

    async with server_that(behave) as (_, port):
        command = ask_by_program(port, "--timeout", str(10 * TICK if answer is None else PATIENCE), "hello")
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=2 * PATIENCE)
    assert done.returncode == code
    assert words in done.stdout + done.stderr
    assert "\x1b" not in done.stdout + done.stderr


async def test_a_reset_is_the_servers_refusal_and_ctrl_c_ours():
    async def behave(reader, writer):
        await reader.readexactly(5)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with server_that(behave) as (_, port):
        command = ask_by_program(port, "hello")
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=PATIENCE)
        assert (done.returncode, "Connection reset" in done.stderr) == (1, True)

    asked = asyncio.Event()

    async def wait(reader, writer):
        await reader.readexactly(9)
        asked.set()
        await reader.read()

    async with server_that(wait) as (_, port), asyncio.timeout(PATIENCE):
        process = await asyncio.create_subprocess_exec(*ask_by_program(port, "hello"), stdout=subprocess.DEVNULL)
        await asked.wait()
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130


async def test_giving_up_does_not_go_on_sending():
    """close() would keep ten megabytes, and the connection, until the server takes them."""
    gave_up, ended = asyncio.Event(), asyncio.Event()
    came = 0

    async def behave(reader, writer):
        nonlocal came
        await gave_up.wait()
        try:
            while data := await reader.read(65536):
                came += len(data)
        finally:
            ended.set()

    async with server_that(behave, SO_RCVBUF=65536) as address:
        with pytest.raises(TimeoutError):
            await ask([bytes(65536)] * 320, *address, timeout=4 * TICK)
        gave_up.set()
        async with asyncio.timeout(PATIENCE):
            await ended.wait()
    assert came < 320 * 65536


# -- The experiments' arithmetic ---------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 2**32 - 5000])
def test_flights_are_counted_across_the_end_of_the_sequence_numbers(first):
    """Initial sequence numbers are random, so now and then one wraps within an experiment."""
    packets, ends = [segment("client", seq=first)], [first + 1]
    for size in (2, 4, 8, 16):
        starts = [ends[-1] + 1448 * i for i in range(size)]
        packets += [segment("client", seq=start, payload=bytes(1448)) for start in starts]
        ends = [start + 1448 for start in starts]
        packets += [segment("server", ack=end) for end in ends]
    assert catalog.lab("tcp").module("experiments").flights_of(packets) == [2, 4, 8, 16]


def segment(source: str, seq: int = 0, ack: int = 0, payload: bytes = b"") -> SimpleNamespace:
    return SimpleNamespace(source=source, seq=seq % 2**32, ack=ack % 2**32, payload=payload)


# -- Foreign peers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    ["ncat 127.0.0.1 {port}", "socat -t 5 - TCP:127.0.0.1:{port}", "curl -sSN -m {seconds} telnet://127.0.0.1:{port}"],
)
def test_foreign_clients_get_their_answers(command):
    need_tool(command.split()[0])
    with program("--port", "0") as (_, port):
        words = command.format(port=port, seconds=PATIENCE).split()
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            process.stdin.write(encode(b"hello") + encode(b"two"))
            process.stdin.close()  # curl reads all of it before it sends; the other two half-close.
            wanted = encode(b"HELLO") + encode(b"TWO")
            got = b""
            while len(got) < len(wanted):
                piece = os.read(process.stdout.fileno(), 100)
                assert piece, process.stderr.read()
                got += piece
            assert got == wanted
            process.kill()


@pytest.mark.parametrize(
    "command",
    [
        "socat TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr EXEC:cat",
        "ncat -l 127.0.0.1 {port} --exec /bin/cat",
    ],
)
async def test_our_client_asks_a_foreign_echo_server(command):
    need_tool(command.split()[0])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(*command.format(port=port).split())
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    answers = await ask([b"hello", b"", b"x" * 10_000], "127.0.0.1", port, timeout=PATIENCE)
                    break
                except ConnectionRefusedError:  # It does not listen yet.
                    await asyncio.sleep(TICK / 5)
        assert answers == [b"hello", b"", b"x" * 10_000]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
