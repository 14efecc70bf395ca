"""QUIC: the connection on aioquic, in memory; the endpoint and the server, on real sockets, with three other stacks."""

from __future__ import annotations

import random

import pytest
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import StreamDataReceived
from aioquic.quic.packet import QuicPacketType as In
from aioquic.tls import Epoch

import certs
from certs.quic import quic_client, quic_server
from protocols.errors import LocalProtocolError
from protocols.quic import Connection, reset_token
from protocols.quic_frames import HandshakeDone, ResetStream, encode
from protocols.quic_packets import long_header, short_header
from tests.quic_cases import CASES, LIMITS, MOST, numbers, payloads

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


def server_configuration():
    return quic_server(alpn=["lab"])


class Pair:
    """Two ends, and a clock that nobody waits for. The client is aioquic's own: what it sends is as it should be."""

    def __init__(self, ticket=None, tickets=None, configuration=None, **limits):
        self.now = 1000.0
        self.tickets = {} if tickets is None else tickets
        self.ticket = None
        asking = quic_client("localhost", alpn=["lab"], ticket=ticket)
        self.client = QuicConnection(configuration=asking, session_ticket_handler=self.keep)
        self.server = Connection(
            configuration=configuration or server_configuration(),
            original_destination_connection_id=self.client.original_destination_connection_id,
            session_ticket_fetcher=lambda identity: self.tickets.pop(identity, None),
            session_ticket_handler=lambda ticket: self.tickets.update({ticket.ticket: ticket}),
            **(LIMITS | limits),
        )
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


# -- In memory: addresses that are not proved, and the end -------------------------------------------------


def long_chain():
    """A certificate with so many others that the server's first flight is ten times what the client's was."""
    configuration = server_configuration()
    configuration.certificate_chain *= 12
    return configuration


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
    for _ in range(150):
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
