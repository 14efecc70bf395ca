"""servers/udp.py and clients/udp.py, on real sockets, with each other and with peers that we did not write."""

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients import udp as udp_client
from clients.udp import NoAnswer, ask
from servers.udp import serve, shown
from tests.conftest import TICK, need_tool


@contextlib.contextmanager
def a_socket(address=None):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        if address:
            sock.connect(address)
        sock.setblocking(False)
        yield sock


async def hear(sock, seconds=4 * TICK):
    """The next datagram, or None when none comes."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            return await asyncio.get_running_loop().sock_recv(sock, 65535)
    return None


async def answer_to(server, *datagrams):
    """Send datagrams, then a good one; return what came before the answer to the good one."""
    with a_socket(server.address) as sock:
        for datagram in (*datagrams, b"?done"):
            sock.send(datagram)
        found = []
        while (answer := await hear(sock, 40 * TICK)) != b"!DONE":
            assert answer is not None, "the server does not answer any more"
            found.append(answer)
        return found


# --- The server ---------------------------------------------------------------------------------


async def test_a_request_is_answered():
    async with serve() as server:
        assert await answer_to(server, b"?hello", b"?") == [b"!HELLO", b"!"]


async def test_messages_are_not_glued_together():
    async with serve() as server:
        assert await answer_to(server, *[b"?%d" % i for i in range(50)]) == [b"!%d" % i for i in range(50)]


@pytest.mark.parametrize("datagram", [b"", b"hello", b"!HELLO", b"\0?", b"\xff" * 1200, b"?" + bytes(1200)])
async def test_what_is_no_request_gets_no_answer(datagram):
    async with serve() as server:
        assert await answer_to(server, datagram) == []
        assert server.counts["answered"] == 1
        assert sum(server.counts.values()) == 2


async def test_the_largest_request_is_answered():
    async with serve(max_request=100) as server:
        assert await answer_to(server, b"?" + b"x" * 100) == []
        assert await answer_to(server, b"?" + b"x" * 99) == [b"!" + b"X" * 99]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=2000), max_size=8))
async def test_never_more_bytes_out_than_in(datagrams):
    async with serve() as server:
        answers = await answer_to(server, *datagrams)
        asked = [data for data in datagrams if data.startswith(b"?") and len(data) <= 1200]
        assert [len(answer) for answer in answers] == [len(data) for data in asked]


async def test_an_answer_sent_to_the_server_ends_there():
    """Two servers, and one datagram that a forger lets them exchange: it must not go on for ever."""
    async with serve() as one, serve() as other:
        with a_socket() as forger:
            forger.sendto(b"?hello", one.address)
            answer = await hear(forger)
            forger.sendto(answer, other.address)
            assert await hear(forger) is None
        assert one.counts == {"answered": 1}
        assert other.counts == {"not a request": 1}


async def test_one_address_cannot_be_flooded_through_us():
    async with serve(answers_per_second=10) as server:
        with a_socket(server.address) as sock:
            for _ in range(100):
                sock.send(b"?flood")
            answers = 0
            while await hear(sock) is not None:
                answers += 1
        assert 10 <= answers <= 20  # 20 when a new second began in between
        assert server.counts["too many"] == 100 - answers


async def test_with_a_new_second_the_limit_begins_anew(monkeypatch):
    clock = [7.9]
    async with serve(answers_per_second=2, max_addresses=1) as server:
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock[0])
        found = []
        for now, address in ((7.9, "a"), (7.9, "a"), (7.9, "a"), (7.9, "b"), (8.0, "b"), (8.9, "b"), (8.9, "b")):
            clock[0] = now
            found.append(server._may_answer(address))
        monkeypatch.undo()
    assert found == [True, True, False, False, True, True, False]


async def test_no_more_addresses_are_remembered_than_allowed():
    async with serve(max_addresses=3) as server:
        for i in range(10):
            server.datagram_received(b"?", (f"127.0.0.{i + 1}", 9))
        assert len(server._answered) <= 3
        assert server.counts["too many"] >= 4  # 7, or fewer when a new second began


async def test_nothing_piles_up_when_the_network_is_full():
    async with serve() as server:
        server.pause_writing()
        server.datagram_received(b"?hello", ("127.0.0.1", 9))
        assert server.counts == {"the network is full": 1}
        server.resume_writing()
        assert await answer_to(server, b"?hello") == [b"!HELLO"]


async def test_a_client_that_is_gone_harms_nobody():
    async with serve() as server:
        with a_socket(server.address) as sock:
            sock.send(b"?and gone")
        assert await answer_to(server, b"?hello") == [b"!HELLO"]


def test_the_log_is_safe_to_print():
    assert shown(b"?\x1b[2J\n") == "b'?\\x1b[2J\\n' (6 bytes)"
    assert shown(b"x" * 100) == f"b'{'x' * 60}'… (100 bytes)"


# --- The client ---------------------------------------------------------------------------------


class Peer(asyncio.DatagramProtocol):
    """A server of the test's: answers each request with the datagrams that *answer* makes of it."""

    def __init__(self, answer):
        self.answer, self.requests, self.times = answer, [], []

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, peer):
        self.requests.append(data)
        self.times.append(asyncio.get_running_loop().time())
        for datagram in self.answer(data, len(self.requests)):
            self.transport.sendto(datagram, peer)


