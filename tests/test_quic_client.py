"""clients/quic.py against aioquic's own server, ngtcp2's, caddy, ours, and a network that lies."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aioquic.asyncio import QuicConnectionProtocol
from aioquic.asyncio.server import QuicServer
from aioquic.quic import events
from aioquic.quic.packet import encode_quic_version_negotiation

import certs
from certs.quic import quic_server
from clients.quic import Connection, QuicError, StreamReset, Ticket, connect
from protocols.errors import LocalProtocolError
from protocols.quic_frames import ConnectionClose
from protocols.quic_numbers import ErrorCode
from protocols.quic_opened import Onlooker
from protocols.quic_packets import VERSION_2, PacketType, invariant, split
from protocols.tls_numbers import Alert
from servers.quic import serve
from tests.conftest import TICK, need_tool

Act = Callable[["Peer", events.QuicEvent], None]


class Peer(QuicConnectionProtocol):
    """One connection of aioquic's server, which does as the test says. `heard` is what the client has said."""

    act: Act

    def __init__(self, *arguments, **more) -> None:
        super().__init__(*arguments, **more)
        self.heard: list[events.QuicEvent] = []

    def quic_event_received(self, event: events.QuicEvent) -> None:
        self.heard.append(event)
        self.act(self, event)

    @property
    def address(self) -> tuple:
        return self._quic._network_paths[0].addr

    def said(self, stream: int) -> bytes:
        found = [one for one in self.heard if isinstance(one, events.StreamDataReceived) and one.stream_id == stream]
        return b"".join(one.data for one in found)


def answer(peer: Peer, event: events.QuicEvent) -> None:
    """`bytes N`, as the lab's server has it; datagrams come back."""
    if isinstance(event, events.StreamDataReceived) and event.end_stream and not event.stream_id & 3:
        _, count = peer.said(event.stream_id).split()
        peer._quic.send_stream_data(event.stream_id, random.Random(1).randbytes(int(count)), True)
    elif isinstance(event, events.DatagramFrameReceived):
        peer._quic.send_datagram_frame(event.data)


def mute(peer: Peer, event: events.QuicEvent) -> None:
    pass


@contextlib.asynccontextmanager
async def aioquic_server(
    act: Act = answer, *, certificate: str = "server", alpn: tuple[str, ...] = ("lab",), retry: bool = False, **settings
) -> AsyncIterator[QuicServer]:
    peers: list[Peer] = []

    def made(*arguments, **more) -> Peer:
        peers.append(Peer(*arguments, **more))
        peers[-1].act = act
        return peers[-1]

    configuration = quic_server(certificate, alpn=alpn)
    for name, value in settings.items():
        setattr(configuration, name, value)
    tickets = {}
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: QuicServer(
            configuration=configuration, create_protocol=made, retry=retry, session_ticket_fetcher=tickets.get,
            session_ticket_handler=lambda ticket: tickets.update({ticket.ticket: ticket}),
        ),
        local_addr=("127.0.0.1", 0),
    )  # fmt: skip
    server.port, server.peers, server.tickets = transport.get_extra_info("sockname")[1], peers, tickets
    try:
        yield server
    finally:
        server.close()
        for peer in peers:
            if peer._timer:
                peer._timer.cancel()


async def get(connection: Connection, count: int) -> bytes:
    stream = await connection.open_stream()
    await stream.finish(b"bytes %d\n" % count)
    return await stream.read_all()


def wanted(count: int) -> bytes:
    return random.Random(1).randbytes(count)


async def until(is_true: Callable[[], object]) -> None:
    async with asyncio.timeout(100 * TICK):
        while not is_true():  # noqa: ASYNC110
            await asyncio.sleep(TICK / 10)


def udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


# --- What it is for ---------------------------------------------------------------------------------


async def test_streams_and_datagrams_with_our_own_server():
    async with serve() as server, connect(*server.address) as connection:
        bodies = await asyncio.gather(*(get(connection, 10_000 * n) for n in range(1, 6)))
        assert [len(body) for body in bodies] == [10_000, 20_000, 30_000, 40_000, 50_000]
        stream = await connection.open_stream()
        await stream.write(b"echo\n")
        for piece in (b"a", b"b" * 70_000, b"c"):
            await stream.write(piece)
            found = b""
            while len(found) < len(piece):
                found += await stream.read()
            assert found == piece
        await stream.finish()
        assert await stream.read() == b""
        connection.send_datagram(b"hello")
        assert await connection.receive_datagram() == b"hello"
        await connection.ping()
        assert connection.alpn == "lab"
        assert connection.early is None
        assert not connection.is_resumed
    assert connection.ended.is_good
    assert connection.ended.by == "us"
    async with serve() as server, connect(*server.address, alpn=["hq-interop"]) as connection:
        stream = await connection.open_stream()
        await stream.finish(b"GET /bytes/3000\r\n")
        assert len(await stream.read_all()) == 3000


