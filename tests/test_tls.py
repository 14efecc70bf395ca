"""TLS: what an onlooker reads, the channel in memory, server and client on real sockets, and foreign peers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import resource
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

import certs
from certs import channel as channels
from certs import contexts
from certs.channel import CertificateError, Channel, Closed, Data, Event, Handshaken, TlsError, Truncated
from certs.contexts import TLS_1_2, TLS_1_3, client_context, server_context
from clients import http1
from clients.tls_stream import Stream, connect
from clients.tls_teller import show_chain
from protocols import tls
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.tls import Alert, ContentType, HandshakeType, Onlooker, Opening, Records, Version
from protocols.tls_numbers import readable
from servers import site
from servers.tls import lab_context, serve
from servers.tls_transport import Tls, agreed
from tests.conftest import TICK, need_tool
from tests.tls_cases import CASES, GOOD, HANDSHAKE, HELLO, SILENCE, extension, hello, record

ROOT = Path(__file__).parent.parent
PATIENCE = 200 * TICK  # what may happen at once gets this long on a busy machine
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
VERSIONS = [TLS_1_2, TLS_1_3]


# -- What an onlooker reads --------------------------------------------------------------------------


def test_a_hello_is_read():
    found = tls.client_hello(hello(more=extension(16, b"\0\x0c\x02h2\x08http/1.1"))[4:])
    assert found.server_name == "localhost"
    assert found.alpn == ("h2", "http/1.1")
    assert found.versions == (Version.TLS_1_3, Version.TLS_1_2)
    assert found.version == Version.TLS_1_2
    assert found.groups == (tls.Group.X25519, tls.Group.SECP256R1)
    assert found.shares == (tls.Group.X25519,)
    assert len(found.random) == len(found.session_id) == 32
    assert not found.offers_session


def test_a_hello_of_old_without_extensions_is_read():
    found = tls.client_hello(b"\3\1" + bytes(32) + b"\0" + b"\0\2\0\x2f" + b"\1\0")
    assert (found.versions, found.server_name, found.alpn, found.shares) == ((Version.TLS_1_0,), None, (), ())


@pytest.mark.parametrize("size", [1, 2, 3, 100, 10_000])
def test_a_hello_in_pieces(size):
    wire = record(HANDSHAKE, GOOD[:77]) + record(HANDSHAKE, GOOD[77:]) + b"\x17\3\3"
    opening = Opening()
    for start in range(0, len(wire), size):
        opening.receive_data(wire[start : start + size])
    assert opening.hello == tls.client_hello(GOOD[4:])


def test_a_hello_at_every_split():
    wire = record(HANDSHAKE, GOOD)
    for cut in range(len(wire)):
        opening = Opening()
        opening.receive_data(wire[:cut])
        assert opening.hello is None
        opening.receive_data(wire[cut:])
        assert opening.hello == tls.client_hello(GOOD[4:])


def test_every_cut_of_a_hello_is_a_mistake_or_a_hello_without_extensions():
    body = GOOD[4:]
    for cut in range(len(body)):
        with contextlib.suppress(RemoteProtocolError):
            assert tls.client_hello(body[:cut]).extensions == {}


@given(st.binary(max_size=200))
def test_garbage_is_the_peers_mistake(data):
    onlooker, opening = Onlooker(), Opening()
    for read in (
        lambda: onlooker.receive_data(True, data),
        lambda: opening.receive_data(data),
        lambda: opening.receive_data(record(HANDSHAKE, b"\1" + len(data).to_bytes(3, "big") + data)),
        lambda: tls.client_hello(data),
        lambda: tls.server_hello(data),
        lambda: tls.certificates(data, Version.TLS_1_2),
        lambda: tls.certificates(data, Version.TLS_1_3),
    ):
        with contextlib.suppress(RemoteProtocolError):
            read()


@given(st.integers(4, len(GOOD) - 1), st.integers(0, 255))
def test_a_changed_byte_is_a_mistake_or_another_hello(at, value):
    with contextlib.suppress(RemoteProtocolError):
        tls.client_hello(GOOD[4:at] + bytes([value]) + GOOD[at + 1 :])


@pytest.mark.parametrize(
    ("data", "alert"),
    [
        (b"GET / HTTP/1.1", Alert.UNEXPECTED_MESSAGE),
        (b"\x16\x02", Alert.PROTOCOL_VERSION),
        (b"\x16\3\1\xff\xff", Alert.RECORD_OVERFLOW),
        (record(HANDSHAKE, b"\1\xff\xff\xff"), Alert.ILLEGAL_PARAMETER),
        (record(HANDSHAKE, b"\2\0\0\0"), Alert.UNEXPECTED_MESSAGE),
        (record(23, b"a"), Alert.UNEXPECTED_MESSAGE),
        (record(HANDSHAKE, hello(more=extension(13, b""))), Alert.ILLEGAL_PARAMETER),
        (record(HANDSHAKE, hello(tail=b"a")), Alert.DECODE_ERROR),
    ],
)
def test_limits_and_mistakes_have_their_alert(data, alert):
    with pytest.raises(RemoteProtocolError) as error:
        Opening().receive_data(data)
    assert error.value.code == alert


def test_a_record_is_not_waited_for_beyond_the_limit():
    records = Records()
    records.receive_data(b"\x17\3\3" + tls.MAX_RECORD.to_bytes(2, "big") + bytes(tls.MAX_RECORD))
    assert len(records.next_event().data) == tls.MAX_RECORD


# -- The channel, in memory --------------------------------------------------------------------------


class Pair:
    """Two channels, joined. What happens at each end, an error last; and all that goes over the wire."""

    def __init__(self, server: ssl.SSLContext, client: ssl.SSLContext, name: str = "localhost", session=None) -> None:
        self.server = Channel(server, server_side=True)
        self.client = Channel(client, server_side=False, server_hostname=name, session=session)
        self.onlooker = Onlooker()
        self.seen: list[tuple[bool, tls.Seen]] = []
        self.flights: list[int] = []

    def run(self, size: int = 1 << 20) -> tuple[list[Event | TlsError], list[Event | TlsError]]:
        """Until nothing moves. *size*: bytes that are passed at a time."""
        found: dict[bool, list] = {True: [], False: []}
        moved = True
        while moved:
            moved = False
            for ours, one, other in ((True, self.client, self.server), (False, self.server, self.client)):
                self.events(one, found[ours])
                if data := one.data_to_send():
                    self.flights.append(len(data))
                    moved = True
                    self.seen += [(ours, seen) for seen in self.onlooker.receive_data(ours, data)]
                    for start in range(0, len(data), size):
                        other.receive_data(data[start : start + size])
                        self.events(other, found[not ours])
        return found[True], found[False]

    @staticmethod
    def events(channel: Channel, found: list) -> None:
        if found and isinstance(found[-1], TlsError | Closed):
            return
        try:
            while event := channel.next_event():
                found.append(event)
                if event == Closed():
                    return
        except TlsError as error:
            found.append(error)


def pair(**settings) -> Pair:
    return Pair(server_context(**settings), client_context())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_data_goes_both_ways_in_any_pieces(version, size):
    both = pair(maximum=version)
    client, server = both.run(size)
    assert client == server == [Handshaken()]
    assert both.client.object.version() == {TLS_1_2: "TLSv1.2", TLS_1_3: "TLSv1.3"}[version]
    both.client.send_data(b"ping" * 5000)
    both.server.send_data(b"pong" * 5000)
    client, server = both.run(size)
    assert b"".join(event.data for event in client) == b"pong" * 5000
    assert b"".join(event.data for event in server) == b"ping" * 5000


@pytest.mark.parametrize("version", VERSIONS)
def test_each_direction_is_closed_by_itself_and_nothing_is_lost(version):
    both = pair(maximum=version)
    both.run()
    both.client.send_data(b"on its way")
    data = both.client.data_to_send()
    both.server.receive_data(data)
    both.server.close()  # with data unread
    both.server.close()
    client, server = both.run()
    assert client == [Closed()]
    assert server == [Data(b"on its way")]
    both.client.send_data(b"late")
    both.client.close()
    assert both.run() == ([Closed()], [Data(b"late"), Closed()])
    for channel in (both.server, both.client):
        with pytest.raises(LocalProtocolError):
            channel.send_data(b"more")
        channel.receive_data(b"")
        assert channel.next_event() == Closed()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("clients", ["required", "optional"])
@pytest.mark.parametrize("name", ["server.lab", "www.lab"])
def test_clients_show_who_they_are_under_every_name(version, clients, name):
    server = server_context(by_name={"www.lab": "www"}, clients=clients, maximum=version, tickets=1)
    both = Pair(server, client_context(certificate="client"), name)
    assert both.run()[1] == [Handshaken()]
    assert ((("commonName", "alice"),),) == both.server.object.getpeercert()["subject"]
    assert isinstance(Pair(server, client_context(certificate="client-unknown"), name).run()[1][-1], CertificateError)


@pytest.mark.parametrize("alert", ["0100", "0200", "02c8"])
def test_whoever_gives_up_gets_no_alert_for_it(alert):
    """With close_notify, or with an alert that has no name."""
    both = pair()
    both.client.next_event()
    hello = both.client.data_to_send()
    both.client.receive_data(bytes.fromhex("1503030002" + alert))
    both.server.receive_data(hello)
    both.server.next_event()
    both.server.data_to_send()
    both.server.receive_data(bytes.fromhex("1503030002" + alert))
    for channel in (both.client, both.server):
        channel.receive_data(b"")
        with pytest.raises(
            TlsError, match="closed in the middle of the handshake" if alert[2:] == "00" else "alert 200"
        ):
            channel.next_event()
        assert channel.data_to_send() == b""


def test_a_stranger_writes_no_lines_of_our_log(caplog):
    """The name that a client asks for, and its own, are what it likes. So are those in a server's certificate."""
    assert readable("a\x1b[31m\r\n= b\u202e ü") == "a\\x1b[31m\\x0d\\x0a= b\\x202e ü"
    key, name = ec.generate_private_key(ec.SECP256R1()), "\x1b[31m red\r\n= fake"
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1, now, now + timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), False)
    caplog.set_level(logging.INFO)
    show_chain([builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)])
    asked = SimpleNamespace(
        hello=SimpleNamespace(server_name=name), getpeercert=lambda: {"subject": ((("commonName", name),),)},
        version=str, cipher=list, selected_alpn_protocol=str, session_reused=False,
    )  # fmt: skip
    assert agreed(asked).isprintable()
    assert len(caplog.messages) == 3
    assert all(line.isprintable() for line in caplog.messages)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_cut_is_no_end(version):
    both = pair(maximum=version)
    both.run()
    both.server.send_data(b"half of ")
    both.client.receive_data(both.server.data_to_send())
    both.client.receive_data(b"")
    assert both.client.next_event() == Data(b"half of ")
    for _ in range(2):
        with pytest.raises(Truncated, match="close_notify"):
            both.client.next_event()


