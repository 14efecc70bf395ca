"""QUIC: the connection on aioquic, in memory; the endpoint and the server, on real sockets, with three other stacks."""

from __future__ import annotations

import pytest
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicPacketType as In
from aioquic.tls import Epoch

import certs
from certs.quic import quic_client, quic_server
from protocols.quic import Connection
from protocols.quic_packets import long_header, short_header
from tests.quic_cases import CASES, LIMITS, payloads

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

    def __init__(self, ticket=None, tickets=None, **limits):
        self.now = 1000.0
        self.tickets = {} if tickets is None else tickets
        self.ticket = None
        configuration = quic_client("localhost", alpn=["lab"], ticket=ticket)
        self.client = QuicConnection(configuration=configuration, session_ticket_handler=self.keep)
        self.server = Connection(
            configuration=server_configuration(),
            original_destination_connection_id=self.client.original_destination_connection_id,
            session_ticket_fetcher=lambda identity: self.tickets.pop(identity, None),
            session_ticket_handler=lambda ticket: self.tickets.update({ticket.ticket: ticket}),
            **(LIMITS | limits),
        )
        self.client._replenish_connection_ids = lambda: None  # The cases issue their own.
        self.heard = []  # what the server's application gets to know
        self.client.connect(THERE, self.now)

    def keep(self, ticket):
        self.ticket = ticket

    def to_server(self):
        """What the client has to send, delivered."""
        for data, _ in self.client.datagrams_to_send(self.now):
            self.server.receive_datagram(data, HERE, self.now)
        while event := self.server.next_event():
            self.heard.append(event)

    def to_client(self):
        sent = self.server.datagrams_to_send(self.now)
        for data, _ in sent:
            self.client.receive_datagram(data, THERE, self.now)
        return sum(len(data) for data, _ in sent)

    def settle(self, turns=8):
        """Go to and fro, with a little time in between."""
        for _ in range(turns):
            self.to_server()
            self.to_client()
            self.now += 0.01
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
        while event := self.server.next_event():
            self.heard.append(event)


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