async def test_unidirectional_streams_both_ways():
    def act(peer: Peer, event: events.QuicEvent) -> None:
        if isinstance(event, events.StreamDataReceived):
            peer._quic.send_stream_data(3, event.data.upper(), event.end_stream)

    async with aioquic_server(act) as server, connect("127.0.0.1", server.port) as connection:
        ours = await connection.open_stream(uni=True)
        await ours.write(b"one ")
        await ours.finish(b"two")
        theirs = await connection.accept_stream()
        assert (ours.number, theirs.number) == (2, 3)
        assert await theirs.read_all() == b"ONE TWO"
        assert await ours.read() == b""
        with pytest.raises(LocalProtocolError):
            await ours.write(b"more")
        with pytest.raises(LocalProtocolError):
            await theirs.write(b"an answer")


async def test_another_protocol_rides_on_it():
    heard = []
    async with (
        aioquic_server() as server,
        connect("127.0.0.1", server.port, on_event=heard.append) as connection,
    ):
        assert connection.room() == 128
        assert connection.room(uni=True) == 128
        connection.send(0, b"bytes 3")
        connection.send(0, b"000\n", True)
        assert connection.room() == 127
        assert connection.buffered(0) == 11
        while not any(isinstance(event, events.StreamDataReceived) and event.end_stream for event in heard):
            await connection.change()
        data = [event for event in heard if isinstance(event, events.StreamDataReceived)]
        assert b"".join(event.data for event in data) == wanted(3000)
        connection.consumed(0, 3000)
        assert any(isinstance(event, events.HandshakeCompleted) for event in heard)
        connection.close(0x17, "enough")
        await until(lambda: any(isinstance(event, events.ConnectionTerminated) for event in server.peers[0].heard))
        ended = server.peers[0].heard[-1]
        assert (ended.error_code, ended.frame_type, ended.reason_phrase) == (0x17, None, "enough")


async def test_a_rider_that_fails_ends_its_connection():
    def on_event(event: events.QuicEvent) -> None:
        if isinstance(event, events.StreamDataReceived):
            raise KeyError("a mistake")

    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    async with aioquic_server() as server, connect("127.0.0.1", server.port, on_event=on_event) as connection:
        connection.send(0, b"bytes 10\n", True)
        with pytest.raises(QuicError, match="closed by us with INTERNAL_ERROR"):
            await connection.until(lambda: False)
        await until(lambda: server.peers[0]._quic._close_event)
    assert [type(one) for one in told] == [KeyError]


async def test_as_many_streams_as_the_server_allows_and_the_next_waits():
    async with serve(max_streams=2) as server, connect(*server.address) as connection:
        first, second = await connection.open_stream(), await connection.open_stream()
        third = asyncio.create_task(connection.open_stream())
        assert connection.room() == 0
        await asyncio.sleep(TICK)
        assert not third.done()
        for stream in (first, second):
            await stream.finish(b"bytes 1\n")
            await stream.read_all()
        stream = await asyncio.wait_for(third, 100 * TICK)
        await stream.finish(b"bytes 7\n")
        assert len(await stream.read_all()) == 7


# --- Flow control -----------------------------------------------------------------------------------


async def test_an_unread_stream_holds_up_itself_only_and_takes_a_window_of_memory():
    def act(peer: Peer, event: events.QuicEvent) -> None:
        if isinstance(event, events.StreamDataReceived) and event.end_stream:
            peer._quic.send_stream_data(event.stream_id, bytes(1 << 18), True)

    async with aioquic_server(act) as server, connect("127.0.0.1", server.port, window=1 << 14) as connection:
        unread = []
        for _ in range(10):
            unread.append(await connection.open_stream())
            await unread[-1].finish(b"much\n")
        last = await connection.open_stream()
        await last.finish(b"much\n")
        assert len(await last.read_all()) == 1 << 18
        assert sum(len(stream._unread) for stream in unread) <= 10 << 14
        assert len(await unread[0].read_all()) == 1 << 18


async def test_a_server_that_sends_without_end_is_held_and_may_be_stopped():
    async with aioquic_server() as server, connect("127.0.0.1", server.port, window=1 << 16) as connection:
        stream = await connection.open_stream()
        await stream.finish(b"bytes 50000000\n")
        await stream.read()
        await asyncio.sleep(4 * TICK)
        assert len(stream._unread) <= 1 << 16
        sender = server.peers[0]._quic._streams[0].sender
        assert sender.highest_offset <= 1 << 18
        stream.stop(0x2A)
        assert stream._unread == b""
        await until(lambda: sender._reset_error_code is not None)  # As RFC 9000 §3.5 asks of who is told to stop.
        assert sender._reset_error_code == 0x2A
        assert len(await get(connection, 100_000)) == 100_000


async def test_writing_waits_for_the_server_to_read():
    async with aioquic_server(mute, max_stream_data=1 << 15, max_data=1 << 16) as server:
        server._configuration.max_stream_data = 1 << 15
        async with connect("127.0.0.1", server.port) as connection:
            peer = server.peers[0]
            peer._quic._write_stream_limits = peer._quic._write_connection_limits = lambda **_: None
            stream = await connection.open_stream()
            writing = asyncio.create_task(stream.write(bytes(10 << 20)))
            await asyncio.sleep(4 * TICK)
            assert not writing.done()
            assert 1 << 15 <= connection.buffered(0) <= 1 << 18
            stream.reset(9)
            with pytest.raises(LocalProtocolError):
                await writing
            await until(lambda: any(isinstance(event, events.StreamReset) for event in peer.heard))


