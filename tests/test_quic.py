"""QUIC: the connection on aioquic, in memory; the endpoint and the server, on real sockets, with three other stacks."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import gc
import hashlib
import itertools
import json
import random
import signal
import socket
import subprocess
import sys
import time
import tracemalloc
from collections import Counter

import pytest
from aioquic.asyncio.client import connect as aioquic_connect
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import StreamDataReceived, StreamReset
from aioquic.quic.packet import QuicPacketType as In
from aioquic.tls import Epoch

import certs
import clients.quic as clients
from certs.quic import quic_client, quic_server
from protocols import quic_packets
from protocols.errors import LocalProtocolError
from protocols.quic import Connection, reset_token
from protocols.quic_frames import (
    Datagram,
    HandshakeDone,
    MaxStreamData,
    PathChallenge,
    Ping,
    ResetStream,
    RetireConnectionId,
    StopSending,
    Stream,
    encode,
    encode_parameters,
    parse_parameters,
)
from protocols.quic_numbers import VERSION_1, VERSION_2, ErrorCode, PacketType, TransportParameter
from protocols.quic_packets import long_header, short_header
from protocols.tls_numbers import Alert
from servers import http3, quic, quic_endpoint, quic_talk, quic_tokens, site
from servers.quic_tokens import Tickets, Tokens
from tests.conftest import TICK, cannot, need_tool
from tests.quic_cases import CASES, LIMITS, MOST, PARAMETERS, new_id, numbers, payloads

PATIENCE = 200 * TICK  # what may happen at once gets this long on a busy machine
EPOCHS = {
    In.INITIAL: Epoch.INITIAL,
    In.ZERO_RTT: Epoch.ZERO_RTT,
    In.HANDSHAKE: Epoch.HANDSHAKE,
    In.ONE_RTT: Epoch.ONE_RTT,
}
HERE, THERE = ("127.0.0.1", 1111), ("127.0.0.1", 2222)

# -- In memory: a client of aioquic's, and our connection -------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def certificates():
    certs.ensure()


@functools.cache
def server_configuration():
    return quic_server(alpn=["lab"])


class Pair:
    """Two ends, and a clock that nobody waits for. The client is aioquic's own: what it sends is as it should be."""

    def __init__(self, ticket=None, tickets=None, configuration=None, parameters=None, alpn=("lab",), **limits):
        self.now = 1000.0
        self.tickets = {} if tickets is None else tickets
        self.ticket = None
        asking = quic_client("localhost", alpn=alpn, ticket=ticket)
        self.client = QuicConnection(configuration=asking, session_ticket_handler=self.keep)
        self.server = Connection(
            configuration=configuration or server_configuration(),
            original_destination_connection_id=self.client.original_destination_connection_id,
            session_ticket_fetcher=lambda identity: self.tickets.pop(identity, None),
            session_ticket_handler=lambda ticket: self.tickets.update({ticket.ticket: ticket}),
            **(LIMITS | limits),
        )
        if parameters is not None:
            as_they_are = self.client._serialize_transport_parameters
            self.client._serialize_transport_parameters = lambda: changed(as_they_are(), parameters)
        self.client._replenish_connection_ids = lambda: None  # The cases issue their own.
        self.largest = 65535  # bytes of a datagram that the path takes
        self.spoil = lambda data, _: [data]
        self.heard = []  # what the server's application gets to know
        self.client.connect(THERE, self.now)

    def keep(self, ticket):
        self.ticket = ticket

    def to_server(self):
        """What the client has to send, delivered."""
        for data, _ in self.client.datagrams_to_send(self.now):
            for each in self.spoil(data, self):
                self.server.receive_datagram(each, HERE, self.now)
        self.hear()

    def hear(self):
        while event := self.server.next_event():
            self.heard.append(event)

    def to_client(self):
        for data, _ in self.server.datagrams_to_send(self.now):
            if len(data) <= self.largest:
                for each in self.spoil(data, self):
                    self.client.receive_datagram(each, THERE, self.now)

    def settle(self, turns=8):
        """Go to and fro, with a little time in between."""
        for _ in range(turns):
            self.to_server()
            self.to_client()
            self.now += 0.01
            for end in (self.client, self.server):
                if (at := end.get_timer()) is not None and at <= self.now:
                    end.handle_timer(self.now)
        return self

    def inject(self, where, payload, reserved=0):
        """A packet in the client's name, with the client's keys."""
        client, crypto = self.client, self.client._cryptos[EPOCHS[where]].send
        number = client._packet_number
        client._packet_number += 1
        digits = number.to_bytes(4, "big")
        if where is In.ONE_RTT:
            header = short_header(client._peer_cid.cid, digits)
        else:
            if where is In.INITIAL:
                payload = payload.ljust(1162, b"\0")
            header = long_header(where.value, client._peer_cid.cid, client.host_cid, digits, len(payload))
        header = bytes([header[0] | reserved]) + header[1:]
        self.server.receive_datagram(crypto.encrypt_packet(header, payload, number), HERE, self.now)
        self.hear()


@pytest.fixture(scope="module")
def resumable():
    """Tickets to resume with: what a client has, and what a server has."""

    def make():
        pair = Pair().settle()
        return pair.ticket, pair.tickets

    return make


def at_the_moment(where, resumable):
    """A pair in which the client has keys for such packets, and the server, too."""
    if where is In.ZERO_RTT:
        ticket, tickets = resumable()
        pair = Pair(ticket, tickets)
        pair.to_server()
    else:
        pair = Pair()
        pair.to_server()
        if where is In.HANDSHAKE:
            pair.to_client()
            pair.client.datagrams_to_send(pair.now)  # its Finished, which is lost
        elif where is In.ONE_RTT:
            pair.settle()
    return pair


def outcome(case, resumable):
    pair = at_the_moment(case.where, resumable)
    for payload in payloads(case):
        pair.inject(case.where, payload, case.reserved)
        if pair.server.ended is None:
            pair.to_client()  # Acknowledgements leave, so that what waits for them is not our own doing.
    if pair.server.ended is None:
        return None
    pair.to_client()
    told = pair.client._close_event
    is_known = pair.server._peer_cid.cid in [one.cid for one in pair.client._host_cids]
    if is_known and (told is None or told.error_code != pair.server.ended.error_code):
        return "the client was not told"
    return pair.server.ended.error_code


def test_hostile_packets(resumable):
    wrong = {}
    for name, case in CASES.items():
        if (found := outcome(case, resumable)) != case.wanted:
            wrong[name] = (case.wanted, found)
    assert not wrong, "\n".join(f"{name}: wanted {wanted}, got {found}" for name, (wanted, found) in wrong.items())


def changed(data, parameters):
    """Transport parameters with others in them, or without: None."""
    if isinstance(parameters, bytes):
        return data + parameters
    values = parse_parameters(data) | parameters
    return encode_parameters({number: value for number, value in values.items() if value is not None})


def ended_with(pair):
    """The code with which a handshake ends, as the client gets to know it."""
    pair.settle()
    assert (pair.server.ended is None) == (pair.client._close_event is None)
    return pair.client._close_event and pair.client._close_event.error_code


def test_transport_parameters():
    wrong = {}
    twice = {"one twice (SHOULD)": (ErrorCode.TRANSPORT_PARAMETER_ERROR, b"\4\1\5")}  # initial_max_data
    for name, (wanted, parameters) in (PARAMETERS | twice).items():
        if (found := ended_with(Pair(parameters=parameters))) != wanted:
            wrong[name] = (wanted, found)
    assert not wrong, "\n".join(f"{name}: wanted {wanted}, got {found}" for name, (wanted, found) in wrong.items())


def test_an_idle_timeout_of_zero_is_none():
    """RFC 9000 §18.2: then ours alone counts."""
    pair = Pair(parameters={TransportParameter.MAX_IDLE_TIMEOUT: 0}).settle()
    heard = pair.now
    assert pair.server.get_timer() > heard + 10
    assert pair.server._idle_timeout() == server_configuration().idle_timeout