def test_a_cut_is_told_in_two_ways(monkeypatch):
    """By newer Pythons as SSLEOFError; by 3.11.2, which is Debian 12's, as any SSLError, with OpenSSL's reason."""
    both = pair()
    both.run()
    error = ssl.SSLError(1, "[SSL: UNEXPECTED_EOF_WHILE_READING] unexpected eof while reading (_ssl.c:2580)")
    error.reason = "UNEXPECTED_EOF_WHILE_READING"

    def read(_: int) -> bytes:
        raise error

    monkeypatch.setattr(both.client, "object", SimpleNamespace(read=read))
    both.client.receive_data(b"")
    with pytest.raises(Truncated, match="close_notify"):
        both.client.next_event()


def test_a_cut_in_the_handshake():
    both = pair()
    both.client.next_event()
    both.server.receive_data(both.client.data_to_send()[:100])
    both.server.receive_data(b"")
    with pytest.raises(Truncated, match="handshake"):
        both.server.next_event()


def test_nothing_can_be_sent_before_the_handshake():
    with pytest.raises(LocalProtocolError):
        pair().client.send_data(b"early")


def test_a_handshake_can_be_given_up_with_a_word():
    both = pair()
    both.server.close()
    assert both.server.data_to_send() == bytes.fromhex("15030300020 15a".replace(" ", "")) + b"\x15\3\3\0\2\1\0"