@contextlib.asynccontextmanager
async def a_peer(answer):
    loop = asyncio.get_running_loop()
    transport, peer = await loop.create_datagram_endpoint(lambda: Peer(answer), local_addr=("127.0.0.1", 0))
    try:
        peer.address = transport.get_extra_info("sockname")
        yield peer
    finally:
        transport.close()
        await asyncio.sleep(0)


def good(request):
    return b"!" + request[1:].upper()


async def test_the_client_asks_our_server():
    async with serve() as server:
        answer = await ask("straße", *server.address)
        assert (answer.text, answer.tries, answer.ignored) == ("STRAßE", 1, 0)


async def test_the_client_tries_again_and_waits_twice_as_long():
    async with a_peer(lambda request, count: [good(request)] if count == 3 else []) as peer:
        answer = await ask("hello", *peer.address, timeout=2 * TICK)
        assert (answer.text, answer.tries) == ("HELLO", 3)
        assert len(set(peer.requests)) == 1
        first, second = peer.times[1] - peer.times[0], peer.times[2] - peer.times[1]
        assert first >= 1.9 * TICK
        assert second >= 3.9 * TICK


async def test_the_client_gives_up():
    async with a_peer(lambda request, count: []) as peer:
        with pytest.raises(NoAnswer, match="to 3 requests"):
            await ask("hello", *peer.address, timeout=TICK / 5, tries=3)
        assert len(peer.requests) == 3


async def test_a_late_answer_to_the_first_try_is_taken():
    held = []

    def late(request, count):
        held.append(good(request))
        return held if count == 2 else []

    async with a_peer(late) as peer:
        assert (await ask("hello", *peer.address, timeout=TICK)).text == "HELLO"


async def test_what_is_not_its_answer_is_ignored():
    def crowd(request, count):
        return [b"!", b"\xff" * 2000, b"!0000000000 LIES", request, good(request)]

    async with a_peer(crowd) as peer:
        answer = await ask("truth", *peer.address)
        assert (answer.text, answer.ignored) == ("TRUTH", 4)


async def test_a_stranger_cannot_answer():
    """The client's socket is connected: the kernel drops what comes from another address or port."""
    with a_socket() as stranger:

        def betray(request, count):
            stranger.sendto(b"!" + request[1:12] + b"LIES", peer.client)
            return [good(request)]

        async with a_peer(betray) as peer:
            received = peer.datagram_received
            peer.datagram_received = lambda data, client: (setattr(peer, "client", client), received(data, client))
            assert (await ask("truth", *peer.address)).text == "TRUTH"


async def test_each_request_has_a_number_of_its_own():
    async with a_peer(lambda request, count: [good(request)]) as peer:
        for _ in range(5):
            await ask("same", *peer.address)
        assert len(set(peer.requests)) == 5


async def test_a_closed_port_is_told_at_once():
    with a_socket() as sock:
        address = sock.getsockname()
    with pytest.raises(NoAnswer, match="refused"):
        await ask("anybody?", *address, timeout=40 * TICK)


async def test_what_would_be_cut_into_fragments_is_refused():
    with pytest.raises(ValueError, match="1200"):
        await ask("x" * 1200)


# --- As programs, and with peers that we did not write ------------------------------------------