def test_a_handshake_without_a_protocol_in_common_ends_with_an_alert():
    assert ended_with(Pair(alpn=["http/0.8"])) == ErrorCode.CRYPTO_ERROR + Alert.NO_APPLICATION_PROTOCOL


@pytest.mark.parametrize("frame", [Stream(0, 0, b"", True), StopSending(0, 0), ResetStream(0, 0, 1)])
def test_frames_of_a_stream_that_is_over_have_a_price(frame):
    """§21.9. A few of them are nothing to wonder at: they have overtaken each other."""
    pair = Pair().settle()
    pair.client.send_stream_data(0, b"x", True)
    pair.settle()
    pair.server.send_stream_data(0, b"y", True)
    pair.settle()
    assert 0 not in pair.server._streams
    pair.inject(In.ONE_RTT, encode(frame) * 100)
    assert pair.server.ended is None
    for _ in range(20):
        pair.inject(In.ONE_RTT, encode(frame) * 200)
        pair.server.datagrams_to_send(pair.now)
    assert pair.server.ended.error_code == ErrorCode.INTERNAL_ERROR


def test_keys_that_are_new_in_every_packet_have_a_price():
    """Each costs us as much as many packets. A hundred in a row are nobody's need (RFC 9001 §6.6: one in 2^23)."""
    pair = Pair().settle()
    updates = 0
    while pair.server.ended is None and updates < 300:
        updates += 1
        pair.client._cryptos[Epoch.ONE_RTT]._update_key("local_update")
        pair.client.send_ping(updates)
        pair.settle(1)
    assert updates > 20
    assert pair.server.ended.error_code == ErrorCode.KEY_UPDATE_ERROR


def test_our_new_keys_do_not_come_behind_the_peers_before_those_are_known_to_be_in_use():
    """RFC 9001 §6.1: not before a packet under the current keys is acknowledged, whoever has begun with them."""
    pair = Pair().settle()
    pair.client.request_key_update()
    pair.client.send_ping(1)
    pair.to_server()
    phase = pair.server._cryptos[Epoch.ONE_RTT].send.key_phase
    pair.server.request_key_update()
    pair.server.send_ping(1)
    pair.server.datagrams_to_send(pair.now)
    assert pair.server._cryptos[Epoch.ONE_RTT].send.key_phase == phase == 1
    pair.settle(20)
    pair.server.send_ping(2)
    pair.settle()
    assert pair.server._cryptos[Epoch.ONE_RTT].send.key_phase == 0


# -- In memory: addresses that are not proved, and the end -------------------------------------------------


def long_chain():
    """A certificate with so many others that the server's first flight is ten times what the client's was."""
    configuration = server_configuration()
    return dataclasses.replace(configuration, certificate_chain=configuration.certificate_chain * 12)


@pytest.mark.parametrize("then", ["silence", "garbage", "a second hello", "something forbidden"])
def test_never_more_than_three_times_what_came_from_an_address_that_is_not_proved(then):
    """RFC 9000 §8.1, over a minute in which the server repeats itself, or has to close the connection."""
    pair = Pair(configuration=long_chain())
    first = pair.client.datagrams_to_send(pair.now)
    came = left = 0
    for step in range(40):
        if step == 0 or then == "a second hello":
            data = first[0][0]
        elif then == "garbage":
            data = bytes([0xC0]) + first[0][0][1:100]
        elif then == "something forbidden" and step == 5:
            pair.client.datagrams_to_send = lambda now: []
            client, crypto = pair.client, pair.client._cryptos[Epoch.INITIAL].send
            payload, number = encode(HandshakeDone()).ljust(300, b"\0"), (999).to_bytes(4, "big")
            header = long_header(0, client._peer_cid.cid, client.host_cid, number, len(payload))
            data = crypto.encrypt_packet(header, payload, 999).ljust(1200, b"\0")
        else:
            data = b""
        if data:
            came += len(data)
            pair.server.receive_datagram(data, HERE, pair.now)
        for _ in range(5):
            left += sum(len(sent) for sent, _ in pair.server.datagrams_to_send(pair.now))
            assert left <= 3 * came
            if (at := pair.server.get_timer()) is not None and at <= pair.now + 1.5:
                pair.now = max(pair.now, at)
                pair.server.handle_timer(pair.now)
        pair.now += 1.5
    assert left > came, "it has answered"


def test_a_new_address_has_to_be_proved_too():
    """Somebody repeats a client's packet from another address (§9.3.1): the victim gets three times that, no more."""
    pair = Pair(stream_window=1 << 20).settle()
    stream = pair.client.get_next_available_stream_id()
    pair.client.send_stream_data(stream, b"x")
    pair.settle()
    pair.server.send_stream_data(stream, bytes(1_000_000))
    pair.settle()
    pair.client.send_stream_data(stream, b"y")
    packet = pair.client.datagrams_to_send(pair.now)[0][0]
    pair.server.receive_datagram(packet, ("127.0.0.9", 9), pair.now)
    victim = 0
    for _ in range(50):
        for data, to in pair.server.datagrams_to_send(pair.now):
            victim += len(data) if to[0] == "127.0.0.9" else 0
        assert victim <= 3 * len(packet)
        pair.now += 0.05
        if (at := pair.server.get_timer()) is not None and at <= pair.now:
            pair.server.handle_timer(pair.now)
    assert victim
    pair.settle(30)  # It was a lie: nobody there can answer PATH_CHALLENGE, and the client is still where it was.
    assert pair.server.ended is None
    assert pair.server.get_peer_address() == HERE


def test_a_handshake_proves_the_address_that_was_answered_and_no_other():
    """Who has got our flight sends the end of the handshake, and a request, in a victim's name (§8.1, §9.3)."""
    pair, victim = Pair(configuration=long_chain()), ("127.0.0.9", 9)
    for data, _ in pair.client.datagrams_to_send(pair.now):
        pair.server.receive_datagram(data, HERE, pair.now)
    sent = left = 0
    for turn in range(60):
        for data, to in pair.server.datagrams_to_send(pair.now):
            if to == victim:
                left += len(data)
                assert left <= 3 * sent
            else:
                pair.client.receive_datagram(data, THERE, pair.now)
        if pair.client._handshake_complete and not pair.server._handshake_confirmed:
            pair.client.send_stream_data(0, b"x")
        spoofed = pair.client._handshake_complete and turn < 50
        for data, _ in pair.client.datagrams_to_send(pair.now):
            sent += len(data) if spoofed else 0
            pair.server.receive_datagram(data, victim if spoofed else HERE, pair.now)
        if pair.server._handshake_confirmed and not left:
            pair.server.send_stream_data(0, bytes(200_000))
        pair.now += 0.01
        for end in (pair.client, pair.server):
            if (at := end.get_timer()) is not None and at <= pair.now:
                end.handle_timer(pair.now)
    assert pair.server._handshake_confirmed
    assert not any(path.is_validated for path in pair.server._network_paths if path.addr == victim)


def test_who_has_closed_says_so_again_to_who_goes_on_but_less_and_less():
    pair = Pair().settle()
    pair.server.close(7, None, "enough")
    ((goodbye, _),) = pair.server.datagrams_to_send(pair.now)
    answers = []
    for _ in range(100):
        pair.client.send_ping(1)
        for data, _ in pair.client.datagrams_to_send(pair.now):
            pair.server.receive_datagram(data, HERE, pair.now)
        pair.now += 0.001
        answers += pair.server.datagrams_to_send(pair.now)
        assert pair.server.datagrams_to_send(pair.now) == []
    assert answers == [(goodbye, HERE)] * 7  # for the 1st, 2nd, 4th … 64th
    pair.client.receive_datagram(goodbye, THERE, pair.now)
    assert (pair.client._close_event.error_code, pair.client._close_event.reason_phrase) == (7, "enough")