BAD = {  # the certificate: what we say against it, and our alert
    "expired": ("expired", Alert.CERTIFICATE_EXPIRED),
    "not-yet-valid": ("not yet valid", Alert.BAD_CERTIFICATE),
    "wrong-name": ("not valid for 'server.lab'", Alert.BAD_CERTIFICATE),
    "self-signed": ("self-signed certificate", Alert.UNKNOWN_CA),
    "unknown-ca": ("self-signed certificate in certificate chain", Alert.UNKNOWN_CA),
    "revoked": ("revoked", Alert.CERTIFICATE_REVOKED),
    "no-intermediate": ("unable to get local issuer", Alert.UNKNOWN_CA),
    "wrong-purpose": ("purpose", Alert.UNSUPPORTED_CERTIFICATE),
    "forbidden-name": ("permitted subtree", Alert.CERTIFICATE_UNKNOWN),
    "not-a-ca": ("invalid CA", Alert.UNKNOWN_CA),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", BAD)
def test_both_sides_know_what_is_wrong_with_a_certificate(name, version):
    words, alert = BAD[name]
    context = client_context(revocation=True)
    client, server = Pair(server_context(name, maximum=version), context, "server.lab").run()
    assert isinstance(client[-1], CertificateError)
    assert isinstance(client[-1], ssl.SSLCertVerificationError)
    assert words in client[-1].reason
    assert (client[-1].alert, client[-1].is_theirs) == (alert, False)
    assert (server[-1].alert, server[-1].is_theirs) == (alert, True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["server", "server-rsa", "www"])
def test_the_good_ones_are_good(name, version):
    host = "www.lab" if name == "www" else "server.lab"
    both = Pair(server_context(name, maximum=version), client_context(revocation=True), host)
    assert both.run() == ([Handshaken()], [Handshaken()])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("clients", "certificate", "alert"),
    [
        ("none", None, None),
        ("none", "client", None),
        ("optional", None, None),
        ("optional", "client", None),
        ("optional", "client-unknown", Alert.UNKNOWN_CA),
        ("optional", "client-expired", Alert.CERTIFICATE_EXPIRED),
        ("optional", "server", Alert.UNSUPPORTED_CERTIFICATE),
        ("required", "client", None),
        ("required", None, Alert.CERTIFICATE_REQUIRED),
    ],
)
def test_certificates_of_clients(clients, certificate, alert, version):
    if alert == Alert.CERTIFICATE_REQUIRED and version == TLS_1_2:
        alert = Alert.HANDSHAKE_FAILURE  # RFC 5246 §7.4.6: there was no other yet.
    both = Pair(server_context(clients=clients, maximum=version), client_context(certificate=certificate))
    client, server = both.run()
    if alert:
        # In TLS 1.3 the client is done before the server has looked at its certificate.
        assert [type(event) for event in client] == [Handshaken] * (version == TLS_1_3) + [TlsError]
        assert (client[-1].alert, client[-1].is_theirs) == (alert, True)
        assert (server[-1].alert, server[-1].is_theirs) == (alert, False)
    else:
        assert client == server == [Handshaken()]
        known = both.server.object.getpeercert()
        assert bool(known) == (clients != "none" and certificate is not None)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"),
    [
        (["h2", "http/1.1"], ["http/1.1", "h2"], "h2"),
        (["http/1.1"], ["h2", "http/1.1"], "http/1.1"),
        (["h2"], [], None),
        ([], ["h2"], None),
        (["h2"], ["foo", "bar"], Alert.NO_APPLICATION_PROTOCOL),
    ],
)
def test_the_protocol_inside(ours, theirs, agreed, version):
    both = Pair(server_context(alpn=ours, maximum=version), client_context(alpn=theirs))
    client, server = both.run()
    if isinstance(agreed, Alert):
        assert client[0].alert == server[0].alert == agreed
        assert server[0].reason == "no application protocol in common"
    else:
        assert client == server == [Handshaken()]
        for channel in (both.client, both.server):
            assert channel.object.selected_alpn_protocol() == agreed


@pytest.mark.parametrize("name", ["localhost", "server.lab", "www.lab", "WWW.lab", "a.www.lab"])
def test_two_names(name):
    context = server_context(by_name={"www.lab": "www", "a.www.lab": "www"}, alpn=["h2"])
    both = Pair(context, client_context(alpn=["h2"]), name)
    assert both.run() == ([Handshaken()], [Handshaken()])
    names = dict(both.client.object.getpeercert()["subjectAltName"]).values()
    assert ("*.www.lab" in names) == ("www" in name.lower())
    assert both.client.object.selected_alpn_protocol() == "h2"


def test_both_kinds_of_keys_are_there_for_whom_knows_one_only():
    context, client = server_context(), client_context(maximum=TLS_1_2)
    for kind in ("RSA", "ECDSA"):
        client.set_ciphers(f"ECDHE-{kind}-AES128-GCM-SHA256")
        both = Pair(context, client)
        assert both.run() == ([Handshaken()], [Handshaken()])
        assert kind in both.client.object.cipher()[0]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_is_resumed(version):
    server, client = server_context(maximum=version), client_context()
    first = Pair(server, client)
    first.run()
    assert not first.client.object.session_reused
    second = Pair(server, client, session=first.client.object.session)
    assert second.run() == ([Handshaken()], [Handshaken()])
    assert second.client.object.session_reused
    assert second.server.object.session_reused
    assert sum(second.flights) < sum(first.flights) / 1.5  # without certificates
    other = Pair(server_context(maximum=version), client, session=first.client.object.session)
    assert other.run() == ([Handshaken()], [Handshaken()])  # Who does not know the ticket goes the long way.
    assert not other.client.object.session_reused


def test_versions_that_do_not_meet():
    both = Pair(server_context(minimum=TLS_1_3), client_context(maximum=TLS_1_2))
    client, server = both.run()
    assert client[0].alert == server[0].alert == Alert.PROTOCOL_VERSION


def test_what_is_readable_on_the_way():
    both = pair(maximum=TLS_1_2)
    both.run()
    messages = [message for _, seen in both.seen for message in seen.messages]
    kinds = [HandshakeType(message.type).name for message in messages]
    assert kinds == ["CLIENT_HELLO", "SERVER_HELLO", "CERTIFICATE", "SERVER_KEY_EXCHANGE", "SERVER_HELLO_DONE",
                     "CLIENT_KEY_EXCHANGE", "NEW_SESSION_TICKET"]  # fmt: skip
    chain = tls.certificates(messages[2].body, Version.TLS_1_2)
    assert chain[0] == both.client.object.getpeercert(binary_form=True)
    assert len(chain) == 2
    assert tls.server_hello(messages[1].body).version == Version.TLS_1_2
    both = pair()
    both.run()
    messages = [message for _, seen in both.seen for message in seen.messages]
    assert [message.type for message in messages] == [HandshakeType.CLIENT_HELLO, HandshakeType.SERVER_HELLO]
    answer = tls.server_hello(messages[1].body)
    assert (answer.version, answer.group, answer.is_retry) == (Version.TLS_1_3, tls.Group.X25519, False)
    assert {seen.record.type for _, seen in both.seen if seen.is_encrypted} == {ContentType.APPLICATION_DATA}


def test_a_retry_is_a_round_trip_more():
    context = server_context()
    context.set_ecdh_curve("secp384r1")
    both = Pair(context, client_context())
    assert both.run() == ([Handshaken()], [Handshaken()])
    hellos = [tls.server_hello(message.body) for ours, seen in both.seen if not ours for message in seen.messages]
    assert [answer.is_retry for answer in hellos] == [True, False]
    assert hellos[0].group == tls.Group.SECP384R1