async def test_streams_nobody_accepts_are_refused_beyond_a_number():
    async with aioquic_server() as server, connect("127.0.0.1", server.port, window=1 << 12) as connection:
        quic = server.peers[0]._quic
        for number in range(3, 4 * 300, 4):
            async with asyncio.timeout(100 * TICK):
                while quic._remote_max_streams_uni <= number // 4:
                    await connection.ping()
            quic.send_stream_data(number, bytes(2000), True)  # all of them more than our window
            server.peers[0].transmit()
        await until(lambda: connection._streams == {})
        assert len(connection._strays) == 100
        assert sum(len(stream._unread) for stream in connection._strays) == 100 * 2000
        assert (await connection.accept_stream()).number == 3
        assert await get(connection, 10_000) == wanted(10_000)


# --- How it ends ------------------------------------------------------------------------------------


async def test_nobody_there_is_told_at_once():
    with udp() as sock:
        port = sock.getsockname()[1]
    start = time.monotonic()
    with pytest.raises(ConnectionRefusedError):
        async with connect("localhost", port):
            pass
    assert time.monotonic() - start < 20 * TICK


async def test_a_server_that_says_nothing():
    with udp() as sock:
        with pytest.raises(TimeoutError):
            async with connect("127.0.0.1", sock.getsockname()[1], timeout=4 * TICK):
                pass
        first = sock.recv(2000)
        assert len(first) >= 1200
        last = first
        with contextlib.suppress(BlockingIOError):
            while True:
                last = sock.recv(2000)
    onlooker = Onlooker()
    onlooker.receive_datagram("client", "server", first)
    frames = onlooker.receive_datagram("client", "server", last).packets[0].frames
    assert any(isinstance(frame, ConnectionClose) for frame in frames)