def test_a_stateless_reset_is_known_by_its_token_and_nothing_else_is_one():
    pair = Pair(reset_key=b"k" * 32).settle()
    client = Connection(configuration=quic_client("localhost", alpn=["lab"]))
    client._peer_cid = pair.client._peer_cid
    token = reset_token(b"k" * 32, client._peer_cid.cid)
    assert client.is_stateless_reset(b"\x40" + bytes(4) + token)
    assert not client.is_stateless_reset(b"\x40" + bytes(3) + token)  # too short to be one: 21 bytes at least (§10.3)
    assert not client.is_stateless_reset(bytes(30) + token + b"\0")
    assert not client.is_stateless_reset(bytes(5) + reset_token(b"l" * 32, client._peer_cid.cid))


# -- In memory: windows, keys, sizes ---------------------------------------------------------------------


def sent_by(pair, size):
    """How much of a stream's bytes reaches the server, with all the time in the world."""
    stream = pair.client.get_next_available_stream_id()
    pair.client.send_stream_data(stream, bytes(size))
    pair.settle(40)
    return stream, sum(len(event.data) for event in pair.heard if isinstance(event, StreamDataReceived))


def test_windows_open_when_somebody_consumes_and_not_before():
    pair = Pair().settle()
    stream, came = sent_by(pair, 100_000)
    assert came == LIMITS["stream_window"]
    pair.server.consume(stream, 1000)  # not worth a frame yet
    pair.settle(20)
    assert sum(len(event.data) for event in pair.heard if isinstance(event, StreamDataReceived)) == came
    pair.server.consume(stream, 2000)
    pair.settle(20)
    assert sum(len(event.data) for event in pair.heard if isinstance(event, StreamDataReceived)) == came + 3000
    with pytest.raises(LocalProtocolError):
        pair.server.consume(stream, came + 1)


def test_what_was_reset_and_never_came_is_given_back_to_the_connection():
    pair = Pair(max_streams=100).settle()
    for _ in range(20):  # Each claims half the connection's window.
        stream = pair.client.get_next_available_stream_id()
        pair.client.send_stream_data(stream, b"x")
        pair.settle(4)
        pair.server.consume(stream, 1)
        pair.inject(In.ONE_RTT, encode(ResetStream(stream, 0, 4000)))
        pair.settle(4)
    assert pair.server.ended is None


def test_how_much_is_not_acknowledged_can_be_asked():
    pair = Pair(stream_window=1 << 20).settle()
    stream, _ = sent_by(pair, 1)
    pair.server.send_stream_data(stream, bytes(50_000), end_stream=True)
    assert pair.server.buffered(stream) == 50_000
    assert not pair.server.is_delivered
    pair.settle(60)
    assert pair.server.buffered(stream) == 0
    assert pair.server.is_delivered


def served(*places, size=20_000, loss=0.0, seed=1, then=None):
    """Streams of the server, all written at once: their bytes in the order in which they come, by index."""
    pair, rng, came = Pair().settle(), random.Random(seed), []
    streams = []
    for place in places:
        streams.append(pair.server.get_next_available_stream_id(is_unidirectional=True))
        pair.server.send_stream_data(streams[-1], bytes(size), end_stream=True)
        pair.server.set_place(streams[-1], place)
    pair.spoil = lambda data, _: [] if data[0] & 0x80 == 0 and rng.random() < loss else [data]
    got = dict.fromkeys(streams, 0)
    while min(got.values()) < size and pair.now < 2000:
        pair.settle(1)
        while event := pair.client.next_event():
            if isinstance(event, StreamDataReceived):
                got[event.stream_id] += len(event.data)
                came.append((streams.index(event.stream_id), len(event.data)))
        if then and then(pair, streams, got):
            then = None
    pair.settle(2)
    assert len(pair.server._places) <= len(pair.server._streams)  # Nothing is remembered of who is done.
    return came


def halves(came, size=20_000):
    """When each stream had half its bytes, and when it was whole: counted in bytes of all streams."""
    half, whole, got, total = {}, {}, Counter(), 0
    for stream, count in came:
        got[stream] += count
        total += count
        if got[stream] >= size / 2:
            half.setdefault(stream, total)
        if got[stream] == size:
            whole[stream] = total
    return half, whole


def test_one_stream_is_sent_after_the_other():
    half, whole = halves(served(*((3, False, 4 * i) for i in range(12))))
    assert all(whole[i] <= half[i + 1] for i in range(11))


def test_a_loss_is_mended_before_anything_new_is_begun():
    """Hardly anything else has come between: a round trip's worth of it."""
    for seed in range(3):
        half, whole = halves(served(*((3, False, 4 * i) for i in range(36)), loss=0.03, seed=seed))
        assert all(whole[i] <= half[i + 9] for i in range(27))


def test_equals_share():
    for place in ((), (3, True)):
        half, whole = halves(served(*[place] * 6))
        assert max(half.values()) < min(whole.values())
    half, whole = halves(served((3, True), (3, False, 8), (3, True)))
    assert whole[1] <= min(half[0], half[2])  # One that is of no use in parts goes before those that are.


def test_the_urgent_overtakes_also_when_it_becomes_so_late():
    half, whole = halves(served((3, False, 0), (3, False, 4), (1, False, 8)))
    assert whole[2] < half[0]

    def hurry(pair, streams, got):
        if got[streams[0]] < 10_000:
            return False
        pair.server.set_place(streams[2], (0, False, 8))
        return True

    half, whole = halves(served((3, False, 0), (3, False, 4), (3, False, 8), size=100_000, then=hurry), 100_000)
    assert whole[2] < half[1]


@pytest.mark.parametrize("who", ["client", "server", "both"])
def test_keys_are_updated_again_and_again_while_data_flow(who):
    pair = Pair(stream_window=1 << 20, connection_window=1 << 20).settle()
    stream, _ = sent_by(pair, 10)
    keys = set()
    for _ in range(10):
        if who != "server":
            pair.client.request_key_update()
        if who != "client":
            pair.server.request_key_update()
            pair.server.request_key_update()  # at once: not before the first is acknowledged (RFC 9001 §6.1)
        pair.client.send_stream_data(stream, b"from the client")
        pair.server.send_stream_data(stream, b"from the server")
        pair.settle(10)
        keys.add(pair.server._cryptos[Epoch.ONE_RTT].send.secret)
        assert pair.server._cryptos[Epoch.ONE_RTT].send.secret == pair.client._cryptos[Epoch.ONE_RTT].recv.secret
    assert len(keys) == 10
    assert pair.server.is_delivered
    assert pair.server.ended is None


@pytest.mark.parametrize(("path", "found"), [(1200, 1200), (1400, 1200), (1452, 1452), (1500, 1472), (65535, 16384)])
def test_datagrams_grow_to_what_the_path_takes(path, found):
    pair = Pair(path_mtu=True)
    pair.largest = path
    pair.settle(300)
    assert pair.server._max_datagram_size == found
    before = pair.server._loss.congestion_window
    stream, _ = sent_by(pair, 10)
    pair.server.send_stream_data(stream, bytes(100_000))
    pair.settle(100)
    assert pair.server.is_delivered
    assert pair.server._loss.congestion_window >= before  # What was lost in trying was no congestion.


def test_datagrams_become_small_again_when_the_path_becomes_narrow():
    pair = Pair(path_mtu=True).settle(300)
    assert pair.server._max_datagram_size == 16384
    stream, _ = sent_by(pair, 10)
    pair.largest = 1300
    pair.server.send_stream_data(stream, bytes(100_000))
    pair.settle(1000)
    assert pair.server.is_delivered
    assert pair.server._max_datagram_size == 1200
    pair.server.too_large(1200)
    assert pair.server._max_datagram_size == 1200


# -- In memory: whatever comes ----------------------------------------------------------------------------


def test_truncated_changed_repeated_and_invented_datagrams_change_nothing():
    """Behind each good datagram come bad ones made of it, and the transfer is whole."""
    lots = random.Random(5)
    pair = Pair(stream_window=1 << 20, connection_window=1 << 20)

    def spoil(data, _):
        at = lots.randrange(len(data))
        yield data
        yield data
        yield data[:at]
        yield data[:at] + bytes([data[at] ^ 1 << lots.randrange(8)]) + data[at + 1 :]
        yield data + data
        yield lots.randbytes(lots.randrange(1, 1300))
        yield data[:9] + lots.randbytes(lots.randrange(1300))

    pair.spoil = spoil
    sent_by(pair.settle(), 200_000)
    pair.settle(100)
    got = b"".join(event.data for event in pair.heard if isinstance(event, StreamDataReceived))
    assert (len(got), pair.server.ended, pair.client._close_event) == (200_000, None, None)