@pytest.mark.parametrize("version", VERSIONS)
def test_a_changed_byte_is_found(version):
    both = pair(maximum=version)
    both.run()
    both.client.send_data(b"to be changed")
    data = bytearray(both.client.data_to_send())
    data[-1] ^= 1
    both.server.receive_data(bytes(data))
    client, server = both.run()
    assert (server[0].alert, client[0].alert) == (Alert.BAD_RECORD_MAC, Alert.BAD_RECORD_MAC)


def test_the_keys_are_logged(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "both"))
    Pair(server_context(key_log=tmp_path / "server"), client_context()).run()
    assert (tmp_path / "server").stat().st_mode & 0o777 == 0o600
    lines = (tmp_path / "server").read_text().splitlines()
    assert {line.split()[0] for line in lines if not line.startswith("#")} >= {
        "CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_HANDSHAKE_TRAFFIC_SECRET", "CLIENT_TRAFFIC_SECRET_0",
        "SERVER_TRAFFIC_SECRET_0",
    }  # fmt: skip
    assert {*lines} == {*(tmp_path / "both").read_text().splitlines()}


class Forger:
    """Encrypts what no library would, as a client of TLS 1.3 with AES-256-GCM (RFC 8446 §5.2, §7)."""

    def __init__(self, secret: bytes) -> None:
        self.secret, self.number = secret, 0

    def expand(self, label: bytes, length: int) -> bytes:
        info = length.to_bytes(2, "big") + bytes([6 + len(label)]) + b"tls13 " + label + b"\0"
        return HKDFExpand(hashes.SHA384(), length, info).derive(self.secret)

    def seal(self, kind: int, data: bytes) -> bytes:
        head = b"\x17\3\3" + (len(data) + 17).to_bytes(2, "big")
        nonce = int.from_bytes(self.expand(b"iv", 12), "big") ^ self.number
        self.number += 1
        return head + AESGCM(self.expand(b"key", 32)).encrypt(nonce.to_bytes(12, "big"), data + bytes([kind]), head)

    def key_update(self, answer: bool) -> bytes:
        wire = self.seal(HANDSHAKE, b"\x18\0\0\1" + bytes([answer]))
        self.secret, self.number = self.expand(b"traffic upd", 48), 0
        return wire


def forger(path: Path) -> Forger:
    """From the last connection in a key log."""
    return Forger(bytes.fromhex(re.findall(r"CLIENT_TRAFFIC_SECRET_0 \w+ (\w+)", path.read_text())[-1]))


def flood(end: Channel, records: Iterator[bytes]) -> None:
    for wire in records:
        end.receive_data(wire)
        assert end.next_event() is None


@pytest.mark.parametrize("answer", [False, True])
def test_new_keys_without_end(answer, tmp_path, monkeypatch):
    monkeypatch.setattr(channels, "MAX_IDLE", 10_000)
    both = Pair(server_context(key_log=tmp_path / "log"), client_context())
    both.run()
    forged = forger(tmp_path / "log")
    for _ in range(1000):
        both.server.receive_data(forged.key_update(False) + forged.seal(23, b"data"))
        assert both.server.next_event() == Data(b"data")  # Between data, new keys are welcome.
    with pytest.raises(TlsError, match="no data in them"):
        flood(both.server, (forged.key_update(answer) for _ in range(1000)))
    assert len(both.server.data_to_send()) < 20_000


def test_empty_records_without_end(tmp_path):
    both = Pair(server_context(key_log=tmp_path / "log"), client_context())
    both.run()
    forged = forger(tmp_path / "log")
    both.server.receive_data(b"".join(forged.seal(23, b"") for _ in range(20)) + forged.seal(23, b"data"))
    assert both.server.next_event() == Data(b"data")
    with pytest.raises(TlsError, match="record too small"):
        flood(both.server, (forged.seal(23, b"") for _ in range(100)))


@pytest.mark.parametrize(
    ("kind", "data", "alert"),
    [
        (21, b"\2", Alert.UNEXPECTED_MESSAGE),
        (21, b"", Alert.UNEXPECTED_MESSAGE),
        (HANDSHAKE, b"", Alert.UNEXPECTED_MESSAGE),
        (HANDSHAKE, b"\x18\0\0\1\2", Alert.ILLEGAL_PARAMETER),
        (HANDSHAKE, b"\x18\0\0\0", Alert.DECODE_ERROR),
        (HANDSHAKE, b"\x18\0\0\1\0\x18\0\0\1\0", Alert.UNEXPECTED_MESSAGE),
        (HANDSHAKE, GOOD, Alert.UNEXPECTED_MESSAGE),  # There is no renegotiation: §4.1.2.
        (HANDSHAKE, b"\x14" + (48).to_bytes(3, "big") + bytes(48), Alert.UNEXPECTED_MESSAGE),
        (HANDSHAKE, b"\x63\0\0\1a", Alert.UNEXPECTED_MESSAGE),
        (20, b"\1", Alert.UNEXPECTED_MESSAGE),
        (24, b"\1\0\1a", Alert.UNEXPECTED_MESSAGE),
        (0, b"", Alert.UNEXPECTED_MESSAGE),
        (23, bytes(2**14 + 1), Alert.RECORD_OVERFLOW),
    ],
)
def test_mistakes_after_the_handshake(kind, data, alert, tmp_path):
    both = Pair(server_context(key_log=tmp_path / "log"), client_context())
    both.run()
    both.server.receive_data(forger(tmp_path / "log").seal(kind, data))
    client, server = both.run()
    assert isinstance(server[0], TlsError)
    assert (client[0].alert, client[0].is_theirs) == (alert, True)
    assert server[0].alert in (alert, None)  # It is encrypted. Where OpenSSL's words do not tell, we do not guess.


# -- The server on the wire --------------------------------------------------------------------------


async def ask(server, data: bytes, *, ends: bool = False) -> tuple[list[tls.Record], bytes]:
    """Send bytes; all records that come back until the server ends, and how it ends: b"" FIN, b"RST", b"open"."""
    reader, writer = await asyncio.open_connection(*server.address)
    records, found = Records(), []
    try:
        writer.write(data)
        if ends:
            writer.write_eof()
        async with asyncio.timeout(PATIENCE):
            while data := await reader.read(65536):
                records.receive_data(data)
                while read := records.next_event():
                    found.append(read)
                if found and found[-1].type == ContentType.HANDSHAKE:
                    return found, b"open"
    except ConnectionResetError:
        return found, b"RST"
    finally:
        writer.transport.abort()
    return found, b""


@pytest.fixture(scope="module")
def context() -> ssl.SSLContext:
    return lab_context(clients="optional")