@contextlib.contextmanager
def a_server_process(*arguments):
    command = [sys.executable, "-m", "servers.udp", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process, int(process.stdout.readline().rpartition(":")[2])
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_server_program_logs_and_ends_well(number):
    with a_server_process() as (process, port):
        client = [sys.executable, "-m", "clients.udp", "--port", str(port), "good", "morning"]
        done = subprocess.run(client, capture_output=True, text=True, timeout=200 * TICK)
        assert done.returncode == 0
        assert "= 'GOOD MORNING' (1 sent" in done.stdout
        process.send_signal(number)
        out, err = process.communicate(timeout=100 * TICK)
        assert (process.returncode, err) == (0, "")
        assert [line[0] for line in out.splitlines()] == ["<", ">", "="]


def test_a_port_that_is_taken_is_one_sentence():
    with a_socket() as sock:
        command = [sys.executable, "-m", "servers.udp", "--port", str(sock.getsockname()[1])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200 * TICK)
    assert done.returncode == 2
    assert "Address already in use" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_client_program_says_that_nobody_listens():
    with a_socket() as sock:
        port = str(sock.getsockname()[1])
    done = subprocess.run([sys.executable, "-m", "clients.udp", "--port", port], capture_output=True, text=True)
    assert done.returncode == 2
    assert "refused" in done.stderr


@pytest.mark.parametrize("program", ["servers.udp", "clients.udp"])
@pytest.mark.parametrize("port", ["99999", "-1"])
def test_a_port_that_does_not_exist_is_one_sentence(program, port):
    done = subprocess.run([sys.executable, "-m", program, "--port", port], capture_output=True, text=True)
    assert done.returncode == 2
    assert port in done.stderr
    assert len(done.stderr.splitlines()) == 1


def a_client_process(port):
    command = [sys.executable, "-m", "clients.udp", "--port", str(port), "hello"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_ctrl_c_ends_a_client_that_waits():
    with a_socket() as silent, a_client_process(silent.getsockname()[1]) as client:
        client.stdout.readline()  # > the request: now it waits
        client.send_signal(signal.SIGINT)
        _, err = client.communicate(timeout=100 * TICK)
        assert (client.returncode, err) == (130, "")


def test_the_client_program_writes_no_escape_sequence_of_a_server():
    with a_socket() as hostile:
        hostile.settimeout(100 * TICK)
        with a_client_process(hostile.getsockname()[1]) as client:
            request, address = hostile.recvfrom(2000)
            hostile.sendto(b"!" + request[1:12] + b"\x1b[2J\x9b\r", address)
            out, _ = client.communicate(timeout=100 * TICK)
        assert client.returncode == 0
        assert "\x1b" not in out
        assert "'\\x1b[2J" in out


def test_no_answer_at_all_is_the_first_kind_of_failure(monkeypatch, capsys):
    monkeypatch.setattr(udp_client.ask, "__kwdefaults__", {**ask.__kwdefaults__, "timeout": TICK, "tries": 2})
    with a_socket() as silent:
        monkeypatch.setattr(sys, "argv", ["clients.udp", "--port", str(silent.getsockname()[1])])
        assert udp_client.main() == 1
    assert "no answer from 127.0.0.1" in capsys.readouterr().err


async def test_socat_asks_our_server():
    socat = need_tool("socat")
    async with serve() as server:
        process = await asyncio.create_subprocess_exec(
            socat, "-t1", "-", f"UDP:127.0.0.1:{server.address[1]}",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate(b"?hello")
        assert out == b"!HELLO"


async def test_our_client_asks_socat(tmp_path):
    socat = need_tool("socat")
    with a_socket() as sock:
        port = sock.getsockname()[1]
    script = tmp_path / "answer"
    script.write_text("#!/bin/sh\nread -r request\nprintf '!%s' \"${request#?}\" | tr a-z A-Z\n")
    script.chmod(0o755)
    process = await asyncio.create_subprocess_exec(socat, f"UDP-RECVFROM:{port},bind=127.0.0.1", f"EXEC:{script}")
    try:
        async with asyncio.timeout(100 * TICK):
            while True:  # until socat listens
                with contextlib.suppress(NoAnswer):
                    answer = await ask("hello\n", "127.0.0.1", port, timeout=40 * TICK, tries=1)
                    break
        assert answer.text.strip() == "HELLO"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