def test_no_frames_of_any_kind_are_a_surprise(caplog):
    """Random payloads under good keys: the connection ends with a code, and never by a mistake of ours."""
    lots = random.Random(6)
    kinds = [*range(0x1F), 0x30, 0x31]
    for _ in range(80):
        pair = Pair(path_mtu=True)
        pair.settle(3)
        for _ in range(20):
            payload = b""
            for _ in range(lots.randrange(1, 12)):
                values = [lots.choice([0, 1, 2, 3, 4, 7, 8, 16, 60, 4096, 2**14, 2**30, MOST]) for _ in range(5)]
                payload += numbers(lots.choice(kinds), *values[: lots.randrange(5)])
                payload += lots.randbytes(lots.choice([0, 0, 1, 8, 24, 40]))
            pair.inject(In.ONE_RTT, payload[:1100])
            pair.to_client()
            if pair.server.ended:
                break
        pair.now += 1
        pair.server.handle_timer(pair.now)
        pair.to_client()
    assert not caplog.records


# -- On real sockets: strangers -----------------------------------------------------------------------------


class Wire:
    """A UDP socket at the server's door. What comes back is kept."""

    def __init__(self, server, host="127.0.0.1"):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind((host, 0))
        self.server = server

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, *datagrams):
        for data in datagrams:
            with contextlib.suppress(BlockingIOError):
                self.socket.sendto(data, self.server.address)

    async def receive(self, patience=None):
        """The next datagram; None if none comes in that time."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PATIENCE if patience is None else patience):
                return await loop.sock_recv(self.socket, 65535)
        except TimeoutError:
            return None

    async def silence(self):
        """The server has seen all that was sent, and said nothing to it: it answers what is sent behind."""
        self.send(UNKNOWN_VERSION)
        answer = await self.receive()
        assert answer is not None
        assert answer[1:5] == bytes(4), answer[:20].hex()


@contextlib.asynccontextmanager
async def aioquic(server, **options):
    """A connection of aioquic's own asyncio client."""
    configuration = options.pop("configuration", None) or quic_client("localhost", alpn=["lab"])
    async with aioquic_connect(*server.address, configuration=configuration, **options) as connection:
        yield connection
        connection._closed.set()  # Once it has said CONNECTION_CLOSE we do not wait for three timeouts more.


async def ask(server, line, **options):
    """One question, by aioquic's own client."""
    async with aioquic(server, **options) as connection:
        return await ask_over(connection, line)


async def ask_over(connection, line, data=b""):
    reader, writer = await connection.create_stream()
    writer.write(line + b"\n" + data)
    writer.write_eof()
    async with asyncio.timeout(PATIENCE):
        return await reader.read()


def first_flight(ticket=None, early=b"", **options):
    """A client of aioquic's, and what it sends first."""
    client = QuicConnection(
        configuration=quic_client("localhost", alpn=["lab"], ticket=ticket),
        session_ticket_handler=options.pop("keep", None),
    )
    client.connect(THERE, 0.0)
    if early:
        client.send_stream_data(client.get_next_available_stream_id(), early, end_stream=True)
    return client, [data for data, _ in client.datagrams_to_send(0.0)]


def long(version, destination, source, rest=b"", first=0xC0):
    """By the invariants alone (RFC 8999 §5.1)."""
    header = bytes([first]) + version.to_bytes(4, "big") + bytes([len(destination)]) + destination
    return (header + bytes([len(source)]) + source + rest).ljust(1200, b"\0")


UNKNOWN_VERSION = long(0x1A2A3A4A, b"destined", b"come from")
NOT_ANSWERED = {
    "nothing": b"",
    "one byte": b"\xc0",
    "a long header that ends after its version": b"\xc0\0\0\0\1",
    "an ID that is longer than the datagram": b"\xc0\0\0\0\1\xff" + bytes(20),
    "an Initial of 1199 bytes": long(1, b"destined", b"source")[:1199],
    "an unknown version, of 1199 bytes": UNKNOWN_VERSION[:1199],
    "Version Negotiation": long(0, b"destined", b"source", b"\0\0\0\1"),
    "an Initial that nobody can decrypt": long(1, b"destined", b"source", b"\0" + b"\x44\x8f" + bytes(1180)),
    "an Initial with an ID of 7 bytes": long(1, b"destine", b"source", b"\0" + b"\x44\x8f" + bytes(1180)),
    "an Initial with an ID of 21 bytes": long(1, bytes(21), b"source", b"\0" + b"\x44\x8f" + bytes(1100)),
    "an Initial with a token longer than itself": long(1, b"destined", b"source", b"\x7f\xff" + bytes(1100)),
    "an Initial without the fixed bit": long(1, b"destined", b"source", b"\0\x44\x00" + bytes(1100), first=0x80),
    "a Handshake packet": long(1, b"destined", b"source", first=0xE0),
    "a 0-RTT packet": long(1, b"destined", b"source", first=0xD0),
    "a Retry": long(1, b"destined", b"source", first=0xF0),
    "a short header of 21 bytes": b"\x40" + bytes(20),
    "a short header without the fixed bit": bytes(100),
}


async def test_strangers_that_are_not_answered():
    async with quic.serve() as server:
        with Wire(server) as wire:
            for name, data in NOT_ANSWERED.items():
                wire.send(data)
                try:
                    await wire.silence()
                except AssertionError as error:
                    raise AssertionError(f"{name} was answered: {error}") from None
        assert not server.endpoint.all


async def test_version_negotiation_tells_what_is_spoken_and_repeats_the_ids():
    async with quic.serve() as server:
        for destination, source in [(b"12345678", b""), (b"d" * 255, b"s" * 255), (b"", b"source")]:
            with Wire(server) as wire:
                wire.send(long(0xFACEB00C, destination, source))
                answer = await wire.receive()
                packet = quic_packets.parse(answer, 0)
                assert (packet.destination, packet.source) == (source, destination)
                assert set(packet.versions) == {VERSION_1, VERSION_2}
                assert len(answer) < 1200
                wire.send(answer, answer.ljust(1200, b"\0"))  # as another server would get it
                await wire.silence()


async def test_a_client_of_another_version_finds_one_in_common():
    async with quic.serve() as server:
        configuration = quic_client("localhost", alpn=["lab"])
        configuration.original_version = 0x1A2A3A4A
        configuration.supported_versions = [0x1A2A3A4A, VERSION_1]
        assert await ask(server, b"count x", configuration=configuration) == b"1\n"


async def test_a_hundred_thousand_random_datagrams_quickly():
    """Two thousand here, the whole by tests/benchmarks/quic.py: a transfer goes on beside them, and nothing is kept."""
    lots = random.Random(7)
    async with quic.serve() as server:
        async with aioquic(server) as client:
            assert len(await ask_over(client, b"bytes 1000")) == 1000
            asking = asyncio.create_task(ask_over(client, b"bytes 3000000"))
            known = [one for link in server.endpoint.all for one in link.ids]
            with Wire(server) as wire:
                for n in range(2000):
                    data = lots.randbytes(lots.choice([1, 20, 50, 300, 1200, 1300]))
                    if n % 3 == 0:
                        data = bytes([0xC0 | data[0] & 0x3F]) + b"\0\0\0\1\x08" + data
                    elif n % 3 == 1:
                        data = bytes([0x40 | data[0] & 0x3F]) + lots.choice(known) + data
                    wire.send(data)
                    if n % 20 == 0:
                        await asyncio.sleep(0)
                data = await asking
                assert data == b"".join(site.cut_pattern(0, 3_000_000))
        assert server.endpoint.half_open == 0
        assert len(server.endpoint.all) == 1  # the client's