@pytest.mark.parametrize("case", CASES)
async def test_the_first_words_of_a_client(case, context):
    data, wanted, _ = CASES[case]
    async with serve(context=context, handshake_seconds=10 * TICK) as server:
        found, end = await ask(server, data)
        assert (await fetch(server)).status == 200
    if wanted == HELLO:
        assert found[0].type == ContentType.HANDSHAKE
    elif wanted == SILENCE:  # until it is too late: user_canceled, close_notify
        assert [record.data for record in found] == [b"\1\x5a", b"\1\0"]
    else:
        assert [(record.type, tls.words(record.data[1], Alert)) for record in found] == [
            (ContentType.ALERT, wanted.name.lower())
        ]
        assert end == b"", "an alert, then FIN, and no RST"


async def fetch(server, path: str = "/", **settings) -> http1.Answer[bytes]:
    async with http1.Client(ssl=client_context(**settings), timeout=PATIENCE) as client:
        return await client.request("GET", f"https://localhost:{server.address[1]}{path}")


async def stream_to(server, **settings) -> Stream:
    return await connect("localhost", server.address[1], context=client_context(**settings), timeout=PATIENCE)


@contextlib.asynccontextmanager
async def connected(server, **settings) -> AsyncIterator[Stream]:
    stream = await stream_to(server, **settings)
    try:
        async with asyncio.timeout(PATIENCE):
            yield stream
    finally:
        stream.transport.abort()


async def read_all(stream: Stream) -> bytes:
    found = b""
    while data := await stream.read():
        found += data
    return found


async def until(condition) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(TICK / 10)


async def test_requests_and_a_clean_end_on_both_sides(context):
    async with serve(context=context) as server, connected(server) as stream:
        stream.write(GET)
        assert (await stream.read()).endswith(b"Hello, network!\n")
        stream.write(LAST)
        assert (await read_all(stream)).endswith(b"Hello, network!\n")  # read_all() ends with close_notify only.


async def test_a_client_may_say_close_notify_and_still_read(context):
    async with serve(context=context) as server, connected(server) as stream:
        stream.write(GET.replace(b"/ ", b"/slow?seconds=0.1 "))
        stream.write_eof()
        assert b"That took 0.1 s." in await read_all(stream)


async def test_a_cut_connection_is_logged_and_its_answer_given_up(context, caplog):
    caplog.set_level(logging.INFO, "servers.tls")
    async with serve(context=context) as server, connected(server) as stream:
        stream.write(GET.replace(b"/ ", b"/slow?seconds=20 "))
        await stream.drain()
        await until(lambda: len(server.talks) == 1)
        stream._writer.write_eof()  # FIN, and no close_notify
        await until(lambda: not server.talks)
    assert "ended without close_notify" in caplog.text


async def test_the_log_tells_who_is_there(context, caplog):
    caplog.set_level(logging.INFO, "servers.tls")
    async with serve(context=context) as server:
        client = client_context(certificate="client", alpn=["http/1.1"], maximum=TLS_1_2)
        async with http1.Client(ssl=client, timeout=PATIENCE) as one:
            await one.request("GET", f"https://localhost:{server.address[1]}/")
            await one._shrink(0)
            await one.request("GET", f"https://localhost:{server.address[1]}/")
    lines = [re.sub(r"^= \d+ ", "", record.message) for record in caplog.records if "= " in record.message]
    line = "TLSv1.2 ECDHE-ECDSA-AES256-GCM-SHA384, for localhost, http/1.1, client alice"
    assert lines == [line, f"{line}, resumed"]


@pytest.mark.parametrize(("name", "alert"), [("expired", "certificate_expired"), ("unknown-ca", "unknown_ca")])
async def test_a_refusal_reaches_the_server(name, alert, caplog):
    caplog.set_level(logging.INFO, "servers.tls")
    async with serve(context=lab_context(name)) as server:
        with pytest.raises(CertificateError):
            await fetch(server)
        await until(lambda: caplog.records)
    assert f"the other side says {alert}" in caplog.text


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_refusal_reaches_the_client(version):
    async with serve(context=lab_context(clients="required", maximum=version)) as server:
        for certificate, alert in ((None, "certificate_required"), ("client-unknown", "unknown_ca")):
            wanted = "handshake_failure" if version == TLS_1_2 and certificate is None else alert
            for _ in range(3):
                with pytest.raises(TlsError, match=wanted):
                    await fetch(server, certificate=certificate)
        assert (await fetch(server, certificate="client")).status == 200


async def test_a_hello_byte_by_byte(context):
    both = Pair(server_context(), client_context())
    both.client.next_event()
    async with serve(context=context) as server:
        reader, writer = await asyncio.open_connection(*server.address)
        for byte in both.client.data_to_send():
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE):
            while not isinstance(both.client.next_event(), Handshaken):
                both.client.receive_data(await reader.read(1))
        writer.transport.abort()


@pytest.mark.parametrize("begun", [0, 20, None])
async def test_a_handshake_has_a_deadline(begun, context, caplog):
    caplog.set_level(logging.INFO, "servers.tls")
    async with serve(context=context, handshake_seconds=2 * TICK, linger_seconds=TICK) as server:
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(record(HANDSHAKE, GOOD)[:begun])
        async with asyncio.timeout(PATIENCE):
            found = await reader.read(-1)
        writer.transport.abort()
    assert "no handshake in" in caplog.text
    if begun is not None:
        assert found == record(21, b"\1\x5a") + record(21, b"\1\0")


async def test_who_does_not_end_is_not_waited_for(context):
    async with serve(context=context, linger_seconds=TICK) as server:
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(b"GET / HTTP/1.1\r\n")
        async with asyncio.timeout(PATIENCE):
            assert len(await reader.read(-1)) == 7
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(b"more")
                    await writer.drain()
                    await asyncio.sleep(TICK)
        writer.transport.abort()


async def test_handshakes_count_as_connections(context):
    async with serve(context=context, max_connections=2) as server:
        held = [await asyncio.open_connection(*server.address) for _ in range(4)]
        await asyncio.sleep(TICK)
        reader, writer = await asyncio.open_connection(*server.address)
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        for _, each in [*held, (reader, writer)]:
            each.transport.abort()


async def test_one_connection_too_many_is_answered(context):
    async with serve(context=context, max_connections=1) as server, connected(server) as stream:
        stream.write(GET)
        await stream.read()
        assert (await fetch(server)).status == 503