REFUSED = {
    "expired": (Alert.CERTIFICATE_EXPIRED, "certificate has expired"),
    "not-yet-valid": (Alert.BAD_CERTIFICATE, "certificate is not yet valid"),
    "wrong-name": (Alert.BAD_CERTIFICATE, "IP address mismatch"),
    "self-signed": (Alert.UNKNOWN_CA, "self-signed certificate"),
    "unknown-ca": (Alert.UNKNOWN_CA, "self-signed certificate in certificate chain"),
    "no-intermediate": (Alert.UNKNOWN_CA, "unable to get local issuer certificate"),
    "wrong-purpose": (Alert.UNSUPPORTED_CERTIFICATE, "unsuitable certificate purpose"),
    "forbidden-name": (Alert.CERTIFICATE_UNKNOWN, "permitted subtree violation"),
    "not-a-ca": (Alert.UNKNOWN_CA, "invalid CA certificate"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_certificate_is_refused_and_the_server_is_told_which_fault(name):
    alert, words = REFUSED[name]
    async with aioquic_server(certificate=name) as server:
        with pytest.raises(QuicError, match=words) as caught:
            async with connect("127.0.0.1", server.port):
                pass
        ended = caught.value.ended
        assert ended.by == "us"
        assert ended.alert == alert
        assert ended.code == 0x100 + alert
        await until(lambda: server.peers[0]._quic._close_event)
        assert server.peers[0]._quic._close_event.error_code == 0x100 + alert


async def test_a_certificate_for_another_name_and_one_that_nobody_asks_for():
    async with aioquic_server() as server:
        with pytest.raises(QuicError, match="hostname mismatch"):
            async with connect("127.0.0.1", server.port, name="bank.example"):
                pass
    async with aioquic_server(certificate="self-signed") as server:
        async with connect("127.0.0.1", server.port, verify=False) as connection:
            assert await get(connection, 10) == wanted(10)


async def test_no_protocol_in_common():
    async with aioquic_server() as server:
        with pytest.raises(QuicError) as caught:
            async with connect("127.0.0.1", server.port, alpn=["other"]):
                pass
        assert caught.value.ended.alert == Alert.NO_APPLICATION_PROTOCOL
        assert caught.value.ended.by == "server"


async def test_what_the_server_writes_when_it_closes_does_no_harm_to_a_terminal():
    def act(peer: Peer, event: events.QuicEvent) -> None:
        if isinstance(event, events.StreamDataReceived):
            peer._quic.close(0x17, None, "\x1b[31mred\r\n\u202edone")

    async with aioquic_server(act) as server, connect("127.0.0.1", server.port) as connection:
        with pytest.raises(QuicError) as caught:
            await get(connection, 10)
        ended = caught.value.ended
        assert (ended.how, ended.by, ended.code, ended.is_application) == ("closed", "server", 0x17, True)
        assert ended.reason == "\\x1b[31mred\\x0d\\x0a\\x202edone"
        assert str(ended).isprintable()
        with pytest.raises(QuicError):
            await connection.open_stream()
        with pytest.raises(QuicError):
            await connection.ping()


async def test_what_came_before_the_end_can_still_be_read():
    def act(peer: Peer, event: events.QuicEvent) -> None:
        if isinstance(event, events.StreamDataReceived):
            peer._quic.send_stream_data(0, b"half of it")
            peer.transmit()
            peer._quic.close(ErrorCode.INTERNAL_ERROR, 0)

    async with aioquic_server(act) as server, connect("127.0.0.1", server.port) as connection:
        stream = await connection.open_stream()
        await stream.finish(b"bytes 1\n")
        await until(lambda: connection.ended)
        assert await stream.read() == b"half of it"
        with pytest.raises(QuicError, match="INTERNAL_ERROR"):
            await stream.read()


async def test_silence_ends_it():
    async with aioquic_server() as server:
        async with connect("127.0.0.1", server.port, idle_seconds=4 * TICK) as connection:
            await get(connection, 10)
            server.peers[0]._timer.cancel()
            server.datagram_received = lambda *_: None
            with pytest.raises(QuicError, match="nothing was heard for") as caught:
                await connection.accept_stream()
            assert caught.value.ended.how == "idle"


async def test_a_stateless_reset_is_told():
    async with aioquic_server() as server, connect("127.0.0.1", server.port) as connection:
        await get(connection, 10)
        peer = server.peers[0]
        token = peer._quic._host_cids[0].stateless_reset_token
        for forged in (os.urandom(16), token[:-1] + bytes([token[-1] ^ 1])):
            server._transport.sendto(b"\x41" + os.urandom(30) + forged, peer.address)
        await connection.ping()
        assert connection.ended is None
        server._transport.sendto(b"\x41" + os.urandom(30) + token, peer.address)
        with pytest.raises(QuicError, match="forgotten") as caught:
            await connection.accept_stream()
        assert (caught.value.ended.how, caught.value.ended.by) == ("reset", "server")


async def test_our_own_server_after_a_restart_says_that_it_has_forgotten():
    key = os.urandom(32)
    async with serve(key=key) as server:
        address = server.address
        connecting = connect(*address)
        connection = await connecting.__aenter__()
        await connection.until(lambda: connection.quic.is_confirmed)
        connection._loop.remove_reader(connection._socket)  # It does not see the server's goodbye.
    while True:
        try:
            connection._socket.recv(2000)
        except OSError:
            break
    async with serve(port=address[1], key=key):
        connection._loop.add_reader(connection._socket, connection._readable)
        with pytest.raises(QuicError) as caught:
            await connection.ping()
        assert caught.value.ended.how == "reset"
    await connecting.__aexit__(None, None, None)


async def test_icmp_is_believed_only_before_the_server_has_spoken():
    async with aioquic_server() as server, connect("127.0.0.1", server.port) as connection:
        connection._unreachable(ConnectionRefusedError(111, "Connection refused"))
        assert await get(connection, 10) == wanted(10)


# --- Versions, Retry --------------------------------------------------------------------------------


async def test_a_server_that_speaks_other_versions():
    with udp() as sock:
        loop, port = asyncio.get_running_loop(), sock.getsockname()[1]

        def refuse() -> None:
            data, client = sock.recvfrom(2000)
            hello = invariant(data)
            for destination, source in ((os.urandom(8), hello.destination), (hello.source, os.urandom(8))):
                sock.sendto(encode_quic_version_negotiation(source, destination, [0x99999999]), client)  # by strangers
            sock.sendto(b"\xc0" + bytes(4) + b"\x08", client)  # and a broken one
            sock.sendto(
                encode_quic_version_negotiation(
                    source_cid=hello.destination, destination_cid=hello.source, supported_versions=[0x1A2A3A4A]
                ),
                client,
            )

        loop.add_reader(sock, refuse)
        with pytest.raises(QuicError, match="none of our versions, but 0x1a2a3a4a") as caught:
            async with connect("127.0.0.1", port):
                pass
        loop.remove_reader(sock)
        assert (caught.value.ended.how, caught.value.ended.by) == ("version", "server")


@pytest.mark.parametrize("retry", [False, True])
async def test_a_server_that_speaks_version_2_only(retry):
    async with aioquic_server(supported_versions=[VERSION_2], retry=retry) as server:
        async with connect("127.0.0.1", server.port) as connection:
            assert await get(connection, 100_000) == wanted(100_000)
            assert connection.quic._version == VERSION_2
            assert connection.quic.server_versions == (VERSION_2,)


async def test_after_a_retry_the_same_hello_is_sent():
    async with aioquic_server(retry=True) as server:
        sent = []
        async with connect("127.0.0.1", server.port, teller=Spy(sent)) as connection:
            assert connection.quic._retry_count == 1
            assert await get(connection, 100_000) == wanted(100_000)
        assert connection.quic._loss.bytes_in_flight == 0
        onlooker = Onlooker()
        hellos = [
            bytes(frame.data)
            for is_ours, datagram in sent
            if (sight := onlooker.receive_datagram(*(("us", "it") if is_ours else ("it", "us")), datagram)) and is_ours
            for packet in sight.packets
            if packet.packet.type == PacketType.INITIAL
            for frame in packet.frames
            if type(frame).__name__ == "Crypto"
        ]
        assert len(hellos) == 2
        assert hellos[0] == hellos[1]


class Spy:
    """Is given instead of a teller."""

    key_log = None
    started = 0.0

    def __init__(self, datagrams: list[tuple[bool, bytes]]) -> None:
        self.datagrams = datagrams

    def write(self, line: str) -> None:
        pass

    def flush(self) -> None:
        pass

    def tell(self) -> None:
        pass

    def watch(self, is_ours: bool, datagram: bytes) -> None:
        self.datagrams.append((is_ours, datagram))


# --- Early data -------------------------------------------------------------------------------------


async def ticket_of(port: int, **more) -> Ticket:
    async with connect("127.0.0.1", port, **more) as connection:
        await get(connection, 10)
        await connection.until(lambda: connection.ticket is not None)
        return connection.ticket


async def test_early_data_with_a_ticket_from_a_file(tmp_path):
    async with serve() as server:
        (await ticket_of(server.address[1])).save(tmp_path / "ticket")
        assert stat.S_IMODE((tmp_path / "ticket").stat().st_mode) == 0o600
        ticket = Ticket.load(tmp_path / "ticket")
        assert ticket.allows_early
        assert ticket.alpn == "lab"
        assert ticket.token
        assert ticket.address == "127.0.0.1"
        sent: list[tuple[bool, bytes]] = []
        async with connect(*server.address, ticket=ticket, early=True, teller=Spy(sent)) as connection:
            assert not connection.is_handshaken
            assert len(await get(connection, 5000)) == 5000
            await connection.handshaken()
            assert connection.early is True
            assert connection.is_resumed
        first_answer = [is_ours for is_ours, _ in sent].index(False)
        kinds = [packet.type for _, datagram in sent[:first_answer] for packet in split(datagram, 8)]
        assert kinds == [PacketType.INITIAL, PacketType.ZERO_RTT]
        assert all(len(datagram) >= 1200 for _, datagram in sent[:first_answer])


async def test_early_data_goes_where_the_server_was(monkeypatch):
    async with aioquic_server() as server:
        ticket = await ticket_of(server.port)
        addresses = [("127.0.0.2", server.port), ("127.0.0.1", server.port)]

        async def found(*_, **__) -> list[tuple]:
            return [(socket.AF_INET, socket.SOCK_DGRAM, 0, "", address) for address in addresses]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", found)
        async with connect("127.0.0.1", server.port, ticket=ticket, early=True) as connection:
            assert await get(connection, 10) == wanted(10)
            assert connection.early is True
        async with connect("127.0.0.1", server.port) as connection:  # There is nobody at the first.
            assert connection.ticket is None or connection.ticket.address == "127.0.0.1"


async def test_early_data_refused_is_sent_again_and_said():
    async with aioquic_server() as server:
        ticket = await ticket_of(server.port)
        server.tickets.clear()
        async with connect("127.0.0.1", server.port, ticket=ticket, early=True) as connection:
            window = connection.quic._loss.congestion_window
            bodies = await asyncio.gather(*(get(connection, 5000) for _ in range(5)))
            assert bodies == [wanted(5000)] * 5
            assert connection.early is False
            assert not connection.is_resumed
            assert connection.quic._loss.congestion_window >= window  # Nothing was lost.


async def test_early_data_goes_through_a_retry():
    async with aioquic_server(retry=True) as server:
        ticket = await ticket_of(server.port)
        async with connect("127.0.0.1", server.port, ticket=ticket, early=True) as connection:
            assert await get(connection, 5000) == wanted(5000)
            assert connection.early is True
            assert connection.quic._retry_count == 1
            await connection.ping()
            assert connection.quic._loss.bytes_in_flight < 200


async def test_no_ticket_no_early_data():
    async with aioquic_server(alpn=("lab", "other")) as server:
        ticket = await ticket_of(server.port)
        for more in ({}, {"ticket": ticket, "alpn": ["other"]}, {"ticket": ticket, "name": "server.lab"}):
            async with connect("127.0.0.1", server.port, early=True, **more) as connection:
                assert await get(connection, 10) == wanted(10)
                assert connection.early is None
                assert not connection.is_resumed


@pytest.mark.parametrize("text", ["", "{}", '{"alpn": 1}', "[1]", "\0", '{"alpn": "lab", "cipher": 7}'])
def test_a_file_that_is_no_ticket(tmp_path, text):
    (tmp_path / "ticket").write_text(text)
    with pytest.raises(ValueError, match="holds no ticket"):
        Ticket.load(tmp_path / "ticket")


# --- On the way -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["rebind", "migrate", "update_keys"])
async def test_in_the_middle_of_a_transfer(how):
    count = 1_000_000
    async with serve() as server, connect(*server.address) as connection:
        stream = await connection.open_stream()
        await stream.finish(b"bytes %d\n" % count)
        found, ports, ids = b"", [connection.local_address[1]], {connection.quic._peer_cid.cid}
        for part in range(1, 6):
            while len(found) < part * count // 6:
                found += await stream.read()
            if how == "rebind":
                connection.rebind()
            elif how == "migrate":
                await connection.migrate()
            else:
                await connection.update_keys()
            ports.append(connection.local_address[1])
            ids.add(connection.quic._peer_cid.cid)
        found += await stream.read_all()
        assert found == (bytes(range(251)) * (count // 251 + 1))[:count]
        assert all((one == other) == (how == "update_keys") for one, other in itertools.pairwise(ports))
        assert len(ids) >= (6 if how == "migrate" else 1)
        assert connection.quic._cryptos[next(e for e in connection.quic._cryptos if e.name == "ONE_RTT")].key_phase == (
            1 if how == "update_keys" else 0
        )


async def test_another_address_may_take_smaller_datagrams_only():
    async with serve() as server, connect(*server.address) as connection:
        await get(connection, 100_000)
        await until(lambda: connection.quic._max_datagram_size > 1200)
        await connection.migrate("127.0.0.2")
        assert connection.local_address[0] == "127.0.0.2"
        assert connection.quic._max_datagram_size == 1200
        assert len(await get(connection, 100_000)) == 100_000


async def test_a_server_that_does_not_want_us_to_move():
    async with aioquic_server() as server, connect("127.0.0.1", server.port) as connection:
        connection.quic.server_parameters.disable_active_migration = True
        with pytest.raises(LocalProtocolError, match="does not want us to migrate"):
            await connection.migrate()


async def test_a_stream_is_reset_or_stopped_by_the_server():
    def act(peer: Peer, event: events.QuicEvent) -> None:
        if isinstance(event, events.StreamDataReceived) and event.data.startswith(b"reset"):
            peer._quic.send_stream_data(event.stream_id, b"half")
            peer.transmit()
            peer._quic.reset_stream(event.stream_id, 0x11)
        elif isinstance(event, events.StreamDataReceived) and event.data.startswith(b"stop"):
            peer._quic.stop_stream(event.stream_id, 0x12)

    async with aioquic_server(act) as server, connect("127.0.0.1", server.port) as connection:
        stream = await connection.open_stream()
        await stream.write(b"reset\n")
        with pytest.raises(StreamReset) as caught:
            await stream.read_all()
        assert caught.value.code == 0x11
        stream = await connection.open_stream()
        await stream.write(b"stop\n")
        await until(lambda: stream._stopped is not None)
        with pytest.raises(StreamReset) as caught:
            await stream.write(b"more")
        assert caught.value.code == 0x12
        await connection.ping()


async def test_datagrams_too_large_too_many_and_unwanted():
    async with aioquic_server() as server, connect("127.0.0.1", server.port) as connection:
        with pytest.raises(LocalProtocolError):
            connection.send_datagram(bytes(60_000))
        for number in range(1000):
            connection.send_datagram(b"%d" % number)
        await connection.ping()
        connection.send_datagram(b"last")
        while await connection.receive_datagram() != b"last":
            pass
    async with aioquic_server(max_datagram_frame_size=None) as server, connect("127.0.0.1", server.port) as connection:
        with pytest.raises(LocalProtocolError):
            connection.send_datagram(b"a")


# --- A network that lies ----------------------------------------------------------------------------


async def test_garbage_and_strangers_change_nothing():
    async with aioquic_server() as server, connect("127.0.0.1", server.port) as connection:
        stream = await connection.open_stream()
        await stream.finish(b"bytes 300000\n")
        found = await stream.read()
        source, peer = random.Random(7), server.peers[0]
        us, them = connection.quic.host_cid, peer._quic.host_cid
        with udp() as stranger:
            for number in range(2000):
                data = source.randbytes(source.choice((1, 5, 20, 60, 1200)))
                if number % 3:
                    head = (b"\x41" + us, b"\xc1\0\0\0\1\x08" + us + b"\x08" + them, b"\xf1\0\0\0\1\x08" + us)
                    data = source.choice(head) + data
                server._transport.sendto(data, peer.address)  # from the right address, but who has no key …
                stranger.sendto(data, peer.address)
                if number % 50 == 0:
                    await asyncio.sleep(0)
        while data := await stream.read():
            found += data
        assert found == wanted(300_000)
        assert connection.ended is None


async def test_a_lossy_doubling_reordering_network():
    source = random.Random(3)
    async with aioquic_server() as server:
        send = server._transport.sendto
        held: list = []

        class Transport:
            def sendto(self, data, address):
                if source.random() < 0.05:
                    return
                held.append((data, address))
                if source.random() < 0.1:
                    held.append((data, address))
                if source.random() < 0.7:
                    source.shuffle(held)
                    for one in held:
                        send(*one)
                    held.clear()

            def close(self):
                pass

        async with connect("127.0.0.1", server.port) as connection:
            server.peers[0]._transport = Transport()
            assert await get(connection, 300_000) == wanted(300_000)


# --- What it writes down ----------------------------------------------------------------------------


def in_order(trace: dict) -> None:
    """What qvis asks of a trace, or it shows an error (its QlogLoaderV2.ts, CongestionGraphD3Renderer.ts)."""
    assert trace["events"]
    times = [event["time"] for event in trace["events"]]
    assert times == sorted(times)
    for event in trace["events"]:
        data = event["data"]
        assert set(event) == {"time", "name", "data"}
        assert event["name"].count(":") == 1
        assert "packet_type" not in data
        if event["name"] in ("transport:packet_sent", "transport:packet_received"):
            assert {"packet_size", "payload_length"}.isdisjoint(data["header"])
            assert data["header"]["packet_type"] in ("initial", "handshake", "0RTT", "1RTT", "retry")
            assert data["raw"]["length"] > 0
            assert all(isinstance(frame["frame_type"], str) for frame in data["frames"])
        elif event["name"] == "recovery:packet_lost":
            assert data["header"]["packet_number"] >= 0


async def test_qlog_and_key_log(tmp_path):
    source, folder = random.Random(3), tmp_path / "qlog"
    async with serve(qlog=folder) as server:
        async with connect(*server.address, qlog=folder, key_log=tmp_path / "keys") as connection:
            send = connection._send
            connection._send = lambda data: send(data) if source.random() > 0.1 else None
            stream = await connection.open_stream()
            await stream.finish(b"echo\n" + bytes(300_000))
            await stream.read_all()
            connection._send = send  # Its goodbye is not lost.
        first = connection.quic.original_destination_connection_id.hex()
        await until(lambda: len(list(folder.iterdir())) == 2)
    for side in ("client", "server"):
        log = json.loads((folder / f"{first}_{side}.qlog").read_text())
        assert (log["qlog_version"], log["qlog_format"], len(log["traces"])) == ("0.3", "JSON", 1)
        (trace,) = log["traces"]
        assert trace["vantage_point"]["type"] == side
        assert trace["common_fields"]["ODCID"] == first
        in_order(trace)
        names = {event["name"] for event in trace["events"]}
        assert names >= {"transport:packet_sent", "transport:packet_received", "recovery:metrics_updated"}
        assert "recovery:packet_lost" in names or side == "server"
        kinds = {frame["frame_type"] for event in trace["events"] for frame in event["data"].get("frames", ())}
        assert kinds >= {"crypto", "ack", "stream", "handshake_done", "connection_close"}
    labels = {line.split()[0] for line in (tmp_path / "keys").read_text().splitlines()}
    sides = ("CLIENT", "SERVER")
    assert labels >= {f"{side}_{what}" for side in sides for what in ("HANDSHAKE_TRAFFIC_SECRET", "TRAFFIC_SECRET_0")}


# --- The command ------------------------------------------------------------------------------------


async def run(*arguments: str, interrupt_at: str = "", **variables: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "clients.quic", *arguments, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1", **variables},
    )  # fmt: skip
    seen = b""
    if interrupt_at:
        while line := await process.stdout.readline():
            seen += line
            if interrupt_at.encode() in line:
                process.send_signal(signal.SIGINT)
                break
    out, err = await process.communicate()
    assert b"Traceback" not in err
    return process.returncode, (seen + out).decode(), err.decode()


async def test_the_command_tells_every_flight(tmp_path):
    async with serve() as server:
        port = str(server.address[1])
        logs = {"QLOGDIR": str(tmp_path / "qlog"), "SSLKEYLOGFILE": str(tmp_path / "keys")}
        code, out, err = await run("--port", port, "--early", "--datagram", "hi", "bytes 20000", "bytes 20000", **logs)
        assert len(list((tmp_path / "qlog").glob("*_client.qlog"))) == 2
        assert "CLIENT_EARLY_TRAFFIC_SECRET" in (tmp_path / "keys").read_text()
        assert (code, err) == (0, "")
        lines = out.splitlines()
        assert {line[0] for line in lines} == {">", "<", "="}
        for expected in (
            r">   Initial 0: CRYPTO .*client_hello for localhost: TLS 1.3",
            r"<   Handshake \d+: .*finished",
            r"<   1-RTT .*HANDSHAKE_DONE",
            r">   0-RTT \d+: STREAM 0",
            r"= agreed on lab, the server is CN=server.lab",
            r"= agreed on lab, resumed; early data accepted",
            r"= stream 4: .* 20000 bytes",
            r"= a datagram came back: b'hi'",
            r">   1-RTT \d+: CONNECTION_CLOSE app 0x0",
            r"= without a ticket the answer began in flight \d, after \S+ ms; with one in flight \d, after \S+ ms",
        ):
            assert re.search(expected, out), expected
        assert "no key opens it" not in out
        file = tmp_path / "ticket"
        for expected in ("the server is", "early data accepted"):
            code, out, _ = await run("--port", port, "--ticket", str(file), "--rebind", "--migrate", "--update-keys")
            assert code == 0
            assert expected in out
            rebound, moved, renewed = out.split("= the server has made sure that we are there")
            assert "so does a NAT" in rebound
            assert "RETIRE_CONNECTION_ID" not in rebound.partition("so does a NAT")[2]
            assert "= we have moved to" in moved
            for path in (rebound, moved):  # Each is tried in its own time.
                assert path.index("PATH_CHALLENGE") < path.index("PATH_RESPONSE")
            assert "key phase 1" not in rebound + moved
            assert "key phase 1" in renewed


async def test_a_reader_who_leaves_early_is_no_mistake():
    """As in `make quic-client | head -1`."""

    def read_one_line(port: int) -> tuple[int, bytes, bytes]:
        command = [sys.executable, "-m", "clients.quic", "--port", str(port)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            line = process.stdout.readline()
            process.stdout.close()
            return process.wait(200 * TICK), line, process.stderr.read()

    async with serve() as server:
        code, line, err = await asyncio.to_thread(read_one_line, server.address[1])
    assert (code, err) == (0, b"")
    assert line.startswith(b"= connecting to")


async def test_exit_codes():
    with udp() as sock:
        free = str(sock.getsockname()[1])
    async with aioquic_server(certificate="expired") as server:
        with udp() as silent:
            port = str(silent.getsockname()[1])
            expired, late, nobody, no_root = await asyncio.gather(
                run("--port", str(server.port)), run("--port", port, "--timeout", "0.5"), run("--port", free),
                run("--ca", "/dev/null"),
            )  # fmt: skip
    assert expired[0] == 1
    assert "! closed by us with certificate_expired (0x012d): certificate has expired" in expired[1]
    assert late[0] == 1
    assert "No answer from" in late[2]
    assert nobody[0] == no_root[0] == 2
    assert "Connection refused. Is `make quic-server` running?" in nobody[2]
    assert "there is no file /dev/null" in no_root[2]


async def test_mistakes_that_are_found_before_anything_is_sent(tmp_path):
    (tmp_path / "empty.pem").write_text("no certificate")
    with pytest.raises(OSError, match="holds no certificates"):
        await connect(trust=tmp_path / "empty.pem").__aenter__()
    with pytest.raises(LocalProtocolError, match="a protocol above it"):
        await connect(alpn=[]).__aenter__()
    with pytest.raises(UnicodeError):
        await connect(name="\xe4..b").__aenter__()
    with pytest.raises(OSError, match="no key log can be written"):
        await connect(key_log=tmp_path / "no" / "log").__aenter__()


async def test_ctrl_c_closes_the_connection():
    def act(peer: Peer, event: events.QuicEvent) -> None:
        if isinstance(event, events.StreamDataReceived):
            peer._quic.send_stream_data(event.stream_id, b"and now wait")

    async with aioquic_server(act) as server:
        code, _, _ = await run("--port", str(server.port), interrupt_at="the answer has begun")
        assert code == 130
        await until(lambda: server.peers[0]._quic._close_event)
        assert server.peers[0]._quic._close_event.error_code == 0


# --- Peers that others wrote ------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def program(*command: str) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def patiently(port: int, use: Callable[[Connection], Awaitable[None]], **more) -> Connection:
    """Connect as soon as the program listens."""
    end = time.monotonic() + 200 * TICK
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            async with connect("127.0.0.1", port, **more) as connection:
                await connection.ping()
                await connection.update_keys()
                await use(connection)
                await connection.until(lambda: connection.ticket is not None)
            return connection
        assert time.monotonic() < end
        await asyncio.sleep(TICK)


async def test_with_ngtcp2():
    need_tool("gtlsserver")

    async def move(connection: Connection) -> None:
        await connection.migrate()

    with udp() as sock:
        port = sock.getsockname()[1]
    files = str(certs.FOLDER / "server.key"), str(certs.FOLDER / "server.pem")
    async with program("gtlsserver", "-q", "-V", "127.0.0.1", str(port), *files):
        connection = await patiently(port, move, alpn=["h3"])
        assert connection.quic._retry_count == 1
        assert connection.ended.is_good
        async with connect("127.0.0.1", port, alpn=["h3"], ticket=connection.ticket) as again:
            assert again.is_resumed
            again.rebind()
            await again.ping()
        with pytest.raises(QuicError) as caught:
            async with connect("127.0.0.1", port, alpn=["nothing"]):
                pass
        assert caught.value.ended.alert == Alert.NO_APPLICATION_PROTOCOL
        with pytest.raises(QuicError, match="hostname mismatch"):
            async with connect("127.0.0.1", port, alpn=["h3"], name="bank.example"):
                pass


async def test_with_caddy(tmp_path):
    need_tool("caddy")

    async def stay(connection: Connection) -> None:
        with pytest.raises(LocalProtocolError, match="does not want us to migrate"):
            await connection.migrate()

    with udp() as sock:
        port = sock.getsockname()[1]
    (tmp_path / "Caddyfile").write_text(
        f"{{\n admin off\n auto_https off\n storage file_system {tmp_path}\n}}\nhttps://localhost:{port} {{\n"
        f" tls {certs.FOLDER / 'server.pem'} {certs.FOLDER / 'server.key'}\n respond hello\n}}\n"
    )
    async with program("caddy", "run", "--config", str(tmp_path / "Caddyfile"), "--adapter", "caddyfile"):
        connection = await patiently(port, stay, alpn=["h3"], name="localhost")
        assert connection.alpn == "h3"