# -- On real sockets: whose address it is ----------------------------------------------------------------------


async def test_retry_proves_the_address_and_costs_the_server_no_memory():
    async with quic.serve(retry=True) as server:
        _, (first,) = first_flight()
        with Wire(server) as wire:
            wire.send(first)
            answer = await wire.receive()
            assert quic_packets.parse(answer, 0).type == PacketType.RETRY
            assert len(answer) < len(first)
        assert not server.endpoint.all
        assert await ask(server, b"count x") == b"1\n"  # aioquic's client understands it.


async def after_retry(server, change=lambda token: token, host="127.0.0.1"):
    """What comes of a client's second Initial, with its token or what *change* makes of it, from that address."""
    client, (first,) = first_flight()
    with Wire(server) as wire:
        wire.send(first)
        client.receive_datagram(await wire.receive(), THERE, 0.1)
        client._peer_token = change(client._peer_token)
        with contextlib.nullcontext(wire) if host == "127.0.0.1" else Wire(server, host) as second:
            second.send(*[data for data, _ in client.datagrams_to_send(0.1)])
            client.receive_datagram(await second.receive(), THERE, 0.2)
    return client._close_event.error_code if client._close_event else "accepted"


async def test_a_token_is_for_one_address_and_nobody_else_can_make_one():
    async with quic.serve(retry=True) as server:
        assert await after_retry(server) == "accepted"
        assert await after_retry(server, host="127.0.0.2") == ErrorCode.INVALID_TOKEN
        for change in (
            lambda token: token[:-1] + bytes([token[-1] ^ 1]),
            lambda token: token[:1],
            lambda token: token[:20] + bytes([token[20] ^ 1]) + token[21:],
        ):
            assert await after_retry(server, change) == ErrorCode.INVALID_TOKEN
        assert len(server.endpoint.all) == 1


async def test_a_token_that_is_too_old(monkeypatch):
    async with quic.serve(retry=True) as server:
        began = time.time()

        def later(token):
            monkeypatch.setattr("servers.quic_endpoint.time.time", lambda: began + 11)
            return token

        assert await after_retry(server, later) == ErrorCode.INVALID_TOKEN


def test_what_a_token_says():
    tokens, others = Tokens(b"k" * 32), Tokens(b"l" * 32)
    here, port, there = ("10.0.0.1", 1), ("10.0.0.1", 2), ("10.0.0.2", 1)
    retry, later = tokens.retry(here, b"original", b"ours", 100), tokens.next_time(here, 100)
    assert tokens.open(retry, here, b"ours", 109) == (True, True, b"original")
    assert tokens.open(later, port, b"any", 1000) == (False, True, b"")
    for token, peer, ours, now, by in [
        (retry, port, b"ours", 100, tokens),
        (retry, there, b"ours", 100, tokens),
        (retry, here, b"mine", 100, tokens),
        (retry, here, b"ours", 111, tokens),
        (retry, here, b"ours", 100, others),
        (later, there, b"any", 100, tokens),
        (later, here, b"any", 3701, tokens),
        (b"n" + retry[1:], here, b"ours", 100, tokens),
        (b"r" + later[1:], here, b"ours", 100, tokens),
        (b"", here, b"ours", 100, tokens),
        (b"anything", here, b"ours", 100, tokens),
    ]:
        assert not by.open(token, peer, ours, now).is_good


async def test_a_token_for_the_next_time_saves_the_retry():
    tokens = []
    async with quic.serve(retry=True) as server:
        async with aioquic(server, token_handler=tokens.append) as connection:
            await ask_over(connection, b"count x")
        assert len(tokens) == 1
        configuration = quic_client("localhost", alpn=["lab"], token=tokens[0])
        async with aioquic(server, configuration=configuration) as connection:
            assert await ask_over(connection, b"count x") == b"2\n"
            assert connection._quic._retry_count == 0


async def test_a_token_is_good_once():
    """§8.1.4: the second who comes with it has to prove the address again; and none is unlimited without that."""
    tokens, retries = [], []
    async with quic.serve(retry=True) as server:
        async with aioquic(server, token_handler=tokens.append) as connection:
            await ask_over(connection, b"count x")
        for _ in range(3):
            configuration = quic_client("localhost", alpn=["lab"], token=tokens[0])
            async with aioquic(server, configuration=configuration) as connection:
                await ask_over(connection, b"count x")
                retries.append(connection._quic._retry_count)
    assert retries == [0, 1, 1]


def test_spent_tokens_are_remembered_while_they_would_be_good_and_not_too_many(monkeypatch):
    monkeypatch.setattr(quic_tokens, "MOST_SPENT", 100)
    tokens, here = Tokens(b"k" * 32), ("10.0.0.1", 1)
    for n in range(1000):
        for token in (tokens.retry(here, b"original", b"ours", n), tokens.next_time(here, n)):
            assert tokens.open(token, here, b"ours", n).is_good
            tokens.spend(token, n)
            assert not tokens.open(token, here, b"ours", n).is_good
            assert max(map(len, tokens._spent.values())) <= 100
    assert len(tokens._spent[b"r"]) <= 12  # seconds


async def test_an_onlooker_cannot_spend_a_ticket():
    """Its name can be read in the Initial. Without its secret the binder is wrong, and the ticket stays."""
    ran = Ran()
    async with quic.serve(handler=ran) as server:
        ticket = await ticket_of(server)
        wrong = dataclasses.replace(ticket, resumption_secret=bytes(len(ticket.resumption_secret)))
        _, flight = first_flight(wrong, early=b"order\n")
        with Wire(server) as wire:
            wire.send(*flight)
            assert await wire.receive(), "it is told that the handshake fails"
        client, flight = first_flight(ticket, early=b"order\n")
        got = []
        with Wire(server) as wire:
            wire.send(*flight)
            await converse(client, wire, lambda: got.append(answers(client)) or any(got))
        assert client.tls.early_data_accepted
        assert ran.lines.count((b"order", True)) == 1


async def test_a_busy_server_asks_for_proof_and_a_full_one_refuses():
    async with quic.serve(busy=3, max_half_open=5) as server:
        with contextlib.ExitStack() as stack:
            kinds = []
            for _ in range(5):
                wire = stack.enter_context(Wire(server))
                wire.send(*first_flight()[1])
                kinds.append(quic_packets.parse(await wire.receive(), 0).type)
            assert kinds == [PacketType.INITIAL] * 3 + [PacketType.RETRY] * 2
            assert server.endpoint.half_open == 3
            assert await ask(server, b"count x") == b"1\n"
    async with quic.serve(retry=False, max_connections=2) as server:
        async with aioquic(server), aioquic(server):
            client, (first,) = first_flight()
            with Wire(server) as wire:
                wire.send(first)
                client.receive_datagram(await wire.receive(), THERE, 0.1)
            assert client._close_event.error_code == ErrorCode.CONNECTION_REFUSED


async def test_who_does_not_finish_the_handshake_is_forgotten():
    async with quic.serve(handshake_seconds=4 * TICK) as server:
        with Wire(server) as wire:
            wire.send(*first_flight()[1])
            assert await wire.receive()
            assert server.endpoint.half_open == 1
            await forgotten(server)
        assert server.endpoint.half_open == 0
        assert not server.endpoint.links


# -- On real sockets: a server that has forgotten -----------------------------------------------------------


async def test_stateless_resets_are_smaller_than_what_they_answer_and_not_too_many():
    key = b"k" * 32
    async with quic.serve(key=key) as server:
        token = reset_token(server.endpoint.reset_key, b"12345678")
        with Wire(server) as wire:
            for size in (22, 30, 43, 44, 1200):
                wire.send(b"\x4012345678".ljust(size, b"x"))
                answer = await wire.receive()
                assert 21 <= len(answer) < size
                assert answer[-16:] == token
                assert answer[0] & 0xC0 == 0x40
            for _ in range(300):
                wire.send(b"\x4012345678".ljust(100, b"x"))
            await asyncio.sleep(0)
            answers = 0
            wire.send(UNKNOWN_VERSION)
            while (await wire.receive())[1:5] != bytes(4):
                answers += 1
            assert answers <= 120