async def test_large_bodies_both_ways(context):
    size = 20_000_000
    async with serve(context=context) as server, http1.Client(ssl=client_context(), timeout=PATIENCE) as client:
        url = f"https://localhost:{server.address[1]}"
        async with client.stream("GET", f"{url}/bytes/{size}") as answer:
            assert sum([len(piece) async for piece in answer.body]) == size

        async def body() -> AsyncIterator[bytes]:
            for _ in range(size // 100_000):
                yield bytes(100_000)

        answer = await client.request("PUT", f"{url}/upload", body=body())
        assert f'"bytes": {size}' in answer.body.decode()


def memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def test_who_never_reads_is_not_waited_for_and_costs_little(context):
    async with serve(context=context, body_seconds=4 * TICK) as server, connected(server) as stream:
        before = memory()
        stream.write(GET.replace(b"/ ", b"/bytes/1000000000 "))
        await until(lambda: server.talks)
        await until(lambda: not server.talks)
        assert memory() - before < 50e6


async def test_who_sends_and_is_not_read_has_to_wait(context):
    async def never(request: site.Request) -> site.Response:
        await asyncio.sleep(PATIENCE)
        return site.HELLO

    async with serve(context=context, respond=never, drain_seconds=0) as server, connected(server) as stream:
        stream.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 100e6:
                stream.write(bytes(100_000))
                sent += 100_000
                async with asyncio.timeout(10 * TICK):
                    await stream.drain()
        assert sent < 50e6  # TCP's own buffers are a few MB.


async def test_the_inner_protocol_sees_a_transport():
    """What a protocol of asyncio relies on: flow control, half-close, the end; data waits while it is paused."""
    heard: list[bytes] = []

    class Inner(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
            assert transport.get_extra_info("ssl_object").version() == "TLSv1.3"
            assert transport.get_extra_info("peername")
            transport.pause_reading()
            transport.writelines([b"he", b"llo"])

        def data_received(self, data):
            heard.append(data)

        def eof_received(self):
            heard.append(b"EOF")
            self.transport.write(b"bye")
            self.transport.write_eof()
            assert self.transport.can_write_eof()
            self.transport.write(b"too late")

        def connection_lost(self, exc):
            heard.append(b"lost")

    inner: list[Inner] = []

    def make(protocol: str | None) -> Inner:
        assert protocol == "x"
        inner.append(Inner())
        return inner[0]

    context = server_context(alpn=["x"])
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: Tls(context, make), "127.0.0.1", 0)
    async with asyncio.timeout(PATIENCE):
        port = listening.sockets[0].getsockname()[1]
        stream = await connect("localhost", port, context=client_context(alpn=["x"]))
        assert await stream.read() == b"hello"
        stream.write(b"one")
        await stream.drain()
        await asyncio.sleep(TICK)
        assert heard == []
        assert not inner[0].transport.is_reading()
        inner[0].transport.resume_reading()
        await until(lambda: heard)
        stream.write_eof()
        assert await read_all(stream) == b"bye"
        stream.close()
        await until(lambda: len(heard) == 3)
        assert heard == [b"one", b"EOF", b"lost"]
        assert inner[0].transport.is_closing()
        listening.close()
        await listening.wait_closed()


async def test_who_asks_for_new_keys_and_does_not_read_ours_is_not_read_either(tmp_path):
    """Each key update that asks for one is answered: bytes that somebody has to hold until the client reads them."""

    class Wire(asyncio.Transport):
        def __init__(self) -> None:
            super().__init__()
            self.is_open, self.sent = True, b""

        def write(self, data):
            self.sent += data

        def pause_reading(self):
            self.is_open = False

        def resume_reading(self):
            self.is_open = True

        def is_closing(self):
            return False

    wire = Wire()
    tls = Tls(server_context(key_log=tmp_path / "log"), lambda _: asyncio.Protocol())
    tls.connection_made(wire)
    client = Channel(client_context(), server_side=False, server_hostname="localhost")
    while not client.is_ready:
        if not isinstance(client.next_event(), Handshaken):
            tls.data_received(client.data_to_send())
            client.receive_data(wire.sent)
            wire.sent = b""
    tls.data_received(client.data_to_send())
    forged = forger(tmp_path / "log")
    tls.data_received(forged.key_update(True))
    assert wire.is_open
    tls.pause_writing()
    tls.data_received(forged.seal(23, b"data"))
    assert wire.is_open
    tls.data_received(forged.key_update(True))
    assert not wire.is_open
    tls.resume_writing()
    assert wire.is_open
    tls.connection_lost(None)


async def test_a_reset_in_the_middle_of_all_phases(context):
    async with serve(context=context) as server:
        for stop in (0, 50, 517):
            _, writer = await asyncio.open_connection(*server.address)
            writer.write(record(HANDSHAKE, GOOD)[:stop])
            await asyncio.sleep(0)
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            writer.transport.abort()
        for _ in range(3):
            stream = await stream_to(server)
            stream.write(GET.replace(b"/ ", b"/bytes/100000000 "))
            sock = stream.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            stream.transport.abort()
        assert (await fetch(server)).status == 200
        await until(lambda: len(server.talks) <= 1)


async def test_the_end_waits_for_answers_and_not_for_handshakes(context):
    async with serve(context=context, drain_seconds=PATIENCE, linger_seconds=2 * TICK) as server:
        reader, writer = await asyncio.open_connection(*server.address)  # says nothing
        busy, idle = await stream_to(server), await stream_to(server)
        idle.write(GET)
        assert b"Hello" in await idle.read()
        busy.write(GET.replace(b"/ ", b"/slow?seconds=0.2 "))
        await until(lambda: any(talk.task for talk in server.talks))
    async with asyncio.timeout(PATIENCE):
        assert b"That took" in await read_all(busy)
        assert await read_all(idle) == b""
        with contextlib.suppress(ConnectionError):
            assert await reader.read() in (b"", record(21, b"\1\x5a") + record(21, b"\1\0"))
    for each in (busy, idle, writer):
        each.transport.abort()


async def test_a_request_and_then_garbage_in_one_segment(context, caplog):
    async with serve(context=context) as server, connected(server) as stream:
        stream.channel.send_data(GET)
        stream.transport.write(stream.channel.data_to_send() + record(23, os.urandom(50)))
        with pytest.raises(TlsError, match="bad_record_mac"):
            await read_all(stream)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# -- The client --------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def server_that(handle) -> AsyncIterator[int]:
    """A server on TCP, by hand."""
    tasks = set()

    async def serve_one(reader, writer):
        tasks.add(asyncio.current_task())
        try:
            await handle(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        if tasks:
            await asyncio.wait(tasks)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "plain HTTP"),
        (b"", "middle of the handshake"),
        (record(21, b"\2\x28"), "handshake_failure"),
        (record(22, b"\x0e\0\0\0"), "unexpected message"),
        (b"\x16\3\3\xff\xff", "packet length too long"),
    ],
)
async def test_servers_that_are_none(answer, words):
    heard = []

    async def handle(reader, writer):
        await reader.read(1000)
        writer.write(answer)
        writer.write_eof()
        heard.append(await reader.read(1000))

    async with server_that(handle) as port:
        with pytest.raises(TlsError, match=words):
            await connect("localhost", port, timeout=PATIENCE)
    if answer and answer[:1] != b"\x15":
        assert heard[0][:1] == b"\x15", "an alert"