async def test_two_servers_do_not_answer_each_other_for_ever():
    """A datagram of one, sent to the other in its name, and so on: each answer is shorter, and soon there is none."""
    async with quic.serve(key=b"a" * 32) as one, quic.serve(key=b"b" * 32) as other:
        with Wire(one) as to_one, Wire(other) as to_other:
            data, count = b"\x40" + bytes(99), 0
            for wire in itertools.cycle((to_one, to_other)):
                wire.send(data)
                answer = await wire.receive(2 * TICK)
                if answer is None:
                    break
                assert len(answer) < len(data)
                data, count = answer, count + 1
            assert count < 25


async def test_a_server_that_was_restarted_says_that_it_has_forgotten():
    async with quic.serve(key=b"k" * 32) as server:
        address = server.address
        client = clients.connect(*address, alpn=["lab"], name="localhost")
        connection = await client.__aenter__()
        for link in server.endpoint.all:  # It is gone without a word, as after a crash.
            link.connection.vanish()
            link.forget()
            break
        stream = await connection.open_stream()
        await stream.write(b"count x\n")
        with pytest.raises(clients.QuicError):
            await stream.read_all()
        assert connection.ended.how == "reset"
        with contextlib.suppress(clients.QuicError):
            await client.__aexit__(None, None, None)


# -- On real sockets: early data, and who sends it again --------------------------------------------------


async def converse(client, wire, done, now=1.0):
    """Go on with a client whose datagrams this wire carries, until *done*() is true."""
    async with asyncio.timeout(PATIENCE):
        while not done():
            wire.send(*[data for data, _ in client.datagrams_to_send(now)])
            answer = await wire.receive(TICK)
            now += 0.05
            if answer is not None:
                client.receive_datagram(answer, THERE, now)
            elif (at := client.get_timer()) is not None and at <= now:
                client.handle_timer(now)


async def forgotten(server):
    """Wait until the server has no connection."""
    async with asyncio.timeout(PATIENCE):
        while server.endpoint.all:
            server.endpoint.gone.clear()
            await server.endpoint.gone.wait()


def answers(client):
    """What has come on a client's streams until now."""
    data = []
    while event := client.next_event():
        if isinstance(event, StreamDataReceived):
            data.append(event.data)
    return b"".join(data)


async def ticket_of(server):
    tickets = []
    async with aioquic(server, session_ticket_handler=tickets.append) as connection:
        await ask_over(connection, b"count before")
        await connection.ping()
    return tickets[-1]


class Ran:
    """A handler that answers at once, early or not: what it has run, and whether that was early."""

    def __init__(self):
        self.lines = []

    async def __call__(self, stream):
        line = await stream.read_line()
        self.lines.append((line, stream.early))
        stream.finish(b"done")


async def original_and_replay(first, again, ticket, line=b"order"):
    """A first flight with early data at one server, which answers it; then its copy, from elsewhere, at another."""
    client, flight = first_flight(ticket, early=line + b"\n")
    got = []
    with Wire(first) as wire:
        wire.send(*flight)
        await converse(client, wire, lambda: got.append(answers(client)) or any(got))
    for link in list(first.endpoint.all):  # Long ago: else its copy would find it, and be a duplicate (§12.3).
        link.connection.vanish()
        link.forget()
    with Wire(again) as wire:
        for _ in range(3):
            wire.send(*flight)
        assert await wire.receive(), "a handshake is answered, early data or not"
        await wire.receive(4 * TICK)
    return b"".join(got)


async def test_early_data_are_answered_at_once_and_a_copy_of_them_is_not():
    ran = Ran()
    async with quic.serve(handler=ran) as server:
        assert await original_and_replay(server, server, await ticket_of(server)) == b"done"
        assert ran.lines.count((b"order", True)) == 1
        assert (b"order", False) not in ran.lines


async def test_a_copy_is_no_better_at_another_server_with_the_same_tickets():
    ran, tickets = Ran(), Tickets()
    async with quic.serve(handler=ran, tickets=tickets) as one, quic.serve(handler=ran, tickets=tickets) as other:
        assert await original_and_replay(one, other, await ticket_of(one)) == b"done"
        assert ran.lines.count((b"order", True)) == 1


async def test_a_copy_is_no_better_when_the_server_was_restarted():
    ran, key = Ran(), b"k" * 32
    async with quic.serve(handler=ran, key=key) as server:
        ticket = await ticket_of(server)
        async with quic.serve(handler=ran, key=key) as restarted:
            assert await original_and_replay(server, restarted, ticket) == b"done"
            assert ran.lines.count((b"order", True)) == 1


async def test_without_the_cache_a_copy_is_answered_and_what_counts_still_counts_once():
    """The first protection is switched off; the second is that `count` waits for the end of the handshake."""
    ran = Ran()
    async with quic.serve(handler=ran, replay_cache=False) as server:
        assert await original_and_replay(server, server, await ticket_of(server)) == b"done"
        assert ran.lines.count((b"order", True)) == 2  # This is what it is for.
    async with quic.serve(replay_cache=False) as server:
        assert await original_and_replay(server, server, await ticket_of(server), b"count orders") == b"1\n"
        assert server.counts["orders"] == 1


async def test_who_does_not_want_early_data_resumes_without():
    ran = Ran()
    async with quic.serve(handler=ran, early_data=False) as server:
        ticket = await ticket_of(server)
        got = []
        client, flight = first_flight(ticket, early=b"order\n")
        with Wire(server) as wire:
            wire.send(*flight)
            await converse(client, wire, lambda: got.append(answers(client)) or any(got))
            client.close()
            wire.send(*[data for data, _ in client.datagrams_to_send(9.0)])
        assert client.tls.session_resumed
        assert not client.tls.early_data_accepted
        assert ran.lines == [(b"count before", False), (b"order", False)]


def test_tickets_are_good_once_and_not_too_many_are_kept():
    class Ticket:
        def __init__(self, name):
            self.ticket = name

    tickets = Tickets(most=100)
    for n in range(1000):
        tickets.keep(Ticket(n), "lab")
    assert tickets.take(899) is None
    assert tickets.take(900)[1] == "lab"
    assert tickets.take(900) is None
    assert len(tickets._kept) == 99


# -- On real sockets: moving ----------------------------------------------------------------------------------


async def test_ten_megabytes_survive_ten_rebindings():
    """The client's port changes ten times, and nobody tells the server; no byte is lost, and each port is proved."""
    async with quic.serve() as server, clients.connect(*server.address, name="localhost") as client:
        stream = await client.open_stream()
        await stream.finish(b"bytes 10000000\n")
        ports, data, digest = set(), 0, hashlib.sha256()
        while piece := await stream.read():
            digest.update(piece)
            data += len(piece)
            if data > 900_000 * (len(ports) + 1) and len(ports) < 10:
                client.rebind()
                ports.add(client.local_address[1])
        assert (data, len(ports)) == (10_000_000, 10)
        assert digest.digest() == hashlib.sha256(b"".join(site.cut_pattern(0, 10_000_000))).digest()
        await client.ping()
        (link,) = server.endpoint.all
        path = link.connection._network_paths[0]
        assert path.is_validated
        assert path.addr[1] == client.local_address[1]


async def test_a_client_moves_to_another_address_with_another_id():
    async with quic.serve() as server, clients.connect(*server.address, name="localhost") as client:
        (link,) = server.endpoint.all
        before = link.connection.host_cid
        await client.migrate("127.0.0.2")
        stream = await client.open_stream()
        await stream.finish(b"bytes 3000000\n")
        assert await stream.read_all() == b"".join(site.cut_pattern(0, 3_000_000))
        assert link.connection.get_peer_address()[0] == "127.0.0.2"
        assert link.connection.host_cid != before


async def test_an_upload_survives_a_rebinding_and_key_updates_from_both_ends():
    async with quic.serve() as server, clients.connect(*server.address, name="localhost") as client:
        (link,) = server.endpoint.all
        stream = await client.open_stream()
        await stream.write(b"echo\n")
        sent = got = b""
        while len(sent) < 2_000_000:
            piece = bytes([len(sent) // 200_000]) * 200_000
            sent += piece
            await stream.write(piece)
            while len(got) < len(sent):
                got += await stream.read()
            await client.update_keys()
            link.connection.request_key_update()
            if len(sent) % 600_000 == 0:
                client.rebind()
        await stream.finish()
        assert got == sent
        assert link.connection.ended is None


# -- On real sockets: what is served, and how it ends -----------------------------------------------------------


async def test_commands_and_pages():
    async with quic.serve() as server:
        async with aioquic(server) as connection:
            assert await ask_over(connection, b"bytes 300000") == b"".join(site.cut_pattern(0, 300_000))
            assert await ask_over(connection, b"echo", b"x" * 300_000) == b"x" * 300_000
            assert await ask_over(connection, b"count a") + await ask_over(connection, b"count a") == b"1\n2\n"
        configuration = quic_client("localhost", alpn=["hq-interop"])
        async with aioquic(server, configuration=configuration) as connection:
            reader, writer = await connection.create_stream()
            writer.write(b"GET /bytes/5\r\n")
            writer.write_eof()
            assert await reader.read() == bytes(range(5))


async def test_streams_do_not_wait_for_each_other():
    gate = asyncio.Event()

    async def handler(stream):
        line = await stream.read_line()
        if line == b"slow":
            await gate.wait()
        stream.finish(line)

    async with quic.serve(handler=handler) as server, aioquic(server) as connection:
        slow = asyncio.create_task(ask_over(connection, b"slow"))
        for n in range(50):
            assert await ask_over(connection, b"%d" % n) == b"%d" % n
        assert not slow.done()
        gate.set()
        assert await slow == b"slow"


ENDS = {  # what a client does with a stream, and the codes of RESET_STREAM and STOP_SENDING that it gets for it
    "an unknown command": (b"nonsense\n", False, (1, 1)),
    "a line without end": (bytes(5000), False, (1, 1)),
    "nothing for too long": (b"ech", False, (2, 2)),
    "an unknown command, and the end": (b"nonsense\n", True, (1, None)),
}


@pytest.mark.parametrize("name", ENDS)
async def test_codes_of_streams(name):
    data, fin, wanted = ENDS[name]
    async with (
        quic.serve(stall_seconds=4 * TICK) as server,
        clients.connect(*server.address, name="localhost") as client,
    ):
        stream = await client.open_stream()
        await stream.write(data, fin)
        with pytest.raises(clients.StreamReset) as reset:
            await stream.read_all()
        assert reset.value.code == wanted[0]
        await client.ping()
        assert client.ended is None


async def test_a_ping_is_no_progress_of_a_stream():
    """§21.6: half a line, and an answer that nobody takes, end after stall_seconds, whatever comes beside them."""
    async with (
        quic.serve(stall_seconds=6 * TICK) as server,
        clients.connect(*server.address, name="localhost") as client,
    ):
        for line in (b"ech", b"bytes 10000000\n"):
            stream = await client.open_stream()
            await stream.write(line)  # Nobody reads, so no window opens.
        async with asyncio.timeout(PATIENCE):
            await client.ping()
            assert server.tasks
            while server.tasks:
                await client.ping()
                await asyncio.sleep(TICK)


async def test_what_is_stopped_or_reset_before_anybody_has_looked_at_it(caplog):
    """RESET_STREAM on a stream with no way back (§3.2), STOP_SENDING before the first bytes, and beside them (§3.5)."""
    async with quic.serve() as server:
        for line in (b"echo\nabc", b"bytes 5\n", b"bytes 1000000\n", b"count x\n"):
            async with clients.connect(*server.address, name="localhost") as client:
                reset = await client.open_stream(uni=True)
                await reset.write(b"echo")
                reset.reset(7)
                stopped = await client.open_stream()
                stopped.stop(7)
                await client.ping()
                await stopped.write(line, True)
                both = await client.open_stream()
                await both.write(line, True)
                both.stop(7)
                await client.ping()
                stream = await client.open_stream()
                await stream.finish(b"bytes 5\n")
                assert await stream.read_all() == bytes(range(5))
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_handler_that_fails_costs_one_stream():
    async def handler(stream):
        raise ZeroDivisionError(await stream.read_line())

    async with quic.serve(handler=handler) as server, clients.connect(*server.address, name="localhost") as client:
        stream = await client.open_stream()
        await stream.finish(b"x\n")
        with pytest.raises(clients.StreamReset) as reset:
            await stream.read_all()
        assert reset.value.code == quic_talk.Code.MISTAKE
        await client.ping()


async def test_who_asks_the_client_for_a_certificate_too_late():
    """RFC 9001 §4.4: PROTOCOL_VIOLATION, and not TLS's alert."""
    async with quic.serve() as server, clients.connect(*server.address, name="localhost") as client:
        await client.ping()
        (link,) = server.endpoint.all
        link.connection._crypto_streams[Epoch.ONE_RTT].sender.write(bytes.fromhex("0d 000004 00000000"))
        link.transmit_soon()
        with contextlib.suppress(clients.QuicError):
            async with asyncio.timeout(PATIENCE):
                while client.ended is None:
                    await client.ping()
        assert client.ended.code == ErrorCode.PROTOCOL_VIOLATION


async def test_an_idle_connection_ends_without_a_word():
    async with quic.serve(idle_seconds=6 * TICK) as server:
        async with clients.connect(*server.address, name="localhost") as client:
            await client.until(lambda: client.ended is not None)
            assert client.ended.how == "idle"
            await forgotten(server)


async def vanished(server, alpn, line=b""):
    """A client that has shaken hands, has perhaps asked for something and got the beginning of it, and is no more."""
    client = QuicConnection(configuration=quic_client("localhost", alpn=[alpn]))
    client.connect(THERE, 0.0)
    with Wire(server) as wire:
        await converse(client, wire, lambda: client._handshake_confirmed)
        if line:
            client.send_stream_data(client.get_next_available_stream_id(), line, end_stream=True)
            await converse(client, wire, lambda: answers(client), now=100.0)


async def test_who_has_vanished_in_mid_answer_is_not_waited_for_until_it_is_idle():
    async with quic.serve(idle_seconds=600, silent_seconds=4 * TICK) as server:
        await vanished(server, "lab", b"bytes 1000000")
        (link,) = server.endpoint.all
        await forgotten(server)
        assert link.connection.ended.reason_phrase == "no answer"


@pytest.mark.parametrize(
    ("serve", "alpn", "line"),
    [(quic.serve, "lab", b"bytes 1000000"), (http3.serve, "h3", b"")],
    ids=["in mid-answer", "asked to go"],
)
async def test_who_has_vanished_does_not_hold_up_the_end(monkeypatch, serve, alpn, line):
    """Its CONNECTION_CLOSE was lost, so the server thinks that it is still there."""
    monkeypatch.setattr(quic_endpoint, "LAST_CALL", 4 * TICK)
    async with asyncio.timeout(PATIENCE), serve(drain_seconds=600) as server:
        await vanished(server, alpn, line)


async def test_the_code_and_the_reason_of_an_application_arrive():
    async with quic.serve() as server, clients.connect(*server.address, name="localhost") as client:
        await client.ping()
        (link,) = server.endpoint.all
        link.close(0x1234, "because")
        await client.until(lambda: client.ended is not None)
        ended = client.ended
        assert (ended.how, ended.by, ended.code, ended.is_application) == ("closed", "server", 0x1234, True)
        assert ended.reason == "because"


async def test_datagrams_come_back_and_a_flood_of_them_is_not_kept():
    async with quic.serve() as server, clients.connect(*server.address, name="localhost") as client:
        client.send_datagram(b"hello")
        assert await client.receive_datagram() == b"hello"
        (link,) = server.endpoint.all
        for _ in range(1000):
            link.connection.send_datagram_frame(b"x" * 1000)
        assert len(link.connection._datagrams_pending) <= 64
        with pytest.raises(LocalProtocolError):
            link.connection.send_datagram_frame(bytes(60_000))


async def test_who_opens_no_window_is_not_waited_for_with_all_bytes_in_memory():
    """100 streams ask for a gigabyte each; nobody reads. What is held is bounded, and does not last."""
    async with quic.serve(stall_seconds=8 * TICK) as server:
        configuration = quic_client("localhost", alpn=["lab"])
        configuration.max_data = configuration.max_stream_data = 10_000
        async with aioquic(server, configuration=configuration) as connection:
            connection._quic._write_connection_limits = lambda **_: None  # Never more than that.
            connection._quic._write_stream_limits = lambda **_: None
            for _ in range(100):
                _, writer = await connection.create_stream()
                writer.write(b"bytes 1000000000\n")
                writer.write_eof()
            async with asyncio.timeout(PATIENCE):
                while len(server.tasks) < 100:
                    await connection.ping()
                await connection.ping()
                (link,) = server.endpoint.all
                most = 2 * quic_talk.AHEAD
                assert link.connection.unacknowledged() <= most
                while server.tasks:
                    await asyncio.sleep(TICK)
                    assert link.connection.unacknowledged() <= most
            assert link.connection.unacknowledged() == 0


async def test_drain_finishes_what_is_in_flight_and_refuses_what_is_new():
    started, gate = asyncio.Event(), asyncio.Event()

    async def handler(stream):
        started.set()
        await gate.wait()
        stream.finish(b"in spite of all")

    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(quic.serve(handler=handler))
        async with aioquic(server) as connection:
            asking = asyncio.create_task(ask_over(connection, b"x"))
            await started.wait()
            ending = asyncio.create_task(stack.aclose())
            await asyncio.sleep(0)
            client, (first,) = first_flight()
            with Wire(server) as wire:
                wire.send(first)
                client.receive_datagram(await wire.receive(), THERE, 0.1)
            assert client._close_event.error_code == ErrorCode.CONNECTION_REFUSED
            assert not ending.done()
            gate.set()
            assert await asking == b"in spite of all"
            await ending


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_program_ends_well(number):
    command = [sys.executable, "-m", "servers.quic", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert "listening" in process.stdout.readline()
        process.send_signal(number)
        rest = process.stdout.read()
    assert (process.returncode, "Traceback" in rest) == (0, False), rest


# -- On real sockets: floods ---------------------------------------------------------------------------------


def tracked(do):
    """Bytes of memory that are held when this is done, and were not before."""
    gc.collect()
    tracemalloc.start()
    try:
        do()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


FLOODS = {
    "streams opened and reset for ever": lambda n: (
        encode(Stream(4 * n, 0, b"echo\n")) + encode(ResetStream(4 * n, 0, 5))
    ),
    "streams opened and stopped for ever": lambda n: (
        encode(Stream(4 * n, 0, b"echo\n", True)) + encode(StopSending(4 * n, 0))
    ),
    "PING": lambda n: encode(Ping()) * 100,
    "PATH_CHALLENGE": lambda n: encode(PathChallenge(n.to_bytes(8, "big"))) * 50,
    "NEW_CONNECTION_ID": lambda n: encode(new_id(n + 1, n + 1, n.to_bytes(8, "big"))),
    "RETIRE_CONNECTION_ID": lambda n: encode(RetireConnectionId(n + 1)),
    "tiny STREAM frames": lambda n: b"".join(encode(Stream(0, 2 * (50 * n + i), b"x")) for i in range(50)),
    "MAX_STREAM_DATA": lambda n: encode(MaxStreamData(0, n)) * 50,
    "the same STREAM frame": lambda n: encode(Stream(0, 0, b"x")) * 50,
    "DATAGRAM": lambda n: encode(Datagram(bytes(1000))),
}


@pytest.mark.parametrize("name", FLOODS)
def test_floods_end_or_are_bounded(name):
    """500 packets of it, acknowledged now and then. Memory stays what it was, whether the connection ends or not."""
    pair = Pair(stream_window=1 << 18, connection_window=1 << 20, max_streams=100).settle()

    def flood():
        for n in range(500):
            pair.inject(In.ONE_RTT, FLOODS[name](n))
            for event in pair.heard:
                if isinstance(event, StreamDataReceived):
                    pair.server.consume(event.stream_id, len(event.data))
                elif isinstance(event, StreamReset):
                    pair.server.reset_stream(event.stream_id, 0)
            pair.heard.clear()
            if n % 10 == 0:
                pair.now += 0.001
                pair.to_client()
                pair.to_server()
            if pair.server.ended:
                break

    assert tracked(flood) < 3 << 20


# -- Other stacks: ngtcp2's client (in C, with GnuTLS), and qh3 (its TLS in Rust) ------------------------------------


async def gtlsclient(server, *options, path="/bytes/1000000"):
    """ngtcp2's client at a server for HTTP/3: all that it says."""
    port = server.address[1]
    process = await asyncio.create_subprocess_exec(
        "gtlsclient", "--exit-on-all-streams-close", "--no-quic-dump", "--no-http-dump", "--timeout=5s", *options,
        "127.0.0.1", str(port), f"https://localhost:{port}{path}",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out = (await process.communicate())[0].decode(errors="replace")
    assert process.returncode == 0, out[-2000:]
    assert ":status: 200" in out
    return out


NGTCP2 = {  # options, and what it says when that has happened
    "key update": (["--key-update=1ms"], "key update"),
    "migration": (["--change-local-addr=1ms"], "PATH_RESPONSE"),
    "NAT rebinding": (["--change-local-addr=1ms", "--nat-rebinding"], "PATH_CHALLENGE"),
    "a tenth of all packets lost": (["-t", "0.1", "-r", "0.1"], ""),
    "another version first": (["-v", "0x1a2a3a4a", "--preferred-versions=v1"], "VERSION_NEGOTIATION"),
    "ChaCha20": (["--ciphers=NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+CHACHA20-POLY1305"], ""),
    "no connection ID": (["--scid="], ""),
}


@pytest.mark.parametrize("what", NGTCP2)
async def test_ngtcp2(what):
    need_tool("gtlsclient")
    options, said = NGTCP2[what]
    async with http3.serve() as server:
        assert said in await gtlsclient(server, *options)


async def test_ngtcp2_resumes_with_early_data_behind_a_retry(tmp_path):
    need_tool("gtlsclient")
    files = [f"--session-file={tmp_path}/session", f"--tp-file={tmp_path}/parameters"]
    async with http3.serve(retry=True) as server:
        first = await gtlsclient(server, *files, path="/")
        assert "type=Retry" in first
        assert "0RTT" not in first
        again = await gtlsclient(server, *files, path="/")
        assert "type=Retry" in again
        assert "0RTT" in again
        assert any(link.connection.tls.early_data_accepted for link in server.endpoint.all)


async def test_qh3():
    try:
        from qh3.asyncio.client import connect
        from qh3.quic.configuration import QuicConfiguration
    except ImportError:
        cannot("qh3 is not installed")
    configuration = QuicConfiguration(alpn_protocols=["lab"], is_client=True, server_name="localhost")
    configuration.load_verify_locations(str(certs.FOLDER / "root.pem"))
    async with quic.serve() as server, connect(*server.address, configuration=configuration) as connection:
        assert await ask_over(connection, b"count x") == b"1\n"
        assert await ask_over(connection, b"bytes 1000000") == b"".join(site.cut_pattern(0, 1_000_000))
        assert await ask_over(connection, b"echo", b"x" * 1_000_000) == b"x" * 1_000_000
        connection._closed.set()


async def test_qlog_on_request(tmp_path):
    async with quic.serve(qlog=tmp_path / "logs") as server:
        assert await ask(server, b"count x") == b"1\n"
    (file,) = (tmp_path / "logs").glob("*.qlog")
    names = {event["name"] for event in json.loads(file.read_text())["traces"][0]["events"]}
    assert {"transport:packet_sent", "transport:packet_received", "recovery:metrics_updated"} <= names