async def test_a_server_that_says_nothing():
    async def handle(reader, writer):
        await reader.read(-1)

    async with server_that(handle) as port:
        with pytest.raises(TimeoutError):
            await connect("localhost", port, timeout=2 * TICK)


async def test_the_client_keeps_one_session_for_each_origin(context):
    async with serve(context=context) as server, http1.Client(ssl=client_context(), timeout=PATIENCE) as client:
        url = f"https://localhost:{server.address[1]}/"
        await client.request("GET", url)
        assert not client._sessions
        for _ in range(3):
            await client._shrink(0)
            assert len(client._sessions) == 1
            await client.request("GET", url)
            assert client._kept[0]._stream.channel.object.session_reused


# -- Foreign peers -----------------------------------------------------------------------------------


async def run(*argv: object, stdin: bytes | None = b"", wait: float = PATIENCE) -> tuple[int, str]:
    """Run a program to its end: its exit code, and all that it said."""
    pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *map(str, argv), stdin=null if stdin is None else pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(wait):
            said, _ = await process.communicate(stdin)
    except TimeoutError:
        process.kill()
        said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode(errors="replace")


CA = certs.FOLDER / "root.pem"


def to(server) -> list[object]:
    """openssl's arguments."""
    return ["-connect", f"localhost:{server.address[1]}", "-CAfile", CA]


async def test_curl_at_our_server(context):
    need_tool("curl")
    async with serve(context=context) as server:
        base = ["curl", "-sS", "--cacert", CA, "--max-time", PATIENCE]
        url = f"https://localhost:{server.address[1]}"
        for more in ([], ["--tls-max", "1.2"], ["--cert", CA.with_name("client.pem"), "--key",
                                                CA.with_name("client.key")]):  # fmt: skip
            assert await run(*base, *more, url) == (0, "Hello, network!\n")
        code, said = await run(*base[:2], url)
        assert (code, "unable to get local issuer" in said) == (60, True)
        code, said = await run(*base, "--tlsv1.0", "--tls-max", "1.1", "--ciphers", "ALL@SECLEVEL=0", url)
        assert (code, "alert protocol version" in said) == (35, True)
        code, said = await run(*base, "-o", os.devnull, "-w", "%{size_download}", f"{url}/bytes/100000000")
        assert (code, said) == (0, "100000000")


async def test_openssl_at_our_server(context):
    need_tool("openssl")
    async with serve(context=context) as server:
        base = [
            "openssl",
            "s_client",
            "-connect",
            f"localhost:{server.address[1]}",
            "-CAfile",
            CA,
            "-verify_return_error",
        ]
        code, said = await run(*base, "-servername", "www.lab", "-verify_hostname", "www.lab", "-alpn", "h2,http/1.1")
        assert code == 0
        assert "ALPN protocol: http/1.1" in said
        assert "Verification: OK" in said
        code, said = await run(*base, "-alpn", "foo")
        assert (code, "alert no application protocol" in said) == (1, True)
        code, said = await run(*base, "-tls1_2", stdin=b"R\n")
        assert "no renegotiation" in said


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_openssl_resumes_at_our_server(version, context, tmp_path):
    need_tool("openssl")
    async with serve(context=context) as server:
        base = ["openssl", "s_client", "-connect", f"localhost:{server.address[1]}", "-CAfile", CA, version]
        first = await run(
            "sh", "-c", '(printf "$0"; sleep 0.3) | "$@"', LAST.decode(), *base, "-sess_out", tmp_path / "s"
        )
        assert "New, TLSv1" in first[1]
        assert "Reused, TLSv1" in (await run(*base, "-sess_in", tmp_path / "s"))[1]


async def test_openssl_asks_for_new_keys(context):
    need_tool("openssl")
    async with serve(context=context) as server:
        commands = "(sleep 0.3; echo K; sleep 0.2; echo k; sleep 0.2; printf '%s\\r\\n' 'GET / HTTP/1.0' ''; sleep 0.3)"
        base = ["openssl", "s_client", *to(server), "-tls1_3"]
        _, said = await run("sh", "-c", f'{commands} | "$@"', "sh", *base)
        assert said.count("KEYUPDATE") == 2
        assert "Hello, network!" in said


async def test_gnutls_at_our_server(context):
    need_tool("gnutls-cli")
    async with serve(context=context) as server:
        base = ["gnutls-cli", f"--x509cafile={CA}", "--alpn=http/1.1", "-p", server.address[1], "localhost"]
        for priority in ("NORMAL:-VERS-ALL:+VERS-TLS1.3", "NORMAL:-VERS-ALL:+VERS-TLS1.2"):
            code, said = await run(*base, f"--priority={priority}", stdin=LAST)
            assert code == 0, said
            assert "Handshake was completed" in said
            assert "The certificate is trusted" in said


async def test_sslscan_finds_nothing_bad(context):
    need_tool("sslscan")
    async with serve(context=context) as server:
        _, said = await run("sslscan", "--no-colour", f"localhost:{server.address[1]}")
    for old in ("SSLv2", "SSLv3", "TLSv1.0", "TLSv1.1"):
        assert re.search(rf"{old} +disabled", said)
    assert "Session renegotiation not supported" in said
    assert "vulnerable to heartbleed" not in said.replace("not vulnerable to heartbleed", "")
    accepted = re.findall(r"(?:Preferred|Accepted) +(\S+) +(\d+) bits +(\S+)", said)
    assert len(accepted) >= 6
    assert all(version == "TLSv1.3" or re.match(r"ECDHE-.*(GCM|CHACHA20)", name) for version, _, name in accepted), said


@contextlib.asynccontextmanager
async def program(port: int, *argv: object, cwd: Path | None = None) -> AsyncIterator[None]:
    """A foreign server, once it listens."""
    null = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*map(str, argv), stdin=null, stdout=null, stderr=null, cwd=cwd)
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(ConnectionError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.transport.abort()
                    break
                await asyncio.sleep(TICK / 5)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def of_openssl(port: int, name: str = "server", *more: str) -> list[object]:
    chain = ["-cert", CA.with_name(f"{name}.pem"), "-key", CA.with_name(f"{name}.key"), "-cert_chain",
             CA.with_name("intermediate.pem")]  # fmt: skip
    return ["openssl", "s_server", "-accept", port, *chain, "-www", *more]


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_our_client_at_openssl(version):
    need_tool("openssl")
    port = free_port()
    async with program(port, *of_openssl(port, "server", version)):
        async with http1.Client(ssl=client_context(), timeout=PATIENCE) as client:
            for resumed in ("New, TLS", "Reused, TLS"):
                answer = await client.request("GET", f"https://localhost:{port}/")
                assert resumed in answer.body.decode()
                await client._shrink(0)


async def test_our_client_refuses_at_openssl_and_openssl_hears_why(tmp_path):
    need_tool("openssl")
    port = free_port()
    log = tmp_path / "log"
    logged = ["sh", "-c", f'exec "$@" >{log} 2>&1', "sh"]
    async with program(port, *logged, *of_openssl(port, "wrong-name")):
        with pytest.raises(CertificateError, match="not valid for 'localhost'"):
            await connect("localhost", port, timeout=PATIENCE)
        await until(lambda: b"alert bad certificate" in log.read_bytes())


async def test_our_client_at_nginx(tmp_path):
    need_tool("nginx")
    port = free_port()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = " ".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in kinds)
    (tmp_path / "large").write_bytes(bytes(20_000_000))
    (tmp_path / "conf").write_text(
        f"daemon off; master_process off; pid {tmp_path}/pid; error_log {tmp_path}/error; events {{ }}"
        f"http {{ access_log off; {paths} root {tmp_path}; client_max_body_size 0;"
        f"server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {CA.with_name('server.pem')};"
        f"ssl_certificate_key {CA.with_name('server.key')}; ssl_client_certificate {CA}; ssl_verify_client optional;"
        f"ssl_verify_depth 2; ssl_session_cache shared:a:1m; ssl_protocols TLSv1.2 TLSv1.3;"
        'location / { } location = /hello { return 200 "$ssl_protocol $ssl_client_verify $ssl_session_reused"; } } }'
    )
    async with program(port, "nginx", "-c", tmp_path / "conf", "-e", tmp_path / "error"):
        for version, name in ((TLS_1_2, "TLSv1.2"), (TLS_1_3, "TLSv1.3")):
            context = client_context(certificate="client", maximum=version)
            async with http1.Client(ssl=context, timeout=PATIENCE) as client:
                for reused in (".", "r"):
                    answer = await client.request("GET", f"https://localhost:{port}/hello")
                    assert answer.body.decode() == f"{name} SUCCESS {reused}"
                    await client._shrink(0)
                async with client.stream("GET", f"https://localhost:{port}/large") as answer:
                    assert sum([len(piece) async for piece in answer.body]) == 20_000_000


# -- The programs ------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def our_server(*arguments: str) -> AsyncIterator[tuple[int, asyncio.subprocess.Process]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "servers.tls", "--port", "0", *arguments, cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE):
            line = (await process.stdout.readline()).decode()
        yield int(re.search(r"port (\d+)", line)[1]), process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def tell(*arguments: object) -> tuple[int, str]:
    """The exit code of our client, and what it has said: no line is too long. Here they are joined again."""
    code, said = await run(sys.executable, "-m", "clients.tls", *arguments)
    assert all(len(line) <= 80 for line in said.splitlines()), said
    return code, re.sub(r"\n +", " ", said)


async def test_the_programs_tell_all(tmp_path):
    async with our_server("--clients", "optional") as (port, process):
        code, said = await tell("--port", port, "--resume", "--cert", "client", "--revocation")
        assert code == 0, said
        first, second = said.split("= closed, with a ticket to resume\n")[:2]
        for words in (
            "client_hello for localhost: TLS 1.3 or TLS 1.2", "server_hello: TLS 1.3, the other half of x25519",
            "encrypted_extensions", "certificate_verify", "certificate 1: CN=server.lab", "for server.lab, localhost",
            "checked: whether one of them was revoked", "inside: http/1.1", "HTTP/1.1 200 OK",
            "alert close_notify", "resumed: no", "new_session_ticket",
        ):  # fmt: skip
            assert words in first, said
        assert "resumed: yes" in second
        assert "certificate_verify" not in second
        code, said = await tell("--port", port, "--tls12", "--name", "www.lab")
        assert (code, "certificate 1: CN=www.lab" in said, "server_hello: TLS 1.2" in said) == (0, True, True)
        code, said = await tell("--port", port, "--name", "bank.example")
        assert (code, "not valid for 'bank.example' (our alert: bad_certificate)" in said) == (1, True)
        code, said = await tell("--port", port, "--alpn", "foo")
        assert (code, "! the other side says no_application_protocol" in said) == (1, True)
        process.send_signal(signal.SIGTERM)
        said = (await process.communicate())[0].decode()
        assert process.returncode == 0
    for words in (
        "for www.lab, http/1.1",
        "client alice",
        "resumed",
        "the other side says bad_certificate",
        "= stopped",
    ):
        assert words in said


async def test_the_http_client_over_tls():
    async with our_server("--certificate", "expired") as (port, _):
        code, said = await run(sys.executable, "-m", "clients.http1", f"https://localhost:{port}/")
        assert (code, said) == (1, "! the certificate is refused: certificate has expired\n")
    async with our_server() as (port, _):
        code, said = await run(sys.executable, "-m", "clients.http1", f"https://localhost:{port}/")
        assert (code, "Hello, network!" in said) == (0, True)


async def test_a_key_log_that_cannot_be_written_is_named(monkeypatch):
    monkeypatch.setenv("SSLKEYLOGFILE", "/nowhere/keys")
    for program in ("servers.tls", "clients.tls"):
        code, said = await run(sys.executable, "-m", program)
        assert (code, "/nowhere/keys: no key log can be written: No such file" in said) == (2, True), said


def test_a_client_needs_nothing_but_the_root(tmp_path, monkeypatch):
    """The certificates may be another user's, and not to be made anew by us."""
    certs.ensure(tmp_path)
    (tmp_path / "server.key").unlink()

    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "server.key.new"))

    monkeypatch.setattr(contexts, "ensure", refuse)
    client_context(folder=tmp_path)
    with pytest.raises(PermissionError):
        client_context(folder=tmp_path, certificate="client")
    with pytest.raises(PermissionError):
        server_context(folder=tmp_path)


async def test_programs_that_cannot_run():
    port = free_port()
    code, said = await tell("--port", port)
    assert (code, "make tls-server" in said) == (2, True)
    assert (await tell("--ca", "/nowhere"))[0] == 2
    code, said = await tell("--cert", "nobody")
    assert (code, "none is called 'nobody'. All: .venv" in said) == (2, True)
    assert (await tell("--port", port, "--name", "a..b"))[0] == 2
    code, said = await run(sys.executable, "-m", "servers.tls", "--certificate", "nobody")
    assert code == 2
